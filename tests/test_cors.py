"""Pages in a browser: none may read an answer, unless the configuration lists where it is from."""

from typing import Any

import pytest

from tests import scripted
from tests.conftest import MASTER, Gateway, Json, Reply

PAGE, OTHER = "https://app.example.com", "https://evil.example"
LISTED: Json = {"server": {"cors_origins": [PAGE, "http://localhost:3000"]}}
ANY: Json = {"server": {"cors_origins": ["*"]}}


def cors(reply: Reply) -> Json:
    """The headers a browser decides by."""
    return {
        name.lower(): value
        for name, value in reply.headers.items()
        if name.lower().startswith("access-control-")
    }


async def ask(gateway: Gateway, method: str, path: str, origin: str, **headers: str) -> Reply:
    body: Json = {"model": "gpt-4", "input": "hi"}
    options: Json = {"json": body} if method == "POST" else {}
    return await gateway.request(method, path, headers={"Origin": origin, **headers}, **options)


async def preflight(gateway: Gateway, origin: str, path: str = "/v1/responses") -> Reply:
    """What a browser asks first: it has no key then."""
    wanted = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
        "Authorization": "",
    }
    return await ask(gateway, "OPTIONS", path, origin, **wanted)


@pytest.mark.parametrize("origin", [PAGE, "null", "http://127.0.0.1:4000"])
async def test_by_default_no_page_may_read_anything(gateway, origin: str) -> None:
    running = await gateway()
    for method, path in (("POST", "/v1/responses"), ("GET", "/v1/models"), ("GET", "/healthz")):
        assert cors(await ask(running, method, path, origin)) == {}
    asked_first = await preflight(running, origin)
    assert asked_first.status == 405
    assert cors(asked_first) == {}


@pytest.mark.parametrize("origin", [PAGE, "http://localhost:3000"])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/responses", 200),
        ("GET", "/v1/models", 200),
        ("GET", "/v1/responses/resp_none", 404),
        ("GET", "/nowhere", 404),
        ("PATCH", "/v1/responses", 405),
    ],
)
async def test_a_listed_page_reads_answers_and_errors(
    gateway, origin: str, method: str, path: str, status: int
) -> None:
    reply = await ask(await gateway(LISTED), method, path, origin)
    assert reply.status == status
    assert cors(reply)["access-control-allow-origin"] == origin
    assert reply.headers["Vary"] == "Origin"


async def test_a_listed_page_reads_why_its_key_was_refused(gateway) -> None:
    running = await gateway(LISTED)
    reply = await ask(running, "GET", "/v1/models", PAGE, Authorization="Bearer sk-wrong")
    assert reply.status == 401
    assert cors(reply)["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
async def test_a_listed_page_reads_a_stream(gateway, upstream, path: str) -> None:
    chat = path.endswith("completions")
    upstream.answer((scripted.chat_stream if chat else scripted.responses_stream)(["Hello"]))
    dialect = {"providers": {"up": {"dialect": "chat" if chat else "responses"}}}
    running = await gateway({**LISTED, **dialect})
    body: Json = {"messages": [{"role": "user", "content": "hi"}]} if chat else {"input": "hi"}
    body |= {"model": "gpt-4", "stream": True}
    reply = await running.request("POST", path, json=body, headers={"Origin": PAGE})
    assert b"Hello" in reply.raw
    assert cors(reply)["access-control-allow-origin"] == PAGE
    assert cors(reply)["access-control-expose-headers"] == "*"


@pytest.mark.parametrize("path", ["/v1/responses", "/responses", "/v1/responses/resp_1", "/x"])
async def test_the_question_of_a_listed_page_is_answered(gateway, path: str) -> None:
    reply = await preflight(await gateway(LISTED), PAGE, path)
    assert (reply.status, reply.raw) == (204, b"")
    assert reply.headers["Vary"] == "Origin"
    allowed = cors(reply)
    assert allowed["access-control-allow-origin"] == PAGE
    methods = set(allowed["access-control-allow-methods"].split(", "))
    assert methods == {"GET", "POST", "PATCH", "DELETE"}
    # A wildcard stands for every header but Authorization.
    assert allowed["access-control-allow-headers"] == "Authorization, *"


@pytest.mark.parametrize(
    "origin",
    [
        *(OTHER, "null", "", PAGE.upper(), f"{PAGE}.evil.example", f"{PAGE}:444", f"{PAGE}/"),
        *("http://app.example.com", f"{PAGE}, {OTHER}", "*"),
    ],
)
async def test_another_page_gets_nothing(gateway, origin: str) -> None:
    running = await gateway(LISTED)
    reply = await ask(running, "GET", "/v1/models", origin)
    assert cors(reply) == {}
    assert reply.headers["Vary"] == "Origin"  # a cache must not give it to another page
    asked_first = await preflight(running, origin)
    assert asked_first.status == 405
    assert cors(asked_first) == {}


@pytest.mark.parametrize("origin", [PAGE, OTHER, "null"])
async def test_a_star_stands_for_every_page(gateway, origin: str) -> None:
    running = await gateway(ANY)
    for reply in (
        await ask(running, "GET", "/v1/models", origin),
        await preflight(running, origin),
    ):
        assert cors(reply)["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("config", [LISTED, ANY])
async def test_no_page_may_send_what_the_browser_keeps(gateway, config: Json) -> None:
    running = await gateway(config)
    replies: list[Any] = [await preflight(running, PAGE)]
    replies.append(await ask(running, "GET", "/v1/models", PAGE, Cookie="session=1"))
    for reply in replies:
        assert "access-control-allow-credentials" not in cors(reply)
        assert "Set-Cookie" not in reply.headers


async def test_the_question_of_a_page_counts_as_no_request_and_needs_a_local_name(gateway) -> None:
    running = await gateway(LISTED)
    named = {"Origin": PAGE, "Access-Control-Request-Method": "GET", "Host": "evil.example"}
    assert (await running.request("OPTIONS", "/v1/models", headers=named)).status == 421
    assert (await running.request("OPTIONS", "/v1/models", headers=MASTER)).status == 405
