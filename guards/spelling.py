"""Whether a stretch of text spells a phrase, plainly or disguised.

A disguise is: look-alike letters, digits and symbols for letters, repeated letters, and at most
three separators in a gap. What ordinary text has by itself is no disguise: "the rapist", "good"
for "god", a number for a word.
"""

import itertools
import re
from collections.abc import Iterator

import msgspec

from guards.confusables import LEET, SYMBOLS
from guards.letters import JOINT, SPELT, is_letter, is_spaceless, stands_apart

# A run of white space counts as one: text is wrapped and indented.
MOST_SEPARATORS = 3
# In a phrase of so many letters a single letter written twice is a disguise; in a shorter one it
# mostly makes another word (god and good, met and meet).
_LONG = 6

# Punctuation that a phrase may have at its ends without meaning it.
_PUNCTUATION = r"[\s.,;:!?'\"()\[\]{}_*\u2026\u2018-\u201f\u00bf\u00a1-]*"


class Spelling(msgspec.Struct, frozen=True):
    """A phrase taken apart: its letters, the indexes at which its words begin, and what must
    stand after them as it is ("++" of "C++"). What stands before them does not count."""

    letters: str
    starts: frozenset[int]
    after: str

    @property
    def words(self) -> list[str]:
        """The letters of each word."""
        cuts = [*sorted(self.starts), len(self.letters)]
        return [self.letters[start:end] for start, end in itertools.pairwise(cuts)]


# The same character so many times: code points from the third up to the fourth of the text.
_Run = tuple[str, int, int, int]
# What becomes of a run: so many letters of the phrase, or one of these.
_REPEAT, _GAP = 0, -1
_Steps = tuple[tuple[_Run, int], ...]
# How far the phrase is read: its letters, separators since, whether there is a gap, letters in
# the piece before it.
_State = tuple[int, int, bool, int]
_START: _State = (0, 0, False, 0)


def spelling(phrase: str) -> Spelling:
    """ValueError if the phrase has no letter and no digit."""
    starts, letters, is_inside = set(), "", False
    edges = [index for index, char in enumerate(phrase) if any(map(is_letter, SPELT[ord(char)]))]
    if not edges:
        raise ValueError("a phrase has no letter and no digit; use a pattern")
    for char in phrase[edges[0] : edges[-1] + 1]:
        spelt = "".join(filter(is_letter, SPELT[ord(char)]))
        if spelt and not is_inside:
            starts.add(len(letters))
        is_inside = bool(spelt) or (is_inside and SPELT[ord(char)] == "")
        letters += spelt
    after = re.sub(_PUNCTUATION, "", phrase[edges[-1] + 1 :])
    return Spelling(letters, frozenset(starts), after)


def find(
    phrase: Spelling, text: str, start: int, end: int, *, is_whole: bool
) -> tuple[int, int] | None:
    """Where in text[start:end] the phrase is spelt from near `start` on, and ends first.

    `is_whole`: the text ends here; otherwise a phrase that reaches its end is not found, as its
    last word may go on. Indexes are code points of `text`.
    """
    # Of the ways that come to the same the first will do.
    paths: dict[_State, _Steps] = {}
    can_start = True
    for run in _runs(text, start, end):
        if can_start and not _is_inside(text, run[2], -1):
            paths[_START] = ()
        # A symbol at the start may be the first letter, or stand before it.
        can_start = can_start and run[0] in SYMBOLS
        following: dict[_State, _Steps] = {}
        for path, steps in paths.items():
            for state, taken in _steps(phrase, path, run, text):
                if state not in following:
                    following[state] = (*steps, (run, taken))
        paths = following
        for (at, _, is_gap, _), steps in paths.items():
            if at == len(phrase.letters) and not is_gap:
                found = steps[0][0][2], run[3]
                if _is_alone(phrase, text, run[3], is_whole) and _is_plausible(phrase, steps):
                    return found
        if not paths and not can_start:
            return None
    return None


def _runs(text: str, start: int, end: int) -> Iterator[_Run]:
    last, count, first, after = "", 0, start, start
    for index in range(start, end):
        for char in SPELT[ord(text[index])]:
            if char != last:
                if count:
                    yield last, count, first, after
                last, count, first = char, 0, index
            count += 1
            after = index + 1
    if count:
        yield last, count, first, after


def _steps(phrase: Spelling, state: _State, run: _Run, text: str) -> Iterator[tuple[_State, int]]:
    """The ways in which one more run can be read."""
    at, separators, is_gap, piece = state
    char, count = run[:2]
    is_word = is_letter(char)
    if at and not is_word:
        separators += {JOINT: 0, " ": 1}.get(char, count)
        # In a word that is not spelt out white space is no disguise.
        is_end = char == " " and piece > 2 and at not in phrase.starts and at < len(phrase.letters)
        if separators <= MOST_SEPARATORS and not is_end:
            yield (at, separators, True, piece), _GAP
    if not (is_word or char in SYMBOLS):
        return
    if at and not is_gap and _passes(phrase, at - 1, run, text):
        yield (at, 0, False, piece), _REPEAT
    if is_gap or at in phrase.starts:
        piece = 0
    for index in range(at, min(at + count, len(phrase.letters))):
        if not _passes(phrase, index, run, text):
            return
        if index in phrase.starts and index and (index > at or not is_gap):
            return
        taken = index + 1 - at
        yield (at + taken, 0, False, piece + taken), taken


def _passes(phrase: Spelling, index: int, run: _Run, text: str) -> bool:
    letter, char = phrase.letters[index], run[0]
    if char == letter or letter in LEET.get(char, ""):
        return True
    if letter == "l" and char == "i":  # a capital I among small letters
        near = text[max(run[2] - 1, 0) : run[3] + 1]
        return text[run[2]] == "I" and not near.isupper()
    return letter == "i" and char == "l" and len(phrase.letters) >= _LONG


def _is_inside(text: str, at: int, step: int) -> bool:
    """Whether what stands beside text[at], in the direction of `step`, belongs to its word."""
    beside = at + step
    while 0 <= beside < len(text) and not SPELT[ord(text[beside])]:
        beside += step
    if not 0 <= beside < len(text) or stands_apart(text[beside]) or stands_apart(text[at]):
        return False
    return is_letter(SPELT[ord(text[beside])][0 if step > 0 else -1])


def _is_alone(phrase: Spelling, text: str, end: int, is_whole: bool) -> bool:
    """Whether the phrase's words and signs stand there as wholes."""
    if phrase.after:
        return text.startswith(phrase.after, end)
    is_open = not is_whole and not stands_apart(text[end - 1])
    if is_open and not any(SPELT[ord(char)] for char in itertools.islice(text, end, None)):
        return False
    return not _is_inside(text, end - 1, 1)


class _Word:
    """How one word of the phrase is spelt."""

    __slots__ = ("is_read", "is_spaced", "pieces")

    def __init__(self) -> None:
        self.pieces = [0]
        self.is_read = False
        self.is_spaced = False

    def is_plausible(self) -> bool:
        """Not of digits alone, and with spaces in it only if spelt out letter by letter.

        Of two or three short pieces ordinary words are made ("so do my"), of more they are not.
        """
        singles = self.pieces.count(1)
        is_spelt_out = max(self.pieces) <= 2 and (
            len(self.pieces) > 3 or singles * 2 > len(self.pieces)
        )
        return self.is_read and (is_spelt_out or not self.is_spaced)


def _is_plausible(phrase: Spelling, steps: _Steps) -> bool:
    """Whether words, gaps and repeats are those of a disguise, or there is none."""
    at, excess, is_split, is_spaced = 0, [], False, False
    words: list[_Word] = []
    for run, taken in steps:
        if taken == _GAP:
            is_split = is_split or run[0] != JOINT
            is_spaced = is_spaced or run[0] == " "
            continue
        if taken and at in phrase.starts:
            words.append(_Word())
        elif is_split and not is_spaceless(run[0]):
            words[-1].pieces.append(0)
            words[-1].is_spaced = words[-1].is_spaced or is_spaced
        is_split = is_spaced = False
        words[-1].pieces[-1] += taken
        words[-1].is_read = words[-1].is_read or _is_read(phrase, at, run, taken)
        if run[1] > taken:
            excess.append(run[1] - taken)
        at += taken
    is_repeated = not excess or len(excess) > 1 or max(excess) > 1 or at >= _LONG
    return is_repeated and all(word.is_plausible() for word in words)


def _is_read(phrase: Spelling, at: int, run: _Run, taken: int) -> bool:
    """Whether the run is the phrase's own character, or a symbol; digits alone are a number."""
    return (taken > 0 and run[0] == phrase.letters[at]) or run[0] in SYMBOLS
