"""What every request passes: its id, who calls, errors into the envelope, its ledger row."""

import logging
import re
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import orjson
from aiohttp import web
from aiohttp.typedefs import Middleware

from anos.errors import (
    BodyTooLarge,
    Forbidden,
    GatewayError,
    InvalidRequest,
    MethodNotAllowed,
    Misdirected,
    NotFound,
    Unauthorized,
    Unavailable,
    UnsupportedMedia,
    envelope,
)
from anos.exchange import Exchange, begin, note_failure
from anos.keys import Caller
from anos.relay import Whole
from anos.state import EXCHANGE, GATEWAY, SERVING, Gateway
from anos.store import StoreFailed

logger = logging.getLogger("anos")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# With the published key, a page in a browser must not get in by a name that leads to this machine.
_LOCAL_HOSTS = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.IGNORECASE)
# What such APIs have elsewhere and this one has not, by its path below /v1.
_NOT_BUILT = {
    "assistants": "Assistants are",
    "audio": "Audio is",
    "batches": "Batches are",
    "conversations": "Conversations are",
    "embeddings": "Embeddings are",
    "files": "Files are",
    "images": "Images are",
    "messages": "The Messages API is",
    "realtime": "The Realtime API is",
    "responses/compact": "Compaction is",
    "responses/input_tokens": "Counting the tokens of an input is",
    "webhook_endpoints": "Webhooks are",
}
_BELOW_V1 = re.compile(r"(?:/openai/v1|/v1|)/((?:responses/)?[a-z_]+)(?:/.*)?")
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, PATCH, DELETE",
    # The wildcard alone would leave Authorization out.
    "Access-Control-Allow-Headers": "Authorization, *",
    "Access-Control-Max-Age": "600",
}


def gate(
    app: web.Application,
    templates: Mapping[Handler, str],
    roles: Mapping[Handler, frozenset[str]],
) -> Middleware:
    """The one middleware: `templates` names each handler's route, `roles` who may ask it.

    A handler without roles answers without a key.
    """

    @web.middleware
    async def entry(request: web.Request, handler: Handler) -> web.StreamResponse:
        gateway = request[SERVING] = app[GATEWAY]
        live = gateway.live
        sent_id = request.headers.get("x-request-id", "")
        meant = handler if handler in templates else await _meant(app, request)
        exchange = begin(
            request.method,
            templates.get(meant, "other"),
            sent_id if sent_id and _REQUEST_ID.fullmatch(sent_id) else "",
        )
        request[EXCHANGE] = exchange
        if live.config.server.cors_origins:
            exchange.headers |= _cors(request, live.config.server.cors_origins)
            if request.method == "OPTIONS" and "Access-Control-Allow-Origin" in exchange.headers:
                handler = _preflight
        response: web.StreamResponse
        try:
            if live.config.default_key and not _names_this_machine(request):
                raise Misdirected
            if (allowed := roles.get(handler)) is not None:
                caller = _recognise(gateway, exchange, request)
                if caller.role not in allowed:
                    raise Forbidden(f"A key of the role '{caller.role}' may not do this.")
            elif meant in roles and handler is not _preflight:
                # It is refused in any case; what a known caller asked is in the ledger.
                with suppress(Unauthorized):
                    _recognise(gateway, exchange, request)
            response = await handler(request)
        except Exception as exc:
            if _has_begun(request) or isinstance(exc, ConnectionError):
                report(exc)
                gateway.ledger.settle(exchange, note_failure(exchange, exc))
                raise
            told = _not_built(request, exc) or exc
            response = answer(told)
            note_failure(exchange, _known(told))
        except BaseException as exc:
            if not exchange.deferred:
                gateway.ledger.settle(exchange, note_failure(exchange, exc))
            raise
        finally:
            gateway.body_bytes -= exchange.body_bytes
        if not (exchange.settled or exchange.deferred):
            gateway.ledger.settle(exchange, response.status)
        if not response.prepared and type(response) is not Whole:
            response.headers.update(exchange.answer_headers())
        return response

    return entry


async def _meant(app: web.Application, request: web.Request) -> Handler:
    """What has the path of a request that no handler gets, if anything has it."""
    found = request.match_info
    if isinstance(found.http_exception, web.HTTPMethodNotAllowed):
        method = min(found.http_exception.allowed_methods)
        return (await app.router.resolve(request.clone(method=method))).handler
    return found.handler


def _recognise(gateway: Gateway, exchange: Exchange, request: web.Request) -> Caller:
    """Who calls; from here on the request has a row in the ledger. Raises Unauthorized."""
    exchange.caller = caller = gateway.live.keyring.authenticate(request.headers)
    exchange.client = gateway.ledger.client(request.remote)
    return caller


def answer(exc: BaseException) -> web.Response:
    """The envelope for any exception, aiohttp's own included; an unknown one is also logged."""
    known = _known(exc)
    report(exc)
    return web.Response(
        status=known.status,
        body=orjson.dumps(envelope(known)),
        content_type="application/json",
        headers=known.headers,
    )


def report(exc: BaseException) -> None:
    """Log what nobody expected: where it happened, but not its message, which may quote a user."""
    if type(_known(exc)) is GatewayError and not isinstance(exc, ConnectionError):
        where = "".join(traceback.format_tb(exc.__traceback__))
        logger.error("internal error: %s\n%s", type(exc).__name__, where)


def _known(exc: BaseException) -> GatewayError:
    if isinstance(exc, GatewayError):
        return exc
    if isinstance(exc, web.HTTPMethodNotAllowed):
        return MethodNotAllowed(headers={"Allow": ", ".join(sorted(exc.allowed_methods))})
    if isinstance(exc, web.HTTPNotFound):
        return NotFound("Unknown path.")
    if isinstance(exc, web.HTTPRequestEntityTooLarge):
        return BodyTooLarge()
    if isinstance(exc, web.HTTPUnsupportedMediaType):
        return UnsupportedMedia()
    if isinstance(exc, web.HTTPClientError):
        return InvalidRequest("The request is not valid HTTP.")
    if isinstance(exc, web.RequestPayloadError):
        return InvalidRequest("The request body could not be read.")
    if isinstance(exc, StoreFailed):
        return Unavailable("The gateway cannot read its database.")
    return GatewayError()


def _not_built(request: web.Request, exc: Exception) -> GatewayError | None:
    """The refusal of what nothing answers, if it is known elsewhere: with its name."""
    if not isinstance(exc, web.HTTPNotFound | web.HTTPMethodNotAllowed):
        return None
    found = _BELOW_V1.fullmatch(request.path)
    path = found[1] if found else ""
    if path in _NOT_BUILT:
        return NotFound(f"{_NOT_BUILT[path]} not supported yet.")
    if path == "responses" and request.headers.get("Upgrade", "").lower() == "websocket":
        return InvalidRequest(
            "WebSocket is not supported yet.", param="Upgrade", code="unsupported_parameter"
        )
    return None


def _has_begun(request: web.Request) -> bool:
    return request.writer.output_size > 0


def _names_this_machine(request: web.Request) -> bool:
    # A target in absolute form would overrule the header.
    host = request.headers.get("Host", "")
    return request.raw_path.startswith("/") and _LOCAL_HOSTS.fullmatch(host) is not None


def _cors(request: web.Request, origins: tuple[str, ...]) -> dict[str, str]:
    """What lets a browser show the answer to a page of these origins; never with credentials."""
    origin = "*" if "*" in origins else request.headers.get("Origin", "")
    if origin not in origins:
        return {"Vary": "Origin"}
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": "*",
        "Vary": "Origin",
    }


async def _preflight(request: web.Request) -> web.Response:
    return web.Response(status=204, headers=_PREFLIGHT)
