"""The search of text that may go on."""

import pytest

from guards.keywords import Match, Phrase, Rules
from guards.normalise import JOINT, OUTSIDE
from guards.partial_search import PartialSearch

RULES = Rules([Phrase("cheap pills", "r"), Phrase("bomb", "b")], allow=["bomb disposal"])


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("fine ", ""),
        ("fine", OUTSIDE),
        ("so cheap", "cheap"),
        ("so che ap", OUTSIDE),
        ("so ch ea p", "ch ea p"),
        ("so c.h.e.a.p", "c.h.e.a.p"),
        ("so c....h", OUTSIDE),
        ("so cheap....", ""),
        ("so cheap ", "cheap "),
        ("so che ", ""),
        ("cheap fine ", ""),
        (OUTSIDE + "bo", OUTSIDE),
        (OUTSIDE + " bo", "bo"),
        ("a b.o", "b.o"),
        (JOINT + "bo", "bo"),
        ("12@", OUTSIDE + "@"),
        ("12@@b", "b"),
        (OUTSIDE + "@@b", "b"),
        ("12 b0", "b0"),
        ("b!", "b!"),
        ("禁bo", "bo"),
        ("禁", ""),
        ("bo\u200bmb", "bo\u200bmb"),
        ("\u200bbo", "bo"),
    ],
)
def test_what_may_be_the_start_of_a_phrase_is_the_state(text: str, state: str) -> None:
    assert PartialSearch(RULES).take(text, 100) == (None, state)


def test_positions_are_those_of_the_whole_text() -> None:
    search = PartialSearch(RULES)
    assert search.take("so cheap pills.", 115)[0] == Match(103, 114, "r", "")
    assert search.take(f"cheap{JOINT}pills.", 111)[0] == Match(100, 110, "r", "")


def test_the_last_word_is_complete_only_where_the_text_ends() -> None:
    search = PartialSearch(RULES)
    assert search.take("cheap pills", 11) == (None, "cheap pills")
    assert search.finish("cheap pills", 11) == Match(0, 11, "r", "")
    assert search.finish(OUTSIDE + "bomb", 9) is None


def test_what_is_allowed_is_known_until_the_text_has_gone_on() -> None:
    search = PartialSearch(RULES)
    assert search.take("a bomb disp", 11) == (None, "bomb disp")
    assert search.take("bomb disposal ", 16)[0] is None
    assert search.allowed == [Match(2, 15, "", "")]
    assert search.take("fine. ", 22) == (None, "")


def test_a_phrase_that_is_open_for_too_long_is_a_match() -> None:
    text = "so cheap" + "\u200b" * 5000
    assert PartialSearch(RULES).take(text, len(text))[0] == Match(3, len(text), "r", "")
