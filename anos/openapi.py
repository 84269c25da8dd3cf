"""The description of this gateway's HTTP API, for people and for tools: OpenAPI 3.1.

https://spec.openapis.org/oas/v3.1.1.html
"""

from typing import Any, get_args

from anos import validation
from anos.openapi_schemas import STRING, Schema, ref, schemas


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
            "`openai-processing-ms` and `anos-overhead-ms`, and `x-ratelimit-*` where the key has "
            "a limit; an error says with `Retry-After` and `x-should-retry` whether to try again.",
        },
        "servers": [{"url": "/"}],
        "security": [{name: []} for name in _SECURITY],
        "tags": [{"name": name} for name in ("responses", "chat", "models", "operation")],
        "paths": _paths(),
        "components": {
            "securitySchemes": _SECURITY,
            "schemas": schemas(),
            "responses": {status: _json("Error", text) for status, text in _ERRORS.items()},
        },
    }


_SECURITY: dict[str, Schema] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    **{
        name: {"type": "apiKey", "in": "header", "name": name}
        for name in ("api-key", "x-api-key", "x-litellm-api-key")
    },
}
_ERRORS = {
    "400": "The request is wrong; `error.param` is the path of the field.",
    "401": "No key, an unknown key, or two different ones.",
    "403": "The key may not do this, or not use this model.",
    "404": "There is no such thing, or it belongs to someone else.",
    "408": "The body came too slowly.",
    "413": "The body is over 100 MiB.",
    "415": "The body has an encoding other than gzip and identity.",
    "429": "The key's rate limit is reached; `Retry-After` says for how long.",
    "500": "The gateway met an internal error.",
    "502": "The upstream failed.",
    "503": "The database cannot be written, the gateway drains, or it is full.",
    "504": "The upstream took too long.",
}
_CALL_ERRORS = ("400", "401", "403", "408", "413", "415", "429", "500", "502", "503", "504")
_READ_ERRORS = ("400", "401", "404", "500", "503")
_KEYLESS: list[Any] = []  # what the `security` of an operation says that needs no key

_ID: Schema = {"name": "id", "in": "path", "required": True, "schema": STRING}
_INCLUDE: Schema = {
    "name": "include",
    "in": "query",
    "schema": {"type": "array", "items": {"enum": list(get_args(validation.Include))}},
}


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _json(schema: str, description: str) -> Schema:
    return {
        "description": description,
        "content": {"application/json": {"schema": ref(schema)}},
    }


def _streamed(schema: str, event: str, description: str) -> Schema:
    """A JSON answer, or with `stream: true` server-sent events whose `data` are `event`."""
    answer = _json(schema, description)
    answer["content"]["text/event-stream"] = {"schema": ref(event)}
    return answer


def _operation(
    name: str, tag: str, summary: str, answer: Schema, errors: tuple[str, ...], **more: Any
) -> Schema:
    failures = {status: {"$ref": f"#/components/responses/{status}"} for status in errors}
    return {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        **more,
        "responses": {"200": answer, **failures},
    }


def _body(schema: str) -> Schema:
    return {"required": True, "content": {"application/json": {"schema": ref(schema)}}}


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for path, operations in _VERSIONED.items():
        bare = path.removeprefix("/v1")
        also = f"Also served as `{bare}` and `/openai/v1{bare}`."
        paths[path] = {
            method: {
                **operation,
                "description": f"{operation.get('description', '')} {also}".strip(),
            }
            for method, operation in operations.items()
        }
    return {**paths, **_OPERATION}


_VERSIONED: dict[str, dict[str, Schema]] = {
    "/v1/responses": {
        "post": _operation(
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
            requestBody=_body("CreateResponse"),
        )
    },
    "/v1/responses/{id}": {
        "get": _operation(
            "retrieveResponse",
            "responses",
            "A stored response, or one that is running",
            _json("Response", "The Response."),
            _READ_ERRORS,
            parameters=[
                _ID,
                _INCLUDE,
                _query("stream", {"const": False}, "A stored response cannot be streamed."),
            ],
        ),
        "delete": _operation(
            "deleteResponse",
            "responses",
            "Delete a response for good",
            _json(
                "DeletedResponse", "It is gone, and responses that continue it cannot be continued."
            ),
            _READ_ERRORS,
            parameters=[_ID],
        ),
    },
    "/v1/responses/{id}/input_items": {
        "get": _operation(
            "listInputItems",
            "responses",
            "What the model was given, inherited context included",
            _json("ItemList", "One page of items."),
            _READ_ERRORS,
            parameters=[
                _ID,
                _query(
                    "limit",
                    {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
                    "Items on a page.",
                ),
                _query(
                    "order", {"enum": ["asc", "desc"], "default": "desc"}, "`desc`: newest first."
                ),
                _query("after", STRING, "The id of the last item of the page before."),
                _INCLUDE,
            ],
        )
    },
    "/v1/responses/{id}/cancel": {
        "post": _operation(
            "cancelResponse",
            "responses",
            "Cancel a response that is running",
            _json("Response", "The cancelled Response; a second time the same."),
            _READ_ERRORS,
            parameters=[_ID],
        )
    },
    "/v1/chat/completions": {
        "post": _operation(
            "createChatCompletion",
            "chat",
            "Create a chat completion",
            _streamed(
                "ChatCompletion",
                "ChatCompletionChunk",
                "The completion; with `stream` its chunks, then `data: [DONE]`.",
            ),
            _CALL_ERRORS,
            requestBody=_body("CreateChatCompletion"),
        )
    },
    "/v1/models": {
        "get": _operation(
            "listModels",
            "models",
            "The models the key may use",
            _json("ModelList", "The models with a name of their own."),
            ("401", "500"),
        )
    },
    "/v1/models/{id}": {
        "get": _operation(
            "retrieveModel",
            "models",
            "One model, also one that a wildcard serves",
            _json("Model", "The model."),
            ("401", "404", "500"),
            parameters=[_ID],
            description="Slashes in the name may be written as they are.",
        )
    },
}


def _probe(name: str, summary: str, *failures: str) -> dict[str, Schema]:
    answers = {status: _json("Status", "It is not.") for status in failures}
    operation = _operation(name, "operation", summary, _json("Status", "It is."), ())
    operation["responses"] |= answers
    return {"get": {**operation, "security": _KEYLESS}}


_OPERATION: dict[str, dict[str, Schema]] = {
    "/healthz": _probe("health", "Whether the process answers"),
    "/readyz": _probe("readiness", "Whether model calls can be taken", "503"),
    "/health/liveliness": {
        "get": {
            **_operation(
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
        "get": _operation(
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
        "get": _operation(
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
    "/admin/reload": {
        "post": _operation(
            "reload",
            "operation",
            "Read the configuration again",
            _json("Changes", "What has changed; on a fault (400) the last good one stays."),
            ("400", "401", "403", "500"),
        )
    },
}
