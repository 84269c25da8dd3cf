"""Reads one JSON file, the environment and flags into frozen structs, or reports every fault."""

from __future__ import annotations

import ipaddress
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from anos.config_reader import Reader, Secret
from anos.config_sections import (
    DEFAULT_KEY,
    LATER_VALUES,
    Budget,
    Config,
    GuardProfile,
    Keywords,
    Limit,
    Words,
)

DEFAULT_FILE = Path("anos.json")

# What a configuration serves that names neither providers nor models.
STUB: dict[str, Any] = {
    "providers": {"stub": {"dialect": "responses", "base_url": "stub:"}},
    "models": {
        name: {"routes": [{"provider": "stub"}]} for name in ("gpt-35-turbo", "gpt-4", "stub/*")
    },
}


class ConfigFault(Exception):
    """The configuration cannot be used; each of `faults` is a path and what is wrong there."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse(tree: object, *, env: Mapping[str, str] = os.environ) -> Config:
    """The configuration that a JSON tree describes, with what `env:NAME` and `file:PATH` name.

    A tree with neither providers nor models serves the built-in stub. Raises ConfigFault.
    """
    if isinstance(tree, dict) and not tree.keys() & {"providers", "models"}:
        tree = {**STUB, **tree}
    reader = Reader(tree, env, LATER_VALUES)
    config = reader.read(Config, tree)
    if isinstance(tree, dict) and not tree.get("models"):
        reader.fault("models", "at least one model with a route is needed")
    server = config.server if config else None
    if server and server.host and DEFAULT_KEY in reader.used and not _is_loopback(server.host):
        reader.fault(
            reader.used[DEFAULT_KEY],
            f"{DEFAULT_KEY} is public knowledge and so works on loopback only, but server.host is "
            f"{server.host}; give a key of your own (the master key in ANOS_MASTER_KEY)",
        )
    for name, limit in config.limits.items() if not reader.faults else ():
        if limit == Limit(queue=limit.queue):
            reader.fault(f"limits.{name}", "limits nothing")
    for name, budgets in config.budgets.items() if not reader.faults else ():
        assert isinstance(tree, dict)
        check_soft(f"budgets.{name}", budgets, tree["budgets"][name], reader)
    if not reader.faults:
        _check_guards(config, reader)
    for name, key in config.keys.items() if not reader.faults else ():
        if key.guards != "default" and key.guards not in config.guards.profiles:
            reader.fault(f"keys.{name}.guards", f'no profile "{key.guards}"')
    if reader.faults:
        raise ConfigFault(reader.faults)
    result: Config = config
    return result


def check_soft(path: str, budgets: Sequence[Budget], given: object, reader: Reader) -> None:
    """Budgets that refuse before they warn; `given` is what they were read from, at `path`."""
    for index, budget in enumerate(budgets):
        if budget.soft_usd is not None and budget.soft_usd > budget.usd:
            place = f"{path}[{index}]" if isinstance(given, list) else path
            reader.fault(f"{place}.soft_usd", "must not be above usd")


def _check_guards(config: Config, reader: Reader) -> None:
    """What no single value shows: back ends without a provider, patterns that are too wide."""
    named: dict[str, GuardProfile] = {"guards": config.guards}
    named |= {f"guards.profiles.{name}": each for name, each in config.guards.profiles.items()}
    for path, profile in named.items():
        needs = {"endpoint": ("provider",), "model": ("provider", "model")}
        for name in needs.get(profile.moderation.backend, ()):
            if getattr(profile.moderation, name) is None:
                reader.fault(f"{path}.moderation.{name}", "is missing")
        groups: dict[str, Keywords | Words] = {"": profile.keywords}
        groups |= {f"groups.{name}.": each for name, each in profile.keywords.groups.items()}
        if profile.keywords.output == "off":
            continue
        for group, words in groups.items():
            if words.patterns:
                _check_widths(f"{path}.keywords.{group}patterns", words.patterns, reader)


def _check_widths(path: str, patterns: Sequence[str], reader: Reader) -> None:
    from guards.patterns import WIDEST_OUTPUT, width  # not loaded where there are none

    for index, pattern in enumerate(patterns):
        # What is held of a stream because of it must have an end.
        if (widest := width(pattern)) is None or widest > WIDEST_OUTPUT:
            reader.fault(f"{path}[{index}]", f"for output at most {WIDEST_OUTPUT} characters wide")


def load(
    path: Path | None = None,
    *,
    env: Mapping[str, str] = os.environ,
    flags: Mapping[str, object] | None = None,
) -> Config:
    """The configuration: flags before environment before file before defaults.

    Without `path`, ./anos.json is read if it is there; without any file the master key is
    DEFAULT_KEY. `flags` may have `host`, `port`, `database` and `master_key_env` (the name of a
    variable); None is "not given". Raises ConfigFault.
    """
    path = path or default_file()
    tree = _read_file(path) if path else {"server": {"master_key": DEFAULT_KEY}}
    if isinstance(tree, dict) and isinstance(tree.get("server", {}), dict):
        tree["server"] = {**tree.get("server", {}), **_overrides(env, flags or {})}
    return parse(tree, env=env)


def default_file() -> Path | None:
    """./anos.json, if it is there."""
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def _overrides(env: Mapping[str, str], flags: Mapping[str, object]) -> dict[str, object]:
    variables = [("port", "PORT"), ("port", "ANOS_PORT"), ("host", "ANOS_HOST")]
    variables += [("database", "ANOS_DATABASE"), ("master_key", "ANOS_MASTER_KEY")]
    found: dict[str, object] = {key: f"env:{name}" for key, name in variables if env.get(name)}
    given = {name: value for name, value in flags.items() if value is not None}
    if "master_key_env" in given:
        given["master_key"] = f"env:{given.pop('master_key_env')}"
    return {**found, **given}


def _read_file(path: Path) -> Any:
    faults: list[str] = []

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        tree = dict(pairs)
        if len(tree) < len(pairs):
            names = Counter(name for name, _ in pairs)
            faults.extend(f'{path}: "{name}" is given twice' for name in names if names[name] > 1)
        return tree

    try:
        tree = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except OSError as exc:
        raise ConfigFault([f"{path}: cannot be read: {exc.strerror}"]) from None
    except json.JSONDecodeError as exc:
        raise ConfigFault([f"{path}: line {exc.lineno}, column {exc.colno}: {exc.msg}"]) from None
    except (ValueError, RecursionError):
        raise ConfigFault([f"{path}: not JSON in UTF-8, or nested too deeply"]) from None
    if faults:
        raise ConfigFault(faults)
    return tree


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **msgspec.json.schema(Config)}


def diff(old: object, new: object, path: str = "") -> list[str]:
    """What a reload changes, as lines `path: before -> after`, secrets and phrases redacted."""
    if old == new:
        return []
    if isinstance(old, msgspec.Struct) and isinstance(new, msgspec.Struct):
        before, after = msgspec.structs.asdict(old), msgspec.structs.asdict(new)
    elif isinstance(old, dict) and isinstance(new, dict):
        before, after = old, new
    else:
        return [f"{path}: {_shown(old)} -> {_shown(new)}"]
    prefix = f"{path}." if path else ""
    return [
        line
        for name in {**before, **after}
        for line in diff(before.get(name), after.get(name), f"{prefix}{name}")
    ]


def _shown(value: object) -> str:
    if isinstance(value, tuple) and any(isinstance(item, Secret) for item in value):
        return f"{len(value)} (secret)"
    text = "none" if value is None else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def reload_faults(old: Config, new: Config) -> list[str]:
    """What a running gateway cannot change, a sentence each; an empty list allows the reload."""
    return [
        f"server.{name}: cannot change while the gateway runs; restart it"
        for name in ("host", "port", "database", "synchronous", "secret")
        if getattr(old.server, name) != getattr(new.server, name)
    ]
