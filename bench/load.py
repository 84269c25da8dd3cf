"""A load client that checks every reply: keep-alive connections, each asks again when answered."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable
from time import perf_counter
from typing import Any

import orjson

# What the upstream says: in one piece, and in a stream.
TEXT = "This answer is as long as a short paragraph usually is. " * 5
CHUNKS = 64
DELTAS = [f"@{number}@ and so on " for number in range(CHUNKS)]

_SYSTEM = "You are a careful assistant. Answer in one short paragraph and name your sources."
_USER = "Orders time out since the last release. What would you look at, what measure first? " * 6
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MARKS = [b"%d" % number for number in range(CHUNKS)]
_WARM_S, _PATIENCE_S = 0.3, 10.0  # before the window, and after it for what is not answered


def body(model: str, *, stream: bool = False, user: str = _USER) -> bytes:
    """A body of usual size for POST /v1/responses."""
    tree = {"model": model, "instructions": _SYSTEM, "input": [{"role": "user", "content": user}]}
    tree |= {"temperature": 0.7, "max_output_tokens": 256} | ({"stream": True} if stream else {})
    return json.dumps(tree, separators=(",", ":")).encode()


def fault(status: int, payload: bytes, *, stream: bool = False) -> str:
    """What is wrong with a reply; "" if it is 200, whole, and says what the upstream said."""
    if status != 200:
        return f"status {status}"
    try:
        response = _completed(payload) if stream else orjson.loads(payload)
        text = response["output"][-1]["content"][0]["text"]
        is_right = text == ("".join(DELTAS) if stream else TEXT)
        return "" if is_right and response["status"] == "completed" else "another text or status"
    except (ValueError, LookupError, TypeError) as exc:
        return f"{type(exc).__name__}: {exc}"


def _completed(raw: bytes) -> Any:
    """The Response of the terminal event; ValueError unless each chunk came before it, in order."""
    parts, at, size = [], 0, 1
    while size:
        end = raw.index(b"\r\n", at)
        size = int(raw[at:end], 16)
        parts.append(raw[end + 2 : end + 2 + size])
        at = end + size + 4
    before, *ends = b"".join(parts).split(b"event: response.completed\ndata: ")
    if re.findall(rb'"delta":"@(\d+)@', before) != _MARKS:
        raise ValueError("chunks are missing, doubled or out of order")
    if len(ends) != 1 or ends[0].partition(b"\n\n")[2] not in (b"", b"data: [DONE]\n\n"):
        raise ValueError("the stream does not end with one terminal event")
    return orjson.loads(ends[0].partition(b"\n")[0])["response"]


class _Client(asyncio.Protocol):
    def __init__(self, load: "Load") -> None:
        self._load = load
        self.left = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._ask()

    def _ask(self) -> None:
        self._received = bytearray()
        self._asked_at = perf_counter()
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        at = self._received.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(self._received, 0, at)
        if at < 4 or (length and len(self._received) < at + int(length[1])):
            return
        if not length and not self._received.endswith(b"\r\n0\r\n\r\n"):
            return
        time_s = perf_counter() - self._asked_at
        self._load.count(int(self._received[9:12]), bytes(self._received[at:]), time_s)
        if self._load.is_ending:
            self.left.set_result(None)
            self._transport.close()
        else:
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.left.done():
            self._load.faults["the connection ended before the reply"] += 1
            self.left.set_result(None)


class Load:
    """One load on one target: `run` it once, then read what it counted."""

    def __init__(self, port: int, key: str, body: bytes, *, stream: bool) -> None:
        self.request = (
            b"POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %b\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        ) % (port, key.encode(), len(body), body)
        self.good = 0  # replies, those outside the window too
        self.times_s: list[float] = []  # of the good replies within the window
        self.faults: Counter[str] = Counter()
        self.is_ending = self._is_open = False
        self._port, self._stream = port, stream

    def count(self, status: int, payload: bytes, time_s: float) -> None:
        """Check a reply and count it."""
        if wrong := fault(status, payload, stream=self._stream):
            self.faults[wrong] += 1
            return
        self.good += 1
        self.times_s += [time_s] * self._is_open

    async def run(self, clients: int, seconds: float, sample: Callable[[], list[float]]) -> Any:
        """Ask for a window of `seconds`; a list of how much each value of `sample` grew in it.

        On a busy machine the window stays open until there are as many replies as clients.
        """
        connect = asyncio.get_running_loop().create_connection
        left = []
        for _ in range(clients):
            _, client = await connect(lambda: _Client(self), "127.0.0.1", self._port)
            left.append(client.left)
        await asyncio.sleep(_WARM_S)
        before, self._is_open = sample(), True
        await asyncio.sleep(seconds)
        for _ in range(int(_PATIENCE_S * 10)):
            if len(self.times_s) < clients:
                await asyncio.sleep(0.1)
        after, self._is_open, self.is_ending = sample(), False, True
        if late := (await asyncio.wait(left, timeout=_PATIENCE_S))[1]:
            self.faults["no reply"] += len(late)
        return [end - begin for begin, end in zip(before, after, strict=True)]
