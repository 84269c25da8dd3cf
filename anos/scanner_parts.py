"""What the scanner of a stream works on: texts that grow, events that wait, their dialects."""

from typing import Any, Protocol

import orjson
from msgspec import Struct, field

from anos import sse
from anos.extract import Found
from anos.items import Answer
from guards.json_text import JsonScanner
from guards.keywords import Match, Rules
from guards.stream_scanner import StreamScanner

MASK = "***"
# At most so many matches are found in one look.
_MOST_MATCHES = 100

Event = dict[str, Any]
Part = tuple[Any, ...]  # names what grows; first its group: in a group one follows another


class Piece(Struct, eq=False):
    """A growing text in an event: it stands at `container[key]`, and is part of JSON or not."""

    part: Part
    container: Any
    key: str
    is_json: bool = False


class Reading(Struct, eq=False):
    """What an event says: texts that are whole, texts that grow, and the parts it ends."""

    texts: list[Found] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    ends: list[Part] = field(default_factory=list)
    closes: list[Any] = field(default_factory=list)  # groups: nothing follows in them


class Dialect(Protocol):
    """How the guards read the events of a client's dialect, and end its stream."""

    # A part may go on after another has spoken. Until that one has said so many characters it is
    # waited for; None: until the part ends.
    patience: int | None

    def delta(self, event: Event) -> Piece | None:
        """The only text of an event that has no other."""

    def read(self, event: Event) -> Reading:
        """All texts of an event."""

    def sent(self, event: Event) -> None:
        """This event went to the client."""

    def closed(self, status: str, error: dict[str, Any] | None) -> tuple[bytes, Answer]:
        """What closes the stream after what was sent, and the answer that was sent."""

    def terminal(self, answer: Answer, response: dict[str, Any]) -> bytes:
        """The end of a stream that was closed."""

    def texts(self, answer: Answer) -> list[Found]:
        """The texts of the answer that the upstream's last event gives."""


class Line(Struct, eq=False):
    """The text of a part; or, from its `seam` on, what follows the end of another.

    A phrase may be cut where one part ends and another begins: what the first left open is looked
    at once more, together with what follows it, and only for what lies across the seam.
    """

    part: Part
    scanner: StreamScanner | JsonScanner
    is_json: bool
    seam: int = 0
    begins: int = 0  # where the scanner was begun: it ends at its first match
    fed: int = 0
    safe: int = 0  # so much can be let out
    tail: str = ""  # the text after that
    said: list[str] = field(default_factory=list)
    covered: list[tuple[int, int]] = field(default_factory=list)
    waited: int = 0  # characters that others have said since
    parsed: int = 0  # so many of its deltas


class Span(Struct, eq=False):
    """Where in its line a piece of an event stands."""

    piece: Piece
    line: Line
    start: int
    end: int


class Held(Struct, eq=False):
    """An event that waits, with all of it that grows; `event` is empty for what is no JSON."""

    raw: bytes
    event: Event
    pieces: list[Piece] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    is_changed: bool = False


class Unread(Struct, eq=False):
    """An event that waits and was not parsed: a delta, the text of which ends at `end`."""

    raw: bytes
    line: Line
    text: str
    end: int
    number: int


def masked(rules: Rules, text: str, *, is_json: bool = False) -> tuple[str, list[Match]]:
    """The text with every match covered, and the matches."""
    look = rules.scan_json if is_json else rules.scan
    matches: list[Match] = []
    parts: list[str] = []
    while found := look(text):
        at = 0
        for match in found:
            if match.start >= at:
                parts += [text[at : match.start], MASK]
            at = max(at, match.end)
        matches += found
        text = text[at:]
        if len(found) < _MOST_MATCHES:
            break
    return "".join([*parts, text]), matches


def shorten(held: Held, span: Span, start: int) -> None:
    """Cut the event where the piece of `span` is at `start` of its line."""
    excess = span.end - start
    at = next(i for i, piece in enumerate(held.pieces) if piece is span.piece)
    text = span.piece.container[span.piece.key]
    span.piece.container[span.piece.key] = text[: max(len(text) - excess, 0)]
    for piece in held.pieces[at + 1 :]:
        piece.container[piece.key] = ""
    kept = held.pieces[: at + 1]
    held.spans = [each for each in held.spans if any(each.piece is piece for piece in kept)]
    for each in held.spans:
        if each.piece is span.piece:
            each.end -= excess
    held.pieces, held.is_changed = kept, True
    without_tokens(held.event)
    for choice in held.event.get("choices") or ():
        choice["finish_reason"] = None


def without_tokens(event: Event) -> None:
    """Without logprobs, which say the text again token by token."""
    for holder in (event, *(event.get("choices") or ())):
        if holder.get("logprobs"):
            holder["logprobs"] = [] if holder is event else None


def written(event: Event) -> bytes:
    return sse.encode(event.get("type", ""), orjson.dumps(event))
