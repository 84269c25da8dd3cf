"""The database file: who may open it, the version it is brought to, and connections to it."""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import aiosqlite

from anos.schema import StoreFault
from anos.statements import Schema, parse_schema

T = TypeVar("T")

_MAGIC = b"SQLite format 3\0"
# Only a foreign program that writes to the file can make us wait.
_BUSY_S = 5.0
# The longest a foreign reader can hold up the writer when the log starts over.
_RESTART_BUSY_MS = 250


class Connection(aiosqlite.Connection):
    """A connection with a thread of its own."""

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """What `function` returns on the connection's thread: one hop for all its statements."""
        result: T = await self._execute(function, self._conn)  # type: ignore[no-untyped-call]
        return result


async def connect(path: Path) -> Connection:
    """A connection that may write; to be closed, as its thread would outlive the process."""
    opening = partial(
        sqlite3.connect, path, timeout=_BUSY_S, isolation_level=None, cached_statements=256
    )
    connection = Connection(opening, 64)
    await connection
    return connection


def query_only(conn: sqlite3.Connection) -> None:
    """From here on it only reads."""
    conn.execute("PRAGMA query_only = ON")


@contextmanager
def _in_words() -> Iterator[None]:
    """What the system has against the file, without its name: who opens it says that."""
    try:
        yield
    except OSError as exc:
        raise StoreFault(exc.strerror) from exc


def check(path: Path) -> None:
    """Raises StoreFault or OSError if there can be no database at `path`; makes nothing."""
    if not path.parent.is_dir():
        raise StoreFault(f"{path.parent}, where the database is to be, is no directory")
    if path.exists():
        with path.open("rb") as file:
            beginning = file.read(len(_MAGIC))
        if beginning not in (b"", _MAGIC):
            raise StoreFault(f"{path} is not a database of SQLite")


def read_schema(path: Path, sql: Path) -> Schema:
    """What `sql` says; the file `path` is made if it is missing."""
    with _in_words():
        # Prompts and answers are nobody else's business; SQLite gives the log the same mode.
        path.touch(mode=0o600)
    return parse_schema(sql.read_text(encoding="utf-8"))


def claim(path: Path) -> int:
    """A descriptor that keeps other gateways from the file; SQLite's own locks are of another kind.

    To close it while the file is open in SQLite would end SQLite's locks.
    """
    with _in_words():
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreFault("another gateway uses it") from None
    return descriptor


def prepare(schema: Schema, synchronous: str, conn: sqlite3.Connection) -> None:
    """Bring the file to the newest version, each migration and its number in one transaction."""
    version = conn.execute("PRAGMA user_version").fetchone()[0]
    newest = len(schema.migrations)
    if version > newest:
        raise StoreFault(
            f"it is of version {version}, this program knows up to {newest}: use a newer program"
        )
    if version == 0 and conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise StoreFault("it is a SQLite database of another program")
    # Free pages can go back to the disk; only a new file learns that, before anything is in it.
    conn.execute("PRAGMA auto_vacuum = INCREMENTAL")
    conn.execute("PRAGMA journal_mode = WAL")
    # NORMAL survives the death of the process, FULL also that of the machine.
    conn.execute(
        "PRAGMA synchronous = FULL" if synchronous == "full" else "PRAGMA synchronous = NORMAL"
    )
    # A checkpoint inside a commit would make that group slow: see Store._tend_log.
    conn.execute("PRAGMA wal_autocheckpoint = 0")
    for number, script in enumerate(schema.migrations[version:], version + 1):
        try:
            conn.executescript(
                f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;"
            )
        except sqlite3.Error:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            raise


def checkpoint_passive(conn: sqlite3.Connection) -> int:
    """Pages in the log; those that no reader needs are in the main file afterwards."""
    pages: int = conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
    return pages


def restart_log(truncate: bool, conn: sqlite3.Connection) -> bool:
    """Empty the log; False if a reader of another program is in the way."""
    conn.execute(f"PRAGMA busy_timeout = {_RESTART_BUSY_MS}")
    mode = "TRUNCATE" if truncate else "RESTART"
    busy = conn.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[0]
    conn.execute(f"PRAGMA busy_timeout = {int(_BUSY_S * 1000)}")
    return not busy
