"""Reads of the store: functions that run on a read connection's thread, each one transaction."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

from anos.schema import (
    History,
    KeyRecord,
    NotFoundInStore,
    Page,
    ParentBroken,
    Recent,
    Stored,
    UnknownItem,
)
from anos.statements import Statements


@contextmanager
def transaction(conn: sqlite3.Connection, kind: Literal["DEFERRED", "IMMEDIATE"]) -> Iterator[None]:
    conn.execute(f"BEGIN {kind}")
    try:
        yield
        conn.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back by itself after some errors (disk full).
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise


class _Row(NamedTuple):
    seq: int
    parent_id: str | None
    input_place: int
    output_place: int
    end_place: int
    status: str
    background: int
    deleted: int
    model: str
    created_ms: int
    completed_ms: int | None
    body: bytes
    cleared: str | None


def find(conn: sqlite3.Connection, sql: Statements, project: str, response_id: str) -> _Row:
    found = conn.execute(sql.text["response"], {"id": response_id, "project": project}).fetchone()
    row = _Row._make(found) if found else None
    if row is None or row.deleted:
        raise NotFoundInStore(f"no response {response_id} in {project}")
    return row


def response(
    sql: Statements, project: str, response_id: str, conn: sqlite3.Connection
) -> Stored | None:
    with transaction(conn, "DEFERRED"):
        try:
            row = find(conn, sql, project, response_id)
        except NotFoundInStore:
            return None
        output = _bodies(conn, sql, row.output_place, row.end_place)
    return Stored(
        response_id,
        row.parent_id,
        row.model,
        row.status,
        bool(row.background),
        row.created_ms,
        row.completed_ms,
        row.body,
        output,
    )


def history(sql: Statements, project: str, response_id: str, conn: sqlite3.Connection) -> History:
    with transaction(conn, "DEFERRED"):
        row = find(conn, sql, project, response_id)
        ranges = conn.execute(sql.text["chain"], {"place": row.end_place}).fetchall()
        if any(broken for _, _, broken in ranges):
            raise ParentBroken(f"a response before {response_id} was deleted")
        items: list[bytes] = []
        for low, high, _ in reversed(ranges):
            items += _bodies(conn, sql, low, high)
    said = row.end_place - row.output_place
    return History(row.status, bool(row.background), items, said, row.cleared)


def _bodies(conn: sqlite3.Connection, sql: Statements, low: int, high: int) -> list[bytes]:
    rows = conn.execute(sql.text["items_ascending"], {"low": low, "high": high, "limit": -1})
    return [body for _, body in rows.fetchall()]


def input_items(
    sql: Statements,
    project: str,
    response_id: str,
    limit: int,
    order: str,
    after: str | None,
    conn: sqlite3.Connection,
) -> Page:
    with transaction(conn, "DEFERRED"):
        row = find(conn, sql, project, response_id)
        ranges = conn.execute(sql.text["chain"], {"place": row.output_place}).fetchall()
        runs = [(low, high) for low, high, _ in ranges]
        if any(broken for _, _, broken in ranges):
            runs = [(row.input_place, row.output_place)]
        if order == "asc":
            runs.reverse()
        if after is not None:
            places = conn.execute(
                sql.text["places_of_item"], {"project": project, "id": after}
            ).fetchall()
            runs = _rest(runs, {place for (place,) in places}, order)
        statement = sql.text["items_ascending" if order == "asc" else "items_descending"]
        items: list[tuple[str, bytes]] = []
        for low, high in runs:
            items += conn.execute(
                statement, {"low": low, "high": high, "limit": limit + 1 - len(items)}
            ).fetchall()
            if len(items) > limit:
                break
    return Page(items[:limit], has_more=len(items) > limit)


def _rest(runs: list[tuple[int, int]], places: set[int], order: str) -> list[tuple[int, int]]:
    """What comes after an item.

    After its last occurrence if its id comes twice, or a client that pages would go in circles.
    """
    for index in reversed(range(len(runs))):
        low, high = runs[index]
        found = [place for place in places if low <= place < high]
        if found:
            rest = (max(found) + 1, high) if order == "asc" else (low, min(found))
            return [rest, *runs[index + 1 :]]
    raise UnknownItem("after names no item of this list")


def item(sql: Statements, project: str, item_id: str, conn: sqlite3.Connection) -> bytes | None:
    row = conn.execute(sql.text["newest_item"], {"project": project, "id": item_id}).fetchone()
    return row[0] if row else None


def keys(sql: Statements, conn: sqlite3.Connection) -> list[KeyRecord]:
    rows = conn.execute(sql.text["keys"]).fetchall()
    return [
        KeyRecord(
            name=name,
            digest=digest,
            old_digest=old_digest,
            old_until_ms=old_until_ms,
            deleted=bool(deleted),
            settings=settings,
        )
        for name, digest, old_digest, old_until_ms, deleted, settings in rows
    ]


def spent(
    sql: Statements, scopes: list[tuple[str, str, int]], conn: sqlite3.Connection
) -> list[int]:
    with transaction(conn, "DEFERRED"):
        return sums(sql, scopes, conn)


def sums(
    sql: Statements, scopes: list[tuple[str, str, int]], conn: sqlite3.Connection
) -> list[int]:
    """What `spent` returns, within a transaction."""
    return [
        conn.execute(sql.text[f"spent_by_{kind}"], {"name": name, "start_ms": start_ms}).fetchone()[
            0
        ]
        for kind, name, start_ms in scopes
    ]


def recent(sql: Statements, since_ms: int, conn: sqlite3.Connection) -> list[Recent]:
    found: list[Recent] = []
    for *row, is_lost in conn.execute(sql.text["recent_exchanges"]):
        if row[4] >= since_ms:
            found.append(tuple(row))
        elif not is_lost:  # those have no end, and were all written at the last start
            break
    return found
