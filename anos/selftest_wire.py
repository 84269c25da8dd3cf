"""What the self test puts on the wire: an upstream that follows a script and judges by it, and a
client that sees every byte.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import orjson
from aiohttp import web
from msgspec import Struct

from anos import selftest_chat, selftest_places, sse
from anos.selftest_canary import CHAT, REFUSED, RESPONSES, Json
from anos.upstream import MODERATIONS
from guards.categories import CATEGORIES
from guards.judges import format_of

# Nothing here waits for a vendor: an answer that takes so long does not come.
_PATIENCE_S = 10.0
# Where an answer says what it has to say.
SAYS = {RESPONSES: selftest_places.PLACES[0], CHAT: selftest_chat.PLACES[0]}


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
    """A server in the place of every provider; each case of the test is a deployment of its own.

    What is no case is asked as the judge of a moderation: it refuses what has REFUSED in it.
    """

    def __init__(self) -> None:
        self.url = ""
        self._seen: dict[str, bytes] = {}  # the request by its case
        self._answers: dict[str, tuple[Json, list[Json]]] = {}
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/responses", self._answer)
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post(f"/v1{MODERATIONS}", self._moderate)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def start(self) -> None:
        """Listen on a free port of the loopback interface."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def close(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    def will_say(self, case: str, whole: Json, stream: list[Json]) -> None:
        """What is answered to the requests of a case."""
        self._answers[case] = whole, stream

    def end(self, case: str) -> bytes | None:
        """What was asked in a case that has ended, None if nothing was."""
        self._answers.pop(case, None)
        return self._seen.pop(case, None)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        body = orjson.loads(data)
        is_chat = request.path.endswith("/chat/completions")
        if body["model"] not in self._answers:
            said = _verdict(body["model"], _is_refused(data))
            whole, _ = SAYS[CHAT if is_chat else RESPONSES].said([said])
            return web.json_response(whole)
        self._seen[body["model"]] = data
        whole, stream = self._answers[body["model"]]
        if not body.get("stream"):
            return web.json_response(body=orjson.dumps(whole))
        events = b"".join(sse.encode("", orjson.dumps(each)) for each in stream) + sse.DONE
        return web.Response(
            body=events if is_chat else sse.encode_events(stream), content_type="text/event-stream"
        )

    async def _moderate(self, request: web.Request) -> web.Response:
        score = float(_is_refused(await request.read()))
        return web.json_response({"results": [{"category_scores": {CATEGORIES[0]: score}}]})


def _is_refused(request: bytes) -> bool:
    return REFUSED.encode() in request


def _verdict(model: str, is_refused: bool) -> str:
    """What a judge of that name says, as guards/judges.py reads it."""
    scores = orjson.dumps(dict.fromkeys(CATEGORIES, float(is_refused))).decode()
    answers = {
        "llama-guard": ("safe", "unsafe\nS1"),
        "shieldgemma": ("No", "Yes"),
        "json": (scores, scores),
    }
    return answers[format_of(model)][is_refused]


async def ask(
    port: int, path: str, key: str, body: bytes | None = None, request_id: str = ""
) -> Reply:
    """One request, a POST if it has a body; raises OSError and TimeoutError."""
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Authorization: Bearer {key}\r\nConnection: close\r\n"
    head += f"x-request-id: {request_id}\r\n" if request_id else ""
    head += f"Content-Length: {len(body or b'')}\r\n\r\n"
    async with asyncio.timeout(_PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head.encode() + (body or b""))
            if data := await reader.read():
                return _reply(data)
            raise ConnectionError("the connection was closed")
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
