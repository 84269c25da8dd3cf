"""A call on its way to the upstream: the routes are tried until one answers."""

import time
from collections.abc import Mapping

import orjson

from anos.calls import Call, as_stream
from anos.errors import UpstreamError
from anos.exchange import Exchange
from anos.routing import Route
from anos.upstream import Answering, Unreachable, Upstream

# The answers after which another route may do better; everything else is the request's own fault.
_ROUTE_FAULTS = frozenset({408, 429})


async def send(
    call: Call,
    exchange: Exchange,
    routes: tuple[Route, ...],
    body: bytes,
    upstreams: Mapping[str, Upstream],
) -> tuple[Route, Answering]:
    """The first route that answers, and its answer; another is tried while it is the route's fault.

    `body` is the request for the first. The exchange says which one was tried last, and how the
    others failed. Raises the last UpstreamError.
    """
    failure: UpstreamError | None = None
    for route in routes:
        exchange.price = route.price
        request = call.request(route) if route is not routes[0] else body
        started_ns = time.monotonic_ns()
        try:
            upstream = upstreams[route.provider]
            return route, await _post(exchange, route, upstream, request, stream=call.stream)
        except UpstreamError as exc:
            _note_attempt(exchange, route, exc, started_ns)
            if exc.status < 500 and exc.status not in _ROUTE_FAULTS:
                raise
            failure = exc
    assert failure is not None
    raise failure


async def first_bytes(route: Route, answering: Answering) -> bytes:
    """The first bytes of a stream; some upstreams answer in one piece all the same."""
    if answering.is_json:
        return as_stream(route, await answering.read())
    return await answering.chunk()


async def _post(
    exchange: Exchange, route: Route, upstream: Upstream, body: bytes, *, stream: bool
) -> Answering:
    exchange.provider, exchange.deployment = route.provider, route.deployment
    exchange.attempts += 1
    started_ns = time.monotonic_ns()
    try:
        try:
            return await upstream.post(body, stream=stream)
        except Unreachable:
            # Mostly a pooled connection the upstream has closed meanwhile: once more.
            exchange.attempts += 1
            return await upstream.post(body, stream=stream)
    finally:
        exchange.upstream_ns += time.monotonic_ns() - started_ns


def _note_attempt(exchange: Exchange, route: Route, exc: UpstreamError, started_ns: int) -> None:
    failures = exchange.failures
    before = orjson.loads(failures) if failures else []
    failed = {
        "provider": route.provider,
        "deployment": route.deployment,
        "status": exc.status,
        "code": str(exc.code),
        "ms": (time.monotonic_ns() - started_ns) // 1_000_000,
    }
    exchange.failures = orjson.dumps([*before, failed]).decode()
