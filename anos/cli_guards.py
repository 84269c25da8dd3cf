"""`guards test`: what the guards find in a text, and why; `guards selftest`: whether they look."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from anos.config_sections import Config, GuardProfile, Guards, Moderation

if TYPE_CHECKING:
    from anos.selftest import Build
    from guards.keywords import Explanation

Add = Callable[[str, str], argparse.ArgumentParser]

_CLEAN, _HIT, _HOLE, _USAGE = 0, 1, 1, 2


def add_commands(add: Add) -> None:
    """The command `guards` with its words, `test` and `selftest`."""
    parser = add("guards", "say what the guards find in a text, or try all of them out")
    parser.usage = "%(prog)s [OPTION ...] test TEXT\n       %(prog)s [OPTION ...] selftest"

    def action(word: str) -> str:
        # argparse has no argument that only some words take.
        text.required = word != "selftest"
        return word

    parser.add_argument(
        "action",
        type=action,
        choices=("test", "selftest"),
        help="test: look for the rules in TEXT, exits with 1 if anything is found; selftest: send "
        "canaries through a gateway so configured, exits with 1 if one gets through",
    )
    text = parser.add_argument("text", metavar="TEXT", help="of test only")
    parser.add_argument(
        "--profile", metavar="NAME", help="of guards.profiles; default: default, selftest: each"
    )
    parser.add_argument("--json", action="store_true", help="test: print JSON")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace, config: Config) -> int:
    profiles = {"default": config.guards, **config.guards.profiles}
    if options.profile not in (None, *profiles):
        print(f'no profile "{options.profile}"; there are: {", ".join(profiles)}', file=sys.stderr)
        return _USAGE
    if options.action == "test":
        return _test(options, profiles)
    if options.text is not None:
        print("guards selftest takes no TEXT", file=sys.stderr)
        return _USAGE
    names = [options.profile] if options.profile else [*profiles]
    return _selftest(options.build, config, names)


def _selftest(build: "Build", config: Config, names: list[str]) -> int:
    """Try out the guards of the profiles."""
    import uvloop

    from anos import selftest
    from anos.selftest_matrix import printed

    matrices = uvloop.run(selftest.matrices(config, build, names))
    print("\n".join(printed(matrices)))
    return _HOLE if any(matrix.holes for matrix in matrices) else _CLEAN


def _test(options: argparse.Namespace, profiles: dict[str, GuardProfile]) -> int:
    name = options.profile or "default"
    # What is no UTF-8 on the command line is no text either.
    text = options.text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    report = {"profile": name, **_report(profiles[name], text)}
    print(json.dumps(report, indent=2) if options.json else "\n".join(_lines(report)))
    return _HIT if report["matches"] or report["categories"] else _CLEAN


def _report(settings: GuardProfile, text: str) -> dict[str, Any]:
    """What is found, ready for JSON; `categories` are those that are violated."""
    explained = _explained(settings, text)
    keywords, moderation = settings.keywords, settings.moderation
    return {
        "keywords": {"input": keywords.input, "output": keywords.output},
        "read_as": explained.read_as,
        "matches": [
            {
                "rule": match.rule,
                "group": match.group,
                "start": match.start,
                "end": match.end,
                "text": text[match.start : match.end],
            }
            for match in explained.matches
        ],
        "moderation": {
            "input": moderation.input,
            "output": moderation.output,
            "backend": moderation.backend,
        },
        "categories": _violated(moderation, text),
    }


def _explained(settings: GuardProfile, text: str) -> "Explanation":
    """How the keywords read the text, also where none are configured."""
    from anos.screening import profiles_of
    from guards.keywords import Rules

    alone = Config(guards=Guards(keywords=settings.keywords))
    rules = profiles_of(alone, {})["default"].rules or Rules()
    return rules.explain(text)


def _violated(moderation: Moderation, text: str) -> dict[str, float]:
    if moderation.input == moderation.output == "off" or moderation.backend != "builtin":
        return {}
    from guards.moderation import builtin

    verdict = builtin(text)
    return {name: verdict.scores[name] for name in verdict.violated(moderation.thresholds)}


def _lines(report: dict[str, Any]) -> Iterator[str]:
    keywords, moderation = report["keywords"], report["moderation"]
    yield f"read as: {report['read_as']}"
    yield f"keywords (input {keywords['input']}, output {keywords['output']}): " + (
        "found" if report["matches"] else "nothing"
    )
    for match in report["matches"]:
        yield f"  {match['rule']} at {match['start']} to {match['end']}: {match['text']}"
    if moderation["input"] == moderation["output"] == "off":
        yield "moderation: off"
    elif moderation["backend"] != "builtin":
        yield f"moderation: not asked; its back end is {moderation['backend']}"
    else:
        yield f"moderation (input {moderation['input']}, output {moderation['output']}): " + (
            "violated" if report["categories"] else "nothing"
        )
    for name, score in report["categories"].items():
        yield f"  {name} {score:g}"
