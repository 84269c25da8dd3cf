"""The short forms of phrases, and where a text looks like one of them."""

import itertools
import operator
from collections.abc import Callable, Iterable, Sequence

from ahocorasick_rs import BytesAhoCorasick, Implementation

from guards import normalise, spelling
from guards.places import Found
from guards.spelling import Spelling
from guards.words import Words

_Search = Callable[..., list[Found]]
# The marks of a text as it is read, and where it looks like a phrase.
Near = tuple[bytes, list[Found]]
# Of a text that is so long, and where so much of a sample looks like a phrase, the words are looked
# at first.
_LONG, _SAMPLE, _MUCH = 8192, 1024, 100


class Forms:
    """The short forms of phrases, and where a text looks like one of them."""

    __slots__ = (
        "_find",
        "_find_signed",
        "_plain",
        "_signs",
        "_spellings",
        "_words",
        "all",
        "owners",
        "texts",
    )

    def __init__(self, texts: Sequence[str]) -> None:
        """ValueError for a phrase without a letter or digit."""
        self.texts = texts
        self._spellings: dict[int, Spelling] = {}
        self.all: dict[bytes, list[int]] = {}
        self._words = Words(self.all, self.spelling)
        for index, text in enumerate(texts):
            for form in normalise.forms(text):
                if not form:
                    raise ValueError("a phrase has no letter and no digit")
                self.all.setdefault(form.replace(b" ", b""), []).append(index)
                self._words.add(form, index, text)
        # Those of phrases like "C++" alone are looked for where there is a "++".
        signed = self._signed()
        plain = [form for form in self.all if form not in signed]
        self.owners = [self.all[form] for form in [*plain, *signed]]
        self._plain = len(plain)
        self._signs = {*itertools.chain.from_iterable(signed.values())}
        self._find, self._find_signed = _search(plain), _search(signed)

    def _signed(self) -> dict[bytes, list[str]]:
        """The forms that only phrases like "C++" have, and what must stand after each."""
        signed: dict[bytes, list[str]] = {}
        signs = self.ending_in_signs()
        for form, owners in self.all.items():
            if signs.issuperset(owners):
                after = [self.spelling(index).after for index in owners]
                if all(after):
                    signed[form] = after
        return signed

    def ending_in_signs(self) -> set[int]:
        """The phrases after whose last letter something may have to stand."""
        return {index for index, text in enumerate(self.texts) if not text[-1].isalnum()}

    def spelling(self, index: int) -> Spelling:
        """How a phrase is spelt."""
        spelt = self._spellings.get(index)
        if spelt is None:
            spelt = self._spellings[index] = spelling.spelling(self.texts[index])
        return spelt

    def reach(self, near: Iterable[Found]) -> int:
        """How many characters after the last letter matter to any of these, at most."""
        owners = itertools.chain.from_iterable(self.owners[form] for form in {x[0] for x in near})
        return 1 + max(len(self.spelling(index).after) for index in owners)

    def near(self, text: str, start: int, end: int, *, is_whole: bool) -> list[Near]:
        """Where text[start:end] looks like a phrase, in each way to read its symbols."""
        part = text[start:end]
        if len(part) > _LONG and part.isascii() and self._is_worth_it(part[:_SAMPLE]):
            seen, readings = self._words.read(part, is_whole=is_whole)
        else:
            seen, readings = normalise.read(part, is_whole=is_whole)
        is_signed = bool(self._signs) and self._has_signs(text, start, end)
        found: list[Near] = []
        for reading in readings:
            marks = normalise.marked(reading)
            short = normalise.squeezed(marks)
            near = self._find(short, overlapping=True)
            if is_signed:
                near = self._with_signed(short, near)
            if near:
                heads = normalise.heads(seen, marks)
                near = [each for each in near if heads[each[1]]]
                # A symbol read as a letter may have become one with the next word.
                if len(readings) == 1:
                    near = [each for each in near if heads[each[2]]]
            if near:
                found.append((marks, near))
        return found

    def _has_signs(self, text: str, start: int, end: int) -> bool:
        return any(text.find(sign, start, end + len(sign)) >= 0 for sign in self._signs)

    def _with_signed(self, short: bytes, near: list[Found]) -> list[Found]:
        found = self._find_signed(short, overlapping=True)
        near += [(self._plain + form, first, after) for form, first, after in found]
        return sorted(near, key=operator.itemgetter(2))

    def _is_worth_it(self, sample: str) -> bool:
        """Whether much looks like a phrase, and less without the words that are no part of one."""
        many = self._work(*normalise.read(sample, is_whole=False))
        return many > _MUCH and self._work(*self._words.read(sample, is_whole=False)) < many / 2

    def _work(self, seen: bytes, readings: Iterable[bytes]) -> int:
        """How often a text looks like a phrase; twice if it does where a word begins."""
        work = 0
        for marks in map(normalise.marked, readings):
            near = self._find(normalise.squeezed(marks), overlapping=True)
            heads = normalise.heads(seen, marks)
            work += len(near) + sum(heads[each[1]] for each in near)
        return work


def _search(forms: Iterable[bytes]) -> _Search:
    return BytesAhoCorasick(forms, implementation=Implementation.DFA).find_matches_as_indexes
