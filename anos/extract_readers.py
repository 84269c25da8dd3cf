"""What of a request or an answer is no text: a short list of names, and what stands under them.

A string under one of these names that does not look like what the name says is a text all the same:
an id with a space in it, a role nobody knows, base64 that is none.
"""

import binascii
import codecs
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

# How the string under a name is read: the string itself, another that it stands for, or None if it
# is no text. The first argument is the dict or list that holds it.
Reader = Callable[[Any, str], str | None]
Readers = Mapping[str, Reader]

MAX_FILE_BYTES = 1 << 20  # of a file so much is read
_HEAD_BYTES = 768  # by these a picture, or anything else that is no text, is told from a text

ROLES = ("user", "system", "developer", "assistant", "tool", "function")


def text_of_file(value: str) -> str | None:
    """The start, 1 MiB of it, of a file in base64 or a data: URL; None if it is not UTF-8."""
    value = value.lstrip()
    start, is_base64 = 0, True
    if is_data_url(value):
        start = value.find(",") + 1
        is_base64 = ";base64" in value[:start].lower()
    for most in (_HEAD_BYTES, MAX_FILE_BYTES):
        decode = _from_base64 if is_base64 else _from_percent
        try:
            text = codecs.utf_8_decode(decode(value, start, most), "strict", False)[0]
        except UnicodeDecodeError:
            return None
    return text


def _from_base64(value: str, start: int, most: int) -> bytes:
    # As lenient as the most lenient reader: without padding, with characters that mean nothing.
    data = value[start : start + most // 3 * 4].encode("ascii", "ignore")
    data = data.replace(b"-", b"+").replace(b"_", b"/")
    try:
        return binascii.a2b_base64(data + b"==")
    except binascii.Error:  # one character is left over, which is no byte yet
        return binascii.a2b_base64(data + b"A==")[:-1]


def _from_percent(value: str, start: int, most: int) -> bytes:
    return unquote_to_bytes(value[start : start + 3 * most])[:most]


def is_data_url(value: str) -> bool:
    """Whether this is a data: URL, after the space that readers of a URL skip."""
    return value.lstrip()[:5].lower() == "data:" and "," in value


def is_name(value: str) -> bool:
    """Whether this can be an id or the like: printable ASCII without a space."""
    return value.isascii() and value.isprintable() and " " not in value


def _is_packed(value: str) -> bool:
    # No sentence can be written without a space, and base64 and addresses have none.
    return value.isascii() and " " not in value


# --- readers --------------------------------------------------------------------------------------


def _name(node: Any, value: str) -> str | None:
    return None if is_name(value) else value


def _one_of(*names: str) -> Reader:
    known = frozenset(names)
    return lambda node, value: None if value in known else value


def _base64(node: Any, value: str) -> str | None:
    return None if _is_packed(value) else value


def _file(node: Any, value: str) -> str | None:
    text = text_of_file(value)
    if _is_packed(value):
        return text
    # Whether this is base64 or a text as it stands, its readers decide.
    return value if text is None else f"{value}\n{text}"


def _address(node: Any, value: str) -> str | None:
    return _file(node, value) if is_data_url(value) else value


def _audio(node: Any, value: str) -> str | None:
    is_audio = type(node) is dict and len(node) > 1 and node.keys() <= _AUDIO
    return _base64(node, value) if is_audio else value


def _audio_format(node: Any, value: str) -> str | None:
    is_audio = type(node) is dict and len(node) > 1 and node.keys() <= _AUDIO
    return _name(node, value) if is_audio else value


def _image(node: Any, value: str) -> str | None:
    is_image = type(node) is dict and node.get("type") == "image_generation_call"
    return _base64(node, value) if is_image else value


_AUDIO = {"id", "data", "format", "transcript", "expires_at", "voice"}
_IDS = (
    *("id", "call_id", "tool_call_id", "file_id", "file_ids", "item_id", "container_id"),
    *("approval_request_id", "response_id", "previous_response_id", "vector_store_ids"),
)
_KINDS = ("type", "object", "status", "phase", "finish_reason", "native_finish_reason")
_level = _one_of("low", "medium", "high")

ITEM: Readers = {
    **dict.fromkeys((*_IDS, *_KINDS), _name),
    **dict.fromkeys(("image_url", "url", "file_url"), _address),
    **dict.fromkeys(("encrypted_content", "b64_json"), _base64),
    # Some chat templates write whatever role they are given.
    "role": _one_of(*ROLES),
    "detail": _one_of("low", "high", "auto", "original"),
    "file_data": _file,
    "data": _audio,
    "format": _audio_format,
    "result": _image,
}
# A model is given the whole of a schema, and all arguments of a call: an id in there is for it.
SCHEMA: Readers = {
    "type": _one_of(
        *("string", "number", "integer", "boolean", "object", "array", "null"),
        *("function", "custom", "text", "grammar", "json_schema", "json_object", "allowed_tools"),
        *("web_search", "web_search_preview", "file_search", "code_interpreter", "mcp", "computer"),
        *("computer_use_preview", "image_generation", "local_shell", "shell", "apply_patch"),
        *("namespace", "tool_search", "approximate", "auto"),
    ),
    **dict.fromkeys(("tool_choice", "function_call", "mode"), _one_of("none", "auto", "required")),
    **dict.fromkeys(("file_ids", "vector_store_ids"), _name),
    "verbosity": _level,
}
# The fields of a request that are neither items nor schemas, and those of an answer.
SETTING: Readers = {
    **ITEM,
    **dict.fromkeys(("model", "service_tier", "system_fingerprint", "voice", "include"), _name),
    **dict.fromkeys(("verbosity", "search_context_size"), _level),
    **dict.fromkeys(("summary", "generate_summary"), _one_of("auto", "concise", "detailed")),
    **dict.fromkeys(
        ("effort", "reasoning_effort"),
        _one_of("none", "minimal", "low", "medium", "high", "xhigh", "max", "default"),
    ),
    "truncation": _one_of("auto", "disabled"),
    "modalities": _one_of("text", "audio", "image"),
}
# Under these names stands a list of what the reader reads.
LISTS = frozenset({"file_ids", "vector_store_ids", "include", "modalities"})
# Names of fields that nobody has made up; any other is a text.
FIELDS = frozenset({
    *("id", "type", "object", "status", "role", "name", "content", "text", "refusal", "index"),
    *("arguments", "input", "output", "call_id", "tool_call_id", "tool_calls", "function_call"),
    *("function", "custom", "summary", "reasoning_content", "encrypted_content", "phase", "detail"),
    *("image_url", "url", "input_audio", "audio", "data", "format", "transcript", "file"),
    *("file_data", "file_id", "file_url", "filename", "annotations", "start_index", "end_index"),
    *("url_citation", "title", "quotes", "logprobs", "logprob", "top_logprobs", "token", "bytes"),
    *("message", "finish_reason", "verbosity", "effort", "strict", "parameters", "schema"),
    *("json_schema", "grammar", "syntax", "definition", "tools", "mode", "allowed_tools"),
    *("$schema", "$id", "$ref", "$defs", "definitions", "description", "default", "examples"),
    *("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
    *("items", "prefixItems", "enum", "const", "anyOf", "oneOf", "allOf", "not", "nullable"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "pattern"),
    *("minLength", "maxLength", "minItems", "maxItems", "uniqueItems", "minProperties"),
})  # fmt: skip
