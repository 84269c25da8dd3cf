"""Every text a model will see, or has said, with its source and its place.

A text is every string but those on a short list, which is in `extract_readers`.
"""

from collections.abc import Collection, Mapping
from typing import Any

from anos.extract_readers import ITEM, SCHEMA, SETTING, Readers, is_name
from anos.extract_walk import Found, walk, walk_message
from anos.items import NEW, OURS, Item

__all__ = [
    "Found",
    "chat_texts",
    "completion_texts",
    "output_texts",
    "response_texts",
    "responses_texts",
]


def responses_texts(
    request: dict[str, Any], history: list[Item], input: list[Item], recalled: Collection[int]
) -> list[Found]:
    """The texts of a turn: those of its validated fields, its history and its normalised input.

    `recalled` are the positions in `input` of what the store had for a reference.
    """
    found: list[Found] = []
    _walk_fields(found, request, _RESPONSES)
    tools = request.get("tools") or []
    for index, tool in enumerate(tools):
        if tool["type"] == "mcp":
            _walk_remote(found, tool)
        else:
            walk(found, tools, index, "tools", SCHEMA)
    for index in range(len(history)):
        walk_message(found, history, index, "history")
    for index, item in enumerate(input):
        source = "reference" if index in recalled else _source_of(item)
        walk_message(found, input, index, source)
    return found


def chat_texts(tree: dict[str, Any]) -> list[Found]:
    """The texts of a validated Chat Completions request."""
    found: list[Found] = []
    _walk_fields(found, tree, _CHAT)
    messages = tree["messages"]
    for index, message in enumerate(messages):
        walk_message(found, messages, index, _OF_ROLE.get(message["role"], "other"))
    return found


def output_texts(item: Item) -> list[Found]:
    """The texts of an output item, with what its tokens spell."""
    found: list[Found] = []
    walk_message(found, [item], 0, _source_of(item))
    content = item.get("content")
    for part in content if type(content) is list else ():
        if type(part) is dict:
            _spell(found, part.get("logprobs"))
    return found


def completion_texts(body: dict[str, Any]) -> list[Found]:
    """The texts of a chat.completion, in all its choices, with what their tokens spell."""
    found: list[Found] = []
    _walk_fields(found, body, _COMPLETION)
    for choice in body.get("choices") or ():
        logprobs = choice.get("logprobs") if type(choice) is dict else None
        for tokens in logprobs.values() if type(logprobs) is dict else ():
            _spell(found, tokens)
    return found


class _Tokens:
    """The tokens that spell a text; it cannot be written anew in them, so they are taken out."""

    __slots__ = ("_tokens",)

    def __init__(self, tokens: list[Any]) -> None:
        self._tokens = tokens

    def __getitem__(self, name: str) -> str:
        said = [each.get(name) for each in self._tokens if type(each) is dict]
        return "".join([each for each in said if type(each) is str])

    def __setitem__(self, name: str, masked: str) -> None:
        self._tokens.clear()


def _spell(found: list[Found], tokens: Any) -> None:
    if type(tokens) is list and len(tokens) > 1:  # a single one is a text of its own
        spelt = _Tokens(tokens)
        if text := spelt["token"]:
            found.append(Found("assistant", text, spelt, "token", False, True))


def response_texts(body: dict[str, Any]) -> list[Found]:
    """The texts of an upstream's Response in the fields that the gateway passes on."""
    found: list[Found] = []
    _walk_fields(found, body, _RESPONSE)
    # A setting as it mostly is says nothing: "auto".
    return [x for x in found if x.container is not body or x.text != NEW.get(str(x.key))]


def _source_of(item: Item) -> str:
    if item["type"] == "message":
        return _OF_ROLE.get(item.get("role", "assistant"), "other")
    return _OF_ITEM.get(item["type"], "other")


def _walk_fields(
    found: list[Found], tree: dict[str, Any], fields: Mapping[str, tuple[str, Readers] | None]
) -> None:
    for name, value in tree.items():
        how = fields.get(name, _OTHER)
        if how is _OTHER and not is_name(name):
            found.append(Found("other", name, tree, name, False, False))
        if how is None or not value or type(value) not in _WITH_TEXT:
            continue
        source, readers = how
        if type(value) is str and name not in readers:
            found.append(Found(source, value, tree, name, False, True))
        else:
            walk(found, tree, name, source, readers)


def _walk_remote(found: list[Found], tool: dict[str, Any]) -> None:
    # What lets the tool's server in is not said to the model, and no guard need know it.
    for name in tool:
        if name not in ("authorization", "headers"):
            walk(found, tool, name, "tools", SCHEMA)


_WITH_TEXT = (str, dict, list)
_OF_ROLE = {
    "user": "user",
    "system": "system",
    "developer": "system",
    "assistant": "assistant",
    "tool": "outputs",
    "function": "outputs",
}
_OF_ITEM = {
    "function_call": "arguments",
    "custom_tool_call": "arguments",
    "function_call_output": "outputs",
    "custom_tool_call_output": "outputs",
    "reasoning": "assistant",
    "compaction": "assistant",
}
# Where the fields of a request belong; those not named here are other, those that are None are not
# read, or not here.
_OTHER = ("other", SETTING)
_UNREAD = dict.fromkeys((
    *("model", "previous_response_id", "metadata", "user", "safety_identifier"),
    *("prompt_cache_key", "prompt_cache_retention"),
))  # fmt: skip
_RESPONSES: Mapping[str, tuple[str, Readers] | None] = {
    **_UNREAD,
    "instructions": ("system", ITEM),
    "text": ("system", SCHEMA),
    "tools": None,
    "tool_choice": ("tools", SCHEMA),
}
_CHAT: Mapping[str, tuple[str, Readers] | None] = {
    **_UNREAD,
    "messages": None,
    "response_format": ("system", SCHEMA),
    "prediction": ("system", ITEM),
    **dict.fromkeys(("tools", "tool_choice", "functions", "function_call"), ("tools", SCHEMA)),
}
_RESPONSE: Mapping[str, tuple[str, Readers] | None] = dict.fromkeys(OURS)
_COMPLETION: Mapping[str, tuple[str, Readers] | None] = {"choices": ("assistant", ITEM)}
