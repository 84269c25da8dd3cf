"""Corrections: rows that make exchanges cost what they cost at the prices of the configuration.

No row is ever changed. What an exchange costs is its own cost and that of the rows that correct it.
"""

import asyncio
import time
from functools import partial
from typing import Any

from msgspec import Struct

from anos import changes, queries
from anos.admin_params import iso, usd
from anos.errors import InvalidModel, InvalidRequest, Unavailable
from anos.exchange import Exchange
from anos.keys import accounts_of
from anos.pricing import Price, cost
from anos.routing import Router
from anos.state import Gateway
from anos.store import ChangeRecord, ExchangeRecord, LogChange, Save, StoreFailed, StoreUnavailable

ROUTE = "correction"


class Outcome(Struct):
    """What a recompute did."""

    exchanges: int = 0  # that were looked at
    corrected: int = 0
    unpriced: int = 0  # no price is configured for what answered: left as they are
    difference: int = 0  # micro-dollars of all corrections together


async def recompute(
    gateway: Gateway, exchange: Exchange, since_ms: int, until_ms: int, model: str | None
) -> Outcome:
    """Correct the exchanges that started in a span of time; one after another, in small steps.

    Goes on to its end when its client leaves. Again, it finds nothing to do. Raises InvalidRequest
    while another runs, and Unavailable if the database cannot be written: what was done stays.
    """
    if gateway.is_recomputing:
        raise InvalidRequest("Spend is being recomputed already.", code="conflict")
    gateway.is_recomputing = True
    return await changes.unbroken(gateway, _recompute(gateway, exchange, since_ms, until_ms, model))


async def _recompute(
    gateway: Gateway, exchange: Exchange, since_ms: int, until_ms: int, model: str | None
) -> Outcome:
    outcome, router = Outcome(), gateway.live.router
    after: queries.Place | None = (since_ms, -1)
    try:
        while after is not None:
            rows, after = await gateway.store.read(partial(queries.charged, model, until_ms, after))
            corrections = [
                correction
                for row in rows
                if (correction := _correction(router, row, exchange.request_id, outcome))
            ]
            await _write(gateway, corrections, outcome)
        change = _change(exchange, since_ms, until_ms, model, outcome)
        await changes.commit(gateway, LogChange(change))
    finally:
        gateway.is_recomputing = False
    return outcome


def _correction(
    router: Router, row: dict[str, Any], request_id: str, outcome: Outcome
) -> ExchangeRecord | None:
    outcome.exchanges += 1
    price = _price(router, row)
    if price is None:
        outcome.unpriced += 1
        return None
    difference = cost(price, _usage(row)) - row["charged"]
    if not difference:
        return None
    return ExchangeRecord(
        request_id=request_id,
        started_ms=_now_ms(),
        duration_us=0,
        key=row["key"],
        project=row["project"],
        method="POST",
        route=ROUTE,
        status=200,
        model=row["model"],
        provider=row["provider"],
        deployment=row["deployment"],
        cost=difference,
        charged_ms=row["charged_ms"],
        corrects=row["seq"],
    )


async def _write(gateway: Gateway, corrections: list[ExchangeRecord], outcome: Outcome) -> None:
    # A budget that becomes new meanwhile would count these twice, or not at all.
    async with gateway.changing:
        try:
            jobs = [gateway.store.submit(Save(each)) for each in corrections]
            await asyncio.gather(*jobs)
        except (StoreUnavailable, StoreFailed) as exc:
            raise Unavailable(
                "The gateway cannot write its database; ask again for what is left."
            ) from exc
        now_ms = _now_ms()
        for each in corrections:
            assert each.cost is not None
            assert each.charged_ms is not None
            accounts = accounts_of(each.key, each.project)
            gateway.budgets.correct(accounts, each.cost, each.charged_ms, now_ms)
            outcome.corrected += 1
            outcome.difference += each.cost


def _price(router: Router, row: dict[str, Any]) -> Price | None:
    """The price of the deployment that answered, if the model still has it."""
    try:
        routes = router.resolve(row["model"])
    except InvalidModel:
        return None
    answered = row["provider"], row["deployment"]
    return next((r.price for r in routes if (r.provider, r.deployment) == answered), None)


def _usage(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "input_tokens": row["input_tokens"],
        "output_tokens": row["output_tokens"] or 0,
        "input_tokens_details": {
            "cached_tokens": row["cached_tokens"],
            "cache_write_tokens": row["cache_write_tokens"],
        },
        "output_tokens_details": {"reasoning_tokens": row["reasoning_tokens"]},
    }


def _change(
    exchange: Exchange, since_ms: int, until_ms: int, model: str | None, outcome: Outcome
) -> ChangeRecord:
    after = {
        "since": iso(since_ms),
        "until": iso(until_ms),
        "model": model,
        "corrected": outcome.corrected,
        "difference_usd": usd(outcome.difference),
    }
    return changes.record(exchange, "spend.recompute", "spend", after=after)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
