"""What operators ask of the ledger: reads of a real file, and the big ledger's builder."""

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anos import queries, searches, spend
from anos.errors import InvalidRequest
from anos.queries import NEWEST, SCAN_RESPONSES, SCAN_ROWS, Stored, Which
from anos.store import Delete, Save, Store
from anos.store_ledger import QUARTER_MS
from tests.test_store import ROOT, SECRET, SQL, exchange, record

T0 = 1_790_000_000_000 - 1_790_000_000_000 % QUARTER_MS
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
ALWAYS = (0, 1 << 53)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "anos.db", SQL, SECRET)
    yield store
    await store.close()


async def save(store: Store, *changes: dict[str, Any]) -> None:
    """Exchanges with these fields; the first has seq 1."""
    for each in changes:
        done = store.submit(Save(exchange(**each)))
        if store._queue[4000:]:
            await done
    await done


async def pages(store: Store, which: Which, since_ms: int, limit: int) -> list[int]:
    """The seqs of all pages of a search, one after the other."""
    seqs: list[int] = []
    following: queries.Place | None = NEWEST
    while following is not None:
        rows, following = await searches.requests(store, which, since_ms, following, limit)
        seqs += [row["seq"] for row in rows]
    return seqs


@given(
    starts=st.lists(st.integers(0, 20), min_size=1, max_size=40),
    limit=st.integers(1, 7),
    since=st.integers(0, 20),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_pages_of_requests_are_newest_first_without_gap_or_double(
    tmp_path_factory: pytest.TempPathFactory, starts: list[int], limit: int, since: int
) -> None:
    path = tmp_path_factory.mktemp("pages") / "anos.db"
    store = await Store.open(path, SQL, SECRET)
    try:
        await save(store, *({"started_ms": start} for start in starts))
        expected = sorted(
            ((start, seq) for seq, start in enumerate(starts, 1) if start >= since), reverse=True
        )
        assert await pages(store, Which(), since, limit) == [seq for _, seq in expected]
    finally:
        await store.close()


async def test_a_search_finds_what_is_rare_behind_more_rows_than_one_read_looks_at(
    store: Store,
) -> None:
    common = ({"started_ms": T0 + number} for number in range(SCAN_ROWS + 500))
    await save(store, {"started_ms": T0, "key": "rare"}, *common)
    found, following = await store.read(partial(queries.requests, Which(key="rare"), 0, NEWEST, 20))
    assert (found, following) == ([], (T0 + 500, 502))
    rows, following = await searches.requests(store, Which(key="rare"), 0, NEWEST, 20)
    assert [row["seq"] for row in rows] == [1]
    assert following is None


async def test_requests_are_chosen_by_every_field(store: Store) -> None:
    await save(
        store,
        {"key": "a", "project": "project:x", "model": "m", "status": 200, "route": "/r"},
        {"key": "b", "project": "project:y", "model": "n", "status": 404, "route": "/s"},
    )
    for which, expected in (
        (Which(key="a"), [1]),
        (Which(project="project:y"), [2]),
        (Which(model="m"), [1]),
        (Which(route="/s"), [2]),
        (Which(status_low=400, status_high=499), [2]),
        (Which(key="a", model="n"), []),
    ):
        assert await pages(store, which, 0, 10) == expected


async def test_the_requests_of_a_response_come_page_by_page(store: Store) -> None:
    await save(
        store,
        *({"response_id": "resp_a", "started_ms": at, "key": f"k{at}"} for at in (5, 6, 7)),
        {"response_id": "resp_b"},
    )

    async def seqs(which: Which, span: tuple[int, int], before: Any, limit: int) -> Any:
        rows, following = await searches.of_response(store, "resp_a", which, span, before, limit)
        return [row["seq"] for row in rows], following

    assert await seqs(Which(), ALWAYS, None, 2) == ([3, 2], (6, 2))
    assert await seqs(Which(), ALWAYS, (6, 2), 2) == ([1], None)
    assert await seqs(Which(key="k6"), ALWAYS, None, 2) == ([2], None)
    assert await seqs(Which(), (6, 7), None, 2) == ([2], None)


async def test_a_request_is_found_by_its_id_the_newest_first_and_by_its_number(
    store: Store,
) -> None:
    await save(
        store,
        {"request_id": "twice", "status": 200},
        {"request_id": "twice", "status": 500},
        {"request_id": "1", "status": 418},
        {"request_id": "9" * 19, "status": 418},
    )

    async def told(name: str) -> queries.Told | None:
        return await store.read(partial(queries.request, name))

    newest = await told("twice")
    assert newest is not None
    assert (newest.row["seq"], newest.row["status"], newest.others) == (2, 500, [1])
    by_number = await told("2")
    assert by_number is not None
    assert by_number.row["seq"] == 2
    # A client can send a number as its id: that hides no row.
    first, long = await told("1"), await told("9" * 19)
    assert first is not None
    assert long is not None
    assert (first.row["status"], long.row["seq"]) == (200, 4)
    assert [await told(name) for name in ("none", "99", "9" * 40, "²")] == [None] * 4


async def test_the_requests_of_an_id_are_listed_newest_first(store: Store) -> None:
    await save(store, *({"request_id": name} for name in ("1", "2", "1", "1")))

    async def seqs(name: str, limit: int) -> list[int]:
        rows = await store.read(partial(queries.requests_of_id, name, limit))
        return [row["seq"] for row in rows]

    assert await seqs("1", 10) == [4, 3, 1]
    assert await seqs("1", 2) == [4, 3]
    assert await seqs("3", 2) == []


async def test_a_request_names_the_rows_that_correct_it(store: Store) -> None:
    await save(
        store,
        {"request_id": "r", "cost": 10, "model": "m"},
        {"route": "correction", "corrects": 1, "cost": -4, "charged_ms": T0, "model": "m"},
        {"route": "correction", "corrects": 1, "cost": 1, "charged_ms": T0, "model": "m"},
    )
    told = await store.read(partial(queries.request, "r"))
    assert told is not None
    assert [(each["seq"], each["cost"]) for each in told.corrections] == [(2, -4), (3, 1)]


EXCHANGES = st.lists(
    st.fixed_dictionaries(
        {
            "started_ms": st.integers(0, 3 * DAY_MS).map(lambda ms: T0 + ms),
            "key": st.sampled_from("ab"),
            "project": st.sampled_from(["project:x", "project:y"]),
            "model": st.sampled_from("mn"),
            "status": st.sampled_from([200, 429]),
            "input_tokens": st.integers(0, 9),
            "cost": st.integers(0, 99),
        }
    ),
    min_size=1,
    max_size=25,
)


@given(
    rows=EXCHANGES,
    columns=st.sampled_from([(), ("key",), ("key", "model"), ("key", "project", "model")]),
    step=st.sampled_from([None, "hour", "day", "month"]),
    zone=st.sampled_from(["UTC", "Asia/Kathmandu", "America/New_York"]),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_spend_is_the_sum_of_its_exchanges_however_it_is_grouped(
    tmp_path_factory: pytest.TempPathFactory, rows: Any, columns: Any, step: Any, zone: str
) -> None:
    store = await Store.open(tmp_path_factory.mktemp("spend") / "anos.db", SQL, SECRET)
    try:
        await save(store, *rows)
        question = spend.Question(
            start_ms=T0, end_ms=T0 + 4 * DAY_MS, columns=columns, step=step, time_zone=zone
        )
        found = await spend.ask(store, question)
    finally:
        await store.close()
    window = spend.Window.parse(step, zone) if step else None
    costs: Counter[Any] = Counter()
    counts: Counter[Any] = Counter()
    for row in rows:
        period = window.bounds(row["started_ms"])[0] if window else None
        group = (period, tuple(row[name] for name in columns))
        costs[group] += row["cost"]
        counts[group] += 1
    assert {(row.period_ms, row.groups): row.values[0] for row in found} == counts
    assert {(row.period_ms, row.groups): row.values[-1] for row in found} == costs
    assert spend.total(found)[1] == sum(row["status"] >= 400 for row in rows)
    assert found == sorted(found, key=lambda row: (row.period_ms or 0, -row.values[-1]))


async def test_spend_is_only_of_those_that_are_asked_for(store: Store) -> None:
    base = {"started_ms": T0, "model": "m", "cost": 1}
    await save(store, base, base | {"key": "ci", "cost": 10}, base | {"model": "n", "cost": 100})

    async def cost(which: Which) -> int:
        rows = await spend.ask(store, spend.Question(start_ms=T0, end_ms=T0 + 1, which=which))
        return spend.total(rows)[-1]

    assert await cost(Which()) == 111
    assert await cost(Which(key="ci")) == 10
    assert await cost(Which(model="n")) == 100
    assert await cost(Which(project="project:nobody")) == 0


async def test_an_answer_of_too_many_groups_is_refused(store: Store) -> None:
    await save(store, *({"started_ms": T0 + 3000 * at * HOUR_MS, "model": "m"} for at in (0, 1)))
    hours = spend.Question(start_ms=0, end_ms=1 << 53, step="hour")
    with pytest.raises(InvalidRequest, match="too many periods"):
        await spend.ask(store, hours)
    (row,) = await spend.ask(store, spend.Question(start_ms=0, end_ms=1 << 53))
    assert row.values[0] == 2
    keys = ({"started_ms": T0, "model": "m", "key": f"k{number}"} for number in range(10_001))
    await save(store, *keys)
    with pytest.raises(InvalidRequest, match="too many groups"):
        await spend.ask(store, spend.Question(start_ms=0, end_ms=1 << 53, columns=("key",)))


async def test_the_days_of_a_span_begin_at_local_midnight() -> None:
    now_ms = 1_793_000_000_000  # 2026-10-26T07:33:20Z, a day after clocks in Berlin were set back
    start_ms = spend.days_back(now_ms, 3, "Europe/Berlin")
    assert spend.days_back(now_ms, 3, "UTC") - start_ms == 2 * HOUR_MS
    assert spend.quarters(T0 + 1, T0 + QUARTER_MS + 1) == (T0, T0 + 2 * QUARTER_MS)
    assert spend.quarters(T0, T0 + QUARTER_MS) == (T0, T0 + QUARTER_MS)


async def test_stored_responses_are_listed_without_those_that_were_deleted(store: Store) -> None:
    for name in ("r1", "r2", "r3"):
        await store.submit(Save(exchange(), record(name)))
    await store.submit(Delete("project:a", "r2"))
    rows, following = await searches.responses(store, Stored(), None, 10)
    assert ([row["id"] for row in rows], following) == (["r3", "r1"], None)
    assert {name for row in rows for name in row} == {
        *("seq", "id", "project", "parent_id", "model", "status", "background"),
        *("created_ms", "completed_ms", "input_items", "output_items"),
    }
    assert (rows[0]["input_items"], rows[0]["output_items"]) == (1, 1)


async def test_stored_responses_come_page_by_page_through_many_reads(store: Store) -> None:
    count = SCAN_RESPONSES + 20
    for number in range(count):
        model = "rare" if number == 3 else "common"
        at_ms = {"created_ms": 1000 + number, "completed_ms": 1001 + number}
        done = store.submit(Save(exchange(), record(f"r{number}", model=model, **at_ms)))
    await done
    rows, following = await searches.responses(store, Stored(model="rare"), None, 10)
    assert ([row["id"] for row in rows], following) == (["r3"], None)
    rows, following = await searches.responses(store, Stored(), None, 2)
    assert [row["id"] for row in rows] == [f"r{count - 1}", f"r{count - 2}"]
    rows, _ = await searches.responses(store, Stored(), following, 1)
    assert [row["id"] for row in rows] == [f"r{count - 3}"]
    # None before the first read's last row can be younger, so there is no second read.
    young = Stored(since_ms=1000 + count - 1)
    found = await store.read(partial(queries.responses, young, NEWEST[1], 10))
    assert ([row["id"] for row in found[0]], found[1]) == ([f"r{count - 1}"], None)


async def test_there_are_no_stored_responses_in_an_empty_file(store: Store) -> None:
    assert await searches.responses(store, Stored(), None, 10) == ([], None)
    question = spend.Question(start_ms=0, end_ms=DAY_MS, step="day")
    assert await spend.ask(store, question) == []


async def test_what_was_charged_includes_the_corrections_and_nothing_without_tokens(
    store: Store,
) -> None:
    called = {
        "started_ms": T0,
        "model": "m",
        "provider": "p",
        "input_tokens": 1,
        "output_tokens": 2,
        "usage_source": "upstream",
        "cost": 7,
    }
    await save(
        store,
        called,
        called | {"usage_source": "crash"},
        called | {"input_tokens": None},
        called | {"provider": None},
        called | {"route": "correction", "corrects": 1, "cost": -3, "input_tokens": None},
        called | {"started_ms": T0 + 1, "usage_source": "estimated", "cost": None},
        called | {"started_ms": T0 + 9},
        called | {"started_ms": T0 - 1},
    )

    async def charged(model: str | None) -> list[tuple[int, int]]:
        rows, following = await store.read(partial(queries.charged, model, T0 + 9, (T0, -1)))
        assert following is None
        return [(row["seq"], row["charged"]) for row in rows]

    assert await charged(None) == [(1, 4), (6, 0)]
    assert await charged("other") == []


def test_the_ledger_that_is_measured_is_built_as_the_writer_would_and_answers(
    tmp_path: Path,
) -> None:
    command = [sys.executable, str(ROOT / "bench" / "big_ledger.py"), "--rows", "20000"]
    result = subprocess.run(
        [*command, "--folder", str(tmp_path), "--seconds", "0.2"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "built 20,000 rows" in result.stdout
    assert "while a day is removed" in result.stdout
    with sqlite3.connect(tmp_path / "ledger.db") as reader:
        (sums,) = reader.execute("SELECT sum(cost) FROM spend WHERE key != 'bench'").fetchone()
        (rows,) = reader.execute("SELECT sum(requests) FROM spend WHERE key LIKE 'key-%'")
        (left,) = reader.execute("SELECT count(*) FROM exchanges WHERE key LIKE 'key-%'")
    reader.close()
    assert rows == (20000,)
    assert 19_000 < left[0] < 20_000, "a day is gone, and its spend is not"
    assert sums > 0
    verified = subprocess.run(
        [
            *(sys.executable, str(ROOT / "anos_gateway.py"), "audit", "verify"),
            *("--config", str(tmp_path / "ledger.json")),
            *("--database", str(tmp_path / "ledger.db")),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert json.loads((tmp_path / "ledger.json").read_text())["retention"]["audit_days"] == 89
