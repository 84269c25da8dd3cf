"""The one path every model call takes: rates, guards, upstream, relay, commit, answer."""

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from anos import items
from anos.calls import Call, Stream, as_stream
from anos.errors import Forbidden, GatewayError, GuardBlocked, Unavailable, UpstreamError
from anos.items import Answer, Item
from anos.keys import Caller
from anos.ledger import CLIENT_LEFT, Exchange, note_failure
from anos.middleware import report
from anos.pricing import estimate
from anos.relay import ClientStream, Whole
from anos.routing import Route
from anos.runs import Run
from anos.state import Gateway, Live
from anos.store import ResponseRecord, StoreFailed
from anos.upstream import Answering, Unreachable

logger = logging.getLogger("anos")

_STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
# The answers after which another route may do better; everything else is the request's own fault.
_ROUTE_FAULTS = frozenset({408, 429})


def admit(
    gateway: Gateway, live: Live, exchange: Exchange, caller: Caller, model: str
) -> tuple[Route, ...]:
    """The routes of a call that may begin; its request counts against the limits.

    Raises InvalidModel, Forbidden, RateLimited, or Unavailable while nothing can be written.
    """
    routes = live.router.resolve(model)
    if not caller.may_use(model):
        raise Forbidden(
            f"This key may not use the model '{model}'.", param="model", code="model_not_allowed"
        )
    exchange.model = model
    if gateway.is_draining:
        raise Unavailable("The gateway is shutting down.")
    gateway.ledger.check()
    exchange.headers.update(gateway.limits.take(caller))
    return routes


def guard(live: Live, call: Call, unsent: Iterable[Item] = ()) -> None:
    """Raises GuardBlocked if a banned phrase is in anything the model would see.

    `unsent` are items of the request that no model will see; they are refused all the same.
    """
    if live.keywords is None:
        return
    find = live.keywords.find
    for text in (*call.texts(), *items.texts(unsent)):
        if find(text) is not None:
            raise GuardBlocked


class Work(Struct, eq=False):
    """One admitted call on its way; `run` carries it through cancel and shutdown."""

    gateway: Gateway
    live: Live
    exchange: Exchange
    call: Call
    routes: tuple[Route, ...]
    run: Run
    parent_id: str | None = None
    route: Route | None = None  # the one that is tried, or answered
    answering: Answering | None = None
    stream: Stream | None = None

    async def foreground(self, request: web.Request) -> web.StreamResponse:
        """Answer the client; raises GatewayError while nothing was written to it."""
        self.gateway.runs.add(self.run)
        client = None
        if self.call.stream:
            silence_s = self.gateway.bounds.silence_s
            client = ClientStream(request, self._stream_headers, silence_s)
        try:
            if client is None:
                return await self._plain()
            await self._streamed(client)
            assert client.response is not None
            return client.response
        except UpstreamError as exc:
            exc.message = self._without_key(exc.message)
            raise
        except (asyncio.CancelledError, ConnectionError) as exc:
            self._client_left(exc)
            raise
        finally:
            if client is not None:
                client.close()
            self._close()

    async def background(self, begun: asyncio.Future[None]) -> None:
        """Carry the call without a client; its outcome is stored whatever it is.

        `begun` is the commit of its row; if that fails, the call is not made.
        """
        try:
            await self._commit(await self._unattended(begun))
        except StoreFailed:
            return  # `begun`: whoever asked for the call is told
        except GatewayError:
            logger.exception("background response %s could not be stored", self.call.response_id)
        finally:
            self._close()

    async def _plain(self) -> web.StreamResponse:
        try:
            answering = await self._send()
            started_ns = time.monotonic_ns()
            body = await answering.read()
            self.exchange.upstream_ns += time.monotonic_ns() - started_ns
            assert self.route is not None
            answer = self.call.read(self.route, body, _now_ms())
        except asyncio.CancelledError:
            answer = self._cancelled()
            if answer.error is not None:
                raise Unavailable(answer.error["message"]) from None
        response = await self._commit(answer)
        return Whole(self.call.reply(answer, response), self.exchange.answer_headers())

    async def _streamed(self, client: ClientStream) -> None:
        try:
            await self._pump(client)
            closing, answer = self._stream().finish()
            if answer.error is not None and client.response is None:
                raise UpstreamError(answer.error["message"])
        except asyncio.CancelledError:
            answer = self._cancelled()
            closing, answer = self._stream().abort(answer.status, answer.error)
        except GatewayError as exc:
            if client.response is None:
                raise
            note_failure(self.exchange, exc)
            closing, answer = self._stream().abort("failed", _error_of(exc))
        try:
            response = await self._commit(answer)
        except GatewayError as exc:
            if client.response is None:
                raise
            answer.status, answer.error = "failed", _error_of(exc)
            response = self.call.shown(self._final(answer))
        await client.write(closing + self._stream().terminal(answer, response))
        await client.end()
        if self.answering is not None:
            await self.answering.linger()

    async def _unattended(self, begun: asyncio.Future[None]) -> Answer:
        try:
            await begun
            self.run.response = {**self.run.response, "status": "in_progress"}
            await self._pump(None)
            return self._stream().finish()[1]
        except asyncio.CancelledError:
            answer = self._cancelled()
            return self._stream().abort(answer.status, answer.error)[1]
        except Exception as exc:
            # Nobody else would tell the client that polls.
            note_failure(self.exchange, exc)
            known = exc if isinstance(exc, GatewayError) else GatewayError()
            report(exc)
            return self._stream().abort("failed", _error_of(known))[1]

    async def _pump(self, client: ClientStream | None) -> None:
        """Relay the upstream's events until it ends."""
        answering = await self._send()
        started_ns = time.monotonic_ns()
        stream = self._stream()
        try:
            data = await self._first(answering)
            while data:
                shown = stream.feed(data)
                if client is not None and shown:
                    await client.write(shown)
                data = b"" if stream.ended else await answering.chunk()
        finally:
            self.exchange.upstream_ns += time.monotonic_ns() - started_ns

    async def _first(self, answering: Answering) -> bytes:
        """The first bytes of a stream; some upstreams answer in one piece all the same."""
        if not answering.is_json:
            return await answering.chunk()
        assert self.route is not None
        return as_stream(self.route, await answering.read())

    async def _send(self) -> Answering:
        """The first answer a route gives; another is tried while it is the route that fails."""
        failure: UpstreamError | None = None
        for route in self.routes:
            self.route = route
            body = self.call.request(route)
            try:
                self.answering = await self._post(route, body)
                return self.answering
            except UpstreamError as exc:
                if exc.status < 500 and exc.status not in _ROUTE_FAULTS:
                    raise
                failure = exc
        assert failure is not None
        raise failure

    async def _post(self, route: Route, body: bytes) -> Answering:
        exchange = self.exchange
        exchange.provider, exchange.deployment = route.provider, route.deployment
        upstream = self.live.upstreams[route.provider]
        started_ns = time.monotonic_ns()
        try:
            try:
                return await upstream.post(body, stream=self.call.stream)
            except Unreachable:
                # Mostly a pooled connection the upstream has closed meanwhile: once more.
                return await upstream.post(body, stream=self.call.stream)
        finally:
            exchange.upstream_ns += time.monotonic_ns() - started_ns

    def _stream(self) -> Stream:
        if self.stream is None:
            self.stream = self.call.open(self.route or self.routes[0], _now_ms())
        return self.stream

    def _cancelled(self) -> Answer:
        """The outcome of a cancel; re-raises the CancelledError if it is the client that left."""
        if not self.run.take_cancel():
            raise  # called in an except block only
        if self.run.reason:
            error = {"code": "server_error", "message": self.run.reason}
            return Answer(status="failed", output=[], usage=None, error=error)
        return Answer(status="cancelled", output=[], usage=None)

    async def _commit(self, answer: Answer) -> dict[str, Any]:
        """Settle the call; a stored response is returned only when it is durable."""
        self._count(answer)
        if answer.status in ("completed", "incomplete"):
            answer.usage = self.exchange.usage
        response = self._final(answer)
        self.run.is_ending = True
        try:
            commit = self._settle(answer, response, 200)
            if self.call.store:
                if commit is None:
                    raise _lost()
                await commit
        except StoreFailed as exc:
            raise _lost() from exc
        finally:
            # Before the client is told: what it asks next must find the response, not the run.
            self.gateway.runs.remove(self.run, response)
        return self.call.shown(response)

    def _final(self, answer: Answer) -> dict[str, Any]:
        if answer.error is not None:
            message = self._without_key(answer.error["message"])
            answer.error = {**answer.error, "message": message}
        return items.final_response(self.call.base, answer, int(time.time()))

    def _settle(
        self, answer: Answer, response: dict[str, Any], status: int
    ) -> asyncio.Future[None] | None:
        exchange, ledger = self.exchange, self.gateway.ledger
        exchange.finish = answer.incomplete_reason or answer.status
        if not self.call.store:
            return ledger.settle(exchange, status)
        record = record_of(self.run, response, self.parent_id)
        if self.call.background:
            return ledger.finish_background(exchange, status, record)
        return ledger.settle(exchange, status, record)

    def _count(self, answer: Answer) -> None:
        exchange = self.exchange
        exchange.usage, exchange.usage_source = answer.usage, "upstream"
        if answer.usage is None:
            exchange.usage, exchange.usage_source = self._estimated(answer), "estimated"

    def _estimated(self, answer: Answer) -> dict[str, Any]:
        text_bytes = answer.text_bytes
        if text_bytes is None:
            text_bytes = sum(len(text.encode()) for text in items.texts(answer.output))
        input_bytes = sum(len(text.encode()) for text in self.call.texts())
        return items.usage(estimate(input_bytes), estimate(text_bytes))

    def _client_left(self, exc: BaseException) -> None:
        """Settle what was produced; nothing here awaits, the client's task is being cancelled."""
        if self.exchange.settled:
            return
        note_failure(self.exchange, exc)
        answer = Answer(status="cancelled", output=[], usage=None)
        if self.stream is not None:
            answer = self.stream.abort("cancelled", None)[1]
        self._count(answer)
        response = self._final(answer)
        self.run.is_ending = True
        commit = self._settle(answer, response, CLIENT_LEFT)
        if commit is None:
            self.gateway.runs.remove(self.run, response)
        else:
            commit.add_done_callback(lambda _: self.gateway.runs.remove(self.run, response))

    def _close(self) -> None:
        if self.answering is not None:
            self.answering.close()
        if not self.run.is_ending:
            self.gateway.runs.remove(self.run, None)

    def _without_key(self, text: str) -> str:
        # Some upstreams repeat the key they refuse, and not all say so with a status.
        key = self.live.upstreams[self.route.provider].provider.api_key if self.route else None
        return text.replace(key, "***") if key else text

    def _stream_headers(self) -> dict[str, str]:
        return _STREAM_HEADERS | self.exchange.answer_headers()


def record_of(run: Run, response: dict[str, Any], parent_id: str | None) -> ResponseRecord:
    """The stored form of a response: its items stand apart, and not in its body."""
    # They wait in the queue of the store, and what orjson makes holds 4 to 16 times its length.
    encode = msgspec.json.encode
    return ResponseRecord(
        id=run.response_id,
        project=run.project,
        parent_id=parent_id,
        model=response["model"],
        status=response["status"],
        background=run.background,
        created_ms=run.created_ms,
        completed_ms=_now_ms(),
        body=encode({**response, "output": []}),
        input=[(item["id"], encode(item)) for item in run.own_input],
        output=[(item["id"], encode(item)) for item in response["output"]],
    )


def _lost() -> Unavailable:
    return Unavailable(
        "The model answered, but the answer could not be stored.",
        code="server_error",
        headers={"x-should-retry": "false"},
    )


def _error_of(exc: GatewayError) -> dict[str, Any]:
    return {"code": str(exc.code), "message": exc.message}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
