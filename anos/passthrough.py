"""Streams relayed as they came, where client and upstream speak the same dialect.

Deltas keep their bytes; they are checked and counted in passing. At the first deviation from the
grammar of events the rest of a Responses stream is read and written anew by EventWriter, seeded
from what the client has seen.
"""

from typing import Any

import orjson

from anos import chat_answers, sse
from anos.dialect_responses import (
    DELTAS,
    LIFECYCLE,
    TERMINAL,
    Reader,
    answer_of,
    decode,
    error_of,
    is_item_id,
)
from anos.errors import UpstreamError
from anos.events import EventWriter
from anos.items import Answer

# What the client saw is kept to write closing events from; more than this is folded.
_KEPT_BYTES = 64 * 1024
_BROKEN = {"code": "server_error", "message": "The upstream broke off its answer."}
_PART_DELTA = {
    "output_text": "response.output_text.delta",
    "refusal": "response.refusal.delta",
    "reasoning_text": "response.reasoning_text.delta",
    "summary_text": "response.reasoning_summary_text.delta",
}
_ITEM_DELTA = {
    "function_call": "response.function_call_arguments.delta",
    "custom_tool_call": "response.custom_tool_call_input.delta",
}
_NEVER = b"\n"


class _Deviation(Exception):
    """The upstream left the grammar; from here EventWriter writes."""


class _Open:
    """An output item that is added and not done: its index, its parts, the delta that may come."""

    __slots__ = ("delta", "index", "parts", "summaries")

    def __init__(self, index: int, type_: str) -> None:
        self.index = index
        self.delta = _ITEM_DELTA.get(type_, "")
        self.parts = self.summaries = 0


class ResponsesPassthrough:
    """A Responses stream for a Responses client: only lifecycle events are rewritten."""

    def __init__(self, writer: EventWriter, *, shows_encrypted: bool, repair: bool) -> None:
        self.ended = False
        self._writer = writer
        self._shows_encrypted = shows_encrypted
        self._reader = Reader(writer, shows_encrypted=shows_encrypted) if repair else None
        self._seen: list[bytes] = []
        self._seen_bytes = 0
        self._next = 0
        self._open: dict[str, _Open] = {}
        self._output: list[dict[str, Any]] = []
        self._ids: set[str] = set()
        self._response: dict[str, Any] | None = None
        self._error: dict[str, Any] | None = None
        self._fast_type = self._fast_item = _NEVER

    def feed(self, events: list[bytes]) -> bytes:
        """What the client gets for these raw upstream events, the terminal event excepted."""
        out: list[bytes] = []
        for event in events:
            if self._reader is None:
                if self._is_next_delta(event):
                    self._next += 1
                    out.append(event)
                    continue
                try:
                    out.append(self._checked(event))
                except _Deviation:
                    self._keep(b"".join(out))
                    self._repair()
            if self._reader is not None:
                out.append(sse.encode_events(self._reader.feed(sse.parse(event)[1])))
                self.ended = self._reader.ended
            if self.ended:
                break
        shown = b"".join(out)
        if self._reader is None:
            self._keep(shown)
        return shown

    def finish(self) -> tuple[bytes, Answer]:
        """Closing events and the Answer."""
        if self._reader is not None:
            events, answer = self._reader.finish()
            return sse.encode_events(events), answer
        if self._error is not None or self._response is None:
            return self.abort("failed", self._error or _BROKEN)
        # The writer did not see the deltas; only its number has to go on from them.
        self._writer.observe({"type": "response.in_progress", "sequence_number": self._next - 1})
        return b"", answer_of(self._response, self._output)

    def abort(self, status: str, error: dict[str, Any] | None) -> tuple[bytes, Answer]:
        """End the stream where it is."""
        events, answer = self._repair().abort(status, error)
        return sse.encode_events(events), answer

    def terminal(self, answer: Answer, response: dict[str, Any]) -> bytes:
        """The terminal event with the final Response, and [DONE]."""
        return sse.encode_events(self._writer.terminal(response)) + sse.DONE

    def _keep(self, shown: bytes) -> None:
        self._seen.append(shown)
        self._seen_bytes += len(shown)
        if self._seen_bytes > _KEPT_BYTES:
            self._fold()

    def _fold(self) -> None:
        for event in sse.Splitter().feed(b"".join(self._seen)):
            self._writer.observe(orjson.loads(sse.parse(event)[1]))
        self._seen, self._seen_bytes = [], 0

    def _repair(self) -> Reader:
        if self._reader is None:
            self._fold()
            self._reader = Reader(self._writer, shows_encrypted=self._shows_encrypted)
            for item in self._output:
                if not self._shows_encrypted and "encrypted_content" in item:
                    self._reader.hide(item["id"], item["encrypted_content"])
        return self._reader

    def _is_next_delta(self, event: bytes) -> bool:
        return (
            event.startswith(self._fast_type)
            and self._fast_item in event
            and (
                b'"sequence_number":%d,' % self._next in event
                or b'"sequence_number":%d}' % self._next in event
            )
        )

    def _checked(self, raw: bytes) -> bytes:
        name, data = sse.parse(raw)
        if data == b"[DONE]":
            return b""
        event = decode(data)
        type_ = event.get("type")
        if type_ == "error" or (event.get("error") and type_ not in TERMINAL):
            self._error = error_of(event.get("error") or event)
            self.ended = True
            return b""
        if type_ != name or event.get("sequence_number") != self._next:
            raise _Deviation
        if self._next < 2:
            return self._opening(name)
        if name in TERMINAL:
            return self._terminated(event)
        shown = self._rewritten(raw, name, event)
        self._next += 1
        return shown

    def _opening(self, name: str) -> bytes:
        # Both opening events go out with the first one: then numbers agree whatever comes next.
        if name != ("response.created", "response.in_progress")[self._next]:
            raise _Deviation
        self._next += 1
        return sse.encode_events(self._writer.start())

    def _rewritten(self, raw: bytes, name: str, event: dict[str, Any]) -> bytes:
        if name in ("response.output_item.added", "response.output_item.done"):
            item = event.get("item")
            if not isinstance(item, dict) or not isinstance(item.get("type"), str):
                raise UpstreamError("The upstream sent an output item without a type.")
            if name.endswith("added"):
                self._added(event, item)
            else:
                self._done(event, item)
            if (
                self._shows_encrypted
                or item["type"] != "reasoning"
                or "encrypted_content" not in item
            ):
                return raw
            shown = {key: value for key, value in item.items() if key != "encrypted_content"}
            return sse.encode_events([{**event, "item": shown}])
        if name in ("response.content_part.added", "response.reasoning_summary_part.added"):
            self._part_added(event)
        elif name in DELTAS:
            self._check_delta(name, event)
        elif name in LIFECYCLE:
            raise _Deviation
        return raw

    def _added(self, event: dict[str, Any], item: dict[str, Any]) -> None:
        item_id: Any = item.get("id")
        if (
            not is_item_id(item_id)
            or item_id in self._ids
            or event.get("output_index") != len(self._ids)
        ):
            raise _Deviation
        self._open[item_id] = opened = _Open(len(self._ids), item["type"])
        self._ids.add(item_id)
        self._expect(item_id, opened.delta)

    def _part_added(self, event: dict[str, Any]) -> None:
        opened = self._opened(event)
        part = event.get("part")
        if "summary_index" in event:
            expected, opened.summaries = opened.summaries, opened.summaries + 1
        else:
            expected, opened.parts = opened.parts, opened.parts + 1
        if event.get("summary_index", event.get("content_index")) != expected or not isinstance(
            part, dict
        ):
            raise _Deviation
        opened.delta = _PART_DELTA.get(part.get("type", ""), "")
        self._expect(event["item_id"], opened.delta)

    def _check_delta(self, name: str, event: dict[str, Any]) -> None:
        if self._opened(event).delta != name or not isinstance(event.get("delta"), str):
            raise _Deviation
        self._expect(event["item_id"], name)

    def _done(self, event: dict[str, Any], item: dict[str, Any]) -> None:
        opened = self._open.pop(item.get("id", ""), None)
        if (
            opened is None
            or opened.index != event.get("output_index")
            or opened.index != len(self._output)
        ):
            raise _Deviation
        self._output.append(item)
        self._fast_type = _NEVER

    def _terminated(self, event: dict[str, Any]) -> bytes:
        response = event.get("response")
        if self._open or not isinstance(response, dict):
            raise _Deviation
        self._response = response
        self.ended = True
        return b""

    def _opened(self, event: dict[str, Any]) -> _Open:
        opened = self._open.get(event.get("item_id", ""))
        if opened is None or event.get("output_index") != opened.index:
            raise _Deviation
        return opened

    def _expect(self, item_id: str, delta: str) -> None:
        """From now on this delta of this item passes unparsed."""
        self._fast_type = f"event: {delta}\n".encode() if delta else _NEVER
        self._fast_item = f'"item_id":"{item_id}"'.encode()


class ChatPassthrough:
    """A chat stream for a chat client: only a usage chunk it did not ask for is dropped."""

    def __init__(self, *, wants_usage: bool) -> None:
        self.ended = False
        self._wants_usage = wants_usage
        self._started = False
        self._finished = False
        self._usage: Any = None
        self._text_bytes = 0
        self._seen: list[bytes] = []
        self._seen_bytes = 0

    def feed(self, events: list[bytes]) -> bytes:
        """What the client gets for these raw upstream events, [DONE] excepted.

        Raises UpstreamError on an error chunk.
        """
        out = []
        for event in events:
            is_plain = b'"finish_reason":null' in event and b'"usage"' not in event
            if (is_plain and self._started) or self._passes(event):
                out.append(event)
            if self.ended:
                break
        shown = b"".join(out)
        self._seen.append(shown)
        self._seen_bytes += len(shown)
        if self._seen_bytes > _KEPT_BYTES:
            self._fold()
        return shown

    def finish(self) -> tuple[bytes, Answer]:
        """Nothing more for the client, and the Answer: with usage, without content."""
        if not self.ended and not self._finished:
            return self.abort("failed", _BROKEN)
        return b"", self._answer("completed", None)

    def abort(self, status: str, error: dict[str, Any] | None) -> tuple[bytes, Answer]:
        """End the stream where it is."""
        return b"", self._answer(status, error)

    def terminal(self, answer: Answer, response: dict[str, Any]) -> bytes:
        """[DONE], or the error that takes its place."""
        return chat_end(answer)

    def _passes(self, event: bytes) -> bool:
        data = sse.parse(event)[1]
        if data == b"[DONE]":
            self.ended = True
            return False
        chunk = decode(data)
        choices = chunk.get("choices")
        if chunk.get("error") or not isinstance(choices, list):
            raise UpstreamError(error_of(chunk.get("error"))["message"])
        self._started = True
        self._usage = chunk.get("usage") or self._usage
        self._finished |= any(choice.get("finish_reason") for choice in choices)
        return bool(choices) or self._wants_usage

    def _fold(self) -> None:
        for event in sse.Splitter().feed(b"".join(self._seen)):
            for choice in orjson.loads(sse.parse(event)[1])["choices"]:
                self._text_bytes += _text_bytes(choice.get("delta") or {})
        self._seen, self._seen_bytes = [], 0

    def _answer(self, status: str, error: dict[str, Any] | None) -> Answer:
        usage = chat_answers.usage_of(self._usage)
        if usage is None:
            self._fold()
        return Answer(
            status=status, output=[], usage=usage, error=error, text_bytes=self._text_bytes
        )


def chat_end(answer: Answer) -> bytes:
    """How a chat stream ends: [DONE], or an error and no [DONE] (DESIGN §4)."""
    if answer.status not in ("failed", "cancelled"):
        return sse.DONE
    error = answer.error or {"code": "cancelled", "message": "The request was cancelled."}
    body = {"message": error["message"], "type": "server_error", "param": "", "code": error["code"]}
    return sse.encode("", orjson.dumps({"error": body}))


def _text_bytes(delta: dict[str, Any]) -> int:
    texts = [delta.get("content"), delta.get("refusal"), delta.get("reasoning_content")]
    texts += [
        (call.get("function") or {}).get("arguments") for call in delta.get("tool_calls") or ()
    ]
    return sum(len(text.encode()) for text in texts if text)
