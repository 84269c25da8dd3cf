"""Characters an upstream cuts in two: half a surrogate pair at the end of one piece of a text.

JSON can say half a pair, as an escape, but no text can hold one. The half waits for the next piece
of the same text; one that stays alone becomes U+FFFD.
https://www.rfc-editor.org/rfc/rfc8259#section-8.2
"""

import json
import re
from typing import Any

import orjson
from msgspec import Struct

from anos import sse

_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")
_LOST = "\ufffd"
# Names that tell one growing text of a Responses stream from another.
_NAMES = ("type", "item_id", "output_index", "content_index", "summary_index")
# How the types of events end after which a text of a Responses stream does not go on.
_ENDS = (".done", ".completed", ".incomplete", ".failed")
# What json, orjson and a tree of another shape than an event's raise.
_UNREADABLE = (AttributeError, LookupError, RecursionError, TypeError, ValueError)

_Place = tuple[Any, ...]


class _Waiting(Struct):
    half: str
    event: dict[str, Any]  # the one that ended with it


class Joiner:
    """Joins what was cut in the events of one stream, of either dialect."""

    def __init__(self) -> None:
        self._waiting: dict[_Place, _Waiting] = {}

    def whole(self, data: bytes) -> bytes:
        """Whole events in one piece; they stay as they are unless they hold half a character."""
        if not self._waiting and (data.find(b"\\") < 0 or not _may_hold_half(data)):
            return data
        out: list[bytes] = []
        for event in sse.Splitter().feed(data):
            name, said = sse.parse(event)
            *before, last = self.feed(said)
            out += [sse.encode(orjson.loads(each).get("type", ""), each) for each in before]
            out.append(event if last is said else sse.encode(name, last))
        return b"".join(out)

    def feed(self, data: bytes) -> list[bytes]:
        """What is to be read in place of one event's data."""
        if not self._waiting and (data.find(b"\\") < 0 or not _may_hold_half(data)):
            return [data]
        if data.startswith(b"[DONE]"):
            return [*self._given_up(()), data]
        try:
            event = json.loads(data)
            ended = self._grow_texts(event)
            _mend(event)
            before = [each for place in ended for each in self._given_up(place)]
            return [*before, orjson.dumps(event)]
        except _UNREADABLE:
            return [data]  # its reader will say so

    def _grow_texts(self, event: dict[str, Any]) -> list[_Place]:
        """Where nothing follows after the event."""
        if "choices" not in event:
            type_ = str(event.get("type"))
            if type_.endswith(".delta"):
                self._grow(event, event, "delta", (tuple(map(event.get, _NAMES)),))
            return [()] if type_.endswith(_ENDS) else []
        ended: list[_Place] = []
        for choice in event["choices"] or ():
            place = (choice.get("index") or 0,)
            is_last = bool(choice.get("finish_reason"))
            if "delta" in choice:
                self._grow(None if is_last else event, choice, "delta", place)
            ended += [place] if is_last else []
        return ended

    def _grow(self, event: dict[str, Any] | None, holder: Any, key: Any, place: _Place) -> None:
        """Join every string at and below `holder[key]` with the half that waits for it.

        With `event` None nothing follows after it.
        """
        value = holder[key]
        if type(value) is dict:
            for name in value:
                self._grow(event, value, name, (*place, name))
        elif type(value) is list:
            for number, each in enumerate(value):
                at = each.get("index", number) if type(each) is dict else number
                self._grow(event, value, number, (*place, at))
        elif type(value) is str:
            before = self._waiting.pop(place, None)
            text = value if before is None else _joined(before.half, value)
            if event is not None and text and "\ud800" <= text[-1] <= "\udbff":
                self._waiting[place] = _Waiting(text[-1], event)
                text = text[:-1]
            holder[key] = text

    def _given_up(self, within: _Place) -> list[bytes]:
        """Events that say U+FFFD for each half that waits within the place."""
        places = [place for place in self._waiting if place[: len(within)] == within]
        return [_filler(place, self._waiting.pop(place).event) for place in places]


def mended(body: bytes) -> bytes:
    """A whole answer with U+FFFD for half a character; what is not JSON stays as it is."""
    if not _may_hold_half(body):
        return body
    try:
        tree = [json.loads(body)]
        _mend(tree)
        return orjson.dumps(tree[0])
    except _UNREADABLE:
        return body


def _may_hold_half(data: bytes) -> bool:
    """Whether there is an escaped surrogate, and a reader that takes no halves may stumble."""
    if data.find(b"\\u") < 0 or _ESCAPE.search(data) is None:
        return False
    try:
        orjson.loads(data)
    except ValueError:
        return True
    return False


def _joined(half: str, text: str) -> str:
    return (half + text).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _mend(node: Any) -> None:
    """Replace, in place, what is left of halves in every string below."""
    for key, value in node.items() if type(node) is dict else enumerate(node):
        if type(value) is str:
            node[key] = _HALF.sub(_LOST, value)
        elif type(value) is dict or type(value) is list:
            _mend(value)


def _filler(place: _Place, event: dict[str, Any]) -> bytes:
    """The event once more, as if it had said U+FFFD at that place and nothing else."""
    said: Any = _LOST
    for step in reversed(place[1:]):
        said = {step: said} if type(step) is str else [{"index": step, **said}]
    if "choices" not in event:
        return orjson.dumps({**event, "delta": said})
    choice = {"index": place[0], "delta": said, "logprobs": None, "finish_reason": None}
    return orjson.dumps({**event, "choices": [choice]})
