"""Sliding-window limits; the clock is an argument, in seconds that never go back."""

from collections import deque


class Window:
    """At most `limit` takings in any `window_s` seconds, exactly, in O(1) amortised.

    Memory is bounded by `limit`. A refused taking leaves no trace, so a client that keeps knocking
    is not locked out by its own knocking.
    """

    __slots__ = ("_expiries", "limit", "window_s")

    def __init__(self, limit: int, window_s: float = 60.0) -> None:
        if limit < 1:
            raise ValueError("a limit is at least 1")
        self.limit = limit
        self.window_s = window_s
        # The moment each taking leaves the window, oldest first. Kept instead of the moment it came
        # in, so that "has it left" and "how long until it leaves" cannot differ by rounding.
        self._expiries: deque[float] = deque()

    def wait_s(self, now: float) -> float:
        """Seconds until one will be free; 0.0 if one is."""
        expiries = self._prune(now)
        excess = len(expiries) - self.limit
        return expiries[excess] - now if excess >= 0 else 0.0

    def take(self, now: float) -> float:
        """0.0 and one is taken, or the seconds until one will be free and nothing is taken."""
        wait_s = self.wait_s(now)
        if not wait_s:
            self._expiries.append(now + self.window_s)
        return wait_s

    def remaining(self, now: float) -> int:
        """How many could be taken at once."""
        return max(0, self.limit - len(self._prune(now)))

    def reset_s(self, now: float) -> float:
        """Seconds until the window is empty again."""
        expiries = self._prune(now)
        return expiries[-1] - now if expiries else 0.0

    def _prune(self, now: float) -> deque[float]:
        expiries = self._expiries
        while expiries and expiries[0] <= now:
            expiries.popleft()
        return expiries
