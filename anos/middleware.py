"""What every request passes: its id, who calls, errors into the envelope, its ledger row."""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping

import orjson
from aiohttp import web
from aiohttp.typedefs import Middleware

from anos.errors import (
    BodyTooLarge,
    GatewayError,
    InvalidRequest,
    MethodNotAllowed,
    Misdirected,
    NotFound,
    UnsupportedMedia,
    envelope,
)
from anos.ledger import begin, note_failure
from anos.state import EXCHANGE, GATEWAY

logger = logging.getLogger("anos")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# With the published key, a page in a browser must not get in by a name that leads to this machine.
_LOCAL_HOSTS = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")
_CORS_METHODS = "GET, POST, DELETE, OPTIONS"


def gate(
    templates: Mapping[Handler, str], public: frozenset[Handler]
) -> Middleware:
    """The one middleware: `templates` names each handler's route; all but `public` need a key."""

    @web.middleware
    async def entry(request: web.Request, handler: Handler) -> web.StreamResponse:
        gateway = request.app[GATEWAY]
        live = gateway.live
        sent_id = request.headers.get("x-request-id", "")
        exchange = begin(
            request.method,
            templates.get(handler, "other"),
            sent_id if sent_id and _REQUEST_ID.fullmatch(sent_id) else "",
        )
        request[EXCHANGE] = exchange
        response: web.StreamResponse
        try:
            if live.config.default_key and not _LOCAL_HOSTS.fullmatch(
                request.headers.get("Host", "")
            ):
                raise Misdirected
            if handler in templates and handler not in public:
                exchange.caller = live.keyring.authenticate(request.headers)
            response = await handler(request)
        except Exception as exc:
            if _has_begun(request):
                gateway.ledger.settle(exchange, note_failure(exchange, exc))
                raise
            response = answer(exc)
            note_failure(exchange, _known(exc))
        except BaseException as exc:
            gateway.ledger.settle(exchange, note_failure(exchange, exc))
            raise
        if not exchange.deferred:
            gateway.ledger.settle(exchange, response.status)
        if not response.prepared:
            response.headers.update(exchange.answer_headers())
            if live.config.server.cors_origins:
                response.headers.update(_cors(request, live.config.server.cors_origins))
        return response

    return entry


def answer(exc: BaseException) -> web.Response:
    """The envelope for any exception, aiohttp's own included; an unknown one is also logged."""
    known = _known(exc)
    if known.status == 500:
        logger.error("internal error", exc_info=exc)
    return web.Response(
        status=known.status,
        body=orjson.dumps(envelope(known)),
        content_type="application/json",
        headers=known.headers,
    )


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
    return GatewayError()


def _has_begun(request: web.Request) -> bool:
    return request.writer.output_size > 0


def _cors(request: web.Request, origins: tuple[str, ...]) -> dict[str, str]:
    origin = request.headers.get("Origin", "")
    if not origin or (origin not in origins and "*" not in origins):
        return {}
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": "x-request-id",
        "Vary": "Origin",
    }
