"""What the escapes in a text of JSON stand for, wherever the text was cut."""

import json
import re
from collections.abc import Sequence

# Two escapes for one character beyond the first 65,536 are taken together.
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[\"\\/bfnrt])"
)
_UNFINISHED = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?"
    r"|u[0-9a-fA-F]{0,3})?\Z"
)


def unescaped(text: str) -> tuple[str, Sequence[int]]:
    """`text` with its escapes resolved; where in it each character comes from, and its end."""
    if "\\" not in text:
        return text, range(len(text) + 1)
    pieces: list[str] = []
    starts: list[int] = []
    at = 0
    for escape in _ESCAPE.finditer(text):
        pieces += [text[at : escape.start()], json.loads(f'"{escape[0]}"')]
        starts += range(at, escape.start() + 1)
        at = escape.end()
    pieces.append(text[at:])
    starts += range(at, len(text) + 1)
    return "".join(pieces), starts


def unfinished(text: str) -> int:
    """The index at which an escape begins that goes on after `text`; its length if none does."""
    at = text.find("\\")
    while at >= 0 and not _UNFINISHED.match(text, at):
        escape = _ESCAPE.match(text, at)
        at = text.find("\\", escape.end() if escape else at + 2)
    return at if at >= 0 else len(text)
