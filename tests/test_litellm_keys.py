"""Keys by the names and fields of LiteLLM's proxy."""

import re
import time
from calendar import monthrange
from datetime import UTC, datetime
from typing import Any

import pytest

from anos import litellm_fields
from anos.config_values import moment_ms
from anos.errors import InvalidRequest
from tests.conftest import Gateway, Json
from tests.test_admin_keys import CONFIG, auth, rows, status_of

FIXED = "sk-fixed-0123456789abcdef"


async def generated(anos: Gateway, **fields: Any) -> Json:
    reply = await anos.post("/key/generate", **fields)
    assert reply.status == 200, reply.body
    body: Json = reply.body
    return body


async def info(anos: Gateway, key: str) -> Json:
    reply = await anos.get("/key/info", key=key)
    assert reply.status == 200, reply.body
    fields: Json = reply.body["info"]
    return fields


async def test_a_generated_key_has_what_the_fields_say(gateway) -> None:
    anos = await gateway(CONFIG)
    fields: Json = {
        "key_alias": "web",
        "models": ["gpt-4"],
        "team_id": "research",
        "max_budget": 10,
        "soft_budget": 8,
        "budget_duration": "30d",
        "rpm_limit": 7,
        "tpm_limit": 7000,
        "max_parallel_requests": 3,
        "metadata": {"a": "b"},
        "user_id": "u-1",
    }
    made = await generated(anos, **fields, duration="30d", tags=["x", "y"])
    kept = {**fields, "metadata": {"a": "b", "user_id": "u-1", "tags": "x,y"}}
    assert {name: made[name] for name in kept} == kept
    assert (made["token"], made["token_id"], made["created_by"]) == ("web", "web", "master")
    assert made["key_name"] == f"sk-...{made['key'][-4:]}"
    in_30_days = (time.time() + 30 * 86_400) * 1000
    assert abs(moment_ms(made["expires"]) - in_30_days) < 60_000
    ours = (await anos.get("/admin/keys/web")).body
    assert (ours["project"], ours["models"], ours["role"]) == ("research", ["gpt-4"], "key")
    assert ours["limits"] == {
        "requests_per_minute": 7,
        "tokens_per_minute": 7000,
        "concurrent": 3,
    }
    budget = {"usd": 10, "soft_usd": 8, "window": "30d", "time_zone": "UTC"}
    assert ours["budget"] == budget
    assert [await status_of(anos, made["key"], model=m) for m in ("stub/echo",)] == [403]


async def test_a_key_that_is_asked_for_without_fields_gets_a_name_and_every_model(gateway) -> None:
    anos = await gateway(CONFIG)
    made = [await generated(anos, aliases={}, config={}, spend=0, permissions={}) for _ in range(2)]
    assert all(re.fullmatch(r"key-[0-9a-f]{8}", each["token"]) for each in made)
    assert made[0]["token"] != made[1]["token"]
    assert (made[0]["models"], made[0]["expires"], made[0]["max_budget"]) == ([], None, None)
    assert await status_of(anos, made[0]["key"]) == 200


async def test_a_key_may_be_brought_along(gateway) -> None:
    anos = await gateway(CONFIG)
    made = await generated(anos, key="sk-of-my-own", models=["all-proxy-models"])
    assert made["key"] == "sk-of-my-own"
    assert await status_of(anos, "sk-of-my-own") == 200


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model_max_budget": {"gpt-4": 1}}, "model_max_budget", "unsupported_parameter"),
        ({"allowed_routes": ["/x"]}, "allowed_routes", "unsupported_parameter"),
        ({"permissions": {"a": 1}}, "permissions", "unsupported_parameter"),
        ({"spend": 5}, "spend", "unsupported_parameter"),
        ({"rpm_limit": "5"}, "rpm_limit", "invalid_value"),
        ({"max_parallel_requests": 0}, "max_parallel_requests", "invalid_value"),
        ({"max_budget": -1}, "max_budget", "invalid_value"),
        ({"soft_budget": 1}, "max_budget", "missing_required_parameter"),
        ({"max_budget": 1, "soft_budget": 2}, "soft_budget", "invalid_value"),
        ({"max_budget": 1, "budget_duration": "30m"}, "budget_duration", "invalid_value"),
        ({"max_budget": 1, "budget_duration": "2mo"}, "budget_duration", "invalid_value"),
        ({"max_budget": 1, "budget_duration": "9999d"}, "budget_duration", "invalid_value"),
        ({"max_budget": 1, "budget_duration": 5}, "budget_duration", "invalid_value"),
        ({"duration": "1 day"}, "duration", "invalid_value"),
        ({"duration": "999999mo"}, "duration", "invalid_value"),
        ({"team_id": "none"}, "team_id", "invalid_value"),
        ({"key_alias": "a b"}, "key_alias", "invalid_value"),
        ({"key_alias": "fixed"}, "key_alias", "name_taken"),
        ({"key_type": "root"}, "key_type", "invalid_value"),
        ({"metadata": {"a": {}}}, "metadata.a", "invalid_value"),
        ({"metadata": [1]}, "metadata", "invalid_value"),
        ({"user_id": 5}, "user_id", "invalid_value"),
        ({"tags": [5]}, "tags", "invalid_value"),
        ({"models": "gpt-4"}, "models", "invalid_value"),
        ({"models": ["all-team-models"]}, "models", "unsupported_parameter"),
        ({"models": ["gpt-4", "no-default-models"]}, "models", "unsupported_parameter"),
        ({"blocked": "no"}, "blocked", "invalid_value"),
        ({"key": "a b"}, "key", "invalid_value"),
    ],
)
async def test_a_field_that_cannot_be_served_is_refused_by_its_name(
    gateway, body: Json, param: str, code: str
) -> None:
    anos = await gateway(CONFIG)
    reply = await anos.request("POST", "/key/generate", json=body)
    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code)
    assert rows(anos, "SELECT * FROM keys") == []


async def test_an_update_changes_the_fields_that_are_sent(gateway) -> None:
    anos = await gateway(CONFIG)
    key = (
        await generated(
            anos, key_alias="web", rpm_limit=5, tpm_limit=50, max_budget=3, metadata={"a": "b"},
            user_id="u-1",
        )
    )["key"]  # fmt: skip
    updated = (await anos.post("/key/update", key=key, rpm_limit=6, budget_duration="1mo")).body
    assert (updated["rpm_limit"], updated["tpm_limit"]) == (6, 50)
    assert (updated["max_budget"], updated["budget_duration"]) == (3, "1mo")
    assert updated["key"] == "web"
    reset: Json = {"rpm_limit": None, "tpm_limit": None, "max_budget": None, "metadata": {}}
    updated = (await anos.post("/key/update", key="web", **reset, models=["gpt-4"])).body
    assert [updated[name] for name in ("rpm_limit", "tpm_limit", "max_budget")] == [None] * 3
    assert (updated["metadata"], updated["models"]) == ({"user_id": "u-1"}, ["gpt-4"])
    assert (await anos.get("/admin/keys/web")).body["limits"] is None


async def test_an_expiry_is_set_and_taken_away(gateway) -> None:
    anos = await gateway(CONFIG)
    await generated(anos, key_alias="web", duration="30s")
    assert (await info(anos, "web"))["expires"] is not None
    for never in (None, "-1"):
        await anos.post("/key/update", key="web", duration="2w")
        await anos.post("/key/update", key="web", duration=never)
        assert (await info(anos, "web"))["expires"] is None


async def test_what_an_update_cannot_say_is_refused(gateway) -> None:
    anos = await gateway(CONFIG)
    windows = [{"usd": 1, "window": "day"}, {"usd": 5, "window": "month"}]
    await anos.post("/admin/keys", name="web", budget=windows)
    several = await anos.post("/key/update", key="web", max_budget=2)
    assert (several.status, several.error["param"]) == (400, "max_budget")
    renamed = await anos.post("/key/update", key="web", key_alias="else")
    assert (renamed.status, renamed.error["param"]) == (400, "key_alias")
    assert (await anos.post("/key/update", key="web", key_alias="web")).status == 200
    configured = await anos.post("/key/update", key="fixed", rpm_limit=1)
    assert "is in the configuration" in configured.error["message"]
    assert (await anos.post("/key/update", rpm_limit=1)).error["param"] == "key"


async def test_the_limits_and_budgets_of_the_configuration_are_shown_in_numbers(gateway) -> None:
    anos = await gateway(CONFIG)
    await anos.post("/admin/keys", name="web", limits="slow", budget="small")
    shown = await info(anos, "web")
    assert (shown["rpm_limit"], shown["max_budget"], shown["budget_duration"]) == (1, 1, "1mo")
    same = (await anos.post("/key/update", key="web", rpm_limit=None, soft_budget=None)).body
    assert (same["rpm_limit"], same["max_budget"]) == (1, 1)


async def test_info_tells_what_a_key_has_spent(gateway) -> None:
    price = {"input_per_million_usd": 1000, "output_per_million_usd": 1000}
    anos = await gateway({**CONFIG, "models": {"gpt-4": {"price": price}}})
    free = (await generated(anos, key_alias="free"))["key"]
    bound = (await generated(anos, key_alias="bound", max_budget=900, budget_duration="1d"))["key"]
    for key in (free, bound):
        assert await status_of(anos, key, max_output_tokens=16) == 200
    spent = [await info(anos, name) for name in ("free", "bound")]
    assert spent[0]["spend"] == spent[1]["spend"] > 0
    assert spent[0]["budget_reset_at"] is None
    assert moment_ms(spent[1]["budget_reset_at"]) > time.time() * 1000


async def test_a_key_is_meant_by_its_text_or_its_token(gateway) -> None:
    anos = await gateway(CONFIG)
    made = await generated(anos)
    answers = [(await anos.get("/key/info", key=made[name])).body for name in ("key", "token")]
    assert answers[0] == answers[1]
    assert answers[0]["key"] == made["token"]
    assert made["key"] not in str(answers)


@pytest.mark.parametrize("name", ["fixed", "viewer", "boss"])
async def test_every_role_may_ask_for_itself(gateway, name: str) -> None:
    anos = await gateway(CONFIG)
    key = CONFIG["keys"][name]["key"]
    for query in ({}, {"key": key}, {"key": name}):
        reply = await anos.request("GET", "/key/info", params=query, headers=auth(key))
        assert reply.body["key"] == name
        assert reply.body["info"]["key_alias"] == name


async def test_the_master_key_may_ask_for_itself(gateway) -> None:
    anos = await gateway({"limits": {"default": {"requests_per_minute": 5}}})
    mine = (await anos.get("/key/info")).body
    assert (mine["key"], mine["info"]["models"], mine["info"]["rpm_limit"]) == ("master", [], None)
    assert (await anos.get("/key/info", key="master")).body == mine


async def test_a_key_may_not_ask_for_another_one(gateway) -> None:
    anos = await gateway(CONFIG)
    for asked in ("viewer", "none", CONFIG["keys"]["viewer"]["key"]):
        reply = await anos.request("GET", "/key/info", params={"key": asked}, headers=auth(FIXED))
        assert (reply.status, reply.error["code"]) == (403, "permission_denied")
    viewer = auth(CONFIG["keys"]["viewer"]["key"])
    seen = await anos.request("GET", "/key/info", params={"key": "fixed"}, headers=viewer)
    assert seen.body["info"]["team_id"] == "other"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("update", {"key": "none"}),
        ("block", {"key": "none"}),
        ("unblock", {"key": "none"}),
        ("regenerate", {"key": "none"}),
        ("none/regenerate", {}),
        ("delete", {"keys": ["fixed", "sk-none"]}),
        ("delete", {"key_aliases": ["sk-none"]}),
    ],
)
async def test_an_unknown_key_is_not_found_and_not_repeated(gateway, path: str, body: Json) -> None:
    anos = await gateway(CONFIG)
    reply = await anos.request("POST", f"/key/{path}", json=body)
    assert (reply.status, reply.error["code"]) == (404, "not_found")
    assert "none" not in reply.error["message"]
    assert (await anos.get("/key/info", key="sk-none")).status == 404


async def test_a_blocked_key_is_refused_until_it_is_unblocked(gateway) -> None:
    anos = await gateway(CONFIG)
    key = (await generated(anos))["key"]
    assert (await anos.post("/key/block", key=key)).body["blocked"] is True
    assert await status_of(anos, key) == 401
    assert (await anos.post("/key/unblock", key=key)).body["blocked"] is False
    assert await status_of(anos, key) == 200


async def test_a_key_is_regenerated_with_grace_or_without(gateway) -> None:
    anos = await gateway(CONFIG)
    first = (await generated(anos, key_alias="web"))["key"]
    body: Json = {"grace_period": "1h", "rpm_limit": 50}
    second = (await anos.post(f"/key/{first}/regenerate", **body)).body
    assert (second["token"], second["rpm_limit"]) == ("web", 50)
    assert [await status_of(anos, key) for key in (first, second["key"])] == [200, 200]
    third = (await anos.post("/key/regenerate", key="web", new_key="sk-third")).body
    assert third["key"] == "sk-third"
    left = [await status_of(anos, key) for key in (first, second["key"], "sk-third")]
    assert left == [401, 401, 200]
    assert rows(anos, "SELECT DISTINCT route FROM exchanges WHERE route LIKE '%regenerate'") == [
        ("/key/{key}/regenerate",),
        ("/key/regenerate",),
    ]
    wrong = await anos.post("/key/regenerate", key="web", grace_period="soon")
    assert (wrong.status, wrong.error["param"]) == (400, "grace_period")


async def test_keys_are_deleted_by_text_token_and_alias_together_or_not_at_all(gateway) -> None:
    anos = await gateway(CONFIG)
    made = [await generated(anos, key_alias=name) for name in ("a", "b", "c")]
    mixed = await anos.post("/key/delete", keys=["a", "fixed"])
    assert "is in the configuration" in mixed.error["message"]
    assert await status_of(anos, made[0]["key"]) == 200
    deleted = await anos.post("/key/delete", keys=[made[0]["key"], "b", "a"], key_aliases=["c"])
    assert deleted.body == {"deleted_keys": ["a", "b", "c"]}
    assert [await status_of(anos, each["key"]) for each in made] == [401, 401, 401]
    assert (await anos.post("/key/delete")).error["param"] == "keys"


async def test_keys_are_listed_page_by_page_and_filtered(gateway) -> None:
    anos = await gateway(CONFIG)
    for number in range(3):
        await generated(anos, key_alias=f"web-{number}", team_id="research", user_id=f"u-{number}")
    page = (await anos.get("/key/list", size="2", team_id="research")).body
    assert page == {
        "keys": ["web-0", "web-1"],
        "total_count": 3,
        "current_page": 1,
        "total_pages": 2,
    }
    second = (await anos.get("/key/list", size="2", page="2", team_id="research")).body
    assert second["keys"] == ["web-2"]
    (whole,) = (await anos.get("/key/list", user_id="u-1", return_full_object="true")).body["keys"]
    assert (whole["token"], whole["team_id"], whole["spend"]) == ("web-1", "research", 0)
    assert (await anos.get("/key/list", key_alias="none")).body["total_pages"] == 0
    for query in ({"page": "0"}, {"size": "x"}, {"size": "-1"}):
        assert (await anos.get("/key/list", **query)).status == 400


@pytest.mark.parametrize(
    ("kind", "role"),
    [("llm_api", "key"), ("management", "admin"), ("read_only", "read-only"), (None, "key")],
)
async def test_the_type_of_a_key_is_its_role(gateway, kind: str | None, role: str) -> None:
    anos = await gateway(CONFIG)
    await generated(anos, key_alias="web", key_type=kind)
    assert (await anos.get("/admin/keys/web")).body["role"] == role


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [("30s", 30), ("30m", 1800), ("30h", 108_000), ("30d", 2_592_000), ("2w", 1_209_600)],
)
def test_a_duration_is_so_many_seconds(duration: str, seconds: int) -> None:
    assert litellm_fields.seconds(duration, "duration") == seconds


@pytest.mark.parametrize("months", [1, 2, 11, 12, 13, 600])
def test_a_month_ends_on_the_same_day_or_the_last(months: int) -> None:
    before = datetime.now(UTC)
    length_s = litellm_fields.seconds(f"{months}mo", "duration")
    moment = datetime.fromtimestamp(before.timestamp() + length_s, UTC)
    assert (moment.year - before.year) * 12 + moment.month - before.month == months
    assert moment.day == min(before.day, monthrange(moment.year, moment.month)[1])


@pytest.mark.parametrize("duration", ["", "30", "d", "0d", "-1d", "1y", "1.5h", "30d ", 5, ["1d"]])
def test_a_duration_that_is_none_is_refused(duration: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        litellm_fields.seconds(duration, "duration")
    assert caught.value.param == "duration"
