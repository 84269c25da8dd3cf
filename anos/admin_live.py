"""The handlers of operators that look at the running gateway: dry run, calls, events."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import orjson
from aiohttp import web
from msgspec import Struct

from anos import admission, items, sse
from anos.admin_params import iso, known, listed
from anos.calls import ResponsesCall
from anos.decoding import decode_body
from anos.errors import (
    Forbidden,
    GatewayError,
    GuardBlocked,
    InvalidRequest,
    NotFound,
    Unauthorized,
    Unavailable,
    envelope,
)
from anos.exchange import begin
from anos.feed import Subscription
from anos.inputs import check_tool_pairs, normalise_input
from anos.intake import read_body
from anos.items import Turn
from anos.keys import Caller
from anos.relay import ClientStream
from anos.routing import Route
from anos.runs import Run
from anos.screening import screen_request
from anos.state import EXCHANGE, SERVING, Gateway
from anos.validation import check_shape, validate_create

T = TypeVar("T")

_CALLING = frozenset({"admin", "key"})
_WATCHING = frozenset({"admin", "read-only"})
# The clock of expiry may be set while somebody watches.
_LOOK_AGAIN_S = 3600.0
# Each costs some microseconds with every request.
_MOST_SUBSCRIBERS = 100
_STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


class _Explain(Struct):
    key: str
    model: str
    input: Any
    max_output_tokens: int | None = None


async def explain(request: web.Request) -> web.Response:
    """POST /admin/explain: what would become of a call; nothing is counted, held or sent."""
    gateway = request[SERVING]
    sent = decode_body(await read_body(request))
    known(sent, _Explain.__struct_fields__)
    body = check_shape(sent, _Explain)
    caller = gateway.live.keyring.by_name.get(body.key)
    if caller is None:
        raise NotFound("There is no key of this name.", param="key")
    tree = {"model": body.model, "input": body.input}
    if body.max_output_tokens is not None:
        tree["max_output_tokens"] = body.max_output_tokens
    trial = _Trial(gateway, caller, _call(tree))
    return _json(await trial.run())


async def inflight(request: web.Request) -> web.Response:
    """GET /admin/inflight: the calls that run now, the oldest first."""
    known(request.query, ())
    data = [_running(run) for run in request[SERVING].runs.now()]
    return _json(listed(data))


async def events(request: web.Request) -> web.StreamResponse:
    """GET /admin/events: every exchange as it ends, and every change; for who may ask."""
    gateway, exchange = request[SERVING], request[EXCHANGE]
    known(request.query, ())
    if gateway.is_draining:
        raise Unavailable("The gateway is shutting down.")
    if len(gateway.subscribers) >= _MOST_SUBSCRIBERS:
        raise Unavailable("Too many watch already.")

    def headers() -> dict[str, str]:
        return _STREAM_HEADERS | exchange.answer_headers()

    subscription = Subscription()
    gateway.subscribers.add(subscription)
    gateway.ledger.watchers.append(subscription.settled)
    gateway.watchers.append(subscription.changed)
    client = ClientStream(request, headers, gateway.bounds.silence_s)
    try:
        await client.write(sse.COMMENT)  # so that the head goes out
        data: bytes | None = b""
        while data is not None and (left_s := _may_watch_s(request)):
            await client.write(data)
            data = await subscription.take(left_s)
        await client.end()
    finally:
        client.close()
        gateway.subscribers.discard(subscription)
        gateway.ledger.watchers.remove(subscription.settled)
        gateway.watchers.remove(subscription.changed)
    assert client.response is not None
    return client.response


def _may_watch_s(request: web.Request) -> float:
    """How long whoever sent this may watch before that is looked at again; 0: no longer.

    A change of keys or of the configuration is an event, so it is looked at then as well.
    """
    try:
        caller = request[SERVING].live.keyring.authenticate(request.headers)
    except Unauthorized:
        return 0.0
    if caller.role not in _WATCHING:
        return 0.0
    if caller.expires_ms is None:
        return _LOOK_AGAIN_S
    return min(_LOOK_AGAIN_S, max(caller.expires_ms - _now_ms(), 1) / 1000)


class _Trial:
    """The checks of a call in the order they are made; the first that fails is what it would get.

    The ones after it are looked at all the same, as far as they can be.
    """

    def __init__(self, gateway: Gateway, caller: Caller, call: ResponsesCall) -> None:
        self._gateway = gateway
        self._caller = caller
        self._call = call
        self._routes: tuple[Route, ...] = ()
        self._error: GatewayError | None = None

    async def run(self) -> dict[str, Any]:
        """The answer."""
        gateway, caller, call = self._gateway, self._caller, self._call
        self._try(self._check_key)
        self._routes = self._try(lambda: gateway.live.router.resolve(call.model)) or ()
        self._try(lambda: admission.check_model(caller, call.model))
        self._try(gateway.ledger.check)
        scope = self._routes[0].scope if self._routes else None
        scopes = caller.scopes if scope is None else (*caller.scopes, scope)
        self._try(lambda: gateway.limits.check(scopes))
        guards = await self._guards()
        bound = self._bound(scopes) if self._routes else None
        error = self._error
        return {
            "object": "explanation",
            "admitted": error is None,
            "status": 200 if error is None else error.status,
            "error": None if error is None else envelope(error)["error"],
            "key": self._key(),
            "limits": gateway.limits.state(scopes),
            "guards": guards,
            "routes": [
                {
                    "provider": route.provider,
                    "deployment": route.deployment,
                    "dialect": route.dialect,
                    "priced": route.price is not None,
                }
                for route in self._routes
            ],
            "bound": bound,
            "budgets": self._budgets(),
        }

    def _try(self, check: Callable[[], T]) -> T | None:
        try:
            return check()
        except GatewayError as exc:
            self._error = self._error or exc
            return None

    def _check_key(self) -> None:
        caller = self._caller
        caller.check()
        if caller.role not in _CALLING:
            raise Forbidden(f"A key of the role '{caller.role}' may not do this.")

    async def _guards(self) -> list[dict[str, Any]]:
        """What the guards say; matched text is not in it, which nobody may be meant to read."""
        exchange = begin("POST", "/admin/explain")
        profile = self._gateway.live.profiles[self._caller.guards]
        try:
            await screen_request(profile, exchange, self._call)
        except GuardBlocked as exc:
            self._error = self._error or exc
        receipts: list[dict[str, Any]] = msgspec.to_builtins(exchange.receipts)
        return receipts

    def _bound(self, scopes: Any) -> dict[str, Any] | None:
        """What the call may use at most, tried on limits and budgets."""
        caller, call = self._caller, self._call
        has_budget = self._gateway.budgets.has_any(caller.accounts)
        asked = self._try(lambda: admission.wanted(call, self._routes, capped=has_budget))
        if asked is None:
            return None
        self._try(lambda: self._gateway.limits.check(scopes, asked.tokens))
        try:
            # Without a budget nothing bounds a call that has no cap of its own; this would.
            bound = admission.bound(call, admission.wanted(call, asked.routes, capped=True))
        except GatewayError as exc:
            if has_budget:
                self._error = self._error or exc
            return None
        self._try(lambda: self._reserve(bound.micro_usd))
        tokens = {"input_tokens": bound.input_tokens, "output_tokens": bound.output_tokens}
        return tokens | {"cost_usd": bound.micro_usd / 1e6}

    def _reserve(self, micro: int) -> None:
        # Held and let go of at once: nobody can look in between.
        self._gateway.budgets.reserve(self._caller.accounts, micro, _now_ms()).settle(0)

    def _budgets(self) -> list[dict[str, Any]]:
        now_ms = _now_ms()
        return [
            {"account": account} | _with_times(state)
            for account in self._caller.accounts
            for state in self._gateway.budgets.state(account, now_ms)
        ]

    def _key(self) -> dict[str, Any]:
        caller = self._caller
        return {
            "name": caller.key,
            "project": caller.project,
            "role": caller.role,
            "models": list(caller.models),
            "blocked": caller.blocked,
            "expires_at": iso(caller.expires_ms),
            "bodies": caller.bodies,
        }


def _call(tree: dict[str, Any]) -> ResponsesCall:
    """The call that a POST /v1/responses with this body is; raises InvalidRequest."""
    validate_create(tree)
    now_ms = _now_ms()
    given = tree.pop("input", None)
    own_input = normalise_input(given, now_ms)
    for index, item in enumerate(own_input):
        if item["type"] == "item_reference":
            raise InvalidRequest(
                "Items are not looked up here; give the item itself.", param=f"input[{index}]"
            )
    check_tool_pairs(own_input)
    return ResponsesCall(
        Turn(tree["model"], tree, own_input, [], False),
        response_id=items.new_id("resp", now_ms),
        created_s=now_ms // 1000,
        chat_fields=False,
        input=given,
    )


def _with_times(state: dict[str, Any]) -> dict[str, Any]:
    resets_at = iso(state.pop("resets_at_ms"))
    return {**state, "resets_at": resets_at}


def _running(run: Run) -> dict[str, Any]:
    exchange = run.exchange
    assert exchange.caller is not None
    return {
        "object": "run",
        "id": run.response_id,
        "request_id": exchange.request_id,
        "key": exchange.caller.key,
        "project": run.project,
        "route": exchange.route,
        "model": exchange.model,
        "provider": exchange.provider,
        "deployment": exchange.deployment,
        "started_at": iso(exchange.started_ms),
        "elapsed_ms": exchange.elapsed_ns() // 1_000_000,
        "background": run.background,
        "stream": run.stream,
    }


def _json(body: Any) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
