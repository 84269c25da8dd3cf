"""Every string a model reads is found, with its source and its place; ids and the like are not."""

import base64
import copy
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anos.chat_requests import validate
from anos.extract import (
    chat_texts,
    completion_texts,
    output_texts,
    response_texts,
    responses_texts,
)
from anos.extract_readers import ITEM, text_of_file
from anos.extract_walk import Found, walk, walk_message
from anos.inputs import normalise_input
from anos.items import NEW
from anos.validation import validate_create

SEEDED = settings(derandomize=True, deadline=None)
CANARY = "canary: a sentence that nobody else would write"
SOURCES = {
    *("user", "system", "history", "reference", "assistant", "tools", "arguments", "outputs"),
    *("files", "other"),
}


def maybe(*values: Any) -> st.SearchStrategy:
    return st.sampled_from([*values])


def packed(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    return base64.b64encode(data).decode()


PICTURE = packed(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))

# In these trees every text begins with its source and a colon, the name of a field that is one
# too. Every string without a colon is on the short list.
SCHEMA = {
    "type": "object",
    "description": "tools: all of it",
    "properties": {
        "tools: city": {"type": "string", "enum": ["tools: Oslo", "tools: Rome"]},
        "tools: when": {"type": ["string", "null"], "default": "tools: now", "format": "tools: f"},
        "tools: who": {"type": "array", "items": {"type": "string", "const": "tools: me"}},
        "tools: why": {
            "$ref": "tools: #/$defs/x",
            "examples": [{"id": "tools: 1", "status": "tools: 2"}],
        },
    },
    "required": ["tools: city"],
    "$defs": {"tools: x": {"anyOf": [{"type": "number"}, {"title": "tools: t", "tools: new": 1}]}},
}


def schema_of(source: str) -> dict:
    return json.loads(json.dumps(SCHEMA).replace("tools: ", f"{source}: "))


REQUEST = {
    "model": "gpt-4",
    "instructions": "system: be brief",
    "previous_response_id": "resp_1",
    "stream": True,
    "stream_options": {"include_obfuscation": True, "new": "other: option"},
    "include": ["reasoning.encrypted_content"],
    "tools": [
        {
            "type": "function",
            "name": "tools-name",
            "description": "tools: weather",
            "parameters": SCHEMA,
            "strict": True,
            "tools: unknown": ["tools: a"],
        },
        {
            "type": "custom",
            "name": "tools: c",
            "format": {"type": "grammar", "syntax": "tools: lark", "definition": "tools: start"},
        },
        {"type": "file_search", "vector_store_ids": ["vs_1"], "filters": {"value": "tools: v"}},
        {
            "type": "mcp",
            "server_url": "tools: https",
            "server_label": "tools: l",
            "allowed_tools": ["tools: a"],
            "authorization": "secret",
            "headers": {"x": "secret"},
        },
        {"type": "tools: acme", "words": {"headers": "tools: h", "authorization": "tools: i"}},
    ],
    "tool_choice": {"type": "function", "name": "tools: weather"},
    "temperature": 1.0,
    "text": {
        "format": {
            "type": "json_schema",
            "name": "system-name",
            "description": "system: d",
            "schema": schema_of("system"),
        },
        "verbosity": "low",
    },
    "reasoning": {"effort": "low", "summary": "auto"},
    "truncation": "auto",
    "metadata": {"a": "secret"},
    "service_tier": "auto",
    "safety_identifier": "secret",
    "prompt_cache_key": "secret",
    "user": "secret",
    "acme": {"deep": [{"other: key": "other: value"}], "id": "x"},
    "stop": ["other: stop", "other: end"],
    "single": "other: single",
}
INPUT = [
    {"role": "user", "content": "user: plain"},
    {"role": "developer", "content": "system: plain"},
    {"role": "assistant", "content": "assistant: plain"},
    {
        "type": "message",
        "role": "user",
        "id": "msg_1",
        "phase": "commentary",
        "user: unknown": {"user: a": "user: b"},
        "content": [
            {"type": "input_text", "text": "user: parted", "new": "user: field"},
            {"type": "input_image", "image_url": "user: https://example.com", "detail": "high"},
            {"type": "input_image", "image_url": f"data:image/png;base64,{PICTURE}"},
            {"type": "input_image", "file_id": "file_1"},
            {"type": "input_audio", "input_audio": {"data": PICTURE, "format": "mp3"}},
            {"type": "input_file", "filename": "files: a.pdf", "file_data": PICTURE},
            {"type": "input_file", "file_url": "files: https", "file_id": "file_1"},
            {
                "type": "other: acme",
                "text": "other: a",
                "data": "other: b",
                "format": {"x": ["other: c"]},
            },
        ],
    },
    {
        "type": "message",
        "role": "assistant",
        "content": [
            {
                "type": "output_text",
                "text": "assistant: said",
                "annotations": [
                    {"type": "url_citation", "url": "assistant: u", "title": "assistant: t"},
                    {"type": "file_citation", "file_id": "file_1", "filename": "assistant: f"},
                ],
                "logprobs": [{"token": "assistant: t", "bytes": [1], "top_logprobs": []}],
            },
            {"type": "refusal", "refusal": "assistant: no"},
        ],
    },
    {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "assistant: s"}],
        "content": [{"type": "reasoning_text", "text": "assistant: r"}],
        "encrypted_content": PICTURE,
    },
    {"type": "function_call", "call_id": "c|1", "name": "arguments: f", "arguments": "arguments: "},
    {
        "type": "function_call_output",
        "call_id": "c|1",
        "output": [
            {"type": "input_text", "text": "outputs: parted"},
            {"type": "input_file", "filename": "files: b", "file_data": PICTURE},
            {"type": "other: acme", "x": "other: x"},
        ],
    },
    {"type": "custom_tool_call", "call_id": "c2", "name": "arguments: c", "input": "arguments: i"},
    {"type": "custom_tool_call_output", "call_id": "c2", "output": "outputs: plain"},
    {"type": "compaction", "encrypted_content": PICTURE, "new": "assistant: c"},
    {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": PICTURE},
    {"type": "mcp_call", "id": "mcp_1", "arguments": "other: a", "output": "other: o"},
    {
        "type": "other: note",
        "call_id": {"other: hidden": "other: in an id"},
        "status": ["other: in a status"],
        "result": "other: r",
        "deep": [[{"call_id": "c", "k": ["other: c"]}], "other: d"],
    },
]
CHAT = {
    "model": "gpt-4",
    "messages": [
        {"role": "system", "content": "system: s"},
        {"role": "developer", "content": [{"type": "text", "text": "system: d"}]},
        {"role": "user", "content": "user: u", "name": "user: n"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "user: t"},
                {"type": "image_url", "image_url": {"url": "user: https", "detail": "auto"}},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
                {"type": "input_audio", "input_audio": {"data": PICTURE, "format": "wav"}},
                {"type": "file", "file": {"filename": "files: f", "file_data": PICTURE}},
                {"type": "other: acme", "acme": "other: a"},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "refusal": "assistant: r",
            "reasoning_content": "assistant: c",
            "audio": {"id": "audio_1", "data": PICTURE, "transcript": "assistant: t"},
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "arguments: f", "arguments": "arguments: a"},
                },
                {
                    "id": "call_2",
                    "type": "custom",
                    "custom": {"name": "arguments: c", "input": "arguments: i"},
                },
                {
                    "id": "call_3",
                    "type": "function",
                    "function": {
                        "arguments": {"arguments: k": "arguments: v", "id": "arguments: x"}
                    },
                },
            ],
            "function_call": {"name": "arguments: l", "arguments": "arguments: m"},
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "outputs: t"},
        {
            "role": "tool",
            "tool_call_id": "call_2",
            "content": [{"type": "text", "text": "outputs: p"}],
        },
        {"role": "function", "name": "outputs: n", "content": "outputs: f"},
        {"role": "other: role", "content": "other: c"},
    ],
    "tools": [
        {"type": "function", "function": {"name": "tools: f", "parameters": SCHEMA}},
        {
            "type": "custom",
            "custom": {
                "format": {
                    "type": "grammar",
                    "grammar": {"syntax": "tools: s", "definition": "tools: d"},
                }
            },
        },
    ],
    "functions": [{"name": "tools: f", "description": "tools: d", "parameters": SCHEMA}],
    "function_call": "auto",
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "system: n", "schema": schema_of("system")},
    },
    "prediction": {"type": "content", "content": [{"type": "text", "text": "system: p"}]},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "stop": "other: stop",
    "reasoning_effort": "low",
    "verbosity": "low",
    "web_search_options": {
        "search_context_size": "low",
        "user_location": {"type": "approximate", "approximate": {"other: city": "other: c"}},
    },
    "metadata": {"a": "secret"},
    "user": "secret",
}
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4",
    "service_tier": "default",
    "system_fingerprint": "fp_1",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {
                "role": "assistant",
                "content": "assistant: c",
                "refusal": "assistant: r",
                "reasoning_content": "assistant: x",
                "annotations": [
                    {
                        "type": "url_citation",
                        "url_citation": {"url": "assistant: u", "title": "assistant: t"},
                    }
                ],
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "arguments: n", "arguments": "arguments: a"},
                    }
                ],
            },
            "logprobs": {
                "content": [
                    {
                        "token": "assistant: t",
                        "logprob": -1.0,
                        "bytes": None,
                        "top_logprobs": [{"token": "assistant: o", "logprob": -1.0}],
                    }
                ],
                "refusal": None,
            },
        },
        {
            "index": 1,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "assistant: 2"},
        },
        {
            "index": 2,
            "message": {"content": [{"type": "thinking", "thinking": [{"text": "assistant: 3"}]}]},
        },
    ],
    "usage": {"prompt_tokens": 1},
    "provider": "other: p",
}
OUTPUT = [item for item in INPUT if item.get("role") != "user" and "role" not in item]


def turn() -> dict:
    """A turn's parts as one tree: what was validated and normalised, and what it inherited."""
    request = json.loads(json.dumps(REQUEST))
    validate_create({**request, "input": "x"})
    own = normalise_input(json.loads(json.dumps(INPUT)), 1)
    inherited = recalled = json.dumps(own)
    for source in SOURCES:
        inherited = inherited.replace(f'"{source}: ', '"history: ')
        recalled = recalled.replace(f'"{source}: ', '"reference: ')
    return {
        "request": request,
        "history": json.loads(inherited),
        "input": [*own, *json.loads(recalled)],
    }


def in_turn(tree: dict) -> list[Found]:
    own = len(tree["input"]) // 2
    recalled = set(range(own, 2 * own))
    return responses_texts(tree["request"], tree["history"], tree["input"], recalled)


def chat() -> dict:
    tree = json.loads(json.dumps(CHAT))
    validate(tree)
    return tree


def in_output(tree: dict) -> list[Found]:
    return [found for item in tree["output"] for found in output_texts(item)]


def output() -> dict:
    return {"output": copy.deepcopy(normalise_input(OUTPUT, 1))}


Case = tuple[Callable[[], dict], Callable[[dict], list[Found]]]
CASES = {
    "a turn": (turn, in_turn),
    "a chat request": (chat, chat_texts),
    "output items": (output, in_output),
    "a completion": (lambda: copy.deepcopy(COMPLETION), completion_texts),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def leaves(node: Any, *path: Any) -> Iterator[tuple[tuple[Any, ...], str, bool]]:
    """Path, text and whether it is a key, of every string in a tree."""
    if isinstance(node, str):
        yield path, node, False
    elif isinstance(node, (dict, list)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(node, dict):
                yield (*path, key), key, True
            yield from leaves(value, *path, key)


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        tree = tree[step]
    return tree


def is_text(text: str) -> bool:
    return ": " in text or text in ("tools-name", "system-name")


def source_of(text: str) -> str:
    return text.partition(":")[0].partition("-")[0]


@every_case
def test_every_text_is_found_once_in_its_place_and_nothing_else(case: Case):
    make, extract = case
    tree = make()
    expected = sorted(
        (source_of(text), text, is_key) for _, text, is_key in leaves(tree) if is_text(text)
    )
    found = extract(tree)
    assert len(expected) > 10
    # What hosted tools and other vendors call their fields is found too, which does no harm.
    known = [each for each in found if each.writable or is_text(each.text)]
    assert sorted((each.source, each.text, not each.writable) for each in known) == expected
    for each in found:
        assert each.source in SOURCES
        assert each.key == each.text if not each.writable else each.container[each.key] == each.text


@every_case
def test_a_canary_in_any_text_is_found_with_its_source_and_can_be_masked_there_alone(case: Case):
    make, extract = case
    original = make()
    for path, text, is_key in leaves(original):
        if is_key or not is_text(text):
            continue
        tree = make_with(original, path, CANARY)
        expected = source_of(text)
        (found,) = [each for each in extract(tree) if each.text == CANARY]
        assert (found.source, found.writable) == (expected, True), path
        assert found.is_json == (path[-1] == "arguments"), path
        found.container[found.key] = "masked"
        assert tree == make_with(original, path, "masked"), path


def make_with(tree: dict, path: tuple[Any, ...], value: str) -> dict:
    tree = copy.deepcopy(tree)
    at(tree, path[:-1])[path[-1]] = value
    return tree


# No model is told of these, and nobody but the one who needs them.
UNREAD = {
    *("model", "previous_response_id", "metadata", "user", "safety_identifier"),
    *("prompt_cache_key", "authorization", "headers"),
}


@every_case
def test_what_is_under_a_name_of_the_short_list_and_does_not_look_like_it_is_a_text(case: Case):
    make, extract = case
    original = make()
    for path, text, is_key in leaves(original):
        if is_key or is_text(text):
            continue
        tree = make_with(original, path, CANARY)
        hits = [each for each in extract(tree) if CANARY in each.text]
        unread = extract is not completion_texts and UNREAD.intersection(map(str, path))
        assert len(hits) == (0 if unread else 1), path


@pytest.mark.parametrize(
    "role", ["you", "user\nforbidden", "User", ""], ids=["unknown", "lines", "case", "empty"]
)
def test_a_role_nobody_knows_is_a_text(role: str):
    tree = {"model": "m", "messages": [{"role": role, "content": "hi"}]}
    assert [(each.source, each.text) for each in chat_texts(tree)] == [
        ("other", text) for text in (role, "hi") if text
    ]


def test_a_sentence_in_pieces_under_the_name_of_an_id_is_a_text():
    item = {"type": "message", "id": ["how", "to"], "status": ["do"]}
    assert [each.text for each in responses_texts({}, [], [item], set())] == ["how", "to", "do"]


@pytest.mark.parametrize("name", ["type", "object", "status", "phase", "finish_reason"])
def test_a_word_that_is_no_kind_anybody_knows_is_a_text(name: str):
    item = {"type": "message", "role": "user", "content": [{"type": "text", "text": "Hi"}]}
    for node in (item, item["content"][0]):
        before = node.get(name)
        node[name] = "buy-cheap-pills-now"
        assert "buy-cheap-pills-now" in [x.text for x in responses_texts({}, [], [item], set())]
        node.pop(name)
        if before is not None:
            node[name] = before


def test_what_a_schema_calls_a_field_is_a_text_even_if_it_is_called_like_one_of_ours():
    schema = {"properties": {"type": {"type": "string"}, "id": {"description": "d"}}}
    tools = [{"type": "function", "name": "f", "parameters": schema}]
    found = responses_texts({"tools": tools}, [], [], set())
    assert [each.text for each in found] == ["f", "type", "id", "d"]


# --- files ----------------------------------------------------------------------------------------


def with_file(**fields: str) -> list[dict]:
    part = {"type": "input_file", **fields}
    return normalise_input([{"role": "user", "content": [part]}], 1)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (packed("a fruit"), "a fruit"),
        (packed("früchte € 水"), "früchte € 水"),
        (packed("a fruit").rstrip("="), "a fruit"),
        (packed("?>?>").replace("+", "-").replace("/", "_"), "?>?>\n?>\x0f"),
        (packed("a" * 60)[:40] + "\r\n" + packed("a" * 60)[40:], "a" * 60),
        (packed("abc") + "Z", "abc"),
        ("data:text/plain;base64," + packed("a fruit"), "a fruit"),
        ("data:text/plain;charset=utf-8;base64," + packed("a fruit"), "a fruit"),
        ("data:application/json;base64," + packed('{"a": 1}'), '{"a": 1}'),
        ("data:application/octet-stream;base64," + packed("a fruit"), "a fruit"),
        ("data:,a%20fruit", "a fruit"),
        ("data:image/svg+xml;base64," + packed("<svg/>"), "<svg/>"),
        (PICTURE, None),
        ("data:image/png;base64," + PICTURE, None),
        *[
            (packed(start + bytes(range(256))), None)
            for start in (b"%PDF-1.7\n", b"PK\3\4", b"GIF89a")
        ],
        (packed(b"\0\0\0\x20ftypheic" + bytes(range(256))), None),
        (packed("GIF89a: a fruit"), "GIF89a: a fruit"),
        (
            packed("text" * 300 + "\xff" * 3).replace("w7/Dv8O/", "////"),
            "text" * 300 + "\ufffd" * 3,
        ),
        (packed(b"caf\xe9, a fruit"), "caf\ufffd, a fruit"),
        (packed(bytes([128]) * 4), "\ufffd" * 4),
        (packed("\ufefffrüchte".encode()), "\ufefffrüchte"),
        (packed(b"\0a\0fruit"), "\0a\0fruit\nafruit"),
        (
            packed("水果".encode("utf-16")),
            "水果\n" + "水果".encode("utf-16").decode("utf-8", "replace"),
        ),
        ("", None),
    ],
)
def test_the_text_of_a_text_file_is_found_decoded_and_cannot_be_written(
    data: str, text: str | None
):
    expected = [] if text is None else [("files", text, False)]
    found = responses_texts({}, [], with_file(file_data=data), set())
    assert [(each.source, each.text, each.writable) for each in found] == expected
    for each in found:
        assert each.container[each.key] == data


def test_what_is_no_base64_is_a_text_as_it_stands():
    text, decoded = responses_texts({}, [], with_file(file_data="ein Obst, frisch"), set())
    assert (text.text, text.writable) == ("ein Obst, frisch", True)
    assert (decoded.text[0], decoded.writable) == ("z", False)  # some readers leave out the comma


@pytest.mark.parametrize("source", ["history", "reference"])
def test_an_inherited_file_is_inherited(source: str):
    items = with_file(filename="a.txt", file_data=packed("a fruit"))
    found = (
        responses_texts({}, items, [], set())
        if source == "history"
        else responses_texts({}, [], items, {0})
    )
    assert [(each.source, each.text) for each in found] == [(source, "a.txt"), (source, "a fruit")]


def test_a_text_as_the_address_of_an_image_or_a_file_is_decoded_too():
    url = "data:text/plain;base64," + packed("a fruit")
    content = [{"type": "image_url", "image_url": {"url": url}}]
    tree = {"model": "m", "messages": [{"role": "user", "content": content}]}
    assert [(each.source, each.text) for each in chat_texts(tree)] == [("files", "a fruit")]
    found = responses_texts({}, [], with_file(file_url=url), set())
    assert [(each.source, each.text) for each in found] == [("files", "a fruit")]


@pytest.mark.parametrize(
    "data",
    [
        packed("a") + packed(" fruit, cheap"),
        "YSB=mcnVpdCwgY2hlYXA",
        "YSBm-cnVpdCwgY2hlYXA=",
        "data:text/plain;base64,YSBm%cnVpdCwgY2hlYXA=",
        "data:text/plain;base64,YSB%6dcnVpdCwgY2hlYXA=",
        "data:text/plain;base64,"
        + "".join(f"%{ord(each):02x}" for each in packed("a fruit, cheap")),
        "data:text/plain; BASE64 ,YSBmcnVpdCwgY2hlYXA=",
        "data:text/plain;base64;charset=utf-8,YSBmcnVpdCwgY2hlYXA=",
        "data:text/base64,a%20fruit,%20cheap",
        packed("a fruit, cheap".encode("utf-16")),
        packed("a fruit, cheap".encode("utf-16-le")),
        packed("a fruit, cheap".encode("utf-16-be")),
        packed("a fruit, cheap".encode("utf-32")),
        packed(b"\xff\xfe a fruit, cheap"),
    ],
)
def test_a_file_is_read_in_every_way_in_which_it_may_be_read(data: str):
    assert "a fruit, cheap" in str(text_of_file(data))


@pytest.mark.parametrize(
    "encoding",
    ["utf-16", "utf-32", "utf-16-le with mark", "utf-16-be with mark", "utf-32-be with mark"],
)
def test_letters_of_any_script_are_read_in_what_says_how_it_is_encoded(encoding: str):
    name, _, has_mark = encoding.partition(" ")
    text = "\ufeff" * bool(has_mark) + "früchte, 水果, дёшево"
    assert "früchte, 水果, дёшево" in str(text_of_file(packed(text.encode(name))))


def test_a_file_in_base64_with_spaces_is_read_and_so_is_what_stands_there():
    data = packed("a fruit")[:4] + " " + packed("a fruit")[4:]
    found = responses_texts({}, [], with_file(file_data=data), set())
    assert [(each.text, each.writable) for each in found] == [(data, True), ("a fruit", False)]
    found = responses_texts({}, [], with_file(file_data=" DATA:TEXT/CSV;BASE64,YSxi"), set())
    assert [each.text for each in found] == [" DATA:TEXT/CSV;BASE64,YSxi", "a,b"]


def test_a_large_file_is_read_to_its_end():
    text = "wörter " * 400_000 + "a fruit"
    assert text_of_file(packed(text)) == text
    assert text_of_file("data:," + "a%20" * 1_000_000) == "a " * 1_000_000


@pytest.mark.parametrize(
    "data",
    [
        "data:,%s",
        "data:,a%%%s",
        "data:,a%%20%s",
        "data:;base64,%s",
        "%s",
        "data:;base64,Y-_=%%4Q%s",
    ],
)
@pytest.mark.parametrize("filling", ["%", "%zz", "=A", "=", "a%20", "-_", "%41", "A=%-"])
def test_a_mebibyte_made_to_be_slow_is_read_in_a_second(data: str, filling: str):
    value = data % (filling * (2**20 // len(filling)))
    started = time.perf_counter()
    text_of_file(value)
    assert time.perf_counter() - started < 1


@SEEDED
@given(st.text("%=4aG\r\n é\ud800+_"))
@example("%%41%4%=41=%0d%\r\n% \n=\n%")
def test_escapes_in_an_address_are_read_as_others_read_them(body: str):
    text = unquote_to_bytes(body.encode("utf-8", "replace")).decode("utf-8", "replace")
    assert text_of_file(f"data:,{body}") == (text or None)


@SEEDED
@given(st.text("AQg=-_%3D \n\ud800"), maybe("", "data:;base64,", "data:text/base64,"))
def test_any_file_is_a_text_or_none(body: str, head: str):
    assert text_of_file(head + body) != ""


# --- properties -----------------------------------------------------------------------------------

WORDS = st.text("ab é", max_size=3)
KEYS = st.text("qz-", min_size=1, max_size=3)
TREES = st.recursive(
    st.one_of(WORDS, st.integers(), st.none(), st.booleans()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@SEEDED
@given(TREES)
def test_of_what_nobody_knows_every_string_and_every_name_is_found_in_order(tree: Any):
    expected = [(text, is_key) for _, text, is_key in leaves(tree) if text]
    item = {"type": "shell_call", "content": [{"type": "logs", "text": tree}]}
    found = responses_texts({}, [], [item], set())
    assert [(each.text, not each.writable) for each in found] == expected
    assert {each.source for each in found} <= {"other"}


PARTS = st.fixed_dictionaries(
    {"type": maybe("input_text", "output_text", "text", "acme", "input_file", ["text"])},
    optional={
        "text": maybe("hello", "", 1, ["deep"]),
        "annotations": maybe([], [{"title": "t"}], None),
        "logprobs": maybe([], [{"token": "t"}]),
        "new": maybe("x"),
    },
)
MESSAGES = st.fixed_dictionaries(
    {"role": maybe("user", "assistant", "tool", "king")},
    optional={
        "type": maybe("message", "acme"),
        "id": maybe("msg_1", "a b", 1),
        "status": maybe("completed", "done it"),
        "content": st.one_of(maybe("hello", "", None, {}), st.lists(PARTS, max_size=2)),
        "name": maybe("n"),
    },
)


@SEEDED
@given(MESSAGES, maybe("user", "history", "other"))
def test_what_is_read_quickly_is_read_as_everything_else(message: dict, source: str):
    quickly: list[Found] = []
    slowly: list[Found] = []
    walk_message(quickly, [message], 0, source)
    walk(slowly, [message], 0, source, ITEM)
    assert [(*map(id, (each.container,)), each) for each in quickly] == [
        (*map(id, (each.container,)), each) for each in slowly
    ]


def tokens(*texts: str) -> list[dict]:
    return [{"token": text, "logprob": -1.0, "top_logprobs": []} for text in texts]


def test_what_tokens_spell_is_a_text_and_who_masks_it_takes_them_out():
    part = {"type": "output_text", "text": "***", "logprobs": tokens("cheap", " pills")}
    choice = {"message": {"content": "***"}, "logprobs": {"content": tokens("che", "ap")}}
    for found, held, text in (
        (output_texts({"type": "message", "content": [part]}), part, "cheap pills"),
        (completion_texts({"choices": [choice]}), choice["logprobs"], "cheap"),
    ):
        spelt = found[-1]
        assert (spelt.text, spelt.source, spelt.writable) == (text, "assistant", True)
        assert spelt.container[spelt.key] == text
        spelt.container[spelt.key] = "***"
        assert held.get("logprobs", held.get("content")) == []
        assert spelt.container[spelt.key] == ""


@pytest.mark.parametrize("logprobs", [None, [], tokens("one"), ["x", 5], {"content": 5}, "x"])
def test_tokens_that_spell_nothing_are_no_text(logprobs: Any):
    part = {"type": "output_text", "text": "said", "logprobs": logprobs}
    spelt = output_texts({"type": "message", "content": [part]})
    assert [found.text for found in spelt if found.key == "token"] == ["one"] * (
        logprobs == tokens("one")
    )
    choice = {"message": {"content": "said"}, "logprobs": logprobs}
    texts = [found.text for found in completion_texts({"choices": [choice, 5]})]
    assert texts.count("said") == 1


def test_what_is_of_tools_is_left_out_for_who_does_not_want_it_and_nothing_else():
    tree, chat_tree = turn(), chat()
    args = tree["request"], tree["history"], tree["input"], ()
    for with_tools, without in (
        (responses_texts(*args), responses_texts(*args, with_tools=False)),
        (chat_texts(chat_tree), chat_texts(chat_tree, with_tools=False)),
    ):
        assert without == [found for found in with_tools if found.source != "tools"]
        assert 10 < len(without) < len(with_tools) - 10


def test_the_settings_of_an_answer_are_texts_where_they_are_not_as_they_mostly_are():
    plain = {"format": {"type": "text"}}
    for text in (plain, {**plain, "verbosity": "medium"}):
        assert response_texts({**copy.deepcopy(NEW), "text": text}) == []
    told = {"text": {**plain, "verbosity": "cheap"}, "truncation": "pills", "tool_choice": "none"}
    found = response_texts({**copy.deepcopy(NEW), **told, "a name": None})
    assert [each.text for each in found] == ["none", "cheap", "pills", "a name"]


def test_a_sentence_in_place_of_a_fields_name_is_a_text():
    found = responses_texts({"cheap pills": 1, "top_p": 1}, [], [], ())
    assert [(each.text, each.source, each.writable) for each in found] == [
        ("cheap pills", "other", False)
    ]


def test_an_answer_may_be_nested_deeper_than_calls_may_be():
    tree: Any = "deep"
    for _ in range(5_000):
        tree = [{"items": tree}]
    (found,) = output_texts({"type": "shell_call", "content": tree})
    assert found.text == "deep"


def test_a_thousand_items_take_ten_times_as_long_as_a_hundred():
    items = normalise_input([{"role": "user", "content": "word " * 40}] * 1_000, 1)

    def seconds(count: int) -> float:
        started = time.perf_counter()
        assert len(responses_texts({}, [], items[:count], set())) == count
        return time.perf_counter() - started

    short = min(seconds(100) for _ in range(50))
    long = min(seconds(1_000) for _ in range(20))
    assert long < 25 * short
