"""What phrases begin with: whether more text could still make one."""

import bisect
import itertools
import operator
from collections.abc import Iterable, Iterator

# So many letters at the start of a word decide at first whether a phrase may begin there.
HEAD = 4


class Beginnings:
    """The short forms of phrases, to be asked for what they begin with."""

    __slots__ = ("forms", "heads", "longest", "short", "words")

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

    def is_short(self, letters: bytes, at: int) -> bool:
        """Whether fewer than HEAD letters from `at` on may be all of a phrase."""
        return any(letters[at : at + size] in self.short for size in range(1, HEAD))

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
