"""`guards selftest`: what it prints and what it exits with; its canaries and its eyes."""

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

import anos_gateway
from anos import cli
from anos.config_sections import Config, Guards, Keywords
from anos.selftest_canary import AFTER, BEFORE, ESCAPED, PATTERN, PLAIN, WAYS, canaries, sample
from anos.selftest_matrix import (
    BLOCK,
    HOLE,
    MASK,
    NONE,
    OFF,
    Matrix,
    Table,
    came_through,
    joined,
    printed,
)
from anos.selftest_places import escapes, formed
from guards.keywords import Pattern, Phrase, Rules
from tests.conftest import ROOT, Json

SECRETS = {"ANOS_MASTER_KEY": "sk-master-of-the-test", "CI_KEY": "sk-ci-of-the-test"}


async def command(folder: Path, *argv: str) -> tuple[int, str]:
    """The exit status of the command as a process, and what it prints."""
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-W",
            "error",
            str(ROOT / "anos_gateway.py"),
            "guards",
            "selftest",
            *argv,
        ),
        cwd=folder,
        env=SECRETS,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        said, complaints = await process.communicate()
    assert complaints == b""
    assert process.returncode is not None
    return process.returncode, said.decode()


def ask(folder: Path, keywords: Json, build=anos_gateway.build_app, *argv: str) -> int:
    """The exit status of the command in this process."""
    guards = {"keywords": keywords, "profiles": {"empty": {"keywords": {"input": "block"}}}}
    file = folder / "anos.json"
    file.write_text(json.dumps({"guards": guards}))
    argv = ("--config", str(file), "guards", "selftest", *argv)
    return cli.main(argv, lambda *_: None, build)


def cells(printout: str) -> dict[str, list[str]]:
    """The cells of the requests for a Response by the name of their row."""
    lines = printout.partition("requests: POST /v1/responses,")[2].split("\n\n")[0].splitlines()
    rows = [line.rsplit(maxsplit=len(WAYS) + 1) for line in lines[2:]]
    return {row[0].strip(): row[2:] for row in rows}


async def test_the_guards_of_the_example_have_no_holes(tmp_path: Path) -> None:
    shutil.copy(ROOT / "anos.example.json", tmp_path / "anos.json")
    status, said = await command(tmp_path)
    assert status == 0, said
    assert "profile default" in said
    assert "it has no phrases and no patterns" in said
    assert "canaries: phrases[0], patterns[0]\n" in said
    assert said.splitlines()[-1].endswith(" canaries, 0 holes")
    assert "internal only" not in said
    rows = cells(said)
    assert set(rows["message of the user"]) == {"block"}
    assert set(rows["instructions"]) == {"off"}  # which is not among its sources
    assert os.listdir(tmp_path) == ["anos.json"]


async def test_what_is_masked_and_what_is_only_noted_is_told_apart(tmp_path: Path) -> None:
    keywords = {"input": "mask", "output": "monitor", "phrases": ["cheap pills"]}
    (tmp_path / "anos.json").write_text(json.dumps({"guards": {"keywords": keywords}}))
    status, said = await command(tmp_path, "--profile", "default")
    assert status == 0, said
    rows = cells(said)
    assert rows["instructions"] == ["mask"] * 8 + ["-"]  # there is no pattern
    assert rows["text in a file"][0] == "mask"
    answers = said.partition("answers: POST /v1/responses,")[2].split("\n\n")[0].splitlines()
    (text,) = (line.split() for line in answers if line.startswith("  text  ") and "resp" in line)
    assert text == ["text", "responses", *["note"] * 5, "-", "-"]


def test_a_source_that_is_left_out_is_off_and_no_hole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keywords = {"phrases": ["cheap pills"], "sources": ["user"]}
    assert ask(tmp_path, keywords) == 0
    rows = cells(capsys.readouterr().out)
    assert rows["message of the user"] == ["block"] * 8 + ["-"]
    assert rows["message of the system"] == ["off"] * 8 + ["-"]
    assert rows["history"] == ["off"] * 8 + ["-"]


def test_what_is_only_noted_in_a_request_is_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keywords = {"input": "monitor", "phrases": ["cheap pills"], "sources": ["user"]}
    assert ask(tmp_path, keywords) == 0
    assert cells(capsys.readouterr().out)["message of the user"] == ["note"] * 8 + ["-"]


def unguarded(config: Config) -> web.Application:
    """A gateway that has lost its rules."""
    nothing = Guards(keywords=Keywords(), profiles=config.guards.profiles)
    return anos_gateway.build_app(msgspec.structs.replace(config, guards=nothing))


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("block", "the upstream was sent it"),
        ("mask", "the upstream was sent it"),
        ("monitor", "no receipt notes it"),
    ],
)
def test_a_hole_is_told_with_what_was_sent_and_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str, why: str
) -> None:
    keywords = {"input": mode, "phrases": ["cheap pills"], "sources": ["user"]}
    assert ask(tmp_path, keywords, unguarded) == 1
    said = capsys.readouterr().out
    assert cells(said)["input, a string"] == ["HOLE"] * 8 + ["-"]
    hole = "input, a string, plain, whole, for a responses upstream"
    assert f"  default: POST /v1/responses, {hole}: {why}\n" in said
    assert not said.endswith(", 0 holes\n")


def test_a_hole_in_answers_is_told_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keywords = {"input": "off", "output": "block", "phrases": ["cheap pills"]}
    assert ask(tmp_path, keywords, unguarded) == 1
    said = capsys.readouterr().out
    assert "text of chat, background, background: the client was sent it" in said


def test_rules_that_never_find_anything_are_a_hole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keywords = {"phrases": ["cheap pills"], "allow": ["cheap pills"]}
    assert ask(tmp_path, keywords) == 1
    assert "no phrase and no pattern of it finds what it says" in capsys.readouterr().out


def test_without_words_there_is_nothing_to_try(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(tmp_path, {"input": "off"}, anos_gateway.build_app, "--profile", "empty") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 canaries, 0 holes"


def test_a_profile_that_is_not_there_is_a_wrong_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(tmp_path, {}, anos_gateway.build_app, "--profile", "none") == 2
    assert capsys.readouterr().err == 'no profile "none"; there are: default, empty\n'
    assert ask(tmp_path, {}, anos_gateway.build_app, "a text") == 2
    assert capsys.readouterr().err == "guards selftest takes no TEXT\n"


# The matrix ---------------------------------------------------------------------------------------


def test_of_several_outcomes_the_worst_stands_in_the_cell() -> None:
    table = Table("requests", ("plain", "upper"))
    for outcome in (BLOCK, MASK, NONE):
        table.add("a field", "user", "plain", outcome)
    table.add("a field", "user", "upper", HOLE)
    table.add("a field", "user", "upper", OFF)
    table.add("a longer field", "system", "plain", BLOCK)
    matrix = Matrix("strict", ["keywords"], [table], ["POST /v1/responses: it came through"])
    assert list(printed([matrix, Matrix("other")])) == [
        "profile strict",
        "  keywords",
        "",
        "requests",
        "                          plain upper",
        "  a field         user    mask  HOLE",
        "  a longer field  system  block -",
        "",
        "profile other",
        "",
        "Holes:",
        "  strict: POST /v1/responses: it came through",
        "",
        "5 canaries, 1 hole",
    ]


CANARY = f"{BEFORE}cheap pills{AFTER}"


@pytest.mark.parametrize(
    ("documents", "outcome"),
    [
        ([], NONE),
        ([{"text": "Well."}], NONE),
        ([{"text": CANARY}], HOLE),
        ([{"deep": [{CANARY: 1}]}], HOLE),
        ([{"text": BEFORE}], NONE),
        ([{"text": BEFORE.rstrip()}, {"other": "cheap pills"}], NONE),
        ([{"text": f"{BEFORE}***{AFTER}"}], MASK),
        ([{"text": f"{BEFORE}***{AFTER}"}, {"other": CANARY}], HOLE),
        ([{"type": "x", "delta": each} for each in CANARY], HOLE),
        ([{"type": "x", "delta": each} for each in (BEFORE, "***", AFTER)], MASK),
        ([{"type": "x", "delta": BEFORE}, {"type": "x", "delta": "chea"}], HOLE),
        ([{"type": "x", "delta": BEFORE}, {"type": "y", "delta": "chea"}], NONE),
        ([{"parts": [{"text": BEFORE}, {"text": "cheap pills"}]}], HOLE),
        ([{"choices": [{"index": n, "text": each} for n, each in enumerate(("I ", "x"))]}], NONE),
    ],
)
def test_what_came_through_is_seen_in_pieces_too(documents: list[Json], outcome: str) -> None:
    assert came_through(documents) == outcome


def test_what_several_choices_say_is_kept_apart() -> None:
    chunks = [
        {"choices": [{"index": number, "delta": {"content": text}}]}
        for number, text in ((0, "a"), (1, "x"), (0, "b"), (1, "y"))
    ]
    said = joined(chunks)
    assert said[None, "choices", 0, "delta", "content"] == "ab"
    assert said[None, "choices", 1, "delta", "content"] == "xy"


# The canaries -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    [
        r"\bsecret-\d{1,32}\b",
        r"\b[0-9]{16}\b",
        r"(?i)foo(bar|baz)+[[:alpha:]]{2,}\.com?",
        r"(?:AKIA|ASIA)[A-Z0-9]{16}",
        r"[\w.+-]{1,60}@[\w-]{1,60}\.[a-z]{2,6}",
        r"[^@\s]{3}@(?P<host>[a-c]*)",
        r"a{3}b{2,}c??d",
        "x|y",
        "hé+",
    ],
)
def test_a_sample_of_a_pattern_is_found_by_it(pattern: str) -> None:
    rules = Rules([], [Pattern(pattern, "p", input_only=True)])
    assert canaries(rules) == ({PATTERN: sample(pattern)}, ["p"])


@pytest.mark.parametrize("pattern", [r"\p{Greek}", r"^only$", r"\Qa.b\E", "("])
def test_for_a_pattern_that_is_too_hard_there_is_no_canary(pattern: str) -> None:
    rules = Rules([Phrase("cheap pills", "r")], [])
    assert not rules.scan(sample(pattern))


def test_the_phrase_that_can_be_written_in_most_ways_is_the_canary() -> None:
    rules = Rules([Phrase("24", "a"), Phrase("cheap pills", "b"), Phrase("казино", "c")])
    ways, names = canaries(rules)
    assert names == ["b"]
    assert ways.keys() == {*WAYS} - {PATTERN}
    assert ways[PLAIN] == ways[ESCAPED] == "cheap pills"
    assert len(set(ways.values())) == len(ways) - 1
    assert all(rules.first(f"{BEFORE}{text}{AFTER}") for text in ways.values())


@pytest.mark.parametrize("rules", [Rules(), Rules([Phrase("a b", "r")], allow=["a b"])])
def test_where_nothing_is_found_there_is_no_canary(rules: Rules) -> None:
    assert canaries(rules) == ({}, [])


def test_a_text_takes_the_form_of_its_place() -> None:
    assert json.loads(formed("json", 'a "b"\u200b')) == {"q": 'a "b"\u200b'}
    assert formed("json", "é", escaped=True) == '{"q":"\\u00e9"}'
    assert escapes("a\U0001d4ec") == r"\u0061\ud835\udcec"
    assert formed("base64", "hi") == "aGk="
    assert formed("data URL", "hi") == "data:text/plain;base64,aGk="
    assert formed("percent URL", "a b") == "data:,a%20b"
    assert formed("name", "Say: cheap pills!") == "Say-cheap-pills"
