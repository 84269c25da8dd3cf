"""`guards selftest`: what it prints and what it exits with; its canaries and its eyes."""

import asyncio
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

import anos_gateway
from anos import cli
from anos.config_sections import Config, GuardProfile, Guards, Keywords
from anos.selftest_canary import (
    AFTER,
    BASE64,
    BEFORE,
    DATA_URL,
    ESCAPED,
    JSON,
    NAME,
    PATTERN,
    PERCENT_URL,
    PLAIN,
    REFUSED,
    WAYS,
    canaries,
    escapes,
    formed,
)
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
    profiles = {"empty": {"keywords": {"input": "block"}}}
    return run(folder, {"guards": {"keywords": keywords, "profiles": profiles}}, build, *argv)


def run(folder: Path, settings: Json, build=anos_gateway.build_app, *argv: str) -> int:
    """The exit status of the command with a configuration."""
    file = folder / "anos.json"
    file.write_text(json.dumps(settings))
    argv = ("--config", str(file), "guards", "selftest", *argv)
    return cli.main(argv, lambda *_: None, build)


def cells(printout: str, heading: str = "requests: POST /v1/responses,") -> dict[str, list[str]]:
    """The cells of a table, those of the requests for a Response, by the name of their row."""
    lines = printout.partition(f"\n{heading}")[2].split("\n\n")[0].splitlines()
    width = len(lines[1].split())
    rows = [line.rsplit(maxsplit=width + 1) for line in lines[2:]]
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
    assert f"  default: POST /v1/responses, {hole}: {why}\n    and 23 more of this row\n" in said
    assert not said.endswith(", 0 holes\n")


def test_a_hole_in_answers_is_told_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keywords = {"input": "off", "output": "block", "phrases": ["cheap pills"]}
    assert ask(tmp_path, keywords, unguarded) == 1
    said = capsys.readouterr().out
    hole = (
        r"  default: POST \S*/responses, text, whole, for a chat upstream: the client was sent it\n"
    )
    assert re.search(hole, said)
    assert cells(said, "answers: POST /v1/chat/completions,")["text"] == ["HOLE"] * 4 + ["-"] * 2


@web.middleware
async def hung_up(request: web.Request, handler: Any) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@web.middleware
async def confused(request: web.Request, handler: Any) -> web.StreamResponse:
    return web.json_response({"status": "fine"})


@pytest.mark.parametrize("manner", [hung_up, confused])
def test_a_gateway_that_answers_nothing_sensible_is_told_in_sentences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], manner: Any
) -> None:
    def build(config: Config) -> web.Application:
        app = anos_gateway.build_app(config)
        app.middlewares.insert(0, manner)
        return app

    assert ask(tmp_path, {"output": "block", "phrases": ["cheap pills"]}, build) == 1
    said = capsys.readouterr()
    assert "what was answered is no answer: " in said.out
    assert set(cells(said.out)["history"]) == {"HOLE", "-"}
    assert "Traceback" not in said.err


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


# Moderation ---------------------------------------------------------------------------------------

MODES = ["whole", "stream", "cut", "letters", "background"]
PROVIDERS: Json = {
    "models": {"m": {"routes": [{"provider": "talking"}]}},
    "providers": {
        "talking": {"dialect": "chat", "base_url": "http://127.0.0.1:9/v1"},
        "answering": {"dialect": "responses", "base_url": "http://127.0.0.1:9/v1"},
    },
}


def moderating(name: str = "default", **settings: Any) -> Json:
    """A configuration in which a profile has no keywords and that moderation."""
    profile = {"keywords": {"input": "off"}, "moderation": settings}
    named = profile if name == "default" else {"profiles": {name: profile}}
    return {**PROVIDERS, "guards": named}


@pytest.mark.parametrize(
    ("judge", "by"),
    [
        ({}, "the built-in rules"),
        (
            {"backend": "endpoint", "provider": "talking"},
            "a scripted judge in the place of talking",
        ),
        *(
            (
                {"backend": "model", "provider": provider, "model": model},
                f"a scripted judge in the place of {model}",
            )
            for provider in ("talking", "answering")
            for model in ("llama-guard3:8b", "shieldgemma", "gpt-5-nano")
        ),
    ],
)
def test_what_moderation_refuses_is_stopped_both_ways_whoever_judges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], judge: Json, by: str
) -> None:
    # That the judge were late, or had failed, would be no proof.
    config = moderating(input="block", output="block", deadline_ms=1, on_error="pass", **judge)
    assert run(tmp_path, config) == 0
    said = capsys.readouterr().out
    assert f"  moderation: input block, output block; by {by}\n" in said
    assert said.splitlines()[-1].endswith(" canaries, 0 holes")
    table = said.partition("\nmoderation\n")[2].splitlines()[:7]
    assert table[0].split() == MODES
    assert [line.split() for line in table[1:]] == [
        [*f"message of the user /v1/{route}".split(), *asked]
        if row == 0
        else [*f"text of {row} /v1/{route}".split(), *told]
        for route, asked, told in (
            ("responses", ["block", "block", "-", "-", "block"], ["block"] * 5),
            ("chat/completions", ["block", "block", "-", "-", "-"], ["block"] * 4 + ["-"]),
        )
        for row in (0, "responses", "chat")
    ]


def test_what_moderation_only_notes_is_a_note_and_a_direction_that_is_off_has_no_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profiles = {
        "in": {"moderation": {"input": "monitor"}},
        "out": {"moderation": {"output": "monitor"}},
    }
    assert run(tmp_path, {**PROVIDERS, "guards": {"profiles": profiles}}) == 0
    of_default, of_in, of_out = re.split("\n?profile .*\n", capsys.readouterr().out)[1:]
    assert "  moderation: input off, output off\n" in of_default
    assert "\nmoderation\n" not in of_default
    assert "message of the user  /v1/responses         note  note   -     -       note\n" in of_in
    assert "text of" not in of_in
    assert "text of chat       /v1/chat/completions  note  note   note  note    -\n" in of_out
    assert "message of" not in of_out


def unmoderated(config: Config) -> web.Application:
    """A gateway that skips moderation."""
    profiles = {
        name: GuardProfile(keywords=profile.keywords)
        for name, profile in config.guards.profiles.items()
    }
    guards = Guards(keywords=config.guards.keywords, profiles=profiles)
    return anos_gateway.build_app(msgspec.structs.replace(config, guards=guards))


def deaf(config: Config) -> web.Application:
    """A gateway whose judge is not reached."""
    nowhere = {
        name: msgspec.structs.replace(each, base_url="http://127.0.0.1:9/v1")
        for name, each in config.providers.items()
    }
    moderation = msgspec.structs.replace(config.guards.moderation, provider="nowhere")
    guards = msgspec.structs.replace(config.guards, moderation=moderation)
    providers = {**config.providers, "nowhere": nowhere["chat"]}
    changed = msgspec.structs.replace(config, guards=guards, providers=providers)
    return anos_gateway.build_app(changed)


@pytest.mark.parametrize(
    ("build", "mode", "settings"),
    [
        (unmoderated, "block", {}),
        (unmoderated, "monitor", {}),
        (unmoderated, "block", {"backend": "endpoint", "provider": "talking"}),
        (deaf, "block", {"backend": "model", "provider": "talking", "model": "llama-guard3"}),
    ],
)
def test_moderation_that_is_skipped_is_a_hole_in_every_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], build: Any, mode: str, settings: Json
) -> None:
    config = moderating(input=mode, output=mode, **settings)
    assert run(tmp_path, config, build) == 1
    said = capsys.readouterr().out
    table = said.partition("\nmoderation\n")[2].splitlines()[1:7]
    assert all(set(line.split()[-5:]) - {"-"} == {"HOLE"} for line in table)
    whys = {
        "block": ("the upstream was sent it", "the client was sent it"),
        "monitor": ("no receipt notes it", "no receipt notes it"),
    }
    asked, told = whys[mode]
    where = "for a responses upstream"
    assert f"  default: POST /v1/responses, message of the user, whole, {where}: {asked}\n" in said
    assert f"  default: POST /v1/responses, text of responses, whole, {where}: {told}\n" in said


def test_thresholds_under_which_nothing_is_refused_are_a_hole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("harassment", "harassment/threatening", "violence", "illicit", "illicit/violent")
    names += ("self-harm", "self-harm/intent", "self-harm/instructions")
    lenient = moderating("lenient", input="block", thresholds=dict.fromkeys(names, 1))
    assert run(tmp_path, lenient) == 1
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "  lenient: moderation: its thresholds let pass what its rules find",
        "",
        "0 canaries, 1 hole",
    ]


def test_moderation_is_not_tried_with_what_the_keywords_find(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keywords = {"phrases": ["kill"], "sources": ["user"]}
    guards = {"keywords": keywords, "moderation": {"input": "block"}}
    assert run(tmp_path, {"guards": guards}) == 0
    said = capsys.readouterr().out
    assert "moderation: input block, output off; not tried: keywords find all that" in said
    assert "\nmoderation\n" not in said
    assert "kill" in REFUSED


def test_where_guards_are_off_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, {"guards": {"keywords": {"input": "off"}}}) == 0
    assert capsys.readouterr().out.splitlines() == [
        "profile default",
        "  keywords: input off, output off",
        "  moderation: input off, output off",
        "",
        "0 canaries, 0 holes",
    ]


# The matrix ---------------------------------------------------------------------------------------


def test_of_several_outcomes_the_worst_stands_in_the_cell() -> None:
    table = Table("requests", ("plain", "upper"))
    for outcome in (BLOCK, MASK, NONE):
        table.add(("a field", "user"), "plain", outcome)
    table.add(("a field", "user"), "upper", HOLE)
    table.add(("a field", "user"), "upper", OFF)
    table.add(("a longer field", "system"), "plain", BLOCK)
    matrix = Matrix("strict", ["keywords"], [table], {"a field": ["POST /v1: it came", "and it"]})
    matrix.hole("another", "POST /v2: it came")
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
        "  strict: POST /v1: it came",
        "    and 1 more of this row",
        "  strict: POST /v2: it came",
        "",
        "5 canaries, 3 holes",
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
        r"\p{Greek}",
        r"\Qa.b\E",
        r"(?:\d[ -]?){13,16}",
        "[^a]b",
    ],
)
def test_for_a_pattern_there_is_a_canary_that_it_finds(pattern: str) -> None:
    rules = Rules([], [Pattern(pattern, "p", input_only=True)])
    ways, names = canaries(rules)
    assert (ways.keys(), names) == ({PATTERN}, ["p"])
    assert re.search(r"[\0-\x1f]", ways[PATTERN]) is None
    assert rules.first(f"{BEFORE}{ways[PATTERN]}{AFTER}")


@pytest.mark.parametrize("pattern", ["^only$", "(a+)+[^a-z]b*c?$"])
def test_for_a_pattern_that_no_middle_of_a_text_can_have_there_is_none(pattern: str) -> None:
    assert canaries(Rules([], [Pattern(pattern, "p", input_only=True)])) == ({}, [])


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
    assert json.loads(formed(JSON, 'a "b"\u200b')) == {"q": 'a "b"\u200b'}
    assert formed(JSON, "é", escaped=True) == '{"q":"\\u00e9"}'
    assert escapes("a\U0001d4ec") == r"\u0061\ud835\udcec"
    assert formed(BASE64, "hi") == "aGk="
    assert formed(DATA_URL, "hi") == "data:text/plain;base64,aGk="
    assert formed(PERCENT_URL, "a b") == "data:,a%20b"
    assert formed(NAME, "Say: cheap pills!") == "Say-cheap-pills"
