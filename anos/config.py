"""Reads one JSON file, the environment and flags into frozen structs, or reports every fault."""

from __future__ import annotations

import ipaddress
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import msgspec

from anos.config_reader import OR_ONE, Reader, Secret
from anos.config_sections import (
    DEFAULT_KEY,
    LATER_VALUES,
    Config,
)

DEFAULT_FILE = Path("anos.json")
_SCHEMA = "$schema"  # the key by which editors find the schema of a file
_REFERENCE = {"type": "string", "pattern": "^(env|file):"}

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
    if isinstance(tree, dict):
        tree = {name: value for name, value in tree.items() if name != _SCHEMA}
        if not tree.keys() & {"providers", "models"}:
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
    if reader.faults:
        raise ConfigFault(reader.faults)
    result: Config = config
    return result


def load(
    path: Path | None = None,
    *,
    env: Mapping[str, str] = os.environ,
    flags: Mapping[str, object] | None = None,
    only: Set[str] = frozenset(),
) -> Config:
    """The configuration: flags before environment before file before defaults.

    Without `path` there is no file, and the master key is DEFAULT_KEY. `flags` may have `host`,
    `port`, `database` and `master_key_env` (the name of a variable); None is "not given". `only`
    names what of `server` is read for who needs nothing else, so that no other secret need be
    there. Raises ConfigFault.
    """
    tree = _read_file(path) if path else {"server": {"master_key": DEFAULT_KEY}}
    if isinstance(tree, dict) and isinstance(tree.get("server", {}), dict):
        tree["server"] = {**tree.get("server", {}), **_overrides(env, flags or {})}
        if only:
            tree = {"server": {name: tree["server"][name] for name in only & tree["server"].keys()}}
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
    try:
        tree = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_Object)
    except OSError as exc:
        raise ConfigFault([f"{path}: cannot be read: {exc.strerror}"]) from None
    except json.JSONDecodeError as exc:
        raise ConfigFault([f"{path}: line {exc.lineno}, column {exc.colno}: {exc.msg}"]) from None
    except (ValueError, RecursionError):
        raise ConfigFault([f"{path}: not JSON in UTF-8, or nested too deeply"]) from None
    if twice := list(_twice(tree)):
        raise ConfigFault([f"{path}: {where} is given twice" for where in twice])
    return tree


class _Object(dict[str, Any]):
    """An object of the file, and which of its keys were given more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counted = Counter(name for name, _ in pairs) if len(self) < len(pairs) else {}
        self.twice = [name for name in counted if counted[name] > 1]


def _twice(node: object, path: str = "") -> Iterator[str]:
    """The paths of what is given twice."""
    if isinstance(node, list):
        for index, inner in enumerate(node):
            yield from _twice(inner, f"{path}[{index}]")
    elif isinstance(node, _Object):
        prefix = f"{path}." if path else ""
        yield from (f"{prefix}{name}" for name in node.twice)
        for name, inner in node.items():
            yield from _twice(inner, f"{prefix}{name}")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors."""
    schema: dict[str, Any] = _as_written(msgspec.json.schema(Config))
    schema["$defs"]["Config"]["properties"][_SCHEMA] = {"type": "string"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _as_written(node: Any) -> Any:
    """A schema that takes what the reader takes: "env:NAME" for a scalar, one for a list of one."""
    if isinstance(node, list):
        return [_as_written(each) for each in node]
    if not isinstance(node, dict):
        return node
    node = {name: _as_written(each) for name, each in node.items()}
    other = None
    if node.get("type") in ("integer", "number", "boolean") or "enum" in node:
        other = _REFERENCE
    elif node.pop(OR_ONE, False):
        other = node["items"]
    if other is None:
        return node
    outer = {name: node.pop(name) for name in ("description", "default") if name in node}
    return {**outer, "anyOf": [node, other]}


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
    if isinstance(value, Secret):
        return "(secret)"
    if isinstance(value, tuple) and any(isinstance(item, Secret) for item in value):
        return f"{len(value)} (secret)"
    text = "none" if value is None else json.dumps(_tree(value))
    return text if len(text) <= 200 else f"{text[:200]}…"


def _tree(value: object) -> object:
    """A value as it would be written in the file, without its secrets."""
    if isinstance(value, msgspec.Struct):
        defaults = {each.name: each.default for each in msgspec.structs.fields(value)}
        given = msgspec.structs.asdict(value).items()
        return {name: _tree(each) for name, each in given if each not in (defaults[name], {})}
    if isinstance(value, dict):
        return {name: _tree(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return [_tree(each) for each in value]
    return "(secret)" if isinstance(value, Secret) else value


def reload_faults(old: Config, new: Config) -> list[str]:
    """What a running gateway cannot change, a sentence each; an empty list allows the reload."""
    return [
        f"server.{name}: cannot change while the gateway runs; restart it"
        for name in ("host", "port", "database", "synchronous", "secret")
        if getattr(old.server, name) != getattr(new.server, name)
    ]
