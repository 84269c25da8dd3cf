"""The most a request can come to: what a budget has to hold, and what it cannot bound.

A budget is exact only about what is known, so what a request may say to a key with a budget is on
the lists below. Each entry was asked: can it make more output than the cap, or more input than the
bytes that are sent, and is it another model or another price?
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

import orjson

from anos.errors import InvalidRequest
from anos.items import Item
from anos.routing import Route

# Where none of these is, there is no part that counts otherwise than by its bytes.
_MEDIA = (b'"input_image"', b'"image_url"', b'"input_file"', b'"file"')
_IMAGES = ("input_image", "image_url")
_FILES = ("input_file", "file")

Fields = Mapping[str, Any]


def input_bound(body: bytes, route: Route) -> int:
    """Tokens of input in the body of an upstream's request.

    A token of a byte-level tokenizer is at least a byte, and the JSON around the texts is longer
    than what a chat template puts there. In place of the data of an image or a file counts what the
    model's configuration says. Raises InvalidRequest (`unsupported_parameter`) if it says nothing.
    """
    # To look for a few words costs a hundredth of what it costs to read the body.
    if not any(word in body for word in _MEDIA):
        return len(body)
    tokens = len(body)
    for part in _parts_of(orjson.loads(body)):
        kind = part.get("type")
        if kind in _IMAGES:
            if not route.max_image_tokens:
                raise unpriced("input", "an image")
            tokens += route.max_image_tokens - _image_bytes(part)
        elif kind in _FILES:
            if not route.max_file_tokens:
                raise unpriced("input", "a file")
            tokens += route.max_file_tokens - _file_bytes(part)
    return tokens


def unpriced(param: str, what: str) -> InvalidRequest:
    """The refusal of what a budget cannot bound."""
    return InvalidRequest(
        f"A budget holds for this key, and what {what} can cost at most is not known.",
        param=param,
        code="unsupported_parameter",
    )


def _parts_of(tree: Fields) -> Iterator[Fields]:
    items = tree.get("messages") or tree.get("input")
    for item in items if type(items) is list else ():
        for name in ("content", "output"):
            parts = item.get(name)
            if type(parts) is list:
                yield from parts


def _image_bytes(part: Fields) -> int:
    # Characters are at most as many as the bytes that they are sent in.
    image = part.get("image_url")
    url = image.get("url") if type(image) is dict else image
    if type(url) is not str or not url.startswith("data:"):
        return 0  # an address is text, and short
    if not url.startswith("data:image/"):
        raise unpriced("input", "data that is no image")
    return len(url)


def _file_bytes(part: Fields) -> int:
    file = part.get("file")
    data = (file if type(file) is dict else part).get("file_data")
    if type(data) is not str:
        return 0
    if data.startswith(("data:audio/", "data:video/")):
        raise unpriced("input", "sound or video")
    return len(data)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What both APIs know, and settings of sampling that are common among other servers. None of them
# changes the cap: `ignore_eos` and `min_tokens` only use it up, and thinking counts as output.
_COMMON = _words("""
    model stream stream_options store metadata user safety_identifier service_tier
    prompt_cache_key prompt_cache_retention prompt_cache_options
    tools tool_choice parallel_tool_calls max_tokens max_completion_tokens
    temperature top_p top_k top_a min_p typical_p presence_penalty frequency_penalty
    repetition_penalty repeat_penalty length_penalty seed random_seed
    stop stop_token_ids ignore_eos min_tokens skip_special_tokens logit_bias logprobs top_logprobs
    response_format structured_outputs guided_json guided_regex guided_choice guided_grammar
    reasoning reasoning_effort include_reasoning reasoning_format thinking verbosity modalities
    chat_template_kwargs usage
""")
OF_RESPONSES = _COMMON | _words(
    "instructions previous_response_id background include max_tool_calls max_output_tokens text"
    " truncation"
)
OF_CHAT = _COMMON | _words("messages n functions function_call")
_OF_MESSAGE = _words("""
    role content name refusal tool_calls tool_call_id function_call prefix cache_control annotations
    reasoning reasoning_content reasoning_details thinking_blocks provider_specific_fields
""")
_TOOLS = {
    "function": _words("type function name description parameters strict cache_control"),
    "custom": _words("type custom name description format cache_control"),
}
_ITEMS = _words(
    "message reasoning function_call function_call_output custom_tool_call custom_tool_call_output"
)
_CACHE = _words("cache_control prompt_cache_breakpoint")
_TEXTS = {
    "text": _words("type text") | _CACHE,
    "input_text": _words("type text") | _CACHE,
    "output_text": _words("type text annotations logprobs"),
    "refusal": _words("type refusal"),
    "summary_text": _words("type text"),
    "reasoning_text": _words("type text"),
}
_PARTS = {
    **_TEXTS,
    "thinking": _words("type thinking signature closed"),
    "image_url": _words("type image_url") | _CACHE,
    "input_image": _words("type image_url file_id detail") | _CACHE,
    "file": _words("type file") | _CACHE,
    "input_file": _words("type file_data file_id file_url filename detail") | _CACHE,
}
_CITATIONS = ("url_citation", "file_citation", "container_file_citation", "file_path")


def _is_switches(kwargs: Any) -> bool:
    # A template, or a list of documents in it, could make any text of the messages.
    return type(kwargs) is dict and all(
        type(value) is bool or name == "reasoning_effort" for name, value in kwargs.items()
    )


def _is_kept_for_minutes(cache: Any) -> bool:
    # To write what is kept for hours has another price.
    return type(cache) is dict and cache.get("ttl", "5m") in ("5m", "30m")


def _is_object_of(names: str) -> Callable[[Any], bool]:
    known = _words(names)
    return lambda value: type(value) is str or (type(value) is dict and value.keys() <= known)


def _is_citations(found: Any) -> bool:
    # Those of a server that reads files hold their texts and images.
    return type(found) is list and all(
        type(each) is dict and each.get("type") in _CITATIONS for each in found
    )


# Fields of which some values only are bounded.
_VALUES: Mapping[str, Callable[[Any], bool]] = {
    "service_tier": lambda tier: tier in ("auto", "default", "flex"),
    "modalities": lambda kinds: kinds == ["text"],
    "reasoning": lambda how: type(how) is not dict or how.get("mode") in (None, "standard"),
    "chat_template_kwargs": _is_switches,
    "prompt_cache_options": lambda how: _is_kept_for_minutes(how) and how.keys() <= {"mode", "ttl"},
    "cache_control": _is_kept_for_minutes,
    "prompt_cache_breakpoint": _is_kept_for_minutes,
    "annotations": _is_citations,
    # Some servers take there how large an image may become.
    "image_url": _is_object_of("url detail"),
    "file": _is_object_of("file_data file_id filename"),
}


def unbounded_in_responses(
    request: Fields, history: Sequence[Item], own: Sequence[Item]
) -> str | None:
    """The path of the first thing in a create call that a budget cannot bound, None if all is.

    `own` are the items of its input, `history` those before it.
    """
    if _in_items(history):
        return "previous_response_id"
    return _in_fields(request, OF_RESPONSES) or _in_items(own)


def unbounded_in_chat(tree: Fields) -> str | None:
    """The same of a validated Chat Completions request."""
    return _in_fields(tree, OF_CHAT) or _in_messages(tree["messages"])


def _in_fields(request: Fields, known: Set[str]) -> str | None:
    if name := _strange(request, known):
        return name
    for index, tool in enumerate(request.get("tools") or ()):
        if _strange(tool, _known_in(_TOOLS, tool)):
            return f"tools[{index}]"
    return None


def _in_messages(messages: Sequence[Fields]) -> str | None:
    for index, message in enumerate(messages):
        if name := _strange(message, _OF_MESSAGE):
            return f"messages[{index}].{name}"
        if place := _in_parts(message.get("content"), _PARTS):
            return f"messages[{index}].content{place}"
    return None


def _in_items(items: Sequence[Item]) -> str | None:
    for index, item in enumerate(items):
        if item["type"] not in _ITEMS:
            return f"input[{index}]"
        for name in ("content", "summary", "output"):
            if name in item and (place := _in_parts(item[name], _PARTS)):
                return f"input[{index}].{name}{place}"
    return None


def _in_parts(parts: Any, kinds: Mapping[str, Set[str]]) -> str | None:
    if type(parts) is not list:
        return None
    for index, part in enumerate(parts):
        if type(part) is not dict or _strange(part, _known_in(kinds, part)):
            return f"[{index}]"
        if "thinking" in part and (place := _in_parts(part["thinking"], _TEXTS)):
            return f"[{index}].thinking{place}"
    return None


def _known_in(kinds: Mapping[str, Set[str]], fields: Fields) -> Set[str]:
    kind = fields.get("type")
    return kinds.get(kind, frozenset()) if type(kind) is str else frozenset()


def _strange(fields: Fields, known: Set[str]) -> str | None:
    """The name of a field that is not bounded; what is null or an empty list asks for nothing."""
    for name, value in fields.items():
        is_bounded = name in known and (name not in _VALUES or _VALUES[name](value))
        if not is_bounded and value is not None and value != []:
            return name
    return None
