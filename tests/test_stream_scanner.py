"""The scanner of text that arrives in pieces."""

import itertools
import time
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guards.escapes import unfinished
from guards.json_text import JsonScanner
from guards.keywords import Match, Pattern, Phrase, Rules
from guards.stream_scanner import StreamScanner
from guards.turns import at_once

PHRASES = ["ab", "abba cd", "a b", "bad", "C++", "禁止", "illegal", "sass as", "запрет", "stop it"]
PATTERNS = [Pattern("x[0-9]{2,4}y", "p1"), Pattern(r"\bq\b", "p2")]
ALLOW = ["bad dab", "ab ab"]
PHRASES_ONLY = Rules([Phrase(text, text) for text in PHRASES], [], ALLOW)
RULES = Rules(PHRASES_ONLY.phrases, PATTERNS, ALLOW)
TAGS = {letter: chr(0xE0000 + ord(letter)) for letter in "abcd +"}
PIECES = [*"abcdegilpqsxyAзп418!@$+|.-_ \n\u200b\u0301禁止éﬁ", "  ", *PHRASES, *ALLOW, "x12y"]
PIECES += [*"²™½ᵇ⒜Ꭺ\u180b", *TAGS.values()]  # noqa: RUF001


def scan(rules: Rules, pieces: Iterable[str | None]) -> Match | None:
    """The first match; None among the pieces is the end of a part."""
    scanner = StreamScanner(rules)
    for piece in pieces:
        match = scanner.next_part() if piece is None else scanner.feed(piece)
        if match is not None:
            return match
    return scanner.finish()


def cut(text: str, cuts: Iterable[int]) -> list[str]:
    places = [0, *sorted(min(place, len(text)) for place in cuts), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(places)]


@settings(max_examples=1500, deadline=None)
@given(
    st.sampled_from([RULES, PHRASES_ONLY]),
    st.lists(st.sampled_from(PIECES), max_size=14).map("".join),
    st.lists(st.integers(0, 30), max_size=30),
)
def test_however_it_is_cut_a_text_has_the_matches_of_the_whole(
    rules: Rules, text: str, cuts: list[int]
) -> None:
    expected = rules.scan(text)
    scanner = StreamScanner(rules)
    found = None
    for piece in cut(text, cuts):
        found = scanner.feed(piece)
        if found is not None:
            break
        if expected:
            assert scanner.safe <= expected[0].start
    found = found or scanner.finish()
    assert (found is None) == (not expected)
    if found is not None:
        same = [match for match in expected if match.rule == found.rule]
        assert any(found.start <= each.end and each.start <= found.end for each in same)


@pytest.mark.parametrize(
    ("text", "most"),
    [("forbidden phrase", 6), ("f0rb!dden phr@se", 4), ("fооrbiddеn phrase", 4)],  # noqa: RUF001
)
def test_every_cut_of_a_phrase_into_at_most_six_pieces_finds_it(text: str, most: int) -> None:
    rules = Rules([Phrase("forbidden phrase", "r")])
    expected = Match(0, len(text), "r", "")
    for count in range(most):
        for cuts in itertools.combinations(range(1, len(text)), count):
            assert scan(rules, cut(text, cuts)) == expected


def test_nothing_is_held_where_no_phrase_can_begin() -> None:
    scanner = StreamScanner(Rules([Phrase("bomb", "r")]))
    assert scanner.feed("hello wor") is None
    assert scanner.safe == 9
    assert scanner.feed("ld, bo") is None
    assert scanner.safe == 13
    assert scanner.feed("ok ab") is None
    assert scanner.safe == 20
    assert scanner.feed("omb") is None
    assert scanner.safe == 23


def test_a_phrase_at_the_end_counts_when_the_text_ends_or_the_word_does() -> None:
    rules = Rules([Phrase("bomb", "r")])
    scanner = StreamScanner(rules)
    assert scanner.feed("a bomb") is None
    assert scanner.safe == 2
    assert scanner.finish() == Match(2, 6, "r", "")
    assert scan(rules, ["a bomb", "astic"]) is None
    assert scan(rules, ["a bomb", "."]) == Match(2, 6, "r", "")


def test_a_sign_in_a_word_begins_no_phrase_however_often_it_stands_there() -> None:
    rules = Rules([Phrase("ab", "r")])
    text = "2@@b 2@@@b"
    assert not rules.scan(text)
    for count in range(4):
        for cuts in itertools.combinations(range(1, len(text)), count):
            assert scan(rules, cut(text, cuts)) is None
    assert scan(rules, ["2 @", "b"]) == Match(2, 4, "r", "")


def test_a_phrase_that_two_parts_share_is_found_joined_and_apart() -> None:
    rules = Rules(
        [Phrase("forbidden phrase", "r"), Phrase("bomb", "b")],
        [Pattern("id[0-9]{4}", "joined"), Pattern("end\\sstart", "apart")],
    )
    assert scan(rules, ["a forbid", None, "den phrase"]) == Match(2, 18, "r", "")
    assert scan(rules, ["forbidden", None, "phrase"]) == Match(0, 15, "r", "")
    assert scan(rules, ["a bomb", None, "astic"]) == Match(2, 6, "b", "")
    assert scan(rules, ["abo", None, "mb"]) is None
    assert scan(rules, ["id12", None, "34."]) == Match(0, 6, "joined", "")
    assert scan(rules, ["the end", None, "start."]) == Match(4, 12, "apart", "")


def test_what_may_turn_out_to_be_allowed_waits() -> None:
    rules = Rules([Phrase("cheap pills", "r")], allow=["cheap pills factory museum"])
    assert scan(rules, ["cheap pills", " factory", " museum", " is open"]) is None
    assert scan(rules, ["cheap pills", " factory", " gate"]) == Match(0, 11, "r", "")
    assert scan(rules, ["cheap pills", " fact"]) == Match(0, 11, "r", "")


def test_a_window_as_wide_as_the_widest_pattern_is_held() -> None:
    rules = Rules(patterns=[Pattern("sk-[a-z]{5}", "r")])
    scanner = StreamScanner(rules)
    assert scanner.feed("x" * 100) is None
    # And one more: the end of a word that may be stuck to the match.
    assert 100 - 9 - 1 <= scanner.safe <= 93
    assert scanner.feed("sk-ab") is None
    assert scanner.safe <= 100
    assert scanner.feed("cde ") == Match(100, 108, "r", "")


def test_what_is_held_too_long_counts_as_found() -> None:
    scanner = StreamScanner(Rules([Phrase("cheap pills", "r")]))
    assert scanner.feed("some cheap") is None
    matches = [scanner.feed("\u200b" * 100) for _ in range(50)]
    assert matches[:39] == [None] * 39
    assert next(match for match in matches if match).start == 5
    scanner = StreamScanner(Rules([Phrase("bomb", "r")], allow=["cheap pills"]))
    assert scanner.feed("cheap" + "\u200b" * 5000) is None
    assert scanner.safe == 5005


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 80), max_size=20))
def test_escapes_of_json_are_resolved_however_they_are_cut(cuts: list[int]) -> None:
    rules = Rules([Phrase("forbidden phrase", "r")])
    text = r'{"\\": "\ud83d\ude00 \u0066orb\u200bidden\n \u0070hrase"}'
    (expected,) = at_once(rules.steps(text, is_json=True))
    scanner, found = JsonScanner(rules), None
    for piece in cut(text, cuts):
        found = found or scanner.feed(piece)
        assert found is not None or scanner.safe <= expected.start
    assert (found or scanner.finish()) == expected
    assert text[expected.start : expected.end].startswith(r"\u0066orb")


def test_an_escape_that_is_never_finished_is_text() -> None:
    scanner = JsonScanner(Rules([Phrase("bomb", "r")]))
    assert scanner.feed("a bomb\\u00") is None
    assert scanner.safe == 2
    assert scanner.finish() == Match(2, 6, "r", "")
    scanner = JsonScanner(Rules([Phrase("bomb", "r")]))
    assert scanner.feed("a \\q bo") is None
    assert scanner.next_part() is None
    assert scanner.feed("mb") is None
    assert scanner.finish() == Match(5, 9, "r", "")


def test_feeding_takes_microseconds() -> None:
    words = ["".join(each) for each in itertools.product(*["bdkmrt", "aeiou"] * 3)]
    many = [f"{a} {b}" for a, b in itertools.product(words[::300], words[::80])][:10_000]
    plain = "What the people of the town said in the evening nobody could tell; they went home. "
    pieces = [(plain * 30)[at : at + 20] for at in range(0, 2000, 20)]
    for phrases in (PHRASES[-1:] + many[:9], many):
        rules = Rules([Phrase(text, "r") for text in phrases])
        best = float("inf")
        for _ in range(30):
            scanner = StreamScanner(rules)
            started = time.perf_counter()
            for piece in pieces:
                scanner.feed(piece)
            best = min(best, (time.perf_counter() - started) * 1e6 / len(pieces))
        print(f"{len(phrases)} phrases: {best:.2f} µs for 20 characters")  # noqa: T201
        assert best < 30


MANY = Rules(
    [
        Phrase(text, text)
        for text in ["the people", "of course not", "theory", "of", "aab b", "people s", "a b c d"]
    ],
    [],
    ["of course", "the people of"],
)
WORDS = ["the ", "people", "of", "course ", " not", "theory", "a", "b ", "aa", "s", " ", ",", ". "]
MORE = [*WORDS, "(", "-", "1", "0f", "\n", "é", "\u200b", "People ", "'", "no "]


def looked_at_closely(scanner: StreamScanner, piece: str) -> Match | None:
    """As `feed`, without a memory."""
    words = (scanner._state + piece).split(" ")
    scanner.fed += len(piece)
    scanner._state = ""
    for number, word in enumerate(words):
        is_last = number == len(words) - 1
        end = scanner.fed - len(" ".join(words[number + 1 :]))
        chunk = scanner._state + word + " " * (not is_last)
        match, scanner._state = scanner._search.take(chunk, end)
        if match is not None:
            return match
    return None


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from([MANY, PHRASES_ONLY]), st.lists(st.sampled_from(MORE), max_size=12))
def test_what_is_remembered_of_words_is_what_a_closer_look_at_them_says(
    rules: Rules, pieces: list[str]
) -> None:
    quick, close = StreamScanner(rules), StreamScanner(rules)
    for piece in pieces:
        match = quick.feed(piece)
        assert match == looked_at_closely(close, piece)
        if match is not None:
            return
        assert quick.safe == close.safe
        assert quick._state == close._state
    assert quick.finish() == close.finish()


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.sampled_from([*MORE, "\\", "\\n", "\\u0066", '"', "stop it", "bad"]), max_size=12)
)
def test_json_without_escapes_is_searched_as_json_is(pieces: list[str]) -> None:
    quick, other = JsonScanner(PHRASES_ONLY), JsonScanner(PHRASES_ONLY)
    for piece in pieces:
        match = quick.feed(piece)
        text = other._rest + piece
        end = unfinished(text)
        other._rest = text[end:]
        assert match == other._pass_on(text[:end])
        if match is not None:
            return
        assert (quick.safe, quick._origins) == (other.safe, other._origins)
