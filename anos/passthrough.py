"""A Responses stream relayed as it came, for a client that speaks Responses too.

Deltas keep their bytes; they are checked in passing. At the first deviation from the order of
events the rest of the stream is read and written anew by EventWriter, seeded from what the client
has seen.
"""

from contextlib import suppress
from typing import Any

import orjson

from anos import sse
from anos.dialect_responses import Reader, answer_of, raise_error
from anos.errors import UpstreamError
from anos.event_order import DELTAS, TERMINAL, Deviation, OpenItem, Order
from anos.event_state import Kind
from anos.events import EventWriter
from anos.items import Answer
from anos.shapes import read_event
from anos.surrogates import Joiner

# What the client saw is kept to write closing events from; more than this is folded.
_KEPT_BYTES = 64 * 1024
_OPENING = ("response.created", "response.in_progress")
_ITEM = ("response.output_item.added", "response.output_item.done")
_TEXT = b'"delta":"'
_DELTA_END = b"}\n\n"
_DIGITS = [b"%d" % number for number in range(2048)]
_KNOWN = len(_DIGITS)
# How OpenAI begins its deltas, up to their number.
_HEADS = {
    kind: f'event: {name}\ndata: {{"type":"{name}","sequence_number":'.encode()
    for name, kind in DELTAS.items()
}


class ResponsesPassthrough:
    """A Responses stream for a Responses client: only lifecycle events are rewritten."""

    def __init__(self, writer: EventWriter, *, shows_encrypted: bool, repair: bool) -> None:
        self.ended = False
        self._writer = writer
        self._shows_encrypted = shows_encrypted
        self._reader = Reader(writer, shows_encrypted=shows_encrypted) if repair else None
        self._seen: list[bytes] = []
        self._seen_bytes = 0
        self._next = 0
        self._order = Order(writer.taken)
        self._terminal: dict[str, Any] | None = None
        self._failure: UpstreamError | None = None
        self._current: OpenItem | None = None  # whose deltas pass unparsed
        self._place = self._whole = b""  # what names its open text, and precedes the whole of it
        self._before = self._after = b""  # how its deltas begin, around their number
        self._splitter = sse.Splitter()
        self._joiner = Joiner()

    def feed(self, data: bytes) -> bytes:
        """What the client gets for these bytes of the upstream, the terminal event excepted."""
        data = self._joiner.whole(self._splitter.whole(data))
        out: list[bytes] = []
        at = 0
        while at < len(data) and not self.ended:
            end = self._pass_deltas(data, at)
            if end > at:
                out.append(data[at:end] if at or end < len(data) else data)
            else:
                end = sse.end_of(data, at)
                out.append(self._one(data[at:end], out))
            at = end
        shown = b"".join(out)
        if self._reader is None:
            self._keep(shown)
        return shown

    def finish(self) -> tuple[bytes, Answer]:
        """Closing events and the Answer; UpstreamError if the upstream failed."""
        if self._failure is not None:
            raise self._failure
        if self._reader is not None:
            answer = self._reader.finish()[1]
            return self._written(), answer
        if self._terminal is None:
            raise UpstreamError("The upstream broke off its answer.")
        self._seen = []
        # The writer did not see the deltas; only its number has to go on from them.
        self._number_writer()
        status = self._terminal["type"].removeprefix("response.")
        return b"", answer_of(self._terminal.get("response") or {}, self._order.output(), status)

    def abort(self, status: str, error: dict[str, Any] | None) -> tuple[bytes, Answer]:
        """End the stream where it is."""
        answer = self._repair().abort(status, error)[1]
        return self._written(), answer

    def terminal(self, answer: Answer, response: dict[str, Any]) -> bytes:
        """The terminal event with the final Response, and [DONE]."""
        return sse.encode_events(self._writer.terminal(response)) + sse.DONE

    def _one(self, event: bytes, before: list[bytes]) -> bytes:
        """A single event, checked; at the first deviation the reader takes over."""
        name, data = sse.parse(event)
        if not data or data.startswith(b"[DONE]"):
            return b""
        try:
            if self._reader is None:
                return self._checked(event, name, data)
        except Deviation:
            self._keep(b"".join(before))
            self._repair()
        except UpstreamError as exc:
            return self._failed(exc)
        assert self._reader is not None
        try:
            self._reader.feed(data)
            self.ended = self._reader.ended
        except UpstreamError as exc:
            return self._failed(exc)
        return self._written()

    def _failed(self, exc: UpstreamError) -> bytes:
        # The client gets what came before the fault; `finish` tells.
        self._failure = exc
        self.ended = True
        return self._written()

    def _written(self) -> bytes:
        return sse.encode_events(self._writer.take())

    def _pass_deltas(self, data: bytes, at: int) -> int:
        """The end of the run of expected deltas that begins at `at`; they need no parsing."""
        before, after, number = self._before, self._after, self._next
        if not before or not data.startswith(b"%b%d%b" % (before, number, after), at):
            return at
        begin, size = at, len(before) + len(after)
        end = data.index(b"\n", at + size)
        number += 1
        if end + 2 < len(data):
            # A delta's end and the next one's head in one look: 40 of 100 µs off 64 deltas.
            link = _DELTA_END + before
            while data.startswith(
                link + (_DIGITS[number] if number < _KNOWN else b"%d" % number) + after, end - 1
            ):
                at = end + 2
                end = data.index(b"\n", at + size)
                number += 1
        if data.startswith(_DELTA_END, end - 1):
            at = end + 2
        else:
            number -= 1
        self._next = number
        if at > begin and self._current is not None:
            self._current.is_spoken = True
        return at

    def _is_next(self, data: bytes, at: int, end: int) -> bool:
        number = b'"sequence_number":%d' % self._next
        return data.find(number + b",", at, end) >= 0 or data.find(number + b"}", at, end) >= 0

    def _expect(self, item: OpenItem, kind: Kind) -> None:
        """From here on deltas of that text pass unparsed, if they are written as OpenAI does."""
        self._current, self._place = item, item.place
        self._whole = b'"%b":"' % kind.text.encode()
        self._before, self._after = _HEADS[kind], b"," + self._place + _TEXT

    def _learn(self, item: OpenItem, raw: bytes) -> None:
        """From here on deltas that are written like this one, up to their text, pass unparsed."""
        head = raw[: raw.find(_TEXT) + len(_TEXT)]
        number = b'"sequence_number":%d,' % (self._next - 1)
        names = [f'"item_id":"{item.id}"', f'"output_index":{item.index},']
        if item.kind is not None and item.kind.parts:
            names.append(f'"{item.kind.index}":')
        is_whole = all(name.encode() in head for name in names)
        if head.startswith(b"event: ") and head.count(number) == 1 and is_whole:
            before, _, after = head.partition(number)
            self._before, self._after = before + b'"sequence_number":', b"," + after

    def _checked(self, raw: bytes, name: str, data: bytes) -> bytes:
        if self._next < len(_OPENING) and name == _OPENING[self._next]:
            # What is in them is the gateway's own.
            if self._is_next(raw, 0, len(raw)):
                return self._opening(name)
        elif self._is_end(raw, name):
            self._next += 1
            self._before = b""
            return _plain(raw, name)
        event = read_event(data)
        raise_error(event)
        if event["type"] != name or event.get("sequence_number") != self._next:
            raise Deviation
        if self._next < len(_OPENING) or name in _OPENING:
            return self._opening(name)
        if name in TERMINAL:
            return self._terminated(event)
        return self._passed(raw, name, event)

    def _is_end(self, raw: bytes, name: str) -> bool:
        """Whether the text that passed unparsed, or its part, ends here; what it was is not read.

        output_item.done says it again, and that is trusted.
        """
        return (
            self._current is not None
            and name.endswith(".done")
            and raw.find(self._place) >= 0
            and raw.find(self._whole) >= 0
            and self._is_next(raw, 0, len(raw))
            and self._current.ends(name)
        )

    def _opening(self, name: str) -> bytes:
        # Both opening events go out with the first one: then numbers agree whatever comes next.
        # Guards trust every one of them to be the gateway's own, so no other may pass.
        if _OPENING[self._next : self._next + 1] != (name,):
            raise Deviation
        self._next += 1
        return self._written() if self._writer.start() else b""

    def _terminated(self, event: dict[str, Any]) -> bytes:
        response = event.get("response") or {}
        if self._order.open or len(response.get("output") or ()) > len(self._order.done):
            raise Deviation
        self._terminal = event
        self.ended = True
        return b""

    def _passed(self, raw: bytes, name: str, event: dict[str, Any]) -> bytes:
        item = self._order.check(name, event)
        self._next += 1
        self._before = b""
        if item is not None and item.grows and item.kind is not None:
            self._expect(item, item.kind)
            if name in DELTAS:
                self._learn(item, raw)
        if name in _ITEM and not self._shows_encrypted:
            return self._without_encrypted(raw, event)
        return _plain(raw, name)

    def _without_encrypted(self, raw: bytes, event: dict[str, Any]) -> bytes:
        item = event["item"]
        if item["type"] != "reasoning" or "encrypted_content" not in item:
            return _plain(raw, event["type"])
        shown = {key: value for key, value in item.items() if key != "encrypted_content"}
        return sse.encode_events([{**event, "item": shown}])

    def _keep(self, shown: bytes) -> None:
        self._seen.append(shown)
        self._seen_bytes += len(shown)
        if self._seen_bytes > _KEPT_BYTES:
            self._fold()

    def _fold(self) -> None:
        for event in sse.Splitter().feed(b"".join(self._seen)):
            # What passed unparsed may be broken; then it says nothing to the client either.
            with suppress(ValueError, TypeError, AttributeError):
                self._writer.observe(orjson.loads(sse.parse(event)[1]))
        self._number_writer()
        self._seen, self._seen_bytes = [], 0

    def _number_writer(self) -> None:
        if self._next:
            number = max(self._next, len(_OPENING)) - 1
            self._writer.observe({"type": "", "sequence_number": number})

    def _repair(self) -> Reader:
        self._before = b""
        if self._reader is None:
            self._fold()
            self._reader = Reader(self._writer, shows_encrypted=self._shows_encrypted)
            for item in self._order.output():
                if not self._shows_encrypted and item.get("encrypted_content"):
                    self._reader.hide(item["id"], item["encrypted_content"])
        return self._reader


def _plain(raw: bytes, name: str) -> bytes:
    """The event in its two lines: without comments, ids and other fields of the transport."""
    if raw.startswith(b"event: ") and raw.find(b"\n", raw.find(b"\n") + 1) == len(raw) - 2:
        return raw
    return sse.encode(name, sse.parse(raw)[1].replace(b"\n", b" "))
