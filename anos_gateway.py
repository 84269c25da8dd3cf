"""Anos Gateway: the OpenAI Responses API and Chat Completions for every model, over SQLite."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from anos import admin, chat, cli, health, lifecycle, middleware, models, responses, server
from anos.config import Config

STORE_SQL = Path(__file__).with_name("store.sql")
MAX_BODY_BYTES = 100 * 1024 * 1024

# Each /v1 path also answers without /v1 and under /openai/v1.
ROUTES = (
    ("POST", "/v1/responses", responses.create),
    ("GET", "/v1/responses/{id}", responses.retrieve),
    ("DELETE", "/v1/responses/{id}", responses.delete),
    ("GET", "/v1/responses/{id}/input_items", responses.input_items),
    ("POST", "/v1/responses/{id}/cancel", responses.cancel),
    ("POST", "/v1/chat/completions", chat.create),
    ("GET", "/v1/models", models.list_models),
    ("GET", "/v1/models/{id:.+}", models.retrieve_model),
    ("POST", "/admin/reload", admin.reload),
)
# These answer without a key.
PUBLIC = (
    ("GET", "/healthz", health.alive),
    ("GET", "/readyz", health.ready),
    ("GET", "/health/liveliness", health.liveliness),
    ("GET", "/health/readiness", health.readiness),
    ("GET", "/metrics", health.metrics),
    ("GET", "/openapi.json", health.openapi),
)


def build_app(config: Config, load: Callable[[], Config] | None = None) -> web.Application:
    """The application for `config`; `load` reads the configuration again for a reload."""
    templates: dict[middleware.Handler, str] = {h: path for _, path, h in ROUTES + PUBLIC}
    public = frozenset[middleware.Handler](handler for _, _, handler in PUBLIC)
    app = web.Application(
        middlewares=[middleware.gate(templates, public)], client_max_size=MAX_BODY_BYTES
    )
    for method, path, handler in ROUTES + PUBLIC:
        prefixes = ("/v1", "", "/openai/v1") if path.startswith("/v1/") else ("",)
        for prefix in prefixes:
            app.router.add_route(method, prefix + path.removeprefix("/v1"), handler)
    app.cleanup_ctx.append(lifecycle.contexts(config, STORE_SQL, load))
    app.on_shutdown.append(lifecycle.drain)
    return app


def run(config: Config, load: Callable[[], Config]) -> None:
    """Serve until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    app = build_app(config, load)
    server.run(app, config.server.host, config.server.port, lambda: lifecycle.reload_on_signal(app))


def main() -> int:
    """The command line; returns the exit code."""
    return cli.main(sys.argv[1:], run)


if __name__ == "__main__":
    sys.exit(main())
