"""What the handlers share, typed: the gateway's parts, and what a request carries."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from anos.config import Config
from anos.keys import Keyring
from anos.ledger import Exchange, Ledger
from anos.limits import Limits
from anos.metrics import Metrics
from anos.routing import Router
from anos.runs import Runs
from anos.store import Store
from anos.upstream import Upstream
from guards.keywords import Keywords


@dataclass(frozen=True, slots=True)
class Live:
    """Everything made from one configuration; a reload swaps it whole."""

    config: Config
    keyring: Keyring
    router: Router
    keywords: Keywords | None  # None: nothing to look for
    upstreams: dict[str, Upstream]


@dataclass(slots=True)
class Gateway:
    """The running parts."""

    live: Live
    store: Store
    ledger: Ledger
    limits: Limits
    metrics: Metrics
    runs: Runs
    stub_url: str  # "" if no provider is the built-in stub
    load: Callable[[], Config] | None = None  # reads the configuration again for a reload
    is_draining: bool = False
    closing: set[asyncio.Task[None]] = field(default_factory=set)  # upstreams a reload replaced


GATEWAY = web.AppKey("gateway", Gateway)
EXCHANGE = web.RequestKey("exchange", Exchange)
