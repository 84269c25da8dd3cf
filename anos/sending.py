"""A call on its way to the upstream: the routes are tried until one begins its answer."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import orjson
from msgspec import Struct

from anos import sse
from anos.calls import Call, as_stream
from anos.errors import InvalidRequest, Said, UpstreamError, reported
from anos.exchange import Exchange
from anos.routing import Route
from anos.upstream import Answering, Unreachable, Upstream

logger = logging.getLogger("anos")

# The answers after which another route may do better; everything else is the request's own fault.
_ROUTE_FAULTS = frozenset({403, 408, 429})
# Of these the client is told, and what is told of them may quote what it sent.
_CLIENT_FAULTS = frozenset({400, 413, 422})
# What has one of these is an answer, though it may have failed.
_ANSWERS = frozenset({"output", "choices", "response"})
# How far from its beginning an error says that it is one.
_ERROR_WITHIN = 64
# What the ledger keeps of an upstream's words.
_SAID_CHARS = 500


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
    covered: Callable[[str], str],
) -> Begun:
    """The first route that answers; another is tried while it is the route's fault.

    `body` is the request for the first. The exchange says which one was tried last, and how the
    others failed: with the upstream's words, `covered` as a client may read them. Raises the last
    UpstreamError.
    """
    failure: UpstreamError | None = None
    said: Said | None = None
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
            failure, said = exc, _said(exc, covered)
            _note_attempt(exchange, route, said, started_ns)
            if exc.status < 500 and exc.status not in _ROUTE_FAULTS:
                break
        finally:
            exchange.upstream_ns += time.monotonic_ns() - started_ns
    assert failure is not None
    assert said is not None
    where = exchange.provider, exchange.deployment
    logger.warning("a call failed at %s (%s): status %d, code %s", *where, said.status, said.code)
    raise failure


async def _begun(route: Route, answering: Answering, streamed: bool) -> bytes:
    try:
        is_whole = not streamed or answering.is_json
        data = await (answering.read() if is_whole else answering.chunk())
        if data.find(b'error"', 0, _ERROR_WITHIN) >= 0 and (error := _error_in(data)):
            raise reported(error)
        # Some upstreams answer in one piece all the same.
        return as_stream(route, data) if streamed and is_whole else data
    except BaseException:
        answering.close()
        raise


def _error_in(data: bytes) -> Any:
    """What stands in the place of an answer, or of its first event, if that is an error."""
    events = sse.Splitter().feed(data)
    try:
        tree = msgspec.json.decode(sse.parse(events[0])[1] if events else data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(tree, dict) or not _ANSWERS.isdisjoint(tree):
        return None
    return tree if tree.get("type") == "error" and not tree.get("error") else tree.get("error")


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


def _said(exc: UpstreamError, covered: Callable[[str], str]) -> Said:
    said = exc.said or Said(exc.status, str(exc.code), exc.message)
    message = "" if said.status in _CLIENT_FAULTS else covered(said.message)[:_SAID_CHARS]
    return Said(said.status, covered(said.code), message)


def _note_attempt(exchange: Exchange, route: Route, said: Said, started_ns: int) -> None:
    failures = exchange.failures
    before = orjson.loads(failures) if failures else []
    failed = {
        "provider": route.provider,
        "deployment": route.deployment,
        **said._asdict(),
        "ms": (time.monotonic_ns() - started_ns) // 1_000_000,
    }
    exchange.failures = orjson.dumps([*before, failed]).decode()
