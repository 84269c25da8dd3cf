"""Finds the phrases of `Rules` in text that may go on, and what of it may be the start of one."""

import itertools
from collections.abc import Sequence

from guards import normalise
from guards.beginnings import HEAD, Beginnings
from guards.keywords import WIDEST, Found, Match, Rules
from guards.normalise import JOINT, OUTSIDE, TO_CLASS

_SPACE = ord(" ")
_Taken = tuple[Match | None, str]


class PartialSearch:
    """Searches the end of a text again and again while the text grows.

    What must be looked at again with what follows is a state: text, from the first place on at
    which a phrase may begin; OUTSIDE before it says that it goes on within a word. All positions
    count the code points of the whole text, JOINT excepted.
    """

    __slots__ = (
        "_allowed_beginnings",
        "_beginnings",
        "_end",
        "_heads",
        "_rules",
        "_short",
        "_shortest",
        "allowed",
    )

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._beginnings, self._allowed_beginnings = rules.beginnings
        self._heads, self._short = self._beginnings.heads, self._beginnings.short
        self._shortest = min(map(len, rules.forms), default=1)
        self._end = 0
        # What was found of what is allowed, as far as a match may yet lie in it.
        self.allowed: list[Match] = []

    def take(self, text: str, end: int) -> _Taken:
        """The first match in `text`, a state and what follows it, and the state after that.

        The text ends at `end`.
        """
        self._end = end
        is_inside = text.startswith(OUTSIDE)
        return self._look(text[1:] if is_inside else text, is_inside)

    def finish(self, state: str, end: int) -> Match | None:
        """The first match in what was left, given that no text follows."""
        self._end = end
        found = self._rules.phrases_in(state, 0, len(state), is_whole=True)
        return self._first(state, found, len(state))

    def _look(self, text: str, is_inside: bool) -> _Taken:
        """Search only where the first letters of a word are those of a phrase."""
        seen = text.encode().translate(TO_CLASS) if text.isascii() else normalise.classes(text)
        pieces = seen.split()
        letters = b"".join(pieces)
        if letters.isalpha():
            at = 0
            if is_inside and seen[0] != _SPACE:
                at = len(pieces.pop(0))
            heads = self._heads
            for piece in pieces:
                if letters[at : at + HEAD] in heads or (
                    self._short and self._beginnings.is_short(letters, at)
                ):
                    return self._follow(text, seen, is_inside)
                at += len(piece)
        elif letters:
            begins = self._begins(seen) if text.isascii() else None
            if begins is None or len(text) - begins > WIDEST:
                if any(map(self._may_begin, normalise.ways_apart(seen))):
                    return self._search(text, is_inside)
            elif begins < len(text):
                is_inside = seen[begins - 1 : begins].isalpha() if begins else is_inside
                return None, OUTSIDE + text[begins:] if is_inside else text[begins:]
        if seen:
            is_inside = seen[-1:].isalpha()
        return None, OUTSIDE if is_inside else ""

    def _begins(self, seen: bytes) -> int | None:
        """Where a phrase may begin that is too long to be complete, or the end; None: it may be.

        Numbers and signs are read as letters in several ways, and hardly ever are any.
        """
        begins = len(seen)
        for reading, pieces in normalise.readings_apart(seen):
            letters = b"".join(pieces)
            for at in itertools.accumulate(map(len, pieces[:-1]), initial=0):
                head = letters[at : at + HEAD]
                if head not in self._heads and not self._beginnings.is_short(letters, at):
                    continue
                if len(letters) - at >= self._shortest:
                    return None
                begins = min(begins, _suffix(reading, len(letters) - at))
                break
        return begins

    def _may_begin(self, pieces: Sequence[bytes]) -> bool:
        """Whether a phrase may begin with one of `pieces`, by its first letters."""
        letters = b"".join(pieces)
        starts = itertools.accumulate(map(len, pieces), initial=0)
        return any(
            letters[at : at + HEAD] in self._heads or self._beginnings.is_short(letters, at)
            for at in starts
        )

    def _follow(self, text: str, seen: bytes, is_inside: bool) -> _Taken:
        """Look closer at `text` without symbols, where a phrase may begin by its first letters."""
        beginnings, forms = self._beginnings, self._rules.forms
        pieces = normalise.without_repeats(seen).split()
        most = beginnings.longest + 1
        for at in range(is_inside and seen[0] != _SPACE, len(pieces)):
            near = pieces[at : at + most]
            letters = b"".join(near)
            if letters[:HEAD] not in beginnings.heads and not beginnings.is_short(letters, 0):
                continue
            ends = list(itertools.accumulate(map(len, near)))
            is_last = at + most >= len(pieces)
            if is_last and seen[-1] != _SPACE:
                ends.pop()
            if any(letters[:end] in forms for end in ends):
                return self._search(text, is_inside)
            if is_last and self._is_open(letters, text, len(near[-1])):
                if len(text) > WIDEST:
                    return self._search(text, is_inside)
                return None, _from_piece(text, seen, at)
        return None, OUTSIDE if seen[-1] != _SPACE else ""

    def _is_open(self, letters: bytes, text: str, last: int) -> bool:
        """Whether a phrase may begin with `letters`, which end `text` with a piece of `last`."""
        if self._beginnings.first_of(letters) is None:
            return False
        # After white space a word goes on only if it is spelt out letter by letter.
        return last <= 2 or not text[-1].isspace() or letters in self._beginnings.words

    def _search(self, text: str, is_inside: bool) -> _Taken:
        full = OUTSIDE + text if is_inside else text
        found = self._rules.phrases_in(full, 0, len(full), is_whole=False)
        seen = normalise.classes(full)
        begins = may_be_allowed = len(full)
        for reading in normalise.readings(seen, is_whole=False):
            begins = min(begins, _opening(self._beginnings, full, seen, reading))
            opening = _opening(self._allowed_beginnings, full, seen, reading)
            may_be_allowed = min(may_be_allowed, opening)
        match = self._first(full, found, may_be_allowed)
        if match is None and len(full) - begins > WIDEST:
            match, begins = self._overlong(full, begins), len(full)
        is_inside = normalise.classes(full[:begins])[-1:].isalpha()
        return match, OUTSIDE + full[begins:] if is_inside else full[begins:]

    def _first(self, full: str, found: Sequence[Found], may_be_allowed: int) -> Match | None:
        """The first match among `found`, if it stands before what may turn out to be allowed."""
        banned, matches = self._rules.phrases, []
        for index, start, end in found:
            begin, after = self._position(full, start), self._position(full, end)
            if index >= len(banned):
                self.allowed.append(Match(begin, after, "", ""))
            elif start < may_be_allowed:
                matches.append(Match(begin, after, banned[index].rule, banned[index].group))
        self.allowed = [each for each in self.allowed if each.end > self._position(full, 0)]
        counting = [match for match in matches if not self._is_allowed(match)]
        return min(counting, default=None)

    def _is_allowed(self, match: Match) -> bool:
        return any(each.start <= match.start and match.end <= each.end for each in self.allowed)

    def _position(self, full: str, index: int) -> int:
        return self._end - (len(full) - index) + full.count(JOINT, index)

    def _overlong(self, full: str, begins: int) -> Match | None:
        """The phrase that may begin at `begins`; None if that would be allowed."""
        seen = normalise.classes(full[begins:])
        for reading in normalise.readings(seen, is_whole=False):
            letters = normalise.squeezed(normalise.marked(reading))
            form = self._beginnings.first_of(letters)
            owner = self._rules.owner(form) if form is not None else None
            if owner is not None:
                start = self._position(full, begins)
                return Match(start, self._end, owner.rule, owner.group)
        return None


def _suffix(reading: bytes, size: int) -> int:
    """Where the last `size` letters of a reading begin."""
    at = len(reading)
    while size:
        at -= 1
        size -= reading[at] != _SPACE
    return at


def _from_piece(text: str, seen: bytes, piece: int) -> str:
    """`text` from a piece of `seen` on."""
    at = 0
    for each in seen.split()[:piece]:
        at = seen.index(each, at) + len(each)
    at = len(seen) - len(seen[at:].lstrip())
    return text[normalise.origins(text, [at])[0] :]


def _opening(beginnings: Beginnings, text: str, seen: bytes, reading: bytes) -> int:
    """The first index of `text` at which a phrase may begin that is not complete, or its end."""
    marks = normalise.marked(reading)
    letters, heads = normalise.squeezed(marks), normalise.heads(seen, marks)
    for at in beginnings.open(letters, heads):
        return normalise.origins(text, [normalise.kept(marks)[at]])[0]
    return len(text)
