"""The scripted upstream does what the other tests rely on."""

import asyncio

import pytest
from aiohttp import ClientPayloadError, ClientSession, ServerDisconnectedError

from tests import scripted
from tests.grammar import check, check_chat, parse
from tests.scripted import CUT, HEADERS, Upstream


@pytest.fixture
async def session(upstream: Upstream):
    async with ClientSession(upstream.url + "/") as session:
        yield session


async def test_replies_are_given_in_order_and_the_last_is_repeated(upstream, session) -> None:
    upstream.answer({"n": 1}, (503, {"n": 2}, {"Retry-After": "3"}))
    answers = [await session.post("responses", json={"input": "hi"}) for _ in range(3)]
    upstream.answer({"n": 4})
    answers.append(await session.post("responses"))
    assert [(await answer.json())["n"] for answer in answers] == [1, 2, 2, 4]
    assert [answer.status for answer in answers] == [200, 503, 503, 200]
    assert answers[1].headers["Retry-After"] == "3"
    assert upstream.requests[0].body == {"input": "hi"}
    assert upstream.requests[0].path == "/v1/responses"


@pytest.mark.parametrize("streamed", [False, True])
async def test_without_a_reply_it_says_hello(upstream, session, streamed: bool) -> None:
    chat = await session.post("chat/completions", json={"stream": streamed})
    responses = await session.post("responses", json={"stream": streamed})
    if streamed:
        check_chat(parse(await chat.read(), done=True))
        check(parse(await responses.read()))
    else:
        assert (await chat.json())["choices"][0]["message"]["content"] == "Hello"
        assert (await responses.json())["output"][0]["content"][0]["text"] == "Hello"


async def test_a_gate_holds_the_stream(upstream, session) -> None:
    gate = asyncio.Event()
    upstream.answer(["a", gate, "b"])
    answer = await session.post("responses", json={})
    assert await answer.content.readexactly(1) == b"a"
    gate.set()
    assert await answer.content.read() == b"b"


async def test_a_client_that_leaves_in_silence_is_seen(upstream, session) -> None:
    upstream.answer([HEADERS, scripted.silence()])
    answer = await session.post("responses", json={})
    assert not upstream.disconnected.is_set()
    answer.close()
    await asyncio.wait_for(upstream.disconnected.wait(), 2)


async def test_a_request_is_known_before_its_answer(upstream, session) -> None:
    upstream.answer([scripted.silence()])
    call = asyncio.create_task(session.post("responses", json={"model": "m"}))
    assert (await upstream.received(1)).body == {"model": "m"}
    call.cancel()
    await asyncio.wait_for(upstream.disconnected.wait(), 2)


async def test_a_cut_ends_the_connection_inside_the_answer(upstream, session) -> None:
    upstream.answer(["data: 1\n\n", CUT])
    answer = await session.post("responses", json={})
    with pytest.raises(ClientPayloadError):
        await answer.read()
    assert not upstream.disconnected.is_set()


async def test_a_cut_at_the_start_gives_no_answer_at_all(upstream, session) -> None:
    upstream.answer([CUT])
    with pytest.raises(ServerDisconnectedError):
        await session.post("responses", json={})
