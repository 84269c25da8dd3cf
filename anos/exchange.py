"""One client request from its head to its row: what is noted of it on the way."""

import asyncio
import time
from hashlib import sha256
from typing import Any

from msgspec import Struct, field

from anos.budgets import Reservation
from anos.errors import GatewayError
from anos.items import random_hex
from anos.keys import Caller
from anos.limits import Grant
from anos.pricing import Price
from anos.schema import ExchangeRecord

CLIENT_LEFT = 499
# A larger body has its digest in the ledger, but is not kept.
KEPT_BYTES = 4 * 1024 * 1024


class Receipt(Struct, eq=False, omit_defaults=True):
    """What one guard looked at, and what it did."""

    guard: str  # keywords or moderation
    direction: str  # input or output
    action: str  # pass, block, mask, monitor, skipped, or error: it failed and let all pass
    texts: int = 0
    bytes: int = 0
    us: int = 0
    trusted: int = 0  # bytes of stored items that were not looked at again
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
    unjudged: list[Any] | None = None  # texts of the request; see screening.judge_request

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
