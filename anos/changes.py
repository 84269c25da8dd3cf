"""Changes that operators make: in the log before they are answered, and never left halfway."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import orjson
from aiohttp import web

from anos.decoding import decode_body
from anos.errors import Unavailable
from anos.exchange import Exchange
from anos.intake import read_body
from anos.schema import ChangeRecord
from anos.state import EXCHANGE, Gateway
from anos.store import LogChange, PutKey, StoreFailed, StoreUnavailable

T = TypeVar("T")


def record(
    exchange: Exchange | None, action: str, object: str, before: Any = None, after: Any = None
) -> ChangeRecord:
    """A row for the log: `action` like "key.create" on `object` like "key:ci", as JSON trees.

    `exchange` is the request that brings the change; None: a signal. No tree may hold a secret.
    """
    caller = None if exchange is None else exchange.caller
    return ChangeRecord(
        at_ms=time.time_ns() // 1_000_000,
        actor="signal" if caller is None else caller.key,
        request_id="" if exchange is None else exchange.request_id,
        action=action,
        object=object,
        before=None if before is None else orjson.dumps(before).decode(),
        after=None if after is None else orjson.dumps(after).decode(),
    )


async def commit(gateway: Gateway, job: PutKey | LogChange) -> None:
    """Make a change and its row durable, and tell who watches; raises Unavailable."""
    try:
        await gateway.store.submit(job)
    except (StoreUnavailable, StoreFailed) as exc:
        raise refused() from exc
    for watcher in gateway.watchers:
        watcher(job.change)


def refused() -> Unavailable:
    """The answer to a change that could not be made durable."""
    return Unavailable("The gateway cannot write its database; nothing was changed.")


async def unbroken(gateway: Gateway, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; it goes on to its end when the client that waits for it leaves."""
    task = asyncio.create_task(work)
    gateway.closing.add(task)
    task.add_done_callback(gateway.closing.discard)
    return await asyncio.shield(task)


async def body_of(request: web.Request) -> dict[str, Any]:
    """The request's JSON object, {} for no body; the ledger keeps none: it may hold a key."""
    body = await read_body(request)
    request[EXCHANGE].request_body = None
    return decode_body(body) if body else {}
