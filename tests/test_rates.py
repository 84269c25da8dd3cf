"""The sliding windows, the slots and the queue."""

from collections import deque
from itertools import cycle
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guards.rates import FairQueue, Slots, TokenWindow, Window


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


def test_a_window_that_nobody_looked_at_resets_all_the_same() -> None:
    window, tokens = Window(3, window_s=60), TokenWindow(3, window_s=60)
    window.take(0.0)
    tokens.settle(0.0, 0, 1)
    assert (window.reset_s(59.0), tokens.reset_s(59.0)) == (1.0, 1.0)
    assert (window.reset_s(90.0), tokens.reset_s(90.0)) == (0.0, 0.0)


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


def test_what_is_given_back_was_never_taken() -> None:
    window = Window(2, window_s=60)
    window.take(0.0)
    window.take(10.0)
    window.give_back(0.0)
    assert window.remaining(10.0) == 1
    assert window.take(20.0) == 0.0
    assert window.take(60.0) == 10.0


def test_what_has_left_cannot_be_given_back() -> None:
    window = Window(1, window_s=60)
    window.take(0.0)
    window.take(60.0)
    window.give_back(0.0)
    assert window.remaining(60.0) == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 4), st.booleans()), max_size=40), st.randoms())
def test_giving_back_any_of_them_leaves_exactly_the_others(
    steps: list[tuple[float, bool]], random: Random
) -> None:
    window, now, taken = Window(3, window_s=10), 0.0, []
    for gap, gives_back in steps:
        now += gap
        taken = [moment for moment in taken if moment + 10 > now]
        if gives_back and taken:
            window.give_back(taken.pop(random.randrange(len(taken))))
        elif not window.take(now):
            taken.append(now)
        assert window.remaining(now) == 3 - len(taken)
        assert window.reset_s(now) == (taken[-1] + 10 - now if taken else 0.0)


def test_ten_times_the_load_is_admitted_at_the_limit() -> None:
    window = Window(100, window_s=60)
    admitted = sum(not window.take(attempt * 0.06) for attempt in range(5 * 1000))
    assert admitted == pytest.approx(5 * 100, rel=0.01)


# Tokens ------------------------------------------------------------------------------------------


def test_tokens_leave_a_window_after_they_were_used() -> None:
    window = TokenWindow(100, window_s=60)
    window.settle(0.0, 0, 70)
    window.settle(10.0, 0, 20)
    assert (window.remaining(10.0), window.reset_s(10.0)) == (10, 60.0)
    assert window.wait_s(10.0, 10) == 0.0
    assert window.wait_s(10.0, 11) == 50.0
    assert window.wait_s(10.0, 80) == 50.0
    assert window.wait_s(10.0, 81) == 60.0
    assert window.wait_s(60.0, 80) == 0.0
    assert (window.remaining(70.0), window.reset_s(70.0)) == (100, 0.0)


def test_tokens_are_held_until_they_are_settled() -> None:
    window = TokenWindow(100, window_s=60)
    window.hold(80)
    assert (window.remaining(1000.0), window.reset_s(1000.0)) == (20, 60.0)
    assert window.wait_s(1000.0, 21) == 60.0
    window.settle(1000.0, 80, 30)
    assert window.remaining(1000.0) == 70
    assert window.wait_s(1001.0, 71) == 59.0
    assert window.remaining(1060.0) == 100


def test_what_used_nothing_leaves_nothing() -> None:
    window = TokenWindow(100, window_s=60)
    window.hold(100)
    window.settle(5.0, 100, 0)
    assert (window.remaining(5.0), window.reset_s(5.0)) == (100, 0.0)


def test_what_was_used_beyond_the_limit_counts_too() -> None:
    window = TokenWindow(100, window_s=60)
    window.hold(50)
    window.settle(0.0, 50, 150)
    assert window.remaining(0.0) == 0
    assert window.wait_s(0.0, 1) == 60.0


def test_more_tokens_than_the_limit_fit_an_empty_window_only() -> None:
    window = TokenWindow(100, window_s=60)
    assert window.wait_s(0.0, 1000) == 0.0
    window.settle(0.0, 0, 1)
    window.settle(20.0, 0, 1)
    assert window.wait_s(20.0, 1000) == 60.0
    assert window.wait_s(80.0, 1000) == 0.0
    window.hold(1)
    assert window.wait_s(80.0, 1000) == 60.0


def test_a_changed_token_limit_holds_for_what_was_used_before() -> None:
    window = TokenWindow(100, window_s=60)
    window.settle(0.0, 0, 60)
    window.limit = 50
    assert (window.remaining(0.0), window.wait_s(0.0, 1)) == (0, 60.0)
    window.limit = 200
    assert (window.remaining(0.0), window.wait_s(0.0, 140)) == (140, 0.0)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_token_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        TokenWindow(limit)


def test_a_token_window_holds_a_hundred_entries_however_much_is_settled() -> None:
    window = TokenWindow(1_000_000, window_s=60)
    for number in range(200_000):
        window.settle(number * 0.001, 0, 1)
    assert len(window._entries) <= 101
    # All of the last minute, and of what was before at most a hundredth of a window.
    assert 60_000 <= 1_000_000 - window.remaining(199.999) <= 60_600


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 100),
    st.lists(st.tuples(st.floats(0, 3), st.integers(0, 120), st.integers(0, 120)), max_size=60),
)
def test_tokens_wait_as_long_as_they_must_and_at_most_a_hundredth_longer(
    limit: int, steps: list[tuple[float, int, int]]
) -> None:
    window, now, used = TokenWindow(limit, window_s=10), 0.0, []
    for gap, asked, tokens in steps:
        now += gap
        window.settle(now, 0, tokens)
        used.append((now + 10, tokens))
        used = [(expiry, count) for expiry, count in used if expiry > now and count]
        exact, excess = 0.0, sum(count for _, count in used) + min(asked, limit) - limit
        for expiry, count in used:
            if excess > 0:
                exact, excess = expiry - now, excess - count
        assert exact <= window.wait_s(now, asked) <= exact + 0.1 + 1e-9


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 2), st.integers(1, 40), st.floats(0.3, 3), st.integers(0, 8)),
        max_size=80,
    )
)
def test_settled_tokens_exceed_a_limit_by_the_error_of_what_was_in_flight_at_most(
    calls: list[tuple[float, int, float, int]],
) -> None:
    """In each step a call is tried, and then the n-th of those that run ends."""
    window, now, error = TokenWindow(100, window_s=10), 0.0, 0
    running: list[tuple[int, int]] = []
    settled: list[tuple[float, int]] = []
    for gap, estimate, factor, which in calls:
        now += gap
        if not window.wait_s(now, estimate):
            window.hold(estimate)
            running.append((estimate, round(estimate * factor)))
            error = 0  # now everything fits, so only what ends after this can be too much
        if which < len(running):
            held, used = running.pop(which)
            window.settle(now, held, used)
            settled.append((now, used))
            error += max(0, used - held)
        in_window = sum(used for at, used in settled if at + 10 > now)
        assert in_window + sum(held for held, _ in running) <= 100 + error


def test_ten_times_the_load_of_tokens_is_admitted_at_the_limit() -> None:
    """Calls of 100 ms whose usage is 0.3 to 3 times the estimate of 50, and 50 on average."""
    window, ends, settled = TokenWindow(100_000, window_s=60), deque[tuple[float, int]](), 0
    usage = cycle([15, 20, 25, 40, 50, 60, 50, 25, 65, 150])
    for attempt in range(5 * 20_000):
        now = attempt * 60 / 20_000
        while ends and ends[0][0] <= now:
            _, used = ends.popleft()
            window.settle(now, 50, used)
            settled += used
        if not window.wait_s(now, 50):
            window.hold(50)
            ends.append((now + 0.1, next(usage)))
    assert settled == pytest.approx(5 * 100_000, rel=0.01)


# Slots and queues --------------------------------------------------------------------------------


def test_slots_are_taken_and_given_back() -> None:
    slots = Slots(2)
    slots.take()
    assert slots.has_room
    slots.take()
    assert not slots.has_room
    slots.give_back()
    assert slots.has_room


def test_slots_without_a_limit_are_counted_for_one_that_comes() -> None:
    slots = Slots(None)
    for _ in range(3):
        assert slots.has_room
        slots.take()
    slots.limit = 3
    assert not slots.has_room


def served(queue: FairQueue[str]) -> list[str]:
    """All who wait, "key number" each, in the order in which they are served."""
    order = []
    while (waiting := next(iter(queue), None)) is not None:
        key = waiting[0]
        queue.end_turn(key)
        assert queue.discard(key, waiting)
        order.append(waiting)
    return order


def test_keys_take_turns_and_within_a_key_the_first_comes_first() -> None:
    queue = FairQueue[str]()
    for waiting in ("a1", "a2", "a3", "a4", "b1", "c1", "c2"):
        queue.add(waiting[0], waiting)
    assert list(queue) == ["a1", "a2", "a3", "a4", "b1", "c1", "c2"]
    assert served(queue) == ["a1", "b1", "c1", "a2", "c2", "a3", "a4"]


def test_who_leaves_a_queue_leaves_no_trace() -> None:
    queue = FairQueue[str]()
    for waiting in ("a1", "a2", "b1", "b2"):
        queue.add(waiting[0], waiting)
    assert queue.discard("a", "a1")
    assert not queue.discard("a", "a1")
    assert queue.discard("a", "a2")
    assert not queue.discard("a", "a2")
    queue.end_turn("a")
    assert served(queue) == ["b1", "b2"]
    assert list(queue) == []
