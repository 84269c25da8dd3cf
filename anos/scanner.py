"""A client's stream of which nothing is let out before the guards have cleared it.

It works once, on the events as the client would get them. Whole events are held, from the first
whose text could still become a match, and let out later with their own bytes. At a match the event
it begins in is cut there and the stream ends; or, where matches are masked, the events that it
stands in are written anew, each under its own number.
"""

import time
from collections import Counter, deque
from typing import Any, Protocol

import orjson
from msgspec import Struct, field

from anos import sse
from anos.errors import UpstreamError
from anos.extract import Found
from anos.items import Answer
from anos.stream import Stream
from guards.json_text import JsonScanner
from guards.keywords import Match, Rules
from guards.stream_scanner import StreamScanner

MASK = "***"
# At most so many matches are found in one look.
_MOST_MATCHES = 100
_BLOCK = 128
_UNREADABLE = "The upstream sent an event that cannot be read."

Event = dict[str, Any]
Part = tuple[Any, ...]  # names what grows; first its group: in a group one follows another


class Piece(Struct, eq=False):
    """A growing text in an event: it stands at `container[key]`, and is part of JSON or not."""

    part: Part
    container: Any
    key: str
    is_json: bool = False


class Reading(Struct, eq=False):
    """What an event says: texts that are whole, texts that grow, and the parts it ends."""

    texts: list[Found] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    ends: list[Part] = field(default_factory=list)
    closes: list[Any] = field(default_factory=list)  # groups: nothing follows in them


class Dialect(Protocol):
    """How the guards read the events of a client's dialect, and end its stream."""

    # A part may go on after another has spoken. Until that one has said so many characters it is
    # waited for; None: until the part ends.
    patience: int | None

    def delta(self, event: Event) -> Piece | None:
        """The only text of an event that has no other."""

    def read(self, event: Event) -> Reading:
        """All texts of an event."""

    def sent(self, event: Event) -> None:
        """This event went to the client."""

    def closed(self, status: str, error: dict[str, Any] | None) -> tuple[bytes, Answer]:
        """What closes the stream after what was sent, and the answer that was sent."""

    def terminal(self, answer: Answer, response: dict[str, Any]) -> bytes:
        """The end of a stream that was closed."""

    def texts(self, answer: Answer) -> list[Found]:
        """The texts of the answer that the upstream's last event gives."""


class _Line(Struct, eq=False):
    """The text of a part; or, from its `seam` on, what follows the end of another.

    A phrase may be cut where one part ends and another begins: what the first left open is looked
    at once more, together with what follows it, and only for what lies across the seam.
    """

    part: Part
    scanner: StreamScanner | JsonScanner
    is_json: bool
    seam: int = 0
    begins: int = 0  # where the scanner was begun: it ends at its first match
    fed: int = 0
    safe: int = 0  # so much can be let out
    tail: str = ""  # the text after that
    said: list[str] = field(default_factory=list)
    covered: list[tuple[int, int]] = field(default_factory=list)
    waited: int = 0  # characters that others have said since


class _Span(Struct, eq=False):
    """Where in its line a piece of an event stands."""

    piece: Piece
    line: _Line
    start: int
    end: int


class _Held(Struct, eq=False):
    """An event that waits, with all of it that grows; `event` is empty for what is no JSON."""

    raw: bytes
    event: Event
    pieces: list[Piece] = field(default_factory=list)
    spans: list[_Span] = field(default_factory=list)
    is_changed: bool = False


class Scanned:
    """The stream `inner`, looked at; `mode` is block, mask or monitor."""

    def __init__(self, inner: Stream, dialect: Dialect, rules: Rules, mode: str) -> None:
        self.ended = False
        self.is_blocked = False
        self.mode = mode
        self.found: Counter[str] = Counter()  # matches by rule
        self.texts = self.bytes = self.ns = 0
        self._inner = inner
        self._dialect = dialect
        self._rules = rules
        self._failure: UpstreamError | None = None
        self._lines: dict[Part, _Line] = {}  # that may grow
        self._over: list[_Line] = []  # that do not, but what follows may complete a phrase
        self._seams: list[_Line] = []
        self._current: _Line | None = None
        self._speaking: dict[Any, _Line] = {}  # of each group, what was said last
        self._known: dict[tuple[bool, str], str] = {}  # whole texts, and what is shown for them
        self._held: deque[_Held] = deque()

    def feed(self, data: bytes) -> bytes:
        """What the client gets for these bytes of the upstream, the terminal event excepted."""
        out = self._screened(self._inner.feed(data))
        self.ended = self._is_cut or self._inner.ended
        return out

    def finish(self) -> tuple[bytes, Answer]:
        """As `Stream.finish`; UpstreamError also for an event that cannot be read."""
        if self._failure is not None:
            raise self._failure
        if self.is_blocked:
            return self._dialect.closed("incomplete", None)
        out, answer = self._inner.finish()
        out = self._screened(out) + self._cleared()
        return self._ended(out, answer, "incomplete", None)

    def abort(self, status: str, error: dict[str, Any] | None) -> tuple[bytes, Answer]:
        """As `Stream.abort`."""
        if self.is_blocked:
            return self._dialect.closed("incomplete", None)
        if error is not None and self.mode != "monitor":
            error = {**error, "message": masked(self._rules, error["message"])[0]}
        if self._failure is not None:
            closing, answer = self._cleared(), None
        else:
            closing, answer = self._inner.abort(status, error)
            closing = self._screened(closing) + self._cleared()
        return self._ended(closing, answer, status, error)

    def terminal(self, answer: Answer, response: dict[str, Any]) -> bytes:
        """As `Stream.terminal`."""
        ending = self._dialect if self._is_cut else self._inner
        return ending.terminal(answer, response)

    @property
    def _is_cut(self) -> bool:
        return self.is_blocked or self._failure is not None

    def _ended(
        self, out: bytes, answer: Answer | None, status: str, error: dict[str, Any] | None
    ) -> tuple[bytes, Answer]:
        if answer is not None and not self._is_cut:
            for found in self._dialect.texts(answer):
                if not self._check(None, found):
                    status, error = "incomplete", None
                    break
            else:
                return out, answer
        closing, answer = self._dialect.closed(status, error)
        return out + closing, answer

    def _cleared(self) -> bytes:
        """What was held when nothing follows."""
        for group in {line.part[0] for line in self._all_lines()}:
            self._close(group)
        return b"".join(self._released())

    def _screened(self, shown: bytes) -> bytes:
        if not shown or self._is_cut:
            return b""
        started_ns = time.perf_counter_ns()
        out: list[bytes] = []
        for block in shown.split(b"\n\n")[:-1]:
            self._take(block + b"\n\n", out)
            if self.is_blocked or self._failure is not None:
                break
        self.ns += time.perf_counter_ns() - started_ns
        return b"".join(out)

    def _take(self, raw: bytes, out: list[bytes]) -> None:
        at = raw.find(b"data: ") + 6
        if raw.find(b"\n", at) == len(raw) - 2 and (at == 6 or raw.startswith(b"event: ")):
            data = raw[at:-2]
        else:  # comments and the like are nobody's text
            name, data = sse.parse(raw)
            raw = sse.encode(name, data)
        if data == b"[DONE]":
            self._held.append(_Held(raw, {}))
            return
        try:
            event = orjson.loads(data)
            piece = self._dialect.delta(event)
            reading = self._dialect.read(event) if piece is None else None
        except (ValueError, TypeError, AttributeError, KeyError):
            self._failure = UpstreamError(_UNREADABLE)
            return
        line = self._current
        if reading is not None:
            self._take_all(_Held(raw, event, reading.pieces), reading)
        elif piece is not None:
            is_next = line is not None and line.part == piece.part
            if is_next and not (self._held or self._seams):
                if self._passes(raw, event, piece):
                    self._dialect.sent(event)
                    out.append(raw)
                    return
            else:
                self._held.append(held := _Held(raw, event, [piece]))
                self._grow(held, piece)
        out += self._released()

    def _passes(self, raw: bytes, event: Event, piece: Piece) -> bool:
        """Whether one more text of the part that speaks, while nothing waits, is clear at once."""
        line, text = self._current, piece.container[piece.key]
        assert line is not None
        size = len(text)
        if size > _BLOCK:
            self._held.append(held := _Held(raw, event, [piece]))
            self._grow(held, piece)
            return False
        self.texts += 1
        self.bytes += size if text.isascii() else len(text.encode())
        line.said.append(text)
        line.fed = fed = line.fed + size
        match = line.scanner.feed(text)
        if match is None and line.begins + line.scanner.safe == fed:
            line.safe, line.tail = fed, ""
            return True
        self._held.append(_Held(raw, event, [piece], [_Span(piece, line, fed - size, fed)]))
        self._settle(line, text, match)
        return False

    def _take_all(self, held: _Held, reading: Reading) -> None:
        for part in reading.ends:
            if not self.is_blocked and (line := self._lines.pop(part, None)) is not None:
                self._end(line)
        if self.is_blocked:
            return
        self._held.append(held)
        for found in reading.texts:
            if not self._check(held, found):
                return
        for piece in reading.pieces:
            self._grow(held, piece)
            if self.is_blocked:
                return
        for group in reading.closes:
            self._close(group)

    def _check(self, held: _Held | None, found: Found) -> bool:
        """Look at a text that does not grow; what was looked at before is known. False: the end."""
        shown = self._known.get((found.is_json, found.text))
        if shown is None:
            self._count(found.text)
            shown, matches = masked(self._rules, found.text, is_json=found.is_json)
            self.found.update(match.rule for match in matches)
            if self.mode == "monitor":
                shown = found.text
            self._known[found.is_json, found.text] = shown
        if shown == found.text:
            return True
        if self.mode == "mask" and found.writable:
            found.container[found.key] = shown
            if held is not None:
                held.is_changed = True
            return True
        if held is not None:
            self._held.pop()
        self._stop()
        return False

    def _count(self, text: str) -> None:
        self.texts += 1
        self.bytes += len(text) if text.isascii() else len(text.encode())

    def _scan(self, line: _Line, text: str) -> None:
        # In blocks: after each match what is left of one is looked at again.
        for at in range(0, len(text), _BLOCK):
            block = text[at : at + _BLOCK]
            line.fed += len(block)
            self._settle(line, block, line.scanner.feed(block))
            if self.is_blocked:
                return

    def _grow(self, held: _Held, piece: Piece) -> None:
        text: str = piece.container[piece.key]
        line = self._current
        if line is None or line.part != piece.part:
            line = self._switch(piece)
            if line is None:
                return
        seams = [each for each in self._seams if each.part == piece.part]
        self._count(text)
        line.said.append(text)
        for each in [*seams, line]:
            held.spans.append(_Span(piece, each, each.fed, each.fed + len(text)))
            self._scan(each, text)
            if self.is_blocked:
                return
        if self._dialect.patience is not None:
            self._wait(piece.part, len(text), self._dialect.patience)

    def _switch(self, piece: Piece) -> _Line | None:
        """The line of a part that speaks again, or for the first time. None: the end."""
        part = piece.part
        line = self._lines.get(part)
        if line is None:
            line = self._lines[part] = _Line(part, self._scanner(piece.is_json), piece.is_json)
        last = self._speaking.get(part[0])
        if last is not line:
            for seam in [each for each in self._seams if each.part[0] == part[0]]:
                seam.part = part
                self._settle(seam, "", seam.scanner.next_part())
                if self.is_blocked:
                    return None
            over = [each for each in self._over if each.part[0] == part[0]]
            if last is not None and self._lines.get(last.part) is last:
                self._join(last, line)
            for each in over:
                self._join(each, line)
                each.safe = each.fed
                self._over.remove(each)
        line.waited = 0
        self._current = self._speaking[part[0]] = line
        return line

    def _join(self, before: _Line, line: _Line) -> None:
        size, is_json = len(before.tail), before.is_json or line.is_json
        scanner = self._scanner(is_json)
        # What is found in it already is found in its own line too.
        if not size or scanner.feed(before.tail) or scanner.next_part() or scanner.safe >= size:
            return
        seam = _Line(line.part, scanner, is_json, seam=size, fed=size, safe=scanner.safe)
        seam.tail = before.tail[seam.safe :]
        for held in self._held:
            held.spans += [
                _Span(
                    each.piece, seam, each.start - before.fed + size, each.end - before.fed + size
                )
                for each in held.spans
                if each.line is before and each.end > before.safe
            ]
        self._seams.append(seam)

    def _wait(self, part: Part, size: int, patience: int) -> None:
        """Others have waited for so many characters more."""
        for line in [*self._lines.values(), *self._seams]:
            if line.part == part or line.part[0] != part[0] or line.safe == line.fed:
                continue
            line.waited += size
            if line.waited > patience and line.seam:
                self._drop(line)
            elif line.waited > patience:
                self._settle(line, "", None, is_end=True)
                if self.is_blocked:
                    return
                line.safe = line.fed

    def _end(self, line: _Line) -> None:
        """The part has ended, and may be followed by another."""
        self._settle(line, "", None, is_end=True)
        if self.is_blocked:
            return
        if line is self._current:
            self._current = None
        whole, parts, at = "".join(line.said), [], 0
        for start, end in line.covered:
            parts += [whole[at:start], MASK]
            at = end
        self._known[line.is_json, whole] = "".join([*parts, whole[at:]])
        if line.tail:
            self._over.append(line)

    def _close(self, group: Any) -> None:
        """Nothing follows in the group."""
        for line in self._all_lines():
            if line.part[0] == group and not self.is_blocked:
                self._settle(line, "", None, is_end=True)
                line.safe = line.fed
        self._lines = {part: line for part, line in self._lines.items() if part[0] != group}
        self._over = [line for line in self._over if line.part[0] != group]
        self._seams = [line for line in self._seams if line.part[0] != group]
        self._current = None

    def _all_lines(self) -> list[_Line]:
        return [*self._lines.values(), *self._over, *self._seams]

    def _scanner(self, is_json: bool) -> StreamScanner | JsonScanner:
        return JsonScanner(self._rules) if is_json else StreamScanner(self._rules)

    def _drop(self, seam: _Line) -> None:
        seam.safe = seam.fed
        if seam in self._seams:
            self._seams.remove(seam)

    def _settle(self, line: _Line, text: str, match: Match | None, *, is_end: bool = False) -> None:
        """Deal with all matches in the line, of which this is the first, and see what is safe."""
        full = line.tail + text
        while match or (is_end and (match := line.scanner.finish())):
            if line.seam and not match.start < line.seam < match.end:
                return self._drop(line)
            full = self._hit(line, match, full)
            if self.is_blocked or line.seam:
                return None
            match = line.scanner.feed(full) if full else None
        line.safe = line.begins + line.scanner.safe
        line.tail = full[len(full) - (line.fed - line.safe) :]
        if line.seam and line.safe >= line.seam:
            self._drop(line)
        return None

    def _hit(self, line: _Line, match: Match, full: str) -> str:
        """What of `full`, the end of the line, comes after the match."""
        self.found[match.rule] += 1
        start, end = line.begins + match.start, line.begins + match.end
        # What lies across two parts is cut off: the first has been said in full.
        if self.mode == "block" or (self.mode == "mask" and line.seam):
            self._trim(line, start)
            line.safe = line.fed
            self._stop()
        elif line.seam:
            self._drop(line)
        else:
            if self.mode == "mask":
                self._mask(line, start, end)
            # A scanner ends at its first match: another goes on after it.
            line.scanner, line.begins = self._scanner(line.is_json), end
        return full[len(full) - (line.fed - end) :]

    def _stop(self) -> None:
        """Nothing follows; what is held of other parts goes out as far as it is clear."""
        self.is_blocked = True
        for line in self._all_lines():
            kept = [span.end for held in self._held for span in held.spans if span.line is line]
            start, line.safe = line.safe, line.fed
            if start == line.fed or not kept:
                continue
            if max(kept) == line.fed:  # otherwise its end was cut off with what was blocked
                match = line.scanner.finish()
                start = line.fed if match is None else line.begins + match.start
            if not line.seam or start < line.seam:
                self._trim(line, start)

    def _trim(self, line: _Line, start: int) -> None:
        """Hold nothing of the line from `start` on, and nothing after it."""
        kept: deque[_Held] = deque()
        for held in self._held:
            span = next((x for x in held.spans if x.line is line and x.end > start), None)
            if span is None:
                kept.append(held)
                continue
            if span.start < start or held.pieces[0] is not span.piece:
                _shorten(held, span, start)
                kept.append(held)
            break
        self._held = kept

    def _mask(self, line: _Line, start: int, end: int) -> None:
        """Cover the text from `start` to `end` in the events it stands in."""
        sign = MASK
        line.covered.append((start, end))
        for held in self._held:
            for span in held.spans:
                if span.line is not line or span.end <= start or span.start >= end:
                    continue
                text = span.piece.container[span.piece.key]
                # What was covered before has changed its length, but not that of what comes after.
                after = text[len(text) - (span.end - end) :] if span.end > end else ""
                covered = min(span.end, end) - max(span.start, start)
                before = text[: len(text) - len(after) - covered]
                span.piece.container[span.piece.key] = before + sign + after
                _without_tokens(held.event)
                held.is_changed, sign = True, ""

    def _released(self) -> list[bytes]:
        out = []
        while self._held:
            held = self._held[0]
            if self.mode != "monitor" and any(each.end > each.line.safe for each in held.spans):
                break
            self._held.popleft()
            out.append(_written(held.event) if held.is_changed else held.raw)
            if held.event:
                self._dialect.sent(held.event)
        return out


def masked(rules: Rules, text: str, *, is_json: bool = False) -> tuple[str, list[Match]]:
    """The text with every match covered, and the matches."""
    look = rules.scan_json if is_json else rules.scan
    matches: list[Match] = []
    parts: list[str] = []
    while found := look(text):
        at = 0
        for match in found:
            if match.start >= at:
                parts += [text[at : match.start], MASK]
            at = max(at, match.end)
        matches += found
        text = text[at:]
        if len(found) < _MOST_MATCHES:
            break
    return "".join([*parts, text]), matches


def _shorten(held: _Held, span: _Span, start: int) -> None:
    """Cut the event where the piece of `span` is at `start` of its line."""
    excess = span.end - start
    at = next(i for i, piece in enumerate(held.pieces) if piece is span.piece)
    text = span.piece.container[span.piece.key]
    span.piece.container[span.piece.key] = text[: max(len(text) - excess, 0)]
    for piece in held.pieces[at + 1 :]:
        piece.container[piece.key] = ""
    kept = held.pieces[: at + 1]
    held.spans = [each for each in held.spans if any(each.piece is piece for piece in kept)]
    for each in held.spans:
        if each.piece is span.piece:
            each.end -= excess
    held.pieces, held.is_changed = kept, True
    _without_tokens(held.event)
    for choice in held.event.get("choices") or ():
        choice["finish_reason"] = None


def _without_tokens(event: Event) -> None:
    """Without logprobs, which say the text again token by token."""
    for holder in (event, *(event.get("choices") or ())):
        if holder.get("logprobs"):
            holder["logprobs"] = [] if holder is event else None


def _written(event: Event) -> bytes:
    return sse.encode(event.get("type", ""), orjson.dumps(event))
