"""Budgets, limits and the ledger of the real program under load and killed at any moment.

Small seeded counts, or with ANOS_TORTURE=1 the full ones. Each test prints what it measured.
"""

import asyncio
import random
import sqlite3
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from aiohttp import ClientSession, web

from tests import scripted
from tests.conftest import ROOT, Client, Json, Process, free_port, spawn
from tests.test_torture import RESPONSES, SEED, TORTURE, crowd, say

CAP = 1000  # tokens of each answer, and so micro-dollars
AFFORDABLE = 7


def query(path: Path, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with sqlite3.connect(path) as connection:
        return connection.execute(sql, values).fetchall()


# Budgets ------------------------------------------------------------------------------------------

ROUNDS = 50 if TORTURE else 3
ASKERS = 200


async def whole_answer(request: web.Request) -> web.StreamResponse:
    """An upstream that makes as many tokens as it may."""
    body = await request.json()
    message = scripted.message("Hi")
    if body["stream"]:
        chunks = scripted.responses_events([message], usage=(1, CAP))
        return await scripted.stream(request, 200, chunks, {})
    return web.json_response(scripted.responses_body([message], usage=(1, CAP)))


def for_seven(keys: int) -> Json:
    """Keys of which each may spend what exactly seven answers cost."""
    price = {"input_per_million_usd": 0, "output_per_million_usd": 1}
    return {
        "models": {
            "gpt-4": {"routes": [{"provider": "up"}], "price": price, "max_output_tokens": CAP}
        },
        "budgets": {"seven": {"usd": AFFORDABLE * CAP / 1e6, "window": "month"}},
        "keys": {f"k{n}": {"key": f"sk-k{n}", "budget": "seven"} for n in range(keys)},
    }


async def ask(clients: Client, key: str, number: int) -> int:
    """The status of one call, every other one streamed."""
    tree = {"model": "gpt-4", "input": key, "stream": number % 2 == 0}
    headers = {"Authorization": f"Bearer sk-{key}"}
    return (await clients.request("POST", RESPONSES, json=tree, headers=headers)).status


def spent_and_held(path: Path, key: str) -> tuple[int, int]:
    ((spent,),) = query(path, "SELECT coalesce(sum(cost), 0) FROM exchanges WHERE key = ?", key)
    ((held,),) = query(
        path, "SELECT coalesce(sum(micro_usd), 0) FROM reservations WHERE key = ?", key
    )
    return spent, held


async def test_a_budget_for_seven_admits_seven_of_two_hundred_also_when_it_is_killed(
    process, upstream
) -> None:
    dice = random.Random(SEED)
    upstream.answer(whole_answer)
    anos = await process(for_seven(ROUNDS))
    path = anos.log_file.parent / "process.db"
    most = AFFORDABLE * CAP
    answered = lost = 0
    for number in range(ROUNDS):
        key = f"k{number}"
        async with crowd(anos) as clients:
            asking = [asyncio.create_task(ask(clients, key, n)) for n in range(ASKERS)]
            # In half of the rounds so late that some were answered.
            for each in islice(asyncio.as_completed(asking), dice.randint(1, 2 * ASKERS)):
                await each
            await anos.kill()
            ends = await asyncio.gather(*asking, return_exceptions=True)
        answered += (admitted := ends.count(200))
        assert admitted <= AFFORDABLE
        assert sum(spent_and_held(path, key)) <= most
        anos = await process(for_seven(ROUNDS))
        spent, held = spent_and_held(path, key)
        assert held == 0
        assert spent <= most
        async with crowd(anos) as clients:
            again = await asyncio.gather(*[ask(clients, key, n) for n in range(ASKERS)])
        assert set(again) <= {200, 429}
        assert again.count(200) == (most - spent) // CAP
        called = sum(each.body["input"] == key for each in upstream.requests)
        assert called <= AFFORDABLE
        assert sum(spent_and_held(path, key)) <= most
        lost += spent // CAP - admitted
    say(f"{ROUNDS} rounds of {ASKERS}, each with a kill: {answered} answered, {lost} charged whose")
    say("answer was lost, the rest admitted after; never more than the budget")


async def test_without_a_kill_exactly_seven_of_two_hundred_are_admitted(process, upstream) -> None:
    upstream.answer(whole_answer)
    anos = await process(for_seven(2))
    for key in ("k0", "k1"):
        async with crowd(anos) as clients:
            statuses = await asyncio.gather(*[ask(clients, key, n) for n in range(ASKERS)])
        assert (statuses.count(200), statuses.count(429)) == (AFFORDABLE, ASKERS - AFFORDABLE)


# Limits -------------------------------------------------------------------------------------------

WINDOWS = 5 if TORTURE else 0  # beside the burst that every run has
PER_MINUTE = 300


async def test_ten_times_the_limit_lets_the_limit_through_also_over_a_restart(
    process, upstream
) -> None:
    config = {"limits": {"default": {"requests_per_minute": PER_MINUTE}}}
    config["keys"] = {"k": {"key": "sk-k"}}
    anos = await process(config)
    tree, headers = {"model": "stub/echo", "input": "Hi"}, {"Authorization": "Bearer sk-k"}
    admitted: list[tuple[float, float]] = []  # between which two times

    async def call(clients: Client) -> None:
        sent = time.monotonic()
        answer = await clients.request("POST", RESPONSES, json=tree, headers=headers)
        assert answer.status in (200, 429), answer.body
        admitted.extend([(sent, time.monotonic())] * (answer.status == 200))

    async with crowd(anos) as clients:
        await asyncio.gather(*[call(clients) for _ in range(PER_MINUTE // 2)])
    await anos.kill()
    anos = await process(config)
    async with crowd(anos) as clients:
        await asyncio.gather(*[call(clients) for _ in range(PER_MINUTE * 2)])
        assert len(admitted) == PER_MINUTE
        begun = admitted[0][1]
        while time.monotonic() < begun + 60 * WINDOWS:
            await asyncio.gather(call(clients), asyncio.sleep(6 / PER_MINUTE))
    for begun, _ in admitted:
        within = [at for at in admitted if at[0] >= begun and at[1] < begun + 60]
        assert len(within) <= PER_MINUTE
    assert len(admitted) >= 0.99 * PER_MINUTE * max(WINDOWS, 1)
    say(f"{len(admitted)} admitted in {max(WINDOWS, 1)} windows of {PER_MINUTE}, a kill in between")


# The ledger ---------------------------------------------------------------------------------------

SECONDS = 60 if TORTURE else 3
CLIENTS = 64
WAL_BYTES = 64 * 1024 * 1024


async def answers_of(port: int) -> int:
    """How many answers the mock upstream has given, this one left out."""
    url = f"http://127.0.0.1:{port}{RESPONSES}"
    async with ClientSession() as session, session.post(url, data=b'{"stream":false}') as response:
        return int(orjson.loads(await response.read())["id"][5:]) - 1


async def saturate(anos: Process, seconds: float) -> tuple[int, int]:
    """How many calls were answered with 200, and the longest the log of the database has been."""
    wal = anos.log_file.parent / "process.db-wal"
    tree = {"model": "gpt-4", "input": "How long is it?", "max_output_tokens": 100}
    headers = {"Authorization": "Bearer sk-k"}
    ends, good, longest = time.monotonic() + seconds, 0, 0

    async def one(clients: Client) -> None:
        nonlocal good, longest
        while time.monotonic() < ends:
            answer = await clients.request("POST", RESPONSES, json=tree, headers=headers)
            assert answer.status == 200, answer.body
            good += 1
            if good % 100 == 0:
                longest = max(longest, wal.stat().st_size)

    async with crowd(anos) as clients:
        await asyncio.gather(*[one(clients) for _ in range(CLIENTS)])
    return good, longest


async def test_nothing_is_lost_and_nothing_is_locked_while_a_core_is_saturated(
    process, tmp_path: Path
) -> None:
    port = free_port()
    script = [sys.executable, str(ROOT / "bench" / "mock_upstream.py"), str(port)]
    path = {"PYTHONPATH": str(ROOT / "tests")}
    with (tmp_path / "upstream.log").open("wb") as log:
        mock = spawn(script, tmp_path, path, log)
    config = for_seven(0) | {
        "providers": {"up": {"dialect": "responses", "base_url": f"http://127.0.0.1:{port}/v1"}},
        "limits": {
            "default": {
                "requests_per_minute": 1_000_000,
                "tokens_per_minute": 10**9,
                "concurrent": 1000,
            }
        },
        "budgets": {"default": {"usd": 1_000_000, "window": "month"}},
        "keys": {"k": {"key": "sk-k"}},
    }
    try:
        anos = await process(config)
        saving = asyncio.create_task(saved_meanwhile(anos, SECONDS / 2))
        good, longest = await saturate(anos, SECONDS)
        copy = await saving
        assert await anos.terminate() == 0
        called = await answers_of(port)
    finally:
        mock.kill()
        mock.wait()
    database = tmp_path / "process.db"
    ((rows,),) = query(
        database, "SELECT count(*) FROM exchanges WHERE status = 200 AND attempts = 1"
    )
    assert rows == called == good
    assert query(database, "SELECT count(*) FROM reservations") == [(0,)]
    assert query(database, "SELECT sum(requests), sum(cost) FROM spend WHERE key = 'k'") == query(
        database, "SELECT count(*), sum(cost) FROM exchanges WHERE key = 'k'"
    )
    assert longest <= WAL_BYTES
    assert "locked" not in anos.log
    assert query(copy, "PRAGMA integrity_check") == [("ok",)]
    ((copied,),) = query(copy, "SELECT count(*) FROM exchanges")
    assert 0 < copied <= rows + 2
    say(f"{good} calls, {good / SECONDS:.0f} a second: 0 lost, 0 locked; the log at most")
    say(f"{longest / 1e6:.1f} MB; the backup made meanwhile holds {copied} of them")


async def saved_meanwhile(anos: Process, after_s: float) -> Path:
    await asyncio.sleep(after_s)
    answer = await anos.request("POST", "/admin/backup", json={"file": "copy.db"})
    assert answer.status == 200, answer.body
    return anos.log_file.parent / "copy.db"
