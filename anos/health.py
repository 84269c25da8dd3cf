"""The handlers that say how the gateway is: liveness, readiness, metrics, its API."""

import ipaddress
from typing import Any

import orjson
from aiohttp import web

from anos import __version__
from anos.state import SERVING

_FORWARDED = {"Forwarded", "X-Forwarded-For", "X-Real-IP"}


async def alive(request: web.Request) -> web.Response:
    """GET /healthz: 200 while the process answers."""
    return _json({"status": "ok", "version": __version__}, 200)


async def ready(request: web.Request) -> web.Response:
    """GET /readyz: 200 while model calls can be taken, else 503 with the reason."""
    gateway = request[SERVING]
    if gateway.is_draining:
        return _json({"status": "draining"}, 503)
    if not gateway.store.healthy:
        return _json({"status": "database cannot be written"}, 503)
    return _json({"status": "ok"}, 200)


async def liveliness(request: web.Request) -> web.Response:
    """GET /health/liveliness, as LiteLLM answers it."""
    return web.Response(body=b'"I\'m alive!"', content_type="application/json")


async def readiness(request: web.Request) -> web.Response:
    """GET /health/readiness, as LiteLLM answers it."""
    gateway = request[SERVING]
    connected = gateway.store.healthy and not gateway.is_draining
    word = "connected" if connected else "disconnected"
    return _json({"status": word, "db": word, "cache": None}, 200 if connected else 503)


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics in Prometheus' text format; off this machine it needs a key."""
    gateway = request[SERVING]
    # Behind a proxy on this machine everybody seems to be on it.
    if not _is_local(request.remote) or request.headers.keys() & _FORWARDED:
        gateway.live.keyring.authenticate(request.headers)
    body, content_type = gateway.metrics.render()
    return web.Response(body=body, headers={"Content-Type": content_type})


async def openapi(request: web.Request) -> web.Response:
    """GET /openapi.json."""
    from anos import openapi as description  # loaded when asked for: a start does not need it

    return _json(description.document(__version__), 200)


def _is_local(remote: str | None) -> bool:
    return remote is None or ipaddress.ip_address(remote.partition("%")[0]).is_loopback


def _json(body: dict[str, Any], status: int) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
