"""Reads one JSON file, the environment and flags into frozen structs, or reports every fault."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from anos.config_reader import Reader, Secret, string

DEFAULT_FILE = Path("anos.json")
DEFAULT_KEY = "sk-1234"

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


def _is_base_url(text: str) -> bool:
    if text == "stub:":
        return True
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  # the property raises ValueError for a port that is none
    except ValueError:
        return False
    plain = re.fullmatch(r"[^@?#\x00-\x20\x7f-\U0010ffff]+", text)
    return bool(plain and parts.scheme in ("http", "https") and parts.hostname)


def _matches(pattern: str) -> Callable[[str], object]:
    return re.compile(pattern).fullmatch


_MODEL = r"(?!.*\.\.)[A-Za-z0-9._:/@-]{0,255}[A-Za-z0-9._:/@*-]"
_MODEL_WORDS = 'at most 256 letters, digits and . _ : / @ - without ".."; a * may end it'
_NAME_WORDS = "at most 64 letters, digits and . _ @ -"
_SECRET_WORDS = "at most 4096 printable ASCII characters without blanks"
_is_credential = _matches(r"[!-~]{1,4096}")
_is_text = _matches(r"(?s)(?=.*\S)[^\x00\ud800-\udfff]+")
_is_origin = _matches(r"\*|https?://[A-Za-z0-9._\[\]:-]+")

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._@-]{1,64}$", description=_NAME_WORDS)]
# "master" is what logs and metrics call the master key.
KeyName = Annotated[
    str,
    Meta(pattern=r"^(?!master$)[A-Za-z0-9._@-]{1,64}$", description=f'{_NAME_WORDS}, not "master"'),
]
ModelName = Annotated[str, Meta(pattern=f"^{_MODEL}$", description=_MODEL_WORDS)]
ModelPattern = Annotated[str, string(_MODEL_WORDS, _matches(_MODEL))]
Text = Annotated[str, string("text that is not blank", _is_text)]
Phrase = Annotated[str, string("text that is not blank", _is_text, secret=True)]
BaseUrl = Annotated[
    str, string('"stub:" or an http(s) URL without user name, query and fragment', _is_base_url)
]
Origin = Annotated[str, string('"*" or an origin like "https://app.example.com"', _is_origin)]
UpstreamKey = Annotated[str, string(_SECRET_WORDS, _is_credential, secret=True)]
GatewayKey = Annotated[str, string(_SECRET_WORDS, _is_credential, secret=True, unique=True)]
ProviderName = Annotated[str, string("a name in providers", str, section="providers")]
LimitName = Annotated[str, string("a name in limits", str, section="limits")]
ProjectName = Annotated[str, string("a name in projects", str, section="projects")]
Port = Annotated[int, Meta(ge=0, le=65_535, description="an integer from 0 to 65535")]
Seconds = Annotated[float, Meta(gt=0, le=86_400, description="a number over 0, at most 86400")]
DrainSeconds = Annotated[float, Meta(ge=0, le=3_600, description="a number from 0 to 3600")]
Days = Annotated[int, Meta(ge=1, le=36_500, description="an integer from 1 to 36500")]
# The window keeps one timestamp per admitted request: a million of them are about 32 MB.
PerMinute = Annotated[int, Meta(ge=1, le=1_000_000, description="an integer from 1 to 1000000")]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every part of the configuration has in common.

    `later` names the keys that are planned but not built: refused, because to ignore a limit or a
    guard that the operator wrote down would be worse than not to start.
    """

    later: ClassVar[tuple[str, ...]] = ()


# The same for values.
LATER_VALUES = frozenset({"messages", "gemini", "mask", "monitor"})


class Server(Section, frozen=True, kw_only=True):
    """Where the gateway listens and keeps its data."""

    later = ("secret",)

    host: Text = "127.0.0.1"
    port: Port = 4000
    database: Text = "anos.db"
    master_key: GatewayKey | None = None
    cors_origins: tuple[Origin, ...] = ()
    chat_fields: bool = True
    synchronous: Literal["normal", "full"] = "normal"
    drain_s: DrainSeconds = 30.0


class Quirks(Section, frozen=True, kw_only=True):
    """Where an upstream differs from the vendor whose API it speaks."""

    later = ("api_version",)

    repair: bool = False
    include_usage: bool = True
    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"


class Timeouts(Section, frozen=True, kw_only=True):
    """How long an upstream may take to connect, to its first byte, and between two bytes."""

    connect_s: Seconds = 5.0
    first_byte_s: Seconds = 600.0
    idle_s: Seconds = 120.0


class Provider(Section, frozen=True, kw_only=True):
    """A vendor's API."""

    dialect: Literal["responses", "chat"]
    base_url: BaseUrl
    api_key: UpstreamKey | None = None
    auth: Literal["bearer", "api-key", "x-api-key", "x-goog-api-key", "none"] = "bearer"
    quirks: Quirks = Quirks()
    timeouts: Timeouts = Timeouts()


class RouteEntry(Section, frozen=True, kw_only=True):
    """One provider that serves a model, and the name the model has there."""

    later = ("weight",)

    provider: ProviderName
    deployment: Text | None = None


class Model(Section, frozen=True, kw_only=True):
    """A model that clients may name; its routes are tried in order."""

    later = ("price", "limits", "max_output_tokens", "max_image_tokens", "max_file_tokens")

    routes: Annotated[
        tuple[RouteEntry, ...], Meta(min_length=1, description="a list of at least one route")
    ]
    reasoning: bool = False


class Project(Section, frozen=True, kw_only=True):
    """Owns responses; the keys of one project share them."""

    later = ("limits", "budget")


class Key(Section, frozen=True, kw_only=True):
    """A gateway key."""

    later = ("budget", "role", "guards", "expires", "bodies", "metadata")

    key: GatewayKey
    models: Annotated[
        tuple[ModelPattern, ...], Meta(min_length=1, description="a list of at least one model")
    ] = ("*",)
    limits: LimitName | None = None
    project: ProjectName | None = None


class Limit(Section, frozen=True, kw_only=True):
    """What a key may use; `default` is for keys that name none, `global` for all together."""

    later = ("tokens_per_minute", "concurrent", "queue")

    requests_per_minute: PerMinute


class Keywords(Section, frozen=True, kw_only=True):
    """Phrases that may not be sent to a model."""

    later = ("output", "patterns", "files", "groups", "allow", "sources", "on_error")

    input: Literal["block", "off"] = "block"
    phrases: tuple[Phrase, ...] = ()


class Guards(Section, frozen=True, kw_only=True):
    """The checks of what is sent to a model."""

    later = ("moderation", "profiles")

    keywords: Keywords = Keywords()


class Retention(Section, frozen=True, kw_only=True):
    """How long stored data is kept."""

    later = ("audit_days",)

    responses_days: Days = 30


class Config(Section, frozen=True, kw_only=True):
    """The configuration of Anos Gateway. Any string may be "env:NAME" or "file:PATH"."""

    later = ("budgets",)

    server: Server = Server()
    providers: dict[Name, Provider] = {}
    models: dict[ModelName, Model] = {}
    projects: dict[Name, Project] = {}
    keys: dict[KeyName, Key] = {}
    limits: dict[Name, Limit] = {}
    guards: Guards = Guards()
    retention: Retention = Retention()

    @property
    def default_key(self) -> bool:
        """Whether the master key is the published one: serve callers on this machine only."""
        return self.server.master_key == DEFAULT_KEY


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
    if reader.faults:
        raise ConfigFault(reader.faults)
    result: Config = config
    return result


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
        for name in ("host", "port", "database", "synchronous")
        if getattr(old.server, name) != getattr(new.server, name)
    ]
