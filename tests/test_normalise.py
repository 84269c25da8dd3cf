"""The short form that texts are searched in, made fast and made simply."""

import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from guards import normalise
from guards.letters import SPELT, is_letter

# Of each kind: scripts, what is not seen, what is several letters, ideographs, nothing at all.
_PAGES = [
    *(0x00, 0x01, 0x03, 0x04, 0x06, 0x09, 0x0E, 0x1E, 0x20, 0x21, 0x24, 0x30, 0x33, 0x4D, 0x4E),
    *(0x9F, 0xAC, 0xD7, 0xD8, 0xE0, 0xFB, 0xFD, 0xFF, 0x1D4, 0x1F6, 0x200, 0x2A6, 0x300, 0x313),
    *(0x500, 0xE00, 0xE01, 0xF00, 0x10FF),
]


def _one_by_one(text: str) -> bytes:
    return b"".join(map(normalise.classes, text))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 40), st.integers(1, 300))
def test_a_text_has_the_classes_of_its_characters(seed: int, pages: int, length: int) -> None:
    pick = random.Random(seed)
    some = pick.choices(_PAGES, k=pages)
    text = "".join(chr(pick.choice(some) << 8 | pick.randrange(256)) for _ in range(length))
    seen = normalise.classes(text)
    assert seen == _one_by_one(text)
    widths = [len(normalise.classes(char)) for char in text]
    whole = [at for at, width in enumerate(widths) for _ in range(width)] + [len(text)]
    assert list(normalise.origins(text, range(len(whole)))) == whole


def test_every_character_has_a_class_like_what_is_read() -> None:
    for number in [*range(0x320), *range(0x320, 0x1100, 19), 0x10FF]:
        text = "".join(map(chr, range(number << 8, (number + 1) << 8)))
        assert normalise.classes(text) == _one_by_one(text)
        for char in text if number < 0x30 else text[::8]:
            letters = [each for each in SPELT[ord(char)] if is_letter(each)]
            seen = normalise.classes(char).replace(b" ", b"")
            assert bool(letters) == seen.isalpha() or char in "!|@$+"


_READING = st.lists(st.sampled_from([*"abcz ", "bb", "  ", "a a"]), max_size=400).map("".join)


@settings(max_examples=300, deadline=None)
@given(_READING, st.integers(1, 30))
def test_the_short_form_is_that_of_runs_of_letters(text: str, times: int) -> None:
    seen = (text * times).encode()
    runs, at = [], 0
    for char, run in itertools.groupby(seen):
        if char != 32:
            runs.append((at, char))
        at += len(list(run))
    marks = normalise.marked(seen)
    starts = [at for at, _ in runs]
    assert normalise.squeezed(marks) == bytes(char for _, char in runs)
    assert normalise.kept(marks) == [*starts, len(seen)]
    assert normalise.places(marks, range(len(starts) + 1)) == [*starts, len(seen)]
    some = range(0, len(starts) + 1, 97)
    assert normalise.places(marks, some) == [[*starts, len(seen)][index] for index in some]
    is_head = [at == 0 or seen[at - 1] == 32 for at in starts]
    assert normalise.heads(seen, marks) == bytes([*is_head, True])


@settings(max_examples=300, deadline=None)
@given(st.text("ab!|@$+ \u00e9", max_size=40), st.booleans())
def test_read_gives_the_classes_and_the_readings_of_them(text: str, is_whole: bool) -> None:
    seen = normalise.classes(text)
    read = normalise.read(text, is_whole=is_whole)
    assert read == (seen, normalise.readings(seen, is_whole=is_whole))
