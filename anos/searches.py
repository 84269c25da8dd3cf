"""Searches of the ledger that go through many rows: read after read, each short, up to a bound."""

from functools import partial

from anos import queries
from anos.queries import NEWEST, Place, Rows, Stored, Which
from anos.store import Store

# Whoever looks for something rare gets a short page after so many reads, and asks for the next.
_MOST_READS = 60


async def requests(
    store: Store, which: Which, since_ms: int, before: Place, limit: int
) -> tuple[Rows, Place | None]:
    """At most `limit` exchanges that started since a time and before a place, newest first.

    Second: the place the next page goes on before; None: there is no more.
    """
    rows: Rows = []
    following: Place | None = before
    for _ in range(_MOST_READS):
        assert following is not None
        found, following = await store.read(
            partial(queries.requests, which, since_ms, following, limit - len(rows))
        )
        rows += found
        if following is None or len(rows) == limit:
            break
    return rows, following


async def of_response(
    store: Store,
    response_id: str,
    which: Which,
    span: tuple[int, int],
    before: Place | None,
    limit: int,
) -> tuple[Rows, Place | None]:
    """The same of the exchanges that made or named a response, and started within `span`."""
    before_seq = (before or NEWEST)[1]
    rows = await store.read(
        partial(queries.requests_of_response, response_id, which, span, before_seq, limit)
    )
    return rows, queries.place_of(rows[-1]) if len(rows) == limit else None


async def responses(
    store: Store, which: Stored, before_seq: int | None, limit: int
) -> tuple[Rows, int | None]:
    """At most `limit` stored responses before a seq, newest first; and where the next page is."""
    rows: Rows = []
    following = NEWEST[1] if before_seq is None else before_seq
    for _ in range(_MOST_READS):
        found, more = await store.read(
            partial(queries.responses, which, following, limit - len(rows))
        )
        rows += found
        if more is None or len(rows) == limit:
            return rows, more
        following = more
    return rows, following
