"""Makes and changes keys: each change is durable and in the log before it is in force.

A key's text is given out once; what is kept of it is its digest.
"""

import re
import secrets
import time
from collections.abc import Callable
from typing import Any

import msgspec

from anos import changes, lifecycle
from anos.config_sections import DEFAULT_KEY
from anos.errors import InvalidRequest
from anos.exchange import Exchange
from anos.key_settings import Kept, Settings, Tree, decode, hint_of, read, tree_of
from anos.key_views import known, unknown
from anos.keys import digest_of
from anos.schema import KeyRecord
from anos.state import Gateway, Live
from anos.store import PutKey, StoreError

MAX_OVERLAP_S = 31_536_000
_NAME = re.compile(r"(?!master$|\.\.?$)[A-Za-z0-9._@-]{1,64}")
_NAME_WORDS = '1 to 64 letters, digits and . _ @ -, not "master", "." or ".."'
_KEY = re.compile(r"[!-~]{1,4096}")
_KEY_WORDS = "at most 4096 printable ASCII characters without blanks"

Edit = Callable[[Tree], Tree]


async def create(
    gateway: Gateway, exchange: Exchange, name: str | None, settings: Tree, key: Any = None
) -> tuple[str, str]:
    """Make a key; its name and its text, which are made if they are not given.

    Raises InvalidRequest and Unavailable.
    """

    async def make() -> tuple[str, str]:
        async with gateway.changing:
            own = _free_name(gateway.live) if name is None else _new_name(gateway.live, name)
            text = _text(gateway.live, key)
            now_ms = time.time_ns() // 1_000_000
            kept = Kept(
                settings=_alive(read(settings, gateway.live.config), now_ms),
                hint=hint_of(text),
                created_ms=now_ms,
                created_by=exchange.caller.key if exchange.caller is not None else "",
            )
            record = KeyRecord(name=own, digest=digest_of(text), settings=msgspec.json.encode(kept))
            await _put(gateway, exchange, "key.create", record)
            return own, text

    return await changes.unbroken(gateway, make())


async def edit(gateway: Gateway, exchange: Exchange, name: str, action: str, change: Edit) -> None:
    """Replace a key's settings by what `change` makes of them; it is in force at once.

    Raises NotFound, InvalidRequest and Unavailable.
    """

    async def work() -> None:
        async with gateway.changing:
            record = _edited(gateway.live, editable(gateway.live, name), change)
            await _put(gateway, exchange, action, record)

    await changes.unbroken(gateway, work())


async def rotate(
    gateway: Gateway,
    exchange: Exchange,
    name: str,
    overlap_s: Any = 0,
    *,
    key: Any = None,
    change: Edit | None = None,
) -> str:
    """Give a key a new text and return it; the old one works for `overlap_s` seconds more.

    Raises NotFound, InvalidRequest and Unavailable.
    """
    if type(overlap_s) not in (int, float) or not 0 <= overlap_s <= MAX_OVERLAP_S:
        raise InvalidRequest(
            f"overlap_s: must be a number from 0 to {MAX_OVERLAP_S}", param="overlap_s"
        )

    async def work() -> str:
        async with gateway.changing:
            record = editable(gateway.live, name)
            text = _text(gateway.live, key)
            if change is not None:
                record = _edited(gateway.live, record, change)
            kept = decode(record.settings)
            record = KeyRecord(
                name=name,
                digest=digest_of(text),
                settings=msgspec.json.encode(msgspec.structs.replace(kept, hint=hint_of(text))),
                old_digest=record.digest if overlap_s else None,
                old_until_ms=int((time.time() + overlap_s) * 1000) if overlap_s else None,
            )
            await _put(gateway, exchange, "key.rotate", record)
            return text

    return await changes.unbroken(gateway, work())


async def delete(gateway: Gateway, exchange: Exchange, name: str) -> None:
    """End a key for good; its name stays taken, because it owns responses.

    Raises NotFound, InvalidRequest and Unavailable.
    """

    async def work() -> None:
        async with gateway.changing:
            editable(gateway.live, name)
            record = KeyRecord(name=name, digest=b"", settings=b"{}", deleted=True)
            await _put(gateway, exchange, "key.delete", record)

    await changes.unbroken(gateway, work())


def editable(live: Live, name: str) -> KeyRecord:
    """The record of a key that the API may change; raises NotFound and InvalidRequest."""
    if name in live.config.keys:
        raise InvalidRequest(
            f"The key '{name}' is in the configuration, and is changed there.", param="name"
        )
    record = live.keyring.records.get(name)
    if record is None or record.deleted:
        raise unknown()
    return record


async def _put(gateway: Gateway, exchange: Exchange, action: str, record: KeyRecord) -> None:
    live, name = gateway.live, record.name
    old = live.keyring.records.get(name)
    change = changes.record(
        exchange,
        action,
        f"key:{name}",
        before=None if old is None else known(old).shown(),
        after=None if record.deleted else known(record).shown(),
    )
    keyring = live.keyring.replaced(record)
    try:
        async with lifecycle.budgets_of(gateway, keyring) as take:
            await changes.commit(gateway, PutKey(record, change))
            gateway.live = msgspec.structs.replace(live, keyring=keyring)
            take()
    except StoreError as exc:
        raise changes.refused() from exc
    before, after = live.keyring.by_name.get(name), keyring.by_name.get(name)
    if before is not None and (after is None or before.scopes != after.scopes):
        gateway.limits.configure(gateway.live.scopes)


def _edited(live: Live, record: KeyRecord, change: Edit) -> KeyRecord:
    kept = decode(record.settings)
    settings = read(change(tree_of(kept.settings)), live.config)
    kept = msgspec.structs.replace(kept, settings=settings)
    return msgspec.structs.replace(record, settings=msgspec.json.encode(kept))


def _alive(settings: Settings, now_ms: int) -> Settings:
    if settings.expires_ms is not None and settings.expires_ms <= now_ms:
        raise InvalidRequest("expires: must be a time to come", param="expires")
    return settings


def _new_name(live: Live, name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequest(f"name: must be {_NAME_WORDS}", param="name")
    record = live.keyring.records.get(name)
    if name in live.config.keys or record is not None:
        deleted = record is not None and record.deleted
        words = "had a key that was deleted, and owns its responses" if deleted else "has a key"
        raise InvalidRequest(f"name: '{name}' {words}", param="name", code="name_taken")
    return name


def _free_name(live: Live) -> str:
    while True:
        name = f"key-{secrets.token_hex(4)}"
        if name not in live.keyring.records and name not in live.config.keys:
            return name


def _text(live: Live, key: Any) -> str:
    if key is None:
        return f"sk-{secrets.token_urlsafe(32)}"
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise InvalidRequest(f"key: must be {_KEY_WORDS}", param="key")
    if key == DEFAULT_KEY:
        raise InvalidRequest(f"key: {DEFAULT_KEY} is public knowledge", param="key")
    digest, records = digest_of(key), live.keyring.records.values()
    held = any(digest in (record.digest, record.old_digest) for record in records)
    if held or live.keyring.name_of(digest) is not None:
        raise InvalidRequest("key: another key is the same", param="key")
    return key
