"""The texts that grow in a screened stream: which of them speaks, what is found, what is safe."""

from collections import Counter
from typing import Any

from anos.extract import Found
from anos.scanner_parts import (
    MASK,
    Disorder,
    Event,
    Held,
    Line,
    Overfull,
    Part,
    Piece,
    Reading,
    Span,
    masked,
)
from anos.scanner_queue import Queue
from guards.json_text import JsonScanner
from guards.keywords import Match, Rules
from guards.stream_scanner import StreamScanner
from guards.turns import at_once

_BLOCK = 128
# Of one text, or of all whole texts of an event: what is longer would keep all others waiting, and
# so would more matches in one.
_MOST_TEXT, _MOST_HITS = 1 << 20, 1_000
# A phrase is looked for in so much text before a match.
_MOST_BEFORE = 512
# More texts that grow at once than any answer has.
_MOST_LINES = 512


class Lines:
    """Looks at all texts of a stream, and blocks, masks or counts the matches, as `mode` says.

    The part that speaks grows its line. A phrase may be cut where another part speaks next: then a
    line of its own, a seam, is begun with the open end of the first. What a match changes is done
    to the events in the queue; unread ones are parsed by the caller before.
    """

    def __init__(
        self,
        rules: Rules,
        mode: str,
        queue: Queue,
        patience: int | None,
        ordered: frozenset[str],
    ) -> None:
        """`patience` and `ordered`: see Dialect."""
        self.is_blocked = False
        self.found: Counter[str] = Counter()  # matches by rule
        self.texts = self.bytes = 0  # that were looked at
        self.patience = patience
        self.growing: dict[Part, Line] = {}
        self.seams: list[Line] = []
        self.current: Line | None = None  # that of the part that speaks
        self._rules = rules
        self._mode = mode
        self._queue = queue
        self._over: list[Line] = []  # grow no more, but what follows may complete a phrase
        self._speaking: dict[Any, Line] = {}  # of each group, what was said last
        self._finished: set[Any] = set()  # groups that are said to be over
        self._ordered = ordered
        self._last: dict[str, Part] = {}  # of what is ordered, the last in its order that spoke
        self._hits = 0  # matches in one text
        self._known: dict[tuple[bool, str], str] = {}  # whole texts, and what is shown for them

    def feed(self, line: Line, text: str, count: int) -> Match | None:
        """The first match with `text`, which stood in so many events; the caller settles it."""
        self.texts += count
        self.bytes += len(text) if text.isascii() else len(text.encode())
        line.said.append(text)
        line.fed = fed = line.fed + len(text)
        match = line.scanner.feed(text)
        if match is None:
            line.safe = safe = line.begins + line.scanner.safe
            line.tail = (line.tail + text)[safe - fed :] if safe < fed else ""
        return match

    def uncount(self, texts: list[str]) -> None:
        """Do not count these, which came with a match, but after it."""
        self.texts -= len(texts)
        self.bytes -= len("".join(texts).encode())

    def passes(self, raw: bytes, event: Event, piece: Piece) -> bool:
        """Whether one more text of the part that speaks, while nothing waits, is clear at once.

        If not, the event is held.
        """
        line, text = self.current, piece.container[piece.key]
        assert line is not None
        size = len(text)
        if size > _BLOCK:
            self._queue.add(held := Held(raw, event, [piece]))
            self.grow(held, piece)
            return False
        self.texts += 1
        self.bytes += size if text.isascii() else len(text.encode())
        line.said.append(text)
        line.fed = fed = line.fed + size
        match = line.scanner.feed(text)
        if match is None and line.begins + line.scanner.safe == fed:
            line.safe, line.tail = fed, ""
            return True
        self._queue.add(Held(raw, event, [piece], [Span(piece, line, fed - size, fed)]))
        self.settle(line, text, match)
        return False

    def take(self, held: Held, reading: Reading) -> None:
        """Hold an event, and look at all that it says."""
        for part in reading.ends:
            if not self.is_blocked and (line := self.growing.pop(part, None)) is not None:
                self._end(line)
        if self.is_blocked:
            return
        self._queue.add(held)
        if reading.texts and not self.check(held, reading.texts):
            return
        for piece in reading.pieces:
            self.grow(held, piece)
            if self.is_blocked:
                return
        self._finished.update(reading.closes)

    def check(self, held: Held | None, texts: list[Found]) -> bool:
        """Look at texts that do not grow; what was looked at before is known. False: the end.

        `held` is the event they stand in, the last one in the queue. Overfull if they are too long.
        """
        known = self._known
        new = {(x.is_json, x.text) for x in texts}.difference(known)
        if sum(len(text) for _, text in new) > _MOST_TEXT:
            raise Overfull
        plain = [text for is_json, text in new if not is_json]
        if len(plain) > 1 and self._rules.is_clear(plain):
            for text in plain:
                self._count(text)
                known[False, text] = text
        return all(self._check(held, found) for found in texts)

    def _check(self, held: Held | None, found: Found) -> bool:
        shown = self._known.get((found.is_json, found.text))
        if shown is None:
            self._count(found.text)
            if self._mode == "block":
                matches = at_once(self._rules.steps(found.text, is_json=found.is_json, most=1))[:1]
                shown = MASK if matches else found.text
            else:
                shown, matches = masked(self._rules, found.text, is_json=found.is_json)
                shown = found.text if self._mode == "monitor" else shown
            self.found.update(match.rule for match in matches)
            self._known[found.is_json, found.text] = shown
        if shown == found.text:
            return True
        if self._mode == "mask" and found.writable:
            found.container[found.key] = shown
            if held is not None:
                held.is_changed = True
            return True
        if held is not None:
            self._queue.held.pop()
        self._stop()
        return False

    def grow(self, held: Held, piece: Piece) -> None:
        """Look at a text that grows, in an event that is held."""
        text: str = piece.container[piece.key]
        line = self.current
        if line is None or line.part != piece.part:
            line = self._switch(piece)
            if line is None:
                return
        seams = [each for each in self.seams if each.part == piece.part]
        if len(text) > _MOST_TEXT:
            raise Overfull
        self._hits = 0
        self._count(text)
        line.said.append(text)
        for each in [*seams, line]:
            held.spans.append(Span(piece, each, each.fed, each.fed + len(text)))
            self._scan(each, text)
            if self.is_blocked:
                return
        if self.patience is not None:
            self.wait(piece.part, len(text), self.patience)

    def wait(self, part: Part, size: int, patience: int) -> None:
        """Others than `part` have waited for so many characters more."""
        for line in self._all():
            if line.part == part or line.safe == line.fed:
                continue
            if line.part[0] != part[0] and line.part[0] not in self._finished:
                continue
            line.waited += size
            if line.waited > patience and line.seam:
                self._drop(line)
            elif line.waited > patience:
                self.settle(line, "", None, is_end=True)
                if self.is_blocked:
                    return
                line.safe = line.fed

    def settle(self, line: Line, text: str, match: Match | None, *, is_end: bool = False) -> None:
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

    def close_all(self) -> None:
        """Nothing follows at all."""
        for line in self._all():
            if not self.is_blocked and line.safe < line.fed:
                self.settle(line, "", None, is_end=True)
                line.safe = line.fed
        self.growing, self._over, self.seams, self.current = {}, [], [], None

    def _count(self, text: str) -> None:
        self.texts += 1
        self.bytes += len(text) if text.isascii() else len(text.encode())

    def _scan(self, line: Line, text: str) -> None:
        # In blocks: after each match what is left of one is looked at again.
        for at in range(0, len(text), _BLOCK):
            block = text[at : at + _BLOCK]
            line.fed += len(block)
            self.settle(line, block, line.scanner.feed(block))
            if self.is_blocked:
                return

    def _switch(self, piece: Piece) -> Line | None:
        """The line of a part that speaks again, or for the first time. None: the end.

        Overfull if there are too many.
        """
        part = piece.part
        if part[1] in self._ordered and self._mode != "monitor":
            if part[2:] < self._last.get(part[1], part)[2:]:
                raise Disorder
            self._last[part[1]] = part
        line = self.growing.get(part)
        if line is None:
            if len(self.growing) >= _MOST_LINES:
                raise Overfull
            line = self.growing[part] = Line(part, self._scanner(piece.is_json), piece.is_json)
        last = self._speaking.get(part[0])
        if last is not line:
            for seam in [each for each in self.seams if each.part[0] == part[0]]:
                seam.part = part
                self.settle(seam, "", seam.scanner.next_part())
                if self.is_blocked:
                    return None
            over = [each for each in self._over if each.part[0] == part[0]]
            if last is not None and self.growing.get(last.part) is last:
                self._join(last, line)
            for each in over:
                self._join(each, line)
                each.safe = each.fed
                self._over.remove(each)
        line.waited = 0
        self.current = self._speaking[part[0]] = line
        return line

    def _join(self, before: Line, line: Line) -> None:
        size, is_json = len(before.tail), before.is_json or line.is_json
        scanner = self._scanner(is_json)
        # What is found in it already is found in its own line too.
        if not size or scanner.feed(before.tail) or scanner.next_part() or scanner.safe >= size:
            return
        seam = Line(line.part, scanner, is_json, seam=size, fed=size, safe=scanner.safe)
        seam.tail = before.tail[seam.safe :]
        for held in self._queue.held:
            held.spans += [
                Span(each.piece, seam, each.start - before.fed + size, each.end - before.fed + size)
                for each in held.spans
                if each.line is before and each.end > before.safe
            ]
        self.seams.append(seam)

    def _end(self, line: Line) -> None:
        """The part has ended, and may be followed by another."""
        if line.safe < line.fed:
            self.settle(line, "", None, is_end=True)
        if self.is_blocked:
            return
        if line is self.current:
            self.current = None
        whole, parts, at = "".join(line.said), [], 0
        for start, end in line.covered:
            parts += [whole[at:start], MASK]
            at = end
        self._known[line.is_json, whole] = "".join([*parts, whole[at:]])
        if line.tail:
            self._over.append(line)

    def _all(self) -> list[Line]:
        return [*self.growing.values(), *self._over, *self.seams]

    def _scanner(self, is_json: bool) -> StreamScanner | JsonScanner:
        return JsonScanner(self._rules) if is_json else StreamScanner(self._rules)

    def _drop(self, seam: Line) -> None:
        seam.safe = seam.fed
        if seam in self.seams:
            self.seams.remove(seam)

    def _hit(self, line: Line, match: Match, full: str) -> str:
        """What of `full`, the end of the line, comes after the match."""
        self.found[match.rule] += 1
        self._hits += 1
        if self._hits > _MOST_HITS:
            raise Overfull
        start, end = line.begins + match.start, line.begins + match.end
        start = self._left_alone(line, start, line.safe)
        # What lies across two parts is cut off: the first has been said in full.
        if self._mode == "block" or (self._mode == "mask" and line.seam):
            self._queue.trim(line, start)
            line.safe = line.fed
            self._stop()
        elif line.seam:
            self._drop(line)
        else:
            if self._mode == "mask":
                line.covered.append((start, end))
                self._queue.mask(line, start, end)
            # A scanner ends at its first match: another goes on after it.
            line.scanner, line.begins = self._scanner(line.is_json), end
        return full[len(full) - (line.fed - end) :]

    def _left_alone(self, line: Line, start: int, safe: int) -> int:
        """Where to cut, or to cover, instead of at `start`, if a word that is stuck to what begins
        there is a phrase when it stands alone; not before `safe`, which has been let out."""
        if not self._rules.patterns:
            return start
        line.said = ["".join(line.said)]
        before = line.said[0][max(line.begins, start - _MOST_BEFORE) : start]
        if not before[-1:].isalnum():
            return start
        found = self._rules.found(before, is_json=line.is_json)
        begins = [start - len(before) + each.start for each in found if each.end == len(before)]
        return max(min([start, *begins]), min(safe, start))

    def _stop(self) -> None:
        """Nothing follows; what is held of other parts goes out as far as it is clear."""
        self.is_blocked = self._queue.is_cut = True
        for line in self._all():
            spans = [span for held in self._queue.held for span in held.spans]
            end = max([span.end for span in spans if span.line is line], default=line.begins)
            safe = start = line.safe
            line.safe = line.fed
            if end == line.fed > start:
                match = line.scanner.finish()
                start = line.fed if match is None else line.begins + match.start
            elif line.begins < end < line.fed and not line.seam:
                # The rest was cut off with what was blocked, and a part of a word may be another.
                text = "".join(line.said)[line.begins : end]
                scanner = self._scanner(line.is_json)
                match = scanner.feed(text) or scanner.finish()
                start = min(start, end if match is None else line.begins + match.start)
            if start < end and (not line.seam or start < line.seam):
                self._queue.trim(line, self._left_alone(line, start, safe))
