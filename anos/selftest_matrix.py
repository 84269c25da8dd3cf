"""What came of a canary, and the matrix that says it of all of them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct, field

from anos.selftest_canary import AFTER, BEFORE

# The outcomes; in a cell stands the first of these that there was.
HOLE, OFF, NOTE, MASK, BLOCK, NONE = "HOLE", "off", "note", "mask", "block", "-"
ORDER = (HOLE, OFF, NOTE, MASK, BLOCK, NONE)
# What stands in the place of what was masked.
_MASKED = "***"
_MARK, _REST = BEFORE.rstrip(), AFTER.strip()


class Row(Struct):
    """What came of the canaries of a field or a place, by column."""

    name: str
    note: str  # where its texts come from
    cells: dict[str, str] = field(default_factory=dict)

    def add(self, column: str, outcome: str) -> None:
        """One more outcome."""
        both = (outcome, self.cells.get(column, NONE))
        self.cells[column] = min(both, key=ORDER.index)


class Table(Struct):
    """Rows under one heading."""

    heading: str
    columns: tuple[str, ...]
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    count: int = 0  # of canaries

    def row(self, name: str, note: str) -> Row:
        """The row of that name and note, a new one at the end if there is none."""
        return self.rows.setdefault((name, note), Row(name, note))

    def add(self, name: str, note: str, column: str, outcome: str) -> Row:
        """One more outcome, in a row that is returned."""
        row = self.row(name, note)
        row.add(column, outcome)
        self.count += outcome != NONE
        return row


class Matrix(Struct):
    """All that was found out about a profile; `holes` say what was sent, a sentence each."""

    profile: str
    lines: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    holes: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many canaries were sent."""
        return sum(table.count for table in self.tables)


def printed(matrices: Sequence[Matrix]) -> Iterator[str]:
    """The matrices in lines, and what is to be said of all of them."""
    for matrix in matrices:
        yield from (f"profile {matrix.profile}", *(f"  {line}" for line in matrix.lines), "")
        for table in matrix.tables:
            yield from (*_printed(table), "")
    holes = [f"{matrix.profile}: {hole}" for matrix in matrices for hole in matrix.holes]
    if holes:
        yield from ("Holes:", *(f"  {hole}" for hole in holes), "")
    count = sum(matrix.count for matrix in matrices)
    yield f"{count} canaries, {len(holes)} {'hole' if len(holes) == 1 else 'holes'}"


def _printed(table: Table) -> Iterator[str]:
    rows = list(table.rows.values())
    wide = max((len(row.name) for row in rows), default=0)
    noted = max((len(row.note) for row in rows), default=0)
    sizes = [max(len(column), 5) for column in table.columns]

    def line(name: str, note: str, cells: Iterable[str]) -> str:
        padded = (cell.ljust(size) for cell, size in zip(cells, sizes, strict=True))
        return f"  {name.ljust(wide)}  {note.ljust(noted)}  {' '.join(padded)}".rstrip()

    yield table.heading
    yield line("", "", table.columns)
    for row in rows:
        yield line(row.name, row.note, (row.cells.get(each, NONE) for each in table.columns))


# What an answer says ------------------------------------------------------------------------------


def came_through(documents: Iterable[Any]) -> str:
    """What an answer, in one piece or in events, has of the canary: HOLE, MASK, or NONE."""
    outcome = NONE
    for said in joined(documents).values():
        for rest in said.split(_MARK)[1:]:
            if rest := rest.strip():
                if not rest.startswith((_MASKED, _REST)):
                    return HOLE
                outcome = MASK
    return outcome


def joined(documents: Iterable[Any]) -> dict[tuple[Any, ...], str]:
    """By their place the strings of JSON documents, those of all documents one after the other.

    So what a stream says in pieces stands together, also where one part ends and the next begins.
    """
    found: dict[tuple[Any, ...], list[str]] = {}
    for document in documents:
        kind = document.get("type") if isinstance(document, dict) else None
        for place, text in strings(document):
            found.setdefault((kind, *place), []).append(text)
    return {place: "".join(texts) for place, texts in found.items()}


def strings(node: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Every string of a JSON document, the names of fields too, with its place."""
    if isinstance(node, str):
        yield place, node
    elif isinstance(node, list):
        for each in node:
            # Choices and calls are numbered: those of a stream belong together by their number.
            number = each.get("index") if isinstance(each, dict) else None
            yield from strings(each, (*place, number))
    elif isinstance(node, dict):
        for name, value in node.items():
            yield (*place, "name of a field"), name
            yield from strings(value, (*place, name))
