"""Writes a stream to the client: whole events, back-pressure, signs of life, and one clean end."""

import asyncio
from collections.abc import Callable

from aiohttp import HttpVersion11, web

from anos import sse

# A proxy in between gives a silent connection up after 60 s or less (DESIGN §6 "Long silence").
SILENCE_S = 15.0
# A client that takes nothing for this long is gone (DESIGN §8b).
STALLED_S = 60.0


class EventStream(web.StreamResponse):
    """A response whose head waits for its first event, so that both go out in one write."""

    _send_headers_immediately = False


class ClientStream:
    """The client's side of a stream. Its head goes out with the first event or after SILENCE_S.

    `headers` is called when the head is written, so that it can say what is known by then.
    """

    def __init__(self, request: web.Request, headers: Callable[[], dict[str, str]]) -> None:
        self.response: EventStream | None = None
        self._request = request
        self._headers = headers
        self._is_chunked = request.version >= HttpVersion11
        self._loop = asyncio.get_running_loop()
        self._last_write = self._loop.time()
        self._timer = self._loop.call_later(SILENCE_S, self._tick)
        self._sign: asyncio.Task[None] | None = None

    async def write(self, data: bytes) -> None:
        """Whole events in one write; waits while the client's buffers are full."""
        if not data:
            return
        self._last_write = self._loop.time()
        if self.response is None:
            await self._open(data)
        else:
            self._put(data)
        protocol = self._request.protocol
        if protocol.writing_paused:
            await self._drain()

    async def end(self) -> None:
        """Nothing follows."""
        self.close()
        if self.response is not None:
            await self.response.write_eof()

    def close(self) -> None:
        """No more signs of life."""
        self._timer.cancel()
        if self._sign is not None:
            self._sign.cancel()

    async def _open(self, data: bytes) -> None:
        self.response = EventStream(headers=self._headers())
        await self.response.prepare(self._request)
        await self.response.write(data)

    def _put(self, data: bytes) -> None:
        # Straight to the transport: StreamResponse.write costs 10 µs more a chunk (DESIGN §9).
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("The client has gone.")
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    async def _drain(self) -> None:
        stalled = self._loop.call_later(STALLED_S, self._abort)
        try:
            await self._request.protocol._drain_helper()
        finally:
            stalled.cancel()

    def _abort(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()

    def _tick(self) -> None:
        silent_s = self._loop.time() - self._last_write
        if silent_s < SILENCE_S:
            self._timer = self._loop.call_later(SILENCE_S - silent_s, self._tick)
            return
        self._timer = self._loop.call_later(SILENCE_S, self._tick)
        if self.response is None:
            self._sign = self._loop.create_task(self._open(sse.COMMENT))
        elif not self._request.protocol.writing_paused and self._request.transport is not None:
            self._put(sse.COMMENT)
