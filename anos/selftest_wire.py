"""What the self test puts on the wire: an upstream that follows a script, and a client that sees
every byte.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import orjson
from aiohttp import web
from msgspec import Struct

from anos import sse
from anos.selftest_places import Json

# Nothing here waits for a vendor: an answer that takes so long does not come.
_PATIENCE_S = 10.0


class Reply(Struct, frozen=True):
    """An answer as it was on the socket, its body without the framing of HTTP."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes
    is_whole: bool  # and not cut off

    def documents(self) -> list[Any]:
        """The JSON of a body, or of every event of a stream."""
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            return [orjson.loads(self.body)] if self.body else []
        found = (sse.parse(event)[1] for event in sse.Splitter().feed(self.body))
        return [orjson.loads(data) for data in found if data and data != b"[DONE]"]


class Upstream:
    """A server in the place of every vendor; each case of the test is a deployment of its own."""

    def __init__(self) -> None:
        self.url = ""
        self.seen: dict[str, bytes] = {}  # the request by its case
        self._answers: dict[str, tuple[Json | None, list[Json]]] = {}
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/responses", self._answer)
        app.router.add_post("/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def start(self) -> None:
        """Listen on a free port of the loopback interface."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def close(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    def will_say(self, case: str, whole: Json | None, stream: list[Json]) -> None:
        """What is answered to the requests of a case."""
        self._answers[case] = whole, stream

    def end(self, case: str) -> bytes | None:
        """What was asked in a case that has ended, None if nothing was."""
        self._answers.pop(case, None)
        return self.seen.pop(case, None)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        body = orjson.loads(data)
        self.seen[body["model"]] = data
        whole, stream = self._answers[body["model"]]
        if not body.get("stream"):
            return web.Response(body=orjson.dumps(whole), content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        is_chat = request.path.endswith("/chat/completions")
        await response.write(sse.encode_events(stream) if not is_chat else _chunks(stream))
        await response.write_eof()
        return response


def _chunks(stream: list[Json]) -> bytes:
    return b"".join(sse.encode("", orjson.dumps(chunk)) for chunk in stream) + sse.DONE


async def ask(
    port: int, method: str, path: str, key: str, body: bytes = b"", request_id: str = ""
) -> Reply:
    """One request on a connection of its own; raises OSError and TimeoutError."""
    async with asyncio.timeout(_PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
            head += f"x-request-id: {request_id}\r\n" if request_id else ""
            head += f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            return _reply(await reader.read())
        finally:
            writer.close()


def _reply(data: bytes) -> Reply:
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in fields}
    is_whole = len(body) == int(headers.get("content-length", len(body)))
    if headers.get("transfer-encoding") == "chunked":
        is_whole = body.endswith(b"0\r\n\r\n")
        body = b"".join(_unchunked(body))
    return Reply(int(status.split()[1]), headers, body, is_whole)


def _unchunked(data: bytes) -> Iterator[bytes]:
    while data:
        size, _, data = data.partition(b"\r\n")
        yield data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]
