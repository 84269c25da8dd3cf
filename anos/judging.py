"""A stream whose windows are judged while it runs; see anos/windows.py."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from anos.exchange import Receipt
from anos.items import Answer
from anos.upstream import Answering
from anos.windows import Windows

if TYPE_CHECKING:
    from anos.moderation import Moderator


Keep = Callable[[bytes], None]
Write = Callable[[bytes], Awaitable[None]]


class Judged:
    """The windows of a stream and who judges them; `mode` is block or monitor.

    What waits is judged after `hold_s` at the latest.
    """

    def __init__(
        self, windows: Windows, moderator: "Moderator", mode: str, *, hold_s: float
    ) -> None:
        self.windows = windows
        self.ns = 0  # spent judging
        self._moderator = moderator
        self._mode = mode
        self._hold_s = hold_s
        self._write: Write | None = None
        self._until_s: float | None = None  # by the loop's clock; while something waits
        self._receipt = Receipt("moderation", "output", "pass")
        self._rules: Counter[str] = Counter()

    async def pump(
        self, answering: Answering, data: bytes, keep: Keep, write: Write | None
    ) -> None:
        """See Screened; `finish` writes too."""
        self._write = write
        while data:
            keep(data)
            await self._pass(self.windows.feed(data))
            data = b"" if self.windows.ended else await self._next(answering)

    async def finish(self) -> tuple[bytes, Answer]:
        """As `Stream.finish`, when everything that it would let out has been judged."""
        await self._pass(self.windows.end())
        return self.windows.finish()

    def receipt(self) -> Receipt:
        """What was judged so far, all windows together."""
        receipt = self._receipt
        receipt.us = self.ns // 1000
        receipt.rules = dict(self._rules)
        receipt.error = receipt.error or self.windows.error
        if self._rules:
            receipt.action = self._mode
        elif receipt.error:
            receipt.action = "block" if self.windows.is_blocked else "error"
        return receipt

    async def _next(self, answering: Answering) -> bytes:
        """The next bytes; what waits meanwhile is judged when its time has come."""
        time_of = asyncio.get_running_loop().time
        while self.windows.is_holding:
            if self._until_s is None:
                self._until_s = time_of() + self._hold_s
            if time_of() < self._until_s:
                # A chunk is taken out of the buffer without a task switch: none is lost.
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(self._until_s):
                        return await answering.chunk()
            await self._judge()
        return b"" if self.windows.ended else await answering.chunk()

    async def _pass(self, shown: bytes) -> None:
        """Write what needs no verdict; judge every window that is due."""
        await self._out(shown)
        while self.windows.is_due:
            await self._judge()

    async def _judge(self) -> None:
        started_ns = time.perf_counter_ns()
        judgement = await self._moderator.judge(self.windows.text(), "assistant")
        self._until_s = None
        self.ns += time.perf_counter_ns() - started_ns
        self._receipt.texts += 1
        self._receipt.bytes += judgement.bytes
        self._receipt.error = self._receipt.error or judgement.error
        self._rules.update(judgement.violated)
        await self._out(self.windows.judged(violated=bool(judgement.violated)))

    async def _out(self, shown: bytes) -> None:
        if shown and self._write is not None:
            await self._write(shown)
