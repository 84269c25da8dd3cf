"""A client that waits for "100 Continue" is told to go on when its body is wanted, never before."""

import asyncio

import pytest

from anos.state import Bounds
from tests.raw import BODY, CHUNKED, CREATE, HOST, asked, connect, error_of
from tests.test_exchanges import rows, some

# uvloop's sockets buffer otherwise than asyncio's; the process runs on uvloop.
pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

WAITS = b"Expect: 100-Continue\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
VIEWER = {"keys": {"eve": {"key": "sk-eve", "role": "read-only"}}}
PATHS = ["/v1/responses", "/chat/completions", "/v1/moderations", "/admin/keys", "/key/generate"]


def post(path: str, key: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nAuthorization: Bearer {key}\r\n".encode() + HOST + WAITS


@pytest.mark.parametrize("path", PATHS)
async def test_who_is_not_known_is_not_asked_for_a_body(gateway, path: str) -> None:
    anos = await gateway()
    for key in ("sk-nobody", ""):
        status, head, body = await asked(anos, post(path, key) + LENGTH + b"\r\n")
        assert status == 401
        assert b"connection: close" in head.lower()
        assert error_of(body)["code"] == "invalid_api_key"
    assert await rows(anos) == []


async def test_whose_role_may_not_do_it_is_not_asked_for_a_body(gateway) -> None:
    anos = await gateway(VIEWER)
    status, _, body = await asked(anos, post("/v1/responses", "sk-eve") + LENGTH + b"\r\n")
    assert (status, error_of(body)["message"][:20]) == (403, "A key of the role 'r")
    (row,) = await rows(anos)
    assert some(row, "key", "route", "status") == ("eve", "/v1/responses", 403)


@pytest.mark.parametrize(
    ("header", "status"),
    [(b"Content-Length: 1025\r\n", 413), (LENGTH + b"Content-Encoding: deflate\r\n", 415)],
)
async def test_a_body_that_would_be_refused_is_not_asked_for(
    gateway, header: bytes, status: int
) -> None:
    anos = await gateway(bounds=Bounds(body_bytes=1024))
    answered, head, _ = await asked(anos, CREATE + WAITS + header + b"\r\n")
    assert answered == status
    assert b"connection: close" in head.lower()
    (row,) = await rows(anos)
    assert some(row, "key", "route", "status") == ("master", "/v1/responses", status)


@pytest.mark.parametrize("framing", [LENGTH, CHUNKED])
async def test_who_is_known_is_told_to_go_on_once_and_answered(gateway, framing: bytes) -> None:
    anos = await gateway()
    body = BODY if framing is LENGTH else b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    async with connect(anos) as client:
        for _ in range(2):
            client.send(CREATE + WAITS + framing + b"\r\n")
            assert (await asyncio.wait_for(client.answer(), 5))[:2] == (
                100,
                b"HTTP/1.1 100 Continue\r\n\r\n",
            )
            client.send(body)
            status, head, _ = await asyncio.wait_for(client.answer(), 5)
            assert (status, b"connection: close" in head.lower()) == (200, False)
    assert [row["status"] for row in await rows(anos)] == [200, 200]


async def test_a_body_that_came_without_waiting_needs_no_word(gateway) -> None:
    status, _, _ = await asked(await gateway(), CREATE + WAITS + LENGTH + b"\r\n" + BODY)
    assert status == 200


async def test_a_client_of_the_old_protocol_is_told_nothing(gateway) -> None:
    old = CREATE.replace(b"HTTP/1.1", b"HTTP/1.0")
    async with connect(await gateway()) as client:
        client.send(old + WAITS + LENGTH + b"\r\n")
        client.send(BODY)
        assert (await asyncio.wait_for(client.answer(), 5))[0] == 200


async def test_a_connection_whose_body_was_not_asked_for_ends_with_the_client(gateway) -> None:
    async with connect(await gateway()) as client:
        client.send(post("/v1/responses", "sk-nobody") + LENGTH + b"\r\n")
        assert (await asyncio.wait_for(client.answer(), 5))[0] == 401
        client.send(BODY)  # it may have begun to send before the answer came
        assert await client.is_closed(within_s=5)
