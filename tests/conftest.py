"""The fixtures gateway, upstream and process; see the classes Gateway, Upstream and Process."""

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
import uvloop
from aiohttp import ClientResponse, ClientSession, ClientTimeout, web
from multidict import CIMultiDictProxy

import anos_gateway
from anos import config as configuration
from anos.server import Runner
from anos.state import DEFAULT_BOUNDS, Bounds
from tests import grammar
from tests.scripted import Upstream

ROOT = Path(__file__).parent.parent
MASTER = {"Authorization": "Bearer sk-1234"}
# No test may hang: nothing here takes this long unless it is broken.
PATIENCE = ClientTimeout(total=30)

Json = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """One whole answer of the gateway."""

    status: int
    headers: CIMultiDictProxy[str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def error(self) -> Json:
        """The error in the envelope, whose four fields are asserted to be there and no other."""
        error: Json = self.body["error"]
        assert error.keys() == {"message", "type", "param", "code"}, error
        assert isinstance(error["param"], str), error
        return error


class Client:
    """Calls of a gateway at `url` with the master key; paths are like "/v1/responses"."""

    def __init__(self, url: str) -> None:
        self.url = url
        # read_bufsize: next_event reads whole events, and a snapshot may be large.
        self.session = ClientSession(url, headers=MASTER, timeout=PATIENCE, read_bufsize=1 << 24)

    async def request(self, method: str, path: str, **options: Any) -> Reply:
        async with self.session.request(method, path, **options) as response:
            return Reply(response.status, response.headers, await response.read())

    async def get(self, path: str, **params: Any) -> Reply:
        return await self.request("GET", path, params=params)

    async def delete(self, path: str) -> Reply:
        return await self.request("DELETE", path)

    async def post(self, path: str, **body: Any) -> Reply:
        """POST of the keyword arguments as JSON; `model` is gpt-35-turbo unless given."""
        return await self.request("POST", path, json=with_model(path, body))

    async def stream(self, path: str, **body: Any) -> list[Json]:
        """All events of a streamed POST, checked against the grammar of the path's dialect."""
        async with self.open_stream(path, **body) as response:
            return check_stream(path, await response.read())

    @asynccontextmanager
    async def open_stream(self, path: str, **body: Any) -> AsyncIterator[ClientResponse]:
        """The open answer to a streamed POST; read it with `next_event`, leave it to hang up."""
        body = {"stream": True, **with_model(path, body)}
        async with self.session.post(path, json=body) as response:
            assert response.status == 200, await response.text()
            assert response.content_type == "text/event-stream"
            yield response
            response.close()

    async def calls(self, count: int = 1) -> list[Json]:
        """The ledger's rows of so many calls of models, oldest first, as soon as all are there."""
        rows: list[Json] = []
        while len(rows) < count:  # they are written behind the answers
            rows = (await self.get("/admin/requests", limit=1000)).body["data"]
            rows = [row for row in rows if row["model"] is not None]
        assert len(rows) == count
        return rows[::-1]

    @staticmethod
    async def next_event(response: ClientResponse) -> Json | None:
        """The next event of an open stream, comments left out; None at [DONE] and at the end."""
        while True:
            block = await response.content.readuntil(b"\n\n")
            if block in (b"", b"data: [DONE]\n\n"):
                return None
            if events := grammar.parse(block):
                return events[0]


def with_model(path: str, body: Json) -> Json:
    creates = path.endswith(("/responses", "/chat/completions"))
    return {"model": "gpt-35-turbo", **body} if creates else body


def check_stream(path: str, raw: bytes) -> list[Json]:
    """The events of a whole stream as the gateway wrote it; asserts that they are correct."""
    if path.endswith("/chat/completions"):
        chunks = grammar.parse(raw)
        grammar.check_chat(chunks)
        assert "error" in chunks[-1] or raw.endswith(b"data: [DONE]\n\n"), "no [DONE]"
        return chunks
    events = grammar.parse(raw, done=True)
    grammar.check(events)
    return events


class Gateway(Client):
    """Our application on a free port in this event loop, its database under tmp_path."""

    def __init__(self, url: str, app: web.Application, database: Path, runner: Runner) -> None:
        super().__init__(url)
        self.app = app
        self.database = database
        self.is_running = True
        self._runner = runner

    async def stop(self) -> None:
        """Closes our session and the application; the database stays, another may open it."""
        self.is_running = False
        await self.session.close()
        await self._runner.cleanup()


def merge(base: Json, given: Json) -> Json:
    """`base` with `given` on top, objects merged key by key; a None in `given` removes the key."""
    merged = dict(base)
    for name, value in given.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = merge(merged[name], value)
        else:
            merged[name] = value
    return merged


def base_config(database: Path, upstream: Upstream | None) -> Json:
    """The models gpt-35-turbo and gpt-4 at the provider "up", and stub/* at the stub.

    "up" is the scripted upstream in the responses dialect; without one it is the stub, too.
    """
    scripted: Json = {"dialect": "responses", "base_url": "stub:"}
    if upstream is not None:
        scripted = {"dialect": "responses", "base_url": upstream.url, "api_key": "sk-upstream"}
    return {
        "server": {"master_key": "sk-1234", "database": str(database)},
        "providers": {"up": scripted, "stub": {"dialect": "responses", "base_url": "stub:"}},
        "models": {
            "gpt-35-turbo": {"routes": [{"provider": "up", "deployment": "up-model"}]},
            "gpt-4": {"routes": [{"provider": "up", "deployment": "up-model"}]},
            "stub/*": {"routes": [{"provider": "stub"}]},
        },
    }


def wanted_upstream(request: pytest.FixtureRequest) -> Upstream | None:
    """The upstream, if the test asked for it. Every fixture is set up by the time a test runs."""
    if "upstream" not in request.fixturenames:
        return None
    upstream: Upstream = request.getfixturevalue("upstream")
    return upstream


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """asyncio's own loop, and the process's where a test asks for it by its asyncio mark."""
    mark = item.get_closest_marker("asyncio")
    if mark is None or "loop_factories" not in mark.kwargs:
        return {"asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Asserts that everything a test started in its event loop has ended."""
    yield
    # A connection that has just closed takes a few turns of the loop to end its task.
    if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        _, left = await asyncio.wait(tasks, timeout=2)
        assert not left, f"tasks are left: {left}"


@pytest.fixture
async def upstream(no_task_left: None) -> AsyncIterator[Upstream]:
    """The scripted upstream."""
    async with Upstream() as scripted:
        yield scripted


@pytest.fixture
async def gateway(
    no_task_left: None, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Callable[..., Awaitable[Gateway]]]:
    """A factory: `await gateway()`, or with a configuration that is merged into `base_config`.

    All have the same database, but for those that run at the same time.

    `bounds` are those of the HTTP edge, to make them small.
    """
    started: list[Gateway] = []

    async def start(config: Json | None = None, bounds: Bounds = DEFAULT_BOUNDS) -> Gateway:
        running = sum(each.is_running for each in started)
        database = tmp_path / ("anos.db" if not running else f"anos-{len(started)}.db")
        tree = merge(base_config(database, wanted_upstream(request)), config or {})
        app = anos_gateway.build_app(configuration.parse(tree), bounds=bounds)
        runner = Runner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        started.append(Gateway(url, app, Path(tree["server"]["database"]), runner))
        return started[-1]

    yield start
    for each in reversed(started):
        await each.stop()


class Process(Client):
    """The real program in a process of its own. What it prints goes to the file `log_file`."""

    def __init__(self, url: str, popen: subprocess.Popen[bytes], log_file: Path) -> None:
        super().__init__(url)
        self.popen = popen
        self.log_file = log_file

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    async def wait(self, timeout_s: float = 20) -> int:
        """The exit status, negative for a signal, once the process has ended."""
        return await asyncio.to_thread(self.popen.wait, timeout_s)

    async def terminate(self) -> int:
        """SIGTERM: the process drains. Its exit status."""
        self.signal(signal.SIGTERM)
        return await self.wait()

    async def kill(self) -> int:
        """SIGKILL, at once."""
        self.signal(signal.SIGKILL)
        return await self.wait()

    async def close(self) -> None:
        await self.session.close()
        if self.popen.poll() is None:
            await self.kill()

    async def ready(self) -> None:
        """Returns when /healthz answers; fails with the log if the process ends before or is late.

        Only the socket can say when another process listens, so this one polls.
        """
        for _ in range(1000):
            assert self.popen.poll() is None, f"it ended with {self.popen.returncode}:\n{self.log}"
            try:
                if (await self.get("/healthz")).status == 200:
                    return
            except OSError:
                await asyncio.sleep(0.01)
        raise AssertionError(f"it is not ready:\n{self.log}")


def spawn(
    command: list[str], cwd: Path, env: dict[str, str], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Starts `command` without the developer's own settings of the gateway."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ANOS_")}
    return subprocess.Popen(command, cwd=cwd, env=clean | env, stdout=log, stderr=subprocess.STDOUT)


# Each process that runs tests has ports of its own, below those that the system gives to whoever
# asks for any.
_FIRST_PORT = 10_000 + os.getpid() % 200 * 100
_PORTS = itertools.cycle(range(_FIRST_PORT, _FIRST_PORT + 100))


def free_port() -> int:
    for port in _PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError


@asynccontextmanager
async def processes(
    folder: Path, upstream: Callable[[], Upstream | None]
) -> AsyncIterator[Callable[..., Awaitable[Process]]]:
    """What the fixture `process` gives, for fixtures that outlive a test."""
    started: list[Process] = []

    async def start(
        config: Json | None = None, *flags: str, env: dict[str, str] | None = None
    ) -> Process:
        number, port, database = len(started), free_port(), folder / "process.db"
        command = [sys.executable, str(ROOT / "anos_gateway.py"), "--port", str(port)]
        if config is None:
            command += ["--database", str(database)]
        else:
            tree = merge(base_config(database, upstream()), config)
            file = folder / f"anos-{number}.json"
            file.write_text(json.dumps(tree))
            command += ["--config", str(file)]
        log_file = folder / f"process-{number}.log"
        with log_file.open("wb") as log:
            popen = spawn([*command, *flags], folder, env or {}, log)
        started.append(Process(f"http://127.0.0.1:{port}", popen, log_file))
        await started[-1].ready()
        return started[-1]

    try:
        yield start
    finally:
        for each in reversed(started):
            await each.close()


@pytest.fixture
async def process(
    no_task_left: None, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Callable[..., Awaitable[Process]]]:
    """A factory: `await process(config, "--flag", …, env={…})` gives a Process that is ready.

    `config` is merged into `base_config`; None starts it without a configuration file.
    """
    async with processes(tmp_path, lambda: wanted_upstream(request)) as start:
        yield start
