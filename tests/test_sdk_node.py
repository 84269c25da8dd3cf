"""The official openai client for Node works with the real process: tests/node/client.test.mjs."""

import asyncio
import os
import re
import shutil
from pathlib import Path

import pytest

from tests import chat_only

NODE = Path(__file__).parent / "node"
CASES = NODE / "client.test.mjs"


@pytest.mark.parametrize("kind", ["stub", "chat-only"])
async def test_the_official_node_client_works(kind: str, tmp_path: Path) -> None:
    assert shutil.which("node"), "this test needs node"
    assert (NODE / "node_modules" / "openai").is_dir(), "`make test` installs the openai client"
    async with chat_only.gateway(kind, tmp_path) as url:
        process = await asyncio.create_subprocess_exec(
            *("node", "--test", "--test-reporter=tap", str(CASES)),
            env={**os.environ, "ANOS_URL": url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(60):
            printed, _ = await process.communicate()
    report = printed.decode()
    assert process.returncode == 0, report
    # A run that found no case would be a success, too.
    cases = re.findall(r"^test\(", CASES.read_text(), re.MULTILINE)
    assert f"\n# pass {len(cases)}\n" in report
