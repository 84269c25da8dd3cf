"""Limits over a sliding window and of what runs at once, and a fair queue for who must wait.

The clock is an argument, in seconds that never go back.
"""

from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

# Tokens that were used within this part of a window leave it together.
_SLICES = 100


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
        expiries = self._expiries
        while expiries and expiries[0] <= now:
            expiries.popleft()
        excess = len(expiries) - self.limit
        return expiries[excess] - now if excess >= 0 else 0.0

    def add(self, now: float) -> None:
        """Take one, free or not."""
        self._expiries.append(now + self.window_s)

    def take(self, now: float) -> float:
        """0.0 and one is taken, or the seconds until one will be free and nothing is taken."""
        wait_s = self.wait_s(now)
        if not wait_s:
            self.add(now)
        return wait_s

    def give_back(self, taken: float) -> None:
        """Undo a taking of the moment `taken`, unless it has left the window."""
        # Not just the newest: what was taken after it would then leave too early.
        expiry = taken + self.window_s
        index = bisect_left(self._expiries, expiry)
        if index < len(self._expiries) and self._expiries[index] == expiry:
            del self._expiries[index]

    def remaining(self, now: float) -> int:
        """How many could be taken at once."""
        expiries = self._expiries
        if expiries and expiries[0] <= now:
            self.wait_s(now)
        left = self.limit - len(expiries)
        return left if left > 0 else 0

    def reset_s(self, now: float) -> float:
        """Seconds until the window is empty again."""
        expiries = self._expiries
        return expiries[-1] - now if expiries and expiries[-1] > now else 0.0


class TokenWindow:
    """At most `limit` tokens in any `window_s` seconds, held while their number is an estimate.

    A hold counts until it is settled, however long that takes; what was really used counts for
    `window_s` from then on, also where it is more than was held. At most about a hundred entries
    are kept: what is settled within a hundredth of the window leaves with the last of it, never
    before.
    """

    __slots__ = ("_entries", "_held", "_used", "limit", "window_s")

    def __init__(self, limit: int, window_s: float = 60.0) -> None:
        if limit < 1:
            raise ValueError("a limit is at least 1")
        self.limit = limit
        self.window_s = window_s
        self._held = 0
        self._used = 0  # the sum of the entries
        # When the entry was begun, when it leaves the window, and its tokens; oldest first.
        self._entries: deque[tuple[float, float, int]] = deque()

    def wait_s(self, now: float, tokens: int) -> float:
        """Seconds until so many tokens would fit; 0.0 if they do.

        More than `limit` fit when the window is empty. How long what is held will take is not
        known: it counts as if it were settled now.
        """
        self._prune(now)
        excess = self._used + self._held + min(tokens, self.limit) - self.limit
        if excess <= 0:
            return 0.0
        for _, expiry, used in self._entries:
            excess -= used
            if excess <= 0:
                return expiry - now
        return self.window_s

    def hold(self, tokens: int) -> None:
        """Reserve tokens for a call in flight, whether they fit or not."""
        self._held += tokens

    def settle(self, now: float, held: int, used: int) -> None:
        """End a hold of `held` tokens; `used` were used."""
        self._held -= held
        self._prune(now)
        if not used:
            return
        self._used += used
        begun, expiry = now, now + self.window_s
        if self._entries and now - self._entries[-1][0] < self.window_s / _SLICES:
            begun, _, merged = self._entries.pop()
            used += merged
        self._entries.append((begun, expiry, used))

    def remaining(self, now: float) -> int:
        """How many tokens could be held at once."""
        self._prune(now)
        return max(0, self.limit - self._used - self._held)

    def reset_s(self, now: float) -> float:
        """Seconds until the window is empty again, if what is held were settled now."""
        if self._held:
            return self.window_s
        return max(0.0, self._entries[-1][1] - now) if self._entries else 0.0

    def _prune(self, now: float) -> None:
        entries = self._entries
        while entries and entries[0][1] <= now:
            self._used -= entries.popleft()[2]


class Slots:
    """At most `limit` at once; None: any number, but counted for a limit that may come."""

    __slots__ = ("limit", "taken")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.taken = 0

    @property
    def has_room(self) -> bool:
        """Whether one more may be taken."""
        return self.limit is None or self.taken < self.limit

    def take(self) -> None:
        """Take one, with room or without."""
        self.taken += 1

    def give_back(self) -> None:
        """End one that was taken."""
        self.taken -= 1


class FairQueue(Generic[T]):
    """Who waits: the keys take turns, and within a key the first comes first."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        # The key whose turn it is comes first.
        self._lines: OrderedDict[str, dict[T, None]] = OrderedDict()

    def __iter__(self) -> Iterator[T]:
        """Who is next, and after whom that cannot go; stop at the first change."""
        for line in self._lines.values():
            yield from line

    def add(self, key: str, waiting: T) -> None:
        """Let one wait as the last of its key; a key that had none is the last to have a turn."""
        self._lines.setdefault(key, {})[waiting] = None

    def discard(self, key: str, waiting: T) -> bool:
        """Let one go; False if it does not wait."""
        line = self._lines.get(key, {})
        if waiting not in line:
            return False
        del line[waiting]
        if not line:
            del self._lines[key]
        return True

    def end_turn(self, key: str) -> None:
        """Let every other key have its turn before this one."""
        if key in self._lines:
            self._lines.move_to_end(key)
