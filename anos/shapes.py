"""The shape of what is read in an upstream's Responses answer; an answer of another is refused.

Only what the gateway reads is named here. Everything else an upstream sends passes as it is.
"""

import re
from typing import Annotated, Any

import msgspec
import orjson

from anos.errors import UpstreamError, reported
from anos.surrogates import mended

# No answer has more tokens; what is beyond would leave the 64 bits of a sum before long.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class _Typed(msgspec.Struct):
    type: str


class _Part(msgspec.Struct):
    type: str
    text: str = ""
    refusal: str = ""
    annotations: list[_Typed] | None = None
    logprobs: list[dict[str, Any]] | None = None


class _Message(msgspec.Struct):
    content: list[_Part]
    role: str = "assistant"


class _Reasoning(msgspec.Struct):
    summary: list[_Part] | None = None
    content: list[_Part] | None = None
    encrypted_content: str | None = None


class _Call(msgspec.Struct):
    call_id: str
    name: str
    arguments: str


class _CustomCall(msgspec.Struct):
    call_id: str
    name: str
    input: str


class _Begun(msgspec.Struct):
    """An item that is not finished: its text is still to come."""

    type: str
    role: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    content: list[_Typed] | None = None
    summary: list[_Typed] | None = None
    encrypted_content: str | None = None


class _Response(msgspec.Struct):
    output: list[_Typed] | None = None


class _Item(msgspec.Struct):
    type: str
    id: str | None = None


class _Event(msgspec.Struct):
    type: Annotated[str, msgspec.Meta(min_length=1)]
    output_index: int | None = None
    content_index: int | None = None
    summary_index: int | None = None
    item_id: str | None = None
    item: _Item | None = None
    part: _Typed | None = None
    annotation: _Typed | None = None
    logprobs: list[dict[str, Any]] | None = None
    response: _Response | None = None


class InputDetails(msgspec.Struct):
    """How much of the input was read from a cache, or written to it."""

    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None


class OutputDetails(msgspec.Struct):
    """How much of the output was reasoning."""

    reasoning_tokens: Count | None = None


class Usage(msgspec.Struct):
    """The token counts of an answer."""

    input_tokens: Count
    output_tokens: Count
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None


_ITEMS = {
    "message": _Message,
    "reasoning": _Reasoning,
    "function_call": _Call,
    "custom_tool_call": _CustomCall,
}
# Where the text of a part is.
_TEXT = {
    "output_text": "text",
    "refusal": "refusal",
    "summary_text": "text",
    "reasoning_text": "text",
}


_is_item_id = re.compile(r"[a-z]+_[A-Za-z0-9_-]+").fullmatch
_ENDED = ("completed", "incomplete")
_NONE: list[Any] = []


def read_event(data: bytes) -> dict[str, Any]:
    """The event of a stream, its `type` a string; raises UpstreamError."""
    try:
        event: dict[str, Any] = orjson.loads(data)
        if type(event) is dict and "type" not in event and event.get("error"):
            raise reported(event["error"])
        msgspec.convert(event, _Event)
    except (orjson.JSONDecodeError, msgspec.ValidationError) as exc:
        raise UpstreamError("The upstream sent an event that cannot be read.") from exc
    return event


def read_body(body: bytes) -> dict[str, Any]:
    """The object that is a whole answer; raises UpstreamError."""
    try:
        tree = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        whole = mended(body)
        if whole is not body:
            return read_body(whole)
        is_stream = body.lstrip().startswith((b"data:", b"event:", b":"))
        what = "an event stream" if is_stream else "something else"
        raise UpstreamError(f"The upstream sent {what} where JSON was asked for.") from exc
    if not isinstance(tree, dict):
        raise UpstreamError("The upstream sent JSON that is not an object.")
    return tree


def is_item_id(value: Any) -> bool:
    """Whether an upstream's item id can be kept: well-formed, at most 64 characters."""
    return type(value) is str and len(value) <= 64 and _is_item_id(value) is not None


def conforms(item: Any) -> bool:
    """Whether every client can read this finished item as it is; EventWriter can make it so.

    Of what conforms nothing is left for `check_item` to find.
    """
    type_ = item.get("type") if type(item) is dict else None
    if type(type_) is not str or not is_item_id(item.get("id")):
        return False
    if type_ not in _ITEMS:
        return bool(item.get("status") != "in_progress" and item.get("arguments") != "")
    if None in item.values():  # strict clients take an optional field absent, not null
        return False
    if type_ == "reasoning":
        return "summary" in item and not item.get("content") and _is_shaped(item)
    if item.get("status") not in _ENDED:
        return False
    if type_ == "message":
        content = item.get("content")
        if item.get("role") != "assistant" or type(content) is not list:
            return False
        return all(map(_is_text, content)) or (_is_shaped(item) and all(map(_is_whole, content)))
    return item.get("arguments") != "" and _is_shaped(item)


def _is_text(part: Any) -> bool:
    """What most parts are, looked at quickly: a text and nothing else."""
    return (
        type(part) is dict
        and part.get("type") == "output_text"
        and part.get("annotations") == []
        and part.get("logprobs", _NONE) == []
        and type(part.get("text")) is str
        and None not in part.values()
    )


def _is_shaped(item: dict[str, Any]) -> bool:
    try:
        check_item(item)
    except UpstreamError:
        return False
    return True


def _is_whole(part: dict[str, Any]) -> bool:
    return None not in part.values() and ("annotations" in part or part["type"] != "output_text")


def check_item(item: Any, *, is_finished: bool = True) -> dict[str, Any]:
    """The output item itself; raises UpstreamError. One that is only `added` is not finished."""
    type_ = item.get("type") if isinstance(item, dict) else None
    if not isinstance(type_, str):
        raise UpstreamError("The upstream sent an output item without a type.")
    checked: dict[str, Any] = item
    shape = _ITEMS.get(type_)
    if shape is not None:
        try:
            msgspec.convert(item, shape if is_finished else _Begun)
        except msgspec.ValidationError as exc:
            raise UpstreamError("The upstream sent an output item that cannot be read.") from exc
        if is_finished:
            _check_parts(checked.get("content"))
            _check_parts(checked.get("summary"))
    return checked


def _check_parts(parts: list[dict[str, Any]] | None) -> None:
    for part in parts or ():
        text = _TEXT.get(part["type"])
        if text is not None and text not in part:
            raise UpstreamError(f"The upstream sent a part of type {part['type']} without {text}.")


def read_usage(usage: Any) -> Usage | None:
    """The usage, None if there is none that can be read."""
    try:
        return msgspec.convert(usage, Usage)
    except msgspec.ValidationError:
        return None
