"""A client and an upstream below HTTP: plain connections that carry the bytes a test gives them."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from tests.conftest import Gateway, Json, Process
from tests.scripted import CUT

HOST = b"Host: localhost\r\n"
CREATE = b"POST /v1/responses HTTP/1.1\r\n" + HOST + b"Authorization: Bearer sk-1234\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST
CHUNKED = b"Transfer-Encoding: chunked\r\n"
BODY = json.dumps({"model": "gpt-35-turbo", "input": "hi"}).encode()


class Client:
    """What `connect` gives."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self) -> tuple[int, bytes, bytes]:
        """The status, the head and the body of the next answer."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next((line for line in lines if line.startswith(b"content-length:")), b":0")
        body = await self._reader.readexactly(int(length.split(b":")[1]))
        return int(head.split()[1]), head, body

    async def answer_slowly(self, pieces: int, pause_s: float) -> bytes:
        """The body of the next answer, read in so many pieces."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length:")[1].split()[0])
        body = b""
        for _ in range(pieces):
            body += await self._reader.readexactly(size // pieces)
            await asyncio.sleep(pause_s)  # to be slow is all that this is about
        return body + await self._reader.readexactly(size % pieces)

    async def rest(self) -> bytes:
        """Everything that comes until the gateway ends the connection."""
        try:
            return await self._reader.read()
        except ConnectionResetError:
            return b""

    async def is_closed(self, within_s: float) -> bool:
        try:
            await asyncio.wait_for(self.rest(), within_s)
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def connect(gateway: Gateway | Process, *, takes: int = 1 << 24) -> AsyncIterator[Client]:
    """A connection that reads ahead `takes` bytes, and what the system buffers for it."""
    url = urlsplit(gateway.url)
    with socket.socket() as plain:
        if takes < 1 << 16:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, takes)
        plain.connect((url.hostname, url.port))
        plain.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=plain.dup(), limit=takes)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def asked(gateway: Gateway | Process, request: bytes) -> tuple[int, bytes, bytes]:
    async with connect(gateway) as client:
        client.send(request)
        return await asyncio.wait_for(client.answer(), 10)


def error_of(body: bytes) -> Json:
    """The error in an envelope, which has its four fields and no other."""
    error: Json = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


class Server:
    """An upstream below HTTP: it reads one request, sends its bytes and closes, or CUTs."""

    def __init__(self, writes: tuple[Any, ...]) -> None:
        self.writes = writes
        self.url = ""
        self.requests = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
            )
            await reader.readexactly(int(length.split(b":")[1]))
            self.requests += 1
            for data in self.writes:
                if data is CUT:
                    writer.transport.abort()
                elif isinstance(data, asyncio.Event):
                    await data.wait()
                else:
                    writer.write(data)
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the gateway had enough
        finally:
            writer.close()


@asynccontextmanager
async def serve(*writes: Any) -> AsyncIterator[Server]:
    upstream = Server(writes)
    server = await asyncio.start_server(upstream.answer, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield upstream
    finally:
        server.close()
