"""What the client gets of a stream that has passed its guards, and how it comes to the client."""

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from anos.exchange import Receipt
from anos.items import Answer
from anos.stream import Stream
from anos.upstream import Answering

if TYPE_CHECKING:
    from anos.judging import Judged, Keep, Write
    from anos.scanner import Scanned


class Screened(Struct, frozen=True, eq=False):
    """A stream behind the guards that there are."""

    stream: Stream
    scanned: "Scanned | None" = None
    judged: "Judged | None" = None

    async def pump(
        self, answering: Answering, data: bytes, keep: "Keep", write: "Write | None"
    ) -> None:
        """Relay `data` and what follows until the upstream ends, or a guard ends its stream.

        `keep` is told of every chunk. `write` takes what the client gets, None: there is none.
        """
        if self.judged is not None:
            await self.judged.pump(answering, data, keep, write)
            return
        stream = self.stream
        while data:
            keep(data)
            shown = stream.feed(data)
            if write is not None and shown:
                await write(shown)
            data = b"" if stream.ended else await answering.chunk()

    async def finish(self) -> tuple[bytes, Answer]:
        """As `Stream.finish`, when all of it has passed the guards."""
        return self.stream.finish() if self.judged is None else await self.judged.finish()

    def abort(self, status: str, error: dict[str, Any] | None) -> tuple[bytes, Answer]:
        """As `Stream.abort`."""
        return self.stream.abort(status, error)

    def left(self) -> Answer:
        """What was said when the client has left: what is held was not."""
        if self.scanned is not None:
            self.scanned.drop()
        return self.abort("cancelled", None)[1]

    def terminal(self, answer: Answer, response: dict[str, Any]) -> bytes:
        """As `Stream.terminal`."""
        return self.stream.terminal(answer, response)

    @property
    def is_blocked(self) -> bool:
        """Whether a guard has ended the stream."""
        is_judged = self.judged is not None and self.judged.windows.is_blocked
        return is_judged or (self.scanned is not None and self.scanned.is_blocked)

    @property
    def judging_ns(self) -> int:
        """Nanoseconds that were spent waiting for a judge."""
        return 0 if self.judged is None else self.judged.ns

    def receipts(self) -> list[Receipt]:
        """What the guards have seen and done so far."""
        receipts = [] if self.scanned is None else [_receipt_of(self.scanned)]
        if self.judged is not None:
            receipt = self.judged.receipt()
            if not receipt.texts and receipts and receipts[0].action == "block":
                receipt.action = "skipped"
            receipts.append(receipt)
        return receipts


def _receipt_of(scanned: "Scanned") -> Receipt:
    action = "error" if scanned.error else "pass"
    if scanned.is_blocked:
        action = "block"
    elif scanned.found:
        action = scanned.mode
    return Receipt(
        "keywords",
        "output",
        action,
        texts=scanned.texts,
        bytes=scanned.bytes,
        us=scanned.ns // 1000,
        rules=dict(scanned.found),
        error=scanned.error,
    )
