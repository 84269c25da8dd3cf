"""What operators see of the running gateway: a call that is only tried, what runs, what happens."""

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from anos.feed import QUEUE, Subscription
from anos.schema import ChangeRecord
from anos.state import GATEWAY, Bounds
from tests import scripted
from tests.conftest import Client, Gateway, Json
from tests.records import exchange
from tests.test_admin_ledger import ANN, ask, config

PHRASE = "never say this"
TRIED = {"key": "ann", "model": "gpt-4", "input": "Hi"}


async def explain(anos: Gateway, **body: Any) -> Json:
    reply = await anos.post("/admin/explain", **{**TRIED, **body})
    assert reply.status == 200, reply.raw
    result: Json = reply.body
    return result


def governed(**changes: Any) -> Json:
    """Ann with a limit, a budget and a guard."""
    tree = config(
        limits={"small": {"requests_per_minute": 2, "tokens_per_minute": 9000, "concurrent": 1}},
        budgets={"daily": {"usd": 1, "window": "day", "soft_usd": 0.5}},
        guards={"keywords": {"phrases": ["other", PHRASE]}},
    )
    tree["keys"]["ann"] |= {"limits": "small", "budget": "daily"} | changes
    return tree


# Explain ------------------------------------------------------------------------------------------


async def test_a_call_that_would_be_admitted_is_explained_and_nothing_of_it_is_counted(
    gateway, upstream
) -> None:
    anos = await gateway(governed())
    first = await explain(anos, max_output_tokens=100)
    assert (first["admitted"], first["status"], first["error"]) == (True, 200, None)
    assert first["key"] == {
        "name": "ann",
        "project": "project:research",
        "role": "key",
        "models": ["*"],
        "blocked": False,
        "expires_at": None,
        "bodies": "off",
    }
    assert first["limits"] == [
        {
            "scope": "key:ann",
            "requests_per_minute": {"limit": 2, "remaining": 2},
            "tokens_per_minute": {"limit": 9000, "remaining": 9000},
            "concurrent": {"limit": 1, "remaining": 1},
        }
    ]
    (receipt,) = first["guards"]
    assert (receipt["guard"], receipt["direction"], receipt["action"]) == (
        *("keywords", "input", "pass"),
    )
    assert first["routes"] == [
        {"provider": "up", "deployment": "up-model", "dialect": "responses", "priced": True}
    ]
    (budget,) = first["budgets"]
    assert (budget["account"], budget["window"], budget["usd"]) == ("key:ann", "day", 1.0)
    assert (budget["soft_usd"], budget["remaining_usd"]) == (0.5, 1.0)
    assert budget["resets_at"].endswith("T00:00:00Z")
    again = await explain(anos, max_output_tokens=100)
    again["guards"][0]["us"] = receipt["us"]
    assert again == first
    assert upstream.requests == []


@pytest.mark.parametrize("cap", [{}, {"max_output_tokens": 321}])
async def test_the_bound_that_is_explained_is_the_one_that_is_reserved(
    gateway, upstream, cap: Json
) -> None:
    anos = await gateway(governed())
    bound = (await explain(anos, **cap))["bound"]
    body = {"model": "gpt-4", "input": "Hi", **cap}
    headers = ANN | {"x-request-id": "real"}
    reply = await anos.request("POST", "/v1/responses", headers=headers, json=body)
    assert reply.status == 200
    reserved = (await ask(anos, "requests/real"))["cost"]["reserved_usd"]
    assert bound["cost_usd"] == reserved > 0
    assert bound["output_tokens"] == cap.get("max_output_tokens", 4096)


async def refused(anos: Gateway, **body: Any) -> tuple[Json, Json]:
    """What a real call of Ann is refused with, and what the explanation says of it."""
    explained = await explain(anos, **body)
    tree = {name: value for name, value in {**TRIED, **body}.items() if name != "key"}
    reply = await anos.request("POST", "/v1/responses", headers=ANN, json=tree)
    assert not explained["admitted"]
    assert explained["status"] == reply.status
    assert explained["error"] == reply.error
    return explained, reply.error


async def test_a_refusal_is_explained_with_the_very_error_the_call_gets(gateway, upstream) -> None:
    anos = await gateway(governed(models=["gpt-4"]))
    explained, _ = await refused(anos, model="gpt-35-turbo")
    assert explained["error"]["code"] == "model_not_allowed"
    explained, _ = await refused(anos, model="none")
    assert (explained["routes"], explained["bound"]) == ([], None)
    body = {"model": "gpt-4", "input": "Hi"}
    assert (await anos.request("POST", "/v1/responses", headers=ANN, json=body)).status == 200
    explained, error = await refused(anos, max_output_tokens=10_000)
    assert error["type"] == "rate_limit_error"
    assert explained["limits"][0]["requests_per_minute"] == {"limit": 2, "remaining": 1}


async def test_a_call_over_the_budget_is_explained_as_that(gateway, upstream) -> None:
    tree = governed()
    tree["limits"]["small"] = {"concurrent": 1}
    anos = await gateway(tree)
    explained, error = await refused(anos, max_output_tokens=200_000)
    assert error["code"] == "insufficient_quota"
    assert explained["bound"]["cost_usd"] > explained["budgets"][0]["remaining_usd"]


@pytest.mark.parametrize("text", [PHRASE, [{"role": "user", "content": f"Please {PHRASE}!"}]])
async def test_a_guards_verdict_names_the_rule_and_not_its_text(
    gateway, upstream, text: Any
) -> None:
    anos = await gateway(governed())
    explained, error = await refused(anos, input=text)
    (receipt,) = explained["guards"]
    assert (receipt["guard"], receipt["action"]) == ("keywords", "block")
    assert receipt["rules"] == {"phrases[1]": 1}
    assert PHRASE not in json.dumps(explained)
    assert error["message"] == "Content violates usage policies"


async def test_a_limit_that_is_used_up_is_explained_as_that(gateway, upstream) -> None:
    anos = await gateway(governed())
    body = {"model": "gpt-4", "input": "Hi"}
    for _ in range(2):
        await anos.request("POST", "/v1/responses", headers=ANN, json=body)
    explained, _ = await refused(anos)
    assert explained["limits"][0]["requests_per_minute"] == {"limit": 2, "remaining": 0}


async def test_slots_that_are_taken_are_explained_as_that(gateway, upstream) -> None:
    anos = await gateway(governed())
    gate = asyncio.Event()
    stream = scripted.responses_stream(["Hi"])
    upstream.answer([stream[0], gate, *stream[1:]])
    tree = {"model": "gpt-4", "input": "Hi", "stream": True}
    running = asyncio.create_task(anos.request("POST", "/v1/responses", headers=ANN, json=tree))
    await upstream.received(1)
    explained, _ = await refused(anos)
    assert explained["limits"][0]["concurrent"] == {"limit": 1, "remaining": 0}
    gate.set()
    assert (await running).status == 200


@pytest.mark.parametrize(
    ("changes", "status"),
    [({"role": "read-only"}, 403), ({"expires": "2020-01-01"}, 401)],
)
async def test_a_key_that_may_not_call_is_explained_as_that(
    gateway, upstream, changes: Json, status: int
) -> None:
    anos = await gateway(governed(**changes))
    explained, _ = await refused(anos)
    assert explained["status"] == status


async def test_a_key_that_is_blocked_is_explained_as_that(gateway, upstream) -> None:
    anos = await gateway()
    made = (await anos.post("/admin/keys", name="made")).body
    await anos.post("/admin/keys/made/block")
    explained = await explain(anos, key="made")
    reply = await anos.request(
        "POST",
        "/v1/responses",
        headers={"Authorization": f"Bearer {made['key']}"},
        json={"model": "gpt-4", "input": "Hi"},
    )
    assert (explained["status"], explained["error"]) == (401, reply.error)


async def test_what_a_budget_cannot_bound_is_explained_and_without_budgets_does_not_matter(
    gateway, upstream
) -> None:
    tree = governed()
    image = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]
    anos = await gateway(tree)
    explained, error = await refused(anos, input=image)
    assert (explained["bound"], error["code"]) == (None, "unsupported_parameter")
    del tree["keys"]["ann"]["budget"]
    await anos.stop()
    anos = await gateway(tree)
    explained = await explain(anos, input=image)
    assert (explained["admitted"], explained["bound"]) == (True, None)


async def test_a_call_that_its_upstream_cannot_carry_is_explained_as_that(
    gateway, upstream
) -> None:
    anos = await gateway(governed() | {"providers": {"up": {"dialect": "chat"}}})
    file = [{"role": "user", "content": [{"type": "input_file", "file_url": "http://x"}]}]
    explained, _ = await refused(anos, input=file)
    assert explained["status"] == 400


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"key": "nobody"}, 404, "key"),
        ({"key": None}, 400, "key"),
        ({"input": 3}, 400, "input"),
        ({"modell": "gpt-4"}, 400, "modell"),
        ({"x" * 300: 1}, 400, "x" * 64),
        ({"max_output_tokens": "many"}, 400, "max_output_tokens"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, 400, "input[0]"),
    ],
)
async def test_an_explanation_says_what_is_wrong_with_its_request(
    gateway, upstream, body: Json, status: int, param: str
) -> None:
    anos = await gateway(governed())
    reply = await anos.post("/admin/explain", **{**TRIED, **body})
    assert (reply.status, reply.error["param"]) == (status, param)


# What runs ----------------------------------------------------------------------------------------


async def test_what_runs_is_listed_while_it_runs(gateway, upstream) -> None:
    anos = await gateway(config())
    assert (await ask(anos, "inflight"))["data"] == []
    gate = asyncio.Event()
    upstream.answer([gate])
    response = (await anos.post("/v1/responses", model="gpt-4", input="Hi", background=True)).body
    await upstream.received(1)
    chat = {"model": "gpt-4", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    asked = asyncio.create_task(
        anos.request("POST", "/v1/chat/completions", headers=ANN, json=chat)
    )
    await upstream.received(2)
    first, second = (await ask(anos, "inflight"))["data"]
    assert first["id"] == response["id"]
    assert (first["object"], first["key"], first["project"]) == ("run", "master", "project:default")
    assert (first["route"], first["background"], first["stream"]) == ("/v1/responses", True, False)
    assert (first["provider"], first["deployment"]) == ("up", "up-model")
    assert first["elapsed_ms"] >= second["elapsed_ms"] >= 0
    assert (second["key"], second["model"]) == ("ann", "gpt-4")
    assert (second["background"], second["stream"]) == (False, True)
    gate.set()
    await asked


# What happens -------------------------------------------------------------------------------------


@asynccontextmanager
async def watching(anos: Client, headers: Json | None = None) -> Any:
    """The open stream of events, after its first comment."""
    async with anos.session.get("/admin/events", headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        assert await response.content.readuntil(b"\n\n") == b": keep-alive\n\n"
        yield response
        response.close()


async def next_event(response: Any) -> tuple[str, Json]:
    block = await asyncio.wait_for(response.content.readuntil(b"\n\n"), 10)
    name, _, data = block.partition(b"\n")
    return name.removeprefix(b"event: ").decode(), json.loads(data.removeprefix(b"data: "))


async def test_every_exchange_and_every_change_is_an_event(gateway, upstream) -> None:
    anos = await gateway(config())
    async with watching(anos) as events:
        response = (await anos.post("/v1/responses", model="gpt-4", input="my prompt")).body
        name, row = await next_event(events)
        assert (name, row["object"], row["response_id"]) == ("exchange", "request", response["id"])
        assert (row["key"], row["status"], row["cost_usd"]) == ("master", 200, 27e-6)
        assert "my prompt" not in json.dumps(row)
        await anos.post("/admin/keys", name="made")
        (name, change), (_, row) = [await next_event(events) for _ in range(2)]
        assert (name, change["action"], change["object"]) == ("change", "key.create", "key:made")
        assert change["actor"] == "master"
        assert change["before"] is None
        assert isinstance(change["after"], dict)
        assert row["route"] == "/admin/keys"


async def test_who_left_is_told_nothing_any_more(gateway) -> None:
    anos = await gateway()
    live = anos.app[GATEWAY]
    async with watching(anos) as events:
        async with watching(anos):
            assert len(live.subscribers) == 2
        name, row = await next_event(events)
        assert (name, row["route"], row["status"]) == ("exchange", "/admin/events", 499)
        assert (len(live.subscribers), len(live.ledger.watchers), len(live.watchers)) == (1, 1, 1)


async def test_who_is_not_known_is_no_event(gateway, upstream) -> None:
    anos = await gateway(config())
    async with watching(anos) as events:
        await anos.request("GET", "/v1/models", headers={"Authorization": "Bearer sk-wrong"})
        await anos.get("/healthz")
        await anos.get("/v1/models")
        assert (await next_event(events))[1]["route"] == "/v1/models"


async def test_a_silent_stream_of_events_shows_that_it_lives(gateway) -> None:
    anos = await gateway(bounds=Bounds(silence_s=0.05))
    async with watching(anos) as events:
        assert await events.content.readuntil(b"\n\n") == b": keep-alive\n\n"


async def test_the_stream_of_events_ends_when_the_gateway_shuts_down(gateway) -> None:
    anos = await gateway()
    async with anos.session.get("/admin/events") as events:
        assert await events.content.readuntil(b"\n\n") == b": keep-alive\n\n"
        stopping = asyncio.create_task(anos._runner.cleanup())
        assert await asyncio.wait_for(events.content.read(), 3) == b""
    await stopping


async def made(anos: Gateway, **settings: Any) -> Json:
    """The header of a new key that may watch, called eve."""
    reply = await anos.post("/admin/keys", **({"name": "eve", "role": "read-only"} | settings))
    assert reply.status == 200, reply.raw
    return {"Authorization": f"Bearer {reply.body['key']}"}


async def ended(response: Any) -> bytes:
    """What comes until a stream ends."""
    rest: bytes = await asyncio.wait_for(response.content.read(), 10)
    return rest


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/admin/keys/eve", {}),
        ("POST", "/admin/keys/eve/block", {}),
        ("PATCH", "/admin/keys/eve", {"role": "key"}),
        ("PATCH", "/admin/keys/eve", {"expires": "2020-01-01"}),
        ("POST", "/admin/keys/eve/rotate", {}),
    ],
    ids=["deleted", "blocked", "demoted", "expired", "rotated"],
)
async def test_a_key_that_may_not_ask_any_more_sees_nothing_any_more(
    gateway, method: str, path: str, body: Json
) -> None:
    anos = await gateway()
    async with watching(anos, await made(anos)) as events:
        await anos.get("/v1/models")
        assert (await next_event(events))[1]["route"] == "/v1/models"
        assert (await anos.request(method, path, json=body)).status == 200
        assert await ended(events) == b""
    assert anos.app[GATEWAY].subscribers == set()


async def test_a_key_that_may_still_ask_goes_on_watching(gateway) -> None:
    anos = await gateway()
    async with watching(anos, await made(anos, expires="2999-01-01T00:00:00Z")) as events:
        await anos.request("PATCH", "/admin/keys/eve", json={"role": "admin"})
        await anos.post("/admin/keys", name="other")
        routes = [(await next_event(events))[1].get("route") for _ in range(4)]
        assert routes == [None, "/admin/keys/{name}", None, "/admin/keys"]


async def test_a_stream_of_events_ends_when_its_key_expires(gateway) -> None:
    anos = await gateway()
    soon = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
    async with watching(anos, await made(anos, expires=soon)) as events:
        assert await ended(events) == b""


async def test_a_stream_of_events_ends_when_a_reload_takes_its_key_away(process) -> None:
    anos = await process({"keys": {"eve": {"key": "sk-eve", "role": "read-only"}}})
    (file,) = anos.log_file.parent.glob("anos-*.json")
    async with watching(anos, {"Authorization": "Bearer sk-eve"}) as events:
        tree = json.loads(file.read_text())
        del tree["keys"]
        file.write_text(json.dumps(tree))
        assert (await anos.post("/admin/reload")).status == 200
        assert await ended(events) == b""


async def test_nobody_may_watch_a_gateway_that_shuts_down_and_only_so_many_watch(gateway) -> None:
    anos = await gateway()
    live = anos.app[GATEWAY]
    live.subscribers.update(Subscription() for _ in range(100))
    assert (await anos.get("/admin/events")).status == 503
    live.subscribers.clear()
    live.is_draining = True
    assert (await anos.get("/admin/events")).status == 503


async def test_a_watcher_that_is_too_slow_is_told_how_much_it_missed() -> None:
    subscription = Subscription()
    for _ in range(QUEUE + 7):
        subscription.settled(exchange())
    subscription.changed(ChangeRecord(at_ms=1, actor="a", request_id="", action="x", object="y"))
    events = await subscription.take()
    assert events.count(b"event: exchange\n") == QUEUE
    assert events.endswith(b'event: dropped\ndata: {"count":8}\n\n')
    subscription.settled(exchange())
    events = await subscription.take()
    assert events.count(b"event: ") == 1
    subscription.close()
    assert await subscription.take() is None


async def test_a_watcher_holds_no_bodies() -> None:
    subscription = Subscription()
    subscription.settled(exchange(request_body=b"the prompt", response_body=b"the answer"))
    events = await subscription.take()
    assert b"prompt" not in events
    assert b"answer" not in events
