"""The sections of the configuration as frozen structs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, get_args

import msgspec
from msgspec import Meta

from anos.config_reader import OR_ONE
from anos.config_values import (
    BaseUrl,
    BudgetName,
    CategoryName,
    Count,
    Days,
    DrainSeconds,
    GatewayKey,
    GatewaySecret,
    KeyName,
    LimitName,
    Milliseconds,
    ModelName,
    ModelPattern,
    Moment,
    Name,
    Origin,
    PatternText,
    PerMinute,
    Phrase,
    Port,
    Positive,
    ProfileName,
    ProfileReference,
    ProjectName,
    ProviderName,
    QueueSeconds,
    QueueSize,
    Seconds,
    Share,
    Text,
    TimeZone,
    UpstreamKey,
    Usd,
    WindowName,
    WordFile,
)

DEFAULT_KEY = "sk-1234"

Mode = Literal["block", "mask", "monitor", "off"]
Verdicts = Literal["block", "monitor", "off"]
OnError = Literal["block", "pass"]
Source = Literal[
    "user",
    "system",
    "history",
    "reference",
    "assistant",
    "tools",
    "arguments",
    "outputs",
    "files",
    "other",
]
# Everything a model sees but the definitions of tools, which are written by programmers.
SOURCES: tuple[Source, ...] = tuple(each for each in get_args(Source) if each != "tools")


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every part of the configuration has in common.

    `later` names the keys that are planned but not built: refused, because to ignore a limit or a
    guard that the operator wrote down would be worse than not to start.
    """

    later: ClassVar[tuple[str, ...]] = ()

    def faults(self) -> Iterator[tuple[str, str]]:
        """What no single value shows: a path below this section's, and what is wrong there."""
        return iter(())


# The same for values.
LATER_VALUES = frozenset({"messages", "gemini"})


class Server(Section, frozen=True, kw_only=True):
    """Where the gateway listens and keeps its data."""

    host: Text = "127.0.0.1"
    port: Port = 4000
    database: Text = "anos.db"
    master_key: GatewayKey | None = None
    cors_origins: tuple[Origin, ...] = ()
    chat_fields: bool = True
    synchronous: Literal["normal", "full"] = "normal"
    drain_s: DrainSeconds = 30.0
    secret: GatewaySecret | None = None


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


class Rates(Section, frozen=True, kw_only=True):
    """What tokens cost; a rate that is not given is the one of input or output."""

    input_per_million_usd: Usd
    output_per_million_usd: Usd
    cached_input_per_million_usd: Usd | None = None
    cache_write_per_million_usd: Usd | None = None
    reasoning_per_million_usd: Usd | None = None


class PriceTier(Rates, frozen=True, kw_only=True):
    """What a request costs whose input is over so many tokens."""

    over_input_tokens: Positive


class ModelPrice(Rates, frozen=True, kw_only=True):
    """What a model costs."""

    tiers: tuple[PriceTier, ...] = ()


class Model(Section, frozen=True, kw_only=True):
    """A model that clients may name; its routes are tried in order."""

    routes: Annotated[
        tuple[RouteEntry, ...], Meta(min_length=1, description="a list of at least one route")
    ]
    reasoning: bool = False
    limits: LimitName | None = None
    price: ModelPrice | None = None
    max_output_tokens: Positive = 4096
    max_image_tokens: Count = 0
    max_file_tokens: Count = 0


class Project(Section, frozen=True, kw_only=True):
    """Owns responses; the keys of one project share them."""

    limits: LimitName | None = None
    budget: BudgetName | None = None


class Key(Section, frozen=True, kw_only=True):
    """A gateway key."""

    key: GatewayKey
    models: Annotated[
        tuple[ModelPattern, ...], Meta(min_length=1, description="a list of at least one model")
    ] = ("*",)
    limits: LimitName | None = None
    budget: BudgetName | None = None
    project: ProjectName | None = None
    role: Literal["admin", "key", "read-only"] = "key"
    guards: ProfileReference = "default"
    expires: Moment | None = None
    bodies: Literal["off", "hashed", "full"] = "off"
    metadata: dict[Name, Text] = {}


class Queue(Section, frozen=True, kw_only=True):
    """Calls over `concurrent` that wait instead of being refused."""

    size: QueueSize = 0
    wait_s: QueueSeconds = 0.0


class Limit(Section, frozen=True, kw_only=True):
    """What a key may use; `default` is for keys that name none, `global` for all together."""

    requests_per_minute: PerMinute | None = None
    tokens_per_minute: Positive | None = None
    concurrent: PerMinute | None = None
    queue: Queue = Queue()

    def faults(self) -> Iterator[tuple[str, str]]:
        """A queue alone limits nothing."""
        if self == Limit(queue=self.queue):
            yield "", "limits nothing"


class Budget(Section, frozen=True, kw_only=True):
    """What may be spent in a window; `default` is for keys that name none, `global` for all."""

    usd: Usd
    window: WindowName
    soft_usd: Usd | None = None
    time_zone: TimeZone = "UTC"

    def faults(self) -> Iterator[tuple[str, str]]:
        """A budget that refuses before it warns."""
        if self.soft_usd is not None and self.soft_usd > self.usd:
            yield "soft_usd", "must not be above usd"


# One, or a list of which each must hold.
Budgets = Annotated[
    tuple[Budget, ...],
    Meta(
        min_length=1,
        description="a budget, or a list of at least one",
        extra={OR_ONE: True},
        extra_json_schema={OR_ONE: True},
    ),
]


class Words(Section, frozen=True, kw_only=True):
    """Phrases and patterns that belong together; files hold a phrase in each line."""

    phrases: tuple[Phrase, ...] = ()
    patterns: tuple[PatternText, ...] = ()
    files: tuple[WordFile, ...] = ()


class Keywords(Words, frozen=True, kw_only=True):
    """Phrases and patterns that may neither be sent to a model nor come back from it."""

    input: Mode = "block"
    output: Mode = "off"
    groups: dict[Name, Words] = {}
    allow: tuple[Phrase, ...] = ()
    sources: tuple[Source, ...] = SOURCES
    on_error: OnError = "block"

    def faults(self) -> Iterator[tuple[str, str]]:
        """Patterns for streams that are too wide: what is held because of one must have an end."""
        if self.output == "off":
            return
        from guards.patterns import WIDEST_OUTPUT, width  # not loaded where there are none

        groups = {"": self} | {f"groups.{name}.": each for name, each in self.groups.items()}
        for group, words in groups.items():
            for index, pattern in enumerate(words.patterns):
                if (widest := width(pattern)) is None or widest > WIDEST_OUTPUT:
                    message = f"for output at most {WIDEST_OUTPUT} characters wide"
                    yield f"{group}patterns[{index}]", message


class Moderation(Section, frozen=True, kw_only=True):
    """What a classifier says of a text; which one is its back end."""

    input: Verdicts = "off"
    output: Verdicts = "off"
    backend: Literal["builtin", "endpoint", "model"] = "builtin"
    provider: ProviderName | None = None
    model: Text | None = None
    thresholds: dict[CategoryName, Share] = {}
    deadline_ms: Milliseconds = 2000
    during_call: bool = False
    on_error: OnError = "block"

    def faults(self) -> Iterator[tuple[str, str]]:
        """Back ends that are elsewhere, and do not say where."""
        needs = {"endpoint": ("provider",), "model": ("provider", "model")}
        for name in needs.get(self.backend, ()):
            if getattr(self, name) is None:
                yield name, "is missing"


class GuardProfile(Section, frozen=True, kw_only=True):
    """The guards of the keys that name it."""

    keywords: Keywords = Keywords()
    moderation: Moderation = Moderation()


class Guards(GuardProfile, frozen=True, kw_only=True):
    """The checks of what is sent to a model and of what comes back; other profiles beside."""

    profiles: dict[ProfileName, GuardProfile] = {}


class Retention(Section, frozen=True, kw_only=True):
    """How long stored data is kept."""

    responses_days: Days = 30
    audit_days: Days = 90


class Config(Section, frozen=True, kw_only=True):
    """The configuration of Anos Gateway. Any string may be "env:NAME" or "file:PATH"."""

    server: Server = Server()
    providers: dict[Name, Provider] = {}
    models: dict[ModelName, Model] = {}
    projects: dict[Name, Project] = {}
    keys: dict[KeyName, Key] = {}
    limits: dict[Name, Limit] = {}
    budgets: dict[Name, Budgets] = {}
    guards: Guards = Guards()
    retention: Retention = Retention()

    @property
    def default_key(self) -> bool:
        """Whether the master key is the published one: serve callers on this machine only."""
        return self.server.master_key == DEFAULT_KEY
