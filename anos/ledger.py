"""One Exchange for each client request, settled exactly once: row, metrics and response together.

Settling never awaits, so that it works in `finally` when the client is gone.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from hashlib import blake2b, sha256
from typing import Any

import msgspec
from msgspec import Struct, field

from anos.budgets import Budgets, Reservation
from anos.errors import GatewayError, Unavailable
from anos.items import random_hex
from anos.keys import Caller
from anos.limits import Grant
from anos.metrics import Metrics
from anos.pricing import Price, cost
from anos.store import (
    Begin,
    Delete,
    ExchangeRecord,
    Finish,
    NotFoundInStore,
    ReservationRecord,
    Reserve,
    ResponseRecord,
    Save,
    Store,
    StoreFailed,
    StoreUnavailable,
)

logger = logging.getLogger("anos")

CLIENT_LEFT = 499
# A larger body has its digest in the ledger, but is not kept.
KEPT_BYTES = 4 * 1024 * 1024
_REMEMBERED_CLIENTS = 10_000
_encode = msgspec.json.Encoder().encode


class Receipt(Struct, eq=False, omit_defaults=True):
    """What one guard looked at, and what it did."""

    guard: str  # keywords or moderation
    direction: str  # input or output
    action: str  # pass, block, mask, monitor, skipped, or error: it failed and let all pass
    texts: int = 0
    bytes: int = 0
    us: int = 0
    sources: dict[str, int] = field(default_factory=dict)  # how many texts of each
    rules: dict[str, int] = field(default_factory=dict)  # matches by rule, or by category
    error: str = ""


class Bodies(Struct, eq=False):
    """The body of an upstream's answer as it arrives, for a key that wants it in the ledger."""

    digest: Any = field(default_factory=sha256)
    parts: list[bytes] | None = None  # None: only the digest is kept
    total_bytes: int = 0

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        self.digest.update(data)
        self.total_bytes += len(data)
        if self.parts is not None:
            self.parts.append(data)
            if self.total_bytes > KEPT_BYTES:
                self.parts = None


class Exchange(ExchangeRecord, kw_only=True, eq=False):
    """A client request while it runs: its row, and what leads to it; `_ns` are monotonic."""

    duration_us: int = 0
    key: str = ""
    project: str = ""
    status: int = 0
    started_ns: int
    caller: Caller | None = None
    usage: dict[str, Any] | None = None
    price: Price | None = None  # of the route that was called last
    grant: Grant | None = None  # its share of the rate limits
    hold: Reservation | None = None  # what it holds of budgets
    upstream_ns: int = 0  # spent waiting for the upstream
    headers: dict[str, str] = field(default_factory=dict)  # for the answer, whatever it becomes
    settled: bool = False
    deferred: bool = False  # a background run settles it, after the answer
    body_bytes: int = 0  # held of the gateway's room for large bodies
    answered: Bodies | None = None  # what is kept of the upstream's answer, if anything is
    receipts: list[Receipt] = field(default_factory=list)  # of the guards

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
            **(self.grant.headers() if self.grant is not None else {}),
            **self.headers,
        }


def begin(method: str, route: str, request_id: str = "") -> Exchange:
    """A new exchange; `request_id` is the client's own, if it sent a usable one."""
    now_ms = time.time_ns() // 1_000_000
    return Exchange(
        # Time first: the index over it is appended to, not spread over.
        request_id=request_id or f"req_{now_ms:012x}{random_hex(8)}",
        method=method,
        route=route,
        started_ms=now_ms,
        started_ns=time.monotonic_ns(),
    )


class Ledger:
    """Settles exchanges into the store, the metrics, the budgets and the limits.

    `secret` keys the hashes of clients' addresses.
    """

    def __init__(self, store: Store, metrics: Metrics, budgets: Budgets, secret: bytes) -> None:
        self.watchers: list[Callable[[ExchangeRecord], None]] = []  # told of every settled row
        self._store = store
        self._metrics = metrics
        self._budgets = budgets
        self._secret = secret
        self._clients: dict[str, str] = {}
        self._reservations = 0

    def client(self, address: str | None) -> str | None:
        """What the ledger keeps of a client's address: equal for equal addresses, and no more."""
        if address is None:
            return None
        client = self._clients.get(address)
        if client is None:
            if len(self._clients) >= _REMEMBERED_CLIENTS:
                self._clients.clear()
            digest = blake2b(address.encode(), digest_size=8, key=self._secret)
            client = self._clients[address] = digest.hexdigest()
        return client

    def keep_request(self, exchange: Exchange, body: bytes) -> None:
        """Keep of a request's body what its key asks for."""
        exchange.request_bytes = len(body)
        caller = exchange.caller
        if caller is None or caller.bodies == "off":
            return
        exchange.request_digest = sha256(body).hexdigest()
        keeps = caller.bodies == "full"
        exchange.answered = Bodies(parts=[] if keeps else None)
        if keeps and len(body) <= KEPT_BYTES:
            exchange.request_body = body

    def reserve(self, exchange: Exchange, micro: int, tokens: tuple[int, int]) -> ReservationRecord:
        """Hold what a call may cost, at most, in every budget of its caller, if it has any.

        `tokens` are what the bound was made of. The row is to be made durable before the upstream
        is called. Raises BudgetExceeded.
        """
        caller = exchange.caller
        assert caller is not None
        now_ms = time.time_ns() // 1_000_000
        if caller.accounts:
            exchange.hold = self._budgets.reserve(caller.accounts, micro, now_ms)
            exchange.reserved, exchange.charged_ms = micro, now_ms
            self._warn(exchange, self._budgets.warnings(caller.accounts, now_ms))
        self._reservations = exchange.reservation = self._reservations + 1
        lost = (
            exchange.request_id,
            exchange.response_id,
            exchange.started_ms,
            exchange.method,
            exchange.route,
            exchange.model,
            exchange.client,
            exchange.counted,
            *tokens,
            micro,
            now_ms,
        )
        return ReservationRecord(
            exchange.reservation, micro, caller.key, caller.project, _encode(lost)
        )

    def _warn(self, exchange: Exchange, warnings: list[str]) -> None:
        if warnings:
            exchange.headers["anos-budget-warning"] = ", ".join(warnings)
        for warning in warnings:
            self._metrics.budget_warning(warning)

    async def commit(self, reservation: ReservationRecord) -> None:
        """Return when the reservation is durable; raises Unavailable."""
        try:
            await self._store.submit(Reserve(reservation))
        except (StoreUnavailable, StoreFailed) as exc:
            raise Unavailable from exc

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

    def begin_background(
        self, response: ResponseRecord, reservation: ReservationRecord
    ) -> asyncio.Future[None]:
        """Write a background response; raises Unavailable, and its future StoreFailed."""
        try:
            return self._store.submit(Begin(response, reservation))
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
        self._account(exchange)
        if exchange.receipts:
            exchange.guards = _encode(exchange.receipts).decode()
        self._metrics.request(
            exchange.route, status, elapsed_ns / 1e9, code=exchange.error_code or ""
        )
        if (answered := exchange.answered) is not None:
            exchange.response_digest = answered.digest.hexdigest()
            if answered.parts is not None:
                exchange.response_body = b"".join(answered.parts)
        for watcher in self.watchers:
            watcher(exchange)
        return True

    def _account(self, exchange: Exchange) -> None:
        """Turn usage into tokens and cost; end what was held of limits and budgets."""
        usage, used = exchange.usage, 0
        if usage is not None:
            exchange.input_tokens, exchange.output_tokens = inputs, outputs = (
                usage["input_tokens"],
                usage["output_tokens"],
            )
            used = inputs + outputs
            if details := usage.get("input_tokens_details"):
                exchange.cached_tokens = details.get("cached_tokens")
                exchange.cache_write_tokens = details.get("cache_write_tokens")
            if details := usage.get("output_tokens_details"):
                exchange.reasoning_tokens = details.get("reasoning_tokens")
            self._metrics.tokens(exchange.model or "", inputs, outputs)
            if exchange.price is not None:
                exchange.cost = cost(exchange.price, usage)
                self._metrics.cost(exchange.model or "", exchange.cost)
        if exchange.grant is not None:
            exchange.grant.close(used)
        if exchange.hold is not None:
            exchange.cost = exchange.cost or 0
            if exchange.cost > exchange.hold.micro_usd:
                logger.warning(
                    "request %s cost more than its upstream was allowed", exchange.request_id
                )
                self._metrics.overrun(exchange.model or "")
            exchange.hold.settle(exchange.cost)
        elif exchange.cost is not None:
            exchange.charged_ms = exchange.started_ms


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
