"""Calls of the running gateway for the commands of operators, with the configuration's own key."""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from anos.config_sections import Config

_TIMEOUT_S = 60.0
# What listens on every address is reached on this machine's own.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def call(config: Config, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and JSON of the gateway's answer, an error's too; `path` begins with a slash.

    Leaves with SystemExit and a sentence if there is no master key, nobody listens, or what answers
    is not a gateway.
    """
    key = config.server.master_key
    if key is None:
        raise SystemExit("The configuration has no server.master_key, which this command needs.")
    base = _url(config)
    request = urllib.request.Request(
        base + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        method=method,
    )
    # The way to the gateway is never through a proxy that the environment names.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        status, text = _answer(opener, request)
        return status, json.loads(text)
    except urllib.error.URLError as exc:
        raise SystemExit(f"No gateway answers at {base}: {exc.reason}") from None
    except (OSError, http.client.HTTPException) as exc:
        raise SystemExit(f"No gateway answers at {base}: {exc or type(exc).__name__}") from None
    except ValueError:
        raise SystemExit(f"What answers at {base} is not a gateway.") from None


def succeed(config: Config, method: str, path: str, body: Any = None) -> Any:
    """The JSON of a call that succeeds; leaves with SystemExit and the error's message if not."""
    status, answer = call(config, method, path, body)
    if status < 400:
        return answer
    error = answer.get("error") if isinstance(answer, dict) else None
    raise SystemExit(error["message"] if isinstance(error, dict) else f"HTTP status {status}")


def _answer(
    opener: urllib.request.OpenerDirector, request: urllib.request.Request
) -> tuple[int, bytes]:
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read()


def _url(config: Config) -> str:
    host, port = config.server.host, config.server.port
    host = _LOOPBACK.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
