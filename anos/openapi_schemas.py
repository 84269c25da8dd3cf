"""The shapes of what this gateway is sent and answers, as JSON Schemas for its OpenAPI document.

https://json-schema.org/draft/2020-12
"""

from typing import Any, get_args

from anos import validation
from anos.inputs import ROLES

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
_INTEGER: Schema = {"type": "integer"}
_BOOLEAN: Schema = {"type": "boolean"}
_OBJECT: Schema = {"type": "object"}
_NULL: Schema = {"type": "null"}


def schemas() -> dict[str, Schema]:
    """Every schema by its name under `#/components/schemas`."""
    return {**_items(), **_responses(), **_chat(), **_small()}


# --- how schemas are written ----------------------------------------------------------------------


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _shape(required: dict[str, Schema], **optional: Schema) -> Schema:
    """An object; fields that are not named may be there too."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
    }


def _list(of: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": of, **more}


def _enum(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def _literal(values: Any) -> Schema:
    return _enum(*get_args(values))


def _const(value: str) -> Schema:
    return {"type": "string", "const": value}


def _range(low: float, high: float, kind: str = "number") -> Schema:
    return {"type": kind, "minimum": low, "maximum": high}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, _NULL]}


def _optional(fields: dict[str, Schema]) -> dict[str, Schema]:
    return {name: _or_null(schema) for name, schema in fields.items()}


def _by_type(known: dict[str, str]) -> Schema:
    """One of the named schemas, by `type`; of any other type an object says what it likes."""
    other = _shape({"type": {"type": "string", "not": {"enum": list(known)}}})
    return {"anyOf": [*(ref(name) for name in known.values()), other]}


# --- items ----------------------------------------------------------------------------------------

_IMAGE = _optional({"image_url": STRING, "file_id": STRING, "detail": STRING})
_FILE = _optional({"file_data": STRING, "file_id": STRING, "file_url": STRING, "filename": STRING})


def _parts() -> dict[str, Schema]:
    return {
        "InputPart": {
            "anyOf": [
                _shape({"type": _const("input_text"), "text": STRING}),
                _shape({"type": _const("input_image")}, **_IMAGE),
                _shape({"type": _const("input_file")}, **_FILE),
                ref("OutputText"),
                ref("Refusal"),
                _shape({"type": STRING}),
            ]
        },
        "OutputText": _shape(
            {"type": _const("output_text"), "text": STRING}, annotations=_list(_OBJECT)
        ),
        "Refusal": _shape({"type": _const("refusal"), "refusal": STRING}),
    }


def _items() -> dict[str, Schema]:
    text_or_parts = {"anyOf": [STRING, _list(ref("InputPart"))]}
    call = {"call_id": STRING, "name": STRING}
    answered = {"id": STRING, "status": STRING}
    calls = {
        "FunctionCall": {"type": _const("function_call"), **call, "arguments": STRING},
        "CustomToolCall": {"type": _const("custom_tool_call"), **call, "input": STRING},
    }
    summary = _list(_shape({"type": _const("summary_text"), "text": STRING}))
    thought = _list(_shape({"type": _const("reasoning_text"), "text": STRING}))
    return {
        **_parts(),
        "InputMessage": _shape(
            {"role": _enum(*sorted(ROLES)), "content": text_or_parts},
            **_optional({"type": _const("message"), **answered, "phase": STRING}),
        ),
        "InputToolOutput": _shape(
            {"type": _enum("function_call_output", "custom_tool_call_output")}
            | {"output": text_or_parts},
            **_optional({"call_id": STRING, "name": STRING, **answered}),
        ),
        "ItemReference": _shape({"id": STRING}, type=_or_null(_const("item_reference"))),
        "InputItem": {
            "description": "An item of a conversation. Without `type` it is a message if it has a "
            "`role`, and the reference to an earlier item if it has only an `id`.",
            "anyOf": [
                ref("InputMessage"),
                *(_shape(fields, **_optional(answered)) for fields in calls.values()),
                ref("InputToolOutput"),
                ref("ItemReference"),
                _shape({"type": STRING}),
            ],
        },
        "Message": _shape(
            {"type": _const("message"), **answered, "role": _enum(*sorted(ROLES))}
            | {"content": _list(ref("InputPart"))}
        ),
        **{name: _shape(fields | answered) for name, fields in calls.items()},
        "Reasoning": _shape(
            {"type": _const("reasoning"), "id": STRING, "summary": summary},
            content=thought,
            encrypted_content=STRING,
        ),
        "ToolOutput": _shape(
            {"type": _enum("function_call_output", "custom_tool_call_output"), **answered}
            | {"output": text_or_parts}
        ),
        "Item": _by_type(
            {
                "message": "Message",
                "function_call": "FunctionCall",
                "custom_tool_call": "CustomToolCall",
                "reasoning": "Reasoning",
                "function_call_output": "ToolOutput",
                "custom_tool_call_output": "ToolOutput",
            }
        ),
    }


# --- responses ------------------------------------------------------------------------------------


def _settings() -> dict[str, Schema]:
    """What a request may set and its Response repeats; each may be null in a request."""
    function = {"type": _const("function"), "name": STRING}
    return {
        "instructions": STRING,
        "previous_response_id": STRING,
        "tools": _list(
            {
                "anyOf": [
                    _shape(
                        function,
                        description=_or_null(STRING),
                        parameters=_or_null(_OBJECT),
                        strict=_or_null(_BOOLEAN),
                    ),
                    _shape({"type": {"type": "string", "not": {"const": "function"}}}),
                ]
            }
        ),
        "tool_choice": {"anyOf": [_literal(validation.ToolMode), _shape({"type": STRING})]},
        "parallel_tool_calls": _BOOLEAN,
        "max_tool_calls": {**_INTEGER, "minimum": 1},
        "max_output_tokens": {**_INTEGER, "minimum": 1},
        "temperature": _range(0, 2),
        "top_p": _range(0, 1),
        "top_logprobs": _range(0, 20, "integer"),
        "presence_penalty": _range(-2, 2),
        "frequency_penalty": _range(-2, 2),
        "text": _shape(
            {},
            format=_or_null(_shape({"type": _enum("text", "json_object", "json_schema")})),
            verbosity=_or_null(_literal(validation.Verbosity)),
        ),
        "reasoning": _shape(
            {},
            effort=_or_null(_literal(validation.Effort)),
            summary=_or_null(_literal(validation.Summary)),
        ),
        "truncation": _literal(validation.Truncation),
        "store": _BOOLEAN,
        "background": _BOOLEAN,
        "service_tier": STRING,
        "metadata": {
            "type": "object",
            "maxProperties": 16,
            "propertyNames": {"maxLength": 64},
            "additionalProperties": {**STRING, "maxLength": 512},
        },
        "safety_identifier": STRING,
        "prompt_cache_key": STRING,
    }


# Settings that a Response shows as null when they were not sent; the others have a default.
_NULL_IF_UNSET = frozenset({
    *("instructions", "previous_response_id", "max_tool_calls", "max_output_tokens"),
    *("safety_identifier", "prompt_cache_key"),
})  # fmt: skip


def _responses() -> dict[str, Schema]:
    settings = _settings()
    echoed = {
        name: _or_null(schema) if name in _NULL_IF_UNSET else schema
        for name, schema in settings.items()
    }
    request = {
        **settings,
        "input": {"anyOf": [STRING, _list(ref("InputItem"))]},
        "max_tokens": {**settings["max_output_tokens"], "description": "`max_output_tokens` wins."},
        "include": _list(_literal(validation.Include)),
        "stream": _BOOLEAN,
        "stream_options": _shape({}, include_obfuscation=_or_null(_BOOLEAN)),
        "user": STRING,
    }
    statuses = ("queued", "in_progress", "completed", "incomplete", "failed", "cancelled")
    response = {
        "id": {**STRING, "pattern": "^resp_"},
        "object": _const("response"),
        "created_at": _INTEGER,
        "completed_at": _or_null(_INTEGER),
        "status": _enum(*statuses),
        "error": _or_null(_shape({"code": STRING, "message": STRING})),
        "incomplete_details": _or_null(_shape({"reason": STRING})),
        "model": STRING,
        "output": _list(ref("Item")),
        "usage": _or_null(ref("Usage")),
        **echoed,
    }
    return {
        "CreateResponse": _shape({"model": ref("ModelName")}, **_optional(request)),
        "Response": _shape(
            response,
            created={**_INTEGER, "description": "`created_at`, by the name chat gives it."},
            choices=_list(ref("Choice"), description="Empty unless completed or incomplete."),
        ),
        **_about_responses(),
    }


def _about_responses() -> dict[str, Schema]:
    return {
        "Usage": _shape(
            {
                "input_tokens": _INTEGER,
                "input_tokens_details": _shape(
                    {"cached_tokens": _INTEGER}, cache_write_tokens=_INTEGER
                ),
                "output_tokens": _INTEGER,
                "output_tokens_details": _shape({"reasoning_tokens": _INTEGER}),
                "total_tokens": _INTEGER,
            },
            prompt_tokens=_INTEGER,
            completion_tokens=_INTEGER,
        ),
        "ResponseEvent": _shape(
            {"type": STRING, "sequence_number": {**_INTEGER, "minimum": 0}},
            response=ref("Response"),
            item=ref("Item"),
            item_id=STRING,
            output_index=_INTEGER,
            content_index=_INTEGER,
            summary_index=_INTEGER,
            delta=STRING,
        ),
        "DeletedResponse": _shape(
            {"id": STRING, "object": _const("response"), "deleted": {"const": True}}
        ),
        "ItemList": _shape(
            {
                "object": _const("list"),
                "data": _list(ref("Item")),
                "first_id": _or_null(STRING),
                "last_id": _or_null(STRING),
                "has_more": _BOOLEAN,
            }
        ),
    }


# --- chat, models, errors -------------------------------------------------------------------------


def _chat() -> dict[str, Schema]:
    message = _shape(
        {"role": STRING, "content": _or_null(STRING)},
        tool_calls=_list(_shape({"id": STRING, "type": _enum("function", "custom")})),
        refusal=_or_null(STRING),
    )
    usage = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), _INTEGER)
    finish_reason = _enum("stop", "tool_calls", "length", "content_filter", "function_call")
    said = {"role": STRING, "content": {"anyOf": [STRING, _list(_OBJECT), _NULL]}}
    whole = {"id": STRING, "created": _INTEGER, "model": STRING}
    request = {
        "stream": _BOOLEAN,
        "stream_options": _shape({}, include_usage=_or_null(_BOOLEAN)),
        "max_completion_tokens": {**_INTEGER, "minimum": 1},
        "max_tokens": {**_INTEGER, "minimum": 1},
        "temperature": _range(0, 2),
        "top_p": _range(0, 1),
        "n": _range(1, 128, "integer"),
        "stop": {"anyOf": [STRING, _list(STRING)]},
        "tools": _list(_shape({"type": STRING})),
        "tool_choice": {"anyOf": [STRING, _OBJECT]},
        "response_format": _shape({"type": STRING}),
        "store": {"const": False},
    }
    return {
        "CreateChatCompletion": _shape(
            {
                "model": ref("ModelName"),
                "messages": _list(_shape({"role": STRING}, content=said["content"]), minItems=1),
            },
            **_optional(request),
        ),
        "Choice": _shape(
            {"index": _INTEGER, "message": message, "finish_reason": finish_reason},
            logprobs=_or_null(_OBJECT),
        ),
        "ChatCompletion": _shape(
            {**whole, "object": _const("chat.completion"), "choices": _list(ref("Choice"))},
            usage=_shape(usage),
        ),
        "ChatCompletionChunk": _shape(
            {
                **whole,
                "object": _const("chat.completion.chunk"),
                "choices": _list(
                    _shape(
                        {"index": _INTEGER, "delta": _OBJECT}, finish_reason=_or_null(finish_reason)
                    )
                ),
            },
            usage=_or_null(_shape(usage)),
        ),
    }


def _small() -> dict[str, Schema]:
    model = {"id": STRING, "object": _const("model"), "created": _INTEGER, "owned_by": STRING}
    error = {"message": STRING, "type": STRING, "param": STRING}
    return {
        "ModelName": {**STRING, "pattern": f"^{validation.MODEL_NAME}$"},
        "Model": _shape(model),
        "ModelList": _shape({"object": _const("list"), "data": _list(ref("Model"))}),
        "Error": _shape(
            {"error": _shape({**error, "code": {"anyOf": [STRING, _INTEGER]}})},
        ),
        "Status": _shape({"status": STRING}, version=STRING, db=STRING, cache=_NULL),
        "Changes": _shape({"changed": _list(STRING)}),
    }
