"""The sliding window."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guards.rates import Window


def test_the_limit_is_admitted_and_the_next_waits_for_the_first_to_leave() -> None:
    window = Window(2, window_s=60)
    assert window.take(100.0) == 0.0
    assert window.take(110.0) == 0.0
    assert window.take(120.0) == 40.0
    assert window.take(159.5) == 0.5
    assert window.take(160.0) == 0.0
    assert window.take(160.0) == 10.0


def test_a_refusal_takes_nothing() -> None:
    window = Window(1, window_s=60)
    assert window.take(0.0) == 0.0
    assert all(window.take(float(now)) > 0 for now in range(1, 60))
    assert window.take(60.0) == 0.0


def test_no_burst_across_a_minutes_boundary() -> None:
    window = Window(10, window_s=60)
    assert [window.take(59.0) for _ in range(10)] == [0.0] * 10
    assert [window.take(61.0) for _ in range(10)] == [58.0] * 10


def test_remaining_and_reset_tell_what_a_client_can_expect() -> None:
    window = Window(3, window_s=60)
    assert (window.remaining(0.0), window.reset_s(0.0)) == (3, 0.0)
    window.take(0.0)
    window.take(30.0)
    assert (window.remaining(30.0), window.reset_s(30.0)) == (1, 60.0)
    assert (window.remaining(60.0), window.reset_s(60.0)) == (2, 30.0)
    assert (window.remaining(90.0), window.reset_s(90.0)) == (3, 0.0)


def test_a_lowered_limit_holds_for_what_was_taken_before() -> None:
    window = Window(3, window_s=60)
    for now in (0.0, 10.0, 20.0):
        window.take(now)
    window.limit = 1
    assert window.remaining(20.0) == 0
    assert window.take(20.0) == 60.0
    assert window.take(80.0) == 0.0


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Window(limit)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5), st.lists(st.floats(0, 7), max_size=60))
def test_no_window_ever_holds_more_and_no_taking_is_refused_early(
    limit: int, gaps: list[float]
) -> None:
    window, now, expiries = Window(limit, window_s=10), 0.0, []
    for gap in gaps:
        now += gap
        expiries = [expiry for expiry in expiries if expiry > now]
        wait = window.take(now)
        if len(expiries) < limit:
            assert wait == 0.0
            expiries.append(now + 10)
        else:
            assert wait == expiries[0] - now > 0
        assert window.remaining(now) == limit - len(expiries)
