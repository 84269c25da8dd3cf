"""What a key may do, as the API takes, keeps and shows it; read like the configuration."""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import UnionType
from typing import Annotated, Any, Literal

import msgspec
import orjson
from msgspec import Meta, Struct

from anos.config_reader import Reader
from anos.config_sections import LATER_VALUES, Budget, Budgets, Config, Key, Limit, Queue, Section
from anos.config_values import (
    BudgetName,
    LimitName,
    ModelPattern,
    Moment,
    Name,
    ProfileReference,
    ProjectName,
    Text,
    moment_ms,
)
from anos.errors import InvalidRequest

# Thousands of keys are in memory, and each change of one is a row of the log.
MAX_BYTES = 65_536
_MESSAGE = 2000
_YEAR_10000_MS = 253_402_300_800_000
# What a name of the configuration may stand for, and what may stand in its place.
_NAMED = {"limits": (LimitName, Limit), "budget": (BudgetName, Budgets)}

Tree = dict[str, Any]


class Settings(Section, frozen=True, kw_only=True):
    """What a key may do; limits and budgets are names of the configuration, or stand here."""

    models: Annotated[
        tuple[ModelPattern, ...], Meta(min_length=1, description="a list of at least one model")
    ] = ("*",)
    project: ProjectName | None = None
    role: Literal["admin", "key", "read-only"] = "key"
    limits: str | Limit | None = None
    budget: str | tuple[Budget, ...] | None = None
    guards: ProfileReference = "default"
    bodies: Literal["off", "hashed", "full"] = "off"
    expires: Moment | None = None
    blocked: bool = False
    metadata: dict[Name, Text] = {}  # noqa: RUF012  # msgspec copies it

    @property
    def expires_ms(self) -> int | None:
        """Unix time the key ends; None: never."""
        return None if self.expires is None else moment_ms(self.expires)


class Kept(Struct, frozen=True, kw_only=True):
    """What the store keeps of a key beside its digest."""

    settings: Settings
    hint: str
    created_ms: int
    created_by: str


decode = msgspec.json.Decoder(Kept).decode


class _Reader(Reader):
    def read(self, kind: Any, value: object, path: str = "") -> Any:
        if path in _NAMED and isinstance(kind, UnionType):
            kind = _NAMED[path][0 if isinstance(value, str) else 1]
        return super().read(kind, value, path)

    def _resolve(self, reference: str, path: str) -> str:
        """What a client sends reads no file and no variable of this machine."""
        return reference


def read(tree: Tree, config: Config) -> Settings:
    """The settings that a JSON object describes; a null is the default.

    Raises InvalidRequest, which names every fault, and as `param` the path of the first.
    """
    given = {name: value for name, value in tree.items() if value is not None}
    reader = _Reader(_named(config), {}, LATER_VALUES)
    settings = reader.read(Settings, given)
    if reader.faults:
        param = reader.faults[0].partition(": ")[0][:256]
        raise InvalidRequest("; ".join(reader.faults)[:_MESSAGE], param=param)
    if settings.expires is not None:
        settings = msgspec.structs.replace(settings, expires=iso(moment_ms(settings.expires)))
    if len(orjson.dumps(tree_of(settings))) > MAX_BYTES:
        raise InvalidRequest(f"The settings of a key are at most {MAX_BYTES} bytes of JSON.")
    result: Settings = settings
    return result


def lacking(settings: Settings, config: Config) -> list[str]:
    """What settings name that the configuration has no more, as `read` would say it."""
    # Not by reading them again: that takes long for thousands of keys.
    named = (
        ("project", settings.project, config.projects),
        ("limits", settings.limits, config.limits),
        ("budget", settings.budget, config.budgets),
    )
    faults = [
        f'{field}: no {field.removesuffix("s")} "{value}"'
        for field, value, entries in named
        if isinstance(value, str) and value not in entries
    ]
    if settings.guards not in ("default", *config.guards.profiles):
        faults.append(f'guards: no profile "{settings.guards}"')
    return faults


def _named(config: Config) -> Tree:
    """What the settings of a key may name."""
    sections: Tree = {name: getattr(config, name) for name in ("projects", "limits", "budgets")}
    return sections | {"guards": {"profiles": config.guards.profiles}}


def of_configured(key: Key) -> Settings:
    """The settings of a key of the configuration."""
    common = {name: getattr(key, name) for name in Settings.__struct_fields__ if hasattr(key, name)}
    return Settings(**common)


def tree_of(settings: Settings) -> Tree:
    """Settings as JSON; of an inline limit only what it limits, and one budget without its list."""
    tree: Tree = msgspec.json.decode(msgspec.json.encode(settings))
    if isinstance(settings.limits, Limit):
        tree["limits"] = {name: each for name, each in tree["limits"].items() if each is not None}
        if settings.limits.queue == Queue():
            del tree["limits"]["queue"]
    if isinstance(settings.budget, tuple):
        budgets = [
            {name: value for name, value in each.items() if value is not None}
            for each in tree["budget"]
        ]
        tree["budget"] = budgets[0] if len(budgets) == 1 else budgets
    return tree


def merged(tree: Any, patch: Mapping[str, Any]) -> Tree:
    """`tree` with a JSON merge patch (RFC 7396) applied: null removes."""
    result = dict(tree) if isinstance(tree, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            is_object = isinstance(value, dict)
            result[name] = merged(result.get(name), value) if is_object else value
    return result


def limit_of(limits: str | Limit | None, config: Config) -> Limit | None:
    """The limit of a key; one that names none has the default, if there is one."""
    return limits if isinstance(limits, Limit) else config.limits.get(limits or "default")


def budgets_of(budget: str | tuple[Budget, ...] | None, config: Config) -> tuple[Budget, ...]:
    """The budgets of a key; one that names none has the default, if there is one."""
    return budget if isinstance(budget, tuple) else config.budgets.get(budget or "default", ())


def hint_of(key: str) -> str:
    """What may be shown of a key: "sk-...abcd"; of a short one nothing."""
    start = "sk-..." if key.startswith("sk-") else "..."
    return start + (key[-4:] if len(key) >= 20 else "")


def iso(at_ms: int) -> str:
    """A Unix time as "2030-01-31T12:00:00Z"; the milliseconds only if there are any."""
    at_s, rest_ms = divmod(min(max(at_ms, 0), _YEAR_10000_MS - 1), 1000)
    text = datetime.fromtimestamp(at_s, UTC).isoformat().removesuffix("+00:00")
    return f"{text}.{rest_ms:03}Z" if rest_ms else f"{text}Z"
