"""LiteLLM's spend endpoints: its shapes over our ledger."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from anos.state import GATEWAY
from anos.store import Save
from tests.conftest import Gateway, Json
from tests.records import exchange
from tests.test_admin_ledger import BOB, COST, call, config, written

SPENT = COST / 1e6
TODAY = datetime.now(UTC).date()


async def get(anos: Gateway, path: str, **query: Any) -> Any:
    reply = await anos.get(path, **query)
    assert reply.status == 200, reply.raw
    return reply.body


async def test_logs_are_the_newest_calls_in_litellms_shape(gateway, upstream) -> None:
    anos = await gateway(config())
    response = await call(anos, **{"x-request-id": "mine"})
    await call(anos, BOB, "gpt-35-turbo")
    await anos.get("/v1/models")
    second, first = await get(anos, "/spend/logs")
    assert first == {
        "request_id": response["id"],
        "call_type": "aresponses",
        "api_key": "ann",
        "spend": SPENT,
        "total_tokens": 9,
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "startTime": first["startTime"],
        "endTime": first["endTime"],
        "completionStartTime": first["completionStartTime"],
        "model": "up-model",
        "model_id": "",
        "model_group": "gpt-4",
        "custom_llm_provider": "up",
        "api_base": "",
        "user": "",
        "end_user": "",
        "team_id": "research",
        "metadata": {"user_api_key_alias": "ann", "request_id": "mine"},
        "cache_hit": "False",
        "cache_key": "",
        "request_tags": [],
        "requester_ip_address": None,
        "status": "success",
        "messages": {},
        "response": {},
    }
    assert (second["api_key"], second["team_id"]) == ("bob", None)
    assert first["startTime"] <= first["completionStartTime"] <= first["endTime"]


async def test_a_streamed_chat_says_when_it_began_and_a_failed_one_that_it_failed(
    gateway, upstream
) -> None:
    anos = await gateway(config())
    hi = [{"role": "user", "content": "Hi"}]
    await anos.stream("/v1/chat/completions", model="gpt-4", messages=hi)
    upstream.answer((400, {"error": {"message": "no"}}, {}))
    await anos.post("/v1/chat/completions", model="gpt-4", messages=hi)
    await written(anos)
    failed, streamed = await get(anos, "/spend/logs")
    assert (streamed["call_type"], streamed["status"]) == ("acompletion", "success")
    assert (failed["status"], failed["spend"], failed["total_tokens"]) == ("failure", 0, 0)


@pytest.mark.parametrize("given", ["sk-ann", "ann"])
async def test_logs_are_chosen_by_a_key_or_its_name(gateway, upstream, given: str) -> None:
    anos = await gateway(config())
    await call(anos)
    await call(anos, BOB)
    assert [row["api_key"] for row in await get(anos, "/spend/logs", api_key=given)] == ["ann"]
    assert await get(anos, "/spend/logs", api_key="sk-unknown") == []


async def test_a_log_is_found_by_the_id_of_the_request_or_of_its_answer(gateway, upstream) -> None:
    anos = await gateway(config())
    response = await call(anos, **{"x-request-id": "mine"})
    await anos.get(f"/v1/responses/{response['id']}")
    await written(anos)
    (by_answer,) = await get(anos, "/spend/logs", request_id=response["id"])
    (by_request,) = await get(anos, "/spend/logs", request_id="mine")
    assert by_answer == by_request
    assert await get(anos, "/spend/logs", request_id="none") == []


async def test_what_corrects_a_call_is_no_call_and_counts_in_the_sums(gateway, upstream) -> None:
    anos = await gateway(config())
    response = await call(anos, **{"x-request-id": "7"})
    await anos.stop()
    anos = await gateway(config(read=3))
    await anos.post("/admin/spend/recompute", since="2020-01-01")
    dates = {"start_date": TODAY.isoformat(), "end_date": TODAY.isoformat()}
    for query in ({}, {"api_key": "ann"}, {"request_id": "7"}, {**dates, "summarize": "false"}):
        (row,) = await get(anos, "/spend/logs", **query)
        assert (row["request_id"], row["spend"]) == (response["id"], SPENT)
    (row,) = (await get(anos, "/admin/requests", route="correction"))["data"]
    assert await get(anos, "/spend/logs", request_id=row["id"]) == []
    (day,) = await get(anos, "/spend/logs", **dates)
    corrected = (7 * 3 + 2 * 10) / 1e6
    assert day["spend"] == (await get(anos, "/global/spend"))["spend"] == corrected


async def test_calls_are_found_behind_many_corrections(gateway, upstream) -> None:
    anos = await gateway(config())
    response = await call(anos)
    store, now_ms = anos.app[GATEWAY].store, time.time_ns() // 1_000_000
    correction = exchange(
        key="ann", route="correction", model="gpt-4", corrects=1, cost=1, started_ms=now_ms + 1000
    )
    await asyncio.gather(*[store.submit(Save(correction)) for _ in range(1500)])
    assert [row["request_id"] for row in await get(anos, "/spend/logs")] == [response["id"]]


async def test_logs_between_two_dates_are_sums_by_day_unless_asked_otherwise(
    gateway, upstream
) -> None:
    anos = await gateway(config())
    await call(anos)
    await call(anos, BOB, "gpt-35-turbo")
    tomorrow = TODAY + timedelta(days=1)
    dates = {"start_date": TODAY.isoformat(), "end_date": tomorrow.isoformat()}
    assert await get(anos, "/spend/logs", **dates) == [
        {
            "startTime": TODAY.isoformat(),
            "spend": SPENT,
            "users": {},
            "models": {"gpt-4": SPENT, "gpt-35-turbo": 0},
            "ann": SPENT,
            "bob": 0,
        },
        {"startTime": tomorrow.isoformat(), "spend": 0, "users": {}, "models": {}},
    ]
    rows = await get(anos, "/spend/logs", **dates, summarize="false")
    assert [row["api_key"] for row in rows] == ["bob", "ann"]
    (row, _) = await get(anos, "/spend/logs", **dates, api_key="sk-ann")
    assert row["models"] == {"gpt-4": SPENT}
    old = {"start_date": "2020-01-01", "end_date": "2020-01-31"}
    assert await get(anos, "/spend/logs", **old) == []
    assert await get(anos, "/spend/logs", **old, summarize="false") == []


async def test_global_spend_is_that_of_the_last_30_days(gateway, upstream) -> None:
    budgets = {"global": [{"usd": 9, "window": "month"}, {"usd": 5, "window": "day"}]}
    price = config()["models"]["gpt-4"]["price"]
    models: Json = {"gpt-35-turbo": {"routes": [{"provider": "up"}], "price": price}}
    models |= config()["models"]
    anos = await gateway(config(budgets=budgets, models=models))
    await call(anos)
    await call(anos)
    await call(anos, BOB, "gpt-35-turbo")
    assert await get(anos, "/global/spend") == {"spend": 3 * COST / 1e6, "max_budget": 5}
    ann, bob = await get(anos, "/global/spend/keys")
    assert ann["api_key"] == ann["key_alias"] == "ann"
    assert (ann["total_spend"], bob["total_spend"]) == (2 * COST / 1e6, SPENT)
    assert ann["key_name"] == "sk-..."
    assert await get(anos, "/global/spend/models") == [
        {"model": "gpt-4", "total_spend": 2 * COST / 1e6},
        {"model": "gpt-35-turbo", "total_spend": SPENT},
    ]
    assert await get(anos, "/global/spend/keys", limit=1) == [ann]
    assert len(await get(anos, "/global/spend/models", limit=1)) == 1


async def test_a_key_that_is_no_more_has_no_hint(gateway, upstream) -> None:
    anos = await gateway()
    assert (await anos.post("/v1/responses", input="Hi")).status == 200
    (row,) = await get(anos, "/global/spend/keys")
    assert (row["api_key"], row["key_name"]) == ("master", None)
    assert (await get(anos, "/global/spend"))["max_budget"] == 0


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [
        ("/spend/logs", {"user_id": "me"}, "user_id"),
        ("/spend/logs", {"start_date": "soon", "end_date": "2026-01-01"}, "start_date"),
        (
            "/spend/logs",
            {"start_date": "2026-01-01", "end_date": "2026-01-02", "summarize": "maybe"},
            "summarize",
        ),
        ("/spend/logs", {"start_date": "1970-01-01", "end_date": "9999-12-31"}, "end_date"),
        ("/spend/logs", {"page": "1"}, "page"),
        ("/spend/logs", [("api_key", "a"), ("api_key", "b")], "api_key"),
        ("/global/spend/keys", {"limit": "0000000019999"}, "limit"),
        ("/key/list", [("team_id", "a"), ("team_id", "b")], "team_id"),
        ("/key/list", {"page": "0" * 9 + "10000000000"}, "page"),
        ("/key/info", [("key", "a"), ("key", "b")], "key"),
        ("/global/spend", {"limit": "1"}, "limit"),
        ("/global/spend/keys", {"limit": "0"}, "limit"),
        ("/global/spend/models", {"limit": "many"}, "limit"),
    ],
)
async def test_what_cannot_be_answered_is_refused_by_name(
    gateway, path: str, query: Any, param: str
) -> None:
    anos = await gateway()
    reply = await anos.request("GET", path, params=query)
    assert (reply.status, reply.error["param"]) == (400, param)
