"""Budgets, prices and limits on the application: what a call reserves, settles and is refused."""

import asyncio
import sqlite3
from typing import Any

import pytest

from tests import scripted
from tests.conftest import Gateway, Json
from tests.scripted import CUT, silence
from tests.test_exchanges import CHAT, HI, RESPONSES, row, rows, some

ANN = {"Authorization": "Bearer sk-ann"}
BOTH = pytest.mark.parametrize("path", [RESPONSES, CHAT])

# A dollar for a million tokens of output and nothing for input: a token is a micro-dollar.
OUTPUT_ONLY = {"input_per_million_usd": 0, "output_per_million_usd": 1}


def priced(usd: float = 1.0, *, cap: int = 1000, **changes: Any) -> Json:
    """Ann may spend so many dollars a day; an answer costs a micro-dollar a token."""
    return {
        "models": {
            "gpt-4": {
                "routes": [{"provider": "up", "deployment": "up-model"}],
                "price": OUTPUT_ONLY,
                "max_output_tokens": cap,
                **changes.pop("model", {}),
            }
        },
        "budgets": {"daily": {"usd": usd, "window": "day", **changes.pop("budget", {})}},
        "keys": {"ann": {"key": "sk-ann", "budget": "daily"}},
        **changes,
    }


async def ask(anos: Gateway, path: str = RESPONSES, **body: Any) -> Any:
    tree = {"model": "gpt-4", **HI[path], **body}
    return await anos.request("POST", path, headers=ANN, json=tree)


def held(anos: Gateway) -> list[tuple[int, str]]:
    """The reservations in the file: micro-dollars and key."""
    with sqlite3.connect(anos.database) as connection:
        return connection.execute("SELECT micro_usd, key FROM reservations").fetchall()


# Budgets ------------------------------------------------------------------------------------------


@BOTH
async def test_a_call_that_could_exceed_the_budget_is_refused_before_the_upstream(
    gateway, upstream, path: str
) -> None:
    anos = await gateway(priced(0.000999))
    refused = await ask(anos, path)
    assert (refused.status, refused.error["type"], refused.error["code"]) == (
        *(429, "budget_exceeded", "insufficient_quota"),
    )
    assert refused.error["message"].startswith(
        "Budget has been exceeded! Current cost: 0.0, Max budget: 0.000999"
    )
    assert refused.headers["x-should-retry"] == "false"
    assert upstream.requests == []
    found = await row(anos)
    assert some(found, "status", "error_code", "cost", "reserved") == (
        *(429, "insufficient_quota", None, None),
    )


@BOTH
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_was_held_and_not_spent_can_be_spent_by_the_next(
    gateway, upstream, path: str, streamed: bool
) -> None:
    anos = await gateway(priced(0.001004))
    for _ in range(3):  # each holds 1,000 and spends 2
        assert (await ask(anos, path, stream=streamed)).status == 200
    assert (await ask(anos, path, stream=streamed)).status == 429
    assert [some(each, "status", "cost", "reserved") for each in await rows(anos)] == [
        *([(200, 2, 1000)] * 3),
        (429, None, None),
    ]
    assert held(anos) == []


@BOTH
async def test_what_is_only_held_is_not_spent_and_a_call_it_is_in_the_way_of_may_be_tried_again(
    gateway, upstream, path: str
) -> None:
    anos = await gateway(priced(0.001004))
    gate = asyncio.Event()
    stream = scripted.responses_stream(["Hi"])
    upstream.answer([stream[0], gate, *stream[1:]] if path == RESPONSES else [gate])
    asking = asyncio.create_task(ask(anos, path, stream=True))
    await upstream.received(1)
    refused = await ask(anos, path)
    assert (refused.status, refused.error["type"], refused.error["code"]) == (
        *(429, "budget_exceeded", "rate_limit_exceeded"),
    )
    assert refused.error["message"] == (
        "Budget is held by calls that run. Current cost: 0.0, Max budget: 0.001004 "
        "(key:ann per day; this request may cost up to 0.001, and 0.001 is held)"
    )
    assert refused.headers["Retry-After"] == "1"
    assert "x-should-retry" not in refused.headers
    assert (await anos.get("/key/info", key="ann")).body["info"]["spend"] == 0.0
    gate.set()
    await asking
    explained = await anos.post("/admin/explain", key="ann", model="gpt-4", **HI[RESPONSES])
    assert explained.body["admitted"]


@BOTH
async def test_the_reservation_is_durable_before_the_upstream_is_called(
    gateway, upstream, path: str
) -> None:
    anos = await gateway(priced())
    gate = asyncio.Event()
    stream = scripted.responses_stream(["Hi"])
    upstream.answer([stream[0], gate, *stream[1:]] if path == RESPONSES else [gate])
    asking = asyncio.create_task(ask(anos, path, stream=True))
    await upstream.received(1)
    assert held(anos) == [(1000, "ann")]
    gate.set()
    await asking
    await anos.stop()
    assert held(anos) == []


@BOTH
@pytest.mark.parametrize("dialect", ["responses", "chat"])
async def test_a_request_without_a_cap_is_sent_with_the_one_that_is_reserved(
    gateway, upstream, path: str, dialect: str
) -> None:
    anos = await gateway(priced(cap=77, providers={"up": {"dialect": dialect}}))
    assert (await ask(anos, path)).status == 200
    name = "max_output_tokens" if dialect == "responses" else "max_completion_tokens"
    assert upstream.requests[0].body[name] == 77
    assert (await row(anos))["reserved"] == 77


async def test_a_cap_of_the_client_is_kept_and_the_response_echoes_what_it_sent(
    gateway, upstream
) -> None:
    anos = await gateway(priced(cap=77))
    free, capped = await ask(anos), await ask(anos, max_output_tokens=20)
    assert [free.body["max_output_tokens"], capped.body["max_output_tokens"]] == [None, 20]
    assert [each.body["max_output_tokens"] for each in upstream.requests] == [77, 20]
    assert [each["reserved"] for each in await rows(anos)] == [77, 20]


async def test_every_choice_of_a_completion_is_reserved(gateway, upstream) -> None:
    anos = await gateway(priced(cap=50, providers={"up": {"dialect": "chat"}}))
    for body in ({"n": 3}, {"n": 2, "max_tokens": 7}):
        assert (await ask(anos, CHAT, **body)).status == 200
    assert [each["reserved"] for each in await rows(anos)] == [150, 14]


async def test_input_is_reserved_at_a_token_for_each_byte_of_what_is_sent(
    gateway, upstream
) -> None:
    price = {"input_per_million_usd": 1, "output_per_million_usd": 0}
    anos = await gateway(priced(model={"price": price}))
    assert (await ask(anos, input="Grüße")).status == 200
    found = await row(anos)
    assert some(found, "reserved", "cost") == (len(upstream.requests[0].raw), 7)


@pytest.mark.parametrize("tokens", [0, 300])
async def test_images_and_files_are_reserved_as_configured_or_refused(
    gateway, upstream, tokens: int
) -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 4000}
    document = {"type": "input_file", "filename": "a.txt", "file_data": "A" * 4000}
    price = {"input_per_million_usd": 1, "output_per_million_usd": 0}
    model = {"price": price, "max_image_tokens": tokens, "max_file_tokens": tokens}
    anos = await gateway(priced(model=model))
    for part in (image, document):
        answer = await ask(anos, input=[{"role": "user", "content": [part]}])
        assert answer.status == (200 if tokens else 400)
        if not tokens:
            assert answer.error["code"] == "unsupported_parameter"
    if tokens:
        assert all(300 < each["reserved"] < 800 for each in await rows(anos))


async def test_a_service_tier_of_another_price_is_refused_to_a_key_with_a_budget(
    gateway, upstream
) -> None:
    refused = await ask(await gateway(priced()), service_tier="priority")
    assert (refused.status, refused.error["param"]) == (400, "service_tier")


async def test_the_stub_costs_nothing(gateway, upstream) -> None:
    anos = await gateway(priced(0))
    assert (await ask(anos, model="stub/echo")).status == 200
    assert some(await row(anos), "reserved", "cost") == (0, 0)


async def test_a_model_without_a_price_is_refused_to_a_key_with_a_budget_only(
    gateway, upstream
) -> None:
    anos = await gateway(priced())
    refused = await ask(anos, model="gpt-35-turbo")
    assert (refused.status, refused.error["param"], refused.error["code"]) == (
        *(400, "model", "unpriced_model"),
    )
    assert (await anos.post(RESPONSES, input="Hi")).status == 200
    assert [each["cost"] for each in await rows(anos)] == [None, None]


@pytest.mark.parametrize("scope", ["key", "project", "global", "default"])
async def test_a_budget_of_any_scope_holds(gateway, upstream, scope: str) -> None:
    config = priced(0.001001)
    daily = config["budgets"]["daily"]
    config["projects"] = {"team": {"budget": "daily"} if scope == "project" else {}}
    config["keys"]["ann"] = {"key": "sk-ann", "project": "team"}
    config["keys"]["bob"] = {"key": "sk-bob", "project": "team"}
    if scope == "key":
        config["keys"]["ann"]["budget"] = "daily"
    if scope in ("global", "default"):
        config["budgets"][scope] = daily
    anos = await gateway(config)
    assert (await ask(anos)).status == 200
    assert (await ask(anos)).status == 429
    bob = {"Authorization": "Bearer sk-bob"}
    tree = {"model": "gpt-4", "input": "Hi"}
    other = await anos.request("POST", RESPONSES, headers=bob, json=tree)
    assert other.status == (200 if scope in ("key", "default") else 429)
    master = await anos.post(RESPONSES, model="gpt-4", input="Hi")
    assert master.status == (429 if scope == "global" else 200)


async def test_each_of_several_windows_holds(gateway, upstream) -> None:
    windows = [{"usd": 1, "window": "month"}, {"usd": 0.001001, "window": "hour"}]
    config = priced()
    config["budgets"]["daily"] = windows
    anos = await gateway(config)
    assert [(await ask(anos)).status for _ in range(2)] == [200, 429]


async def test_a_soft_budget_warns_in_a_header_and_a_metric_and_refuses_nothing(
    gateway, upstream
) -> None:
    anos = await gateway(priced(budget={"soft_usd": 0.0005}))
    answer = await ask(anos)
    assert (answer.status, answer.headers["anos-budget-warning"]) == (200, "key:ann day")
    assert "anos-budget-warning" not in (await ask(anos, max_output_tokens=20)).headers
    metrics = (await anos.get("/metrics")).raw.decode()
    assert 'anos_budget_warnings_total{budget="key:ann day"} 1.0' in metrics


@BOTH
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_upstream_that_fails_costs_nothing_and_nothing_stays_held(
    gateway, upstream, path: str, streamed: bool
) -> None:
    anos = await gateway(priced())
    upstream.answer((500, {"error": {"message": "broken"}}, {}))
    assert (await ask(anos, path, stream=streamed)).status == 502
    assert some(await row(anos), "status", "cost", "reserved") == (502, 0, 1000)
    assert held(anos) == []


async def test_an_upstream_that_reports_more_than_its_cap_is_charged_in_full_and_counted(
    gateway, upstream
) -> None:
    anos = await gateway(priced(0.0011, cap=1000))
    upstream.answer(scripted.responses_text("Hi", usage=(7, 1500)))
    assert (await ask(anos)).status == 200
    assert (await ask(anos, max_output_tokens=1)).status == 429
    assert 'anos_overruns_total{model="gpt-4"} 1.0' in (await anos.get("/metrics")).raw.decode()
    assert [each["cost"] for each in await rows(anos)] == [1500, None]


@BOTH
async def test_a_client_that_leaves_at_any_event_pays_for_what_was_delivered(
    gateway, upstream, path: str
) -> None:
    """A token to each delta; the upstream waits there until the client has gone."""
    anos = await gateway(priced(providers={"up": {"dialect": "chat"}}))
    whole = scripted.chat_stream(["a"] * 8)
    for count in range(1, len(whole) - 3):
        upstream.answer([*whole[:count], silence()])
        tree = {"model": "gpt-4", **HI[path], "stream": True}
        async with anos.session.post(path, headers=ANN, json=tree) as response:
            seen = b""
            while seen.count(b'"a"') < count - 1:
                seen += await response.content.readany()
            response.close()
        await asyncio.wait_for(upstream.disconnected.wait(), 2)
        upstream.disconnected.clear()
    found = await rows(anos)
    assert len(found) == len(whole) - 4
    assert held(anos) == []
    for delivered, each in enumerate(found):
        assert some(each, "status", "usage_source") == (499, "estimated")
        assert delivered <= each["output_tokens"] == each["cost"] <= 1000


async def test_a_stream_that_breaks_off_pays_for_what_came(gateway, upstream) -> None:
    anos = await gateway(priced())
    upstream.answer([*scripted.responses_stream(["a"] * 8)[:9], CUT])
    assert (await ask(anos, stream=True)).status == 200
    found = await row(anos)
    assert some(found, "usage_source", "output_tokens", "cost") == ("estimated", 5, 5)
    assert held(anos) == []


async def test_a_background_response_reserves_when_it_begins_and_settles_when_it_ends(
    gateway, upstream
) -> None:
    anos = await gateway(priced(0.0015))
    gate = asyncio.Event()
    stream = scripted.responses_stream(["Hi"])
    upstream.answer([stream[0], gate, *stream[1:]], scripted.responses_text("Hi"))
    queued = await ask(anos, background=True)
    assert (queued.status, held(anos)) == (200, [(1000, "ann")])
    assert (await ask(anos)).status == 429
    gate.set()
    while (
        body := (await anos.request("GET", f"{RESPONSES}/{queued.body['id']}", headers=ANN)).body
    )["status"] in ("queued", "in_progress"):
        pass
    assert (body["status"], held(anos)) == ("completed", [])
    assert (await ask(anos)).status == 200


# After a restart ----------------------------------------------------------------------------------


async def test_what_was_spent_before_a_restart_counts_after_it(gateway, upstream) -> None:
    upstream.answer(scripted.responses_text("Hi", usage=(7, 600)))
    first = await gateway(priced(0.0015))
    assert (await ask(first)).status == 200
    await first.stop()
    second = await gateway(priced(0.0015))
    assert (await ask(second)).status == 429
    assert (await ask(second, max_output_tokens=900)).status == 200


@pytest.mark.parametrize("background", [False, True])
async def test_what_a_killed_process_had_reserved_is_charged_in_full_at_the_next_start(
    process, upstream, background: bool
) -> None:
    upstream.answer([silence()])
    first = await process(priced(0.0015))
    asking = asyncio.create_task(ask(first, background=background, stream=not background))
    await upstream.received(1)
    await first.kill()
    await asyncio.gather(asking, return_exceptions=True)
    second = await process(priced(0.0015))
    assert (await ask(second)).status == 429
    assert (await second.terminate()) == 0
    with sqlite3.connect(second.log_file.parent / "process.db") as connection:
        lost = connection.execute(
            "SELECT key, status, finish, error_code, usage_source, cost, reserved, output_tokens"
            " FROM exchanges ORDER BY seq LIMIT 1"
        ).fetchone()
        assert lost == ("ann", 500, "failed", "gateway_restarted", "crash", 1000, 1000, 1000)
        assert connection.execute("SELECT count(*) FROM reservations").fetchone() == (0,)


async def test_a_background_response_without_a_budget_has_its_row_after_a_crash_too(
    process, upstream
) -> None:
    upstream.answer([silence()])
    first = await process({})
    made = (await first.post(RESPONSES, input="Hi", background=True)).body["id"]
    await upstream.received(1)
    await first.kill()
    second = await process({})
    assert (await second.get(f"{RESPONSES}/{made}")).body["status"] == "failed"
    await second.terminate()
    with sqlite3.connect(second.log_file.parent / "process.db") as connection:
        assert connection.execute(
            "SELECT key, response_id, usage_source, cost FROM exchanges ORDER BY seq LIMIT 1"
        ).fetchone() == ("master", made, "crash", 0)


async def test_a_reload_takes_new_budgets_and_knows_what_was_spent(process, upstream) -> None:
    upstream.answer(scripted.responses_text("Hi", usage=(7, 600)))
    without = priced()
    del without["keys"]["ann"]["budget"]
    anos = await process(without)
    assert (await ask(anos)).status == 200
    file = anos.log_file.parent / "anos-0.json"
    file.write_text(file.read_text().replace('"sk-ann"', '"sk-ann", "budget": "daily"'))
    file.write_text(file.read_text().replace('"usd": 1.0', '"usd": 0.0015'))
    assert (await anos.request("POST", "/admin/reload")).status == 200
    assert (await ask(anos)).status == 429
    assert (await ask(anos, max_output_tokens=900)).status == 200


# Limits -------------------------------------------------------------------------------------------


def limited(scope: str, **limit: Any) -> Json:
    """The limit holds for ann, her project, the model gpt-4, or everybody."""
    tight = {"limits": "tight"}
    return {
        "limits": {"global" if scope == "global" else "tight": limit},
        "projects": {"team": tight if scope == "project" else {}},
        "keys": {"ann": {"key": "sk-ann", "project": "team", **(tight if scope == "key" else {})}},
        "models": {
            "gpt-4": {"routes": [{"provider": "up"}], **(tight if scope == "model" else {})}
        },
    }


SCOPES = pytest.mark.parametrize("scope", ["key", "project", "model", "global"])


@SCOPES
@pytest.mark.parametrize("kind", ["requests", "tokens"])
async def test_a_limit_a_minute_of_any_scope_holds_and_is_in_every_answer(
    gateway, upstream, scope: str, kind: str
) -> None:
    amount = {"requests": 1, "tokens": 400}[kind]
    anos = await gateway(limited(scope, **{f"{kind}_per_minute": amount}))
    upstream.answer(scripted.responses_text("Hi", usage=(7, 393)))
    answer, refused = await ask(anos), await ask(anos)
    assert (answer.status, refused.status, refused.error["code"]) == (200, 429, 429)
    for each in (answer, refused):
        assert each.headers[f"x-ratelimit-limit-{kind}"] == str(amount)
        assert each.headers[f"x-ratelimit-reset-{kind}"].endswith("s")
    assert refused.headers[f"x-ratelimit-remaining-{kind}"] == "0"
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert 1 <= int(refused.headers["retry-after-ms"]) <= 60_000
    assert [some(each, "status", "counted") for each in await rows(anos)] == [(200, 1), (429, 0)]


@SCOPES
async def test_calls_at_one_time_are_limited_until_one_ends(gateway, upstream, scope: str) -> None:
    anos = await gateway(limited(scope, concurrent=1))
    gate = asyncio.Event()
    stream = scripted.responses_stream(["Hi"])
    upstream.answer([stream[0], gate, *stream[1:]], scripted.responses_text("Hi"))
    running = asyncio.create_task(ask(anos, stream=True))
    await upstream.received(1)
    assert (await ask(anos)).status == 429
    gate.set()
    await running
    assert (await ask(anos)).status == 200


async def test_calls_wait_in_a_queue_where_a_limit_has_one(gateway, upstream) -> None:
    anos = await gateway(limited("key", concurrent=1, queue={"size": 1, "wait_s": 20}))
    gate = asyncio.Event()
    stream = scripted.responses_stream(["Hi"])
    upstream.answer([stream[0], gate, *stream[1:]], scripted.responses_text("Hi"))
    running = asyncio.create_task(ask(anos, stream=True))
    await upstream.received(1)
    first, second = asyncio.create_task(ask(anos)), asyncio.create_task(ask(anos))
    done, waiting = await asyncio.wait({first, second}, return_when="FIRST_COMPLETED")
    assert [each.result().status for each in done] == [429]
    gate.set()
    assert [(await each).status for each in waiting] == [200]
    assert (await running).status == 200


async def test_a_call_refused_for_tokens_or_money_does_not_count_as_a_request(
    gateway, upstream
) -> None:
    config = priced(0.0005)
    config["limits"] = {"default": {"requests_per_minute": 2, "tokens_per_minute": 3000}}
    anos = await gateway(config)
    for body in ({}, {"max_output_tokens": 5000}, {}, {"max_output_tokens": 20}):
        last = await ask(anos, **body)
    assert (last.status, last.headers["x-ratelimit-remaining-requests"]) == (200, "1")


@pytest.mark.parametrize("money", [None, 1000])
async def test_a_limit_of_tokens_holds_the_clients_own_cap_whether_there_is_a_budget_or_not(
    gateway, upstream, money: float | None
) -> None:
    config = priced(money or 1)
    config["limits"] = {"default": {"tokens_per_minute": 3000}}
    if money is None:
        del config["keys"]["ann"]["budget"]
    anos = await gateway(config)
    held = []
    for cap in ({}, {"max_output_tokens": 20}, {"max_output_tokens": 2000}):
        gate, stream = asyncio.Event(), scripted.responses_stream(["Hi"], usage=(0, 0))
        upstream.answer([stream[0], gate, *stream[1:]])
        tree = {"model": "gpt-4", "input": "Hi", "stream": True, **cap}
        async with anos.session.post(RESPONSES, headers=ANN, json=tree) as answer:
            held.append(3000 - int(answer.headers["x-ratelimit-remaining-tokens"]))
            gate.set()
            await answer.read()
    # Of input it is about a token for four bytes of the request.
    assert [each - output for each, output in zip(held, (256, 20, 2000), strict=True)] == [
        pytest.approx(20, abs=15)
    ] * 3


async def test_limits_are_as_full_after_a_restart_as_before(gateway, upstream) -> None:
    config = limited("project", requests_per_minute=3, tokens_per_minute=2000)
    upstream.answer(scripted.responses_text("Hi", usage=(7, 600)))
    first = await gateway(config)
    assert [(await ask(first)).status for _ in range(2)] == [200, 200]
    await first.stop()
    second = await gateway(config)
    answer = await ask(second)
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(2000 - 3 * 607)
    assert (await ask(second)).status == 429


# What a call without a budget of its own costs ----------------------------------------------------


@pytest.mark.parametrize(("model", "cost"), [("gpt-4", 2), ("gpt-35-turbo", None)])
async def test_a_background_response_without_a_budget_costs_what_it_costs_and_reserves_nothing(
    gateway, upstream, model: str, cost: int | None
) -> None:
    config = priced()
    del config["keys"]["ann"]["budget"]
    anos = await gateway(config)
    upstream.answer(scripted.responses_stream(["Hi"]))
    made = await ask(anos, model=model, background=True)
    path = f"{RESPONSES}/{made.body['id']}"
    while (await anos.request("GET", path, headers=ANN)).body["status"] != "completed":
        pass
    assert "anos_overruns_total{" not in (await anos.get("/metrics")).raw.decode()
    (found,) = [each for each in await rows(anos) if each["method"] == "POST"]
    assert some(found, "cost", "reserved") == (cost, None)
    assert held(anos) == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (RESPONSES, {"tools": [{"type": "web_search"}]}, "tools[0]"),
        (CHAT, {"web_search_options": {}}, "web_search_options"),
        (CHAT, {"modalities": ["text", "audio"], "audio": {"voice": "x"}}, "modalities"),
    ],
)
async def test_what_a_vendor_charges_for_beside_tokens_is_refused_to_a_key_with_a_budget(
    gateway, upstream, path: str, body: Json, param: str
) -> None:
    dialect = "chat" if path == CHAT else "responses"
    anos = await gateway(priced(providers={"up": {"dialect": dialect}}))
    refused = await ask(anos, path, **body)
    assert (refused.status, refused.error["param"], refused.error["code"]) == (
        *(400, param, "unsupported_parameter"),
    )
    assert upstream.requests == []
    tree = {"model": "gpt-4", **HI[path], **body}
    assert (await anos.request("POST", path, json=tree)).status == 200
