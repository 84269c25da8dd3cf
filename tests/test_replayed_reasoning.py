"""Reasoning a client sends back, by reference or as it was shown: only what can be read is sent."""

import json
from collections.abc import Callable

import pytest

from tests import scripted
from tests.conftest import Gateway, Reply
from tests.scripted import Json

RESPONSES = "/v1/responses"
REASONS = {"models": {"gpt-35-turbo": {"reasoning": True}}}
THOUGHT = scripted.reasoning("Hm.", encrypted_content="c2VjcmV0")


async def sent_for(anos: Gateway, upstream: scripted.Upstream, *items: Json) -> list[Json]:
    """What the upstream is given for these input items."""
    upstream.answer(scripted.responses_body([scripted.message("Yes.", id="msg_yes")]))
    reply: Reply = await anos.post(RESPONSES, input=[*items, {"role": "user", "content": "?"}])
    assert reply.status == 200, reply.raw
    sent: list[Json] = upstream.requests[-1].body["input"][:-1]
    return sent


def referring(item: Json) -> Json:
    return {"type": "item_reference", "id": item["id"]}


async def made(anos: Gateway, upstream: scripted.Upstream, *output: Json) -> list[Json]:
    """The output of a response as the client was shown it."""
    upstream.answer(scripted.responses_body(output))
    shown: list[Json] = (await anos.post(RESPONSES, input="Hi")).body["output"]
    return shown


@pytest.mark.parametrize("make", [referring, dict], ids=["referenced", "as it was shown"])
async def test_reasoning_that_comes_back_is_sent_with_what_was_not_shown(
    gateway, upstream, make: Callable[[Json], Json]
) -> None:
    anos = await gateway(REASONS)
    shown = await made(anos, upstream, THOUGHT, scripted.message("So."))
    assert "encrypted_content" not in shown[0]
    sent = await sent_for(anos, upstream, *map(make, shown))
    assert sent == [THOUGHT, scripted.message("So.")]


@pytest.mark.parametrize("make", [referring, dict], ids=["referenced", "as it was shown"])
@pytest.mark.parametrize(("config", "thought"), [
    ({}, THOUGHT),  # of a model that is not asked for it
    (REASONS, scripted.reasoning("Hm.")),  # without encrypted content
])  # fmt: skip
async def test_reasoning_no_upstream_could_read_is_not_sent(
    gateway, upstream, config: Json, thought: Json, make: Callable[[Json], Json]
) -> None:
    anos = await gateway(config)
    call = scripted.function_call("f", call_id="c1")
    shown = await made(anos, upstream, thought, call)
    output = {"type": "function_call_output", "call_id": "c1", "output": "1"}
    sent = await sent_for(anos, upstream, *map(make, shown), output)
    # OpenAI refuses the id of a call whose reasoning is missing.
    assert sent == [{k: v for k, v in call.items() if k != "id"}, output]


async def test_reasoning_a_client_has_whole_is_sent_as_it_is(gateway, upstream) -> None:
    anos = await gateway()
    raw = {
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hm."}],
    }
    said = {"type": "message", "role": "assistant", "content": "So.", "id": "msg_1"}
    given = [THOUGHT, said, raw, said]
    assert await sent_for(anos, upstream, *given) == given


async def test_reasoning_of_another_owner_is_unknown_and_not_sent(gateway, upstream) -> None:
    keys = {"ann": {"key": "sk-ann"}, "bob": {"key": "sk-bob"}}
    anos = await gateway({**REASONS, "keys": keys})
    upstream.answer(scripted.responses_body([THOUGHT, scripted.message("So.")]))
    asked = {"model": "gpt-35-turbo", "input": "Hi"}
    for key in ("sk-ann", "sk-bob"):
        headers = {"Authorization": f"Bearer {key}"}
        made = await anos.request("POST", RESPONSES, headers=headers, json=asked)
        assert made.status == 200
        asked = {**asked, "input": [*made.body["output"], {"role": "user", "content": "?"}]}
    assert "c2VjcmV0" not in str(upstream.requests[-1].body)
    assert [item.get("type") for item in upstream.requests[-1].body["input"]] == ["message"] * 2


async def test_input_items_show_reasoning_that_was_not_sent(gateway, upstream) -> None:
    anos = await gateway()
    shown = await made(anos, upstream, scripted.reasoning("Hm."), scripted.message("So."))
    await sent_for(anos, upstream, *map(referring, shown))
    asked = [*map(referring, shown), {"role": "user", "content": "?"}]
    response = (await anos.post(RESPONSES, input=asked)).body
    page = await anos.get(f"{RESPONSES}/{response['id']}/input_items", order="asc")
    assert page.body["data"][:2] == shown
    assert json.dumps(page.body).count("Hm.") == 1
