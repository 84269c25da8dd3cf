"""What is read at each code point: lower-case letters without accents, look-alikes as the letter
they imitate."""

import functools
import re
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
# What Unicode calls default ignorable: it has no width. As a class of a regular expression.
IGNORABLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Nobody sees them, but a model reads them as the letters of ASCII.
_TAGS = "\U000e0020-\U000e007e"
_AS_ASCII = {0xE0000 + code: code for code in range(0x20, 0x7F)}
# In UTF-8 all of them begin with these bytes, and what else does is not used for anything.
_BYTES_OF_TAGS = b"\xf3\xa0"
# In text of fewer characters an expression finds them sooner.
_SHORT = 256
_compiled = functools.cache(re.compile)
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
    if _is_unseen(char):
        return ""
    if unicodedata.category(char) in _NOTHING and char not in LOOK_ALIKE:
        return "-"
    letters = look_alike(char)
    if letters == char:
        folded = unicodedata.normalize("NFKC", char).casefold()
        letters = "".join(map(_bare, unicodedata.normalize("NFKC", folded)))
    if not letters:
        return "-"
    return "".join(map(_sign, letters))


def _is_unseen(char: str) -> bool:
    if _compiled(f"[{IGNORABLE}]").match(char):
        return True
    category = unicodedata.category(char)
    if category in ("Mn", "Me"):
        return ord(char) not in _VOWELS and char not in "\u3099\u309a"
    return category == "Cf" and char not in "\u0600\u06dd"


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


def stands_apart(char: str) -> bool:
    """Whether it is a word by itself, besides a part of one."""
    return is_spaceless(char) or is_raised(char)


@functools.lru_cache(4096)
def is_raised(char: str) -> bool:
    """Whether it is set above or below the line, or in a circle: a trade mark, the number of a
    note."""
    kind = unicodedata.decomposition(char).partition(" ")[0]
    is_number = unicodedata.category(char) == "No"
    return kind in ("<super>", "<sub>") or (kind == "<circle>" and is_number)


def has_tags(text: str) -> bool:
    """Whether there may be a tag, the unseen twin of a character of ASCII."""
    if len(text) < _SHORT:
        return bool(_compiled(f"[{_TAGS}]").search(text))
    return not text.isascii() and _BYTES_OF_TAGS in text.encode("utf-8", "surrogatepass")


def tags_of(text: str) -> str:
    """What the tags in a text say, each where it stands, with separators in all other places."""
    dashes: str = _compiled(f"[^{_TAGS}]+").sub(lambda others: "-" * len(others[0]), text)
    return dashes.translate(_AS_ASCII)


SPELT = _Spelt()
