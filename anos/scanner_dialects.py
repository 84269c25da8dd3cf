"""How the guards read the events of each client dialect, and how they end its stream at a hit."""

from collections.abc import Collection
from contextlib import suppress
from typing import Any

import orjson

from anos import chat_answers, sse
from anos.chat_passthrough import chat_end, text_bytes
from anos.events import EventWriter
from anos.extract import Found, output_texts
from anos.extract_readers import FIELDS, ITEM, SCHEMA, Readers, is_name
from anos.extract_walk import walk
from anos.items import NEW, OURS, Answer
from anos.scanner_parts import Event, Part, Piece, Reading

# What was sent is kept to write closing events from; of more than so many the state is made.
_KEPT_EVENTS = 256
_OWN = {"response.created", "response.in_progress"}  # what is in them is the gateway's
_PLACES = ("sequence_number", "output_index", "content_index", "summary_index")
_PLAIN = frozenset({*_PLACES, "type", "item_id", "obfuscation", "delta", "logprobs"})
_EVENT = FIELDS | _PLAIN | {"annotation_index", "command_index", "item", "part", "annotation"}
# Of these words the types of events are made; any other is a text.
_TYPES = frozenset({
    *("response", "created", "queued", "in_progress", "completed", "incomplete", "failed", "added"),
    *("done", "delta", "searching", "interpreting", "generating", "partial_image", "output_item"),
    *("output_text", "annotation", "content_part", "refusal", "reasoning", "reasoning_text"),
    *("reasoning_summary", "reasoning_summary_part", "reasoning_summary_text", "audio"),
    *("transcript", "function_call_arguments", "custom_tool_call_input", "mcp_call_arguments"),
    *("mcp_call", "mcp_list_tools", "web_search_call", "file_search_call", "computer_call"),
    *("code_interpreter_call", "code_interpreter_call_code", "image_generation_call"),
    *("shell_call", "shell_call_command", "apply_patch_call"),
})  # fmt: skip
_JSON = {"response.function_call_arguments.delta", "response.mcp_call_arguments.delta"}
_BLOCKED = "content_filter"


class _Events:
    """What both dialects do alike."""

    def __init__(self) -> None:
        self._sent: list[Event] = []

    def sent(self, event: Event) -> None:
        """See Dialect."""
        self._sent.append(event)
        if len(self._sent) > _KEPT_EVENTS:
            self._fold()

    def texts(self, answer: Answer) -> list[Found]:
        """See Dialect."""
        return answer_texts(answer)

    def _fold(self) -> None:
        """Make the state of what was sent."""
        raise NotImplementedError


class ResponsesEvents(_Events):
    """A stream of Responses events."""

    patience: int | None = None

    def __init__(self, base: dict[str, Any], now_ms: int) -> None:
        super().__init__()
        self._writer = EventWriter(base, now_ms)

    def delta(self, event: Event) -> Piece | None:
        """See Dialect."""
        type_, text = event["type"], event.get("delta")
        if type(text) is not str or event.get("logprobs") or not _PLAIN.issuperset(event):
            return None
        id_, padding = event.get("item_id"), event.get("obfuscation")
        is_named = id_ is None or (type(id_) is str and is_name(id_))
        is_placed = all(type(event.get(name, 0)) is int for name in _PLACES)
        if not (is_named and is_placed and _is_type(type_)) or _padding(event, padding):
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
        for name in event:
            value = event[name]
            if name == "type":
                if not _is_type(type_):
                    reading.texts.append(Found("assistant", type_, event, name, False, True))
            elif name == "item" and _is_item(value):
                reading.texts += _item_texts(value)
            elif name == "logprobs" and type_.endswith(".delta"):
                _read_tokens(event, name, ("tokens", *part), reading)
            elif name == "logprobs":
                reading.texts += _part_texts({"logprobs": value})
            elif name == "delta":
                _read_growing(part, event, name, reading, is_json=type_ in _JSON)
            elif name == "part":
                reading.texts += _part_texts(value)
            else:
                _read_field(reading.texts, event, name, _EVENT)
        if type_.endswith(".done"):
            reading.ends = [part, ("tokens", *part)]
        return reading

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

    def _fold(self) -> None:
        for event in self._sent:
            self._writer.observe(event)
        self._sent = []


class ChatChunks(_Events):
    """A stream of Chat Completions chunks."""

    patience: int | None = 256

    def __init__(self, *, wants_usage: bool) -> None:
        super().__init__()
        self._wants_usage = wants_usage
        self._whole: dict[str, Any] = {}
        self._settings: list[Any] = []  # what a chunk had last for _SETTINGS, without a text
        self._own: dict[str, str] = {}  # the names that the stream goes by
        self._open: set[int] = set()  # choices that were begun and have not finished
        self._begun = False
        self._text_bytes = 0

    def delta(self, event: Event) -> Piece | None:
        """See Dialect."""
        choices = event["choices"]
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
            _read_field(reading.texts, event, name)
        for choice in event["choices"]:
            index, delta = _number(choice.get("index"), 0), choice.get("delta")
            for name in choice.keys() - _SAID:
                readers = _REASON if name == "finish_reason" else _NAMING
                _read_field(reading.texts, choice, name, _CHOICE, readers)
            if "delta" in choice:
                _read_growing((index,), choice, "delta", reading)
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
                walk(found, chunk, name, "assistant", _NAMING)
            elif value and value != _OBJECTS.get(name):
                is_own = name != "object" and is_name(value)
                if not is_own or self._own.setdefault(name, value) != value:
                    found.append(Found("assistant", value, chunk, name, False, True))
        usage: list[Found] = []
        if chunk.get("usage"):
            walk(usage, chunk, "usage", "assistant", _NAMING)
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
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": _BLOCKED}
            for index in sorted(self._open or ({0} if is_new else ()), key=str)
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

    def _chunk(self, **fields: Any) -> bytes:
        return sse.encode("", orjson.dumps({**self._whole, **fields}))

    def _fold(self) -> None:
        for chunk in self._sent:
            self._whole = self._whole or {
                name: chunk.get(name) for name in ("id", "object", "created", "model")
            }
            for choice in chunk["choices"]:
                index = _number(choice.get("index"), 0)
                self._begun = True
                self._open.add(index)
                with suppress(AttributeError, TypeError):  # what no reader knows counts as nothing
                    self._text_bytes += text_bytes(choice.get("delta") or {})
                if choice.get("finish_reason"):
                    self._open.discard(index)
        self._sent = []


# Fields of a chunk that are no text: numbers, and names that stay what they were.
_SETTINGS = frozenset(
    {"id", "object", "created", "model", "service_tier", "system_fingerprint", "obfuscation"}
)
_OBJECTS = {"object": "chat.completion.chunk"}
_CHUNK = _SETTINGS | {"choices", "usage"}
_SAID = frozenset({"delta", "logprobs"})
_CHOICE = _SAID | {"index", "finish_reason"}
_REASONS = ("stop", "length", "tool_calls", "content_filter", "function_call")
_COUNTED = {
    *("prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"),
    *("completion_tokens_details", "cached_tokens", "audio_tokens", "reasoning_tokens"),
    *("accepted_prediction_tokens", "rejected_prediction_tokens"),
}
# Nothing is said in these: one part of the text has ended, and another follows.
_ENDS = ({"content": ""}, {"refusal": ""})
# Under these names in a delta nothing is said but plain names.
_NAMES = {"role", "type", "id", "index"}


def _is_type(type_: str) -> bool:
    return _TYPES.issuperset(type_.split("."))


def _is_item(value: Any) -> bool:
    return type(value) is dict and type(value.get("type")) is str


def _padding(node: Any, value: Any) -> tuple[Any, ...]:
    # Random letters pad an event.
    is_random = not value or (type(value) is str and value.isascii() and value.isalnum())
    return () if is_random else (value,)


_NAMING: Readers = {**ITEM, "obfuscation": _padding}
_REASON: Readers = {"finish_reason": lambda _, value: () if value in _REASONS else (value,)}
_IN_DELTA: Readers = {**ITEM, "type": SCHEMA["type"]}


def _number(value: Any, otherwise: int) -> Any:
    """By which what grows is told from others; a number may be written as a string."""
    if type(value) is str and value.isdecimal():
        return int(value)
    return value if type(value) in (str, int, float, bool) and value != "" else otherwise


def answer_texts(answer: Answer) -> list[Found]:
    """Every text of an answer: of its items, its error and what else came with it."""
    found = [each for item in answer.output for each in _item_texts(item)]
    for name in answer.extra.keys() - OURS:
        _read_field(found, answer.extra, name, NEW.keys())
    if answer.error is not None:
        walk(found, answer.error, "message", "assistant", ITEM)
    return found


def _part(type_: str, event: Event) -> Part:
    """The part whose deltas are of that type."""
    get = event.get
    index = get("content_index"), get("summary_index"), get("command_index")
    return "", type_, get("output_index"), index


def _read_field(
    found: list[Found],
    node: Event,
    name: str,
    known: Collection[str] = FIELDS,
    readers: Readers = _NAMING,
) -> None:
    """The texts at and below `node[name]`, and the name itself if it is not known."""
    if name not in known:
        found.append(Found("assistant", name, node, name, False, False))
    walk(found, node, name, "assistant", readers)


def _item_texts(item: Event) -> list[Found]:
    content = item.get("content")
    parts = content if type(content) is list else ()
    # A token is a piece of a text, and no text of its own; what all spell is one.
    tokens: set[int] = set()
    for part in parts:
        entries = part.get("logprobs") if type(part) is dict else None
        if type(entries) is list and len(entries) > 1:
            for entry in entries:
                tokens |= {id(each) for each in (entry, *_same(entry))}
    found = output_texts(item)
    return [each for each in found if each.key != "token" or id(each.container) not in tokens]


def _part_texts(part: Any) -> list[Found]:
    return _item_texts({"type": "message", "content": [part]})


def _same(entry: Any) -> list[Event]:
    """The alternatives that are the token itself."""
    others = entry.get("top_logprobs") if type(entry) is dict else None
    others = [x for x in others if type(x) is dict] if type(others) is list else []
    return [each for each in others if each.get("token") == entry.get("token")]


def _read_logprobs(choice: Event, group: Any, reading: Reading) -> None:
    logprobs = choice.get("logprobs")
    if type(logprobs) is not dict:
        if logprobs:
            _read_field(reading.texts, choice, "logprobs")
        return
    for name in logprobs:
        if name not in FIELDS:
            reading.texts.append(Found("assistant", name, logprobs, name, False, False))
        _read_tokens(logprobs, name, (group, name), reading)


def _read_tokens(holder: Event, name: str, part: Part, reading: Reading) -> None:
    """The tokens of `holder[name]`, which grow as `part`, and all that comes with them."""
    entries = holder[name]
    own: set[tuple[int, Any]] = set()
    place: Any
    for place, entry in enumerate(entries) if type(entries) is list else ():
        if type(entry) is str:
            own.add((id(entries), place))
            reading.pieces.append(Piece(part, entries, place))
        elif type(entry) is dict and type(entry.get("token")) is str:
            own |= {(id(each), "token") for each in (entry, *_same(entry))}
            reading.pieces.append(Piece(part, entry, "token"))
    found: list[Found] = []
    walk(found, holder, name, "assistant", ITEM)
    reading.texts += [each for each in found if (id(each.container), each.key) not in own]


def _read_growing(
    part: Part, holder: Event, name: str, reading: Reading, *, is_json: bool = False
) -> None:
    """Every string at and below `holder[name]` grows, but what only names or numbers."""
    stack: list[tuple[Part, Any, Any]] = [(part, holder, name)]
    while stack:
        at, node, key = stack.pop()
        value = node[key]
        if key == "annotations":  # those that are whole, too
            walk(reading.texts, node, key, "assistant", ITEM)
        if type(value) is str:
            if key in _NAMES:
                walk(reading.texts, node, key, "assistant", _IN_DELTA)
            elif value:
                reading.pieces.append(Piece(at, node, key, is_json or key == "arguments"))
        elif type(value) is dict:
            reading.texts += [
                Found("assistant", each, value, each, False, False)
                for each in value
                if each not in FIELDS
            ]
            stack += [((*at, each), value, each) for each in reversed(value)]
        elif type(value) is list:
            numbers = [
                _number(each.get("index"), number) if type(each) is dict else number
                for number, each in enumerate(value)
            ]
            stack += [((*at, n), value, i) for i, n in reversed([*enumerate(numbers)])]
