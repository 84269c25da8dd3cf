"""A request that is judged while the model is called: nothing goes out before the verdict."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from tests import scripted
from tests.conftest import Gateway, Json, merge
from tests.dialects import says, speaking, streams
from tests.scripted import CUT, Upstream, silence
from tests.test_leaks import ROUTES, posted
from tests.test_output_moderation import REFUSED, receipts, row_of, scored, without_time
from tests.test_scanner import said

Start = Callable[..., Awaitable[Gateway]]
BAD = "VIOLATION"
PATHS = [(route, dialect) for route in ROUTES for dialect in ("responses", "chat")]


class Judge(Upstream):
    """A judge that says nothing before a test lets it: then `is_bad` decides."""

    def __init__(self) -> None:
        super().__init__()
        self.may_speak = asyncio.Event()
        self.is_bad = False
        self._reply = self._judged

    async def _judged(self, request: web.Request) -> web.StreamResponse:
        await self.may_speak.wait()
        return web.json_response(scored(BAD if self.is_bad else ""))


@pytest.fixture
async def judge(no_task_left: None) -> AsyncIterator[Judge]:
    """A server with OpenAI's /moderations."""
    async with Judge() as server:
        yield server


def during(judge: Upstream, dialect: str = "responses", **moderation: Any) -> Json:
    given = {"input": "block", "during_call": True, "backend": "endpoint", "provider": "judge"}
    price = {"input_per_million_usd": 1, "output_per_million_usd": 1}
    routes = [{"provider": "up", "deployment": "up-model"}]
    return merge(
        speaking(dialect),
        {
            "providers": {"judge": {"dialect": "chat", "base_url": judge.url}},
            "models": {"gpt-35-turbo": {"routes": routes, "price": price}},
            "guards": {"moderation": {**given, "deadline_ms": 20_000, **moderation}},
        },
    )


def answer(dialect: str, *, stream: bool) -> Any:
    return streams(dialect, "Fi", "ne.") if stream else says(dialect, "Fine.")


def telling(is_sent: asyncio.Event, content: Any) -> Any:
    """A reply that sets the event when it is all sent."""

    async def reply(request: web.Request) -> web.StreamResponse:
        sent = await scripted.respond(request, content)
        await sent.prepare(request)
        await sent.write_eof()
        is_sent.set()
        return sent

    return reply


async def answered(anos: Gateway, judge: Judge, has_answered: asyncio.Event) -> None:
    """The model has answered while the judge thinks, and the gateway has had time to hear it."""
    await asyncio.gather(judge.received(1), has_answered.wait())
    for _ in range(20):
        assert (await anos.get("/v1/models")).status == 200


def responses_in(anos: Gateway) -> int:
    (count,) = sqlite3.connect(anos.database).execute("SELECT count(*) FROM responses").fetchone()
    return int(count)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("route", "dialect"), PATHS)
async def test_the_model_is_called_at_once_and_nothing_it_says_arrives_before_the_verdict(
    gateway: Start, upstream: Upstream, judge: Judge, route: str, dialect: str, stream: bool
) -> None:
    anos = await gateway(during(judge, dialect))
    has_answered = asyncio.Event()
    upstream.answer(telling(has_answered, answer(dialect, stream=stream)))
    order: list[str] = []

    async def ask() -> bytes:
        body = {"model": "gpt-35-turbo", "stream": stream, **ROUTES[route]}
        async with anos.session.post(route, json=body) as response:
            order.append("a head has arrived")
            return await response.read()

    asking = asyncio.create_task(ask())
    await answered(anos, judge, has_answered)
    order.append("the verdict")
    judge.may_speak.set()
    raw = await asking
    assert order == ["the verdict", "a head has arrived"]
    assert b"ne." in raw
    (receipt,) = await receipts(anos, status=200)
    assert (receipt["direction"], receipt["action"], receipt["texts"]) == ("input", "pass", 1)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("route", "dialect"), PATHS)
async def test_at_a_bad_verdict_the_model_is_left_and_what_was_sent_is_paid(
    gateway: Start, upstream: Upstream, judge: Judge, route: str, dialect: str, stream: bool
) -> None:
    anos = await gateway(during(judge, dialect))
    judge.is_bad = True
    upstream.answer([silence()])
    asking = asyncio.create_task(anos.post(route, stream=stream, **ROUTES[route]))
    await upstream.received(1)
    judge.may_speak.set()
    refused = await asking
    assert (refused.status, refused.error) == (400, REFUSED)
    assert refused.headers["anos-guards"] == "moderation=block"
    await asyncio.wait_for(upstream.disconnected.wait(), 10)
    row = await row_of(anos, status=400)
    tokens = row["tokens"]
    assert (tokens["source"], tokens["output"]) == ("estimated", 0)
    assert tokens["input"] > 0
    assert row["cost"]["total_usd"] > 0
    assert [without_time(each) for each in row["guards"]] == [
        {
            "guard": "moderation",
            "direction": "input",
            "action": "block",
            "texts": 1,
            "bytes": 2,
            "rules": {"violence": 1},
        }
    ]
    assert responses_in(anos) == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("route", "dialect"), PATHS)
async def test_an_answer_that_waited_for_a_bad_verdict_is_paid_and_not_stored(
    gateway: Start, upstream: Upstream, judge: Judge, route: str, dialect: str, stream: bool
) -> None:
    anos = await gateway(during(judge, dialect))
    judge.is_bad = True
    has_answered = asyncio.Event()
    upstream.answer(telling(has_answered, answer(dialect, stream=stream)))
    asking = asyncio.create_task(anos.post(route, stream=stream, **ROUTES[route]))
    await answered(anos, judge, has_answered)
    judge.may_speak.set()
    refused = await asking
    assert (refused.status, refused.error) == (400, REFUSED)
    assert b"ne." not in refused.raw
    row = await row_of(anos, status=400)
    if not stream:  # what it used was told
        assert (row["tokens"]["source"], row["tokens"]["output"]) == ("upstream", scripted.USAGE[1])
    assert row["cost"]["total_usd"] > 0
    assert responses_in(anos) == 0


@pytest.mark.parametrize(("on_error", "status"), [("block", 400), ("pass", 200)])
async def test_a_judge_that_is_down_counts_as_it_is_configured(
    gateway: Start, upstream: Upstream, judge: Judge, on_error: str, status: int
) -> None:
    anos = await gateway(during(judge, on_error=on_error))
    judge.answer((500, {"error": {"message": "down"}}, {}))
    assert (await anos.post("/v1/responses", input="Hi")).status == status
    (receipt,) = await receipts(anos, status=status)
    assert receipt["error"] == "down"
    assert receipt["action"] == ("block" if status == 400 else "error")


async def test_a_background_response_is_judged_before_it_is_queued(
    gateway: Start, upstream: Upstream, judge: Judge
) -> None:
    anos = await gateway(during(judge))
    judge.is_bad = True
    judge.may_speak.set()
    refused = await anos.post("/v1/responses", input="Hi", background=True)
    assert (refused.status, refused.error) == (400, REFUSED)
    assert upstream.requests == []


async def test_what_the_keywords_refuse_is_neither_judged_nor_sent(
    gateway: Start, upstream: Upstream, judge: Judge
) -> None:
    words = {"guards": {"keywords": {"input": "block", "phrases": ["zorkmid"]}}}
    anos = await gateway(merge(during(judge), words))
    assert (await anos.post("/v1/responses", input="a zorkmid")).status == 400
    assert (upstream.requests, judge.requests) == ([], [])
    actions = [(each["guard"], each["action"]) for each in await receipts(anos)]
    assert actions == [("keywords", "block"), ("moderation", "skipped")]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_fails_while_it_is_judged_is_told_as_failed(
    gateway: Start, upstream: Upstream, judge: Judge, stream: bool
) -> None:
    anos = await gateway(during(judge))
    upstream.answer([CUT])
    assert (await anos.post("/v1/responses", input="Hi", stream=stream)).status == 502
    (receipt,) = await receipts(anos, status=502)
    assert (receipt["guard"], receipt["action"]) == ("moderation", "skipped")
    await asyncio.wait_for(judge.disconnected.wait(), 10)


async def test_a_client_that_leaves_leaves_the_judge_and_the_model(
    gateway: Start, upstream: Upstream, judge: Judge
) -> None:
    anos = await gateway(during(judge))
    upstream.answer([silence()])
    asking = asyncio.create_task(anos.post("/v1/responses", input="Hi"))
    await asyncio.gather(upstream.received(1), judge.received(1))
    asking.cancel()
    await asyncio.wait_for(judge.disconnected.wait(), 10)
    await asyncio.wait_for(upstream.disconnected.wait(), 10)
    assert (await row_of(anos, status=499))["tokens"]["input"] > 0


@pytest.mark.parametrize("is_bad", [False, True])
async def test_a_child_trusts_only_what_was_cleared(
    gateway: Start, upstream: Upstream, judge: Judge, is_bad: bool
) -> None:
    anos = await gateway(during(judge, input="monitor"))
    judge.is_bad = is_bad
    judge.may_speak.set()
    parent = (await anos.post("/v1/responses", input="Hi")).body["id"]
    judge.is_bad = False
    await anos.post("/v1/responses", input="And?", previous_response_id=parent)
    asked = [each.body["input"] for each in judge.requests]
    assert asked == ["Hi", "Hi\n\nHello\n\nAnd?" if is_bad else "Hello\n\nAnd?"]


async def test_an_answer_is_judged_after_its_request(
    gateway: Start, upstream: Upstream, judge: Judge
) -> None:
    anos = await gateway(during(judge, output="block"))
    judge.may_speak.set()
    _, events = await posted(anos, "/v1/responses")
    assert said(events) == "Hello"
    directions = [(each["direction"], each["action"]) for each in await receipts(anos)]
    assert directions == [("input", "pass"), ("output", "pass")]
