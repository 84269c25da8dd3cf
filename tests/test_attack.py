"""What a hostile or broken client can do to the HTTP edge: what is hardly HTTP, hosts, keys."""

import asyncio
import socket

import pytest

from tests.conftest import Json
from tests.raw import BODY, CHUNKED, CREATE, HEALTH, HOST, asked, connect, error_of

AUTH = b"Authorization: Bearer sk-1234\r\n"
CANARY = "sk-canary-3f1c"


# What is not, or hardly, HTTP -----------------------------------------------------------------

NOT_HTTP = {
    "length and chunked": CREATE + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "chunked and length": CREATE + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": CREATE + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "the same length twice": CREATE + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": CREATE + b"Content-Length: 2, 2\r\n\r\n{}",
    "a signed length": CREATE + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": CREATE + b"Content-Length: -2\r\n\r\n{}",
    "a length beyond 64 bits": CREATE + b"Content-Length: 99999999999999999999\r\n\r\n{}",
    "encoding identity": CREATE + b"Transfer-Encoding: identity\r\n\r\n{}",
    "encoding xchunked": CREATE + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked is not last": CREATE + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "two encodings": CREATE + CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "blank before colon": CREATE + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "chunk size is no number": CREATE + CHUNKED + b"\r\nzz\r\n{}\r\n0\r\n\r\n",
    "negative chunk size": CREATE + CHUNKED + b"\r\n-2\r\n{}\r\n0\r\n\r\n",
    "0x chunk size": CREATE + CHUNKED + b"\r\n0x2\r\n{}\r\n0\r\n\r\n",
    "chunk size beyond 64 bits": CREATE + CHUNKED + b"\r\nfffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "chunk longer than its size": CREATE + CHUNKED + b"\r\n2\r\n{}{}\r\n0\r\n\r\n",
    "chunks with bare line feeds": CREATE + CHUNKED + b"\r\n2\n{}\n0\n\n",
    "two hosts": HEALTH + HOST + b"\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "folded header": HEALTH + b"X-A: a\r\n b\r\n\r\n",
    "folded key": HEALTH + b"Authorization:\r\n Bearer sk-1234\r\n\r\n",
    "bare line feeds": b"GET /healthz HTTP/1.1\nHost: localhost\n\n",
    "bare carriage return": b"GET /healthz HTTP/1.1\r\nHost: localhost\rX: y\r\n\r\n",
    "NUL in a header": HEALTH + f"Authorization: Bearer {CANARY}\0\r\n\r\n".encode(),
    "NUL in the path": b"GET /v1/models/\0 HTTP/1.1\r\n" + HOST + b"\r\n",
    "bytes in the path": b"GET /v1/models/\xff HTTP/1.1\r\n" + HOST + b"\r\n",
    "header without colon": HEALTH + f"Authorization Bearer {CANARY}\r\n\r\n".encode(),
    "header without name": HEALTH + f": {CANARY}\r\n\r\n".encode(),
    "many headers": HEALTH + f"X: {CANARY}\r\n".encode() * 200 + b"\r\n",
    "unknown method": f"{CANARY} / HTTP/1.1\r\n".encode() + HOST + b"\r\n",
    "small method": b"get /healthz HTTP/1.1\r\n" + HOST + b"\r\n",
    "no version": f"GET /{CANARY}\r\nHost\r\n\r\n".encode(),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + CANARY.encode(),
    "a key instead of a request": f"Authorization: Bearer {CANARY}\r\n\r\n".encode(),
    "a port that is none": f"GET http://localhost:{CANARY}/ HTTP/1.1\r\n".encode() + HOST + b"\r\n",
}


TOO_LONG = {
    "huge header": HEALTH + f"Authorization: Bearer {CANARY}".encode() + b"a" * 9000 + b"\r\n\r\n",
    "huge target": f"GET /{CANARY}".encode() + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
}


@pytest.mark.parametrize("name", [*NOT_HTTP, *TOO_LONG])
async def test_what_is_not_http_is_refused_in_our_words_and_hung_up_on(gateway, name: str) -> None:
    running = await gateway()
    async with connect(running) as client:
        # A request that was smuggled in behind would get an answer of its own.
        client.send((NOT_HTTP | TOO_LONG)[name] + HEALTH + b"\r\n")
        status, head, body = await asyncio.wait_for(client.answer(), 10)
        said = status, error_of(body)["message"]
        if name in TOO_LONG:
            assert said == (431, "A header of the request, or its target, is too long.")
        else:
            assert said == (400, "The request is not valid HTTP.")
        assert b"application/json" in head
        assert b"x-request-id: req_" in head
        assert b"aiohttp" not in head
        assert CANARY.encode() not in head + body
        assert await asyncio.wait_for(client.rest(), 10) == b""


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"zz\r\n", 400),
        (b"-1\r\n", 400),
        (b"2\r\n{}{}\r\n", 400),
    ],
)
async def test_a_body_whose_framing_breaks_later_is_refused(
    gateway, rest: bytes, status: int
) -> None:
    running = await gateway()
    async with connect(running) as client:
        client.send(CREATE + CHUNKED + b"Expect: 100-continue\r\n\r\n")
        assert (await client.answer())[0] == 100
        client.send(b"2\r\n{}\r\n" + rest + HEALTH + b"\r\n")
        answered, _, body = await asyncio.wait_for(client.answer(), 5)
        assert answered == status
        assert error_of(body)["message"] == "The request body could not be read."
        assert await asyncio.wait_for(client.rest(), 5) == b""


@pytest.mark.parametrize(
    "body",
    [
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
        b"%x;name=value\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
        b"%x\r\n%b\r\n0\r\nAuthorization: Bearer sk-trailer\r\n\r\n" % (len(BODY), BODY),
        b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n",
        b"000000%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    ],
    ids=["plain", "extension", "trailer", "byte by byte", "zeros"],
)
async def test_a_chunked_body_is_read(gateway, body: bytes) -> None:
    status, _, answer = await asked(await gateway(), CREATE + CHUNKED + b"\r\n" + body)
    assert status == 200, answer


async def test_pipelined_requests_are_answered_in_order(gateway) -> None:
    length = b"Content-Length: %d\r\n\r\n" % len(BODY)
    async with connect(await gateway()) as client:
        client.send(HEALTH + b"\r\n" + CREATE + length + BODY + HEALTH + b"\r\n")
        bodies = [(await client.answer())[2] for _ in range(3)]
    assert [b'"version"' in body for body in bodies] == [True, False, True]


@pytest.mark.parametrize(
    ("header", "status"),
    [("Expect: sk-canary-3f1c", 400), ("Upgrade: websocket\r\nConnection: upgrade", 200)],
)
async def test_what_else_a_header_can_ask_for_is_not_done(
    gateway, header: str, status: int
) -> None:
    answered, _, body = await asked(await gateway(), HEALTH + header.encode() + b"\r\n\r\n")
    assert answered == status
    assert CANARY not in body.decode()


@pytest.mark.parametrize("method", [b"CONNECT localhost:80", b"OPTIONS *", b"TRACE /healthz"])
async def test_methods_of_proxies_are_refused(gateway, method: bytes) -> None:
    status, _, body = await asked(await gateway(), method + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert status in (404, 405, 421)
    error_of(body)


# Hosts and keys -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:4000", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:4000"]
)
async def test_the_published_key_works_under_local_names(gateway, host: str) -> None:
    reply = await (await gateway()).request("GET", "/v1/models", headers={"Host": host})
    assert reply.status == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "localhost@evil.example"),
        *("localhost:", "127.0.0.2", "[::2]", "localhost evil.example", "0.0.0.0", "10.0.0.1:80"),
    ],
)
async def test_the_published_key_works_under_no_other_name(gateway, host: str) -> None:
    running = await gateway()
    for path in ("/v1/models", "/healthz", "/metrics", "/nowhere"):
        reply = await running.request("GET", path, headers={"Host": host})
        assert reply.status == 421
        assert reply.error["code"] == "misdirected_request"
        assert "example" not in reply.raw.decode()


async def test_a_target_with_another_host_is_misdirected(gateway) -> None:
    target = b"GET http://evil.example/v1/models HTTP/1.1\r\n" + HOST + AUTH + b"\r\n"
    assert (await asked(await gateway(), target))[0] == 421


async def test_a_key_of_ones_own_is_served_under_every_name(gateway) -> None:
    running = await gateway({"server": {"master_key": "sk-own"}})
    headers = {"Host": "evil.example", "Authorization": "Bearer sk-own"}
    assert (await running.request("GET", "/v1/models", headers=headers)).status == 200


async def test_a_gateway_with_the_published_key_does_not_listen_to_the_network(process) -> None:
    with pytest.raises(AssertionError, match="works on loopback only"):
        await process(None, "--host", "0.0.0.0")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {CANARY}"},
        {"Authorization": f"Basic {CANARY}"},
        {"Authorization": CANARY},
        {"x-api-key": CANARY},
        {"api-key": CANARY, "x-api-key": "sk-1234"},
        {"x-api-key": "sk-1234", "Authorization": f"Bearer {CANARY}"},
        {},
    ],
    ids=["unknown", "basic", "bare", "x-api-key", "two headers", "right and wrong", "none"],
)
async def test_a_refused_key_is_not_repeated(gateway, headers: Json) -> None:
    running = await gateway()
    async with running.session.get(
        "/v1/models", headers=headers, skip_auto_headers=["Authorization"]
    ) as response:
        raw = await response.text()
    if not headers:
        return
    assert response.status == 401
    assert error_of(raw.encode())["code"] == "invalid_api_key"
    assert CANARY not in raw + str(response.headers)


# What goes to the log -------------------------------------------------------------------------


async def test_no_byte_of_what_is_not_http_is_logged(process) -> None:
    running = await process()
    for request in (NOT_HTTP | TOO_LONG).values():
        async with connect(running) as client:
            client.send(request)
            status, head, body = await asyncio.wait_for(client.answer(), 10)
            assert status == (431 if request in TOO_LONG.values() else 400)
            assert CANARY.encode() not in head + body
    for rest in (b"zz " + CANARY.encode() + b"\r\n", b"2\r\n{}" + CANARY.encode() + b"\r\n"):
        async with connect(running) as client:
            client.send(CREATE + CHUNKED + b"Expect: 100-continue\r\n\r\n")
            await client.answer()
            client.send(rest)
            assert (await asyncio.wait_for(client.answer(), 10))[0] == 400
    assert await running.terminate() == 0
    assert "listening" in running.log
    assert "canary" not in running.log


# From another machine -------------------------------------------------------------------------


def own_address() -> str:
    """An address of this machine that is not the loopback's, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
    return address


async def test_metrics_need_a_key_from_anywhere_else(process) -> None:
    address = own_address()
    # On a machine without another address the request says that a proxy has brought it.
    brought = {"X-Forwarded-For": "192.0.2.1"} if address.startswith("127.") else {}
    running = await process({"server": {"master_key": "sk-own"}}, "--host", "0.0.0.0")
    url = running.url.replace("127.0.0.1", address) + "/metrics"
    answers = []
    for key in ("", "sk-wrong", "sk-own"):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        headers = {"Authorization": "", **brought, **headers}
        async with running.session.get(url, headers=headers) as response:
            answers.append(response.status)
    assert answers == [401, 401, 200]
    assert (await running.get("/metrics")).status == 200
