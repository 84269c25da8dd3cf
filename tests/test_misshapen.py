"""Upstreams whose JSON has values of other types than the API's: refused, or carried, never a 500.

Every place of some canned answers is given every wrong value; what reads them is pure.
"""

import os
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import orjson
import pytest

from anos import items
from anos.calls import ChatCall, ResponsesCall
from anos.config_sections import Quirks
from anos.errors import UpstreamError
from anos.items import Answer, Turn
from anos.routing import Route
from tests import scripted
from tests.conftest import Json

MISSING = object()
WRONG: list[Any] = [None, [{}], MISSING]
if os.environ.get("ANOS_TORTURE"):
    WRONG += [5, -1, 1.5, True, "x", "", [], {}, [5], ["x"], [None], [[]], {"a": 1}]

DIALECTS = ("responses", "chat")
CITATION: Json = {"type": "url_citation", "url": "http://a", "title": "t"}
OUTPUT: list[Json] = [
    {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "think"}]}
    | {"encrypted_content": "xyz", "status": "completed"},
    {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
    | {"status": "completed"},
    {"id": "ctc_1", "type": "custom_tool_call", "call_id": "call_2", "name": "g", "input": "abc"}
    | {"status": "completed"},
    scripted.message("Hello"),
]
OUTPUT[3]["content"][0]["annotations"] = [CITATION]
ANSWERS: dict[str, list[Json]] = {
    "responses": [
        scripted.responses_body(OUTPUT),
        scripted.responses_body([{**OUTPUT[0], "id": "no id"}, *OUTPUT[1:]]),
    ],
    "chat": [
        scripted.chat_message(content="Hi", reasoning_content="think", refusal="no"),
        scripted.chat_tool_calls(scripted.chat_call("f", '{"a":1}')),
    ],
}
STREAMS: dict[str, list[list[Any]]] = {
    "responses": [scripted.responses_events(OUTPUT, pieces=1)],
    "chat": [
        scripted.chat_stream(["Hel", "lo"]),
        scripted.chat_tool_stream(scripted.chat_call("f", '{"a":1}'), pieces=1),
    ],
}


def misshapen(tree: Any) -> Iterator[Any]:
    """The tree with one value after the other replaced by each wrong one."""
    for path in places(tree, ()):
        for wrong in WRONG:
            changed = deepcopy(tree)
            node = changed
            for step in path[:-1]:
                node = node[step]
            if wrong is MISSING:
                del node[path[-1]]
            else:
                node[path[-1]] = wrong
            yield changed


def places(tree: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    steps = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for step, value in list(steps):
        yield (*path, step)
        if isinstance(value, dict | list):
            yield from places(value, (*path, step))


def call_of(client: str, streams: bool) -> ResponsesCall | ChatCall:
    names = {"response_id": "resp_1", "created_s": 1}
    if client == "chat":
        messages = [{"role": "user", "content": "hi"}]
        return ChatCall({"model": "m", "stream": streams, "messages": messages}, now_ms=1, **names)
    turn = Turn("m", {"model": "m"}, [], [], streams)
    return ResponsesCall(turn, chat_fields=True, input=None, **names)


def route_to(upstream: str, repair: bool = False) -> Route:
    fields: Json = {"provider": "up", "dialect": upstream, "deployment": "m", "reasoning": False}
    return Route(quirks=Quirks(repair=repair), **fields)


def outcome(call: ResponsesCall | ChatCall, answer: Answer) -> Json:
    """What is stored and shown of an answer; every step of it has to work."""
    "".join(items.texts(answer.output))
    if isinstance(call, ChatCall):
        return {}
    response = items.final_response(call.base, answer, 5)
    assert all(isinstance(item["id"], str) for item in response["output"])
    return orjson.loads(orjson.dumps(call.shown(response)))


@pytest.mark.parametrize("client", DIALECTS)
@pytest.mark.parametrize("upstream", DIALECTS)
def test_a_misshapen_answer_is_refused_or_carried(client: str, upstream: str) -> None:
    for answer in ANSWERS[upstream]:
        for body in misshapen(answer):
            call = call_of(client, False)
            try:
                read = call.read(route_to(upstream), orjson.dumps(body), 1)
            except UpstreamError:
                continue
            call.reply(read, outcome(call, read))


@pytest.mark.parametrize("client", DIALECTS)
@pytest.mark.parametrize(
    ("upstream", "repair"), [("responses", False), ("responses", True), ("chat", False)]
)
def test_a_misshapen_stream_is_ended_or_carried(client: str, upstream: str, repair: bool) -> None:
    for events in STREAMS[upstream]:
        for number, event in enumerate(events):
            for changed in misshapen(event) if isinstance(event, dict) else ():
                stream = [*events[:number], changed, *events[number + 1 :]]
                raw = relayed(client, route_to(upstream, repair), stream)
                # What is not read passes as it came, so only the end is sure to be ours.
                *_, last = raw.removesuffix(scripted.DONE).split(b"\n\n")[:-1]
                if client == "responses":
                    assert raw.endswith(scripted.DONE)
                    assert last.startswith((b"event: response.compl", b"event: response.fail"))
                else:
                    assert raw.endswith(scripted.DONE) or last.startswith(b'data: {"error"')


def relayed(client: str, route: Route, chunks: list[Any]) -> bytes:
    """What the client gets of the chunks; the pipeline does the same, and commits."""
    call = call_of(client, True)
    stream = call.open(route, 1)
    raw = b""
    try:
        for chunk in chunks:
            if not stream.ended:
                raw += stream.feed(scripted.encode(chunk))
        closing, answer = stream.finish()
    except UpstreamError as exc:
        closing, answer = stream.abort("failed", {"code": "upstream_error", "message": exc.message})
    return raw + closing + stream.terminal(answer, outcome(call, answer))
