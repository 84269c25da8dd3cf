"""The life of a gateway: open its parts, swap a new configuration in, drain, close."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import orjson
from aiohttp import web

from anos import config as configuration
from anos.config import Config, ConfigFault
from anos.keys import Keyring
from anos.ledger import Ledger
from anos.limits import Limits
from anos.metrics import Metrics
from anos.routing import Router
from anos.runs import Runs
from anos.state import BOUNDS, GATEWAY, Gateway, Live
from anos.store import Store, StoreError
from anos.upstream import Upstream
from guards.keywords import Keywords

logger = logging.getLogger("anos")

STUB = "stub:"
_DAY_MS = 86_400_000
# Expired responses go in small batches all day long rather than in one long one at night.
_RETENTION_EVERY_S = 60.0
# A request that was let in just before a reload begins to be a run within this time.
_HANDOVER_S = 10.0
# What is left after the drain gets this long to write its end.
_CLOSING_S = 5.0
_SHUTTING_DOWN = "The gateway is shutting down."
_RESTARTED = {"code": "server_error", "message": "gateway restarted"}


def contexts(
    config: Config, sql: Path, load: Callable[[], Config] | None
) -> Callable[[web.Application], AsyncIterator[None]]:
    """The application's cleanup context. `load` reads the configuration again for a reload."""

    async def gateway_context(app: web.Application) -> AsyncIterator[None]:
        stub, stub_url = await _start_stub(config)
        server = config.server
        store = await Store.open(Path(server.database), sql, synchronous=server.synchronous)
        await store.fail_unfinished(time.time_ns() // 1_000_000, _restarted)
        metrics = Metrics()
        gateway = app[GATEWAY] = Gateway(
            live=live_of(config, {}, stub_url),
            store=store,
            ledger=Ledger(store, metrics),
            limits=Limits(config.limits),
            metrics=metrics,
            runs=Runs(),
            stub_url=stub_url,
            bounds=app[BOUNDS],
            load=load,
        )
        metrics.models = frozenset(gateway.live.router.names)
        retention = asyncio.create_task(_retire(gateway))
        yield
        # What was let in just before the drain and got past it; its upstream closes below.
        gateway.runs.cancel_all(_SHUTTING_DOWN)
        await gateway.runs.wait(_CLOSING_S)
        for task in (retention, *gateway.closing):
            task.cancel()
        await asyncio.gather(retention, *gateway.closing, return_exceptions=True)
        for upstream in gateway.live.upstreams.values():
            await upstream.close()
        if stub is not None:
            await stub.cleanup()
        await store.close()

    return gateway_context


async def drain(app: web.Application) -> None:
    """Let what runs end, at most `server.drain_s`, then end it; new model calls are refused."""
    gateway = app[GATEWAY]
    gateway.is_draining = True
    await gateway.runs.wait(gateway.live.config.server.drain_s)
    gateway.runs.cancel_all(_SHUTTING_DOWN)
    await gateway.runs.wait(_CLOSING_S)


def reload(gateway: Gateway) -> list[str]:
    """Swap the configuration as it is on disk now in; returns the paths that changed.

    Raises ConfigFault and keeps the last good one. A running request keeps the one it began with.
    """
    if gateway.load is None:
        raise ConfigFault(["there is no configuration to read again"])
    old, new = gateway.live.config, gateway.load()
    if faults := configuration.reload_faults(old, new):
        raise ConfigFault(faults)
    if gateway.stub_url == "" and _uses_stub(new):
        raise ConfigFault(["providers: the built-in stub is started with the gateway; restart it"])
    previous = gateway.live.upstreams
    gateway.live = live_of(new, previous, gateway.stub_url)
    gateway.limits.configure(new.limits)
    gateway.metrics.models = frozenset(gateway.live.router.names)
    kept = set(map(id, gateway.live.upstreams.values()))
    for upstream in previous.values():
        if id(upstream) not in kept:
            closing = asyncio.create_task(_close_when_idle(gateway, upstream))
            gateway.closing.add(closing)
            closing.add_done_callback(gateway.closing.discard)
    return configuration.diff(old, new)


def reload_on_signal(app: web.Application) -> None:
    """Reload because of SIGHUP: what changed, or every fault, goes to the log."""
    try:
        changes = reload(app[GATEWAY])
    except ConfigFault as fault:
        logger.error("configuration not changed: %s", "; ".join(fault.faults))
    else:
        logger.info("configuration reloaded: %s", ", ".join(changes) or "nothing changed")


def live_of(config: Config, upstreams: dict[str, Upstream], stub_url: str) -> Live:
    """Everything made from `config`; upstreams of unchanged providers keep their connections."""
    phrases = config.guards.keywords.phrases
    looks = config.guards.keywords.input == "block" and phrases
    return Live(
        config=config,
        keyring=Keyring(config),
        router=Router(config),
        keywords=Keywords(phrases) if looks else None,
        upstreams={
            name: upstreams[name]
            if name in upstreams and upstreams[name].provider == provider
            else Upstream(provider, stub_url if provider.base_url == STUB else "")
            for name, provider in config.providers.items()
        },
    )


def _uses_stub(config: Config) -> bool:
    return any(provider.base_url == STUB for provider in config.providers.values())


async def _start_stub(config: Config) -> tuple[web.AppRunner | None, str]:
    if not _uses_stub(config):
        return None, ""
    from anos import stub  # not loaded where nothing asks for it

    return await stub.start()


def _restarted(body: bytes) -> bytes:
    return orjson.dumps({**orjson.loads(body), "status": "failed", "error": _RESTARTED})


async def expire(gateway: Gateway) -> None:
    """Remove the responses that are older than their days; what cannot be written is logged."""
    days = gateway.live.config.retention.responses_days
    try:
        await gateway.store.retire(time.time_ns() // 1_000_000 - days * _DAY_MS)
    except StoreError as exc:
        logger.error("expired responses could not be removed: %s", exc)


async def _retire(gateway: Gateway) -> None:
    while True:
        await expire(gateway)
        await asyncio.sleep(_RETENTION_EVERY_S)


async def _close_when_idle(gateway: Gateway, upstream: Upstream) -> None:
    try:
        await asyncio.sleep(_HANDOVER_S)
        await gateway.runs.wait(None)
    finally:
        await upstream.close()
