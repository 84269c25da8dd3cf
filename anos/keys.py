"""Tells who is calling: the key of a request to its Caller, from memory, by SHA-256 digest."""

import copy
import time
from collections.abc import Iterable
from hashlib import sha256

import msgspec
from msgspec import Struct
from multidict import MultiMapping, istr

from anos.config_sections import Budget, Config, Limit
from anos.errors import Unauthorized
from anos.key_settings import Settings, budgets_of, decode, lacking, limit_of, of_configured
from anos.limits import Scope
from anos.schema import KeyRecord

MASTER = "master"
GLOBAL = "global"  # what holds for all callers together
_MASTERS_PROJECT = "default"

Money = tuple[Budget, ...]

_AUTHORIZATION = istr("Authorization")
_OTHERS = (istr("x-api-key"), istr("api-key"), istr("x-litellm-api-key"))
_X_API_KEY, _API_KEY, _LITELLM = _OTHERS


class Caller(Struct, frozen=True, kw_only=True):
    """Who calls, what owns its responses, and what it may use."""

    key: str  # name of the key; MASTER for the master key
    project: str  # owner of its responses: "project:<name>", or "key:<name>" of a key without one
    models: tuple[str, ...]  # exact names, and prefixes that end with *
    role: str  # admin, key or read-only
    scopes: tuple[Scope, ...] = ()  # the limits it fills, its own first
    accounts: tuple[str, ...] = ()  # see accounts_of
    bodies: str = "off"  # what the ledger keeps of bodies: off, hashed or full
    expires_ms: int | None = None  # Unix time
    blocked: bool = False
    guards: str = "default"  # the profile of its guards

    def may_use(self, model: str) -> bool:
        """Whether this caller may name the public model `model`."""
        for allowed in self.models:
            if allowed == model or (allowed[-1] == "*" and model.startswith(allowed[:-1])):
                return True
        return False

    def check(self) -> None:
        """Raises Unauthorized where its key lets nobody in any more."""
        if self.blocked:
            raise _refusal("Authentication Error, the api key is blocked.")
        if self.expires_ms is not None and self.expires_ms <= time.time() * 1000:
            raise _refusal("Authentication Error, the api key has expired.")


class Keyring:
    """The keys of one configuration, and with them those made through the API; never changed.

    Of two keys with one name the configuration's is in force. `faults` says, for keys made through
    the API, what of their settings the configuration lacks: these let nobody in.
    """

    def __init__(self, config: Config, records: Iterable[KeyRecord] = ()) -> None:
        self.records: dict[str, KeyRecord] = {}  # by name, tombstones too
        self.by_name: dict[str, Caller] = {}
        self.accounts = _common_accounts(config)  # of everybody who has budgets
        self.faults: dict[str, str] = {}
        self._config = config
        self._callers: dict[bytes, Caller] = {}
        for name, key in config.keys.items():
            self._callers[digest_of(key.key)] = self._take(name, of_configured(key))
        if config.server.master_key is not None:
            master = _master(config)
            self._callers[digest_of(config.server.master_key)] = self.by_name[MASTER] = master
        for record in records:
            self._add(record)

    @property
    def shadowed(self) -> list[str]:
        """The names of keys that were made through the API and are in the configuration too."""
        return [
            name
            for name, record in self.records.items()
            if name in self._config.keys and not record.deleted
        ]

    def replaced(self, record: KeyRecord) -> "Keyring":
        """These keys, with a new one or a new state of one that was made through the API."""
        new = copy.copy(self)
        new.records, new.by_name = dict(self.records), dict(self.by_name)
        new.accounts, new.faults = dict(self.accounts), dict(self.faults)
        new._callers = dict(self._callers)
        if record.name in new.records:
            new._remove(new.records[record.name])
        new._add(record)
        return new

    def name_of(self, digest: bytes) -> str | None:
        """The name of the key with this digest; None: there is none."""
        caller = self._callers.get(digest)
        return None if caller is None else caller.key

    def authenticate(self, headers: MultiMapping[str]) -> Caller:
        """The caller that a request's headers name; raises Unauthorized, which repeats nothing.

        A key is read from `Authorization: Bearer`, `api-key`, `x-api-key` and `x-litellm-api-key`;
        given more than once, it must be the same one.
        """
        values = headers.getall(_AUTHORIZATION, ())
        if (
            len(values) == 1
            and values[0].startswith("Bearer ")
            and not (_API_KEY in headers or _X_API_KEY in headers or _LITELLM in headers)
        ):
            given = values[0][7:].strip()
        else:
            given = _credential(headers)
        if not given:
            raise _refusal("Authentication Error, No api key passed in.")
        caller = self._callers.get(digest_of(given))
        if caller is None:
            raise _refusal("Authentication Error, invalid api key passed in.")
        caller.check()
        return caller

    def _take(self, name: str, settings: Settings) -> Caller:
        caller = self.by_name[name] = _caller(name, settings, self._config)
        if budgets := budgets_of(settings.budget, self._config):
            self.accounts[f"key:{name}"] = budgets
        return caller

    def _add(self, record: KeyRecord) -> None:
        self.records[record.name] = record
        if record.deleted or record.name in self._config.keys:
            return
        settings = decode(record.settings).settings
        if faults := lacking(settings, self._config):
            self.faults[record.name] = "; ".join(faults)
            return
        caller = self._take(record.name, settings)
        # A key of the configuration stays that one, whoever else was given the same.
        self._callers.setdefault(record.digest, caller)
        if record.old_digest is not None and record.old_until_ms is not None:
            ends = record.old_until_ms
            if caller.expires_ms is not None:
                ends = min(ends, caller.expires_ms)
            old = msgspec.structs.replace(caller, expires_ms=ends)
            self._callers.setdefault(record.old_digest, old)

    def _remove(self, record: KeyRecord) -> None:
        self.faults.pop(record.name, None)
        if record.name in self._config.keys:
            return
        self.by_name.pop(record.name, None)
        self.accounts.pop(f"key:{record.name}", None)
        for digest in (record.digest, record.old_digest or b""):
            if self.name_of(digest) == record.name:
                del self._callers[digest]


def digest_of(key: str) -> bytes:
    """SHA-256 of a key, which is all that is kept of it."""
    # aiohttp decodes bytes that are not UTF-8 as lone surrogates, which plain encode() refuses.
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def _credential(headers: MultiMapping[str]) -> str:
    """The key in any of the headers; "" if there is none."""
    given = ""
    for name in (_AUTHORIZATION, *_OTHERS):
        for value in headers.getall(name, ()):
            scheme, _, rest = value.strip().partition(" ")
            if scheme.lower() == "bearer":
                credential = rest.strip()
            elif name is _AUTHORIZATION:
                raise _refusal('Authentication Error, Authorization must be "Bearer <key>".')
            else:
                credential = value.strip()
            if given and credential != given:
                raise _refusal("Authentication Error, two different api keys passed in.")
            given = credential
    return given


def _refusal(message: str) -> Unauthorized:
    return Unauthorized(message, headers={"WWW-Authenticate": "Bearer"})


def accounts_of(key: str, owner: str) -> tuple[str, ...]:
    """The accounts a call's cost is of: its key's, its project's and that of all callers."""
    return tuple(dict.fromkeys((f"key:{key}", owner, GLOBAL)))


def _caller(name: str, settings: Settings, config: Config) -> Caller:
    own = f"key:{name}"
    owner = own if settings.project is None else f"project:{settings.project}"
    return Caller(
        key=name,
        project=owner,
        models=settings.models,
        role=settings.role,
        scopes=_scopes((own, limit_of(settings.limits, config)), settings.project, config),
        accounts=accounts_of(name, owner),
        bodies=settings.bodies,
        expires_ms=settings.expires_ms,
        blocked=settings.blocked,
        guards=settings.guards,
    )


def _master(config: Config) -> Caller:
    """Neither default applies to the master key; what holds for its project and for all does."""
    owner = f"project:{_MASTERS_PROJECT}"
    return Caller(
        key=MASTER,
        project=owner,
        models=("*",),
        role="admin",
        scopes=_scopes((MASTER, None), _MASTERS_PROJECT, config),
        accounts=accounts_of(MASTER, owner),
    )


def _scopes(own: tuple[str, Limit | None], name: str | None, config: Config) -> tuple[Scope, ...]:
    """The limits that there are of a key's own, its project's, and those of all callers."""
    limits = [own]
    if (project := config.projects.get(name or "")) is not None:
        limits.append((f"project:{name}", config.limits.get(project.limits or "")))
    limits.append((GLOBAL, config.limits.get(GLOBAL)))
    return tuple((account, limit) for account, limit in limits if limit is not None)


def _common_accounts(config: Config) -> dict[str, Money]:
    named = [(f"project:{name}", each.budget or "") for name, each in config.projects.items()]
    named.append((GLOBAL, GLOBAL))
    return {account: config.budgets[n] for account, n in named if n in config.budgets}
