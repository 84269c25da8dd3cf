"""Budgets: integer micro-dollars, reserved before a call and settled after it, period by period.

The clock is an argument, in Unix milliseconds.
"""

import re
from bisect import bisect_left
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Context, Decimal, DecimalException, Inexact, InvalidOperation
from typing import Self
from zoneinfo import ZoneInfo

_NUMBER = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
# 19 digits hold 1e12 dollars to the micro-dollar; what would be rounded is refused.
_EXACT = Context(prec=19, traps=[Inexact, InvalidOperation])
_MICRO = Decimal("0.000001")
_MOST_USD = 10**12

_COUNTED = re.compile(r"([1-9][0-9]{0,2}|1000)([hd])")
_STEPS = {"h": timedelta(hours=1), "d": timedelta(days=1)}
_EPOCH = datetime(1970, 1, 1)
_MONDAY = datetime(1970, 1, 5)

# A clock that is set back a little finds what was spent; one that wanders cannot fill the memory.
_REMEMBERED = 4


def micro_usd(text: str | int) -> int:
    """The micro-dollars of an amount in dollars, written as in JSON: "12.5" is 12,500,000.

    ValueError unless it is a number from 0 to 1e12 that needs at most 6 decimals.
    """
    number = str(text) if type(text) is int else text
    if isinstance(number, str) and _NUMBER.fullmatch(number):
        with suppress(DecimalException):
            usd = _EXACT.quantize(_EXACT.create_decimal(number), _MICRO)
            if usd <= _MOST_USD:
                return int(_EXACT.scaleb(usd, 6))
    raise ValueError("must be an amount in dollars from 0 to 1e12 with at most 6 decimals")


@dataclass(frozen=True, slots=True)
class Window:
    """How time is divided into a budget's periods: by the calendar and clock of a time zone.

    A period begins when the local clock first reads its beginning, or a later time, and ends when
    the next begins, so that every instant is in exactly one. Where the clock is set forward, a
    period is shorter or absent; where it is set back, longer: a day of 25 hours, an hour of two.
    """

    step: timedelta | str  # "month" and "total" have no fixed length
    zone: tzinfo
    origin: datetime

    @classmethod
    def parse(cls, text: str, zone: str = "UTC") -> Self:
        """The window "hour", "day", "week" (from Monday), "month", "total", "<n>h" or "<n>d".

        Periods of n hours or days are counted from 1970-01-01T00:00 local time. ValueError, with a
        sentence, for another window or an unknown time zone.
        """
        tz = _time_zone(zone)
        if text in ("month", "total"):
            return cls(text, tz, _EPOCH)
        if text == "week":
            return cls(timedelta(weeks=1), tz, _MONDAY)
        counted = _COUNTED.fullmatch({"hour": "1h", "day": "1d"}.get(text, text))
        if not counted:
            raise ValueError(
                "a window is hour, day, week, month, total, <n>h or <n>d with n from 1 to 1000"
            )
        return cls(int(counted[1]) * _STEPS[counted[2]], tz, _EPOCH)

    def bounds(self, at_ms: int) -> tuple[int, int | None]:
        """Start and end of the period that holds `at_ms`; the end is the next period's start.

        (0, None) for "total".
        """
        if self.step == "total":
            return 0, None
        index = self._index(self._clock(at_ms // 1000))
        # A clock that is set back over midnight reads yesterday in what is today already.
        while (end_ms := self._start_ms(index + 1)) <= at_ms:
            index += 1
        return self._start_ms(index), end_ms

    def _clock(self, at_s: int) -> datetime:
        return datetime.fromtimestamp(at_s, self.zone).replace(tzinfo=None)

    def _index(self, wall: datetime) -> int:
        if isinstance(self.step, timedelta):
            return (wall - self.origin) // self.step
        return wall.year * 12 + wall.month - 1

    def _start_ms(self, index: int) -> int:
        if isinstance(self.step, timedelta):
            wall = self.origin + index * self.step
        else:
            wall = datetime(index // 12, index % 12 + 1, 1)
        start_s, other_s = (
            int(wall.replace(tzinfo=self.zone, fold=fold).timestamp()) for fold in (0, 1)
        )
        # Of a time that the clock repeats, fold 0 is the first. Of one that it skips, the folds lie
        # on both sides of the change, and the change is what counts.
        if other_s < start_s:
            between = range(other_s, start_s)
            start_s = other_s + bisect_left(between, True, key=lambda s: self._clock(s) >= wall)
        return start_s * 1000


def _time_zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC  # also where no time zones are installed
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: "Europe", a directory of the tzdata package
        raise ValueError(f"{name!r} is not a known time zone") from None


@dataclass(slots=True)
class _Period:
    start_ms: int
    end_ms: int | None
    settled: int = 0
    reserved: int = 0


class Budget:
    """At most `limit` micro-dollars in each period of `window`, settled and reserved together.

    Only what is settled above its reservation can exceed it. `soft` refuses nothing: it is the
    amount above which `is_soft` says so.
    """

    __slots__ = ("_current", "_periods", "limit", "soft", "window")

    def __init__(self, limit: int, window: Window, soft: int | None = None) -> None:
        self.limit = limit
        self.window = window
        self.soft = soft
        self._periods: dict[int, _Period] = {}  # by start, the one used last at the end
        self._current = _Period(0, 0)  # the one used last; this one holds no instant

    def remaining(self, at_ms: int) -> int:
        """What can still be reserved; negative if calls cost more than was reserved for them."""
        period = self._use(at_ms)
        return self.limit - period.settled - period.reserved

    def settled(self, at_ms: int) -> int:
        """What was spent, without what is held."""
        return self._use(at_ms).settled

    def is_soft(self, at_ms: int) -> bool:
        """Whether more than the soft amount is settled and reserved."""
        return self.soft is not None and self.limit - self.remaining(at_ms) > self.soft

    def reset_ms(self, at_ms: int) -> int | None:
        """When the next period starts; None: never."""
        return self._use(at_ms).end_ms

    def reserve(self, at_ms: int, micros: int) -> int | None:
        """Takes `micros` and returns the period's start, for `settle`; None: they do not fit."""
        period = self._use(at_ms)
        if period.settled + period.reserved + micros > self.limit:
            return None
        period.reserved += micros
        return period.start_ms

    def hold(self, at_ms: int, micros: int) -> int:
        """Takes what a call that runs already holds, fit or not; returns the period's start."""
        period = self._find(at_ms)
        period.reserved += micros
        return period.start_ms

    def settle(self, start_ms: int, reserved: int, cost: int) -> None:
        """Ends a reservation and spends `cost` in its period, even if that is over meanwhile."""
        period = self._find(start_ms)
        period.reserved -= reserved
        period.settled += cost

    def restore(self, at_ms: int, micros: int) -> None:
        """Counts what was spent at `at_ms` before a restart, whether or not it fits."""
        self._use(at_ms).settled += micros

    def _use(self, at_ms: int) -> _Period:
        period = self._find(at_ms)
        if period is not self._current:
            self._current = self._periods[period.start_ms] = self._periods.pop(period.start_ms)
            self._forget()
        return period

    # Apart from `_use`, since a late settlement does not turn the clock back: many of them would
    # push the period that is running out of memory.
    def _find(self, at_ms: int) -> _Period:
        period = self._current
        if period.start_ms <= at_ms and (period.end_ms is None or at_ms < period.end_ms):
            return period
        start_ms, end_ms = self.window.bounds(at_ms)
        return self._periods.setdefault(start_ms, _Period(start_ms, end_ms))

    def _forget(self) -> None:
        for period in list(self._periods.values())[:-_REMEMBERED]:
            if not period.reserved:
                del self._periods[period.start_ms]
