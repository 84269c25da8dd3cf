"""Finds banned phrases and patterns in text, plain or disguised, all of them in one pass."""

import bisect
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from guards import escapes, letters, normalise, spelling
from guards.beginnings import Beginnings
from guards.forms import Forms, Near
from guards.patterns import WIDEST_OUTPUT, Patterns, width
from guards.places import WIDEST as WIDEST
from guards.places import Found as Found
from guards.places import Places, Surroundings
from guards.turns import Turns, at_once

# Long texts are taken piece by piece, which bounds the memory.
_BLOCK = 32_768
_MOST_MATCHES = 100
# A turn is so many characters long, which take some milliseconds at most.
_TURN = 65_536


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


# So many places are looked at together.
_AT_ONCE = 256
# Between texts that are searched as one: more separators than any phrase has in a gap.
_APART = "....."


class Rules:
    """Phrases and patterns, compiled once: 10,000 phrases take 0.3 s and 20 MB."""

    __slots__ = (
        "_beginnings",
        "_forms",
        "_has_allowed",
        "all_patterns",
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
        texts = [*(phrase.text for phrase in phrases), *allow]
        self._forms = Forms(texts)
        self._has_allowed = len(allow) > 0
        self._beginnings: tuple[Beginnings, Beginnings] | None = None
        self.all_patterns = Patterns([pattern.text for pattern in self.patterns])
        self.output_patterns = Patterns(for_output)
        for text in for_output:
            _check_width(text)

    def scan(self, text: str) -> list[Match]:
        """The matches in `text` in order, at most 100."""
        return self.found(text, most=_MOST_MATCHES)

    def first(self, text: str) -> Match | None:
        """A match in `text`, if there is one: as `scan`, without looking for more."""
        matches = self.found(text, most=1)
        return matches[0] if matches else None

    def found(self, text: str, *, is_json: bool = False, most: int | None = None) -> list[Match]:
        """As `steps`, at once."""
        if self._is_one_block(text) and not (is_json and "\\" in text):
            return self._in_all(text, most)
        return at_once(self.steps(text, is_json=is_json, most=most))

    def steps(
        self, text: str, *, is_json: bool = False, most: int | None = None
    ) -> Turns[list[Match]]:
        """The matches in `text` in order, in turns; with `most` so many are enough.

        `is_json`: of what the strings in a text of JSON mean; positions are those in `text`.
        """
        plain = escapes.plain(text) if is_json else text
        if self._is_one_block(plain):
            matches = self._in_all(plain, most)
        else:
            matches = yield from self._in_pieces(plain, most)
        if not matches or plain == text:
            return matches
        ends = sorted({at for match in matches for at in (match.start, match.end)})
        origins = yield from escapes.tracing(text, ends)
        places = dict(zip(ends, origins, strict=True))
        return [
            msgspec.structs.replace(match, start=places[match.start], end=places[match.end])
            for match in matches
        ]

    def _is_one_block(self, text: str) -> bool:
        return len(text) <= _BLOCK and text.isascii() and not self.patterns

    def _in_all(self, text: str, most: int | None) -> list[Match]:
        near = self._forms.near(text, 0, len(text), is_whole=True)
        return self._counting(near, text, 0, len(text), most)[:most] if near else []

    def _in_pieces(self, text: str, most: int | None) -> Turns[list[Match]]:
        matches: list[Match] = []
        done = 0
        for found, size in self._pieces(text, most):
            matches += found
            if most is not None and len(matches) >= most:
                break
            done += size
            if done >= _TURN:
                done = 0
                yield
        if matches and (self.patterns or not text.isascii()):
            matches = [match for match, _ in itertools.groupby(sorted(matches))]
        return matches[:most]

    def is_clear(self, texts: Sequence[str]) -> bool:
        """Whether surely nothing is found in any of these, by one search for all: short texts cost
        mostly what a search costs. False: each is to be looked at."""
        whole = _APART.join(texts)
        if self.patterns or len(whole) > _BLOCK:
            return False
        if not whole.isascii():
            # What is ASCII takes a tenth of the time.
            others = [text for text in texts if not text.isascii()]
            if len(others) < len(texts):
                return self.is_clear(others) and self.is_clear([*filter(str.isascii, texts)])
            if letters.has_tags(whole):
                return False
        near = self._forms.near(whole, 0, len(whole), is_whole=True)
        return not (near and self._spelt_out(near, whole, 0, len(whole), True, 1))

    def explain(self, text: str) -> Explanation:
        """What a reader of `text` would see, character by character, and the matches."""
        read_as = "".join(letters.SPELT[ord(char)] for char in text)
        return Explanation(read_as, self.scan(text))

    def _pieces(self, text: str, most: int | None) -> Iterator[tuple[Iterable[Match], int]]:
        """The matches of each piece of work, those of phrases in order, and how many characters
        were looked at."""
        for start in range(0, len(text), _BLOCK):
            yield self._in_block(text, start, most), min(_BLOCK, len(text) - start)
        if self.patterns:
            for places, size in self.all_patterns.pieces(text):
                yield map(self._of_pattern, places), size
        if not text.isascii() and letters.has_tags(text):
            yield from self._pieces(letters.tags_of(text), most)

    def _in_block(self, text: str, start: int, most: int | None) -> list[Match]:
        """The matches of phrases that begin in a block, in order."""
        # A phrase may yet turn out to be allowed, by what began before the block.
        first = max(start - WIDEST, 0) if self._has_allowed else start
        end = start + _BLOCK
        near = self._forms.near(text, first, end + WIDEST, is_whole=True)
        matches = self._counting(near, text, first, end + WIDEST, most) if near else []
        return [match for match in matches if start <= match.start < end]

    def _counting(
        self, near: Sequence[Near], text: str, start: int, end: int, most: int | None
    ) -> list[Match]:
        """The matches in text[start:end], which is `near` phrases, in order."""
        # Where something is allowed one more may decide, otherwise a few are enough.
        enough = None if self._has_allowed else most
        return sorted({*self.told(self._spelt_out(near, text, start, end, True, enough))})

    def _of_pattern(self, place: Found) -> Match:
        pattern = self.patterns[place[0]]
        return Match(place[1], place[2], pattern.rule, pattern.group)

    def told(self, found: Sequence[Found]) -> Iterator[Match]:
        """The matches among `found`, without those inside something allowed."""
        banned = len(self.phrases)
        allowed = sorted(each[1:] for each in found if each[0] >= banned)
        starts = [start for start, _ in allowed]
        # How far at least one that begins there or before goes.
        reaches = [0, *itertools.accumulate((end for _, end in allowed), max)]
        for index, start, end in found:
            if index < banned and reaches[bisect.bisect_right(starts, start)] < end:
                yield Match(start, end, self.phrases[index].rule, self.phrases[index].group)

    def phrases_in(self, text: str, start: int, end: int, *, is_whole: bool) -> list[Found]:
        """The phrases, banned or allowed, in text[start:end]; `is_whole`: `text` ends at its end,
        otherwise more may follow."""
        near = self._forms.near(text, start, end, is_whole=is_whole)
        return self._spelt_out(near, text, start, end, is_whole, None) if near else []

    def _spelt_out(
        self,
        near: Sequence[Near],
        text: str,
        start: int,
        end: int,
        is_whole: bool,
        most: int | None,
    ) -> list[Found]:
        """What of text[start:end] is a phrase where it is `near` one; with `most` about so many."""
        found: dict[Found, None] = {}
        for marks, places in near:
            where = Places(text[start:end], marks, places, self._forms.reach(places))
            spelt = self._spelt(text, start, where, places, is_whole)
            found.update(dict.fromkeys(itertools.islice(spelt, most)))
        return list(found)

    def _spelt(
        self, text: str, start: int, places: Places, near: Sequence[Found], is_whole: bool
    ) -> Iterator[Found]:
        """Which of what was found in the short form is a phrase in the text itself."""
        # What is found in the same surroundings, from the first letter on.
        known: dict[Surroundings, list[Found]] = {}
        for begin in range(0, len(near), _AT_ONCE):
            some = near[begin : begin + _AT_ONCE]
            around = places.around(some)
            for place, (form, first, after) in dict(zip(around, some, strict=True)).items():
                if place not in known:
                    at, to = places.between(first, after)
                    known[place] = list(self._find(form, text, start + at, start + to, is_whole))
            if any(map(known.__getitem__, around)):
                for place, (_, first, _) in zip(around, some, strict=True):
                    at = start + places.between(first, first)[0]
                    for index, begins, ends in known[place]:
                        yield index, at + begins, at + ends

    def _find(self, form: int, text: str, start: int, end: int, is_whole: bool) -> Iterator[Found]:
        """The phrases of this form in text[start:end], counted from there."""
        for index in self._forms.owners[form]:
            at = spelling.find(self._forms.spelling(index), text, start, end, is_whole=is_whole)
            if at is not None:
                yield index, at[0] - start, at[1] - start

    @property
    def beginnings(self) -> tuple[Beginnings, Beginnings]:
        """What all phrases begin with, and what those do that are allowed.

        Only streams need it; the first use takes as long as making the rules.
        """
        if self._beginnings is None:
            forms = [normalise.forms(text) for text in self._forms.texts]
            allowed = forms[len(self.phrases) :]
            signs: dict[bytes, int] = {}
            for index in self._forms.ending_in_signs():
                for form in (each.replace(b" ", b"") for each in forms[index]):
                    signs[form] = max(signs.get(form, 0), len(self._forms.spelling(index).after))
            self._beginnings = (
                Beginnings(itertools.chain.from_iterable(forms), signs),
                Beginnings(itertools.chain.from_iterable(allowed), signs),
            )
        return self._beginnings

    def owner(self, form: bytes) -> Phrase | None:
        """A banned phrase that has this short form."""
        index = min(self._forms.all[form])
        return self.phrases[index] if index < len(self.phrases) else None


def _digest(rules: object) -> str:
    return hashlib.sha256(msgspec.json.encode(rules)).hexdigest()[:16]


def _check_width(pattern: str) -> None:
    widest = width(pattern)
    if widest is None:
        raise ValueError("a pattern has no greatest width; bound its repeats")
    if widest > WIDEST_OUTPUT:
        raise ValueError(
            f"a pattern is up to {widest} characters wide; for output {WIDEST_OUTPUT} is the most"
        )
