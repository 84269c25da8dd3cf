"""What operators ask of the ledger: reads of the store, each bounded by the rows it looks at.

Whoever looks for something rare looks through many rows; a read goes through at most so many and
says where the next has to go on.
"""

import sqlite3
from time import perf_counter
from typing import Any

import msgspec
from msgspec import Struct

from anos.admin_params import COLUMNS
from anos.statements import Statements
from anos.store_reads import transaction

# A read of so many rows takes 5 to 15 ms.
SCAN_ROWS = 4000
# Responses are wide: their rows are as long as their bodies.
SCAN_RESPONSES = 1000
# All of these are handed out.
SCAN_CHARGED = 500
_MOST_OF_ONE_ID = 20
_ALWAYS = 1 << 62

# Started in Unix milliseconds, seq: where a list goes on, newest first.
Place = tuple[int, int]
NEWEST: Place = (_ALWAYS, _ALWAYS)
Rows = list[dict[str, Any]]

SUMS = (
    "requests",
    "failed",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost",
)


class Which(Struct, frozen=True, kw_only=True):
    """Which exchanges are meant; None is any, the status is one from low to high."""

    key: str | None = None
    project: str | None = None
    model: str | None = None
    route: str | None = None
    status_low: int = 0
    status_high: int = 999


class Sums(Struct, frozen=True):
    """Sums of spend: each row is (key, project, model, *SUMS); and how long that took."""

    rows: list[tuple[Any, ...]]
    took_s: float


def spend_sums(
    low_ms: int,
    high_ms: int,
    by: frozenset[str],
    which: Which,
    sql: Statements,
    conn: sqlite3.Connection,
) -> Sums:
    """The sums of the quarters from `low_ms` up to before `high_ms`, grouped by the columns `by`.

    A column that is not in `by` is "" in every row.
    """
    begun = perf_counter()
    values = {
        "low_ms": low_ms,
        "high_ms": high_ms,
        "key": which.key,
        "project": which.project,
        "model": which.model,
    }
    values |= {f"by_{name}": name in by for name in COLUMNS}
    rows = conn.execute(sql.text["spend_sums" if by else "spend_total"], values).fetchall()
    # Without groups there is a row of NULLs where nothing is summed.
    return Sums([row for row in rows if row[len(COLUMNS)] is not None], perf_counter() - begun)


def ends_of_spend(sql: Statements, conn: sqlite3.Connection) -> tuple[int, int] | None:
    """When the first and the last quarter that have sums began; None if there is none."""
    first, last = conn.execute(sql.text["ends_of_spend"]).fetchone()
    return None if first is None else (first, last)


def requests(
    which: Which, since_ms: int, after: Place, limit: int, sql: Statements, conn: sqlite3.Connection
) -> tuple[Rows, Place | None]:
    """Exchanges that started before `after`, newest first; and where the next read goes on.

    At most `limit`, of the next SCAN_ROWS there are; None: there are no more.
    """
    at = {"at_ms": after[0], "at_seq": after[1]}
    with transaction(conn, "DEFERRED"):
        end: Place | None = conn.execute(
            sql.text["requests_end"], {**at, "since_ms": since_ms, "rows": SCAN_ROWS}
        ).fetchone()
        end_ms, end_seq = end or (since_ms, 0)
        rows = _dicts(
            conn,
            sql.text["requests"],
            {
                **at,
                **msgspec.structs.asdict(which),
                "end_ms": end_ms,
                "end_seq": end_seq,
                "limit": limit,
            },
        )
    return rows, place_of(rows[-1]) if len(rows) == limit else end


def requests_of_response(
    response_id: str,
    which: Which,
    span: tuple[int, int],
    after_seq: int,
    limit: int,
    sql: Statements,
    conn: sqlite3.Connection,
) -> Rows:
    """Exchanges that made or named a response, newest first, started within `span`."""
    values = {
        "response_id": response_id,
        "at_seq": after_seq,
        "since_ms": span[0],
        "until_ms": span[1],
        "limit": limit,
    }
    values |= msgspec.structs.asdict(which)
    return _dicts(conn, sql.text["requests_of_response"], values)


def place_of(row: dict[str, Any]) -> Place:
    """The place of a row of `requests`."""
    return row["started_ms"], row["seq"]


class Told(Struct, frozen=True):
    """One exchange, the rows that correct its cost, and others its client gave the same id."""

    row: dict[str, Any]
    corrections: Rows
    others: list[int]


def request(name: str, sql: Statements, conn: sqlite3.Connection) -> Told | None:
    """The exchange of a seq, if this is a number of less than 19 digits; else of a request id.

    Clients choose their ids: no id stands in the way of a seq. The newest of an id.
    """
    is_seq = name.isascii() and name.isdigit() and len(name) < len(str(_ALWAYS))
    with transaction(conn, "DEFERRED"):
        seqs = [int(name)] if is_seq else _seqs_of(name, _MOST_OF_ONE_ID, sql, conn)
        rows = _dicts(conn, sql.text["request"], {"seq": seqs[0]}) if seqs else []
        if not rows:
            return None
        corrections = _dicts(conn, sql.text["corrections"], {"seq": seqs[0]})
    return Told(rows[0], corrections, seqs[1:])


def requests_of_id(request_id: str, limit: int, sql: Statements, conn: sqlite3.Connection) -> Rows:
    """The newest exchanges whose clients sent this id, or that were given it; in full."""
    with transaction(conn, "DEFERRED"):
        return [
            row
            for seq in _seqs_of(request_id, limit, sql, conn)
            for row in _dicts(conn, sql.text["request"], {"seq": seq})
        ]


def _seqs_of(request_id: str, limit: int, sql: Statements, conn: sqlite3.Connection) -> list[int]:
    values = {"request_id": request_id, "limit": limit}
    return [seq for (seq,) in conn.execute(sql.text["seqs_of_request"], values)]


class Stored(Struct, frozen=True, kw_only=True):
    """Which stored responses are meant; None is any."""

    project: str | None = None
    model: str | None = None
    status: str | None = None
    since_ms: int = 0


def responses(
    which: Stored, after_seq: int, limit: int, sql: Statements, conn: sqlite3.Connection
) -> tuple[Rows, int | None]:
    """What is known of stored responses, newest first; and the seq the next read goes on before.

    At most `limit`, of the next SCAN_RESPONSES there are; None: there are no more.
    """
    with transaction(conn, "DEFERRED"):
        first, last = conn.execute(sql.text["ends_of_responses"]).fetchone()
        at_seq = min(after_seq, last + 1)
        end_seq = at_seq - SCAN_RESPONSES
        values = {"at_seq": at_seq, "end_seq": end_seq, "limit": limit}
        rows = _dicts(conn, sql.text["stored_responses"], values | msgspec.structs.asdict(which))
        if len(rows) == limit:
            return rows, rows[-1]["seq"]
        if end_seq <= first:
            return rows, None
        (written_ms,) = conn.execute(sql.text["response_written"], {"seq": end_seq}).fetchone()
    return rows, None if written_ms < which.since_ms else end_seq


def charged(
    model: str | None, until_ms: int, after: Place, sql: Statements, conn: sqlite3.Connection
) -> tuple[Rows, Place | None]:
    """Exchanges with tokens after a place, oldest first, started before `until_ms`.

    `charged` is what each cost so far, corrections included. Second: where the next read goes on,
    None if there is no more.
    """
    at = {"at_ms": after[0], "at_seq": after[1]}
    with transaction(conn, "DEFERRED"):
        end: Place | None = conn.execute(
            sql.text["charged_end"], {**at, "until_ms": until_ms, "rows": SCAN_CHARGED}
        ).fetchone()
        end_ms, end_seq = end or (until_ms - 1, _ALWAYS)
        values = {**at, "model": model, "end_ms": end_ms, "end_seq": end_seq}
        return _dicts(conn, sql.text["charged"], values), end


def _dicts(conn: sqlite3.Connection, text: str, values: dict[str, Any]) -> Rows:
    cursor = conn.execute(text, values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]
