"""Responses over HTTP in front of upstreams of both dialects: made, kept, chained, owned.

The answer is durable before the client hears of it; it has one id; streamed, whole and retrieved it
is the same; history is a tree; another owner's response is an unknown one.
"""

from typing import Any

import pytest

from tests import scripted
from tests.conftest import Client, Json
from tests.dialects import begin, calls, held, says, speaking, streams, text, text_of, told
from tests.scripted import silence


@pytest.fixture(params=["responses", "chat"])
def dialect(request: pytest.FixtureRequest) -> str:
    """What the upstream speaks."""
    name: str = request.param
    return name


# Two keys of one project, and one of another.
OWNERS: Json = {
    "projects": {"team": {}},
    "keys": {
        "ann": {"key": "sk-ann", "project": "team"},
        "bob": {"key": "sk-bob", "project": "team"},
        "eve": {"key": "sk-eve"},
    },
}
ANN, BOB, EVE = ({"Authorization": f"Bearer sk-{name}"} for name in ("ann", "bob", "eve"))


def timeless(response: Json) -> Json:
    """A Response without what two equal ones differ in: ids and times."""
    items = [{k: v for k, v in item.items() if k != "id"} for item in response["output"]]
    changing = {"id", "created_at", "created", "completed_at"}
    return {k: v for k, v in response.items() if k not in changing} | {"output": items}


# The settings that a client sends, and what of them its Response repeats.
SETTINGS: Json = {
    "temperature": 0.2,
    "top_p": 0.5,
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "text": {"format": {"type": "json_object"}},
    "reasoning": {"effort": "low"},
    "truncation": "auto",
}
ECHO = {
    **SETTINGS,
    "tools": [{**SETTINGS["tools"][0], "description": None, "strict": None}],
    "reasoning": {"effort": "low", "summary": None},
}


def echoed(response: Json) -> Json:
    return {name: response[name] for name in ECHO}


# The same answer, however it is asked for --------------------------------------------------------


@pytest.mark.parametrize("repair", [False, True])
async def test_every_snapshot_repeats_the_settings_of_the_request_whatever_the_upstream_says(
    gateway, upstream, dialect: str, repair: bool
) -> None:
    quirks = {"providers": {"up": {"dialect": dialect, "quirks": {"repair": repair}}}}
    anos = await gateway(quirks)
    upstream.answer(says(dialect, "Hi."), streams(dialect, "Hi."))
    whole = (await anos.post("/v1/responses", input="Hi", **SETTINGS)).body
    events = await anos.stream("/v1/responses", input="Hi", **SETTINGS)
    snapshots = [event["response"] for event in events if "response" in event]
    retrieved = (await anos.get(f"/v1/responses/{whole['id']}")).body
    assert len(snapshots) == 3
    for response in (whole, retrieved, *snapshots):
        assert echoed(response) == ECHO


async def test_a_setting_that_was_not_sent_is_as_the_upstream_says(gateway, upstream) -> None:
    anos = await gateway()
    upstream.answer({**scripted.responses_text("Hi."), "temperature": 0.7, "service_tier": "flex"})
    body = (await anos.post("/v1/responses", input="Hi", service_tier="auto")).body
    assert (body["temperature"], body["service_tier"]) == (0.7, "flex")


async def test_what_lets_a_tools_server_in_is_told_the_upstream_alone(gateway, upstream) -> None:
    anos = await gateway()
    tool = {"type": "mcp", "server_label": "m", "server_url": "https://m.example"}
    secret = {"authorization": "tok-secret", "headers": {"X-Key": "tok-secret"}}
    upstream.answer({**scripted.responses_text("Hi."), "tools": [tool | secret]})
    reply = await anos.post("/v1/responses", input="Hi", tools=[tool | secret])
    assert upstream.requests[0].body["tools"] == [tool | secret]
    assert reply.body["tools"] == [tool]
    assert b"tok-secret" not in (await anos.get(f"/v1/responses/{reply.body['id']}")).raw


@pytest.mark.parametrize("kind", ["text", "calls"])
async def test_streamed_whole_and_retrieved_are_the_same_response(
    gateway, upstream, dialect: str, kind: str
) -> None:
    anos = await gateway(speaking(dialect))
    if kind == "text":
        upstream.answer(says(dialect, "Hello there."), streams(dialect, "Hel", "lo ", "there."))
    else:
        upstream.answer(calls(dialect), calls(dialect, streamed=True))
    settings = {"temperature": 0.5, "metadata": {"a": "b"}, "max_output_tokens": 99}
    whole = (await anos.post("/v1/responses", input="Hi", **settings)).body
    streamed = (await anos.stream("/v1/responses", input="Hi", **settings))[-1]["response"]
    assert timeless(streamed) == timeless(whole)
    for response in (whole, streamed):
        assert (await anos.get(f"/v1/responses/{response['id']}")).body == response


async def test_a_response_has_one_id_in_every_event_and_ever_after(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    upstream.answer(calls(dialect, streamed=True))
    events = await anos.stream("/v1/responses", input="Hi")
    (response_id,) = {event["response"]["id"] for event in events if "response" in event}
    assert response_id.startswith("resp_")
    kept = (await anos.get(f"/v1/responses/{response_id}")).body
    assert kept["id"] == response_id
    for step in ("added", "done"):
        seen = [e["item"]["id"] for e in events if e["type"] == f"response.output_item.{step}"]
        assert seen == [item["id"] for item in kept["output"]]


async def test_a_response_is_durable_when_its_last_event_arrives(
    gateway, upstream, dialect: str
) -> None:
    """Also while the upstream keeps its connection open after its own last event."""
    anos = await gateway(speaking(dialect))
    upstream.answer([*streams(dialect, "Hel", "lo"), silence()], says(dialect, "again"))
    other = Client(anos.url)  # on a connection of its own, so that nothing makes it wait
    assert (await other.get("/v1/models")).status == 200
    async with anos.open_stream("/v1/responses", input="Hi") as response:
        while (event := await anos.next_event(response))["type"] != "response.completed":
            pass
        response_id = event["response"]["id"]
        kept = await other.get(f"/v1/responses/{response_id}")
        assert (kept.status, kept.body["status"]) == (200, "completed")
        child = await other.post("/v1/responses", input="More", previous_response_id=response_id)
        assert child.status == 200, child.body
    await other.session.close()
    assert told(upstream) == [("user", "Hi"), ("assistant", "Hello"), ("user", "More")]


async def test_a_response_survives_the_end_of_the_gateway(gateway, upstream, dialect: str) -> None:
    first = await gateway(speaking(dialect))
    made = (await first.post("/v1/responses", input="Hi")).body
    await first.stop()
    second = await gateway(speaking(dialect))
    assert (await second.get(f"/v1/responses/{made['id']}")).body == made


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_is_not_stored_is_unknown_afterwards(
    gateway, upstream, dialect: str, streamed: bool
) -> None:
    anos = await gateway(speaking(dialect))
    if streamed:
        made = (await anos.stream("/v1/responses", input="Hi", store=False))[-1]["response"]
    else:
        made = (await anos.post("/v1/responses", input="Hi", store=False)).body
    assert (made["status"], made["store"]) == ("completed", False)
    assert (await anos.get(f"/v1/responses/{made['id']}")).status == 404
    child = await anos.post("/v1/responses", input="?", previous_response_id=made["id"])
    assert (child.status, child.error["code"]) == (400, "previous_response_not_found")


async def test_an_upstream_that_counts_nothing_still_gives_usage(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    upstream.answer(
        says(dialect, "Hello" * 8, usage=None), streams(dialect, "Hello" * 8, usage=None)
    )
    whole = (await anos.post("/v1/responses", input="Hi there")).body
    streamed = (await anos.stream("/v1/responses", input="Hi there"))[-1]["response"]
    assert whole["usage"] == streamed["usage"]
    assert (whole["usage"]["input_tokens"], whole["usage"]["output_tokens"]) == (2, 10)


# Chaining ----------------------------------------------------------------------------------------


async def test_history_is_a_tree_whose_branches_never_mix(gateway, upstream, dialect: str) -> None:
    anos = await gateway(speaking(dialect))

    async def turn(said: str, parent: str | None = None, **options: Any) -> str:
        upstream.answer(says(dialect, said.upper()))
        body = {"previous_response_id": parent} if parent else {}
        made = await anos.post("/v1/responses", input=said, **body, **options)
        assert made.status == 200, made.body
        return made.body["id"]

    root = await turn("root", instructions="Be brief.")
    left, right = await turn("left", root), await turn("right", root)
    await turn("left again", left)
    spoken = [("user", "root"), ("assistant", "ROOT")]
    left_spoken = [*spoken, ("user", "left"), ("assistant", "LEFT")]
    assert told(upstream) == [*left_spoken, ("user", "left again")]
    await turn("right again", right)
    assert told(upstream) == [
        *spoken, ("user", "right"), ("assistant", "RIGHT"), ("user", "right again")
    ]  # fmt: skip
    await turn("third", root)
    assert told(upstream) == [*spoken, ("user", "third")]
    # Instructions are not inherited.
    assert "instructions" not in upstream.requests[-1].body


async def test_calls_and_their_outputs_are_replayed_in_pairs(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    cut = calls(dialect)  # in its second call
    if dialect == "chat":
        cut["choices"][0]["finish_reason"] = "length"
    else:
        cut["status"] = "incomplete"
    upstream.answer(cut, says(dialect, "Cold."))
    asked = (await anos.post("/v1/responses", input="Weather?")).body
    assert asked["status"] == "incomplete"
    outputs = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "3 degrees"}
        for item in asked["output"]
    ]
    half = await anos.post("/v1/responses", input=outputs[:1], previous_response_id=asked["id"])
    assert half.status == 200, half.body
    body = upstream.requests[-1].body
    if dialect == "chat":
        # The call that nothing answers is left out: no chat upstream takes it.
        assert [call["id"] for call in body["messages"][1]["tool_calls"]] == ["call_1"]
        assert body["messages"][2]["tool_call_id"] == "call_1"
    else:
        assert [item.get("call_id") for item in body["input"]] == [None, "call_1", "call_1"]


async def test_an_output_that_answers_no_call_is_refused(gateway, upstream, dialect: str) -> None:
    anos = await gateway(speaking(dialect))
    output = {"type": "function_call_output", "call_id": "call_x", "output": "3"}
    refused = await anos.post("/v1/responses", input=[output])
    assert (refused.status, refused.error["param"]) == (400, "input")
    assert refused.error["message"] == (
        "No tool call found for function call output with call_id call_x."
    )
    assert not upstream.requests


async def test_a_call_that_nothing_answers_is_refused(gateway, upstream, dialect: str) -> None:
    anos = await gateway(speaking(dialect))
    call = scripted.function_call("f", call_id="call_x", id="fc_x")
    refused = await anos.post("/v1/responses", input=[call, {"role": "user", "content": "Well?"}])
    assert (refused.status, refused.error["param"]) == (400, "input")
    assert refused.error["message"] == "No tool output found for function call call_x."
    assert not upstream.requests


async def test_an_unknown_parent_is_refused_before_the_upstream(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    for unknown in ("resp_none", "", "x" * 256):
        refused = await anos.post("/v1/responses", input="Hi", previous_response_id=unknown)
        assert refused.status == 400
        assert refused.error == {
            "message": f"Previous response with id '{unknown}' not found.",
            "type": "invalid_request_error",
            "param": "previous_response_id",
            "code": "previous_response_not_found",
        }
    assert not upstream.requests


async def test_an_error_repeats_no_more_of_an_id_than_256_characters(gateway, upstream) -> None:
    anos = await gateway()
    name = "x" * 5_000
    messages = [
        (await anos.request(method, f"/v1/responses/{name}{path}")).error["message"]
        for method, path in (
            ("GET", ""),
            ("DELETE", ""),
            ("GET", "/input_items"),
            ("POST", "/cancel"),
        )
    ]
    messages.append(
        (await anos.post("/v1/responses", input="Hi", previous_response_id=name)).error["message"]
    )
    assert messages == [
        *[f"Response with id '{name[:256]}' not found."] * 4,
        f"Previous response with id '{name[:256]}' not found.",
    ]


async def test_a_deleted_response_breaks_the_chain_and_nothing_else(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    parent = (await anos.post("/v1/responses", input="one")).body["id"]
    child = (await anos.post("/v1/responses", input="two", previous_response_id=parent)).body
    gone = await anos.delete(f"/v1/responses/{parent}")
    assert (gone.status, gone.body) == (
        200,
        {"id": parent, "object": "response", "deleted": True},
    )
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        again = await anos.request(method, f"/v1/responses/{parent}{path}")
        assert (again.status, again.error["code"]) == (404, "not_found"), (method, path)
    assert (await anos.get(f"/v1/responses/{child['id']}")).body == child
    items = (await anos.get(f"/v1/responses/{child['id']}/input_items")).body["data"]
    assert [text_of(item["content"]) for item in items] == ["two"]
    for broken in (parent, child["id"]):
        refused = await anos.post("/v1/responses", input="three", previous_response_id=broken)
        assert (refused.status, refused.error["code"]) == (400, "previous_response_not_found")


@pytest.mark.parametrize("ending", ["incomplete", "failed", "cancelled"])
async def test_a_parent_that_did_not_complete_can_be_continued(
    gateway, upstream, dialect: str, ending: str
) -> None:
    anos = await gateway(speaking(dialect))
    if ending == "incomplete":
        finish = {"finish": "length"} if dialect == "chat" else {"status": "incomplete"}
        upstream.answer(streams(dialect, "Hel", "lo", **finish))
        events = await anos.stream("/v1/responses", input="one")
    elif ending == "failed":
        upstream.answer([*held(dialect, "Hel", "lo")[:-1], scripted.CUT])
        events = await anos.stream("/v1/responses", input="one")
    else:
        upstream.answer(held(dialect, "Hel", "lo"))
        response_id, reading = await begin(anos, input="one")
        assert (await anos.post(f"/v1/responses/{response_id}/cancel")).status == 200
        events = await reading
    parent = events[-1]["response"]
    assert (parent["status"], text(parent)) == (ending, "Hello")
    upstream.answer(says(dialect, "again"))
    child = await anos.post("/v1/responses", input="two", previous_response_id=parent["id"])
    assert child.status == 200, child.body
    assert told(upstream) == [("user", "one"), ("assistant", "Hello"), ("user", "two")]


# Input items -------------------------------------------------------------------------------------


async def test_input_items_are_paged_newest_first_with_the_inherited_ones(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    parent = (await anos.post("/v1/responses", input="one")).body
    said = [{"role": "user", "content": word} for word in ("two", "three", "four")]
    child = await anos.post("/v1/responses", input=said, previous_response_id=parent["id"])
    path = f"/v1/responses/{child.body['id']}/input_items"

    def words(page: Json) -> list[str]:
        return [text_of(item["content"]) for item in page["data"]]

    everything = (await anos.get(path)).body
    assert words(everything) == ["four", "three", "two", "Hello", "one"]
    assert everything["object"] == "list"
    pages, after = [], None
    while True:
        page = (await anos.get(path, limit=2, **({"after": after} if after else {}))).body
        pages.append(words(page))
        assert page["first_id"] == page["data"][0]["id"]
        assert page["last_id"] == page["data"][-1]["id"]
        if not page["has_more"]:
            break
        after = page["last_id"]
    assert pages == [["four", "three"], ["two", "Hello"], ["one"]]
    oldest = (await anos.get(path, order="asc", limit=1)).body
    assert (words(oldest), oldest["has_more"]) == (["one"], True)
    # Their ids never change: the inherited message is the parent's own.
    assert everything["data"][3]["id"] == parent["output"][0]["id"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "msg_none"}, "after"),
        ({"include[]": "everything"}, "include"),
    ],
)
async def test_a_page_that_cannot_be_is_refused(
    gateway, upstream, dialect: str, query: Json, param: str
) -> None:
    anos = await gateway(speaking(dialect))
    made = (await anos.post("/v1/responses", input="one")).body
    refused = await anos.get(f"/v1/responses/{made['id']}/input_items", **query)
    assert (refused.status, refused.error["param"]) == (400, param)


async def test_an_empty_page_has_no_ends(gateway, upstream, dialect: str) -> None:
    anos = await gateway(speaking(dialect))
    made = (await anos.post("/v1/responses", input=[])).body
    page = (await anos.get(f"/v1/responses/{made['id']}/input_items")).body
    assert page == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False
    }  # fmt: skip


async def test_a_reference_stands_for_the_item_it_names(gateway, upstream, dialect: str) -> None:
    anos = await gateway(speaking(dialect))
    first = (await anos.post("/v1/responses", input="one")).body
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    for turn in ("two", "three"):
        asked = [{"role": "user", "content": "one"}, reference, {"role": "user", "content": turn}]
        made = await anos.post("/v1/responses", input=asked)
        assert made.status == 200, made.body
        assert told(upstream) == [("user", "one"), ("assistant", "Hello"), ("user", turn)]
        page = (await anos.get(f"/v1/responses/{made.body['id']}/input_items")).body
        assert [text_of(item["content"]) for item in page["data"]] == [turn, "Hello", "one"]
    child = await anos.post("/v1/responses", input="4", previous_response_id=made.body["id"])
    assert child.status == 200, child.body
    assert [text for _, text in told(upstream)] == ["one", "Hello", "three", "Hello", "4"]


async def test_a_reference_to_nothing_is_refused(gateway, upstream, dialect: str) -> None:
    anos = await gateway(speaking(dialect))
    refused = await anos.post(
        "/v1/responses", input=[{"role": "user", "content": "Hi"}, {"id": "msg_none"}]
    )
    assert (refused.status, refused.error["param"]) == (400, "input[1].id")
    assert not upstream.requests


# Owners ------------------------------------------------------------------------------------------


async def test_another_owners_response_is_an_unknown_one(gateway, upstream, dialect: str) -> None:
    anos = await gateway(speaking(dialect, **OWNERS))

    async def ask(headers: Json, method: str, path: str, **body: Any) -> tuple[int, Any]:
        options = {"json": {"model": "gpt-4", **body}} if body else {}
        reply = await anos.request(method, path, headers=headers, **options)
        return reply.status, reply.body

    _, made = await ask(ANN, "POST", "/v1/responses", input="mine")
    response_id, item_id = made["id"], made["output"][0]["id"]
    paths = [("GET", ""), ("GET", "/input_items"), ("POST", "/cancel"), ("DELETE", "")]
    for stranger in (EVE, {}):  # {}: the master key, whose project is another one
        for method, path in paths:
            missing = await ask(stranger, method, f"/v1/responses/resp_none{path}")
            foreign = await ask(stranger, method, f"/v1/responses/{response_id}{path}")
            assert foreign[0] == missing[0] == 404
            assert str(foreign[1]).replace(response_id, "resp_none") == str(missing[1])
        foreign = await ask(
            stranger, "POST", "/v1/responses", input="?", previous_response_id=response_id
        )
        assert foreign[0] == 400
        assert foreign[1]["error"]["code"] == "previous_response_not_found"
        assert foreign[1]["error"]["param"] == "previous_response_id"
        foreign = await ask(stranger, "POST", "/v1/responses", input=[{"id": item_id}])
        assert (foreign[0], foreign[1]["error"]["param"]) == (400, "input[0].id")
    assert len(upstream.requests) == 1
    # The other key of the project is no stranger.
    assert await ask(BOB, "GET", f"/v1/responses/{response_id}") == (200, made)
    status, _ = await ask(
        BOB, "POST", "/v1/responses", input="ours", previous_response_id=response_id
    )
    assert status == 200


async def test_another_owners_running_response_is_an_unknown_one(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(speaking(dialect, **OWNERS))
    upstream.answer(held(dialect, "Hel"))
    running, reading = await begin(anos, input="Hi")
    for method, path in (("GET", ""), ("GET", "/input_items"), ("POST", "/cancel"), ("DELETE", "")):
        foreign = await anos.request(method, f"/v1/responses/{running}{path}", headers=EVE)
        assert foreign.status == 404, (method, path)
    body = {"model": "gpt-4", "input": "?", "previous_response_id": running}
    child = await anos.request("POST", "/v1/responses", headers=EVE, json=body)
    assert child.error["message"] == f"Previous response with id '{running}' not found."
    assert not upstream.disconnected.is_set()
    await anos.post(f"/v1/responses/{running}/cancel")
    await reading


# Encrypted reasoning -----------------------------------------------------------------------------


async def test_encrypted_reasoning_is_kept_for_replay_and_shown_only_if_asked_for(
    gateway, upstream
) -> None:
    anos = await gateway({"models": {"gpt-35-turbo": {"reasoning": True}}})
    output = [scripted.reasoning("Hm.", encrypted_content="c2VjcmV0"), scripted.message("Yes.")]
    upstream.answer(scripted.responses_events(output), scripted.responses_body(output))
    events = await anos.stream("/v1/responses", input="Well?")
    assert "encrypted_content" not in str(events)
    made = events[-1]["response"]
    child = await anos.post("/v1/responses", input="Sure?", previous_response_id=made["id"])
    assert "encrypted_content" not in str(child.body)
    assert upstream.requests[-1].body["input"][1]["encrypted_content"] == "c2VjcmV0"
    assert upstream.requests[-1].body["include"] == ["reasoning.encrypted_content"]
    asked = {"include[]": "reasoning.encrypted_content"}
    for path, name in ((made["id"], "output"), (f"{child.body['id']}/input_items", "data")):
        path = f"/v1/responses/{path}"
        hidden = (await anos.get(path)).body[name]
        assert "encrypted_content" not in str(hidden)
        shown = (await anos.get(path, **asked)).body[name]
        assert [item["encrypted_content"] for item in shown if item["type"] == "reasoning"] == [
            "c2VjcmV0"
        ]


@pytest.mark.parametrize("prefix", ["/v1", "", "/openai/v1"])
async def test_every_endpoint_answers_under_three_prefixes(
    gateway, upstream, dialect: str, prefix: str
) -> None:
    anos = await gateway(speaking(dialect))
    made = await anos.post(f"{prefix}/responses", input="Hi")
    path = f"{prefix}/responses/{made.body['id']}"
    assert (await anos.get(path)).body == made.body
    assert (await anos.get(f"{path}/input_items")).status == 200
    assert (await anos.post(f"{path}/cancel")).status == 400
    assert (await anos.delete(path)).status == 200
