"""What guards have cleared with one turn of a conversation, they need not look at with the next."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests import scripted
from tests.conftest import Gateway, Json, Reply, merge
from tests.scripted import Upstream
from tests.test_output_moderation import asked, fair, judge, moderated

__all__ = ["judge"]  # a fixture

Start = Callable[..., Awaitable[Gateway]]
RESPONSES = "/v1/responses"
WORD = "casino"


def judging(judge: Upstream, **moderation: Any) -> Json:
    return moderated(judge, output="off", input="block", **moderation)


def banning(**keywords: Any) -> Json:
    return {"guards": {"keywords": {"phrases": [WORD], **keywords}}}


async def turn(
    anos: Gateway, upstream: Upstream, text: str, parent: Json | None, says: str, **fields: Any
) -> Json:
    """The response to `text`, to which the upstream answers `says`."""
    upstream.answer(scripted.responses_text(says))
    chain = {} if parent is None else {"previous_response_id": parent["id"]}
    reply = await anos.post(RESPONSES, input=text, **chain, **fields)
    assert reply.status == 200, reply.body
    body: Json = reply.body
    return body


async def talk(anos: Gateway, upstream: Upstream, *texts: str, parent: Any = None) -> Json:
    """The last of the turns; the model answers each with its text in brackets."""
    for text in texts:
        parent = await turn(anos, upstream, text, parent, f"({text})")
    assert parent is not None
    last: Json = parent
    return last


async def receipts(anos: Gateway, count: int) -> list[Json]:
    """The first receipt of each of so many calls, oldest first, as soon as all are there."""
    ids = [row["id"] for row in await anos.calls(count)]
    return [(await anos.get(f"/admin/requests/{each}")).body["guards"][0] for each in ids]


async def test_each_text_is_judged_once_in_a_conversation(
    gateway: Start, upstream: Upstream, judge: Upstream
) -> None:
    anos = await gateway(judging(judge))
    first = await talk(anos, upstream, "one", "two", "three")
    assert asked(judge) == ["one", "(one)\n\ntwo", "(two)\n\nthree"]
    await talk(anos, upstream, "other", parent=first)
    assert asked(judge)[3:] == ["(three)\n\nother"]
    told = [item["content"][0]["text"] for item in upstream.requests[-1].body["input"]]
    assert told == ["one", "(one)", "two", "(two)", "three", "(three)", "other"]


async def test_a_receipt_says_how_many_bytes_were_trusted(
    gateway: Start, upstream: Upstream
) -> None:
    anos = await gateway(banning())
    last = await talk(anos, upstream, "one", "two", "three")
    items = (await anos.get(f"{RESPONSES}/{last['id']}/input_items?order=asc")).body["data"]
    sizes = [len(json.dumps(item, separators=(",", ":"))) for item in items]
    found = await receipts(anos, 3)
    assert [each.get("trusted", 0) for each in found] == [0, sizes[0], sum(sizes[:3])]
    assert [each["sources"] for each in found[1:]] == [{"history": 1, "user": 1}] * 2


async def test_it_holds_for_streams_and_in_the_background(
    gateway: Start, upstream: Upstream, judge: Upstream
) -> None:
    anos = await gateway(judging(judge))
    first = await talk(anos, upstream, "one")
    upstream.answer(scripted.responses_stream(["(t", "wo)"]))
    stream = await anos.post(RESPONSES, input="two", previous_response_id=first["id"], stream=True)
    second = json.loads(stream.raw.split(b"data: ")[-2])["response"]
    third = await turn(anos, upstream, "three", second, "(three)", background=True)
    while (await anos.get(f"{RESPONSES}/{third['id']}")).body["status"] != "completed":
        pass
    await talk(anos, upstream, "four", parent=third)
    assert asked(judge) == ["one", "(one)\n\ntwo", "(two)\n\nthree", "(three)\n\nfour"]


async def test_what_the_model_said_is_looked_at_when_a_turn_inherits_it(
    gateway: Start, upstream: Upstream
) -> None:
    anos = await gateway(banning())
    second = await turn(anos, upstream, "two", await talk(anos, upstream, "one"), f"Try a {WORD}.")
    refused = await anos.post(RESPONSES, input="three", previous_response_id=second["id"])
    assert refused.status == 400
    assert (await receipts(anos, 3))[-1]["sources"] == {"history": 1, "user": 1}


async def test_other_guards_look_at_everything(gateway: Start, upstream: Upstream) -> None:
    profiles = {
        "hard": {"keywords": {"phrases": [WORD, "lottery"]}},
        "same": {"keywords": {"phrases": [WORD], "output": "block"}},
    }
    keys = {
        name: {"key": f"sk-{name}", "project": "p", "guards": name}
        for name in ("default", "same", "hard")
    }
    config = {"projects": {"p": {}}, "keys": keys, "guards": {"profiles": profiles}}
    anos = await gateway(merge(banning(), config))

    async def ask(key: str, text: str, **fields: Any) -> Reply:
        body = {"model": "gpt-4", "input": text, **fields}
        headers = {"Authorization": f"Bearer sk-{key}"}
        return await anos.request("POST", RESPONSES, json=body, headers=headers)

    upstream.answer(scripted.responses_text("Well."))
    first = (await ask("default", "A lottery?")).body
    second = (await ask("default", "So?", previous_response_id=first["id"])).body
    same = await ask("same", "?", previous_response_id=second["id"])
    hard = await ask("hard", "?", previous_response_id=second["id"])
    assert (same.status, hard.status) == (200, 400)
    found = await receipts(anos, 4)
    assert found[2]["trusted"] > 0  # how answers are looked at has no say in it
    assert "trusted" not in found[3]


@pytest.mark.parametrize("mode", ["mask", "monitor"])
async def test_after_a_finding_the_next_turn_looks_at_everything(
    gateway: Start, upstream: Upstream, mode: str
) -> None:
    anos = await gateway(banning(input=mode))
    await talk(anos, upstream, f"a {WORD}", "two", "three", "four")
    found = [(each["action"], each.get("trusted", 0) > 0) for each in await receipts(anos, 4)]
    # The model has said it again; of that the store keeps what the model said.
    assert found == [(mode, False)] * 4


async def test_a_finding_that_was_masked_where_it_is_stored_is_found_once(
    gateway: Start, upstream: Upstream
) -> None:
    anos = await gateway(banning(input="mask"))
    first = await turn(anos, upstream, f"a {WORD}", None, "Fine.")
    await talk(anos, upstream, "two", "three", parent=first)
    found = [(each["action"], each.get("trusted", 0) > 0) for each in await receipts(anos, 3)]
    assert found == [("mask", False), ("pass", False), ("pass", True)]


async def test_a_judge_that_failed_has_cleared_nothing(
    gateway: Start, upstream: Upstream, judge: Upstream
) -> None:
    anos = await gateway(judging(judge, on_error="pass"))
    judge.answer((500, {}, {}), fair)
    await talk(anos, upstream, "one", "two", "three")
    assert asked(judge) == ["one", "one\n\n(one)\n\ntwo", "(two)\n\nthree"]


async def test_what_a_turn_left_out_is_looked_at_when_it_is_not_left_out(
    gateway: Start, upstream: Upstream, judge: Upstream
) -> None:
    models = {"thinks": {"routes": [{"provider": "up"}], "reasoning": True}}
    anos = await gateway({**judging(judge), "models": models})
    thought = scripted.reasoning("I think.", encrypted_content="x")
    upstream.answer(scripted.responses_body([thought, scripted.message("(one)")]))
    first = (await anos.post(RESPONSES, input="one")).body
    second = await talk(anos, upstream, "two", parent=first)
    await turn(anos, upstream, "three", second, "(three)", model="thinks")
    everything = "one\n\nI think.\n\n(one)\n\ntwo\n\n(two)\n\nthree"
    assert asked(judge) == ["one", "one\n\n(one)\n\ntwo", everything]


async def test_a_request_is_judged_as_it_was_masked(
    gateway: Start, upstream: Upstream, judge: Upstream
) -> None:
    anos = await gateway(merge(judging(judge), banning(input="mask")))
    await talk(anos, upstream, f"To the {WORD}!")
    assert asked(judge) == ["To the ***!"]


async def test_narrower_sources_clear_nothing(gateway: Start, upstream: Upstream) -> None:
    anos = await gateway(banning(sources=["user", "history"]))
    await talk(anos, upstream, "one", "two", "three")
    assert [each.get("trusted", 0) for each in await receipts(anos, 3)] == [0, 0, 0]
