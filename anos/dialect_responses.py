"""Canonical form to and from an upstream that speaks OpenAI Responses: almost the identity.

API: https://platform.openai.com/docs/api-reference/responses.
"""

import re
from typing import Any

import msgspec

from anos import items
from anos.errors import UpstreamError
from anos.events import EventWriter
from anos.items import Answer, Turn
from anos.routing import Route

# Fields of the create request that are the gateway's own business: it keeps the state.
_OWN_FIELDS = frozenset({"previous_response_id", "background", "store", "include", "model"})
# Fields of an upstream's Response that the gateway writes itself.
_OWN_ANSWER = frozenset(
    {
        "id",
        "object",
        "created_at",
        "completed_at",
        "model",
        "status",
        "output",
        "usage",
        "error",
        "incomplete_details",
    }
    | {
        "previous_response_id",
        "store",
        "background",
        "metadata",
        "instructions",
        "conversation",
        "output_text",
    }
)
_ITEM_ID = re.compile(r"[a-z]+_[A-Za-z0-9_-]+")
_MAX_ITEM_ID = 64
_PREFIXES = {"message": "msg", "function_call": "fc", "custom_tool_call": "ctc", "reasoning": "rs"}
_ENCRYPTED = "reasoning.encrypted_content"
DELTAS = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "refusal",
    "response.reasoning_summary_text.delta": "summary",
    "response.reasoning_text.delta": "reasoning",
    "response.reasoning.delta": "reasoning",
    "response.function_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
}
LIFECYCLE = frozenset({"response.created", "response.queued", "response.in_progress"})
TERMINAL = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
)
# Said again by output_item.done, which is what is trusted.
_RESTATED = (".done", "content_part.added", "reasoning_summary_part.added")


def build_request(turn: Turn, route: Route, input: Any) -> dict[str, Any]:
    """The body for POST /responses: full history, `store` false, the deployment's name.

    Unknown fields go on as the client sent them, and so does `input`, the client's own form of
    the items, unless it is None.
    """
    request = turn.request
    body = {name: value for name, value in request.items() if name not in _OWN_FIELDS}
    body["model"] = route.deployment
    body["store"] = False
    body["stream"] = turn.stream
    include = list(request.get("include") or ())
    if route.reasoning and _ENCRYPTED not in include:
        include.append(_ENCRYPTED)
    if include:
        body["include"] = include
    body["input"] = (
        input if input is not None else [_replayed(item) for item in turn.history + turn.input]
    )
    return body


def parse_answer(body: dict[str, Any], now_ms: int) -> Answer:
    """The Answer in a Response object; UpstreamError if it is none."""
    output = body.get("output")
    if body.get("object", "response") != "response" or not isinstance(output, list):
        raise UpstreamError("The upstream sent an answer that is not a Response.")
    return answer_of(body, with_valid_ids(output, now_ms))


def with_valid_ids(output: list[Any], now_ms: int) -> list[dict[str, Any]]:
    """The items, each with a well-formed id of its own; minted where the upstream's is not."""
    seen: set[str] = set()
    valid = []
    for item in output:
        if not isinstance(item, dict) or not isinstance(item.get("type"), str):
            raise UpstreamError("The upstream sent an output item without a type.")
        if not is_item_id(item.get("id")) or item["id"] in seen:
            item = {**item, "id": items.new_id(_PREFIXES.get(item["type"], "item"), now_ms)}
        seen.add(item["id"])
        valid.append(item)
    return valid


def is_item_id(value: Any) -> bool:
    """Whether an upstream's item id can be kept: well-formed, at most 64 characters."""
    return (
        isinstance(value, str)
        and len(value) <= _MAX_ITEM_ID
        and _ITEM_ID.fullmatch(value) is not None
    )


def _replayed(item: dict[str, Any]) -> dict[str, Any]:
    # The id of a client's message was minted here and means nothing to the upstream.
    if item.get("role") in ("user", "system", "developer") or item["type"].endswith("_output"):
        return {name: value for name, value in item.items() if name not in ("id", "status")}
    return item


def answer_of(response: dict[str, Any], output: list[dict[str, Any]]) -> Answer:
    status = response.get("status")
    if status not in ("completed", "incomplete", "failed", "cancelled"):
        status = "completed"
    details = response.get("incomplete_details")
    return Answer(
        status=status,
        output=output,
        usage=usage_of(response.get("usage")),
        incomplete_reason=details.get("reason") if isinstance(details, dict) else None,
        error=error_of(response.get("error")) if status == "failed" else None,
        extra={
            name: value
            for name, value in response.items()
            if name not in _OWN_ANSWER and value is not None
        },
    )


def usage_of(usage: Any) -> dict[str, Any] | None:
    """An upstream's usage in the canonical shape, zeros included; None if it has none."""
    if not isinstance(usage, dict) or not isinstance(usage.get("input_tokens"), int):
        return None
    inputs, outputs = (
        usage.get("input_tokens_details") or {},
        usage.get("output_tokens_details") or {},
    )
    return items.usage(
        usage["input_tokens"],
        usage.get("output_tokens") or 0,
        cached=inputs.get("cached_tokens") or 0,
        cache_write=inputs.get("cache_write_tokens") or 0,
        reasoning=outputs.get("reasoning_tokens") or 0,
    )


def error_of(error: Any) -> dict[str, Any]:
    """The {"code", "message"} of a failed Response, with defaults for what is missing."""
    error = error if isinstance(error, dict) else {}
    return {
        "code": str(error.get("code") or "server_error"),
        "message": str(error.get("message") or "The upstream failed."),
    }


class Reader:
    """An upstream's Responses stream, conforming or not, read into canonical events."""

    def __init__(self, writer: EventWriter, *, shows_encrypted: bool) -> None:
        self.ended = False
        self._writer = writer
        self._shows_encrypted = shows_encrypted
        # Where the upstream's output_index is in ours; seeded streams agree so far.
        self._index: dict[Any, int] = {index: index for index in range(len(writer.items))}
        self._closed: set[int] = {
            index for index, item in enumerate(writer.items) if item.get("status") != "in_progress"
        }
        self._encrypted: dict[str, str] = {}  # by item id: kept for replay, not shown
        self._response: dict[str, Any] = {}
        self._error: dict[str, Any] | None = None

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The canonical events of one upstream event's data."""
        if data == b"[DONE]":
            return []
        event = decode(data)
        type_ = event.get("type")
        writer = self._writer
        if not isinstance(type_, str):
            raise UpstreamError("The upstream sent an event without a type.")
        if type_ in LIFECYCLE:
            return writer.start()
        if type_ == "error" or (type_ not in TERMINAL and event.get("error")):
            self._error = error_of(event.get("error") or event)
            self.ended = True
            return []
        events = writer.start()
        if type_ in TERMINAL:
            self._response = event.get("response") or {}
            self.ended = True
        elif type_ in DELTAS:
            events += self._delta(event, DELTAS[type_])
        elif type_ == "response.output_item.added":
            events += self._added(event)
        elif type_ == "response.output_item.done":
            events += self._done(event)
        elif type_ == "response.output_text.annotation.added":
            index, opened = self._item(event, "text")
            events += opened + writer.annotate(index, event.get("annotation") or {})
        elif not type_.endswith(_RESTATED) or "_call." in type_:
            events.append(self._renumbered(event))
        return events

    def finish(self) -> tuple[list[dict[str, Any]], Answer]:
        """Closing events and the Answer; an upstream that never ended its answer has failed."""
        if self._error is not None:
            return self.abort("failed", self._error)
        if not self.ended:
            return self.abort(
                "failed", {"code": "server_error", "message": "The upstream broke off its answer."}
            )
        events = self._rest()
        status = "completed" if self._response.get("status") == "completed" else "incomplete"
        events += self._writer.close_all(status)
        return events, answer_of(self._response, self._output())

    def abort(
        self, status: str, error: dict[str, Any] | None
    ) -> tuple[list[dict[str, Any]], Answer]:
        """End the stream where it is: open items become incomplete."""
        events = self._writer.start() + self._writer.close_all("incomplete")
        return events, Answer(status=status, output=self._output(), usage=None, error=error)

    def hide(self, item_id: str, encrypted: str) -> None:
        """Keep the encrypted content of a reasoning item that was shown without it."""
        self._encrypted[item_id] = encrypted

    def _output(self) -> list[dict[str, Any]]:
        return [
            {**item, "encrypted_content": self._encrypted[item["id"]]}
            if item["id"] in self._encrypted
            else item
            for item in self._writer.items
        ]

    def _rest(self) -> list[dict[str, Any]]:
        # An upstream that leaves output_item events out still has the items in its final snapshot.
        events: list[dict[str, Any]] = []
        for index, item in enumerate(self._response.get("output") or ()):
            ours = self._index.get(index)
            if ours is None:
                events += self._add(item)
            elif ours not in self._closed:
                events += self._close(ours, item)
        return events

    def _add(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        ours, events = self._writer.open(self._shown(self._fresh(item)))
        return events + self._close(ours, item)

    def _close(self, ours: int, item: dict[str, Any]) -> list[dict[str, Any]]:
        self._closed.add(ours)
        shown = self._shown(item)
        if shown is not item:
            self.hide(self._writer.items[ours]["id"], item["encrypted_content"])
        return self._writer.close(ours, status=_status_of(item), final=shown)

    def _added(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        item = event.get("item")
        if not isinstance(item, dict) or not isinstance(item.get("type"), str):
            raise UpstreamError("The upstream sent an output item without a type.")
        ours, events = self._writer.open(self._shown(self._fresh(item)))
        self._index[event.get("output_index", ours)] = ours
        return events

    def _done(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        item = event.get("item")
        if not isinstance(item, dict) or not isinstance(item.get("type"), str):
            raise UpstreamError("The upstream sent an output item without a type.")
        ours = self._index.get(event.get("output_index", len(self._writer.items) - 1))
        if ours is None:
            self._index[event.get("output_index")] = len(self._writer.items)
            return self._add(item)
        return [] if ours in self._closed else self._close(ours, item)

    def _delta(self, event: dict[str, Any], kind: str) -> list[dict[str, Any]]:
        delta = event.get("delta")
        if not isinstance(delta, str):
            raise UpstreamError("The upstream sent a delta without text.")
        index, events = self._item(event, kind)
        if index in self._closed:
            return events
        part = event.get("summary_index" if kind == "summary" else "content_index")
        logprobs = event.get("logprobs") or None
        return events + self._writer.delta(index, kind, delta, part=part, logprobs=logprobs)

    def _item(self, event: dict[str, Any], kind: str) -> tuple[int, list[dict[str, Any]]]:
        theirs = event.get("output_index", max(self._index, default=0))
        ours = self._index.get(theirs)
        if ours is not None:
            return ours, []
        ours, events = self._writer.open(_unannounced(kind, event))
        self._index[theirs] = ours
        return ours, events

    def _fresh(self, item: dict[str, Any]) -> dict[str, Any]:
        item_id = item.get("id")
        if is_item_id(item_id) and all(other["id"] != item_id for other in self._writer.items):
            return item
        return {name: value for name, value in item.items() if name != "id"}

    def _shown(self, item: dict[str, Any]) -> dict[str, Any]:
        if self._shows_encrypted or "encrypted_content" not in item or item["type"] != "reasoning":
            return item
        return {name: value for name, value in item.items() if name != "encrypted_content"}

    def _renumbered(self, event: dict[str, Any]) -> dict[str, Any]:
        # Events of hosted tools keep their fields; only what refers to the item is ours.
        fields = {
            name: value for name, value in event.items() if name not in ("type", "sequence_number")
        }
        ours = self._index.get(event.get("output_index"))
        if ours is not None:
            fields["output_index"] = ours
            if "item_id" in fields:
                fields["item_id"] = self._writer.items[ours]["id"]
        return self._writer.event(event["type"], **fields)


def _status_of(item: dict[str, Any]) -> str:
    return "incomplete" if item.get("status") == "incomplete" else "completed"


def _unannounced(kind: str, event: dict[str, Any]) -> dict[str, Any]:
    if kind == "arguments":
        return {
            "type": "function_call",
            "call_id": event.get("call_id"),
            "name": event.get("name") or "",
        }
    if kind == "input":
        return {
            "type": "custom_tool_call",
            "call_id": event.get("call_id"),
            "name": event.get("name") or "",
        }
    if kind in ("summary", "reasoning"):
        return {"type": "reasoning"}
    return {"type": "message", "role": "assistant"}


def decode(data: bytes) -> dict[str, Any]:
    try:
        event = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise UpstreamError("The upstream sent an event that is not JSON.") from exc
    if not isinstance(event, dict):
        raise UpstreamError("The upstream sent an event that is not an object.")
    return event
