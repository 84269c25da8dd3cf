"""Canonical form to the request of an upstream that speaks Chat Completions.

Whole answers are in `chat_answers`, streams in `chat_stream`, the requests of chat clients in
`chat_requests`. API: https://platform.openai.com/docs/api-reference/chat/create
"""

from collections.abc import Iterable
from itertools import chain
from typing import Any

from anos.chat_requests import named
from anos.errors import InvalidRequest
from anos.items import Item, Turn
from anos.routing import Route
from anos.validation import path_of, unsupported

_LOGPROBS = "message.output_text.logprobs"
# Fields that have no place in the chat request of a Responses client: translated below, the
# gateway's own business, or hints that do not change what is asked for. Fields we do not know pass,
# but none of them in place of what is translated.
_LEFT_OUT = {
    *("model", "input", "messages", "instructions", "stream", "stream_options", "store"),
    "metadata",
    *("background", "background_options", "previous_response_id", "conversation", "include"),
    *("max_output_tokens", "max_tool_calls", "top_logprobs", "text", "reasoning"),
    *("tools", "tool_choice", "parallel_tool_calls"),
    *("truncation", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
    *("context_management", "access_programs", "image"),
}
_REFUSED = {"prompt", "moderation"}
# What is carried of these two, or is a hint.
_KNOWN = {
    "text": {"format", "verbosity"},
    "reasoning": {"effort", "summary", "generate_summary", "context"},
}


def build_request(turn: Turn, route: Route) -> dict[str, Any]:
    """The body for POST /chat/completions, with the whole history in `messages`.

    InvalidRequest (`unsupported_parameter`) for what chat cannot say: hosted tools, file addresses,
    audio, stored prompts.
    """
    request = turn.request
    body: dict[str, Any] = {"model": route.deployment, "messages": _messages(turn)}
    for name, value in request.items():  # first, so that what is translated is written over them
        if name in _LEFT_OUT or value is None:
            continue
        if name in _REFUSED:
            raise unsupported(name, f"The upstream of this model does not support '{name}'.")
        body[name] = value
    if request.get("max_output_tokens") is not None:
        body[route.quirks.max_tokens_field] = request["max_output_tokens"]
    _write_tools(body, request)
    if text := _settings(request, "text"):
        _write_format(body, text.get("format") or {})
    if effort := _settings(request, "reasoning").get("effort"):
        body["reasoning_effort"] = effort
    if _LOGPROBS in (request.get("include") or ()):
        body["logprobs"] = True
        if request.get("top_logprobs") is not None:
            body["top_logprobs"] = request["top_logprobs"]
    if turn.stream:
        body["stream"] = True
        if route.quirks.include_usage:
            body["stream_options"] = {"include_usage": True}
    return body


def _messages(turn: Turn) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if instructions := turn.request.get("instructions"):
        messages.append({"role": "system", "content": instructions})
    # The outputs of calls, which chat wants right behind the message with the calls: by the place
    # of that, and by the id of each call that has none so far. A later call may have the same id.
    behind: dict[int, list[dict[str, Any]]] = {}
    waiting: dict[str, list[dict[str, Any]]] = {}
    # Text and calls of the model that follow each other are one message in chat.
    assistant: dict[str, Any] | None = None
    for index, item in enumerate(chain(turn.history, turn.input), -len(turn.history)):
        kind = item["type"]
        if kind == "reasoning":
            continue
        if kind == "message" and item["role"] != "assistant":
            content = _content(item["content"], index, "content")
            messages.append({"role": item["role"], "content": content})
            assistant = None
        elif kind in ("function_call_output", "custom_tool_call_output"):
            _outputs_of(waiting, item, index).append(_tool_message(item, index))
            assistant = None
        elif kind in ("message", "function_call", "custom_tool_call"):
            if assistant is None:
                assistant = {"role": "assistant", "content": None}
                messages.append(assistant)
            _say(assistant, item)
            if kind != "message":
                waiting[item["call_id"]] = behind.setdefault(len(messages) - 1, [])
        else:
            raise _unsupported(index, "type", f"items of type '{kind}'")
    if behind:
        return [m for at, message in enumerate(messages) for m in (message, *behind.get(at, ()))]
    return messages


def _outputs_of(
    waiting: dict[str, list[dict[str, Any]]], item: Item, index: int
) -> list[dict[str, Any]]:
    """The messages that this output belongs to."""
    call_id = item.get("call_id")
    if not call_id:
        raise _unsupported(index, "call_id", "tool outputs without a call_id")
    if call_id not in waiting:
        what = "tool outputs whose call is answered already, or is not there"
        raise _unsupported(index, "call_id", what)
    return waiting.pop(call_id)


def joined(items: Iterable[Item]) -> list[str]:
    """The texts that `build_request` makes of several which stand apart in the items of a turn."""
    found: list[str] = []
    said: list[str] = []
    for item in items:
        kind = item["type"]
        if kind == "message" and item["role"] == "assistant":
            text, refusal = _spoken(item)
            said += text
            if len(refusal) > 1:
                found.append("\n".join(refusal))
        elif kind not in ("reasoning", "function_call", "custom_tool_call"):
            if len(said) > 1:
                found.append("\n".join(said))
            said = []
    return [*found, "\n".join(said)] if len(said) > 1 else found


def _spoken(item: Item) -> tuple[list[str], list[str]]:
    """What a message of the model says, and what it refuses."""
    text = [part["text"] for part in item["content"] if part["type"] == "output_text"]
    refusal = [part["refusal"] for part in item["content"] if part["type"] == "refusal"]
    return text, refusal


def _say(assistant: dict[str, Any], item: Item) -> None:
    kind = item["type"]
    if kind == "message":
        text, refusal = _spoken(item)
        said = assistant["content"]
        if text or not refusal:
            assistant["content"] = "\n".join(text if said is None else [said, *text])
        if refusal:
            assistant["refusal"] = "\n".join(refusal)
        return
    if kind == "function_call":
        function = {"name": item["name"], "arguments": item["arguments"] or "{}"}
        call = {"id": item["call_id"], "type": "function", "function": function}
    else:
        custom = {"name": item["name"], "input": item["input"]}
        call = {"id": item["call_id"], "type": "custom", "custom": custom}
    assistant.setdefault("tool_calls", []).append(call)


def _tool_message(item: Item, index: int) -> dict[str, Any]:
    output = item["output"]
    if type(output) is not str:
        output = _content(output, index, "output")
        if type(output) is list:
            for at, part in enumerate(output):
                if part["type"] != "text":
                    raise _unsupported(index, f"output[{at}].type", "tool outputs other than text")
    return {"role": "tool", "tool_call_id": item["call_id"], "content": output}


def _content(parts: Any, index: int, name: str) -> str | list[dict[str, Any]]:
    if type(parts) is str:
        return parts
    # Many servers accept parts only from users; a single text is the same as a string.
    if len(parts) == 1 and parts[0]["type"] in ("input_text", "output_text"):
        text: str = parts[0]["text"]
        return text
    return [_part(part, index, f"{name}[{at}]") for at, part in enumerate(parts)]


def _part(part: dict[str, Any], index: int, where: str) -> dict[str, Any]:
    kind = part["type"]
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": part["text"]}
    if kind == "input_image":
        if not part.get("image_url"):
            raise _unsupported(index, f"{where}.file_id", "images by file_id")
        image = {"url": part["image_url"]}
        if detail := part.get("detail"):
            image["detail"] = "high" if detail == "original" else detail
        return {"type": "image_url", "image_url": image}
    if kind == "input_file":
        if part.get("file_url"):
            raise _unsupported(index, f"{where}.file_url", "files by file_url")
        names = ("file_data", "file_id", "filename")
        return {"type": "file", "file": {name: part[name] for name in names if part.get(name)}}
    raise _unsupported(index, f"{where}.type", f"content parts of type '{kind}'")


def _unsupported(index: int, where: str, what: str) -> InvalidRequest:
    # What was inherited has no place in this request's input.
    param = f"input[{index}].{where}" if index >= 0 else "previous_response_id"
    return unsupported(param, f"The upstream of this model does not support {what}.")


def _write_tools(body: dict[str, Any], request: dict[str, Any]) -> None:
    tools, choice = request.get("tools"), request.get("tool_choice")
    if tools:
        body["tools"] = [_tool(tool, f"tools[{index}].type") for index, tool in enumerate(tools)]
        # Chat refuses this field where there are no tools.
        if request.get("parallel_tool_calls") is not None:
            body["parallel_tool_calls"] = request["parallel_tool_calls"]
    if choice is not None and (tools or choice not in ("auto", "none")):
        body["tool_choice"] = _tool_choice(choice)


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    kind = tool.get("type")
    if kind == "function":
        return {"type": kind, kind: named(tool, "name", "description", "parameters", "strict")}
    if kind != "custom":
        raise unsupported(
            where, f"The upstream of this model does not support tools of type '{kind}'."
        )
    custom = named(tool, "name", "description", "format")
    grammar = custom.get("format") or {}
    if grammar.get("type") == "grammar":
        custom["format"] = {"type": "grammar", "grammar": named(grammar, "syntax", "definition")}
    return {"type": kind, kind: custom}


def _tool_choice(choice: Any) -> Any:
    if type(choice) is str:
        return choice
    kind = choice.get("type")
    if kind in ("function", "custom"):
        return {"type": kind, kind: {"name": choice.get("name")}}
    if kind != "allowed_tools":
        raise unsupported(
            "tool_choice", f"The upstream of this model does not support the tool choice '{kind}'."
        )
    allowed = {"mode": choice.get("mode"), "tools": [_tool_choice(t) for t in choice["tools"]]}
    return {"type": kind, kind: allowed}


def _settings(request: dict[str, Any], name: str) -> dict[str, Any]:
    settings: dict[str, Any] = request.get(name) or {}
    for field, value in settings.items():
        is_default = value is None or (field == "mode" and value == "standard")
        if field not in _KNOWN[name] and not is_default:
            param = path_of((name, field))
            raise unsupported(param, f"The upstream of this model does not support '{param}'.")
    return settings


def _write_format(body: dict[str, Any], wanted: dict[str, Any]) -> None:
    kind = wanted.get("type", "text")
    if kind == "json_schema":
        schema = named(wanted, "name", "schema", "strict", "description")
        body["response_format"] = {"type": kind, kind: schema}
    elif kind == "json_object":
        body["response_format"] = {"type": kind}
    elif kind != "text":
        raise unsupported(
            "text.format.type", f"The upstream of this model does not support the format '{kind}'."
        )
