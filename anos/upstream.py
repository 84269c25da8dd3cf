"""The call to a provider: one well-configured ClientSession each.

The only module that knows aiohttp's client: every failure of the network leaves here as
UpstreamError or UpstreamTimeout.
"""

import asyncio
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import aiohttp
import msgspec
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader
from yarl import URL

from anos.config_sections import Provider
from anos.errors import Said, UpstreamError, UpstreamTimeout, refused, word_of

# Larger than any model writes, and a bound on what one upstream can make us hold.
MAX_BODY_BYTES = 64 * 1024 * 1024
# How long the end of a stream may lag behind its last event before the connection is given up.
LINGER_S = 0.25
_READ_BUFFER_BYTES = 2**18

# Where a provider's endpoint for moderation is, below its base URL.
MODERATIONS = "/moderations"
_PATHS = {"responses": "/responses", "chat": "/chat/completions"}
_PASSED_HEADERS = ("retry-after", "retry-after-ms")
# Seconds, or a date as HTTP writes it: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
_is_delay = re.compile(
    r"\d{1,12}(\.\d{1,6})?|[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT"
).fullmatch
# A vendor's explanation is a sentence or two; what is longer quotes the request.
_MESSAGE_CHARS = 4096
# About the gateway's account, or its way to the upstream.
_NOT_THE_CLIENTS = frozenset({402, 407})
# An upstream that has too much to do says so in a word that clients know.
_OVERLOADED = frozenset({"server_is_overloaded", "slow_down"})
_NETWORK = (TimeoutError, OSError, aiohttp.ClientError, HttpProcessingError)


class Unreachable(UpstreamError):
    """The connection failed before any byte of an answer, so the same request may be sent again."""


class Answering:
    """A request to an upstream and, once its head has arrived, the answer; `close` it always.

    Waiting is watched by the Upstream's sweep: a timer of its own for each read costs more than
    the read.
    """

    __slots__ = (
        *("_connection", "_content", "_limit_s", "_silent_s", "_watched"),
        *("headers", "is_waiting", "status"),
    )

    def __init__(self, watched: "set[Answering]", limit_s: float) -> None:
        self._watched = watched
        watched.add(self)
        self._limit_s = limit_s
        self._silent_s = 0.0
        self._connection: aiohttp.connector.Connection | None = None
        self._content: aiohttp.StreamReader | None = None
        self.is_waiting = False
        self.status = 0
        self.headers: Mapping[str, str] = {}

    async def begin(
        self, connection: aiohttp.connector.Connection, request: bytes, *, stream: bool
    ) -> None:
        """Send the whole request in one write; returns when the head of the answer is there."""
        self._connection = connection
        protocol: Any = connection.protocol
        if protocol is None or protocol.transport is None:
            raise aiohttp.ClientConnectionResetError("Connection lost")
        protocol.set_response_params(read_until_eof=True, read_bufsize=_READ_BUFFER_BYTES)
        protocol.awaits_stream, protocol.is_silent = stream, True
        protocol.transport.write(request)
        self.is_waiting = True
        while self.status < 200:  # 1xx heads come before the answer's own
            message, content = await protocol.read()
            self.status = message.code
        self.is_waiting = False
        self.headers = message.headers
        self._content = content
        content.on_eof(self._ended)

    @property
    def has_begun(self) -> bool:
        """Whether any byte of an answer has come."""
        return self._connection is not None and not cast(Any, self._connection.protocol).is_silent

    @property
    def is_json(self) -> bool:
        """Whether the answer says that it is one JSON document."""
        return self.headers.get("Content-Type", "").startswith("application/json")

    def allow(self, silence_s: float) -> None:
        """From here a silence of `silence_s` is too long."""
        self._limit_s = silence_s

    async def chunk(self) -> bytes:
        """The bytes that have arrived, at least one; b"" at the end."""
        content = self._content
        assert content is not None
        self.is_waiting = True
        self._silent_s = 0.0
        try:
            while not (data := await content.readany()):
                if content.at_eof():
                    return b""
            return data
        except _NETWORK as exc:
            raise _broken(exc) from exc
        finally:
            self.is_waiting = False

    async def read(self) -> bytes:
        """The whole body; UpstreamError over MAX_BODY_BYTES."""
        content = self._content
        assert content is not None
        if content.is_eof() and content.exception() is None:
            return content.read_nowait(-1)
        blocks: list[bytes] = []
        size = 0
        while data := await self.chunk():
            blocks.append(data)
            size += len(data)
            if size > MAX_BODY_BYTES:
                raise UpstreamError(
                    f"The upstream sent a body of more than {MAX_BODY_BYTES} bytes."
                )
        return b"".join(blocks)

    async def linger(self) -> None:
        """Wait briefly for the end after the last event: then the connection can be used again."""
        if self._connection is None:  # a timeout for nothing costs 10 µs
            return
        try:
            async with asyncio.timeout(LINGER_S):
                while self._connection is not None and await self.chunk():
                    pass
        except (TimeoutError, UpstreamError):
            self.close()

    def close(self) -> None:
        """Close the connection unless the answer has ended by itself."""
        self._watched.discard(self)
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def wait(self, passed_s: float) -> None:
        """Time has passed; an upstream that has been silent for too long ends the wait."""
        if not self.is_waiting:
            return
        self._silent_s += passed_s
        if self._silent_s > self._limit_s:
            self.is_waiting = False
            source = self._content or (self._connection and self._connection.protocol)
            if source is not None:
                source.set_exception(aiohttp.SocketTimeoutError("silent"))

    def _ended(self) -> None:
        if self._connection is not None:
            self._connection.release()
            self._connection = None


class Body(StreamReader):
    """The body of a stream, read in one piece: where its HTTP chunks end is nobody's business.

    To keep a book of those ends, as aiohttp does, costs 12 % of the instructions of a stream.
    """

    __slots__ = ()

    def begin_http_chunk_receiving(self) -> None:
        """An HTTP chunk begins."""

    def end_http_chunk_receiving(self) -> None:
        """An HTTP chunk has ended."""

    def feed_data(self, data: bytes, size: int = 0) -> bool:
        """Keep what has come; no more, and in no more pieces, than aiohttp would."""
        buffer = self._buffer
        buffer.append(data)
        self._size += len(data)
        if (waiter := self._waiter) is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
        if self._size > self._high_water or len(buffer) > self._high_water_chunks:
            self._protocol.pause_reading()
        return False

    def _read_nowait(self, n: int) -> bytes:
        data = b"".join(self._buffer)
        self._buffer.clear()
        self._size = 0
        self._protocol.resume_reading()
        return data


class Protocol(ResponseHandler):
    """A connection to an upstream."""

    awaits_stream = False  # the head of an answer whose body becomes a Body
    is_silent = True  # nothing of the answer has come

    def data_received(self, data: bytes) -> None:
        """Parse; the head of a stream alone, since aiohttp makes the reader of its body."""
        self.is_silent = False
        if self.awaits_stream and (end := data.find(b"\r\n\r\n") + 4) > 3:
            self.awaits_stream = False
            super().data_received(data[:end])
            if type(self._payload) is StreamReader:
                self._payload.__class__ = Body
            data = data[end:]
            if not data or self._exception is not None:
                return
        super().data_received(data)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on reading. aiohttp parses nothing again after each read, even if it never paused."""
        if self._reading_paused:
            super().resume_reading(resume_parser)


class Connector(aiohttp.TCPConnector):
    """The pool of an upstream's connections."""

    def __init__(self) -> None:
        super().__init__(limit=0, ttl_dns_cache=300, keepalive_timeout=30)
        self._factory = partial(Protocol, loop=self._loop)  # type: ignore[assignment]


class Upstream:
    """One provider's session. `url` overrides the configured base URL (the built-in stub).

    `path` is the one that is posted to, below the base URL; "": that of the provider's dialect.

    The session owns the connections; requests are written to them directly, since what
    ClientSession.request does beyond that (redirects, cookies, proxies) is never wanted here and
    costs as much as the rest of the call.
    """

    def __init__(self, provider: Provider, url: str = "", path: str = "") -> None:
        self.provider = provider
        to = URL((url or provider.base_url).rstrip("/") + (path or _PATHS[provider.dialect]))
        self._head = _head(provider, to)
        self._secret = provider.api_key or ""
        self._timeouts = provider.timeouts
        self._connector = Connector()
        self._session = aiohttp.ClientSession(connector=self._connector)
        # What the connector asks for: the address, and that certificates are checked.
        self._to = aiohttp.ClientRequest(
            "POST", to, loop=asyncio.get_running_loop(), session=self._session
        )
        self._connecting = aiohttp.ClientTimeout(
            total=None, sock_connect=provider.timeouts.connect_s
        )
        shortest_s = min(provider.timeouts.first_byte_s, provider.timeouts.idle_s)
        self._sweep_s = min(1.0, max(0.01, shortest_s / 8))
        self._sweeping: asyncio.TimerHandle | None = None
        self._answering: set[Answering] = set()

    async def post(self, body: bytes, *, stream: bool) -> Answering:
        """Send `body`; returns a 2xx answer.

        Raises Unreachable, UpstreamTimeout, or what `refusal` makes of the upstream's own error.
        """
        timeouts = self._timeouts
        answering = Answering(self._answering, timeouts.first_byte_s)
        if self._sweeping is None:
            self._sweep()
        try:
            connection = await self._connector.connect(self._to, [], self._connecting)
            request = b"%bContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body)
            await answering.begin(connection, request, stream=stream)
            if answering.status > 299:
                said = await answering.read()
                raise refusal(answering.status, answering.headers, said, self._secret)
            if stream:
                answering.allow(timeouts.idle_s)
            return answering
        except _NETWORK as exc:
            failure = _unreached(exc)
            if isinstance(failure, Unreachable) and answering.has_begun:
                failure = _broken(exc)
            answering.close()
            raise failure from exc
        except BaseException:
            answering.close()
            raise

    async def close(self) -> None:
        """Close the session and every connection of it."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        await self._session.close()

    def _sweep(self) -> None:
        """End the waits that are too long; comes again while there is any answer to wait for."""
        for answering in self._answering:
            answering.wait(self._sweep_s)
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(self._sweep_s, self._sweep) if self._answering else None


def refusal(status: int, headers: Mapping[str, str], body: bytes, secret: str) -> UpstreamError:
    """What is told about an upstream's error answer, our key removed: to the client, and in `said`
    to operators.

    Its 401 is about the gateway's key, its 402 and 407 are about its account and its way there, and
    a 404 is about the upstream's URL or model, unless it names an item. Other 4xx pass.
    """

    def shown(value: object) -> str:
        text = value if isinstance(value, str) else ""
        return (text.replace(secret, "***") if secret else text)[:_MESSAGE_CHARS]

    def word(name: str) -> str:
        return word_of(shown(error.get(name)))

    error = _error_of(body)
    message, code = shown(error.get("message")), word("code")
    passed = {name: headers[name] for name in _PASSED_HEADERS if _is_delay(headers.get(name, ""))}
    passes = 400 <= status < 500 and status not in _NOT_THE_CLIENTS
    if status == 404:
        passes = _names_an_item(error)
    if not passes and not (status >= 500 and code in _OVERLOADED):
        kind = UpstreamTimeout if status == 504 else UpstreamError
        failure = kind(f"The upstream failed with status {status}.", headers=passed)
    else:
        if (again := headers.get("x-should-retry")) in ("true", "false"):
            passed["x-should-retry"] = again
        is_about_key = status == 403 and "api key" in message.lower()
        failure = refused(
            401 if is_about_key else status,
            message or f"The upstream answered with status {status}.",
            type=word("type"),
            param=word("param"),
            code=code,
            headers=passed,
        )
    failure.said = Said(status, code or word("type") or str(failure.code), message)
    return failure


def _error_of(body: bytes) -> dict[str, Any]:
    """The error of `{"error": {…}}`, or of what some servers make of that."""
    try:
        tree = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    error = tree.get("error", tree) if isinstance(tree, dict) else {}
    return error if isinstance(error, dict) else {"message": error}


def _names_an_item(error: dict[str, Any]) -> bool:
    text = f"{error.get('param')} {error.get('message')}".lower()
    return any(word in text for word in ("item", "file", "input"))


def _head(provider: Provider, url: URL) -> bytes:
    lines = [
        f"POST {url.raw_path_qs} HTTP/1.1",
        f"Host: {url.host_port_subcomponent}",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        "Accept-Encoding: identity",
        "User-Agent: anos-gateway",
    ]
    if provider.api_key and provider.auth == "bearer":
        lines.append(f"Authorization: Bearer {provider.api_key}")
    elif provider.api_key and provider.auth != "none":
        lines.append(f"{provider.auth}: {provider.api_key}")
    return "".join([f"{line}\r\n" for line in lines]).encode()


def _unreached(exc: Exception) -> UpstreamError:
    if isinstance(exc, (aiohttp.ConnectionTimeoutError, aiohttp.SocketTimeoutError)) or (
        isinstance(exc, TimeoutError) and not isinstance(exc, aiohttp.ClientOSError)
    ):
        return UpstreamTimeout("The upstream did not answer in time.")
    if isinstance(exc, (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError, OSError)):
        return Unreachable("The upstream could not be reached.")
    return UpstreamError("The upstream sent an answer that is not HTTP.")


def _broken(exc: Exception) -> UpstreamError:
    if isinstance(exc, TimeoutError):
        return UpstreamTimeout("The upstream stopped sending.")
    return UpstreamError("The upstream broke off its answer.")
