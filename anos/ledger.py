"""One Exchange for each client request, settled exactly once: row, metrics and response together.

Settling never awaits, so that it works in `finally` when the client is gone.
"""

import asyncio
import os
import time
from typing import Any

from msgspec import field

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


class Exchange(ExchangeRecord, kw_only=True, eq=False):
    """A client request while it runs: its row, and what leads to it; `_ns` are monotonic."""

    duration_us: int = 0
    key: str = ""
    project: str = ""
    status: int = 0
    started_ns: int
    caller: Caller | None = None
    usage: dict[str, Any] | None = None
    upstream_ns: int = 0  # spent waiting for the upstream
    headers: dict[str, str] = field(default_factory=dict)  # for the answer, whatever it becomes
    settled: bool = False
    deferred: bool = False  # a background run settles it, after the answer
    body_bytes: int = 0  # held of the gateway's room for large bodies

    def elapsed_ns(self) -> int:
        """Nanoseconds since the request's head was read."""
        return time.monotonic_ns() - self.started_ns

    def answer_headers(self) -> dict[str, str]:
        """The headers every answer has: the request's id, and what it took so far."""
        elapsed_ns = self.elapsed_ns()
        return {
            "Server": "anos-gateway",
            "x-request-id": self.request_id,
            "openai-processing-ms": str(elapsed_ns // 1_000_000),
            "anos-overhead-ms": f"{max(0, elapsed_ns - self.upstream_ns) / 1e6:.3f}",
            **self.headers,
        }


def begin(method: str, route: str, request_id: str = "") -> Exchange:
    """A new exchange; `request_id` is the client's own, if it sent a usable one."""
    return Exchange(
        request_id=request_id or f"req_{os.urandom(12).hex()}",
        method=method,
        route=route,
        started_ms=time.time_ns() // 1_000_000,
        started_ns=time.monotonic_ns(),
    )


class Ledger:
    """Settles exchanges into the store and the metrics."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics

    def check(self) -> None:
        """Raises Unavailable while nothing can be written: no model call may begin then."""
        if not self._store.accepting:
            raise Unavailable(
                "The gateway cannot write its database; nothing was sent to the model."
            )

    def settle(
        self, exchange: Exchange, status: int, response: ResponseRecord | None = None
    ) -> asyncio.Future[None] | None:
        """Write the exchange's row, and its response with it in the same transaction.

        Returns the future of the commit; None for an unknown caller or if the store takes nothing.
        """
        if not self._close(exchange, status) or exchange.caller is None:
            return None
        return self._submit(Save(exchange, response))

    def begin_background(self, response: ResponseRecord) -> asyncio.Future[None]:
        """Write a background response; raises Unavailable, and its future StoreFailed."""
        try:
            return self._store.submit(Begin(response))
        except StoreUnavailable as exc:
            raise Unavailable from exc

    async def delete(self, project: str, response_id: str) -> bool:
        """Delete a response for good; False if there is none.

        Raises Unavailable, and InFlight for a background response that has not ended.
        """
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
        if not self._close(exchange, status):
            return None
        return self._submit(
            Finish(
                exchange,
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

    def _close(self, exchange: Exchange, status: int) -> bool:
        """Complete the row and count it; False if that was done before."""
        if exchange.settled:
            return False
        exchange.settled = True
        elapsed_ns = exchange.elapsed_ns()
        exchange.status = status
        exchange.duration_us = elapsed_ns // 1000
        exchange.overhead_us = max(0, elapsed_ns - exchange.upstream_ns) // 1000
        if exchange.caller is not None:
            exchange.key, exchange.project = exchange.caller.key, exchange.caller.project
        metrics = self._metrics
        metrics.request(exchange.route, status, elapsed_ns / 1e9, code=exchange.error_code or "")
        if exchange.usage is not None:
            exchange.input_tokens = exchange.usage["input_tokens"]
            exchange.output_tokens = exchange.usage["output_tokens"]
            metrics.tokens(exchange.model or "", exchange.input_tokens, exchange.output_tokens)
        return True


def note_failure(exchange: Exchange, exc: BaseException) -> int:
    """Remember why an exchange failed; returns the HTTP status it counts as."""
    if isinstance(exc, GatewayError):
        exchange.error_code = str(exc.code)
        return exc.status
    if isinstance(exc, asyncio.CancelledError | ConnectionError):
        exchange.error_code = "client_left"
        return CLIENT_LEFT
    exchange.error_code = "server_error"
    return 500
