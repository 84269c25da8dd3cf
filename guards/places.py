"""Where in a text is what was found in its short form, and what decides whether it counts."""

from collections.abc import Sequence

from guards import normalise
from guards.confusables import SYMBOLS

# What is spread over more text than this is no phrase: what is held back of a stream has an end.
WIDEST = 4096

# The index of a phrase (those that are allowed stand after the banned ones), start, end; before
# that the index of a form, and indexes in the short form of the text.
Found = tuple[int, int, int]
# The text around a place where a form may be; if the form does not follow from it, with its index
# and that place if it matters.
Surroundings = bytes | tuple[int, str, int | None]


def _separated(char: str) -> str:
    is_itself = char.isalnum() or char in SYMBOLS
    return char if is_itself else " " if char.isspace() else "-"


# ASCII, with one character for all separators but white space.
SEPARATED = "".join(map(_separated, map(chr, range(128)))).encode() + bytes(128)


class Places:
    """Where in a text is what was found in its short form."""

    __slots__ = ("_around", "_at", "_reach")

    def __init__(self, part: str, marks: bytes, near: Sequence[Found], reach: int) -> None:
        self._reach = reach
        self._around: str | bytes = part
        self._at: Sequence[int] | dict[int, int]
        if part.isascii():
            inner = part.encode().translate(SEPARATED) if reach == 1 else part.encode()
            # What no text has marks where the part begins and ends.
            self._around = b"\xfe" + inner + b"\xff" * reach
            if len(near) * 100 > len(marks):
                self._at = normalise.kept(marks)
                return
        needed = sorted({at for each in near for at in each[1:]})
        places = normalise.origins(part, normalise.places(marks, needed))
        self._at = dict(zip(needed, places, strict=True))

    def between(self, first: int, after: int) -> tuple[int, int]:
        """The code points from which on, and before which, the letters of the short form are."""
        at = self._at[first]
        return at, min(self._at[after], at + WIDEST)

    def around(self, near: Sequence[Found]) -> Sequence[Surroundings]:
        """All that decides what is found: the text there, one character before it, and those
        after it that matter, or where it is if these are not in the part; and the form."""
        text, places, reach = self._around, self._at, self._reach
        if isinstance(text, bytes):
            reach += 1
            return [text[places[at] : places[to] + reach] for _, at, to in near]
        last = len(text) - reach
        return [
            (form, text[at and at - 1 : to + reach], None if at and to <= last else at)
            for form, at, to in [(form, places[at], places[to]) for form, at, to in near]
        ]
