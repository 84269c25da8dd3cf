"""What of a request or an answer is no text: a short list of names, and what stands under them.

A string under one of these names that does not look like what the name says is a text all the same:
an id with a space in it, a role nobody knows, base64 that is none.
"""

import binascii
import codecs
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# How the string under a name is read: the texts in it, which are itself, another that it stands
# for, both, or none. The first argument is the dict or list that holds it.
Reader = Callable[[Any, str], tuple[str, ...]]
Readers = Mapping[str, Reader]

_HEAD = 1024  # characters of base64: by these a picture is told without decoding all of it

ROLES = ("user", "system", "developer", "assistant", "tool", "function")

# What these begin and is no UTF-8 is no text: pictures, documents, archives, sound.
_SIGNATURES = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"%PDF", b"PK\3\4"),
    *(b"\xd0\xcf\x11\xe0", b"\x1f\x8b", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"OggS"),
    *(b"fLaC", b"\x1aE\xdf\xa3"),
)
_MARKS = (
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
)
# Percent escapes as those of quoted-printable, where a sign that is none would take one with it.
_ESCAPES = (
    *((b"\r", b"%0D"), (b"\n", b"%0A"), (b"=", b"%1A"), (b"%3D", b"%1A"), (b"%3d", b"%1A")),
    *(((b"%%", b"%25%"),) * 2),
)
_TO_PLAIN = bytes.maketrans(b"=\x1a", b"%=")
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


def text_of_file(value: str) -> str | None:
    """The text of a file in base64 or in a data: URL, in every way it may be read; None if there
    is none: it begins as pictures, documents, archives or sounds do, and is no UTF-8."""
    head, body = "", value
    if is_data_url(value):
        head, _, body = value.partition(",")
    packing = "".join(head.lower().split())
    is_base64 = not head or "base64" in packing
    # Mostly all ways come to the same.
    found: dict[str | None, None] = {}
    if head and not packing.endswith(";base64"):
        found[_text(_unquoted(body.encode("utf-8", "replace")))] = None
    if is_base64:
        packed = body.encode("ascii", "ignore")
        ways = {packed, _unquoted(packed)} if head and b"%" in packed else {packed}
        for each in sorted(ways):
            found |= dict.fromkeys(map(_text, _unpacked(each)))
    return "\n".join(filter(None, found)) or None


def _unquoted(data: bytes) -> bytes:
    """As `urllib.parse.unquote_to_bytes`, but by the decoder of quoted-printable, in a tenth of
    the time, and "\\x1a" is read as "="."""
    if b"%" not in data:
        return data
    for plain, escape in _ESCAPES:
        data = data.replace(plain, escape)
    if data.endswith(b"%"):
        data += b"25"
    return binascii.a2b_qp(data.replace(b"%", b"=")).translate(_TO_PLAIN)


def _unpacked(packed: bytes) -> Iterator[bytes]:
    """What base64 may be read as: readers differ in "-" and "_", and in padding before the end."""
    ways = [packed]
    if b"-" in packed or b"_" in packed:
        ways = [packed.translate(_TO_STANDARD), packed.translate(None, b"-_")]
    for each in ways:
        if _is_binary(_decoded(each[:_HEAD])):
            continue
        yield _decoded(each.replace(b"=", b""))
        if b"=" in each.rstrip().rstrip(b"="):
            yield _decoded(each.replace(b"=", b"A"))  # what is padded with it becomes NULs


def _decoded(packed: bytes) -> bytes:
    try:
        return binascii.a2b_base64(packed + b"==")
    except binascii.Error:  # one character is left over, which is no byte yet
        return binascii.a2b_base64(packed + b"A==")[:-1]


def _is_binary(data: bytes) -> bool:
    if not data.startswith(_SIGNATURES) and data[4:8] != b"ftyp":
        return False
    try:
        codecs.utf_8_decode(data, "strict", False)
    except UnicodeDecodeError:
        return True
    return False


def _text(data: bytes) -> str | None:
    if _is_binary(data):
        return None
    text = data.decode("utf-8", "replace")
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            text = f"{data[len(mark) :].decode(encoding, 'replace')}\n{text}"
    # Other encodings have it between letters; it may also stand between words.
    return f"{text}\n{text.replace(chr(0), '')}" if "\0" in text else text


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


def _name(node: Any, value: str) -> tuple[str, ...]:
    return () if is_name(value) else (value,)


def _one_of(*names: str) -> Reader:
    known = frozenset(names)
    return lambda node, value: () if value in known else (value,)


def _base64(node: Any, value: str) -> tuple[str, ...]:
    return () if _is_packed(value) else (value,)


def _file(node: Any, value: str) -> tuple[str, ...]:
    text = text_of_file(value)
    decoded = () if text is None else (text,)
    # Whether this is base64 or a text as it stands, its readers decide.
    return decoded if _is_packed(value) else (value, *decoded)


def _address(node: Any, value: str) -> tuple[str, ...]:
    return _file(node, value) if is_data_url(value) else (value,)


def _audio(node: Any, value: str) -> tuple[str, ...]:
    is_audio = type(node) is dict and len(node) > 1 and node.keys() <= _AUDIO
    return _base64(node, value) if is_audio else (value,)


def _audio_format(node: Any, value: str) -> tuple[str, ...]:
    is_audio = type(node) is dict and len(node) > 1 and node.keys() <= _AUDIO
    return _name(node, value) if is_audio else (value,)


def _image(node: Any, value: str) -> tuple[str, ...]:
    is_image = type(node) is dict and node.get("type") == "image_generation_call"
    return _base64(node, value) if is_image else (value,)


_FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter", "function_call")
_AUDIO = {"id", "data", "format", "transcript", "expires_at", "voice"}
_IDS = (
    *("id", "call_id", "tool_call_id", "file_id", "file_ids", "item_id", "container_id"),
    *("approval_request_id", "response_id", "previous_response_id", "vector_store_ids"),
)
# Of items, their parts and annotations; of tools and their choice see SCHEMA. Any other is a text.
_TYPES = (
    *("message", "reasoning", "compaction", "item_reference", "function", "custom", "auto"),
    *("function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"),
    *("web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call"),
    *("computer_call", "computer_call_output", "local_shell_call", "local_shell_call_output"),
    *("shell_call", "shell_call_output", "apply_patch_call", "apply_patch_call_output"),
    *("mcp_call", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response"),
    *("input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text", "thinking"),
    *("input_image", "image_url", "input_file", "file", "input_audio", "computer_screenshot"),
    *("url_citation", "file_citation", "container_file_citation", "file_path", "logs", "image"),
    *("approximate", "content", "search", "open_page", "find_in_page"),
)
_STATUSES = (
    *("completed", "incomplete", "in_progress", "failed", "queued", "cancelled"),
    *("searching", "generating", "interpreting", "calling"),
)
_level = _one_of("low", "medium", "high")

ITEM: Readers = {
    **dict.fromkeys(_IDS, _name),
    "type": _one_of(*_TYPES),
    "object": _one_of("chat.completion", "chat.completion.chunk", "response"),
    "status": _one_of(*_STATUSES),
    "phase": _one_of("commentary", "final_answer"),
    "finish_reason": _one_of(*_FINISH_REASONS),
    **dict.fromkeys(("image_url", "url", "file_url"), _address),
    **dict.fromkeys(("encrypted_content", "b64_json", "partial_image_b64"), _base64),
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
