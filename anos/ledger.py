"""One Exchange for each client request, settled exactly once: row, metrics and response together.

Settling never awaits, so that it works in `finally` when the client is gone.
"""

import asyncio
import os
import time
from dataclasses import dataclass, field
from typing import Any

from anos.errors import GatewayError, Unavailable
from anos.keys import Caller
from anos.metrics import Metrics
from anos.store import (
    Begin,
    Delete,
    ExchangeRecord,
    Finish,
    NotFoundInStore,
    ResponseRecord,
    Save,
    Store,
    StoreFailed,
    StoreUnavailable,
)

CLIENT_LEFT = 499


@dataclass(slots=True)
class Exchange:
    """What is known of one client request while it runs; `_ns` are of the monotonic clock."""

    request_id: str
    method: str
    route: str  # the path template
    started_ms: int
    started_ns: int
    caller: Caller | None = None
    model: str = ""
    provider: str = ""
    deployment: str = ""
    response_id: str = ""
    finish: str = ""
    usage: dict[str, Any] | None = None
    usage_source: str = ""  # upstream | estimated
    error_code: str = ""
    upstream_ns: int = 0  # spent waiting for the upstream
    headers: dict[str, str] = field(default_factory=dict)  # for the answer, whatever it becomes
    settled: bool = False
    deferred: bool = False  # a background run settles it, after the answer

    def elapsed_ns(self) -> int:
        """Nanoseconds since the request's head was read."""
        return time.monotonic_ns() - self.started_ns

    def answer_headers(self) -> dict[str, str]:
        """The headers every answer has: the request's id, and what it took so far."""
        elapsed_ns = self.elapsed_ns()
        return {
            "x-request-id": self.request_id,
            "openai-processing-ms": str(elapsed_ns // 1_000_000),
            "anos-overhead-ms": f"{max(0, elapsed_ns - self.upstream_ns) / 1e6:.3f}",
            **self.headers,
        }


def begin(method: str, route: str, request_id: str = "") -> Exchange:
    """A new exchange; `request_id` is the client's own, if it sent a usable one."""
    return Exchange(
        request_id or f"req_{os.urandom(12).hex()}",
        method,
        route,
        time.time_ns() // 1_000_000,
        time.monotonic_ns(),
    )


class Ledger:
    """Settles exchanges into the store and the metrics."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics

    def check(self) -> None:
        """Raises Unavailable while nothing can be written: no model call may begin then."""
        if not self._store.healthy:
            raise Unavailable(
                "The gateway cannot write its database; nothing was sent to the model."
            )

    def settle(
        self, exchange: Exchange, status: int, response: ResponseRecord | None = None
    ) -> asyncio.Future[None] | None:
        """Write the exchange's row, and its response with it in the same transaction.

        Returns the future of the commit; None for an unknown caller or if the store takes nothing.
        """
        if not self._count(exchange, status) or exchange.caller is None:
            return None
        return self._submit(Save(self._record(exchange, status), response))

    async def begin_background(self, response: ResponseRecord) -> None:
        """Write a background response before it runs; raises Unavailable."""
        try:
            await self._store.submit(Begin(response))
        except (StoreUnavailable, StoreFailed) as exc:
            raise Unavailable from exc

    async def delete(self, project: str, response_id: str) -> bool:
        """Delete a response for good; False if there is none. Raises Unavailable."""
        try:
            await self._store.submit(Delete(project, response_id))
            return True
        except NotFoundInStore:
            return False
        except (StoreUnavailable, StoreFailed) as exc:
            raise Unavailable from exc

    def finish_background(
        self, exchange: Exchange, status: int, response: ResponseRecord
    ) -> asyncio.Future[None] | None:
        """Write the end of a background response and its exchange."""
        if not self._count(exchange, status):
            return None
        return self._submit(
            Finish(
                self._record(exchange, status),
                response.id,
                response.project,
                response.status,
                response.completed_ms or exchange.started_ms,
                response.body,
                response.output,
            )
        )

    def _submit(self, job: Save | Finish) -> asyncio.Future[None] | None:
        try:
            return self._store.submit(job)
        except StoreUnavailable:
            return None

    def _count(self, exchange: Exchange, status: int) -> bool:
        if exchange.settled:
            return False
        exchange.settled = True
        metrics = self._metrics
        metrics.request(
            exchange.route, status, exchange.elapsed_ns() / 1e9, code=exchange.error_code
        )
        usage = exchange.usage
        if usage is not None:
            metrics.tokens(exchange.model, usage["input_tokens"], usage["output_tokens"])
        return True

    def _record(self, exchange: Exchange, status: int) -> ExchangeRecord:
        caller = exchange.caller
        usage = exchange.usage or {}
        elapsed_ns = exchange.elapsed_ns()
        return ExchangeRecord(
            request_id=exchange.request_id,
            response_id=exchange.response_id or None,
            started_ms=exchange.started_ms,
            duration_us=elapsed_ns // 1000,
            overhead_us=max(0, elapsed_ns - exchange.upstream_ns) // 1000,
            key=caller.key if caller else "",
            project=caller.project if caller else "",
            method=exchange.method,
            route=exchange.route,
            model=exchange.model or None,
            provider=exchange.provider or None,
            deployment=exchange.deployment or None,
            status=status,
            finish=exchange.finish or None,
            error_code=exchange.error_code or None,
            input_tokens=usage.get("input_tokens"),
            output_tokens=usage.get("output_tokens"),
            usage_source=exchange.usage_source or None,
        )


def note_failure(exchange: Exchange, exc: BaseException) -> int:
    """Remember why an exchange failed; returns the HTTP status it counts as."""
    if isinstance(exc, GatewayError):
        exchange.error_code = str(exc.code)
        return exc.status
    if isinstance(exc, asyncio.CancelledError):
        exchange.error_code = "client_left"
        return CLIENT_LEFT
    exchange.error_code = "server_error"
    return 500
