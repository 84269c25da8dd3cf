"""How seldom ordinary text is taken for a banned phrase, and how little of it is held back."""

import functools
import itertools
import random
import re
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from guards.keywords import Phrase, Rules
from guards.stream_scanner import StreamScanner

REALISTIC = [
    "project nightingale",
    "acme confidential",
    "kill yourself",
    "how to make a bomb",
    "bomb making",
    "credit card dump",
    "cheap viagra",
    "buy followers",
    "free bitcoin",
    "wire fraud",
    "child porn",
    "porn",
    "nazi",
    "heil hitler",
    "white power",
    "heroin",
    "cocaine",
    "meth lab",
    "suicide method",
    "self harm",
    "bitch",
    "asshole",
    "motherfucker",
    "shit",
    "slut",
    "rapist",
    "ignore previous instructions",
    "jailbreak",
    "system prompt",
    "ransomware",
]


@functools.cache
def sentences() -> list[str]:
    """Sentences of the docstrings of the standard library and of installed packages."""
    found: dict[str, None] = {}
    for name in ("stdlib", "purelib"):
        for file in sorted(Path(sysconfig.get_path(name)).rglob("*.py"))[::4]:
            if "test" in str(file) or (name == "stdlib" and "site-packages" in str(file)):
                continue
            for text in re.findall(r'"""(.{40,}?)"""', file.read_text(errors="replace"), re.DOTALL):
                found.update(dict.fromkeys(re.split(r"(?<=[.!?])\s+|\n\n", text)))
            if len(found) > (6_000 if name == "stdlib" else 12_000):
                break
    return [sentence for sentence in found if len(sentence) > 20]


def test_ordinary_sentences_are_not_hit() -> None:
    rules = Rules([Phrase(phrase, phrase) for phrase in REALISTIC])
    hits = [(match.rule, text) for text in sentences() for match in rules.scan(text)]
    print(f"{len(hits)} hits in {len(sentences())} sentences")  # noqa: T201
    for rule, text in hits:
        print(f"  {rule}: {text}")  # noqa: T201
    assert len(sentences()) >= 5_000
    # A hit that says the phrase outright is a hit.
    disguised = [hit for hit in hits if hit[0] not in hit[1].lower()]
    assert len(disguised) <= len(sentences()) / 1000


def _count() -> dict[str, int]:
    count: dict[str, int] = {}
    for word in re.findall(r"[a-z]{3,}", " ".join(sentences()).lower()):
        count[word] = count.get(word, 0) + 1
    return count


def _of_common_words() -> list[str]:
    """9,000 pairs of common words and 1,000 seldom words, all of the sentences' own."""
    count = {word: times for word, times in _count().items() if len(word) >= 5}
    seldom = sorted(word for word, times in count.items() if times == 1)
    often = sorted(count, key=lambda word: (-count[word], word))[200:390]
    pairs = [f"{a} {b}" for a, b in itertools.product(often[:90], often[90:])]
    return [*pairs, *seldom[:: len(seldom) // 1000][:1000]]


def _of_few_first_words() -> list[str]:
    """Pairs of any of the sentences' words, 50 for each of 200 first ones, which are seldom."""
    count, pick = _count(), random.Random(5)
    words = sorted(count)
    seldom = [word for word in words if len(word) >= 5 and count[word] == 1]
    return [f"{a} {b}" for a in pick.sample(seldom, 200) for b in pick.sample(words, 50)]


def _of_all_words() -> list[str]:
    """Pairs of any of the sentences' words."""
    words, pick = sorted(_count()), random.Random(5)
    return [" ".join(pick.sample(words, 2)) for _ in range(10_000)]


LISTS: dict[str, Callable[[], list[str]]] = {
    "30 phrases as people ban them": lambda: REALISTIC,
    "10,000 that begin with 200 seldom words": _of_few_first_words,
    "10,000 that begin with common words": _of_common_words,
    "10,000 that begin with any word of the text": _of_all_words,
}


def _prose() -> list[str]:
    """Pieces of sentences that are words and punctuation, as models give them out."""
    told = re.compile(r"[A-Z][a-z]*(?:[ \n]\(?[A-Za-z][a-z'-]*[,;:)]?)+[.!?]")
    texts = [sentence for sentence in sentences() if told.fullmatch(sentence)]
    return _tokens(re.sub(r"\s+", " ", " ".join(texts)))[:20_000]


def _least(phrases: list[str], pieces: list[str]) -> float:
    """The share of pieces after which the text, as it is written, ends with the beginning of a
    phrase: none of them can be let out whatever is done."""
    begun = {phrase[:size] for phrase in phrases for size in range(1, len(phrase) + 1)}
    longest, text, held = max(map(len, phrases)), "", 0
    for piece in pieces:
        text = (text + piece.lower())[-longest - 1 :]
        starts = re.finditer(r"(?<![a-z0-9])[a-z0-9]", text)
        held += any(text[start.start() :] in begun for start in starts)
    return held / len(pieces)


def _tokens(text: str) -> list[str]:
    return re.findall(r" ?[A-Za-z]{1,6}| ?[0-9]{1,3}|\s+| ?[^\sA-Za-z0-9]{1,3}", text)


def _held(phrases: list[str], pieces: list[str]) -> float:
    rules = Rules([Phrase(text, "r") for text in phrases])
    scanner, held, fed = StreamScanner(rules), 0, 0
    for piece in pieces:
        match = scanner.feed(piece)
        fed += len(piece)
        held += scanner.safe < fed
        if match is not None:
            scanner, fed = StreamScanner(rules), 0
    return held / len(pieces)


@pytest.mark.parametrize(("phrases", "most"), [(REALISTIC, 0.2), (_of_common_words, 0.6)])
def test_few_pieces_of_code_and_its_description_are_held(phrases: object, most: float) -> None:
    texts = phrases() if callable(phrases) else REALISTIC
    pieces = _tokens(" ".join(sentences()[:500]))
    held, least = _held(texts, pieces), _least(texts, pieces)
    print(f"{len(texts)} phrases: {held:.1%} of {len(pieces)} pieces held, at least {least:.1%}")  # noqa: T201
    assert held <= most


@pytest.mark.parametrize("name", LISTS)
def test_of_ordinary_text_hardly_more_is_held_than_must_be(name: str) -> None:
    texts, pieces = LISTS[name](), _prose()
    held, least = _held(texts, pieces), _least(texts, pieces)
    print(f"{name}: {held:.1%} of {len(pieces)} pieces held, at least {least:.1%}")  # noqa: T201
    assert held <= least + 0.12
    if name in ("30 phrases as people ban them", "10,000 that begin with 200 seldom words"):
        assert held <= 0.25
