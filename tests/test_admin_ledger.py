"""What operators ask of the ledger over HTTP and from the shell, and corrections of spend."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from anos import cli
from anos.state import GATEWAY
from tests import scripted
from tests.conftest import Gateway, Json

ANN = {"Authorization": "Bearer sk-ann"}
BOB = {"Authorization": "Bearer sk-bob"}
LOOKER = {"Authorization": "Bearer sk-looker"}
# 7 and 2 tokens, as the scripted upstream says.
COST = 7 * 1 + 2 * 10
LONG_AGO = "2020-01-01"


def config(read: float = 1, written: float = 10, **changes: Any) -> Json:
    """Ann in a project, Bob without, and somebody who may only look; a call costs COST."""
    price = {"input_per_million_usd": read, "output_per_million_usd": written}
    return {
        "models": {
            "gpt-4": {"routes": [{"provider": "up", "deployment": "up-model"}], "price": price}
        },
        "projects": {"research": {}},
        "keys": {
            "ann": {"key": "sk-ann", "project": "research"},
            "bob": {"key": "sk-bob"},
            "looker": {"key": "sk-looker", "role": "read-only"},
        },
        **changes,
    }


async def call(anos: Gateway, key: Json = ANN, model: str = "gpt-4", **headers: str) -> Json:
    reply = await anos.request(
        "POST",
        "/v1/responses",
        headers=key | headers,
        json={"model": model, "input": "the secret prompt"},
    )
    assert reply.status == 200
    body: Json = reply.body
    return body


async def written(anos: Gateway) -> None:
    """Returns when everything that was settled is in the file."""
    await anos.app[GATEWAY].store.charge_lost()


async def ask(anos: Gateway, path: str, **query: Any) -> Any:
    reply = await anos.get(f"/admin/{path}", **query)
    assert reply.status == 200, reply.raw
    return reply.body


def midnight(days_ago: int = 0) -> str:
    day = datetime.now(UTC).date() - timedelta(days=days_ago)
    return f"{day.isoformat()}T00:00:00Z"


# Spend --------------------------------------------------------------------------------------------


async def test_spend_is_that_of_the_last_30_days_by_day(gateway, upstream) -> None:
    anos = await gateway(config())
    await call(anos)
    await call(anos, BOB)
    found = await ask(anos, "spend")
    assert found["since"] == midnight(29)
    sums = {
        "requests": 2,
        "failed": 0,
        "input_tokens": 14,
        "cached_tokens": 0,
        "output_tokens": 4,
        "reasoning_tokens": 0,
        "cost_usd": 2 * COST / 1e6,
    }
    assert found["data"] == [{"day": midnight(), **sums}]
    assert found["totals"] == sums
    assert (found["object"], found["has_more"], found["next"]) == ("list", False, None)


async def test_spend_is_grouped_and_chosen_by_key_project_and_model(gateway, upstream) -> None:
    anos = await gateway(config())
    await call(anos)
    await call(anos)
    await call(anos, BOB, "gpt-35-turbo")
    found = await ask(anos, "spend", group_by="key,project,model")
    names = ("key", "project", "model", "requests")
    assert [tuple(row[name] for name in names) for row in found["data"]] == [
        ("ann", "project:research", "gpt-4", 2),
        ("bob", "key:bob", "gpt-35-turbo", 1),
    ]
    for chosen in ({"key": "bob"}, {"project": "key:bob"}, {"model": "gpt-35-turbo"}):
        assert (await ask(anos, "spend", **chosen))["totals"]["requests"] == 1
    assert (await ask(anos, "spend", project="research"))["totals"]["requests"] == 2
    assert (await ask(anos, "spend", until=LONG_AGO, since=LONG_AGO))["data"] == []
    hours = await ask(anos, "spend", group_by="hour,key", time_zone="Asia/Kathmandu")
    assert {row["hour"][14:16] for row in hours["data"]} == {"15"}


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [
        ("spend", {"group_by": "key,user"}, "group_by"),
        ("spend", {"group_by": "day,hour"}, "group_by"),
        ("spend", {"group_by": "key,key"}, "group_by"),
        ("spend", {"since": "yesterday"}, "since"),
        ("spend", {"since": "9999-99-99"}, "since"),
        ("spend", {"until": "0001-01-01"}, "until"),
        ("spend", {"since": "2026-02-01", "until": "2026-01-01"}, "since"),
        ("spend", {"until": "2020-01-01"}, "until"),
        ("spend", {"time_zone": "Berlin"}, "time_zone"),
        ("spend", {"sicne": "2026-01-01"}, "sicne"),
        ("requests", {"limit": "0"}, "limit"),
        ("requests", {"limit": "1001"}, "limit"),
        ("requests", {"limit": "²"}, "limit"),
        ("requests", {"limit": "0000000019999"}, "limit"),
        ("requests", {"limit": "00000000199999999999999999999"}, "limit"),
        ("requests", [("key", "a"), ("key", "b")], "key"),
        ("requests", [("limit", "5"), ("limit", "5")], "limit"),
        ("requests", {"request_id": "a", "key": "b"}, "key"),
        ("spend", [("since", "2026-01-01"), ("since", "2026-01-01")], "since"),
        ("keys", [("project", "a"), ("project", "b")], "project"),
        ("inflight", {"x": "1"}, "x"),
        ("requests", {"after": "7"}, "after"),
        ("requests", {"after": "1-x"}, "after"),
        ("requests", {"after": f"1-{'9' * 19}"}, "after"),
        ("requests", {"status": "bad"}, "status"),
        ("requests", {"status": "9xx"}, "status"),
        ("requests/req_none", {"limit": "1"}, "limit"),
        ("responses", {"status": "done"}, "status"),
        ("responses", {"after": "1-2"}, "after"),
    ],
)
async def test_a_parameter_that_is_wrong_or_unknown_is_refused_by_name(
    gateway, path: str, query: Any, param: str
) -> None:
    anos = await gateway()
    reply = await anos.request("GET", f"/admin/{path}", params=query)
    assert (reply.status, reply.error["param"]) == (400, param)


# Requests -----------------------------------------------------------------------------------------


async def test_requests_are_listed_newest_first_and_page_by_page(gateway, upstream) -> None:
    anos = await gateway(config())
    made = [await call(anos) for _ in range(3)]
    first = await ask(anos, "requests", route="/v1/responses", limit=2)
    assert [row["response_id"] for row in first["data"]] == [made[2]["id"], made[1]["id"]]
    assert first["has_more"]
    second = await ask(anos, "requests", route="/v1/responses", limit=2, after=first["next"])
    assert [row["response_id"] for row in second["data"]] == [made[0]["id"]]
    assert (second["has_more"], second["next"]) == (False, None)
    row = second["data"][0]
    assert (row["object"], row["key"], row["project"]) == ("request", "ann", "project:research")
    assert (row["status"], row["model"], row["deployment"]) == (200, "gpt-4", "up-model")
    assert (row["input_tokens"], row["output_tokens"]) == (7, 2)
    assert row["cost_usd"] == COST / 1e6


async def test_requests_are_chosen_by_what_is_known_of_them(gateway, upstream) -> None:
    anos = await gateway(config())
    response = await call(anos, **{"x-request-id": "1"})
    assert (await anos.get(f"/v1/responses/{response['id']}", include="nothing")).status == 400
    await anos.request("POST", "/v1/responses", headers=BOB, json={"model": "none"})
    await written(anos)
    for query, expected in (
        ({"key": "ann"}, 1),
        ({"key": "bob", "status": "400"}, 1),
        ({"status": "4xx"}, 2),
        ({"project": "research"}, 1),
        ({"model": "gpt-4"}, 1),
        ({"response_id": response["id"]}, 1),
        ({"response_id": response["id"], "key": "bob"}, 0),
        ({"request_id": "1"}, 1),
        ({"request_id": "none", "limit": "1"}, 0),
        ({"route": "/v1/responses", "since": midnight(1)}, 2),
        ({"key": "ann", "until": midnight(1)}, 0),
    ):
        assert len((await ask(anos, "requests", **query))["data"]) == expected, query


async def test_a_request_is_told_in_the_order_it_happened(gateway, upstream) -> None:
    keywords = {"phrases": ["never said"]}
    budgets = {"default": {"usd": 1, "window": "day"}}
    settings = config(guards={"keywords": keywords}, budgets=budgets)
    settings["models"]["gpt-4"]["routes"] = [
        {"provider": "up", "deployment": deployment} for deployment in "ab"
    ]
    anos = await gateway(settings)
    upstream.answer((500, {"error": {"message": "no"}}, {}), scripted.responses_text("Hi"))
    response = await call(anos, **{"x-request-id": "mine"})
    told = await ask(anos, "requests/mine")
    assert list(told)[-9:] == [
        *("key", "limits", "guards", "route", "attempts", "bytes", "tokens", "cost", "timing"),
    ]
    assert (told["id"], told["path"], told["status"]) == ("mine", "/v1/responses", 200)
    assert (told["response_id"], told["finish"]) == (response["id"], "completed")
    assert told["key"]["name"] == "ann"
    assert told["limits"] == {"counted": True}
    assert [(each["guard"], each["action"]) for each in told["guards"]] == [("keywords", "pass")]
    assert told["route"] == {"model": "gpt-4", "provider": "up", "deployment": "b"}
    assert told["attempts"]["count"] == 2
    assert told["attempts"]["failed"][0]["deployment"] == "a"
    assert told["bytes"]["request"] > 0
    assert (told["tokens"]["input"], told["tokens"]["source"]) == (7, "upstream")
    cost = told["cost"]
    assert cost["reserved_usd"] > cost["settled_usd"] == cost["total_usd"] == COST / 1e6
    assert cost["corrections"] == []
    assert told["timing"]["duration_ms"] >= told["timing"]["overhead_ms"] > 0
    assert await ask(anos, f"requests/{told['seq']}") == told
    assert (await anos.get("/admin/requests/none")).status == 404


async def test_no_answer_to_an_operator_holds_a_key_a_digest_or_what_was_said(
    gateway, upstream
) -> None:
    settings = config()
    settings["keys"]["ann"]["bodies"] = "full"
    anos = await gateway(settings)
    response = await call(anos, **{"x-request-id": "mine"})
    said = response["output"][0]["content"][0]["text"]
    paths = ["requests", "requests/mine", "responses", "spend", "inflight"]
    everything = b"".join([(await anos.get(f"/admin/{path}")).raw for path in paths])
    everything += (await anos.get("/spend/logs")).raw
    for secret in ("sk-ann", "sk-upstream", "secret prompt", said, "digest"):
        assert secret.encode() not in everything, secret


@pytest.mark.parametrize(
    "path", ["spend", "requests", "requests/1", "responses", "inflight", "events"]
)
async def test_a_key_that_only_calls_may_not_look(gateway, upstream, path: str) -> None:
    anos = await gateway(config())
    reply = await anos.request("GET", f"/admin/{path}", headers=ANN)
    assert (reply.status, reply.error["code"]) == (403, "permission_denied")


async def test_who_may_only_look_may_ask_but_not_correct(gateway, upstream) -> None:
    anos = await gateway(config())
    assert (await anos.request("GET", "/admin/spend", headers=LOOKER)).status == 200
    body = {"since": LONG_AGO}
    refused = await anos.request("POST", "/admin/spend/recompute", headers=LOOKER, json=body)
    assert refused.status == 403


# Responses ----------------------------------------------------------------------------------------


async def test_stored_responses_are_listed_without_what_they_say(gateway, upstream) -> None:
    anos = await gateway(config())
    first, second = await call(anos), await call(anos, BOB, "gpt-35-turbo")
    found = await ask(anos, "responses")
    assert [row["id"] for row in found["data"]] == [second["id"], first["id"]]
    assert found["data"][1] == {
        "object": "response",
        "id": first["id"],
        "project": "project:research",
        "model": "gpt-4",
        "status": "completed",
        "background": False,
        "previous_response_id": None,
        "created_at": found["data"][1]["created_at"],
        "completed_at": found["data"][1]["completed_at"],
        "input_items": 1,
        "output_items": 1,
    }
    page = await ask(anos, "responses", limit=1)
    rest = await ask(anos, "responses", limit=1, after=page["next"])
    assert [row["id"] for row in rest["data"]] == [first["id"]]
    for query, expected in (
        ({"project": "research"}, 1),
        ({"model": "gpt-35-turbo"}, 1),
        ({"status": "failed"}, 0),
        ({"since": midnight()}, 2),
    ):
        assert len((await ask(anos, "responses", **query))["data"]) == expected


async def test_a_response_that_runs_is_listed_with_the_status_it_has_now(gateway, upstream) -> None:
    anos = await gateway(config())
    upstream.answer([scripted.silence()])
    asked = await anos.post("/v1/responses", model="gpt-4", input="Hi", background=True)
    await upstream.received(1)
    (row,) = (await ask(anos, "responses"))["data"]
    assert (row["id"], row["status"], row["background"]) == (asked.body["id"], "in_progress", True)


# Corrections --------------------------------------------------------------------------------------


async def recompute(anos: Gateway, **body: Any) -> Json:
    reply = await anos.post("/admin/spend/recompute", **({"since": LONG_AGO} | body))
    assert reply.status == 200, reply.raw
    result: Json = reply.body
    return result


async def test_recomputing_corrects_what_the_present_prices_make_different_and_only_once(
    gateway, upstream
) -> None:
    anos = await gateway(config())
    await call(anos, **{"x-request-id": "one"})
    await call(anos, BOB, **{"x-request-id": "two"})
    assert (await recompute(anos))["corrected"] == 0
    await anos.stop()
    anos = await gateway(config(read=3, written=20))
    difference = (7 * 3 + 2 * 20) - COST
    outcome = await recompute(anos)
    assert (outcome["requests"], outcome["corrected"], outcome["unpriced"]) == (2, 2, 0)
    assert outcome["difference_usd"] == 2 * difference / 1e6
    again = await recompute(anos)
    assert (again["requests"], again["corrected"], again["difference_usd"]) == (2, 0, 0)
    cost = (await ask(anos, "requests/one"))["cost"]
    assert cost["settled_usd"] == COST / 1e6
    assert [each["cost_usd"] for each in cost["corrections"]] == [difference / 1e6]
    assert cost["total_usd"] == (COST + difference) / 1e6
    spend = await ask(anos, "spend", group_by="key", key="ann")
    assert spend["data"][0]["cost_usd"] == (COST + difference) / 1e6
    assert spend["data"][0]["requests"] == 1
    correction = (await ask(anos, "requests", route="correction", key="ann"))["data"][0]
    assert (correction["corrects"], correction["cost_usd"]) == (1, difference / 1e6)
    (change, *_) = (await ask(anos, "changes"))["data"]
    assert (change["action"], change["object"], change["actor"]) == (
        *("spend.recompute", "spend", "master"),
    )


async def test_recomputing_back_takes_the_corrections_back(gateway, upstream) -> None:
    for price, difference in ((1, 0), (3, 14), (1, -14), (1, 0)):
        anos = await gateway(config(read=price))
        if not difference and not upstream.requests:
            await call(anos)
        assert (await recompute(anos))["difference_usd"] == difference / 1e6
        await anos.stop()


async def test_a_correction_is_in_the_budget_from_then_on(gateway, upstream) -> None:
    budgets = {"daily": {"usd": 1, "window": "day"}, "global": {"usd": 1, "window": "total"}}

    def priced(written: float) -> Json:
        tree = config(written=written, budgets=budgets)
        tree["keys"]["ann"]["budget"] = "daily"
        tree["projects"]["research"]["budget"] = "daily"
        return tree

    anos = await gateway(priced(10))
    await call(anos)
    await anos.stop()
    anos = await gateway(priced(100_010))
    explain = {"key": "ann", "model": "gpt-4", "input": "Hi", "max_output_tokens": 1}
    await recompute(anos)
    told = (await anos.post("/admin/explain", **explain)).body
    left = [(each["account"], each["remaining_usd"]) for each in told["budgets"]]
    expected = 1 - (COST + 2 * 100_000) / 1e6
    assert left == [
        ("key:ann", expected),
        ("project:research", expected),
        ("global", expected),
    ]


async def test_only_what_is_asked_for_is_recomputed(gateway, upstream) -> None:
    anos = await gateway(config())
    await call(anos)
    await anos.stop()
    anos = await gateway(config(read=2))
    assert (await recompute(anos, model="gpt-35-turbo"))["requests"] == 0
    assert (await recompute(anos, until=midnight(1)))["requests"] == 0
    assert (await recompute(anos, since=midnight(), model="gpt-4"))["corrected"] == 1


async def test_what_no_price_is_known_for_is_left_as_it_is(gateway, upstream) -> None:
    anos = await gateway(config())
    await call(anos)
    await call(anos, model="gpt-35-turbo")
    await anos.stop()
    other = {"gpt-4": {"routes": [{"provider": "up", "deployment": "another"}]}}
    anos = await gateway(config(models={**other, "gpt-35-turbo": None, "o": other["gpt-4"]}))
    outcome = await recompute(anos)
    assert (outcome["requests"], outcome["corrected"], outcome["unpriced"]) == (2, 0, 2)


async def test_a_recompute_that_cannot_write_is_503_and_the_next_one_does_what_is_left(
    gateway, upstream
) -> None:
    anos = await gateway(config())
    await call(anos)
    await anos.stop()
    anos = await gateway(config(read=2))
    store = anos.app[GATEWAY].store
    store.healthy = False
    reply = await anos.post("/admin/spend/recompute", since=LONG_AGO)
    assert (reply.status, reply.error["code"]) == (503, "service_unavailable")
    store.healthy = True
    assert (await recompute(anos))["corrected"] == 1


async def test_a_second_recompute_waits_for_nobody(gateway, upstream) -> None:
    anos = await gateway(config())
    anos.app[GATEWAY].is_recomputing = True
    reply = await anos.post("/admin/spend/recompute", since=LONG_AGO)
    assert (reply.status, reply.error["code"]) == (400, "conflict")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "since"),
        ({"since": 3}, "since"),
        ({"since": "now"}, "since"),
        ({"since": "2026-01-02", "until": "2026-01-01"}, "since"),
        ({"since": "2026-01-01", "form": "2026-01-01"}, "form"),
    ],
)
async def test_a_recompute_says_what_is_wrong_with_it(gateway, body: Json, param: str) -> None:
    anos = await gateway()
    reply = await anos.post("/admin/spend/recompute", **body)
    assert (reply.status, reply.error["param"]) == (400, param)
    assert (await recompute(anos))["requests"] == 0


# The command line ---------------------------------------------------------------------------------


@pytest.fixture
async def shell(gateway, upstream, tmp_path, capsys):
    """The gateway, and a function that runs a command against it: (exit code, what it prints)."""
    anos = await gateway(config())
    file = tmp_path / "anos.json"
    tree = config() | {"server": {"master_key": "sk-1234", "port": int(anos.url.split(":")[2])}}
    tree["providers"] = {"up": {"dialect": "responses", "base_url": upstream.url}}
    file.write_text(json.dumps(tree))

    async def run(*words: str) -> tuple[int, str]:
        argv = [*words, "--config", str(file)]
        code = await asyncio.to_thread(cli.main, argv, lambda *_: None)
        return code, capsys.readouterr().out

    return anos, run


async def test_the_command_prints_spend_by_key_as_a_table(shell) -> None:
    anos, run = shell
    await call(anos)
    await call(anos)
    await call(anos, BOB)
    code, said = await run("spend")
    assert code == 0
    assert said.splitlines() == [
        "key    requests  failed  input_tokens  output_tokens       usd",
        "ann           2       0            14              4  0.000054",
        "bob           1       0             7              2  0.000027",
        "total         3       0            21              6  0.000081",
    ]
    code, said = await run("spend", "--group-by", "model", "--since", midnight(), "--json")
    assert json.loads(said)["data"][0]["model"] == "gpt-4"
    code, said = await run("spend", "--until", midnight(1))
    assert said.splitlines()[1].split() == ["total", "0", "0", "0", "0", "0.000000"]


async def test_the_command_recomputes(shell) -> None:
    anos, run = shell
    await call(anos)
    assert await run("spend", "recompute", "--since", LONG_AGO) == (
        0,
        "1 requests, 0 corrected, 0 without a price; difference 0.000000 USD\n",
    )
    code, said = await run("spend", "recompute", "--since", LONG_AGO, "--model", "x", "--json")
    assert (code, json.loads(said)["requests"]) == (0, 0)
    with pytest.raises(SystemExit, match="spend recompute takes no --group-by"):
        await run("spend", "recompute", "--since", LONG_AGO, "--group-by", "key")
    with pytest.raises(SystemExit, match="needs --since"):
        await run("spend", "recompute")
