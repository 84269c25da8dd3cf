"""What happens, as server-sent events for whoever watches, and no more than can wait."""

import asyncio
from collections import deque
from contextlib import suppress

import msgspec
import orjson

from anos import request_views, sse
from anos.admin_params import iso
from anos.schema import ChangeRecord, ExchangeRecord

# Half a second of the fastest traffic; whoever reads more slowly than that is told what is missing.
QUEUE = 1000


class Subscription:
    """The events that one watcher has not taken yet."""

    def __init__(self) -> None:
        self._events: deque[bytes] = deque()
        self._dropped = 0
        self._is_closed = False
        self._wake = asyncio.Event()

    def settled(self, exchange: ExchangeRecord) -> None:
        """An exchange has ended; those of unknown callers are in no ledger, and are left out."""
        if exchange.key:
            row = {name: getattr(exchange, name, None) for name in request_views.COLUMNS}
            self._put("exchange", request_views.summary(row))

    def changed(self, change: ChangeRecord) -> None:
        """A row of the log of changes is durable."""
        shown = msgspec.structs.asdict(change)
        shown |= {name: orjson.loads(shown[name] or "null") for name in ("before", "after")}
        shown["at"] = iso(shown.pop("at_ms"))
        self._put("change", shown)

    async def take(self, patience_s: float | None = None) -> bytes | None:
        """All events that wait, as soon as there is any; None when there will be no more.

        b"" if there is none within `patience_s`.
        """
        if not self._events and not self._is_closed:
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), patience_s)
        if self._is_closed and not self._events:
            return None
        events = b"".join(self._events)
        self._events.clear()
        if self._dropped:
            events += sse.encode("dropped", orjson.dumps({"count": self._dropped}))
            self._dropped = 0
        return events

    def close(self) -> None:
        """There will be no more events."""
        self._is_closed = True
        self._wake.set()

    def _put(self, event: str, data: object) -> None:
        if len(self._events) >= QUEUE:
            self._dropped += 1
        else:
            self._events.append(sse.encode(event, orjson.dumps(data)))
            self._wake.set()
