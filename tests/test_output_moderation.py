"""Moderation of what models answer, with a real model's server and a real judge behind it."""

import asyncio
import json
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from anos.state import DEFAULT_BOUNDS, GATEWAY, Bounds
from tests import scripted
from tests.conftest import Gateway, Json, Process, merge
from tests.dialects import says, speaking, streams
from tests.scripted import CUT, Upstream, silence
from tests.test_leaks import ROUTES, chunkings, ended_by_filter, posted
from tests.test_scanner import encoded, said, said_by

Start = Callable[..., Awaitable[Gateway]]
BAD = "VIOLATION"
REFUSED = {
    "message": "Content violates usage policies",
    "type": "content_filter_error",
    "param": "",
    "code": 400,
}
# 63 words of 16 characters are a window.
WORDS = [f"word {number:09d}, " for number in range(200)]
PATHS = [(route, dialect) for route in ROUTES for dialect in ("responses", "chat")]
SOON = Bounds(hold_s=0.05)


def scored(text: str) -> Json:
    score = 0.9 if BAD in text else 0.0
    return {"id": "modr-1", "model": "m", "results": [{"category_scores": {"violence": score}}]}


async def fair(request: web.Request) -> web.StreamResponse:
    """The judge that all tests have unless they name another."""
    return web.json_response(scored((await request.json())["input"]))


class Judge(Upstream):
    """A judge that is fair until a test has told it to `answer` otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self._reply = fair


@pytest.fixture
async def judge(no_task_left: None) -> AsyncIterator[Upstream]:
    """A server with OpenAI's /moderations; what it is asked is in its `requests`."""
    async with Judge() as server:
        yield server


def moderated(judge: Upstream, dialect: str = "responses", **moderation: Any) -> Json:
    given = {"output": "block", "backend": "endpoint", "provider": "judge", "deadline_ms": 20_000}
    return merge(
        speaking(dialect),
        {
            "providers": {"judge": {"dialect": "chat", "base_url": judge.url}},
            "guards": {"moderation": {**given, **moderation}},
        },
    )


def asked(judge: Upstream) -> list[str]:
    return [each.body["input"] for each in judge.requests]


async def row_of(anos: Gateway, **wanted: Any) -> Json:
    """The only call in full, as soon as its row is there; the row has what is wanted."""
    (row,) = await anos.calls()
    assert wanted.items() <= row.items(), row
    full: Json = (await anos.get(f"/admin/requests/{row['id']}")).body
    return full


async def receipts(anos: Gateway, **wanted: Any) -> list[Json]:
    """What the guards did with the only call."""
    found: list[Json] = (await row_of(anos, **wanted))["guards"]
    return found


def without_time(receipt: Json) -> Json:
    return {name: value for name, value in receipt.items() if name != "us"}


async def stored(anos: Gateway, response_id: str) -> Json:
    """A stored response, when it has ended."""
    while True:
        body: Json = (await anos.get(f"/v1/responses/{response_id}")).body
        if body.get("status") not in ("queued", "in_progress"):
            return body


def held_after(dialect: str, *parts: str) -> list[Any]:
    """A stream that falls silent after these deltas, and is ready to end."""
    chunks = streams(dialect, *parts)
    last = max(i for i, each in enumerate(chunks) if isinstance(each, dict) and _has_text(each))
    return chunks[: last + 1]


def _has_text(event: Json) -> bool:
    if "choices" in event:
        return any(choice["delta"].get("content") for choice in event["choices"])
    return str(event["type"]).endswith("text.delta")


# Whole answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("route", "dialect"), PATHS)
async def test_a_whole_answer_that_violates_is_refused_paid_and_not_stored(
    gateway: Start, upstream: Upstream, judge: Upstream, route: str, dialect: str
) -> None:
    price = {"input_per_million_usd": 0, "output_per_million_usd": 1}
    routes = [{"provider": "up", "deployment": "up-model"}]
    models = {"gpt-35-turbo": {"routes": routes, "price": price}}
    anos = await gateway({**moderated(judge, dialect), "models": models})
    upstream.answer(says(dialect, f"Fine: {BAD}."))
    refused = await anos.post(route, **ROUTES[route])
    assert (refused.status, refused.error) == (400, REFUSED)
    assert BAD.encode() not in refused.raw
    assert asked(judge) == [f"Fine: {BAD}."]
    (receipt,) = await receipts(anos, status=400, output_tokens=scripted.USAGE[1], cost_usd=2e-6)
    assert without_time(receipt) == {
        "guard": "moderation",
        "direction": "output",
        "action": "block",
        "texts": 1,
        "bytes": 16,
        "rules": {"violence": 1},
    }
    rows = sqlite3.connect(anos.database).execute("SELECT count(*) FROM responses").fetchone()
    assert rows == (0,)


@pytest.mark.parametrize(("route", "dialect"), PATHS)
@pytest.mark.parametrize(
    ("mode", "text", "action"),
    [("block", "Fine.", "pass"), ("monitor", "Fine.", "pass"), ("monitor", BAD, "monitor")],
)
async def test_a_whole_answer_passes_with_its_receipt(
    gateway: Start,
    upstream: Upstream,
    judge: Upstream,
    route: str,
    dialect: str,
    mode: str,
    text: str,
    action: str,
) -> None:
    anos = await gateway(moderated(judge, dialect, output=mode))
    upstream.answer(says(dialect, text))
    reply = await anos.post(route, **ROUTES[route])
    assert reply.status == 200
    assert text.encode() in reply.raw
    (receipt,) = await receipts(anos, status=200)
    assert (receipt["direction"], receipt["action"]) == ("output", action)
    assert asked(judge) == [text]


async def test_a_model_is_asked_about_an_answer_as_about_what_an_assistant_says(
    gateway: Start, upstream: Upstream, judge: Upstream
) -> None:
    upstream.answer(scripted.responses_text("Fine."))
    judge.answer(scripted.chat_text("safe"), scripted.chat_text("unsafe\nS1"))
    anos = await gateway(moderated(judge, backend="model", model="llama-guard"))
    assert (await anos.post("/v1/responses", input="Hi")).status == 200
    upstream.answer(scripted.responses_text("Not fine."))
    assert (await anos.post("/v1/responses", input="Hi")).status == 400
    roles = [message["role"] for message in judge.requests[0].body["messages"]]
    assert roles == ["user", "assistant"]


async def test_a_request_is_not_judged_where_only_answers_are(
    gateway: Start, upstream: Upstream, judge: Upstream
) -> None:
    anos = await gateway(moderated(judge))
    assert (await anos.post("/v1/responses", input=BAD)).status == 200
    assert asked(judge) == ["Hello"]


async def test_requests_and_answers_are_judged_where_both_are_to_be(
    gateway: Start, upstream: Upstream, judge: Upstream
) -> None:
    anos = await gateway(moderated(judge, input="block"))
    assert (await anos.post("/v1/responses", input="Hi")).status == 200
    assert asked(judge) == ["Hi", "Hello"]
    directions = [(each["direction"], each["action"]) for each in await receipts(anos)]
    assert directions == [("input", "pass"), ("output", "pass")]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_built_in_rules_judge_answers_too(
    gateway: Start, upstream: Upstream, stream: bool
) -> None:
    anos = await gateway({"guards": {"moderation": {"output": "block"}}})
    text = "I'm going to kill my wife."
    upstream.answer(streams("responses", text) if stream else says("responses", text))
    reply = await anos.post("/v1/responses", input="Hi", stream=stream)
    assert reply.status == (200 if stream else 400)
    assert b"kill" not in reply.raw
    (receipt,) = await receipts(anos)
    assert (receipt["action"], receipt["rules"]) == ("block", {"violence": 1})


# Streams ------------------------------------------------------------------------------------------


def unnamed(raw: bytes) -> bytes:
    """Without what every response has of its own: ids and times."""
    raw = re.sub(rb'"(resp|msg|chatcmpl)_[0-9a-f]{32}"', b'"id"', raw)
    return re.sub(rb'"(created|created_at|completed_at)":\d+', rb'"\1":0', raw)


@pytest.mark.parametrize(("route", "dialect"), PATHS)
async def test_a_clean_stream_has_the_bytes_it_has_without_a_guard_however_it_comes(
    gateway: Start, upstream: Upstream, judge: Upstream, route: str, dialect: str
) -> None:
    plain, anos = await gateway(speaking(dialect)), await gateway(moderated(judge, dialect))
    data = b"".join(encoded(streams(dialect, *WORDS)))
    upstream.answer([data])
    expected = await plain.post(route, stream=True, **ROUTES[route])
    assert WORDS[-1].encode() in expected.raw
    sizes = [[data[at : at + size] for at in range(0, len(data), size)] for size in (50, 999, 9999)]
    for chunks in [[data], *sizes, *chunkings(data, 6, route + dialect)]:
        upstream.answer(chunks)
        reply = await anos.post(route, stream=True, **ROUTES[route])
        assert unnamed(reply.raw) == unnamed(expected.raw)
    assert len(judge.requests) == 4  # what is cut otherwise is asked about in the same windows
    if "responses" in route:
        made = json.loads(reply.raw.rpartition(b"data: {")[2].partition(b"\n")[0].join([b"{", b""]))
        body = await stored(anos, made["response"]["id"])
        assert said_by(body["output"]) == "".join(WORDS)


@pytest.mark.parametrize(("route", "dialect"), PATHS)
@pytest.mark.parametrize("window", [1, 2, 3])
async def test_a_violation_ends_a_stream_and_no_byte_of_its_window_arrives(
    gateway: Start, upstream: Upstream, judge: Upstream, route: str, dialect: str, window: int
) -> None:
    anos = await gateway(moderated(judge, dialect))
    words = [*WORDS]
    words[63 * window - 30] = f"{BAD}, "
    upstream.answer([*held_after(dialect, *words), silence()])
    arrived, events = await posted(anos, route)
    await asyncio.wait_for(upstream.disconnected.wait(), 5)
    assert ended_by_filter(events)
    assert said(events) == "".join(words[: 63 * (window - 1)])
    assert not any(word.encode() in arrived for word in words[63 * (window - 1) :])
    assert len(asked(judge)) == window
    assert route == "/v1/responses" or b"data: [DONE]" in arrived
    (receipt,) = await receipts(anos, status=200, finish="content_filter")
    assert (receipt["action"], receipt["texts"], receipt["rules"]) == (
        "block",
        window,
        {"violence": 1},
    )
    assert receipt["bytes"] == sum(map(len, asked(judge)))
    if "response" in events[-1]:
        response = events[-1]["response"]
        body = await stored(anos, response["id"])
        assert body["output"] == response["output"]
        assert said_by(body["output"]) == said(events)
        assert body["incomplete_details"] == {"reason": "content_filter"}


@pytest.mark.parametrize(("route", "dialect"), PATHS)
async def test_in_monitor_a_violation_is_noted_and_nothing_else(
    gateway: Start, upstream: Upstream, judge: Upstream, route: str, dialect: str
) -> None:
    anos = await gateway(moderated(judge, dialect, output="monitor"))
    words = [*WORDS[:80], BAD, *WORDS[80:]]
    upstream.answer(streams(dialect, *words))
    _, events = await posted(anos, route)
    assert said(events) == "".join(words)
    assert not ended_by_filter(events)
    (receipt,) = await receipts(anos, status=200)
    assert receipt["action"] == "monitor"
    assert 1 <= receipt["texts"] <= 4  # as the chunks came
    assert receipt["rules"]["violence"] >= 1
    assert all(any(word in text for text in asked(judge)) for word in words)


async def test_a_stream_that_violates_before_its_first_byte_is_a_plain_400(
    gateway: Start, upstream: Upstream, judge: Upstream
) -> None:
    anos = await gateway(moderated(judge, "chat"))
    whole = scripted.chat_stream([BAD])
    whole[1]["choices"][0]["delta"]["role"] = "assistant"
    upstream.answer(whole[1:])
    route = "/v1/chat/completions"
    refused = await anos.post(route, stream=True, **ROUTES[route])
    assert (refused.status, refused.error) == (400, REFUSED)
    (receipt,) = await receipts(anos, status=400, output_tokens=2)
    assert receipt["action"] == "block"


@pytest.mark.parametrize(("route", "dialect"), PATHS)
async def test_an_answer_in_one_piece_to_a_request_for_a_stream_is_judged_in_windows(
    gateway: Start, upstream: Upstream, judge: Upstream, route: str, dialect: str
) -> None:
    anos = await gateway(moderated(judge, dialect))
    upstream.answer(says(dialect, "".join([*WORDS[:100], BAD])))
    reply = await anos.post(route, stream=True, **ROUTES[route])
    assert BAD.encode() not in reply.raw
    # Its first chunk has all the text, where it is passed on as it is.
    is_refused = (route, dialect) == ("/v1/chat/completions", "chat")
    assert (reply.status == 400) == is_refused
    assert is_refused or b"content_filter" in reply.raw


# Held ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [DEFAULT_BOUNDS, Bounds(hold_s=0.2)], ids=["a second", "less"])
@pytest.mark.parametrize(("route", "dialect"), PATHS)
async def test_text_of_a_silent_upstream_arrives_when_its_time_is_over(
    gateway: Start, upstream: Upstream, judge: Upstream, route: str, dialect: str, bounds: Bounds
) -> None:
    anos = await gateway(moderated(judge, dialect), bounds)
    rest = asyncio.Event()
    chunks = streams(dialect, "Hello", ", world", ". Bye.")
    at = next(i for i, each in enumerate(chunks) if "Bye" in str(each))
    upstream.answer([*chunks[:at], rest, *chunks[at:]])
    started_s = time.monotonic()
    events = []
    async with anos.open_stream(route, **ROUTES[route]) as response:
        while (event := await anos.next_event(response)) is not None:
            events.append(event)
            if ", world" in said(events) and not rest.is_set():
                passed_s = time.monotonic() - started_s
                rest.set()
    assert bounds.hold_s * 0.9 < passed_s < bounds.hold_s + 1.5
    assert said(events) == "Hello, world. Bye."
    assert asked(judge) == ["Hello, world", "Hello, world. Bye."]


@pytest.mark.parametrize(("route", "dialect"), PATHS)
async def test_so_much_text_is_judged_at_once_however_long_it_might_wait(
    gateway: Start, upstream: Upstream, judge: Upstream, route: str, dialect: str
) -> None:
    anos = await gateway(moderated(judge, dialect), Bounds(hold_s=3600))
    rest = asyncio.Event()
    words = WORDS[:63]
    upstream.answer([*held_after(dialect, *words), rest, CUT])
    events: list[Json] = []
    async with anos.open_stream(route, **ROUTES[route]) as response:
        while said(events) != "".join(words):
            event = await anos.next_event(response)
            assert event is not None
            events.append(event)
        rest.set()
    assert asked(judge) == ["".join(words)]


@pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
@pytest.mark.parametrize("dialect", ["responses", "chat"])
async def test_no_chunk_is_lost_where_the_time_is_always_over(
    gateway: Start, upstream: Upstream, judge: Upstream, dialect: str
) -> None:
    anos = await gateway(moderated(judge, dialect), Bounds(hold_s=0.0005))
    data = b"".join(encoded(streams(dialect, *WORDS)))
    for chunks in chunkings(data, 20, dialect):
        upstream.answer(chunks)
        _, events = await posted(anos, "/v1/responses")
        assert said(events) == "".join(WORDS)


async def test_a_stream_breaks_off_without_what_was_not_judged(
    gateway: Start, upstream: Upstream, judge: Upstream
) -> None:
    anos = await gateway(moderated(judge))
    upstream.answer([*held_after("responses", *WORDS[:70]), CUT])
    arrived, events = await posted(anos, "/v1/responses")
    assert events[-1]["type"] == "response.failed"
    assert said(events) == "".join(WORDS[:63])
    assert WORDS[64].encode() not in arrived
    assert len(asked(judge)) == 1
    body = await stored(anos, events[-1]["response"]["id"])
    assert body["output"] == events[-1]["response"]["output"]


# A judge that fails -------------------------------------------------------------------------------

LIE = {"results": [{"flagged": True, "categories": {"hate": False}}]}
TROUBLES: dict[str, tuple[Callable[[], Any], str]] = {
    "down": (lambda: (500, {"error": {"message": "no"}}, {}), "down"),
    "cut": (lambda: [scripted.HEADERS, CUT], "down"),
    "silent": (lambda: [silence()], "timeout"),
    "slow": (lambda: [scripted.HEADERS, b"{", silence()], "timeout"),
    "wrong": (lambda: (200, "<html>", {}), "wrong answer"),
    "lying": (lambda: LIE, "wrong answer"),
}


@pytest.mark.parametrize("on_error", ["block", "pass"])
@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_judge_that_fails_ends_a_stream_or_lets_it_pass_and_the_receipt_says_so(
    gateway: Start, upstream: Upstream, judge: Upstream, trouble: str, on_error: str
) -> None:
    make, error = TROUBLES[trouble]
    anos = await gateway(moderated(judge, deadline_ms=300, on_error=on_error))
    judge.answer(make())
    upstream.answer(streams("responses", *WORDS[:70]))
    started_s = time.monotonic()
    arrived, events = await posted(anos, "/v1/responses")
    assert time.monotonic() - started_s < 5
    (receipt,) = await receipts(anos, status=200)
    assert receipt["error"] == error
    if on_error == "block":
        assert ended_by_filter(events)
        assert b"word" not in arrived
        assert (receipt["action"], receipt["rules"]) == ("block", {"unavailable": 1})
    else:
        assert said(events) == "".join(WORDS[:70])
        assert (receipt["action"], receipt["texts"], "rules" in receipt) == ("error", 2, False)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("on_error", ["block", "pass"])
async def test_a_judge_that_fails_refuses_a_whole_answer_or_lets_it_pass(
    gateway: Start, upstream: Upstream, judge: Upstream, route: str, on_error: str
) -> None:
    anos = await gateway(moderated(judge, deadline_ms=100, on_error=on_error))
    judge.answer([silence()])
    reply = await anos.post(route, **ROUTES[route])
    assert reply.status == (400 if on_error == "block" else 200)
    (receipt,) = await receipts(anos)
    assert (receipt["action"], receipt["error"]) == (
        "block" if on_error == "block" else "error",
        "timeout",
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_the_time_of_the_judge_is_the_gateways_own(
    gateway: Start, upstream: Upstream, judge: Upstream, stream: bool
) -> None:
    anos = await gateway(moderated(judge, deadline_ms=100, on_error="pass"))
    judge.answer([silence()])
    upstream.answer((streams if stream else says)("responses", "".join(WORDS)))
    await anos.post("/v1/responses", input="Hi", stream=stream)
    timing = (await row_of(anos))["timing"]
    assert timing["overhead_ms"] >= 100
    assert timing["upstream_ms"] < timing["duration_ms"] - 100


async def test_a_judge_that_comes_back_is_asked_again(
    gateway: Start, upstream: Upstream, judge: Upstream
) -> None:
    anos = await gateway(moderated(judge, on_error="pass"))
    judge.answer((500, {}, {}), fair)
    words = [*WORDS[:100], BAD]
    upstream.answer(streams("responses", *words))
    _, events = await posted(anos, "/v1/responses")
    assert said(events) == "".join(WORDS[:63])
    (receipt,) = await receipts(anos)
    assert (receipt["action"], receipt["error"], receipt["texts"]) == ("block", "down", 2)


# Left and cancelled -------------------------------------------------------------------------------


async def begun(anos: Gateway, response: Any) -> str:
    event = await anos.next_event(response)
    assert event is not None
    response_id: str = event["response"]["id"]
    return response_id


async def arrived(anos: Gateway, chunks: list[Any]) -> None:
    """Returns when the gateway has read all of these from the upstream of its only call."""
    (run,) = anos.app[GATEWAY].runs.now()
    expected = sum(len(scripted.encode(chunk)) for chunk in chunks)
    async with asyncio.timeout(5):
        while (run.exchange.response_bytes or 0) < expected:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0)


@asynccontextmanager
async def waiting(
    gateway: Start, upstream: Upstream, judge: Upstream, dialect: str, *, is_judged: bool
) -> AsyncIterator[tuple[Gateway, Any, str]]:
    """A stream whose "Hello" waits: to be judged, or while it is; with it the response's id."""
    anos = await gateway(moderated(judge, dialect), Bounds(hold_s=0.01 if is_judged else 3600))
    judge.answer([silence()])
    chunks = held_after(dialect, "Hello")
    upstream.answer([*chunks, silence()])
    async with anos.open_stream("/v1/responses", input="Hi") as response:
        made = await begun(anos, response)
        await (judge.received(1) if is_judged else arrived(anos, chunks))
        yield anos, response, made


@pytest.mark.parametrize("is_judged", [True, False], ids=["judged", "held"])
@pytest.mark.parametrize("dialect", ["responses", "chat"])
async def test_a_cancel_lets_out_nothing_that_waits(
    gateway: Start, upstream: Upstream, judge: Upstream, dialect: str, is_judged: bool
) -> None:
    events = []
    held = waiting(gateway, upstream, judge, dialect, is_judged=is_judged)
    async with held as (anos, response, made):
        assert (await anos.request("POST", f"/v1/responses/{made}/cancel")).status == 200
        while (event := await anos.next_event(response)) is not None:
            events.append(event)
    assert events[-1]["response"]["status"] == "cancelled"
    assert said(events) == ""
    assert said_by((await stored(anos, made))["output"]) == ""
    await asyncio.wait_for(upstream.disconnected.wait(), 5)
    if is_judged:
        await asyncio.wait_for(judge.disconnected.wait(), 5)


@pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
@pytest.mark.parametrize("is_judged", [True, False], ids=["judged", "held"])
@pytest.mark.parametrize("dialect", ["responses", "chat"])
async def test_a_client_that_leaves_stops_model_and_judge_and_nothing_that_waits_is_stored(
    gateway: Start, upstream: Upstream, judge: Upstream, dialect: str, is_judged: bool
) -> None:
    held = waiting(gateway, upstream, judge, dialect, is_judged=is_judged)
    async with held as (anos, _, made):
        pass  # and the client leaves
    await asyncio.wait_for(upstream.disconnected.wait(), 5)
    if is_judged:
        await asyncio.wait_for(judge.disconnected.wait(), 5)
    body = await stored(anos, made)
    assert body["status"] == "cancelled"
    assert said_by(body["output"]) == ""


@pytest.mark.parametrize("route", ROUTES)
async def test_a_client_that_leaves_while_its_whole_answer_is_judged_has_used_what_it_used(
    gateway: Start, upstream: Upstream, judge: Upstream, route: str
) -> None:
    anos = await gateway(moderated(judge))
    judge.answer([silence()])
    upstream.answer(says("responses", "Hello", usage=(70, 3000)))
    asking = asyncio.create_task(anos.post(route, **ROUTES[route]))
    await judge.received(1)
    asking.cancel()
    await asyncio.wait_for(judge.disconnected.wait(), 5)
    await receipts(anos, status=499, output_tokens=3000)


async def test_a_cancel_while_a_whole_answer_is_judged_stores_none_of_it(
    gateway: Start, upstream: Upstream, judge: Upstream
) -> None:
    anos = await gateway(moderated(judge))
    judge.answer([silence()])
    asking = asyncio.create_task(anos.post("/v1/responses", input="Hi"))
    await judge.received(1)
    (run,) = (await anos.get("/admin/inflight")).body["data"]
    assert (await anos.request("POST", f"/v1/responses/{run['id']}/cancel")).status == 200
    reply = await asking
    assert (reply.status, reply.body["status"], reply.body["output"]) == (200, "cancelled", [])
    assert (await stored(anos, run["id"]))["output"] == []


# In the background --------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["responses", "chat"])
@pytest.mark.parametrize("bad", [None, 10, 100])
async def test_a_background_response_stores_what_was_cleared(
    gateway: Start, upstream: Upstream, judge: Upstream, dialect: str, bad: int | None
) -> None:
    anos = await gateway(moderated(judge, dialect))
    words = [*WORDS]
    if bad is not None:
        words[bad] = BAD
    upstream.answer(streams(dialect, *words))
    made = (await anos.post("/v1/responses", input="Hi", background=True)).body
    body = await stored(anos, made["id"])
    if bad is None:
        assert (body["status"], said_by(body["output"])) == ("completed", "".join(words))
    else:
        assert body["incomplete_details"] == {"reason": "content_filter"}
        assert said_by(body["output"]) == "".join(words[: 63 if bad > 63 else 0])
    listed = json.dumps((await anos.get(f"/v1/responses/{made['id']}")).body)
    assert BAD not in listed


async def test_a_background_response_can_be_cancelled_while_it_is_judged(
    gateway: Start, upstream: Upstream, judge: Upstream
) -> None:
    anos = await gateway(moderated(judge), SOON)
    judge.answer([silence()])
    upstream.answer([*held_after("responses", "Hello"), silence()])
    made = (await anos.post("/v1/responses", input="Hi", background=True)).body
    await judge.received(1)
    assert (await anos.request("POST", f"/v1/responses/{made['id']}/cancel")).status == 200
    body = await stored(anos, made["id"])
    assert (body["status"], said_by(body["output"])) == ("cancelled", "")
    await asyncio.wait_for(judge.disconnected.wait(), 5)


# Together with the keywords -----------------------------------------------------------------------


def both(judge: Upstream, dialect: str, mode: str) -> Json:
    keywords = {"input": "off", "output": mode, "phrases": ["cheap pills"]}
    return merge(moderated(judge, dialect), {"guards": {"keywords": keywords}})


@pytest.mark.parametrize(("route", "dialect"), PATHS)
@pytest.mark.parametrize(
    ("mode", "text", "status", "actions"),
    [
        ("block", "Fine.", 200, ["pass", "pass"]),
        ("block", "Cheap pills.", 400, ["block", "skipped"]),
        ("block", BAD, 400, ["pass", "block"]),
        ("mask", "Cheap pills.", 200, ["mask", "pass"]),
        ("monitor", f"Cheap pills, {BAD}.", 400, ["monitor", "block"]),
    ],
)
async def test_both_guards_look_at_a_whole_answer(
    gateway: Start,
    upstream: Upstream,
    judge: Upstream,
    route: str,
    dialect: str,
    mode: str,
    text: str,
    status: int,
    actions: list[str],
) -> None:
    anos = await gateway(both(judge, dialect, mode))
    upstream.answer(says(dialect, text))
    assert (await anos.post(route, **ROUTES[route])).status == status
    found = await receipts(anos, status=status)
    assert [each["guard"] for each in found] == ["keywords", "moderation"]
    assert [each["action"] for each in found] == actions
    if mode == "mask":
        assert asked(judge) == ["***."]


@pytest.mark.parametrize(("route", "dialect"), PATHS)
@pytest.mark.parametrize(
    ("mode", "words", "expected", "actions"),
    [
        ("block", ["Fine: ", "cheap ", "pills."], "Fine: ", ["block", "pass"]),
        ("block", ["cheap ", "pills."], "", ["block", "skipped"]),
        ("block", ["Fine: ", f"{BAD}, ", "cheap ", "pills."], "", ["block", "block"]),
        ("mask", ["Fine: ", "cheap ", "pills."], "Fine: ***.", ["mask", "pass"]),
        ("mask", ["cheap ", "pills: ", BAD], "", ["mask", "block"]),
    ],
)
async def test_both_guards_look_at_a_stream(
    gateway: Start,
    upstream: Upstream,
    judge: Upstream,
    route: str,
    dialect: str,
    mode: str,
    words: list[str],
    expected: str,
    actions: list[str],
) -> None:
    anos = await gateway(both(judge, dialect, mode))
    upstream.answer(streams(dialect, *words))
    arrived, events = await posted(anos, route)
    assert said(events) == expected
    assert b"cheap" not in arrived
    assert ended_by_filter(events) == ("block" in actions)
    found = await receipts(anos, status=200)
    assert [(each["guard"], each["action"]) for each in found] == [
        ("keywords", actions[0]),
        ("moderation", actions[1]),
    ]


# In a process -------------------------------------------------------------------------------------


async def test_a_process_moderates_what_it_streams(
    process: Callable[..., Awaitable[Process]], upstream: Upstream, judge: Upstream
) -> None:
    running = await process(moderated(judge))
    words = [*WORDS[:100], BAD]
    upstream.answer(streams("responses", *words))
    events = await running.stream("/v1/responses", input="Hi")
    assert said(events) == "".join(WORDS[:63])
    assert events[-1]["response"]["incomplete_details"] == {"reason": "content_filter"}
    upstream.answer(streams("responses", *WORDS))
    assert said(await running.stream("/v1/responses", input="Hi")) == "".join(WORDS)
