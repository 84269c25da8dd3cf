"""`anos_gateway.py keys`: the keys of the running gateway, asked for over HTTP."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any

from anos.config_sections import Config

_ACTIONS = ("list", "show", "create", "edit", "rotate", "block", "unblock", "delete")
# The options that only some actions take.
_TAKES = {"create": ("set",), "edit": ("set",), "rotate": ("overlap_s",)}
_COLUMNS = ("name", "key", "source", "role", "project", "state", "expires")

Json = dict[str, Any]


def add_commands(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """`keys` with its actions."""
    parser = add("keys", "list and change the keys of the running gateway")
    parser.add_argument("action", choices=_ACTIONS)
    parser.add_argument("name", nargs="?", help="of the key; every action but list needs it")
    parser.add_argument(
        "--set",
        action="append",
        metavar="FIELD=VALUE",
        help="a setting, for create and edit: project=research, models=gpt-4,stub/*, "
        "limits.requests_per_minute=60, metadata.team=web, expires=null",
    )
    parser.add_argument(
        "--overlap-s", type=float, help="seconds the old key still works, for rotate"
    )
    parser.add_argument("--json", action="store_true", help="print the gateway's JSON")
    parser.set_defaults(run=partial(_run, parser), reads={"host", "port", "master_key"})


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace, config: Config) -> int:
    """Exit code 0; leaves with SystemExit and a sentence (1) or a wrong command line (2)."""
    from urllib.parse import quote

    from anos.remote import succeed

    action, name = options.action, options.name
    if complaint := _complaint(options):
        parser.error(f"keys {action} {complaint}")
    if action == "list":
        keys = _list(config)
        print(json.dumps(keys, indent=2)) if options.json else _print_table(keys)
        return 0
    try:
        settings = _settings(options.set or ())
    except ValueError as exc:
        parser.error(str(exc))
    path = f"/admin/keys/{quote(name, safe='')}"
    method, path, body = {
        "show": ("GET", path, None),
        "create": ("POST", "/admin/keys", {**settings, "name": name}),
        "edit": ("PATCH", path, settings),
        "rotate": ("POST", f"{path}/rotate", {"overlap_s": options.overlap_s or 0}),
        "block": ("POST", f"{path}/block", None),
        "unblock": ("POST", f"{path}/unblock", None),
        "delete": ("DELETE", path, None),
    }[action]
    _print(action, succeed(config, method, path, body), as_json=options.json)
    return 0


def _complaint(options: argparse.Namespace) -> str:
    """What is missing, or would be ignored; "" if nothing is."""
    action = options.action
    for option in ("set", "overlap_s"):
        if getattr(options, option) is not None and option not in _TAKES.get(action, ()):
            return f"takes no --{option.replace('_', '-')}"
    if action == "list":
        return "takes no name" if options.name else ""
    if not options.name:
        return "needs the name of a key"
    return "needs --set" if action == "edit" and not options.set else ""


def _print(action: str, key: Json, *, as_json: bool) -> None:
    if as_json or action == "show":
        print(json.dumps(key, indent=2))
    elif "key" in key:
        print(key["key"])
        print(f"{key['name']}: this key is shown once; keep it now", file=sys.stderr)
    else:
        print(f"{key['name']}: {'deleted' if action == 'delete' else _state(key)}")


def _list(config: Config) -> list[Json]:
    from urllib.parse import urlencode

    from anos.remote import succeed

    keys: list[Json] = []
    query: dict[str, Any] | None = {"limit": 100}
    while query is not None:
        page = succeed(config, "GET", f"/admin/keys?{urlencode(query)}")
        keys += page["data"]
        query = {"limit": 100, "after": page["next"]} if page["has_more"] else None
    return keys


def _print_table(keys: list[Json]) -> None:
    rows = [[each.upper() for each in _COLUMNS]]
    for key in keys:
        shown = {**key, "key": key["hint"], "state": _state(key)}
        rows.append([shown[column] or "-" for column in _COLUMNS])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


def _state(key: Json) -> str:
    if key["fault"] is not None:
        return "at fault"
    if key["blocked"]:
        return "blocked"
    expires = key["expires"]
    is_over = expires is not None and datetime.fromisoformat(expires).timestamp() <= time.time()
    return "expired" if is_over else "active"


def _settings(pairs: Iterable[str]) -> Json:
    """The JSON object that FIELD=VALUE pairs describe; raises ValueError with a sentence."""
    tree: Json = {}
    for pair in pairs:
        field, is_pair, text = pair.partition("=")
        *outer, last = field.split(".")
        if not is_pair or "" in (*outer, last):
            raise ValueError(f"--set {pair}: must be FIELD=VALUE")
        place = tree
        for step in outer:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise ValueError(f"--set {pair}: {step} has a value already")
        place[last] = _value(field, text)
    return tree


def _value(field: str, text: str) -> Any:
    if field.startswith("metadata.") and text != "null":
        return text
    if field == "models" and text != "null" and not text.startswith("["):
        return text.split(",")
    try:
        return json.loads(text)
    except ValueError:
        return text
