"""The program killed, or unable to start: what ran leaves its row, and what failed a reason."""

import asyncio
import json
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from anos.store import ReservationRecord, Reserve, Save, Store
from tests import scripted
from tests.conftest import ROOT, Gateway, Json, Process, base_config, free_port, spawn
from tests.records import exchange
from tests.scripted import silence
from tests.test_exchanges import CHAT, RESPONSES, row, some
from tests.test_governance import ask, held, priced
from tests.test_process import exchanges, until

BOTH = pytest.mark.parametrize("path", [RESPONSES, CHAT])
NO_BUDGET: Json = {"keys": {"ann": {"key": "sk-ann"}}}


def reservations(folder: Path) -> list[int]:
    """What the calls that run hold, in micro-dollars."""
    with sqlite3.connect(folder / "process.db") as connection:
        rows = connection.execute("SELECT micro_usd FROM reservations").fetchall()
    connection.close()
    return [micro for (micro,) in rows]


async def lost_call(
    anos: Process, upstream: scripted.Upstream, folder: Path, path: str, **body: Any
) -> None:
    """A call that a kill ends when it runs and is noted."""
    asking = asyncio.create_task(ask(anos, path, **body))
    await upstream.received(1)

    async def is_noted() -> bool:
        return reservations(folder) == [0]

    await until(is_noted)
    await anos.kill()
    await asyncio.gather(asking, return_exceptions=True)


# Calls that a crash ends --------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_call_without_a_budget_has_its_row_after_a_crash_and_counts(
    process, upstream, tmp_path, path: str, streamed: bool
) -> None:
    limit = {"requests_per_minute": 3, "tokens_per_minute": 4000}
    config = NO_BUDGET | {"limits": {"default": limit}}
    upstream.answer([silence()], scripted.responses_text("Hi"))
    await lost_call(await process(config), upstream, tmp_path, path, stream=streamed)
    second = await process(config)
    assert "1 calls were lost in a crash; each is charged what a budget held" in second.log
    answer = await ask(second, path)
    assert answer.headers["x-ratelimit-remaining-requests"] == "1"
    # 256 tokens for the answer of the lost call, some for its request, and 9 of this one.
    assert 3600 < int(answer.headers["x-ratelimit-remaining-tokens"]) < 4000 - 256 - 9
    assert await second.terminate() == 0
    lost, _ = exchanges(tmp_path)
    assert some(lost, "key", "route", "model", "status", "finish", "error_code") == (
        *("ann", path, "gpt-4", 500, "failed", "gateway_restarted"),
    )
    assert some(lost, "usage_source", "cost", "counted") == ("crash", 0, 1)
    assert (lost["response_id"] is not None) == (path == RESPONSES)
    assert reservations(tmp_path) == []


async def test_a_call_that_is_looked_at_when_a_crash_ends_it_has_its_row(
    process, upstream, tmp_path
) -> None:
    guards = {"input": "block", "backend": "endpoint", "provider": "up", "deadline_ms": 60_000}
    config = NO_BUDGET | {"guards": {"moderation": guards}}
    upstream.answer([silence()])
    await lost_call(await process(config), upstream, tmp_path, RESPONSES)
    await process(config)
    (lost,) = exchanges(tmp_path)
    assert some(lost, "key", "error_code", "cost", "counted") == ("ann", "gateway_restarted", 0, 1)


async def test_what_is_noted_of_a_call_is_replaced_by_what_it_holds_and_ends_with_it(
    gateway, upstream
) -> None:
    guards = {"input": "block", "backend": "endpoint", "provider": "up", "deadline_ms": 60_000}
    anos = await gateway(priced(guards={"moderation": guards}))
    judging, answering = asyncio.Event(), asyncio.Event()
    judged = json.dumps({"results": [{"category_scores": {"hate": 0.0}}]}).encode()
    stream = scripted.responses_stream(["Hi"])
    upstream.answer([judged[:1], judging, judged[1:]], [stream[0], answering, *stream[1:]])
    asking = asyncio.create_task(ask(anos, stream=True))

    async def notes(wanted: list[tuple[int, str]]) -> None:
        async def is_so() -> bool:
            return held(anos) == wanted

        await until(is_so)

    await notes([(0, "ann")])
    judging.set()
    await notes([(1000, "ann")])
    answering.set()
    assert (await asking).status == 200
    assert some(await row(anos), "cost", "reserved") == (2, 1000)
    assert held(anos) == []


@BOTH
async def test_a_call_that_was_noted_leaves_nothing_but_its_row(
    gateway, upstream, path: str
) -> None:
    anos = await gateway(NO_BUDGET)
    gate = asyncio.Event()
    stream = scripted.responses_stream(["Hi"])
    upstream.answer([stream[0], gate, *stream[1:]])
    asking = asyncio.create_task(ask(anos, path, stream=True))

    async def is_noted() -> bool:
        return held(anos) == [(0, "ann")]

    await until(is_noted)
    gate.set()
    assert (await asking).status == 200
    assert some(await row(anos), "status", "reserved", "usage_source") == (200, None, "upstream")
    assert held(anos) == []


async def test_calls_that_were_lost_long_after_they_began_hide_no_others_from_the_limits(
    tmp_path: Path,
) -> None:
    store = await Store.open(tmp_path / "anos.db", ROOT / "store.sql", bytes(32))
    now_ms = time.time_ns() // 1_000_000
    recent = exchange(started_ms=now_ms - 1000, key="ann", project="key:ann", counted=1)
    await store.submit(Save(recent))
    begun = ("long", None, now_ms - 600_000, "POST", RESPONSES, "m", None, 1, 0, 0, 0, now_ms)
    lost = ReservationRecord(1, 0, "bob", "key:bob", json.dumps(begun).encode())
    await store.submit(Reserve(lost))
    assert await store.charge_lost() == 1
    found = await store.recent(now_ms - 60_000)
    assert [each[0] for each in found] == ["ann"]
    await store.close()


# Starts that fail ---------------------------------------------------------------------------------


async def refused_start(folder: Path, config: Json, port: int = 0) -> tuple[int, str]:
    """The exit status of a process that cannot start, and what it says."""
    file, log_file = folder / "refused.json", folder / "refused.log"
    file.write_text(json.dumps(config))
    command = [sys.executable, str(ROOT / "anos_gateway.py"), "--config", str(file)]
    with log_file.open("wb") as log:
        popen = spawn([*command, "--port", str(port or free_port())], folder, {}, log)
    try:
        return await asyncio.to_thread(popen.wait, 20), log_file.read_text()
    finally:
        popen.kill()


@pytest.mark.parametrize("table", ["spend", "keys", "exchanges"])
async def test_a_start_that_cannot_read_its_database_says_so_and_ends(
    process, tmp_path: Path, table: str
) -> None:
    anos = await process(priced())
    assert await anos.terminate() == 0
    with sqlite3.connect(tmp_path / "process.db") as connection:
        connection.execute(f"DROP TABLE {table}")
    connection.close()
    tree = json.loads((tmp_path / "anos-0.json").read_text())
    status, said = await refused_start(tmp_path, tree)
    assert status == 1
    assert "The gateway cannot start: " in said
    assert f"no such table: {table}" in said
    assert "Traceback" not in said


async def test_a_start_on_a_port_that_is_taken_says_so_and_ends(process, tmp_path: Path) -> None:
    anos = await process({})
    port = int(anos.url.rpartition(":")[2])
    status, said = await refused_start(tmp_path, base_config(tmp_path / "other.db", None), port)
    assert status == 1
    assert "The gateway cannot start: " in said
    assert str(port) in said
    assert "Traceback" not in said


# Sums that are too large --------------------------------------------------------------------------


async def spend_of(anos: Gateway | Any, **params: str) -> Json:
    answer = await anos.get("/admin/spend", **params)
    assert answer.status == 200, answer.body
    body: Json = answer.body
    return body


async def test_spend_that_is_too_large_to_add_hinders_neither_the_start_nor_who_asks(
    process, upstream, tmp_path: Path
) -> None:
    anos = await process(priced())
    assert await anos.terminate() == 0
    most, quarter_ms = 2**63 - 1, int(time.time()) // 900 * 900_000
    with sqlite3.connect(tmp_path / "process.db") as connection:
        connection.executemany(
            "INSERT INTO spend VALUES (?, 'ann', 'key:ann', ?, 1, 0, ?, ?, ?, ?, ?)",
            [(quarter_ms, f"m{n}", *[most] * 5) for n in range(3)],
        )
        connection.execute("UPDATE spend SET model = 'gpt-4' WHERE model = 'm0'")
    connection.close()
    again = await process(priced())
    assert (await ask(again)).status == 429
    master = await again.post(RESPONSES, model="gpt-4", input="Hi")
    assert master.status == 200
    for group_by in ("day", "key", "key,model,hour"):
        totals = (await spend_of(again, group_by=group_by))["totals"]
        assert totals["input_tokens"] == most
        assert totals["requests"] == 5  # what was refused is a row, too
    assert (await again.get("/global/spend")).status == 200


async def test_whatever_an_upstream_says_it_used_every_call_has_its_row(gateway, upstream) -> None:
    lie = 2**31
    dear = {"input_per_million_usd": 1e9, "output_per_million_usd": 1e9}
    config = priced(model={"price": dear})
    del config["keys"]["ann"]["budget"]
    anos = await gateway(config)
    upstream.answer(scripted.responses_text("Hi", usage=(lie, lie)))
    for _ in range(3):
        assert (await ask(anos)).status == 200
    body = await spend_of(anos)
    assert body["totals"]["requests"] == 3
    assert body["totals"]["input_tokens"] == 3 * lie
    assert body["totals"]["cost_usd"] > 1e10
    assert (await anos.get("/admin/requests")).status == 200
