"""The text of store.sql, taken apart, and the values that go into the store and come out of it."""

import re
from collections.abc import Callable
from itertools import groupby
from operator import attrgetter
from typing import Any

from msgspec import Struct

IN_FLIGHT = frozenset({"queued", "in_progress"})


class StoreError(Exception):
    """Anything the store refuses or cannot do; the message is for the operator."""


class StoreFault(StoreError):
    """The database file cannot be used at all; raised when it is opened."""


class StoreUnavailable(StoreError):
    """The store takes no jobs: it failed, is full, or is closed. Nothing was written."""


class StoreFailed(StoreError):
    """A job that was taken could not be committed, or a read failed. Nothing of it is stored."""


class NotFoundInStore(StoreError):
    """No such response, or another project's, or deleted."""


class ParentBroken(StoreError):
    """A response whose history can never be whole again: an ancestor was deleted."""


class InFlight(StoreError):
    """The response has not ended, so it cannot be deleted."""


class UnknownItem(StoreError):
    """The item named as the start of a page is not in the list."""


class ResponseRecord(Struct, kw_only=True):
    """A response as it is written.

    `body` is its JSON without output and choices; items are (id, JSON) in order.
    """

    id: str
    project: str
    parent_id: str | None
    model: str
    status: str
    background: bool
    created_ms: int
    completed_ms: int | None
    body: bytes
    input: list[tuple[str, bytes]]
    output: list[tuple[str, bytes]]


class ExchangeRecord(Struct, kw_only=True):
    """One request, for the ledger; the meaning of each field stands in store.sql."""

    request_id: str
    started_ms: int
    duration_us: int
    key: str
    project: str
    method: str
    route: str
    status: int
    overhead_us: int | None = None
    response_id: str | None = None
    model: str | None = None
    provider: str | None = None
    deployment: str | None = None
    finish: str | None = None
    error_code: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    usage_source: str | None = None


class Save(Struct):
    """An exchange that ended, with its response if that is stored. Result None."""

    exchange: ExchangeRecord
    response: ResponseRecord | None = None


class Begin(Struct):
    """A background response takes its place, unfinished and without output. Result None."""

    response: ResponseRecord


class Finish(Struct):
    """A background response ends. Result None.

    NotFoundInStore if it does not wait for its end; the exchange is kept nevertheless.
    """

    exchange: ExchangeRecord
    response_id: str
    project: str
    status: str
    completed_ms: int
    body: bytes
    output: list[tuple[str, bytes]]


class Delete(Struct):
    """Empty a response. Result None; NotFoundInStore or InFlight."""

    project: str
    id: str


class FailUnfinished(Struct):
    """Fail what a crash left open; `rewrite` makes the new body of the old. Result: how many."""

    now_ms: int
    rewrite: Callable[[bytes], bytes]


class Retire(Struct):
    """One step of expiry, after response `seq`. Result: removed, seq to go on after or None."""

    before_ms: int
    seq: int


Job = Save | Begin | Finish | Delete | FailUnfinished | Retire


class Stored(Struct, frozen=True):
    """A response as it is read; `output` are the JSON bodies of its items in order."""

    id: str
    parent_id: str | None
    model: str
    status: str
    background: bool
    created_ms: int
    completed_ms: int | None
    body: bytes
    output: list[bytes]


class History(Struct, frozen=True):
    """What a child of a response inherits: the bodies of all items up to its end, oldest first."""

    status: str
    background: bool
    items: list[bytes]


class Page(Struct, frozen=True):
    """A page of input items as (id, JSON)."""

    items: list[tuple[str, bytes]]
    has_more: bool


class Schema(Struct, frozen=True):
    """store.sql: migrations[n - 1] is a script that leads to version n; statements by name."""

    migrations: list[str]
    statements: dict[str, str]


_HEADING = re.compile(r"-- (?:migration (?P<number>\d+): .+|name: (?P<name>\w+))$")


def parse_schema(text: str) -> Schema:
    """The parts of a store.sql.

    Raises StoreFault if migrations are not numbered 1, 2, 3 … or a name comes twice.
    """
    heading: re.Match[str] | None = None
    marked: list[tuple[re.Match[str] | None, str]] = []
    for line in text.splitlines():
        heading = _HEADING.match(line) or heading
        marked.append((heading, line))
    schema = Schema([], {})
    for mark, lines in groupby(marked, key=lambda pair: pair[0]):
        if mark is None:
            continue
        block = "\n".join([line for _, line in lines][1:]).strip()
        if mark["name"] is None:
            schema.migrations.append(block)
            if int(mark["number"]) != len(schema.migrations):
                raise StoreFault(
                    f"store.sql: migration {mark['number']} stands at {len(schema.migrations)}"
                )
        elif mark["name"] in schema.statements:
            raise StoreFault(f"store.sql: two statements are named {mark['name']}")
        else:
            schema.statements[mark["name"]] = block
    return schema


_PARAMETER = re.compile(r":(\w+)")


class Insert(Struct, frozen=True):
    """An INSERT of many rows: `texts[k]` takes 2**k of them, flat, each with `columns` in order."""

    columns: tuple[str, ...]
    texts: list[str]


def bulk_insert(statement: str, *, doublings: int) -> Insert:
    """The forms of an INSERT that takes one row.

    A statement gives the interpreter lock away when it runs: one for all rows does so once, while
    executemany does for every row.
    """
    head, values = statement.rstrip("; \n").split("VALUES ")
    row = _PARAMETER.sub("?", values)
    texts = [head + "VALUES " + ", ".join([row] * 2**k) + ";" for k in range(doublings + 1)]
    return Insert(tuple(_PARAMETER.findall(values)), texts)


class Statements:
    """The statements of store.sql in the forms they are run in."""

    def __init__(self, schema: Schema) -> None:
        self.text = schema.statements
        self.responses = bulk_insert(self.text["insert_response"], doublings=5)
        self.items = bulk_insert(self.text["insert_item"], doublings=6)
        self.exchanges = bulk_insert(self.text["insert_exchange"], doublings=5)
        self.exchange_row: Callable[[ExchangeRecord], tuple[Any, ...]] = attrgetter(
            *self.exchanges.columns
        )
        self.blobs = bulk_insert(self.text["insert_blob"], doublings=0)
