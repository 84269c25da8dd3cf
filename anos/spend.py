"""Sums of spend over a span of time, by period and by who: read in pieces that are each short."""

from collections.abc import Iterator
from datetime import tzinfo
from functools import partial
from typing import Any

from msgspec import Struct

from anos import queries
from anos.admin_params import COLUMNS, Column
from anos.errors import InvalidRequest
from anos.queries import SUMS, Which
from anos.store import Store
from anos.store_ledger import QUARTER_MS
from guards.budgets import Window

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
# A read holds up the upkeep of the log, so it is made shorter or longer by how long one took.
_SLOW_S, _FAST_S = 0.012, 0.004
_LONGEST_MS = 64 * _DAY_MS
# A year of days by key, or two weeks of hours: more would hold up requests while it is written.
_MOST_ROWS = 10_000
_MOST_PERIODS = 2_000
# No JSON of ours has larger integers: an upstream may say anything of its tokens.
_MOST = 2**63 - 1


class Question(Struct, frozen=True, kw_only=True):
    """Spend from `start_ms` up to before `end_ms`, grouped by `columns` and by `step`.

    The columns are in the order of COLUMNS.
    """

    start_ms: int
    end_ms: int
    columns: tuple[Column, ...] = ()
    step: str | None = None  # hour, day or month
    time_zone: str = "UTC"
    which: Which = Which()


class Row(Struct, frozen=True):
    """Sums of one group; `values` are those of SUMS, the cost in micro-dollars."""

    period_ms: int | None  # when its hour, day or month began
    groups: tuple[str, ...]  # the values of the columns asked for
    values: list[int]


def quarters(start_ms: int, end_ms: int) -> tuple[int, int]:
    """The span, made longer to whole quarters of an hour: spend is not known more finely."""
    return start_ms - start_ms % QUARTER_MS, end_ms + -end_ms % QUARTER_MS


def days_back(now_ms: int, days: int, time_zone: str) -> int:
    """When the first of the last so many days began, today one of them."""
    window = Window.parse("day", time_zone)
    # In the middle of a day an hour that a clock repeats or skips does not matter.
    noon_ms = window.bounds(now_ms)[0] + _DAY_MS // 2
    return window.bounds(noon_ms - (days - 1) * _DAY_MS)[0]


def zone(time_zone: str) -> tzinfo:
    """The zone of that name."""
    return Window.parse("day", time_zone).zone


async def ask(store: Store, question: Question) -> list[Row]:
    """The groups that have any spend, by period, the dearest first.

    Raises InvalidRequest for more groups or periods than one answer can have.
    """
    wanted = frozenset(question.columns)
    places = [place for place, name in enumerate(COLUMNS) if name in wanted]
    found: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    slice_ms = 2 * _HOUR_MS
    ends = await store.read(queries.ends_of_spend)
    if ends is None:
        return []
    first_ms = max(question.start_ms, ends[0])
    for start_ms, end_ms in _periods(
        question, first_ms, min(question.end_ms, ends[1] + QUARTER_MS)
    ):
        low_ms = max(start_ms, first_ms)
        while low_ms < end_ms:
            high_ms = min(low_ms + slice_ms, end_ms)
            sums = await store.read(
                partial(queries.spend_sums, low_ms, high_ms, wanted, question.which)
            )
            for row in sums.rows:
                _add(found, (start_ms, tuple(row[place] for place in places)), row[len(COLUMNS) :])
            if len(found) > _MOST_ROWS:
                raise _too_much("groups")
            low_ms = high_ms
            if sums.took_s > _SLOW_S:
                slice_ms = max(slice_ms // 2 // QUARTER_MS * QUARTER_MS, QUARTER_MS)
            elif sums.took_s < _FAST_S:
                slice_ms = min(slice_ms * 2, _LONGEST_MS)
    rows = [
        Row(start_ms if question.step else None, groups, values)
        for (start_ms, groups), values in found.items()
    ]
    return sorted(rows, key=lambda row: (row.period_ms or 0, -row.values[-1], row.groups))


def total(rows: list[Row]) -> list[int]:
    """The sums of all rows together."""
    return [min(sum(row.values[place] for row in rows), _MOST) for place in range(len(SUMS))]


def _add(
    found: dict[tuple[int, tuple[str, ...]], list[int]],
    group: tuple[int, tuple[str, ...]],
    values: tuple[Any, ...],
) -> None:
    known = found.get(group)
    if known is None:
        found[group] = list(values)
    else:
        for place, value in enumerate(values):
            known[place] = min(known[place] + value, _MOST)


def _periods(question: Question, first_ms: int, last_ms: int) -> Iterator[tuple[int, int]]:
    """Start and end of each period from the one that holds `first_ms`.

    The start is its own, even before `first_ms`; the end is not after `last_ms`.
    """
    if question.step is None:
        yield question.start_ms, last_ms
        return
    window = Window.parse(question.step, question.time_zone)
    at_ms, count = first_ms, 0
    while at_ms < last_ms:
        start_ms, end_ms = window.bounds(at_ms)
        assert end_ms is not None  # only "total" has no end
        yield start_ms, min(end_ms, last_ms)
        at_ms, count = end_ms, count + 1
        if count > _MOST_PERIODS:
            raise _too_much("periods")


def _too_much(what: str) -> InvalidRequest:
    return InvalidRequest(
        f"The answer would have too many {what}; ask for a shorter time or group by less.",
        param="group_by",
    )
