"""The responses that are running now: found by id, cancelled, waited for, ended at shutdown."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from msgspec import Struct, field

from anos.exchange import Exchange


class Run(Struct, eq=False):
    """One response in flight; `task` carries it: a client's handler, or one of its own."""

    response_id: str
    project: str
    response: dict[str, Any]  # the Response object as it is shown meanwhile: no output yet
    created_ms: int
    exchange: Exchange
    stream: bool
    history: list[dict[str, Any]] = []  # what the model is given before the own input, oldest first
    own_input: list[dict[str, Any]] = []
    background: bool = False
    cleared: str | None = None  # see ResponseRecord
    task: asyncio.Task[Any] | None = field(default_factory=asyncio.current_task)
    is_cancelled: bool = False  # somebody asked for the end
    reason: str = ""  # what the caller of a run that was ended by the gateway itself is told
    is_ending: bool = False  # the outcome is settled; a cancel comes too late
    done: asyncio.Future[dict[str, Any] | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def cancel(self, reason: str = "") -> None:
        """End the run: its task stops where it waits, closes its upstream and settles."""
        if self.is_cancelled or self.is_ending:
            return
        self.is_cancelled = True
        self.reason = reason
        if self.task is not None:
            self.task.cancel()

    def take_cancel(self) -> bool:
        """In the run's task, on CancelledError: whether it was `cancel`, not the client leaving."""
        return self.is_cancelled and self.task is not None and self.task.uncancel() == 0

    async def wait(self) -> dict[str, Any] | None:
        """The Response the run ended as, None if there is none."""
        return await asyncio.shield(self.done)


class Runs:
    """Every run of the process."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def add(self, run: Run) -> None:
        """Register a run; `remove` it when its outcome is stored."""
        self._runs[run.response_id] = run

    def remove(self, run: Run, response: dict[str, Any] | None) -> None:
        """The run has ended as `response`, which those who wait get; twice is fine."""
        self._runs.pop(run.response_id, None)
        if not run.done.done():
            run.done.set_result(response)

    def get(self, project: str, response_id: str) -> Run | None:
        """The project's run of that id; a foreign one is unknown, and so is a chat completion."""
        run = self._runs.get(response_id)
        return run if run is not None and run.project == project and run.response else None

    def now(self) -> list[Run]:
        """Every run of this moment, the oldest first."""
        return list(self._runs.values())

    def spawn(self, run: Run, work: Coroutine[Any, Any, None]) -> None:
        """Carry a background run in a task of its own, which is kept until it ends."""
        run.task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(run.task)
        run.task.add_done_callback(self._tasks.discard)
        # A task that is cancelled before its first step never gets to say that it has ended.
        run.task.add_done_callback(lambda _: self.remove(run, None))

    def cancel_all(self, reason: str) -> None:
        """End every run because the process does."""
        for run in list(self._runs.values()):
            run.cancel(reason)

    async def wait(self, timeout_s: float | None) -> None:
        """Wait until every run of this moment has ended, at most `timeout_s`."""
        pending = {run.done for run in self._runs.values()} | self._tasks
        if pending:
            await asyncio.wait(pending, timeout=timeout_s)
