"""Resolves the model name a client sends to the routes that serve it, in order."""

import re

from msgspec import Struct

from anos.config import Config, Model, Quirks
from anos.errors import InvalidModel

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


class Router:
    """The models of one configuration: exact name before the longest prefix before `*`."""

    names: tuple[str, ...]  # the exact names, in the order of the configuration

    def __init__(self, config: Config) -> None:
        self._providers = config.providers
        wild = {name: model for name, model in config.models.items() if name.endswith("*")}
        exact = {name: model for name, model in config.models.items() if name not in wild}
        self.names = tuple(exact)
        self._exact = {name: self._routes(model, name) for name, model in exact.items()}
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
                    return self._routes(entry, model[len(prefix) :])
        raise InvalidModel

    def _routes(self, model: Model, matched: str) -> tuple[Route, ...]:
        return tuple(
            Route(
                entry.provider,
                self._providers[entry.provider].dialect,
                entry.deployment or matched,
                self._providers[entry.provider].quirks,
                model.reasoning,
            )
            for entry in model.routes
        )
