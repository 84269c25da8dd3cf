"""The canonical form: one turn, its answer, and the Response object a client sees.

Items, Response objects and usage have the shapes of OpenAI's Responses API
(https://platform.openai.com/docs/api-reference/responses) and of Open Responses
(https://www.openresponses.org). They are plain dicts; nobody changes one after making it.
"""

import os
from collections.abc import Callable, Container, Iterable
from typing import Any

from msgspec import Struct, field

Item = dict[str, Any]


class Turn(Struct):
    """One model call in canonical form, whatever dialect the client spoke."""

    model: str  # the public model name
    request: dict[str, Any]  # the validated create fields of the client, without input
    input: list[Item]  # this request's own items, normalised
    history: list[Item]  # the resolved items of previous_response_id, in order, before input
    stream: bool
    cleared: int = 0  # so many of the first items of the history were cleared by the same guards


class Answer(Struct):
    """What an upstream answered, in canonical form."""

    status: str  # completed | incomplete | failed | cancelled
    output: list[Item]  # finished items, each with id, type and (where the type has one) status
    usage: dict[str, Any] | None  # as `usage` makes it; None if the upstream gave none
    incomplete_reason: str | None = None  # max_output_tokens | content_filter | ...
    error: dict[str, Any] | None = None  # {"code": str, "message": str}
    extra: dict[str, Any] = field(default_factory=dict)  # other Response fields to pass through
    text_bytes: int | None = None  # of the text produced, where the output itself was not kept


_random: list[str] = []


def random_hex(size: int) -> str:
    """`size` random bytes, at most 16, as hexadecimal digits; asked for in larger pieces."""
    if not _random:
        pieces = os.urandom(16 * 64).hex()
        _random.extend(pieces[at : at + 32] for at in range(0, len(pieces), 32))
    return _random.pop()[: 2 * size]


def new_id(prefix: str, now_ms: int) -> str:
    """A fresh id like `msg_019a3c…`: prefix, milliseconds, 80 random bits.

    Ids made later sort later, which keeps the inserts of the store at the end of its index.
    """
    return f"{prefix}_{now_ms:012x}{random_hex(10)}"


# Minted ids begin like OpenAI's, which refuses a replayed item whose id begins otherwise.
_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
    "compaction": "cmp",
}


def new_item_id(type_: str, now_ms: int) -> str:
    """A fresh id for an item of that type."""
    return new_id(_PREFIXES.get(type_, "item"), now_ms)


def new_item(type_: str, now_ms: int) -> Item:
    """A finished item with a fresh id, and nothing in it yet."""
    return {"id": new_item_id(type_, now_ms), "type": type_, "status": "completed"}


def usage(
    input_tokens: int,
    output_tokens: int,
    *,
    cached: int = 0,
    cache_write: int = 0,
    reasoning: int = 0,
) -> dict[str, Any]:
    """Token counts in the one shape of a Response; both detail objects are always there."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": cache_write},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": input_tokens + output_tokens,
    }


# A Response that has produced nothing, for a request that set nothing: all 31 fields. Strict
# readers of Open Responses refuse null for most settings (temperature, truncation, store, ...).
NEW: dict[str, Any] = {
    "id": "",
    "object": "response",
    "created_at": 0,
    "completed_at": None,
    "status": "in_progress",
    "error": None,
    "incomplete_details": None,
    "model": "",
    "output": [],
    "usage": None,
    "instructions": None,
    "previous_response_id": None,
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "max_tool_calls": None,
    "max_output_tokens": None,
    "temperature": 1.0,
    "top_p": 1.0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "top_logprobs": 0,
    "text": {"format": {"type": "text"}},
    "reasoning": {"effort": None, "summary": None},
    "truncation": "disabled",
    "store": True,
    "background": False,
    "service_tier": "default",
    "metadata": {},
    "safety_identifier": None,
    "prompt_cache_key": None,
}
# Which fields of a request its Response repeats; the last three only if they were sent.
_ECHOED = frozenset({
    *list(NEW)[list(NEW).index("instructions") :],
    *("user", "prompt_cache_retention", "prompt_cache_options"),
})  # fmt: skip

# An upstream's Response object never decides these: they are the gateway's or the client's own.
OURS = frozenset({
    *("id", "object", "created_at", "completed_at", "status", "error", "incomplete_details"),
    *("model", "output", "usage", "previous_response_id", "conversation", "store", "background"),
    *("instructions", "metadata"),
})  # fmt: skip
# What was asked for in these is a wish; the upstream says what became of it.
_DECIDED = frozenset({"service_tier"})


def base_response(
    request: dict[str, Any], *, id: str, model: str, created_at: int, status: str = "in_progress"
) -> dict[str, Any]:
    """A Response that has produced nothing yet: all 31 fields, the settings of `request` echoed.

    `created_at` is in whole seconds: strict readers refuse a fraction. Values are shared between
    Responses, so a field is replaced, never changed in place.
    """
    response = NEW.copy()
    response["id"] = id
    response["created_at"] = created_at
    response["status"] = status
    response["model"] = model
    response["output"] = []
    for name, value in request.items():
        if name in _ECHOED and value is not None:
            response[name] = _ECHO[name](value) if name in _ECHO else value
    return response


# What lets a tool's server in is for the upstream alone: nobody who reads the response needs it.
_TOOL_SECRETS = frozenset({"authorization", "headers"})


def _echo_tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    absent = {"description": None, "parameters": None, "strict": None}
    return [
        {"type": "function", "name": tool.get("name"), **absent, **tool}
        if tool.get("type") == "function"
        else {name: value for name, value in tool.items() if name not in _TOOL_SECRETS}
        for tool in tools
    ]


def _echo_text(text: dict[str, Any]) -> dict[str, Any]:
    sent = {name: value for name, value in text.items() if value is not None}
    return {"format": {"type": "text"}, **sent}


def _echo_reasoning(reasoning: dict[str, Any]) -> dict[str, Any]:
    return {"effort": None, "summary": None, **reasoning}


_ECHO: dict[str, Callable[[Any], Any]] = {
    "tools": _echo_tools,
    "text": _echo_text,
    "reasoning": _echo_reasoning,
}


def final_response(
    base: dict[str, Any],
    answer: Answer,
    completed_at: int | None,
    sent: Container[str] = (),
) -> dict[str, Any]:
    """`base` with the outcome of `answer`; `completed_at` (seconds) counts only when completed.

    Of the settings those that were `sent` stay as they are, the others are as the upstream says.
    """
    response = base | settings_told(answer.extra, sent)
    response["status"] = answer.status
    response["output"] = answer.output
    response["usage"] = answer.usage
    if answer.error is not None:  # strict readers want its type, which OpenAI leaves out
        response["error"] = {"type": "server_error", **answer.error}
    if answer.status == "completed":
        response["completed_at"] = completed_at
    if answer.status == "incomplete" and answer.incomplete_reason:
        response["incomplete_details"] = {"reason": answer.incomplete_reason}
    return response


def settings_told(extra: dict[str, Any], sent: Container[str]) -> dict[str, Any]:
    """What the client is told of the settings that came with an answer: those it `sent` stay as
    they are, if nobody else decides."""
    return {
        name: value
        for name, value in extra.items()
        if value is not None and name not in OURS and (name not in sent or name in _DECIDED)
    }


def add_chat_fields(response: dict[str, Any]) -> dict[str, Any]:
    """The same Response with the names of Chat Completions beside its own.

    `created`, `choices` (one when completed or incomplete, else none) and, in `usage`,
    `prompt_tokens` and `completion_tokens`. Derived each time, never stored.
    """
    response = response.copy()
    response["created"] = response["created_at"]
    response["choices"] = _choices(response)
    if counts := response["usage"]:
        response["usage"] = {
            **counts,
            "prompt_tokens": counts["input_tokens"],
            "completion_tokens": counts["output_tokens"],
        }
    return response


def _choices(response: dict[str, Any]) -> list[dict[str, Any]]:
    # A failed or cancelled answer has no finish_reason that would not call it whole.
    if response["status"] not in ("completed", "incomplete"):
        return []
    message = chat_message(response["output"])
    finish_reason = "tool_calls" if "tool_calls" in message else "stop"
    if response["status"] == "incomplete":
        details = response["incomplete_details"] or {}
        is_filtered = details.get("reason") == "content_filter"
        finish_reason = "content_filter" if is_filtered else "length"
    return [{"index": 0, "message": message, "finish_reason": finish_reason}]


def chat_message(output: Iterable[Item]) -> dict[str, Any]:
    """The assistant message of Chat Completions that says what these output items say.

    Always `role` and `content` (null if there are only tool calls or a refusal); `tool_calls` and
    `refusal` only where the output has them.
    """
    text, refusal, calls = [], [], []
    for item in output:
        if item["type"] == "message":
            for part in item["content"]:
                if part["type"] == "output_text":
                    text.append(part["text"])
                elif part["type"] == "refusal":
                    refusal.append(part["refusal"])
        elif item["type"] == "function_call":
            function = {"name": item["name"], "arguments": item["arguments"]}
            calls.append({"id": item["call_id"], "type": "function", "function": function})
        elif item["type"] == "custom_tool_call":
            custom = {"name": item["name"], "input": item["input"]}
            calls.append({"id": item["call_id"], "type": "custom", "custom": custom})
    silent = not text and (calls or refusal)
    message: dict[str, Any] = {"role": "assistant", "content": None if silent else "".join(text)}
    if calls:
        message["tool_calls"] = calls
    if refusal:
        message["refusal"] = "".join(refusal)
    return message


# Strings a model does not read, or that no guard can: names of the form, and base64.
_OPAQUE = frozenset({
    *("id", "type", "object", "call_id", "status", "role", "phase", "detail"),
    *("file_id", "file_data", "encrypted_content"),
})  # fmt: skip
_SOMETIMES_OPAQUE = frozenset({"image_url", "data", "format", "result"})


def texts(items: Iterable[Any]) -> list[str]:
    """Every string of the items that a model will read, in order.

    Message text, refusals, tool names, arguments and outputs, file names, addresses, reasoning and
    every string of an item or part we do not know; no ids, no types, no base64 data.
    """
    found: list[str] = []
    stack: list[Any] = list(items)[::-1]
    while stack:
        node = stack.pop()
        if type(node) is str:
            found.append(node)
        elif type(node) is list:
            stack += node[::-1]
        elif type(node) is dict:
            for key in reversed(node):
                if key in _OPAQUE and type(node[key]) is str:
                    continue
                value = node[key]
                if key in _SOMETIMES_OPAQUE and type(value) is str and _is_data(node, key, value):
                    continue
                stack.append(value)
    return found


def _is_data(node: dict[str, Any], key: str, value: str) -> bool:
    if key == "image_url":
        return value.startswith("data:")
    if key == "data" or key == "format":
        return "data" in node and "format" in node  # an input_audio part
    return node.get("type") == "image_generation_call"
