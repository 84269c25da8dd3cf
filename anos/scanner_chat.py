"""How the guards read a stream of Chat Completions chunks, and how they end it at a hit."""

from contextlib import suppress
from typing import Any

import orjson

from anos import chat_answers, sse
from anos.chat_passthrough import chat_end, text_bytes
from anos.extract import Found
from anos.extract_readers import FIELDS, is_name
from anos.extract_walk import walk
from anos.items import Answer
from anos.scanner_parts import Event, Piece, Reading
from anos.scanner_reading import (
    BLOCKED,
    NAMING,
    Sent,
    number_of,
    read_field,
    read_growing,
    read_tokens,
)

# Fields of a chunk that are no text: numbers, and names that stay what they were.
_SETTINGS = frozenset(
    {"id", "object", "created", "model", "service_tier", "system_fingerprint", "obfuscation"}
)
_OBJECTS = {"object": "chat.completion.chunk"}
_CHUNK = _SETTINGS | {"choices", "usage"}
_SAID = frozenset({"delta", "logprobs"})
_CHOICE = _SAID | {"index", "finish_reason"}
_COUNTED = {
    *("prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"),
    *("completion_tokens_details", "cached_tokens", "audio_tokens", "reasoning_tokens"),
    *("accepted_prediction_tokens", "rejected_prediction_tokens"),
}
_SPOKEN = ("content", "refusal")
# Nothing is said in these: one part of the text has ended, and another follows.
_ENDS = ({"content": ""}, {"refusal": ""})


class ChatChunks(Sent):
    """A stream of Chat Completions chunks."""

    patience: int | None = 256
    ordered: frozenset[str] = frozenset()

    def __init__(self, *, wants_usage: bool, choices: int) -> None:
        """`choices`: how many were asked for."""
        super().__init__()
        self._wants_usage = wants_usage
        self._indexes = range(choices)
        self._whole: dict[str, Any] = {}
        self._settings: list[Any] = []  # what a chunk had last for _SETTINGS, without a text
        self._own: dict[str, str] = {}  # the names that the stream goes by
        self._open: set[int] = set()  # choices that were begun and have not finished
        self._begun = False
        self._text_bytes = 0

    def delta(self, event: Event) -> Piece | None:
        """See Dialect. Raises ValueError for a choice that nobody asked for: who reads the first
        one only does not look at its index, and would read the texts of all as one."""
        choices = event["choices"]
        for choice in choices:
            if number_of(choice.get("index"), 0) not in self._indexes:
                raise ValueError
        if len(choices) != 1 or not _CHUNK.issuperset(event):
            return None
        settings = [*map(event.get, _SETTINGS), event.get("usage")]
        if settings != self._settings:  # hardly ever: they are those of the chunk before
            if self._settings_of(event):
                return None
            self._settings = settings
        choice = choices[0]
        delta = choice.get("delta")
        if choice.get("logprobs") or choice.get("finish_reason") or type(delta) is not dict:
            return None
        text, index = delta.get("content"), choice.get("index") or 0
        if not text or type(text) is not str or type(index) is not int:
            return None
        is_plain = len(delta) == 1 and _CHOICE.issuperset(choice)
        return Piece((index, "content"), delta, "content") if is_plain else None

    def read(self, event: Event) -> Reading:
        """See Dialect."""
        reading = Reading()
        reading.texts += self._settings_of(event)
        for name in event.keys() - _CHUNK:
            read_field(reading.texts, event, name)
        for choice in event["choices"]:
            index, delta = number_of(choice.get("index"), 0), choice.get("delta")
            if type(delta) is dict and not all(map(_is_said, map(delta.get, _SPOKEN))):
                raise ValueError
            for name in choice.keys() - _SAID:
                read_field(reading.texts, choice, name, _CHOICE)
                if name not in _CHOICE:  # it may be a text that grows besides
                    read_growing((index, name), choice, name, reading)
            if "delta" in choice:
                read_growing((index,), choice, "delta", reading)
            _read_logprobs(choice, ("tokens", index), reading)
            if delta in _ENDS:
                reading.ends += [(index, name) for name in delta]
            if choice.get("finish_reason"):
                reading.closes += [index, ("tokens", index)]
        return reading

    def _settings_of(self, chunk: Event) -> list[Found]:
        """The texts in a chunk's own fields: all but numbers and the names that it goes by."""
        found: list[Found] = []
        for name in _SETTINGS & chunk.keys():
            value = chunk[name]
            if type(value) is not str or name == "obfuscation":
                walk(found, chunk, name, "assistant", NAMING)
            elif value and value != _OBJECTS.get(name):
                is_own = name != "object" and is_name(value)
                if not is_own or self._own.setdefault(name, value) != value:
                    found.append(Found("assistant", value, chunk, name, False, True))
        usage: list[Found] = []
        if chunk.get("usage"):
            walk(usage, chunk, "usage", "assistant", NAMING)
        return found + [each for each in usage if each.writable or each.text not in _COUNTED]

    def closed(self, status: str, error: dict[str, Any] | None) -> tuple[bytes, Answer]:
        """See Dialect."""
        self._fold()
        if status != "incomplete":
            answer = Answer(status, [], None, error=error, text_bytes=self._text_bytes)
            return b"", answer
        is_new = not self._begun
        delta = {"role": "assistant"} if is_new else {}
        choices: list[Event] = [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": BLOCKED}
            for index in sorted(self._open or ({0} if is_new else ()), key=str)
        ]
        closing = self._chunk(choices=choices) if choices else b""
        answer = Answer(status, [], None, incomplete_reason=BLOCKED, text_bytes=self._text_bytes)
        return closing, answer

    def terminal(self, answer: Answer, response: dict[str, Any]) -> bytes:
        """See Dialect."""
        usage = b""
        if self._wants_usage and answer.usage is not None and answer.error is None:
            usage = self._chunk(choices=[], usage=chat_answers.chat_usage(answer.usage))
        return usage + chat_end(answer)

    def _chunk(self, **fields: Any) -> bytes:
        return sse.encode("", orjson.dumps({**self._whole, **fields}))

    def _fold(self) -> None:
        for chunk in self._sent:
            self._whole = self._whole or {
                name: chunk.get(name) for name in ("id", "object", "created", "model")
            }
            for choice in chunk["choices"]:
                index = number_of(choice.get("index"), 0)
                self._begun = True
                self._open.add(index)
                with suppress(AttributeError, TypeError):  # what no reader knows counts as nothing
                    self._text_bytes += text_bytes(choice.get("delta") or {})
                if choice.get("finish_reason"):
                    self._open.discard(index)
        self._sent = []


def _is_said(value: Any) -> bool:
    # JavaScript adds a number to the text, and nobody finds it there.
    return isinstance(value, str | list | None)


def _read_logprobs(choice: Event, group: Any, reading: Reading) -> None:
    logprobs = choice.get("logprobs")
    if type(logprobs) is not dict:
        if logprobs:
            read_field(reading.texts, choice, "logprobs")
        return
    for name in logprobs:
        if name not in FIELDS:
            reading.texts.append(Found("assistant", name, logprobs, name, False, False))
        read_tokens(logprobs, name, (group, name), reading)
