"""A key and a prompt that no one else would write, and everywhere they must not turn up."""

import sqlite3
from pathlib import Path

import pytest

from tests import scripted
from tests.conftest import Json, Process
from tests.scripted import CUT
from tests.test_exchanges import CHAT, RESPONSES

KEY, WRONG = "sk-canary-key-7f3a", "sk-canary-wrong-91c2"
PROMPT, ANSWER = "canary prompt 5b1e", "canary answer c07d"
UPSTREAM = "sk-canary-upstream-d2e8"


def config(bodies: str) -> Json:
    return {
        "providers": {"up": {"api_key": UPSTREAM}},
        "keys": {"ann": {"key": KEY, "bodies": bodies}},
        "guards": {"keywords": {"phrases": ["forbidden fruit"]}},
    }


async def provoke(anos: Process, upstream) -> bytes:
    """Every kind of call and failure with the canaries in it; all that came back as an error."""
    said = scripted.responses_text(ANSWER)
    broken = [*scripted.responses_stream([ANSWER])[:5], CUT]
    echo = (400, {"error": {"message": f"no such key {UPSTREAM}", "type": "x"}}, {})
    upstream.answer(said, said, scripted.responses_stream([ANSWER]), broken, echo, said)
    calls: list[tuple[str, Json]] = [
        (RESPONSES, {"input": PROMPT, "store": False}),
        (CHAT, {"messages": [{"role": "user", "content": PROMPT}]}),
        (RESPONSES, {"input": PROMPT, "store": False, "stream": True}),
        (RESPONSES, {"input": PROMPT, "store": False, "stream": True}),
        (RESPONSES, {"input": PROMPT, "store": False}),
        (RESPONSES, {"input": f"{PROMPT} forbidden fruit"}),
        (RESPONSES, {"input": [{"type": 5, "content": PROMPT}]}),
        (RESPONSES, {"input": PROMPT, "api_key": KEY}),
        (RESPONSES, {"input": PROMPT, "temperature": PROMPT}),
        (RESPONSES, {"input": PROMPT, "previous_response_id": "resp_none"}),
    ]
    errors = b""
    for path, body in calls:
        for key in (KEY, WRONG):
            headers = {"Authorization": f"Bearer {key}"}
            tree = {"model": "gpt-4", **body}
            answer = await anos.request("POST", path, json=tree, headers=headers)
            errors += answer.raw * (answer.status != 200)
    for headers in ({"Authorization": KEY}, {"x-api-key": KEY, "api-key": WRONG}):
        errors += (await anos.request("GET", "/v1/models", headers=headers)).raw
    broken_json = f'{{"input": "{PROMPT}'.encode()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    errors += (await anos.request("POST", RESPONSES, data=broken_json, headers=headers)).raw
    return errors


async def views(anos: Process) -> bytes:
    """What operators are shown."""
    paths = (
        *("/metrics", "/admin/requests", "/admin/spend", "/admin/inflight", "/admin/responses"),
        *("/admin/changes", "/admin/keys", "/admin/audit/export", "/spend/logs", "/key/list"),
    )
    found = b""
    for path in paths:
        answer = await anos.get(path)
        assert answer.status == 200, (path, answer.raw)
        found += answer.raw
    listed = (await anos.get("/admin/requests")).body["data"]
    for each in listed:
        found += (await anos.get(f"/admin/requests/{each['id']}")).raw
    return found


def dump(path: Path) -> bytes:
    """Every row of the file, and the bytes of the file itself."""
    with sqlite3.connect(path) as connection:
        return "\n".join(connection.iterdump()).encode() + path.read_bytes()


@pytest.mark.parametrize("bodies", ["off", "hashed", "full"])
async def test_a_key_and_a_prompt_turn_up_nowhere_but_where_the_configuration_says(
    process, upstream, bodies: str
) -> None:
    anos = await process(config(bodies))
    errors = await provoke(anos, upstream)
    shown = await views(anos)
    assert (await anos.request("POST", "/admin/backup", json={"file": "copy.db"})).status == 200
    assert await anos.terminate() == 0
    folder = anos.log_file.parent
    for name, data in (
        ("errors", errors),
        ("views", shown),
        ("log", anos.log.encode()),
        ("database", dump(folder / "process.db")),
        ("backup", dump(folder / "copy.db")),
    ):
        for canary in (KEY, WRONG, UPSTREAM):
            # A body that holds the key itself is what the key's `full` asks for.
            expected = bodies == "full" and canary == KEY and name in ("database", "backup")
            assert (canary.encode() in data) == expected, (name, canary)
        kept = bodies == "full" and name in ("database", "backup")
        assert (PROMPT.encode() in data) == kept, name
        assert (ANSWER.encode() in data) == kept, name
