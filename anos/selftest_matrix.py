"""What came of a canary, and the matrix that says it of all of them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct, field

from anos.selftest_canary import AFTER, BEFORE

# The outcomes; in a cell stands the first of these that there was.
HOLE, OFF, NOTE, MASK, BLOCK, NONE = "HOLE", "off", "note", "mask", "block", "-"
_ORDER = (HOLE, OFF, NOTE, MASK, BLOCK, NONE)
# What stands in the place of what was masked.
_MASKED = "***"
_MARK, _REST = BEFORE.rstrip(), AFTER.strip()


def worst(outcomes: Iterable[str]) -> str:
    """The one of several outcomes that stands in the cell."""
    return min(outcomes, key=_ORDER.index)


class Table(Struct):
    """What came of canaries, by the name and the note of a row and by column."""

    heading: str
    columns: tuple[str, ...]
    rows: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    count: int = 0  # of canaries

    def add(self, row: tuple[str, str], column: str, outcome: str) -> None:
        """One more outcome."""
        cells = self.rows.setdefault(row, {})
        cells[column] = worst((outcome, cells.get(column, NONE)))
        self.count += outcome != NONE


class Matrix(Struct):
    """All that was found out about a profile."""

    profile: str
    lines: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    holes: dict[str, list[str]] = field(default_factory=dict)  # by row: what was sent, a sentence

    def hole(self, row: str, what: str) -> None:
        """One more hole, and a sentence of it."""
        self.holes.setdefault(row, []).append(what)

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
    holes = {
        (matrix.profile, row): matrix.holes[row] for matrix in matrices for row in matrix.holes
    }
    if holes:
        yield "Holes:"
        for (profile, _), (first, *rest) in holes.items():
            yield f"  {profile}: {first}"
            if rest:
                yield f"    and {len(rest)} more of this row"
        yield ""
    count, found = sum(matrix.count for matrix in matrices), sum(map(len, holes.values()))
    yield f"{count} canaries, {found} {'hole' if found == 1 else 'holes'}"


def _printed(table: Table) -> Iterator[str]:
    columns = [each.ljust(5) for each in table.columns]
    lines = {
        row: [cells.get(each, NONE) for each in table.columns] for row, cells in table.rows.items()
    }
    wide = [max(len(row[part]) for row in (("", ""), *lines)) for part in (0, 1)]
    yield table.heading
    for (name, note), cells in {("", ""): columns, **lines}.items():
        padded = (cell.ljust(len(column)) for cell, column in zip(cells, columns, strict=True))
        yield f"  {name.ljust(wide[0])}  {note.ljust(wide[1])}  {' '.join(padded)}".rstrip()


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

    So what a stream says in pieces stands together, also where one part ends and another begins.
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


def response_id(document: Any) -> str:
    """The id of the Response that a document or an event is about, "" if it is about none."""
    found = document.get("response", document)
    return found["id"] if found.get("object") == "response" else ""


def ends_filtered(document: Any) -> bool:
    """Whether it says that the guards have ended the answer."""
    found = document.get("response", document)
    if (found.get("incomplete_details") or {}).get("reason") == "content_filter":
        return True
    choices = found.get("choices") or ()
    return any(choice.get("finish_reason") == "content_filter" for choice in choices)


def failed(document: Any) -> bool:
    """Whether it says that the answer has failed."""
    found = document.get("response", document)
    return bool(found.get("error")) or found.get("type") == "error"
