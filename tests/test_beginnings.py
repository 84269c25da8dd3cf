"""The automaton that knows what phrases begin with."""

import itertools
import time

import pytest

from guards.beginnings import Beginnings
from guards.keywords import Phrase, Rules
from guards.stream_scanner import StreamScanner

SYLLABLES = ["".join(each) for each in itertools.product("bdkmrt", "aeiou")]
WORDS = [f"{a}{b}n" for a, b in itertools.product(SYLLABLES, SYLLABLES)][::4]
MANY = Rules([Phrase(f"{a} {b}ic", "r") for a, b in itertools.product(WORDS[:200], WORDS[:50])])


def beginnings(*phrases: str) -> Beginnings:
    return Rules([Phrase(text, "r") for text in phrases]).beginnings[0]


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("so che", 3),
        ("so cheap pill", 3),
        ("so c.h.e.a", 3),
        ("so cheap... pills", 17),
        ("so c-h.ea p", 3),
        ("so che ap", 9),
        ("socheap", 7),
        ("2ch", 3),
        ("2@b", 3),
        (" @b", 1),
        ("2 @@b", 2),
        ("2@@b", 4),
        ("2@@bo", 5),
        ("D+", 0),
        ("a D", 2),
        ("D++", 3),
        ("D- ", 3),
        ("Z++++", 0),
        ("Z++++ ", 6),
    ],
)
def test_a_phrase_is_open_from_where_it_may_begin(text: str, begins: int) -> None:
    assert (
        beginnings("cheap pills", "abide", "D++", "Z+++++", "Z+", "Z one").look(text)[1] == begins
    )


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("a bomb", False),
        ("a bomb.", True),
        ("a bombs", False),
        ("a b.o.m.b!", True),
        ("abomb ", False),
        ("bom禁", False),
        ("bomb禁", True),
        ("禁", False),
        ("禁止", True),
    ],
)
def test_a_phrase_is_found_when_its_last_word_ends(text: str, is_found: bool) -> None:
    assert beginnings("bomb", "禁止").read(text).is_found == is_found


def test_so_much_is_remembered_and_no_more() -> None:
    many = beginnings("cheap pills", "禁止")
    text = "".join(f"so cheap{chr(code)}pil " for code in range(0x4E00, 0x9000))
    for start in range(0, len(text), 1000):
        many.read(text[start : start + 1000])
        steps = sum(map(len, many._states.values()))
        assert steps <= 65_536
    assert many.look("so cheap pil")[1] == 3


def test_what_was_forgotten_is_known_again() -> None:
    known = beginnings("cheap pills")
    state = known.read("so cheap")
    known._forget()
    assert state["."]["p"].open
    assert not state["x"].open
    assert known.look("so cheap.p")[1] == 3


def test_of_numbers_between_signs_nothing_is_held_or_searched_for_long() -> None:
    digits = iter("".join(map(str, range(100_000))))
    best = float("inf")
    for _ in range(30):
        pieces = [f"@{at}:{''.join(itertools.islice(digits, 14))}@ " for at in range(64)]
        scanner = StreamScanner(MANY)
        started = time.process_time()
        for piece in pieces:
            assert scanner.feed(piece) is None
            assert scanner.safe == scanner.fed
        best = min(best, (time.process_time() - started) * 1e6 / len(pieces))
    print(f"{best:.2f} µs for 20 characters")  # noqa: T201
    assert best < 30
