"""Every text a model will see, or has said, with its source and its place.

A text is every string but those on a short list, which is in `extract_readers`.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from anos.bounds import OF_CHAT, OF_RESPONSES
from anos.extract_readers import ITEM, SCHEMA, SETTING, Readers
from anos.extract_walk import Found, walk, walk_message
from anos.items import NEW, OURS, Answer, Item, chat_message

__all__ = [
    "Found",
    "chat_texts",
    "completion_texts",
    "joined_texts",
    "output_texts",
    "reason_texts",
    "response_texts",
    "responses_texts",
]

# How the fields of something are read: the source of what is in each, and its readers.
_Fields = Mapping[str, tuple[str, Readers] | None]
_NOTHING: Mapping[str, Any] = {}


def responses_texts(
    request: dict[str, Any],
    history: list[Item],
    input: list[Item],
    recalled: Collection[int],
    with_tools: bool = True,
) -> list[Found]:
    """The texts of a turn: those of its validated fields, its history and its normalised input.

    `recalled` are the positions in `input` of what the store had for a reference. Of the source
    `tools` only `with_tools`: there may be more of that than of all others.
    """
    found: list[Found] = []
    fields = _RESPONSES if with_tools else _RESPONSES_BUT_TOOLS
    _walk_fields(found, request, fields, OF_RESPONSES)
    tools = request.get("tools") if with_tools else None
    for index, tool in enumerate(tools or ()):
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


def chat_texts(tree: dict[str, Any], with_tools: bool = True) -> list[Found]:
    """The texts of a validated Chat Completions request, as `responses_texts`."""
    found: list[Found] = []
    _walk_fields(found, tree, _CHAT if with_tools else _CHAT_BUT_TOOLS, OF_CHAT)
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
    _walk_fields(found, body, _COMPLETION, _OF_COMPLETION)
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
    _walk_fields(found, body, _RESPONSE, (), _USUAL)
    return found


def joined_texts(answer: Answer) -> Iterator[Found]:
    """What a client that joins the parts of all messages reads as one text."""
    said = [part for item in answer.output for part in item.get("content") or ()]
    if len(said) > 1:
        message = chat_message(answer.output)
        for text in (message["content"], message.get("refusal")):
            if text:
                yield Found("assistant", text, None, "", False, False)


def reason_texts(answer: Answer) -> list[Found]:
    """Why an answer is incomplete, if that is no reason that anybody knows."""
    reason = answer.incomplete_reason
    if not reason or reason in _REASONS:
        return []
    return [Found("other", reason, None, "", False, False)]


def _source_of(item: Item) -> str:
    if item["type"] == "message":
        return _OF_ROLE.get(item.get("role", "assistant"), "other")
    return _OF_ITEM.get(item["type"], "other")


def _walk_fields(
    found: list[Found],
    tree: dict[str, Any],
    fields: _Fields,
    known: Collection[str],
    usual: Mapping[str, Any] = _NOTHING,
) -> None:
    """Add the texts of the fields of `tree`, but for one that is as in `usual`; and the names of
    those that are neither in `fields` nor `known`."""
    for name, value in tree.items():
        if name not in fields and name not in known:
            found.append(Found("other", name, tree, name, False, False))
        if not value or type(value) not in _WITH_TEXT or value == usual.get(name):
            continue
        how = fields.get(name, _OTHER)
        if how is None:
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


_REASONS = ("max_output_tokens", "content_filter")
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
_RESPONSES: _Fields = {
    **_UNREAD,
    "instructions": ("system", ITEM),
    "text": ("system", SCHEMA),
    "tools": None,
    "tool_choice": ("tools", SCHEMA),
}
_CHAT: _Fields = {
    **_UNREAD,
    "messages": None,
    "response_format": ("system", SCHEMA),
    "prediction": ("system", ITEM),
    **dict.fromkeys(("tools", "tool_choice", "functions", "function_call"), ("tools", SCHEMA)),
}


def _but_tools(fields: _Fields) -> _Fields:
    return {name: how if how and how[0] != "tools" else None for name, how in fields.items()}


_RESPONSES_BUT_TOOLS, _CHAT_BUT_TOOLS = map(_but_tools, (_RESPONSES, _CHAT))
_RESPONSE: _Fields = {**dict.fromkeys(NEW, _OTHER), **dict.fromkeys(OURS)}
# In an answer these say nothing.
_USUAL = {**NEW, "text": {"format": {"type": "text"}, "verbosity": "medium"}}
_COMPLETION: _Fields = {"choices": ("assistant", ITEM)}
_OF_COMPLETION = frozenset(
    {"id", "object", "created", "model", "usage", "service_tier", "system_fingerprint"}
)
