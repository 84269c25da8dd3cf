"""The one path every admitted call takes: upstream, relay, guards, commit, answer."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from anos import admission, items
from anos.calls import Call
from anos.errors import (
    GatewayError,
    GuardBlocked,
    Unavailable,
    UpstreamError,
)
from anos.exchange import CLIENT_LEFT, Exchange, note_failure
from anos.items import Answer
from anos.middleware import report
from anos.pricing import estimate
from anos.relay import ClientStream, Whole
from anos.routing import Route
from anos.runs import Run
from anos.screened import Screened
from anos.screening import Profile, judge_request, screen_answer, screen_message, screened
from anos.sending import Begun, send
from anos.state import Gateway, Live
from anos.store import ReservationRecord, ResponseRecord, StoreFailed
from anos.upstream import Answering

logger = logging.getLogger("anos")

_STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


class Work(Struct, eq=False):
    """One admitted call on its way; `run` carries it through cancel and shutdown."""

    gateway: Gateway
    live: Live
    exchange: Exchange
    call: Call
    routes: tuple[Route, ...]
    run: Run
    parent_id: str | None = None
    route: Route | None = None  # the one that answered
    answering: Answering | None = None
    screened: Screened | None = None
    told: dict[str, Any] | None = None  # usage, of an answer in one piece
    body: bytes = b""  # for the first route
    deltas: int = 0  # that came from the upstream
    verdict: asyncio.Task[str] | None = None  # on the request, while the model is called

    def reserve(self) -> ReservationRecord | None:
        """Make the first route's request, and hold what it may use; see admission.reserve."""
        asked, record = admission.reserve(self.gateway, self.exchange, self.call, self.routes)
        self.routes, self.body = asked.routes, asked.body
        return record

    async def foreground(self, request: web.Request) -> web.StreamResponse:
        """Answer the client; raises GatewayError while nothing was written to it."""
        self.gateway.runs.add(self.run)
        client = None
        if self.call.stream:
            silence_s = self.gateway.bounds.silence_s
            client = ClientStream(request, self._stream_headers, silence_s)
        try:
            if client is None:
                return await self._whole()
            await self._streamed(client)
            assert client.response is not None
            return client.response
        except UpstreamError as exc:
            message = self._without_key(exc.message)
            exc.message = screen_message(self.profile, self.exchange.receipts, message)
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

    async def _whole(self) -> web.StreamResponse:
        try:
            begun = await self._send()
            self._keep(begun.data)
            answer = self.call.read(begun.route, begun.data, _now_ms())
            self.told = answer.usage
            await self._screen(answer)
        except asyncio.CancelledError as exc:
            answer = self._cancelled(exc)
            if answer.error is not None:
                raise Unavailable(answer.error["message"]) from None
        response = await self._commit(answer)
        return Whole(self.call.reply(answer, response), self.exchange.answer_headers())

    async def _screen(self, answer: Answer) -> None:
        """Have the guards look at a whole answer; what they refuse was paid for nevertheless."""
        profile = self.profile
        try:
            await self._judged()
            if not (profile.scans_words or profile.judges_answers):
                return
            if await screen_answer(profile, self.exchange, self.call, answer):
                self.call.masked_answer()
        except GuardBlocked:
            self._count(answer)
            raise

    async def _streamed(self, client: ClientStream) -> None:
        try:
            await self._pump(client)
            closing, answer = await self._guarded().finish()
            if answer.error is not None and client.response is None:
                raise UpstreamError(answer.error["message"])
            if client.response is None and self._guarded().is_blocked:
                self._count(answer)
                raise GuardBlocked
        except asyncio.CancelledError as exc:
            answer = self._cancelled(exc)
            closing, answer = self._guarded().abort(answer.status, answer.error)
        except GatewayError as exc:
            if client.response is None:
                raise
            note_failure(self.exchange, exc)
            closing, answer = self._guarded().abort("failed", _error_of(exc))
        try:
            response = await self._commit(answer)
        except GatewayError as exc:
            if client.response is None:
                raise
            answer.status, answer.error = "failed", _error_of(exc)
            response = self.call.shown(self._final(answer))
        await client.write(closing + self._guarded().terminal(answer, response))
        await client.end()
        if self.answering is not None:
            await self.answering.linger()

    async def _unattended(self, begun: asyncio.Future[None]) -> Answer:
        try:
            await begun
            self.run.response = {**self.run.response, "status": "in_progress"}
            await self._pump(None)
            return (await self._guarded().finish())[1]
        except asyncio.CancelledError as exc:
            answer = self._cancelled(exc)
            return self._guarded().abort(answer.status, answer.error)[1]
        except Exception as exc:
            # Nobody else would tell the client that polls.
            note_failure(self.exchange, exc)
            known = exc if isinstance(exc, GatewayError) else GatewayError()
            report(exc)
            return self._guarded().abort("failed", _error_of(known))[1]

    async def _pump(self, client: ClientStream | None) -> None:
        """Relay the upstream's events until it ends."""
        begun = await self._send()
        try:
            await self._judged()
        except GuardBlocked:
            self._keep(begun.data)
            self._count(_left())
            raise
        started_ns = time.monotonic_ns()
        stream = self._guarded()
        write = None if client is None else client.write
        try:
            await stream.pump(begun.answering, begun.data, self._keep, write)
        finally:
            passed_ns = time.monotonic_ns() - started_ns
            self.exchange.upstream_ns += passed_ns - stream.judging_ns

    async def _send(self) -> Begun:
        if not self.call.background and (held := self.reserve()) is not None:
            await self.gateway.ledger.commit(held)
        upstreams = self.live.upstreams
        sending = send(self.call, self.exchange, self.routes, self.body, upstreams, self._covered)
        judged = self.exchange.unjudged is None
        begun = await (sending if judged else self._unless_refused(sending))
        self.route, self.answering = begun.route, begun.answering
        return begun

    async def _unless_refused(self, sending: Coroutine[Any, Any, Begun]) -> Begun:
        """What `sending` comes to, unless the request is refused before: then the model is left."""
        self.verdict = asyncio.create_task(judge_request(self.profile, self.exchange))
        asked = asyncio.create_task(sending)
        try:
            await asyncio.wait((asked, self.verdict), return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                await self._judged()
            return await asked
        except GuardBlocked:
            self._count(_left())
            raise
        finally:
            asked.cancel()

    async def _judged(self) -> None:
        """Wait for the verdict on a request that is judged while the model is called."""
        if self.verdict is None:
            return
        action = await self.verdict
        if action != "pass":
            self.run.cleared = None
        if action == "block":
            raise GuardBlocked

    def _keep(self, data: bytes) -> None:
        """Note what came from the upstream."""
        exchange = self.exchange
        exchange.response_bytes = (exchange.response_bytes or 0) + len(data)
        if exchange.answered is not None:
            exchange.answered.feed(data)
        if self.call.stream:
            # Each is a token at least, and so they are a bound where the client leaves.
            self.deltas += data.count(b'"delta"')

    def _guarded(self) -> Screened:
        if self.screened is None:
            stream = self.call.open(self.route or self.routes[0], _now_ms())
            hold_s = self.gateway.bounds.hold_s
            self.screened = screened(self.profile, self.call, stream, _now_ms(), hold_s)
        return self.screened

    @property
    def profile(self) -> Profile:
        """The guards of the caller."""
        assert self.exchange.caller is not None
        return self.live.profiles[self.exchange.caller.guards]

    def _cancelled(self, exc: asyncio.CancelledError) -> Answer:
        """The outcome of a cancel; raises `exc` again if it is the client that left."""
        if not self.run.take_cancel():
            raise exc
        if self.run.reason:
            error = {"code": "server_error", "message": self.run.reason}
            return Answer(status="failed", output=[], usage=None, error=error)
        return _left()

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
        return items.final_response(self.call.base, answer, int(time.time()), self.call.sent)

    def _settle(
        self, answer: Answer, response: dict[str, Any], status: int
    ) -> asyncio.Future[None] | None:
        exchange = self.exchange
        exchange.finish = answer.incomplete_reason or answer.status
        record = record_of(self.run, response, self.parent_id) if self.call.store else None
        return self.gateway.ledger.settle(exchange, status, record)

    def _count(self, answer: Answer) -> None:
        """Note what the call used, and what the guards of its stream saw; once for each call."""
        exchange = self.exchange
        if self.screened is not None:
            exchange.receipts += self.screened.receipts()
        exchange.usage, exchange.usage_source = answer.usage or self.told, "upstream"
        if exchange.usage is None:
            exchange.usage, exchange.usage_source = self._estimated(answer), "estimated"

    def _estimated(self, answer: Answer) -> dict[str, Any]:
        text_bytes = answer.text_bytes
        if text_bytes is None:
            text_bytes = sum(len(text.encode()) for text in items.texts(answer.output))
        input_bytes = sum(len(text.encode()) for text in self.call.texts())
        return items.usage(estimate(input_bytes), max(estimate(text_bytes), self.deltas))

    def _client_left(self, exc: BaseException) -> None:
        """Settle what was produced; nothing here awaits, the client's task is being cancelled."""
        if self.exchange.settled:
            return
        note_failure(self.exchange, exc)
        answer = _left() if self.screened is None else self.screened.left()
        self._count(answer)
        response = self._final(answer)
        self.run.is_ending = True
        commit = self._settle(answer, response, CLIENT_LEFT)
        if commit is None:
            self.gateway.runs.remove(self.run, response)
        else:
            commit.add_done_callback(lambda _: self.gateway.runs.remove(self.run, response))

    def _close(self) -> None:
        if self.verdict is not None:
            self.verdict.cancel()
        if self.answering is not None:
            self.answering.close()
        if not self.run.is_ending:
            self.gateway.runs.remove(self.run, None)

    def _covered(self, message: str) -> str:
        """An upstream's words for operators; the receipts are of what the client gets."""
        return screen_message(self.profile, [], self._without_key(message))

    def _without_key(self, text: str) -> str:
        # Some upstreams repeat the key they refuse, and not all say so with a status.
        tried = self.live.upstreams.get(self.exchange.provider or "")
        key = tried.provider.api_key if tried is not None else None
        return text.replace(key, "***") if key else text

    def _stream_headers(self) -> dict[str, str]:
        self.exchange.first_byte_us = self.exchange.elapsed_ns() // 1000
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
        cleared=run.cleared,
    )


def _left() -> Answer:
    """What an upstream has said that was left before it was heard."""
    return Answer(status="cancelled", output=[], usage=None)


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
