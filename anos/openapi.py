"""The description of this gateway's HTTP API, for people and for tools: OpenAPI 3.1.

https://spec.openapis.org/oas/v3.1.1.html
"""

from typing import Any, get_args

from anos import (
    openapi_admin,
    openapi_admin_schemas,
    openapi_litellm,
    openapi_schemas,
    validation,
)
from anos.openapi_parts import (
    SENT,
    STRING,
    Schema,
    in_path,
    json_answer,
    json_body,
    operation,
    query,
    ref,
)


def document(version: str) -> dict[str, Any]:
    """The whole document, a tree ready for JSON; `version` is the gateway's."""
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Anos Gateway",
            "version": version,
            "summary": "The OpenAI Responses API and Chat Completions for every model.",
            "description": "Each path under `/v1` answers also without `/v1`, and under "
            "`/openai/v1`. Unknown fields of a request body go to the upstream. `null` means that "
            "an optional field was not sent. Every answer has `x-request-id`, "
            "`openai-processing-ms` and `anos-overhead-ms`, that of a model call `x-ratelimit-*` "
            "where a limit holds and `anos-budget-warning` above a soft budget; an error says with "
            "`Retry-After` and `x-should-retry` whether to try again. Keys of the roles `key` and "
            "`admin` may ask what is under `/v1`; what other paths ask for, they say.",
        },
        "servers": [{"url": "/"}],
        "security": [{name: []} for name in _SECURITY],
        "tags": [{"name": name} for name in _TAGS],
        "paths": _paths(),
        "components": {
            "securitySchemes": _SECURITY,
            "schemas": {
                **openapi_schemas.schemas(),
                **openapi_admin_schemas.schemas(),
                **openapi_litellm.schemas(),
            },
            "responses": {status: json_answer("Error", text) for status, text in _ERRORS.items()},
        },
    }


_TAGS = (
    "responses",
    "chat",
    "moderations",
    "models",
    "keys",
    "ledger",
    "audit",
    "LiteLLM",
    "operation",
)
_SECURITY: dict[str, Schema] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    **{
        name: {"type": "apiKey", "in": "header", "name": name}
        for name in ("api-key", "x-api-key", "x-litellm-api-key")
    },
}
_ERRORS = {
    "400": "The request is wrong; `error.param` is the path of the field.",
    "401": "No key, an unknown, blocked or expired one, or two different ones.",
    "403": "The key's role may not do this, or the key not use this model.",
    "404": "There is no such thing, or it belongs to someone else.",
    "408": "The body came too slowly.",
    "413": "The body is over 100 MiB.",
    "415": "The body has an encoding other than gzip and identity.",
    "429": "A rate limit is reached, and `Retry-After` says for how long; or a budget has not "
    "enough left for what the call may cost: `insufficient_quota`, or `rate_limit_exceeded` "
    "where calls that run only hold it.",
    "500": "The gateway met an internal error.",
    "502": "The upstream failed.",
    "503": "The database cannot be written, the gateway drains, or it is full.",
    "504": "The upstream took too long.",
    "default": "Another error: a status of the upstream that is passed on, like 409 or 422; 405; "
    "or 421, where the published key is used under a name that is not this machine's.",
}
_CALL_ERRORS = ("400", "401", "403", "408", "413", "415", "429", "500", "502", "503", "504")
_READ_ERRORS = ("400", "401", "403", "404", "500", "503")
_KEYLESS: list[Any] = []  # what the `security` of an operation says that needs no key

_ID = in_path("id")
_INCLUDE: Schema = {
    "name": "include",
    "in": "query",
    "schema": {"type": "array", "items": {"enum": list(get_args(validation.Include))}},
}


def _streamed(schema: str, event: str, description: str) -> Schema:
    """A JSON answer, or with `stream: true` server-sent events whose `data` are `event`."""
    answer = json_answer(schema, description)
    answer["content"]["text/event-stream"] = {"schema": ref(event)}
    return answer


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for path, operations in _VERSIONED.items():
        bare = path.removeprefix("/v1")
        also = f"Also served as `{bare}` and `/openai/v1{bare}`."
        paths[path] = {
            method: {
                **described,
                "description": f"{described.get('description', '')} {also}".strip(),
            }
            for method, described in operations.items()
        }
    paths |= {**openapi_admin.PATHS, **openapi_litellm.PATHS, **_KEYLESS_PATHS}
    default = {"default": {"$ref": "#/components/responses/default"}}
    return {
        path: {
            method: {**described, "responses": {**described["responses"], **default}}
            for method, described in operations.items()
        }
        for path, operations in paths.items()
    }


_VERSIONED: dict[str, dict[str, Schema]] = {
    "/v1/responses": {
        "post": operation(
            "createResponse",
            "responses",
            "Create a response",
            _streamed(
                "Response",
                "ResponseEvent",
                "The Response; with `stream` its events, then `data: [DONE]`; with `background` a "
                "Response that is `queued`.",
            ),
            _CALL_ERRORS,
            requestBody=json_body("CreateResponse"),
        )
    },
    "/v1/responses/{id}": {
        "get": operation(
            "retrieveResponse",
            "responses",
            "A stored response, or one that is running",
            json_answer("Response", "The Response."),
            _READ_ERRORS,
            parameters=[
                _ID,
                _INCLUDE,
                query("stream", {"const": False}, "A stored response cannot be streamed."),
            ],
        ),
        "delete": operation(
            "deleteResponse",
            "responses",
            "Delete a response for good",
            json_answer(
                "DeletedResponse", "It is gone, and responses that continue it cannot be continued."
            ),
            _READ_ERRORS,
            parameters=[_ID],
        ),
    },
    "/v1/responses/{id}/input_items": {
        "get": operation(
            "listInputItems",
            "responses",
            "What the model was given, inherited context included",
            json_answer("ItemList", "One page of items."),
            _READ_ERRORS,
            parameters=[
                _ID,
                query(
                    "limit",
                    {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
                    "Items on a page.",
                ),
                query(
                    "order", {"enum": ["asc", "desc"], "default": "desc"}, "`desc`: newest first."
                ),
                query("after", STRING, "The id of the last item of the page before."),
                _INCLUDE,
            ],
        )
    },
    "/v1/responses/{id}/cancel": {
        "post": operation(
            "cancelResponse",
            "responses",
            "Cancel a response that is running",
            json_answer("Response", "The cancelled Response; a second time the same."),
            _READ_ERRORS,
            parameters=[_ID],
        )
    },
    "/v1/chat/completions": {
        "post": operation(
            "createChatCompletion",
            "chat",
            "Create a chat completion",
            _streamed(
                "ChatCompletion",
                "ChatCompletionChunk",
                "The completion; with `stream` its chunks, then `data: [DONE]`.",
            ),
            _CALL_ERRORS,
            requestBody=json_body("CreateChatCompletion"),
        )
    },
    "/v1/moderations": {
        "post": operation(
            "createModeration",
            "moderations",
            "Ask what texts violate",
            json_answer("Moderation", "A result for each text, or one for all text parts."),
            (*SENT, "502", "504"),
            requestBody=json_body("CreateModeration"),
        )
    },
    "/v1/models": {
        "get": operation(
            "listModels",
            "models",
            "The models the key may use",
            json_answer("ModelList", "The models with a name of their own."),
            ("401", "403", "500"),
        )
    },
    "/v1/models/{id}": {
        "get": operation(
            "retrieveModel",
            "models",
            "One model, also one that a wildcard serves",
            json_answer("Model", "The model."),
            ("401", "403", "404", "500"),
            parameters=[_ID],
            description="Slashes in the name may be written as they are.",
        )
    },
}


def _probe(name: str, summary: str, *failures: str) -> dict[str, Schema]:
    answers = {status: json_answer("Status", "It is not.") for status in failures}
    probe = operation(name, "operation", summary, json_answer("Status", "It is."), ())
    probe["responses"] |= answers
    return {"get": {**probe, "security": _KEYLESS}}


_KEYLESS_PATHS: dict[str, dict[str, Schema]] = {
    "/healthz": _probe("health", "Whether the process answers"),
    "/readyz": _probe("readiness", "Whether model calls can be taken", "503"),
    "/health/liveliness": {
        "get": {
            **operation(
                "liveliness",
                "operation",
                "Whether the process answers, as LiteLLM says it",
                {
                    "description": "It does.",
                    "content": {"application/json": {"schema": {"const": "I'm alive!"}}},
                },
                (),
            ),
            "security": _KEYLESS,
        }
    },
    "/health/readiness": _probe(
        "databaseReadiness", "Whether the database is connected, as LiteLLM says it", "503"
    ),
    "/metrics": {
        "get": operation(
            "metrics",
            "operation",
            "Counters and latencies in the text format of Prometheus",
            {"description": "The metrics.", "content": {"text/plain": {"schema": STRING}}},
            ("401",),
            description="Needs a key unless asked from the same machine.",
            security=[{}, *({name: []} for name in _SECURITY)],
        )
    },
    "/openapi.json": {
        "get": operation(
            "describe",
            "operation",
            "This document",
            {
                "description": "The document.",
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
            (),
            security=_KEYLESS,
        )
    },
}
