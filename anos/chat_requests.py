"""What a chat client sends: checked, passed on to a chat upstream, or read into canonical form.

API: https://platform.openai.com/docs/api-reference/chat/create
"""

from collections.abc import Iterable
from typing import Annotated, Any

from msgspec import Meta, Struct

from anos.items import Item, Turn, new_item
from anos.routing import Route
from anos.validation import (
    Count,
    check_model,
    check_shape,
    missing,
    refuse_credentials,
    unsupported,
)

_Penalty = Annotated[float, Meta(ge=-2, le=2)]


class _Message(Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _Create(Struct):
    messages: Annotated[list[_Message], Meta(min_length=1)]
    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    store: bool | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    stop: str | list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    user: str | None = None


def validate(tree: dict[str, Any]) -> None:
    """InvalidRequest, with the field's path as `param`, if this is no chat request we can serve."""
    refuse_credentials(tree)
    request = check_shape(tree, _Create)
    check_model(request.model)
    if request.store:
        raise unsupported("store", "Chat completions are not stored; leave 'store' out.")


def forward_request(tree: dict[str, Any], route: Route) -> dict[str, Any]:
    """The same request for a chat upstream, which is always asked for the usage of a stream."""
    # Some servers refuse a request that names `store` or `metadata`, which are not theirs to keep.
    body = {name: value for name, value in tree.items() if name not in ("store", "metadata")}
    body["model"] = route.deployment
    quirks = route.quirks
    if "max_completion_tokens" in body:
        newer, older = body.pop("max_completion_tokens"), body.pop("max_tokens", None)
        # An upstream that is sent both may keep to either.
        if (cap := older if newer is None else newer) is not None:
            body[quirks.max_tokens_field] = cap
    if tree.get("stream"):
        options = {**(tree.get("stream_options") or {}), "include_usage": True}
        if not quirks.include_usage:
            del options["include_usage"]
        body["stream_options"] = options
        if not options:
            del body["stream_options"]
    return body


# --- canonical form -------------------------------------------------------------------------------

# These change the answer, and a Responses upstream does not know them, or knows them as what takes
# the place of the messages.
_REFUSED = (
    *("audio", "functions", "function_call", "logit_bias", "stop", "web_search_options"),
    *("input", "instructions", "previous_response_id", "conversation", "prompt"),
    "context_management",
)
# Translated below, the gateway's own business, or hints a Responses upstream has no word for.
# Fields we do not know pass.
_LEFT_OUT = {
    *_REFUSED,
    *("messages", "stream", "stream_options", "store", "n", "modalities", "seed", "prediction"),
    *("max_tokens", "max_completion_tokens", "reasoning_effort", "verbosity", "response_format"),
    *("tools", "tool_choice", "logprobs", "top_logprobs", "include", "text", "background"),
}


def parse_request(tree: dict[str, Any], now_ms: int) -> Turn:
    """The canonical Turn of a validated chat request, for an upstream that speaks Responses.

    InvalidRequest (`unsupported_parameter`) for what Responses cannot say.
    """
    _refuse(tree)
    request = {k: v for k, v in tree.items() if k not in _LEFT_OUT and v is not None}
    request["store"] = False
    for name in ("max_tokens", "max_completion_tokens"):
        if tree.get(name) is not None:
            request["max_output_tokens"] = tree[name]
    if effort := tree.get("reasoning_effort"):
        request["reasoning"] = {"effort": effort}
    if text := _text_settings(tree):
        request["text"] = text
    if tools := tree.get("tools"):
        request["tools"] = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
    if (choice := tree.get("tool_choice")) is not None:
        request["tool_choice"] = _tool_choice(choice)
    if tree.get("logprobs"):
        request["include"] = ["message.output_text.logprobs"]
        request["top_logprobs"] = tree.get("top_logprobs") or 0
    messages = list(_items(tree["messages"], now_ms))
    return Turn(tree["model"], request, messages, [], tree.get("stream") is True)


def _refuse(tree: dict[str, Any]) -> None:
    for name in _REFUSED:
        if tree.get(name) or tree.get(name) == {}:  # `{}` asks for a search as it is by default
            raise unsupported(name, f"The upstream of this model does not support '{name}'.")
    if (tree.get("n") or 1) > 1:
        raise unsupported("n", "The upstream of this model gives one choice only.")
    if "audio" in (tree.get("modalities") or ()):
        raise unsupported("modalities", "The upstream of this model answers in text only.")


def _items(messages: list[dict[str, Any]], now_ms: int) -> Iterable[Item]:
    custom: set[str] = set()  # ids of calls whose outputs are of the custom kind too
    for index, message in enumerate(messages):
        role, where = message["role"], f"messages[{index}]"
        if role in ("system", "developer", "user"):
            parts = _parts(message.get("content"), f"{where}.content")
            yield new_item("message", now_ms) | {"role": role, "content": parts}
        elif role == "tool":
            yield _tool_output(message, where, custom, now_ms)
        elif role == "assistant":
            if parts := _spoken_parts(message, where):
                yield new_item("message", now_ms) | {"role": role, "content": parts}
            for at, call in enumerate(message.get("tool_calls") or ()):
                item = _call(call, f"{where}.tool_calls[{at}]", now_ms)
                if item["type"] == "custom_tool_call":
                    custom.add(item["call_id"])
                yield item
        else:
            raise unsupported(f"{where}.role", f"Messages of role '{role}' are not supported.")


def _parts(content: Any, where: str) -> list[dict[str, Any]]:
    if content is None:
        raise missing(where)
    if type(content) is str:
        return [{"type": "input_text", "text": content}]
    return [_part(part, f"{where}[{index}]") for index, part in enumerate(content)]


def _part(part: dict[str, Any], where: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind == "text":
        return {"type": "input_text", "text": _string(part, "text", where)}
    if kind == "image_url":
        image = _object(part, kind, where)
        url = _string(image, "url", f"{where}.image_url")
        return {"type": "input_image", "image_url": url, "detail": image.get("detail") or "auto"}
    if kind == "file":
        file = _object(part, kind, where)
        return {"type": "input_file", **named(file, "file_data", "file_id", "filename")}
    raise unsupported(
        f"{where}.type", f"The upstream of this model does not support parts of type '{kind}'."
    )


def _spoken_parts(message: dict[str, Any], where: str) -> list[dict[str, Any]]:
    content = message.get("content")
    if type(content) is str:
        content = [{"type": "text", "text": content}] if content else []
    parts: list[dict[str, Any]] = []
    for index, part in enumerate(content or ()):
        at = f"{where}.content[{index}]"
        if part.get("type") == "refusal":
            parts.append({"type": "refusal", "refusal": _string(part, "refusal", at)})
        else:
            text = _part(part, at)
            parts.append({"type": "output_text", "text": text["text"], "annotations": []})
    if message.get("refusal"):
        parts.append({"type": "refusal", "refusal": _string(message, "refusal", where)})
    return parts


def _call(call: dict[str, Any], where: str, now_ms: int) -> Item:
    call_id = {"call_id": _string(call, "id", where)}
    if call.get("type") == "custom":
        body, where = _object(call, "custom", where), f"{where}.custom"
        said = {"name": _string(body, "name", where), "input": _string(body, "input", where)}
        return new_item("custom_tool_call", now_ms) | call_id | said
    body, where = _object(call, "function", where), f"{where}.function"
    arguments = _string(body, "arguments", where) or "{}"
    said = {"name": _string(body, "name", where), "arguments": arguments}
    return new_item("function_call", now_ms) | call_id | said


def _tool_output(message: dict[str, Any], where: str, custom: set[str], now_ms: int) -> Item:
    call_id = _string(message, "tool_call_id", where)
    output = message.get("content")
    if type(output) is not str:
        output = _parts(output, f"{where}.content")
    said = {"call_id": call_id, "output": output}
    if call_id in custom:
        return new_item("custom_tool_call_output", now_ms) | said
    return new_item("function_call_output", now_ms) | said


def _text_settings(tree: dict[str, Any]) -> dict[str, Any]:
    text = named(tree, "verbosity")
    wanted = tree.get("response_format") or {}
    kind = wanted.get("type")
    if kind == "json_schema":
        schema = _object(wanted, kind, "response_format")
        text["format"] = {"type": kind, **named(schema, "name", "schema", "strict", "description")}
    elif kind is not None:
        text["format"] = {"type": kind}
    return text


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    kind = tool.get("type")
    if kind not in ("function", "custom"):
        raise unsupported(f"{where}.type", f"Tools of type '{kind}' are not part of this API.")
    body = _object(tool, kind, where)
    if kind == "function":
        # Chat's default; the Responses API would try strict mode where nothing is said.
        strict = {"strict": body.get("strict") or False}
        return {"type": kind, **named(body, "name", "description", "parameters"), **strict}
    flat = {"type": kind, **named(body, "name", "description", "format")}
    wanted = flat.get("format") or {}
    if wanted.get("type") == "grammar":
        flat["format"] = {"type": "grammar", **(wanted.get("grammar") or {})}
    return flat


def _tool_choice(choice: Any) -> Any:
    if type(choice) is str:
        return choice
    kind = choice.get("type")
    body = _object(choice, str(kind), "tool_choice")
    if kind == "allowed_tools":
        tools = [_tool_choice(tool) for tool in body.get("tools") or ()]
        return {"type": kind, "mode": body.get("mode"), "tools": tools}
    return {"type": kind, "name": body.get("name")}


def named(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    """Those of the fields, without nulls."""
    return {name: fields[name] for name in names if fields.get(name) is not None}


def _object(fields: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    return check_shape(_there(fields, name, where), dict[str, Any], f"{where}.{name}")


def _string(fields: dict[str, Any], name: str, where: str) -> str:
    return check_shape(_there(fields, name, where), str, f"{where}.{name}")


def _there(fields: dict[str, Any], name: str, where: str) -> Any:
    if fields.get(name) is None:
        raise missing(f"{where}.{name}")
    return fields[name]
