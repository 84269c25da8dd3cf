"""The life of a gateway: open its parts, swap a new configuration in, drain, close."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from anos import changes, pricing, screening, secret, store_file, upkeep
from anos import config as configuration
from anos.budgets import Budgets
from anos.config import ConfigFault
from anos.config_sections import Config, Provider
from anos.errors import InvalidModel, Unavailable
from anos.exchange import Exchange
from anos.keys import Keyring
from anos.ledger import Ledger
from anos.limits import Limits, Scope
from anos.metrics import Metrics
from anos.routing import STUB, Router
from anos.runs import Runs
from anos.state import BOUNDS, GATEWAY, Gateway, Live
from anos.store import LogChange, Store, StoreError
from anos.upstream import MODERATIONS, Upstream

logger = logging.getLogger("anos")

_DAY_MS = 86_400_000
# What the windows of rate limits reach back.
_WINDOW_MS = 60_000
# Expired responses go in small batches all day long rather than in one long one at night.
_RETENTION_EVERY_S = 60.0
# A request that was let in just before a reload begins to be a run within this time.
_HANDOVER_S = 10.0
# What is left after the drain gets this long to write its end.
_CLOSING_S = 5.0
_SHUTTING_DOWN = "The gateway is shutting down."
_RESTARTED = {"type": "server_error", "code": "server_error", "message": "gateway restarted"}


def contexts(
    config: Config, sql: Path, load: Callable[[], Config] | None
) -> Callable[[web.Application], AsyncIterator[None]]:
    """The application's cleanup context. `load` reads the configuration again for a reload."""

    async def gateway_context(app: web.Application) -> AsyncIterator[None]:
        # A start that fails halfway closes what is open: the store's threads would keep the
        # process alive.
        async with AsyncExitStack() as opened:
            stub, stub_url = await _start_stub(config)
            if stub is not None:
                opened.push_async_callback(stub.cleanup)
            server = config.server
            # Before a secret is made beside it.
            store_file.check(Path(server.database))
            root = secret.load(server)
            store = await Store.open(
                Path(server.database),
                sql,
                secret.derive(root, "audit"),
                synchronous=server.synchronous,
            )
            opened.push_async_callback(store.close)
            keyring = await _recover(store, config)
            metrics, budgets = Metrics(), Budgets()
            gateway = app[GATEWAY] = Gateway(
                live=live_of(config, keyring, {}, stub_url),
                store=store,
                ledger=Ledger(store, metrics, budgets, secret.derive(root, "clients")),
                limits=Limits(),
                budgets=budgets,
                metrics=metrics,
                runs=Runs(),
                stub_url=stub_url,
                bounds=app[BOUNDS],
                load=load,
            )
            opened.push_async_callback(_end, gateway)
            metrics.models = frozenset(gateway.live.router.names)
            await _restore(gateway)
            opened.push_async_callback(_cancel, {asyncio.create_task(_retire(gateway))})
            yield

    return gateway_context


async def _recover(store: Store, config: Config) -> Keyring:
    """Make good what a crash left, and read the keys."""
    await upkeep.sign(store, now_ms=time.time_ns() // 1_000_000)
    await store.fail_unfinished(time.time_ns() // 1_000_000, _restarted)
    if lost := await store.charge_lost():
        logger.warning(
            "%d calls were lost in a crash; each is charged what a budget held for it, if any", lost
        )
    keyring = Keyring(config, await store.keys())
    _report(keyring)
    return keyring


async def _end(gateway: Gateway) -> None:
    # What was let in just before the drain and got past it; its upstream closes below.
    gateway.runs.cancel_all(_SHUTTING_DOWN)
    await gateway.runs.wait(_CLOSING_S)
    await _cancel(gateway.closing)
    for upstream in gateway.live.upstreams.values():
        await upstream.close()


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def drain(app: web.Application) -> None:
    """Let what runs end, at most `server.drain_s`, then end it; new model calls are refused."""
    gateway = app[GATEWAY]
    gateway.is_draining = True
    await gateway.runs.wait(gateway.live.config.server.drain_s)
    if running := len(gateway.runs.now()):
        logger.warning("%d calls are cut off: server.drain_s is over", running)
    gateway.runs.cancel_all(_SHUTTING_DOWN)
    await gateway.runs.wait(_CLOSING_S)
    for subscriber in gateway.subscribers:
        subscriber.close()


async def reload(gateway: Gateway, exchange: Exchange | None = None) -> list[str]:
    """Swap the configuration as it is on disk now in; returns the paths that changed.

    `exchange` is the request that asks for it; None: a signal. Raises ConfigFault and keeps the
    last good one. A running request keeps the one it began with. What changed, or every fault, is
    logged.
    """
    return await changes.unbroken(gateway, _reload_logged(gateway, exchange))


async def _reload_logged(gateway: Gateway, exchange: Exchange | None) -> list[str]:
    try:
        lines = await _reload(gateway, exchange)
    except ConfigFault as fault:
        logger.error("configuration not changed: %s", "; ".join(fault.faults))
        raise
    logger.info("configuration reloaded: %s", ", ".join(lines) or "nothing changed")
    return lines


async def _reload(gateway: Gateway, exchange: Exchange | None) -> list[str]:
    async with gateway.changing:
        new = _next(gateway)
        lines = configuration.diff(gateway.live.config, new)
        before = gateway.live.keyring
        keyring = Keyring(new, before.records.values())
        if broken := keyring.faults.keys() - before.faults.keys():
            raise ConfigFault([f"key {name}: {keyring.faults[name]}" for name in sorted(broken)])
        change = changes.record(exchange, "config.reload", "config", after=lines)
        try:
            async with budgets_of(gateway, keyring) as take:
                await changes.commit(gateway, LogChange(change))
                _report(keyring)
                _swap(gateway, new, keyring)
                take()
        except Unavailable as exc:
            raise ConfigFault([exc.message]) from None
        except StoreError as exc:
            raise ConfigFault([changes.refused().message]) from exc
        return lines


def _next(gateway: Gateway) -> Config:
    """The configuration as it is on disk now, if the running gateway can take it."""
    if gateway.load is None:
        raise ConfigFault(["there is no configuration to read again"])
    old, new = gateway.live.config, gateway.load()
    if faults := configuration.reload_faults(old, new):
        raise ConfigFault(faults)
    if gateway.stub_url == "" and _uses_stub(new):
        raise ConfigFault(["providers: the built-in stub is started with the gateway; restart it"])
    return new


def _swap(gateway: Gateway, new: Config, keyring: Keyring) -> None:
    previous = gateway.live.upstreams
    gateway.live = live_of(new, keyring, previous, gateway.stub_url)
    gateway.limits.configure(gateway.live.scopes)
    gateway.metrics.models = frozenset(gateway.live.router.names)
    kept = set(map(id, gateway.live.upstreams.values()))
    for upstream in previous.values():
        if id(upstream) not in kept:
            closing = asyncio.create_task(_close_when_idle(gateway, upstream))
            gateway.closing.add(closing)
            closing.add_done_callback(gateway.closing.discard)


def served(config: Config, file: Path | None) -> Callable[[web.Application], Awaitable[None]]:
    """Tells the log of a start what who wonders why a model or a key is not known wants to know."""
    read = f"configuration {file.absolute()}" if file else "no configuration file: the stub answers"
    database = Path(config.server.database).absolute()

    async def say(app: web.Application) -> None:
        models = len(config.models)
        logger.info("%s; database %s; %d models, see GET /v1/models", read, database, models)

    return say


def on_hangup(app: web.Application) -> Callable[[], None]:
    """What SIGHUP calls: a reload, or the end if the terminal the gateway runs in was closed."""
    has_terminal = os.isatty(0)

    def act() -> None:
        if has_terminal and not os.isatty(0):
            signal.raise_signal(signal.SIGTERM)
        else:
            _reload_on_signal(app)

    return act


def _reload_on_signal(app: web.Application) -> None:
    gateway = app[GATEWAY]
    task = asyncio.create_task(_reload_quietly(gateway))
    gateway.closing.add(task)
    task.add_done_callback(gateway.closing.discard)


async def _reload_quietly(gateway: Gateway) -> None:
    with suppress(ConfigFault):
        await reload(gateway)


@asynccontextmanager
async def budgets_of(gateway: Gateway, keyring: Keyring) -> AsyncIterator[Callable[[], None]]:
    """The budgets of these keys: call what this gives, within, in the step that swaps the keys in.

    Those that are new know what was spent until then, and what calls hold. Raises StoreError.
    """
    now_ms = time.time_ns() // 1_000_000
    with gateway.budgets.changing(keyring.accounts) as change:
        scopes = [
            (*_payer(account), budget.window.bounds(now_ms)[0]) for account, budget in change.new
        ]
        spent = await gateway.store.spent_before(scopes) if scopes else []
        yield partial(gateway.budgets.take, change, now_ms, spent)


async def _restore(gateway: Gateway) -> None:
    """Fill budgets and limits with what the ledger knows from before the start."""
    async with budgets_of(gateway, gateway.live.keyring) as take:
        take()
    now_ms = time.time_ns() // 1_000_000
    live = gateway.live

    def scopes_of(key: str, owner: str, model: str | None) -> list[Scope]:
        caller = live.keyring.by_name.get(key)
        scopes = list(caller.scopes) if caller is not None else []
        try:
            scope = live.router.resolve(model)[0].scope if model is not None else None
        except InvalidModel:  # configured no more
            scope = None
        return scopes if scope is None else [*scopes, scope]

    rows = await gateway.store.recent(now_ms - _WINDOW_MS)
    gateway.limits.restore(rows, scopes_of, now_ms)


def _payer(account: str) -> tuple[str, str]:
    """How the ledger finds what an account has spent: by which column, and its value."""
    kind, _, name = account.partition(":")
    return {"key": ("key", name), "project": ("project", account)}.get(kind, ("all", ""))


def live_of(
    config: Config, keyring: Keyring, upstreams: dict[str, Upstream], stub_url: str
) -> Live:
    """Everything made from `config`; upstreams of unchanged providers keep their connections."""
    kept: dict[str, Upstream] = {}
    for name, (provider, path) in _connections(config).items():
        known = upstreams.get(name)
        is_same = known is not None and known.provider == provider
        url = stub_url if provider.base_url == STUB else ""
        kept[name] = known if known and is_same else Upstream(provider, url, path)
    return Live(
        config=config,
        keyring=keyring,
        router=Router(config, _prices(config)),
        profiles=screening.profiles_of(config, kept),
        upstreams=kept,
    )


def _connections(config: Config) -> dict[str, tuple[Provider, str]]:
    """By name the providers, and those whose endpoint for moderation a profile asks."""
    found = {name: (provider, "") for name, provider in config.providers.items()}
    for profile in (config.guards, *config.guards.profiles.values()):
        moderation = profile.moderation
        if moderation.backend == "endpoint" and moderation.provider is not None:
            provider = config.providers[moderation.provider]
            found[moderation.provider + MODERATIONS] = (provider, MODERATIONS)
    return found


def _report(keyring: Keyring) -> None:
    """Log which keys that were made through the API are not in force."""
    for name, why in keyring.faults.items():
        logger.error("key %s lets nobody in: %s", name, why)
    for name in keyring.shadowed:
        logger.warning("key %s is in the configuration too, which is in force", name)


def _prices(config: Config) -> pricing.Prices | None:
    """The price list that comes with the gateway, where a model has no price of its own."""
    return pricing.load() if any(model.price is None for model in config.models.values()) else None


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
    """Remove what is older than its days, and sign the logs; what cannot be written is logged."""
    retention, now_ms = gateway.live.config.retention, time.time_ns() // 1_000_000
    try:
        await gateway.store.retire(now_ms - retention.responses_days * _DAY_MS)
        await upkeep.tend(
            gateway.store,
            responses_days=retention.responses_days,
            audit_days=retention.audit_days,
            now_ms=now_ms,
        )
    except StoreError as exc:
        logger.error("what has expired could not be removed: %s", exc)


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
