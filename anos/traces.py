"""What a crash leaves of the calls it ends: a reservation in the file, of nothing if need be.

A call with a budget has one before its upstream is asked. To do that for each call would cost a
third of all there can be, so the others get theirs, unawaited, when they have run for a moment.
"""

import asyncio
import time
from itertools import islice

import msgspec

from anos.exchange import Exchange
from anos.pricing import Bound
from anos.store import ReservationRecord, Reserve, Store

# Most refusals and cached answers are over by then, and no model is.
_MOMENT_S = 0.1
# The store's queue has room for eight times as many, and to write so many takes 3 ms.
_AT_ONCE = 512
_encode = msgspec.json.Encoder().encode


class Traces:
    """The calls that run and have no reservation yet."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last_id = 0
        self._calls: dict[Exchange, None] = {}  # in the order they came
        self._sweeping: asyncio.TimerHandle | None = None

    def add(self, exchange: Exchange) -> None:
        """A call may begin."""
        self._calls[exchange] = None
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(_MOMENT_S, self._sweep)

    def remove(self, exchange: Exchange) -> None:
        """A call has ended, or never was one."""
        self._calls.pop(exchange, None)

    def record(self, exchange: Exchange, bound: Bound, charged_ms: int) -> ReservationRecord:
        """The reservation to write: it ends with the exchange, and ends an earlier one."""
        caller = exchange.caller
        assert caller is not None
        self._calls.pop(exchange, None)
        replaces = exchange.reservation
        self._last_id = exchange.reservation = self._last_id + 1
        lost = (
            exchange.request_id,
            exchange.response_id,
            exchange.started_ms,
            exchange.method,
            exchange.route,
            exchange.model,
            exchange.client,
            exchange.counted,
            bound.input_tokens,
            bound.output_tokens,
            bound.micro_usd,
            charged_ms,
        )
        held = bound.micro_usd, caller.key, caller.project
        return ReservationRecord(exchange.reservation, *held, _encode(lost), replaces)

    def _sweep(self) -> None:
        """Write what has run for a moment; comes again while there is any call."""
        for exchange in self._due():
            if not self._store.accepting:  # it may heal while they run
                break
            # What it holds of limits of tokens counts there after the crash.
            tokens = 0 if exchange.grant is None else exchange.grant.held
            record = self.record(exchange, Bound(tokens, 0, 0), exchange.started_ms)
            self._store.submit(Reserve(record))
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(_MOMENT_S, self._sweep) if self._calls else None

    def _due(self) -> list[Exchange]:
        latest_ns = time.monotonic_ns() - int(_MOMENT_S * 1e9)
        due = []
        for exchange in islice(self._calls, _AT_ONCE):
            if exchange.started_ns > latest_ns:
                break
            due.append(exchange)
        return due
