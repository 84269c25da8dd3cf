"""The sections of the configuration as frozen structs, and what each value may be."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal, get_args
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from anos.config_reader import string
from guards.budgets import Window, micro_usd
from guards.categories import CATEGORIES

DEFAULT_KEY = "sk-1234"


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


def _is_pattern(text: str) -> bool:
    from guards.patterns import Patterns  # not loaded where there are none

    try:
        Patterns([text])
    except ValueError:
        return False
    return True


def _is_phrase(text: str) -> bool:
    return _is_text(text) is not None and any(char.isalnum() for char in text)


def _is_word_file(path: str) -> bool:
    try:
        words_of(path)
    except (OSError, ValueError):
        return False
    return True


def words_of(path: str) -> list[str]:
    """The phrases in a file, one a line; blank lines and lines that begin with # are none.

    Raises OSError, and UnicodeDecodeError.
    """
    with open(path, encoding="utf-8-sig") as file:
        lines = [line.strip() for line in file]
    return [line for line in lines if line and not line.startswith("#")]


def _matches(pattern: str) -> Callable[[str], object]:
    return re.compile(pattern).fullmatch


_MODEL = r"(?!.*\.\.)[A-Za-z0-9._:/@-]{0,255}[A-Za-z0-9._:/@*-]"
_MODEL_WORDS = 'at most 256 letters, digits and . _ : / @ - without ".."; a * may end it'
_NAME_WORDS = "at most 64 letters, digits and . _ @ -"
_SECRET_WORDS = "at most 4096 printable ASCII characters without blanks"
_is_credential = _matches(r"[!-~]{1,4096}")
_is_text = _matches(r"(?s)(?=.*\S)[^\x00\ud800-\udfff]+")
_is_origin = _matches(r"\*|https?://[A-Za-z0-9._\[\]:-]+")


def _is_usd(value: float) -> bool:
    try:
        micro_usd(repr(value))
    except ValueError:
        return False
    return True


def _is_window(text: str) -> bool:
    try:
        Window.parse(text)
    except ValueError:
        return False
    return True


def _is_time_zone(text: str) -> bool:
    try:
        Window.parse("day", text)
    except ValueError:
        return False
    return True


def moment_ms(text: str) -> int:
    """Unix milliseconds of an ISO 8601 time; without an offset it is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _is_moment(text: str) -> bool:
    try:
        moment_ms(text)
    except (ValueError, OverflowError):
        return False
    return True


Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._@-]{1,64}$", description=_NAME_WORDS)]
# "master" is what logs and metrics call the master key.
KeyName = Annotated[
    str,
    Meta(pattern=r"^(?!master$)[A-Za-z0-9._@-]{1,64}$", description=f'{_NAME_WORDS}, not "master"'),
]
ModelName = Annotated[str, Meta(pattern=f"^{_MODEL}$", description=_MODEL_WORDS)]
ModelPattern = Annotated[str, string(_MODEL_WORDS, _matches(_MODEL))]
Text = Annotated[str, string("text that is not blank", _is_text)]
Phrase = Annotated[str, string("text with a letter or a digit", _is_phrase, secret=True)]
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
Count = Annotated[int, Meta(ge=0, le=10**12, description="an integer from 0 to 10^12")]
Positive = Annotated[int, Meta(ge=1, le=10**12, description="an integer from 1 to 10^12")]
QueueSize = Annotated[int, Meta(ge=0, le=100_000, description="an integer from 0 to 100000")]
QueueSeconds = Annotated[float, Meta(ge=0, le=600, description="a number from 0 to 600")]
# Float holds these exactly enough: what is meant is its shortest decimal form.
Usd = Annotated[
    float,
    Meta(
        ge=0,
        le=1e9,
        description="dollars from 0 to 10^9 with at most six decimals",
        extra={"check": _is_usd},
    ),
]
WindowName = Annotated[
    str,
    string('"hour", "day", "week", "month", "total", or like "12h" or "30d"', _is_window),
]
TimeZone = Annotated[
    str, string('a time zone this machine knows, like "Europe/Berlin"', _is_time_zone)
]
Moment = Annotated[str, string('a time like "2030-01-31T12:00:00Z"', _is_moment)]
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
PatternText = Annotated[str, string("a regular expression of RE2", _is_pattern, secret=True)]
WordFile = Annotated[str, string("a file of phrases in UTF-8, one a line", _is_word_file)]
CategoryName = Annotated[
    str,
    Meta(pattern=f"^({'|'.join(CATEGORIES)})$", description="a category of moderation"),
]
ProfileName = Annotated[
    str,
    Meta(pattern=r"^(?!default$)[A-Za-z0-9._@-]{1,64}$", description='a name, not "default"'),
]
Share = Annotated[float, Meta(gt=0, le=1, description="a number over 0, at most 1")]
Milliseconds = Annotated[int, Meta(ge=1, le=60_000, description="an integer from 1 to 60000")]
BudgetName = Annotated[str, string("a name in budgets", str, section="budgets")]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every part of the configuration has in common.

    `later` names the keys that are planned but not built: refused, because to ignore a limit or a
    guard that the operator wrote down would be worse than not to start.
    """

    later: ClassVar[tuple[str, ...]] = ()


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
    secret: UpstreamKey | None = None


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


class PriceTier(Section, frozen=True, kw_only=True):
    """What a request costs whose input is over so many tokens."""

    over_input_tokens: Positive
    input_per_million_usd: Usd
    output_per_million_usd: Usd
    cached_input_per_million_usd: Usd | None = None
    cache_write_per_million_usd: Usd | None = None
    reasoning_per_million_usd: Usd | None = None


class ModelPrice(Section, frozen=True, kw_only=True):
    """What a model costs; a rate that is not given is the one of input or output."""

    input_per_million_usd: Usd
    output_per_million_usd: Usd
    cached_input_per_million_usd: Usd | None = None
    cache_write_per_million_usd: Usd | None = None
    reasoning_per_million_usd: Usd | None = None
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
    guards: Name = "default"
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


class Budget(Section, frozen=True, kw_only=True):
    """What may be spent in a window; `default` is for keys that name none, `global` for all."""

    usd: Usd
    window: WindowName
    soft_usd: Usd | None = None
    time_zone: TimeZone = "UTC"


# One, or a list of which each must hold.
Budgets = Annotated[
    tuple[Budget, ...],
    Meta(
        min_length=1,
        description="a budget, or a list of at least one",
        extra={"or_one": True},
        extra_json_schema={"type": ["array", "object"]},
    ),
]


class Words(Section, frozen=True, kw_only=True):
    """Phrases and patterns that belong together; files hold a phrase in each line."""

    phrases: tuple[Phrase, ...] = ()
    patterns: tuple[PatternText, ...] = ()
    files: tuple[WordFile, ...] = ()


class Keywords(Section, frozen=True, kw_only=True):
    """Phrases and patterns that may neither be sent to a model nor come back from it."""

    input: Mode = "block"
    output: Mode = "off"
    phrases: tuple[Phrase, ...] = ()
    patterns: tuple[PatternText, ...] = ()
    files: tuple[WordFile, ...] = ()
    groups: dict[Name, Words] = {}
    allow: tuple[Phrase, ...] = ()
    sources: tuple[Source, ...] = SOURCES
    on_error: OnError = "block"


class Moderation(Section, frozen=True, kw_only=True):
    """What a classifier says of a text; which one is its back end."""

    input: Verdicts = "off"
    output: Verdicts = "off"
    backend: Literal["builtin", "endpoint", "model"] = "builtin"
    provider: ProviderName | None = None
    model: Text | None = None
    thresholds: dict[CategoryName, Share] = {}
    deadline_ms: Milliseconds = 2000
    on_error: OnError = "block"


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
