"""Money, the periods of a window, and what a budget lets through."""

from collections import Counter
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guards.budgets import Budget, Window, micro_usd

HOUR = 3_600_000
DAY = 24 * HOUR
ODD_ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",  # +05:30
    "Asia/Kathmandu",  # +05:45
    "Australia/Lord_Howe",  # summer time is half an hour
    "America/Sao_Paulo",  # was set forward at midnight: such days began at 01:00
    "America/Havana",  # is set back at 01:00: midnight comes twice
    "America/St_Johns",  # was set forward and back at 00:01
    "America/Toronto",  # was once set forward from 23:30 to 00:30
    "Antarctica/Troll",  # summer time is two hours
    "Pacific/Apia",  # left out 2011-12-30
]


def ms(text: str) -> int:
    """The Unix milliseconds of an ISO 8601 time with an offset."""
    moment = datetime.fromisoformat(text)
    assert moment.tzinfo
    return round(moment.timestamp() * 1000)


def length_h(window: Window, at_ms: int) -> float:
    start_ms, end_ms = window.bounds(at_ms)
    assert end_ms is not None
    return (end_ms - start_ms) / HOUR


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("0", 0),
        ("12.5", 12_500_000),
        ("0.1", 100_000),
        ("0.000001", 1),
        ("1e-6", 1),
        ("1.5E+3", 1_500_000_000),
        ("1.2300000000000000000000000", 1_230_000),
        ("0e99999", 0),
        ("1e12", 10**18),
        ("999999999999.999999", 10**18 - 1),
        (7, 7_000_000),
    ],
)
def test_an_amount_in_dollars_is_exact_in_micro_dollars(text: str | int, micros: int) -> None:
    assert micro_usd(text) == micros


@pytest.mark.parametrize(
    "text",
    [
        *("", " 1", "1 ", "1\n", "-1", "-0", "+1", "NaN", "Infinity", "-inf", "abc", "1,5", "01"),
        *("1_000", ".5", "5.", "0x10", "\uff11", "0.0000001", "0.0000015", "1e-7"),
        *("0.1000000000000000000000000000000001", "1e-9999999999999999999", "1e13"),
        *("1000000000000.000001", "1e999999999", "1e9999999999999999999", "9" * 5000),
        *(-1, 10**12 + 1, True, 0.5, None, [], b"1"),
    ],
)
def test_what_is_not_an_amount_is_refused(text: str | int) -> None:
    with pytest.raises(ValueError, match="amount in dollars"):
        micro_usd(text)


@given(st.integers(0, 10**18))
def test_every_micro_dollar_survives_being_written(micros: int) -> None:
    assert micro_usd(f"{micros // 10**6}.{micros % 10**6:06}") == micros


@pytest.mark.parametrize(
    ("name", "zone", "at", "start", "end"),
    [
        ("hour", "UTC", "2026-05-05T10:59:59.999Z", "2026-05-05T10:00Z", "2026-05-05T11:00Z"),
        ("hour", "UTC", "2026-05-05T10:00Z", "2026-05-05T10:00Z", "2026-05-05T11:00Z"),
        ("hour", "Asia/Kolkata", "2026-05-05T10:40Z", "2026-05-05T10:30Z", "2026-05-05T11:30Z"),
        ("day", "Asia/Kolkata", "2026-05-05T18:29Z", "2026-05-04T18:30Z", "2026-05-05T18:30Z"),
        ("day", "UTC", "1969-12-31T23:59:59.999Z", "1969-12-31T00:00Z", "1970-01-01T00:00Z"),
        ("week", "UTC", "2026-03-01T23:59Z", "2026-02-23T00:00Z", "2026-03-02T00:00Z"),
        ("week", "UTC", "2026-03-02T00:00Z", "2026-03-02T00:00Z", "2026-03-09T00:00Z"),
        ("month", "UTC", "2026-01-31T12:00Z", "2026-01-01T00:00Z", "2026-02-01T00:00Z"),
        ("month", "UTC", "2024-02-29T23:59Z", "2024-02-01T00:00Z", "2024-03-01T00:00Z"),
        ("month", "UTC", "2026-02-28T23:59Z", "2026-02-01T00:00Z", "2026-03-01T00:00Z"),
        ("month", "UTC", "2100-02-28T23:59Z", "2100-02-01T00:00Z", "2100-03-01T00:00Z"),
        ("month", "UTC", "2026-12-31T23:59Z", "2026-12-01T00:00Z", "2027-01-01T00:00Z"),
        ("month", "Europe/Berlin", "2026-03-31T21:30Z", "2026-02-28T23:00Z", "2026-03-31T22:00Z"),
        ("2d", "UTC", "1970-01-02T23:59Z", "1970-01-01T00:00Z", "1970-01-03T00:00Z"),
        ("30d", "UTC", "1970-03-01T23:59Z", "1970-01-31T00:00Z", "1970-03-02T00:00Z"),
        ("5h", "UTC", "1970-01-01T23:00Z", "1970-01-01T20:00Z", "1970-01-02T01:00Z"),
        ("12h", "Europe/Berlin", "2026-07-01T11:00Z", "2026-07-01T10:00Z", "2026-07-01T22:00Z"),
    ],
)
def test_a_period_is_one_of_the_local_calendar(
    name: str, zone: str, at: str, start: str, end: str
) -> None:
    assert Window.parse(name, zone).bounds(ms(at)) == (ms(start), ms(end))


@pytest.mark.parametrize(
    ("zone", "day", "forward_h", "back_day", "back_h"),
    [
        ("Europe/Berlin", "2026-03-29T12:00+02:00", 23, "2026-10-25T12:00+01:00", 25),
        ("America/New_York", "2026-03-08T12:00-04:00", 23, "2026-11-01T12:00-05:00", 25),
        ("Australia/Lord_Howe", "2026-10-04T12:00+11:00", 23.5, "2026-04-05T12:00+10:30", 24.5),
        ("Asia/Kolkata", "2026-03-29T12:00+05:30", 24, "2026-10-25T12:00+05:30", 24),
        ("America/Havana", "2026-03-08T12:00-04:00", 23, "2026-11-01T12:00-05:00", 25),
    ],
)
def test_a_day_is_shorter_when_the_clock_is_set_forward_and_longer_when_back(
    zone: str, day: str, forward_h: float, back_day: str, back_h: float
) -> None:
    window = Window.parse("day", zone)
    assert length_h(window, ms(day)) == forward_h
    assert length_h(window, ms(back_day)) == back_h


def test_an_hour_that_the_clock_skips_is_absent_and_one_it_repeats_lasts_two() -> None:
    window = Window.parse("hour", "Europe/Berlin")
    assert window.bounds(ms("2026-03-29T03:10+02:00"))[0] == ms("2026-03-29T01:59+01:00") + 60_000
    first, again = ms("2026-10-25T02:30+02:00"), ms("2026-10-25T02:30+01:00")
    assert window.bounds(first) == window.bounds(again)
    assert length_h(window, first) == 2
    assert length_h(window, ms("2026-10-25T03:30+01:00")) == 1


def test_a_day_without_midnight_begins_when_the_clock_is_set_forward() -> None:
    window = Window.parse("day", "America/Sao_Paulo")
    assert window.bounds(ms("2018-11-04T01:00-02:00"))[0] == ms("2018-11-04T01:00-02:00")
    assert window.bounds(ms("2018-11-03T23:59-03:00"))[1] == ms("2018-11-04T01:00-02:00")


def test_a_day_that_was_left_out_is_in_no_period() -> None:
    window = Window.parse("day", "Pacific/Apia")
    assert window.bounds(ms("2011-12-29T12:00-10:00"))[1] == ms("2011-12-31T00:00+14:00")
    assert length_h(window, ms("2011-12-31T00:00+14:00")) == 24


@pytest.mark.parametrize(
    ("zone", "change"),
    [
        ("America/St_Johns", "2010-11-07T00:01-02:30"),
        ("America/St_Johns", "2010-03-14T00:01-03:30"),
        ("America/Toronto", "1919-03-30T23:30-05:00"),
        ("Australia/Lord_Howe", "2026-04-05T02:00+11:00"),
        ("Australia/Lord_Howe", "2026-10-04T02:00+10:30"),
        ("Antarctica/Troll", "2026-03-29T01:00+00:00"),
        ("Antarctica/Troll", "2026-10-25T03:00+02:00"),
        ("Pacific/Apia", "2011-12-30T00:00-10:00"),
    ],
)
@pytest.mark.parametrize("name", ["hour", "5h", "day", "week", "month"])
def test_periods_follow_one_another_through_an_odd_change(
    zone: str, change: str, name: str
) -> None:
    window, near = Window.parse(name, zone), range(ms(change) - DAY, ms(change) + DAY, HOUR // 4)
    for at_ms in near:
        start_ms, end_ms = window.bounds(at_ms)
        assert end_ms is not None
        assert start_ms <= at_ms < end_ms
        assert window.bounds(start_ms) == window.bounds(end_ms - 1) == (start_ms, end_ms)
        assert window.bounds(end_ms)[0] == end_ms


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["hour", "day", "week", "month", "7h", "24h", "1000h", "30d", "1000d"]),
    st.sampled_from(ODD_ZONES),
    st.integers(ms("1900-01-01T00:00Z"), ms("2200-01-01T00:00Z")),
)
def test_every_instant_is_in_exactly_one_period(name: str, zone: str, at_ms: int) -> None:
    window = Window.parse(name, zone)
    start_ms, end_ms = window.bounds(at_ms)
    assert end_ms is not None
    assert start_ms <= at_ms < end_ms
    assert window.bounds(start_ms) == window.bounds(end_ms - 1) == (start_ms, end_ms)
    assert window.bounds(end_ms)[0] == end_ms
    assert window.bounds(start_ms - 1)[1] == start_ms


@settings(deadline=None)
@given(
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"]),
    st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1)),
)
def test_periods_begin_where_the_local_clock_says(zone: str, local: datetime) -> None:
    tz = ZoneInfo(zone)
    at_ms = int(local.replace(tzinfo=tz).timestamp()) * 1000

    def begins(name: str) -> datetime:
        start_ms = Window.parse(name, zone).bounds(at_ms)[0]
        return datetime.fromtimestamp(start_ms // 1000, tz).replace(tzinfo=None)

    local = datetime.fromtimestamp(at_ms // 1000, tz).replace(tzinfo=None)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    assert begins("hour") == local.replace(minute=0, second=0, microsecond=0)
    assert begins("day") == midnight
    assert begins("week") == midnight - timedelta(days=local.weekday())
    assert begins("month") == midnight.replace(day=1)


def test_total_has_no_end() -> None:
    window = Window.parse("total", "Europe/Berlin")
    assert window.bounds(-1) == window.bounds(ms("2026-01-01T00:00Z")) == (0, None)
    assert Budget(1, window).reset_ms(5) is None


def test_windows_that_say_the_same_are_equal() -> None:
    assert Window.parse("day") == Window.parse("1d", "UTC") == Window.parse("24h")
    assert Window.parse("hour", "Europe/Berlin") == Window.parse("1h", "Europe/Berlin")
    assert Window.parse("week") != Window.parse("7d")
    assert Window.parse("day") != Window.parse("day", "Europe/Berlin")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "days",
            "Day",
            "d",
            "1m",
            "0d",
            "01d",
            "1001d",
            "1001h",
            "-1d",
            "1.5d",
            "1d ",
            "1d\n",
        ),
        "\u0661d",
    ],
)
def test_a_bad_window_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a window is"):
        Window.parse(name)


@pytest.mark.parametrize(
    "zone",
    ["", "Mars/Base", "Europe", "../etc/passwd", "/etc/passwd", "tzdata.zi", "\0", "x" * 999],
)
def test_an_unknown_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match="not a known time zone"):
        Window.parse("day", zone)


def test_a_reservation_takes_what_fits_and_settling_gives_the_rest_back() -> None:
    budget = Budget(100, Window.parse("day"))
    assert budget.reserve(5, 60) == 0
    assert budget.reserve(6, 41) is None
    assert budget.remaining(6) == 40
    assert budget.reserve(7, 40) == 0
    budget.settle(0, 60, 25)
    assert budget.remaining(8) == 35
    budget.settle(0, 40, 40)
    assert budget.remaining(9) == 35
    assert budget.reset_ms(9) == DAY


def test_a_cost_above_its_reservation_is_counted_in_full() -> None:
    budget = Budget(100, Window.parse("day"))
    assert budget.reserve(0, 100) == 0
    budget.settle(0, 100, 130)
    assert budget.remaining(0) == -30
    assert budget.reserve(0, 0) is None


def test_a_cost_without_a_reservation_is_counted_too() -> None:
    budget = Budget(100, Window.parse("day"))
    budget.settle(0, 0, 30)
    assert budget.remaining(0) == 70


def test_calls_without_a_price_reserve_nothing_and_settle_in_any_order() -> None:
    budget = Budget(10, Window.parse("day"))
    assert [budget.reserve(0, micros) for micros in (0, 10, 0)] == [0, 0, 0]
    for reserved in (0, 10, 0):
        budget.settle(0, reserved, reserved)
    assert budget.remaining(0) == 0


def test_a_call_is_paid_in_the_period_it_began_in() -> None:
    budget = Budget(100, Window.parse("day"))
    assert budget.reserve(DAY - 1, 80) == 0
    assert budget.remaining(DAY) == 100
    assert budget.reserve(DAY, 100) == DAY
    budget.settle(0, 80, 70)
    assert (budget.remaining(DAY), budget.remaining(DAY - 1)) == (0, 30)


def test_the_soft_amount_is_passed_by_what_is_reserved_too_and_refuses_nothing() -> None:
    budget = Budget(100, Window.parse("day"), soft=50)
    budget.restore(0, 50)
    assert not budget.is_soft(0)
    assert budget.reserve(0, 1) == 0
    assert budget.is_soft(0)
    assert not budget.is_soft(DAY)
    assert not Budget(0, Window.parse("day")).is_soft(0)


def test_what_was_spent_before_a_restart_counts_even_above_the_limit() -> None:
    budget = Budget(100, Window.parse("month"))
    budget.restore(ms("2026-02-10T00:00Z"), 70)
    budget.restore(ms("2026-02-28T00:00Z"), 60)
    assert budget.remaining(ms("2026-02-01T00:00Z")) == -30
    assert budget.remaining(ms("2026-03-01T00:00Z")) == 100


def test_a_clock_that_goes_back_finds_what_was_spent_in_the_last_four_periods() -> None:
    budget = Budget(100, Window.parse("day"))
    for day in range(4):
        budget.restore(day * DAY, 10 + day)
    assert [budget.remaining(day * DAY) for day in range(4)] == [90, 89, 88, 87]
    assert budget.remaining(9 * DAY) == 100
    assert [budget.remaining(day * DAY) for day in (3, 2, 1, 0)] == [87, 88, 89, 100]


def test_the_period_that_was_used_longest_ago_is_forgotten_not_the_oldest() -> None:
    budget = Budget(100, Window.parse("day"))
    for day in (0, 1, 2, 3, 0, 9):
        budget.restore(day * DAY, 10)
    assert budget.remaining(0) == 80
    assert budget.remaining(DAY) == 100


def test_a_period_with_a_call_in_flight_is_never_forgotten() -> None:
    budget = Budget(100, Window.parse("hour"))
    budget.restore(0, 20)
    assert budget.reserve(0, 30) == 0
    assert [budget.remaining(hour * HOUR) for hour in range(1, 50)] == [100] * 49
    assert budget.remaining(0) == 50
    budget.settle(0, 30, 10)
    assert budget.remaining(0) == 70


def test_late_settlements_do_not_push_out_the_period_that_is_running() -> None:
    budget = Budget(100, Window.parse("hour"))
    starts = [budget.reserve(hour * HOUR, hour) for hour in range(9)]
    budget.restore(9 * HOUR, 70)
    for hour, start_ms in enumerate(starts):
        assert start_ms == hour * HOUR
        budget.settle(start_ms, hour, hour)
    assert budget.remaining(9 * HOUR) == 30
    assert budget.remaining(10 * HOUR) == 100
    assert budget.remaining(9 * HOUR) == 30


def test_another_limit_keeps_what_was_spent() -> None:
    budget = Budget(100, Window.parse("day"))
    budget.restore(0, 50)
    assert budget.reserve(0, 20) == 0
    budget.limit, budget.soft = 60, 10
    assert (budget.remaining(0), budget.is_soft(0)) == (-10, True)
    budget.limit, budget.soft = 200, None
    assert (budget.remaining(0), budget.is_soft(0)) == (130, False)
    budget.settle(0, 20, 20)
    assert budget.remaining(0) == 130


class Model:
    """A budget for each UTC day that forgets nothing."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.settled: Counter[int] = Counter()
        self.flying: list[tuple[int, int]] = []

    def remaining(self, day: int) -> int:
        reserved = sum(micros for start, micros in self.flying if start == day)
        return self.limit - self.settled[day] - reserved


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "settle", "restore", "limit"]),
        st.integers(0, 3),
        st.integers(0, 60),
    ),
    max_size=80,
)


def run(steps: list[tuple[str, int, int]], *, forward_only: bool) -> None:
    """Does the same to a budget and to the model; every step moves the clock."""
    budget, model, day = Budget(100, Window.parse("day")), Model(100), 0
    for step, move, micros in steps:
        day = day + move // 2 if forward_only else move
        at_ms = day * DAY + micros * 1_000_000
        if step == "reserve":
            fits = micros <= model.remaining(day)
            assert budget.reserve(at_ms, micros) == (day * DAY if fits else None)
            model.flying += [(day, micros)] * fits
        elif step == "settle" and model.flying:
            start, reserved = model.flying.pop(micros % len(model.flying))
            budget.settle(start * DAY, reserved, micros)
            model.settled[start] += micros
        elif step == "restore":
            budget.restore(at_ms, micros)
            model.settled[day] += micros
        elif step == "limit":
            model.limit = 3 * micros
            budget.limit, budget.soft = model.limit, micros
            assert budget.is_soft(at_ms) == (model.limit - model.remaining(day) > micros)
        assert budget.remaining(at_ms) == model.remaining(day)
        assert budget.reset_ms(at_ms) == (day + 1) * DAY


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_it_agrees_with_a_ledger_that_forgets_nothing_while_time_goes_on(
    steps: list[tuple[str, int, int]],
) -> None:
    run(steps, forward_only=True)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_it_agrees_with_a_ledger_that_forgets_nothing_while_the_clock_jumps_among_four_days(
    steps: list[tuple[str, int, int]],
) -> None:
    run(steps, forward_only=False)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.floats(0, 1)), max_size=80))
def test_settled_and_reserved_never_exceed_the_limit_if_no_call_costs_more_than_reserved(
    steps: list[tuple[bool, int, float]],
) -> None:
    budget, flying, spent = Budget(100, Window.parse("total")), list[int](), 0
    for begins, micros, share in steps:
        if begins and budget.reserve(0, micros) is not None:
            flying.append(micros)
        elif not begins and flying:
            reserved = flying.pop()
            cost = int(reserved * share)
            budget.settle(0, reserved, cost)
            spent += cost
        assert 0 <= budget.remaining(0) == 100 - spent - sum(flying)
