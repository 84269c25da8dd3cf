"""One Exchange for each client request, settled exactly once: row, metrics and response together.

Settling never awaits, so that it works in `finally` when the client is gone.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from hashlib import blake2b, sha256

import msgspec

from anos.budgets import Budgets, Reservation
from anos.errors import Unavailable
from anos.exchange import KEPT_BYTES, Bodies, Exchange
from anos.metrics import Metrics
from anos.pricing import Bound, cost
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
from anos.traces import Traces

logger = logging.getLogger("anos")

_REMEMBERED_CLIENTS = 10_000
# What an upstream says of its tokens costs no more: sums of it must fit where they are kept.
_MOST_MICRO = 2**53
_encode = msgspec.json.Encoder().encode


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
        self._traces = Traces(store)

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

    def enter(self, exchange: Exchange) -> None:
        """A call may begin: a crash is to leave a trace of it."""
        self._traces.add(exchange)

    def has_budget(self, exchange: Exchange) -> bool:
        """Whether what a call costs is to be held: its caller has a budget at this moment."""
        assert exchange.caller is not None
        return self._budgets.has_any(exchange.caller.accounts)

    def reserve(self, exchange: Exchange, bound: Bound) -> ReservationRecord:
        """Hold what a call may cost, at most, in every budget of its caller.

        The row is to be made durable before the upstream is called. Raises BudgetExceeded.
        """
        assert exchange.caller is not None
        accounts, now_ms = exchange.caller.accounts, time.time_ns() // 1_000_000
        exchange.hold = self._budgets.reserve(accounts, bound.micro_usd, now_ms)
        exchange.reserved, exchange.charged_ms = bound.micro_usd, now_ms
        self._warn(exchange, self._budgets.warnings(accounts, now_ms))
        return self._traces.record(exchange, bound, now_ms)

    def trace(self, exchange: Exchange) -> ReservationRecord:
        """What a crash leaves of a call that holds nothing, where it is to be durable at once."""
        return self._traces.record(exchange, Bound(0, 0, 0), exchange.started_ms)

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
        if response is not None and response.background:  # it has a row, which waits for its end
            return self._submit(Finish(exchange, response))
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
            raise Unavailable(
                "The gateway cannot write its database; nothing was deleted."
            ) from exc

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
        self._traces.remove(exchange)
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
                exchange.cost = min(cost(exchange.price, usage), _MOST_MICRO)
                self._metrics.cost(exchange.model or "", exchange.cost)
        if exchange.grant is not None:
            exchange.grant.close(used)
        if exchange.hold is not None:
            self._end_hold(exchange, exchange.hold)
        elif exchange.cost is not None:
            exchange.charged_ms = exchange.started_ms
            assert exchange.caller is not None
            self._budgets.spend(exchange.caller.accounts, exchange.cost, exchange.started_ms)

    def _end_hold(self, exchange: Exchange, hold: Reservation) -> None:
        exchange.cost = exchange.cost or 0
        if exchange.cost > hold.micro_usd:
            logger.warning(
                "request %s cost more than its upstream was allowed", exchange.request_id
            )
            self._metrics.overrun(exchange.model or "")
        hold.settle(exchange.cost)
