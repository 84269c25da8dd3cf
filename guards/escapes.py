"""What the escapes in a text of JSON stand for, wherever the text was cut."""

import functools
import re
from collections.abc import Sequence

from guards.turns import Turns, at_once

# Two escapes for one character beyond the first 65,536 are taken together.
_ESCAPE = (
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[\"\\/bfnrt])"
)
_UNFINISHED = (
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?"
    r"|u[0-9a-fA-F]{0,3})?\Z"
)
_SHORT = (*zip("/bfnrt", "/\b\f\n\r\t", strict=True), ('"', '"'))
# So many escapes are a turn.
_TURN = 16_384
# Compiled when there is an escape: it takes a millisecond.
_compiled = functools.cache(re.compile)


def plain(text: str) -> str:
    """`text` with its escapes resolved; what is no escape stays as it is."""
    if "\\" not in text:
        return text
    # Whole texts are replaced, as a call for each escape takes twenty times as long.
    stand_in = next((char for char in "\0\1\ud800\udfff\ufffe" if char not in text), None)
    if stand_in is None:
        return re.sub(_ESCAPE, lambda escape: _string(escape[0]), text)
    plain = text.replace("\\\\", stand_in)
    for escape, char in _SHORT:
        plain = plain.replace("\\" + escape, char)
    if "\\u" not in plain:
        return plain.replace(stand_in, "\\")
    plain = plain.replace("\\", "\\\\").replace("\\\\u", "\\u").replace('"', '\\"')
    plain = _compiled(r"\\u(?![0-9a-fA-F]{4})").sub(r"\\\\u", plain)
    return _string(plain.replace(stand_in, "\\\\"))


def _string(inside: str) -> str:
    import json

    text: str = json.loads(f'"{inside}"', strict=False)
    return text


def origins(text: str, indexes: Sequence[int]) -> list[int]:
    """Where in `text` the characters of `plain(text)` come from; `indexes` in order."""
    return at_once(tracing(text, indexes))


def tracing(text: str, indexes: Sequence[int]) -> Turns[list[int]]:
    """As `origins`, in turns."""
    places: list[int] = []
    removed = count = 0
    for number, escape in enumerate(_compiled(_ESCAPE).finditer(text), 1):
        before = escape.start() - removed
        while count < len(indexes) and indexes[count] <= before:
            places.append(indexes[count] + removed)
            count += 1
        if count == len(indexes):
            break
        removed += escape.end() - escape.start() - 1
        if number % _TURN == 0:
            yield
    return places + [index + removed for index in indexes[count:]]


def unescaped(text: str) -> tuple[str, Sequence[int]]:
    """`text` with its escapes resolved; where in it each character comes from, and its end."""
    if "\\" not in text:
        return text, range(len(text) + 1)
    starts: list[int] = []
    at = 0
    for escape in _compiled(_ESCAPE).finditer(text):
        starts += range(at, escape.start() + 1)
        at = escape.end()
    starts += range(at, len(text) + 1)
    return plain(text), starts


def unfinished(text: str) -> int:
    """The index at which an escape begins that goes on after `text`; its length if none does."""
    at = text.find("\\")
    while at >= 0 and not _compiled(_UNFINISHED).match(text, at):
        escape = _compiled(_ESCAPE).match(text, at)
        at = text.find("\\", escape.end() if escape else at + 2)
    return at if at >= 0 else len(text)
