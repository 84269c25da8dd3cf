"""The bounded reading of a request's body."""

from aiohttp import web

from anos.errors import UnsupportedMedia


async def read_body(request: web.Request) -> bytes:
    """The whole body, inflated; raises UnsupportedMedia, and aiohttp's 413 over the limit."""
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", ""):
        raise UnsupportedMedia(f"The content encoding '{encoding[:32]}' is not supported.")
    content = request.content
    if (
        content.is_eof()
        and content.exception() is None
        and content.total_bytes <= request._client_max_size
    ):
        return content.read_nowait(-1)
    return await request.read()
