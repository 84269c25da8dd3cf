"""What the guards read in the events of both client dialects."""

from collections.abc import Collection
from typing import Any

from anos.extract import Found, output_texts
from anos.extract_readers import FIELDS, ITEM, SCHEMA, Readers, is_data_url
from anos.extract_walk import walk
from anos.items import Answer
from anos.scanner_parts import Event, Part, Piece, Reading

BLOCKED = "content_filter"
# What was sent is kept to write closing events from; of more than so many the state is made.
_KEPT_EVENTS = 256
# Under these names in a delta nothing is said but plain names.
_NAMES = {"role", "type", "id", "index"}
# What stands there as a whole is a picture, or a file that is read as one.
_ADDRESSES = ("url", "image_url")
_WITH_TEXT = (str, dict, list)
# That of a part that comes by itself: one of which nothing but its text is read.
_MESSAGE = {"id": "", "type": "message", "status": "completed", "role": "assistant"}


class Sent:
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
        found = [each for item in answer.output for each in item_texts(item)]
        if answer.error is not None:
            walk(found, answer.error, "message", "assistant", NAMING)
        return found

    def _fold(self) -> None:
        """Make the state of what was sent."""
        raise NotImplementedError


def padded(node: Any, value: Any) -> tuple[Any, ...]:
    """The text in what pads an event, which is random letters and none; for Readers."""
    is_random = not value or (type(value) is str and value.isascii() and value.isalnum())
    return () if is_random else (value,)


NAMING: Readers = {**ITEM, "obfuscation": padded}
_IN_DELTA: Readers = {**ITEM, "type": SCHEMA["type"]}


def number_of(value: Any, otherwise: int) -> Any:
    """By which what grows is told from others; a number may be written as a string."""
    if type(value) is str and value.isdecimal():
        return int(value)
    return value if type(value) in (str, int, float, bool) and value != "" else otherwise


def read_field(found: list[Found], node: Event, name: str, known: Collection[str] = FIELDS) -> None:
    """The texts at and below `node[name]`, and the name itself if it is not known."""
    if name not in known:
        found.append(Found("assistant", name, node, name, False, False))
    if node[name] and type(node[name]) in _WITH_TEXT:
        walk(found, node, name, "assistant", NAMING)


def item_texts(item: Event) -> list[Found]:
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


def part_texts(part: Any) -> list[Found]:
    return item_texts({**_MESSAGE, "content": [part]})


def _same(entry: Any) -> list[Event]:
    """The alternatives that are the token itself."""
    others = entry.get("top_logprobs") if type(entry) is dict else None
    others = [x for x in others if type(x) is dict] if type(others) is list else []
    return [each for each in others if each.get("token") == entry.get("token")]


def read_tokens(holder: Event, name: str, part: Part, reading: Reading) -> None:
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


def read_growing(
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
            if key in _NAMES or (key in _ADDRESSES and is_data_url(value)):
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
                number_of(each.get("index"), number) if type(each) is dict else number
                for number, each in enumerate(value)
            ]
            stack += [((*at, n), value, i) for i, n in reversed([*enumerate(numbers)])]
