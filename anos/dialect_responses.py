"""Canonical form to and from an upstream that speaks OpenAI Responses: almost the identity.

API: https://platform.openai.com/docs/api-reference/responses.
"""

from collections.abc import Set
from typing import Any

from anos import items, sse
from anos.errors import UpstreamError, reported, word_of
from anos.event_order import LIFECYCLE, TERMINAL
from anos.event_state import KIND_OF_CALL, KIND_OF_PART, KINDS
from anos.events import EventWriter
from anos.items import Answer, Turn
from anos.routing import Route
from anos.shapes import check_item, conforms, is_item_id, read_event, read_usage
from anos.surrogates import Joiner

# Fields of the create request that are the gateway's own business: it keeps the state.
_OWN_FIELDS = frozenset({"previous_response_id", "background", "store", "include", "model"})
_ENCRYPTED = "reasoning.encrypted_content"
# The kind of text each delta adds to, as EventWriter calls it.
_DELTAS = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "refusal",
    "response.reasoning_summary_text.delta": "summary",
    "response.reasoning_text.delta": "reasoning",
    "response.reasoning.delta": "reasoning",
    **{f"{kind.stem}.delta": "arguments" for kind in KIND_OF_CALL.values()},
}
_HOLDER = {
    "text": "message",
    "refusal": "message",
    "summary": "reasoning",
    "reasoning": "reasoning",
}
# Said again by output_item.done, which is what is trusted.
_RESTATED = (
    {f"{kind.stem}.done" for kind in KINDS.values()}
    | {f"{kind.part_stem}.{end}" for kind in KIND_OF_PART.values() for end in ("added", "done")}
    | {"response.reasoning.done", "response.reasoning_part.added", "response.reasoning_part.done"}
)

# Events of hosted tools and the like, by how their names begin: what else an upstream may say in a
# name of its own, clients do not know, and some give up on it.
_PASSED = tuple(
    f"response.{name}"
    for name in (
        *("audio.", "code_interpreter_call", "compaction.", "file_search_call."),
        *("image_generation_call.", "mcp_", "shell_call_", "web_search_call."),
    )
)


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


def parse_answer(body: dict[str, Any], now_ms: int, taken: Set[str] = frozenset()) -> Answer:
    """The Answer in a Response object; UpstreamError if it is none.

    `taken` are the ids of the items before it.
    """
    output = body.get("output")
    if body.get("object", "response") != "response" or not isinstance(output, list):
        raise _no_answer(body)
    return answer_of(body, conforming(output, now_ms, taken), _status_of_whole(body))


def as_stream(body: dict[str, Any]) -> bytes:
    """A Response as the shortest stream that says the same: its terminal event."""
    if body.get("object", "response") != "response" or "output" not in body:
        raise _no_answer(body)
    return sse.encode_events([{"type": f"response.{_status_of_whole(body)}", "response": body}])


def _status_of_whole(body: dict[str, Any]) -> str:
    """How a whole answer ended; UpstreamError if it has not: nobody asked for it in background."""
    status = body.get("status")
    if status in _UNENDED:
        raise UpstreamError(f"The upstream answered with a response that is still {status}.")
    return status if status in _OUTCOMES else "completed"


def _no_answer(body: dict[str, Any]) -> UpstreamError:
    if error := body.get("error"):
        return reported(error)
    return UpstreamError("The upstream sent an answer that is not a Response.")


def conforming(output: list[Any], now_ms: int, taken: Set[str]) -> list[dict[str, Any]]:
    """The items as they would be streamed: ids well-formed and unique, raw reasoning as summary."""
    if all(map(conforms, output)):
        ids = {item["id"] for item in output}
        if len(ids) == len(output) and ids.isdisjoint(taken):
            return output
    writer = EventWriter({}, now_ms, taken)
    for item in [check_item(item) for item in output]:
        writer.add(item if is_item_id(item.get("id")) else {**item, "id": ""})
    return writer.items


def _replayed(item: dict[str, Any]) -> dict[str, Any]:
    # The id of a client's message was minted here and means nothing to the upstream.
    if item.get("role") in ("user", "system", "developer") or item["type"].endswith("_output"):
        return {name: value for name, value in item.items() if name not in ("id", "status")}
    return item


_OUTCOMES = ("completed", "incomplete", "failed", "cancelled")  # an upstream may say anything
_UNENDED = ("queued", "in_progress")


def answer_of(response: dict[str, Any], output: list[dict[str, Any]], status: str) -> Answer:
    """The Answer with these items; what else it has is in the upstream's Response."""
    details = response.get("incomplete_details")
    reason = word_of(details.get("reason")) if isinstance(details, dict) else ""
    return Answer(
        status=status,
        output=output,
        usage=usage_of(response.get("usage")),
        incomplete_reason=reason or "max_output_tokens" if status == "incomplete" else None,
        error=error_of(response.get("error")) if status == "failed" else None,
        extra=response,
    )


def usage_of(usage: Any) -> dict[str, Any] | None:
    """An upstream's usage in the canonical shape, zeros included; None if there is none to read."""
    found = read_usage(usage)
    if found is None:
        return None
    inputs, outputs = found.input_tokens_details, found.output_tokens_details
    return items.usage(
        found.input_tokens,
        found.output_tokens,
        cached=(inputs and inputs.cached_tokens) or 0,
        cache_write=(inputs and inputs.cache_write_tokens) or 0,
        reasoning=(outputs and outputs.reasoning_tokens) or 0,
    )


def error_of(error: Any) -> dict[str, Any]:
    """The {"code", "message"} of a failed Response, with defaults for what is missing."""
    error = error if isinstance(error, dict) else {}
    return {
        "code": word_of(error.get("code")) or "server_error",
        "message": str(error.get("message") or "The upstream failed."),
    }


def raise_error(event: dict[str, Any]) -> None:
    """Raises UpstreamError if a stream's event reports one, in its flat or its nested form."""
    if event.get("type") == "error" or (event.get("error") and event.get("type") not in TERMINAL):
        raise reported(event.get("error") or event)


class Reader:
    """An upstream's Responses stream, conforming or not, read into canonical events."""

    def __init__(self, writer: EventWriter, *, shows_encrypted: bool) -> None:
        self.ended = False
        self._writer = writer
        self._joiner = Joiner()
        self._shows_encrypted = shows_encrypted
        # Where the upstream's output_index is in ours; seeded streams agree so far.
        self._index = {index: index for index in range(len(writer.items))}
        self._waiting: dict[int, str] = {}  # what calls said before they were announced
        self._encrypted: dict[str, str] = {}  # by item id: kept for replay, not shown
        self._response: dict[str, Any] = {}
        self._status = ""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The canonical events of one upstream event's data."""
        events: list[dict[str, Any]] = []
        for each in self._joiner.feed(data):
            events += self._read(each)
        return events

    def _read(self, data: bytes) -> list[dict[str, Any]]:
        if data.startswith(b"[DONE]"):
            return []
        event = read_event(data)
        type_ = event["type"]
        if type_ in LIFECYCLE:
            return self._writer.start()
        raise_error(event)
        events = self._writer.start()
        if type_ in TERMINAL:
            self._response = event.get("response") or {}
            self._status = type_.removeprefix("response.")
            self.ended = True
        elif type_ in _DELTAS:
            events += self._delta(event, _DELTAS[type_])
        elif type_ == "response.output_item.added":
            events += self._added(event)
        elif type_ == "response.output_item.done":
            events += self._done(event)
        elif type_ == "response.output_text.annotation.added":
            events += self._annotated(event)
        elif type_ not in _RESTATED and type_.startswith(_PASSED):
            events += self._renumbered(event)
        return events

    def finish(self) -> tuple[list[dict[str, Any]], Answer]:
        """Closing events and the Answer; UpstreamError if the upstream never ended its own."""
        if not self.ended:
            raise UpstreamError("The upstream broke off its answer.")
        events = self._writer.start() + self._rest()
        events += self._writer.close_all(
            "completed" if self._status == "completed" else "incomplete"
        )
        return events, answer_of(self._response, self._output(), self._status)

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
        # It may number them otherwise than its events did, or give them other ids.
        events: list[dict[str, Any]] = []
        left = dict.fromkeys(range(len(self._writer.items)))
        by_id = {self._writer.id_of(index): index for index in left}
        for theirs, item in enumerate(map(check_item, self._response.get("output") or ())):
            same_id = by_id.get(item["id"]) if is_item_id(item.get("id")) else None
            for ours in (same_id, self._index.get(theirs), theirs):
                if ours in left and self._writer.type_of(ours) == item["type"]:
                    del left[ours]
                    events += self._close(ours, item)
                    break
            else:
                events += self._add(item)
        return events

    def _add(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        ours, events = self._writer.open(self._shown(self._fresh(item)))
        return events + self._close(ours, item)

    def _close(self, ours: int, item: dict[str, Any]) -> list[dict[str, Any]]:
        shown = self._shown(item)
        if shown is not item and item["encrypted_content"] and self._writer.is_open(ours):
            self.hide(self._writer.id_of(ours), item["encrypted_content"])
        return self._writer.close(ours, status=_status_of(item), final=shown)

    def _added(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        item = check_item(event.get("item"), is_finished=False)
        theirs = _place(event, len(self._writer.items))
        if self._is_known(theirs, item):
            return []
        if item["type"] in _NAMED and not item.get("name"):
            return []  # nobody can be told of a call without its name: it waits until it is done
        ours, events = self._writer.open(self._shown(self._fresh(item)))
        self._index[theirs] = ours
        said = self._waiting.pop(theirs, "")
        return events + self._writer.delta(ours, "arguments", said)

    def _done(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        item = check_item(event.get("item"))
        theirs = _place(event, len(self._writer.items) - 1)
        ours = self._index.get(theirs)
        if self._is_known(theirs, item) or (
            ours is not None
            and self._writer.is_open(ours)
            and self._writer.type_of(ours) == item["type"]
        ):
            return self._close(self._index[theirs], item)
        self._index[theirs] = len(self._writer.items)
        return self._add(item)

    def _is_known(self, theirs: int, item: dict[str, Any]) -> bool:
        """Whether the item is one that is there already, said twice."""
        ours = self._index.get(theirs)
        return ours is not None and self._writer.id_of(ours) == item.get("id")

    def _delta(self, event: dict[str, Any], kind: str) -> list[dict[str, Any]]:
        delta = event.get("delta")
        if not isinstance(delta, str):
            raise UpstreamError("The upstream sent a delta without text.")
        index, events = self._holder(event, kind)
        if index is None:
            theirs = _place(event, -1)
            self._waiting[theirs] = self._waiting.get(theirs, "") + delta
            return []
        part = event.get("summary_index" if kind == "summary" else "content_index")
        logprobs = event.get("logprobs") or None
        return events + self._writer.delta(index, kind, delta, part=part, logprobs=logprobs)

    def _annotated(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        if not event.get("annotation"):
            return []
        index, events = self._holder(event, "text")
        assert index is not None
        return events + self._writer.annotate(index, event["annotation"])

    def _holder(self, event: dict[str, Any], kind: str) -> tuple[int | None, list[dict[str, Any]]]:
        """The item the text belongs to, and the events that open it where nobody announced it.

        None for a call nobody announced: it is shown when it is done, and has a name.
        """
        theirs = _place(event, max(self._index, default=0))
        ours = self._index.get(theirs)
        type_ = self._writer.type_of(ours) if ours is not None else ""
        if kind == "arguments":
            return (ours if type_ in KIND_OF_CALL else None), []
        if type_ == _HOLDER[kind]:
            return ours, []
        ours, events = self._writer.open({"type": _HOLDER[kind]})
        self._index[theirs] = ours
        return ours, events

    def _fresh(self, item: dict[str, Any]) -> dict[str, Any]:
        return item if is_item_id(item.get("id")) else {**item, "id": ""}

    def _shown(self, item: dict[str, Any]) -> dict[str, Any]:
        if self._shows_encrypted or "encrypted_content" not in item or item["type"] != "reasoning":
            return item
        return {name: value for name, value in item.items() if name != "encrypted_content"}

    def _renumbered(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        # Such events keep their fields; only what refers to the item is ours.
        fields = {
            name: value for name, value in event.items() if name not in ("type", "sequence_number")
        }
        if "output_index" in fields or "item_id" in fields or "_call" in event["type"]:
            ours = self._index.get(_place(event, max(self._index, default=0)))
            if ours is None or not self._writer.is_open(ours):
                return []  # no client knows the item, or it has ended
            fields |= {"output_index": ours, "item_id": self._writer.id_of(ours)}
        return [self._writer.event(event["type"], **fields)]


_NAMED = ("function_call", "custom_tool_call")


def _place(event: dict[str, Any], default: int) -> int:
    index: int | None = event.get("output_index")
    return default if index is None else index


def _status_of(item: dict[str, Any]) -> str:
    return "incomplete" if item.get("status") == "incomplete" else "completed"
