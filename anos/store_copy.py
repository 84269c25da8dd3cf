"""The whole file: backup and integrity check, each on a read-only connection of its own.

They take as long as the file is large, and hold up nobody: the gateway may run or not.
"""

import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from msgspec import Struct

from anos.schema import StoreFailed, StoreFault
from anos.statements import Statements, parse_schema
from anos.store_reads import transaction

# 1 MB: how much is copied between two looks at whether to stop.
_STEP_PAGES = 256
# SQLite's virtual machine looks up after so many instructions: some milliseconds.
_STEP_INSTRUCTIONS = 100_000


Opened = tuple[Statements, sqlite3.Connection]


class Copy(Struct, frozen=True):
    """What a backup holds."""

    total_bytes: int
    exchanges: int


@contextmanager
def opened(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads; raises StoreFault with a sentence."""
    # Who may not write leaves files beside a database that nobody has open. Where there is a log,
    # it stays as it is: it is that of a running gateway, or what a crash left.
    mode = "ro" if Path(f"{database}-wal").exists() else "rw"
    try:
        uri = f"{database.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, timeout=5.0, check_same_thread=False
        )
        with closing(connection):
            connection.execute("PRAGMA query_only = ON")
            yield connection
    except sqlite3.Error as exc:
        raise StoreFault(f"{database} cannot be used: {exc}") from exc


def statements(database: Path, sql: Path, secret: bytes) -> Statements:
    """The statements of `sql` for a file of its version; raises StoreFault for any other."""
    schema = parse_schema(sql.read_text(encoding="utf-8"))
    with opened(database) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != len(schema.migrations):
        raise StoreFault(
            f"{database} is of version {version}, this program is for {len(schema.migrations)}: "
            "start the gateway of this program with it once, or use the other program"
        )
    return Statements(schema, secret)


def backup(database: Path, target: Path, stop: threading.Event) -> Copy:
    """Copy the file as it is now, while others write; the copy is complete or is not there.

    Raises FileExistsError, StoreFault, or StoreFailed if it was told to stop.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists already")
    # Readable by its owner only.
    fd, name = tempfile.mkstemp(prefix=f"{target.name}.", suffix=".part", dir=target.parent)
    try:
        with opened(database) as source:
            exchanges = _copy(source, name, stop)
        os.fsync(fd)
        _unless(stop)
        os.link(name, target)  # unlike a rename it never replaces a file
        return Copy(os.fstat(fd).st_size, exchanges)
    finally:
        os.close(fd)
        os.unlink(name)


def _copy(source: sqlite3.Connection, name: str, stop: threading.Event) -> int:
    """The number of exchanges in the copy."""

    def proceed(status: int, remaining: int, total: int) -> None:
        _unless(stop)

    # One transaction is one state of the file; without it every commit makes the copy start over.
    with transaction(source, "DEFERRED"), closing(sqlite3.connect(name)) as copy:
        exchanges: int = source.execute("SELECT count(*) FROM exchanges").fetchone()[0]
        # It is synced as a whole in the end, and thrown away if it does not get there.
        copy.execute("PRAGMA journal_mode = OFF")
        copy.execute("PRAGMA synchronous = OFF")
        source.backup(copy, pages=_STEP_PAGES, progress=proceed)
    return exchanges


def _unless(stop: threading.Event) -> None:
    if stop.is_set():
        raise StoreFailed("the backup was stopped")


def check(database: Path, stop: threading.Event) -> list[str]:
    """What SQLite finds wrong, at most 100 lines; raises StoreError."""
    with opened(database) as connection:
        connection.set_progress_handler(stop.is_set, _STEP_INSTRUCTIONS)
        try:
            found = connection.execute("PRAGMA integrity_check").fetchall()
        except sqlite3.DatabaseError as exc:
            if exc.sqlite_errorname not in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
                raise
            return [str(exc)]  # so damaged that it cannot even be walked
    return [line for (line,) in found if line != "ok"]
