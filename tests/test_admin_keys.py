"""Keys that operators make, change and end over HTTP and from the command line."""

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
from typing import Any

import pytest

from anos import cli, lifecycle
from anos import config as configuration
from anos.config import ConfigFault
from anos.keys import digest_of
from anos.state import GATEWAY
from tests.conftest import ROOT, Gateway, Json, Process, Reply, base_config, merge

KEYS = "/admin/keys"
CONFIG: Json = {
    "projects": {"research": {}, "other": {}},
    "limits": {"slow": {"requests_per_minute": 1}},
    "budgets": {"small": {"usd": 1, "window": "month"}},
    "keys": {
        "fixed": {"key": "sk-fixed-0123456789abcdef", "project": "other"},
        "viewer": {"key": "sk-viewer-0123456789abcdef", "role": "read-only"},
        "boss": {"key": "sk-boss-0123456789abcdef", "role": "admin", "bodies": "full"},
    },
}


async def made(anos: Gateway, **settings: Any) -> str:
    """The text of a new key, "web" unless it is named."""
    reply = await anos.post(KEYS, **{"name": "web", **settings})
    assert reply.status == 200, reply.body
    text: str = reply.body["key"]
    return text


async def status_of(anos: Gateway | Process, key: str, **body: Any) -> int:
    """What a model call with this key is answered with."""
    reply = await anos.request(
        "POST", "/v1/responses", json={"model": "gpt-4", "input": "Hi", **body}, headers=auth(key)
    )
    return reply.status


def auth(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def patch(anos: Gateway, name: str = "web", **settings: Any) -> Reply:
    return await anos.request("PATCH", f"{KEYS}/{name}", json=settings)


def rows(anos: Gateway, statement: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(anos.database)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


# Making -------------------------------------------------------------------------------------------


async def test_a_new_key_works_at_once_and_is_shown_once(gateway) -> None:
    anos = await gateway(CONFIG)
    created = (await anos.post(KEYS, name="web", project="research", metadata={"a": "b"})).body
    key = created.pop("key")
    assert re.fullmatch(r"sk-[A-Za-z0-9_-]{43}", key)
    assert created["hint"] == f"sk-...{key[-4:]}"
    assert (created["project"], created["metadata"]) == ("research", {"a": "b"})
    assert (created["source"], created["created_by"], created["fault"]) == ("api", "master", None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z", created["created_at"])
    assert (await anos.get(f"{KEYS}/web")).body == created
    assert await status_of(anos, key) == 200


async def test_a_keys_text_is_in_no_file_log_or_later_answer(gateway, caplog) -> None:
    anos = await gateway(CONFIG)
    boss = auth("sk-boss-0123456789abcdef")
    given = "sk-a-key-of-my-own-0123456789"
    body = {"name": "own", "key": given}
    reply = await anos.request("POST", KEYS, json=body, headers=boss)
    keys = [reply.body["key"], await made(anos)]
    for action in ("rotate", "block", "unblock"):
        reply = await anos.request("POST", f"{KEYS}/web/{action}", headers=boss)
        keys += [reply.body["key"]] if action == "rotate" else []
    listed = (await anos.get(KEYS)).raw
    await anos.stop()
    stored = b"".join(
        path.read_bytes() for path in anos.database.parent.glob(f"{anos.database.name}*")
    )
    assert len(keys) == 3
    for key in keys:
        assert key.encode() not in stored + listed + caplog.text.encode()
        assert digest_of(key).hex().encode() not in listed
    # A key lives on in the file as its digest, except the one that a rotation ended.
    assert [digest_of(key) in stored for key in keys[::2]] == [True, True]


async def test_a_key_may_be_brought_along(gateway) -> None:
    anos = await gateway(CONFIG)
    assert await made(anos, key="sk-from-elsewhere") == "sk-from-elsewhere"
    assert await status_of(anos, "sk-from-elsewhere") == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "a", "budget": {"usd": 1, "window": "day", "soft_usd": 2}}, "budget.soft_usd"),
        (
            {
                "name": "a",
                "budget": [
                    {"usd": 1, "window": "day"},
                    {"usd": 1, "window": "month", "soft_usd": 2},
                ],
            },
            "budget[1].soft_usd",
        ),
        ({}, "name"),
        ({"name": None}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "master"}, "name"),
        ({"name": ".."}, "name"),
        ({"name": "fixed"}, "name"),
        ({"name": "taken"}, "name"),
        ({"name": 5}, "name"),
        ({"name": "a", "key": "with blank"}, "key"),
        ({"name": "a", "key": 5}, "key"),
        ({"name": "a", "key": "sk-1234"}, "key"),
        ({"name": "a", "key": "sk-fixed-0123456789abcdef"}, "key"),
        ({"name": "a", "key": "sk-taken"}, "key"),
        ({"name": "a", "project": "none"}, "project"),
        ({"name": "a", "created_by": "me"}, "created_by"),
        ({"name": "a", "expires": "2020-01-01"}, "expires"),
        ({"name": "a", "limits": {"tokens_per_minute": "9"}}, "limits.tokens_per_minute"),
    ],
)
async def test_a_key_that_cannot_be_made_is_refused_with_the_field(
    gateway, body: Json, param: str
) -> None:
    anos = await gateway(CONFIG)
    await made(anos, name="taken", key="sk-taken")
    reply = await anos.request("POST", KEYS, json=body)
    assert (reply.status, reply.error["param"]) == (400, param)
    assert "sk-taken" not in reply.error["message"]
    assert rows(anos, "SELECT count(*) FROM keys") == rows(anos, "SELECT count(*) FROM changes")


async def test_of_two_keys_of_one_name_at_once_one_is_made(gateway) -> None:
    anos = await gateway(CONFIG)
    replies = await asyncio.gather(*(anos.post(KEYS, name="web") for _ in range(5)))
    assert sorted(reply.status for reply in replies) == [200, 400, 400, 400, 400]
    (key,) = [reply.body["key"] for reply in replies if reply.status == 200]
    assert await status_of(anos, key) == 200


# Showing ------------------------------------------------------------------------------------------


async def test_keys_of_the_configuration_are_listed_beside_the_others(gateway) -> None:
    anos = await gateway(CONFIG)
    await made(anos, name="alpha")
    page = (await anos.get(KEYS)).body
    assert [(key["name"], key["source"]) for key in page["data"]] == [
        ("alpha", "api"),
        ("boss", "config"),
        ("fixed", "config"),
        ("viewer", "config"),
    ]
    assert (page["object"], page["has_more"], page["next"]) == ("list", False, None)


async def test_a_list_is_read_page_by_page(gateway) -> None:
    anos = await gateway(CONFIG)
    for number in range(4):
        await made(anos, name=f"web-{number}", project="research")
    seen, after = [], {}
    for _ in range(3):
        page = (await anos.get(KEYS, limit="2", project="research", **after)).body
        seen.append([key["name"] for key in page["data"]])
        after = {"after": page["next"] or ""}
        if not page["has_more"]:
            break
    assert seen == [["web-0", "web-1"], ["web-2", "web-3"]]


async def test_only_admins_change_keys_and_only_operators_see_them(gateway) -> None:
    anos = await gateway(CONFIG)
    seen = {}
    for role, key in [("key", await made(anos))] + [
        (name, CONFIG["keys"][name]["key"]) for name in ("viewer", "boss")
    ]:
        look = await anos.request("GET", KEYS, headers=auth(key))
        change = await anos.request("PATCH", f"{KEYS}/web", json={}, headers=auth(key))
        seen[role] = (look.status, change.status)
    assert seen == {"key": (403, 403), "viewer": (200, 403), "boss": (200, 200)}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "none"),
        ("PATCH", "none"),
        ("DELETE", "none"),
        ("POST", "none/rotate"),
        ("POST", "none/block"),
        ("POST", "none/unblock"),
        ("GET", "master"),
    ],
)
async def test_an_unknown_key_is_not_found(gateway, method: str, path: str) -> None:
    anos = await gateway(CONFIG)
    reply = await anos.request(method, f"{KEYS}/{path}", json={} if method == "PATCH" else None)
    assert (reply.status, reply.error["code"]) == (404, "not_found")


# Changing -----------------------------------------------------------------------------------------


async def test_an_edit_merges_and_null_is_the_default_again(gateway) -> None:
    anos = await gateway(CONFIG)
    await made(anos, models=["gpt-4"], metadata={"a": "1", "b": "2"}, limits="slow", role="admin")
    edited = (await patch(anos, metadata={"a": None, "c": "3"}, models=None, limits=None)).body
    assert edited["metadata"] == {"b": "2", "c": "3"}
    assert (edited["models"], edited["limits"], edited["role"]) == (["*"], None, "admin")
    assert (await anos.get(f"{KEYS}/web")).body == edited


async def test_a_change_holds_for_the_next_request(gateway) -> None:
    anos = await gateway(CONFIG)
    key = await made(anos)
    assert await status_of(anos, key) == 200
    await patch(anos, models=["stub/*"])
    assert await status_of(anos, key) == 403
    await patch(anos, models=None, limits={"requests_per_minute": 1})
    assert [await status_of(anos, key) for _ in range(2)] == [200, 429]
    await patch(anos, limits=None)
    assert await status_of(anos, key) == 200
    await patch(anos, expires="2020-01-01")
    assert await status_of(anos, key) == 401


async def test_a_new_limit_counts_from_now_and_a_changed_one_keeps_its_count(gateway) -> None:
    anos = await gateway(CONFIG)
    key = await made(anos, limits={"requests_per_minute": 2})
    assert await status_of(anos, key) == 200
    await patch(anos, limits={"requests_per_minute": 1})
    assert await status_of(anos, key) == 429


async def test_a_new_budget_knows_what_the_key_has_spent(gateway) -> None:
    price = {"input_per_million_usd": 1000, "output_per_million_usd": 1000}
    anos = await gateway({**CONFIG, "models": {"gpt-4": {"price": price}}})
    key = await made(anos)
    assert await status_of(anos, key) == 200
    await patch(anos, budget={"usd": 0.001, "window": "month"})
    assert await status_of(anos, key, max_output_tokens=1) == 429
    await patch(anos, budget={"usd": 1000})
    assert await status_of(anos, key, max_output_tokens=16) == 200


async def test_a_change_that_is_wrong_changes_nothing(gateway) -> None:
    anos = await gateway(CONFIG)
    await made(anos)
    before = (await anos.get(f"{KEYS}/web")).body
    reply = await patch(anos, role="root", source="config")
    assert (reply.status, reply.error["param"]) == (400, "source")
    assert "; role: must be" in reply.error["message"]
    assert (await anos.get(f"{KEYS}/web")).body == before


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"{KEYS}?wrong=1", None),
        ("GET", f"{KEYS}?wrong=asc&limit=5", None),
        ("POST", f"{KEYS}/web/rotate", {"wrong": 1}),
        ("POST", "/admin/integrity", {"wrong": 1}),
        ("POST", "/admin/backup", {"file": "x.db", "wrong": 1}),
    ],
)
async def test_a_parameter_that_would_be_ignored_is_refused_by_name(
    gateway, method: str, path: str, body: Json | None
) -> None:
    reply = await (await gateway(CONFIG)).request(method, path, json=body)
    assert reply.status == 400
    assert (reply.error["param"], reply.error["code"]) == ("wrong", "unknown_parameter")
    assert reply.error["message"].startswith("Unknown parameter 'wrong'; ")
    assert "known are ." not in reply.error["message"]


async def test_of_changes_at_once_none_is_lost(gateway) -> None:
    anos = await gateway(CONFIG)
    await made(anos)
    await asyncio.gather(*(patch(anos, metadata={f"m{n}": "x"}) for n in range(20)))
    assert len((await anos.get(f"{KEYS}/web")).body["metadata"]) == 20


async def test_a_key_of_the_configuration_cannot_be_changed_here(gateway) -> None:
    anos = await gateway(CONFIG)
    for method, path in [("PATCH", ""), ("DELETE", ""), ("POST", "/rotate"), ("POST", "/block")]:
        reply = await anos.request(method, f"{KEYS}/fixed{path}", json={})
        assert (reply.status, reply.error["param"]) == (400, "name")
        assert "is in the configuration" in reply.error["message"]
    assert await status_of(anos, "sk-fixed-0123456789abcdef") == 200


async def test_a_blocked_key_is_refused_until_it_is_unblocked(gateway) -> None:
    anos = await gateway(CONFIG)
    key = await made(anos)
    assert (await anos.request("POST", f"{KEYS}/web/block")).body["blocked"] is True
    assert await status_of(anos, key) == 401
    assert (await anos.request("POST", f"{KEYS}/web/unblock")).body["blocked"] is False
    assert await status_of(anos, key) == 200


async def test_a_rotation_ends_the_old_key_at_once_or_after_the_overlap(gateway) -> None:
    anos = await gateway(CONFIG)
    first = await made(anos)
    rotated = (await anos.post(f"{KEYS}/web/rotate", overlap_s=3600)).body
    second = rotated["key"]
    assert rotated["old_key_until"].endswith("Z")
    assert [await status_of(anos, key) for key in (first, second)] == [200, 200]
    third = (await anos.request("POST", f"{KEYS}/web/rotate")).body["key"]
    assert [await status_of(anos, key) for key in (first, second, third)] == [401, 401, 200]


async def test_a_rotated_key_still_reads_its_responses(gateway) -> None:
    anos = await gateway(CONFIG)
    body = {"model": "gpt-4", "input": "Hi"}
    old = auth(await made(anos))
    created = await anos.request("POST", "/v1/responses", json=body, headers=old)
    new = auth((await anos.request("POST", f"{KEYS}/web/rotate")).body["key"])
    path = f"/v1/responses/{created.body['id']}"
    assert (await anos.request("GET", path, headers=new)).status == 200


@pytest.mark.parametrize("body", [{"overlap_s": -1}, {"overlap_s": "1"}, {"overlap_s": True}])
async def test_an_overlap_that_is_none_is_refused(gateway, body: Json) -> None:
    anos = await gateway(CONFIG)
    key = await made(anos)
    reply = await anos.post(f"{KEYS}/web/rotate", **body)
    assert (reply.status, reply.error["param"]) == (400, "overlap_s")
    assert (await anos.post(f"{KEYS}/web/rotate", overlap=1)).error["param"] == "overlap"
    assert await status_of(anos, key) == 200


async def test_the_name_of_a_deleted_key_is_never_given_again(gateway) -> None:
    anos = await gateway(CONFIG)
    key = await made(anos)
    deleted = {"object": "key", "name": "web", "deleted": True}
    assert (await anos.delete(f"{KEYS}/web")).body == deleted
    assert await status_of(anos, key) == 401
    assert (await anos.get(f"{KEYS}/web")).status == 404
    reply = await anos.post(KEYS, name="web")
    assert (reply.status, reply.error["code"]) == (400, "name_taken")


# What stays ---------------------------------------------------------------------------------------


async def test_every_change_is_a_row_of_the_log_with_who_and_what(gateway) -> None:
    anos = await gateway(CONFIG)
    boss = {**auth("sk-boss-0123456789abcdef"), "x-request-id": "r-1"}
    await anos.request("POST", KEYS, json={"name": "web"}, headers=boss)
    await patch(anos, models=["m"])
    for action in ("rotate", "block", "unblock"):
        await anos.request("POST", f"{KEYS}/web/{action}")
    await anos.delete(f"{KEYS}/web")
    logged = rows(anos, "SELECT action, actor, object, before, after FROM changes ORDER BY seq")
    assert [row[0] for row in logged] == [
        "key.create",
        "key.edit",
        "key.rotate",
        "key.block",
        "key.unblock",
        "key.delete",
    ]
    assert [row[1] for row in logged] == ["boss"] + ["master"] * 5
    assert {row[2] for row in logged} == {"key:web"}
    assert rows(anos, "SELECT request_id FROM changes WHERE seq = 1") == [("r-1",)]
    states = [row[3] and json.loads(row[3])["models"] for row in logged[:3]]
    assert states == [None, ["*"], ["m"]]
    assert json.loads(logged[3][4])["blocked"] is True
    assert logged[5][4] is None


async def test_keys_and_their_settings_outlive_a_restart(gateway) -> None:
    anos = await gateway(CONFIG)
    old = await made(anos, models=["stub/*"], project="research")
    new = (await anos.post(f"{KEYS}/web/rotate", overlap_s=3600)).body["key"]
    await made(anos, name="gone")
    await anos.delete(f"{KEYS}/gone")
    before = (await anos.get(f"{KEYS}/web")).body
    await anos.stop()
    again = await gateway(CONFIG)
    assert (await again.get(f"{KEYS}/web")).body == before
    for key in (old, new):
        assert [await status_of(again, key, model=m) for m in ("gpt-4", "stub/echo")] == [403, 200]
    assert (await again.post(KEYS, name="gone")).error["code"] == "name_taken"


async def test_what_was_answered_is_there_after_a_kill(process) -> None:
    first = await process(CONFIG)
    created = await first.request("POST", KEYS, json={"name": "web"})
    await first.kill()
    second = await process(CONFIG)
    assert await status_of(second, created.body["key"]) == 200


async def test_a_client_that_leaves_does_not_leave_a_change_half_made(gateway) -> None:
    anos = await gateway(CONFIG)
    parts = anos.app[GATEWAY]
    has_left = asyncio.Event()
    parts.ledger.watchers.append(lambda row: has_left.set() if row.status == 499 else None)
    async with asyncio.timeout(10):
        async with parts.changing:
            leaving = asyncio.create_task(anos.post(KEYS, name="left"))
            for _ in range(100_000):
                if parts.closing:
                    break
                await asyncio.sleep(0)
            leaving.cancel()
            await has_left.wait()
        async with parts.changing:  # after the change that waited for it before
            assert parts.live.keyring.by_name["left"].key == "left"
    assert rows(anos, "SELECT name FROM keys") == [("left",)]


async def test_a_store_that_cannot_write_refuses_a_change_and_makes_none(gateway) -> None:
    anos = await gateway(CONFIG)
    await anos.app[GATEWAY].store.close()
    reply = await anos.post(KEYS, name="web")
    assert reply.status == 503
    assert "web" not in anos.app[GATEWAY].live.keyring.records


# A reload -----------------------------------------------------------------------------------------


def reloads(anos: Gateway, changed: Json) -> None:
    """Let the next reload find a configuration with these changes."""
    tree = merge(merge(base_config(anos.database, None), CONFIG), changed)
    anos.app[GATEWAY].load = lambda: configuration.parse(tree)


async def test_a_reload_keeps_the_keys_and_is_logged(gateway) -> None:
    anos = await gateway(CONFIG)
    key = await made(anos, limits="slow")
    reloads(anos, {"limits": {"slow": {"requests_per_minute": 3}}})
    assert (await anos.request("POST", "/admin/reload")).status == 200
    assert [await status_of(anos, key) for _ in range(4)] == [200, 200, 200, 429]
    (row,) = rows(anos, "SELECT actor, object, after FROM changes WHERE action = 'config.reload'")
    assert row[:2] == ("master", "config")
    assert json.loads(row[2]) == ["limits.slow.requests_per_minute: 1 -> 3"]


async def test_a_reload_that_takes_away_what_a_key_names_is_refused(gateway) -> None:
    anos = await gateway(CONFIG)
    key = await made(anos, project="research")
    reloads(anos, {"projects": {"research": None}})
    reply = await anos.request("POST", "/admin/reload")
    assert reply.status == 400
    assert 'key web: project: no project "research"' in reply.error["message"]
    assert await status_of(anos, key) == 200


async def test_a_key_that_names_what_is_gone_at_the_start_lets_nobody_in_until_it_is_changed(
    gateway, caplog
) -> None:
    anos = await gateway(CONFIG)
    key = await made(anos, project="research")
    await anos.stop()
    lacking = merge(CONFIG, {"projects": {"research": None}})
    again = await gateway(lacking)
    assert 'key web lets nobody in: project: no project "research"' in caplog.text
    assert await status_of(again, key) == 401
    assert (await again.get(f"{KEYS}/web")).body["fault"] == 'project: no project "research"'
    assert (await patch(again, project="other")).body["fault"] is None
    assert await status_of(again, key) == 200


async def test_a_name_that_is_in_the_configuration_too_is_the_configurations(
    gateway, caplog
) -> None:
    anos = await gateway(CONFIG)
    key = await made(anos)
    reloads(anos, {"keys": {"web": {"key": "sk-configured"}}})
    await anos.request("POST", "/admin/reload")
    assert "key web is in the configuration too" in caplog.text
    assert [await status_of(anos, each) for each in (key, "sk-configured")] == [401, 200]
    assert (await anos.get(f"{KEYS}/web")).body["source"] == "config"


async def test_a_reload_that_cannot_be_logged_changes_nothing(gateway) -> None:
    anos = await gateway(CONFIG)
    reloads(anos, {"limits": {"slow": {"requests_per_minute": 3}}})
    await anos.app[GATEWAY].store.close()
    with pytest.raises(ConfigFault) as caught:
        await lifecycle.reload(anos.app[GATEWAY])
    assert "nothing was changed" in str(caught.value)
    assert anos.app[GATEWAY].live.config.limits["slow"].requests_per_minute == 1


# The command line ---------------------------------------------------------------------------------


async def shell(anos: Process, *words: str, port: str = "") -> tuple[int, str, str]:
    """Exit code, output and complaints of `anos_gateway.py keys` beside a running gateway."""
    port = port or anos.url.rpartition(":")[2]
    file = anos.log_file.parent / "anos-0.json"
    command = [sys.executable, str(ROOT / "anos_gateway.py"), "keys", *words]
    command += ["--config", str(file), "--port", port]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ANOS_")}
    ended = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=30, check=False, env=clean
    )
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["list", "web"], "keys list takes no name"),
        (["list", "--set", "role=admin"], "keys list takes no --set"),
        (["show", "web", "--set", "role=admin"], "keys show takes no --set"),
        (["block", "web", "--overlap-s", "5"], "keys block takes no --overlap-s"),
        (["edit", "web"], "keys edit needs --set"),
        (["show"], "keys show needs the name of a key"),
    ],
)
def test_what_would_be_ignored_is_a_wrong_command_line(
    capsys, words: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["keys", *words], lambda *_: None)
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: {complaint}\n")


async def test_keys_are_kept_from_the_command_line(process) -> None:
    anos = await process(CONFIG)
    sets = ["models=gpt-4,stub/*", "project=research", "metadata.year=2026"]
    sets += ["limits.requests_per_minute=9", 'budget={"usd": 5, "window": "month"}']
    flags = [word for each in sets for word in ("--set", each)]
    status, key, note = await shell(anos, "create", "web", *flags)
    assert (status, note) == (0, "web: this key is shown once; keep it now\n")
    assert re.fullmatch(r"sk-[A-Za-z0-9_-]{43}\n", key)
    assert await status_of(anos, key.strip()) == 200
    shown = json.loads((await shell(anos, "show", "web"))[1])
    assert (shown["models"], shown["metadata"]) == (["gpt-4", "stub/*"], {"year": "2026"})
    assert (shown["limits"], shown["budget"]["usd"]) == ({"requests_per_minute": 9}, 5)
    assert await shell(anos, "edit", "web", "--set", "models=null") == (0, "web: active\n", "")
    assert await shell(anos, "block", "web") == (0, "web: blocked\n", "")
    assert await shell(anos, "unblock", "web") == (0, "web: active\n", "")
    status, rotated, _ = await shell(anos, "rotate", "web", "--overlap-s", "60")
    assert [await status_of(anos, each.strip()) for each in (key, rotated)] == [200, 200]
    await shell(anos, "edit", "web", "--set", "expires=2020-01-01")
    lines = (await shell(anos, "list"))[1].splitlines()
    assert lines[0].split() == ["NAME", "KEY", "SOURCE", "ROLE", "PROJECT", "STATE", "EXPIRES"]
    assert lines[4].split()[2:] == ["api", "key", "research", "expired", "2020-01-01T00:00:00Z"]
    listed = json.loads((await shell(anos, "list", "--json"))[1])
    assert [each["name"] for each in listed] == ["boss", "fixed", "viewer", "web"]
    assert await shell(anos, "delete", "web") == (0, "web: deleted\n", "")


@pytest.mark.parametrize(
    ("words", "status", "complaint"),
    [
        (["show", "none"], 1, "There is no such key.\n"),
        (["edit", "fixed", "--set", "blocked=true"], 1, "is in the configuration"),
        (["create", "a", "--set", "role=root"], 1, "role: must be"),
        (["show"], 2, "keys show needs the name of a key"),
        (["create", "a", "--set", "role"], 2, "--set role: must be FIELD=VALUE"),
        (["edit", "a", "--set", "limits=a", "--set", "limits.b=1"], 2, "limits has a value"),
        (["steal", "a"], 2, "invalid choice"),
    ],
)
async def test_what_the_command_line_cannot_do_is_a_sentence(
    process, words: list[str], status: int, complaint: str
) -> None:
    ended = await shell(await process(CONFIG), *words)
    assert ended[:2] == (status, "")
    assert complaint in ended[2]


async def test_a_gateway_that_does_not_run_is_a_sentence(process) -> None:
    anos = await process(CONFIG)
    await anos.terminate()
    status, output, complaint = await shell(anos, "list")
    assert (status, output) == (1, "")
    assert complaint.startswith(f"No gateway answers at {anos.url}: ")
    assert complaint.count("\n") == 1
