"""The HTTP edge: our answers to what is not HTTP, our limits on slow clients, start and stop."""

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from typing import Any

from aiohttp import web

from anos import middleware
from anos.errors import InvalidRequest

logger = logging.getLogger("anos")

# Complete headers must be there after this long, on a new and on a kept connection alike.
HEADERS_S = 30.0
# An idle connection is kept longer than the pools of common clients and balancers keep theirs.
KEEPALIVE_S = 75.0
MAX_CONNECTIONS = 10_000


class Connection(web.RequestHandler):
    """One client connection. What aiohttp would answer by itself, it answers with our envelope."""

    __slots__ = ("_head_timer",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock for the first head, or turn the client away when there are too many."""
        super().connection_made(transport)
        manager = self._manager
        if manager is not None and len(manager.connections) > MAX_CONNECTIONS:
            self.force_close()
        self._head_timer = self._loop.call_later(HEADERS_S, self._late)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client has gone."""
        self._head_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; a head that has begun must be complete in time."""
        heads = self._request_count
        super().data_received(data)
        if self._request_count != heads:
            self._head_timer.cancel()
        elif self._head_timer.cancelled() and self._current_request is None and data:
            self._head_timer = self._loop.call_later(HEADERS_S, self._late)

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
        if status < 500:
            response = middleware.answer(InvalidRequest("The request is not valid HTTP."))
        else:
            response = middleware.answer(exc or RuntimeError("unknown"))
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """aiohttp logs what it could not parse, a key in a broken header too; we do not."""
        logger.debug("a connection ended with an error")

    def _late(self) -> None:
        if self._current_request is None and self.transport is not None:
            self.transport.abort()


class Server(web.Server):
    """Makes a Connection for each client."""

    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs the application; used by the process and by the tests alike."""

    def __init__(self, app: web.Application) -> None:
        super().__init__(
            app,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            shutdown_timeout=5.0,
        )

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return Server(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=True,
            **made._kwargs,
        )


def run(app: web.Application, host: str, port: int, reload: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP calls `reload`. Returns when everything is closed."""
    import uvloop

    uvloop.run(_serve(app, host, port, reload))


async def _serve(app: web.Application, host: str, port: int, reload: Callable[[], None]) -> None:
    runner = Runner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=4096)
        await site.start()
        # What a start made stays: not looking at it again halves p99 at saturation (DESIGN §9).
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 50)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        loop.add_signal_handler(signal.SIGHUP, reload)
        logger.info("listening on http://%s:%d", host, runner.addresses[0][1])
        await ended.wait()
        logger.info("draining")
    finally:
        await runner.cleanup()
