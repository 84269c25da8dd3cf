"""Finds the phrases and patterns of `Rules` in a text of JSON that arrives in pieces."""

from guards.escapes import unescaped, unfinished
from guards.keywords import Match, Rules
from guards.stream_scanner import StreamScanner


class JsonScanner:
    """As StreamScanner, for pieces of a text of JSON: searched is what its escapes stand for.

    All positions are those in the text as it was fed.
    """

    __slots__ = ("_begins", "_origins", "_rest", "_scanner")

    def __init__(self, rules: Rules) -> None:
        self._scanner = StreamScanner(rules)
        # Where the characters that are not released come from, and where the rest begins.
        self._origins: list[int] = []
        self._begins = 0
        self._rest = ""

    @property
    def safe(self) -> int:
        """How many code points from the start can be released."""
        return self._origins[0] if self._origins else self._begins

    def feed(self, text: str) -> Match | None:
        """The first of the matches that are complete with `text`."""
        if not self._rest and text.find("\\") < 0:
            return self._pass_on(text, is_plain=True)
        text = self._rest + text
        end = unfinished(text)
        self._rest = text[end:]
        return self._pass_on(text[:end])

    def finish(self) -> Match | None:
        """The first match of all, given that no text follows."""
        rest, self._rest = self._rest, ""
        return self._pass_on(rest) or self._told(self._scanner.finish())

    def next_part(self) -> Match | None:
        """As StreamScanner.next_part."""
        rest, self._rest = self._rest, ""
        return self._pass_on(rest) or self._told(self._scanner.next_part())

    def _pass_on(self, text: str, *, is_plain: bool = False) -> Match | None:
        begins = self._begins
        self._begins += len(text)
        if is_plain:  # then every character stands for itself
            match, held = self._scanner.feed(text), self._scanner.held
            if match is None and held <= len(text):
                self._origins = [*range(self._begins - held, self._begins)]
                return None
            self._origins += range(begins, self._begins)
        else:
            plain, starts = unescaped(text)
            self._origins += [begins + start for start in starts[:-1]]
            match, held = self._scanner.feed(plain), self._scanner.held
        if match is not None:
            return self._told(match)
        self._origins = self._origins[-held:] if held else []
        return None

    def _told(self, match: Match | None) -> Match | None:
        if match is None:
            return None
        first = self._scanner.fed - len(self._origins)
        places = [*self._origins, self._begins]
        return Match(
            places[match.start - first], places[match.end - first], match.rule, match.group
        )
