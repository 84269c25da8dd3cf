"""The walk through a request or an answer that finds its texts."""

from collections.abc import Collection, Iterator
from typing import Any

from msgspec import Struct

from anos.extract_readers import FIELDS, ITEM, LISTS, ROLES, SCHEMA, Readers, is_name


class Found(Struct, frozen=True, gc=False):
    """A text, and where it stands: `container[key] = masked` puts another in its place.

    `source` is user, system, history, reference, assistant, tools, arguments, outputs, files or
    other. Not `writable` are the text of a file, which stands there encoded, and the name of a
    field, where `key` is the text. What stands in the same `parts` is said together.
    """

    source: str
    text: str
    container: Any  # dict | list
    key: str | int
    is_json: bool  # the arguments of a call, which are JSON
    writable: bool
    parts: list[Any] | None = None


def walk_message(found: list[Found], messages: list[Any], index: int, source: str) -> None:
    """Add the texts of `messages[index]`, an item or a message of Chat Completions."""
    # Most are one text and nothing else, and that is seen in a fifth of the time.
    if not _is_read(found, messages[index], source):
        walk(found, messages, index, source, ITEM)


def _is_read(found: list[Found], message: dict[str, Any], source: str) -> bool:
    content = message.get("content")
    if message.get("role") not in ROLES:
        return False
    if type(content) is str:
        if content and len(message) == 2:
            found.append(Found(source, content, message, "content", False, True))
            return True
        return False
    if type(content) is not list or len(content) != 1:
        return False
    part = content[0]
    if type(part) is not dict or part.get("type") not in _TEXTS:
        return False
    if len(part) != 2 and len(part) != 2 + _empty(part):
        return False
    if len(message) != 2 and (len(message) != 5 or not _is_plain(message)):
        return False
    text = part.get("text")
    if type(text) is str and text:
        found.append(Found(source, text, part, "text", False, True, content))
        return True
    return False


def _empty(part: dict[str, Any]) -> int:
    return (part.get("annotations") == []) + (part.get("logprobs") == [])


def _is_plain(item: dict[str, Any]) -> bool:
    id = item.get("id")
    is_named = type(id) is str and is_name(id)
    return is_named and item.get("type") == "message" and item.get("status") == "completed"


def walk(found: list[Found], container: Any, key: str | int, source: str, readers: Readers) -> None:
    """Add the texts at and below `container[key]`, in their order.

    With a stack, since an upstream's answer may be nested deeper than Python's calls may be.
    """
    # Of each container on the way: the name it goes by, its source, how it is read, which of its
    # keys are no texts (None: it has none), and what of it is left.
    stack: list[tuple[Any, str, str, Readers, Collection[str] | None, Iterator[Any]]] = [
        (container, str(key), source, readers, None, iter(((key, container[key]),)))
    ]
    while stack:
        node, name, source, readers, known, left = stack[-1]
        for place, value in left:
            if known is not None:
                name = place
                if name not in known:
                    found.append(Found(source, name, node, name, False, False))
            kind = type(value)
            if kind is str:
                if name in readers:
                    _read(found, source, readers, node, name, place, value)
                elif value:
                    around = node if name in _PARTED else None
                    if place in _SAID and len(stack) > 2:  # messages themselves stay apart
                        around = stack[-2][0]
                    parts = around if type(around) is list else None
                    is_json = place == "arguments"
                    found.append(Found(source, value, node, place, is_json, True, parts))
            elif kind is list:
                how = SCHEMA if name in _FOR_TOOLS else readers
                stack.append((value, name, source, how, None, iter(enumerate(value))))
                break
            elif kind is dict:
                how = SCHEMA if name in _FOR_TOOLS else readers
                own = () if name in _NAMED and how is SCHEMA else FIELDS
                inside = _source_inside(source, name, value)
                stack.append((value, name, inside, how, own, iter(value.items())))
                break
        else:
            stack.pop()


def _read(
    found: list[Found],
    source: str,
    readers: Readers,
    node: Any,
    name: str,
    place: str | int,
    value: str,
) -> None:
    # A list where one id is expected is none, but a text in pieces.
    is_as_said = type(node) is dict or readers is SCHEMA or name in LISTS
    for text in readers[name](node, value) if is_as_said else (value,):
        if text is value and text:
            found.append(Found(source, text, node, place, False, True))
        elif text:
            of_file = source if source in _INHERITED else "files"
            found.append(Found(of_file, text, node, place, False, False))


def _source_inside(source: str, name: str, node: dict[str, Any]) -> str:
    """The source of what is in `node`, which goes by `name` in something of `source`."""
    if source not in _SPEECH:
        return source
    if name in _CALLS:
        return "arguments"
    if name in _PARTED:
        kind = node.get("type")
        if kind in _FILES:
            return "files"
        if kind not in _PARTS:
            return "other"
    return source


_INHERITED = ("history", "reference")
_SPEECH = frozenset({"user", "system", "assistant", "outputs"})
_SAID = ("text", "refusal")
_CALLS = frozenset({"tool_calls", "function_call"})
_FOR_TOOLS = frozenset({"arguments", "input"})
# What a schema calls by names of its own.
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_PARTED = frozenset({"content", "output", "summary"})
# Tuples, since a type may be something that no set can be asked for.
_FILES = ("input_file", "file")
_TEXTS = ("input_text", "output_text", "text")
_PARTS = (
    *(*_TEXTS, None, "refusal", "summary_text", "reasoning_text", "thinking"),
    *("input_image", "image_url", "input_audio", "computer_screenshot"),
)
