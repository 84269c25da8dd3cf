"""What keeps the store in order: signed checkpoints, retention, backup, and checks on request."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from anos import store_copy
from anos.audit import LOGS, Head, Log, Report
from anos.schema import Checkpoint, Prune, PruneBodies, Shrink, Step
from anos.store import Store
from anos.store_audit import DAY_MS, Cursor, export_page, verify_page, walk

logger = logging.getLogger("anos.upkeep")
T = TypeVar("T")

# Between two steps of removal; a step takes a tenth of it, so few requests wait for one.
_PAUSE_S = 0.05
# Rows that are checked between two looks at requests: 2 ms.
_VERIFY_ROWS = 100
_EXPORT_ROWS = 100


async def sign(store: Store, *, now_ms: int) -> None:
    """Make the checkpoints that are due; at the start, before anything is written.

    Raises StoreError.
    """
    for log, seq, secret in await store.submit(Checkpoint(now_ms)):
        logger.error(
            "the %s up to row %d verify only with the secret %s, and this is another one: "
            "`<database>.key` was lost or server.secret has changed",
            log,
            seq,
            secret,
        )


async def tend(
    store: Store, *, responses_days: int, audit_days: int, now_ms: int, pause_s: float = _PAUSE_S
) -> None:
    """One round: checkpoints, and everything that is older than its days goes, in small steps.

    Raises StoreError.
    """
    await sign(store, now_ms=now_ms)
    bodies_ms = now_ms - min(responses_days, audit_days) * DAY_MS
    logs_ms = now_ms - audit_days * DAY_MS
    await _run(store, PruneBodies(bodies_ms), pause_s)
    for log in LOGS:
        await _run(store, Prune(log, logs_ms, now_ms), pause_s)
    await _run(store, Shrink(), pause_s)


async def _run(store: Store, job: PruneBodies | Prune | Shrink, pause_s: float) -> None:
    """Repeat a step until nothing is left to do."""
    while True:
        step: Step = await store.submit(job)
        if step.broken is not None:
            logger.error("a log was tampered with before its rows went: %s", step.broken.sentence)
        if not step.more:
            return
        await asyncio.sleep(pause_s)


async def verify(store: Store, heads: dict[Log, Head]) -> list[Report]:
    """Walk along both logs from their beginning, in small steps; raises StoreFailed."""
    reports = []
    for log in LOGS:
        verifier = await store.read(partial(walk, log, heads.get(log)))
        while await store.read(partial(verify_page, verifier, _VERIFY_ROWS)):
            pass
        reports.append(verifier.report())
    return reports


async def export(
    store: Store, log: Log, form: str, since_ms: int, until_ms: int
) -> AsyncIterator[bytes]:
    """A log from a time until another, in blocks of some 100 KB; raises StoreFailed."""
    cursor = Cursor(log, form, since_ms, until_ms)
    while not cursor.at_end:
        yield await store.read(partial(export_page, cursor, _EXPORT_ROWS))


async def backup(database: Path, target: Path) -> store_copy.Copy:
    """Copy the database to a file that is not there yet; a cancelled copy leaves nothing.

    Raises FileExistsError, or StoreError.
    """
    return await _aside(partial(store_copy.backup, database, target))


async def check(database: Path) -> list[str]:
    """What SQLite finds wrong with the file, in its words; raises StoreError."""
    return await _aside(partial(store_copy.check, database))


async def _aside(function: Callable[[threading.Event], T]) -> T:
    """Run on a thread of its own, and tell it to stop if nobody waits any more."""
    stop = threading.Event()
    try:
        return await asyncio.to_thread(function, stop)
    finally:
        stop.set()
