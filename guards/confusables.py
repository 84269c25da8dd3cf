"""Which characters pass for which letter: look-alikes of other scripts, digits and symbols.

What Unicode itself relates (full-width, circled, mathematical letters, letters with accents) is
left to `unicodedata`; what has the letter in its name ("LATIN LETTER SMALL CAPITAL R", "NEGATIVE
SQUARED LATIN CAPITAL LETTER A") is read from there. Here stands the rest, drawn alike by common
fonts, sorted by the letter a reader sees.
"""

# ruff: noqa: RUF001 - to be mistaken for each other is what these characters are here for

import functools
import re
import unicodedata

_LOOK_ALIKE = {
    "a": "аαɑⲁꭺᎪᗅΑАⱯªαꓮ",
    "b": "ЬьвВβΒᏏᖯƄɃʙᗷᛒБᏴꓐ",
    "c": "сСϲϹᏟⲥꓚ¢ↄ",
    "d": "ԁᎠᗞꓒժᏧꓓ",
    "e": "еЕεΕᎬⲉєЄɛэꓰ€ҽ",
    "f": "ϝϜꓝքƒ",
    "g": "ɡցԌᏀƍꓖ",
    "h": "һНнΗᎻհⲏꓧԋᏂ",
    "i": "іІιΙӏⲓ¡ıꓲɩᎥᏆ",
    "j": "јЈϳᎫյꓙ",
    "k": "кКκΚᏦⲕꓗĸ",
    "l": "Ꮮꓡ£ʟӀǀ",
    "m": "мМΜᎷⲙꓟϻ",
    "n": "пΝոռηᴎꓠⲛ",
    "o": "оОοΟօσⲟꓳჿᎾ",
    "p": "рРρΡᏢⲣꓑ",
    "q": "ԛգզႳ",
    "r": "гᎡꓣⲅɼяᏒ",
    "s": "ѕЅՏᏚꓢʂ§Ꮥ",
    "t": "тТτΤᎢⲧꓔ†",
    "u": "υսцꓴʋ",
    "v": "νѵᏙѴꓦ",
    "w": "ԝωѡᎳԜꓪшաᏔ",
    "x": "хХχΧⲭꓫ×",
    "y": "уУγΥҮүყᎩꓬ¥ʏᎽ",
    "z": "ᏃΖꓜʐⲍ",
}

LOOK_ALIKE: dict[str, str] = {
    char: letter for letter, chars in _LOOK_ALIKE.items() for char in chars
}
# A letter and its capital must stay the same letter, or no Greek word would be found in capitals.
for _char, _letter in list(LOOK_ALIKE.items()):
    LOOK_ALIKE[_char] = LOOK_ALIKE.setdefault(_char.casefold(), _letter)

# Signs that stand for a letter, and just as often for themselves.
SYMBOLS: dict[str, str] = {"!": "il", "|": "il", "@": "a", "$": "s", "+": "t"}

LEET: dict[str, str] = SYMBOLS | {
    "0": "o",
    "1": "il",
    "2": "z",
    "3": "e",
    "4": "a",
    "5": "s",
    "6": "g",
    "7": "t",
    "8": "b",
    "9": "g",
}

_NAMED = (
    r"(?:NEGATIVE (?:CIRCLED|SQUARED) |PARENTHESIZED |TORTOISE SHELL BRACKETED "
    r"|REGIONAL INDICATOR SYMBOL |MODIFIER |LATIN |CROSSED |SMALL |CAPITAL |LETTER "
    r"|TURNED |REVERSED |INVERTED |SCRIPT |BLACKLETTER |DOTLESS |OPEN |BARRED )+"
    r"([A-Z])(?: WITH .*)?"
)
# Compiled for the first character beyond ASCII.
_compiled = functools.cache(re.compile)


def look_alike(char: str) -> str:
    """The letter a to z that one character passes for, or the character itself."""
    if letter := LOOK_ALIKE.get(char):
        return letter
    if char.isascii():
        return char
    named = _compiled(_NAMED).fullmatch(unicodedata.name(char, ""))
    return named[1].lower() if named else char
