"""The real program under load and killed at any moment.

Small seeded counts, or with ANOS_TORTURE=1 (`make torture`) the full ones. Each test prints what it
measured.
"""

import asyncio
import os
import random
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

from tests import scripted
from tests.conftest import MASTER, Client, Json, Process, check_stream
from tests.scripted import Upstream
from tests.test_process import needs_proc, until

RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"
TORTURE = os.environ.get("ANOS_TORTURE") == "1"
SEED = int(os.environ.get("ANOS_SEED", "1"))


def say(text: str) -> None:
    """Shown by pytest -rP, and in the report of `make torture`."""
    sys.stdout.write(text + "\n")


class Crowd(Client):
    """A client that opens any number of connections and has patience."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = ClientSession(
            url, headers=MASTER, timeout=ClientTimeout(600), connector=TCPConnector(limit=0)
        )


@asynccontextmanager
async def crowd(anos: Process) -> AsyncIterator[Crowd]:
    clients = Crowd(anos.url)
    try:
        yield clients
    finally:
        await clients.session.close()


async def parrot(request: web.Request) -> web.StreamResponse:
    """An upstream that answers each prompt with "re: " and the prompt, streamed if asked to."""
    body = await request.json()
    prompt = body["input"]
    text = f"re: {prompt if isinstance(prompt, str) else spoken(prompt[-1])}"
    message = scripted.message(text, id=f"msg_{uuid4().hex}")
    if body["stream"]:
        chunks = scripted.responses_events([message], deltas=[text[:4], text[4:]])
        return await scripted.stream(request, 200, chunks, {})
    return web.json_response(scripted.responses_body([message]))


def spoken(item: Json) -> str:
    return "".join(part["text"] for part in item["content"])


async def turn(clients: Client, prompt: str, parent: str | None, streamed: bool) -> Json:
    """The completed response that a client was told of."""
    body: Json = {"input": prompt}
    if parent:
        body["previous_response_id"] = parent
    if streamed:
        response: Json = (await clients.stream(RESPONSES, **body))[-1]["response"]
    else:
        reply = await clients.post(RESPONSES, **body)
        assert reply.status == 200, reply.body
        response = reply.body
    assert response["status"] == "completed", response
    return response


# Killed ------------------------------------------------------------------------------------------

# Each kill comes after a random number of answers and a random part of a millisecond or more.
KILLS = 100 if TORTURE else 3
TALKERS = 8


class Talker:
    """Holds one conversation as fast as it can, and remembers what it was told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told: list[Json] = []

    async def talk(self, clients: Client, counter: "Counter", streamed: bool) -> None:
        """Until the gateway dies."""
        while True:
            parent = self.told[-1]["id"] if self.told else None
            prompt = f"{self.name}.{len(self.told)}"
            self.told.append(await turn(clients, prompt, parent, streamed))
            counter.add()
            streamed = not streamed


class Counter:
    """Sets `reached` at the `goal`th answer of all talkers together."""

    def __init__(self, goal: int) -> None:
        self.left = goal
        self.reached = asyncio.Event()

    def add(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.reached.set()


async def test_what_a_client_was_told_is_there_after_a_kill_at_any_moment(
    process, upstream
) -> None:
    """And the conversation goes on from it with nothing missing and nothing twice."""
    dice = random.Random(SEED)
    upstream.answer(parrot)
    anos, told = await process({}), 0
    for kill in range(KILLS):
        counter = Counter(dice.randint(1, 150))
        talkers = [Talker(f"{kill}.{number}") for number in range(TALKERS)]
        async with crowd(anos) as clients:
            talking = [
                asyncio.create_task(talker.talk(clients, counter, number % 2 == 0))
                for number, talker in enumerate(talkers)
            ]
            await counter.reached.wait()
            await asyncio.sleep(dice.random() / 200)
            await anos.kill()
            ends = await asyncio.gather(*talking, return_exceptions=True)
        # Each was cut off by the kill and by nothing else.
        assert all(isinstance(end, Exception) for end in ends)
        broken = [end for end in ends if isinstance(end, AssertionError)]
        assert all("the stream" in str(end) or "last record" in str(end) for end in broken), broken
        anos = await process({})
        async with crowd(anos) as clients:
            await asyncio.gather(*[found_whole(clients, upstream, each) for each in talkers])
        told += sum(len(talker.told) for talker in talkers)
    say(f"{KILLS} kills, {told} responses told, 0 lost")


async def found_whole(clients: Client, upstream: Upstream, talker: Talker) -> None:
    """Every response the talker was told of is retrievable, and the last one can be continued."""
    for response in talker.told:
        kept = await clients.get(f"{RESPONSES}/{response['id']}")
        assert (kept.status, kept.body) == (200, response)
    if not talker.told:
        return
    prompt = f"{talker.name}.end"
    await turn(clients, prompt, talker.told[-1]["id"], False)
    (asked,) = [
        each.body["input"]
        for each in upstream.requests
        if not isinstance(each.body["input"], str) and spoken(each.body["input"][-1]) == prompt
    ]
    expected = [f"{talker.name}.{number}" for number in range(len(talker.told))]
    both = [text for prompt in expected for text in (prompt, f"re: {prompt}")]
    assert [spoken(item) for item in asked] == [*both, prompt]


# Chained -----------------------------------------------------------------------------------------

TURNS = 200 if TORTURE else 30


async def test_turns_chained_without_a_pause_lose_nothing(process, upstream) -> None:
    """Each turn is asked for in the moment the one before it is told, on another connection."""
    upstream.answer(parrot)
    anos = await process({})
    async with crowd(anos) as one, crowd(anos) as other:
        parent = None
        for number in range(TURNS):
            response = await turn((one, other)[number % 2], str(number), parent, number % 3 == 0)
            parent = response["id"]
        asked = upstream.requests[-1].body["input"]
        both = [text for number in range(TURNS) for text in (str(number), f"re: {number}")]
        assert [spoken(item) for item in asked] == both[:-1]
        after, listed = None, []
        while True:
            page = (
                await one.get(
                    f"{RESPONSES}/{parent}/input_items",
                    **{"order": "asc", "limit": "100"} | ({"after": after} if after else {}),
                )
            ).body
            listed += [spoken(item) for item in page["data"]]
            after = page["last_id"]
            if not page["has_more"]:
                break
        assert listed == both[:-1]
    say(f"{TURNS} chained turns, 0 lost")


# Crowded -----------------------------------------------------------------------------------------

STREAMS = 1000 if TORTURE else 50
CHUNKS = 64
GROWTH_MB = 80


def memory_mb(pid: int, name: str) -> float:
    """VmRSS, what it holds now, or VmHWM, the most it ever held."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1024


def forget_the_most(pid: int) -> float:
    """VmHWM begins anew at VmRSS, which is returned."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return memory_mb(pid, "VmRSS")


def descriptors(pid: int) -> int:
    """All but the database's: each of its connections opens the log when it first needs it."""
    folder = Path(f"/proc/{pid}/fd")
    targets = []
    for each in folder.iterdir():
        with suppress(FileNotFoundError):
            targets.append(os.readlink(each))
    return sum(".db" not in target for target in targets)


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


class Choir:
    """An upstream whose streams wait for each other after the first chunk, then all go on."""

    def __init__(self, dialect: str) -> None:
        make = scripted.chat_stream if dialect == "chat" else scripted.responses_stream
        self.words = [f"word {number}, " for number in range(CHUNKS)]
        self.chunks = [scripted.encode(chunk) for chunk in make(self.words)]
        self.together(1)

    def together(self, count: int) -> None:
        """From now on that many streams wait for each other."""
        self.missing, self.all_here = count, asyncio.Event()

    async def sing(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.missing -= 1
        if self.missing == 0:
            self.all_here.set()
        return await scripted.stream(
            request, 200, [self.chunks[0], self.all_here, *self.chunks[1:]], {}
        )


@needs_proc
@pytest.mark.parametrize(
    ("path", "dialect"), [(RESPONSES, "responses"), (RESPONSES, "chat"), (CHAT, "chat")]
)
async def test_streams_at_the_same_time_all_complete_in_little_memory_and_leave_nothing_behind(
    process, no_task_left, path: str, dialect: str
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        async with Upstream() as upstream:
            config = {"dialect": dialect, "base_url": upstream.url}
            anos = await process({"providers": {"up": config}})
            before = (descriptors(anos.pid), threads(anos.pid))
            choir = Choir(dialect)
            upstream.answer(choir.sing)
            say(await sung(anos, choir, path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    async def as_before() -> bool:
        return (descriptors(anos.pid), threads(anos.pid)) <= before

    await until(as_before)
    assert await anos.terminate() == 0


async def sung(anos: Process, choir: Choir, path: str) -> str:
    """All streams of the choir, checked; what memory they took."""

    async def listen(clients: Client, number: int) -> None:
        body: Json = {"input": f"Sing {number}!"}
        if path == CHAT:
            body = {"messages": [{"role": "user", "content": f"Sing {number}!"}]}
        async with clients.open_stream(path, **body) as response:
            events = check_stream(path, await response.read())
        heard = [word for event in events for word in words_of(event)]
        assert heard == choir.words

    async with crowd(anos) as clients:
        await listen(clients, -1)  # what a first stream loads is not growth
        before = forget_the_most(anos.pid)
        choir.together(STREAMS)
        await asyncio.gather(*[listen(clients, number) for number in range(STREAMS)])
        most, after = (memory_mb(anos.pid, name) for name in ("VmHWM", "VmRSS"))
    assert most - before < GROWTH_MB
    return (
        f"{STREAMS} streams of {CHUNKS} chunks on {path}: all complete; "
        f"RSS {before:.0f} MB before, {most:.0f} at most (+{most - before:.0f}), {after:.0f} after"
    )


def words_of(event: Json) -> list[str]:
    """What an event of either dialect adds."""
    if "choices" in event:
        said = [choice["delta"].get("content") for choice in event["choices"]]
        return [word for word in said if word]
    return [event["delta"]] if event["type"].endswith("text.delta") else []


# Slow --------------------------------------------------------------------------------------------


@needs_proc
@pytest.mark.parametrize("path", [RESPONSES, CHAT])
async def test_a_slow_reader_slows_its_upstream_and_nothing_else(
    process, upstream, path: str
) -> None:
    """The upstream of a reader that stops is stopped by its full buffers, then by its leaving."""
    dialect = "responses" if path == RESPONSES else "chat"
    anos = await process({"providers": {"up": {"dialect": dialect}}})
    flood = Flood(dialect)
    upstream.answer(flood.pour)
    async with crowd(anos) as clients:
        body: Json = {"input": "Pour!", "store": False}
        if path == CHAT:
            body = {"messages": [{"role": "user", "content": "Pour!"}]}
        before = memory_mb(anos.pid, "VmRSS")
        async with clients.open_stream(path, **body) as response:
            await response.content.readany()
            await flood.stopped(clients)
            stopped_at = flood.sent
            upstream.answer(scripted.default(f"{path}", {"stream": True}))
            for _ in range(20):
                await clients.stream(path, **body | {"input": "Hi"} if path == RESPONSES else body)
            # Whatever else happens: until somebody reads, no more than settles in buffers.
            assert flood.sent - stopped_at < 4e6
            for _ in range(200):
                await response.content.readany()
            await flood.went_on(flood.sent)
            grown_mb = memory_mb(anos.pid, "VmRSS") - before
        await asyncio.wait_for(upstream.disconnected.wait(), 2)
    say(f"{path}: the upstream stopped after {stopped_at / 1e6:.1f} MB, RSS grew {grown_mb:.0f} MB")
    assert grown_mb < GROWTH_MB


class Flood:
    """An upstream that never ends: 16 KiB in each delta, as fast as they are taken."""

    def __init__(self, dialect: str) -> None:
        self.sent = 0
        self.dialect = dialect
        self._moved = asyncio.Event()

    async def pour(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        make = scripted.chat_stream if self.dialect == "chat" else scripted.responses_stream
        chunks = make(["x" * 16384])
        (at,) = [number for number, chunk in enumerate(chunks) if words_of_chunk(chunk)]
        for chunk in chunks[:at]:
            await response.write(scripted.encode(chunk))
        number = chunks[at].get("sequence_number", 0)
        while True:
            data = scripted.encode({**chunks[at], "sequence_number": number})
            await response.write(data)
            number += 1
            self.sent += len(data)
            self._moved.set()

    async def stopped(self, clients: Client) -> None:
        """Returns when a whole round of other requests passed and nothing more was poured."""
        while True:
            seen = self.sent
            for _ in range(50):
                assert (await clients.get("/v1/models")).status == 200
            if self.sent == seen:
                return

    async def went_on(self, since: int) -> None:
        async with asyncio.timeout(10):
            while self.sent == since:
                self._moved.clear()
                await self._moved.wait()


def words_of_chunk(chunk: Any) -> list[str]:
    return words_of(chunk) if isinstance(chunk, dict) else []
