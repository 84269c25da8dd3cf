"""A client's stream of which nothing is let out before the guards have cleared it.

It works once, on the events as the client would get them. Whole events are held, from the first
whose text could still become a match, and let out later with their own bytes. At a match the event
it begins in is cut there and the stream ends; or, where matches are masked, the events that it
stands in are written anew, each under its own number.
"""

import time
from typing import Any

import orjson

from anos import sse
from anos.errors import UpstreamError
from anos.items import Answer
from anos.scanner_lines import Lines
from anos.scanner_parts import Dialect, Event, Held, Piece, masked
from anos.scanner_queue import Queue
from anos.scanner_runs import Run, learned
from anos.stream import Stream
from guards.keywords import Match, Rules

_Bytes = bytes  # Scanned has a field of that name
_UNREADABLE = "The upstream sent an event that cannot be read."


class Scanned:
    """The stream `inner`, looked at; `mode` is block, mask or monitor."""

    def __init__(self, inner: Stream, dialect: Dialect, rules: Rules, mode: str) -> None:
        self.ended = False
        self.mode = mode
        self.ns = 0  # that were spent looking
        self._inner = inner
        self._dialect = dialect
        self._rules = rules
        self._failure: UpstreamError | None = None
        self._queue = Queue(dialect, holds=mode != "monitor")
        self._lines = Lines(rules, mode, self._queue, dialect.patience)
        self.found = self._lines.found  # matches by rule

    @property
    def is_blocked(self) -> bool:
        """Whether a match has ended the stream."""
        return self._lines.is_blocked

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
        out = self._screened(out) + self._cleared()
        return self._ended(out, answer, "incomplete", None)

    def abort(self, status: str, error: dict[str, Any] | None) -> tuple[_Bytes, Answer]:
        """As `Stream.abort`."""
        if self.is_blocked:
            return self._closed("incomplete", None)
        if error is not None and self.mode != "monitor":
            error = {**error, "message": masked(self._rules, error["message"])[0]}
        if self._failure is not None:
            closing, answer = self._cleared(), None
        else:
            closing, answer = self._inner.abort(status, error)
            closing = self._screened(closing) + self._cleared()
        return self._ended(closing, answer, status, error)

    def terminal(self, answer: Answer, response: dict[str, Any]) -> _Bytes:
        """As `Stream.terminal`."""
        ending = self._dialect if self._queue.is_cut else self._inner
        return ending.terminal(answer, response)

    def _ended(
        self, out: _Bytes, answer: Answer | None, status: str, error: dict[str, Any] | None
    ) -> tuple[_Bytes, Answer]:
        if answer is not None and not self._queue.is_cut:
            for found in self._dialect.texts(answer):
                if not self._lines.check(None, found):
                    status, error = "incomplete", None
                    break
            else:
                return out, answer
        closing, answer = self._closed(status, error)
        return out + closing, answer

    def _closed(self, status: str, error: dict[str, Any] | None) -> tuple[_Bytes, Answer]:
        self._queue.tell()
        return self._dialect.closed(status, error)

    def _cleared(self) -> _Bytes:
        """What was held when nothing follows."""
        self._queue.read()
        self._lines.close_all()
        return b"".join(self._queue.released())

    def _screened(self, shown: _Bytes) -> _Bytes:
        queue, lines = self._queue, self._lines
        if not shown or queue.is_cut:
            return b""
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
            match = lines.feed(line, text, 1)
            if match is None and line.safe == line.fed and not (queue.unread or queue.held):
                queue.passed.append(text)
                queue.number = template.number - 1
                out = shown
            else:
                run = Run([text], [len(shown)], template.number - 1)
                out = b"".join(self._let_out(run, match, shown, 0))
        else:
            out = self._take_all_of(shown)
        self.ns += time.perf_counter_ns() - started_ns
        return out

    def _take_all_of(self, shown: _Bytes) -> _Bytes:
        queue, lines = self._queue, self._lines
        out: list[_Bytes] = []
        at, whole = 0, shown.rfind(b"\n\n") + 2
        while at < whole and not queue.is_cut:
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
        return b"".join(out)

    def _take(self, raw: _Bytes, out: list[_Bytes]) -> None:
        at = raw.find(b"data: ") + 6
        if raw.find(b"\n", at) == len(raw) - 2 and (at == 6 or raw.startswith(b"event: ")):
            data = raw[at:-2]
        else:  # comments and the like are nobody's text
            name, data = sse.parse(raw)
            raw = sse.encode(name, data)
        queue, lines = self._queue, self._lines
        if data == b"[DONE]":
            queue.held.append(Held(raw, {}))
            return
        try:
            event = orjson.loads(data)
            piece = self._dialect.delta(event)
            reading = self._dialect.read(event) if piece is None else None
        except (ValueError, TypeError, AttributeError, KeyError):
            self._failure = UpstreamError(_UNREADABLE)
            queue.is_cut = True
            return
        line = lines.current
        if reading is not None:
            lines.take(Held(raw, event, reading.pieces), reading)
        elif piece is not None:
            if line is None or line.part != piece.part or queue.held or lines.seams:
                queue.held.append(held := Held(raw, event, [piece]))
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
