"""Large and compressed bodies: each is bounded, and so are all of them together."""

import asyncio
import gzip
import io
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from anos.state import GATEWAY, Bounds
from tests import scripted
from tests.conftest import Gateway, Json, Reply
from tests.raw import BODY, CREATE, HOST, asked, connect

SMALL = Bounds(body_bytes=300_000)


def padded(size: int) -> bytes:
    """A valid body of `size` bytes."""
    return BODY[:-1] + b" " * (size - len(BODY)) + b"}"


# Without the time, so that a test goes by the same name in every process.
PACKED = gzip.compress(BODY, mtime=0)


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 65536):
        yield data[start : start + 65536]


async def send(gateway: Gateway, data: Any, **headers: str) -> Reply:
    headers = {"Content-Type": "application/json", **headers}
    data = io.BytesIO(data) if isinstance(data, bytes) else data
    return await gateway.request("POST", "/v1/responses", data=data, headers=headers)


async def recorded(gateway: Gateway, reply: Reply) -> tuple[int, str]:
    """Status and code in the ledger, as soon as the row is there."""
    rows: list[Json] = []
    while not rows:
        answer = await gateway.get("/admin/requests", request_id=reply.headers["x-request-id"])
        rows = answer.body["data"]
    return rows[0]["status"], rows[0]["error_code"]


@pytest.mark.parametrize("size", [299_999, 300_000])
@pytest.mark.parametrize("way", ["length", "chunks", "gzip"])
async def test_a_body_up_to_the_limit_is_read(gateway, size: int, way: str) -> None:
    running = await gateway(bounds=SMALL)
    assert (await send_as(way, running, padded(size))).status == 200


@pytest.mark.parametrize("size", [300_001, 600_000, 5_000_000])
@pytest.mark.parametrize("way", ["length", "chunks", "gzip"])
async def test_a_body_over_the_limit_is_413(gateway, size: int, way: str) -> None:
    running = await gateway(bounds=SMALL)
    reply = await send_as(way, running, padded(size))
    assert reply.status == 413
    assert reply.error["code"] == "request_too_large"
    assert (await running.get("/healthz")).status == 200


async def send_as(way: str, gateway: Gateway, data: bytes) -> Reply:
    if way == "chunks":
        return await send(gateway, in_pieces(data))
    if way == "gzip":
        return await send(gateway, gzip.compress(data), **{"Content-Encoding": "gzip"})
    return await send(gateway, data)


async def test_a_declared_size_over_the_limit_is_413_before_the_body_comes(gateway) -> None:
    async with connect(await gateway()) as client:
        client.send(CREATE + b"Content-Length: 104857601\r\n\r\n")
        assert (await asyncio.wait_for(client.answer(), 5))[0] == 413


async def test_when_all_bodies_together_are_too_large_the_next_is_503(gateway, upstream) -> None:
    gate = asyncio.Event()
    upstream.answer([gate, scripted.CUT], scripted.responses_text("Hello"))
    running = await gateway(bounds=Bounds(all_body_bytes=5 << 20))
    large = padded(3 << 20)
    first = asyncio.create_task(send(running, large))
    await upstream.received(1)
    reply = await send(running, large)
    assert reply.status == 503
    assert reply.error["code"] == "service_unavailable"
    assert (await send(running, padded(1000))).status == 200  # a small one still passes
    gate.set()
    await first
    assert (await send(running, large)).status == 200
    assert running.app[GATEWAY].body_bytes == 0


@pytest.mark.parametrize("encoding", ["deflate", "br", "zstd", "compress", "gzip, gzip", "x\xff"])
async def test_other_encodings_are_415(gateway, encoding: str) -> None:
    running = await gateway()
    reply = await send(running, zlib.compress(BODY), **{"Content-Encoding": encoding})
    assert reply.status == 415
    assert reply.error["code"] == "unsupported_media_type"
    assert await recorded(running, reply) == (415, "unsupported_media_type")


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "identity"])
async def test_gzip_and_identity_are_read(gateway, encoding: str) -> None:
    body = BODY if encoding == "identity" else PACKED
    reply = await send(await gateway(), body, **{"Content-Encoding": encoding})
    assert reply.status == 200


@pytest.mark.parametrize(
    "body",
    [
        *(b"no gzip", PACKED[:-12], PACKED[:-1], b"\x1f\x8b"),
        *(PACKED + b"more", PACKED * 2),
    ],
)
async def test_broken_gzip_is_400(gateway, body: bytes) -> None:
    running = await gateway()
    reply = await send(running, body, **{"Content-Encoding": "gzip"})
    assert reply.status == 400
    assert reply.error["type"] == "invalid_request_error"
    assert "content encoding" in reply.error["message"]
    assert await recorded(running, reply) == (400, "invalid_value")


async def test_gzip_that_comes_byte_by_byte_is_read(gateway) -> None:
    async def one_by_one() -> AsyncIterator[bytes]:
        for byte in PACKED:
            yield bytes([byte])
            await asyncio.sleep(0)

    reply = await send(await gateway(), one_by_one(), **{"Content-Encoding": "gzip"})
    assert reply.status == 200


async def test_a_refused_key_is_told_before_the_body_is_read(gateway) -> None:
    head = b"POST /v1/responses HTTP/1.1\r\n" + HOST + b"Content-Length: 104857600\r\n\r\n"
    assert (await asked(await gateway(), head))[0] == 401
