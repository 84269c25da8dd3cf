"""The kinds of values in a configuration: what each may be, and how a fault says so."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from functools import partial
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from anos.config_reader import string
from guards.budgets import Window, micro_usd
from guards.categories import CATEGORIES


def moment_ms(text: str, zone: tzinfo = UTC) -> int:
    """Unix milliseconds of an ISO 8601 date or time; without an offset it is one of `zone`.

    Raises ValueError and OverflowError.
    """
    moment = datetime.fromisoformat(text)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp() * 1000)


def words_of(path: str) -> list[str]:
    """The phrases in a file, one a line; blank lines and lines that begin with # are none.

    Raises OSError, and UnicodeDecodeError.
    """
    with open(path, encoding="utf-8-sig") as file:
        lines = [line.strip() for line in file]
    return [line for line in lines if line and not line.startswith("#")]


def _takes(read: Callable[..., object]) -> Callable[..., bool]:
    """Whether `read` takes a value, as a predicate."""

    def check(value: object) -> bool:
        try:
            read(value)
        except (ValueError, OverflowError, OSError):
            return False
        return True

    return check


def _matches(pattern: str) -> Callable[[str], object]:
    return re.compile(pattern).fullmatch


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


def _read_pattern(text: str) -> object:
    from guards.patterns import Patterns  # not loaded where there are none

    return Patterns([text])


def _why_no_pattern(text: str) -> str:
    try:
        _read_pattern(text)
    except ValueError as exc:
        return str(exc).rpartition(": ")[2]  # RE2's reason, which repeats nothing of the pattern
    return ""


def _is_phrase(text: str) -> bool:
    return _is_text(text) is not None and any(char.isalnum() for char in text)


_MODEL = r"(?!.*\.\.)[A-Za-z0-9._:/@-]{0,255}[A-Za-z0-9._:/@*-]"
_MODEL_WORDS = 'at most 256 letters, digits and . _ : / @ - without ".."; a * may end it'
_NAME_WORDS = "1 to 64 letters, digits and . _ @ -"
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
Phrase = Annotated[str, string("text with a letter or a digit", _is_phrase, secret=True)]
BaseUrl = Annotated[
    str, string('"stub:" or an http(s) URL without user name, query and fragment', _is_base_url)
]
Origin = Annotated[str, string('"*" or an origin like "https://app.example.com"', _is_origin)]
UpstreamKey = Annotated[str, string(_SECRET_WORDS, _is_credential, secret=True)]
# The logs' chains are only as hard to forge as this is to guess.
GatewaySecret = Annotated[
    str,
    string(
        "16 to 4096 printable ASCII characters without blanks",
        _matches(r"[!-~]{16,4096}"),
        secret=True,
    ),
]
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
        extra={"check": _takes(lambda usd: micro_usd(repr(usd)))},
    ),
]
WindowName = Annotated[
    str,
    string('"hour", "day", "week", "month", "total", or like "12h" or "30d"', _takes(Window.parse)),
]
TimeZone = Annotated[
    str,
    string(
        'a time zone this machine knows, like "Europe/Berlin"', _takes(partial(Window.parse, "day"))
    ),
]
Moment = Annotated[str, string('a time like "2030-01-31T12:00:00Z"', _takes(moment_ms))]
PatternText = Annotated[
    str,
    string("a regular expression of RE2", _takes(_read_pattern), secret=True, why=_why_no_pattern),
]
WordFile = Annotated[str, string("a file of phrases in UTF-8, one a line", _takes(words_of))]
CategoryName = Annotated[
    str,
    Meta(pattern=f"^({'|'.join(CATEGORIES)})$", description="a category of moderation"),
]
ProfileName = Annotated[
    str,
    Meta(
        pattern=r"^(?!default$)[A-Za-z0-9._@-]{1,64}$", description=f'{_NAME_WORDS}, not "default"'
    ),
]
ProfileReference = Annotated[
    str, string('"default" or a name in guards.profiles', str, section="guards.profiles")
]
Share = Annotated[float, Meta(gt=0, le=1, description="a number over 0, at most 1")]
Milliseconds = Annotated[int, Meta(ge=1, le=60_000, description="an integer from 1 to 60000")]
BudgetName = Annotated[str, string("a name in budgets", str, section="budgets")]
