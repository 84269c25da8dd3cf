"""Tells who is calling: the key of a request to its Caller, from memory, by SHA-256 digest."""

from collections.abc import Mapping
from hashlib import sha256

from msgspec import Struct
from multidict import MultiMapping, istr

from anos.config import Config, Key, Limit
from anos.errors import Unauthorized

MASTER = "master"

_AUTHORIZATION = istr("Authorization")
_HEADERS = (_AUTHORIZATION, istr("x-api-key"), istr("api-key"), istr("x-litellm-api-key"))


class Caller(Struct, frozen=True):
    """Who calls, what owns its responses, and what it may use."""

    key: str  # name of the key; MASTER for the master key
    project: str  # owner of its responses: "project:<name>", or "key:<name>" of a key without one
    models: tuple[str, ...]  # exact names, and prefixes that end with *
    limit: Limit | None
    is_master: bool

    def may_use(self, model: str) -> bool:
        """Whether this caller may name the public model `model`."""
        for allowed in self.models:
            if allowed == model or (allowed[-1] == "*" and model.startswith(allowed[:-1])):
                return True
        return False


class Keyring:
    """The keys of one configuration."""

    def __init__(self, config: Config) -> None:
        self._callers = {
            _digest(key.key): _caller(name, key, config.limits) for name, key in config.keys.items()
        }
        if config.server.master_key is not None:
            master = Caller(MASTER, "project:default", ("*",), None, True)
            self._callers[_digest(config.server.master_key)] = master

    def authenticate(self, headers: MultiMapping[str]) -> Caller:
        """The caller that a request's headers name; raises Unauthorized, which repeats nothing.

        A key is read from `Authorization: Bearer`, `api-key`, `x-api-key` and `x-litellm-api-key`;
        given more than once, it must be the same one.
        """
        given = ""
        for name in _HEADERS:
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
        if not given:
            raise _refusal("Authentication Error, No api key passed in.")
        caller = self._callers.get(_digest(given))
        if caller is None:
            raise _refusal("Authentication Error, invalid api key passed in.")
        return caller


def _refusal(message: str) -> Unauthorized:
    return Unauthorized(message, headers={"WWW-Authenticate": "Bearer"})


def _digest(key: str) -> bytes:
    # aiohttp decodes bytes that are not UTF-8 as lone surrogates, which plain encode() refuses.
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def _caller(name: str, key: Key, limits: Mapping[str, Limit]) -> Caller:
    owner = f"key:{name}" if key.project is None else f"project:{key.project}"
    return Caller(name, owner, key.models, limits.get(key.limits or "default"), False)
