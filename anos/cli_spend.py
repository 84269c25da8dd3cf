"""`spend` and `spend recompute`: what was spent, asked of the running gateway."""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from anos.config_sections import Config

Add = Callable[[str, str], argparse.ArgumentParser]

_OK = 0
_GROUPS = "key, project, model, hour, day, month"
_COLUMNS = ("requests", "failed", "input_tokens", "output_tokens")


def add_commands(add: Add) -> None:
    """The command `spend` with its one word, `recompute`."""
    parser = add("spend", "show what was spent, or recompute it at the present prices")
    parser.add_argument("action", nargs="?", choices=("recompute",), help="correct what was spent")
    parser.add_argument("--group-by", metavar="NAMES", help=f"some of {_GROUPS}; default: key")
    parser.add_argument("--since", metavar="TIME", help="ISO 8601; default: 30 days ago")
    parser.add_argument("--until", metavar="TIME", help="ISO 8601; default: now")
    parser.add_argument("--model", metavar="NAME", help="of one model only")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run, reads={"host", "port", "master_key"})


def _run(options: argparse.Namespace, config: Config) -> int:
    return _recompute(options, config) if options.action else _show(options, config)


def _show(options: argparse.Namespace, config: Config) -> int:
    from anos import remote

    query = _given(options) | {"group_by": options.group_by or "key"}
    answer = remote.succeed(config, "GET", f"/admin/spend?{urlencode(query)}")
    print(json.dumps(answer, indent=2) if options.json else _table(answer))
    return _OK


def _recompute(options: argparse.Namespace, config: Config) -> int:
    from anos import remote

    if options.group_by is not None:
        raise SystemExit("spend recompute takes no --group-by.")
    if options.since is None:
        raise SystemExit("spend recompute needs --since.")
    answer = remote.succeed(config, "POST", "/admin/spend/recompute", _given(options))
    if options.json:
        print(json.dumps(answer, indent=2))
    else:
        print(
            f"{answer['requests']} requests, {answer['corrected']} corrected, "
            f"{answer['unpriced']} without a price; difference {answer['difference_usd']:.6f} USD"
        )
    return _OK


def _given(options: argparse.Namespace) -> dict[str, str]:
    names = ("since", "until", "model")
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _table(answer: dict[str, Any]) -> str:
    """One line a group, the sum at the end; numbers to the right."""
    data = answer["data"]
    known = {*answer["totals"]}
    groups = [name for name in data[0] if name not in known] if data else ["key"]
    head = [*groups, *_COLUMNS, "usd"]
    lines = [[str(row[name]) for name in groups] + _figures(row) for row in data]
    total = ["total", *[""] * (len(groups) - 1), *_figures(answer["totals"])]
    return _aligned([head, *lines, total], len(groups))


def _figures(row: dict[str, Any]) -> list[str]:
    return [*(f"{row[name]:,}" for name in _COLUMNS), f"{row['cost_usd']:,.6f}"]


def _aligned(rows: Sequence[Sequence[str]], texts: int) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
