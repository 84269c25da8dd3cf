"""The phrase matcher."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guards.keywords import Keywords

PHRASES = ["Forbidden Phrase", "bomb", "C++", "straße", "ΣΊΣΥΦΟΣ", "禁止", "e-mail me", "a_b"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nothing to see", None),
        ("", None),
        ("a forbidden phrase here", "Forbidden Phrase"),
        ("FORBIDDEN PHRASE", "Forbidden Phrase"),
        ("forbidden\n\t phrase.", "Forbidden Phrase"),
        ("forbidden\u00a0phrase", "Forbidden Phrase"),
        ("forbidden, phrase", None),
        ("unforbidden phrase", None),
        ("forbidden phrases", None),
        ("(bomb)", "bomb"),
        ("bombastic bomb", "bomb"),
        ("bombs and bomber", None),
        ("bomb_1", None),
        ("bomb2", None),
        ("bomb\u2028x", "bomb"),
        ("I write C++17", "C++"),
        ("I write c++.", "C++"),
        ("abc++", None),
        ("STRASSE", "straße"),
        ("σίσυφος", "ΣΊΣΥΦΟΣ"),
        ("这是禁止的", "禁止"),
        ("e-mail  me", "e-mail me"),
        ("xa_b", None),
        ("\ud800 bomb", "bomb"),
    ],
)
def test_a_phrase_is_found_as_whole_words_in_any_case(text: str, found: str | None) -> None:
    assert Keywords(PHRASES).find(text) == found


def test_a_longer_word_does_not_hide_a_phrase_inside_a_phrase() -> None:
    assert Keywords(["new york times", "york"]).find("the new york timeserver") == "york"


def test_no_phrases_find_nothing() -> None:
    assert Keywords([]).find("anything") is None


@pytest.mark.parametrize("blank", ["", " \n"])
def test_a_blank_phrase_is_refused(blank: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        Keywords(["fine", blank])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text("ab ", min_size=1, max_size=4).filter(str.strip), min_size=1, max_size=5),
    st.text("abAB \n.", max_size=20),
)
def test_it_agrees_with_a_regular_expression(phrases: list[str], text: str) -> None:
    patterns = [r"\s+".join(phrase.split()) for phrase in phrases]
    expected = any(re.search(rf"\b{pattern}\b", text, re.IGNORECASE) for pattern in patterns)
    assert (Keywords(phrases).find(text) is not None) == expected
