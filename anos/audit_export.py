"""A log's rows as JSON lines or CSV; pure: rows in, bytes out."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson

from anos.admin_params import iso, usd

# The formats, each with its media type.
FORMATS = {"jsonl": "application/jsonl", "csv": "text/csv"}

# A spreadsheet takes text that begins so for a formula.
_FORMULA = tuple("=+-@\t\r\n\0\uff1d\uff0b\uff0d\uff20")  # the last four: full width
# Columns that are shown in another unit: by which name, and how.
_SHOWN: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "started_ms": ("started_at", iso),
    "charged_ms": ("charged_at", iso),
    "at_ms": ("at", iso),
    "cost": ("cost_usd", usd),
    "reserved": ("reserved_usd", usd),
    "digest": ("digest", bytes.hex),
}
# Columns that hold JSON.
_JSON = ("failures", "guards", "before", "after")


def encode(
    form: str, names: Sequence[str], rows: Iterable[Sequence[Any]], *, heading: bool = False
) -> bytes:
    """Rows of the columns `names` in one of FORMATS; CSV may begin with a line of names.

    Times are ISO 8601, money is in dollars, digests are hexadecimal.
    """
    titles = [_SHOWN[name][0] if name in _SHOWN else name for name in names]
    changes = [(place, _SHOWN[name][1]) for place, name in enumerate(names) if name in _SHOWN]
    values = []
    for row in map(list, rows):
        for place, show in changes:
            if row[place] is not None:
                row[place] = show(row[place])
        values.append(row)
    if form == "csv":
        return _csv([titles, *values] if heading else values)
    nested = [place for place, name in enumerate(names) if name in _JSON]
    return b"".join(_json_line(titles, row, nested) for row in values)


def _json_line(titles: list[str], row: list[Any], nested: list[int]) -> bytes:
    for place in nested:
        if row[place] is not None:
            row[place] = orjson.Fragment(row[place])
    return orjson.dumps(dict(zip(titles, row, strict=True)), option=orjson.OPT_APPEND_NEWLINE)


def _csv(rows: Iterable[list[Any]]) -> bytes:
    """RFC 4180."""
    text = io.StringIO()
    csv.writer(text).writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return f"{value:.6f}" if isinstance(value, float) else value
