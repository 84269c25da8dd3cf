"""The endpoints by LiteLLM's names, as paths and schemas of the OpenAPI document.

API: https://docs.litellm.ai/docs/proxy/virtual_keys
"""

from anos.openapi_parts import (
    BOOLEAN,
    EVERY_KEY,
    INTEGER,
    KEYED,
    NAMED_AND_SENT,
    NULL,
    NUMBER,
    OBJECT,
    STRING,
    TIME,
    Schema,
    array,
    change,
    const,
    enum,
    in_path,
    json_answer,
    limit,
    operation,
    optional,
    or_null,
    query,
    ref,
    shape,
    view,
)

_TOKEN = in_path("key", "The key, or its name.")
PATHS: dict[str, dict[str, Schema]] = {
    "/key/generate": {
        "post": change(
            "generateLiteLLMKey",
            "LiteLLM",
            "Make a key",
            json_answer("LiteLLMKey", "The key; its text is in this answer and in no other."),
            "GenerateLiteLLMKey",
        )
    },
    "/key/update": {
        "post": change(
            "updateLiteLLMKey",
            "LiteLLM",
            "Change the fields of a key that are sent",
            json_answer("LiteLLMKey", "The key; `key` is its name."),
            "UpdateLiteLLMKey",
            errors=NAMED_AND_SENT,
        )
    },
    "/key/delete": {
        "post": change(
            "deleteLiteLLMKeys",
            "LiteLLM",
            "End keys for good, all of them or none",
            json_answer("DeletedLiteLLMKeys", "The names of the keys that are gone."),
            "DeleteLiteLLMKeys",
            errors=NAMED_AND_SENT,
        )
    },
    **{
        f"/key/{action}": {
            "post": change(
                f"{action}LiteLLMKey",
                "LiteLLM",
                summary,
                json_answer("LiteLLMKey", "The key; `key` is its name."),
                "LiteLLMKeyName",
                errors=NAMED_AND_SENT,
            )
        }
        for action, summary in (
            ("block", "Refuse a key until it is unblocked"),
            ("unblock", "Accept a blocked key again"),
        )
    },
    **{
        path: {
            "post": change(
                name,
                "LiteLLM",
                "Give a key a new text, and change the fields that are sent",
                json_answer("LiteLLMKey", "The key; its new text is in no other answer."),
                body,
                *parameters,
                errors=NAMED_AND_SENT,
                needs_body=not parameters,
            )
        }
        for path, name, body, parameters in (
            ("/key/regenerate", "regenerateLiteLLMKey", "RegenerateLiteLLMKey", ()),
            (
                "/key/{key}/regenerate",
                "regenerateNamedLiteLLMKey",
                "LiteLLMKeyFields",
                (_TOKEN,),
            ),
        )
    },
    "/key/info": {
        "get": operation(
            "liteLLMKeyInfo",
            "LiteLLM",
            "One key, or the one that asks",
            json_answer("LiteLLMKeyInfo", "All that is known of it but its text."),
            (*KEYED, "404"),
            parameters=[query("key", STRING, "The key, or its name; the role `key`: its own.")],
            description=EVERY_KEY,
        )
    },
    "/key/list": {
        "get": view(
            "listLiteLLMKeys",
            "LiteLLM",
            "Keys by name, in pages",
            json_answer("LiteLLMKeyList", "One page of names, or of keys in full."),
            query("page", {**INTEGER, "minimum": 1, "default": 1}, "Which page."),
            query("size", {**INTEGER, "minimum": 1, "default": 10}, "Keys on a page, up to 100."),
            query("team_id", STRING, "Only keys of this project."),
            query("user_id", STRING, "Only keys whose metadata has this `user_id`."),
            query("key_alias", STRING, "Only the key of this name."),
            query("return_full_object", BOOLEAN, "Keys in full."),
        )
    },
    "/spend/logs": {
        "get": view(
            "liteLLMSpendLogs",
            "LiteLLM",
            "The newest calls, or sums by day",
            json_answer("LiteLLMSpendLogs", "Calls; with two dates and `summarize` days."),
            query("api_key", STRING, "Only calls of this key, by its text or its name."),
            query("request_id", STRING, "Only calls of this id, or of this response."),
            query("start_date", {**STRING, "format": "date"}, "The first day."),
            query("end_date", {**STRING, "format": "date"}, "The last day."),
            query("summarize", {**BOOLEAN, "default": True}, "Sums by day instead of calls."),
            query("user_id", {"const": ""}, "Spend is not kept by user."),
        )
    },
    "/global/spend": {
        "get": view(
            "liteLLMGlobalSpend",
            "LiteLLM",
            "Dollars of the last 30 days",
            json_answer("LiteLLMGlobalSpend", "All keys together."),
        )
    },
    **{
        f"/global/spend/{things}": {
            "get": view(
                f"liteLLMGlobalSpendOf{things.title()}",
                "LiteLLM",
                f"Dollars of the last 30 days by {thing}, the most first",
                json_answer(f"LiteLLMSpendOf{things.title()}", "Those that cost anything."),
                limit(default, 1000),
            )
        }
        for things, thing, default in (("keys", "key", 1000), ("models", "model", 10))
    },
}


def schemas() -> dict[str, Schema]:
    """Every schema by its name under `#/components/schemas`."""
    return {**_sent(), **_told(), **_spend()}


def _sent() -> dict[str, Schema]:
    fields = {
        "models": array(STRING),
        **dict.fromkeys(("team_id", "duration", "budget_duration", "user_id"), STRING),
        **dict.fromkeys(("max_budget", "soft_budget"), NUMBER),
        **dict.fromkeys(("rpm_limit", "tpm_limit", "max_parallel_requests"), INTEGER),
        "metadata": OBJECT,
        "tags": {"anyOf": [STRING, array(STRING)]},
        "key_type": enum("default", "llm_api", "management", "read_only"),
        "blocked": BOOLEAN,
    }
    key: Schema = {**STRING, "description": "The key, or its name."}
    some = {"anyOf": [STRING, array(STRING)]}
    again = {**fields, "key_alias": STRING, "new_key": STRING, "grace_period": STRING}
    return {
        "GenerateLiteLLMKey": shape({}, **optional({**fields, "key": STRING, "key_alias": STRING})),
        "UpdateLiteLLMKey": shape({"key": key}, **optional({**fields, "key_alias": STRING})),
        "RegenerateLiteLLMKey": shape({"key": key}, **optional(again)),
        "LiteLLMKeyFields": shape({}, **optional(again)),
        "LiteLLMKeyName": shape({"key": key}),
        "DeleteLiteLLMKeys": shape({}, **optional({"keys": some, "key_aliases": some})),
    }


def _told() -> dict[str, Schema]:
    known = {
        "key_name": {**STRING, "description": "A hint, like `sk-...abcd`."},
        "key_alias": STRING,
        "models": array(STRING),
        **optional(dict.fromkeys(("team_id", "user_id", "budget_duration", "created_by"), STRING)),
        **optional(dict.fromkeys(("expires", "budget_reset_at", "created_at"), TIME)),
        **optional(dict.fromkeys(("max_budget", "soft_budget"), NUMBER)),
        **optional(dict.fromkeys(("rpm_limit", "tpm_limit", "max_parallel_requests"), INTEGER)),
        "metadata": {"type": "object", "additionalProperties": STRING},
        "blocked": BOOLEAN,
        "spend": NUMBER,
    }
    token: Schema = {**STRING, "description": "The key's name."}
    return {
        "LiteLLMKey": shape({**known, "key": STRING, "token": token, "token_id": token}),
        "LiteLLMKeyInfo": shape({"key": token, "info": shape(known)}),
        "LiteLLMKeyList": shape(
            {
                "keys": array({"anyOf": [STRING, shape({"token": token, **known})]}),
                **dict.fromkeys(("total_count", "current_page", "total_pages"), INTEGER),
            }
        ),
        "DeletedLiteLLMKeys": shape({"deleted_keys": array(STRING)}),
    }


def _spend() -> dict[str, Schema]:
    dollars = {"type": "object", "additionalProperties": NUMBER}
    texts = ("request_id", "api_key", "model", "model_id", "model_group", "custom_llm_provider")
    empty = ("api_base", "user", "end_user", "cache_key")
    log = {
        **dict.fromkeys((*texts, *empty), STRING),
        "call_type": enum("acompletion", "aresponses"),
        "spend": NUMBER,
        **dict.fromkeys(("total_tokens", "prompt_tokens", "completion_tokens"), INTEGER),
        **dict.fromkeys(("startTime", "endTime", "completionStartTime"), TIME),
        "team_id": or_null(STRING),
        "metadata": OBJECT,
        "cache_hit": const("False"),
        "request_tags": array(STRING),
        "requester_ip_address": NULL,
        "status": enum("success", "failure"),
        "messages": OBJECT,
        "response": OBJECT,
    }
    day = {"startTime": {**STRING, "format": "date"}, "spend": NUMBER, "models": dollars}
    by_key = {"api_key": STRING, "key_alias": STRING, "key_name": or_null(STRING)}
    return {
        "LiteLLMSpendLogs": array(
            {"anyOf": [ref("LiteLLMSpendLog"), ref("LiteLLMSpendDay")]},
        ),
        "LiteLLMSpendLog": shape(log),
        "LiteLLMSpendDay": {
            **shape({**day, "users": OBJECT}),
            "description": "Each other field is the name of a key, with its dollars.",
            "additionalProperties": NUMBER,
        },
        "LiteLLMGlobalSpend": shape({"spend": NUMBER, "max_budget": NUMBER}),
        "LiteLLMSpendOfKeys": array(shape({**by_key, "total_spend": NUMBER})),
        "LiteLLMSpendOfModels": array(shape({"model": STRING, "total_spend": NUMBER})),
    }
