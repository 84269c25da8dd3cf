"""The handlers of /v1/models: the exact names a key may use.

API: https://platform.openai.com/docs/api-reference/models
"""

from typing import Any

import orjson
from aiohttp import web

from anos.errors import InvalidModel, NotFound
from anos.state import EXCHANGE, SERVING


async def list_models(request: web.Request) -> web.Response:
    """GET /v1/models."""
    live, caller = request[SERVING].live, request[EXCHANGE].caller
    assert caller is not None  # the route is not public
    data = [_model(name) for name in live.router.names if caller.may_use(name)]
    return _json({"object": "list", "data": data})


async def retrieve_model(request: web.Request) -> web.Response:
    """GET /v1/models/{id}: also a name that only a wildcard serves."""
    live, caller = request[SERVING].live, request[EXCHANGE].caller
    assert caller is not None  # the route is not public
    name = request.match_info["id"]
    try:
        live.router.resolve(name)
    except InvalidModel:
        raise _unknown(name) from None
    if not caller.may_use(name):
        raise _unknown(name)
    return _json(_model(name))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "anos-gateway"}


def _json(body: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json")


def _unknown(name: str) -> NotFound:
    return NotFound(
        f"The model '{name[:256]}' does not exist.", param="model", code="model_not_found"
    )
