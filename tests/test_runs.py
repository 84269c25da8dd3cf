"""Responses while they run, over HTTP in front of upstreams of both dialects.

They can be read and cancelled. A cancel stops the upstream, and what was said is kept. A background
response needs no client.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from anos.state import GATEWAY
from tests import scripted
from tests.conftest import Gateway, Json
from tests.dialects import begin, held, says, speaking, streams, text, text_of, told
from tests.scripted import silence


@pytest.fixture(params=["responses", "chat"])
def dialect(request: pytest.FixtureRequest) -> str:
    """What the upstream speaks."""
    name: str = request.param
    return name


# In flight ---------------------------------------------------------------------------------------


async def test_a_running_response_can_be_read_but_neither_deleted_nor_continued(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    parent = (await anos.post("/v1/responses", input="one")).body["id"]
    upstream.answer(held(dialect, "Hel"))
    running, reading = await begin(anos, input="two", previous_response_id=parent)
    shown = (await anos.get(f"/v1/responses/{running}")).body
    assert (shown["id"], shown["status"], shown["output"]) == (running, "in_progress", [])
    assert shown["usage"] is None
    page = (await anos.get(f"/v1/responses/{running}/input_items", order="asc")).body
    assert [text_of(item["content"]) for item in page["data"]] == ["one", "Hello", "two"]
    assert (page["first_id"], page["has_more"]) == (page["data"][0]["id"], False)
    deleted = await anos.delete(f"/v1/responses/{running}")
    assert (deleted.status, "cancel it first" in deleted.error["message"]) == (400, True)
    child = await anos.post("/v1/responses", input="three", previous_response_id=running)
    assert (child.status, child.error["code"]) == (400, "previous_response_not_found")
    assert "still in progress" in child.error["message"]
    assert (await anos.post(f"/v1/responses/{running}/cancel")).status == 200
    await reading
    assert (await anos.delete(f"/v1/responses/{running}")).status == 200


async def test_a_client_that_leaves_during_the_commit_loses_nothing(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    upstream.answer(streams(dialect, "Hel", "lo"))
    async with held_database(anos):
        async with anos.open_stream("/v1/responses", input="Hi") as response:
            response_id = (await anos.next_event(response))["response"]["id"]
            while not anos.app[GATEWAY].runs._runs[response_id].is_ending:
                await anos.get("/healthz")
        for _ in range(20):
            meanwhile = await anos.get(f"/v1/responses/{response_id}")
            assert (meanwhile.status, meanwhile.body["status"]) == (200, "in_progress")
    kept = await ended(anos, response_id)
    assert (kept["status"], text(kept)) == ("completed", "Hello")


async def test_a_client_that_leaves_while_its_background_response_is_created_stops_nothing(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    async with held_database(anos):
        leaving = asyncio.create_task(anos.post("/v1/responses", input="Hi", background=True))
        while not running_ids(anos):
            await anos.get("/healthz")
        (response_id,) = running_ids(anos)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert (await anos.get(f"/v1/responses/{response_id}")).body["status"] == "queued"
        assert not upstream.requests
    assert (await ended(anos, response_id))["status"] == "completed"
    await anos.stop()
    rows = sqlite3.connect(anos.database).execute(
        "SELECT status, finish FROM exchanges WHERE response_id = ? AND method = 'POST'",
        [response_id],
    )
    assert rows.fetchall() == [(200, "completed")]


@asynccontextmanager
async def held_database(anos: Gateway) -> AsyncIterator[None]:
    """Meanwhile nothing can be committed, because another program writes."""
    other = sqlite3.connect(anos.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


async def test_a_chat_completion_is_no_response(gateway, upstream, dialect: str) -> None:
    anos = await gateway(speaking(dialect))
    upstream.answer(held(dialect, "Hel"))
    said = [{"role": "user", "content": "Hi"}]
    async with anos.open_stream("/v1/chat/completions", messages=said) as response:
        chunk = await anos.next_event(response)
        for chat_id in (chunk["id"], *running_ids(anos)):
            for method, path in (("GET", ""), ("GET", "/input_items"), ("POST", "/cancel")):
                unknown = await anos.request(method, f"/v1/responses/{chat_id}{path}")
                assert unknown.status == 404, (method, path)
            body = {"input": "?", "previous_response_id": chat_id}
            assert (await anos.post("/v1/responses", **body)).status == 400


# Cancel ------------------------------------------------------------------------------------------


async def test_cancel_stops_the_upstream_and_keeps_what_was_said(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    upstream.answer(held(dialect, "Hel", "lo"))
    response_id, reading = await begin(anos, input="Hi")
    cancelled = await anos.post(f"/v1/responses/{response_id}/cancel")
    await asyncio.wait_for(upstream.disconnected.wait(), 2)
    assert (cancelled.status, cancelled.body["status"]) == (200, "cancelled")
    assert text(cancelled.body) == "Hello"
    assert [item["status"] for item in cancelled.body["output"]] == ["incomplete"]
    last = (await reading)[-1]
    assert (last["type"], last["response"]) == ("response.failed", cancelled.body)
    assert (await anos.get(f"/v1/responses/{response_id}")).body == cancelled.body
    again = await anos.post(f"/v1/responses/{response_id}/cancel")
    assert (again.status, again.body) == (200, cancelled.body)


@pytest.mark.parametrize("streamed", [False, True])
async def test_cancel_while_the_upstream_has_not_answered_at_all(
    gateway, upstream, dialect: str, streamed: bool
) -> None:
    """The client that waits gets the cancelled response with status 200."""
    anos = await gateway(speaking(dialect))
    upstream.answer([silence()])
    waiting = asyncio.create_task(
        anos.stream("/v1/responses", input="Hi")
        if streamed
        else anos.post("/v1/responses", input="Hi")
    )
    await upstream.received(1)
    (response_id,) = running_ids(anos)
    cancelled = await anos.post(f"/v1/responses/{response_id}/cancel")
    await asyncio.wait_for(upstream.disconnected.wait(), 2)
    assert (cancelled.status, cancelled.body["output"]) == (200, [])
    answer = await waiting
    if streamed:
        assert [event["type"] for event in answer] == [
            "response.created", "response.in_progress", "response.failed"
        ]  # fmt: skip
        assert answer[-1]["response"] == cancelled.body
    else:
        assert (answer.status, answer.body) == (200, cancelled.body)
    assert (await anos.get(f"/v1/responses/{response_id}")).body == cancelled.body


async def test_cancels_at_the_same_time_all_get_the_same_answer(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    upstream.answer(held(dialect, "Hel"))
    response_id, reading = await begin(anos, input="Hi")
    path = f"/v1/responses/{response_id}/cancel"
    answers = await asyncio.gather(*[anos.post(path) for _ in range(5)])
    assert [answer.status for answer in answers] == [200] * 5
    assert all(answer.body == answers[0].body for answer in answers)
    assert (await reading)[-1]["type"] == "response.failed"


@pytest.mark.parametrize("ending", ["completed", "incomplete", "failed"])
async def test_cancel_of_what_has_ended_names_the_state(
    gateway, upstream, dialect: str, ending: str
) -> None:
    anos = await gateway(speaking(dialect))
    if ending == "failed":
        upstream.answer([*held(dialect, "Hel")[:-1], scripted.CUT])
    elif ending == "incomplete":
        finish = {"finish": "length"} if dialect == "chat" else {"status": "incomplete"}
        upstream.answer(streams(dialect, "Hel", **finish))
    made = (await anos.stream("/v1/responses", input="Hi"))[-1]["response"]
    refused = await anos.post(f"/v1/responses/{made['id']}/cancel")
    assert refused.status == 400
    assert (
        refused.error["message"]
        == f"Cannot cancel {'an' if ending == 'incomplete' else 'a'} {ending} response."
    )
    assert (await anos.get(f"/v1/responses/{made['id']}")).body == made


async def test_a_cancel_that_meets_the_end_is_one_or_the_other_for_everybody(
    gateway, upstream, dialect: str
) -> None:
    """The cancel comes after none, one, two … events: before, at, or after the end."""
    anos = await gateway(speaking(dialect))
    upstream.answer(streams(dialect, *"Hello"))
    outcomes = set()
    for count in range(1, 16):
        async with anos.open_stream("/v1/responses", input="Hi") as response:
            events = [await anos.next_event(response)]
            response_id = events[0]["response"]["id"]
            while len(events) < count and (event := await anos.next_event(response)):
                events.append(event)
            cancelled = await anos.post(f"/v1/responses/{response_id}/cancel")
            while event := await anos.next_event(response):
                events.append(event)
        told = events[-1]["response"]
        assert (await anos.get(f"/v1/responses/{response_id}")).body == told
        outcomes.add(told["status"])
        if told["status"] == "cancelled":
            assert (cancelled.status, cancelled.body) == (200, told)
        else:
            assert cancelled.error["message"] == "Cannot cancel a completed response."
    assert "completed" in outcomes


async def test_cancel_of_an_unknown_response_is_404(gateway, upstream, dialect: str) -> None:
    anos = await gateway(speaking(dialect))
    unknown = await anos.post("/v1/responses/resp_none/cancel")
    assert (unknown.status, unknown.error["code"]) == (404, "not_found")
    assert unknown.error["message"] == "Response with id 'resp_none' not found."


def running_ids(anos: Gateway) -> list[str]:
    """The ids of the responses that run in this gateway."""
    return list(anos.app[GATEWAY].runs._runs)


# Background --------------------------------------------------------------------------------------


async def ended(anos: Gateway, response_id: str) -> Json:
    """A background response when it has ended; what any client does: it polls."""
    while True:
        response: Json = (await anos.get(f"/v1/responses/{response_id}")).body
        if response["status"] not in ("queued", "in_progress"):
            return response


async def test_a_background_response_is_queued_runs_and_ends_without_its_client(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    gate = asyncio.Event()
    upstream.answer([gate, *streams(dialect, "Hel", "lo")], says(dialect, "again"))
    queued = await anos.post("/v1/responses", input="Hi", background=True)
    assert (queued.status, queued.body["status"], queued.body["output"]) == (200, "queued", [])
    response_id = queued.body["id"]
    await upstream.received(1)
    running = (await anos.get(f"/v1/responses/{response_id}")).body
    assert (running["status"], running["background"]) == ("in_progress", True)
    gate.set()
    made = await ended(anos, response_id)
    assert (made["status"], text(made)) == ("completed", "Hello")
    assert made["usage"]["output_tokens"] == 2
    child = await anos.post("/v1/responses", input="More", previous_response_id=response_id)
    assert child.status == 200
    assert told(upstream) == [("user", "Hi"), ("assistant", "Hello"), ("user", "More")]


async def test_a_background_response_takes_its_place_when_it_is_created(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    root = (await anos.post("/v1/responses", input="root")).body["id"]
    gate = asyncio.Event()
    upstream.answer([gate, *streams(dialect, "slow")], says(dialect, "quick"))
    slow = await anos.post(
        "/v1/responses", input="behind", previous_response_id=root, background=True
    )
    await upstream.received(2)
    quick = await anos.post("/v1/responses", input="front", previous_response_id=root)
    gate.set()
    await ended(anos, slow.body["id"])
    for parent, said in ((slow, ["behind", "slow"]), (quick, ["front", "quick"])):
        upstream.answer(says(dialect, "end"))
        await anos.post("/v1/responses", input="?", previous_response_id=parent.body["id"])
        assert [text for _, text in told(upstream)] == ["root", "Hello", *said, "?"]


async def test_cancel_of_a_background_response(gateway, upstream, dialect: str) -> None:
    anos = await gateway(speaking(dialect))
    upstream.answer(held(dialect, "Hel", "lo"))
    made = (await anos.post("/v1/responses", input="Hi", background=True)).body
    await upstream.received(1)
    cancelled = await anos.post(f"/v1/responses/{made['id']}/cancel")
    await asyncio.wait_for(upstream.disconnected.wait(), 2)
    assert (cancelled.status, cancelled.body["status"]) == (200, "cancelled")
    assert (await anos.get(f"/v1/responses/{made['id']}")).body == cancelled.body


async def test_a_background_response_fails_where_nobody_is_told(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    upstream.answer((400, {"error": {"message": "No such tool.", "code": "bad"}}, {}))
    made = (await anos.post("/v1/responses", input="Hi", background=True)).body
    failed = await ended(anos, made["id"])
    assert failed["status"] == "failed"
    error = {"type": "server_error", "code": "bad", "message": "No such tool."}
    assert failed["error"] == error


@pytest.mark.parametrize(("field", "value"), [("store", False), ("stream", True)])
async def test_a_background_response_must_be_stored_and_cannot_stream(
    gateway, upstream, dialect: str, field: str, value: bool
) -> None:
    anos = await gateway(speaking(dialect))
    refused = await anos.post("/v1/responses", input="Hi", background=True, **{field: value})
    wrong = "background" if field == "store" else "stream"
    assert (refused.status, refused.error["code"]) == (400, "unsupported_parameter")
    assert refused.error["param"] == wrong
    assert not upstream.requests


async def test_nothing_can_be_streamed_after_its_creation(gateway, upstream, dialect: str) -> None:
    anos = await gateway(speaking(dialect))
    made = (await anos.post("/v1/responses", input="Hi")).body
    refused = await anos.get(f"/v1/responses/{made['id']}", stream="true")
    assert (refused.status, refused.error["param"]) == (400, "stream")
    assert (await anos.get(f"/v1/responses/{made['id']}", stream="false")).body == made
