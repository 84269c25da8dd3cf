"""Text as patterns see it."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guards.patterns import Patterns, composed


def test_only_what_needs_it_is_composed_and_nothing_is_moved() -> None:
    plain = "some plain text; " * 20
    text = f"{plain}e\u0301 \ufb01{plain}\u1100\u1161\u200b.{plain}"
    read, starts, ends = composed(text)
    assert read == f"{plain}\u00e9 fi{plain}\uac00.{plain}"
    at = len(plain)
    assert [*zip(starts, ends, strict=True)][at : at + 5] == [
        *((at, at + 2), (at + 2, at + 3), (at + 3, at + 4), (at + 3, at + 4), (at + 4, at + 5))
    ]
    assert (starts[-1], ends[-1]) == (len(text) - 1, len(text))
    assert all(
        text[start] == char
        for char, start in zip(read, starts, strict=True)
        if char.isascii() and char not in "fi"
    )


def test_half_a_surrogate_pair_is_a_character_that_is_not_known() -> None:
    found = [*Patterns(["[0-9]{4}"]).matches("\ud83d 1234 é\ude00")]
    assert found == [(0, 2, 6)]


PATTERNS = ["ab{1,3}", r"\bq", r"q\b", "^a", "b$", "(?m)^b", "é|e", "x[0-9]*y", "fi"]
PIECES = [*"abqxy1 .\n", "é", "e\u0301", "\u0301", "\u200b", "ﬁ", "q q", "abbb", "x11y"]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(65_490, 65_550), st.sampled_from([".", "à", "½"]))
def test_searched_in_pieces_a_text_has_the_matches_of_the_whole(
    seed: int, filler: int, filled_with: str
) -> None:
    pick = random.Random(seed)
    ends = ["".join(pick.choices(PIECES, k=60)) for _ in range(3)]
    text = (filled_with * filler).join(ends)
    patterns = Patterns(PATTERNS)
    found = [each for pieces, _ in patterns.pieces(text) for each in pieces]
    assert sorted(found) == sorted(patterns.matches(text))


def test_a_long_text_is_searched_piece_by_piece() -> None:
    sizes = [size for _, size in Patterns(["[0-9]{16}"]).pieces("à" * 400_000)]
    assert len(sizes) >= 6
    assert not [*Patterns([]).pieces("text")]


def test_what_is_ignored_by_default_hides_nothing() -> None:
    for unseen in ("\u180b", "\u17b4", "\u3164", "\ufff3", "\U0001d173", "\U000e0fff"):
        assert [*Patterns(["sk-12"]).matches(f"a sk{unseen}-1{unseen}2")] == [(0, 2, 9)]


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [("secret(", "missing )"), ("secret)", "unexpected )"), ("[secret", "missing ]")],
)
def test_a_wrong_pattern_is_shown_nowhere(
    pattern: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="not one for RE2") as raised:
        Patterns([pattern])
    assert str(raised.value).endswith(f": {reason}")
    assert "secret" not in "".join([str(raised.value), *capfd.readouterr()])
