"""With a guard on the output, what a socket carries has no byte of a banned phrase."""

import asyncio
import json
import random
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from tests import grammar, raw, scripted
from tests.conftest import Gateway, Json
from tests.scripted import Upstream, silence
from tests.test_scanner import (
    CHAT,
    DISGUISES,
    IS_TORTURE,
    KINDS,
    PHRASE,
    RESPONSES,
    around,
    cut,
    encoded,
    said,
    said_by,
    some,
)

Start = Callable[..., Awaitable[Gateway]]
ROUTES: dict[str, Json] = {
    "/v1/responses": {"input": "Hi"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
}
# A client that speaks Responses is shown one choice, and of reasoning its text.
COMBINATIONS = [
    (route, kind)
    for route in ROUTES
    for kind in KINDS
    if not ("responses" in route and kind in ("second choice", "reasoning_details"))
]


def guarded(kind: str, mode: str = "block") -> Json:
    dialect = "responses" if kind in RESPONSES else "chat"
    keywords = {"input": "off", "output": mode, "phrases": [PHRASE]}
    return {
        "providers": {"up": {"dialect": dialect}},
        "guards": {"keywords": keywords},
    }


async def posted(anos: Gateway, route: str, **body: Any) -> tuple[bytes, list[Json]]:
    """The bytes of a stream as they were on the socket, and its events, which are correct."""
    tree = {"model": "gpt-35-turbo", "stream": True, **ROUTES[route], **body}
    data = json.dumps(tree).encode()
    head = f"POST {route} HTTP/1.1\r\nAuthorization: Bearer sk-1234\r\nConnection: close\r\n"
    async with raw.connect(anos) as client:
        client.send(head.encode() + raw.HOST + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        whole = await asyncio.wait_for(client.rest(), 20)
    start, _, chunked = whole.partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 200"), whole
    body_bytes = b""
    while chunked != b"0\r\n\r\n":
        size, _, chunked = chunked.partition(b"\r\n")
        body_bytes += chunked[: int(size, 16)]
        chunked = chunked[int(size, 16) + 2 :]
    if "chat" in route:
        events = grammar.parse(body_bytes)
        grammar.check_chat(events)
    else:
        events = grammar.parse(body_bytes, done=True)
        grammar.check(events)
    return whole, events


def ended_by_filter(events: Sequence[Json]) -> bool:
    last = events[-1]
    if "response" in last:
        details = last["response"]["incomplete_details"]
        return last["type"] == "response.incomplete" and details == {"reason": "content_filter"}
    reasons = [c["finish_reason"] for e in events for c in e["choices"] if c["finish_reason"]]
    return reasons[-1] == "content_filter"


def chunkings(data: bytes, count: int, seed: str) -> list[list[bytes]]:
    pick = random.Random(seed)
    made = []
    for _ in range(count):
        places = sorted(pick.sample(range(1, len(data)), pick.randint(1, 40)))
        made.append([data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)])
    return made


@pytest.mark.parametrize(("route", "kind"), COMBINATIONS)
async def test_no_byte_of_a_phrase_arrives_and_nothing_before_it_is_lost(
    gateway: Start, upstream: Upstream, route: str, kind: str
) -> None:
    anos = await gateway(guarded(kind))
    before, after = around(kind)
    asked = {"n": 2} if kind == "second choice" else {}
    answers: list[list[bytes]] = []
    for place in some(range(1, 16), 4, kind):
        answers.append(encoded(KINDS[kind]([before, *cut(PHRASE, [place]), after])))
    whole = b"".join(encoded(KINDS[kind]([before, *cut(PHRASE, [3, 9]), after])))
    answers += chunkings(whole, 200 if IS_TORTURE else 6, route + kind)
    for answer in answers:
        upstream.answer(answer)
        arrived, events = await posted(anos, route, **asked)
        assert b"forbidden" not in arrived
        assert b"phrase" not in arrived
        assert ended_by_filter(events)
        assert said(events) == before
        if "response" not in route:
            continue
        response = events[-1]["response"]
        stored = (await anos.get(f"{route}/{response['id']}")).body
        assert stored["output"] == response["output"]
        assert stored["status"] == "incomplete"
        assert said_by(stored["output"]) == before
    print(f"{route} {kind}: {len(answers)} streams")  # noqa: T201


async def test_a_choice_that_was_not_asked_for_does_not_arrive(
    gateway: Start, upstream: Upstream
) -> None:
    anos = await gateway(guarded("content"))
    upstream.answer(encoded(KINDS["second choice"](["forbid", "den phrase"])))
    told = await anos.post("/v1/chat/completions", stream=True, **ROUTES["/v1/chat/completions"])
    assert b"forbid" not in told.raw
    assert b"cannot be read" in told.raw


@pytest.mark.parametrize("kind", ["output_text", "content"])
async def test_what_follows_a_blocked_answer_gets_what_was_let_out(
    gateway: Start, upstream: Upstream, kind: str
) -> None:
    anos = await gateway(guarded(kind))
    upstream.answer(encoded(KINDS[kind](["Fine: ", "forbid", "den phrase", "."])))
    _, events = await posted(anos, "/v1/responses")
    parent = events[-1]["response"]
    upstream.answer(encoded(KINDS[kind](["Well."])))
    _, events = await posted(anos, "/v1/responses", previous_response_id=parent["id"])
    sent = json.dumps(upstream.requests[-1].body)
    assert "Fine: " in sent
    assert "forbid" not in sent
    child = events[-1]["response"]["id"]
    listed = (await anos.get(f"/v1/responses/{child}/input_items")).raw
    assert b"Fine: " in listed
    assert b"forbid" not in listed


@pytest.mark.parametrize(
    ("route", "kind"), [(r, k) for r in ROUTES for k in ("output_text", "content")]
)
async def test_at_a_phrase_the_upstream_is_left(
    gateway: Start, upstream: Upstream, route: str, kind: str
) -> None:
    anos = await gateway(guarded(kind))
    stream = KINDS[kind](["Fine: ", "forbid", "den phrase", " and", " more."])
    at = next(i for i, each in enumerate(stream) if "den phrase" in str(each))
    upstream.answer([*stream[: at + 2], silence()])
    _, events = await posted(anos, route)
    assert ended_by_filter(events)
    await asyncio.wait_for(upstream.disconnected.wait(), 5)
    assert said(events) == "Fine: "


@pytest.mark.parametrize(
    "kind", ["output_text", "refusal", "arguments", "content", "chat arguments"]
)
async def test_a_background_response_stores_what_precedes_the_phrase(
    gateway: Start, upstream: Upstream, kind: str
) -> None:
    anos = await gateway(guarded(kind))
    before, after = around(kind)
    upstream.answer(encoded(KINDS[kind]([before, "forbid", "den phrase", after])))
    made = await anos.post("/v1/responses", input="Hi", background=True)
    body = made.body
    while body["status"] in ("queued", "in_progress"):
        body = (await anos.get(f"/v1/responses/{body['id']}")).body
    assert (body["status"], body["incomplete_details"]) == (
        "incomplete",
        {"reason": "content_filter"},
    )
    assert said_by(body["output"]) == before


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("dialect", ["responses", "chat"])
async def test_a_whole_answer_with_a_phrase_is_refused_paid_and_not_stored(
    gateway: Start, upstream: Upstream, route: str, dialect: str
) -> None:
    kind = "output_text" if dialect == "responses" else "content"
    price = {"input_per_million_usd": 0, "output_per_million_usd": 1}
    routes = [{"provider": "up", "deployment": "up-model"}]
    models = {"gpt-35-turbo": {"routes": routes, "price": price}}
    anos = await gateway({**guarded(kind), "models": models})
    make = scripted.responses_text if dialect == "responses" else scripted.chat_text
    upstream.answer(make(f"Fine: {PHRASE}."))
    refused = await anos.post(route, **ROUTES[route])
    assert refused.status == 400
    assert refused.error == {
        "message": "Content violates usage policies",
        "type": "content_filter_error",
        "param": "",
        "code": 400,
    }
    assert b"forbidden" not in refused.raw
    rows: list[Json] = []
    while not rows:  # it is written behind the answer
        rows = (await anos.get("/admin/requests")).body["data"]
        rows = [each for each in rows if each["status"] == 400]
    (row,) = rows
    assert (row["input_tokens"], row["output_tokens"]) == scripted.USAGE
    assert row["cost_usd"] == 2e-6
    stored = sqlite3.connect(anos.database).execute("SELECT count(*) FROM responses").fetchone()
    assert stored == (0,)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("phrase", DISGUISES)
async def test_a_disguised_phrase_does_not_arrive(
    gateway: Start, upstream: Upstream, route: str, phrase: str
) -> None:
    anos = await gateway(guarded("output_text"))
    for place in some(range(1, len(phrase)), 3, phrase):
        pieces = ["Fine: ", phrase[:place], phrase[place:], " and more."]
        upstream.answer(encoded(RESPONSES["output_text"](pieces)))
        _, events = await posted(anos, route)
        assert said(events) == "Fine: "
        assert ended_by_filter(events)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", ["arguments", "chat arguments"])
async def test_an_escaped_phrase_in_arguments_does_not_arrive(
    gateway: Start, upstream: Upstream, route: str, kind: str
) -> None:
    anos = await gateway(guarded(kind))
    before, after = around(kind)
    phrase = r"\u0066orb\u0069dden phr\u0061se"
    for place in some(range(1, len(phrase)), 6, kind):
        upstream.answer(encoded(KINDS[kind]([before, phrase[:place], phrase[place:], after])))
        arrived, events = await posted(anos, route)
        assert said(events) == before, place
        assert b"orb" not in arrived


@pytest.mark.parametrize("kind", ["output_text", "content"])
async def test_a_client_that_leaves_while_events_are_held_stores_what_is_clear(
    gateway: Start, upstream: Upstream, kind: str
) -> None:
    anos = await gateway(guarded(kind))
    stream = KINDS[kind](["Fine: ", "forbidden", "…"])
    at = next(i for i, each in enumerate(stream) if "…" in str(each))
    upstream.answer([*stream[:at], silence()])
    made = ""
    async with anos.open_stream("/v1/responses", input="Hi") as response:
        while (event := await anos.next_event(response)) is not None:
            made = event.get("response", {}).get("id") or made
            if event.get("delta") == "Fine: ":
                break
    await asyncio.wait_for(upstream.disconnected.wait(), 5)
    stored = await anos.get(f"/v1/responses/{made}")
    while stored.body["status"] == "in_progress":
        stored = await anos.get(f"/v1/responses/{made}")
    assert stored.body["status"] == "cancelled"
    assert said_by(stored.body["output"]) in ("Fine: forbidden", "Fine: ")


@pytest.mark.parametrize(
    ("held", "expected"), [("forbidden", "Fine: forbidden"), (PHRASE, "Fine: ")]
)
async def test_a_cancel_lets_out_what_is_clear_and_nothing_else(
    gateway: Start, upstream: Upstream, held: str, expected: str
) -> None:
    anos = await gateway(guarded("output_text"))
    stream = RESPONSES["output_text"](["Fine: ", held, "…"])
    at = next(i for i, each in enumerate(stream) if "…" in str(each))
    upstream.answer([*stream[:at], silence()])
    events = []
    async with anos.open_stream("/v1/responses", input="Hi") as response:
        while (event := await anos.next_event(response)) is not None:
            events.append(event)
            if event.get("delta") == "Fine: ":
                made = events[0]["response"]["id"]
                assert (await anos.request("POST", f"/v1/responses/{made}/cancel")).status == 200
    grammar.check(events)
    assert said(events) == expected
    stored = (await anos.get(f"/v1/responses/{made}")).body
    assert said_by(stored["output"]) == expected


@pytest.mark.parametrize(
    ("route", "kind"), [(r, k) for r in ROUTES for k in ("output_text", "content")]
)
async def test_what_is_held_at_the_end_arrives(
    gateway: Start, upstream: Upstream, route: str, kind: str
) -> None:
    anos = await gateway(guarded(kind))
    upstream.answer(encoded(KINDS[kind](["Fine: ", "forbidden ", "phras"])))
    _, events = await posted(anos, route)
    assert said(events) == "Fine: forbidden phras"
    assert not ended_by_filter(events)


@pytest.mark.parametrize("kind", [*RESPONSES, *CHAT])
async def test_a_masked_stream_is_stored_as_it_was_shown(
    gateway: Start, upstream: Upstream, kind: str
) -> None:
    route = "/v1/chat/completions" if kind in CHAT else "/v1/responses"
    anos = await gateway(guarded(kind, "mask"))
    before, after = around(kind)
    upstream.answer(encoded(KINDS[kind]([before, "forbid", "den phrase", after])))
    asked = {"n": 2} if kind == "second choice" else {}
    arrived, events = await posted(anos, route, **asked)
    assert b"forbid" not in arrived
    assert said(events) == f"{before}***{after}"
    if "response" in events[-1]:
        response = events[-1]["response"]
        stored = (await anos.get(f"{route}/{response['id']}")).body
        assert stored["output"] == response["output"]
        assert said_by(stored["output"]) == said(events)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("place", ["parts", "items"])
async def test_a_phrase_at_the_edge_of_a_part_does_not_arrive(
    gateway: Start, upstream: Upstream, route: str, place: str
) -> None:
    anos = await gateway(guarded("output_text"))
    for first, second, shown in (
        (f"Fine: {PHRASE}", "More.", "Fine: "),
        ("Fine", f"{PHRASE} and more.", "Fine"),
        (f"Fine: {PHRASE[:12]}", f"{PHRASE[12:]}.", "Fine: "),
    ):
        output = [scripted.message(first), scripted.message(second, id="msg_2")]
        if place == "parts":
            output = [scripted.message(first, second)]
        upstream.answer(encoded(scripted.responses_events(output, pieces=3)))
        arrived, events = await posted(anos, route)
        assert ended_by_filter(events)
        assert b"phrase" not in arrived
        assert said(events) == shown


# More waits behind what may become a phrase than is held.
HEAVY = [
    *scripted.chat_chunks([{"content": "Fine: "}, {"content": "forbidden "}])[:3],
    *[
        {**scripted.chat_chunks([{}])[1], "note": f"{number} " + "x" * 50_000}
        for number in range(30)
    ],
    *scripted.chat_chunks([{"content": "The end."}])[1:],
]


async def test_a_stream_that_cannot_be_looked_at_is_ended_and_paid(
    gateway: Start, upstream: Upstream
) -> None:
    anos = await gateway(guarded("content"))
    upstream.answer(HEAVY)
    _, events = await posted(anos, "/v1/chat/completions")
    assert ended_by_filter(events)
    assert said(events) == "Fine: "
    (row,) = await anos.calls()
    assert (row["status"], row["finish"]) == (200, "content_filter")
    assert row["output_tokens"] > 0
    (receipt,) = (await anos.get(f"/admin/requests/{row['id']}")).body["guards"]
    assert (receipt["action"], receipt["error"]) == ("block", "failed")


async def test_a_background_response_that_cannot_be_looked_at_ends(
    gateway: Start, upstream: Upstream
) -> None:
    anos = await gateway(guarded("output_text"))
    events = scripted.responses_stream(["Fine: ", "forbidden "])
    at = next(i for i, each in enumerate(events) if each["type"].endswith("text.done"))
    notes = [
        {"type": "response.in_progress_note", "note": f"{number} " + "x" * 50_000}
        for number in range(40)
    ]
    upstream.answer(encoded(scripted.renumbered([*events[:at], *notes, *events[at:]])))
    body = (await anos.post("/v1/responses", input="Hi", background=True)).body
    while body["status"] in ("queued", "in_progress"):
        body = (await anos.get(f"/v1/responses/{body['id']}")).body
    assert (body["status"], body["incomplete_details"]) == (
        "incomplete",
        {"reason": "content_filter"},
    )
    assert said_by(body["output"]) == "Fine: "
