"""What operators write in query strings: times, limits, places in a list; and how we answer both.

Every refusal is an InvalidRequest that names the parameter.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, Literal, get_args

from anos import config_values
from anos.errors import InvalidRequest
from guards.budgets import Window

Column = Literal["key", "project", "model"]
# What spend is grouped by: these, and one of the steps of time.
COLUMNS: tuple[Column, ...] = get_args(Column)
STEPS = ("hour", "day", "month")
# Of a stored response.
STATUSES = ("queued", "in_progress", "completed", "incomplete", "failed", "cancelled")

EVER_MS = (0, 1 << 53)
# Five digits of years would not be ISO 8601 any more.
_LAST_MS = 253_402_300_800_000


def once(query: Mapping[str, Any], repeatable: Collection[str] = ()) -> None:
    """Refuse a parameter that comes twice: one of the two would be ignored."""
    seen = set()
    for name, _ in query.items():  # its keys alone would be each name once
        if name in seen and name not in repeatable:
            raise InvalidRequest(f"'{name[:64]}' is given twice.", param=name[:64])
        seen.add(name)


def known(
    query: Mapping[str, Any], names: Collection[str], repeatable: Collection[str] = ()
) -> None:
    """Refuse a parameter, or a field, that would be ignored; names `repeatable` may come twice."""
    once(query, repeatable)
    for name in query:
        if name not in names:
            words = f"known are {', '.join(names)}" if names else "none is known here"
            raise InvalidRequest(
                f"Unknown parameter '{name[:64]}'; {words}.",
                param=name[:64],
                code="unknown_parameter",
            )


def moment_ms(name: str, text: str, zone: tzinfo = UTC) -> int:
    """Unix milliseconds of an ISO 8601 date or time; without an offset it is one of `zone`."""
    try:
        at_ms = config_values.moment_ms(text, zone)
    except (ValueError, OverflowError):
        at_ms = -1
    if not 0 <= at_ms < _LAST_MS:
        raise InvalidRequest(
            f"Invalid value for '{name}': expected a time like 2026-01-31T12:00:00Z, or a date.",
            param=name,
        )
    return at_ms


def span_ms(
    query: Mapping[str, str], default: tuple[int, int] = EVER_MS, zone: tzinfo = UTC
) -> tuple[int, int]:
    """`since` and `until`, in Unix milliseconds; the first inclusive, the second not."""
    since, until = query.get("since"), query.get("until")
    low = default[0] if since is None else moment_ms("since", since, zone)
    high = default[1] if until is None else moment_ms("until", until, zone)
    if low > high:
        raise InvalidRequest(
            f"'since', {iso(low)}, is after 'until', {iso(high)}.",
            param="until" if since is None else "since",
        )
    return low, high


def one_of(query: Mapping[str, str], name: str, allowed: Sequence[str]) -> str | None:
    """The parameter `name`, which is one of a few words; None if it is not there."""
    value = query.get(name)
    if value is not None and value not in allowed:
        raise InvalidRequest(
            f"Invalid value for '{name}': expected one of {', '.join(allowed)}.", param=name
        )
    return value


def zone_of(query: Mapping[str, str]) -> str:
    """The name in `time_zone`; UTC if there is none."""
    name = query.get("time_zone", "UTC")
    try:
        Window.parse("day", name)
    except ValueError:
        raise InvalidRequest(
            "Invalid value for 'time_zone': expected a name like Europe/Berlin.", param="time_zone"
        ) from None
    return name


def limit_of(query: Mapping[str, str], default: int, most: int) -> int:
    """How many rows a page has, `limit`."""
    text = query.get("limit", str(default))
    number = integer_of(text)
    if number is None or not 1 <= number <= most:
        raise InvalidRequest(
            f"Invalid value for 'limit': expected an integer from 1 to {most}.", param="limit"
        )
    return number


def integer_of(text: str) -> int | None:
    """Of at most nine digits, and nothing else; None: it is not."""
    is_short = text.isascii() and text.isdigit() and len(text) < 10
    return int(text) if is_short else None


def place_of(query: Mapping[str, str], numbers: int) -> tuple[int, ...] | None:
    """The numbers of `after`, the `next` of the page before; None if there is none."""
    text = query.get("after")
    if text is None:
        return None
    parts = text.split("-")
    is_place = all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts)
    if len(parts) != numbers or not is_place:
        raise InvalidRequest(
            "Invalid value for 'after': expected the 'next' of the page before.", param="after"
        )
    return tuple(map(int, parts))


def place_text(place: tuple[int, ...] | None) -> str | None:
    """A place in a list as `next` shows it."""
    return None if place is None else "-".join(map(str, place))


def listed(data: list[dict[str, Any]], following: str | None = None) -> dict[str, Any]:
    """A list as we answer it; `following` is where the next page begins, None: there is no more."""
    return {"object": "list", "data": data, "has_more": following is not None, "next": following}


def project_of(query: Mapping[str, str]) -> str | None:
    """The owner that `project` means: a project by its name, a key that has none by key:<name>."""
    name = query.get("project")
    return name if name is None or ":" in name else f"project:{name}"


def status_of(query: Mapping[str, str]) -> tuple[int, int]:
    """The lowest and the highest status that `status` means: "429", or "4xx"."""
    text = query.get("status")
    if text is None:
        return 0, 999
    if len(text) == 3 and text.isascii() and text.isdigit():
        return int(text), int(text)
    if len(text) == 3 and text[0] in "12345" and text[1:] == "xx":
        return int(text[0]) * 100, int(text[0]) * 100 + 99
    raise InvalidRequest(
        "Invalid value for 'status': expected a status like 429, or a class like 4xx.",
        param="status",
    )


def iso(at_ms: int | None) -> str | None:
    """A Unix time as ISO 8601 in UTC, with milliseconds where there are any."""
    if at_ms is None:
        return None
    moment = datetime.fromtimestamp(at_ms / 1000, UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="milliseconds" if at_ms % 1000 else "seconds") + "Z"


def usd(micro: int | None) -> float | None:
    """Micro-dollars in dollars."""
    return None if micro is None else micro / 1e6
