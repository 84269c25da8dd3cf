"""A model server that always answers the same: Responses and Chat, in one piece or as SSE.

A raw asyncio protocol with the answers of the tests' scripted upstream, made beforehand, so that
it costs little beside what is measured. Each chunk is a write of its own; streams take turns.
"""

import asyncio
import json
import re
import sys
from typing import Any

import scripted  # in tests/, which quick.py puts on the path
import uvloop
from load import DELTAS, TEXT

_ID = b"#" * 24  # in every answer replaced by how many there have been
_IDS = re.compile(rb'"(resp_|msg_|chatcmpl-)up1?"')
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def _json(tree: dict[str, Any]) -> bytes:
    return _IDS.sub(rb'"\g<1>%b"' % _ID, json.dumps(tree, separators=(",", ":")).encode())


def _plain(tree: dict[str, Any]) -> list[bytes]:
    body = _json(tree)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return [head % len(body) + body]


def _streamed(events: list[Any]) -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked"
    pieces = [b"%x\r\n%b\r\n" % (len(event), event) for event in map(_event, events)]
    return [head + b"\r\n\r\n" + pieces[0], *pieces[1:-1], pieces[-1] + b"0\r\n\r\n"]


def _event(event: Any) -> bytes:
    if isinstance(event, bytes):
        return event
    if "type" not in event:
        return b"data: %b\n\n" % _json(event)
    # OpenAI writes these first.
    first = {name: event[name] for name in ("type", "sequence_number", "item_id") if name in event}
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), _json(first | event))


# By path, and whether it streams.
_ANSWERS = {
    (b"/v1/responses", False): _plain(scripted.responses_text(TEXT)),
    (b"/v1/responses", True): _streamed(scripted.responses_stream(DELTAS)),
    (b"/v1/chat/completions", False): _plain(scripted.chat_text(TEXT)),
    (b"/v1/chat/completions", True): _streamed(scripted.chat_stream(DELTAS)),
}


class _Connection(asyncio.Protocol):
    answers = 0  # of all connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank or len(body) < int(_LENGTH.findall(head)[0]):
            return
        self._received = b""
        _Connection.answers += 1
        pieces = _ANSWERS[head.split(b" ", 2)[1], b'"stream":true' in body]
        self._write(pieces, 0, b"%024d" % _Connection.answers)

    def _write(self, pieces: list[bytes], at: int, number: bytes) -> None:
        self._transport.write(pieces[at].replace(_ID, number))
        if at + 1 < len(pieces) and not self._transport.is_closing():
            asyncio.get_running_loop().call_soon(self._write, pieces, at + 1, number)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
