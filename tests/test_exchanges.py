"""One row in `exchanges` for each authenticated request, whatever became of it."""

import asyncio
import re
import sqlite3
from typing import Any

import pytest
from aiohttp import ClientSession, web
from yarl import URL

from tests import scripted
from tests.conftest import Gateway, Json
from tests.scripted import CUT, HEADERS, silence

RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"
HI: dict[str, Json] = {
    RESPONSES: {"input": "Hi"},
    CHAT: {"messages": [{"role": "user", "content": "Hi"}]},
}


async def rows(anos: Gateway) -> list[Json]:
    """Every exchange row in order; the gateway is stopped first, so all that is due is written."""
    await anos.stop()
    connection = sqlite3.connect(anos.database)
    connection.row_factory = sqlite3.Row
    found = [dict(row) for row in connection.execute("SELECT * FROM exchanges ORDER BY seq")]
    connection.close()
    return found


async def row(anos: Gateway) -> Json:
    """The only row."""
    (only,) = await rows(anos)
    return only


def some(row: Json, *names: str) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("path", [RESPONSES, CHAT])
async def test_an_answered_call_says_who_asked_whom_for_what(
    gateway, upstream, path: str, streamed: bool
) -> None:
    anos = await gateway(
        {"projects": {"team": {}}, "keys": {"ann": {"key": "sk-ann", "project": "team"}}}
    )
    headers = {"Authorization": "Bearer sk-ann", "x-request-id": "mine-1"}
    tree = {"model": "gpt-4", "stream": streamed, **HI[path]}
    answer = await anos.request("POST", path, headers=headers, json=tree)
    assert (answer.status, answer.headers["x-request-id"]) == (200, "mine-1")
    found = await row(anos)
    assert some(found, "request_id", "key", "project", "method", "route") == (
        "mine-1", "ann", "project:team", "POST", path
    )  # fmt: skip
    assert some(found, "model", "provider", "deployment") == ("gpt-4", "up", "up-model")
    assert some(found, "status", "finish", "error_code") == (200, "completed", None)
    assert some(found, "input_tokens", "output_tokens", "usage_source") == (7, 2, "upstream")
    assert 0 <= found["overhead_us"] <= found["duration_us"]
    assert (found["response_id"] is not None) == (path == RESPONSES)


async def test_the_row_names_the_response_and_the_route_that_answered(gateway, upstream) -> None:
    routes = [{"provider": "dead"}, {"provider": "up", "deployment": "second"}]
    dead = {"dialect": "chat", "base_url": "http://127.0.0.1:1/v1"}
    anos = await gateway({"providers": {"dead": dead}, "models": {"gpt-4": {"routes": routes}}})
    made = (await anos.post(RESPONSES, model="gpt-4", input="Hi")).body
    found = await row(anos)
    assert some(found, "response_id", "provider", "deployment") == (made["id"], "up", "second")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("dialect", ["responses", "chat"])
@pytest.mark.parametrize("path", [RESPONSES, CHAT])
async def test_usage_is_estimated_where_the_upstream_gives_none(
    gateway, upstream, path: str, dialect: str, streamed: bool
) -> None:
    anos = await gateway({"providers": {"up": {"dialect": dialect}}})
    make = {
        ("responses", False): lambda: scripted.responses_text("Hello" * 8, usage=None),
        ("responses", True): lambda: scripted.responses_stream(["Hello"] * 8, usage=None),
        ("chat", False): lambda: scripted.chat_text("Hello" * 8, usage=None),
        ("chat", True): lambda: scripted.chat_stream(["Hello"] * 8, usage=None),
    }[dialect, streamed]
    upstream.answer(make())
    if streamed:
        await anos.stream(path, **HI[path])
    else:
        assert (await anos.post(path, **HI[path])).status == 200
    found = await row(anos)
    assert some(found, "input_tokens", "output_tokens", "usage_source") == (1, 10, "estimated")


async def test_every_authenticated_request_writes_one_row(gateway, upstream) -> None:
    anos = await gateway({"guards": {"keywords": {"phrases": ["forbidden"]}}})
    made = (await anos.post(RESPONSES, input="Hi")).body["id"]
    asked = [
        ("GET", f"{RESPONSES}/{made}", "/v1/responses/{id}", 200, None),
        ("GET", f"/responses/{made}", "/v1/responses/{id}", 200, None),
        ("GET", f"{RESPONSES}/{made}/input_items", "/v1/responses/{id}/input_items", 200, None),
        ("POST", f"{RESPONSES}/{made}/cancel", "/v1/responses/{id}/cancel", 400, "invalid_value"),
        ("GET", f"{RESPONSES}/resp_none", "/v1/responses/{id}", 404, "not_found"),
        ("DELETE", f"{RESPONSES}/{made}", "/v1/responses/{id}", 200, None),
        ("GET", "/v1/models", "/v1/models", 200, None),
        ("GET", "/v1/models/gpt-99", "/v1/models/{id}", 404, "model_not_found"),
    ]
    for method, path, _, status, _ in asked:
        assert (await anos.request(method, path)).status == status
    refused = [
        ({"input": "forbidden"}, "400"),
        ({"input": 5}, "invalid_value"),
        ({"input": "Hi", "model": "gpt-99"}, "400"),
        ({"input": "Hi", "previous_response_id": "resp_none"}, "previous_response_not_found"),
    ]
    for body, _ in refused:
        assert (await anos.post(RESPONSES, **body)).status == 400
    bad_json = await anos.request("POST", RESPONSES, data=b"{", headers={"Content-Type": "x/y"})
    assert bad_json.status == 400
    _, *found = await rows(anos)
    assert [some(row, "method", "route", "status", "error_code") for row in found] == [
        *[(method, route, status, code) for method, _, route, status, code in asked],
        *[("POST", RESPONSES, 400, code) for _, code in refused],
        ("POST", RESPONSES, 400, "invalid_value"),
    ]
    # What was refused before a model was called names no provider and no tokens.
    for each in found:
        assert some(each, "provider", "input_tokens", "usage_source") == (None, None, None)


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("PUT", "/v1/models", "/v1/models"),
        ("HEAD", "/v1/models", "/v1/models"),
        ("DELETE", "/v1/models/a/b", "/v1/models/{id}"),
        ("DELETE", "/openai/v1/chat/completions", CHAT),
        ("PUT", f"{RESPONSES}/resp_1", "/v1/responses/{id}"),
        ("OPTIONS", "/admin/keys/ann", "/admin/keys/{name}"),
    ],
)
async def test_a_method_that_a_path_does_not_have_is_a_row_of_a_known_caller(
    gateway, method: str, path: str, route: str
) -> None:
    anos = await gateway()
    reply = await anos.request(method, path)
    assert reply.status == 405
    found = await row(anos)
    assert some(found, "key", "method", "route", "status", "error_code") == (
        *("master", method, route, 405, "method_not_allowed"),
    )
    assert found["request_id"] == reply.headers["x-request-id"]
    assert found["client"]


async def test_an_expectation_that_cannot_be_met_is_a_row_of_a_known_caller(gateway) -> None:
    anos = await gateway()
    odd = {"Expect": "a-cake", "x-request-id": "odd"}
    for path in (RESPONSES, CHAT, "/v1/nothing"):
        reply = await anos.request("POST", path, headers=odd, json={})
        assert reply.status == 400
        assert reply.headers["x-request-id"] == "odd"
    found = await rows(anos)
    assert [some(each, "route", "status", "key") for each in found] == [
        (RESPONSES, 400, "master"),
        (CHAT, 400, "master"),
    ]


@pytest.mark.parametrize("name", ["a" * 65, "a%00b", "a%0Ab", "%C3%A9", "a.b", "a%20b"])
async def test_what_cannot_be_an_id_is_not_kept_as_one(gateway, name: str) -> None:
    anos = await gateway()
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/input_items"),
        ("POST", "/cancel"),
    ):
        url = URL(f"{anos.url}{RESPONSES}/{name}{path}", encoded=True)
        async with anos.session.request(method, url) as response:
            assert response.status == 404
    named = await anos.get(f"{RESPONSES}/{'a' * 64}")
    assert named.status == 404
    assert [each["response_id"] for each in await rows(anos)] == [None] * 4 + ["a" * 64]


async def test_what_is_not_authenticated_or_nowhere_writes_no_row(gateway) -> None:
    anos = await gateway()
    async with ClientSession(anos.url) as stranger:
        for path in ("/v1/models", f"{RESPONSES}/resp_x", "/healthz", "/metrics"):
            await (await stranger.get(path)).read()
        await (await stranger.post(RESPONSES, json={"model": "gpt-4", "input": "Hi"})).read()
        for method, path in (("PUT", "/v1/models"), ("DELETE", RESPONSES)):
            async with stranger.request(method, path) as response:
                assert response.status == 405
    assert (await anos.request("POST", "/healthz")).status == 405
    for path in ("/v1/nothing", "/", "/favicon.ico"):
        assert (await anos.get(path)).status == 404
    assert await rows(anos) == []


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ((500, {"error": {"message": "Oh."}}, {}), 502, "upstream_error"),
        ((401, {"error": {"message": "Oh."}}, {}), 502, "upstream_auth_error"),
        ((400, {"error": {"message": "Oh.", "code": "odd"}}, {}), 400, "odd"),
        ([CUT], 502, "upstream_error"),
        ([silence()], 504, "upstream_timeout"),
    ],
)
async def test_an_upstream_that_fails_leaves_its_reason(
    gateway, upstream, fault: Any, status: int, code: str
) -> None:
    anos = await gateway({"providers": {"up": {"timeouts": {"first_byte_s": 0.1}}}})
    upstream.answer(fault)
    refused = await anos.post(RESPONSES, input="Hi")
    assert (refused.status, refused.error["code"]) == (status, code)
    found = await row(anos)
    assert some(found, "status", "error_code", "provider") == (status, code, "up")


@pytest.mark.parametrize("path", [RESPONSES, CHAT])
async def test_a_stream_that_breaks_was_sent_with_200_and_says_how_it_ended(
    gateway, upstream, path: str
) -> None:
    anos = await gateway()
    upstream.answer([*scripted.responses_stream(["Hel", "lo"])[:6], CUT])
    await anos.stream(path, **HI[path])
    found = await row(anos)
    assert some(found, "status", "finish", "error_code") == (200, "failed", "upstream_error")
    assert some(found, "output_tokens", "usage_source") == (2, "estimated")


async def test_a_cancel_is_one_row_and_what_it_cancelled_another(gateway, upstream) -> None:
    anos = await gateway()
    upstream.answer([*scripted.responses_stream(["Hel", "lo"])[:6], silence()])
    async with anos.open_stream(RESPONSES, input="Hi") as response:
        event = await anos.next_event(response)
        cancelled = await anos.post(f"{RESPONSES}/{event['response']['id']}/cancel")
        assert cancelled.status == 200
        await response.read()
    found = await rows(anos)
    assert [some(row, "route", "status", "finish") for row in found] == [
        (RESPONSES, 200, "cancelled"),
        (f"{RESPONSES}/{{id}}/cancel", 200, None),
    ]
    assert found[0]["response_id"] == found[1]["response_id"] == event["response"]["id"]


@pytest.mark.parametrize("ending", ["completed", "cancelled", "failed"])
async def test_a_background_response_is_one_row_when_it_ends(
    gateway, upstream, ending: str
) -> None:
    anos = await gateway()
    chunks = scripted.responses_stream(["Hel", "lo"])
    upstream.answer(
        {"completed": chunks, "failed": [*chunks[:6], CUT]}.get(ending, [HEADERS, silence()])
    )
    made = (await anos.post(RESPONSES, input="Hi", background=True)).body["id"]
    await upstream.received(1)
    if ending == "cancelled":
        await anos.post(f"{RESPONSES}/{made}/cancel")
    else:
        while (await anos.get(f"{RESPONSES}/{made}")).body["status"] != ending:
            pass
    found = [row for row in await rows(anos) if row["route"] == RESPONSES]
    assert [some(row, "response_id", "status", "finish") for row in found] == [(made, 200, ending)]


async def test_every_outcome_is_settled_exactly_once(gateway, upstream) -> None:
    """In the ledger and in the metrics, all of them at the same time."""
    limits = {"one": {"requests_per_minute": 1}}
    keys = {"few": {"key": "sk-few", "limits": "one"}}
    guards = {"keywords": {"phrases": ["forbidden"]}}
    anos = await gateway({"limits": limits, "keys": keys, "guards": guards})
    upstream.answer(play)
    few = {"Authorization": "Bearer sk-few"}
    roles: list[tuple[str, Json, Json]] = [
        (act, {"input": act, **options}, {})
        for act in ("whole", "error", "cut", "forbidden")
        for options in ({}, {"stream": True}, {"store": False}, {"background": True})
    ]
    roles += [("whole", {"input": "whole"}, few), ("whole", {"input": "whole"}, few)]
    left = [("silence", {"input": "silence", "stream": streamed}, {}) for streamed in (False, True)]

    async def ask(number: int, role: tuple[str, Json, Json]) -> None:
        _, body, headers = role
        named = {**headers, "x-request-id": f"request-{number}"}
        tree = {"model": "gpt-4", **body}
        await anos.request("POST", RESPONSES, headers=named, json=tree)

    asking = [asyncio.create_task(ask(*each)) for each in enumerate([*left, *roles])]
    await asyncio.wait(asking[2:])
    for waiting in asking[:2]:
        waiting.cancel()
    await asyncio.wait(asking[:2])
    while await settled(anos) < len(asking):
        pass
    counted = await settled(anos)
    found = [row["request_id"] for row in await rows(anos)]
    assert sorted(found) == sorted(f"request-{number}" for number in range(len(asking)))
    assert counted == len(asking)


async def settled(anos: Gateway) -> int:
    """How many calls the metrics have counted."""
    text = (await anos.get("/metrics")).raw.decode()
    counts = re.findall(r'^anos_requests_total\{route="/v1/responses",.*\} (\S+)$', text, re.M)
    return int(sum(map(float, counts)))


async def play(request: web.Request) -> web.StreamResponse:
    """An upstream that does what the prompt says."""
    body = await request.json()
    streamed = body["stream"]
    return await scripted.respond(
        request,
        {
            "whole": scripted.default(request.path, body),
            "error": (500, {"error": {"message": "Oh."}}, {}),
            "cut": [*(scripted.responses_stream(["Hel"])[:5] if streamed else []), CUT],
            "silence": [silence()],
        }[body["input"]],
    )


@pytest.mark.parametrize("path", [RESPONSES, CHAT])
@pytest.mark.parametrize("dialect", ["responses", "chat"])
async def test_a_client_that_leaves_before_the_answer_is_499(
    gateway, upstream, path: str, dialect: str
) -> None:
    anos = await gateway({"providers": {"up": {"dialect": dialect}}})
    upstream.answer([silence()])
    for streamed in (False, True):
        left = asyncio.create_task(anos.post(path, stream=streamed, **HI[path]))
        await upstream.received(1 + streamed)
        left.cancel()
        await asyncio.wait_for(upstream.disconnected.wait(), 2)
        upstream.disconnected.clear()
    found = await rows(anos)
    assert [some(row, "status", "error_code", "finish") for row in found] == [
        (499, "client_left", "cancelled")
    ] * 2


@pytest.mark.parametrize("path", [RESPONSES, CHAT])
@pytest.mark.parametrize("dialect", ["responses", "chat"])
async def test_a_client_that_leaves_at_any_event_is_499_and_what_it_got_is_counted(
    gateway, upstream, path: str, dialect: str
) -> None:
    """At every event of the upstream in turn, held there until the client has gone."""
    anos = await gateway({"providers": {"up": {"dialect": dialect}}})
    make = scripted.chat_stream if dialect == "chat" else scripted.responses_stream
    whole = make(["Hello"] * 4)
    ends = 3 if dialect == "chat" else 1  # from here on the upstream has said that it is done
    kept = []
    for count in range(1, len(whole) - ends + 1):
        upstream.answer([*whole[:count], silence()])
        expected = "".join(map(delta_of, whole[:count]))
        async with anos.open_stream(path, **HI[path]) as response:
            first = event = await anos.next_event(response)
            got = delta_of(event)
            while got != expected:
                got += delta_of(await anos.next_event(response))
        await asyncio.wait_for(upstream.disconnected.wait(), 2)
        upstream.disconnected.clear()
        if path == RESPONSES:
            stored = (await anos.get(f"{path}/{first['response']['id']}")).body
            while stored["status"] == "in_progress":
                stored = (await anos.get(f"{path}/{first['response']['id']}")).body
            kept.append(stored)
    found = [row for row in await rows(anos) if row["route"] == path]
    assert {some(row, "status", "finish", "error_code", "usage_source") for row in found} == {
        (499, "cancelled", "client_left", "estimated")
    }
    tokens = [row["output_tokens"] for row in found]
    assert len(tokens) == len(whole) - ends
    assert tokens == sorted(tokens)
    # The first chunk of a chat upstream, which only names the role, counts as one.
    assert (tokens[0], tokens[-1]) == (int(dialect == "chat"), 5)
    assert {stored["status"] for stored in kept} <= {"cancelled"}
    said = ["".join(p["text"] for item in r["output"] for p in item["content"]) for r in kept]
    assert said == sorted(said)
    assert not said or (said[0], said[-1]) == ("", "Hello" * 4)


def delta_of(event: Json) -> str:
    """The text that an event of either dialect adds to the answer."""
    if "choices" in event:
        return "".join(choice["delta"].get("content") or "" for choice in event["choices"])
    return event["delta"] if event["type"].endswith("text.delta") else ""
