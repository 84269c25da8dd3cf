"""The rows of the ledger as the writer inserts them: exchanges, reservations, spend, changes."""

import sqlite3
from itertools import chain
from typing import Any

import msgspec

from anos.audit import START, link
from anos.schema import ChangeRecord, ExchangeRecord, KeyRecord, Lost, ReservationRecord
from anos.statements import Insert, Statements

QUARTER_MS = 900_000
PAGE_BYTES = 4096  # SQLite's default


# More rows than most groups have; each number of rows is a statement of its own.
_MOST_ROWS = 32


def insert_rows(conn: sqlite3.Connection, insert: Insert, rows: list[tuple[Any, ...]]) -> None:
    """Insert `rows` and forget them."""
    for start in range(0, len(rows), _MOST_ROWS):
        part = rows[start : start + _MOST_ROWS]
        conn.execute(insert.text(len(part)), list(chain.from_iterable(part)))
    rows.clear()


class LedgerRows:
    """The ledger's rows of one group, gathered in Python; one group is one transaction."""

    def __init__(self, conn: sqlite3.Connection, sql: Statements) -> None:
        self._conn = conn
        self._sql = sql
        self.end = sql.ends.exchange
        self._exchanges: list[ExchangeRecord] = []
        self._reservations: dict[int, ReservationRecord] = {}
        self._ended: list[int] = []  # reservations of earlier groups

    def add(self, exchange: ExchangeRecord) -> int:
        """Insert this exchange with the group; its reservation ends. About how many pages."""
        self._exchanges.append(exchange)
        bodies = len(exchange.request_body or b"") + len(exchange.response_body or b"")
        return 1 + bodies // PAGE_BYTES

    def reserve(self, reservation: ReservationRecord) -> None:
        """Insert this reservation with the group, unless its exchange is in it."""
        if reservation.replaces:
            self._end(reservation.replaces)
        self._reservations[reservation.id] = reservation

    def insert(self) -> None:
        """Write what was gathered."""
        exchanges, self._exchanges = self._exchanges, []
        for exchange in exchanges:
            if exchange.reservation:
                self._end(exchange.reservation)
        if self._ended:
            # One statement for all: each gives the interpreter lock away.
            ids = msgspec.json.encode(self._ended).decode()
            self._conn.execute(self._sql.text["drop_reservations"], {"ids": ids})
            self._ended.clear()
        if exchanges:
            self._insert_exchanges(exchanges)
            self._add_spend(exchanges)
        if self._reservations:
            rows = [msgspec.structs.astuple(each)[:-1] for each in self._reservations.values()]
            insert_rows(self._conn, self._sql.reservations, rows)
            self._reservations.clear()

    def log(self, change: ChangeRecord) -> None:
        """Append to the log of changes."""
        row = self._conn.execute(self._sql.text["end_of_changes"]).fetchone()
        seq, digest = row or (0, START)
        values = msgspec.structs.astuple(change)
        digest = link(self._sql.secret, digest, (seq + 1, *values))
        self._conn.execute(
            self._sql.text["insert_change"],
            {"seq": seq + 1, **msgspec.structs.asdict(change), "digest": digest},
        )

    def put_key(self, key: KeyRecord) -> None:
        """Insert or replace a key."""
        self._conn.execute(self._sql.text["put_key"], msgspec.structs.asdict(key))

    def charge_lost(self) -> int:
        """Make an exchange of every reservation there is; how many."""
        rows = self._conn.execute(self._sql.text["reservations"]).fetchall()
        for identity, key, project, body in rows:
            lost = msgspec.json.decode(body, type=Lost)
            self.add(
                ExchangeRecord(
                    **msgspec.structs.asdict(lost),
                    duration_us=0,
                    key=key,
                    project=project,
                    status=500,
                    finish="failed",
                    error_code="gateway_restarted",
                    usage_source="crash",
                    reserved=lost.cost,
                    reservation=identity,
                )
            )
        self.insert()
        return len(rows)

    def _end(self, reservation: int) -> None:
        if self._reservations.pop(reservation, None) is None:
            self._ended.append(reservation)

    def _insert_exchanges(self, exchanges: list[ExchangeRecord]) -> None:
        if self.end is None:
            row = self._conn.execute(self._sql.text["end_of_exchanges"]).fetchone()
            seq, digest = row or (0, START)
            digest = digest or START  # the row is older than the digests
        else:
            seq, digest = self.end
        rows, bodies = [], []
        for exchange in exchanges:
            seq += 1
            values = (seq, *self._sql.exchange_row(exchange))
            digest = link(self._sql.secret, digest, values)
            rows.append((*values, digest))
            if exchange.request_body is not None or exchange.response_body is not None:
                bodies.append(
                    {
                        "seq": seq,
                        "started_ms": exchange.started_ms,
                        "request": exchange.request_body,
                        "response": exchange.response_body,
                    }
                )
        insert_rows(self._conn, self._sql.exchanges, rows)
        self.end = (seq, digest)
        if bodies:
            self._conn.executemany(self._sql.text["insert_body"], bodies)

    def _add_spend(self, exchanges: list[ExchangeRecord]) -> None:
        sums: dict[tuple[int, str, str, str], list[int]] = {}
        for each in exchanges:
            model = each.model
            if model is None:
                continue
            at_ms = each.charged_ms or each.started_ms
            owner = (at_ms - at_ms % QUARTER_MS, each.key, each.project, model)
            total = sums.get(owner)
            if total is None:
                total = sums[owner] = [0] * 7
            total[6] += each.cost or 0
            if each.corrects is None:
                total[0] += 1
                total[1] += each.status >= 400
                total[2] += each.input_tokens or 0
                total[3] += each.cached_tokens or 0
                total[4] += each.output_tokens or 0
                total[5] += each.reasoning_tokens or 0
        insert_rows(self._conn, self._sql.spend, [(*owner, *sums[owner]) for owner in sums])
