"""Finds the phrases and patterns of `Rules` in text that arrives in pieces."""

import itertools
from collections.abc import Sequence

from guards import normalise
from guards.beginnings import HEAD, Beginnings
from guards.keywords import WIDEST, Found, Match, Rules
from guards.normalise import JOINT, OUTSIDE, TO_CLASS
from guards.patterns import PatternTail

_SPACE = ord(" ")


class StreamScanner:
    """Scans the text of one part, or of several in a row.

    After a match there is nothing more to feed. All positions count the code points that were fed,
    over all parts. At most 4 KiB are held: a phrase still open after so much text counts as found.
    """

    __slots__ = (
        "_allowed",
        "_allowed_beginnings",
        "_beginnings",
        "_heads",
        "_is_inside",
        "_patterns",
        "_rules",
        "_short",
        "_tail",
        "fed",
    )

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._beginnings, self._allowed_beginnings = rules.beginnings
        self._heads, self._short = self._beginnings.heads, self._beginnings.short
        self.fed = 0
        # What was fed, from the first place on at which a phrase may begin.
        self._tail = ""
        # Whether the tail goes on within a word.
        self._is_inside = False
        self._allowed: list[Match] = []
        patterns = rules.output_patterns
        self._patterns = PatternTail(patterns) if patterns.widest else None

    @property
    def safe(self) -> int:
        """How many code points from the start can be released: no match begins before."""
        return self.fed - self.held

    @property
    def held(self) -> int:
        """How many code points at the end cannot be released."""
        held = len(self._tail) - self._tail.count(JOINT) if self._tail else 0
        return held if self._patterns is None else max(held, self._patterns.held)

    def feed(self, text: str) -> Match | None:
        """The first of the matches that are complete with `text`."""
        self.fed += len(text)
        if not text.isascii():
            text = text.replace(JOINT, "\ufffd")
        match = self._take(self._tail + text if self._tail else text)
        return match if self._patterns is None else self._with_patterns(match, text)

    def finish(self) -> Match | None:
        """The first match of all, given that no text follows."""
        match = self._search(self._tail, is_whole=True)
        return self._with_patterns(match, "", is_whole=True)

    def next_part(self) -> Match | None:
        """The first match, given that the part ends here; what is fed next is another part.

        The end of a part is the end of a word. A phrase that is cut by it is found however the
        parts are put together: the end counts as a separator where the phrase has one, as nothing
        where it has none; a pattern is looked for in both, joined by nothing and by a line break.
        """
        match = self.finish()
        if match is None:
            match = self._with_patterns(self._take(self._tail + JOINT), JOINT)
        return match

    def _take(self, text: str) -> Match | None:
        """Search `text`, which begins with what is held; keep what must be held on."""
        # This runs for every piece of every stream: no call that can be spared.
        seen = text.encode().translate(TO_CLASS) if text.isascii() else normalise.classes(text)
        pieces = seen.split()
        letters = b"".join(pieces)
        if letters.isalpha():
            at = 0
            if self._is_inside and seen[0] != _SPACE:
                at = len(pieces.pop(0))
            heads = self._heads
            for piece in pieces:
                if letters[at : at + HEAD] in heads or (
                    self._short and self._beginnings.is_short(letters, at)
                ):
                    return self._follow(text, seen)
                at += len(piece)
        elif letters and any(map(self._may_begin, normalise.ways_apart(seen))):
            return self._search(text)
        if seen:
            self._is_inside = seen[-1:].isalpha()
        self._tail = ""
        return None

    def _may_begin(self, pieces: Sequence[bytes]) -> bool:
        """Whether a phrase may begin with one of `pieces`, by its first letters."""
        letters = b"".join(pieces)
        starts = itertools.accumulate(map(len, pieces), initial=0)
        return any(
            letters[at : at + HEAD] in self._heads or self._beginnings.is_short(letters, at)
            for at in starts
        )

    def _follow(self, text: str, seen: bytes) -> Match | None:
        """Look closer at `text` without symbols, where a phrase may begin by its first letters."""
        beginnings, forms = self._beginnings, self._rules.forms
        pieces = normalise.without_repeats(seen).split()
        is_inside = self._is_inside and seen[0] != _SPACE
        most = beginnings.longest + 1
        for at in range(is_inside, len(pieces)):
            near = pieces[at : at + most]
            letters = b"".join(near)
            if letters[:HEAD] not in beginnings.heads and not beginnings.is_short(letters, 0):
                continue
            ends = list(itertools.accumulate(map(len, near)))
            is_last = at + most >= len(pieces)
            if is_last and seen[-1] != _SPACE:
                ends.pop()
            if any(letters[:end] in forms for end in ends):
                return self._search(text)
            if is_last and self._is_open(letters, text, len(near[-1])):
                if len(text) > WIDEST:
                    return self._search(text)
                self._hold(text, seen, at)
                return None
        self._is_inside = seen[-1] != _SPACE
        self._tail = ""
        return None

    def _is_open(self, letters: bytes, text: str, last: int) -> bool:
        """Whether a phrase may begin with `letters`, which end `text` with a piece of `last`."""
        if self._beginnings.first_of(letters) is None:
            return False
        # After white space a word goes on only if it is spelt out letter by letter.
        return last <= 2 or not text[-1].isspace() or letters in self._beginnings.words

    def _hold(self, text: str, seen: bytes, piece: int) -> None:
        """Keep `text` from a piece of `seen` on."""
        at = 0
        for each in seen.split()[:piece]:
            at = seen.index(each, at) + len(each)
        at = len(seen) - len(seen[at:].lstrip())
        self._tail = text[normalise.origins(text, [at])[0] :]
        self._is_inside = False

    def _search(self, text: str, *, is_whole: bool = False) -> Match | None:
        context = OUTSIDE if self._is_inside else ""
        full = context + text
        found = self._rules.phrases_in(full, 0, len(full), is_whole=is_whole)
        if is_whole:
            return self._first(full, found, len(full))
        seen = normalise.classes(full)
        begins = may_be_allowed = len(full)
        for reading in normalise.readings(seen, is_whole=False):
            begins = min(begins, _opening(self._beginnings, full, seen, reading))
            opening = _opening(self._allowed_beginnings, full, seen, reading)
            may_be_allowed = min(may_be_allowed, opening)
        match = self._first(full, found, may_be_allowed)
        if match is None and len(full) - begins > WIDEST:
            match, begins = self._overlong(full, begins), len(full)
        self._tail = full[begins:]
        self._is_inside = normalise.classes(full[:begins])[-1:].isalpha()
        return match

    def _first(self, full: str, found: Sequence[Found], may_be_allowed: int) -> Match | None:
        """The first match among `found`, if it stands before what may turn out to be allowed."""
        banned, matches = self._rules.phrases, []
        for index, start, end in found:
            begin, after = self._position(full, start), self._position(full, end)
            if index >= len(banned):
                self._allowed.append(Match(begin, after, "", ""))
            elif start < may_be_allowed:
                matches.append(Match(begin, after, banned[index].rule, banned[index].group))
        self._allowed = [each for each in self._allowed if each.end > self._position(full, 0)]
        counting = [match for match in matches if not self._is_allowed(match)]
        return min(counting, default=None)

    def _is_allowed(self, match: Match) -> bool:
        return any(each.start <= match.start and match.end <= each.end for each in self._allowed)

    def _position(self, full: str, index: int) -> int:
        return self.fed - (len(full) - index) + full.count(JOINT, index)

    def _overlong(self, full: str, begins: int) -> Match | None:
        """The phrase that may begin at `begins`; None if that would be allowed."""
        seen = normalise.classes(full[begins:])
        for reading in normalise.readings(seen, is_whole=False):
            letters = normalise.squeezed(normalise.marked(reading))
            form = self._beginnings.first_of(letters)
            owner = self._rules.owner(form) if form is not None else None
            if owner is not None:
                start = self._position(full, begins)
                return Match(start, self.fed, owner.rule, owner.group)
        return None

    def _with_patterns(
        self, match: Match | None, text: str, *, is_whole: bool = False
    ) -> Match | None:
        if self._patterns is None:
            return match
        found = self._patterns.take(text, is_whole=is_whole)
        if found is None:
            return match
        index, start, end = found
        pattern = self._rules.patterns[index]
        other = Match(self.fed - start, self.fed - end, pattern.rule, pattern.group)
        return other if match is None else min(match, other)


def _opening(beginnings: Beginnings, text: str, seen: bytes, reading: bytes) -> int:
    """The first index of `text` at which a phrase may begin that is not complete, or its end."""
    marks = normalise.marked(reading)
    letters, heads = normalise.squeezed(marks), normalise.heads(seen, marks)
    for at in beginnings.open(letters, heads):
        return normalise.origins(text, [normalise.kept(marks)[at]])[0]
    return len(text)
