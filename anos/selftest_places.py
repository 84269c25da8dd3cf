"""Every place of an answer that is a Response that can carry text, in one piece and streamed.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from collections.abc import Callable
from typing import Any

from anos.event_state import KINDS
from anos.events import EventWriter
from anos.items import base_response, usage
from anos.selftest_canary import FIRST, JSON, RESPONSES, REST, TEXT, TOKENS, Json, put, tokens
from anos.selftest_fields import Place, marks

_NOW_MS = 1_700_000_000_000
# Makes of the events of a stream others that say the pieces too.
Turn = Callable[[list[Json], list[str]], list[Json]]


def _response(*output: Json, **fields: Any) -> Json:
    base = base_response({}, id="resp_1", model="selftest", created_at=_NOW_MS // 1000)
    done = {"status": "completed", "completed_at": _NOW_MS // 1000, "usage": usage(1, 1)}
    return {**base, **done, "output": list(output), **fields}


def _events(items: list[Json], kind: str, pieces: list[str], fields: Json) -> list[Json]:
    """A stream in which the last of the items grows by the pieces; the others come whole."""
    writer = EventWriter(_response(output=[], status="in_progress"), _NOW_MS)
    for item in items[:-1]:
        writer.add(item)
    index, _ = writer.open(items[-1])
    if kind == "raw":  # which the writer shows as a summary, unless it has been shown before
        where = {"item_id": items[-1]["id"], "output_index": index, "content_index": 0}
        part = {"type": KINDS[kind].part_type, "text": ""}
        writer.event(f"{KINDS[kind].part_stem}.added", **where, part=part)
        kind = "reasoning"
    for piece in pieces if kind else ():
        writer.delta(index, kind, piece)
    writer.close(index, final=items[-1])
    writer.terminal(_response(*writer.items, **fields))
    return writer.take()


def _in(
    name: str,
    *items: Json,
    grows: str = "",
    form: str = TEXT,
    turn: Turn = lambda events, pieces: events,
    **fields: Any,
) -> Place:
    """In the last of the items, which `grows` as that kind of text, or beside them in `fields`."""

    def said(pieces: list[str]) -> tuple[Json, list[Json]]:
        output, extra = put(items, marks(pieces)), put(fields, marks(pieces))
        events = turn(_events(output, grows, pieces, extra), pieces)
        numbered = [{**each, "sequence_number": number} for number, each in enumerate(events)]
        return _response(*output, **extra), numbered

    return Place(name, RESPONSES, said, form, is_error="error" in fields)


def _part(text: str = "Well.", **fields: Any) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": [], **fields}


def _message(*parts: Json, **fields: Any) -> Json:
    said = {"type": "message", "role": "assistant", "content": list(parts)}
    return {"id": "msg_1", "status": "completed", **said, **fields}


def _call(type_: str, **fields: Any) -> Json:
    said = {"id": "fc_1", "type": type_, "status": "completed", "call_id": "call_1", "name": "find"}
    return {**said, **fields}


def _thought(**fields: Any) -> Json:
    return {"id": "rs_1", "type": "reasoning", "summary": [], **fields}


def _hosted(type_: str, field: str) -> Turn:
    """An event of a hosted tool for each piece, or one for all where nothing grows."""

    def turn(events: list[Json], pieces: list[str]) -> list[Json]:
        event = {"type": f"response.{type_}", "output_index": 0, "item_id": "ci_1"}
        texts = pieces if field == "delta" else ["".join(pieces)]
        return [*events[:3], *({**event, field: each} for each in texts), *events[3:]]

    return turn


def _renamed(events: list[Json], pieces: list[str]) -> list[Json]:
    """Raw reasoning by the names of Open Responses."""
    names = {"response.reasoning_text": "response.reasoning"}
    names["response.content_part"] = "response.reasoning_part"
    stems = ((*each["type"].rpartition("."), each) for each in events)
    return [{**each, "type": f"{names.get(stem, stem)}.{end}"} for stem, _, end, each in stems]


def _without_deltas(events: list[Json], pieces: list[str]) -> list[Json]:
    return [each for each in events if not each["type"].endswith(".delta")]


_WELL, _RAW = _message(_part()), _thought(content=[{"type": "reasoning_text", "text": TEXT}])
_SUMMARY = [{"type": "summary_text", "text": TEXT}]
_CITED = [{"type": "url_citation", "title": TEXT}]
_CODE = "code_interpreter_call_code.delta"
_HOSTED = {"id": "ci_1", "type": "code_interpreter_call"}
_OTHER_TOKEN = {**tokens(["Well."])[0], "top_logprobs": tokens([TEXT])}
PLACES = (
    _in("text", _message(_part(TEXT)), grows="text"),
    _in("refusal", _message({"type": "refusal", "refusal": TEXT}), grows="refusal"),
    _in("reasoning, summary", _thought(summary=_SUMMARY), grows="summary"),
    _in("reasoning, text", _RAW, grows="raw"),
    _in("reasoning, text", _RAW, grows="raw", turn=_renamed),
    _in("function call", _call("function_call", arguments=JSON), grows="arguments", form=JSON),
    _in("custom tool call", _call("custom_tool_call", input=TEXT), grows="input"),
    _in("MCP call", _call("mcp_call", arguments=JSON), grows="arguments", form=JSON),
    _in("function call, name", _WELL, _call("function_call", name=TEXT, arguments="{}")),
    _in("custom tool call, name", _WELL, _call("custom_tool_call", name=TEXT, input="it")),
    _in("MCP call, output", _WELL, _call("mcp_call", arguments="{}", output=TEXT)),
    _in("annotation", _WELL, _message(_part(annotations=_CITED))),
    _in("logprobs, other tokens", _WELL, _message(_part(logprobs=[_OTHER_TOKEN]))),
    _in("logprobs", _message(_part(logprobs=TOKENS))),
    _in("other field of a message", _WELL, _message(_part(), note={"deep": [TEXT]})),
    _in("item of another type", _WELL, {"id": "x_1", "type": "new", "words": {"of": [TEXT]}}),
    _in("item of another type", _WELL, {"id": "x_1", "type": "new", TEXT: 1}),
    _in("code of a hosted tool", _HOSTED, turn=_hosted(_CODE, "delta")),
    _in("event of another type", _HOSTED, turn=_hosted("new_call.new", "delta")),
    _in("event of another type", _HOSTED, turn=_hosted("new_call.said", "words")),
    _in("its last event alone", _message(_part(TEXT)), turn=lambda all, _: [*all[:2], all[-1]]),
    _in("its done events alone", _message(_part(TEXT)), turn=_without_deltas),
    _in("two parts of a message", _message(_part(FIRST), _part(REST))),
    _in("two messages", _message(_part(FIRST), id="msg_0"), _message(_part(REST))),
    _in("other field of the Response", _WELL, note=TEXT),
    _in("other field of the Response", _WELL, service_tier=TEXT),
    _in("error", _WELL, error={"code": "server_error", "message": TEXT}, status="failed"),
)
