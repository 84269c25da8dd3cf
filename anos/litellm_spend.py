"""The handlers of LiteLLM's spend endpoints, in its shapes: a key's token is its name here.

API: https://docs.litellm.ai/docs/proxy/cost_tracking
"""

import time
from datetime import date, timedelta
from functools import partial
from typing import Any

import orjson
from aiohttp import web

from anos import admin_params as params
from anos import key_views, queries, searches, spend
from anos.errors import InvalidRequest, NotFound
from anos.keys import digest_of
from anos.queries import NEWEST, SUMS, Place, Rows, Which
from anos.state import SERVING, Gateway
from anos.validation import unsupported

_DAY_MS = 86_400_000
_DAYS = 30
# LiteLLM answers with all there are.
_MOST_ROWS = 1000
_MOST_PAGES = 20  # of rows that are looked through for calls
_MOST_DAYS = 1000
_COST = SUMS.index("cost")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


async def logs(request: web.Request) -> web.Response:
    """GET /spend/logs: sums by day between two dates, or the newest calls."""
    query, gateway = request.query, request[SERVING]
    names = ("api_key", "request_id", "start_date", "end_date", "summarize", "user_id")
    params.known(query, names)
    if query.get("user_id"):
        raise unsupported("user_id", "This gateway keeps spend by key and by project, not by user.")
    if request_id := query.get("request_id"):
        return _json([_log(row) for row in await _of_request(gateway, request_id)])
    which = Which(key=_key_name(gateway, query.get("api_key")))
    if query.get("start_date") is None or query.get("end_date") is None:
        return _json([_log(row) for row in await _calls(gateway, which, 0, NEWEST)])
    first, last = (_date(name, query[name]) for name in ("start_date", "end_date"))
    if (last - first).days > _MOST_DAYS:
        raise InvalidRequest(f"At most {_MOST_DAYS} days can be asked for.", param="end_date")
    start_ms, end_ms = _ms(first), _ms(last) + _DAY_MS
    if _boolean("summarize", query.get("summarize", "true")):
        return _json(await _by_day(gateway, which, start_ms, end_ms, last))
    return _json([_log(row) for row in await _calls(gateway, which, start_ms, (end_ms, 0))])


async def total(request: web.Request) -> web.Response:
    """GET /global/spend: dollars of the last 30 days, and the budget of all keys together."""
    gateway = request[SERVING]
    params.known(request.query, ())
    rows = await _recent(gateway, ())
    budgets = gateway.live.config.budgets.get("global", ())
    most = min((budget.usd for budget in budgets), default=0.0)
    return _json({"spend": sum(row.values[_COST] for row in rows) / 1e6, "max_budget": most})


async def by_key(request: web.Request) -> web.Response:
    """GET /global/spend/keys: the keys of the last 30 days, the dearest first."""
    params.known(request.query, ("limit",))
    limit = params.limit_of(request.query, _MOST_ROWS, _MOST_ROWS)
    rows = await _recent(request[SERVING], ("key",))
    return _json(
        [
            {
                "api_key": row.groups[0],
                "key_alias": row.groups[0],
                "key_name": _hint(request[SERVING], row.groups[0]),
                "total_spend": row.values[_COST] / 1e6,
            }
            for row in rows[:limit]
        ]
    )


async def by_model(request: web.Request) -> web.Response:
    """GET /global/spend/models: the models of the last 30 days, the dearest first."""
    params.known(request.query, ("limit",))
    limit = params.limit_of(request.query, 10, _MOST_ROWS)
    rows = await _recent(request[SERVING], ("model",))
    return _json(
        [{"model": row.groups[0], "total_spend": row.values[_COST] / 1e6} for row in rows[:limit]]
    )


async def _recent(gateway: Gateway, columns: tuple[params.Column, ...]) -> list[spend.Row]:
    now_ms = time.time_ns() // 1_000_000
    span = spend.quarters(spend.days_back(now_ms, _DAYS, "UTC"), now_ms)
    question = spend.Question(start_ms=span[0], end_ms=span[1], columns=columns)
    return await spend.ask(gateway.store, question)


async def _by_day(
    gateway: Gateway, which: Which, start_ms: int, end_ms: int, last: date
) -> list[dict[str, Any]]:
    question = spend.Question(
        start_ms=start_ms, end_ms=end_ms, columns=("key", "model"), step="day", which=which
    )
    days: dict[int, tuple[dict[str, int], dict[str, int]]] = {}
    for row in await spend.ask(gateway.store, question):
        assert row.period_ms is not None
        for sums, name in zip(days.setdefault(row.period_ms, ({}, {})), row.groups, strict=True):
            sums[name] = sums.get(name, 0) + row.values[_COST]
    data = [
        _day(date(1970, 1, 1) + timedelta(milliseconds=at_ms), keys, models)
        for at_ms, (keys, models) in days.items()
    ]
    # After the last day that has any, LiteLLM fills up with zeros.
    while data and (day := date.fromisoformat(data[-1]["startTime"])) < last:
        data.append(_day(day + timedelta(days=1), {}, {}))
    return data


def _day(day: date, keys: dict[str, int], models: dict[str, int]) -> dict[str, Any]:
    return {
        **{name: micro / 1e6 for name, micro in keys.items()},
        "startTime": day.isoformat(),
        "spend": sum(keys.values()) / 1e6,
        "users": {},
        "models": {name: micro / 1e6 for name, micro in models.items()},
    }


async def _calls(gateway: Gateway, which: Which, since_ms: int, before: Place) -> Rows:
    """The newest calls that started since a time and before a place."""
    calls: Rows = []
    for _ in range(_MOST_PAGES):
        rows, following = await searches.requests(
            gateway.store, which, since_ms, before, _MOST_ROWS
        )
        calls += filter(_is_call, rows)
        if following is None or len(rows) < _MOST_ROWS or len(calls) >= _MOST_ROWS:
            break
        before = following
    return calls[:_MOST_ROWS]


async def _of_request(gateway: Gateway, name: str) -> Rows:
    """The call of a request id, or of the id of its answer, which is what LiteLLM calls it."""
    span = (0, NEWEST[0])
    rows, _ = await searches.of_response(gateway.store, name, Which(), span, None, _MOST_ROWS)
    if calls := [*filter(_is_call, rows)]:
        return calls
    found = await gateway.store.read(partial(queries.requests_of_id, name, _MOST_ROWS))
    return [*filter(_is_call, found)][:1]


def _is_call(row: dict[str, Any]) -> bool:
    """Not a request that names no model, nor what corrects the cost of a call."""
    return row["model"] is not None and row["corrects"] is None


def _log(row: dict[str, Any]) -> dict[str, Any]:
    owner, _, project = row["project"].partition(":")
    started_ms, first_us = row["started_ms"], row["first_byte_us"]
    ended = params.iso(started_ms + row["duration_us"] // 1000)
    first = ended if first_us is None else params.iso(started_ms + first_us // 1000)
    inputs, outputs = row["input_tokens"] or 0, row["output_tokens"] or 0
    return {
        "request_id": row["response_id"] or row["request_id"],
        "call_type": "acompletion" if row["route"].endswith("/chat/completions") else "aresponses",
        "api_key": row["key"],
        "spend": (row["cost"] or 0) / 1e6,
        "total_tokens": inputs + outputs,
        "prompt_tokens": inputs,
        "completion_tokens": outputs,
        "startTime": params.iso(started_ms),
        "endTime": ended,
        "completionStartTime": first,
        "model": row["deployment"] or row["model"] or "",
        "model_id": "",
        "model_group": row["model"] or "",
        "custom_llm_provider": row["provider"] or "",
        "api_base": "",
        "user": "",
        "end_user": "",
        "team_id": project if owner == "project" else None,
        "metadata": {"user_api_key_alias": row["key"], "request_id": row["request_id"]},
        "cache_hit": "False",
        "cache_key": "",
        "request_tags": [],
        "requester_ip_address": None,
        "status": "success" if row["status"] < 400 else "failure",
        "messages": {},
        "response": {},
    }


def _key_name(gateway: Gateway, given: str | None) -> str | None:
    """The name of a key that is given by its text or its name; "" for one that is not known."""
    if given is None or not given.startswith("sk-"):
        return given
    return gateway.live.keyring.name_of(digest_of(given)) or ""


def _hint(gateway: Gateway, name: str) -> str | None:
    try:
        return key_views.find(gateway.live, name).hint
    except NotFound:  # deleted since, or the master key
        return None


def _date(name: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"Invalid value for '{name}': expected a date like 2026-01-31.", param=name
        ) from None


def _boolean(name: str, text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise InvalidRequest(f"Invalid value for '{name}': expected true or false.", param=name)
    return text.lower() in _TRUE


def _ms(day: date) -> int:
    return (day - date(1970, 1, 1)).days * _DAY_MS


def _json(body: Any) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json")
