"""Every route of the program, and who may ask it."""

from importlib import import_module

from aiohttp import web

from anos import chat, health, models, responses
from anos.middleware import Handler

Route = tuple[str, str, Handler]


def late(module: str, name: str) -> Handler:
    """A handler whose module is loaded when it is first asked: a start need not wait for it."""

    async def handler(request: web.Request) -> web.StreamResponse:
        found: Handler = getattr(import_module(f"anos.{module}"), name)
        return await found(request)

    return handler


# Each /v1 path also answers without /v1 and under /openai/v1.
CALLS = (
    ("POST", "/v1/responses", responses.create),
    ("GET", "/v1/responses/{id}", responses.retrieve),
    ("DELETE", "/v1/responses/{id}", responses.delete),
    ("GET", "/v1/responses/{id}/input_items", responses.input_items),
    ("POST", "/v1/responses/{id}/cancel", responses.cancel),
    ("POST", "/v1/chat/completions", chat.create),
    ("POST", "/v1/moderations", late("moderations", "create")),
    ("GET", "/v1/models", models.list_models),
    ("GET", "/v1/models/{id:.+}", models.retrieve_model),
)
# What a caller of any role may ask about itself.
OWN = (("GET", "/key/info", late("litellm_keys", "info")),)
# What operators look at.
VIEWS: tuple[Route, ...] = (
    ("GET", "/admin/audit/verify", late("admin_audit", "verify")),
    ("GET", "/admin/audit/export", late("admin_audit", "export")),
    ("GET", "/admin/changes", late("admin_audit", "list_changes")),
    ("GET", "/admin/keys", late("admin_keys", "list_keys")),
    ("GET", "/admin/keys/{name}", late("admin_keys", "retrieve")),
    ("GET", "/key/list", late("litellm_keys", "list_keys")),
    ("GET", "/admin/spend", late("admin_ledger", "read_spend")),
    ("GET", "/admin/requests", late("admin_ledger", "list_requests")),
    ("GET", "/admin/requests/{id}", late("admin_ledger", "read_request")),
    ("GET", "/admin/responses", late("admin_ledger", "list_responses")),
    ("GET", "/admin/inflight", late("admin_live", "inflight")),
    ("GET", "/admin/events", late("admin_live", "events")),
    ("POST", "/admin/explain", late("admin_live", "explain")),
    ("GET", "/spend/logs", late("litellm_spend", "logs")),
    ("GET", "/global/spend", late("litellm_spend", "total")),
    ("GET", "/global/spend/keys", late("litellm_spend", "by_key")),
    ("GET", "/global/spend/models", late("litellm_spend", "by_model")),
)
# What operators change.
CHANGES = (
    ("POST", "/admin/reload", late("admin", "reload")),
    ("POST", "/admin/spend/recompute", late("admin_ledger", "recompute_spend")),
    ("POST", "/admin/backup", late("admin_audit", "backup")),
    ("POST", "/admin/integrity", late("admin_audit", "integrity")),
    ("POST", "/admin/keys", late("admin_keys", "create")),
    ("PATCH", "/admin/keys/{name}", late("admin_keys", "edit")),
    ("DELETE", "/admin/keys/{name}", late("admin_keys", "delete")),
    ("POST", "/admin/keys/{name}/rotate", late("admin_keys", "rotate")),
    ("POST", "/admin/keys/{name}/block", late("admin_keys", "block")),
    ("POST", "/admin/keys/{name}/unblock", late("admin_keys", "unblock")),
    ("POST", "/key/generate", late("litellm_keys", "generate")),
    ("POST", "/key/update", late("litellm_keys", "update")),
    ("POST", "/key/delete", late("litellm_keys", "delete")),
    ("POST", "/key/block", late("litellm_keys", "block")),
    ("POST", "/key/unblock", late("litellm_keys", "unblock")),
    ("POST", "/key/regenerate", late("litellm_keys", "regenerate")),
    ("POST", "/key/{key}/regenerate", late("litellm_keys", "regenerate_named")),
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
# Who may ask which of them.
ROLES = (
    (CALLS, frozenset({"admin", "key"})),
    (OWN, frozenset({"admin", "key", "read-only"})),
    (VIEWS, frozenset({"admin", "read-only"})),
    (CHANGES, frozenset({"admin"})),
)
ROUTES = CALLS + OWN + VIEWS + CHANGES

# These skip aiohttp's router: it costs as much as a call's own work in memory.
HOT = (("/v1/responses", responses.create), ("/v1/chat/completions", chat.create))
