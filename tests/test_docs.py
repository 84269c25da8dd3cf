"""Every example of the documents is run as it stands there, and everything they name exists.

A `bash`, `python` or `javascript` block is an example: only its origin is replaced, and where the
program and its database are. A `json` or
`text` block right after it is what it prints; any other `json` block is a configuration, and the
examples of its section run with it. Blocks of other kinds are read only. The examples of
docs/responses-guide.md have a test of their own.
"""

import asyncio
import json
import os
import re
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import anos_gateway
from anos import cli, config
from anos.metrics import Metrics
from anos.sse import MAX_EVENT_BYTES
from anos.state import DEFAULT_BOUNDS
from anos.store import QUEUE_JOBS
from anos.upstream import MAX_BODY_BYTES
from tests.conftest import ROOT, Gateway, Json, Process, processes
from tests.scripted import Upstream
from tests.test_config import known_paths
from tests.test_errors import tree
from tests.test_imports import OURS, RANKS, name_of

ORIGIN = "http://127.0.0.1:4000"
PROGRAM = ".venv/bin/python anos_gateway.py"
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
}
FILES = [
    f"/{path.relative_to(ROOT)}"
    for folder in (".", "anos", "guards", "tests", "docs", "docs/decisions", "bench")
    for path in (ROOT / folder).glob("*")
]
API, OPERATING = DOCUMENTS["docs/api.md"], DOCUMENTS["docs/operating.md"]
GUIDE = "docs/responses-guide.md"
EXAMPLE = ("bash", "python", "javascript")
OTHER = ("", "sh", "ini", "nginx")
# What its examples are for; the exit status is curl's for the time it was given.
UNKIND, TIMED_OUT = "docs/stub.md: Failures", 28
NODE = ROOT / "tests" / "node"


@dataclass(frozen=True)
class Section:
    """What stands between two headings, as far as it is fenced: (language, code)."""

    name: str
    blocks: tuple[tuple[str, str], ...]

    def examples(self) -> Iterator[tuple[str, str, tuple[str, str] | None]]:
        """Language and code of each example, and the block that shows what it prints."""
        for (language, code), following in zip(
            self.blocks, (*self.blocks[1:], ("", "")), strict=True
        ):
            if language in EXAMPLE:
                yield language, code, following if following[0] in ("json", "text") else None

    def configurations(self) -> list[str]:
        """The JSON that no example comes before."""
        before = ("", *(language for language, _ in self.blocks))
        return [
            code
            for previous, (language, code) in zip(before, self.blocks, strict=False)
            if language == "json" and previous not in EXAMPLE
        ]


def sections() -> Iterator[Section]:
    for document, text in DOCUMENTS.items():
        parts: dict[str, list[tuple[str, str]]] = {}
        heading = ""
        for match in re.finditer(r"^#+ ([^\n]+)$|^```(\w*)\n(.*?)^```$", text, re.M | re.S):
            if match[1]:
                heading = match[1].replace("`", "")
            else:
                parts.setdefault(heading, []).append((match[2], match[3]))
        for name, blocks in parts.items():
            yield Section(f"{document}: {name}", tuple(blocks))


SECTIONS = [section for section in sections() if not section.name.startswith(GUIDE)]
WITH_EXAMPLES = [section for section in SECTIONS if any(section.examples())]
PLAIN = [each for each in WITH_EXAMPLES if not each.configurations() and each.name != UNKIND]
CONFIGURED = [each for each in WITH_EXAMPLES if each.configurations()]
CONFIGURATIONS = [(each.name, code) for each in SECTIONS for code in each.configurations()]


def name_of_section(section: Section) -> str:
    return section.name


# Examples ----------------------------------------------------------------------------------------


async def printed(language: str, code: str, folder: Path, env: dict[str, str]) -> tuple[int, str]:
    """The exit status of an example, and what it prints."""
    command, *arguments = {
        "bash": ["bash", "-e", "-o", "pipefail", "-c"],
        "python": [sys.executable, "-W", "error", "-c"],
        "javascript": ["node", "--input-type=module", "-e"],
    }[language]
    for needed in [command, *(each for each in ("curl", "jq", "sqlite3") if f"{each} " in code)]:
        assert shutil.which(needed), f"this test needs {needed}"
    if language == "javascript":
        folder = NODE  # where the packages are
        assert (NODE / "node_modules").is_dir(), "`make test` installs the openai client"
    process = await asyncio.create_subprocess_exec(
        command,
        *arguments,
        code,
        cwd=folder,
        env={**os.environ, "NO_PROXY": "*", "no_proxy": "*", **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        said, complaints = await process.communicate()
    assert process.returncode is not None
    if process.returncode and complaints:
        sys.stderr.write(complaints.decode())
    return process.returncode, said.decode()


async def run(section: Section, url: str, folder: Path, env: dict[str, str]) -> None:
    """Runs the examples, those of the shell one after the other in one shell, and compares."""
    examples = list(section.examples())
    env = {**env, "ANOS_PORT": url.rpartition(":")[2]}
    outputs = []
    script = "\nprintf '\\036'\n".join(code for language, code, _ in examples if language == "bash")
    if script:
        script = script.replace(PROGRAM, f"{sys.executable} {ROOT / 'anos_gateway.py'}")
        status, said = await printed("bash", script.replace(ORIGIN, url), folder, env)
        assert status == 0
        outputs = said.split("\x1e")
    for language, code, shown in examples:
        if language == "bash":
            said = outputs.pop(0)
        else:
            assert ORIGIN in code
            status, said = await printed(language, code.replace(ORIGIN, url), folder, env)
            assert status == 0
        if shown is None:
            assert '"error":{' not in said
        elif shown[0] == "text":
            assert said.strip() == shown[1].strip()
        else:
            assert_like(json.loads(shown[1]), json.loads(said))


def assert_like(shown: Any, actual: Any, path: str = "it") -> None:
    """Every field that is shown is there and the same, text up to a "..."; others may be, too."""
    assert type(actual) is type(shown), f"{path}: {actual!r}"
    if isinstance(shown, dict):
        for name, value in shown.items():
            assert name in actual, f"{path}.{name} is missing"
            assert_like(value, actual[name], f"{path}.{name}")
    elif isinstance(shown, list):
        assert len(actual) == len(shown), path
        for number, value in enumerate(shown):
            assert_like(value, actual[number], f"{path}[{number}]")
    elif isinstance(shown, str) and shown.endswith("..."):
        assert actual.startswith(shown[:-3]), path
    else:
        assert actual == shown, path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Process]:
    """The program as it starts by itself; its database is anos.db in the folder of its log."""
    async with processes(tmp_path_factory.mktemp("docs"), lambda: None) as start:
        process = await start(None, "--database", "anos.db")
        assert (await process.post("/v1/responses", input="Hello")).status == 200
        yield process


async def nothing_runs(process: Process) -> None:
    """Ends the calls that an example has left in the background."""
    while runs := (await process.get("/admin/inflight")).body["data"]:
        for each in runs:
            await process.post(f"/v1/responses/{each['id']}/cancel")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("section", PLAIN, ids=name_of_section)
async def test_an_example_does_what_its_page_says(started: Process, section: Section) -> None:
    await nothing_runs(started)
    await run(section, started.url, started.log_file.parent, {})


@pytest.mark.asyncio(loop_scope="module")
async def test_what_the_stub_is_asked_to_do_badly_goes_wrong(started: Process) -> None:
    ((_, code, _),) = next(each for each in WITH_EXAMPLES if each.name == UNKIND).examples()
    status, said = await printed("bash", code.replace(ORIGIN, started.url), ROOT, {})
    assert status == TIMED_OUT
    cut, overloaded, limited = said.partition("[DONE]")[0], *re.findall(r'"code":"\w+"\}\}', said)
    assert "response.output_text.delta" in cut
    assert "response.failed" in cut
    assert (overloaded, "rate_limit" in limited) == ('"code":"upstream_error"}}', True)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_backup_of_the_running_gateway_holds_what_a_client_was_told(
    started: Process,
) -> None:
    created = (await started.post("/v1/responses", input="Hello")).body
    section = next(each for each in PLAIN if each.name == "docs/operating.md: Back up")
    folder = started.log_file.parent
    (folder / "anos-backup.db").unlink(missing_ok=True)  # where the section has been run before
    await run(section, started.url, folder, {})
    connection = sqlite3.connect(folder / "anos-backup.db")
    rows = connection.execute("SELECT count(*) FROM responses WHERE id = ?", (created["id"],))
    assert rows.fetchone() == (1,)
    connection.close()


def secrets(tree: str) -> dict[str, str]:
    """A value for every variable that a configuration names."""
    return {name: f"sk-{name.lower()}" for name in re.findall(r'"env:(\w+)"', tree)}


@pytest.mark.parametrize("section", CONFIGURED, ids=name_of_section)
async def test_an_example_does_what_its_page_says_with_the_configuration_shown(
    process, tmp_path: Path, upstream: Upstream, section: Section
) -> None:
    (tree,) = section.configurations()
    env = secrets(tree)
    # The vendors are elsewhere; the scripted upstream speaks for all of them.
    tree = re.sub(r'("base_url": )"http[^"]*"', rf'\1"{upstream.url}"', tree)
    (tmp_path / "anos.json").write_text(tree)
    anos = await process(None, "--config", str(tmp_path / "anos.json"), env=env)
    await run(section, anos.url, tmp_path, {**env, "ANOS_DATABASE": "process.db"})


@pytest.mark.parametrize(("name", "tree"), CONFIGURATIONS)
def test_a_configuration_that_is_shown_loads(name: str, tree: str) -> None:
    config.parse(json.loads(tree), env=secrets(tree))


def test_every_block_is_of_a_kind_that_is_tested_here() -> None:
    kinds = {language for section in SECTIONS for language, _ in section.blocks}
    assert kinds <= {*EXAMPLE, *OTHER, "json", "text"}
    for section in SECTIONS:
        for language, code in section.blocks:
            assert language in EXAMPLE or "curl" not in code, section.name


# What is not built -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "param", "body"),
    [
        ("/v1/responses", "conversation", {"conversation": "conv_1"}),
        ("/v1/responses", "prompt", {"prompt": {"id": "pmpt_1"}}),
        ("/v1/responses", "context_management", {"context_management": []}),
        ("/v1/responses", "background_options", {"background_options": {}}),
        ("/v1/responses", "stream", {"stream": True, "background": True}),
        ("/v1/chat/completions", "store", {"store": True}),
    ],
)
async def test_a_field_that_is_not_built_is_refused_by_its_name(
    gateway, path: str, param: str, body: Json
) -> None:
    said = {"input": "Hi"} if path == "/v1/responses" else {"messages": [{"role": "user"}]}
    api: Gateway = await gateway()
    reply = await api.post(path, **said, **body)
    assert (reply.status, reply.error["code"]) == (400, "unsupported_parameter")
    assert reply.error["param"] == param
    assert f"`{param}" in API


async def test_an_api_that_is_not_built_is_not_there(gateway) -> None:
    api: Gateway = await gateway()
    for path in (
        *("conversations", "embeddings", "images/generations", "audio/speech", "files", "batches"),
        *("assistants", "realtime", "messages"),
    ):
        assert (await api.request("POST", f"/v1/{path}", json={})).status == 404


@pytest.mark.parametrize(
    "tree",
    [
        {"models": {"m": {"routes": [{"provider": "p", "weight": 1}]}}},
        {"providers": {"p": {"dialect": "messages", "quirks": {"api_version": "1"}}}},
        {"providers": {"p": {"dialect": "gemini"}}},
    ],
)
def test_a_setting_that_is_not_built_is_a_fault(tree: Json) -> None:
    with pytest.raises(config.ConfigFault, match="not built yet"):
        config.parse(tree, env={})


# What operators are told --------------------------------------------------------------------------


@pytest.mark.parametrize(("zone", "status"), [("UTC", 0), ("Europe/Berlin", 1)])
async def test_without_time_zone_data_there_is_utc_alone(
    tmp_path: Path, zone: str, status: int
) -> None:
    budget = {"usd": 1, "window": "day", "time_zone": zone}
    (tmp_path / "anos.json").write_text(json.dumps({"budgets": {"daily": budget}}))
    check = f"{sys.executable} {ROOT / 'anos_gateway.py'} check 2>&1"
    said = await printed("bash", check, tmp_path, {"PYTHONTZPATH": ""})
    assert said[0] == status
    assert ("budgets.daily.time_zone" in said[1]) == bool(status), said


async def test_a_client_behind_a_proxy_has_the_address_of_the_proxy(gateway) -> None:
    api: Gateway = await gateway()
    for address in ("192.0.2.1", "192.0.2.2"):
        headers = {"X-Forwarded-For": address, "Forwarded": f"for={address}"}
        assert (await api.request("GET", "/v1/models", headers=headers)).status == 200
    await api.post("/v1/responses", input="Hi")  # durable, and so is what was written before
    rows = (await api.get("/admin/audit/export")).raw.splitlines()
    assert len({json.loads(row)["client"] for row in rows}) == 1


# What the documents name -------------------------------------------------------------------------


def test_every_route_has_a_section_and_every_section_a_route() -> None:
    told = re.findall(r"^##+ `(\w+) (\S+)`$", API, re.MULTILINE)
    routes = anos_gateway.ROUTES + anos_gateway.PUBLIC
    assert sorted(told) == sorted((verb, path.replace(":.+", "")) for verb, path, _ in routes)


def test_every_error_is_in_the_table_with_its_status_type_and_code() -> None:
    raised = "".join(path.read_text() for path in OURS if name_of(path) != "errors")
    told = re.findall(r"^\| (\d{3}) \| `(\w+)` \| `?(\w+)`? \|", API, re.MULTILINE)
    kinds = [kind for kind in tree() if re.search(rf"\b{kind.__name__}\b", raised)]
    known = {(str(kind.status), kind.type, str(kind.code)) for kind in kinds}
    known.add(("400", "invalid_request_error", "unsupported_parameter"))
    assert sorted(told) == sorted(known)


def test_every_code_of_an_error_is_told() -> None:
    codes = {code for path in OURS for code in re.findall(r'\bcode="([a-z_]+)"', path.read_text())}
    assert {code for code in codes if f"`{code}`" not in API + OPERATING} == set()


def test_every_header_of_ours_is_told() -> None:
    names = {
        name
        for path in OURS
        for name in re.findall(r'"((?:anos|x-ratelimit)-[a-z-]+)"\]? ?[:=]', path.read_text())
    }
    assert {name for name in names if f"`{name}`" not in API} == set()
    assert {"anos-overhead-ms", "anos-budget-warning", "x-ratelimit-reset-tokens"} <= names


def test_the_limits_are_those_that_hold() -> None:
    bounds = DEFAULT_BOUNDS
    table = OPERATING[OPERATING.index("## Limits") : OPERATING.index("How long an upstream")]
    assert re.findall(r"^\| .+ \| (.+) \|$", table, re.MULTILINE)[1:] == [
        f"{bounds.connections:,}",
        f"within {bounds.head_s:g} s",
        f"kept for {bounds.idle_s:g} s",
        f"{bounds.body_bytes >> 20} MiB, also after inflating",
        f"{bounds.all_body_bytes >> 20} MiB, then 503",
        f"{bounds.body_s:g} s, and a second more for each {bounds.body_bytes_per_s} bytes",
        f"cut off after {bounds.stalled_s:g} s, and its upstream stopped",
        f"a comment after {bounds.silence_s:g} s",
        f"{MAX_BODY_BYTES >> 20} MiB",
        f"{MAX_EVENT_BYTES >> 20} MiB",
        f"{QUEUE_JOBS:,}, then 503",
    ]


def test_the_metrics_are_those_that_are_counted() -> None:
    metrics = Metrics()
    metrics.request("/x", 500, 1.0, code="x")
    metrics.tokens("x", 1, 1)
    metrics.cost("x", 1)
    metrics.overrun("x")
    metrics.budget_warning("x")
    told = re.findall(r"^\| `(anos_\w+)` \| (.+?) \|", OPERATING, re.MULTILINE)
    labels = {name: set(re.findall(r"`(\w+)`", cell.partition("(")[0])) for name, cell in told}
    for family in metrics.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        cell = dict(told)[name]
        assert set(family.samples[0].labels) - {"le"} <= set(re.findall(r"`(\w+)`", cell))
        labels.pop(name)
    assert labels == {}


def test_the_map_holds_every_module_with_its_rank() -> None:
    rows = re.findall(r"^\| (\d) \| (.+?) \|", DOCUMENTS["ARCHITECTURE.md"], re.MULTILINE)
    told = {name: int(rank) for rank, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert told == {name: rank for name, rank in RANKS.items() if name != "anos"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", DOCUMENTS[document]):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def anchors(text: str) -> set[str]:
    """As GitHub makes them of the headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_exists(document: str) -> None:
    text = re.sub(r"https?://\S+", "", DOCUMENTS[document])
    for name in re.findall(r"(?<![\w/.])(?:/opt/anos/)?([\w./-]+\.(?:py|md|sql|cfg|toml))\b", text):
        sought = "/" + re.sub(r"^(\.{1,2}/)+", "", name)
        assert any(path.endswith(sought) for path in FILES), name
    for folder in re.findall(r"`((?:anos|guards|tests|docs|bench|\.ci)/[\w./-]*)`", text):
        assert (ROOT / folder).exists(), folder


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_test_that_is_named_exists(document: str) -> None:
    written = "".join(path.read_text() for path in ROOT.glob("tests/test_*.py"))
    for name in re.findall(r"\btest_\w+", DOCUMENTS[document]):
        assert f"def {name}(" in written or (ROOT / f"tests/{name}.py").exists(), name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_configuration_key_exists(document: str) -> None:
    known = known_paths()
    names = "|".join({path.partition(".")[0] for path in known})
    for key in re.findall(rf"`((?:{names})\.[\w.*\[\]]+)`", DOCUMENTS[document]):
        assert key.endswith(".py") or any(is_prefix(key, path) for path in known), key


def is_prefix(key: str, path: str) -> bool:
    """Whether the key is the path or leads to it; any name stands for `*`."""
    steps, wanted = key.split("."), path.split(".")
    return len(steps) <= len(wanted) and all(
        step in (want, want.removesuffix("[]")) or want.removesuffix("[]") == "*"
        for step, want in zip(steps, wanted, strict=False)
    )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_variable_target_and_flag_exists(
    document: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = DOCUMENTS[document]
    code = "".join(path.read_text() for path in [*OURS, *ROOT.glob("tests/*.py")])
    assert {name for name in re.findall(r"\bANOS_[A-Z_]+", text) if f'"{name}' not in code} == set()
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE)) <= set(targets)
    known: set[str] = set()
    for command in ("", "check", "keys", "spend", "guards", "audit", "backup"):
        with pytest.raises(SystemExit):
            cli.main([*filter(None, [command]), "--help"], lambda *_: None)
        known |= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    for line in text.splitlines():
        if "anos_gateway.py" in line or "ARGS=" in line:
            assert set(re.findall(r"(?<=\s|\")--[a-z-]+", line)) <= known, line
