"""Builds msgspec structs from a JSON tree and, unlike msgspec, collects every fault with its path.

It understands what the configuration's types consist of: structs, dict[str, X], tuple[X, ...],
X | None and scalars, each with a msgspec.Meta.
"""

import re
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

# A secret is one line; whoever names a bigger file has named the wrong one (/dev/zero, a log).
MAX_REFERENCED_BYTES = 65_536
# Of a list that may be given as the one value in it: in `Meta.extra`, and in the JSON schema.
OR_ONE = "or_one"
# The profile that need not be named: it is what `guards` itself holds.
_ALWAYS = ("guards.profiles", "default")


class Secret(str):
    """A string that does not show itself in `repr`, and so in no dump of what holds it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "(secret)"


def string(must_be: str, check: Callable[[str], object], **extra: object) -> Meta:
    """What the reader and the JSON schema know about a kind of string.

    `must_be` ends a fault and describes the value in the schema; `check` is a predicate and no
    Meta.pattern, because the schema must let `env:NAME` pass. `section` names the section that has
    the value as a key, `secret` makes it a Secret, `unique` forbids to use it twice, `why` says
    what `check` has against a value.
    """
    return Meta(description=must_be, extra={"check": check, **extra})


class Reader:
    """One walk over one tree.

    A struct may have `later`, the keys it will have one day, and `later_values`: a tree that uses
    them is told that they are not built yet. Its `faults()` are asked for when each value in it is
    right by itself: a path below its own, and what is wrong there.
    """

    def __init__(self, tree: object, env: Mapping[str, str], later_values: frozenset[str]) -> None:
        self.faults: list[str] = []
        self.used: dict[str, str] = {}  # value of a `unique` string -> its path
        self._tree = tree
        self._env = env
        self._later_values = later_values

    def fault(self, path: str, message: str) -> Any:
        """Notes a fault; returns None, which stands for the value that could not be read."""
        self.faults.append(f"{path or 'configuration'}: {message}")

    def read(self, kind: Any, value: object, path: str = "") -> Any:
        """`value` as a `kind`; worth something only if `faults` is empty in the end."""
        options = get_args(kind)
        if get_origin(kind) in (Union, types.UnionType):
            return None if value is None else self.read(options[0], value, path)
        bare, meta = options[:2] if get_origin(kind) is Annotated else (kind, Meta())
        if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
            return self._struct(bare, value, path)
        if get_origin(bare) is dict:
            return self._mapping(get_args(bare), value, path)
        if get_origin(bare) is tuple:
            return self._list(get_args(bare)[0], value, path, meta)
        return self._scalar(kind, value, path, meta)

    def _struct(self, kind: type[msgspec.Struct], value: object, path: str) -> Any:
        if not isinstance(value, dict):
            return self.fault(path, "must be an object")
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        prefix = f"{path}." if path else ""
        known = len(self.faults)
        for name in [name for name in value if name not in fields]:
            later = name in getattr(kind, "later", ())
            self.fault(f"{prefix}{name}", "not built yet" if later else "unknown key")
        built: dict[str, Any] = {}
        for name, field in fields.items():
            if name in value:
                built[name] = self.read(field.type, value[name], f"{prefix}{name}")
            elif field.required:
                built[name] = self.fault(f"{prefix}{name}", "is missing")
        made = kind(**built)
        if len(self.faults) == known:
            for name, message in getattr(made, "faults", tuple)():
                self.fault(f"{prefix}{name}" if name else path, message)
        return made

    def _mapping(self, kinds: tuple[Any, ...], value: object, path: str) -> Any:
        if not isinstance(value, dict):
            return self.fault(path, "must be an object")
        meta, kind = get_args(kinds[0])[1], kinds[1]
        for name in value:
            if not re.fullmatch(meta.pattern, name):
                self.fault(f"{path}.{name}", f"the name must be {meta.description}")
        return {name: self.read(kind, inner, f"{path}.{name}") for name, inner in value.items()}

    def _list(self, kind: Any, value: object, path: str, meta: Meta) -> Any:
        if isinstance(value, dict) and (meta.extra or {}).get(OR_ONE):
            return (self.read(kind, value, path),)
        if not isinstance(value, list) or len(value) < (meta.min_length or 0):
            return self.fault(path, f"must be {meta.description or 'a list'}")
        return tuple(self.read(kind, inner, f"{path}[{i}]") for i, inner in enumerate(value))

    def _scalar(self, kind: Any, value: object, path: str, meta: Meta) -> Any:
        origin = ""
        if isinstance(value, str) and value.startswith(("env:", "file:")):
            origin = f" (from {value})"
            value = self._resolve(value, path)
            if value is None:
                return None
        try:
            # Text from outside the file has no JSON type: "4000" is a number where one is wanted.
            result = msgspec.convert(value, kind, strict=not origin)
        except msgspec.ValidationError:
            return self.fault(path, f"{self._expected(kind, meta, value)}{origin}")
        extra = meta.extra or {}
        if "check" in extra and not extra["check"](result):
            why = f" ({extra['why'](result)})" if "why" in extra else ""
            return self.fault(path, f"must be {meta.description}{why}{origin}")
        if "section" in extra and not self._has(extra["section"], result):
            shown = origin or f' "{result}"'
            kind_of = extra["section"].rpartition(".")[2].removesuffix("s")
            return self.fault(path, f"no {kind_of}{shown}")
        if extra.get("unique") and self.used.setdefault(result, path) != path:
            return self.fault(path, f"the same key as {self.used[result]}")
        return Secret(result) if extra.get("secret") else result

    def _has(self, section: str, name: str) -> bool:
        found = self._tree
        for part in section.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return (section, name) == _ALWAYS or (isinstance(found, dict) and name in found)

    def _expected(self, kind: Any, meta: Meta, value: object) -> str:
        if get_origin(kind) is not Literal:
            words = "true or false" if kind is bool else "a string"
            return f"must be {meta.description or words}"
        if isinstance(value, str) and value in self._later_values:
            return f'"{value}" is not built yet'
        return "must be " + " or ".join(f'"{word}"' for word in get_args(kind))

    def _resolve(self, reference: str, path: str) -> str | None:
        scheme, _, name = reference.partition(":")
        if scheme == "file":
            return self._read_file(name, path)
        # What follows may be a key pasted in the wrong place: only a possible name is shown.
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            self.fault(path, '"env:" must name an environment variable')
            return None
        if not self._env.get(name):
            self.fault(path, f"environment variable {name} is not set")
        return self._env.get(name) or None

    def _read_file(self, name: str, path: str) -> str | None:
        try:
            with open(name, "rb") as file:
                data = file.read(MAX_REFERENCED_BYTES + 1)
            text = data.decode().rstrip("\r\n")
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8 text"
            self.fault(path, f'cannot read "{name}": {reason}')
            return None
        if not text or len(data) > MAX_REFERENCED_BYTES:
            self.fault(path, f'"{name}" is empty or over {MAX_REFERENCED_BYTES} bytes')
            return None
        return text
