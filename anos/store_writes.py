"""Writes of the store: functions that run on the writer's thread, each one transaction."""

import hashlib
import sqlite3
from typing import Any, Literal, NamedTuple

from anos import store_audit
from anos.schema import (
    IN_FLIGHT,
    Begin,
    ChargeLost,
    Checkpoint,
    Delete,
    FailUnfinished,
    Finish,
    InFlight,
    Job,
    LogChange,
    NotFoundInStore,
    Prune,
    PruneBodies,
    PutKey,
    Reserve,
    ResponseRecord,
    Retire,
    Save,
    Shrink,
    Spent,
    Step,
    StoreError,
    StoreFailed,
)
from anos.statements import Ends, Statements
from anos.store_ledger import PAGE_BYTES, LedgerRows, insert_rows
from anos.store_reads import find, sums, transaction

# 16 million items in a segment; a longer conversation opens another. store.sql has the same 24.
SEGMENT_BITS = 24
# An item over this is kept once per project: images and files come again with every turn.
BLOB_BYTES = 16 * 1024
# One step of expiry takes about as long as a group.
RETIRE_ROWS = 500
# What one step of upkeep writes to the log, about.
STEP_PAGES = 256

# Faults of one job's values. Anything else SQLite raises is a fault of the file, and the group's.
_OWN_FAULTS = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
)

# For every value that is not exactly int, float, str or bytearray sqlite3 looks for an adapter, and
# finding none costs 0.7 us (an AttributeError is made and thrown away). These hand the value back:
# it saves a fifth of a job.
sqlite3.register_adapter(bytes, bytes)
sqlite3.register_adapter(bool, int)
sqlite3.register_adapter(type(None), {None: None}.get)


class _Parent(NamedTuple):
    project: str
    root: int
    end_place: int
    status: str


class _Batch:
    """The rows of one group, gathered in Python and inserted with one statement per table."""

    def __init__(self, conn: sqlite3.Connection, sql: Statements) -> None:
        self.conn = conn
        self.sql = sql
        self.responses: list[tuple[Any, ...]] = []
        self.items: list[tuple[Any, ...]] = []
        self.blobs: list[tuple[str, bytes, bytes]] = []
        self.ledger = LedgerRows(conn, sql)
        # What the tables do not show until the rows are inserted.
        self.parents: dict[str, _Parent] = {}
        self.free_places: dict[int, int] = {}
        self.seq = sql.ends.response
        self.pages = 0

    def query(self, name: str, **values: Any) -> sqlite3.Cursor:
        return self.conn.execute(self.sql.text[name], values)

    def apply(self, job: Job) -> Any:
        """The job's result. Raises its StoreError, having changed nothing that must not stay."""
        match job:
            case Save(exchange, response):
                self.pages += self.ledger.add(exchange)
                if response is not None:
                    self.place(response)
                return None
            case Reserve(reservation):
                self.pages += 1
                return self.ledger.reserve(reservation)
            case Begin(response, reservation):
                self.ledger.reserve(reservation)
                return self.place(response)
        self.insert()
        match job:
            case Finish():
                return self.finish(job)
            case Delete():
                return self.delete(job)
            case FailUnfinished():
                return self.fail_unfinished(job)
            case ChargeLost():
                return self.ledger.charge_lost()
            case Spent(scopes):
                return sums(self.sql, scopes, self.conn)
            case Retire():
                return self.retire(job)
            case PutKey(key, change):
                self.ledger.put_key(key)
                return self.ledger.log(change)
            case LogChange(change):
                return self.ledger.log(change)
            case Checkpoint():
                return store_audit.checkpoint(job, self.sql, self.conn)
            case Prune():
                return self.counted(store_audit.prune(job, self.ledger.log, self.sql, self.conn))
            case PruneBodies():
                return self.counted(store_audit.prune_bodies(job, self.sql, self.conn))
            case Shrink():
                return self.counted(store_audit.shrink(self.conn))

    def counted(self, step: Step) -> Step:
        self.pages += STEP_PAGES if step.removed else 0
        return step

    def insert(self) -> None:
        """Write what was gathered."""
        insert_rows(self.conn, self.sql.responses, self.responses)
        insert_rows(self.conn, self.sql.items, self.items)
        if self.blobs:
            self.conn.executemany(self.sql.blobs.text(1), self.blobs)
            self.blobs.clear()
        self.ledger.insert()

    def place(self, record: ResponseRecord) -> None:
        if self.seq is None:
            self.seq = self.query("last_seq").fetchone()[0]
        self.seq = seq = self.seq + 1
        start, root, branch = seq << SEGMENT_BITS, None, None
        length = len(record.input) + len(record.output)
        if record.parent_id is not None:
            parent, free_place = self.parent(record.project, record.parent_id)
            # If the parent expired meanwhile, this can be read but not chained from: see "chain".
            if parent is not None:
                root, branch = parent.root, parent.end_place
                # Without items it would share its place with the next sibling, and what an
                # unfinished parent will put out comes where its end is.
                fits = (branch + length) >> SEGMENT_BITS == branch >> SEGMENT_BITS
                if length and free_place == branch and fits and parent.status not in IN_FLIGHT:
                    start, branch = branch, None
        self.pages += len(record.body) // PAGE_BYTES
        output_place = self.add_items(record.project, seq, start, record.input)
        end_place = self.add_items(record.project, seq, output_place, record.output)
        self.parents[record.id] = _Parent(record.project, root or seq, end_place, record.status)
        self.responses.append(
            (seq, record.id, record.project, record.parent_id, root, branch,
             start, output_place, end_place, record.status, record.background, 0,
             record.model, record.created_ms, record.completed_ms, record.body, record.cleared)
        )  # fmt: skip

    def parent(self, project: str, parent_id: str) -> tuple[_Parent | None, int]:
        """The project's response of that id or None, and the first free place of its segment."""
        parent, free_place = self.parents.get(parent_id), None
        if parent is None:
            row = self.query("parent", id=parent_id, project=project).fetchone()
            if row is None:
                return None, 0
            root, end_place, status, free_place = row
            parent = _Parent(project, root, end_place, status)
        elif parent.project != project:
            return None, 0
        segment = parent.end_place >> SEGMENT_BITS
        return parent, self.free_places.get(segment, free_place or segment << SEGMENT_BITS)

    def add_items(self, project: str, seq: int, place: int, items: list[tuple[str, bytes]]) -> int:
        """The place after the last item."""
        total_bytes = 0
        for item_id, body in items:
            body_bytes = len(body)
            total_bytes += body_bytes
            if body_bytes > BLOB_BYTES:
                digest = hashlib.sha256(body).digest()
                self.blobs.append((project, digest, body))
                self.items.append((place, item_id, project, seq, None, digest))
            else:
                self.items.append((place, item_id, project, seq, body, None))
            place += 1
        if items:
            self.free_places[(place - 1) >> SEGMENT_BITS] = place
        self.pages += 1 + total_bytes // PAGE_BYTES
        return place

    def finish(self, job: Finish) -> None:
        self.pages += self.ledger.add(job.exchange)
        ended = job.response
        row = find(self.conn, self.sql, ended.project, ended.id)
        if row.status not in IN_FLIGHT:
            raise NotFoundInStore(f"{ended.id} has already ended")
        end_place = self.add_items(ended.project, row.seq, row.output_place, ended.output)
        self.parents.pop(ended.id, None)
        self.query(
            "finish_response",
            seq=row.seq,
            end_place=end_place,
            status=ended.status,
            completed_ms=ended.completed_ms,
            body=ended.body,
        )

    def delete(self, job: Delete) -> None:
        row = find(self.conn, self.sql, job.project, job.id)
        if row.status in IN_FLIGHT:
            raise InFlight(f"{job.id} is {row.status}")
        self.change_items("empty_items", row.input_place, row.end_place)
        self.query("bury_response", seq=row.seq)

    def change_items(
        self, statement: Literal["empty_items", "remove_items"], low: int, high: int
    ) -> None:
        blobs = self.query("blobs_of_items", low=low, high=high).fetchall()
        self.query(statement, low=low, high=high)
        for project, blob in blobs:
            self.query("drop_unused_blob", project=project, blob=blob)

    def fail_unfinished(self, job: FailUnfinished) -> int:
        rows = self.query("unfinished_responses").fetchall()
        for seq, body in rows:
            self.query("fail_response", seq=seq, completed_ms=job.now_ms, body=job.rewrite(body))
        return len(rows)

    def retire(self, job: Retire) -> tuple[int, int | None]:
        """Whole trees, newest response first: what a full step leaves of one is still a tree."""
        rows = self.query("oldest_responses", seq=job.seq, limit=RETIRE_ROWS).fetchall()
        removed = 0
        for seq, root, created_ms, low, high in rows:
            if root is not None or created_ms >= job.before_ms:
                continue
            if self.query("turn_since", root=seq, created_ms=job.before_ms).fetchone():
                continue
            room = RETIRE_ROWS - removed
            tree = [*self.query("newest_of_tree", root=seq, limit=room), (seq, low, high)]
            for place in tree[:room]:
                self.remove(*place)
                self.pages += 1
            removed += min(len(tree), room)
            if removed == RETIRE_ROWS:
                return removed, seq - 1
        # Rows lie nearly in order of time, so a step of young ones ends the search.
        more = len(rows) == RETIRE_ROWS and any(row[2] < job.before_ms for row in rows)
        return removed, rows[-1][0] if more else None

    def remove(self, seq: int, low: int, high: int) -> None:
        self.change_items("remove_items", low, high)
        self.query("remove_response", seq=seq)


# One result or StoreError a job, and how many pages of the log they take, about.
Outcomes = tuple[list[Any], int]


def _run_together(jobs: list[Job], sql: Statements, conn: sqlite3.Connection) -> Outcomes:
    """All jobs in one transaction. Raises if one cannot be stored, and then none is."""
    outcomes: list[Any] = []
    with transaction(conn, "IMMEDIATE"):
        batch = _Batch(conn, sql)
        for job in jobs:
            try:
                outcomes.append(batch.apply(job))
            except StoreError as exc:
                outcomes.append(exc)
        batch.insert()
    sql.ends = Ends(batch.seq, batch.ledger.end)
    return outcomes, batch.pages


def _run_one_by_one(jobs: list[Job], sql: Statements, conn: sqlite3.Connection) -> Outcomes:
    """The same for a group with a faulty job, which alone is left out."""
    outcomes: list[Any] = []
    pages = 0
    with transaction(conn, "IMMEDIATE"):
        for job in jobs:
            conn.execute("SAVEPOINT job")
            try:
                batch = _Batch(conn, sql)
                try:
                    outcome = batch.apply(job)
                except StoreError as exc:
                    outcome = exc
                batch.insert()
                pages += batch.pages
            except Exception as exc:  # whatever a value can raise when it is bound or stored
                if _is_fault_of_file(exc):
                    raise
                conn.execute("ROLLBACK TO job")
                outcome = StoreFailed(f"{type(job).__name__} cannot be stored: {exc}")
            conn.execute("RELEASE job")
            outcomes.append(outcome)
    return outcomes, pages


def _is_fault_of_file(exc: Exception) -> bool:
    return isinstance(exc, sqlite3.Error) and not isinstance(exc, _OWN_FAULTS)


def commit(jobs: list[Job], sql: Statements, conn: sqlite3.Connection) -> Outcomes:
    try:
        return _run_together(jobs, sql, conn)
    except Exception as exc:  # a fault of the file goes up, a job's own stays with that job
        sql.ends = Ends()
        if _is_fault_of_file(exc):
            raise
        return _run_one_by_one(jobs, sql, conn)


def probe(sql: Statements, conn: sqlite3.Connection) -> None:
    for name in ("probe_write", "probe_clear"):
        conn.execute(sql.text[name])
