"""Runs of deltas that are written alike: told by their bytes, not parsed one by one.

How a stream writes its deltas is learned from one that was parsed. Those that follow it differ
in their text, their number and what pads them, and in nothing else.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import orjson
from msgspec import Struct

from anos import sse
from anos.scanner_parts import Event, Line, Piece

_VARIES = re.compile(
    rb'"(?P<name>sequence_number|obfuscation|delta|content)": ?'
    rb'(?:(?P<number>\d{1,9})(?=[,}])|"(?P<text>[^"\\]*(?:\\.[^"\\]*)*)(?="))'
)
_NUMBER, _PADDING = b"sequence_number", b"obfuscation"
_BACKSLASH = ord("\\")
_PROBE = "~ a probe ~"
# Nobody writes many deltas that are longer.
_LONG = 65_536
# At a match what is left of a run's text is looked at again, and near a phrase all of it.
_MOST_TEXT = 1024
_ENOUGH = 256


class Run(Struct, eq=False):
    """Deltas in a row, numbered from `number` on: what each says, and where it ends."""

    texts: list[str]
    ends: list[int]
    number: int

    def first_of(self, count: int) -> int:
        """The index of the first event in which the last `count` code points stand."""
        index = len(self.texts)
        while index and count > 0:
            index -= 1
            count -= len(self.texts[index])
        return index


class Template(Struct, eq=False):
    """How the deltas of a line are written; `number` is that of the next one."""

    line: Line
    before: bytes  # an event's beginning, up to its number or its text
    after: bytes  # from the number up to the text; b"" if that comes first
    close: bytes  # what stands after the text
    rest: list[tuple[bytes, bytes]]  # what varies after that, and what stands after each
    data_at: int  # where in an event its JSON begins
    number: int

    def only(self, shown: bytes) -> str:
        """The text of the one delta that `shown` is; "" if it is anything else."""
        lead, close = self.before, self.close
        if self.after:
            lead = b"%b%d%b" % (lead, self.number, self.after)
        size = len(lead)
        # What is twice as long is more than one event; a text may be as long, and is read by `run`.
        if self.rest or size * 2 < len(shown):
            return ""
        if not (shown.startswith(lead) and shown.endswith(close)):
            return ""
        try:
            text: str = orjson.loads(shown[size - 1 : len(shown) - len(close) + 1])
        except ValueError:
            return ""
        if text:
            self.number += 1
        return text

    def run(self, shown: bytes, at: int) -> Run | None:
        """The run that begins at `at` of some events; None if there is none."""
        # This runs for every delta: no call that can be spared.
        before, after, close, number = self.before, self.after, self.close, self.number
        texts: list[str] = []
        ends: list[int] = []
        lead, size = before, 0
        while size < _ENOUGH:
            if after:
                lead = b"%b%d%b" % (before, number, after)
            if not shown.startswith(lead, at):
                break
            at += len(lead)
            end = shown.find(b'"', at)
            if shown[end - 1] == _BACKSLASH:
                end = shown.find(close, at)
            if not shown.startswith(close, end):
                break
            try:
                text = orjson.loads(shown[at - 1 : end + 1])
            except ValueError:
                break
            at = end + len(close)
            if self.rest and (at := self._end(shown, at, number)) < 0:
                break
            size += len(text)
            if not text or size > _MOST_TEXT:
                break
            texts.append(text)
            ends.append(at)
            number += 1
        if not texts:
            return None
        run = Run(texts, ends, self.number)
        self.number = number
        return run

    def _end(self, shown: bytes, at: int, number: int) -> int:
        """The end of an event of which all before `at` is as it should be; -1 if it is not."""
        for name, mark in self.rest:
            if name is _NUMBER:
                end = at + len(b"%d" % number) if shown.startswith(b"%d" % number, at) else -1
            else:
                end = shown.find(b'"', at)
                end = end if end == at or shown[at:end].isalnum() else -1
            if end < 0 or not shown.startswith(mark, end):
                return -1
            at = end + len(mark)
        return at

    def event(self, text: str, number: int) -> Event:
        """The event that says `text`."""
        said = orjson.dumps(text)[1:-1]
        lead = b"%b%d%b" % (self.before, number, self.after) if self.after else self.before
        rest = [(b"%d" % number if name is _NUMBER else b"") + mark for name, mark in self.rest]
        raw = b"".join([lead, said, self.close, *rest])
        event: Event = orjson.loads(raw[self.data_at :])
        return event


def read_event(raw: bytes) -> tuple[bytes, Event]:
    """An event as it is parsed, and the bytes that say this and nothing else: they have no comment,
    no id, and no field twice. Raises ValueError."""
    if raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2:
        data = raw[6:-2]
    else:
        data = sse.parse(raw)[1]
    event = orjson.loads(data)
    if type(event) is not dict:
        raise ValueError
    made = orjson.dumps(event)
    if made != data and (data.find(b"\n") >= 0 or _has_doubles(data)):
        data = made
    type_ = event.get("type")
    return sse.encode(type_ if type(type_) is str and "choices" not in event else "", data), event


def _has_doubles(data: bytes) -> bool:
    """Whether a field is there twice: readers differ in which one counts."""
    try:
        json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return True
    return False


def _once(fields: list[tuple[str, Any]]) -> None:
    if len(dict.fromkeys(name for name, _ in fields)) != len(fields):
        raise ValueError


def learned(
    raw: bytes, line: Line, piece: Piece, delta: Callable[[Event], Piece | None]
) -> Template | None:
    """How `raw` is written, an event whose only text is `piece`, as `delta` tells of any event."""
    if len(raw) > _LONG:
        return None
    key, data_at = piece.key.encode(), raw.find(b"data: ") + 6
    names: list[bytes] = []
    cuts, number = [0], 0
    for found in _VARIES.finditer(raw, data_at):
        name = next((each for each in (key, _NUMBER, _PADDING) if each == found["name"]), None)
        kind = "number" if name is _NUMBER else "text"
        if name is None or found[kind] is None:
            continue
        names.append(name)
        cuts += found.span(kind)
        if name is _NUMBER:
            number = int(found[kind]) + 1
    cuts.append(len(raw))
    before, *parts = (raw[cuts[at] : cuts[at + 1]] for at in range(0, len(cuts), 2))
    is_numbered = names[:2] == [_NUMBER, key]
    if not is_numbered and names[:1] != [key]:
        return None
    after = parts.pop(0) if is_numbered else b""
    rest = list(zip(names[1 + is_numbered :], parts[1:], strict=True))
    template = Template(line, before, after, parts[0], rest, data_at, number)
    return template if _is_right(template, piece, delta) else None


def _is_right(template: Template, piece: Piece, delta: Callable[[Event], Piece | None]) -> bool:
    """Whether what varies stands where it seems to."""
    try:
        probe = delta(template.event(_PROBE, 7))
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    if probe is None or (probe.part, probe.is_json) != (piece.part, piece.is_json):
        return False
    said: str = probe.container[probe.key]
    return said == _PROBE
