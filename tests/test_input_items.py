"""Paging through what a model was given: every item as often as it is there, whatever its id."""

from itertools import product
from typing import Any

import pytest
from openai import AsyncOpenAI

from anos.inputs import distinct
from tests import scripted
from tests.conftest import Gateway, Json
from tests.dialects import begin, held, says, speaking, streams, text_of

RESPONSES = "/v1/responses"
TWICE: Json = {"type": "message", "id": "msg_twice", "role": "user", "content": "twice"}


def texts(items: list[Json]) -> list[str]:
    return [text_of(item["content"]) for item in items]


async def paged(anos: Gateway, response_id: str, limit: int, order: str) -> list[Json]:
    """All items, page by page, as the SDKs ask: after the last id until there are no more."""
    found: list[Json] = []
    after: Json = {}
    while True:
        page = (
            await anos.get(
                f"{RESPONSES}/{response_id}/input_items", limit=limit, order=order, **after
            )
        ).body
        assert len(page["data"]) <= limit
        found += page["data"]
        if not page["has_more"]:
            return found
        assert len(found) < 100
        after = {"after": page["last_id"]}


async def all_ways(anos: Gateway, response_id: str, expected: list[str]) -> list[Json]:
    """The items in order; asserts that every limit and order gives the texts, and unique ids."""
    whole = await paged(anos, response_id, 100, "asc")
    assert texts(whole) == expected
    ids = [item["id"] for item in whole]
    assert len(set(ids)) == len(ids)
    for limit, order in product(range(1, len(expected) + 2), ("asc", "desc")):
        found = await paged(anos, response_id, limit, order)
        assert found == (whole if order == "asc" else whole[::-1]), (limit, order)
    return whole


@pytest.fixture(params=["responses", "chat"])
def dialect(request: pytest.FixtureRequest) -> Any:
    return request.param


async def test_items_the_client_repeats_are_all_listed(gateway, upstream, dialect: str) -> None:
    """In one input, from the conversation, by reference, and those of an upstream's one id."""
    anos = await gateway(speaking(dialect))
    other = {**TWICE, "content": "other"}
    first = (
        await anos.post(RESPONSES, input=[TWICE, {"role": "user", "content": "one"}, TWICE])
    ).body
    said = first["output"][0]
    reference = {"type": "item_reference", "id": said["id"]}
    expected = ["twice", "one", "twice"]
    await all_ways(anos, first["id"], expected)
    second = (
        await anos.post(
            RESPONSES,
            input=[TWICE, said, reference, reference, other],
            previous_response_id=first["id"],
        )
    ).body
    expected += ["Hello", "twice", "Hello", "Hello", "Hello", "other"]
    listed = await all_ways(anos, second["id"], expected)
    third = (await anos.post(RESPONSES, input=[other], previous_response_id=second["id"])).body
    expected += ["Hello", "other"]
    again = await all_ways(anos, third["id"], expected)
    # Ids never change: not those of the items listed before, and not those of what was answered.
    assert again[: len(listed)] == listed
    assert [listed[3], again[-2]] == [said, second["output"][0]]


async def test_a_reference_to_a_repeated_id_stands_for_the_first_with_it(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    asked = [TWICE, {**TWICE, "content": "other"}]
    await anos.post(RESPONSES, input=asked)
    made = await anos.post(RESPONSES, input=[{"id": "msg_twice"}])
    await all_ways(anos, made.body["id"], ["twice"])


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_upstream_that_has_one_id_for_all_its_answers_is_listed_whole(
    gateway, upstream, dialect: str, streamed: bool
) -> None:
    anos = await gateway(speaking(dialect))
    parent: Json = {}
    expected: list[str] = []
    ids = set()
    for turn in ("one", "two", "three"):
        upstream.answer((streams if streamed else says)(dialect, f"re {turn}"))
        if streamed:
            events = await anos.stream(RESPONSES, input=turn, **parent)
            made = events[-1]["response"]
            # The id it has at its end is that of all events about it.
            named = {event["item_id"] for event in events if "item_id" in event}
            assert named == {made["output"][0]["id"]}
        else:
            made = (await anos.post(RESPONSES, input=turn, **parent)).body
        assert (await anos.get(f"{RESPONSES}/{made['id']}")).body == made
        ids.add(made["output"][0]["id"])
        expected.append(turn)
        await all_ways(anos, made["id"], expected)
        expected.append(f"re {turn}")
        parent = {"previous_response_id": made["id"]}
    assert len(ids) == 3


async def test_an_answer_never_has_the_id_of_what_the_client_sent_back(gateway, upstream) -> None:
    anos = await gateway()
    upstream.answer(says("responses", "re"))
    first = (await anos.post(RESPONSES, input="one")).body
    asked = [*first["output"], {"role": "user", "content": "two"}]
    second = (await anos.post(RESPONSES, input=asked)).body
    assert second["output"][0]["id"] != first["output"][0]["id"]
    third = (await anos.post(RESPONSES, input="three", previous_response_id=second["id"])).body
    await all_ways(anos, third["id"], ["re", "two", "re", "three"])


async def test_items_of_a_response_that_runs_are_all_listed(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    first = (await anos.post(RESPONSES, input=[TWICE, TWICE])).body
    upstream.answer(held(dialect, "Hel"))
    running, reading = await begin(anos, input=[TWICE], previous_response_id=first["id"])
    expected = ["twice", "twice", "Hello", "twice"]
    before = await all_ways(anos, running, expected)
    assert (await anos.post(f"{RESPONSES}/{running}/cancel")).status == 200
    await reading
    assert await all_ways(anos, running, expected) == before


async def test_a_masked_item_that_is_repeated_is_kept_masked(gateway, upstream) -> None:
    words = {"input": "mask", "phrases": ["forbidden phrase"]}
    anos = await gateway({"guards": {"keywords": words}})
    call = scripted.function_call("look", call_id="c1")
    output = {"type": "function_call_output", "id": "fc_look", "call_id": "c1"}
    asked = [call, {**output, "output": "a forbidden phrase"}, {**TWICE, "id": "fc_look"}]
    made = await anos.post(RESPONSES, input=asked)
    assert made.status == 200
    listed = await paged(anos, made.body["id"], 1, "asc")
    assert len({item["id"] for item in listed}) == 3
    assert "forbidden" not in str(listed)


async def test_the_sdk_pages_to_the_end(gateway, upstream) -> None:
    anos = await gateway()
    async with AsyncOpenAI(base_url=f"{anos.url}/v1", api_key="sk-1234") as client:
        asked: Any = [TWICE, {"role": "user", "content": "one"}, TWICE, TWICE]
        made = await client.responses.create(model="gpt-4", input=asked)
        items = client.responses.input_items.list(made.id, limit=1, order="asc")
        assert [item.content[0].text async for item in items] == [  # type: ignore[union-attr]
            *("twice", "one", "twice", "twice")
        ]


async def test_behind_a_deleted_response_its_own_input_alone_is_listed(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    ids: list[str] = []
    for turn in ("one", "two", "three", "four"):
        parent = {"previous_response_id": ids[-1]} if ids else {}
        ids.append((await anos.post(RESPONSES, input=turn, **parent)).body["id"])
    await anos.delete(f"{RESPONSES}/{ids[1]}")
    assert (await anos.get(f"{RESPONSES}/{ids[0]}")).status == 200
    await all_ways(anos, ids[0], ["one"])
    await all_ways(anos, ids[2], ["three"])
    await all_ways(anos, ids[3], ["four"])


async def test_many_items_are_read_in_turns_and_named_by_their_place(gateway, upstream) -> None:
    anos = await gateway()
    asked = [{"role": "user", "content": str(number)} for number in range(12_001)]
    made = await anos.post(RESPONSES, input=asked)
    listed = (await anos.get(f"{RESPONSES}/{made.body['id']}/input_items", limit=3)).body["data"]
    assert texts(listed) == ["12000", "11999", "11998"]
    assert upstream.requests[-1].body["input"] == asked
    refused = await anos.post(RESPONSES, input=[*asked, {"role": "user"}])
    assert (refused.status, refused.error["param"]) == (400, "input[12001].content")


def test_what_is_there_once_is_the_same_object() -> None:
    items = [{"type": "message", "id": name} for name in ("a", "b")]
    kept = distinct([{"type": "message", "id": "c"}], items, {"a", "b", "c"}, 0)
    assert [a is b for a, b in zip(items, kept, strict=True)] == [True, True]


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [("message", "msg_"), ("function_call_output", "fco_"), ("acme:x", "item_")],
)
def test_a_repeated_id_is_replaced_by_one_that_fits(kind: str, prefix: str) -> None:
    item = {"type": kind, "id": "a", "x": 1}
    first, second = distinct([], [item, item], {"a"}, 0)
    assert first is item
    assert second["id"].startswith(prefix)
    assert {**second, "id": "a"} == item


@pytest.mark.parametrize(
    ("query", "param", "code"),
    [
        ({"before": "msg_1"}, "before", "unknown_parameter"),
        ({"Limit": "5"}, "Limit", "unknown_parameter"),
        ([("limit", "5"), ("limit", "6")], "limit", "invalid_value"),
        ([("after", "a"), ("after", "a")], "after", "invalid_value"),
        ({"after": "x" * 5_000}, "after", "invalid_value"),
    ],
)
async def test_no_parameter_of_the_list_is_ignored(
    gateway, upstream, query: Any, param: str, code: str
) -> None:
    anos = await gateway()
    made = (await anos.post(RESPONSES, input="Hi")).body["id"]
    refused = await anos.request("GET", f"{RESPONSES}/{made}/input_items", params=query)
    assert (refused.status, refused.error["param"], refused.error["code"]) == (400, param, code)
    assert len(refused.error["message"]) < 400


async def test_what_clients_add_to_every_address_is_no_parameter_of_the_list(
    gateway, upstream
) -> None:
    anos = await gateway()
    made = (await anos.post(RESPONSES, input="Hi")).body["id"]
    names = ("reasoning.encrypted_content", "message.input_image.image_url")
    added = [("api-version", "preview"), ("beta", "true"), *(("include[]", name) for name in names)]
    listed = await anos.request("GET", f"{RESPONSES}/{made}/input_items", params=added)
    assert texts(listed.body["data"]) == ["Hi"]
