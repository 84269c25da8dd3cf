"""The shapes of model calls and their answers, as JSON Schemas for the gateway's OpenAPI document.

https://json-schema.org/draft/2020-12
"""

from anos import validation
from anos.inputs import ROLES
from anos.openapi_parts import (
    BOOLEAN,
    INTEGER,
    NULL,
    OBJECT,
    STRING,
    Schema,
    array,
    between,
    const,
    enum,
    literal,
    optional,
    or_null,
    ref,
    shape,
)


def schemas() -> dict[str, Schema]:
    """Every schema by its name under `#/components/schemas`."""
    return {**_items(), **_responses(), **_chat(), **_moderations(), **_small()}


def _by_type(known: dict[str, str]) -> Schema:
    """One of the named schemas, by `type`; of any other type an object says what it likes."""
    other = shape({"type": {"type": "string", "not": {"enum": list(known)}}})
    return {"anyOf": [*(ref(name) for name in known.values()), other]}


# --- items ----------------------------------------------------------------------------------------

_IMAGE = optional({"image_url": STRING, "file_id": STRING, "detail": STRING})
_FILE = optional({"file_data": STRING, "file_id": STRING, "file_url": STRING, "filename": STRING})


def _parts() -> dict[str, Schema]:
    return {
        "InputPart": {
            "anyOf": [
                shape({"type": const("input_text"), "text": STRING}),
                shape({"type": const("input_image")}, **_IMAGE),
                shape({"type": const("input_file")}, **_FILE),
                ref("OutputText"),
                ref("Refusal"),
                shape({"type": STRING}),
            ]
        },
        "OutputText": shape(
            {"type": const("output_text"), "text": STRING}, annotations=array(OBJECT)
        ),
        "Refusal": shape({"type": const("refusal"), "refusal": STRING}),
    }


def _items() -> dict[str, Schema]:
    text_or_parts = {"anyOf": [STRING, array(ref("InputPart"))]}
    call = {"call_id": STRING, "name": STRING}
    answered = {"id": STRING, "status": STRING}
    calls = {
        "FunctionCall": {"type": const("function_call"), **call, "arguments": STRING},
        "CustomToolCall": {"type": const("custom_tool_call"), **call, "input": STRING},
    }
    summary = array(shape({"type": const("summary_text"), "text": STRING}))
    thought = array(shape({"type": const("reasoning_text"), "text": STRING}))
    return {
        **_parts(),
        "InputMessage": shape(
            {"role": enum(*sorted(ROLES)), "content": text_or_parts},
            **optional({"type": const("message"), **answered, "phase": STRING}),
        ),
        "InputToolOutput": shape(
            {"type": enum("function_call_output", "custom_tool_call_output")}
            | {"output": text_or_parts},
            **optional({"call_id": STRING, "name": STRING, **answered}),
        ),
        "ItemReference": shape({"id": STRING}, type=or_null(const("item_reference"))),
        "InputItem": {
            "description": "An item of a conversation. Without `type` it is a message if it has a "
            "`role`, and the reference to an earlier item if it has only an `id`.",
            "anyOf": [
                ref("InputMessage"),
                *(shape(fields, **optional(answered)) for fields in calls.values()),
                ref("InputToolOutput"),
                ref("ItemReference"),
                shape({"type": STRING}),
            ],
        },
        "Message": shape(
            {"type": const("message"), **answered, "role": enum(*sorted(ROLES))}
            | {"content": array(ref("InputPart"))}
        ),
        **{name: shape(fields | answered) for name, fields in calls.items()},
        "Reasoning": shape(
            {"type": const("reasoning"), "id": STRING, "summary": summary},
            content=thought,
            encrypted_content=STRING,
        ),
        "ToolOutput": shape(
            {"type": enum("function_call_output", "custom_tool_call_output"), **answered}
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
    function = {"type": const("function"), "name": STRING}
    return {
        "instructions": STRING,
        "previous_response_id": STRING,
        "tools": array(
            {
                "anyOf": [
                    shape(
                        function,
                        description=or_null(STRING),
                        parameters=or_null(OBJECT),
                        strict=or_null(BOOLEAN),
                    ),
                    shape({"type": {"type": "string", "not": {"const": "function"}}}),
                ]
            }
        ),
        "tool_choice": {"anyOf": [literal(validation.ToolMode), shape({"type": STRING})]},
        "parallel_tool_calls": BOOLEAN,
        "max_tool_calls": {**INTEGER, "minimum": 1, "maximum": 2**31},
        "max_output_tokens": {**INTEGER, "minimum": 1, "maximum": 2**31},
        "temperature": between(0, 2),
        "top_p": between(0, 1),
        "top_logprobs": between(0, 20, "integer"),
        "presence_penalty": between(-2, 2),
        "frequency_penalty": between(-2, 2),
        "text": shape(
            {},
            format=or_null(shape({"type": enum("text", "json_object", "json_schema")})),
            verbosity=or_null(literal(validation.Verbosity)),
        ),
        "reasoning": shape(
            {},
            effort=or_null(literal(validation.Effort)),
            summary=or_null(literal(validation.Summary)),
        ),
        "truncation": literal(validation.Truncation),
        "store": BOOLEAN,
        "background": BOOLEAN,
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
        name: or_null(schema) if name in _NULL_IF_UNSET else schema
        for name, schema in settings.items()
    }
    request = {
        **settings,
        "input": {"anyOf": [STRING, array(ref("InputItem"))]},
        **{
            name: {**settings["max_output_tokens"], "description": "`max_output_tokens` wins."}
            for name in ("max_completion_tokens", "max_tokens")
        },
        "include": array(literal(validation.Include)),
        "stream": BOOLEAN,
        "stream_options": shape({}, include_obfuscation=or_null(BOOLEAN)),
        "user": STRING,
    }
    statuses = ("queued", "in_progress", "completed", "incomplete", "failed", "cancelled")
    response = {
        "id": {**STRING, "pattern": "^resp_"},
        "object": const("response"),
        "created_at": INTEGER,
        "completed_at": or_null(INTEGER),
        "status": enum(*statuses),
        "error": or_null(shape({"type": STRING, "code": STRING, "message": STRING})),
        "incomplete_details": or_null(shape({"reason": STRING})),
        "model": STRING,
        "output": array(ref("Item")),
        "usage": or_null(ref("Usage")),
        **echoed,
    }
    return {
        "CreateResponse": shape({"model": ref("ModelName")}, **optional(request)),
        "Response": shape(
            response,
            created={**INTEGER, "description": "`created_at`, by the name chat gives it."},
            choices=array(ref("Choice"), description="Empty unless completed or incomplete."),
        ),
        **_about_responses(),
    }


def _about_responses() -> dict[str, Schema]:
    return {
        "Usage": shape(
            {
                "input_tokens": INTEGER,
                "input_tokens_details": shape(
                    {"cached_tokens": INTEGER}, cache_write_tokens=INTEGER
                ),
                "output_tokens": INTEGER,
                "output_tokens_details": shape({"reasoning_tokens": INTEGER}),
                "total_tokens": INTEGER,
            },
            prompt_tokens=INTEGER,
            completion_tokens=INTEGER,
        ),
        "ResponseEvent": shape(
            {"type": STRING, "sequence_number": {**INTEGER, "minimum": 0}},
            response=ref("Response"),
            item=ref("Item"),
            item_id=STRING,
            output_index=INTEGER,
            content_index=INTEGER,
            summary_index=INTEGER,
            delta=STRING,
        ),
        "DeletedResponse": shape(
            {"id": STRING, "object": const("response"), "deleted": {"const": True}}
        ),
        "ItemList": shape(
            {
                "object": const("list"),
                "data": array(ref("Item")),
                "first_id": or_null(STRING),
                "last_id": or_null(STRING),
                "has_more": BOOLEAN,
            }
        ),
    }


# --- chat, moderations, models, errors ------------------------------------------------------------


def _chat() -> dict[str, Schema]:
    message = shape(
        {"role": STRING, "content": or_null(STRING)},
        tool_calls=array(shape({"id": STRING, "type": enum("function", "custom")})),
        refusal=or_null(STRING),
    )
    usage = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), INTEGER)
    finish_reason = enum("stop", "tool_calls", "length", "content_filter", "function_call")
    said = {"role": STRING, "content": {"anyOf": [STRING, array(OBJECT), NULL]}}
    whole = {"id": STRING, "created": INTEGER, "model": STRING}
    request = {
        "stream": BOOLEAN,
        "stream_options": shape({}, include_usage=or_null(BOOLEAN)),
        "max_completion_tokens": {**INTEGER, "minimum": 1, "maximum": 2**31},
        "max_tokens": {**INTEGER, "minimum": 1, "maximum": 2**31},
        "temperature": between(0, 2),
        "top_p": between(0, 1),
        "n": between(1, 128, "integer"),
        "stop": {"anyOf": [STRING, array(STRING)]},
        "tools": array(shape({"type": STRING})),
        "tool_choice": {"anyOf": [STRING, OBJECT]},
        "response_format": shape({"type": STRING}),
        "store": {"const": False},
    }
    return {
        "CreateChatCompletion": shape(
            {
                "model": ref("ModelName"),
                "messages": array(shape({"role": STRING}, content=said["content"]), minItems=1),
            },
            **optional(request),
        ),
        "Choice": shape(
            {"index": INTEGER, "message": message, "finish_reason": finish_reason},
            logprobs=or_null(OBJECT),
        ),
        "ChatCompletion": shape(
            {**whole, "object": const("chat.completion"), "choices": array(ref("Choice"))},
            usage=shape(usage),
        ),
        "ChatCompletionChunk": shape(
            {
                **whole,
                "object": const("chat.completion.chunk"),
                "choices": array(
                    shape({"index": INTEGER, "delta": OBJECT}, finish_reason=or_null(finish_reason))
                ),
            },
            usage=or_null(shape(usage)),
        ),
    }


def _moderations() -> dict[str, Schema]:
    text = shape({"type": const("text"), "text": STRING})
    result = {
        "flagged": BOOLEAN,
        "categories": {**OBJECT, "additionalProperties": BOOLEAN},
        "category_scores": {**OBJECT, "additionalProperties": between(0, 1)},
        "category_applied_input_types": {**OBJECT, "additionalProperties": array(const("text"))},
    }
    several = {"minItems": 1, "maxItems": 1024}
    texts = [STRING, array(STRING, **several), array(text, **several)]
    return {
        "CreateModeration": shape({"input": {"anyOf": texts}}, model=or_null(STRING)),
        "Moderation": shape({"id": STRING, "model": STRING, "results": array(shape(result))}),
    }


def _small() -> dict[str, Schema]:
    model = {"id": STRING, "object": const("model"), "created": INTEGER, "owned_by": STRING}
    error = {"message": STRING, "type": STRING, "param": STRING}
    return {
        "ModelName": {**STRING, "pattern": f"^{validation.MODEL_NAME}$"},
        "Model": shape(model),
        "ModelList": shape({"object": const("list"), "data": array(ref("Model"))}),
        "ErrorBody": shape({**error, "code": {"anyOf": [STRING, INTEGER]}}),
        "Error": shape({"error": ref("ErrorBody")}),
        "Status": shape({"status": STRING}, version=STRING, db=STRING, cache=NULL),
    }
