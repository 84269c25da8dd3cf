"""What the program says of itself in its log, from its start to its end."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys

import pytest

from tests import scripted
from tests.conftest import ROOT, Process, free_port
from tests.scripted import silence

RESPONSES = "/v1/responses"


def said(anos: Process) -> list[str]:
    """The lines of the log without their times."""
    return [line.split(" ", 2)[2] for line in anos.log.splitlines()]


async def until_said(anos: Process, words: str) -> None:
    async with asyncio.timeout(10):
        while words not in anos.log:  # noqa: ASYNC110  # what another process does
            await asyncio.sleep(0.01)


async def test_a_start_says_what_is_served_and_a_stop_that_it_has_ended(process, tmp_path) -> None:
    anos = await process({})
    await until_said(anos, "listening")
    assert await anos.terminate() == 0
    assert said(anos) == [
        f"INFO anos configuration {tmp_path / 'anos-0.json'}; "
        f"database {tmp_path / 'process.db'}; 3 models, see GET /v1/models",
        f"INFO anos listening on {anos.url}",
        "INFO anos the master key is the published one: it works under localhost only",
        "INFO anos draining",
        "INFO anos stopped",
    ]


async def test_a_start_without_a_file_says_that_there_is_none(process, tmp_path) -> None:
    anos = await process(None)
    await until_said(anos, "listening")
    assert said(anos)[0] == (
        "INFO anos no configuration file: the stub answers; "
        f"database {tmp_path / 'process.db'}; 3 models, see GET /v1/models"
    )


async def test_a_stop_says_how_many_calls_it_cut_off(process, upstream) -> None:
    anos = await process({"server": {"drain_s": 0.1}})
    upstream.answer([*scripted.responses_stream(["Hel", "lo"])[:5], silence()])
    waiting = [asyncio.create_task(anos.post(RESPONSES, input="Hi")) for _ in range(2)]
    await upstream.received(2)
    assert await anos.terminate() == 0
    assert [reply.status for reply in await asyncio.gather(*waiting)] == [503, 503]
    assert said(anos)[-3:] == [
        "INFO anos draining",
        "WARNING anos 2 calls are cut off: server.drain_s is over",
        "INFO anos stopped",
    ]


@pytest.mark.parametrize("by", ["POST", "SIGHUP"])
async def test_a_reload_is_logged_whoever_asks_for_it(process, tmp_path, by: str) -> None:
    anos = await process({})
    file = tmp_path / "anos-0.json"
    tree = json.loads(file.read_text())
    for changes, line in (
        ({"retention": {"responses_days": 3}}, "INFO anos configuration reloaded: retention"),
        ({"models": {}}, "ERROR anos configuration not changed: models: at least one model"),
    ):
        file.write_text(json.dumps(tree | changes))
        if by == "POST":
            await anos.post("/admin/reload")
        else:
            anos.signal(signal.SIGHUP)
        await until_said(anos, line)
    assert sum("configuration " in line for line in said(anos)) == 3


async def test_a_terminal_that_is_closed_ends_the_gateway_and_one_that_is_open_does_not(
    tmp_path, no_task_left
) -> None:
    port = free_port()
    command = [sys.executable, str(ROOT / "anos_gateway.py"), "--port", str(port)]
    terminal, own = pty.openpty()
    with (tmp_path / "log").open("wb") as log:
        popen = subprocess.Popen(  # noqa: ASYNC220  # it returns at once
            command, cwd=tmp_path, stdin=own, stdout=log, stderr=subprocess.STDOUT
        )
    os.close(own)
    anos = Process(f"http://127.0.0.1:{port}", popen, tmp_path / "log")
    try:
        await until_said(anos, "listening")
        anos.signal(signal.SIGHUP)
        await until_said(anos, "configuration reloaded")
        os.close(terminal)
        anos.signal(signal.SIGHUP)
        assert await anos.wait() == 0
        assert said(anos)[-1] == "INFO anos stopped"
        assert anos.log.count("configuration reloaded") == 1
    finally:
        await anos.close()
