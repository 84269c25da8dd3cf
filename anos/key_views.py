"""The keys as operators may see them: all that is known of a key but the key."""

from msgspec import Struct

from anos.errors import NotFound
from anos.key_settings import Tree, decode, hint_of, iso, of_configured, tree_of
from anos.schema import KeyRecord
from anos.state import Live


class Known(Struct, frozen=True, kw_only=True):
    """A key as operators may see it."""

    name: str
    source: str  # config or api
    hint: str
    settings: Tree
    created_ms: int | None = None  # Unix time; None: it is in the configuration
    created_by: str | None = None
    old_until_ms: int | None = None  # Unix time until which the key before the last rotation works
    fault: str | None = None  # what of its settings the configuration lacks: it lets nobody in

    def shown(self) -> Tree:
        """As JSON."""
        return {
            "object": "key",
            "name": self.name,
            "source": self.source,
            "hint": self.hint,
            **self.settings,
            "created_at": None if self.created_ms is None else iso(self.created_ms),
            "created_by": self.created_by,
            "old_key_until": None if self.old_until_ms is None else iso(self.old_until_ms),
            "fault": self.fault,
        }


def names(live: Live) -> list[str]:
    """The names of all keys, in order."""
    made = [name for name, record in live.keyring.records.items() if not record.deleted]
    return sorted({*live.config.keys, *made})


def find(live: Live, name: str) -> Known:
    """The key of this name; raises NotFound."""
    if (key := live.config.keys.get(name)) is not None:
        return Known(
            name=name, source="config", hint=hint_of(key.key), settings=tree_of(of_configured(key))
        )
    record = live.keyring.records.get(name)
    if record is None or record.deleted:
        raise unknown()
    return known(record, live.keyring.faults.get(name))


def known(record: KeyRecord, fault: str | None = None) -> Known:
    """A key that was made through the API."""
    kept = decode(record.settings)
    return Known(
        name=record.name,
        source="api",
        hint=kept.hint,
        settings=tree_of(kept.settings),
        created_ms=kept.created_ms,
        created_by=kept.created_by,
        old_until_ms=record.old_until_ms,
        fault=fault,
    )


def unknown() -> NotFound:
    """What a name is answered with that no key has."""
    return NotFound("There is no such key.", param="name")
