"""Retention, checkpoints, the size of the file, backup and integrity."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anos import lifecycle, store_copy, upkeep
from anos.audit import LOGS, Report
from anos.schema import (
    ChangeRecord,
    ExchangeRecord,
    LogChange,
    Prune,
    PruneBodies,
    Save,
    Shrink,
    Step,
    StoreFailed,
    StoreFault,
)
from anos.state import GATEWAY
from anos.store import Store
from tests import records
from tests.conftest import ROOT, Gateway, Json
from tests.test_cli import served

SQL = ROOT / "store.sql"
SECRET, OTHER = b"s" * 32, b"t" * 32
DAY_MS = 86_400_000
NOW_MS = 1_000 * DAY_MS


def exchange(age_days: float, **changes: Any) -> ExchangeRecord:
    values = {"started_ms": int(NOW_MS - age_days * DAY_MS), "cost": 5}
    return records.exchange(**(values | changes))


def change(age_days: float) -> ChangeRecord:
    at_ms = int(NOW_MS - age_days * DAY_MS)
    return ChangeRecord(at_ms=at_ms, actor="master", request_id="", action="a", object="o")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "anos.db", SQL, SECRET)
    await upkeep.sign(store, now_ms=0)
    yield store
    await store.close()


async def save(store: Store, *ages: float, **changes: Any) -> None:
    await asyncio.gather(*[store.submit(Save(exchange(age, **changes))) for age in ages])


async def tend(store: Store, days: int = 90, responses_days: int = 30) -> None:
    await upkeep.tend(
        store, responses_days=responses_days, audit_days=days, now_ms=NOW_MS, pause_s=0
    )


def query(folder: Path, statement: str) -> list[Any]:
    connection = sqlite3.connect(folder / "anos.db", isolation_level=None)
    rows = connection.execute(statement).fetchall()
    connection.close()
    return rows


def seqs(folder: Path, table: str = "exchanges") -> list[int]:
    return [seq for (seq,) in query(folder, f"SELECT seq FROM {table} ORDER BY seq")]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def verified(store: Store) -> Report:
    report, _ = await upkeep.verify(store, {})
    return report


# Retention ---------------------------------------------------------------------------------------


async def test_what_is_older_than_its_days_goes_from_both_logs(
    store: Store, tmp_path: Path
) -> None:
    await save(store, 91, 90.1, 89, 1)
    for age in (91, 89):
        await store.submit(LogChange(change(age)))
    await tend(store)
    assert (seqs(tmp_path), seqs(tmp_path, "changes")) == ([3, 4], [2])
    assert [report.ok for report in await upkeep.verify(store, {})] == [True, True]
    await save(store, 0)
    assert (await verified(store)).verified == 3


async def test_only_a_prefix_goes(store: Store, tmp_path: Path) -> None:
    await save(store, 91, 1, 91, 1)
    await tend(store)
    assert seqs(tmp_path) == [2, 3, 4]


async def test_the_last_row_stays_and_the_chain_goes_on_from_it(
    store: Store, tmp_path: Path
) -> None:
    await save(store, 91, 91, 91)
    await tend(store)
    assert seqs(tmp_path) == [3]
    await save(store, 1)
    assert seqs(tmp_path) == [3, 4]
    assert (await verified(store)).ok


async def test_the_sums_that_budgets_need_stay(store: Store, tmp_path: Path) -> None:
    await save(store, 91, 91, 1)
    await tend(store)
    assert query(tmp_path, "SELECT sum(cost), sum(requests) FROM spend") == [(15, 3)]


async def test_after_every_step_of_a_removal_the_log_verifies(store: Store, tmp_path: Path) -> None:
    await save(store, *[91] * 600, 1)
    step, steps = Step(0, True), []
    while step.more:
        step = await store.submit(Prune("exchanges", NOW_MS - 90 * DAY_MS, NOW_MS))
        steps.append(step.removed)
        report = await verified(store)
        assert (report.ok, report.first) == (True, sum(steps) + 1)
        # What is signed stays small: one checkpoint stands for all that went.
        assert len(query(tmp_path, "SELECT 1 FROM checkpoints WHERE log = 'exchanges'")) == 1
    assert steps == [250, 250, 100]


@settings(deadline=None, max_examples=30)
@given(ages=st.lists(st.sampled_from([89, 91, 95]), min_size=1, max_size=30))
def test_whatever_goes_the_rest_verifies(ages: list[float], tmp_path_factory) -> None:
    async def scenario() -> None:
        store = await Store.open(tmp_path_factory.mktemp("any") / "anos.db", SQL, SECRET)
        await upkeep.sign(store, now_ms=0)
        for days in (93, 90):
            await save(store, *ages)
            await tend(store, days)
            assert (await verified(store)).ok
        await store.close()

    asyncio.run(scenario())


async def test_a_row_that_was_tampered_with_is_noted_for_good_before_it_goes(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await save(store, 91, 91, 91, 1)
    query(tmp_path, "UPDATE exchanges SET cost = 0 WHERE seq = 2")
    await tend(store)
    assert seqs(tmp_path) == [4]
    assert (await verified(store)).ok
    assert "Row 2 was altered" in caplog.text
    ((action, subject, after),) = query(tmp_path, "SELECT action, object, after FROM changes")
    assert (action, subject) == ("audit.broken", "exchanges")
    assert '"seq":2' in after


async def test_bodies_go_with_the_responses_or_with_their_rows(
    store: Store, tmp_path: Path
) -> None:
    await save(store, 91, 31, 29, 1, request_body=b"asked", response_body=b"said")
    await tend(store)
    assert seqs(tmp_path, "bodies") == [3, 4]
    assert seqs(tmp_path) == [2, 3, 4]
    await tend(store, days=10)
    assert seqs(tmp_path, "bodies") == [4]


async def test_large_bodies_go_in_small_steps(store: Store, tmp_path: Path) -> None:
    await save(store, *[31] * 5, request_body=bytes(3 * 1024 * 1024))
    job = PruneBodies(NOW_MS - 30 * DAY_MS)
    steps = [await store.submit(job) for _ in range(4)]
    assert [(step.removed, step.more) for step in steps] == [
        (2, True),
        (2, True),
        (1, True),
        (0, False),
    ]
    assert seqs(tmp_path, "bodies") == []


async def test_the_gateway_keeps_the_days_of_its_configuration(gateway) -> None:
    anos: Gateway = await gateway({"retention": {"audit_days": 2}})
    now_ms = time.time_ns() // 1_000_000
    old = [exchange(0, started_ms=now_ms - days * DAY_MS) for days in (4, 3, 1)]
    await asyncio.gather(*[anos.app[GATEWAY].store.submit(Save(each)) for each in old])
    await lifecycle.expire(anos.app[GATEWAY])
    assert seqs(anos.database.parent) == [3]
    assert (await anos.get("/admin/audit/verify")).body["ok"]


# Checkpoints -------------------------------------------------------------------------------------


async def test_the_logs_are_signed_once_a_day_where_they_grew(store: Store, tmp_path: Path) -> None:
    for day, expected in ((0.5, [0]), (1, [0, 1]), (1.5, [0, 1]), (2.1, [0, 1, 3])):
        await save(store, 0)
        await upkeep.sign(store, now_ms=int(day * DAY_MS))
        rows = query(tmp_path, "SELECT seq FROM checkpoints WHERE log = 'exchanges' ORDER BY seq")
        assert [seq for (seq,) in rows] == [0, *[seq + 1 for seq in expected[1:]]]
    assert query(tmp_path, "SELECT seq FROM checkpoints WHERE log = 'changes'") == [(0,)]
    report = await verified(store)
    assert (report.ok, report.checkpoints) == (True, 3)


async def test_rows_of_another_secret_go_like_others_and_nothing_looks_broken(
    tmp_path: Path,
) -> None:
    store = await Store.open(tmp_path / "anos.db", SQL, OTHER)
    await upkeep.sign(store, now_ms=0)
    await save(store, 91, 91, 89.5)
    await store.close()
    store = await Store.open(tmp_path / "anos.db", SQL, SECRET)
    await upkeep.sign(store, now_ms=0)
    await save(store, 88.5, 1)
    for days, foreign, own in ((90, 1, 2), (89, 0, 2), (88, 0, 1)):
        await tend(store, days)
        report = await verified(store)
        assert (report.broken, report.foreign, report.verified) == (None, foreign, own)
        assert report.ok is (foreign == 0)
    assert query(tmp_path, "SELECT count(*) FROM changes") == [(0,)]
    await store.close()


# Size --------------------------------------------------------------------------------------------


async def test_what_is_free_goes_back_to_the_disk(store: Store, tmp_path: Path) -> None:
    await save(store, *[31] * 8, request_body=bytes(4 * 1024 * 1024))
    await save(store, 1)
    assert (await store.submit(Shrink())).more is False
    pages = query(tmp_path, "PRAGMA page_count")[0][0]
    await tend(store)
    left = query(tmp_path, "PRAGMA page_count")[0][0]
    assert left < pages - 3000
    assert query(tmp_path, "PRAGMA integrity_check") == [("ok",)]
    assert (await store.submit(Shrink())).more is False


async def test_a_file_that_cannot_shrink_stays_as_large_and_works(tmp_path: Path) -> None:
    await (await Store.open(tmp_path / "anos.db", SQL, SECRET)).close()
    connection = sqlite3.connect(tmp_path / "anos.db")
    connection.execute("PRAGMA auto_vacuum = NONE")
    connection.execute("VACUUM")
    connection.close()
    store = await Store.open(tmp_path / "anos.db", SQL, SECRET)
    await save(store, *[31] * 8, request_body=bytes(4 * 1024 * 1024))
    await tend(store)
    assert query(tmp_path, "PRAGMA freelist_count")[0][0] > 4096
    await store.close()
    connection = sqlite3.connect(tmp_path / "anos.db")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("VACUUM")
    connection.close()
    assert query(tmp_path, "PRAGMA auto_vacuum") == [(2,)]


# Backup ------------------------------------------------------------------------------------------


async def test_a_backup_made_while_rows_are_written_is_whole(store: Store, tmp_path: Path) -> None:
    body = bytes(20_000)
    await save(store, *[1] * 500, request_body=body, request_digest=sha256(body).hexdigest())
    ended = asyncio.Event()

    async def write() -> None:
        while not ended.is_set():
            await save(store, 0)

    writing = asyncio.create_task(write())
    copy = await upkeep.backup(tmp_path / "anos.db", tmp_path / "copy.db")
    ended.set()
    await writing
    assert copy.exchanges >= 500
    assert (tmp_path / "copy.db").stat().st_size == copy.total_bytes
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    restored = await Store.open(tmp_path / "copy.db", SQL, SECRET)
    report = await verified(restored)
    assert (report.ok, report.verified) == (True, copy.exchanges)
    await save(restored, 0)
    assert (await verified(restored)).verified == copy.exchanges + 1
    await restored.close()
    assert await upkeep.check(tmp_path / "copy.db") == []


async def test_a_backup_replaces_nothing_and_leaves_nothing_behind_when_it_fails(
    store: Store, tmp_path: Path
) -> None:
    await save(store, *[1] * 100, request_body=bytes(20_000))
    (tmp_path / "there.db").write_text("mine")
    before = names(tmp_path)
    with pytest.raises(FileExistsError):
        await upkeep.backup(tmp_path / "anos.db", tmp_path / "there.db")
    with pytest.raises(OSError, match="No such file"):
        await upkeep.backup(tmp_path / "anos.db", tmp_path / "no" / "copy.db")
    with pytest.raises(StoreFault, match="cannot be used"):
        await upkeep.backup(tmp_path / "there.db", tmp_path / "copy.db")
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoreFailed, match="stopped"):
        store_copy.backup(tmp_path / "anos.db", tmp_path / "copy.db", stop)
    assert names(tmp_path) == before
    assert (tmp_path / "there.db").read_text() == "mine"


async def test_a_backup_over_http_is_beside_the_database_and_in_the_log(gateway) -> None:
    anos: Gateway = await gateway()
    await anos.post("/v1/responses", input="Hi")
    reply = await anos.request("POST", "/admin/backup", json={"file": "copy.db"})
    assert reply.status == 200
    copy = anos.database.with_name("copy.db")
    assert reply.body == {"file": "copy.db", "bytes": copy.stat().st_size, "exchanges": 1}
    assert not copy.with_name("copy.db.key").exists()
    (row,) = (await anos.get("/admin/changes")).body["data"]
    assert (row["action"], row["object"], row["after"]) == (
        "backup.create",
        "file:copy.db",
        reply.body,
    )
    again = await anos.request("POST", "/admin/backup", json={"file": "copy.db"})
    assert (again.status, again.error["param"]) == (400, "file")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"file": None},
        {"file": 1},
        {"file": "x", "path": "/tmp"},
        *({"file": name} for name in ("", ".", "..", "../x", "/tmp/x", "a/b", "a\\b", ".x", "x\n")),
        *({"file": f"anos.db{end}"} for end in ("", "-wal", "-shm", "-journal", ".key")),
        {"file": "x" * 129},
        {"file": "é.db"},
    ],
)
async def test_a_client_chooses_a_plain_name_and_no_more(gateway, body: Json) -> None:
    anos: Gateway = await gateway()
    before = names(anos.database.parent)
    reply = await anos.request("POST", "/admin/backup", json=body)
    assert reply.status == 400
    assert reply.error["param"] in ("file", "path")
    assert names(anos.database.parent) == before


async def test_one_backup_at_a_time(gateway) -> None:
    anos: Gateway = await gateway()
    store = anos.app[GATEWAY].store
    await save(store, *[1] * 1000, request_body=bytes(20_000))
    calls = [
        anos.request("POST", "/admin/backup", json={"file": f"{name}.db"}) for name in ("a", "b")
    ]
    replies = sorted(await asyncio.gather(*calls), key=lambda reply: reply.status)
    assert [reply.status for reply in replies] == [200, 400]
    assert replies[1].error["code"] == "conflict"


async def test_a_backup_whose_client_left_stops(gateway) -> None:
    anos: Gateway = await gateway()
    gate: Any = anos.app[GATEWAY]
    await save(gate.store, *[1] * 2000, request_body=bytes(20_000))
    call = asyncio.create_task(anos.request("POST", "/admin/backup", json={"file": "copy.db"}))
    while "backup" not in gate.tending:  # noqa: ASYNC110
        await asyncio.sleep(0)
    call.cancel()
    while gate.tending:  # noqa: ASYNC110
        await asyncio.sleep(0)
    reply = await anos.request("POST", "/admin/backup", json={"file": "second.db"})
    assert reply.status == 200
    assert not anos.database.with_name("copy.db").exists()


def test_a_backup_from_the_shell_opens_and_verifies(tmp_path: Path, capsys) -> None:
    async def fill() -> None:
        store = await Store.open(tmp_path / "anos.db", SQL, SECRET)
        await save(store, 1, 2)
        await store.close()

    asyncio.run(fill())
    flags = ("--database", str(tmp_path / "anos.db"))
    assert served("backup", str(tmp_path / "copy.db"), *flags) == (0, [])
    out, err = capsys.readouterr()
    assert out.endswith(" bytes, 2 exchanges\n")
    assert "keep " in err
    with pytest.raises(SystemExit, match=r"/none/copy\.db: No such file or directory$"):
        served("backup", str(tmp_path / "none" / "copy.db"), *flags)
    with pytest.raises(SystemExit, match="exists already"):
        served("backup", str(tmp_path / "copy.db"), *flags)
    assert served("audit", "check", "--database", str(tmp_path / "copy.db")) == (0, [])
    assert capsys.readouterr().out == "ok\n"


# Integrity ---------------------------------------------------------------------------------------


def corrupt(database: Path) -> None:
    """Zeroes in the middle of the file."""
    with database.open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(size // 2 // 4096 * 4096)
        file.write(bytes(4096))


async def test_a_damaged_file_is_told_from_a_whole_one(tmp_path: Path, capsys) -> None:
    store = await Store.open(tmp_path / "anos.db", SQL, SECRET)
    await save(store, *[1] * 2000)
    await store.close()
    assert await upkeep.check(tmp_path / "anos.db") == []
    corrupt(tmp_path / "anos.db")
    assert await upkeep.check(tmp_path / "anos.db") != []
    assert served("audit", "check", "--database", str(tmp_path / "anos.db")) == (1, [])
    assert capsys.readouterr().out != "ok\n"


async def test_a_check_that_is_told_to_stop_stops(store: Store, tmp_path: Path) -> None:
    await save(store, *[1] * 4000)
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoreFault, match="interrupted"):
        store_copy.check(tmp_path / "anos.db", stop)


async def test_integrity_over_http_takes_nothing_and_tells_what_it_found(gateway) -> None:
    anos: Gateway = await gateway()
    reply = await anos.request("POST", "/admin/integrity")
    assert (reply.status, reply.body) == (200, {"ok": True, "problems": []})
    assert (await anos.request("POST", "/admin/integrity", json={"a": 1})).status == 400


async def test_there_are_two_logs(store: Store) -> None:
    assert [report.log for report in await upkeep.verify(store, {})] == list(LOGS)
