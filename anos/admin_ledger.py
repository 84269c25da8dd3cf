"""The handlers of operators that ask the ledger: spend, requests, stored responses; corrections."""

import time
from functools import partial
from typing import Any

import orjson
from aiohttp import web
from msgspec import Struct

from anos import admin_params as params
from anos import queries, recompute, searches, spend
from anos import request_views as views
from anos.decoding import decode_body
from anos.errors import InvalidRequest, NotFound
from anos.intake import read_body
from anos.queries import SUMS, Stored, Which
from anos.state import EXCHANGE, SERVING, Gateway
from anos.validation import check_shape

_DEFAULT_DAYS = 30
_COUNTS = SUMS[:-1]  # the cost is the last
_GROUPS = (*params.COLUMNS, *params.STEPS)


async def read_spend(request: web.Request) -> web.Response:
    """GET /admin/spend: sums by key, project, model and hour, day or month."""
    query = request.query
    params.known(query, ("group_by", "since", "until", "time_zone", "key", "project", "model"))
    now_ms = _now_ms()
    time_zone = params.zone_of(query)
    default = spend.days_back(now_ms, _DEFAULT_DAYS, time_zone), now_ms
    span = spend.quarters(*params.span_ms(query, default, spend.zone(time_zone)))
    columns, step = _groups(query.get("group_by", "day"))
    question = spend.Question(
        start_ms=span[0],
        end_ms=span[1],
        columns=columns,
        step=step,
        time_zone=time_zone,
        which=_which(query),
    )
    rows = await spend.ask(request[SERVING].store, question)
    periods = {at_ms: params.iso(at_ms) for at_ms in {row.period_ms for row in rows}}
    data = []
    for row in rows:
        shown = {} if step is None else {step: periods[row.period_ms]}
        shown.update(zip(columns, row.groups, strict=True))
        data.append(_sums(shown, row.values))
    return _json(
        params.listed(data)
        | {
            "since": params.iso(span[0]),
            "until": params.iso(span[1]),
            "time_zone": time_zone,
            "totals": _sums({}, spend.total(rows)),
        }
    )


async def list_requests(request: web.Request) -> web.Response:
    """GET /admin/requests: exchanges, newest first; a page may be short and yet have a next."""
    query = request.query
    if (request_id := query.get("request_id")) is not None:
        return await _of_id(request, request_id)
    names = ("key", "project", "model", "status", "route", "since", "until", "response_id")
    params.known(query, (*names, "request_id", "limit", "after"))
    span = params.span_ms(query)
    limit = params.limit_of(query, 20, 1000)
    place = params.place_of(query, 2)
    after = None if place is None else (place[0], place[1])
    store, which = request[SERVING].store, _which(query)
    if (response_id := query.get("response_id")) is not None:
        rows, following = await searches.of_response(store, response_id, which, span, after, limit)
    else:
        at = (span[1], 0) if after is None else after
        rows, following = await searches.requests(store, which, span[0], at, limit)
    return _json(params.listed([views.summary(row) for row in rows], params.place_text(following)))


async def _of_id(request: web.Request, request_id: str) -> web.Response:
    """The newest of those that have this id, which clients choose."""
    params.known(request.query, ("request_id", "limit"))
    limit = params.limit_of(request.query, 20, 1000)
    read = partial(queries.requests_of_id, request_id, limit)
    rows = await request[SERVING].store.read(read)
    return _json(params.listed([views.summary(row) for row in rows]))


async def read_request(request: web.Request) -> web.Response:
    """GET /admin/requests/{id}: everything about one exchange, in the order it happened."""
    params.known(request.query, ())
    found = await request[SERVING].store.read(partial(queries.request, request.match_info["id"]))
    if found is None:
        raise NotFound("There is no request of this id in the ledger.", param="id")
    return _json(views.explained(found))


async def list_responses(request: web.Request) -> web.Response:
    """GET /admin/responses: what is known of stored responses, but nothing they say."""
    query = request.query
    params.known(query, ("project", "model", "status", "since", "limit", "after"))
    which = Stored(
        project=params.project_of(query),
        model=query.get("model"),
        status=params.one_of(query, "status", params.STATUSES),
        since_ms=params.span_ms(query)[0],
    )
    limit = params.limit_of(query, 20, 1000)
    place = params.place_of(query, 1)
    gateway = request[SERVING]
    rows, following = await searches.responses(
        gateway.store, which, None if place is None else place[0], limit
    )
    data = [_stored(gateway, row) for row in rows]
    return _json(params.listed(data, None if following is None else str(following)))


class _Recompute(Struct):
    since: str
    until: str | None = None
    model: str | None = None


async def recompute_spend(request: web.Request) -> web.Response:
    """POST /admin/spend/recompute: correct what exchanges cost to what they cost at our prices."""
    sent = decode_body(await read_body(request))
    params.known(sent, _Recompute.__struct_fields__)
    body = check_shape(sent, _Recompute)
    given = {"since": body.since} | ({} if body.until is None else {"until": body.until})
    since_ms, until_ms = params.span_ms(given, (0, _now_ms()))
    outcome = await recompute.recompute(
        request[SERVING], request[EXCHANGE], since_ms, until_ms, body.model
    )
    return _json(
        {
            "object": "spend.recompute",
            "since": params.iso(since_ms),
            "until": params.iso(until_ms),
            "model": body.model,
            "requests": outcome.exchanges,
            "corrected": outcome.corrected,
            "unpriced": outcome.unpriced,
            "difference_usd": params.usd(outcome.difference),
        }
    )


def _groups(text: str) -> tuple[tuple[params.Column, ...], str | None]:
    names = [name for name in text.split(",") if name]
    steps = [name for name in names if name in params.STEPS]
    columns = [name for name in params.COLUMNS if name in names]
    if len(names) != len(steps) + len(columns) or len(steps) > 1:
        raise InvalidRequest(
            f"Invalid value for 'group_by': expected some of {', '.join(_GROUPS)}, each once, "
            "and at most one of the last three.",
            param="group_by",
        )
    return tuple(columns), steps[0] if steps else None


def _which(query: Any) -> Which:
    low, high = params.status_of(query)
    return Which(
        key=query.get("key"),
        project=params.project_of(query),
        model=query.get("model"),
        route=query.get("route"),
        status_low=low,
        status_high=high,
    )


def _sums(shown: dict[str, Any], values: list[int]) -> dict[str, Any]:
    shown.update(zip(_COUNTS, values, strict=False))
    shown["cost_usd"] = values[-1] / 1e6
    return shown


def _stored(gateway: Gateway, row: dict[str, Any]) -> dict[str, Any]:
    run = gateway.runs.get(row["project"], row["id"])
    return {
        "object": "response",
        "id": row["id"],
        "project": row["project"],
        "model": row["model"],
        "status": row["status"] if run is None else run.response["status"],
        "background": bool(row["background"]),
        "previous_response_id": row["parent_id"],
        "created_at": params.iso(row["created_ms"]),
        "completed_at": params.iso(row["completed_ms"]),
        "input_items": row["input_items"],
        "output_items": row["output_items"],
    }


def _json(body: Any) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
