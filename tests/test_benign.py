"""How seldom ordinary text is taken for a banned phrase, and how little of it is held back."""

import functools
import itertools
import re
import sysconfig
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


def _ten_thousand() -> list[str]:
    """9,000 pairs of words and 1,000 seldom words, all of the sentences' own."""
    count: dict[str, int] = {}
    for word in re.findall(r"[a-z]{5,}", " ".join(sentences()).lower()):
        count[word] = count.get(word, 0) + 1
    seldom = sorted(word for word, times in count.items() if times == 1)
    often = sorted(count, key=lambda word: (-count[word], word))[200:390]
    pairs = [f"{a} {b}" for a, b in itertools.product(often[:90], often[90:])]
    return [*pairs, *seldom[:: len(seldom) // 1000][:1000]]


def _tokens(text: str) -> list[str]:
    return re.findall(r" ?[A-Za-z]{1,6}| ?[0-9]{1,3}|\s+| ?[^\sA-Za-z0-9]{1,3}", text)


@pytest.mark.parametrize(
    ("phrases", "most"), [(REALISTIC, 0.2), (_ten_thousand, 0.6)], ids=["30", "10000"]
)
def test_few_pieces_of_ordinary_text_are_held(phrases: object, most: float) -> None:
    texts = phrases() if callable(phrases) else REALISTIC
    rules = Rules([Phrase(text, "r") for text in texts])
    tokens = _tokens(" ".join(sentences()[:500]))
    scanner, held, fed = StreamScanner(rules), 0, 0
    for token in tokens:
        match = scanner.feed(token)
        fed += len(token)
        held += scanner.safe < fed
        if match is not None:
            scanner, fed = StreamScanner(rules), 0
    print(f"{len(texts)} phrases: {held / len(tokens):.1%} of {len(tokens)} pieces held")  # noqa: T201
    assert held / len(tokens) <= most
