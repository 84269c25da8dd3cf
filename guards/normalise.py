"""Text with its disguise taken off: which letters a reader sees, and a short form to search in.

Two forms. `SPELT` gives, code point by code point, what is read: lower-case letters without
accents, look-alikes as the letter they imitate. `classes` gives a whole text as ASCII bytes, one
letter for all that can stand for each other: an approximation that costs nanoseconds a character,
finds every occurrence and some that are none; the exact check is done on what `SPELT` says.
"""

import itertools
import math
import re
import unicodedata

from guards.confusables import LEET, SYMBOLS, look_alike

# Stands between two parts that are searched as one text: a separator, or nothing.
JOINT = "\U0010ffff"

# Thai, Lao, Burmese, Khmer, Kana and Han are written without spaces: there every letter is an edge
# of a word, or no phrase would ever stand alone.
SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)

# Of these blocks the marks are vowels, and another vowel is another word.
_VOWELS = range(0x0900, 0x1900)
_HANGUL_FILLERS = "\u115f\u1160\u3164\uffa0"
_KEPT_IN_MEMORY = 20_000
_MOST_FORMS = 16
_REPEAT = re.compile(rb"([a-z])\1+")

# No letter has the class "l" (that of i is the same), so that it can stand for "no phrase goes on".
DEAD = "l"
# A letter that no phrase has: what goes before the text is a word that goes on in it.
OUTSIDE = "\ua66e"
_HASHED = "abcdefghijkmnopqrstuvwxyz"


class _Spelt(dict[int, str]):
    """Code point to what is read there.

    Letters and digits (several for a ligature); "" for what is not seen; " " for white space; a
    symbol that may stand for a letter as itself; "-" for all other characters.
    """

    def __missing__(self, code: int) -> str:
        spelt = _spell(chr(code))
        if len(self) < _KEPT_IN_MEMORY:
            self[code] = spelt
        return spelt


class _Classes(dict[int, str]):
    """Code point to its classes, for `str.translate`; ASCII is left for `bytes.translate`."""

    def __missing__(self, code: int) -> str:
        classes = chr(code) if code < 128 else "".join(map(_class, SPELT[code]))
        if len(self) < _KEPT_IN_MEMORY:
            self[code] = classes
        return classes


def _spell(char: str) -> str:
    if char == JOINT:
        return JOINT
    if _is_unseen(char):
        return ""
    letters = look_alike(char)
    if letters == char:
        folded = unicodedata.normalize("NFKC", char).casefold()
        letters = "".join(map(_bare, unicodedata.normalize("NFKC", folded)))
    if not letters:
        return "-"
    return "".join(map(_sign, letters))


def _is_unseen(char: str) -> bool:
    category = unicodedata.category(char)
    if category in ("Mn", "Me"):
        return ord(char) not in _VOWELS and char not in "\u3099\u309a"
    return (category == "Cf" and char not in "\u0600\u06dd") or char in _HANGUL_FILLERS


def _bare(char: str) -> str:
    """The letter without its accents, as the letter it looks like."""
    parts = unicodedata.normalize("NFD", char)
    is_accented = len(parts) > 1 and all(map(_is_unseen, parts[1:]))
    return look_alike(parts[0] if is_accented else char)


def _sign(char: str) -> str:
    if char.isalnum() or char in SYMBOLS or unicodedata.category(char)[0] == "M":
        return char
    return " " if char.isspace() else "-"


def is_letter(spelt: str) -> bool:
    """Whether it belongs to a word; `spelt` is one character of what SPELT gives."""
    return spelt.isalnum() or unicodedata.category(spelt)[0] == "M"


def _class(char: str) -> str:
    if char < "\x80":
        return _ASCII[ord(char)]
    if SPACELESS.match(char):
        code = ord(char)
        return " " + "".join(_HASHED[code // step % 25] for step in (1, 25, 625)) + " "
    if char == OUTSIDE:
        return DEAD
    return _HASHED[ord(char) % 25] if is_letter(char) else " "


def _ascii_class(code: int) -> str:
    letter = LEET.get(char := chr(code), char.lower())[0]
    if char in SYMBOLS:
        return char
    return letter.replace("l", "i") if letter.isalnum() else " "


_ASCII = [_ascii_class(code) for code in range(128)]
TO_CLASS = "".join(_ASCII).encode() + bytes(128)
SPELT = _Spelt()
CLASSES = _Classes()

_SIGNS = "".join(SYMBOLS).encode()
_MOSTLY_SIGNS = b"|+"
_SIGN_LETTERS = b"".join([_ASCII[ord(LEET[sign][0])].encode() for sign in SYMBOLS])
_AS_LETTERS = bytes.maketrans(_SIGNS, _SIGN_LETTERS)


def _without(signs: bytes) -> bytes:
    return bytes.maketrans(signs, b" " * len(signs))


_NO_SIGNS, _FEWER_SIGNS = _without(_SIGNS), _without(_MOSTLY_SIGNS)


def classes(text: str) -> bytes:
    """The classes of a text's letters, spaces for separators; symbols are left as they are."""
    if text.isascii():
        return text.encode().translate(TO_CLASS)
    return text.translate(CLASSES).encode().translate(TO_CLASS)


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


def origins(text: str, indexes: list[int]) -> list[int]:
    """The code points of `text` that the given bytes of `classes(text)` come from."""
    if text.isascii():
        return indexes
    widths = [len(CLASSES[code]) for code in map(ord, text)]
    each = map(itertools.repeat, range(len(text)), widths)
    whole = [*itertools.chain.from_iterable(each), len(text)]
    return [whole[index] for index in indexes]


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


def ways_apart(seen: bytes) -> list[list[bytes]]:
    """The pieces of short `classes` for each way to read its symbols; as letters each is one."""
    ways = [seen.translate(_NO_SIGNS).split()]
    for way in (seen, seen.translate(_FEWER_SIGNS)):
        apart = way
        for sign, letter in zip(_SIGNS, _SIGN_LETTERS, strict=True):
            if sign in apart:
                apart = apart.replace(bytes([sign]), b" %c " % letter)
        ways.append(apart.split())
    return ways


def without_repeats(seen: bytes) -> bytes:
    """Short `classes` with every letter that is repeated written once."""
    return _REPEAT.sub(rb"\1", seen)


_SEVENS = [int.from_bytes(b"\x7f" * (1 << size), "little") for size in range(18)]
_HIGHS = [int.from_bytes(b"\x80" * (1 << size), "little") for size in range(18)]


def marked(reading: bytes) -> bytes:
    """`reading`, at most 128 KiB, with the high bit set where a byte differs from the one before,
    and a byte more.

    As arithmetic on one large number: all bytes at once, a tenth of the time of a regular
    expression.
    """
    number = int.from_bytes(reading, "little")
    scale = len(reading).bit_length()
    # No byte reaches 0x80, so that adding 0x7f carries into the high bit only where it is not 0.
    differs = ((number ^ (number << 8)) + _SEVENS[scale]) & _HIGHS[scale]
    return (number ^ differs).to_bytes(len(reading) + 1, "little")


# Of what `marked` gives only the letters that begin a run are kept, which are small ones.
_DROPPED = bytes(range(0xE1))
_IS_KEPT = bytes(0xE1) + bytes([1]) * (256 - 0xE1)
_TO_LETTER = bytes(code & 0x7F for code in range(256))
# Beside a word: what `bytes.title` leaves large, and symbols.
_IS_HEAD = bytes(not 97 <= code <= 122 for code in range(256))


def squeezed(marks: bytes) -> bytes:
    """The letters of `marked` without repeats and separators."""
    return marks.translate(_TO_LETTER, _DROPPED)


def heads(seen: bytes, marks: bytes) -> bytes:
    """For each byte of `squeezed`, and its end, whether a word may begin there: 1, or 0."""
    flags = seen.title().translate(_IS_HEAD)
    return bytes(itertools.compress(flags, marks.translate(_IS_KEPT))) + b"\1"


def kept(marks: bytes) -> list[int]:
    """The index in `marked` of each byte of `squeezed`, and of its end."""
    return [*itertools.compress(range(len(marks)), marks.translate(_IS_KEPT)), len(marks) - 1]
