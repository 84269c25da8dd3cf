"""Resolves the model name a client sends to the routes that serve it, in order."""

import ipaddress
import re
from urllib.parse import urlsplit

from msgspec import Struct

from anos.config_sections import Config, Limit, Model, ModelPrice, PriceTier, Quirks
from anos.errors import InvalidModel
from anos.pricing import FREE, Price, Prices, Tier, find, load
from guards.budgets import micro_usd

STUB = "stub:"

# What a client may name: one path segment that cannot leave its place in an upstream's URL.
_is_name = re.compile(r"(?!.*\.\.)[A-Za-z0-9._:/@-]{1,256}").fullmatch

# Names that only a wildcard knows are the client's to invent: memory is kept of so many.
_REMEMBERED = 1000


class Route(Struct, frozen=True):
    """One provider that serves a model, and the name the model has there."""

    provider: str
    dialect: str
    deployment: str
    quirks: Quirks
    reasoning: bool
    price: Price | None = None  # None: not known
    scope: tuple[str, Limit] | None = None  # the model's own rate limit
    # What is reserved for an answer without a cap of its own, for an image and for a file.
    max_output_tokens: int = 4096
    max_image_tokens: int = 0
    max_file_tokens: int = 0


class Router:
    """The models of one configuration: exact name before the longest prefix before `*`."""

    names: tuple[str, ...]  # the exact names, in the order of the configuration

    def __init__(self, config: Config, prices: Prices | None = None) -> None:
        self._providers = config.providers
        self._limits = config.limits
        self._prices = prices
        wild = {name: model for name, model in config.models.items() if name.endswith("*")}
        exact = {name: model for name, model in config.models.items() if name not in wild}
        self.names = tuple(exact)
        # The rate limits of models.
        self.scopes = {
            f"model:{name}" for name, model in config.models.items() if model.limits is not None
        }
        self._exact = {name: self._routes(model, name, name) for name, model in exact.items()}
        self._matched: dict[str, tuple[Route, ...]] = {}
        self._prefixes = sorted(
            ((name[:-1], model) for name, model in wild.items()),
            key=lambda entry: len(entry[0]),
            reverse=True,
        )

    def resolve(self, model: str) -> tuple[Route, ...]:
        """The routes of a public model name, at least one; raises InvalidModel.

        A route that names no deployment takes what `*` matched (`stub/echo` by `stub/*`: `echo`),
        or the whole name where there is no `*`.
        """
        routes = self._exact.get(model)
        if routes is not None:
            return routes
        routes = self._matched.get(model)
        if routes is None:
            routes = self._match(model)
            if len(self._matched) < _REMEMBERED:
                self._matched[model] = routes
        return routes

    def _match(self, model: str) -> tuple[Route, ...]:
        if _is_name(model):
            for prefix, entry in self._prefixes:
                if model.startswith(prefix) and len(model) > len(prefix):
                    return self._routes(entry, model[len(prefix) :], f"{prefix}*")
        raise InvalidModel

    def _routes(self, model: Model, matched: str, name: str) -> tuple[Route, ...]:
        """`name` is the one in the configuration: all a wildcard matches share its limit."""
        scope = None if model.limits is None else (f"model:{name}", self._limits[model.limits])
        return tuple(
            Route(
                entry.provider,
                self._providers[entry.provider].dialect,
                entry.deployment or matched,
                self._providers[entry.provider].quirks,
                model.reasoning,
                self._price(model, entry.provider, entry.deployment or matched),
                scope,
                model.max_output_tokens,
                model.max_image_tokens,
                model.max_file_tokens,
            )
            for entry in model.routes
        )

    def _price(self, model: Model, provider: str, deployment: str) -> Price | None:
        if model.price is not None:
            tiers = sorted(model.price.tiers, key=lambda tier: tier.over_input_tokens)
            return Price(
                **_rates(model.price),
                tiers=tuple(
                    Tier(over_input_tokens=tier.over_input_tokens, **_rates(tier)) for tier in tiers
                ),
            )
        base_url = self._providers[provider].base_url
        if base_url == STUB:
            return FREE
        # A model of a vendor's name that runs in the own network has not the vendor's price.
        if self._prices is None or _is_private(base_url):
            return None
        return find(self._prices, deployment)


def unpriced(config: Config) -> list[str]:
    """The models a key with a budget may not use, as no price is known for one of their routes.

    What is matched by `*` is not among them.
    """
    router = Router(config, load())
    return [name for name in router.names if any(r.price is None for r in router.resolve(name))]


def _is_private(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".lan"))


def _rates(price: ModelPrice | PriceTier) -> dict[str, int]:
    """Micro-dollars per million tokens; what is not given costs what its kind costs."""
    read, written = price.input_per_million_usd, price.output_per_million_usd
    rates = {
        "input": read,
        "output": written,
        "cached_input": price.cached_input_per_million_usd,
        "cache_write": price.cache_write_per_million_usd,
        "reasoning": price.reasoning_per_million_usd,
    }
    fallback = {"cached_input": read, "cache_write": read, "reasoning": written}
    return {
        name: micro_usd(repr(fallback[name] if rate is None else rate))
        for name, rate in rates.items()
    }
