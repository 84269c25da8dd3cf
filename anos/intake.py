"""The bounded reading of a request's body: its size, its speed, and the room for all of them."""

import asyncio
import zlib
from collections.abc import Iterator
from typing import Any

from aiohttp import HttpVersion11, web

from anos.errors import (
    BodyTooLarge,
    InvalidRequest,
    RequestTimeout,
    Unavailable,
    UnsupportedMedia,
)
from anos.state import EXCHANGE, SERVING

_PART_BYTES = 256 * 1024
_GZIP = 16 + zlib.MAX_WBITS


async def expect(request: web.Request) -> None:
    """See that the client expects what can be met: `read_body` tells it to go on, nobody before.

    https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
    """
    if request.version >= HttpVersion11 and not _waits(request):
        raise web.HTTPExpectationFailed


def _waits(request: web.Request) -> bool:
    return request.headers.get("Expect", "").lower() == "100-continue"


async def read_body(request: web.Request) -> bytes:
    """The whole body, inflated; the ledger keeps of it what the key asks for.

    Raises UnsupportedMedia, InvalidRequest for what is no gzip, BodyTooLarge, RequestTimeout, or
    Unavailable if there is no room.
    """
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", ""):
        raise UnsupportedMedia("The body's content encoding is neither identity nor gzip.")
    content = request.content
    is_packed = encoding == "gzip"
    # A body that came with its head is small: it is read at once and takes none of the room.
    if (
        not is_packed
        and content.is_eof()
        and content.exception() is None
        and content.total_bytes <= request.client_max_size
    ):
        body = content.read_nowait(-1)
    else:
        body = await _gathered(request, is_packed)
    request[SERVING].ledger.keep_request(request[EXCHANGE], body)
    return body


async def _gathered(request: web.Request, is_packed: bool) -> bytes:
    gateway, exchange, content = request[SERVING], request[EXCHANGE], request.content
    bounds = gateway.bounds
    if (request.content_length or 0) > bounds.body_bytes:
        raise BodyTooLarge
    if request.version >= HttpVersion11 and _waits(request):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer has not begun
    gunzip = zlib.decompressobj(_GZIP) if is_packed else None
    parts = []
    start_s = asyncio.get_running_loop().time() + bounds.body_s
    try:
        async with asyncio.timeout_at(start_s) as patience:
            while block := await content.readany():
                for part in (block,) if gunzip is None else _inflated(gunzip, block):
                    parts.append(part)
                    exchange.body_bytes += len(part)
                    gateway.body_bytes += len(part)
                    if exchange.body_bytes > bounds.body_bytes:
                        raise BodyTooLarge
                    if gateway.body_bytes > bounds.all_body_bytes:
                        raise Unavailable("The gateway has no room for another body of this size.")
                    await asyncio.sleep(0)  # a small body may inflate to a large one
                patience.reschedule(start_s + content.total_bytes / bounds.body_bytes_per_s)
    except TimeoutError:
        raise RequestTimeout from None
    if gunzip is not None and content.total_bytes and not gunzip.eof:
        raise _unreadable()
    return b"".join(parts)


def _inflated(gunzip: Any, block: bytes) -> Iterator[bytes]:
    try:
        part = gunzip.decompress(block, _PART_BYTES)
        while part:
            yield part
            part = gunzip.decompress(gunzip.unconsumed_tail, _PART_BYTES)
    except zlib.error:
        raise _unreadable() from None
    if gunzip.unused_data:  # it would be kept, however much of it comes
        raise _unreadable()


def _unreadable() -> InvalidRequest:
    return InvalidRequest("The body is not what its content encoding says: gzip, in one piece.")
