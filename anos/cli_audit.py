"""The commands that look after the logs and the file; they read it themselves, gateway or not."""

import argparse
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from anos import audit
from anos.config_sections import Config

if TYPE_CHECKING:
    from anos.store_copy import Opened

_OK, _WRONG, _USAGE = 0, 1, 2
_SQL = Path(__file__).parent.parent / "store.sql"
# Of `server` in the configuration.
_READS = {"database", "secret"}
_VERIFY_ROWS, _EXPORT_ROWS = 10_000, 1_000

Add = Callable[[str, str], argparse.ArgumentParser]


def add_commands(add: Add) -> None:
    """The commands `audit` and `backup`."""
    parser = add("audit", "verify, export and check the logs of exchanges and changes")
    parser.add_argument(
        "action",
        choices=_ACTIONS,
        help="verify: walk along both logs; head: print their last rows, to be noted; "
        "export: print a log; check: have SQLite check the whole file",
    )
    parser.add_argument(
        "--head", action="append", metavar="LOG:SEQ:HEX", help="verify: noted earlier; repeatable"
    )
    parser.add_argument("--log", choices=audit.LOGS, help="export: default exchanges")
    parser.add_argument("--format", choices=("jsonl", "csv"), help="export: default jsonl")
    parser.add_argument("--since", metavar="TIME", help="export: ISO 8601, inclusive")
    parser.add_argument("--until", metavar="TIME", help="export: ISO 8601, exclusive")
    parser.add_argument("--output", type=Path, metavar="FILE", help="export: a new file")
    parser.set_defaults(run=_audit, reads=_READS)
    parser = add("backup", "copy the database, while the gateway runs or not")
    parser.add_argument("file", type=Path, metavar="FILE", help="must not be there yet")
    parser.set_defaults(run=_backup, reads=_READS)


def _audit(options: argparse.Namespace, config: Config) -> int:
    takes = {"verify": {"head"}, "export": {"log", "format", "since", "until", "output"}}
    for name in ("head", "log", "format", "since", "until", "output"):
        if getattr(options, name) is not None and name not in takes.get(options.action, ()):
            print(f"audit {options.action} takes no --{name}", file=sys.stderr)
            return _USAGE
    result: int = _ACTIONS[options.action](options, config)
    return result


def _verify(options: argparse.Namespace, config: Config) -> int:
    from anos.store_audit import verify_page

    try:
        heads = {head.log: head for head in map(audit.Head.parse, options.head or ())}
    except ValueError as exc:
        print(exc, file=sys.stderr)
        return _USAGE
    reports = []
    with _opened(config, _secret(config)) as (sql, conn):
        for log in audit.LOGS:
            verifier = audit.Verifier(log, sql.secret, heads.get(log))
            while verify_page(verifier, _VERIFY_ROWS, sql, conn):
                pass
            reports.append(verifier.report())
    for report in reports:
        print("\n".join(_lines(report)))
    print("No check of the file can find:")
    print("\n".join(f"  - {each}" for each in audit.UNDETECTABLE))
    return _OK if all(report.ok for report in reports) else _WRONG


def _lines(report: audit.Report) -> Iterator[str]:
    """A report in words."""
    word = "ok" if report.ok else "BROKEN" if report.broken else "NOT VERIFIED"
    yield f"{report.log}: {word}: {report.verified} rows verified"
    if report.broken is not None:
        yield f"  {report.broken.sentence} What comes after it was not looked at."
    if report.first is not None and report.first > 1:
        yield f"  The rows before {report.first} went by retention."
    if report.older:
        yield f"  {report.older} rows are older than the digests and cannot be verified."
    if report.foreign:
        yield (
            f"  {report.foreign} rows, up to {report.foreign_through}, verify only with the secret "
            "they were written under: `<database>.key` was lost or server.secret has changed."
        )
    if report.compared == "same":
        yield "  It contains the head that was given."
    if report.compared == "gone":
        yield "  The row whose head was given went by retention: it cannot be compared."
    yield f"  head {report.head}"


def _head(options: argparse.Namespace, config: Config) -> int:
    from anos.store_audit import head

    with _opened(config, audit.START) as (sql, conn):
        for log in audit.LOGS:
            print(audit.Head(log, *head(log, sql, conn)))
    return _OK


def _export(options: argparse.Namespace, config: Config) -> int:
    from anos import admin_params
    from anos.errors import InvalidRequest
    from anos.store_audit import Cursor, export_page

    given = {name: getattr(options, name) for name in ("since", "until")}
    try:
        span = admin_params.span_ms(
            {name: text for name, text in given.items() if text is not None}
        )
    except InvalidRequest as exc:
        print(exc.message, file=sys.stderr)
        return _USAGE
    cursor = Cursor(options.log or "exchanges", options.format or "jsonl", *span)
    with _opened(config, audit.START) as (sql, conn), _output(options.output) as output:
        while not cursor.at_end:
            output.write(export_page(cursor, _EXPORT_ROWS, sql, conn))
    return _OK


def _check(options: argparse.Namespace, config: Config) -> int:
    from anos import store_copy
    from anos.schema import StoreFault

    try:
        problems = store_copy.check(Path(config.server.database), threading.Event())
    except StoreFault as exc:
        sys.exit(str(exc))
    print("\n".join(problems) or "ok")
    return _WRONG if problems else _OK


def _backup(options: argparse.Namespace, config: Config) -> int:
    from anos import store_copy
    from anos.schema import StoreFault

    try:
        copy = store_copy.backup(Path(config.server.database), options.file, threading.Event())
    except (FileExistsError, StoreFault) as exc:
        sys.exit(str(exc))
    except OSError as exc:
        sys.exit(f"{options.file}: {exc.strerror}")
    print(f"{options.file}: {copy.total_bytes} bytes, {copy.exchanges} exchanges")
    if config.server.secret is None:
        print(
            f"The secret is not in it: keep {config.server.database}.key as well, elsewhere.",
            file=sys.stderr,
        )
    return _OK


_ACTIONS: dict[str, Callable[[argparse.Namespace, Config], int]] = {
    "verify": _verify,
    "head": _head,
    "export": _export,
    "check": _check,
}


def _secret(config: Config) -> bytes:
    """The secret that keys the logs; leaves with a sentence where the gateway would make one."""
    from anos import secret

    file = Path(f"{config.server.database}.key")
    if config.server.secret is None and not file.exists():
        sys.exit(f"There is no secret to verify with: neither {file} nor server.secret is there.")
    try:
        return secret.derive(secret.load(config.server), "audit")
    except OSError as exc:
        sys.exit(str(exc))


@contextmanager
def _opened(config: Config, secret: bytes) -> Iterator["Opened"]:
    """The file, to read; leaves with a sentence if it cannot be read."""
    from anos import store_copy
    from anos.schema import StoreFault

    database = Path(config.server.database)
    try:
        sql = store_copy.statements(database, _SQL, secret)
        with store_copy.opened(database) as connection:
            yield sql, connection
    except StoreFault as exc:
        sys.exit(str(exc))


@contextmanager
def _output(file: Path | None) -> Iterator[BinaryIO]:
    """A new file that only its owner can read, or standard output."""
    if file is None:
        yield sys.stdout.buffer
        return
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        sys.exit(f"{file}: {exc.strerror}")
    with os.fdopen(fd, "wb") as output:
        yield output
