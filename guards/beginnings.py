"""What phrases begin with: whether more text could still make one.

An automaton that reads text code point by code point. It is built as it is used: a step that was
taken before is one look into a dictionary, and most text takes the same few steps.
"""

import bisect
import functools
import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from guards.confusables import LEET, SYMBOLS
from guards.letters import JOINT, SPELT, is_letter, is_raised
from guards.normalise import OUTSIDE, class_of, class_of_all
from guards.spelling import MOST_SEPARATORS

# Of more steps than this all are forgotten: so many take some 20 MB.
_MOST_STEPS = 65_536
# A piece of more letters is a word, or a part of one, that is not spelt out.
_SPELT_OUT = 2
_NO_GAP = -1
# What went before: a letter, white space, a sign as itself, or anything else.
_LETTER, _SPACE, _OTHER = "a", " ", "-"


# Says how text goes on in which nothing has begun: within a word, or within the same sign.
NOTHING = frozenset(["", OUTSIDE, *(OUTSIDE + sign for sign in SYMBOLS)])


class _Open(NamedTuple):
    """A phrase that has begun and may go on."""

    letters: bytes  # of its short form, so far
    piece: int  # how many of them have come since a separator, at least
    gap: int  # how many separators since, or _NO_GAP


_START = _Open(b"", 0, 0)
_Opens = frozenset[_Open]


class State(dict[str, "State"]):
    """What is known after some text; as a dictionary: what it is after one code point more."""

    __slots__ = ("_beginnings", "before", "is_found", "open", "starts")

    def __init__(
        self, beginnings: "Beginnings", opens: _Opens, before: str, *, is_found: bool, starts: bool
    ) -> None:
        """`starts`: whether phrases may begin in what follows."""
        super().__init__()
        self._beginnings = beginnings
        self.open = opens
        self.before = before
        self.is_found = is_found  # whether a phrase was complete, by its short form
        self.starts = starts

    @property
    def rest(self) -> str:
        """What is searched again with what follows if nothing is open, one of NOTHING."""
        if self.before in SYMBOLS:
            return OUTSIDE + self.before
        return OUTSIDE if self.before == _LETTER else ""

    def __missing__(self, read: str) -> "State":
        symbols = _symbols(read)
        if symbols == [read]:
            state = self._beginnings.step(self, read)
        else:  # shared by all that is read alike
            state = functools.reduce(operator.getitem, symbols, self)
        self._beginnings.count_step()
        self[read] = state
        return state


class Beginnings:
    """The short forms of phrases, to be asked for what they begin with."""

    __slots__ = ("_complete", "_forms", "_signs", "_states", "_steps", "_words", "start")

    def __init__(self, spaced: Iterable[bytes], signs: Mapping[bytes, int]) -> None:
        """`spaced`: the forms with spaces between their words; `signs`: how many must follow those
        of phrases like "C++"."""
        words: set[bytes] = set()
        forms: set[bytes] = set()
        for form in spaced:
            *begun, whole = itertools.accumulate(form.split())
            words.update(begun)
            forms.add(whole)
        self._forms, self._complete = sorted(forms), forms
        # What can be followed by white space even if it is not spelt out letter by letter.
        self._words = words | forms
        self._signs = signs
        self._forget()

    def _forget(self) -> None:
        self._steps = 0
        self._states: dict[object, State] = {}
        self.start = self._state(frozenset(), _OTHER, is_found=False, starts=True)

    def count_step(self) -> None:
        """One more step is remembered; after too many all are forgotten."""
        self._steps += 1
        if self._steps > _MOST_STEPS:
            for state in self._states.values():
                state.clear()
            self._forget()

    def read(self, text: str) -> State:
        """What is known after `text`; OUTSIDE before it says that it goes on within a word."""
        return functools.reduce(operator.getitem, text, self.start)

    def look(self, text: str) -> tuple[State, int]:
        """As `read`; and the first index at which a phrase begins that may go on, or the end."""
        states = list(itertools.accumulate(text, operator.getitem, initial=self.start))
        at = end = len(text)
        while states[at].open:
            at -= 1
        while at < end and not self._is_open(text, at, states[at].before):
            at += 1
        return states[end], at

    def _is_open(self, text: str, at: int, before: str) -> bool:
        if not SPELT[ord(text[at])]:
            return False
        # What begins here and nowhere else.
        state = self._state(frozenset({_START}), before, is_found=False, starts=False)
        for char in itertools.islice(text, at, None):
            state = state[char]
            if not state.open:
                return False
        return True

    def first_of(self, letters: bytes) -> bytes | None:
        """A form that begins with `letters`, or is the same."""
        at = bisect.bisect_left(self._forms, letters)
        is_there = at < len(self._forms) and self._forms[at].startswith(letters)
        return self._forms[at] if is_there else None

    def step(self, state: State, symbol: str) -> State:
        """What is known after one symbol more: a letter, the class of a letter that is a word by
        itself, a sign, a separator."""
        is_inside, is_word = symbol.isalpha(), len(symbol) > 1
        is_found = state.is_found or (not is_inside and self._has_complete(state.open))
        opens: set[_Open] = set()
        if not (is_inside or is_word):
            opens.update(self._apart(state, symbol))
        joined = set(self._joined(state, symbol, is_word=is_word))
        is_found = is_found or (is_word and self._has_complete(joined))
        before = _LETTER if is_inside else _OTHER if is_word else symbol
        return self._state(
            frozenset(opens | joined), before, is_found=is_found, starts=state.starts
        )

    def _state(self, opens: _Opens, before: str, *, is_found: bool, starts: bool) -> State:
        key = opens, before, is_found, starts
        state = self._states.get(key)
        if state is None:
            state = State(self, opens, before, is_found=is_found, starts=starts)
            self._states[key] = state
        return state

    def _has_complete(self, opens: Iterable[_Open]) -> bool:
        return any(each.letters in self._complete for each in opens)

    def _apart(self, state: State, symbol: str) -> Iterator[_Open]:
        """What is open after one more separator, or sign that is none of its letters."""
        is_counted = symbol != JOINT and not (symbol == state.before == _SPACE)
        for letters, piece, gap in state.open:
            # In a word that is not spelt out white space is no disguise.
            is_end = symbol == _SPACE and piece > _SPELT_OUT and letters not in self._words
            goes_on = letters and self._goes_on(letters) and not is_end
            most = max(MOST_SEPARATORS if goes_on else -1, self._signs.get(letters, 0) - 1)
            after = max(gap, 0) + is_counted
            if after <= most:
                yield _Open(letters, piece, after)

    def _joined(self, state: State, symbol: str, *, is_word: bool) -> Iterator[_Open]:
        """What is open if the symbol is read as letters; `is_word`: they stand apart."""
        letters = _LETTERS.get(symbol, symbol.replace(" ", "")).encode()
        if not letters:
            return
        begun = (*state.open, _START) if state.starts else state.open
        # Within a word none begins, nor within the same sign several times.
        if state.before == symbol or (state.before == _LETTER and not is_word):
            begun = state.open - {_START}
        for read, piece, gap in begun:
            gap = max(gap, 0) if is_word else gap
            for at in range(len(letters)):
                letter = letters[at : at + 1]
                if gap == _NO_GAP and read.endswith(letter):
                    continue  # one letter, however often
                read, piece, gap = read + letter, piece + 1 if gap == _NO_GAP else 1, _NO_GAP
            if self.first_of(read) is not None:
                yield _Open(read, min(piece, _SPELT_OUT + 1), 0 if is_word else _NO_GAP)

    def _goes_on(self, letters: bytes) -> bool:
        """Whether a form begins with `letters` and is longer."""
        at = bisect.bisect_right(self._forms, letters)
        return at < len(self._forms) and self._forms[at].startswith(letters)


# What signs are read as, and what is no letter of a phrase.
_LETTERS = {sign: LEET[sign][0] for sign in SYMBOLS} | dict.fromkeys([*" -", JOINT, OUTSIDE], "")


@functools.lru_cache(4096)
def _symbols(read: str) -> list[str]:
    """What is read at a code point; a symbol is read as itself."""
    if len(read) > 1 or read in _LETTERS:
        return [read]
    spelt = SPELT[ord(read)]
    if is_raised(read):
        return [class_of_all(read, spelt)] if any(map(is_letter, spelt)) else [*spelt]
    return [class_of(each) if is_letter(each) else each for each in spelt]
