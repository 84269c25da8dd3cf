"""The HTTP edge: our answers to what is not HTTP, our limits on slow clients, start and stop."""

import asyncio
import errno
import gc
import logging
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from anos import middleware
from anos.errors import HeadTooLarge, InvalidRequest
from anos.exchange import begin
from anos.state import BOUNDS, GATEWAY, Bounds

logger = logging.getLogger("anos")


class Connection(web.RequestHandler):
    """One client connection. What aiohttp would answer by itself, it answers with our envelope."""

    __slots__ = ("_body", "_bounds", "_head_timer", "_is_last", "_stall_timer", "_wire")

    def __init__(self, manager: web.Server, bounds: Bounds, **options: Any) -> None:
        super().__init__(manager, **options)
        self._bounds = bounds
        self._body: StreamReader = EMPTY_PAYLOAD  # of the newest request
        self._stall_timer: asyncio.TimerHandle | None = None
        self._is_last = False  # the request that is being answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock for the first head, or turn the client away when there are too many."""
        super().connection_made(transport)
        self._wire = cast(asyncio.Transport, transport)
        self._head_timer = self._loop.call_later(self._bounds.head_s, self._late)
        assert self._manager is not None
        assert self._task_handler is not None
        self._task_handler.add_done_callback(self._ended)
        if len(self._manager._connections) > self._bounds.connections:
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client has gone."""
        self._head_timer.cancel()
        self._stop_stall_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; a head that has begun must be complete in time."""
        heads, between = self._request_count, self._body.is_eof()
        super().data_received(data)
        if self._request_count != heads:
            self._head_timer.cancel()
            if not self._body.is_eof():
                # Nothing but an error in its framing can follow a body that has not ended.
                self._body.set_exception(web.RequestPayloadError("The body's framing is broken."))
            self._body = self._messages[-1][1]
        elif data and between and self._head_timer.cancelled():
            self._head_timer = self._loop.call_later(self._bounds.head_s, self._late)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on reading. aiohttp parses nothing again after each read, even if it never paused."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def close(self) -> None:
        """At a shutdown an idle connection is closed at once, so that its client asks elsewhere.

        aiohttp would leave it open and unread until the drain has ended, and would not read the
        rest of a body that is on its way.
        """
        if self._request_in_progress or self._messages:
            self._is_last = True
            return
        is_idle = self._waiter is not None
        super().close()
        if is_idle:
            self._wire.close()

    def pause_writing(self) -> None:
        """The client takes less than it is sent; if it takes nothing for too long, it is gone."""
        super().pause_writing()
        self._watch_client(unsent=sys.maxsize)

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        self._stop_stall_timer()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The envelope; neither it nor the log repeats the bytes that were sent."""
        if request.writer.output_size > 0:
            raise ConnectionError("The answer has begun.")
        if isinstance(exc, LineTooLong):
            response = middleware.answer(HeadTooLarge())
        elif status < 500:
            response = middleware.answer(InvalidRequest("The request is not valid HTTP."))
        else:
            response = middleware.answer(exc or RuntimeError("unknown"))
        response.headers.update(begin("", "other").answer_headers())
        response.force_close()
        return response

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """Write the answer; one that aiohttp made outside our middleware becomes our envelope."""
        self._close = self._close or self._is_last
        if isinstance(resp, web.HTTPException):
            resp = middleware.answer(resp)
        if not request.content.is_eof() and "Expect" in request.headers:
            resp.force_close()  # the client need not send a body that nobody has asked for
        return super().finish_response(request, resp, start_time)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """aiohttp logs what it could not parse, a key in a broken header too; we name its kind."""
        exc = kw.get("exc_info")
        level = logging.DEBUG if isinstance(exc, web.RequestPayloadError) else logging.ERROR
        logger.log(level, "a connection ended with %s", type(exc).__name__)

    def _late(self) -> None:
        if self._request_in_progress:  # and the next head came too early: it may wait
            self._head_timer = self._loop.call_later(self._bounds.head_s, self._late)
        else:
            self._wire.abort()

    def _ended(self, _: asyncio.Task[None]) -> None:
        # What is left to write may be too little to have paused the writing.
        if self._stall_timer is None and self._wire.get_write_buffer_size():
            self._watch_client(unsent=sys.maxsize)

    def _watch_client(self, unsent: int) -> None:
        before, unsent = unsent, self._wire.get_write_buffer_size()
        if unsent < before:
            stalled_s = self._bounds.stalled_s
            self._stall_timer = self._loop.call_later(stalled_s, self._watch_client, unsent)
        else:
            self._wire.abort()

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None


class Server(web.Server):
    """Makes a Connection for each client."""

    def __init__(self, handler: Any, bounds: Bounds, **options: Any) -> None:
        super().__init__(handler, **options)
        self._bounds = bounds

    def __call__(self) -> web.RequestHandler:
        # What is compressed goes to a handler, whose answer and row are like any other's.
        return Connection(
            self, self._bounds, loop=self._loop, auto_decompress=False, **self._kwargs
        )


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

# POST paths and what answers them, the middleware included.
HOT = web.AppKey("hot", dict[str, Answer])


def direct(app: web.Application, routed: Any) -> Any:
    """A handler that answers the hot paths itself and leaves other requests to aiohttp's router."""
    hot = app[HOT]

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = hot.get(request.raw_path)
        if answer is not None and request.method == "POST" and "Expect" not in request.headers:
            return await answer(request)
        try:
            response: web.StreamResponse = await routed(request)
        except web.HTTPExpectationFailed as exc:
            # The router refuses it before the middleware, which has to know of every request.
            (entry,) = app.middlewares
            response = await entry(request, _raising(exc))
        return response

    return handle


def _raising(exc: web.HTTPException) -> Answer:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise exc

    return refuse


class Runner(web.AppRunner):
    """Runs the application; used by the process and by the tests alike."""

    def __init__(self, app: web.Application) -> None:
        self._bounds = app[BOUNDS]
        super().__init__(
            app,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=self._bounds.idle_s,
            shutdown_timeout=5.0,
        )

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return Server(
            direct(self.app, made.request_handler),
            self._bounds,
            request_factory=made.request_factory,
            handler_cancellation=True,
            **made._kwargs,
        )


def check_port(host: str, port: int) -> None:
    """Raises OSError with a sentence if nobody can listen there."""
    try:
        for family, *_, address in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            socket.create_server(address, family=family).close()
    except OSError as exc:
        if exc.errno == errno.EAFNOSUPPORT:  # a name may have addresses of a kind that is not here
            return
        words = str(exc.strerror).partition(" (")[0]
        raise OSError(exc.errno, f"it cannot listen on {host}:{port}: {words}") from exc


def run(app: web.Application, host: str, port: int, reload: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP calls `reload`. Returns when everything is closed."""
    import uvloop

    # A stream takes two descriptors, and most systems still give a process only 1,024 at first.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError):  # macOS calls its limit infinite and does not mean it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(_serve(app, host, port, reload))


async def _serve(app: web.Application, host: str, port: int, reload: Callable[[], None]) -> None:
    runner = Runner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=4096)
        await site.start()
        # What a start made stays: not looking at it again halves p99 at saturation.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 50)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        loop.add_signal_handler(signal.SIGHUP, reload)
        logger.info("listening on http://%s:%d", host, runner.addresses[0][1])
        if app[GATEWAY].live.config.default_key:
            logger.info("the master key is the published one: it works under localhost only")
        await ended.wait()
        logger.info("draining")
    finally:
        await runner.cleanup()
