"""The text of store.sql, taken apart, and its statements in the forms they are run in."""

import re
from collections.abc import Callable
from itertools import groupby
from operator import attrgetter
from typing import Any

from msgspec import Struct

from anos.schema import ExchangeRecord, StoreFault


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
_VALUES = re.compile(r"VALUES (\([^)]+\))")


class Insert:
    """An INSERT of many rows, each with `columns` in order.

    A statement gives the interpreter lock away when it runs: one for all rows does so once, while
    executemany does for every row.
    """

    def __init__(self, statement: str) -> None:
        """`statement` inserts one row, with named parameters."""
        self._head, values, self._tail = _VALUES.split(statement.rstrip("; \n"))
        self._row = _PARAMETER.sub("?", values)
        self._texts: dict[int, str] = {}
        self.columns = tuple(_PARAMETER.findall(values))

    def text(self, rows: int) -> str:
        """The statement for so many rows, whose values it takes flat."""
        text = self._texts.get(rows)
        if text is None:
            all_rows = ", ".join([self._row] * rows)
            text = self._texts[rows] = f"{self._head}VALUES {all_rows}{self._tail};"
        return text


class Ends(Struct, frozen=True):
    """How far the tables are after a commit, so that the writer need not look; None: not known."""

    response: int | None = None  # the last seq
    exchange: tuple[int, bytes] | None = None  # the last seq and its digest


class Statements:
    """The statements of store.sql in the forms they are run in; `secret` keys the logs' digests."""

    def __init__(self, schema: Schema, secret: bytes) -> None:
        self.text = schema.statements
        self.secret = secret
        self.ends = Ends()
        self.responses = Insert(self.text["insert_response"])
        self.items = Insert(self.text["insert_item"])
        self.exchanges = Insert(self.text["insert_exchange"])
        # Without the first and the last: seq and digest are given when a row is inserted.
        self.exchange_row: Callable[[ExchangeRecord], tuple[Any, ...]] = attrgetter(
            *self.exchanges.columns[1:-1]
        )
        self.reservations = Insert(self.text["insert_reservation"])
        self.spend = Insert(self.text["add_spend"])
        self.blobs = Insert(self.text["insert_blob"])
