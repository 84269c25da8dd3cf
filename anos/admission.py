"""What a call needs before it begins: a model, room in its limits and in its budgets."""

from msgspec import Struct

from anos.bounds import input_bound, unpriced
from anos.calls import Call
from anos.errors import BudgetExceeded, Forbidden, InvalidRequest, RateLimited, Unavailable
from anos.exchange import Exchange
from anos.keys import Caller
from anos.limits import Scope
from anos.pricing import Bound, estimate, most
from anos.routing import Route
from anos.sending import request_for
from anos.state import Gateway, Live
from anos.store import ReservationRecord

# What is held of a limit of tokens for an answer that the client has set no cap for.
USUAL_OUTPUT_TOKENS = 256


async def admit(
    gateway: Gateway, live: Live, exchange: Exchange, caller: Caller, model: str
) -> tuple[Route, ...]:
    """The routes of a call that may begin; its request counts against the limits.

    Waits for a slot where a limit has a queue. Raises InvalidModel, Forbidden, RateLimited, or
    Unavailable while nothing can be written.
    """
    routes = live.router.resolve(model)
    check_model(caller, model)
    exchange.model = model
    scope = routes[0].scope
    scopes = caller.scopes if scope is None else (*caller.scopes, scope)
    await meter(gateway, exchange, caller, scopes)
    return routes


def check_model(caller: Caller, model: str) -> None:
    """Raises Forbidden for a model that the caller's key may not name."""
    if not caller.may_use(model):
        raise Forbidden(
            f"This key may not use the model '{model}'.", param="model", code="model_not_allowed"
        )


async def meter(
    gateway: Gateway, exchange: Exchange, caller: Caller, scopes: tuple[Scope, ...]
) -> None:
    """Count a call that may begin against its limits; waits for a slot where one has a queue.

    Raises RateLimited, or Unavailable while nothing can be written.
    """
    _check(gateway)
    if scopes:
        grant = gateway.limits.try_take(scopes)
        if grant is None:
            grant = exchange.grant = await gateway.limits.take(scopes, caller.key)
            _check(gateway)
        exchange.grant = grant
    exchange.counted = 1
    gateway.ledger.enter(exchange)


def _check(gateway: Gateway) -> None:
    if gateway.is_draining:
        raise Unavailable("The gateway is shutting down.")
    gateway.ledger.check()


class Wanted(Struct, frozen=True):
    """The routes that are to be tried, the request for the first, and about how many tokens."""

    routes: tuple[Route, ...]
    body: bytes
    tokens: int  # of input and output


def wanted(call: Call, routes: tuple[Route, ...], *, capped: bool) -> Wanted:
    """What a call asks of the routes, from the first on that can carry it.

    `capped`: the upstream is given a cap if the client has set none. Raises InvalidRequest if no
    route can carry the call.
    """
    cap = call.cap()
    if capped and cap is None:
        call.set_cap(routes[0].max_output_tokens)
    refusal: InvalidRequest | None = None
    for number, route in enumerate(routes):
        try:
            body = call.request(route)
        except InvalidRequest as exc:
            refusal = refusal or exc
        else:
            return Wanted(routes[number:], body, estimate(len(body)) + (cap or USUAL_OUTPUT_TOKENS))
    assert refusal is not None
    raise refusal


def bound(call: Call, wanted: Wanted) -> Bound:
    """The bound of a call that has a cap; raises InvalidRequest for what has no known price."""
    tokens, micro, cap = 0, 0, call.cap()
    assert cap is not None
    if (param := call.extra()) is not None:
        raise unpriced(param, f"'{param}'")
    for route in wanted.routes:
        body = wanted.body if route is wanted.routes[0] else request_for(call, route)
        if body is None:
            continue
        if route.price is None:
            raise InvalidRequest(
                f"A budget holds for this key, and no price is known for '{route.deployment}'.",
                param="model",
                code="unpriced_model",
            )
        most_input = input_bound(body, route)
        tokens = max(tokens, most_input)
        micro = max(micro, most(route.price, most_input, cap))
    return Bound(tokens, cap, micro)


def reserve(
    gateway: Gateway, exchange: Exchange, call: Call, routes: tuple[Route, ...]
) -> tuple[Wanted, ReservationRecord | None]:
    """Hold what a call may use of its limits of tokens and its budgets.

    Returns what must be durable before an upstream is called, too. Raises RateLimited and
    BudgetExceeded, and InvalidRequest for what no route can carry or a budget cannot bound.
    """
    has_budget = gateway.ledger.has_budget(exchange)
    asked = wanted(call, routes, capped=has_budget)
    try:
        if exchange.grant is not None:
            exchange.grant.reserve_tokens(asked.tokens)
        if has_budget:
            return asked, gateway.ledger.reserve(exchange, bound(call, asked))
    except (RateLimited, BudgetExceeded):
        if exchange.grant is not None:
            exchange.grant.undo()
        exchange.grant, exchange.counted = None, 0  # what is refused does not count
        raise
    if call.background:
        # Nothing to hold; but if a crash ends it, its exchange is in the ledger all the same.
        return asked, gateway.ledger.trace(exchange)
    return asked, None
