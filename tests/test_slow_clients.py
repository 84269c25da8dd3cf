"""Clients that are slow, or too many: each has its time, and the others do not notice."""

import asyncio
import json

import pytest

from anos.state import Bounds
from tests import scripted
from tests.conftest import Gateway
from tests.raw import BODY, CHUNKED, CREATE, HEALTH, HOST, Client, connect, error_of

# uvloop's sockets buffer and pause otherwise than asyncio's; the process runs on uvloop.
pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

HASTE = Bounds(head_s=0.1, idle_s=30, body_s=0.1, stalled_s=0.1)


@pytest.mark.parametrize("head", [b"", b"G", HEALTH, HEALTH + b"X: y"])
async def test_a_head_that_does_not_come_is_hung_up_on(gateway, head: bytes) -> None:
    async with connect(await gateway(bounds=HASTE)) as client:
        client.send(head)
        assert await client.is_closed(within_s=5)


async def trickle(client: Client, data: bytes) -> bool:
    """Sends byte for byte until the gateway hangs up; False if that does not happen."""
    for byte in data:
        client.send(bytes([byte]))
        if await client.is_closed(within_s=0.02):
            return True
    return False


async def test_a_head_that_trickles_in_is_hung_up_on(gateway) -> None:
    async with connect(await gateway(bounds=HASTE)) as client:
        client.send(HEALTH)
        assert await trickle(client, b"X-Slow: " + b"y" * 100)


@pytest.mark.parametrize("first", [HEALTH + b"\r\n", CREATE + b"Content-Length: 2\r\n\r\n{}"])
async def test_a_second_head_has_no_more_time_than_the_first(gateway, first: bytes) -> None:
    async with connect(await gateway(bounds=HASTE)) as client:
        client.send(first)
        await client.answer()
        client.send(HEALTH)
        assert await trickle(client, b"X-Slow: " + b"y" * 100)


async def test_an_idle_connection_is_kept_for_longer_than_a_head_may_take(gateway) -> None:
    async with connect(await gateway(bounds=HASTE)) as client:
        # The body comes after the head: its bytes must not be taken for a head that begins.
        client.send(CREATE + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        assert (await client.answer())[0] == 100
        client.send(BODY)
        assert (await client.answer())[0] == 200
        assert not await client.is_closed(within_s=0.3)


async def test_a_head_that_comes_too_early_does_not_end_the_running_request(
    gateway, upstream
) -> None:
    gate = asyncio.Event()
    upstream.answer([*scripted.responses_stream(["Hel"])[:1], gate])
    upstream.answer([gate, *scripted.responses_stream(["Hello"])])
    running = await gateway(bounds=HASTE)
    async with connect(running) as client:
        body = json.dumps({"model": "gpt-35-turbo", "input": "hi", "stream": True}).encode()
        client.send(CREATE + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await upstream.received(1)
        client.send(b"GET /heal")
        assert not await client.is_closed(within_s=0.3)
        assert not upstream.disconnected.is_set()
        gate.set()


@pytest.mark.parametrize("size", [b"Content-Length: 100000\r\n", CHUNKED], ids=["length", "chunks"])
async def test_a_body_that_does_not_come_is_given_up(gateway, size: bytes) -> None:
    async with connect(await gateway(bounds=HASTE)) as client:
        client.send(CREATE + size + b"\r\n")
        status, _, body = await asyncio.wait_for(client.answer(), 5)
    assert status == 408
    assert error_of(body)["code"] == "request_timeout"


async def test_a_body_that_trickles_in_is_given_up(gateway) -> None:
    async with connect(await gateway(bounds=HASTE)) as client:
        client.send(CREATE + b"Content-Length: 100000\r\n\r\n{")
        answer = asyncio.create_task(client.answer())
        for _ in range(100):
            client.send(b" ")
            done, _ = await asyncio.wait([answer], timeout=0.02)
            if done:
                break
    assert (await answer)[0] == 408


async def test_a_body_that_comes_at_speed_has_all_the_time_it_needs(gateway) -> None:
    bounds = Bounds(body_s=0.1, body_bytes_per_s=1000)
    whole = BODY[:-1] + b" " * 4000 + b"}"
    async with connect(await gateway(bounds=bounds)) as client:
        client.send(CREATE + b"Content-Length: %d\r\n\r\n" % len(whole))
        answer = asyncio.create_task(client.answer())
        for start in range(0, len(whole), 500):
            client.send(whole[start : start + 500])
            await asyncio.wait([answer], timeout=0.04)  # twelve times the speed that is asked for
        assert (await answer)[0] == 200


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
async def test_a_client_that_takes_nothing_stops_its_upstream(gateway, upstream, path: str) -> None:
    chat = path.endswith("completions")
    stream = scripted.chat_stream if chat else scripted.responses_stream
    upstream.answer([*stream(["x" * 65536] * 2000)[:-2], scripted.silence()])
    ask = {"messages": [{"role": "user", "content": "hi"}]} if chat else {"input": "hi"}
    dialect = {"providers": {"up": {"dialect": "chat" if chat else "responses"}}}
    running = await gateway(dialect, bounds=HASTE)
    async with running.open_stream(path, **ask):
        await asyncio.wait_for(upstream.disconnected.wait(), 10)


async def test_a_client_that_takes_no_answer_is_hung_up_on(gateway, upstream) -> None:
    upstream.answer(scripted.responses_text("x" * (16 << 20)))
    running = await gateway(bounds=HASTE)
    async with connect(running, takes=4096) as client:
        client.send(CREATE + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        await upstream.received(1)
        await no_connection(running)


async def test_a_client_that_takes_an_answer_slowly_gets_all_of_it(gateway, upstream) -> None:
    upstream.answer(scripted.responses_text("x" * (16 << 20)))
    async with connect(await gateway(bounds=HASTE), takes=65536) as client:
        client.send(CREATE + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        whole = await client.answer_slowly(pieces=8, pause_s=HASTE.stalled_s / 2)
        assert whole.count(b"x") > 16 << 20
        assert not await client.is_closed(within_s=HASTE.stalled_s * 4)


async def test_a_client_that_takes_not_even_a_small_rest_is_hung_up_on(gateway) -> None:
    running = await gateway(bounds=Bounds(idle_s=0.1, stalled_s=0.1))
    server = running._runner.server
    async with connect(running, takes=4096) as client:
        asked, unsent = 0, 0
        while not unsent:
            client.send(b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n")
            asked += 1
            # Nothing tells a client that does not read.
            while server.requests_count < asked or server.connections[0]._request_in_progress:  # noqa: ASYNC110
                await asyncio.sleep(0)
            unsent = server.connections[0].transport.get_write_buffer_size()
        assert unsent < 65536  # the transport asks nobody to pause for so little
        await no_connection(running)


async def no_connection(gateway: Gateway) -> None:
    """Returns when the gateway has no connection left."""
    server = gateway._runner.server
    async with asyncio.timeout(5):
        while server.connections:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_more_connections_than_allowed_are_turned_away(gateway) -> None:
    running = await gateway(bounds=Bounds(connections=2))
    async with connect(running) as first, connect(running) as second:
        for client in (first, second):
            client.send(HEALTH + b"\r\n")
            assert (await client.answer())[0] == 200
        async with connect(running) as third:
            assert await third.is_closed(within_s=5)
        first.send(HEALTH + b"\r\n")
        assert (await first.answer())[0] == 200
