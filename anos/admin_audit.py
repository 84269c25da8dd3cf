"""The handlers of operators that look after logs and file: verify, export, back up, check."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import orjson
from aiohttp import web

from anos import admin_params as params
from anos import changes, upkeep
from anos.audit import LOGS, UNDETECTABLE, Head, Log
from anos.audit_export import FORMATS
from anos.errors import GatewayError, InvalidRequest
from anos.schema import StoreFault
from anos.state import EXCHANGE, SERVING, Gateway
from anos.store import LogChange
from anos.store_audit import newest_changes
from anos.validation import missing, wrong_type

_NEWEST = 1 << 62  # no seq is so high
# Less than SQLite's own suffixes, and than the secret's: such a file would be taken for another's.
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}(?<!-wal)(?<!-shm)(?<!-journal)(?<!\.key)")


async def verify(request: web.Request) -> web.Response:
    """GET /admin/audit/verify: walk along both logs; `head` may be given for each."""
    params.known(request.query, ("head",), repeatable=("head",))
    given = request.query.getall("head", ())
    try:
        heads = {head.log: head for head in map(Head.parse, given)}
        if len(heads) < len(given):
            raise ValueError("two heads of one log")
    except ValueError:
        raise InvalidRequest(
            "Invalid value for 'head': expected LOG:SEQ:HEX as an earlier report shows it, "
            "and one for each log.",
            param="head",
        ) from None
    gateway = request[SERVING]
    with _alone(gateway, "verify"):
        reports = await upkeep.verify(gateway.store, heads)
    return _json(
        {
            "object": "audit.report",
            "ok": all(report.ok for report in reports),
            "logs": msgspec.to_builtins(reports),
            "not_detected": UNDETECTABLE,
        }
    )


async def export(request: web.Request) -> web.StreamResponse:
    """GET /admin/audit/export: a log's rows as JSON lines or CSV, streamed."""
    query = request.query
    params.known(query, ("format", "log", "since", "until"))
    form = params.one_of(query, "format", tuple(FORMATS)) or "jsonl"
    log: Log = "changes" if params.one_of(query, "log", LOGS) == "changes" else "exchanges"
    blocks = upkeep.export(request[SERVING].store, log, form, *params.span_ms(query))
    # The first one before the head: what goes wrong until then has a status of its own.
    first = await anext(blocks, b"")
    response = web.StreamResponse(headers=request[EXCHANGE].answer_headers())
    response.content_type, response.charset = FORMATS[form], "utf-8"
    response.headers["Content-Disposition"] = f'attachment; filename="{log}.{form}"'
    await response.prepare(request)
    await response.write(first)
    async for block in blocks:
        await response.write(block)
    await response.write_eof()
    return response


async def list_changes(request: web.Request) -> web.Response:
    """GET /admin/changes: who changed what, newest first."""
    query = request.query
    params.known(query, ("object", "limit", "after"))
    limit = params.limit_of(query, 100, 1000)
    place = params.place_of(query, 1)
    rows = await request[SERVING].store.read(
        partial(newest_changes, place[0] if place else _NEWEST, query.get("object"), limit + 1)
    )
    data = [
        {
            "seq": row["seq"],
            "at": params.iso(row["at_ms"]),
            **{name: row[name] for name in ("actor", "request_id", "action", "object")},
            **{name: _tree(row[name]) for name in ("before", "after")},
        }
        for row in rows[:limit]
    ]
    following = str(data[-1]["seq"]) if len(rows) > limit else None
    return _json(params.listed(data, following))


async def backup(request: web.Request) -> web.Response:
    """POST /admin/backup: copy the database to a new file beside it."""
    gateway, exchange = request[SERVING], request[EXCHANGE]
    name = _file_name(await changes.body_of(request))
    database = Path(gateway.live.config.server.database)
    with _alone(gateway, "backup"):
        try:
            copy = await upkeep.backup(database, database.with_name(name))
        except FileExistsError:
            raise InvalidRequest("There is a file of that name already.", param="file") from None
        except (OSError, StoreFault) as exc:
            raise GatewayError(f"The backup failed: {_reason(exc)}.") from None
    made = {"file": name, "bytes": copy.total_bytes, "exchanges": copy.exchanges}
    change = changes.record(exchange, "backup.create", f"file:{name}", after=made)
    await changes.commit(gateway, LogChange(change))
    return _json(made)


async def integrity(request: web.Request) -> web.Response:
    """POST /admin/integrity: have SQLite check the whole file."""
    gateway, exchange = request[SERVING], request[EXCHANGE]
    params.known(await changes.body_of(request), ())
    with _alone(gateway, "integrity"):
        try:
            problems = await upkeep.check(Path(gateway.live.config.server.database))
        except StoreFault as exc:
            raise GatewayError(f"The check failed: {_reason(exc)}.") from None
    found = {"ok": not problems, "problems": problems}
    change = changes.record(exchange, "integrity.check", "database", after=found)
    await changes.commit(gateway, LogChange(change))
    return _json(found)


@contextmanager
def _alone(gateway: Gateway, work: str) -> Iterator[None]:
    """One of each kind at a time: they read the whole file."""
    if work in gateway.tending:
        raise InvalidRequest(f"Another {work} is running; wait for its end.", code="conflict")
    gateway.tending.add(work)
    try:
        yield
    finally:
        gateway.tending.discard(work)


def _file_name(body: dict[str, Any]) -> str:
    params.known(body, ("file",))
    if (given := body.get("file")) is None:
        raise missing("file")
    if not isinstance(given, str):
        raise wrong_type("file", "a string", given)
    if not _FILE.fullmatch(given):
        raise InvalidRequest(
            "Invalid value for 'file': expected a plain name of letters, digits and . _ - that "
            "ends like no other file of a database; the copy is put beside the database.",
            param="file",
        )
    return given


def _reason(exc: Exception) -> str:
    """Why, without the path: that is the server's own business."""
    cause = exc.__cause__ or exc
    return str(getattr(cause, "strerror", None) or cause)


def _tree(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)


def _json(body: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json")
