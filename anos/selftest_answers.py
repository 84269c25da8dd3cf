"""Every place of a Response that can carry text, in the answer of an upstream, whole and streamed.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from collections.abc import Callable
from typing import Any

from anos.events import EventWriter
from anos.items import base_response, usage
from anos.selftest_places import RESPONSES, Json, Place, halves, tokens

_NOW_MS = 1_700_000_000_000

Make = Callable[[str], Json]


def _response(*output: Json, **fields: Any) -> Json:
    base = base_response({}, id="resp_1", model="selftest", created_at=_NOW_MS // 1000)
    done = {"status": "completed", "completed_at": _NOW_MS // 1000, "usage": usage(1, 1)}
    return {**base, **done, "output": list(output), **fields}


def _text(text: str = "Well.", **fields: Any) -> Json:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": [], **fields}
    return _message(part)


def _message(*parts: Json) -> Json:
    said = {"type": "message", "role": "assistant", "content": list(parts)}
    return {"id": "msg_1", "status": "completed", **said}


def _events(items: list[Json], kind: str, pieces: list[str], **fields: Any) -> list[Json]:
    """A stream in which the last of the items grows by the pieces; the others come whole."""
    writer = EventWriter(_response(output=[], status="in_progress"), _NOW_MS)
    for item in items[:-1]:
        writer.add(item)
    index, _ = writer.open(items[-1])
    for piece in pieces:
        writer.delta(index, kind, piece)
    writer.close(index, final=items[-1])
    writer.terminal(_response(*writer.items, **fields))
    return writer.take()


def _growing(name: str, kind: str, make: Make, form: str = "text") -> Place:
    def stream(pieces: list[str]) -> list[Json]:
        return _events([make("".join(pieces))], kind, pieces)

    return Place(name, RESPONSES, lambda text: _response(make(text)), stream, form)


def _fixed(name: str, make: Make, form: str = "text") -> Place:
    """What stands in a finished item and does not grow."""

    def stream(pieces: list[str]) -> list[Json]:
        return _events([_text(), make("".join(pieces))], "text", [])

    return Place(name, RESPONSES, lambda text: _response(_text(), make(text)), stream, form)


def _extra(name: str, make: Make, **fields: Any) -> Place:
    """What stands in the last event beside the items."""

    def stream(pieces: list[str]) -> list[Json]:
        return _events([_text()], "text", ["Well."], **make("".join(pieces)), **fields)

    def whole(text: str) -> Json:
        return _response(_text(), **make(text), **fields)

    return Place(name, RESPONSES, whole, stream, is_error="error" in make(""))


def _call(type_: str, **fields: Any) -> Json:
    said = {"id": "fc_1", "type": type_, "status": "completed", "call_id": "call_1", "name": "find"}
    return {**said, **fields}


def _thought(**fields: Any) -> Json:
    return {"id": "rs_1", "type": "reasoning", "summary": [], **fields}


def _summary(text: str) -> Json:
    return _thought(summary=[{"type": "summary_text", "text": text}])


def _reasoning(stem: str, part_stem: str) -> Place:
    """Raw reasoning, by the names of OpenAI and by those of Open Responses."""

    def item(text: str) -> Json:
        return _thought(content=[{"type": "reasoning_text", "text": text}])

    def stream(pieces: list[str]) -> list[Json]:
        writer = EventWriter(_response(status="in_progress"), _NOW_MS)
        writer.start()
        place = {"item_id": "rs_1", "output_index": 0, "content_index": 0}
        done = item("".join(pieces))
        (part,) = done["content"]
        writer.event("response.output_item.added", output_index=0, item=_thought())
        writer.event(f"{part_stem}.added", **place, part={**part, "text": ""})
        for piece in pieces:
            writer.event(f"{stem}.delta", **place, delta=piece)
        writer.event(f"{stem}.done", **place, text=part["text"])
        writer.event(f"{part_stem}.done", **place, part=part)
        writer.event("response.output_item.done", output_index=0, item=done)
        writer.terminal(_response(done))
        return writer.take()

    return Place("reasoning, text", RESPONSES, lambda text: _response(item(text)), stream)


def _with_event(type_: str, field: str) -> Callable[[list[str]], list[Json]]:
    """A stream with events of a hosted tool."""

    def stream(pieces: list[str]) -> list[Json]:
        events = _events([{"id": "ci_1", "type": "code_interpreter_call"}], "text", [])
        texts = pieces if field == "delta" else ["".join(pieces)]  # nothing else grows
        said = [
            {"type": type_, "output_index": 0, "item_id": "ci_1", field: each} for each in texts
        ]
        whole = [*events[:3], *said, *events[3:]]
        return [{**each, "sequence_number": number} for number, each in enumerate(whole)]

    return stream


def _snapshot(pieces: list[str]) -> list[Json]:
    """Only the last event says anything."""
    events = _events([_text("".join(pieces))], "text", [])
    return [*events[:2], {**events[-1], "sequence_number": 2}]


def _done_alone(pieces: list[str]) -> list[Json]:
    """No delta says the text, but everything that repeats it does."""
    events = _events([_text("".join(pieces))], "text", [])
    kept = [each for each in events if not each["type"].endswith(".delta")]
    return [{**each, "sequence_number": number} for number, each in enumerate(kept)]


def _two_parts(text: str) -> Json:
    return _message(*(_text(half)["content"][0] for half in halves(text)))


def _two_items(text: str) -> list[Json]:
    return [{**_text(half), "id": f"msg_{number}"} for number, half in enumerate(halves(text))]


PLACES = (
    _growing("text", "text", _text),
    _growing("refusal", "refusal", lambda t: _message({"type": "refusal", "refusal": t})),
    _growing("reasoning, summary", "summary", _summary),
    _reasoning("response.reasoning_text", "response.content_part"),
    _reasoning("response.reasoning", "response.reasoning_part"),
    _growing("function call", "arguments", lambda t: _call("function_call", arguments=t), "json"),
    _growing("custom tool call", "input", lambda t: _call("custom_tool_call", input=t)),
    _growing("MCP call", "arguments", lambda t: _call("mcp_call", arguments=t), "json"),
    _fixed("function call, name", lambda t: _call("function_call", name=t, arguments="{}")),
    _fixed("custom tool call, name", lambda t: _call("custom_tool_call", name=t, input="it")),
    _fixed("MCP call, output", lambda t: _call("mcp_call", arguments="{}", output=t)),
    _fixed("annotation", lambda t: _text(annotations=[{"type": "url_citation", "title": t}])),
    _fixed(
        "logprobs, other tokens",
        lambda t: _text(logprobs=[{**tokens(["Well."])[0], "top_logprobs": tokens([t])}]),
    ),
    Place(
        "logprobs",
        RESPONSES,
        lambda t: _response(_text(logprobs=tokens(halves(t)))),
        lambda pieces: _events([_text(logprobs=tokens(pieces))], "text", []),
    ),
    _fixed("other field of a message", lambda t: {**_text(), "note": {"deep": [t]}}),
    _fixed("item of another type", lambda t: {"id": "x_1", "type": "new", "words": {"of": [t]}}),
    _fixed("item of another type", lambda t: {"id": "x_1", "type": "new", t: 1}),
    Place(
        "code of a hosted tool",
        RESPONSES,
        None,
        _with_event("response.code_interpreter_call_code.delta", "delta"),
    ),
    Place("event of another type", RESPONSES, None, _with_event("response.new_call.new", "delta")),
    Place("event of another type", RESPONSES, None, _with_event("response.new_call.said", "words")),
    Place("its last event alone", RESPONSES, None, _snapshot),
    Place("its done events alone", RESPONSES, None, _done_alone),
    Place(
        "two parts of a message",
        RESPONSES,
        lambda text: _response(_two_parts(text)),
        lambda pieces: _events([_two_parts("".join(pieces))], "text", []),
    ),
    Place(
        "two messages",
        RESPONSES,
        lambda text: _response(*_two_items(text)),
        lambda pieces: _events(_two_items("".join(pieces)), "text", []),
    ),
    _extra("other field of the Response", lambda t: {"note": t}),
    _extra("other field of the Response", lambda t: {"service_tier": t}),
    _extra(
        "error",
        lambda t: {"error": {"code": "server_error", "message": t}},
        status="failed",
    ),
)
