"""What is read at each code point: lower-case letters without accents, look-alikes as the letter
they imitate."""

import unicodedata

from guards.confusables import LOOK_ALIKE, SYMBOLS, look_alike

# Stands between two parts that are searched as one text: a separator, or nothing.
JOINT = "\U0010ffff"

# Thai, Lao, Burmese, Khmer, Kana and Han are written without spaces: there every letter is an edge
# of a word, or no phrase would ever stand alone. First code point, and the one after the last.
_SPACELESS = (
    *((0x0E00, 0x0F00), (0x1000, 0x10A0), (0x1780, 0x1800), (0x3040, 0x3100), (0x3400, 0xA000)),
    *((0xF900, 0xFB00), (0x20000, 0x40000)),
)

# Of these blocks the marks are vowels, and another vowel is another word.
_VOWELS = range(0x0900, 0x1900)
# Surrogates, private use, not assigned.
_NOTHING = ("Cs", "Co", "Cn")
_HANGUL_FILLERS = "\u115f\u1160\u3164\uffa0"
_KEPT_IN_MEMORY = 20_000


class _Spelt(dict[int, str]):
    """Code point to what is read there.

    Letters and digits (several for a ligature); "" for what is not seen; " " for white space; a
    symbol that may stand for a letter as itself; "-" for all other characters.
    """

    def __missing__(self, code: int) -> str:
        spelt = spell(chr(code))
        if len(self) < _KEPT_IN_MEMORY:
            self[code] = spelt
        return spelt


def spell(char: str) -> str:
    """What SPELT says, made anew."""
    if char == JOINT:
        return JOINT
    category = unicodedata.category(char)
    if category in _NOTHING and char not in LOOK_ALIKE:
        return "-"
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


def is_spaceless(char: str) -> bool:
    """Whether it belongs to a script that is written without spaces."""
    code = ord(char)
    return code >= 0xE00 and any(start <= code < end for start, end in _SPACELESS)


SPELT = _Spelt()
