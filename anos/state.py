"""What the handlers share, typed: the gateway's parts, and what a request carries."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web
from msgspec import Struct, field

from anos.budgets import Budgets
from anos.config_sections import Config
from anos.exchange import Exchange
from anos.keys import Keyring
from anos.ledger import Ledger
from anos.limits import Limits
from anos.metrics import Metrics
from anos.routing import Router
from anos.runs import Runs
from anos.schema import ChangeRecord
from anos.screening import Profile
from anos.store import Store
from anos.upstream import Upstream

if TYPE_CHECKING:
    from anos.feed import Subscription


class Bounds(Struct, frozen=True):
    """How long a client is waited for, and how much it, or all of them together, may take."""

    # Complete headers must be there after this long, on a new and on a kept connection alike.
    head_s: float = 30.0
    # An idle connection is kept longer than the pools of common clients and balancers keep theirs.
    idle_s: float = 75.0
    # A body has this long to arrive, and a second more for every so many bytes.
    body_s: float = 10.0
    body_bytes_per_s: int = 1024
    # A client that takes nothing for this long is gone.
    stalled_s: float = 60.0
    # A proxy in between gives a silent stream up after 60 s or less.
    silence_s: float = 15.0
    # What waits in a stream to be judged with what follows it waits this long.
    hold_s: float = 1.0
    connections: int = 10_000
    body_bytes: int = 100 * 1024 * 1024
    all_body_bytes: int = 512 * 1024 * 1024


class Live(Struct, frozen=True, eq=False):
    """Everything made from one configuration; a reload swaps it whole."""

    config: Config
    keyring: Keyring
    router: Router
    profiles: dict[str, Profile]  # of guards
    upstreams: dict[str, Upstream]

    @property
    def scopes(self) -> set[str]:
        """The names of all that a rate limit is of."""
        named = {name for caller in self.keyring.by_name.values() for name, _ in caller.scopes}
        return named | self.router.scopes


class Gateway(Struct, eq=False):
    """The running parts."""

    live: Live
    store: Store
    ledger: Ledger
    limits: Limits
    budgets: Budgets
    metrics: Metrics
    runs: Runs
    stub_url: str  # "" if no provider is the built-in stub
    bounds: Bounds
    load: Callable[[], Config] | None = None  # reads the configuration again for a reload
    is_draining: bool = False
    subscribers: set["Subscription"] = field(default_factory=set)  # who watches what happens
    is_recomputing: bool = False  # spend is being corrected
    tending: set[str] = field(default_factory=set)  # backup, verify, integrity: one of each at once
    body_bytes: int = 0  # of the large bodies of all requests in progress
    closing: set[asyncio.Task[Any]] = field(default_factory=set)  # changes, and what they replaced
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)  # held while `live` is replaced
    # Told of every row of the log of changes.
    watchers: list[Callable[[ChangeRecord], None]] = field(default_factory=list)


DEFAULT_BOUNDS = Bounds()

BOUNDS = web.AppKey("bounds", Bounds)
GATEWAY = web.AppKey("gateway", Gateway)
SERVING = web.RequestKey("serving", Gateway)
EXCHANGE = web.RequestKey("exchange", Exchange)
