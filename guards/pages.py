"""The classes of a text's characters, 256 code points at a time.

`str.translate` asks a table for every single character. Here `bytes.translate` maps the low bytes
of all characters at once, once for each page of 256 code points that the text has, and arithmetic
on large numbers puts the results together: a tenth of the time, if the pages are few.
"""

from collections.abc import Callable

# Each page costs some nanoseconds a character; with more of them `str.translate` is faster.
_MOST_PAGES = 20
# A longer class leaves its text to `str.translate`, as this mark tells.
_MOST_COLUMNS = 5
_TOO_LONG = 0xFF

_LETTERS = b"abcdefghijkmnopqrstuvwxyz"
# An ideograph is hashed by its low byte to two letters, by the next to one.
_LOW, _MIDDLE = (bytes(_LETTERS[low // step % 25] for low in range(256)) for step in (1, 25))
_HIGH = _LOW


def letter(code: int) -> str:
    """The class of a letter beyond ASCII."""
    return chr(_LOW[code & 255])


def ideograph(code: int) -> str:
    """The class of a letter of a script without spaces: a word by itself."""
    low, high = code & 255, code >> 8 & 255
    return f" {_LOW[low]:c}{_MIDDLE[low]:c}{_HIGH[high]:c} "


def _alike() -> list[bytes]:
    """For each plane which pages are the same as another: that of ideographs, of Hangul, of
    surrogates and private use, and of what is not assigned."""
    apart = bytes(range(256))
    first = bytearray(apart)
    for start, end in ((0x34, 0x4D), (0x4E, 0x9F), (0xAC, 0xD7), (0xD8, 0xF9)):
        first[start:end] = bytes([min(start, 0x34) if start < 0xA0 else start]) * (end - start)
    second, third = (bytes(count) + apart[count:] for count in (0xA6, 0x13))
    return [bytes(first), apart, second, third, *[bytes(256)] * 10, apart, *[bytes(256)] * 2]


_ALIKE = _alike()
# The pages whose classes follow from the code points.
_IDEOGRAPHS = frozenset({0x0034, 0x0200, 0x0300})


class Pages(dict[int, tuple[str, ...]]):
    """The classes of each 256 code points, made when they are asked for."""

    def __init__(self, make: Callable[[int], str]) -> None:
        super().__init__()
        self._make = make
        self._columns: dict[int, tuple[bytes, ...]] = {}
        # Characters are many, classes are few.
        self._same: dict[str, str] = {}

    def __missing__(self, number: int) -> tuple[str, ...]:
        plane = number >> 8
        alike = plane << 8 | _ALIKE[plane][number & 255]
        codes = range(number << 8, (number + 1) << 8)
        if alike in _IDEOGRAPHS:
            made = tuple(map(ideograph, codes))
        else:
            made = self[alike] if alike != number else tuple(map(self._make, codes))
        self[number] = tuple(self._same.setdefault(each, each) for each in made)
        return self[number]

    def columns(self, text: str) -> list[bytes] | None:
        """The first byte of each character's class, then the second, and so on; 0 if it has no
        more. None if the text has too many pages, or a class that is too long."""
        raw = text.encode("utf-32-le", "surrogatepass")
        low, high = raw[::4], raw[1::4]
        numbers = [0]
        pages = _pages(high, raw[2::4])
        for page, where in pages:
            if page in _IDEOGRAPHS:
                parts = [low.translate(_LOW), low.translate(_MIDDLE), high.translate(_HIGH)]
                parts = [b" " * len(low), *parts, b" " * len(low)]
            else:
                parts = [low.translate(column) for column in self._tables(page)]
            if where is None:
                return None if _TOO_LONG in parts[0] else parts
            numbers += [0] * (len(parts) - len(numbers))
            for index, part in enumerate(parts):
                numbers[index] |= int.from_bytes(part, "little") & where
        columns = [number.to_bytes(len(low), "little") for number in numbers]
        return columns if pages and _TOO_LONG not in columns[0] else None

    def _tables(self, number: int) -> tuple[bytes, ...]:
        """The columns of a page, with 0 where a class has ended."""
        tables = self._columns.get(number)
        if tables is None:
            tables = self._columns[number] = _columns(self[number])
        return tables


def _columns(classes: tuple[str, ...]) -> tuple[bytes, ...]:
    short = [each if len(each) <= _MOST_COLUMNS else chr(_TOO_LONG) for each in classes]
    width = max(1, *map(len, short))
    padded = [each.ljust(width, "\0").encode("latin-1") for each in short]
    return tuple(map(bytes, zip(*padded, strict=True)))


def _pages(high: bytes, planes: bytes) -> list[tuple[int, int | None]]:
    """Each page, and 0xff where the text has it; None if it has no other. None at all if they
    are too many."""
    found: list[tuple[int, bytes, int | None]] = []
    there = _distinct(planes)
    for plane in there:
        alike = high.translate(_ALIKE[plane])
        here = None if len(there) == 1 else _equal(planes, plane)
        if here is None:
            pages = _distinct(alike)
        else:
            # Also the first page, for what lies in other planes: rarely is it there as well.
            masked = int.from_bytes(alike, "little") & here
            pages = _distinct(masked.to_bytes(len(high), "little"))
        found += [(plane << 8 | page, alike, here) for page in pages]
        if len(found) > _MOST_PAGES:
            return []
    if len(found) == 1:
        return [(found[0][0], None)]
    places: list[tuple[int, int | None]] = []
    for page, alike, here in found:
        where = _equal(alike, page & 255)
        places.append((page, where if here is None else where & here))
    return places


def _equal(codes: bytes, code: int) -> int:
    table = bytes(code) + b"\xff" + bytes(255 - code)
    return int.from_bytes(codes.translate(table), "little")


def _distinct(codes: bytes) -> list[int]:
    """The values there are; more than the most pages if they are too many."""
    found = list(set(codes[:: len(codes) // 256 + 1]))
    codes = codes.translate(None, bytes(found))
    while codes and len(found) <= _MOST_PAGES:
        found.append(codes[0])
        codes = codes.translate(None, codes[:1])
    return found
