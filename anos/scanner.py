"""A client's stream of which nothing is let out before the guards have cleared it.

It works once, on the events as the client would get them. Whole events are held, from the first
whose text could still become a match, and let out later with their own bytes. At a match the event
it begins in is cut there and the stream ends; or, where matches are masked, the events that it
stands in are written anew, each under its own number.
"""

import logging
import time
from typing import Any

from anos import sse
from anos.errors import UpstreamError
from anos.extract import joined_texts
from anos.items import Answer
from anos.scanner_lines import Lines
from anos.scanner_parts import Dialect, Event, Held, Overfull, Piece, Unread, masked, written
from anos.scanner_queue import Queue
from anos.scanner_runs import Run, learned, read_event
from anos.stream import Stream
from guards.keywords import Match, Rules

logger = logging.getLogger("anos")

_Bytes = bytes  # Scanned has a field of that name
_MOST_MESSAGE = 4_096
# To read an event of more strings would keep all others waiting.
_LONG, _MOST_QUOTES = 65_536, 200_000
_UNREADABLE = "The upstream sent an event that cannot be read."


class Scanned:
    """The stream `inner`, looked at; `mode` is block, mask or monitor.

    Where looking fails, the stream ends as at a match if `on_error` is block; otherwise the rest
    of it passes.
    """

    def __init__(
        self, inner: Stream, dialect: Dialect, rules: Rules, mode: str, on_error: str = "block"
    ) -> None:
        self.ended = False
        self.error = ""  # "failed" from then on
        self.mode = mode
        self.ns = 0  # that were spent looking
        self._inner = inner
        self._dialect = dialect
        self._rules = rules
        self._blocks_on_error = on_error == "block"
        self._failure: UpstreamError | None = None
        self._queue = Queue(dialect, holds=mode != "monitor")
        self._lines = Lines(rules, mode, self._queue, dialect.patience, dialect.ordered)
        self.found = self._lines.found  # matches by rule

    @property
    def is_blocked(self) -> bool:
        """Whether a match has ended the stream, or that it could not be looked at."""
        return self._lines.is_blocked or (bool(self.error) and self._blocks_on_error)

    @property
    def texts(self) -> int:
        """How many texts were looked at: of one that grows each delta counts.

        Those that come in one read with a match that ends the stream count up to the first that
        goes on after it.
        """
        return self._lines.texts

    @property
    def bytes(self) -> int:
        """How long these are in UTF-8."""
        return self._lines.bytes

    def feed(self, data: _Bytes) -> _Bytes:
        """What the client gets for these bytes of the upstream, the terminal event excepted."""
        out = self._screened(self._inner.feed(data))
        self.ended = self._queue.is_cut or self._inner.ended
        return out

    def finish(self) -> tuple[_Bytes, Answer]:
        """As `Stream.finish`; UpstreamError also for an event that cannot be read."""
        if self._failure is not None:
            raise self._failure
        if self.is_blocked:
            return self._closed("incomplete", None)
        out, answer = self._inner.finish()
        return self._ended(self._screened(out), answer, "incomplete", None)

    def abort(self, status: str, error: dict[str, Any] | None) -> tuple[_Bytes, Answer]:
        """As `Stream.abort`."""
        if self.is_blocked:
            return self._closed("incomplete", None)
        if error is not None and self.mode != "monitor":
            error = {**error, "message": masked(self._rules, error["message"][:_MOST_MESSAGE])[0]}
        if self._failure is not None:
            return self._ended(b"", None, status, error)
        closing, answer = self._inner.abort(status, error)
        return self._ended(self._screened(closing), answer, status, error)

    def drop(self) -> None:
        """Let out nothing of what is held: nobody reads on."""
        if self._queue.held or self._queue.unread:
            self._clear()
            self._queue.is_cut = True

    def terminal(self, answer: Answer, response: dict[str, Any]) -> _Bytes:
        """As `Stream.terminal`."""
        ending = self._dialect if self._queue.is_cut else self._inner
        return ending.terminal(answer, response)

    def _ended(
        self, out: _Bytes, answer: Answer | None, status: str, error: dict[str, Any] | None
    ) -> tuple[_Bytes, Answer]:
        if not self.error:
            try:
                if not self._is_clear(answer):
                    status, error = "incomplete", None
                out += self._cleared()
            except Exception as exc:
                out += self._passed_after(exc, self._waiting(), b"")
        if answer is not None and not self._queue.is_cut:
            return out, answer
        if self.error:
            status, error = "incomplete", None
        closing, answer = self._closed(status, error)
        return out + closing, answer

    def _is_clear(self, answer: Answer | None) -> bool:
        if answer is None or self._queue.is_cut:
            return True
        self._queue.read()
        if not self._lines.check(None, self._dialect.texts(answer)):
            return False
        # Parts that spoke out of their order, or came whole, are looked at as they stand.
        return self._lines.check(None, [*joined_texts(answer)])

    def _closed(self, status: str, error: dict[str, Any] | None) -> tuple[_Bytes, Answer]:
        self._queue.tell()
        return self._dialect.closed(status, error)

    def _cleared(self) -> _Bytes:
        """What was held when nothing follows."""
        self._queue.read()
        self._lines.close_all()
        return b"".join(self._queue.released())

    def _clear(self) -> None:
        self._queue.tell()
        self._queue.held.clear()
        self._queue.unread.clear()
        self._queue.template = None

    def _passed_after(self, exc: Exception, waiting: list[Held | Unread], rest: _Bytes) -> _Bytes:
        """Looking has failed: what the client gets of what waited, and of what follows."""
        logger.error("a guard failed: %s", type(exc).__name__)  # its message may quote the text
        self.error = "failed"
        self._clear()
        if self._blocks_on_error:
            self._queue.is_cut = True
            return b""
        return b"".join([*(_shown(each) for each in waiting), rest])

    def _screened(self, shown: _Bytes) -> _Bytes:
        queue, lines = self._queue, self._lines
        if not shown or queue.is_cut:
            return b""
        if self.error:
            return shown
        started_ns = time.perf_counter_ns()
        line, template = lines.current, queue.template
        if (
            line is not None
            and template is not None
            and template.line is line
            and not lines.seams
            and (text := template.only(shown))
        ):
            # One more delta of the part that speaks, as most reads are: no call that can be spared.
            try:
                match = lines.feed(line, text, 1)
                if match is None and line.safe == line.fed and not (queue.unread or queue.held):
                    queue.passed.append(text)
                    queue.number = template.number - 1
                    out = shown
                else:
                    run = Run([text], [len(shown)], template.number - 1)
                    out = b"".join(self._let_out(run, match, shown, 0))
            except Exception as exc:
                waiting = [each for each in self._waiting() if each.raw is not shown]
                out = self._passed_after(exc, waiting, shown)
        else:
            out = self._take_all_of(shown)
        self.ns += time.perf_counter_ns() - started_ns
        return out

    def _take_all_of(self, shown: _Bytes) -> _Bytes:
        queue, lines = self._queue, self._lines
        out: list[_Bytes] = []
        at, whole = 0, shown.rfind(b"\n\n") + 2
        last: _Bytes | None = None
        try:
            while at < whole and not queue.is_cut:
                held = queue.unread or queue.held
                last = held[-1].raw if held else None
                template = queue.template
                if template is not None and template.line is lines.current and not lines.seams:
                    run = template.run(shown, at)
                    if run is not None:
                        out += self._take_run(run, shown, at)
                        at = run.ends[-1]
                        continue
                end = shown.index(b"\n\n", at) + 2
                queue.read()
                self._take(shown[at:end], out)
                at = end
        except Exception as exc:
            waiting = self._waiting()
            count = next((n for n, each in enumerate(waiting, 1) if each.raw is last), 0)
            out.append(self._passed_after(exc, waiting[:count], shown[at:]))
        return b"".join(out)

    def _waiting(self) -> list[Held | Unread]:
        return [*self._queue.held, *self._queue.unread]

    def _take(self, raw: _Bytes, out: list[_Bytes]) -> None:
        queue, lines = self._queue, self._lines
        if raw == sse.DONE:
            queue.add(Held(raw, {}))
            return
        if len(raw) > _LONG and raw.count(b'"') > _MOST_QUOTES:
            raise Overfull
        try:
            raw, event = read_event(raw)
            piece = self._dialect.delta(event)
            reading = self._dialect.read(event) if piece is None else None
        except (ValueError, KeyError):
            self._failure = UpstreamError(_UNREADABLE)
            queue.is_cut = True
            return
        line = lines.current
        if piece is None:
            assert reading is not None
            lines.take(Held(raw, event, reading.pieces), reading)
        else:
            if line is None or line.part != piece.part or queue.held or lines.seams:
                queue.add(held := Held(raw, event, [piece]))
                lines.grow(held, piece)
            elif lines.passes(raw, event, piece):
                queue.sent(event)
                out.append(raw)
            self._learn(raw, event, piece)
        out += queue.released()

    def _learn(self, raw: _Bytes, event: Event, piece: Piece) -> None:
        """Perhaps the deltas that follow are written like this one."""
        line, template = self._lines.current, self._queue.template
        if line is None or line.part != piece.part:
            return
        number = event.get("sequence_number")
        if template is not None and type(number) is int:
            template.number = number + 1
        # Where no two are written alike it is tried ever more seldom.
        line.parsed += 1
        if line.parsed & (line.parsed - 1) == 0:
            self._queue.tell()
            self._queue.template = learned(raw, line, piece, self._dialect.delta)

    def _take_run(self, run: Run, shown: _Bytes, at: int) -> list[_Bytes]:
        """Deltas of the part that speaks, as one text; they begin at `at` of some events."""
        line = self._lines.current
        assert line is not None
        match = self._lines.feed(line, "".join(run.texts), len(run.texts))
        return self._let_out(run, match, shown, at)

    def _let_out(self, run: Run, match: Match | None, shown: _Bytes, at: int) -> list[_Bytes]:
        """What is clear, with a run that was fed and begins at `at` of some events; hold the
        rest."""
        out: list[_Bytes] = []
        queue, lines = self._queue, self._lines
        line, first, patience = lines.current, 0, lines.patience
        assert line is not None
        if match is not None:
            after = line.fed - line.begins - match.end
            queue.hold(run, 0, shown, at, line)
            queue.read()
            lines.settle(line, "".join(run.texts), match)
            if lines.is_blocked:
                lines.uncount(run.texts[run.first_of(after) + 1 :])
        else:
            if queue.unread or queue.held:
                out += queue.released()
            if not (queue.unread or queue.held):
                is_shown = self.mode == "monitor"
                first = len(run.texts) if is_shown else run.first_of(line.fed - line.safe)
            if first:
                out.append(shown[at : run.ends[first - 1]])
                queue.passed += run.texts[:first]
                queue.number = run.number + first - 1
            queue.hold(run, first, shown, at, line)
        if queue.held and patience is not None and len(lines.growing) > 1:
            queue.read()
            lines.wait(line.part, sum(map(len, run.texts)), patience)
        if match is not None or queue.held:
            out += queue.released()
        return out


def _shown(waiting: Held | Unread) -> _Bytes:
    if isinstance(waiting, Held) and waiting.is_changed:
        return written(waiting)
    return waiting.raw
