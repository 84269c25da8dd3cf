"""The windows of rate limits that callers fill; the arithmetic is in guards/rates.py."""

import time

from anos.config import Limit
from anos.errors import RateLimited
from anos.keys import Caller
from guards.rates import Window

_WINDOW_S = 60.0
GLOBAL = "global"


class Limits:
    """A window for each key that has a limit, and one for all callers; they survive a reload."""

    def __init__(self, limits: dict[str, Limit]) -> None:
        self._windows: dict[str, Window] = {}  # by key name; "" for all callers
        self.configure(limits)

    def configure(self, limits: dict[str, Limit]) -> None:
        """Take the limits of a new configuration; what is in the windows stays."""
        self._global = limits.get(GLOBAL)

    def take(self, caller: Caller) -> dict[str, str]:
        """Count one request of the caller; returns the answer's x-ratelimit headers.

        Raises RateLimited, counting nothing, when the key's or everybody's window is full.
        """
        now = time.monotonic()
        windows = []
        if caller.limit is not None:
            windows.append(self._window(caller.key, caller.limit))
        if self._global is not None:
            windows.append(self._window("", self._global))
        for window in windows:
            if (wait_s := window.wait_s(now)) > 0:
                raise RateLimited(headers=_headers(window, now) | _retry(wait_s))
        for window in windows:
            window.take(now)
        return _headers(windows[0], now) if windows else {}

    def _window(self, name: str, limit: Limit) -> Window:
        window = self._windows.get(name)
        if window is None:
            window = self._windows[name] = Window(limit.requests_per_minute, _WINDOW_S)
        window.limit = limit.requests_per_minute
        return window


def _headers(window: Window, now: float) -> dict[str, str]:
    return {
        "x-ratelimit-limit-requests": str(window.limit),
        "x-ratelimit-remaining-requests": str(window.remaining(now)),
        "x-ratelimit-reset-requests": f"{window.reset_s(now):.3f}s",
    }


def _retry(wait_s: float) -> dict[str, str]:
    wait_ms = int(wait_s * 1000) + 1
    return {"Retry-After": str(-(-wait_ms // 1000)), "retry-after-ms": str(wait_ms)}
