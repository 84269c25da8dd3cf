"""The handlers of /v1/responses: create, retrieve, delete, input items, cancel.

API: https://platform.openai.com/docs/api-reference/responses
"""

import asyncio
import re
import time
from itertools import chain
from typing import Any

import orjson
from aiohttp import web
from msgspec import Struct
from multidict import MultiDict

from anos import admission, items, pipeline, screening
from anos.admin_params import known
from anos.calls import ResponsesCall, bare, shown
from anos.decoding import decode_body
from anos.errors import InvalidRequest, NotFound, Unavailable
from anos.exchange import Exchange
from anos.inputs import (
    check_tool_pairs,
    distinct,
    is_bare_reasoning,
    normalise_input,
    readable,
    replayable,
)
from anos.intake import read_body
from anos.items import Item, Turn
from anos.keys import Caller
from anos.runs import Run
from anos.schema import IN_FLIGHT
from anos.state import EXCHANGE, SERVING, Gateway
from anos.store import (
    InFlight,
    NotFoundInStore,
    ParentBroken,
    Stored,
    StoreFailed,
    UnknownItem,
)
from anos.validation import read_include, read_page, validate_create

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ENCRYPTED = "reasoning.encrypted_content"
_TURN_ITEMS = 5_000  # read in some 20 ms
# Query parameters that are a list, or that some clients add to every address.
_UNCHECKED = ("include", "api-version", "beta")
_LOST = {
    "type": "server_error",
    "code": "server_error",
    "message": "The outcome could not be stored.",
}


class _Inherited(Struct, frozen=True):
    """The items of a conversation; `before` of them came before what the parent said."""

    items: list[Item]
    before: int
    before_bytes: int
    cleared: str | None
    completed: bool  # the parent


_NOTHING = _Inherited([], 0, 0, None, False)


class _Conversation(Struct, frozen=True):
    """What a new turn gives the model; `resolved` are its own items before some were left out.

    The store had those at the positions `recalled`.
    """

    turn: Turn
    inherited: _Inherited
    resolved: list[Item]
    recalled: set[int]


async def create(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses: a Response, its stream, or with `background` a queued Response."""
    gateway, exchange, caller = _context(request)
    tree = decode_body(await read_body(request))
    validate_create(tree)
    now_ms = time.time_ns() // 1_000_000
    given = tree.pop("input", None)
    own_input = await _normalised(given, now_ms)
    live = gateway.live
    routes = await admission.admit(gateway, live, exchange, caller, tree["model"])
    keeps_reasoning = any(route.reasoning for route in routes)
    said = await _conversation(gateway, caller, tree, own_input, keeps_reasoning=keeps_reasoning)
    ids = {item["id"] for item in chain(said.inherited.items, said.resolved)}
    is_as_sent = said.turn.input is own_input and not said.turn.history
    response_id = exchange.response_id = items.new_id("resp", now_ms)
    call = ResponsesCall(
        said.turn,
        response_id=response_id,
        created_s=now_ms // 1000,
        chat_fields=live.config.server.chat_fields,
        input=given if is_as_sent else None,
        taken=ids,
    )
    cleared = await _screen(live.profiles[caller.guards], exchange, call, said)
    run = Run(
        response_id,
        caller.project,
        call.base,
        now_ms,
        exchange,
        stream=tree.get("stream") is True,
        history=said.inherited.items,
        own_input=distinct(said.inherited.items, said.resolved, ids, now_ms),
        background=call.background,
        cleared=cleared,
    )
    parent_id = tree.get("previous_response_id")
    work = pipeline.Work(gateway, live, exchange, call, routes, run, parent_id)
    if call.background:
        return await _queued(work)
    return await work.foreground(request)


async def retrieve(request: web.Request) -> web.Response:
    """GET /v1/responses/{id}: the stored Response, or the one that is running."""
    gateway, exchange, caller = _context(request)
    include = read_include(request.query)
    if request.query.get("stream", "false").lower() not in ("false", "0", ""):
        raise InvalidRequest(
            "This response cannot be streamed because it was not created with background=true "
            "and stream=true.",
            param="stream",
        )
    response_id = _named(exchange, request)
    run = gateway.runs.get(caller.project, response_id)
    if run is not None:
        return _json(gateway, run.response, include)
    stored = await gateway.store.response(caller.project, response_id)
    if stored is None:
        raise _unknown(response_id)
    return _json(gateway, response_of(stored), include)


async def delete(request: web.Request) -> web.Response:
    """DELETE /v1/responses/{id}: the response is gone for good; chains through it are broken."""
    gateway, exchange, caller = _context(request)
    response_id = _named(exchange, request)
    if gateway.runs.get(caller.project, response_id) is not None:
        raise InvalidRequest(
            "Cannot delete an in-flight response; cancel it first.", param="response_id"
        )
    try:
        is_gone = await gateway.ledger.delete(caller.project, response_id)
    except InFlight:
        raise InvalidRequest(
            "Cannot delete a response whose outcome could not be stored before the next start.",
            param="response_id",
        ) from None
    if not is_gone:
        raise _unknown(response_id)
    return _plain({"id": response_id, "object": "response", "deleted": True})


async def input_items(request: web.Request) -> web.Response:
    """GET /v1/responses/{id}/input_items: what the model was given, inherited context included."""
    gateway, exchange, caller = _context(request)
    query = request.query
    ours = [pair for pair in query.items() if pair[0].partition("[")[0] not in _UNCHECKED]
    known(MultiDict(ours), ("limit", "order", "after", "include"))
    page, include = read_page(query), read_include(query)
    response_id = _named(exchange, request)
    run = gateway.runs.get(caller.project, response_id)
    try:
        if run is not None:
            data, has_more = _page_of(
                run.history + run.own_input, page.limit, page.is_ascending, page.after
            )
        else:
            found = await gateway.store.input_items(
                caller.project,
                response_id,
                limit=page.limit,
                order="asc" if page.is_ascending else "desc",
                after=page.after,
            )
            data, has_more = [orjson.loads(body) for _, body in found.items], found.has_more
    except NotFoundInStore:
        raise _unknown(response_id) from None
    except UnknownItem:
        sought = str(page.after)[:256]
        raise InvalidRequest(f"No item with id '{sought}' found.", param="after") from None
    return _plain(
        {
            "object": "list",
            "data": data if _ENCRYPTED in include else bare(data),
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": has_more,
        }
    )


async def cancel(request: web.Request) -> web.Response:
    """POST /v1/responses/{id}/cancel: stop a response that runs; twice is fine."""
    gateway, exchange, caller = _context(request)
    response_id = _named(exchange, request)
    run = gateway.runs.get(caller.project, response_id)
    response: dict[str, Any] | None = None
    if run is not None:
        run.cancel()
        response = await run.wait()
    if response is None:
        stored = await gateway.store.response(caller.project, response_id)
        if stored is None:
            raise _unknown(response_id)
        response = response_of(stored)
    if response["status"] != "cancelled":
        status = response["status"]
        article = "an" if status == "incomplete" else "a"
        raise InvalidRequest(f"Cannot cancel {article} {status} response.", param="response_id")
    return _json(gateway, response, frozenset())


def response_of(stored: Stored) -> dict[str, Any]:
    """The Response object of a stored row, as it was when it ended."""
    response: dict[str, Any] = orjson.loads(stored.body)
    response["output"] = [orjson.loads(body) for body in stored.output]
    if stored.status in IN_FLIGHT:
        # It does not run, so its end could not be written; the next start will.
        response |= {"status": "failed", "error": _LOST}
    return response


async def _queued(work: pipeline.Work) -> web.Response:
    """Commit the row, start the run, answer `queued`."""
    gateway, run, exchange = work.gateway, work.run, work.exchange
    queued = run.response = {**run.response, "status": "queued"}
    held = work.reserve()
    assert held is not None  # it is in the background
    record = pipeline.record_of(run, queued, work.parent_id)
    begun = gateway.ledger.begin_background(record, held)
    gateway.runs.add(run)
    gateway.runs.spawn(run, work.background(begun))
    # A client that leaves now stops nothing: the run has a task of its own.
    exchange.deferred = True
    try:
        await begun
    except StoreFailed as exc:
        exchange.deferred = False
        raise Unavailable from exc
    return _json(gateway, queued, frozenset())


async def _conversation(
    gateway: Gateway,
    caller: Caller,
    tree: dict[str, Any],
    own_input: list[Item],
    *,
    keeps_reasoning: bool,
) -> _Conversation:
    """What the model is to see: the history, and the own input with what it refers to."""
    parent_id = tree.get("previous_response_id")
    inherited = _NOTHING if parent_id is None else await _inherited(gateway, caller, parent_id)
    resolved = sent = own_input
    recalled: set[int] = set()
    if any(map(_is_known_here, own_input)):
        resolved, recalled = await _resolved(gateway, caller, own_input)
        sent = readable(resolved, recalled, keep_reasoning=keeps_reasoning)
    history: list[Item] = []
    if inherited.items:
        await asyncio.sleep(0)  # they may be many
        said = len(inherited.items) - inherited.before if inherited.completed else 0
        history = replayable(inherited.items, resolved, keep_reasoning=keeps_reasoning, said=said)
        await asyncio.sleep(0)
    check_tool_pairs(history + sent)
    streams = tree.get("background") is True or tree.get("stream") is True
    turn = Turn(tree["model"], tree, sent, history, streams)
    return _Conversation(turn, inherited, resolved, recalled)


async def _normalised(given: Any, now_ms: int) -> list[Item]:
    """The items of the request; between many of them others get their turn."""
    if type(given) is not list or len(given) <= _TURN_ITEMS:
        return normalise_input(given, now_ms)
    own_input: list[Item] = []
    for first in range(0, len(given), _TURN_ITEMS):
        own_input += normalise_input(given[first : first + _TURN_ITEMS], now_ms, first)
        await asyncio.sleep(0)
    return own_input


async def _inherited(gateway: Gateway, caller: Caller, parent_id: str) -> _Inherited:
    if gateway.runs.get(caller.project, parent_id) is not None:
        raise _no_parent(f"Previous response with id '{parent_id}' is still in progress.")
    try:
        history = await gateway.store.history(caller.project, parent_id)
    except NotFoundInStore:
        raise _no_parent(f"Previous response with id '{parent_id[:256]}' not found.") from None
    except ParentBroken:
        raise _no_parent(
            f"Previous response with id '{parent_id}' cannot be continued: "
            "an earlier response was deleted."
        ) from None
    before = len(history.items) - history.said
    return _Inherited(
        [orjson.loads(body) for body in history.items],
        before,
        sum(map(len, history.items[:before])),
        history.cleared,
        history.status == "completed",
    )


async def _screen(
    profile: screening.Profile, exchange: Exchange, call: ResponsesCall, said: _Conversation
) -> str | None:
    """Have the guards look; the version of those that cleared all that a child will inherit.

    What these very guards cleared with an earlier turn is trusted, unless the turn was left some.
    """
    version, turn, inherited, trusted_bytes = profile.version, said.turn, said.inherited, 0
    is_whole = len(turn.history) == len(inherited.items)
    if version is not None and version == inherited.cleared and is_whole:
        turn.cleared, trusted_bytes = inherited.before, inherited.before_bytes
    is_clear = await screening.screen_request(
        profile, exchange, call, said.resolved, said.recalled, trusted_bytes
    )
    return version if is_clear and is_whole else None


def _is_known_here(item: dict[str, Any]) -> bool:
    return item["type"] == "item_reference" or is_bare_reasoning(item)


async def _resolved(
    gateway: Gateway, caller: Caller, own_input: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], set[int]]:
    """The input with the project's newest item in place of each reference, and their positions.

    Reasoning that comes back as it was shown is looked up too: the store has what was not shown.
    """
    resolved, recalled = [*own_input], set()
    for index, item in enumerate(own_input):
        if not _is_known_here(item):
            continue
        body = await gateway.store.item(caller.project, item["id"])
        if body is not None:
            resolved[index] = orjson.loads(body)
            recalled.add(index)
        elif item["type"] == "item_reference":
            raise InvalidRequest(
                f"Item with id '{item['id']}' not found.", param=f"input[{index}].id"
            )
    return resolved, recalled


def _page_of(
    history: list[dict[str, Any]], limit: int, ascending: bool, after: str | None
) -> tuple[list[dict[str, Any]], bool]:
    ordered = history if ascending else history[::-1]
    start = 0
    if after is not None:
        start = next((index + 1 for index, item in enumerate(ordered) if item["id"] == after), -1)
        if start < 0:
            raise UnknownItem
    return ordered[start : start + limit], len(ordered) > start + limit


def _context(request: web.Request) -> tuple[Gateway, Exchange, Caller]:
    exchange = request[EXCHANGE]
    assert exchange.caller is not None  # the route is not public
    return request[SERVING], exchange, exchange.caller


def _named(exchange: Exchange, request: web.Request) -> str:
    """The id in the path; the ledger keeps what can be one, of ours or of an upstream."""
    name = request.match_info["id"]
    exchange.response_id = name if _ID.fullmatch(name) else None
    return name


def _json(gateway: Gateway, response: dict[str, Any], include: frozenset[str]) -> web.Response:
    chat_fields = gateway.live.config.server.chat_fields
    return _plain(shown(response, encrypted=_ENCRYPTED in include, chat_fields=chat_fields))


def _plain(body: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json")


def _unknown(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id[:256]}' not found.", param="response_id")


def _no_parent(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="previous_response_id", code="previous_response_not_found")
