"""Regular expressions on RE2: linear in the text whatever the expression, and of known width."""

import bisect
import functools
import re
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from guards.letters import IGNORABLE, JOINT

# A wider pattern would hold back too much of a stream.
WIDEST_OUTPUT = 256

_UNSEEN = f"[{IGNORABLE}{JOINT}]+"
# Those of Hangul, and its final consonants.
_VOWELS = "[\u1160-\u11ff]"
_ATOM = (
    r"(?s)\\Q(?P<literal>.*?)(?:\\E|$)|\\x\{[0-9A-Fa-f]+\}|\\x[0-9A-Fa-f]{2}|\\[0-7]{3}"
    r"|\\[pP](?:\{[^}]*\}|.)|(?P<empty>\\[AbBz]|\^|\$)|\\."
    r"|\[\^?\]?(?:\[:\^?\w+:\]|\\[pP]\{[^}]*\}|\\x\{[^}]*\}|\\.|[^\]\\])*\]|[^\\()|*+?]"
)
_GROUP = r"\((?:\?(?:P?<\w+>|[imsU-]*(?P<flags>[):])))?"
_TIMES = r"(?:(?P<many>[*+])|(?P<maybe>\?)|\{\d+(?:(?P<comma>,)(?P<most>\d*))?\})\??"
# So many characters are composed together, or left as they are.
_BLOCK = 64
_HALF = re.compile("[\ud800-\udfff]")
# So much less than to look for phrases it takes to look for a pattern.
_CHEAPER = 8
# So many are searched at a time.
_PIECE = 65_536
# Compiled where there is a pattern or such text: it takes milliseconds.
_compiled = functools.cache(re.compile)


def width(pattern: str) -> int | None:
    """The most code points that `pattern`, valid for RE2, can match; None if there is no most."""
    return _alternatives(pattern, 0)[0]


def _alternatives(pattern: str, at: int) -> tuple[int | None, int]:
    """The width of what begins at `at`, and where its group or the pattern ends."""
    widest: int | None = 0
    current: int | None = 0
    while at < len(pattern) and pattern[at] != ")":
        if pattern[at] == "|":
            widest, current, at = _most(widest, current), 0, at + 1
            continue
        if group := _compiled(_GROUP).match(pattern, at):
            at = group.end()
            one: int | None = 0
            if group["flags"] != ")":
                one, at = _alternatives(pattern, at)
                at += 1
        else:
            atom = _compiled(_ATOM).match(pattern, at)
            if atom is None:
                raise ValueError(f"a pattern's width is not clear from character {at} on")
            at = atom.end()
            literal = atom["literal"]
            one = len(literal) if literal is not None else 0 if atom["empty"] else 1
        while times := _compiled(_TIMES).match(pattern, at):
            one, at = _repeated(one, times), times.end()
        current = None if current is None or one is None else current + one
    return _most(widest, current), at


def _most(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else max(one, other)


def _repeated(one: int | None, times: re.Match[str]) -> int | None:
    if one == 0 or times["maybe"]:
        return one
    if one is None or times["many"] or (times["comma"] and not times["most"]):
        return None
    return one * int(times["most"] or re.findall(r"\d+", times[0])[0])


class Patterns:
    """Compiled patterns; finds where they match in text as it is read, not as it is encoded."""

    __slots__ = ("_compiled", "_widths", "widest")

    def __init__(self, patterns: Sequence[str]) -> None:
        """ValueError for a pattern that RE2 does not take. `widest` is 0 if one has no bound."""
        self._compiled = [_compile(pattern) for pattern in patterns]
        self._widths = [width(pattern) for pattern in patterns]
        self.widest = max([0, *(each for each in self._widths if each is not None)])

    def matches(self, text: str, context: int = 0) -> Iterator[tuple[int, int, int]]:
        """(index of the pattern, start, end) of each match that is not empty, in code points of
        `text`. None begins in the first `context`, which may be 0 or 1 and show only what was
        before."""
        readable, starts, ends = composed(text)
        for index, pattern in enumerate(self._compiled):
            for found in pattern.finditer(readable, context):
                start, end = found.span()
                if start < end:
                    yield index, starts[start], ends[end - 1]

    def pieces(self, text: str) -> Iterator[tuple[list[tuple[int, int, int]], int]]:
        """As `matches`, pattern by pattern and piece by piece: what begins in a piece, and how many
        characters' work that was. A pattern of no greatest width is looked for in one piece."""
        if not self._compiled:
            return
        read = _Read()
        for start, end in _cut(text, 0, len(text), _PIECE):
            read.add(text[start:end], start)
            if end < len(text):
                yield [], end - start
        readable = read.text()
        for index, pattern in enumerate(self._compiled):
            widest, start = self._widths[index], 0
            while start < len(readable):
                # With the character before it, and one more than a match may have.
                end = len(readable) if widest is None else min(start + _PIECE, len(readable))
                shift = max(start - 1, 0)
                found, after = [], end
                window = readable[shift : end + (widest or 0) + 1]
                for match in pattern.finditer(window, start - shift):
                    first, last = match.start() + shift, match.end() + shift
                    if first >= end:
                        break
                    if first < last:
                        found.append((index, read.starts(first), read.ends(last - 1)))
                    after = max(end, last)
                yield found, (end - start) // _CHEAPER
                start = after


class _Read:
    """A text as it is read, put together from pieces."""

    __slots__ = ("_begins", "_ends", "_origins", "_size", "_starts", "_texts")

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._size = 0
        # Of each piece: where it begins, as it is read and in the text, and what `composed` says.
        self._begins: list[int] = []
        self._origins: list[int] = []
        self._starts: list[Sequence[int]] = []
        self._ends: list[Sequence[int]] = []

    def add(self, piece: str, at: int) -> None:
        """The next piece, which begins at `at` of the text."""
        readable, starts, ends = composed(piece)
        self._texts.append(readable)
        self._begins.append(self._size)
        self._origins.append(at)
        self._starts.append(starts if isinstance(starts, range) else array("I", starts))
        self._ends.append(ends if isinstance(ends, range) else array("I", ends))
        self._size += len(readable)

    def text(self) -> str:
        """All that is read."""
        return "".join(self._texts)

    def starts(self, index: int) -> int:
        """Where in the text a character begins."""
        return self._place(index, self._starts)

    def ends(self, index: int) -> int:
        """Where in the text it ends."""
        return self._place(index, self._ends)

    def _place(self, index: int, places: list[Sequence[int]]) -> int:
        at = bisect.bisect_right(self._begins, index) - 1
        return self._origins[at] + places[at][index - self._begins[at]]


class PatternTail:
    """The end of a text that arrives in pieces, as far as a pattern may still match in it."""

    __slots__ = ("_context", "_patterns", "_window")

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self._window = ""
        # How much of the window only shows what was before: 0 or 1.
        self._context = 0

    @property
    def held(self) -> int:
        """How many code points at the end may belong to a match."""
        return len(self._window) - self._context - self._window.count(JOINT)

    def take(self, text: str, *, is_whole: bool) -> tuple[int, int, int] | None:
        """The first match that is complete with `text`: the index of the pattern, and how many
        code points before the end of all text it starts and ends."""
        window = self._window = self._window + text
        found = list(self._patterns.matches(window, self._context))
        if JOINT in window:
            found += self._patterns.matches(window.replace(JOINT, "\n"), self._context)
        # A match at the very end may go on, or end a word that is none.
        complete = [each for each in found if is_whole or each[2] < len(window)]
        if complete:
            index, start, end = min(complete, key=lambda each: each[1:])
            return index, self._before_end(start), self._before_end(end)
        if not is_whole:
            self._shorten(min((start for _, start, _ in found), default=len(window)))
        return None

    def _before_end(self, index: int) -> int:
        return len(self._window) - index - self._window.count(JOINT, index)

    def _shorten(self, open_from: int) -> None:
        """Keep what a match may still begin in, and what begins at `open_from`."""
        window, widest = self._window, self._patterns.widest
        starts = composed(window)[1]
        # One more than the widest: its last character may yet get an accent.
        cut = min(open_from, starts[-widest - 1] if len(starts) > widest else 0)
        while cut > 0 and goes_on(window[cut]):
            cut -= 1
        if cut > self._context:
            before = composed(window[:cut])[0][-1:]
            self._window = before + window[cut:]
            self._context = len(before)


def _compile(pattern: str) -> Any:
    # Not loaded where there are no patterns: it takes 20 ms and some megabytes.
    import re2

    options = re2.Options()
    options.log_errors = False  # with the pattern, which nobody else is to see
    try:
        return re2.compile(pattern, options)
    except re2.error as exc:
        # What follows the colon is the pattern's.
        reason = exc.args[0].partition(b": ")[0].decode()
        raise ValueError(f"a pattern is not one for RE2: {reason}") from None


def composed(text: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """`text` in the form NFKC, without characters that are not seen.

    With it, for each of its characters, where in `text` it starts and where it ends. Half a
    surrogate pair, which RE2 does not take, is read as a character that is not known.
    """
    if not text.isascii():
        text = _HALF.sub("\ufffd", text)
    if _is_composed(text):
        return text, range(len(text)), range(1, len(text) + 1)
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for start, end in _cut(text, 0, len(text), _BLOCK):
        # Of most texts only a few characters are to be composed.
        if _is_composed(text[start:end]) and not _has_marks(text[start:end]):
            pieces.append(text[start:end])
            starts += range(start, end)
            ends += range(start + 1, end + 1)
            continue
        for at, after in _cut(text, start, end, 1):
            piece = unicodedata.normalize("NFKC", _compiled(_UNSEEN).sub("", text[at:after]))
            pieces.append(piece)
            starts += [at] * len(piece)
            ends += [after] * len(piece)
    return "".join(pieces), starts, ends


def _is_composed(text: str) -> bool:
    return text.isascii() or (
        unicodedata.is_normalized("NFKC", text) and not _compiled(_UNSEEN).search(text)
    )


def _has_marks(text: str) -> bool:
    return any(map(unicodedata.combining, text)) or bool(_compiled(_VOWELS).search(text))


def _cut(text: str, start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """Where pieces of at least that size begin and end, none of which goes on in the next."""
    while start < end:
        after = min(start + size, end)
        while after < end and goes_on(text[after]):
            after += 1
        yield start, after
        start = after


def goes_on(char: str) -> bool:
    """Whether it may become one with the character before it, or is not seen."""
    if char.isascii():
        return False
    is_mark = unicodedata.combining(char) != 0 or "\u1160" <= char <= "\u11ff"
    return is_mark or bool(_compiled(_UNSEEN).match(char))
