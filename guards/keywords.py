"""Finds banned phrases and patterns in text, plain or disguised, all of them in one pass."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence

import msgspec
from ahocorasick_rs import BytesAhoCorasick, Implementation

from guards import normalise, spelling
from guards.beginnings import Beginnings
from guards.escapes import unescaped
from guards.patterns import WIDEST_OUTPUT, Patterns, width
from guards.spelling import Spelling

# What is spread over more text than this is no phrase: what is held back of a stream has an end.
WIDEST = 4096
# Long texts are taken piece by piece, which bounds the memory.
_BLOCK = 65_536
_MOST_MATCHES = 100


class Phrase(msgspec.Struct, frozen=True):
    """To be found as whole words; `rule` is what receipts name and must not say the text."""

    text: str
    rule: str
    group: str = ""


class Pattern(msgspec.Struct, frozen=True):
    """A regular expression in RE2's syntax; one for `input_only` may be of any width."""

    text: str
    rule: str
    group: str = ""
    input_only: bool = False


class Match(msgspec.Struct, frozen=True, order=True):
    """A rule was found at code points `start` to `end`, excluding `end`."""

    start: int
    end: int
    rule: str
    group: str


class Explanation(msgspec.Struct, frozen=True):
    """How a text is read, and what is found in it."""

    read_as: str
    matches: list[Match]


# The index of a phrase (those that are allowed stand after the banned ones), start, end.
Found = tuple[int, int, int]


class Rules:
    """Phrases and patterns, compiled once: 10,000 phrases take 0.3 s and 15 MB."""

    __slots__ = (
        "_automaton",
        "_beginnings",
        "_owners",
        "_spellings",
        "_texts",
        "all_patterns",
        "forms",
        "output_patterns",
        "patterns",
        "phrases",
        "version",
    )

    def __init__(
        self,
        phrases: Sequence[Phrase] = (),
        patterns: Sequence[Pattern] = (),
        allow: Sequence[str] = (),
    ) -> None:
        """`allow`: phrases inside which no other phrase counts.

        ValueError for a phrase without a letter or digit, for a pattern that RE2 does not take,
        and for one of unbounded width, or wider than 256, that is not for input only.
        """
        self.phrases = tuple(phrases)
        # Those for output first, so that an index means the same in both sets.
        self.patterns = tuple(sorted(patterns, key=lambda pattern: pattern.input_only))
        for_output = [pattern.text for pattern in patterns if not pattern.input_only]
        self.version = _digest([self.phrases, self.patterns, tuple(allow)])
        self._texts = [*(phrase.text for phrase in phrases), *allow]
        self._spellings: dict[int, Spelling] = {}
        self.forms: dict[bytes, list[int]] = {}
        for index, text in enumerate(self._texts):
            for form in normalise.forms(text):
                if not form:
                    raise ValueError(f"the phrase {text!r} has no letter and no digit")
                self.forms.setdefault(form.replace(b" ", b""), []).append(index)
        self._owners = list(self.forms.values())
        self._beginnings: tuple[Beginnings, Beginnings] | None = None
        self._automaton = BytesAhoCorasick(list(self.forms), implementation=Implementation.DFA)
        self.all_patterns = Patterns([pattern.text for pattern in self.patterns])
        self.output_patterns = Patterns(for_output)
        for text in for_output:
            _check_width(text)

    def scan(self, text: str) -> list[Match]:
        """The matches in `text` in order, at most 100."""
        return self._matches(text, _MOST_MATCHES)

    def first(self, text: str) -> Match | None:
        """A match in `text`, if there is one: as `scan`, without looking for more."""
        matches = self._matches(text, 1)
        return matches[0] if matches else None

    def scan_json(self, text: str) -> list[Match]:
        """As `scan`, of what the strings in a text of JSON mean; positions are those in `text`."""
        plain, starts = unescaped(text)
        return [
            msgspec.structs.replace(match, start=starts[match.start], end=starts[match.end])
            for match in self.scan(plain)
        ]

    def explain(self, text: str) -> Explanation:
        """What a reader of `text` would see, character by character, and the matches."""
        read_as = "".join(normalise.SPELT[ord(char)] for char in text)
        return Explanation(read_as, self.scan(text))

    def _matches(self, text: str, most: int) -> list[Match]:
        matches: set[Match] = set()
        for start in range(0, len(text), _BLOCK):
            end = min(start + _BLOCK + WIDEST, len(text))
            # A phrase may yet turn out to be allowed; without such a list a few are enough.
            enough = most if len(self._texts) == len(self.phrases) else None
            found = self.phrases_in(text, start, end, is_whole=True, most=enough)
            if found:
                matches.update(match for match in self.told(found) if match.start < start + _BLOCK)
            if len(matches) >= most:
                break
        if self.patterns and len(matches) < most:
            for index, at, to in self.all_patterns.matches(text):
                pattern = self.patterns[index]
                matches.add(Match(at, to, pattern.rule, pattern.group))
        return sorted(matches)[:most]

    def told(self, found: Sequence[Found]) -> Iterator[Match]:
        """The matches among `found`, without those inside something allowed."""
        banned = len(self.phrases)
        allowed = [each for each in found if each[0] >= banned]
        for index, start, end in found:
            if index < banned and not any(a <= start and end <= b for _, a, b in allowed):
                yield Match(start, end, self.phrases[index].rule, self.phrases[index].group)

    def phrases_in(
        self, text: str, start: int, end: int, *, is_whole: bool, most: int | None = None
    ) -> list[Found]:
        """The phrases, banned or allowed, in text[start:end]; `is_whole`: `text` ends at its end,
        otherwise more may follow. With `most` about so many and no more."""
        part = text[start:end]
        seen = normalise.classes(part)
        found: dict[Found, None] = {}
        readings = normalise.readings(seen, is_whole=is_whole)
        for reading in readings:
            marks = normalise.marked(reading)
            squeezed = normalise.squeezed(marks)
            near = self._automaton.find_matches_as_indexes(squeezed, overlapping=True)
            if near:
                heads = normalise.heads(seen, marks)
                # A symbol read as a letter may have become one with the next word.
                ends = heads if len(readings) == 1 else b"\1" * len(heads)
                near = [each for each in near if heads[each[1]] and ends[each[2]]]
            if near:
                origins = [start + at for at in normalise.origins(part, normalise.kept(marks))]
                spelt = self._spelt(text, near, origins, is_whole)
                found.update(dict.fromkeys(itertools.islice(spelt, most)))
        return list(found)

    def _spelt(
        self,
        text: str,
        near: Sequence[Found],
        origins: Sequence[int],
        is_whole: bool,
    ) -> Iterator[Found]:
        """Which of what was found in the short form is a phrase in the text itself."""
        misses: set[tuple[int, str, str]] = set()
        for form, first, after in near:
            start, end = origins[first], min(origins[after], origins[first] + WIDEST)
            before, rest = text[max(start - 2, 0) : start], text[start : end + 2]
            for index in self._owners[form]:
                # In a long text the same words come again and again.
                if (index, before, rest) in misses:
                    continue
                at = spelling.find(self._spelling(index), text, start, end, is_whole=is_whole)
                if at is not None:
                    yield index, *at
                elif before.isascii() and rest.isascii():
                    misses.add((index, before, rest))

    @property
    def beginnings(self) -> tuple[Beginnings, Beginnings]:
        """What all phrases begin with, and what those do that are allowed.

        Only streams need it; the first use takes as long as making the rules.
        """
        if self._beginnings is None:
            forms = [normalise.forms(text) for text in self._texts]
            allowed = forms[len(self.phrases) :]
            self._beginnings = (
                Beginnings(itertools.chain.from_iterable(forms)),
                Beginnings(itertools.chain.from_iterable(allowed)),
            )
        return self._beginnings

    def owner(self, form: bytes) -> Phrase | None:
        """A banned phrase that has this short form."""
        index = min(self.forms[form])
        return self.phrases[index] if index < len(self.phrases) else None

    def _spelling(self, index: int) -> Spelling:
        spelt = self._spellings.get(index)
        if spelt is None:
            spelt = self._spellings[index] = spelling.spelling(self._texts[index])
        return spelt


def _digest(rules: object) -> str:
    return hashlib.sha256(msgspec.json.encode(rules)).hexdigest()[:16]


def _check_width(pattern: str) -> None:
    widest = width(pattern)
    if widest is None:
        raise ValueError(f"the pattern {pattern!r} has no greatest width; bound its repeats")
    if widest > WIDEST_OUTPUT:
        raise ValueError(
            f"the pattern {pattern!r} is up to {widest} characters wide; "
            f"for output {WIDEST_OUTPUT} is the most"
        )
