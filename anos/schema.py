"""The values that go into the store and come out of it, its jobs and its errors."""

from collections.abc import Callable

from msgspec import Struct

from anos.audit import Broken, Log

IN_FLIGHT = frozenset({"queued", "in_progress"})


class StoreError(Exception):
    """Anything the store refuses or cannot do; the message is for the operator."""


class StoreFault(StoreError):
    """The database file cannot be used at all; raised when it is opened."""


class StoreUnavailable(StoreError):
    """The store takes no jobs: it failed, is full, or is closed. Nothing was written."""


class StoreFailed(StoreError):
    """A job that was taken could not be committed, or a read failed. Nothing of it is stored."""


class NotFoundInStore(StoreError):
    """No such response, or another project's, or deleted."""


class ParentBroken(StoreError):
    """A response whose history can never be whole again: an ancestor was deleted."""


class InFlight(StoreError):
    """The response has not ended, so it cannot be deleted."""


class UnknownItem(StoreError):
    """The item named as the start of a page is not in the list."""


class ResponseRecord(Struct, kw_only=True):
    """A response as it is written.

    `body` is its JSON without output and choices; items are (id, JSON) in order.
    """

    id: str
    project: str
    parent_id: str | None
    model: str
    status: str
    background: bool
    created_ms: int
    completed_ms: int | None
    body: bytes
    input: list[tuple[str, bytes]]
    output: list[tuple[str, bytes]]
    cleared: str | None = None  # see store.sql


class ExchangeRecord(Struct, kw_only=True):
    """One request, for the ledger; the meaning of each field stands in store.sql.

    `reservation`, `request_body` and `response_body` are no columns of its row: the id of the
    reservation that ends with it, and what is kept in full where the key asks for it.
    """

    request_id: str
    started_ms: int
    duration_us: int
    key: str
    project: str
    method: str
    route: str
    status: int
    overhead_us: int | None = None
    response_id: str | None = None
    model: str | None = None
    provider: str | None = None
    deployment: str | None = None
    finish: str | None = None
    error_code: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    usage_source: str | None = None
    client: str | None = None
    first_byte_us: int | None = None
    counted: int = 0
    attempts: int = 0
    failures: str | None = None
    guards: str | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost: int | None = None
    reserved: int | None = None
    charged_ms: int | None = None
    corrects: int | None = None
    request_bytes: int | None = None
    response_bytes: int | None = None
    request_digest: str | None = None
    response_digest: str | None = None
    reservation: int = 0
    request_body: bytes | None = None
    response_body: bytes | None = None


class Lost(Struct, array_like=True):
    """What is known of a call before its upstream is asked: all a crash leaves of its exchange."""

    request_id: str
    response_id: str | None
    started_ms: int
    method: str
    route: str
    model: str | None
    client: str | None
    counted: int
    input_tokens: int  # the bounds that were reserved
    output_tokens: int
    cost: int
    charged_ms: int


class ReservationRecord(Struct, frozen=True):
    """What a call that runs holds of budgets; `exchange` is JSON of a Lost, should it be lost.

    `replaces` is no column: the id of the call's earlier one, which ends with this one.
    """

    id: int
    micro_usd: int
    key: str
    project: str
    exchange: bytes
    replaces: int = 0


class KeyRecord(Struct, frozen=True, kw_only=True):
    """A key made through the API; `settings` is JSON, digests are SHA-256 of the key.

    A deleted key stays as a tombstone without a digest: its name owns responses.
    """

    name: str
    digest: bytes
    settings: bytes
    old_digest: bytes | None = None
    old_until_ms: int | None = None
    deleted: bool = False


class ChangeRecord(Struct, frozen=True, kw_only=True):
    """Who changed what, for the log of changes; `before` and `after` are JSON or None."""

    at_ms: int
    actor: str
    request_id: str
    action: str
    object: str
    before: str | None = None
    after: str | None = None


class Save(Struct):
    """An exchange that ended, with its response if that is stored. Result None."""

    exchange: ExchangeRecord
    response: ResponseRecord | None = None


class Reserve(Struct):
    """A call is about to spend. Result None."""

    reservation: ReservationRecord


class Begin(Struct):
    """A background response takes its place, unfinished and without output. Result None."""

    response: ResponseRecord
    reservation: ReservationRecord


class Finish(Struct):
    """A background response ends. Result None.

    NotFoundInStore if it does not wait for its end; the exchange is kept nevertheless.
    """

    exchange: ExchangeRecord
    response: ResponseRecord


class ChargeLost(Struct):
    """Charge every reservation a crash left; for the start. Result: how many."""


class Spent(Struct):
    """Sums of what was submitted before, and of nothing later. Result: as of Store.spent."""

    scopes: list[tuple[str, str, int]]


class PutKey(Struct):
    """A key is made or changed, and the change logged. Result None."""

    key: KeyRecord
    change: ChangeRecord


class LogChange(Struct):
    """A change of something the store does not keep, for the log. Result None."""

    change: ChangeRecord


class Checkpoint(Struct):
    """Sign where the logs end, if the newest checkpoint is a day old or of another secret.

    Result: for each log of another secret (log, last row that is of it, its fingerprint).
    """

    now_ms: int


class Prune(Struct):
    """One step of removing the first rows of a log that are from before a time. Result: Step.

    A row that is not as it was written is noted in the log of changes before it goes.
    """

    log: Log
    before_ms: int
    now_ms: int


class PruneBodies(Struct):
    """One step of removing the bodies of exchanges from before a time. Result: Step."""

    before_ms: int


class Shrink(Struct):
    """One step of giving free pages back to the disk. Result: Step."""


class Delete(Struct):
    """Empty a response. Result None; NotFoundInStore or InFlight."""

    project: str
    id: str


class FailUnfinished(Struct):
    """Fail what a crash left open; `rewrite` makes the new body of the old. Result: how many."""

    now_ms: int
    rewrite: Callable[[bytes], bytes]


class Retire(Struct):
    """One step of expiry, after response `seq`. Result: removed, seq to go on after or None."""

    before_ms: int
    seq: int


Job = (
    Save
    | Reserve
    | Begin
    | Finish
    | Delete
    | FailUnfinished
    | ChargeLost
    | Spent
    | Retire
    | PutKey
    | LogChange
    | Checkpoint
    | Prune
    | PruneBodies
    | Shrink
)


class Step(Struct, frozen=True):
    """What a step of upkeep did: how many rows or pages went, and whether to go on.

    `broken` is the first row that went and was not as it had been written.
    """

    removed: int
    more: bool
    broken: Broken | None = None


class Stored(Struct, frozen=True):
    """A response as it is read; `output` are the JSON bodies of its items in order."""

    id: str
    parent_id: str | None
    model: str
    status: str
    background: bool
    created_ms: int
    completed_ms: int | None
    body: bytes
    output: list[bytes]


class History(Struct, frozen=True):
    """What a child of a response inherits: the bodies of all items up to its end, oldest first.

    The last `said` of them are its own output; the guards of the version `cleared`, if any, have
    looked at those before.
    """

    status: str
    background: bool
    items: list[bytes]
    said: int
    cleared: str | None


class Page(Struct, frozen=True):
    """A page of input items as (id, JSON)."""

    items: list[tuple[str, bytes]]
    has_more: bool


# What the windows of rate limits need to know of an exchange: key, owner, model, when it started
# and ended in Unix milliseconds, whether it counts as a request, and its tokens.
Recent = tuple[str, str, str | None, int, int, int, int]
