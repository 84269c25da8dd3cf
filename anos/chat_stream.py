"""Streams of Chat Completions, to and from canonical events.

API: https://platform.openai.com/docs/api-reference/chat-streaming
"""

from collections.abc import Callable
from typing import Any

import orjson
from msgspec import Struct

from anos.chat_answers import (
    FAILED,
    OUTCOMES,
    annotation_of,
    called,
    chat_annotation,
    chat_usage,
    finish_reason_of,
    fresh_call_id,
    spoken,
    usage_of,
)
from anos.errors import UpstreamError, reported
from anos.events import Event, EventWriter
from anos.items import Answer
from anos.surrogates import Joiner

_MALFORMED = "The upstream sent a chunk that is not a chat.completion.chunk."


class _Call(Struct):
    """A tool call in the making; what comes before its id and name are known waits in `pending`."""

    type: str
    given_id: str = ""
    name: str = ""
    pending: str = ""
    index: int | None = None  # its output_index, once it is open


class Reader:
    """An upstream's chat stream, read into canonical events; the first choice only.

    Reasoning is closed when something else begins. The message and the calls stay open to the end:
    an upstream may come back to any of them, and streamed must equal non-streamed.
    """

    def __init__(self, writer: EventWriter) -> None:
        self.ended = False  # [DONE] was read
        self._writer = writer
        self._joiner = Joiner()
        self._reasoning: int | None = None
        self._message: int | None = None
        self._calls: dict[Any, _Call] = {}  # by the upstream's index
        self._waiting: list[_Call] = []
        self._call_ids: set[str] = set()
        self._logprobs: list[Any] = []  # of tokens that have no text of their own
        self._finish_reason: str | None = None
        self._usage: dict[str, Any] | None = None
        self._extra: dict[str, Any] = {}

    def feed(self, data: bytes) -> list[Event]:
        """The events of one chunk's data; UpstreamError if it reports an error or is malformed."""
        events: list[Event] = []
        for each in self._joiner.feed(data):
            events += self._read(each)
        return events

    def _read(self, data: bytes) -> list[Event]:
        if data.startswith(b"[DONE]"):
            self.ended = True
            return []
        try:
            chunk = orjson.loads(data)
            if error := chunk.get("error"):
                raise reported(error)
            return self._chunk(chunk)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise UpstreamError(_MALFORMED) from exc

    def finish(self) -> tuple[list[Event], Answer]:
        """The closing events and the answer, at [DONE] or the end of the stream.

        A stream that ended without a finish_reason and without [DONE] has failed, and one of
        [DONE] alone.
        """
        if not (self._finish_reason or (self.ended and self._writer.started)):
            return self.abort("failed", FAILED)
        events = self._writer.start()
        for call in self._waiting:
            if call.name:
                events += self._open(call)
        status, reason = OUTCOMES.get(str(self._finish_reason), ("completed", None))
        # Whatever ended the answer early cut off its last item.
        last = len(self._writer.items) - 1
        for index in range(last + 1):
            cut = index == last and status != "completed"
            events += self._writer.close(index, status="incomplete" if cut else "completed")
        answer = self._answer(status, FAILED if status == "failed" else None)
        answer.incomplete_reason = reason
        return events, answer

    def abort(self, status: str, error: dict[str, Any] | None) -> tuple[list[Event], Answer]:
        """The same where the stream is cut: open items are closed as incomplete."""
        events = self._writer.start() + self._writer.close_all("incomplete")
        return events, self._answer(status, error)

    def _answer(self, status: str, error: dict[str, Any] | None = None) -> Answer:
        usage = usage_of(self._usage)
        return Answer(status, self._writer.items, usage, error=error, extra=self._extra)

    def _chunk(self, chunk: dict[str, Any]) -> list[Event]:
        events = self._writer.start()
        # Some upstreams report usage so far in every chunk; the last one counts.
        self._usage = chunk.get("usage") or self._usage
        if tier := chunk.get("service_tier"):
            self._extra = {"service_tier": tier}
        for choice in chunk.get("choices") or ():
            if not choice.get("index"):
                events += self._choice(choice)
        return events

    def _choice(self, choice: dict[str, Any]) -> list[Event]:
        delta = choice.get("delta") or {}
        if choice.get("logprobs"):
            self._logprobs += choice["logprobs"].get("content") or ()
        events: list[Event] = []
        for kind, text in spoken(delta):
            events += self._think(text) if kind == "reasoning" else self._say(kind, text)
        for annotation in delta.get("annotations") or ():
            index, opened = self._in_message()
            events += opened + self._writer.annotate(index, annotation_of(annotation))
        if self._logprobs and self._message is not None:
            events += self._say("text", "")
        for position, fragment in enumerate(delta.get("tool_calls") or ()):
            events += self._call(fragment, position)
        if legacy := delta.get("function_call"):
            events += self._call({"function": legacy}, -1)
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        return events

    def _think(self, text: str) -> list[Event]:
        events: list[Event] = []
        if self._reasoning is None:
            self._reasoning, events = self._writer.open({"type": "reasoning"})
        return events + self._writer.delta(self._reasoning, "reasoning", text)

    def _say(self, kind: str, text: str) -> list[Event]:
        index, events = self._in_message()
        logprobs = None
        if kind == "text" and self._logprobs:
            logprobs, self._logprobs = self._logprobs, []
        return events + self._writer.delta(index, kind, text, logprobs=logprobs)

    def _in_message(self) -> tuple[int, list[Event]]:
        if self._message is not None:
            return self._message, []
        events = self._end_reasoning()
        self._message, opened = self._writer.open({"type": "message"})
        return self._message, events + opened

    def _end_reasoning(self) -> list[Event]:
        # Items are done in index order: what came before reasoning is still open, so it stays too.
        if self._reasoning is None or self._message is not None or self._call_ids:
            return []
        index, self._reasoning = self._reasoning, None
        return self._writer.close(index)

    def _call(self, fragment: dict[str, Any], position: int) -> list[Event]:
        key = fragment.get("index")
        key = position if key is None else key
        type_, name, arguments = called(fragment)
        given_id = fragment.get("id") or ""
        call = self._calls.get(key)
        # Some servers number every call 0: a name under another id begins another call.
        if call is None or (name and given_id and call.given_id and call.given_id != given_id):
            call = self._calls[key] = _Call(type_)
            self._waiting.append(call)
        call.given_id = call.given_id or given_id
        call.name = call.name or name
        if call.index is not None:
            return self._writer.delta(call.index, _argument_kind(call), arguments)
        call.pending += arguments
        return self._open(call) if call.given_id and call.name else []

    def _open(self, call: _Call) -> list[Event]:
        self._waiting = [other for other in self._waiting if other is not call]
        events = self._end_reasoning()
        call_id = fresh_call_id(call.given_id, self._call_ids, self._writer.now_ms)
        item = {"type": call.type, "call_id": call_id, "name": call.name}
        call.index, opened = self._writer.open(item)
        return events + opened + self._writer.delta(call.index, _argument_kind(call), call.pending)


def _argument_kind(call: _Call) -> str:
    return "input" if call.type == "custom_tool_call" else "arguments"


class ChunkWriter:
    """Canonical events, written as the chunks of a chat stream."""

    def __init__(self, *, id: str, model: str, created: int, include_usage: bool) -> None:
        self._whole: dict[str, Any] = {
            "id": id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self._include_usage = include_usage
        self._started = False
        self._calls: dict[int, tuple[int, str]] = {}  # output_index -> tool call index and type
        self._reasoned = False
        self._separator = ""  # between two pieces of reasoning
        self._places: dict[str, Any] = {}  # of the text that was said last, by its name

    def feed(self, events: list[Event]) -> list[dict[str, Any]]:
        """The chunks that say what the events say; most lifecycle events have none."""
        chunks: list[dict[str, Any]] = []
        for event in events:
            write = _WRITERS.get(event["type"])
            delta = write(self, event) if write else None
            if delta:
                if not self._started:
                    chunks += self._start()
                logprobs = event.get("logprobs")
                tokens = {"content": logprobs, "refusal": None} if logprobs else None
                chunks += self._end_of_part(event, delta)
                chunks.append(self._chunk(delta, logprobs=tokens))
            elif event["type"] == "response.created":
                chunks += self._start()
        return chunks

    def finish(self, answer: Answer) -> list[dict[str, Any]]:
        """The chunk with the finish_reason, and the one with usage if the client asked for it.

        An answer that failed or was cancelled has neither: its stream ends with an error.
        """
        if answer.status in ("failed", "cancelled"):
            return []
        chunks = [*self._start(), self._chunk({}, finish_reason=finish_reason_of(answer))]
        if self._include_usage and answer.usage is not None:
            chunks.append({**self._whole, "choices": [], "usage": chat_usage(answer.usage)})
        return chunks

    def _end_of_part(self, event: Event, delta: dict[str, Any]) -> list[dict[str, Any]]:
        """Between two parts of a text, which a client joins, stands an empty one: guards know by it
        that a word ends there."""
        (name,) = delta
        if name not in ("content", "refusal"):
            return []
        place = event["output_index"], event["content_index"]
        is_next = self._places.setdefault(name, place) != place
        self._places[name] = place
        return [self._chunk({name: ""})] if is_next else []

    def _start(self) -> list[dict[str, Any]]:
        if self._started:
            return []
        self._started = True
        return [self._chunk({"role": "assistant", "content": ""})]

    def _chunk(
        self,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        usage = {"usage": None} if self._include_usage else {}
        return {**self._whole, "choices": [choice], **usage}

    def _item_added(self, event: Event) -> dict[str, Any] | None:
        item = event["item"]
        if item["type"] not in ("function_call", "custom_tool_call"):
            return None
        kind, text = ("function", "arguments")
        if item["type"] == "custom_tool_call":
            kind, text = ("custom", "input")
        number = len(self._calls)
        self._calls[event["output_index"]] = (number, kind)
        call = {"index": number, "id": item["call_id"], "type": kind}
        return {"tool_calls": [{**call, kind: {"name": item["name"], text: ""}}]}

    def _arguments(self, event: Event) -> dict[str, Any] | None:
        if event["output_index"] not in self._calls:
            return None  # of an item that chat does not know
        number, kind = self._calls[event["output_index"]]
        text = "input" if kind == "custom" else "arguments"
        return {"tool_calls": [{"index": number, kind: {text: event["delta"]}}]}

    def _part_added(self, event: Event) -> None:
        if self._reasoned and event["part"].get("type") in ("summary_text", "reasoning_text"):
            self._separator = "\n\n"

    def _reasoning(self, event: Event) -> dict[str, Any]:
        text = self._separator + event["delta"]
        self._reasoned, self._separator = True, ""
        return {"reasoning_content": text}


_WRITERS: dict[str, Callable[[ChunkWriter, Event], dict[str, Any] | None]] = {
    "response.output_text.delta": lambda _, event: {"content": event["delta"]},
    "response.refusal.delta": lambda _, event: {"refusal": event["delta"]},
    "response.output_text.annotation.added": lambda _, event: {
        "annotations": [chat_annotation(event["annotation"])]
    },
    "response.output_item.added": ChunkWriter._item_added,
    "response.function_call_arguments.delta": ChunkWriter._arguments,
    "response.custom_tool_call_input.delta": ChunkWriter._arguments,
    "response.content_part.added": ChunkWriter._part_added,
    "response.reasoning_summary_part.added": ChunkWriter._part_added,
    "response.reasoning_summary_text.delta": ChunkWriter._reasoning,
    "response.reasoning_text.delta": ChunkWriter._reasoning,
}
