"""A stream between its two connections: how its bytes come in, and how the client's ends."""

import asyncio
import gzip
import json

import pytest

from tests import grammar, scripted
from tests.raw import BODY, HOST, connect, serve

# uvloop's sockets buffer and pause otherwise than asyncio's; the process runs on uvloop.
pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
TEXT = "Hello, world. " * 2000
ASKED = json.dumps({**json.loads(BODY), "stream": True}).encode()
LENGTH = b"Content-Length: %d\r\n\r\n" % len(ASKED)
KEY = b"Authorization: Bearer sk-1234\r\n"


def sent() -> bytes:
    return b"".join(map(scripted.encode, scripted.responses_stream([TEXT])))


def in_chunks(body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join([b"%x\r\n%b\r\n" % (len(part), part) for part in parts]) + b"0\r\n\r\n"


WIRES = {
    "chunks of a byte": (HEAD + CHUNKED + b"\r\n" + in_chunks(sent(), 1),),
    "a head in two pieces": (HEAD, CHUNKED + b"\r\n" + in_chunks(sent(), 999)),
    "a cut before the body": (HEAD + CHUNKED + b"\r\n", in_chunks(sent(), 999)),
    "a cut in the end of the head": (HEAD + CHUNKED + b"\r", b"\n" + in_chunks(sent(), 999)),
    "a head before the head": (
        b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + CHUNKED + b"\r\n" + in_chunks(sent(), 999),
    ),
    "a length": (HEAD + b"Content-Length: %d\r\n\r\n" % len(sent()) + sent(),),
    "no length": (HEAD + b"\r\n" + sent(),),
    "gzip": (
        HEAD + CHUNKED + b"Content-Encoding: gzip\r\n\r\n" + in_chunks(gzip.compress(sent()), 7),
    ),
}


@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
async def test_a_stream_arrives_whole_however_it_is_framed(
    gateway, wire: tuple[bytes, ...]
) -> None:
    async with serve() as upstream:
        gate = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, gate.set)
        upstream.writes = (wire[0], gate, *wire[1:])
        running = await gateway({"providers": {"up": {"base_url": upstream.url}}})
        reply = await running.post("/v1/responses", stream=True, input="hi")
    events = grammar.parse(reply.raw, done=True)
    grammar.check(events)
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == TEXT


@pytest.mark.parametrize("asked", [b"1.1\r\nConnection: close", b"1.0\r\nConnection: keep-alive"])
async def test_a_stream_that_cannot_be_followed_by_another_ends_with_its_connection(
    gateway, upstream, asked: bytes
) -> None:
    async with connect(await gateway()) as client:
        client.send(b"POST /v1/responses HTTP/" + asked + b"\r\n" + HOST + KEY + LENGTH + ASKED)
        head, _, body = (await asyncio.wait_for(client.rest(), 5)).partition(b"\r\n\r\n")
    is_chunked = asked.startswith(b"1.1")
    assert head.startswith(b"HTTP/" + asked[:3] + b" 200 OK\r\n")
    assert head.endswith(b"\r\nConnection: close")
    assert (b"Transfer-Encoding: chunked" in head) is is_chunked
    assert body.endswith(b"data: [DONE]\n\n" + (b"\r\n0\r\n\r\n" if is_chunked else b""))
