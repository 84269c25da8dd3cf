"""Budgets that change while calls run: what is settled and held together never exceeds one."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anos import config as configuration
from anos import lifecycle
from anos.budgets import Budgets, Change, Reservation
from anos.config import ConfigFault
from anos.config_sections import Budget as Spec
from anos.errors import BudgetExceeded
from anos.state import GATEWAY
from anos.store import Save, Store
from tests import scripted
from tests.conftest import ROOT, Gateway, Json, base_config, merge
from tests.records import exchange
from tests.test_governance import ask, priced

KEYS, RESPONSES = "/admin/keys", "/v1/responses"
DAILY = {"usd": 0.0015, "window": "day"}
DAY = Spec(usd=0.003, window="day")
MONTH = Spec(usd=0.003, window="month")


def without_budget() -> Json:
    config = priced()
    del config["keys"]
    return config


async def make(anos: Gateway, **settings: Any) -> None:
    made = await anos.post(KEYS, name="ann", key="sk-ann", **settings)
    assert made.status == 200, made.body


async def change(anos: Gateway, budget: Any) -> None:
    changed = await anos.request("PATCH", f"{KEYS}/ann", json={"budget": budget})
    assert changed.status == 200, changed.body


def answers(upstream: scripted.Upstream, count: int, tokens: int) -> asyncio.Event:
    """So many calls wait for the event, and use so many tokens each."""
    gate = asyncio.Event()
    stream = scripted.responses_stream(["Hi"], usage=(1, tokens))
    upstream.answer(*[[stream[0], gate, *stream[1:]]] * count, scripted.responses_text("Hi"))
    return gate


async def running(
    anos: Gateway, upstream: scripted.Upstream, count: int
) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(ask(anos, stream=True)) for _ in range(count)]
    await upstream.received(count)
    return tasks


async def test_a_budget_of_another_window_knows_what_running_calls_hold(gateway, upstream) -> None:
    anos = await gateway(without_budget())
    await make(anos, budget={"usd": 0.003, "window": "day"})
    gate = answers(upstream, 3, 400)
    tasks = await running(anos, upstream, 3)
    await change(anos, {"usd": 0.003, "window": "month"})
    assert [(await ask(anos)).status for _ in range(3)] == [429] * 3
    gate.set()
    assert [(await task).status for task in tasks] == [200] * 3
    # 1,200 of 3,000 are spent: one call fits, and when it has cost 2 another.
    assert (await ask(anos, max_output_tokens=1801)).status == 429
    assert (await ask(anos, max_output_tokens=1800)).status == 200


async def test_what_runs_when_a_key_gets_its_first_budget_counts_when_it_ends(
    gateway, upstream
) -> None:
    anos = await gateway(without_budget())
    await make(anos)
    gate = answers(upstream, 1, 700)
    (task,) = await running(anos, upstream, 1)
    await change(anos, DAILY)
    gate.set()
    assert (await task).status == 200
    assert (await ask(anos, max_output_tokens=801)).status == 429
    assert (await ask(anos, max_output_tokens=800)).status == 200


async def test_a_budget_that_is_taken_away_and_given_back_knows_what_runs(
    gateway, upstream
) -> None:
    anos = await gateway(without_budget())
    await make(anos, budget=DAILY)
    gate = answers(upstream, 1, 700)
    (task,) = await running(anos, upstream, 1)
    await change(anos, None)
    await change(anos, DAILY)
    assert (await ask(anos, max_output_tokens=501)).status == 429
    gate.set()
    assert (await task).status == 200
    assert (await ask(anos, max_output_tokens=801)).status == 429
    assert (await ask(anos, max_output_tokens=800)).status == 200


async def test_a_call_that_waits_when_its_key_gets_a_budget_is_held_to_it(
    gateway, upstream
) -> None:
    config = without_budget()
    config["limits"] = {"one": {"concurrent": 1, "queue": {"size": 1, "wait_s": 20}}}
    anos = await gateway(config)
    await make(anos, limits="one")
    gate = answers(upstream, 1, 700)
    (task,) = await running(anos, upstream, 1)
    done, (waiting,) = await asyncio.wait(
        [asyncio.create_task(ask(anos)) for _ in range(2)], return_when="FIRST_COMPLETED"
    )
    assert [each.result().status for each in done] == [429]  # the other one is in the queue
    await change(anos, DAILY)
    gate.set()
    assert [(await task).status, (await waiting).status] == [200, 429]


async def test_a_reload_that_makes_a_budget_new_knows_what_running_calls_hold(
    process, upstream
) -> None:
    anos = await process(priced(0.003))
    gate = answers(upstream, 3, 400)
    tasks = await running(anos, upstream, 3)
    file = anos.log_file.parent / "anos-0.json"
    file.write_text(file.read_text().replace('"window": "day"', '"window": "month"'))
    assert (await anos.request("POST", "/admin/reload")).status == 200
    assert [(await ask(anos)).status for _ in range(3)] == [429] * 3
    gate.set()
    assert [(await task).status for task in tasks] == [200] * 3
    assert (await ask(anos, max_output_tokens=1801)).status == 429
    assert (await ask(anos, max_output_tokens=1800)).status == 200


async def test_a_budget_that_changes_under_load_is_never_exceeded(gateway, upstream) -> None:
    """Every call costs what it holds; the budget is new again and again."""
    anos = await gateway(without_budget())
    windows = ["day", "month", "week", "total", "2d", "3d"]
    await make(anos, budget={"usd": 0.02, "window": "hour"})
    upstream.answer(scripted.responses_text("Hi", usage=(1, 1000)))
    asking = [asyncio.create_task(ask(anos)) for _ in range(60)]
    for window in windows:
        await change(anos, {"usd": 0.02, "window": window})
        asking += [asyncio.create_task(ask(anos)) for _ in range(10)]
    statuses = [(await task).status for task in asking]
    assert sorted(set(statuses)) == [200, 429]
    assert statuses.count(200) == len(upstream.requests) == 20


async def test_a_budget_whose_past_cannot_be_read_is_not_taken(gateway, upstream) -> None:
    anos = await gateway(without_budget())
    await make(anos)
    parts = anos.app[GATEWAY]
    tree = merge(base_config(anos.database, upstream), priced(0.5))
    parts.load = lambda: configuration.parse(tree)
    await parts.store.close()
    changed = await anos.request("PATCH", f"{KEYS}/ann", json={"budget": DAILY})
    assert (changed.status, changed.error["message"]) == (
        *(503, "The gateway cannot write its database; nothing was changed."),
    )
    with pytest.raises(ConfigFault, match="nothing was changed"):
        await lifecycle.reload(parts)
    assert parts.live.keyring.accounts == {}
    assert parts.budgets.state("key:ann", 0) == []


async def test_sums_for_a_change_have_what_was_submitted_before_it_and_nothing_later(
    tmp_path: Path,
) -> None:
    store = await Store.open(tmp_path / "anos.db", ROOT / "store.sql", bytes(32))

    def row() -> Save:
        return Save(exchange(key="ann", project="key:ann", cost=1))

    for _ in range(700):  # more than a group
        store.submit(row())
    asked = asyncio.create_task(store.spent_before([("key", "ann", 0), ("all", "", 0)]))
    await asyncio.sleep(0)  # it is submitted
    for _ in range(700):
        last = store.submit(row())
    assert await asked == [700, 700]
    await last
    assert await store.spent([("key", "ann", 0)]) == [1400]
    await store.close()


# The arithmetic -----------------------------------------------------------------------------------

ACCOUNTS = ("key:ann", "key:bob", "project:team", "global")
PAYERS = [("key:ann", "project:team", "global"), ("key:bob", "global")]
CHOICES: list[dict[str, tuple[Spec, ...]]] = [
    {},
    {"key:ann": (DAY,)},
    {"key:ann": (MONTH,), "global": (DAY,)},
    {"key:ann": (DAY, MONTH), "project:team": (MONTH,)},
    {"key:bob": (DAY,), "global": (MONTH,)},
]


def left(budgets: Budgets, account: str) -> list[int]:
    return [round(each["remaining_usd"] * 1e6) for each in budgets.state(account, 0)]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["call", "call", "settle", "begin", "take", "drop"]),
            st.integers(0, 9),
            st.integers(0, 1500),
        ),
        max_size=60,
    )
)
def test_whatever_changes_when_each_call_counts_once_in_every_budget_of_its_payers(
    steps: list[tuple[str, int, int]],
) -> None:
    budgets = Budgets()
    flying: list[tuple[tuple[str, ...], Reservation | None]] = []
    settled: list[tuple[tuple[str, ...], int]] = []
    changing: Any = None
    take: Callable[[], None] | None = None

    def spent(change: Change) -> list[int]:
        return [
            sum(cost for payers, cost in settled if account in payers) for account, _ in change.new
        ]

    for step, which, micro in steps:
        if step == "call":
            payers = PAYERS[which % 2]
            try:
                hold = budgets.reserve(payers, micro, 0) if budgets.has_any(payers) else None
                flying.append((payers, hold))
            except BudgetExceeded:
                assert min(n for account in payers for n in left(budgets, account)) < micro
        elif step == "settle" and flying:
            payers, hold = flying.pop(which % len(flying))
            if hold is None:
                cost = micro
                budgets.spend(payers, cost, 0)
            else:
                cost = min(micro, hold.micro_usd)
                hold.settle(cost)
                hold.settle(cost + 1)
            settled.append((payers, cost))
        elif step == "begin" and changing is None:
            changing = budgets.changing(CHOICES[which % len(CHOICES)])
            change = changing.__enter__()
            sums = spent(change)

            def take(change: Change = change, sums: list[int] = sums) -> None:
                budgets.take(change, 0, sums)

        elif step in ("take", "drop") and changing is not None:
            if step == "take":
                assert take is not None
                take()
            changing.__exit__(None, None, None)
            changing = None
        for account in ACCOUNTS:
            taken = sum(cost for payers, cost in settled if account in payers)
            taken += sum(hold.micro_usd for payers, hold in flying if hold and account in payers)
            assert all(n == 3000 - taken for n in left(budgets, account))


def test_an_amount_that_is_changed_is_that_of_the_same_budget() -> None:
    budgets = Budgets()
    with budgets.changing({"global": (DAY,)}) as change:
        budgets.take(change, 0, [0])
    call = budgets.reserve(("global",), 2000, 0)
    with budgets.changing({"global": (Spec(usd=0.005, window="day"),)}) as change:
        assert change.new == []
        budgets.take(change, 0, [])
    assert left(budgets, "global") == [3000]
    call.settle(0)
    assert left(budgets, "global") == [5000]
    with pytest.raises(BudgetExceeded):
        budgets.reserve(("key:ann", "global"), 5001, 0)
    assert left(budgets, "global") == [5000]
