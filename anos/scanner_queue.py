"""The events of a screened stream on their way to the client: what waits, and what has gone out."""

from collections import deque

import orjson

from anos.scanner_parts import (
    MASK,
    Dialect,
    Event,
    Held,
    Line,
    Overfull,
    Span,
    Unread,
    shorten,
    without_tokens,
    written,
)
from anos.scanner_runs import Run, Template

# Of whole events. Those with a text that is open are few, but others wait behind them, and some
# are large.
_MOST_WAITING = 1 << 20


class Queue:
    """Holds events until their lines are safe, in their order; the dialect learns what went out.

    A delta that was told by its bytes waits unread, and is parsed only if its text must be changed.
    Whoever feeds the lines says how far each is safe; whoever lets an event out past the queue
    enters it in `passed` and `number`, or calls `sent`.
    """

    def __init__(self, dialect: Dialect, *, holds: bool) -> None:
        """Without `holds` every event is released at once."""
        self.held: deque[Held] = deque()  # see `add`
        self.unread: deque[Unread] = deque()  # come after those
        self.is_cut = False  # nothing more goes out than what is in here
        self.template: Template | None = None  # of the deltas of the part that speaks
        # What went out in deltas that are written like that, and the last one's number.
        self.passed: list[str] = []
        self.number = 0
        self._dialect = dialect
        self._holds = holds
        self._waiting = 0  # bytes of what is held and unread

    def add(self, held: Held) -> None:
        """Hold an event. Overfull if so much waits already that it cannot."""
        self._wait(held.raw)
        self.held.append(held)

    def _wait(self, raw: bytes) -> None:
        if self._holds and self._waiting > _MOST_WAITING:
            raise Overfull
        self._waiting += len(raw)

    def hold(self, run: Run, first: int, shown: bytes, at: int, line: Line) -> None:
        """Hold the events of a run of `line`, which begins at `at`, from the one with that index
        on. Overfull as for `add`."""
        place = line.fed - sum(map(len, run.texts[first:]))
        for index in range(first, len(run.texts)):
            start = run.ends[index - 1] if index else at
            text, raw = run.texts[index], shown[start : run.ends[index]]
            place += len(text)
            self._wait(raw)
            self.unread.append(Unread(raw, line, text, place, run.number + index))

    def read(self) -> None:
        """Parse what waits and was not parsed."""
        for each in self.unread:
            event = orjson.loads(each.raw[each.raw.find(b"data: ") + 6 :])
            piece = self._dialect.delta(event)
            assert piece is not None
            span = Span(piece, each.line, each.end - len(each.text), each.end)
            self.held.append(Held(each.raw, event, [piece], [span]))
        self.unread.clear()

    def released(self) -> list[bytes]:
        """The events that no longer wait, in their own bytes unless they were changed."""
        out: list[bytes] = []
        holds = self._holds
        while self.held:
            held = self.held[0]
            if holds and held.spans and any(each.end > each.line.safe for each in held.spans):
                return out
            self.held.popleft()
            self._waiting -= len(held.raw)
            out.append(written(held) if held.is_changed else held.raw)
            if held.event:
                self.sent(held.event)
        while self.unread and (not holds or self.unread[0].end <= self.unread[0].line.safe):
            unread = self.unread.popleft()
            self._waiting -= len(unread.raw)
            out.append(unread.raw)
            self.passed.append(unread.text)
            self.number = unread.number
        return out

    def sent(self, event: Event) -> None:
        """This event went out, after what passed unparsed."""
        self.tell()
        self._dialect.sent(event)

    def tell(self) -> None:
        """Tell the dialect what went out unparsed."""
        if self.passed and self.template is not None:
            self._dialect.sent(self.template.event("".join(self.passed), self.number))
            self.passed = []

    def trim(self, line: Line, start: int) -> None:
        """Hold nothing of the line from `start` on, and nothing after it."""
        kept: deque[Held] = deque()
        for held in self.held:
            span = next((x for x in held.spans if x.line is line and x.end > start), None)
            if span is None:
                kept.append(held)
                continue
            if span.start < start or held.pieces[0] is not span.piece:
                shorten(held, span, start)
                kept.append(held)
            break
        self.held = kept

    def mask(self, line: Line, start: int, end: int) -> None:
        """Cover the text from `start` to `end`, which comes after all that was covered before, in
        the events it stands in. It is written so when they go out."""
        touched: list[Span] = []
        for held in reversed(self.held):
            for span in reversed(held.spans):
                if span.line is not line or span.start >= end:
                    continue
                if span.end <= start:
                    break
                touched.append(span)
                if not span.covered:
                    without_tokens(held.event)
                    held.is_changed = True
            else:
                continue
            break
        for index, span in enumerate(reversed(touched)):
            covered = max(start, span.start), min(end, span.end), "" if index else MASK
            span.covered.append(covered)
