"""A chat stream relayed as it came, for a client that speaks Chat Completions too.

API: https://platform.openai.com/docs/api-reference/chat-streaming
"""

from contextlib import suppress
from typing import Any

import orjson

from anos import chat_answers, sse
from anos.errors import UpstreamError, reported
from anos.items import Answer
from anos.surrogates import Joiner

# Of what was relayed so much is kept at a time, to count its text if the upstream does not.
_KEPT_BYTES = 64 * 1024
# A chunk without choices has one of these.
_OF_CHUNKS = frozenset({"id", "choices", "usage"})
_UNREADABLE = "The upstream sent a chunk that cannot be read."


class ChatPassthrough:
    """A chat stream for a chat client: only a usage chunk it did not ask for is dropped.

    What an upstream leaves out at its end, the finish_reason or the usage, is added. Tool calls are
    numbered without gaps and named once: clients put the fragments of a call together by its
    number, and its id and name from all of them.
    """

    def __init__(self, *, wants_usage: bool) -> None:
        self.ended = False
        self._splitter = sse.Splitter()
        self._joiner = Joiner()
        self._wants_usage = wants_usage
        self._whole: dict[str, Any] = {}  # the fields every chunk has
        self._choices: set[int] = set()  # found when the text is counted
        # Of each choice's calls: our numbers by the upstream's, and what they are called.
        self._calls: dict[int, tuple[dict[Any, int], list[dict[str, Any]]]] = {}
        self._finished = False
        self._failure: UpstreamError | None = None
        self._usage: dict[str, Any] | None = None
        self._text_bytes = 0
        self._seen: list[bytes] = []
        self._seen_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """What the client gets for these bytes of the upstream, [DONE] excepted."""
        data = self._joiner.whole(self._splitter.whole(data))
        shown = data if self._whole and _is_plain(data) else self._one_by_one(data)
        self._seen.append(shown)
        self._seen_bytes += len(shown)
        if self._seen_bytes > _KEPT_BYTES:
            self._fold()
        return shown

    def finish(self) -> tuple[bytes, Answer]:
        """What closes the choices, and the Answer: with usage, without content.

        UpstreamError if the upstream failed.
        """
        if self._failure is not None:
            raise self._failure
        if not self._whole or not (self.ended or self._finished):
            raise UpstreamError("The upstream broke off its answer.")
        return self._closing(), self._answer("completed", None)

    def abort(self, status: str, error: dict[str, Any] | None) -> tuple[bytes, Answer]:
        """End the stream where it is."""
        return b"", self._answer(status, error)

    def terminal(self, answer: Answer, response: dict[str, Any]) -> bytes:
        """The usage if it is still due and [DONE], or the error that takes its place."""
        is_due = self._wants_usage and not self._usage and answer.error is None
        usage = b""
        if is_due and answer.usage is not None:
            usage = self._chunk(choices=[], usage=chat_answers.chat_usage(answer.usage))
        return usage + chat_end(answer)

    def _one_by_one(self, data: bytes) -> bytes:
        out = []
        for event in sse.Splitter().feed(data):
            try:
                out.append(self._one(event))
            except UpstreamError as exc:
                self._failure = exc
                self.ended = True
            if self.ended:
                break
        return b"".join(out)

    def _one(self, event: bytes) -> bytes:
        data = sse.parse(event)[1]
        if data.startswith(b"[DONE]"):
            self.ended = True
            return b""
        chunk = read_chunk(data)
        is_bare = chunk.get("choices") is None  # some servers say so that there are none
        choices = chunk["choices"] = chunk.get("choices") or []
        if choices and not self._whole:  # Azure says something else first, without a name
            self._whole = {name: chunk.get(name) for name in ("id", "object", "created", "model")}
        has_counts = not chunk.get("usage") or self._counted(chunk)
        self._finished |= any(choice.get("finish_reason") for choice in choices)
        if not choices and not (self._wants_usage and has_counts):
            return b""
        try:
            changed = [choice for choice in choices if self._put_right(choice)]
        except (AttributeError, TypeError) as exc:
            raise UpstreamError(_UNREADABLE) from exc
        if changed or not has_counts or is_bare:
            return sse.encode("", orjson.dumps(chunk))
        return event

    def _counted(self, chunk: dict[str, Any]) -> bool:
        """Take the usage, or take it out where it cannot be meant: the estimate is said instead."""
        self._usage = chat_answers.usage_of(chunk["usage"])
        if self._usage is None:
            chunk["usage"] = None
        return self._usage is not None

    def _put_right(self, choice: dict[str, Any]) -> bool:
        """Number and name the choice's tool calls as clients expect it; whether that changed it."""
        is_changed = choice.get("delta") is None
        delta = choice["delta"] = choice.get("delta") or {}
        for call in delta.get("tool_calls") or ():
            numbers, begun = self._calls.setdefault(choice.get("index") or 0, ({}, []))
            theirs, call_id = call.get("index"), call.get("id")
            ours = numbers.get(theirs)
            # Some servers number every call 0: another id is another call.
            if ours is None or (call_id and begun[ours].get("id", call_id) != call_id):
                ours = numbers[theirs] = len(begun)
                begun.append({})
            if not isinstance((call.get("custom") or {}).get("input"), str | None):
                raise TypeError
            is_changed |= ours != theirs
            call["index"] = ours
            is_changed |= _named_once(begun[ours], call)
        return is_changed

    def _fold(self) -> None:
        for event in sse.Splitter().feed(b"".join(self._seen)):
            # What passed unparsed may be anything.
            with suppress(ValueError, TypeError, AttributeError, KeyError):
                for choice in orjson.loads(sse.parse(event)[1])["choices"]:
                    self._choices.add(choice.get("index") or 0)
                    self._text_bytes += text_bytes(choice.get("delta") or {})
        self._seen, self._seen_bytes = [], 0

    def _closing(self) -> bytes:
        """The finish_reason of every choice, where the upstream gave none at all."""
        if self._finished:
            return b""
        self._fold()
        choices: list[dict[str, Any]] = [
            {"index": i, "delta": {}, "finish_reason": "tool_calls" if i in self._calls else "stop"}
            for i in sorted(self._choices, key=str)
        ]
        return self._chunk(choices=choices) if choices else b""

    def _chunk(self, **fields: Any) -> bytes:
        return sse.encode("", orjson.dumps({**self._whole, **fields}))

    def _answer(self, status: str, error: dict[str, Any] | None) -> Answer:
        if self._usage is None:
            self._fold()
        return Answer(
            status=status, output=[], usage=self._usage, error=error, text_bytes=self._text_bytes
        )


def _named_once(said: dict[str, Any], call: dict[str, Any]) -> bool:
    """Leave out of a fragment of a call what others have `said`, and nulls; whether there was any.

    Arguments in an object become JSON.
    """
    is_changed = False
    function = call.get("function") or {}
    for holder, name in ((call, "id"), (call, "type"), (function, "name"), (function, "arguments")):
        value = holder.get(name)
        if name in holder and (value is None or value == said.get(name)):
            del holder[name]
            is_changed = True
        elif name == "arguments" and value is not None and type(value) is not str:
            holder[name] = orjson.dumps(value).decode()
            is_changed = True
        elif name != "arguments" and value:
            said[name] = value
    return is_changed


def read_chunk(data: bytes) -> dict[str, Any]:
    """One chunk of a stream, its choices a list of objects or missing; raises UpstreamError."""
    try:
        chunk: dict[str, Any] = orjson.loads(data)
        error: Any = chunk.get("error")
        choices: Any = chunk.get("choices")
    except (orjson.JSONDecodeError, AttributeError) as exc:
        raise UpstreamError(_UNREADABLE) from exc
    if error:
        raise reported(error)
    if choices is None and not _OF_CHUNKS.isdisjoint(chunk):
        return chunk
    if type(choices) is not list or not all(type(each) is dict for each in choices):
        raise UpstreamError(_UNREADABLE)
    return chunk


def chat_end(answer: Answer) -> bytes:
    """How a chat stream ends: [DONE], or an error and no [DONE]."""
    if answer.status not in ("failed", "cancelled"):
        return sse.DONE
    error = answer.error or {"code": "cancelled", "message": "The request was cancelled."}
    body = {"message": error["message"], "type": "server_error", "param": "", "code": error["code"]}
    return sse.encode("", orjson.dumps({"error": body}))


def _is_plain(data: bytes) -> bool:
    """Whether every event is a chunk that only adds text to its choices."""
    if data.find(b'"tool_calls":[') >= 0:
        return False
    count = data.count(b"\n\n")
    if data.count(b'"finish_reason":null') != count or data.count(b"data: {") != count:
        return False
    # Whoever is asked for usage writes null in all chunks but the last.
    return data.find(b'"usage"') < 0 or data.count(b'"usage":null') == data.count(b'"usage"')


def text_bytes(delta: dict[str, Any]) -> int:
    """Bytes of the texts in a choice's delta."""
    texts = [delta.get("content"), delta.get("refusal"), delta.get("reasoning_content")]
    texts += [
        (call.get("function") or {}).get("arguments") for call in delta.get("tool_calls") or ()
    ]
    return sum(len(text.encode()) for text in texts if type(text) is str)
