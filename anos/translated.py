"""A stream read from one dialect and written in another, by way of canonical events."""

from typing import Any

import orjson

from anos import dialect_responses, sse
from anos.chat_passthrough import chat_end
from anos.chat_stream import ChunkWriter
from anos.chat_stream import Reader as ChatReader
from anos.errors import UpstreamError
from anos.events import EventWriter
from anos.items import Answer


class Translated:
    """One such stream; without `chunks` it is written as the events themselves."""

    def __init__(
        self,
        reader: ChatReader | dialect_responses.Reader,
        chunks: ChunkWriter | None,
        writer: EventWriter,
    ) -> None:
        self.ended = False
        self._splitter = sse.Splitter()
        self._failure: UpstreamError | None = None
        self._reader = reader
        self._chunks = chunks
        self._writer = writer

    def feed(self, data: bytes) -> bytes:
        for event in self._splitter.feed(data):
            try:
                self._reader.feed(sse.parse(event)[1])
            except UpstreamError as exc:
                # The client gets what came before the fault; `finish` tells.
                self._failure = exc
            self.ended = self._reader.ended or self._failure is not None
            if self.ended:
                break
        return self._written()

    def finish(self) -> tuple[bytes, Answer]:
        if self._failure is not None:
            raise self._failure
        answer = self._reader.finish()[1]
        return self._written(), answer

    def abort(self, status: str, error: dict[str, Any] | None) -> tuple[bytes, Answer]:
        answer = self._reader.abort(status, error)[1]
        return self._written(), answer

    def terminal(self, answer: Answer, response: dict[str, Any]) -> bytes:
        if self._chunks is None:
            return sse.encode_events(self._writer.terminal(response)) + sse.DONE
        closing = (
            b""
            if answer.status in ("failed", "cancelled")
            else _chunks(self._chunks.finish(answer))
        )
        return closing + chat_end(answer)

    def _written(self) -> bytes:
        events = self._writer.take()
        if self._chunks is None:
            return sse.encode_events(events)
        return _chunks(self._chunks.feed(events))


def _chunks(chunks: list[dict[str, Any]]) -> bytes:
    return b"".join([sse.encode("", orjson.dumps(chunk)) for chunk in chunks])
