"""What phrases begin with: whether more text could still make one."""

import bisect
import itertools
import operator
from collections.abc import Iterable, Iterator

from guards.normalise import TO_CLASS, without_repeats

# So many letters at the start of a word decide at first whether a phrase may begin there.
HEAD = 4
# So many words are remembered, which takes some megabytes, none that is longer than that.
_MOST_STEPS, LONGEST_STEP = 16_384, 48


class Beginnings:
    """The short forms of phrases, to be asked for what they begin with."""

    __slots__ = ("_letters", "clear", "forms", "heads", "longest", "short", "steps", "words")

    def __init__(self, spaced: Iterable[bytes]) -> None:
        """`spaced`: the forms with spaces between their words."""
        words: set[bytes] = set()
        forms: set[bytes] = set()
        for form in spaced:
            *begun, whole = itertools.accumulate(form.split())
            words.update(begun)
            forms.add(whole)
        self.forms = sorted(forms)
        # What can be followed by white space even if it is not spelt out letter by letter.
        self.words = words | forms
        self.longest = max(map(len, self.forms), default=0)
        starts = {form[:HEAD] for form in self.forms}
        # Forms shorter than that, which end before it.
        shorter = [form for form in self.forms if len(form) < HEAD]
        self.short = frozenset(itertools.chain.from_iterable(map(_repeated, shorter)))
        # Up to HEAD letters as they stand in a text, where they may be repeated.
        self.heads = frozenset(itertools.chain.from_iterable(map(_repeated, starts)))
        # What a scanner of streams holds after a word, with the space that ends it or still open,
        # behind what it held before; and the words after which, and a space, that is nothing.
        self.steps: dict[str, str] = {"": ""}
        self.clear: set[str] = set()

        self._letters: dict[str, bytes] = {}

    def remember(self, chunk: str, held: str) -> None:
        """Keep in `steps` what is held after a text; of very many only the latest."""
        if len(self.steps) >= _MOST_STEPS:
            self.steps.clear()
            self.steps[""] = ""
        self.steps[chunk] = held
        if not held and chunk.find(" ") == len(chunk) - 1:
            self.note_clear(chunk[:-1])

    def note_clear(self, word: str) -> None:
        """Keep in `clear` that nothing is held after a word; of very many only the latest."""
        if len(self.clear) >= _MOST_STEPS:
            self.clear.clear()
        self.clear.add(word)

    def is_foreign(self, word: str) -> bool:
        """Whether no form begins with a word's first letters; False also if that is not clear."""
        letters = word.encode().translate(TO_CLASS).strip() if word.isascii() else b""
        is_head = letters[:HEAD] in self.heads or (bool(self.short) and self.is_short(letters, 0))
        return letters.isalpha() and not is_head

    def letters_of(self, word: str) -> bytes:
        """The letters of a word as they are in forms; b"" if it is not one, or not all letters."""
        letters = self._letters.get(word)
        if letters is None:
            pieces = word.encode().translate(TO_CLASS).split() if word.isascii() else []
            is_word = len(pieces) == 1 and pieces[0].isalpha()
            letters = without_repeats(pieces[0]) if is_word else b""
            if len(self._letters) >= _MOST_STEPS:
                self._letters.clear()
            if len(word) <= LONGEST_STEP:
                self._letters[word] = letters
        return letters

    def is_short(self, letters: bytes, at: int) -> bool:
        """Whether fewer than HEAD letters from `at` on may be all of a phrase."""
        short = self.short
        return (
            bool(short)
            and (  # a loop would take twice as long
                letters[at : at + 1] in short
                or letters[at : at + 2] in short
                or letters[at : at + 3] in short
            )
        )

    def first_of(self, letters: bytes) -> bytes | None:
        """A form that begins with `letters`, or is the same."""
        at = bisect.bisect_left(self.forms, letters)
        is_there = at < len(self.forms) and self.forms[at].startswith(letters)
        return self.forms[at] if is_there else None

    def open(self, letters: bytes, heads: bytes) -> Iterator[int]:
        """The indexes in `letters`, among those marked in `heads`, at which a form may begin that
        is not complete or ends where they end."""
        for at in range(max(len(letters) - self.longest, 0), len(letters)):
            is_near = heads[at] and letters[at : at + HEAD] in self.heads
            if is_near and self.first_of(letters[at:]) is not None:
                yield at


# For a number of letters how often each may be written, with at most HEAD in all.
_TIMES = [
    [each for each in itertools.product(range(1, HEAD + 1), repeat=size) if sum(each) <= HEAD]
    for size in range(HEAD + 1)
]


def _repeated(start: bytes) -> Iterator[bytes]:
    letters = [start[at : at + 1] for at in range(len(start))]
    for size in range(1, len(start) + 1):
        for times in _TIMES[size]:
            yield b"".join(map(operator.mul, letters, times))
