"""The bounded reading of a request's body: its size, its speed, and the room for all of them."""

import asyncio

from aiohttp import web

from anos.errors import BodyTooLarge, RequestTimeout, Unavailable, UnsupportedMedia
from anos.state import EXCHANGE, SERVING


async def read_body(request: web.Request) -> bytes:
    """The whole body, inflated; the ledger keeps of it what the key asks for.

    Raises UnsupportedMedia, BodyTooLarge, RequestTimeout, or Unavailable if there is no room.
    """
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", ""):
        raise UnsupportedMedia("The body's content encoding is neither identity nor gzip.")
    content = request.content
    # A body that came with its head is small: it is read at once and takes none of the room.
    if (
        content.is_eof()
        and content.exception() is None
        and content.total_bytes <= request.client_max_size
    ):
        body = content.read_nowait(-1)
    else:
        body = await _gathered(request)
    request[SERVING].ledger.keep_request(request[EXCHANGE], body)
    return body


async def _gathered(request: web.Request) -> bytes:
    gateway, exchange, content = request[SERVING], request[EXCHANGE], request.content
    bounds = gateway.bounds
    if (request.content_length or 0) > bounds.body_bytes:
        raise BodyTooLarge
    blocks = []
    start_s = asyncio.get_running_loop().time() + bounds.body_s
    try:
        async with asyncio.timeout_at(start_s) as patience:
            while block := await content.readany():
                blocks.append(block)
                exchange.body_bytes += len(block)
                gateway.body_bytes += len(block)
                if exchange.body_bytes > bounds.body_bytes:
                    raise BodyTooLarge
                if gateway.body_bytes > bounds.all_body_bytes:
                    raise Unavailable("The gateway has no room for another body of this size.")
                patience.reschedule(start_s + content.total_raw_bytes / bounds.body_bytes_per_s)
                await asyncio.sleep(0)  # a small body may inflate to a large one
    except TimeoutError:
        raise RequestTimeout from None
    return b"".join(blocks)
