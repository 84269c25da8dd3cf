"""Texts with what was found in them covered."""

import time
from collections.abc import Callable

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anos.scanner_parts import (
    MASK,
    Dialect,
    Held,
    Line,
    Overfull,
    Piece,
    Span,
    masked,
    masking,
)
from anos.scanner_queue import Queue
from guards.keywords import Pattern, Phrase, Rules
from guards.stream_scanner import StreamScanner

CARD = Pattern(r"\b[0-9]{16}\b", "card")
KINDS: dict[str, tuple[Rules, str, bool]] = {
    "phrases": (Rules([Phrase("bomb", "r")]), "bomb ", False),
    "phrases, some allowed": (Rules([Phrase("bomb", "r")], [], ["bomb squad"]), "bomb ", False),
    "patterns": (Rules(patterns=[CARD]), "4111111111111111 ", False),
    "JSON": (Rules([Phrase("bomb", "r")]), r"bomb\n", True),
}


def grows(work: Callable[[int], None], size: int) -> float:
    """How much longer four times as much takes."""
    times = []
    for times_size in (size, 4 * size):
        best = float("inf")
        for _ in range(2):
            started = time.process_time()
            work(times_size)
            best = min(best, time.process_time() - started)
        times.append(best)
    return times[1] / times[0]


@pytest.mark.parametrize("kind", KINDS)
def test_four_times_as_many_matches_are_covered_in_four_times_the_time(kind: str) -> None:
    rules, text, is_json = KINDS[kind]

    def cover(count: int) -> None:
        covered, matches = masked(rules, text * count, is_json=is_json)
        assert (covered.count(MASK), len(matches)) == (count, count)

    growth = grows(cover, 8_000)
    print(f"{kind}: {growth:.1f} times as long for 4 times as many matches")  # noqa: T201
    assert growth < 8


RULES = Rules(
    [Phrase("cheap pills", "r"), Phrase("pills now", "r"), Phrase("bomb", "b")],
    [Pattern(r"\bx[0-9]{2,4}y\b", "p"), Pattern(r"\b[0-9]{2,3}z?\b", "q")],
    ["bomb squad"],
)
PIECES = ["cheap ", "pills", " now", "bomb", " squad", "x12", "34", "5y", "z", " ", ", ", "é", "\n"]


@settings(max_examples=600, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_all_that_is_found_is_covered_and_nothing_else(text: str) -> None:
    covered, matches = masked(RULES, text)
    assert matches == RULES.scan(text)
    inside = {at for match in matches for at in range(match.start, match.end)}
    assert covered.replace(MASK, "") == "".join(
        char for at, char in enumerate(text) if at not in inside
    )
    assert (MASK in covered) == bool(matches)
    assert not RULES.scan(covered)


def test_overlapping_matches_are_covered_as_one() -> None:
    assert masked(RULES, "so cheap pills now!")[0] == "so ***!"
    cards = Rules(patterns=[Pattern("x[0-9]{2}y", "p"), Pattern("y ok", "q")])
    assert masked(cards, "so x12y ok now")[0] == "so *** now"


def test_in_json_whole_escapes_are_covered() -> None:
    assert masked(RULES, r'{"a\u0062": "\u0062omb\n"}', is_json=True)[0] == r'{"a\u0062": "***\n"}'


def test_a_long_text_is_covered_in_turns() -> None:
    text = "bomb. " * 50_000
    turns = masking(RULES, text)
    assert len([*turns]) >= 4
    assert not [*masking(RULES, text[:6000])]


# In events ----------------------------------------------------------------------------------------


class _Deaf(Dialect):
    """Hears nothing."""

    def sent(self, event: dict[str, object]) -> None:
        """An event went out."""


def add(queue: Queue, line: Line, text: str) -> None:
    event = {"delta": text}
    piece = Piece(line.part, event, "delta")
    span = Span(piece, line, line.fed, line.fed + len(text))
    queue.add(Held(b"data: " + orjson.dumps(event) + b"\n\n", event, [piece], [span]))
    line.fed += len(text)


def queue_of(texts: list[str]) -> tuple[Queue, Line]:
    """Events of one part that wait."""
    queue = Queue(_Deaf(), holds=True)
    line = Line(("part",), StreamScanner(RULES), is_json=False)
    for text in texts:
        add(queue, line, text)
    return queue, line


def released(queue: Queue, line: Line) -> list[str]:
    line.safe = line.fed
    return [orjson.loads(raw[6:])["delta"] for raw in queue.released()]


def test_a_match_is_covered_once_in_the_events_it_stands_in() -> None:
    queue, line = queue_of(["a bo", "", "m", "b bomb", "s", "ok"])
    queue.mask(line, 2, 6)
    queue.mask(line, 7, 11)
    assert released(queue, line)[:5] == ["a ***", "", "", " ***", "s"]


def test_four_times_as_many_matches_in_an_event_take_four_times_the_time() -> None:
    def cover(count: int) -> None:
        queue, line = queue_of(["bomb " * count])
        for at in range(count):
            queue.mask(line, at * 5, at * 5 + 4)
        assert released(queue, line) == ["*** " * count]

    assert grows(cover, 5_000) < 8


def test_four_times_as_many_events_are_covered_in_four_times_the_time() -> None:
    def cover(count: int) -> None:
        queue, line = queue_of([])
        for at in range(count):
            add(queue, line, "bomb ")
            queue.mask(line, at * 5, at * 5 + 4)
        assert released(queue, line) == ["*** "] * count

    assert grows(cover, 500) < 8


# What waits ---------------------------------------------------------------------------------------


def waiting(*, holds: bool, size: int) -> Queue:
    """Events that say nothing, behind one with a text that is open."""
    queue, line = Queue(_Deaf(), holds=holds), Line(("part",), StreamScanner(RULES), is_json=False)
    add(queue, line, "cheap")
    for _ in range(20):
        queue.add(Held(b"x" * size, {}))
        queue.released()
    return queue


def test_only_so_many_bytes_wait_behind_a_text_that_is_open() -> None:
    with pytest.raises(Overfull):
        waiting(holds=True, size=100_000)
    assert len(waiting(holds=True, size=10_000).held) == 21
    assert not waiting(holds=False, size=100_000).held


def test_one_event_may_be_of_any_size_and_what_went_out_waits_no_more() -> None:
    queue = Queue(_Deaf(), holds=True)
    for _ in range(20):
        queue.add(Held(b"x" * 2_000_000, {}))
        assert len(queue.released()) == 1
