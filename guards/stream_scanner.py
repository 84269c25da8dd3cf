"""Finds the phrases and patterns of `Rules` in text that arrives in pieces."""

from guards.beginnings import NOTHING
from guards.keywords import Match, Rules
from guards.letters import JOINT, has_tags, tags_of
from guards.partial_search import PartialSearch
from guards.patterns import PatternTail


class StreamScanner:
    """Scans the text of one part, or of several in a row.

    After a match there is nothing more to feed. All positions count the code points that were fed,
    over all parts. At most 4 KiB are held: a phrase still open after so much text counts as found.
    """

    __slots__ = ("_beginnings", "_patterns", "_rules", "_search", "_state", "_tags", "fed")

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._beginnings = rules.beginnings[0]
        self._search = PartialSearch(rules)
        self.fed = 0
        self._state = ""  # see PartialSearch
        patterns = rules.output_patterns
        self._patterns = PatternTail(patterns) if patterns.widest else None
        # What tags say, from the first one on.
        self._tags: StreamScanner | None = None

    @property
    def safe(self) -> int:
        """How many code points from the start can be released: no match begins before."""
        is_clear = self._state in NOTHING and self._patterns is None and self._tags is None
        return self.fed if is_clear else self.fed - self.held

    @property
    def held(self) -> int:
        """How many code points at the end cannot be released."""
        state = self._state
        held = 0 if state in NOTHING else len(state) - state.count(JOINT)
        if self._patterns is not None and (of_pattern := self._patterns.held):
            # And the end of a word that is stuck to it: what stands alone may be a phrase.
            held = max(held, min(of_pattern + 1, self.fed))
        return held if self._tags is None else max(held, self._tags.held)

    def feed(self, text: str) -> Match | None:
        """The first of the matches that are complete with `text`."""
        # This runs for every piece of every stream: no call that can be spared.
        if not text.isascii():
            text = text.replace(JOINT, "\ufffd")
            if self._tags is None and has_tags(text):
                self._tags = StreamScanner(self._rules)
                self._tags.fed = self.fed
        self.fed += len(text)
        whole = self._state + text
        known = self._beginnings.read(whole)
        if known.open or known.is_found:
            match, self._state = self._search.take(whole, self.fed)
        else:
            match, self._state = None, known.rest
        if self._patterns is not None:
            match = self._with_patterns(match, text)
        return match if self._tags is None else _first(match, self._tags.feed(tags_of(text)))

    def finish(self) -> Match | None:
        """The first match of all, given that no text follows."""
        match = self._search.finish(self._state, self.fed)
        match = self._with_patterns(match, "", is_whole=True)
        return match if self._tags is None else _first(match, self._tags.finish())

    def next_part(self) -> Match | None:
        """The first match, given that the part ends here; what is fed next is another part.

        The end of a part is the end of a word. A phrase that is cut by it is found however the
        parts are put together: the end counts as a separator where the phrase has one, as nothing
        where it has none; a pattern is looked for in both, joined by nothing and by a line break.
        """
        match = self.finish()
        if match is None:
            match, self._state = self._search.take(self._state + JOINT, self.fed)
            match = self._with_patterns(match, JOINT)
            if self._tags is not None:
                match = _first(match, self._tags.next_part())
        return match

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
        return _first(match, other)


def _first(one: Match | None, other: Match | None) -> Match | None:
    return min((each for each in (one, other) if each is not None), default=None)
