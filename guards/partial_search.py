"""Finds the phrases of `Rules` in text that may go on, and what of it may be the start of one."""

from collections.abc import Sequence

from guards import normalise
from guards.keywords import WIDEST, Found, Match, Rules
from guards.normalise import JOINT


class PartialSearch:
    """Searches the end of a text again and again while the text grows.

    What must be looked at again with what follows is a state: text, from the first place on at
    which a phrase may begin; or one of NOTHING, if none does. All
    positions count the code points of the whole text, JOINT excepted.
    """

    __slots__ = ("_allowed_beginnings", "_beginnings", "_end", "_rules", "allowed")

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._beginnings, self._allowed_beginnings = rules.beginnings
        self._end = 0
        # What was found of what is allowed, as far as a match may yet lie in it.
        self.allowed: list[Match] = []

    def take(self, text: str, end: int) -> tuple[Match | None, str]:
        """The first match in `text`, a state and what follows it, and the state after that.

        The text ends at `end`.
        """
        self._end = end
        known, begins = self._beginnings.look(text)
        match = None
        if known.is_found:
            found = self._rules.phrases_in(text, 0, len(text), is_whole=False)
            if found:
                match = self._first(text, found, self._allowed_beginnings.look(text)[1])
        if match is None and len(text) - begins > WIDEST:
            match, begins = self._overlong(text, begins), len(text)
        return match, text[begins:] or known.rest

    def finish(self, state: str, end: int) -> Match | None:
        """The first match in what was left, given that no text follows."""
        self._end = end
        found = self._rules.phrases_in(state, 0, len(state), is_whole=True)
        return self._first(state, found, len(state))

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
