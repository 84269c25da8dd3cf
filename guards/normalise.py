"""Text with its disguise taken off: a short form to search in.

`classes` gives a whole text as ASCII bytes, one letter for all that can stand for each other: an
approximation that costs nanoseconds a character, finds every occurrence and some that are none; the
exact check is done on what `letters.SPELT` says, code point by code point.
"""

import bisect
import functools
import itertools
import math
import re
from collections.abc import Iterable, Sequence

from guards.confusables import LEET, SYMBOLS
from guards.letters import JOINT as JOINT
from guards.letters import is_letter, is_raised, is_spaceless, spell
from guards.pages import Pages, ideograph, letter

_MOST_FORMS = 16
_REPEAT = re.compile(rb"([a-z])\1+")

# No letter has the class "l" (that of i is the same), so that it can stand for "no phrase goes on".
DEAD = "l"
# A letter that no phrase has: what goes before the text is a word that goes on in it.
OUTSIDE = "\ua66e"
# Text of fewer characters is translated one by one.
_SHORT = 64
# So many are taken together where the whole has too many pages.
_CUT = 1024


def _classes_of(code: int) -> str:
    char = chr(code)
    return class_of_all(char, spell(char))


def class_of_all(char: str, spelt: str) -> str:
    """The classes of all that is read at a character."""
    classes = "".join(map(class_of, spelt))
    return f" {classes} " if classes.strip() and is_raised(char) else classes


def class_of(char: str) -> str:
    """The class of one character that is read."""
    if char < "\x80":
        return _ASCII[ord(char)]
    if is_spaceless(char):
        return ideograph(ord(char))
    if char == OUTSIDE:
        return DEAD
    return letter(ord(char)) if is_letter(char) else " "


def _ascii_class(code: int) -> str:
    letter = LEET.get(char := chr(code), char.lower())[0]
    if char in SYMBOLS:
        return char
    return letter.replace("l", "i") if letter.isalnum() else " "


_ASCII = [_ascii_class(code) for code in range(128)]
# Among bytes of ASCII: what is no part of a phrase.
BLANK = 0xFF
TO_CLASS = "".join(_ASCII).encode() + bytes(127) + DEAD.encode()
_PAGES = Pages(_classes_of)

_SIGNS = "".join(SYMBOLS).encode()
_MOSTLY_SIGNS = b"|+"
_SIGN_LETTERS = b"".join([_ASCII[ord(LEET[sign][0])].encode() for sign in SYMBOLS])
_AS_LETTERS = bytes.maketrans(_SIGNS, _SIGN_LETTERS)


def _without(signs: bytes) -> bytes:
    return bytes.maketrans(signs, b" " * len(signs))


_TO_LETTER = bytes(code & 0x7F for code in range(256))
# As TO_CLASS, but a symbol has the high bit: whether there is one shows at a glance.
_TO_CLASS_OR_SIGN = bytes(code | 0x80 if code in _SIGNS else code for code in TO_CLASS)
_IS_THERE = b"\0" + b"\1" * 255
_NO_SIGNS, _FEWER_SIGNS = _without(_SIGNS), _without(_MOSTLY_SIGNS)


def classes(text: str) -> bytes:
    """The classes of a text's letters, spaces for separators; symbols are left as they are."""
    if text.isascii():
        return text.encode().translate(TO_CLASS)
    columns = _PAGES.columns(text) if len(text) > _SHORT else None
    if columns is None:
        if len(text) > _CUT:
            return b"".join(map(classes, _pieces(text)))
        return "".join(_each_class(text)).encode()
    if len(columns) == 1:
        return columns[0].translate(None, b"\0")
    joined = bytearray(len(columns) * len(text))
    for index, column in enumerate(columns):
        joined[index :: len(columns)] = column
    return bytes(joined.translate(None, b"\0"))


def _pieces(text: str) -> list[str]:
    """Each may have few enough pages, even if all of it has not."""
    return [text[at : at + _CUT] for at in range(0, len(text), _CUT)]


def _each_class(text: str) -> list[str]:
    pages = _PAGES
    return [pages[code >> 8][code & 255] for code in map(ord, text)]


def read(text: str, *, is_whole: bool) -> tuple[bytes, list[bytes]]:
    """The classes of a text, and the ways to read its symbols."""
    if not text.isascii():
        seen = classes(text)
        return seen, readings(seen, is_whole=is_whole)
    return read_ascii(text.encode(), is_whole=is_whole)


def read_ascii(text: bytes, *, is_whole: bool) -> tuple[bytes, list[bytes]]:
    """As `read`; a BLANK stands for what is no part of a phrase."""
    seen = text.translate(_TO_CLASS_OR_SIGN)
    if seen.isascii():
        return seen, [seen]
    seen = seen.translate(_TO_LETTER)
    return seen, readings(seen, is_whole=is_whole)


def readings(found: bytes, *, is_whole: bool) -> list[bytes]:
    """The ways to read the symbols in `classes`: as separators, as letters, only some as letters.

    An exclamation mark before a separator, or at the end of a whole text, is punctuation.
    """
    if 33 in found:
        found = found.replace(b"! ", b"  ")
        if is_whole and found.endswith(b"!"):
            found = found[:-1] + b" "
    signs = [sign for sign in _SIGNS if sign in found]
    if not signs:
        return [found]
    ways = [found.translate(_NO_SIGNS), found.translate(_AS_LETTERS)]
    if len(signs) > 1 and any(sign in _MOSTLY_SIGNS for sign in signs):
        ways.append(found.translate(_FEWER_SIGNS).translate(_AS_LETTERS))
    return ways


def origins(text: str, indexes: Sequence[int]) -> Sequence[int]:
    """The code points of `text` that the given bytes of `classes(text)` come from."""
    if text.isascii():
        return indexes
    ends = list(itertools.accumulate(_widths(text)))
    return [bisect.bisect_right(ends, index) for index in indexes]


def _widths(text: str) -> Iterable[int]:
    """How many bytes of `classes(text)` each of its characters is."""
    columns = _PAGES.columns(text) if len(text) > _SHORT else None
    if columns is None:
        if len(text) > _CUT:
            return itertools.chain.from_iterable(map(_widths, _pieces(text)))
        return map(len, _each_class(text))
    counts = [column.translate(_IS_THERE) for column in columns]
    total = sum(int.from_bytes(count, "little") for count in counts)
    return total.to_bytes(len(text), "little")


def forms(phrase: str) -> list[bytes]:
    """How a text that is this phrase may look when `squeezed`, but with its spaces.

    Several, as a doubled letter stays doubled where a separator stands between the two. Of very
    many only the shortest and the longest. Blank if the phrase has no letter.
    """
    pieces = b" ".join(classes(phrase).translate(_NO_SIGNS).split())
    if not _REPEAT.search(pieces):
        return [pieces]
    spread, at = [], 0
    for run in _REPEAT.finditer(pieces):
        spread.append([pieces[at : run.start()]])
        spread.append([run[1] * times for times in range(1, len(run[0]) + 1)])
        at = run.end()
    spread.append([pieces[at:]])
    if math.prod(map(len, spread)) > _MOST_FORMS:
        spread = [[b"".join([choices[pick] for choices in spread]) for pick in (0, -1)]]
    return [b"".join(form) for form in itertools.product(*spread)]


# By size in bytes: 0x7f and 0x80 in each.
_CONSTANTS: dict[int, tuple[int, int]] = {}
_SMALL = 256


def _constants(size: int) -> tuple[int, int]:
    pair = _CONSTANTS[size] = (
        int.from_bytes(b"\x7f" * size, "little"),
        int.from_bytes(b"\x80" * size, "little"),
    )
    return pair


def marked(reading: bytes) -> bytes:
    """`reading` with the high bit set where a byte differs from the one before, and a byte more.

    As arithmetic on one large number: all bytes at once, a tenth of the time of a regular
    expression.
    """
    size = len(reading)
    if size < _SMALL:
        wide = _SMALL
    else:  # so that there are few constants, and none is much larger than needed
        scale = size.bit_length() - 3
        wide = ((size >> scale) + 1) << scale
    sevens, highs = _CONSTANTS.get(wide) or _constants(wide)
    number = int.from_bytes(reading, "little")
    # No byte reaches 0x80, so that adding 0x7f carries into the high bit only where it is not 0.
    differs = ((number ^ (number << 8)) + sevens) & highs
    return (number | differs).to_bytes(size + 1, "little")


# Of what `marked` gives only the letters that begin a run are kept, which are small ones.
_DROPPED = bytes(range(0xE1))
_IS_KEPT = bytes(0xE1) + b"\xff" * (256 - 0xE1)
# Beside a word: what `bytes.title` leaves large, and symbols.
_IS_HEAD = bytes(1 if 97 <= code <= 122 else 2 for code in range(256))
_TO_HEAD = b"\0\0\1" + bytes(253)


def squeezed(marks: bytes) -> bytes:
    """The letters of `marked` without repeats and separators."""
    return marks.translate(_TO_LETTER, _DROPPED)


def heads(seen: bytes, marks: bytes) -> bytes:
    """For each byte of `squeezed`, and its end, whether a word may begin there: 1, or 0."""
    flags = int.from_bytes(seen.title().translate(_IS_HEAD), "little")
    flags &= int.from_bytes(marks.translate(_IS_KEPT), "little")
    return flags.to_bytes(len(marks), "little").translate(_TO_HEAD, b"\0") + b"\1"


# Counting up makes new numbers; with those that are there it takes half the time.
_MOST_COUNTED = 41_000
_PIECE = 256


@functools.cache
def _counted() -> list[int]:
    return list(range(_MOST_COUNTED))


def places(marks: bytes, indexes: Sequence[int]) -> Sequence[int]:
    """The index in `marked` of the given bytes of `squeezed`, which are in order."""
    if len(indexes) * _PIECE > len(marks):
        everywhere = kept(marks)
        return [everywhere[index] for index in indexes]
    found: list[int] = []
    begins = 0
    # Counted is piece by piece, looked at only where there is one of them.
    for start in range(0, len(marks), _PIECE):
        if len(found) == len(indexes):
            break
        piece = marks[start : start + _PIECE]
        ends = begins + len(piece.translate(None, _DROPPED))
        if indexes[len(found)] < ends:
            inner = kept(piece)
            until = bisect.bisect_left(indexes, ends)
            found += [start + inner[index - begins] for index in indexes[len(found) : until]]
        begins = ends
    return found + [len(marks) - 1] * (len(indexes) - len(found))


def kept(marks: bytes) -> list[int]:
    """The index in `marked` of each byte of `squeezed`, and of its end."""
    size = len(marks)
    numbers = _counted() if 1000 < size <= _MOST_COUNTED else range(size)
    return [*itertools.compress(numbers, marks.translate(_IS_KEPT)), size - 1]
