"""The rows of the self test: where a text can stand in a request and in an answer.

Those of a Response are in selftest_responses.py and selftest_places.py, those of a chat completion
in selftest_chat.py. Whoever adds a field, an item or a part enters it there;
tests/test_guard_matrix.py fails until it is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from anos.extract_readers import SCHEMA
from anos.selftest_canary import (
    BASE64,
    DATA_URL,
    FIRST,
    FORMS,
    JSON,
    PERCENT_URL,
    REST,
    TEXT,
    TOKENS,
    Json,
    halves,
    tokens,
)
from anos.selftest_matrix import strings

# The name of a row, the source of its texts, and what is sent: a part of the request in which a
# mark stands for the text. A list are several items that are sent together.
Row = tuple[Any, ...]


class Field(Struct, frozen=True):
    """Places in a request where a text stands in one form; those of one name share a row."""

    name: str
    source: str  # as in `sources` of the configuration
    bodies: tuple[Json, ...]  # with the mark `form` in each
    form: str
    upstreams: tuple[str, ...]  # the dialects that can be asked for it
    # Not the body is looked at, which is sent before and without guards, but a request for what it
    # has stored: "history" or "reference"; "answered …" where the model has said the text.
    stored: str = ""


def fields(
    conversation: str,
    upstreams: tuple[str, ...],
    beside: Iterable[Row],
    items: Iterable[Row],
) -> Iterator[Field]:
    """The rows of what is beside the field `conversation` of a request, and of what is in it."""
    bodies: dict[tuple[str, str], list[Json]] = {}
    for name, source, *parts in beside:
        asked = {conversation: [{"role": "user", "content": "Hi"}]}
        bodies.setdefault((name, source), []).extend({**asked, **part} for part in parts)
    for name, source, *parts in items:
        for said in (part if isinstance(part, list) else [part] for part in parts):
            body = {conversation: [*said, {"role": "user", "content": "Well?"}]}
            bodies.setdefault((name, source), []).append(body)
    for (name, source), those in bodies.items():
        for form in FORMS:
            if formed := tuple(body for body in those if form in {t for _, t in strings(body)}):
                yield Field(name, source, formed, form, upstreams)


class Place(Struct, frozen=True):
    """A place in the answer of an upstream that speaks `dialect`, and the form of a text there.

    `said` makes of the pieces of a text the body that says it there, and the events that do.
    """

    name: str
    dialect: str
    said: Callable[[list[str]], tuple[Json, list[Json]]]
    form: str = TEXT
    is_error: bool = False  # the answer fails, and says why


def marks(pieces: list[str]) -> Mapping[str, Any]:
    text = "".join(pieces)
    first, rest = halves(text)
    said = pieces if len(pieces) > 1 else [*filter(None, (first, rest))]
    return {TEXT: text, JSON: text, FIRST: first, REST: rest, TOKENS: tokens(said)}


# What both routes have ----------------------------------------------------------------------------

IN_A_FILE = (TEXT, BASE64, DATA_URL, PERCENT_URL)
UNKNOWN = (TEXT, [{"deep": TEXT}], {TEXT: 1})
AUDIO = {"type": "input_audio", "input_audio": {"data": TEXT, "format": "wav"}}


def said(*parts: Json, role: str = "user") -> list[Json]:
    """A message for each part."""
    return [{"role": role, "content": [part]} for part in parts]


def messages(read: str, written: str) -> Iterator[Row]:
    """The rows of plain messages; the arguments are the types of their parts."""
    sources = {"user": "user", "system": "system", "developer": "system", "assistant": "assistant"}
    for role, source in sources.items():
        part = {"type": written if role == "assistant" else read, "text": TEXT}
        whole = {"role": role, "content": TEXT}
        yield (f"message of the {role}", source, whole, *said(part, role=role))
    yield ("refusal", "assistant", *said({"type": "refusal", "refusal": TEXT}, role="assistant"))


def schemas() -> Iterator[Json]:
    """Schemas with a text in each place."""
    words: tuple[Json, ...] = (
        *({name: TEXT} for name in ("description", "title", "default", "pattern", "const")),
        *({name: [TEXT]} for name in ("enum", "examples")),
        *({name: TEXT} for name in SCHEMA),
    )
    for each in words:
        yield {"type": "object", "properties": {"q": {"type": "string", **each}}}
    yield {"type": "object", "properties": {TEXT: {"type": "string"}}}
