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
    BODY_DIGESTS,
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

_FIRST = {"exchanges": "first_exchange", "changes": "first_change"}
_LAST = {"exchanges": "last_exchange", "changes": "last_change"}
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
        page = conn.execute(
            sql.text[f"{verifier.log}_after"], {"seq": verifier.seq, "limit": limit}
        )
        if verifier.log == "exchanges":
            rows, bodies = _with_bodies(page, conn)
        else:
            rows, bodies = page.fetchall(), {}
        is_at_end = page.fetchone() is None and len(rows) < limit
        page.close()  # what is left of it would keep the log from starting over
        first = conn.execute(sql.text[_FIRST[verifier.log]]).fetchone()[0]
        signed = checkpoints(verifier.log, sql, conn)
    verifier.feed(first, rows, signed, bodies)
    return not is_at_end and verifier.broken is None


def checkpoints(log: Log, sql: Statements, conn: sqlite3.Connection) -> list[Signed]:
    """The checkpoints of a log in order."""
    return [Signed(*row) for row in conn.execute(sql.text["checkpoints"], {"log": log})]


def head(log: Log, sql: Statements, conn: sqlite3.Connection) -> tuple[int, bytes]:
    """seq and digest of the newest row; of none, or of one without a digest, START."""
    seq, digest = conn.execute(sql.text[_LAST[log]]).fetchone() or (0, START)
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
    found = conn.execute(sql.text[f"export_{cursor.log}"], {**cursor.values, "limit": limit})
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
    return conn.execute(sql.text[f"{log}_after"], {"seq": seq, "limit": limit}).fetchall()


def _with_bodies(
    page: sqlite3.Cursor, conn: sqlite3.Connection
) -> tuple[list[tuple[Any, ...]], dict[int, Bodies]]:
    """The first exchanges of a page and what is kept with them, as far as one step goes."""
    rows: list[tuple[Any, ...]] = []
    bodies: dict[int, Bodies] = {}
    room = VERIFY_BODY_BYTES
    for row in page:
        rows.append(row)
        request, response = row[BODY_DIGESTS]
        if request is None and response is None:
            continue
        sent, sent_bytes = (None, 0) if request is None else _body("request", row[0], conn)
        said, said_bytes = (None, 0) if response is None else _body("response", row[0], conn)
        bodies[row[0]] = sent, said
        room -= sent_bytes + said_bytes
        if room <= 0:
            break
    return rows, bodies


def _body(column: str, seq: int, conn: sqlite3.Connection) -> tuple[str | None, int]:
    """SHA-256 and size of a body, read in parts; None if it is not there."""
    try:
        blob = conn.blobopen("bodies", column, seq, readonly=True)
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode != sqlite3.SQLITE_ERROR:  # that says: no such row, or NULL
            raise
        return None, 0
    digest = sha256()
    with blob:
        while part := blob.read(_PART_BYTES):
            digest.update(part)
        return digest.hexdigest(), len(blob)


def _put(log: Log, unsigned: Signed, sql: Statements, conn: sqlite3.Connection) -> None:
    """Store a checkpoint, signed; what another secret keys can only be marked as that."""
    seq, at_ms, digest, secret = unsigned.seq, unsigned.at_ms, unsigned.digest, unsigned.secret
    ours = secret == fingerprint(sql.secret)
    signature = sign(sql.secret, log, seq, at_ms, digest) if ours else b""
    values = {"log": log, "seq": seq, "at_ms": at_ms, "digest": digest, "secret": secret}
    conn.execute(sql.text["put_checkpoint"], {**values, "signature": signature})
