"""The real program: clients that leave, signals, reloads, and a database that cannot be written."""

import asyncio
import json
import os
import re
import resource
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests import scripted
from tests.conftest import ROOT, Client, Json, Process, free_port, spawn
from tests.scripted import HEADERS, Upstream, silence

RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"
HI: dict[str, Json] = {
    RESPONSES: {"input": "Hi"},
    CHAT: {"messages": [{"role": "user", "content": "Hi"}]},
}


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")


async def until(true: Callable[[], Awaitable[bool]], timeout_s: float = 10) -> None:
    """Returns when the condition holds; what another process does, no event of ours tells."""
    async with asyncio.timeout(timeout_s):
        while not await true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def exchanges(folder: Path) -> list[Json]:
    """Every exchange row of the process's database; a program may read it while ours runs."""
    connection = sqlite3.connect(folder / "process.db")
    connection.row_factory = sqlite3.Row
    rows = [dict(row) for row in connection.execute("SELECT * FROM exchanges ORDER BY seq")]
    connection.close()
    return rows


# Clients that leave ------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("path", [RESPONSES, CHAT])
async def test_the_upstream_sees_within_half_a_second_that_a_waiting_client_left(
    process, upstream, path: str, streamed: bool
) -> None:
    anos = await process({})
    upstream.answer([HEADERS, silence()])
    call = asyncio.create_task(anos.post(path, stream=streamed, **HI[path]))
    await upstream.received(1)
    call.cancel()
    await asyncio.wait_for(upstream.disconnected.wait(), 0.5)


@pytest.mark.parametrize("path", [RESPONSES, CHAT])
async def test_the_upstream_sees_within_half_a_second_that_the_reader_of_a_silent_stream_left(
    process, upstream, path: str
) -> None:
    anos = await process({})
    upstream.answer([*scripted.responses_stream(["Hel", "lo"])[:5], silence()])
    async with anos.open_stream(path, **HI[path]) as response:
        await anos.next_event(response)
    await asyncio.wait_for(upstream.disconnected.wait(), 0.5)


@pytest.mark.parametrize("dialect", ["responses", "chat"])
async def test_a_stream_left_at_any_event_is_stored_as_cancelled_with_what_was_said(
    process, tmp_path, upstream, dialect: str
) -> None:
    """All of them at once, each held behind another event of its upstream until its client left."""
    anos = await process({"providers": {"up": {"dialect": dialect}}})
    make = scripted.chat_stream if dialect == "chat" else scripted.responses_stream
    whole = make(["Hello"] * 4)
    cuts = range(1, len(whole) - (2 if dialect == "chat" else 0))

    async def cut(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        (asked,) = body.get("messages") or [{"content": body.get("input")}]
        chunks = [*whole[: int(asked["content"])], silence()]
        return await scripted.stream(request, 200, chunks, {})

    upstream.answer(cut)

    async def leave(count: int) -> tuple[str, str]:
        """The response's id, and the text its client had got when it left."""
        spoken = sum(_is_delta(chunk) for chunk in whole[:count])
        got = ""
        async with anos.open_stream(RESPONSES, input=str(count)) as response:
            event = await anos.next_event(response)
            response_id = event["response"]["id"]
            while len(got) < 5 * spoken:
                event = await anos.next_event(response)
                got += event["delta"] if event["type"].endswith("text.delta") else ""
        return response_id, got

    left = await asyncio.gather(*map(leave, cuts))
    for response_id, got in left:
        kept: Json = {"status": "in_progress"}
        while kept["status"] == "in_progress":
            kept = (await anos.get(f"{RESPONSES}/{response_id}")).body
        assert kept["status"] == "cancelled"
        assert "".join(part["text"] for item in kept["output"] for part in item["content"]) == got
        assert (await anos.delete(f"{RESPONSES}/{response_id}")).status == 200
    assert await anos.terminate() == 0
    rows = [row for row in exchanges(tmp_path) if row["route"] == RESPONSES]
    assert sorted(row["response_id"] for row in rows) == sorted(id for id, _ in left)
    assert {(row["status"], row["error_code"], row["finish"]) for row in rows} == {
        (499, "client_left", "cancelled")
    }


def _is_delta(chunk: Any) -> bool:
    if not isinstance(chunk, dict):
        return False
    if "choices" in chunk:
        return any(choice["delta"].get("content") for choice in chunk["choices"])
    return bool(chunk["type"].endswith("text.delta"))


async def test_a_background_response_goes_on_without_its_client(process, upstream) -> None:
    anos = await process({})
    gate = asyncio.Event()
    upstream.answer([gate, *scripted.responses_stream(["Hel", "lo"])])
    leaving = Client(anos.url)
    made = (await leaving.post(RESPONSES, input="Hi", background=True)).body["id"]
    await leaving.session.close()
    await upstream.received(1)
    gate.set()

    async def completed() -> bool:
        return (await anos.get(f"{RESPONSES}/{made}")).body["status"] == "completed"

    await until(completed)
    assert not upstream.disconnected.is_set()


# SIGTERM and SIGKILL -----------------------------------------------------------------------------


async def test_sigterm_lets_running_streams_finish_and_takes_no_new_calls(
    process, upstream
) -> None:
    anos = await process({})
    gate = asyncio.Event()
    chunks = scripted.responses_stream(["Hel", "lo"])
    upstream.answer([*chunks[:5], gate, *chunks[5:]])
    queued = (await anos.post(RESPONSES, input="later", background=True)).body["id"]
    async with Wire(anos) as idle, Wire(anos) as late:
        await idle.send("GET /healthz HTTP/1.1", "Host: localhost")
        assert await idle.status() == 200
        await late.send(
            f"POST {RESPONSES} HTTP/1.1", "Host: localhost", "Authorization: Bearer sk-1234",
            "Content-Type: application/json", "Content-Length: 99", "Expect: 100-continue",
        )  # fmt: skip
        assert await late.status() == 100
        async with anos.open_stream(RESPONSES, input="now") as response:
            events = [await anos.next_event(response)]
            await upstream.received(2)
            anos.signal(signal.SIGTERM)
            # Who is idle is sent away at once; who has begun to ask is answered.
            assert await idle.rest() == b""
            late.writer.write(json.dumps({"model": "gpt-4", "input": "new"}).encode().ljust(99))
            assert await late.status() == 503
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", late.port)
            assert anos.popen.poll() is None
            gate.set()
            while (event := await anos.next_event(response)) is not None:
                events.append(event)
    assert events[-1]["type"] == "response.completed"
    assert len(upstream.requests) == 2
    assert await anos.wait() == 0
    again = await process({})
    for response_id in (queued, events[0]["response"]["id"]):
        assert (await again.get(f"{RESPONSES}/{response_id}")).body["status"] == "completed"


class Wire:
    """A connection on which one sees when it is closed."""

    def __init__(self, anos: Process) -> None:
        self.port = int(anos.url.rpartition(":")[2])

    async def __aenter__(self) -> "Wire":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.writer.close()

    async def send(self, *lines: str) -> None:
        self.writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode())
        await self.writer.drain()

    async def status(self) -> int:
        """The status of the next answer, whose body is read too."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)
        length = re.search(rb"Content-Length: (\d+)", head)
        await self.reader.readexactly(int(length[1]) if length else 0)
        return int(head.split()[1])

    async def rest(self) -> bytes:
        """What comes until the gateway closes the connection."""
        return await asyncio.wait_for(self.reader.read(), 5)


async def test_what_does_not_finish_in_time_is_ended_with_its_reason(process, upstream) -> None:
    anos = await process({"server": {"drain_s": 0.2}})
    upstream.answer([*scripted.responses_stream(["Hel", "lo"])[:5], silence()])
    queued = (await anos.post(RESPONSES, input="later", background=True)).body["id"]
    waiting = asyncio.create_task(anos.post(RESPONSES, input="whole"))
    async with anos.open_stream(RESPONSES, input="now") as response:
        await upstream.received(3)
        assert (await anos.next_event(response))["type"] == "response.created"
        anos.signal(signal.SIGTERM)
        while (event := await anos.next_event(response)) is not None:
            last = event
    ended = last["response"]
    reason = {"type": "server_error", "code": "server_error"}
    reason["message"] = "The gateway is shutting down."
    assert (last["type"], ended["status"], ended["error"]) == ("response.failed", "failed", reason)
    refused = await waiting
    assert (refused.status, refused.error["message"]) == (503, reason["message"])
    assert await anos.wait() == 0
    again = await process({})
    for response_id in (queued, ended["id"]):
        kept = (await again.get(f"{RESPONSES}/{response_id}")).body
        assert (kept["status"], kept["error"]) == ("failed", reason)


async def test_an_idle_process_ends_at_once(process, upstream) -> None:
    anos = await process({})
    assert (await anos.post(RESPONSES, input="Hi")).status == 200
    begun = time.monotonic()
    assert await anos.terminate() == 0
    assert time.monotonic() - begun < 2


async def test_what_a_kill_left_unfinished_has_failed_after_the_restart(process, upstream) -> None:
    anos = await process({})
    parent = (await anos.post(RESPONSES, input="one")).body["id"]
    upstream.answer([silence()])
    body = {"input": "two", "previous_response_id": parent, "background": True}
    queued = (await anos.post(RESPONSES, **body)).body["id"]
    await upstream.received(2)
    await anos.kill()
    again = await process({})
    failed = (await again.get(f"{RESPONSES}/{queued}")).body
    assert (failed["status"], failed["output"]) == ("failed", [])
    error = {"type": "server_error", "code": "server_error", "message": "gateway restarted"}
    assert failed["error"] == error
    refused = await again.post(f"{RESPONSES}/{queued}/cancel")
    assert refused.error["message"] == "Cannot cancel a failed response."
    upstream.answer(scripted.responses_text("three"))
    child = await again.post(RESPONSES, input="three", previous_response_id=queued)
    assert child.status == 200
    said = [item["content"] for item in upstream.requests[-1].body["input"]]
    assert ["".join(part["text"] for part in content) for content in said] == [
        "one", "Hello", "two", "three"
    ]  # fmt: skip
    assert (await again.delete(f"{RESPONSES}/{queued}")).status == 200


# Reload ------------------------------------------------------------------------------------------


class Reloading:
    """A process and its configuration file, which `change` rewrites and has read again."""

    def __init__(self, anos: Process, folder: Path) -> None:
        self.anos = anos
        self.file = folder / "anos-0.json"

    def read(self, section: str) -> Json:
        found: Json = json.loads(self.file.read_text())[section]
        return found

    async def change(self, by: str = "POST", **sections: Any) -> str:
        """What POST /admin/reload answers, or what the log says of a SIGHUP, as text."""
        before = self.file.read_text()
        self.file.write_text(json.dumps(json.loads(before) | sections))
        if by == "POST":
            answer = await self.anos.post("/admin/reload")
            said = answer.raw.decode()
        else:
            known = len(self.anos.log)
            self.anos.signal(signal.SIGHUP)

            async def logged() -> bool:
                return "configuration" in self.anos.log[known:]

            await until(logged)
            said = self.anos.log[known:]
        if "not changed" in said:
            self.file.write_text(before)
        return said


@pytest.fixture
async def reloading(process, upstream, tmp_path) -> Reloading:
    keys = {"old": {"key": "sk-old"}, "slow": {"key": "sk-slow"}}
    return Reloading(await process({"keys": keys}), tmp_path)


async def asked(anos: Process, key: str = "sk-1234", **body: Any) -> int:
    """The status of a call."""
    tree = {"model": "gpt-4", "input": "Hi", **body}
    headers = {"Authorization": f"Bearer {key}"}
    return (await anos.request("POST", RESPONSES, headers=headers, json=tree)).status


@pytest.mark.parametrize("by", ["POST", "SIGHUP"])
async def test_a_reload_changes_what_the_next_request_meets(reloading, upstream, by: str) -> None:
    anos = reloading.anos
    assert [await asked(anos, key) for key in ("sk-old", "sk-slow", "sk-new")] == [200, 200, 401]
    said = await reloading.change(
        by,
        keys={"new": {"key": "sk-new"}, "slow": {"key": "sk-slow", "limits": "one"}},
        limits={"one": {"requests_per_minute": 1}},
        guards={"keywords": {"phrases": ["never this"]}},
        models={"gpt-4": {"routes": [{"provider": "up", "deployment": "newer"}]}},
    )
    for section in ("keys", "limits", "guards", "models"):
        assert section in said
    for secret in ("sk-", "never this"):
        assert secret not in said
    assert [await asked(anos, key) for key in ("sk-old", "sk-new", "sk-slow", "sk-slow")] == [
        401, 200, 200, 429
    ]  # fmt: skip
    assert upstream.requests[-1].body["model"] == "newer"
    assert await asked(anos, input="Never this!") == 400
    assert await asked(anos, model="gpt-35-turbo") == 400


@pytest.mark.parametrize("by", ["POST", "SIGHUP"])
async def test_a_configuration_that_cannot_be_used_changes_nothing(reloading, by: str) -> None:
    anos = reloading.anos
    server = reloading.read("server")
    faults = [
        ({"keys": {"new": {"key": "sk-new", "limits": "none"}}}, "keys.new.limits"),
        ({"models": {}}, "models"),
        ({"budgets": {"b": []}}, "budgets.b"),
        # What a running process stands on.
        ({"server": {**server, "host": "localhost"}}, "server.host"),
        ({"server": {**server, "database": "other.db"}}, "server.database"),
        ({"server": {**server, "synchronous": "full"}}, "server.synchronous"),
    ]
    for sections, fault in faults:
        said = await reloading.change(by, **sections)
        assert "not changed" in said
        assert fault in said
        assert [await asked(anos, key) for key in ("sk-old", "sk-new")] == [200, 401]


async def test_a_running_stream_survives_a_reload_that_replaces_its_upstream(
    reloading, upstream
) -> None:
    anos = reloading.anos
    gate = asyncio.Event()
    chunks = scripted.responses_stream(["Hel", "lo"])
    upstream.answer([*chunks[:5], gate, *chunks[5:]])
    async with anos.open_stream(RESPONSES, input="Hi") as response:
        assert (await anos.next_event(response))["type"] == "response.created"
        providers = reloading.read("providers")
        providers["up"]["timeouts"] = {"idle_s": 7}
        assert "providers" in await reloading.change(providers=providers)
        async with Upstream() as other:
            providers["up"]["base_url"] = other.url
            await reloading.change(providers=providers)
            assert await asked(anos) == 200
            assert len(other.requests) == 1
        gate.set()
        while (event := await anos.next_event(response)) is not None:
            last = event
    assert last["type"] == "response.completed"
    assert await anos.terminate() == 0


async def test_only_the_master_key_reloads(process, upstream) -> None:
    anos = await process({"keys": {"some": {"key": "sk-some"}}})
    headers = {"Authorization": "Bearer sk-some"}
    refused = await anos.request("POST", "/admin/reload", headers=headers)
    assert (refused.status, refused.error["type"]) == (403, "invalid_request_error")


# A database that is full -------------------------------------------------------------------------


@asynccontextmanager
async def full_disk(anos: Process, database: Path) -> AsyncIterator[None]:
    """Meanwhile the process can make no file longer than the database's log is now."""
    _, hard = resource.prlimit(anos.pid, resource.RLIMIT_FSIZE)
    log_bytes = database.with_name(database.name + "-wal").stat().st_size
    resource.prlimit(anos.pid, resource.RLIMIT_FSIZE, (log_bytes, hard))
    try:
        yield
    finally:
        resource.prlimit(anos.pid, resource.RLIMIT_FSIZE, (hard, hard))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux's prlimit")
async def test_a_full_disk_refuses_calls_before_the_model_is_asked_and_heals(
    process, upstream, tmp_path
) -> None:
    anos = await process({})
    made = (await anos.post(RESPONSES, input="Hi")).body
    async with full_disk(anos, tmp_path / "process.db"):
        # The first call that cannot be stored is the one that finds out.
        lost = await anos.post(RESPONSES, input="one")
        assert (lost.status, lost.headers["x-should-retry"]) == (503, "false")
        calls = len(upstream.requests)
        for path, streamed in ((RESPONSES, False), (RESPONSES, True), (CHAT, True)):
            refused = await anos.post(path, stream=streamed, **HI[path])
            assert (refused.status, refused.error["code"]) == (503, "service_unavailable")
        assert (await anos.delete(f"{RESPONSES}/{made['id']}")).status == 503
        assert len(upstream.requests) == calls
        assert (await anos.get("/readyz")).status == 503
        assert (await anos.get("/healthz")).status == 200
        # Reads go on.
        assert (await anos.get(f"{RESPONSES}/{made['id']}")).body == made
        assert (await anos.get(f"{RESPONSES}/{made['id']}/input_items")).status == 200
        assert (await anos.get("/v1/models")).status == 200

    async def ready() -> bool:
        return (await anos.get("/readyz")).status == 200

    await until(ready)
    child = await anos.post(RESPONSES, input="two", previous_response_id=made["id"])
    assert child.status == 200
    assert (await anos.get(f"{RESPONSES}/{child.body['id']}")).body == child.body
    assert await anos.terminate() == 0


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux's prlimit")
async def test_a_stream_that_cannot_be_stored_ends_as_failed(process, upstream, tmp_path) -> None:
    anos = await process({})
    await anos.post(RESPONSES, input="Hi")
    gate = asyncio.Event()
    chunks = scripted.responses_stream(["Hel", "lo"])
    upstream.answer([*chunks[:5], gate, *chunks[5:]])
    queued = (await anos.post(RESPONSES, input="later", background=True)).body["id"]
    async with anos.open_stream(RESPONSES, input="now") as response:
        events = [await anos.next_event(response)]
        await upstream.received(3)
        async with full_disk(anos, tmp_path / "process.db"):
            gate.set()
            while (event := await anos.next_event(response)) is not None:
                events.append(event)

            async def ended() -> bool:
                status: str = (await anos.get(f"{RESPONSES}/{queued}")).body["status"]
                return status not in ("queued", "in_progress")

            await until(ended)
    last = events[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"]["code"] == "server_error"
    # What polls for the background response is not left to poll for ever.
    kept = (await anos.get(f"{RESPONSES}/{queued}")).body
    assert (kept["status"], kept["error"]["code"]) == ("failed", "server_error")
    assert (await anos.get(f"{RESPONSES}/{last['response']['id']}")).status == 404


# The start ---------------------------------------------------------------------------------------


@needs_proc
async def test_the_first_good_reply_comes_within_0_8_s_of_the_start(tmp_path, no_task_left) -> None:
    """Of the process's own time: what else this machine does meanwhile is not its fault."""
    wall, cpu = [], []
    for number in range(3):
        port = free_port()
        command = [sys.executable, str(ROOT / "anos_gateway.py"), "--port", str(port)]
        begun = time.monotonic()
        with (tmp_path / "log").open("wb") as log:
            popen = spawn([*command, "--database", f"{number}.db"], tmp_path, {}, log)
        anos = Process(f"http://127.0.0.1:{port}", popen, tmp_path / "log")
        try:
            reply = None
            while reply is None:
                try:
                    reply = await anos.post(RESPONSES, input="Say hello")
                except OSError:
                    await asyncio.sleep(0.005)
            wall.append(time.monotonic() - begun)
            cpu.append(cpu_s(anos.pid))
            assert reply.status == 200, reply.body
            assert await anos.terminate() == 0
        finally:
            await anos.close()
    taken = ", ".join(f"{each:.2f}" for each in wall)
    sys.stdout.write(f"first good reply {taken} s after the start; {min(cpu):.2f} s of CPU\n")
    assert min(cpu) < 0.8


def cpu_s(pid: int) -> float:
    """The CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@needs_proc
async def test_the_process_may_open_as_many_connections_as_the_system_allows(process) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        anos = await process()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(anos.pid, resource.RLIMIT_NOFILE) == (hard, hard)
