"""The command line: what it runs, prints and exits with."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from anos import __version__, cli
from anos.config import ConfigFault
from anos.config_sections import Config
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("ANOS_HOST", "ANOS_PORT", "ANOS_DATABASE", "ANOS_MASTER_KEY", "PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def served(*argv: str) -> tuple[int, list[tuple[Config, Callable[[], Config]]]]:
    calls: list[tuple[Config, Callable[[], Config]]] = []
    code = cli.main(argv, lambda config, load, _: calls.append((config, load)))
    return code, calls


@pytest.mark.parametrize("argv", [["--port", "81"], ["serve", "--port=81"], ["--port=81", "serve"]])
def test_serve_is_the_default_command(argv: list[str]) -> None:
    code, ((config, _),) = served(*argv)
    assert (code, config.server.port, config.default_key) == (0, 81, True)


def test_every_flag_reaches_the_configuration(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "sk-mine")
    (directory / "c.json").write_text('{"retention": {"responses_days": 3}}')
    _, ((config, _),) = served(
        *("--config", "c.json", "--host", "0.0.0.0", "--port", "0"),
        *("--database", "x.db", "--master-key-env", "MINE"),
    )
    server = config.server
    assert (server.host, server.port, server.database) == ("0.0.0.0", 0, "x.db")
    assert (server.master_key, config.retention.responses_days) == ("sk-mine", 3)


def test_the_configuration_can_be_loaded_again_with_the_same_flags(directory: Path) -> None:
    file = directory / "anos.json"
    file.write_text("{}")
    _, ((_, load),) = served("--port", "81")
    file.write_text('{"server": {"drain_s": 1}}')
    assert (load().server.port, load().server.drain_s) == (81, 1)
    file.write_text("{")
    with pytest.raises(ConfigFault):
        load()
    # Without it the gateway would open itself with the published key.
    file.unlink()
    with pytest.raises(ConfigFault, match=r"anos\.json: cannot be read: No such file"):
        load()


def test_a_file_that_comes_later_is_read_from_then_on(directory: Path) -> None:
    _, ((first, load),) = served()
    (directory / "anos.json").write_text('{"server": {"master_key": "sk-mine"}}')
    assert (first.server.master_key, load().server.master_key) == ("sk-1234", "sk-mine")


def test_a_fault_keeps_the_gateway_from_starting(capsys: pytest.CaptureFixture[str]) -> None:
    assert served("--host", "0.0.0.0") == (1, [])
    assert "ANOS_MASTER_KEY" in capsys.readouterr().err


def test_check_prints_every_fault_with_its_path(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guards = '{"moderation": {"output": "mask"}}'
    (directory / "c.json").write_text(f'{{"server": {{"port": -1}}, "guards": {guards}}}')
    assert served("check", "--config", "c.json") == (1, [])
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == (
        "",
        [
            "server.port: must be an integer from 0 to 65535",
            'guards.moderation.output: must be "block" or "monitor" or "off"',
        ],
    )


def test_check_names_the_models_that_no_budget_can_hold(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    providers = {
        name: {"dialect": "chat", "base_url": url}
        for name, url in {
            "own": "http://127.0.0.1/v1",
            "vendor": "https://api.openai.com/v1",
        }.items()
    }
    price = {"input_per_million_usd": 0, "output_per_million_usd": 0}
    own = [{"provider": "own"}]
    models = {"llama": {"routes": own}, "free": {"routes": own, "price": price}}
    models["gpt-4o"] = {"routes": [{"provider": "vendor"}]}
    tree = {"providers": providers, "models": models, "budgets": {"b": {"usd": 1, "window": "day"}}}
    for each, warned in ((tree, "models.llama has no price"), ({**tree, "budgets": {}}, "")):
        (directory / "anos.json").write_text(json.dumps({**each, "server": {"master_key": "sk-m"}}))
        assert served("check") == (0, [])
        said = capsys.readouterr()
        assert said.out == "anos.json: ok\n"
        assert (warned in said.err, said.err.count("\n")) == (True, 1 if warned else 0)


def test_check_says_which_file_is_in_order_and_does_not_serve(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '{"server": {"master_key": "sk-secret"}}'
    assert served("check") == (0, [])
    assert capsys.readouterr() == ("no file, the built-in stub: ok\n", "")
    (directory / "anos.json").write_text(text)
    assert served("check") == (0, [])
    assert capsys.readouterr() == ("anos.json: ok\n", "")
    (directory / "c.json").write_text(text)
    assert served("check", "--config", "c.json") == (0, [])
    assert capsys.readouterr() == ("c.json: ok\n", "")


def test_a_configuration_nobody_can_call_is_warned_about(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "anos.json").write_text("{}")
    assert served("check") == (0, [])
    assert capsys.readouterr().err == (
        "warning: neither server.master_key nor keys: nobody can call\n"
    )


def test_the_schema_is_printed_whatever_the_configuration(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "anos.json").write_text("{")
    assert served("check", "--json-schema") == (0, [])
    assert json.loads(capsys.readouterr().out)["$ref"] == "#/$defs/Config"


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        served("--version")
    assert left.value.code == 0
    assert capsys.readouterr().out == f"anos-gateway {__version__}\n"


@pytest.mark.parametrize(
    "argv", [["sreve"], ["--port", "x"], ["--json-schema"], ["--conf", "x"], ["check", "serve"]]
)
def test_a_wrong_command_line_exits_with_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        served(*argv)
    assert left.value.code == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--port", "TAKEN"], "it cannot listen on 127.0.0.1:TAKEN: Address already in use"),
        (["--host", "192.0.2.1"], "it cannot listen on 192.0.2.1:4000: Cannot assign"),
        (
            ["--port", "0", "--database", "no/such/folder.db"],
            "no/such, where the database is to be, is no directory",
        ),
        (["--port", "0", "--database", "text.db"], "text.db is not a database of SQLite"),
        (["--port", "0", "--database", "."], ".: Is a directory"),
    ],
)
def test_what_keeps_the_program_from_starting_is_said_in_a_sentence_and_nothing_is_made(
    directory: Path, flags: list[str], said: str
) -> None:
    (directory / "text.db").write_text("Not a database.")
    (directory / "anos.json").write_text('{"server": {"master_key": "sk-mine"}}')
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = str(server.getsockname()[1])
        ended = subprocess.run(
            [
                *(sys.executable, str(ROOT / "anos_gateway.py")),
                *(flag.replace("TAKEN", taken) for flag in flags),
            ],
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert ended.returncode == 1
    said = said.replace("TAKEN", taken)
    assert ended.stderr.startswith(f"The gateway cannot start: {said}")
    assert "Errno" not in ended.stderr
    assert (ended.stderr.count("\n"), ended.stdout) == (1, "")
    assert {file.name for file in directory.iterdir()} == {"text.db", "anos.json"}


SECRETS = {
    "server": {"master_key": "env:MASTER", "secret": "env:SECRET"},
    "providers": {"up": {"dialect": "chat", "base_url": "http://localhost", "api_key": "env:UP"}},
    "models": {"m": {"routes": [{"provider": "up"}]}},
}


@pytest.mark.parametrize(
    ("words", "needs", "said"),
    [
        (["keys", "list"], "MASTER", "No gateway answers at http://127.0.0.1:1: "),
        (["spend"], "MASTER", "No gateway answers at http://127.0.0.1:1: "),
        (["audit", "verify"], "SECRET", "anos.db cannot be used: "),
        (["backup", "copy.db"], "SECRET", "anos.db cannot be used: "),
    ],
)
def test_a_command_needs_no_secret_that_it_does_not_use(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    needs: str,
    said: str,
) -> None:
    (directory / "anos.json").write_text(json.dumps(SECRETS))
    assert served("--port", "1", *words) == (1, [])
    assert f"environment variable {needs} is not set" in capsys.readouterr().err
    monkeypatch.setenv(needs, "a-secret-of-16-characters")
    with pytest.raises(SystemExit) as left:
        served("--port", "1", *words)
    assert str(left.value.code).startswith(said)
