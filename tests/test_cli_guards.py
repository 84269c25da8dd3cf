"""`guards test`: what it says of a text, and what it exits with."""

import json
from pathlib import Path

import pytest

from anos import cli
from tests.conftest import Json

THREAT = "I'm going to kill my wife"
GUARDS: Json = {
    "keywords": {
        "phrases": ["cheap pills"],
        "groups": {"spam": {"phrases": ["free bitcoin"], "patterns": ["x[0-9]{3}"]}},
        "allow": ["no cheap pills"],
    },
    "moderation": {"input": "monitor"},
    "profiles": {
        "lenient": {
            "keywords": {"input": "off", "phrases": ["cheap pills"]},
            "moderation": {"input": "block", "thresholds": {"violence": 1}},
        },
        "asking": {
            "keywords": {"output": "mask", "phrases": ["cheap pills"]},
            "moderation": {"input": "block", "backend": "endpoint", "provider": "stub"},
        },
        "empty": {},
    },
}


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "anos.json"
    stub = {"dialect": "responses", "base_url": "stub:"}
    tree = {
        "providers": {"stub": stub},
        "models": {"gpt-4": {"routes": [{"provider": "stub"}]}},
        "guards": GUARDS,
    }
    file.write_text(json.dumps(tree))
    return str(file)


def ask(config: str, *argv: str) -> int:
    return cli.main(["--config", config, "guards", "test", *argv], lambda *_: None)


def told(
    config: str, capsys: pytest.CaptureFixture[str], text: str, profile: str = "default"
) -> tuple[int, Json]:
    code = ask(config, "--json", "--profile", profile, text)
    return code, json.loads(capsys.readouterr().out)


def test_a_disguised_phrase_is_told_as_it_is_read_and_where_it_stands(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = told(config, capsys, "Buy \u0421HE-A-P p1lls or x123")
    assert (code, report["profile"]) == (1, "default")
    assert report["read_as"] == "buy che-a-p p1lls or x123"
    assert report["keywords"] == {"input": "block", "output": "off"}
    assert report["matches"] == [
        {"rule": "phrases[0]", "group": "", "start": 4, "end": 17, "text": "\u0421HE-A-P p1lls"},
        {"rule": "spam.patterns[0]", "group": "spam", "start": 21, "end": 25, "text": "x123"},
    ]
    assert report["categories"] == {}


def test_people_read_it_in_lines(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(config, f"Free bitcoin! {THREAT}") == 1
    assert capsys.readouterr().out.splitlines() == [
        "read as: free bitcoin! i-m going to kill my wife",
        "keywords (input block, output off): found",
        "  spam.phrases[0] at 0 to 12: Free bitcoin",
        "moderation (input monitor, output off): violated",
        "  violence 0.9",
    ]
    assert ask(config, "Hello") == 0
    assert capsys.readouterr().out.splitlines() == [
        "read as: hello",
        "keywords (input block, output off): nothing",
        "moderation (input monitor, output off): nothing",
    ]


@pytest.mark.parametrize(
    ("profile", "text", "code"),
    [
        ("default", "Where are no cheap pills?", 0),
        ("default", "cheap pills", 1),
        ("default", THREAT, 1),
        ("lenient", THREAT, 0),  # a threshold
        ("lenient", "cheap pills", 0),  # words are off
        ("asking", "cheap pills", 1),
        ("asking", THREAT, 0),  # its back end is not asked
        ("empty", f"cheap pills {THREAT}", 0),
        ("default", "", 0),
    ],
)
def test_the_exit_status_says_whether_the_guards_of_the_profile_find_anything(
    config: str, capsys: pytest.CaptureFixture[str], profile: str, text: str, code: int
) -> None:
    found, report = told(config, capsys, text, profile)
    assert found == code
    assert bool(report["matches"] or report["categories"]) == bool(code)


def test_it_says_what_was_not_asked(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    ask(config, "--profile", "asking", "hi")
    assert "moderation: not asked; its back end is endpoint\n" in capsys.readouterr().out
    ask(config, "--profile", "empty", "hi")
    assert "moderation: off\n" in capsys.readouterr().out


def test_bytes_that_are_no_text_are_read_as_replaced(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = told(config, capsys, "cheap\udcff pills")
    assert (code, report["matches"][0]["text"]) == (1, "cheap\ufffd pills")


def test_a_profile_that_is_not_there_is_a_wrong_command_line(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(config, "--profile", "none", "hi") == 2
    assert capsys.readouterr().err == (
        'no profile "none"; there are: default, lenient, asking, empty\n'
    )


def test_the_help_says_which_word_takes_a_text(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["guards", "--help"], lambda *_: None)
    usage = capsys.readouterr().out.partition("\n\n")[0]
    assert [line.split()[-2:] for line in usage.splitlines()] == [
        ["test", "TEXT"],
        ["...]", "selftest"],
    ]


@pytest.mark.parametrize("argv", [["guards"], ["guards", "test"], ["guards", "try", "hi"]])
def test_the_command_wants_its_word_and_a_text(config: str, argv: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--config", config, *argv], lambda *_: None)
    assert left.value.code == 2
