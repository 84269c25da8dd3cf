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
from guards.turns import Turns, at_once

MASK = "***"
# So many matches are covered in a turn.
_TURN = 16_384
_ROUNDS = 2

Event = dict[str, Any]
Part = tuple[Any, ...]  # names what grows; first its group: in a group one follows another


class Overfull(Exception):
    """More of a stream would have to wait, or to be looked at in one go, than is allowed."""


class Disorder(Exception):
    """A text goes on after another has begun that clients put behind it."""


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
    # The second of a Part, of those whose texts clients join in the order of their places: what
    # follows that in the Part.
    ordered: frozenset[str]

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
    covered: list[tuple[int, int, str]] = field(default_factory=list)  # and what stands there


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
    return at_once(masking(rules, text, is_json=is_json))


def masking(rules: Rules, text: str, *, is_json: bool = False) -> Turns[tuple[str, list[Match]]]:
    """As `masked`, in turns."""
    found: list[Match] = []
    # A word that was stuck to what is covered may be a phrase when it stands alone.
    for _ in range(_ROUNDS):
        matches = yield from rules.steps(text, is_json=is_json)
        if not matches:
            break
        found += matches
        parts: list[str] = []
        at = 0
        for number, match in enumerate(matches, 1):
            if match.start >= at:
                parts += [text[at : match.start], MASK]
            at = max(at, match.end)
            if number % _TURN == 0:
                yield
        text = "".join([*parts, text[at:]])
    return text, found


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


def written(held: Held) -> bytes:
    """The event as it was changed, with what is covered in it."""
    for span in held.spans:
        if span.covered:
            text, parts, at = span.piece.container[span.piece.key], [], 0
            for start, end, sign in span.covered:
                parts += [text[at : start - span.start], sign]
                at = end - span.start
            span.piece.container[span.piece.key] = "".join([*parts, text[at:]])
    return sse.encode(held.event.get("type", ""), orjson.dumps(held.event))
