"""The handlers of operators: reload."""

import logging

import orjson
from aiohttp import web

from anos import lifecycle
from anos.config import ConfigFault
from anos.errors import Forbidden, InvalidRequest
from anos.state import EXCHANGE, SERVING

logger = logging.getLogger("anos")


async def reload(request: web.Request) -> web.Response:
    """POST /admin/reload: read the configuration again; on a fault the last good one stays."""
    caller = request[EXCHANGE].caller
    if caller is None or not caller.is_master:
        raise Forbidden("Only the master key may do this.")
    try:
        changes = lifecycle.reload(request[SERVING])
    except ConfigFault as fault:
        raise InvalidRequest(
            "The configuration was not changed: " + "; ".join(fault.faults)
        ) from None
    return web.Response(body=orjson.dumps({"changed": changes}), content_type="application/json")
