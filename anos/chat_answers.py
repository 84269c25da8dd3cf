"""Whole answers of Chat Completions, to and from canonical form.

API: https://platform.openai.com/docs/api-reference/chat/object
"""

from typing import Any

import orjson
from msgspec import Struct, ValidationError, convert

from anos import items, sse
from anos.errors import UpstreamError, reported
from anos.items import Answer, Item, new_id, new_item
from anos.shapes import Count, InputDetails, OutputDetails

# finish_reason -> status and reason of the Response; every other reason is a regular end.
OUTCOMES = {
    "length": ("incomplete", "max_output_tokens"),
    "model_length": ("incomplete", "max_output_tokens"),
    "max_tokens": ("incomplete", "max_output_tokens"),
    "content_filter": ("incomplete", "content_filter"),
    "error": ("failed", None),
}
FAILED = {"code": "server_error", "message": "The upstream failed before it finished its answer."}


class _Usage(Struct):
    prompt_tokens: Count
    completion_tokens: Count
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None


def parse_answer(body: dict[str, Any], now_ms: int) -> Answer:
    """The Answer in a chat.completion object, its first choice; UpstreamError if there is none."""
    if error := body.get("error"):
        raise reported(error)
    try:
        choice, *others = body["choices"]
        output = _output(choice["message"], choice.get("logprobs"), now_ms)
        for other in others:  # which a chat client gets as they are
            spoken(other["message"])
        status, reason = OUTCOMES.get(choice.get("finish_reason"), ("completed", None))
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise UpstreamError("The upstream sent an answer that is not a chat completion.") from exc
    if status != "completed" and output:
        output[-1]["status"] = "incomplete"
    return Answer(
        status=status,
        output=output,
        usage=usage_of(body.get("usage")),
        incomplete_reason=reason,
        error=FAILED if status == "failed" else None,
        extra={name: body[name] for name in ("service_tier",) if body.get(name)},
    )


def _output(message: dict[str, Any], logprobs: dict[str, Any] | None, now_ms: int) -> list[Item]:
    texts: dict[str, str] = {}
    for kind, text in spoken(message):
        texts[kind] = texts.get(kind, "") + text
    output: list[Item] = []
    if reasoning := texts.pop("reasoning", ""):
        summary = [{"type": "summary_text", "text": reasoning}]
        output.append(new_item("reasoning", now_ms) | {"summary": summary})
    annotations = [annotation_of(found) for found in message.get("annotations") or ()]
    if texts or annotations:
        parts: list[dict[str, Any]] = []
        if "text" in texts or annotations:
            tokens = (logprobs or {}).get("content") or []
            part = {"type": "output_text", "text": texts.get("text", "")}
            parts.append({**part, "annotations": annotations, "logprobs": tokens})
        if "refusal" in texts:
            parts.append({"type": "refusal", "refusal": texts["refusal"]})
        output.append(new_item("message", now_ms) | {"role": "assistant", "content": parts})
    calls = message.get("tool_calls") or ()
    if legacy := message.get("function_call"):
        calls = [*calls, {"function": legacy}]
    seen: set[str] = set()
    for call in calls:
        type_, name, arguments = called(call)
        if name:
            call_id = fresh_call_id(call.get("id"), seen, now_ms)
            output.append(_call(type_, name, arguments, now_ms) | {"call_id": call_id})
    return output


def _call(type_: str, name: str, arguments: str, now_ms: int) -> Item:
    if type_ == "custom_tool_call":
        return new_item(type_, now_ms) | {"name": name, "input": arguments}
    return new_item(type_, now_ms) | {"name": name, "arguments": arguments or "{}"}


_NOTHING: tuple[Any, ...] = (None, "", [])


def spoken(said: dict[str, Any]) -> list[tuple[str, str]]:
    """(kind, text) of all text in a message or delta; kind is reasoning, text or refusal.

    Reasoning goes by two names among vendors, and Mistral sends content as a list of parts.
    UpstreamError for a text that is none, as a number would be.
    """
    texts: list[tuple[str, str]] = []
    if reasoning := said.get("reasoning_content") or said.get("reasoning"):
        texts.append(("reasoning", reasoning))
    content: Any = said.get("content")
    if content not in _NOTHING:
        texts += _spoken_parts(content) if type(content) is list else (("text", content),)
    refusal: Any = said.get("refusal")
    if refusal not in _NOTHING:
        texts.append(("refusal", refusal))
    for kind, text in texts:
        if type(text) is not str:
            raise UpstreamError(f"The upstream sent {kind} that is not a string.")
    return texts


def _spoken_parts(parts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    texts: list[tuple[str, str]] = []
    for part in parts:
        if part.get("type") == "thinking":
            texts += [("reasoning", thought["text"]) for thought in part["thinking"]]
        elif part.get("type") == "text" and part["text"] not in _NOTHING:
            texts.append(("text", part["text"]))
    return texts


def called(call: dict[str, Any]) -> tuple[str, str, str]:
    """(item type, name, arguments) of a tool call or a fragment of one; "" for what is missing."""
    if custom := call.get("custom"):
        return "custom_tool_call", custom.get("name") or "", custom.get("input") or ""
    function = call.get("function") or {}
    arguments = function.get("arguments") or ""
    if type(arguments) is not str:  # some servers send the object itself
        arguments = orjson.dumps(arguments).decode()
    return "function_call", function.get("name") or "", arguments


def fresh_call_id(given: Any, seen: set[str], now_ms: int) -> str:
    """`given` if it can tell this call from the others of the answer, else a minted id."""
    is_fresh = type(given) is str and given != "" and given not in seen
    call_id: str = given if is_fresh else new_id("call", now_ms)
    seen.add(call_id)
    return call_id


def as_stream(body: dict[str, Any]) -> bytes:
    """A chat.completion as the shortest stream that says the same; UpstreamError if it is none."""
    parse_answer(body, 0)
    whole = {**body, "object": "chat.completion.chunk"}
    usage = whole.pop("usage", None)
    try:
        choices = [_as_delta(choice) for choice in body["choices"]]
    except (AttributeError, KeyError, TypeError) as exc:
        raise UpstreamError("The upstream sent an answer that is not a chat completion.") from exc
    chunks = [{**whole, "choices": choices}]
    if usage:
        chunks.append({**whole, "choices": [], "usage": usage})
    return b"".join([sse.encode("", orjson.dumps(chunk)) for chunk in chunks]) + sse.DONE


def _as_delta(choice: dict[str, Any]) -> dict[str, Any]:
    said = {name: value for name, value in choice["message"].items() if value is not None}
    if calls := said.get("tool_calls"):
        said["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
    rest = {name: value for name, value in choice.items() if name != "message"}
    return {**rest, "delta": {"role": "assistant", "content": "", **said}}


def annotation_of(annotation: dict[str, Any]) -> dict[str, Any]:
    """Chat nests a citation under its type; Responses has it flat."""
    kind = annotation.get("type", "url_citation")
    return {"type": kind, **annotation.get(kind, {})}


def chat_annotation(annotation: dict[str, Any]) -> dict[str, Any]:
    """The reverse of annotation_of."""
    kind = annotation["type"]
    return {"type": kind, kind: {key: value for key, value in annotation.items() if key != "type"}}


def usage_of(usage: Any) -> dict[str, Any] | None:
    """Canonical usage of chat's, zeros included; None if there is none to read."""
    try:
        found = convert(usage, _Usage)
    except ValidationError:
        return None
    inputs, outputs = found.prompt_tokens_details, found.completion_tokens_details
    return items.usage(
        found.prompt_tokens,
        found.completion_tokens,
        cached=(inputs and inputs.cached_tokens) or 0,
        cache_write=(inputs and inputs.cache_write_tokens) or 0,
        reasoning=(outputs and outputs.reasoning_tokens) or 0,
    )


def completion(answer: Answer, *, id: str, model: str, created: int) -> dict[str, Any]:
    """The chat.completion object of an answer; no `usage` if the answer has none."""
    message = {"refusal": None, **items.chat_message(answer.output)}
    if reasoning := "\n\n".join(_reasoning(answer.output)):
        message["reasoning_content"] = reasoning
    tokens: list[Any] = []
    annotations: list[Any] = []
    for item in answer.output:
        for part in item["content"] if item["type"] == "message" else ():
            tokens += part.get("logprobs") or ()
            annotations += [chat_annotation(found) for found in part.get("annotations") or ()]
    if annotations:
        message["annotations"] = annotations
    choice = {
        "index": 0,
        "message": message,
        "logprobs": {"content": tokens, "refusal": None} if tokens else None,
        "finish_reason": finish_reason_of(answer),
    }
    whole = {"id": id, "object": "chat.completion", "created": created, "model": model}
    usage = {} if answer.usage is None else {"usage": chat_usage(answer.usage)}
    return {**whole, "choices": [choice], **usage}


def _reasoning(output: list[Item]) -> list[str]:
    return [
        part["text"]
        for item in output
        if item["type"] == "reasoning"
        for part in [*(item.get("summary") or ()), *(item.get("content") or ())]
    ]


def finish_reason_of(answer: Answer) -> str:
    """stop, tool_calls, length or content_filter."""
    if answer.status == "incomplete":
        return "content_filter" if answer.incomplete_reason == "content_filter" else "length"
    calls = ("function_call", "custom_tool_call")
    return "tool_calls" if any(item["type"] in calls for item in answer.output) else "stop"


def chat_usage(usage: dict[str, Any]) -> dict[str, Any]:
    """Canonical usage under chat's names."""
    return {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "total_tokens": usage["total_tokens"],
        "prompt_tokens_details": usage["input_tokens_details"],
        "completion_tokens_details": usage["output_tokens_details"],
    }
