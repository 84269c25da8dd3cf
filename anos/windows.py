"""A client's stream of which no text is let out before somebody has judged it, window by window.

Nothing here asks or waits: `feed` it, and while a window `is_due`, judge its `text` and say what
came of that with `judged`. Where the windows end follows from the events alone and not from how
the bytes were cut, unless whoever drives it judges what waits early, because of the time.
"""

import logging
from collections import deque
from typing import Any

from msgspec import Struct, field

from anos.errors import UpstreamError
from anos.extract import Found
from anos.extract_readers import is_name
from anos.items import Answer
from anos.scanner_parts import Dialect, Event, Part, Piece, Reading
from anos.scanner_runs import read_event
from anos.stream import Stream

logger = logging.getLogger("anos")

# A few sentences: more is judged better, but is waited for longer, and costs fewer questions.
WINDOW_CHARS = 1_000
# What was let out of a part before and is judged again with what follows it.
CONTEXT_CHARS = 500
# Events without text wait behind those with text, and some are large.
_WAITING_BYTES = 256 * 1024
_UNREADABLE = "The upstream sent an event that cannot be read."


def is_speech(found: Found) -> bool:
    """Whether a text is more than the name of a field."""
    return found.writable or found.key != found.text or not is_name(found.text)


class Said(Struct, eq=False):
    """A text that grows."""

    pieces: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)  # those of the window
    context: str = ""


class Windows:
    """The stream `inner`; with `holds` its events wait for the verdict, otherwise they pass.

    At an event that cannot be looked at the stream ends as at a violation if `on_error` is block;
    otherwise it passes.
    """

    def __init__(
        self, inner: Stream, dialect: Dialect, *, holds: bool, on_error: str = "block"
    ) -> None:
        self.ended = False
        self.error = ""  # "failed" from then on
        self.is_blocked = False
        self._inner = inner
        self._dialect = dialect
        self._holds = holds
        self._blocks_on_error = on_error == "block"
        self._failure: UpstreamError | None = None
        self._is_aborted = False
        self._answer: Answer | None = None  # of `inner`, from its end on
        self._unread: deque[bytes] = deque()  # events after the window that is due
        self._waiting: list[tuple[bytes, Event]] = []
        self._waiting_bytes = 0
        self._said: dict[Part, Said] = {}
        self._known: set[str] = set()  # whole texts; those of the window too
        # What is new in the window: of texts that grow, and whole ones.
        self._grown: list[Said] = []
        self._whole: list[str] = []
        self._chars = 0

    def feed(self, data: bytes) -> bytes:
        """What the client gets for these bytes of the upstream before anything is judged."""
        self._queue(self._inner.feed(data))
        out = self._advanced()
        self.ended = self._is_cut or self._inner.ended
        return out

    @property
    def is_holding(self) -> bool:
        """Whether something waits to be judged."""
        return bool(self._waiting)

    @property
    def is_due(self) -> bool:
        """Whether nothing goes on before the window is judged."""
        return self._is_full or (self._answer is not None and self._chars > 0)

    def text(self) -> str:
        """What is to be judged: all that is new, each with what its part has said before."""
        texts = [each.context + "".join(each.new) for each in self._grown] + self._whole
        return "\n\n".join(dict.fromkeys(texts))  # tokens say again what a delta says

    def judged(self, *, violated: bool) -> bytes:
        """What the client gets now that the text was judged."""
        if violated and self._holds:
            self.is_blocked = self.ended = True
            self._drop()
            return b""
        for each in self._grown:
            each.context = (each.context + "".join(each.new))[-CONTEXT_CHARS:]
            each.new = []
        self._grown, self._whole, self._chars = [], [], 0
        out = [self._sent(raw, event) for raw, event in self._waiting]
        self._waiting, self._waiting_bytes = [], 0
        return b"".join(out) + self._advanced()

    def end(self) -> bytes:
        """What the client gets at the upstream's end; then all the rest is due.

        UpstreamError as for `finish`.
        """
        if self._is_cut:
            return b""
        out, self._answer = self._inner.finish()
        self._queue(out)
        return self._advanced()

    def finish(self) -> tuple[bytes, Answer]:
        """As `Stream.finish`, after `end` and when nothing is due.

        UpstreamError also for an event that cannot be read.
        """
        if self._failure is not None:
            raise self._failure
        if self.is_blocked:
            return self._closed("incomplete", None)
        assert self._answer is not None
        return b"", self._answer

    def abort(self, status: str, error: dict[str, Any] | None) -> tuple[bytes, Answer]:
        """As `Stream.abort`; what waits is dropped."""
        if self.is_blocked:
            return self._closed("incomplete", None)
        if self._answer is None:
            out, answer = self._inner.abort(status, error)
            if not self._holds and self._failure is None:
                return out, answer
            status, error = answer.status, answer.error
        self._is_aborted = True
        self._drop()
        return self._closed(status, error)

    def terminal(self, answer: Answer, response: dict[str, Any]) -> bytes:
        """As `Stream.terminal`."""
        ending = self._dialect if self._is_cut else self._inner
        return ending.terminal(answer, response)

    @property
    def _is_cut(self) -> bool:
        return self.is_blocked or self._is_aborted or self._failure is not None

    @property
    def _is_full(self) -> bool:
        return self._chars >= WINDOW_CHARS or self._waiting_bytes >= _WAITING_BYTES

    def _closed(self, status: str, error: dict[str, Any] | None) -> tuple[bytes, Answer]:
        closing, answer = self._dialect.closed(status, error)
        if self._answer is not None:
            answer.usage = self._answer.usage
        return closing, answer

    def _drop(self) -> None:
        self._waiting, self._waiting_bytes, self._chars = [], 0, 0
        self._unread.clear()

    def _queue(self, shown: bytes) -> None:
        if not self._is_cut:
            self._unread += shown.split(b"\n\n")[:-1]

    def _advanced(self) -> bytes:
        """What passes of the events that were not read, until a window is full."""
        out: list[bytes] = []
        while self._unread and not (self._holds and self._is_full):
            self._take(self._unread.popleft() + b"\n\n", out)
        if self._answer is not None and not self._unread and not self._is_cut:
            try:
                self._hear_end(self._answer)
            except Exception as exc:
                self._missed(exc)
        return b"".join(out)

    def _take(self, raw: bytes, out: list[bytes]) -> None:
        try:
            raw, event = read_event(raw)
            piece = self._dialect.delta(event)
        except (ValueError, KeyError):
            self._failure = UpstreamError(_UNREADABLE)
            self._drop()
            return
        try:
            if piece is not None:
                self._hear_piece(piece)
            else:
                self._hear(self._dialect.read(event))
        except Exception as exc:
            self._missed(exc)
            if self.is_blocked:
                return
        if self._chars and self._holds:
            self._waiting.append((raw, event))
            self._waiting_bytes += len(raw)
        else:
            out.append(self._sent(raw, event))

    def _missed(self, exc: Exception) -> None:
        logger.error("a guard failed: %s", type(exc).__name__)  # its message may quote the text
        self.error = "failed"
        if self._blocks_on_error:
            self.is_blocked = self.ended = True
            self._drop()

    def _hear(self, reading: Reading) -> None:
        for part in reading.ends:
            if (said := self._said.get(part)) is not None:
                self._known.add("".join(said.pieces))
                said.pieces = []
        for found in reading.texts:
            self._hear_whole(found)
        for piece in reading.pieces:
            self._hear_piece(piece)

    def _hear_piece(self, piece: Piece) -> None:
        text: str = piece.container[piece.key]
        if not text:
            return
        said = self._said.get(piece.part)
        if said is None:
            said = self._said[piece.part] = Said()
        if not said.new:
            self._grown.append(said)
        said.pieces.append(text)
        said.new.append(text)
        self._chars += len(text)

    def _hear_whole(self, found: Found) -> None:
        text = found.text
        if text and text not in self._known and is_speech(found):
            self._known.add(text)
            self._whole.append(text)
            self._chars += len(text)

    def _hear_end(self, answer: Answer) -> None:
        self._known.update(["".join(said.pieces) for said in self._said.values()])
        for found in self._dialect.texts(answer):
            # A word that only the last event has is a setting that it repeats.
            if not is_name(found.text):
                self._hear_whole(found)

    def _sent(self, raw: bytes, event: Event) -> bytes:
        self._dialect.sent(event)
        return raw
