"""Which words of a text are surely no part of a phrase, where much in it looks like one.

White space beside a piece of more than two letters is no disguise (see `spelling`): if it stands on
both sides, the piece is a whole word of a phrase, or no part of one.
"""

from collections.abc import Callable, Collection, Mapping
from unicodedata import is_normalized

from guards import normalise, spelling
from guards.places import SEPARATED
from guards.spelling import Spelling

# A piece of more letters is not spelt out.
_SPELT_OUT = 2
# Stands for each character of a word that is no part of a phrase.
_BLANK = "\x7f"
_BLANKED = SEPARATED[: ord(_BLANK)] + bytes([normalise.BLANK]) * 129
# More separators than there are in a gap of a phrase.
_GAP = b"-%c%c-" % (normalise.BLANK, normalise.BLANK)

_WITH_DASHES = bytes(
    kind if kind != ord(" ") or code == kind else ord("-")
    for code, kind in enumerate(normalise.TO_CLASS)
)
_WITHOUT_MARKS = bytes(code & 0x7F for code in range(256))
_REPEATED = bytes(range(0x81))


class Words:
    """The words of phrases."""

    __slots__ = ("_forms", "_longest", "_several", "_spelling")

    def __init__(
        self, forms: Mapping[bytes, list[int]], spelling: Callable[[int], Spelling]
    ) -> None:
        """`forms`: without spaces, and which phrases have them."""
        self._forms = forms
        self._spelling = spelling
        # The words of phrases of several words, in their short forms.
        self._several: set[bytes] = set()
        self._longest = 0

    def add(self, form: bytes, index: int, text: str) -> None:
        """A phrase in one of its forms, with spaces between its words."""
        self._longest = max(self._longest, len(form))
        if b" " not in form:
            return
        self._several.update(form.split())
        # There the letters of one word may be apart in the form: "x\u00b2".
        if not (text.isascii() or is_normalized("NFKC", text)):
            for word in self._spelling(index).words:
                self._several.update(each.replace(b" ", b"") for each in normalise.forms(word))

    def read(self, text: str, *, is_whole: bool) -> tuple[bytes, list[bytes]]:
        """As `normalise.read` of a text of ASCII, without the words that are no part of a phrase;
        every other character is where it was."""
        text = text.replace(_BLANK, "\1")
        for white in "\n\t\r":
            text = text.replace(white, " ")
        words = text.split(" ")
        others, small = self._others({*words[1:-1]} - {""})
        blanks = {word: _BLANK * len(word) for word in others}
        # The text may begin and end within a word; but what is too long is no part of a phrase.
        for edge in (0, -1):
            letters = _letters(words[edge]).strip(b"-")
            if len(letters) > self._longest and letters.isalpha():
                words[edge] = _BLANK * len(words[edge])
        words[1:-1] = map(blanks.get, words[1:-1], words[1:-1])
        blanked = " ".join(words)
        for word in small:
            alone, blank = f"{_BLANK} {word} {_BLANK}", _BLANK * len(word)
            blanked = blanked.replace(alone, f"{_BLANK} {blank} {_BLANK}")
        ascii = blanked.encode().translate(_BLANKED).replace(b"----", _GAP)
        return normalise.read_ascii(ascii, is_whole=is_whole)

    def _others(self, words: Collection[str]) -> tuple[list[str], list[str]]:
        """Those of the words that are no part of a phrase, and those that are none if they stand
        between two of these, and look like one."""
        others: list[str] = []
        small: list[str] = []
        # All at once takes a tenth of the time.
        for word, letters in zip(words, _letters(" ".join(words)).split(b" "), strict=False):
            letters = letters.strip(b"-")
            if not letters.isalpha():
                continue
            if len(letters) > _SPELT_OUT:
                if letters not in self._several and not self._is_one(word, letters):
                    others.append(word)
            elif letters in self._forms and not self._is_one(word, letters):
                small.append(word)
        return others, small

    def _is_one(self, word: str, letters: bytes) -> bool:
        """Whether it is a phrase of one word; `letters`: its short form."""
        if letters not in self._forms:
            return False
        start = next(at for at, char in enumerate(word) if char.isalnum())
        return any(
            spelling.find(self._spelling(index), word, start, len(word), is_whole=True)
            for index in self._forms[letters]
        )


def _letters(text: str) -> bytes:
    """The short form of a text of ASCII; other signs within it as dashes, symbols as they are."""
    marks = normalise.marked(text.encode().translate(_WITH_DASHES))
    return marks.translate(_WITHOUT_MARKS, _REPEATED)
