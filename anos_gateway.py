"""Anos Gateway: the OpenAI Responses API and Chat Completions for every model, over SQLite."""

import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from aiohttp import web

from anos import cli, intake, lifecycle, middleware, server
from anos.config_sections import Config
from anos.routes import HOT, PUBLIC, ROLES, ROUTES
from anos.state import BOUNDS, DEFAULT_BOUNDS, Bounds
from anos.store import StoreError

logger = logging.getLogger("anos")

STORE_SQL = Path(__file__).with_name("store.sql")


def build_app(
    config: Config, load: Callable[[], Config] | None = None, bounds: Bounds = DEFAULT_BOUNDS
) -> web.Application:
    """The application for `config`; `load` reads the configuration again for a reload."""
    # In rows and metrics a path template has no regular expressions.
    templates: dict[middleware.Handler, str] = {
        handler: path.replace(":.+", "") for _, path, handler in ROUTES + PUBLIC
    }
    roles: dict[middleware.Handler, frozenset[str]] = {
        handler: allowed for routes, allowed in ROLES for _, _, handler in routes
    }
    app = web.Application(client_max_size=bounds.body_bytes)
    app[BOUNDS] = bounds
    entry = middleware.gate(app, templates, roles)
    app.middlewares.append(entry)
    for method, path, handler in ROUTES + PUBLIC:
        prefixes = ("/v1", "", "/openai/v1") if path.startswith("/v1/") else ("",)
        for prefix in prefixes:
            full = prefix + path.removeprefix("/v1")
            app.router.add_route(method, full, handler, expect_handler=intake.expect)
    for _, path, handler in PUBLIC:  # balancers ask so
        app.router.add_route("HEAD", path, handler)
    hot: dict[str, server.Answer] = {p: partial(entry, handler=handler) for p, handler in HOT}
    app[server.HOT] = hot
    app.cleanup_ctx.append(lifecycle.contexts(config, STORE_SQL, load))
    app.on_shutdown.append(lifecycle.drain)
    return app


def run(config: Config, load: Callable[[], Config], file: Path | None) -> None:
    """Serve until SIGTERM; leaves with SystemExit and a sentence if it cannot start.

    `file` is the one that the configuration is from.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    app = build_app(config, load)
    host, port = config.server.host, config.server.port
    _check_port(host, port)
    served = _served(config, file)

    async def say(app: web.Application) -> None:
        logger.info("%s", served)

    app.on_startup.append(say)
    try:
        server.run(app, host, port, _on_hangup(app))
        logger.info("stopped")
    except OSError as exc:  # the port, a file
        named = f"{exc.filename}: " if exc.filename else ""
        sys.exit(f"The gateway cannot start: {named}{exc.strerror or exc}")
    except StoreError as exc:  # a traceback says no more
        sys.exit(f"The gateway cannot start: {exc}")


def _check_port(host: str, port: int) -> None:
    """Leaves with SystemExit if nobody can listen there: that is known before a file is made."""
    try:
        for family, *_, address in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            socket.create_server(address, family=family).close()
    except OSError as exc:
        if exc.errno == errno.EAFNOSUPPORT:  # a name may have addresses of a kind that is not here
            return
        words = str(exc.strerror).partition(" (")[0]
        sys.exit(f"The gateway cannot start: it cannot listen on {host}:{port}: {words}")


def _served(config: Config, file: Path | None) -> str:
    """For the log of who wonders why the gateway does not know a model or a key."""
    read = f"configuration {file.absolute()}" if file else "no configuration file: the stub answers"
    database = Path(config.server.database).absolute()
    return f"{read}; database {database}; {len(config.models)} models, see GET /v1/models"


def _on_hangup(app: web.Application) -> Callable[[], None]:
    """What SIGHUP calls: a reload, or the end if the terminal the gateway runs in was closed."""
    has_terminal = os.isatty(0)

    def act() -> None:
        if has_terminal and not os.isatty(0):
            signal.raise_signal(signal.SIGTERM)
        else:
            lifecycle.reload_on_signal(app)

    return act


def main() -> int:
    """The command line; returns the exit code."""
    return cli.main(sys.argv[1:], run, build_app)


if __name__ == "__main__":
    sys.exit(main())
