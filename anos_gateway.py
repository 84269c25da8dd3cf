"""Anos Gateway: the OpenAI Responses API and Chat Completions for every model, over SQLite."""

import logging
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
    app.on_startup.append(lifecycle.served(config, file))
    host, port = config.server.host, config.server.port
    try:
        server.check_port(host, port)  # before a file is made
        server.run(app, host, port, lifecycle.on_hangup(app))
        logger.info("stopped")
    except OSError as exc:  # the port, a file
        named = f"{exc.filename}: " if exc.filename else ""
        sys.exit(f"The gateway cannot start: {named}{exc.strerror or exc}")
    except StoreError as exc:  # a traceback says no more
        sys.exit(f"The gateway cannot start: {exc}")


def main() -> int:
    """The command line; returns the exit code."""
    return cli.main(sys.argv[1:], run, build_app)


if __name__ == "__main__":
    sys.exit(main())
