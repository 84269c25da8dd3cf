"""What callers may use at a time: requests and tokens a minute, and calls at once.

The arithmetic is in guards/rates.py; here are the clock, the headers, and who waits for a slot.
"""

import asyncio
import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from operator import itemgetter
from typing import TypeVar

from anos.config_sections import Limit
from anos.errors import RateLimited
from guards.rates import FairQueue, Slots, TokenWindow, Window

GLOBAL = "global"

# What a limit is of ("key:ci", "project:research", "model:gpt-4", GLOBAL), and the limit. A call
# names each of its scopes once.
Scope = tuple[str, Limit]

# Of an exchange: key, owner, model, when it started and ended in Unix milliseconds, whether its
# request counts (1, else 0), and its tokens.
Row = tuple[str, str, str | None, int, int, int, int]

# How long the calls that hold all slots will run is not known; clients back off from here.
_SLOT_S = 1.0

W = TypeVar("W", Window, TokenWindow)
_first = itemgetter(0)


class _Meter:
    """What is used of one scope's limit."""

    __slots__ = ("limit", "requests", "slots", "tokens", "waiting")

    def __init__(self, limit: Limit) -> None:
        self.requests: Window | None = None
        self.tokens: TokenWindow | None = None
        self.slots = Slots(None)
        self.waiting = 0  # calls in the queue that wait for a slot here
        self.configure(limit)

    def configure(self, limit: Limit) -> None:
        """Replace the limit; what was used stays, except of a limit that is gone."""
        self.limit = limit
        self.requests = _resized(self.requests, Window, limit.requests_per_minute)
        self.tokens = _resized(self.tokens, TokenWindow, limit.tokens_per_minute)
        self.slots.limit = limit.concurrent

    def state(self, now: float) -> dict[str, dict[str, int] | None]:
        """What is left of the limit; None: that is not limited."""
        requests, tokens, slots = self.requests, self.tokens, self.slots
        left = {
            "requests_per_minute": requests and (requests.limit, requests.remaining(now)),
            "tokens_per_minute": tokens and (tokens.limit, tokens.remaining(now)),
            "concurrent": slots.limit and (slots.limit, max(0, slots.limit - slots.taken)),
        }
        return {
            name: {"limit": pair[0], "remaining": pair[1]} if pair else None
            for name, pair in left.items()
        }


class Grant:
    """One call's share of its limits, from the moment it may begin until `close`."""

    __slots__ = ("_is_open", "_limits", "_meters", "_taken", "_windows", "held")

    def __init__(self, limits: "Limits", meters: list[_Meter], now: float) -> None:
        self._limits = limits
        self._meters = meters
        self._taken = now
        self._is_open = True
        self.held = 0  # tokens
        self._windows: Sequence[TokenWindow] = ()  # that hold tokens; a reload may replace them
        for meter in meters:
            meter.slots.take()
            if meter.requests is not None:
                meter.requests.add(now)

    def headers(self) -> dict[str, str]:
        """The answer's x-ratelimit headers, of the scope with the least left; {} without limits."""
        return _headers(self._meters, self._limits.clock())

    def reserve_tokens(self, estimate: int) -> None:
        """Hold so many tokens in every scope until `close`; to be called once.

        Raises RateLimited where they do not fit, and then the request does not count either.
        """
        metered = [(meter.tokens, meter) for meter in self._meters if meter.tokens is not None]
        if not metered:
            return
        now = self._limits.clock()
        wait_s, meter = max(
            ((window.wait_s(now, estimate), meter) for window, meter in metered), key=_first
        )
        if wait_s:
            self.undo()
            raise _refusal(meter, now, wait_s, estimate)
        self.held = estimate
        self._windows = [window for window, _ in metered]
        for window in self._windows:
            window.hold(estimate)

    def close(self, used_tokens: int | None = None) -> None:
        """End the call; it used the tokens it held, unless `used_tokens` says how many."""
        if not self._is_open:
            return
        self._is_open = False
        for meter in self._meters:
            meter.slots.give_back()
        if self._windows:
            now, used = self._limits.clock(), self.held if used_tokens is None else used_tokens
            for window in self._windows:
                window.settle(now, self.held, used)
        for meter in self._meters:
            if meter.waiting:
                self._limits.serve(meter)

    def undo(self) -> None:
        """End a call that does not count: it was refused, or nobody waited for it any more."""
        if not self._is_open:
            return
        for meter in self._meters:
            if meter.requests is not None:
                meter.requests.give_back(self._taken)
        self.close(0)


class _Waiter:
    """A call in the queue; `full` is the scope for whose slots it waits."""

    __slots__ = ("full", "key", "meters", "turn")

    def __init__(self, key: str, meters: list[_Meter], full: _Meter) -> None:
        self.key = key
        self.meters = meters
        self.full = full
        self.turn: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()


class Limits:
    """The meters of all scopes: they fill as calls come, and stay as full over a reload.

    `clock` counts seconds and never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._meters: dict[str, _Meter] = {}
        # One for all scopes: a call that needs a slot in several takes them in the same moment.
        self._queue: FairQueue[_Waiter] = FairQueue()

    def configure(self, names: Collection[str]) -> None:
        """Forget the scopes that a reload left without a limit; `names` are those that have one."""
        self._meters = {name: meter for name, meter in self._meters.items() if name in names}

    def try_take(self, scopes: Sequence[Scope]) -> Grant | None:
        """Count one call in every scope at once; None if it has to wait for a slot in `take`.

        Raises RateLimited, counting nothing, when the requests of a scope are used up, or its slots
        are taken and its queue is full.
        """
        now, meters = self.clock(), self._of(scopes)
        if _full(meters, now) is None:
            return Grant(self, meters, now)
        _check_queues(meters, now)
        return None

    async def take(self, scopes: Sequence[Scope], key: str) -> Grant:
        """Count one call in every scope at once, as soon as there is a slot in each.

        While several wait their keys take turns. Raises RateLimited as `try_take` does, and when
        the wait is over.
        """
        now, meters = self.clock(), self._of(scopes)
        full = _full(meters, now)
        if full is None:
            return Grant(self, meters, now)
        _check_queues(meters, now)
        waiter = _Waiter(key, meters, full)
        full.waiting += 1
        self._queue.add(key, waiter)
        try:
            async with asyncio.timeout(full.limit.queue.wait_s):
                return await waiter.turn
        except TimeoutError:
            self._leave(waiter)
            raise _refusal(waiter.full, self.clock(), _SLOT_S) from None
        except asyncio.CancelledError:
            self._leave(waiter)
            raise

    def check(self, scopes: Sequence[Scope], tokens: int | None = None) -> None:
        """Raise what one more call would be refused with now, counting nothing.

        Without `tokens` as `try_take` would, with them as `Grant.reserve_tokens`.
        """
        now, meters = self.clock(), self._of(scopes)
        if tokens is None:
            if _full(meters, now) is not None:
                _check_queues(meters, now)
            return
        for meter in meters:
            if meter.tokens is not None and (wait_s := meter.tokens.wait_s(now, tokens)):
                raise _refusal(meter, now, wait_s, tokens)

    def state(self, scopes: Sequence[Scope]) -> list[dict[str, object]]:
        """What each scope's limit allows and what is left of it; null: that is not limited."""
        now = self.clock()
        return [
            {"scope": name, **meter.state(now)}
            for (name, _), meter in zip(scopes, self._of(scopes), strict=True)
        ]

    def serve(self, meter: _Meter) -> None:
        """Let calls begin that waited for a slot of `meter`, as long as it has any."""
        # Ends: whoever stays in the queue is counted where there is no room.
        while meter.waiting and meter.slots.has_room:
            self._serve_next()

    def restore(
        self,
        rows: Iterable[Row],
        scopes_of: Callable[[str, str, str | None], Sequence[Scope]],
        now_ms: int,
    ) -> None:
        """Fill the windows, before the first call, with the exchanges of the last minute.

        `scopes_of` gives the scopes of a key, an owner and a model; `now_ms` is the Unix time.
        """
        now = self.clock()
        events: list[tuple[int, int, int, list[_Meter]]] = []
        for key, owner, model, started_ms, ended_ms, is_counted, tokens in rows:
            meters = self._of(scopes_of(key, owner, model))
            events.append((min(started_ms, now_ms), is_counted, 0, meters))
            events.append((min(ended_ms, now_ms), False, tokens, meters))
        for at_ms, is_counted, tokens, meters in sorted(events, key=_first):
            at = now - (now_ms - at_ms) / 1000
            for meter in meters:
                if is_counted and meter.requests is not None:
                    meter.requests.add(at)
                if meter.tokens is not None:
                    meter.tokens.settle(at, 0, tokens)

    def _of(self, scopes: Sequence[Scope]) -> list[_Meter]:
        found = []
        for name, limit in scopes:
            meter = self._meters.get(name)
            if meter is None:
                meter = self._meters[name] = _Meter(limit)
            elif meter.limit is not limit:
                meter.configure(limit)
                self.serve(meter)  # there may be more room for who waits
            found.append(meter)
        return found

    def _serve_next(self) -> None:
        now = self.clock()
        for waiter in self._queue:
            if waiter.full.slots.has_room and self._ends(waiter, now):
                self._remove(waiter)
                return

    def _ends(self, waiter: _Waiter, now: float) -> bool:
        """Whether its wait is over: it begins, is refused, or has gone; else it waits elsewhere."""
        if waiter.turn.done():
            return True  # cancelled, and its task has not run since
        try:
            full = _full(waiter.meters, now)
        except RateLimited as refusal:
            waiter.turn.set_exception(refusal)
            return True
        if full is None:
            waiter.turn.set_result(Grant(self, waiter.meters, now))
            self._queue.end_turn(waiter.key)
            return True
        waiter.full.waiting -= 1
        waiter.full = full
        full.waiting += 1
        return False

    def _leave(self, waiter: _Waiter) -> None:
        self._remove(waiter)
        # The turn may have come in the very moment the caller left.
        turn = waiter.turn
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            turn.result().undo()

    def _remove(self, waiter: _Waiter) -> None:
        if self._queue.discard(waiter.key, waiter):
            waiter.full.waiting -= 1


def _full(meters: list[_Meter], now: float) -> _Meter | None:
    """A scope whose slots are all taken; None if a call may begin.

    Raises RateLimited if the requests of any are used up.
    """
    longest_s, slowest, full = 0.0, None, None
    for meter in meters:
        if meter.requests is not None:
            wait_s = meter.requests.wait_s(now)
            if wait_s > longest_s:
                longest_s, slowest = wait_s, meter
        if not meter.slots.has_room:
            full = meter
    if slowest is not None:
        raise _refusal(slowest, now, longest_s)
    return full


def _check_queues(meters: list[_Meter], now: float) -> None:
    for meter in meters:
        if not meter.slots.has_room and meter.waiting >= meter.limit.queue.size:
            raise _refusal(meter, now, _SLOT_S)


def _refusal(meter: _Meter, now: float, wait_s: float, tokens: int = 0) -> RateLimited:
    """`tokens` are those that do not fit, where it is their limit that is used up."""
    wait_ms = math.ceil(wait_s * 1000)
    retry = {"Retry-After": str(-(-wait_ms // 1000)), "retry-after-ms": str(wait_ms)}
    message = RateLimited.message
    if tokens and (window := meter.tokens) is not None:
        left = f"{window.remaining(now)} of {window.limit} a minute are left"
        message += f": this request may take {tokens} tokens, and {left}"
    return RateLimited(message, headers=_headers([meter], now) | retry)


def _headers(meters: list[_Meter], now: float) -> dict[str, str]:
    headers: dict[str, str] = {}
    requests: Window | None = None
    tokens: TokenWindow | None = None
    fewest = least = 0
    for meter in meters:
        if meter.requests is not None:
            left = meter.requests.remaining(now)
            if requests is None or left < fewest:
                fewest, requests = left, meter.requests
        if meter.tokens is not None:
            left = meter.tokens.remaining(now)
            if tokens is None or left < least:
                least, tokens = left, meter.tokens
    if requests is not None:
        headers["x-ratelimit-limit-requests"] = str(requests.limit)
        headers["x-ratelimit-remaining-requests"] = str(fewest)
        headers["x-ratelimit-reset-requests"] = f"{requests.reset_s(now):.3f}s"
    if tokens is not None:
        headers["x-ratelimit-limit-tokens"] = str(tokens.limit)
        headers["x-ratelimit-remaining-tokens"] = str(least)
        headers["x-ratelimit-reset-tokens"] = f"{tokens.reset_s(now):.3f}s"
    return headers


def _resized(window: W | None, kind: Callable[[int], W], limit: int | None) -> W | None:
    if limit is None:
        return None
    if window is None:
        return kind(limit)
    window.limit = limit
    return window
