"""The store, on real files: trees of responses, deletion, groups, crashes, full disks, expiry."""

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anos.statements import parse_schema
from anos.store import (
    Begin,
    Delete,
    ExchangeRecord,
    Finish,
    InFlight,
    NotFoundInStore,
    ParentBroken,
    ReservationRecord,
    ResponseRecord,
    Save,
    Store,
    StoreFailed,
    StoreFault,
    StoreUnavailable,
    UnknownItem,
)
from tests import records

ROOT = Path(__file__).parent.parent
SQL = ROOT / "store.sql"
SECRET = bytes(32)
A, B = "project:a", "project:b"
RESERVATIONS = count(1)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "anos.db", SQL, SECRET)
    yield store
    await store.close()


def begin(response: ResponseRecord) -> Begin:
    reservation = ReservationRecord(next(RESERVATIONS), 0, "master", response.project, b"{}")
    return Begin(response, reservation)


def exchange(**changes: Any) -> ExchangeRecord:
    return records.exchange(**({"key": "master", "project": A, "model": None} | changes))


def item(item_id: str, text: str = "") -> tuple[str, bytes]:
    return item_id, json.dumps({"id": item_id, "text": text or item_id}).encode()


def record(response_id: str, parent_id: str | None = None, **changes: Any) -> ResponseRecord:
    """A completed response with one input and one output item named after it."""
    values: dict[str, Any] = {
        "id": response_id,
        "project": A,
        "parent_id": parent_id,
        "model": "gpt-4",
        "status": "completed",
        "background": False,
        "created_ms": 1000,
        "completed_ms": 2000,
        "body": json.dumps({"id": response_id}).encode(),
        "input": [item(f"{response_id}.in")],
        "output": [item(f"{response_id}.out")],
    }
    return ResponseRecord(**(values | changes))


async def save(
    store: Store, response_id: str, parent_id: str | None = None, **changes: Any
) -> None:
    await store.submit(Save(exchange(), record(response_id, parent_id, **changes)))


def finish(response_id: str, *output: str, status: str = "completed") -> Finish:
    body = json.dumps({"id": response_id, "status": status}).encode()
    items = [item(name) for name in output]
    ended = record(response_id, status=status, completed_ms=3000, body=body, output=items)
    return Finish(exchange(), ended)


def ids(bodies: list[bytes]) -> list[str]:
    return [json.loads(body)["id"] for body in bodies]


async def history(store: Store, response_id: str) -> list[str]:
    return ids((await store.history(A, response_id)).items)


async def inputs(store: Store, response_id: str, **options: Any) -> list[str]:
    """All input items, page by page."""
    names: list[str] = []
    while True:
        page = await store.input_items(A, response_id, **options)
        assert [name for name, _ in page.items] == ids([body for _, body in page.items])
        names += [name for name, _ in page.items]
        if not page.has_more:
            return names
        options["after"] = names[-1]


def other_threads() -> set[threading.Thread]:
    return set(threading.enumerate()) - {threading.current_thread()}


def query(store_path: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(store_path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


async def test_a_response_is_read_as_it_was_saved(store: Store) -> None:
    await save(store, "r", output=[item("x"), item("y")], body=b"{}")
    stored = await store.response(A, "r")
    assert stored is not None
    assert (stored.status, stored.background, stored.body) == ("completed", False, b"{}")
    assert (stored.created_ms, stored.completed_ms, stored.model) == (1000, 2000, "gpt-4")
    assert ids(stored.output) == ["x", "y"]


async def test_another_projects_response_and_items_are_unknown(store: Store) -> None:
    await save(store, "r")
    assert await store.response(B, "r") is None
    assert await store.item(B, "r.in") is None
    with pytest.raises(NotFoundInStore):
        await store.history(B, "r")
    with pytest.raises(NotFoundInStore):
        await store.input_items(B, "r")
    with pytest.raises(NotFoundInStore):
        await store.submit(Delete(B, "r"))
    assert await store.response(A, "r") is not None


async def test_an_exchange_is_kept_field_by_field(store: Store, tmp_path: Path) -> None:
    kept = exchange(response_id="r", model="m", input_tokens=3, usage_source="upstream", status=499)
    await store.submit(Save(kept))
    columns = "request_id, response_id, model, input_tokens, output_tokens, usage_source, status"
    rows = query(tmp_path / "anos.db", f"SELECT {columns} FROM exchanges")
    assert rows == [("req", "r", "m", 3, None, "upstream", 499)]


async def test_a_chain_of_200_turns_is_one_segment_and_loses_nothing(
    store: Store, tmp_path: Path
) -> None:
    expected: list[str] = []
    parent = None
    for turn in range(200):
        name = f"r{turn:03}"
        if parent:
            assert await history(store, parent) == expected
        await save(store, name, parent)
        expected += [f"{name}.in", f"{name}.out"]
        parent = name
    assert await history(store, "r199") == expected
    segments = "SELECT DISTINCT place >> 24 FROM items"
    assert len(query(tmp_path / "anos.db", segments)) == 1


async def test_siblings_saved_in_one_group_never_mix(store: Store) -> None:
    await save(store, "root")
    names = [f"s{number}" for number in range(20)]
    await asyncio.gather(*(save(store, name, "root") for name in names))
    await asyncio.gather(*(save(store, f"{name}.child", name) for name in names))
    for name in names:
        expected = ["root.in", "root.out", f"{name}.in", f"{name}.out"]
        assert await history(store, name) == expected
        assert await inputs(store, f"{name}.child", order="asc") == [*expected, f"{name}.child.in"]


async def test_responses_without_items_do_not_take_each_others_place(store: Store) -> None:
    await save(store, "root", input=[], output=[])
    for name in ("a", "b"):
        await save(store, name, "root", input=[], output=[])
        await save(store, f"{name}1", name)
        await save(store, f"{name}2", name)
    assert await history(store, "a1") == ["a1.in", "a1.out"]
    assert await history(store, "a2") == ["a2.in", "a2.out"]
    assert await history(store, "b1") == ["b1.in", "b1.out"]
    await store.submit(Delete(A, "a"))
    with pytest.raises(ParentBroken):
        await store.history(A, "a1")
    assert await history(store, "b1") == ["b1.in", "b1.out"]


async def test_a_background_response_keeps_its_place_until_it_ends(store: Store) -> None:
    await save(store, "root")
    pending = {"status": "queued", "background": True, "completed_ms": None, "output": []}
    await store.submit(begin(record("one", "root", **pending)))
    await store.submit(begin(record("none", "root", **pending | {"input": []})))
    await save(store, "sibling", "root")
    queued = await store.response(A, "one")
    assert queued is not None
    assert (queued.status, queued.background, queued.output) == ("queued", True, [])
    assert (await store.history(A, "one")).status == "queued"
    with pytest.raises(InFlight):
        await store.submit(Delete(A, "one"))
    await store.submit(finish("none", "none.1", "none.2"))
    await store.submit(finish("one", "one.1", "one.2", status="incomplete"))
    await save(store, "child", "one")
    ended = await store.response(A, "one")
    assert ended is not None
    assert (ended.status, ended.completed_ms, ids(ended.output)) == (
        "incomplete",
        3000,
        ["one.1", "one.2"],
    )
    before = ["root.in", "root.out"]
    assert await history(store, "none") == [*before, "none.1", "none.2"]
    assert await history(store, "child") == [
        *before,
        *("one.in", "one.1", "one.2", "child.in", "child.out"),
    ]
    assert await history(store, "sibling") == [*before, "sibling.in", "sibling.out"]


async def test_a_second_end_changes_nothing_but_is_on_record(store: Store, tmp_path: Path) -> None:
    await save(store, "r")
    with pytest.raises(NotFoundInStore):
        await store.submit(finish("r", "late"))
    assert await history(store, "r") == ["r.in", "r.out"]
    assert query(tmp_path / "anos.db", "SELECT count(*) FROM exchanges") == [(2,)]


async def test_a_history_tells_what_its_last_response_said_and_who_cleared_the_rest(
    store: Store,
) -> None:
    await save(store, "r", output=[item("x"), item("y")], cleared="v1")
    await save(store, "branch", "r", input=[], output=[item("z")])
    await save(store, "quiet", "r", output=[])
    first, branch, quiet = [await store.history(A, name) for name in ("r", "branch", "quiet")]
    assert (ids(first.items), first.said, first.cleared) == (["r.in", "x", "y"], 2, "v1")
    assert (ids(branch.items), branch.said, branch.cleared) == (["r.in", "x", "y", "z"], 1, None)
    assert (ids(quiet.items)[3:], quiet.said) == (["quiet.in"], 0)


async def test_deleting_a_parent_leaves_the_child_but_not_its_history(store: Store) -> None:
    await save(store, "root")
    await save(store, "middle", "root")
    await save(store, "child", "middle")
    await save(store, "branch", "root")
    await store.submit(Delete(A, "middle"))
    assert await store.response(A, "middle") is None
    assert await store.item(A, "middle.in") is None
    assert await store.response(A, "child") is not None
    assert await inputs(store, "child") == ["child.in"]
    with pytest.raises(ParentBroken):
        await store.history(A, "child")
    with pytest.raises(UnknownItem):
        await store.input_items(A, "child", after="root.in")
    with pytest.raises(NotFoundInStore):
        await store.submit(Delete(A, "middle"))
    assert await history(store, "branch") == ["root.in", "root.out", "branch.in", "branch.out"]


async def test_a_parent_deleted_or_gone_while_the_child_ran_breaks_the_child(store: Store) -> None:
    await save(store, "root")
    await store.submit(Delete(A, "root"))
    await save(store, "late", "root")
    await save(store, "lost", "expired")
    await save(store, "foreign", "root", project=B)
    for project, name in ((A, "late"), (A, "lost"), (B, "foreign")):
        stored = await store.response(project, name)
        assert stored is not None
        assert ids(stored.output) == [f"{name}.out"]
        assert len((await store.input_items(project, name)).items) == 1
        with pytest.raises(ParentBroken):
            await store.history(project, name)


async def test_no_byte_of_a_deleted_response_is_left_in_its_row(
    store: Store, tmp_path: Path
) -> None:
    secret = "s" * 50_000
    await save(store, "r", input=[item("small", "secret"), item("big", secret)])
    await store.submit(Delete(A, "r"))
    path = tmp_path / "anos.db"
    assert query(path, "SELECT body FROM responses") == [(b"",)]
    assert set(query(path, "SELECT body, blob FROM items")) == {(None, None)}
    assert query(path, "SELECT count(*) FROM blobs") == [(0,)]


async def test_a_large_body_is_stored_once_a_project_until_nobody_refers_to_it(
    store: Store, tmp_path: Path
) -> None:
    large = [item("image", "x" * 20_000)]
    names = [f"r{number}" for number in range(5)]
    await asyncio.gather(*(save(store, name, input=large) for name in names))
    await save(store, "other", project=B, input=large)
    count = "SELECT count(*) FROM blobs"
    assert query(tmp_path / "anos.db", count) == [(2,)]
    assert (await store.history(A, "r3")).items[0] == large[0][1]
    for name in names[1:]:
        await store.submit(Delete(A, name))
    assert await store.item(A, "image") == large[0][1]
    await store.submit(Delete(A, "r0"))
    assert query(tmp_path / "anos.db", count) == [(1,)]
    assert await store.item(B, "image") == large[0][1]


async def test_a_reference_finds_the_newest_item_of_that_id(store: Store) -> None:
    await save(store, "first", input=[item("m", "one")])
    await save(store, "second", input=[item("m", "two")])
    await save(store, "third", "first", input=[item("m", "three")])
    assert await store.item(A, "m") == item("m", "three")[1]
    await store.submit(Delete(A, "third"))
    assert await store.item(A, "m") == item("m", "two")[1]
    assert await store.item(A, "unknown") is None


async def test_paging_ends_even_if_an_id_comes_twice(store: Store) -> None:
    await save(store, "root", input=[item("twice"), item("x")], output=[])
    await save(store, "child", "root", input=[item("twice"), item("y")])
    assert await inputs(store, "child", limit=1) == ["y", "twice"]
    assert await inputs(store, "child", limit=1, order="asc") == ["twice", "y"]


async def test_jobs_submitted_together_are_committed_together(store: Store) -> None:
    futures = [store.submit(Save(exchange(), record(f"r{n}"))) for n in range(100)]
    await futures[0]
    assert all(future.done() for future in futures)


async def test_a_faulty_job_fails_alone(store: Store, tmp_path: Path) -> None:
    saved = [record("good"), record("good"), record("bad\ud800"), record("also good", "good")]
    jobs = [store.submit(Save(exchange(), one)) for one in saved]
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [
        type(None),
        StoreFailed,
        StoreFailed,
        type(None),
    ]
    assert await history(store, "also good") == [
        *("good.in", "good.out", "also good.in", "also good.out")
    ]
    assert store.healthy


async def test_a_job_is_done_even_if_its_owner_stops_waiting(store: Store) -> None:
    future = store.submit(Save(exchange(), record("r")))
    future.cancel()
    await save(store, "next")
    assert await store.response(A, "r") is not None


async def test_a_full_queue_refuses_and_drains(store: Store) -> None:
    futures = []
    while len(futures) < 4096:
        futures.append(store.submit(Save(exchange())))
    with pytest.raises(StoreUnavailable):
        store.submit(Save(exchange()))
    await asyncio.gather(*futures)
    await save(store, "r")


async def test_closing_commits_the_queue_and_leaves_neither_thread_nor_descriptor(
    tmp_path: Path,
) -> None:
    threads, descriptors = other_threads(), len(os.listdir("/proc/self/fd"))
    for opening in range(5):
        store = await Store.open(tmp_path / "anos.db", SQL, SECRET)
        future = store.submit(Save(exchange(), record(f"r{opening}")))
        await store.close()
        assert future.done()
        with pytest.raises(StoreUnavailable):
            store.submit(Save(exchange()))
    for thread in other_threads() - threads:
        thread.join(10)  # it may be in its last instructions
    assert other_threads() <= threads
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert query(tmp_path / "anos.db", "SELECT count(*) FROM responses") == [(5,)]
    assert not (tmp_path / "anos.db-wal").exists()


async def test_unfinished_responses_fail_at_the_start(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "anos.db", SQL, SECRET)
    for name, status in (("q", "queued"), ("p", "in_progress")):
        pending = {"status": status, "background": True, "completed_ms": None, "output": []}
        await store.submit(begin(record(name, **pending)))
    await save(store, "done")
    await store.close()
    store = await Store.open(tmp_path / "anos.db", SQL, SECRET, synchronous="full")
    assert await store.fail_unfinished(5000, lambda body: body + b" failed") == 2
    assert await store.fail_unfinished(5000, lambda body: body + b" failed") == 0
    failed, done = await store.response(A, "p"), await store.response(A, "done")
    assert failed is not None
    assert done is not None
    assert (failed.status, failed.completed_ms, failed.body) == (
        "failed",
        5000,
        b'{"id": "p"} failed',
    )
    assert done.status == "completed"
    await store.close()


async def test_expiry_counts_from_the_last_turn_of_a_tree(store: Store, tmp_path: Path) -> None:
    large = [item("image", "x" * 20_000)]
    await save(store, "old", created_ms=10, input=large)
    await save(store, "old tree", created_ms=11)
    await save(store, "old leaf", "old tree", created_ms=12)
    await save(store, "old branch", "old tree", created_ms=12)
    await save(store, "kept root", created_ms=13)
    await save(store, "kept middle", "kept root", created_ms=14)
    await save(store, "young leaf", "kept middle", created_ms=100)
    await save(store, "young", created_ms=100)
    assert await store.retire(50) == 4
    assert await store.retire(50) == 0
    for name in ("old", "old tree", "old leaf", "old branch"):
        assert await store.response(A, name) is None
    assert len(await history(store, "young leaf")) == 6
    assert await store.response(A, "young") is not None
    assert query(tmp_path / "anos.db", "SELECT count(*) FROM blobs") == [(0,)]
    assert query(tmp_path / "anos.db", "SELECT count(*) FROM items") == [(8,)]


async def test_expiry_works_in_steps_through_long_trees_and_many_singles(
    store: Store, tmp_path: Path
) -> None:
    jobs = [Save(exchange(), record("t0", created_ms=10))]
    jobs += [Save(exchange(), record(f"t{n}", f"t{n - 1}", created_ms=10)) for n in range(1, 1200)]
    jobs += [Save(exchange(), record(f"alive{n}", created_ms=90)) for n in range(1500)]
    jobs += [Save(exchange(), record(f"s{n}", created_ms=10)) for n in range(1100)]
    await asyncio.gather(*(store.submit(job) for job in jobs))
    # A step that sees only young rows is the end: rows lie in order of time but for one request's.
    assert await store.retire(50) == 1200
    assert await store.retire(95) == 2600
    assert query(tmp_path / "anos.db", "SELECT count(*) FROM items") == [(0,)]


async def test_the_log_stays_bounded_under_writes_and_reads(store: Store, tmp_path: Path) -> None:
    await save(store, "r")
    stop = asyncio.Event()

    async def read() -> None:
        while not stop.is_set():
            await store.response(A, "r")

    async with asyncio.TaskGroup() as readers:
        for _ in range(4):
            readers.create_task(read())
        largest = 0
        for number in range(100):
            big = [
                item(f"m{number}.{part}", f"{number}.{part}" + "x" * 100_000) for part in range(10)
            ]
            await save(store, f"big{number}", input=big)
            largest = max(largest, (tmp_path / "anos.db-wal").stat().st_size)
        stop.set()
    assert 1_000_000 < largest < 64 * 1024 * 1024


WRITER = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.test_store import SECRET, SQL, Store, save

async def chain(store, name):
    parent = None
    for turn in range(100_000):
        await save(store, f"{{name}}.{{turn}}", parent)
        parent = f"{{name}}.{{turn}}"
        print(parent, flush=True)

async def main():
    store = await Store.open(Path({path!r}), SQL, SECRET)
    await asyncio.gather(*(chain(store, f"c{{n}}") for n in range(8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("count", [1, 7, 100, 555])
async def test_what_was_acknowledged_survives_kill_9_and_chains(tmp_path: Path, count: int) -> None:
    path = tmp_path / "anos.db"
    script = WRITER.format(root=str(ROOT), path=str(path))
    writer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script), stdout=asyncio.subprocess.PIPE
    )
    assert writer.stdout is not None
    lines = [await writer.stdout.readline() for _ in range(count)]
    writer.kill()
    lines += [line async for line in writer.stdout]
    await writer.wait()
    acknowledged = [line.decode().strip() for line in lines if line.endswith(b"\n")]
    assert len(acknowledged) >= count
    store = await Store.open(path, SQL, SECRET)
    for name in acknowledged:
        chain, turn = name.split(".")
        turns = [f"{chain}.{number}" for number in range(int(turn) + 1)]
        assert await history(store, name) == [f"{t}.{end}" for t in turns for end in ("in", "out")]
    await store.close()


FULL = """
import asyncio, os, resource, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.test_store import *

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main():
    store = await Store.open(Path({path!r}), SQL, SECRET)
    await save(store, "before")
    limit(2_000_000)
    saved = 0
    try:
        while True:
            big = item(f"i{{saved}}", str(saved) + "x" * 300_000)
            await save(store, f"r{{saved}}", input=[big])
            saved += 1
    except StoreFailed:
        assert not store.healthy
    try:
        store.submit(Save(exchange()))
        raise SystemExit("a failed store took a job")
    except StoreUnavailable:
        pass
    assert not await store.probe()
    assert saved and await store.response(A, f"r{{saved - 1}}"), "reads go on"
    assert await store.response(A, f"r{{saved}}") is None
    limit(resource.RLIM_INFINITY)
    assert await store.probe() and store.healthy
    await save(store, "after", "before")
    assert len((await store.history(A, "after")).items) == 4
    await store.close()

asyncio.run(main())
"""


def test_a_full_disk_refuses_writes_serves_reads_and_heals(tmp_path: Path) -> None:
    script = FULL.format(root=str(ROOT), path=str(tmp_path / "anos.db"))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert query(tmp_path / "anos.db", "PRAGMA integrity_check") == [("ok",)]
    assert query(tmp_path / "anos.db", "SELECT count(*) FROM blobs WHERE project = ''") == [(0,)]


async def refusal(path: Path, sql: Path = SQL) -> str:
    threads = other_threads()
    with pytest.raises(StoreFault) as caught:
        await Store.open(path, sql, SECRET)
    for thread in other_threads() - threads:
        thread.join(10)
    assert other_threads() <= threads
    return str(caught.value)


async def test_a_file_of_a_newer_program_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "anos.db"
    await (await Store.open(path, SQL, SECRET)).close()
    query(path, "PRAGMA user_version = 99")
    content = path.read_bytes()
    assert "version 99, this program knows up to 3" in await refusal(path)
    assert path.read_bytes() == content


async def test_a_file_that_another_gateway_uses_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "anos.db"
    first = await Store.open(path, SQL, SECRET)
    assert "another gateway uses it" in await refusal(path)
    await save(first, "r")
    await first.close()
    second = await Store.open(path, SQL, SECRET)
    assert await history(second, "r") == ["r.in", "r.out"]
    await second.close()


async def test_a_file_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    other, text = tmp_path / "other.db", tmp_path / "text.db"
    query(other, "CREATE TABLE theirs (x)")
    text.write_text("no database " * 1000)
    assert "another program" in await refusal(other)
    assert "not a database" in await refusal(text)
    assert "No such file" in await refusal(tmp_path / "missing" / "anos.db")


async def test_migrations_run_once_each_and_whole_or_not_at_all(tmp_path: Path) -> None:
    path, sql = tmp_path / "anos.db", tmp_path / "store.sql"
    path.touch()  # a file of version 0
    await (await Store.open(path, SQL, SECRET)).close()
    assert query(path, "PRAGMA user_version") == [(3,)]
    broken = (
        "-- migration 4: half of it\nCREATE TABLE extra (x);\nINSERT INTO nowhere VALUES (1);\n"
    )
    text = SQL.read_text(encoding="utf-8")
    first_name = text.index("-- name:")
    sql.write_text(text[:first_name] + broken + text[first_name:], encoding="utf-8")
    assert "nowhere" in await refusal(path, sql)
    assert query(path, "PRAGMA user_version") == [(3,)]
    assert query(path, "SELECT name FROM sqlite_schema WHERE name = 'extra'") == []
    whole = broken.replace("nowhere", "extra")
    sql.write_text(text[:first_name] + whole + text[first_name:], encoding="utf-8")
    for _ in range(2):
        await (await Store.open(path, sql, SECRET)).close()
        assert query(path, "PRAGMA user_version") == [(4,)]
        assert query(path, "SELECT x FROM extra") == [(1,)]


@pytest.mark.parametrize(
    "text", ["-- migration 2: too early\n", "-- name: a\nSELECT 1;\n-- name: a\nSELECT 2;\n"]
)
def test_a_store_sql_with_wrong_headings_is_refused(text: str) -> None:
    with pytest.raises(StoreFault):
        parse_schema(text)


def test_no_statement_sorts_or_scans_where_an_index_should_serve(tmp_path: Path) -> None:
    schema = parse_schema(SQL.read_text(encoding="utf-8"))
    connection = sqlite3.connect(":memory:")
    for migration in schema.migrations:
        connection.executescript(migration)
    # These walk an index on purpose: a partial one, and one for its last entry.
    walks = {"unfinished_responses", "last_seq", "end_of_exchanges", "end_of_changes"}
    # These are small tables that are read whole, and the tail of a log.
    walks |= {"reservations", "keys", "recent_exchanges", "oldest_bodies"}
    walks |= {"ends_of_spend", "ends_of_responses"}
    for name, statement in schema.statements.items():
        words = [line for line in statement.splitlines() if not line.startswith("--")]
        if words[0].startswith("SELECT") and name not in walks:
            values = dict.fromkeys(re.findall(r":(\w+)", statement), 1)
            plan = connection.execute("EXPLAIN QUERY PLAN " + statement, values).fetchall()
            details = [row[3] for row in plan]
            assert not [d for d in details if d.startswith("SCAN") or "ORDER BY" in d], (
                name,
                details,
            )
    connection.close()


class Model:
    """The tree as lists in memory."""

    def __init__(self) -> None:
        self.parents: dict[str, str | None] = {}
        self.inputs: dict[str, list[str]] = {}
        self.outputs: dict[str, list[str]] = {}
        self.deleted: set[str] = set()

    def line(self, name: str | None) -> list[str]:
        """The response and its ancestors, the root first."""
        return [] if name is None else [*self.line(self.parents[name]), name]

    def history(self, name: str) -> list[str] | None:
        line = self.line(name)
        if self.deleted.intersection(line):
            return None
        return [item for one in line for item in self.inputs[one] + self.outputs[one]]

    def input_items(self, name: str) -> list[str]:
        parent = self.parents[name]
        inherited = self.history(parent) if parent else []
        return (inherited or []) + self.inputs[name]


STEP = st.tuples(
    st.sampled_from(["save", "save", "save", "begin", "finish", "delete"]),
    st.integers(0, 1000),  # which parent, or which response to finish or delete
    st.integers(0, 3),  # input items
    st.integers(0, 3),  # output items
)


async def play(store: Store, steps: list[tuple[str, int, int, int]]) -> tuple[Model, set[str]]:
    model, running = Model(), set[str]()
    futures = []
    for number, (kind, choice, n_in, n_out) in enumerate(steps):
        name = f"r{number}"
        ended = [one for one in model.parents if one not in running]
        if kind in ("save", "begin"):
            parent = ([None, *ended])[choice % (len(ended) + 1)]
            model.parents[name] = parent
            model.inputs[name] = [f"{name}.in{i}" for i in range(n_in)]
            model.outputs[name] = [f"{name}.out{i}" for i in range(n_out)] if kind == "save" else []
            lists = {
                "input": [item(i) for i in model.inputs[name]],
                "output": [item(i) for i in model.outputs[name]],
            }
            if kind == "save":
                futures.append(store.submit(Save(exchange(), record(name, parent, **lists))))
            else:
                running.add(name)
                futures.append(store.submit(begin(record(name, parent, status="queued", **lists))))
        elif kind == "finish" and running:
            name = sorted(running)[choice % len(running)]
            running.remove(name)
            model.outputs[name] = [f"{name}.out{i}" for i in range(n_out)]
            futures.append(store.submit(finish(name, *model.outputs[name])))
        elif kind == "delete" and (alive := [one for one in ended if one not in model.deleted]):
            name = alive[choice % len(alive)]
            model.deleted.add(name)
            futures.append(store.submit(Delete(A, name)))
        if choice % 3 == 0:
            await asyncio.gather(*futures)
    await asyncio.gather(*futures)
    return model, running


async def compare(store: Store, model: Model) -> None:
    for name in model.parents:
        stored = await store.response(A, name)
        if name in model.deleted:
            assert stored is None
            continue
        assert stored is not None
        assert ids(stored.output) == model.outputs[name]
        expected = model.history(name)
        if expected is None:
            with pytest.raises(ParentBroken):
                await store.history(A, name)
        else:
            assert await history(store, name) == expected
        items = model.input_items(name)
        for limit in (1, 3, 100):
            assert await inputs(store, name, limit=limit, order="asc") == items
            assert await inputs(store, name, limit=limit) == items[::-1]


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.lists(STEP, max_size=25))
def test_any_tree_reads_like_lists_in_memory(steps: list[tuple[str, int, int, int]]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as directory:
            store = await Store.open(Path(directory) / "anos.db", SQL, SECRET)
            try:
                model, _ = await play(store, steps)
                await compare(store, model)
            finally:
                await store.close()

    asyncio.run(run())
