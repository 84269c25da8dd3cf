"""The only module that runs SQL: one writer that commits in groups, and connections that read.

History is a tree of segments. A place is segment * 2**24 + position, and a response owns the places
from its input to the end of its output. The first child of a response goes on in its segment, any
other opens a segment of its own that remembers where it branched off. So a history is a few ranges,
nothing is copied from turn to turn, and no place is used twice.
"""

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from anos import store_file, store_reads
from anos.schema import (
    Begin,
    ChangeRecord,
    ChargeLost,
    Delete,
    ExchangeRecord,
    FailUnfinished,
    Finish,
    History,
    InFlight,
    Job,
    KeyRecord,
    LogChange,
    NotFoundInStore,
    Page,
    ParentBroken,
    PutKey,
    Recent,
    ReservationRecord,
    Reserve,
    ResponseRecord,
    Retire,
    Save,
    Spent,
    Stored,
    StoreError,
    StoreFailed,
    StoreFault,
    StoreUnavailable,
    UnknownItem,
)
from anos.statements import Statements
from anos.store_file import Connection
from anos.store_writes import commit, probe

__all__ = [
    "Begin",
    "ChangeRecord",
    "Delete",
    "ExchangeRecord",
    "Finish",
    "History",
    "InFlight",
    "Job",
    "KeyRecord",
    "LogChange",
    "NotFoundInStore",
    "Page",
    "ParentBroken",
    "PutKey",
    "Recent",
    "ReservationRecord",
    "Reserve",
    "ResponseRecord",
    "Save",
    "Store",
    "StoreError",
    "StoreFailed",
    "StoreFault",
    "StoreUnavailable",
    "Stored",
    "UnknownItem",
]

LOG = logging.getLogger("anos.store")
T = TypeVar("T")

# Two to three seconds of the fastest traffic one process can take.
QUEUE_JOBS = 4096
# 10 ms of work: no job waits long for the group before it.
GROUP_JOBS = 256
# How often a store that cannot write tries again.
PROBE_S = 1.0
# 4 MB of log.
CHECKPOINT_PAGES = 1024
# 48 MB: a log of this length is made to start over. The writer waits for two small fsyncs then,
# so not more often than must be.
LOG_PAGES = 12 * 1024
# A file over this is truncated as well, which takes longer: only a foreign reader does that.
WAL_BYTES = 64 * 1024 * 1024


class _Commit(asyncio.Future[Any]):
    """What became of a job; a task that waits for it is cancelled only after it is known."""

    def cancel(self, msg: Any = None) -> bool:
        """Not possible: the job is done whether or not anyone waits."""
        return False


class Store:
    """Responses, their items and exchanges in one SQLite file; made by `open`, ended by `close`."""

    def __init__(
        self, path: Path, sql: Statements, connections: list[Connection], claim: int
    ) -> None:
        self.healthy = True
        self._claim: int | None = claim
        self._sql = sql
        self._wal = path.with_name(path.name + "-wal")
        self._writer, self._checkpointer, *self._readers = connections
        self._turn = 0
        self._queue: list[tuple[Job, asyncio.Future[Any]]] = []
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._reading_allowed = asyncio.Event()
        self._reading_allowed.set()
        self._pages_since_checkpoint = 0
        self._log_pages = 0
        self._log_limit = LOG_PAGES
        self._checkpointing: asyncio.Task[None] | None = None
        self._writing = asyncio.create_task(self._write(), name="store writer")

    @classmethod
    async def open(
        cls, path: Path, sql: Path, secret: bytes, *, synchronous: str = "normal"
    ) -> "Store":
        """The store in the file `path` (made if missing), its statements from `sql`.

        `secret` (32 bytes) keys the digests of the logs. `synchronous` is "normal" or "full".
        Raises StoreFault with a sentence if the file cannot be used: not writable, not SQLite's,
        another program's, written by a newer program, or in use by another gateway.
        """
        connections: list[Connection] = []
        claim: int | None = None
        try:
            schema = store_file.read_schema(path, sql)
            claim = store_file.claim(path)
            connections.append(await store_file.connect(path))
            await connections[0].run(partial(store_file.prepare, schema, synchronous))
            connections.append(await store_file.connect(path))
            for _ in range(2):
                connections.append(await store_file.connect(path))
                await connections[-1].run(store_file.query_only)
        except BaseException as exc:  # the threads of open connections would outlive the process
            for connection in connections:
                await connection.close()
            if claim is not None:
                os.close(claim)
            if isinstance(exc, OSError | sqlite3.Error | StoreFault):
                raise StoreFault(f"{path} cannot be used as the database: {exc}") from exc
            raise
        return cls(path, Statements(schema, secret), connections, claim)

    async def close(self) -> None:
        """Commit what is queued, then let go of the file."""
        self._closing.set()
        self._wake.set()
        await self._writing
        if self._checkpointing is not None:
            await self._checkpointing
        # The writer last: the last connection to go empties the log and removes it.
        for connection in (*self._readers, self._checkpointer, self._writer):
            await connection.close()
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    @property
    def accepting(self) -> bool:
        """Whether `submit` would take a job."""
        return self.healthy and not self._closing.is_set() and len(self._queue) < QUEUE_JOBS

    def submit(self, job: Job) -> asyncio.Future[Any]:
        """The job's result once it is durable; what it is, and which errors, stands at the job.

        Never waits, and the job is done whether or not anyone awaits the future. The future raises
        StoreFailed if the job could not be committed. Raises StoreUnavailable, taking nothing, if
        the store failed, is closed or has its queue full.
        """
        if not self.accepting:
            raise StoreUnavailable("the database cannot be written, or its queue is full")
        future = _Commit()
        self._queue.append((job, future))
        self._wake.set()
        return future

    async def fail_unfinished(self, now_ms: int, rewrite: Callable[[bytes], bytes]) -> int:
        """Fail every background response that has not ended; for the start, before any request."""
        count: int = await self.submit(FailUnfinished(now_ms, rewrite))
        return count

    async def charge_lost(self) -> int:
        """Charge in full what calls held when a crash ended them; for the start."""
        count: int = await self.submit(ChargeLost())
        return count

    async def keys(self) -> list[KeyRecord]:
        """Every key that was made through the API, tombstones too."""
        return await self._read(partial(store_reads.keys, self._sql))

    async def spent(self, scopes: list[tuple[str, str, int]]) -> list[int]:
        """Micro-dollars since a time, for each (kind, name, start_ms).

        The kind is "key", "project" (the name is an owner's) or "all".
        """
        return await self._read(partial(store_reads.spent, self._sql, scopes))

    async def spent_before(self, scopes: list[tuple[str, str, int]]) -> list[int]:
        """The same of every job that was submitted before this call, and of none after it."""
        sums: list[int] = await self.submit(Spent(scopes))
        return sums

    async def recent(self, since_ms: int) -> list[Recent]:
        """The exchanges that ended at or after `since_ms`, newest first."""
        return await self._read(partial(store_reads.recent, self._sql, since_ms))

    async def retire(self, before_ms: int) -> int:
        """Remove, in small steps, the trees whose newest response was created before `before_ms`.

        Returns how many responses that were.
        """
        removed: int
        total, seq = 0, 0
        while True:
            removed, following = await self.submit(Retire(before_ms, seq))
            total += removed
            if following is None:
                return total
            seq = following

    async def response(self, project: str, response_id: str) -> Stored | None:
        """The response with its output, None if the project has none of that id."""
        return await self._read(partial(store_reads.response, self._sql, project, response_id))

    async def history(self, project: str, response_id: str) -> History:
        """What a child of this response inherits.

        Raises NotFoundInStore, or ParentBroken if an ancestor was deleted.
        """
        return await self._read(partial(store_reads.history, self._sql, project, response_id))

    async def input_items(
        self,
        project: str,
        response_id: str,
        *,
        limit: int = 20,
        order: str = "desc",
        after: str | None = None,
    ) -> Page:
        """The items this response was made from, `order` asc or desc.

        Inherited ones too, unless an ancestor was deleted.

        Raises NotFoundInStore, or UnknownItem if `after` is not one of them.
        """
        return await self._read(
            partial(store_reads.input_items, self._sql, project, response_id, limit, order, after)
        )

    async def item(self, project: str, item_id: str) -> bytes | None:
        """The JSON of the project's newest item of that id that was not deleted, or None."""
        return await self._read(partial(store_reads.item, self._sql, project, item_id))

    async def probe(self) -> bool:
        """Whether the file can be written, tried on the file; if so the store is healthy again."""
        try:
            await self._writer.run(partial(probe, self._sql))
        except sqlite3.Error:
            return False
        self.healthy = True
        return True

    async def read(self, function: Callable[[Statements, sqlite3.Connection], T]) -> T:
        """What `function` returns on a read connection's thread; raises StoreFailed.

        It must be short: a log that somebody reads from cannot start over.
        """
        return await self._read(partial(function, self._sql))

    async def _read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        await self._reading_allowed.wait()
        self._turn = (self._turn + 1) % len(self._readers)
        try:
            return await self._readers[self._turn].run(function)
        except sqlite3.Error as exc:
            raise StoreFailed(f"the database cannot be read: {exc}") from exc

    async def _write(self) -> None:
        while self._queue or not self._closing.is_set():
            if not self.healthy:
                await self._heal()
            elif not self._queue:
                self._wake.clear()
                await self._wake.wait()
            else:
                # No timer: a group is what came while the last one was written.
                group, self._queue = self._queue[:GROUP_JOBS], self._queue[GROUP_JOBS:]
                await self._commit_group(group)
                await self._tend_log()

    async def _commit_group(self, group: list[tuple[Job, asyncio.Future[Any]]]) -> None:
        try:
            jobs = [job for job, _ in group]
            outcomes, pages = await self._writer.run(partial(commit, jobs, self._sql))
            self._pages_since_checkpoint += pages
        except Exception as exc:  # the writer must outlive everything; the jobs' owners learn of it
            LOG.error("the database cannot be written: %s", exc)
            self.healthy = False
            group, self._queue = group + self._queue, []
            outcomes = [StoreFailed(f"the database cannot be written: {exc}") for _ in group]
        for (_, future), outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, StoreError):
                future.set_exception(outcome)
                # Many owners do not wait; asyncio would report an exception nobody retrieved.
                future.exception()
            else:
                future.set_result(outcome)

    async def _heal(self) -> None:
        try:
            await asyncio.wait_for(self._closing.wait(), PROBE_S)
        except TimeoutError:
            if await self.probe():
                LOG.info("the database can be written again")

    async def _tend_log(self) -> None:
        if self._log_pages >= self._log_limit:
            await self._restart_log()
        elif self._pages_since_checkpoint >= CHECKPOINT_PAGES and (
            self._checkpointing is None or self._checkpointing.done()
        ):
            self._pages_since_checkpoint = 0
            self._checkpointing = asyncio.create_task(self._checkpoint())

    async def _checkpoint(self) -> None:
        try:
            self._log_pages = await self._checkpointer.run(store_file.checkpoint_passive)
        except sqlite3.Error as exc:
            LOG.warning("the log of the database cannot be emptied: %s", exc)

    async def _restart_log(self) -> None:
        """Let the log start over. Under load it never does by itself: something is always in it.

        Runs right after a passive checkpoint, so little is left to do, and while nobody reads.
        """
        self._reading_allowed.clear()
        truncate = self._log_bytes() > WAL_BYTES
        try:
            done = await self._writer.run(partial(store_file.restart_log, truncate))
        except sqlite3.Error as exc:
            done = False
            LOG.warning("the log of the database cannot be emptied: %s", exc)
        self._reading_allowed.set()
        # Another program reads, or the disk is full: do not let every group wait for that.
        self._log_limit = LOG_PAGES if done else 2 * self._log_pages
        self._log_pages = 0

    def _log_bytes(self) -> int:
        try:
            return os.stat(self._wal).st_size
        except FileNotFoundError:
            return 0
