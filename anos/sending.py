"""A call on its way to the upstream: the routes are tried until one begins its answer."""

import time
from collections.abc import Mapping

import orjson
from msgspec import Struct

from anos.calls import Call, as_stream
from anos.errors import InvalidRequest, UpstreamError
from anos.exchange import Exchange
from anos.routing import Route
from anos.upstream import Answering, Unreachable, Upstream

# The answers after which another route may do better; everything else is the request's own fault.
_ROUTE_FAULTS = frozenset({408, 429})


class Begun(Struct, frozen=True, eq=False):
    """An upstream that answers, and what is there of its answer: all, or the first of a stream."""

    route: Route
    answering: Answering
    data: bytes


def request_for(call: Call, route: Route) -> bytes | None:
    """The route's request; None if its dialect cannot carry the call."""
    try:
        return call.request(route)
    except InvalidRequest:
        return None


async def send(
    call: Call,
    exchange: Exchange,
    routes: tuple[Route, ...],
    body: bytes,
    upstreams: Mapping[str, Upstream],
) -> Begun:
    """The first route that answers; another is tried while it is the route's fault.

    `body` is the request for the first. The exchange says which one was tried last, and how the
    others failed. Raises the last UpstreamError.
    """
    failure: UpstreamError | None = None
    for route in routes:
        request = body if route is routes[0] else request_for(call, route)
        if request is None:
            continue
        exchange.price = route.price
        started_ns = time.monotonic_ns()
        try:
            answering = await _post(
                exchange, route, upstreams[route.provider], request, call.stream
            )
            return Begun(route, answering, await _begun(route, answering, call.stream))
        except UpstreamError as exc:
            _note_attempt(exchange, route, exc, started_ns)
            if exc.status < 500 and exc.status not in _ROUTE_FAULTS:
                raise
            failure = exc
        finally:
            exchange.upstream_ns += time.monotonic_ns() - started_ns
    assert failure is not None
    raise failure


async def _begun(route: Route, answering: Answering, streamed: bool) -> bytes:
    try:
        if not streamed:
            return await answering.read()
        if answering.is_json:  # some upstreams answer in one piece all the same
            return as_stream(route, await answering.read())
        return await answering.chunk()
    except BaseException:
        answering.close()
        raise


async def _post(
    exchange: Exchange, route: Route, upstream: Upstream, body: bytes, streamed: bool
) -> Answering:
    exchange.provider, exchange.deployment = route.provider, route.deployment
    exchange.attempts += 1
    try:
        return await upstream.post(body, stream=streamed)
    except Unreachable:
        # Mostly a pooled connection the upstream has closed meanwhile: once more.
        exchange.attempts += 1
        return await upstream.post(body, stream=streamed)


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
