"""The logs as they are checked, signed, exported and cut: functions on a connection's thread.

`Prune` and its like run on the writer's, the others on a read connection's.
"""

import sqlite3
from collections.abc import Callable
from hashlib import sha256
from itertools import takewhile
from typing import Any

import msgspec

from anos.audit import (
    LOGS,
    START,
    Bodies,
    Broken,
    Head,
    Log,
    Signed,
    Verifier,
    fingerprint,
    sign,
)
from anos.schema import ChangeRecord, Checkpoint, Prune, PruneBodies, Step
from anos.statements import Statements
from anos.store_reads import transaction

DAY_MS = 86_400_000
# One step of removal takes about as long as a group of jobs does.
PRUNE_ROWS = 250
# Pages of a body have to be read to be given back.
PRUNE_BODY_BYTES = 4 * 1024 * 1024
# What is free is used again: the file is made smaller only where a good part of it is.
FREE_PAGES = 4096
FREE_SHARE = 0.2
SHRINK_PAGES = 256

# Bodies are compared up to this in a step, and the last of it whole: 10 ms.
VERIFY_BODY_BYTES = 4 * 1024 * 1024
_PART_BYTES = 256 * 1024

_EXPORT = {"exchanges": "export_exchanges", "changes": "changes_after"}
# Where a row has its time.
_TIME = {"exchanges": 3, "changes": 1}


def walk(log: Log, noted: Head | None, sql: Statements, conn: sqlite3.Connection) -> Verifier:
    """A walk along a log that begins."""
    return Verifier(log, sql.secret, noted)


def verify_page(verifier: Verifier, limit: int, sql: Statements, conn: sqlite3.Connection) -> bool:
    """Feed the next rows of its log to a verifier; False at the end or at a fault.

    At most `limit`, and fewer where large bodies are kept with them.
    """
    with transaction(conn, "DEFERRED"):
        page = rows = _rows_after(verifier.log, verifier.seq, limit, sql, conn)
        bodies: dict[int, Bodies] = {}
        if verifier.log == "exchanges" and page:
            rows, bodies = _with_bodies(page, sql, conn)
        first = conn.execute(sql.text[f"start_of_{verifier.log}"]).fetchone()[0]
        signed = checkpoints(verifier.log, sql, conn)
    verifier.feed(first, rows, signed, bodies)
    is_at_end = len(rows) == len(page) < limit
    return not is_at_end and verifier.broken is None


def checkpoints(log: Log, sql: Statements, conn: sqlite3.Connection) -> list[Signed]:
    """The checkpoints of a log in order."""
    return [Signed(*row) for row in conn.execute(sql.text["checkpoints"], {"log": log})]


def head(log: Log, sql: Statements, conn: sqlite3.Connection) -> tuple[int, bytes]:
    """seq and digest of the newest row; of none, or of one without a digest, START."""
    seq, digest = conn.execute(sql.text[f"end_of_{log}"]).fetchone() or (0, START)
    return seq, digest or START


class Cursor:
    """Where an export of a log stands; `form` is one of audit_export.FORMATS."""

    def __init__(self, log: Log, form: str, since_ms: int, until_ms: int) -> None:
        self.log: Log = log
        self.form = form
        self.at_end = False
        self.values = {"since_ms": since_ms, "until_ms": until_ms, "at_ms": since_ms, "seq": 0}


def export_page(cursor: Cursor, limit: int, sql: Statements, conn: sqlite3.Connection) -> bytes:
    """The next `limit` rows of an export; the first page of CSV has the heading."""
    found = conn.execute(sql.text[_EXPORT[cursor.log]], {**cursor.values, "limit": limit})
    names = [column[0] for column in found.description]
    rows = found.fetchall()
    heading = cursor.form == "csv" and cursor.values["seq"] == 0
    if rows:
        cursor.values |= {"seq": rows[-1][0], "at_ms": rows[-1][_TIME[cursor.log]]}
    cursor.at_end = len(rows) < limit
    from anos import audit_export  # not loaded where nothing is exported

    return audit_export.encode(cursor.form, names, rows, heading=heading)


def newest_changes(
    before: int, subject: str | None, limit: int, sql: Statements, conn: sqlite3.Connection
) -> list[dict[str, Any]]:
    """Changes with a seq under `before`, newest first; of `subject` only, if it is given."""
    cursor = conn.execute(
        sql.text["newest_changes"], {"seq": before, "object": subject, "limit": limit}
    )
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


# On the writer's thread ---------------------------------------------------------------------------


def checkpoint(
    job: Checkpoint, sql: Statements, conn: sqlite3.Connection
) -> list[tuple[Log, int, str]]:
    """Sign the heads where that is due; what another secret had signed last."""
    ours = fingerprint(sql.secret)
    foreign: list[tuple[Log, int, str]] = []
    for log in LOGS:
        newest = max(checkpoints(log, sql, conn), key=lambda each: each.seq, default=None)
        seq, digest = head(log, sql, conn)
        if newest is not None and newest.secret == ours:
            if seq == newest.seq or job.now_ms - newest.at_ms < DAY_MS:
                continue
        elif newest is not None and seq:
            foreign.append((log, seq, newest.secret))
        _put(log, Signed(seq, job.now_ms, digest, ours, b""), sql, conn)
    return foreign


def prune(
    job: Prune,
    note: Callable[[ChangeRecord], None],
    sql: Statements,
    conn: sqlite3.Connection,
) -> Step:
    """Remove the first rows of a log as far as they are old, but never the last one.

    What goes is checked once more, and a checkpoint stands for it, whatever happens next.
    """
    rows = _rows_after(job.log, 0, PRUNE_ROWS + 1, sql, conn)
    time = _TIME[job.log]
    old = list(takewhile(lambda row: row[time] < job.before_ms, rows[:-1]))
    if not old:
        return Step(0, False)
    signed = checkpoints(job.log, sql, conn)
    verifier = Verifier(job.log, sql.secret)
    verifier.feed(rows[0][0], old, signed)
    seq, digest = old[-1][0], old[-1][-1] or START
    covering = [each for each in signed if each.seq <= seq]
    if not covering or covering[-1].seq != seq:
        secret = covering[-1].secret if covering else fingerprint(sql.secret)
        _put(job.log, Signed(seq, job.now_ms, digest, secret, b""), sql, conn)
    conn.execute(sql.text[f"cut_{job.log}"], {"seq": seq})
    conn.execute(sql.text["cut_checkpoints"], {"log": job.log, "seq": seq})
    if verifier.broken is not None:
        note(_finding(job, verifier.broken))
    return Step(len(old), len(old) == PRUNE_ROWS, verifier.broken)


def prune_bodies(job: PruneBodies, sql: Statements, conn: sqlite3.Connection) -> Step:
    """Remove the first of the bodies as far as they are old, and not too much of them."""
    removed, room, last = 0, PRUNE_BODY_BYTES, 0
    for seq, started_ms, body_bytes in conn.execute(
        sql.text["oldest_bodies"], {"limit": PRUNE_ROWS}
    ).fetchall():
        if started_ms >= job.before_ms or room <= 0:
            break
        removed, room, last = removed + 1, room - body_bytes, seq
    if removed:
        conn.execute(sql.text["cut_bodies"], {"seq": last})
    return Step(removed, removed > 0)


def shrink(conn: sqlite3.Connection) -> Step:
    """Give a few free pages back to the disk, if many are free.

    A file made before this was possible stays as large as it is.
    """
    total: int = conn.execute("PRAGMA page_count").fetchone()[0]
    free: int = conn.execute("PRAGMA freelist_count").fetchone()[0]
    if free < max(FREE_PAGES, total * FREE_SHARE) or not _can_shrink(conn):
        return Step(0, False)
    for _ in range(SHRINK_PAGES):
        # The pragma stops after each page, and sqlite3 does not go on with what returns no columns.
        conn.execute("PRAGMA incremental_vacuum")
    return Step(SHRINK_PAGES, True)


def _finding(job: Prune, broken: Broken) -> ChangeRecord:
    return ChangeRecord(
        at_ms=job.now_ms,
        actor="gateway",
        request_id="",
        action="audit.broken",
        object=job.log,
        after=msgspec.json.encode(broken).decode(),
    )


def _can_shrink(conn: sqlite3.Connection) -> bool:
    return bool(conn.execute("PRAGMA auto_vacuum").fetchone()[0] == 2)


def _rows_after(
    log: Log, seq: int, limit: int, sql: Statements, conn: sqlite3.Connection
) -> list[tuple[Any, ...]]:
    values = {"seq": seq, "limit": limit, "since_ms": None, "until_ms": None}
    return conn.execute(sql.text[f"{log}_after"], values).fetchall()


def _with_bodies(
    page: list[tuple[Any, ...]], sql: Statements, conn: sqlite3.Connection
) -> tuple[list[tuple[Any, ...]], dict[int, Bodies]]:
    """The first exchanges of a page and what is kept with them, as far as one step goes."""
    bodies: dict[int, Bodies] = {}
    room = VERIFY_BODY_BYTES
    span = {"first": page[0][0], "last": page[-1][0]}
    for seq, sent_bytes, said_bytes in conn.execute(sql.text["sizes_of_bodies"], span).fetchall():
        bodies[seq] = (
            None if sent_bytes is None else _digest("request", seq, conn),
            None if said_bytes is None else _digest("response", seq, conn),
        )
        room -= (sent_bytes or 0) + (said_bytes or 0)
        if room <= 0:
            return [row for row in page if row[0] <= seq], bodies
    return page, bodies


def _digest(column: str, seq: int, conn: sqlite3.Connection) -> str:
    """SHA-256 of a body, read in parts."""
    digest = sha256()
    with conn.blobopen("bodies", column, seq, readonly=True) as blob:
        while part := blob.read(_PART_BYTES):
            digest.update(part)
    return digest.hexdigest()


def _put(log: Log, unsigned: Signed, sql: Statements, conn: sqlite3.Connection) -> None:
    """Store a checkpoint, signed; what another secret keys can only be marked as that."""
    seq, at_ms, digest, secret = unsigned.seq, unsigned.at_ms, unsigned.digest, unsigned.secret
    ours = secret == fingerprint(sql.secret)
    signature = sign(sql.secret, log, seq, at_ms, digest) if ours else b""
    values = {"log": log, "seq": seq, "at_ms": at_ms, "digest": digest, "secret": secret}
    conn.execute(sql.text["put_checkpoint"], {**values, "signature": signature})
