"""How the guards read the events of each client dialect, and how they end its stream at a hit."""

from typing import Any

import orjson

from anos import chat_answers, sse
from anos.chat_passthrough import chat_end, text_bytes
from anos.events import EventWriter
from anos.extract import Found, output_texts
from anos.extract_readers import ITEM, SETTING, is_name
from anos.extract_walk import walk
from anos.items import OURS, Answer
from anos.scanner_parts import Event, Part, Piece, Reading

# What was sent is kept to write closing events from; of more than so many the state is made.
_KEPT_EVENTS = 256
_OWN = {"response.created", "response.in_progress"}  # what is in them is the gateway's
_NO_TEXT = {
    *("type", "sequence_number", "item_id", "output_index", "content_index", "summary_index"),
    *("annotation_index", "command_index"),
    "obfuscation",  # of random letters
}
_PLAIN = frozenset({*_NO_TEXT, "delta", "logprobs"})
_JSON = {"response.function_call_arguments.delta", "response.mcp_call_arguments.delta"}
_BLOCKED = "content_filter"


class ResponsesEvents:
    """A stream of Responses events."""

    patience: int | None = None

    def __init__(self, base: dict[str, Any], now_ms: int) -> None:
        self._writer = EventWriter(base, now_ms)
        self._sent: list[Event] = []

    def delta(self, event: Event) -> Piece | None:
        """See Dialect."""
        type_, text = event["type"], event.get("delta")
        if type(text) is not str or event.get("logprobs") or not _PLAIN.issuperset(event):
            return None
        return Piece(_part(type_, event), event, "delta", type_ in _JSON)

    def read(self, event: Event) -> Reading:
        """See Dialect."""
        type_, reading = event["type"], Reading()
        if type_ in _OWN:
            return reading
        part = _part(
            type_.removesuffix("done") + "delta" if type_.endswith(".done") else type_, event
        )
        for name in event.keys() - _NO_TEXT:
            if name == "item":
                reading.texts += _item_texts(event["item"])
            elif name == "logprobs":
                is_delta = type_.endswith(".delta")
                _read_tokens(event, name, ("tokens", *part) if is_delta else None, reading)
            elif name == "delta":
                _read_growing(part, event, name, reading, is_json=type_ in _JSON)
            elif name == "part" and type(event[name]) is dict:
                reading.texts += _part_texts(event[name])
            else:
                walk(reading.texts, event, name, "assistant", ITEM)
        if type_.endswith(".done"):
            reading.ends = [part, ("tokens", *part)]
        return reading

    def sent(self, event: Event) -> None:
        """See Dialect."""
        self._sent.append(event)
        if len(self._sent) > _KEPT_EVENTS:
            self._fold()

    def closed(self, status: str, error: dict[str, Any] | None) -> tuple[bytes, Answer]:
        """See Dialect."""
        self._fold()
        self._writer.start()
        self._writer.close_all("incomplete")
        reason = _BLOCKED if status == "incomplete" else None
        output = self._writer.items
        answer = Answer(status, output, None, incomplete_reason=reason, error=error)
        return sse.encode_events(self._writer.take()), answer

    def terminal(self, answer: Answer, response: dict[str, Any]) -> bytes:
        """See Dialect."""
        return sse.encode_events(self._writer.terminal(response)) + sse.DONE

    def texts(self, answer: Answer) -> list[Found]:
        """See Dialect."""
        return answer_texts(answer)

    def _fold(self) -> None:
        for event in self._sent:
            self._writer.observe(event)
        self._sent = []


class ChatChunks:
    """A stream of Chat Completions chunks."""

    patience: int | None = 256

    def __init__(self, *, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._whole: dict[str, Any] = {}
        self._named: tuple[Any, Any] = None, None  # what a chunk had last for _NAMED
        self._open: set[int] = set()  # choices that were begun and have not finished
        self._begun = False
        self._sent: list[Event] = []
        self._text_bytes = 0

    def delta(self, event: Event) -> Piece | None:
        """See Dialect."""
        choices = event["choices"]
        if len(choices) != 1 or not _CHUNK.issuperset(event):
            return None
        named = event.get("service_tier"), event.get("system_fingerprint")
        if named != self._named:  # hardly ever: they are those of the chunk before
            if not all(value is None or _is_named(value) for value in named):
                return None
            self._named = named
        choice = choices[0]
        delta = choice["delta"]
        if choice.get("logprobs") or choice.get("finish_reason") or len(delta) != 1:
            return None
        if not delta.get("content") or not _CHOICE.issuperset(choice):
            return None
        is_text = type(delta["content"]) is str
        return Piece((choice.get("index") or 0, "content"), delta, "content") if is_text else None

    def read(self, event: Event) -> Reading:
        """See Dialect."""
        reading = Reading()
        for name in event.keys() - _CHUNK:
            walk(reading.texts, event, name, "assistant", ITEM)
        for name in event.keys() & _NAMED:
            walk(reading.texts, event, name, "assistant", SETTING)
        for choice in event["choices"]:
            index = choice.get("index") or 0
            for name in choice.keys() - _CHOICE:
                walk(reading.texts, choice, name, "assistant", ITEM)
            _read_growing((index,), choice, "delta", reading)
            logprobs = choice.get("logprobs") or {}
            for name in logprobs:
                _read_tokens(logprobs, name, (("tokens", index), name), reading)
            if choice.get("finish_reason"):
                reading.closes += [index, ("tokens", index)]
        return reading

    def sent(self, event: Event) -> None:
        """See Dialect."""
        self._sent.append(event)
        if len(self._sent) > _KEPT_EVENTS:
            self._fold()

    def closed(self, status: str, error: dict[str, Any] | None) -> tuple[bytes, Answer]:
        """See Dialect."""
        self._fold()
        if status != "incomplete":
            answer = Answer(status, [], None, error=error, text_bytes=self._text_bytes)
            return b"", answer
        is_new = not self._begun
        delta = {"role": "assistant"} if is_new else {}
        choices: list[Event] = [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": _BLOCKED}
            for index in sorted(self._open or ({0} if is_new else ()))
        ]
        closing = self._chunk(choices=choices) if choices else b""
        answer = Answer(status, [], None, incomplete_reason=_BLOCKED, text_bytes=self._text_bytes)
        return closing, answer

    def terminal(self, answer: Answer, response: dict[str, Any]) -> bytes:
        """See Dialect."""
        usage = b""
        if self._wants_usage and answer.usage is not None and answer.error is None:
            usage = self._chunk(choices=[], usage=chat_answers.chat_usage(answer.usage))
        return usage + chat_end(answer)

    def texts(self, answer: Answer) -> list[Found]:
        """See Dialect."""
        return answer_texts(answer)

    def _chunk(self, **fields: Any) -> bytes:
        return sse.encode("", orjson.dumps({**self._whole, **fields}))

    def _fold(self) -> None:
        for chunk in self._sent:
            self._whole = self._whole or {
                name: chunk.get(name) for name in ("id", "object", "created", "model")
            }
            for choice in chunk["choices"]:
                index = choice.get("index") or 0
                self._begun = True
                self._open.add(index)
                self._text_bytes += text_bytes(choice.get("delta") or {})
                if choice.get("finish_reason"):
                    self._open.discard(index)
        self._sent = []


# Fields of a chunk that are no text as long as they are plain names.
_NAMED = frozenset({"service_tier", "system_fingerprint"})
_CHUNK = _NAMED | {"id", "object", "created", "model", "choices", "usage", "obfuscation"}
_CHOICE = frozenset({"index", "delta", "logprobs", "finish_reason"})
# Names in a delta under which nothing is said.
_NAMES = {"role", "type", "id", "index"}


def _is_named(value: Any) -> bool:
    return type(value) is str and is_name(value)


def answer_texts(answer: Answer) -> list[Found]:
    """Every text of an answer: of its items, its error and what else came with it."""
    found = [each for item in answer.output for each in _item_texts(item)]
    for name in answer.extra.keys() - OURS:
        walk(found, answer.extra, name, "assistant", ITEM)
    if answer.error is not None:
        walk(found, answer.error, "message", "assistant", ITEM)
    return found


def _part(type_: str, event: Event) -> Part:
    """The part whose deltas are of that type."""
    get = event.get
    index = get("content_index"), get("summary_index"), get("command_index")
    return "", type_, get("output_index"), index


def _item_texts(item: Event) -> list[Found]:
    # A token is a piece of a text, and no text of its own.
    found = [each for each in output_texts(item) if not _is_token(each)]
    reading = Reading(texts=found)
    for part in item.get("content") or ():
        if type(part) is dict and part.get("logprobs"):
            _read_tokens(part, "logprobs", None, reading)
    return found


def _part_texts(part: Event) -> list[Found]:
    reading = Reading()
    for name in part:
        if name == "logprobs":
            _read_tokens(part, name, None, reading)
        else:
            walk(reading.texts, part, name, "assistant", ITEM)
    return reading.texts


def _is_token(found: Found) -> bool:
    return found.key == "token" and type(found.container) is dict and "logprob" in found.container


def _read_tokens(holder: Event, name: str, part: Part | None, reading: Reading) -> None:
    """The tokens of `holder[name]`, which grow as `part`, or are whole if that is None."""
    entries = holder[name] or ()
    if part is not None:
        reading.pieces += [Piece(part, entry, "token") for entry in entries]
    else:
        text = "".join(entry["token"] for entry in entries)
        reading.texts.append(Found("assistant", text, holder, name, False, False))
    for entry in entries:
        for other in entry.get("top_logprobs") or ():
            if other.get("token") != entry["token"]:
                walk(reading.texts, other, "token", "assistant", ITEM)


def _read_growing(
    part: Part, holder: Event, name: str, reading: Reading, *, is_json: bool = False
) -> None:
    """Every string at and below `holder[name]` grows, but what only names or numbers."""
    stack: list[tuple[Part, Any, Any]] = [(part, holder, name)]
    while stack:
        at, node, key = stack.pop()
        value = node[key]
        if type(value) is str:
            if value and key not in _NAMES:
                is_part_of_json = is_json or key == "arguments"
                reading.pieces.append(Piece(at, node, key, is_part_of_json))
        elif type(value) is dict:
            stack += [((*at, each), value, each) for each in reversed(value)]
        elif type(value) is list:
            numbers = [
                each.get("index", number) if type(each) is dict else number
                for number, each in enumerate(value)
            ]
            stack += [((*at, n), value, i) for i, n in reversed([*enumerate(numbers)])]
