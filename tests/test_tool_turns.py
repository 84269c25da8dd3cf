"""Calls of tools across turns: who has to answer them, and where their outputs stand."""

from typing import Any

import pytest

from tests.conftest import Gateway, Json
from tests.dialects import calls, says, speaking

RESPONSES = "/v1/responses"


@pytest.fixture(params=["responses", "chat"])
def dialect(request: pytest.FixtureRequest) -> Any:
    return request.param


def output(call_id: str, said: str = "3 degrees") -> Json:
    return {"type": "function_call_output", "call_id": call_id, "output": said}


def user(said: str) -> Json:
    return {"role": "user", "content": said}


async def asked(anos: Gateway, upstream: Any, dialect: str) -> str:
    """The id of a completed response that calls `weather` twice."""
    upstream.answer(calls(dialect), says(dialect, "Cold."))
    return (await anos.post(RESPONSES, input="Weather?")).body["id"]


@pytest.mark.parametrize(
    ("given", "waiting"),
    [
        ({}, "call_1"),
        ({"input": []}, "call_1"),
        ({"input": "Well?"}, "call_1"),
        ({"input": [output("call_1")]}, "call_2"),
        ({"input": [output("call_2"), user("and?")], "background": True}, "call_1"),
    ],
)
async def test_every_call_of_a_completed_response_needs_its_output(
    gateway, upstream, dialect: str, given: Json, waiting: str
) -> None:
    anos = await gateway(speaking(dialect))
    parent = await asked(anos, upstream, dialect)
    body = {"model": "gpt-4", "previous_response_id": parent, **given}
    refused = await anos.request("POST", RESPONSES, json=body)
    assert (refused.status, refused.error) == (
        400,
        {
            "message": f"No tool output found for function call {waiting}.",
            "type": "invalid_request_error",
            "param": "input",
            "code": "invalid_value",
        },
    )
    assert len(upstream.requests) == 1


async def test_a_call_of_an_incomplete_response_may_be_answered_later_or_never(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    cut = calls(dialect)
    if dialect == "chat":
        cut["choices"][0]["finish_reason"] = "length"
    else:
        cut["status"] = "incomplete"
    upstream.answer(cut, *(says(dialect, text) for text in ("one", "two", "three")))
    parent = (await anos.post(RESPONSES, input="Weather?")).body["id"]
    for asked in ("Never mind.", "So?"):
        made = await anos.post(RESPONSES, input=asked, previous_response_id=parent)
        assert made.status == 200, made.body
        assert "call_1" not in str(upstream.requests[-1].body)
        parent = made.body["id"]
    late = [user("Well?"), output("call_1")]
    made = await anos.post(RESPONSES, input=late, previous_response_id=parent)
    assert made.status == 200, made.body
    sent = upstream.requests[-1].body
    if dialect == "responses":
        places = [item.get("call_id") for item in sent["input"]]
        assert places == [None, "call_1", None, None, None, None, None, "call_1"]
        return
    # Chat servers refuse an output that does not stand right behind its call.
    assert [message["role"] for message in sent["messages"]] == [
        *("user", "assistant", "tool", "user", "assistant", "user", "assistant", "user")
    ]
    assert sent["messages"][1]["tool_calls"][0]["id"] == "call_1"
    assert sent["messages"][2]["tool_call_id"] == "call_1"


async def test_to_chat_a_call_is_answered_once(gateway, upstream, dialect: str) -> None:
    anos = await gateway(speaking(dialect))
    parent = await asked(anos, upstream, dialect)
    both = [output("call_1"), user("Also:"), output("call_2")]
    made = await anos.post(RESPONSES, input=both, previous_response_id=parent)
    assert made.status == 200, made.body
    again = [user("No:"), output("call_2", "5 degrees")]
    reply = await anos.post(RESPONSES, input=again, previous_response_id=made.body["id"])
    if dialect == "responses":
        assert reply.status == 200, reply.body
        return
    assert (reply.status, reply.error["param"], reply.error["code"]) == (
        *(400, "input[1].call_id"),
        "unsupported_parameter",
    )
    assert len(upstream.requests) == 2
