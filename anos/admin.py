"""The handlers of operators: reload."""

import logging

import orjson
from aiohttp import web

from anos import lifecycle
from anos.config import ConfigFault
from anos.errors import InvalidRequest
from anos.state import EXCHANGE, SERVING

logger = logging.getLogger("anos")


async def reload(request: web.Request) -> web.Response:
    """POST /admin/reload: read the configuration again; on a fault the last good one stays."""
    try:
        changes = await lifecycle.reload(request[SERVING], request[EXCHANGE])
    except ConfigFault as fault:
        raise InvalidRequest(
            "The configuration was not changed: " + "; ".join(fault.faults)
        ) from None
    return web.Response(body=orjson.dumps({"changed": changes}), content_type="application/json")
