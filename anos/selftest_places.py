"""Where a text can stand in a request or an answer, and the forms it stands there in."""

import base64
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from msgspec import Struct

Json = dict[str, Any]

RESPONSES, CHAT = "responses", "chat"
TEXT = "\0"  # stands in a body, as a value or as the name of a field, where the text is put
ID = "\1"  # and where an id stands that no other request has


class Field(Struct, frozen=True):
    """Places in a request that are one row of the matrix; several of one name share it.

    In each of `bodies` TEXT stands for what `form` makes of the text. `upstreams` are the dialects
    that can be asked for it.
    """

    name: str
    source: str  # as in `sources` of the configuration
    bodies: tuple[Json, ...]
    form: str = "text"
    upstreams: tuple[str, ...] = (RESPONSES, CHAT)
    # Not the body is looked at, which is sent before and without guards, but a request for what it
    # has stored: "history" or "reference"; "answered …" where the model has said the text.
    stored: str = ""


class Place(Struct, frozen=True):
    """A place in the answer of an upstream that speaks `dialect`; None where there is none.

    `whole` makes a body that says a text there, `stream` the events that say it in pieces.
    """

    name: str
    dialect: str
    whole: Callable[[str], Json] | None
    stream: Callable[[list[str]], list[Json]] | None
    form: str = "text"
    is_error: bool = False  # the answer fails, and says why


def put(body: Any, texts: dict[str, str]) -> Any:
    """The body with a text for TEXT, and one for ID."""
    if isinstance(body, dict):
        return {put(name, texts): put(value, texts) for name, value in body.items()}
    if isinstance(body, list):
        return [put(each, texts) for each in body]
    return texts.get(body, body) if isinstance(body, str) else body


def formed(form: str, text: str, *, escaped: bool = False) -> str:
    """What stands in a body for the text; in the form "json" it may be `escaped`."""
    return _FORMS[form](text, escaped)


def escapes(text: str) -> str:
    r"""Every character as a \u escape of JSON."""
    units = text.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _json(text: str, escaped: bool) -> str:
    said = escapes(text) if escaped else json.dumps(text, ensure_ascii=False)[1:-1]
    return f'{{"q":"{said}"}}'


def _packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


_FORMS: dict[str, Callable[[str, bool], str]] = {
    "text": lambda text, _: text,
    "json": _json,
    "base64": lambda text, _: _packed(text),
    "data URL": lambda text, _: f"data:text/plain;base64,{_packed(text)}",
    "percent URL": lambda text, _: f"data:,{quote(text)}",
    # What names of functions and schemas may be made of.
    "name": lambda text, _: re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:64],
}


def halves(text: str) -> list[str]:
    """The text, cut in the middle."""
    middle = len(text) // 2
    return [text[:middle], text[middle:]]


def tokens(pieces: list[str]) -> list[Json]:
    """The pieces as logprobs have them."""
    return [{"token": each, "logprob": -1.0, "bytes": [], "top_logprobs": []} for each in pieces]
