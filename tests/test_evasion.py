"""How much of what is written to get past the phrases is found."""

import random
import unicodedata
from collections.abc import Callable

import pytest

from guards.confusables import LEET, LOOK_ALIKE
from guards.keywords import Phrase, Rules
from guards.stream_scanner import StreamScanner

PHRASES = [
    "forbidden phrase",
    "kill yourself",
    "cheap viagra",
    "bomb making",
    "project nightingale",
    "credit card dump",
    "heroin for sale",
    "therapist",
    "cocaine",
    "suicide",
    "ransomware",
    "wire fraud",
]

_TWINS: dict[str, list[str]] = {}
for _char, _letter in {**LOOK_ALIKE, **{k: v for k, vs in LEET.items() for v in vs}}.items():
    _TWINS.setdefault(_letter, []).append(_char)


def _some(pick: random.Random, phrase: str, change: Callable[[str], str], share: float) -> str:
    return "".join(
        change(char) if char.isalpha() and pick.random() < share else char for char in phrase
    )


def look_alikes(pick: random.Random, phrase: str) -> str:
    choices = {
        letter: [twin for twin in twins if not twin.isascii()] for letter, twins in _TWINS.items()
    }
    return _some(pick, phrase, lambda char: pick.choice(choices.get(char) or [char]), 0.6)


def leet(pick: random.Random, phrase: str) -> str:
    choices = {
        letter: [twin for twin in twins if twin.isascii()] for letter, twins in _TWINS.items()
    }
    inner = _some(pick, phrase[:-1], lambda char: pick.choice(choices.get(char) or [char]), 0.4)
    return phrase[0] + inner[1:] + phrase[-1]


def wide(pick: random.Random, phrase: str) -> str:
    start = pick.choice([0xFF41, 0x1D4EA, 0x24D0, 0x1D5BA])
    return _some(
        pick,
        phrase,
        lambda char: chr(start + ord(char) - 97) if "a" <= char <= "z" else char,
        0.8,
    )


def unseen(pick: random.Random, phrase: str) -> str:
    return _some(
        pick, phrase, lambda char: char + pick.choice("\u200b\u200d\u2060\u00ad\ufeff"), 0.5
    )


def marks(pick: random.Random, phrase: str) -> str:
    zalgo = [chr(code) for code in range(0x300, 0x370)]
    return _some(pick, phrase, lambda char: char + "".join(pick.choices(zalgo, k=3)), 0.7)


def accents(pick: random.Random, phrase: str) -> str:
    def accented(char: str) -> str:
        return unicodedata.normalize("NFC", char + pick.choice("\u0301\u0308\u0302"))

    return _some(pick, phrase, accented, 0.6)


def repeats(pick: random.Random, phrase: str) -> str:
    return _some(pick, phrase, lambda char: char * pick.randint(2, 4), 0.5)


def separators(pick: random.Random, phrase: str) -> str:
    marks = [".", "-", "_", "*", "/", "·", "..", "~", " ", "--", "- ", " . "]
    mark = pick.choice(marks)
    uniform = pick.random() < 0.5
    return (
        "".join(
            char + (mark if uniform else pick.choice(marks)) for char in phrase[:-1] if char != " "
        )
        + phrase[-1]
    )


def some_separators(pick: random.Random, phrase: str) -> str:
    return _some(pick, phrase[:-1], lambda char: char + pick.choice("._-*~^"), 0.3) + phrase[-1]


def cases(pick: random.Random, phrase: str) -> str:
    return _some(pick, phrase, str.upper, 0.5)


# Each works on what the ones before it have left.
WAYS = [
    cases,
    leet,
    look_alikes,
    wide,
    repeats,
    some_separators,
    separators,
    accents,
    marks,
    unseen,
]


def corpus(count: int) -> list[tuple[str, str]]:
    """(the ways, the disguised phrase within a sentence), the same ones every time."""
    pick = random.Random(7)
    made = []
    while len(made) < count:
        phrase = pick.choice(PHRASES)
        ways = sorted(pick.sample(WAYS, pick.choice([1, 1, 2, 3])), key=WAYS.index)
        # Letters are taken apart once, and those written several times not as well.
        if len({repeats, separators, some_separators} & set(ways)) > 1:
            continue
        text = phrase
        for way in ways:
            text = way(pick, text)
        if text != phrase:
            made.append((" + ".join(way.__name__ for way in ways), f"well, {text}, you know"))
    return made


def test_nearly_every_disguise_is_seen_through() -> None:
    rules = Rules([Phrase(phrase, phrase) for phrase in PHRASES])
    made = corpus(2000)
    missed = [(ways, text) for ways, text in made if not rules.scan(text)]
    print(f"{len(made) - len(missed)} of {len(made)} found")  # noqa: T201
    for ways, text in missed[:20]:
        print(f"  missed: {ways}: {text}")  # noqa: T201
    assert len(missed) <= len(made) / 100


def _shifted(start: int) -> Callable[[str], str]:
    return lambda text: "".join(
        chr(start + ord(char) - 97) if char.isalpha() else char for char in text
    )


def _drawn(letters: str, twins: str) -> Callable[[str], str]:
    return lambda text: text.translate(str.maketrans(letters, twins))


DISGUISES: dict[str, Callable[[str], str]] = {
    "a trade mark": lambda text: f"{text}\u2122",
    "the number of a note": lambda text: f"{text}\u00b2",
    "a number in a circle": lambda text: f"{text}\u2460 and",
    "a number before it": lambda text: f"1\u00b3{text}",
    "variation selectors of Mongolian": "\u180b".join,
    "vowels of Khmer that are not seen": "\u17b4".join,
    "what is not assigned and ignored": "\ufff3".join,
    "tags between": "\U000e0061".join,
    "in parentheses": _shifted(0x249C),
    "capitals in parentheses": _shifted(0x1F110),
    "tags alone": lambda text: "".join(chr(0xE0000 + ord(char)) for char in text),
    "tags between words": lambda text: "I \U0001f600" + DISGUISES["tags alone"](text) + " you",
    "Cherokee": _drawn("abcdehilprsyow", "ᎪᏴᏟᎠᎬᎻᏆᏞᏢᏒᏚᎽᎾᏔ"),
    "Lisu": _drawn("abcdefghiklmnoprstuvwxyz", "ꓮꓐꓚꓓꓰꓝꓖꓧꓲꓗꓡꓟꓠꓳꓑꓣꓢꓔꓴꓦꓪꓫꓬꓜ"),  # noqa: RUF001
}


@pytest.mark.parametrize("name", DISGUISES)
@pytest.mark.parametrize("phrase", ["cheap pills", "therapist"])
def test_a_disguise_is_seen_through_at_once_and_in_pieces(name: str, phrase: str) -> None:
    rules = Rules([Phrase(phrase, "r"), Phrase("other", "o")])
    text = f"buy {DISGUISES[name](phrase)} now"
    (match,) = rules.scan(text)
    for size in (1, 3):
        scanner, found = StreamScanner(rules), None
        for at in range(0, len(text), size):
            found = found or scanner.feed(text[at : at + size])
            assert found or scanner.safe <= match.start
        assert found == match


@pytest.mark.parametrize(
    "text", ["b²omb", "bombast²", "²bombs", "bom\U000e0062", "🏴\U000e0067\U000e007f bom"]
)
def test_what_is_no_disguise_is_no_match(text: str) -> None:
    assert Rules([Phrase("bomb", "r")]).first(text) is None
