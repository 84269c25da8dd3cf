"""Server-sent events as bytes: a bounded splitter, a parser and an encoder.

Standard: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from typing import Any

import orjson

from anos.errors import UpstreamError

DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"

# A final Response snapshot repeats the whole output; 16 MiB is far above any model's output limit
# and still bounds what one upstream can make us hold.
MAX_EVENT_BYTES = 16 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"
# As integers, and elsewhere with find(): `b"\r" in data` first tries to read an integer and costs
# ten times as much, on a path that runs once for every chunk.
_LF, _CR, _COLON = 10, 13, 58


class Splitter:
    """Cuts a byte stream into raw events; for any chunking the same events come out.

    Line ends come out as LF whatever came in: JSON never holds a raw CR, so nothing is lost, and
    whoever reads the events has one case. Blocks without data (comments, lone `retry:`, the
    `data:` some proxies send as a sign of life) are no events and are dropped.
    """

    __slots__ = ("_after_cr", "_max_bytes", "_tail")

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._tail = bytearray()  # grows in place: a huge event in small chunks stays linear
        self._after_cr = False

    @property
    def tail(self) -> bytes:
        """What has not ended yet."""
        return bytes(self._tail)

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` completes, each with its blank line; one too long raises."""
        if _CR in data or self._after_cr:
            data = self._line_feeds(data)
        tail = self._tail
        if tail:
            if data.find(b"\n\n") < 0 and not (tail[-1] == _LF and data[:1] == b"\n"):
                tail += data
                self._bound(len(tail))
                return []
            data = bytes(tail) + data
            tail.clear()
        blocks = data.split(b"\n\n")
        if len(data) > self._max_bytes:
            self._bound(max(map(len, blocks)) + 2)
        tail += blocks.pop()
        events = []
        for block in blocks:
            if (
                block
                and block[-1] > _COLON  # else its data may be empty
                and (
                    block[:5] == b"data:" or (block[:6] == b"event:" and block.find(b"\ndata:") > 0)
                )
            ):
                events.append(block + b"\n\n")
            else:
                events += _unusual(block)
        return events

    def whole(self, data: bytes) -> bytes:
        """The same events in one piece: for who passes on most of what comes."""
        end = data.rfind(b"\n\n") + 2
        if end < 2 or self._after_cr or data.find(b"\r") >= 0:
            return b"".join(self.feed(data))
        if self._tail:
            end += len(self._tail)
            data = bytes(self._tail) + data
            self._tail.clear()
        if end < len(data):
            self._tail += data[end:]
            data = data[:end]
        return data

    def _line_feeds(self, data: bytes) -> bytes:
        # A CR at the end of a chunk counts at once; the LF that may follow it belongs to it.
        if self._after_cr and data[:1] == b"\n":
            data = data[1:]
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
        return _to_line_feeds(data)

    def _bound(self, size: int) -> None:
        if size > self._max_bytes:
            self._tail.clear()
            raise UpstreamError(f"The upstream sent an event of more than {self._max_bytes} bytes.")


def end_of(data: bytes, at: int) -> int:
    """Where the event that begins at `at` ends, its blank line included; there is one."""
    end = data.index(b"\n", at)
    while data[end + 1] != _LF:  # one byte is found ten times as fast as two
        end = data.index(b"\n", end + 1)
    return end + 2


def parse(event: bytes) -> tuple[str, bytes]:
    """The event type ("" if not named) of one raw event, and its data lines joined with LF."""
    if event.startswith(b"event: "):  # as nearly everybody writes it: two lines and a blank one
        first = event.find(b"\n")
        second = event.find(b"\n", first + 1)
        if event.startswith(b"data: ", first + 1) and second == len(event) - 2:
            return event[7:first].decode("utf-8", "replace"), event[first + 7 : -2]
    if _CR in event:
        event = _to_line_feeds(event)
    event_type = b""
    data = []
    for line in event.split(b"\n"):
        if line[:5] == b"data:":
            data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line[:6] == b"event:":
            event_type = line[7:] if line[6:7] == b" " else line[6:]
    return str(event_type, "utf-8", "replace"), b"\n".join(data)


def encode(event_type: str, data: bytes) -> bytes:
    """One event on the wire; an empty `event_type` leaves only the data line."""
    if _LF in data or _CR in data:
        data = b"\ndata: ".join(_to_line_feeds(data).split(b"\n"))
    if not event_type:
        return b"data: %b\n\n" % data
    if "\n" in event_type or "\r" in event_type:  # a type from outside must not forge further lines
        event_type = " ".join(event_type.split())
    return b"event: %b\ndata: %b\n\n" % (event_type.encode("utf-8", "replace"), data)


def encode_events(events: list[dict[str, Any]]) -> bytes:
    """Responses events on the wire, each named by its `type`."""
    return b"".join([encode(event["type"], orjson.dumps(event)) for event in events])


def _to_line_feeds(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _unusual(block: bytes) -> list[bytes]:
    # Blank lines and a byte order mark may come first; without data it is no event.
    block = block.lstrip(b"\n").removeprefix(_BOM)
    return [block + b"\n\n"] if parse(block)[1] else []
