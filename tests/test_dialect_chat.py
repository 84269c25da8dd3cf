"""Requests and whole answers of Chat Completions, both ways."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anos import chat_answers, chat_requests, dialect_chat, items
from anos.config_sections import Quirks
from anos.errors import InvalidModel, InvalidRequest, UpstreamError
from anos.inputs import normalise_input
from anos.items import Answer, Turn
from anos.routing import Route

NOW_MS = 1_700_000_000_000
Json = dict[str, Any]


def route(**quirks: Any) -> Route:
    return Route("p", "chat", "deployed", Quirks(**quirks), False)


def turn(value: Any = "hi", history: list[Json] | None = None, **request: Any) -> Turn:
    stream = request.pop("stream", False)
    given = normalise_input(value, NOW_MS)
    return Turn("m", {"model": "m", **request}, given, history or [], stream)


def built(value: Any = "hi", **fields: Any) -> Json:
    return dialect_chat.build_request(turn(value, **fields), route())


def call(number: int, arguments: str = "{}") -> Json:
    named = {"call_id": f"call_{number}", "name": f"f{number}", "arguments": arguments}
    return {"type": "function_call", **named}


def output(number: int, said: Any = "ok") -> Json:
    return {"type": "function_call_output", "call_id": f"call_{number}", "output": said}


def chat_call(number: int, arguments: str = "{}") -> Json:
    function = {"name": f"f{number}", "arguments": arguments}
    return {"id": f"call_{number}", "type": "function", "function": function}


def without_ids(output: list[Json]) -> list[Json]:
    return [{k: v for k, v in item.items() if k != "id"} for item in output]


# --- build_request --------------------------------------------------------------------------------

IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "original"}
FILE = {"type": "input_file", "file_data": "data:,x", "filename": "x.txt", "file_id": None}


@pytest.mark.parametrize(
    ("value", "messages"),
    [
        ("hi", [{"role": "user", "content": "hi"}]),
        ([{"role": "developer", "content": "be"}], [{"role": "developer", "content": "be"}]),
        (
            [
                {
                    "role": "user",
                    "content": [{"type": "input_text", "text": "what?"}, IMAGE, FILE],
                }
            ],
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what?"},
                        {
                            "type": "image_url",
                            "image_url": {"url": IMAGE["image_url"], "detail": "high"},
                        },
                        {"type": "file", "file": {"file_data": "data:,x", "filename": "x.txt"}},
                    ],
                }
            ],
        ),
        (
            [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}],
            [{"role": "assistant", "content": "a\nb"}],
        ),
        (
            [
                {"role": "assistant", "content": "let me see"},
                {"type": "reasoning", "summary": []},
                call(1, '{"a":1}'),
                call(2, ""),
                output(1),
                output(2, [{"type": "input_text", "text": "fine"}]),
                call(3),
                output(3, [{"type": "input_text", "text": text} for text in "ab"]),
                {"role": "assistant", "content": "done"},
            ],
            [
                {
                    "role": "assistant",
                    "content": "let me see",
                    "tool_calls": [chat_call(1, '{"a":1}'), chat_call(2)],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "ok"},
                {"role": "tool", "tool_call_id": "call_2", "content": "fine"},
                {"role": "assistant", "content": None, "tool_calls": [chat_call(3)]},
                {
                    "role": "tool",
                    "tool_call_id": "call_3",
                    "content": [{"type": "text", "text": text} for text in "ab"],
                },
                {"role": "assistant", "content": "done"},
            ],
        ),
        (
            [
                {"type": "custom_tool_call", "call_id": "c", "name": "sh", "input": "ls"},
                {"type": "custom_tool_call_output", "call_id": "c", "output": "x"},
            ],
            [
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c", "type": "custom", "custom": {"name": "sh", "input": "ls"}}
                    ],
                },
                {"role": "tool", "tool_call_id": "c", "content": "x"},
            ],
        ),
        (
            [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}],
            [{"role": "assistant", "content": None, "refusal": "no"}],
        ),
        ([{"role": "assistant", "content": []}], [{"role": "assistant", "content": ""}]),
        # An output stands right behind its call, wherever it came.
        (
            [
                call(1),
                {"role": "user", "content": "also"},
                call(2),
                {"role": "assistant", "content": "hm"},
                output(2, "two"),
                {"role": "assistant", "content": "so"},
                output(1, "one"),
                call(1),
                output(1, "again"),
            ],
            [
                {"role": "assistant", "content": None, "tool_calls": [chat_call(1)]},
                {"role": "tool", "tool_call_id": "call_1", "content": "one"},
                {"role": "user", "content": "also"},
                {"role": "assistant", "content": "hm", "tool_calls": [chat_call(2)]},
                {"role": "tool", "tool_call_id": "call_2", "content": "two"},
                {"role": "assistant", "content": "so"},
                {"role": "assistant", "content": None, "tool_calls": [chat_call(1)]},
                {"role": "tool", "tool_call_id": "call_1", "content": "again"},
            ],
        ),
        (
            [call(1), call(2), output(2), {"role": "assistant", "content": "wait"}, output(1)],
            [
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [chat_call(1), chat_call(2)],
                },
                {"role": "tool", "tool_call_id": "call_2", "content": "ok"},
                {"role": "tool", "tool_call_id": "call_1", "content": "ok"},
                {"role": "assistant", "content": "wait"},
            ],
        ),
    ],
)
def test_items_become_messages(value: Any, messages: list[Json]) -> None:
    assert built(value)["messages"] == messages


def test_instructions_come_first_and_history_before_input() -> None:
    history = normalise_input("before", NOW_MS)
    body = built("after", history=history, instructions="be kind")
    assert [message["content"] for message in body["messages"]] == ["be kind", "before", "after"]


FUNCTION = {"type": "function", "name": "f", "description": None, "parameters": {}, "strict": True}
CUSTOM = {
    "type": "custom",
    "name": "c",
    "format": {"type": "grammar", "syntax": "lark", "definition": "d"},
}
SCHEMA = {"name": "s", "schema": {"type": "object"}, "strict": True}


@pytest.mark.parametrize(
    ("request_fields", "body_fields"),
    [
        ({}, {}),
        ({"max_output_tokens": 7}, {"max_completion_tokens": 7}),
        ({"temperature": 0.0, "top_p": 0.5, "user": "u"},) * 2,
        ({"seed": 3, "acme": {"x": None}, "service_tier": "flex"},) * 2,
        ({"store": True, "metadata": {"a": "b"}, "previous_response_id": "resp_1"}, {}),
        ({"truncation": "auto", "prompt_cache_key": "k", "max_tool_calls": 1}, {}),
        ({"prompt_cache_retention": "24h", "prompt_cache_options": {"ttl": "30m"}}, {}),
        ({"safety_identifier": "s"},) * 2,
        ({"text": {"verbosity": "low"}}, {}),
        ({"text": {"verbosity": None, "format": None, "acme": None}}, {}),
        ({"text": {"verbosity": "low"}, "verbosity": "high"}, {"verbosity": "high"}),
        ({"reasoning": {"summary": "auto", "mode": "standard", "context": "all_turns"}}, {}),
        ({"reasoning": {"effort": "high"}}, {"reasoning_effort": "high"}),
        (
            {"reasoning": {"effort": "high"}, "reasoning_effort": "low"},
            {"reasoning_effort": "high"},
        ),
        ({"messages": [{"role": "user", "content": "smuggled"}]}, {}),
        ({"text": {"format": {"type": "text"}}}, {}),
        (
            {"text": {"format": {"type": "json_object"}}},
            {"response_format": {"type": "json_object"}},
        ),
        (
            {"text": {"format": {"type": "json_schema", **SCHEMA, "description": None}}},
            {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
        ),
        ({"top_logprobs": 2}, {}),
        (
            {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
            {"logprobs": True, "top_logprobs": 2},
        ),
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {}),
        (
            {"tools": [FUNCTION, CUSTOM], "tool_choice": "auto", "parallel_tool_calls": False},
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": {}, "strict": True},
                    },
                    {
                        "type": "custom",
                        "custom": {
                            "name": "c",
                            "format": {
                                "type": "grammar",
                                "grammar": {"syntax": "lark", "definition": "d"},
                            },
                        },
                    },
                ],
                "tool_choice": "auto",
                "parallel_tool_calls": False,
            },
        ),
        (
            {"tool_choice": {"type": "function", "name": "f"}},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "name": "f"}],
                }
            },
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "auto",
                        "tools": [{"type": "function", "function": {"name": "f"}}],
                    },
                }
            },
        ),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
    ],
)
def test_settings_are_translated(request_fields: Json, body_fields: Json) -> None:
    body = built(**request_fields)
    assert body.pop("model") == "deployed"
    assert body.pop("messages") == [{"role": "user", "content": "hi"}]
    assert body == body_fields


def test_quirks_of_the_upstream_are_respected() -> None:
    wanted = turn(stream=True, max_output_tokens=5)
    odd = route(include_usage=False, max_tokens_field="max_tokens")
    body = dialect_chat.build_request(wanted, odd)
    assert body["max_tokens"] == 5
    assert "stream_options" not in body
    assert "max_completion_tokens" not in body


def user(*parts: Json) -> list[Json]:
    return [{"role": "user", "content": list(parts)}]


@pytest.mark.parametrize(
    ("value", "fields", "param"),
    [
        ("hi", {"tools": [FUNCTION, {"type": "web_search"}]}, "tools[1].type"),
        ("hi", {"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ("hi", {"prompt": {"id": "p"}}, "prompt"),
        ("hi", {"text": {"format": {"type": "regex"}}}, "text.format.type"),
        ("hi", {"text": {"acme": 1}}, "text.acme"),
        ("hi", {"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ("hi", {"reasoning": {"effort": "low", "max_tokens": 9}}, "reasoning.max_tokens"),
        ("hi", {"reasoning": {"x" * 300: 1}}, f"reasoning.{'x' * 246}"),
        (
            user({"type": "input_file", "file_url": "http://x"}),
            {},
            "input[0].content[0].file_url",
        ),
        (
            user({"type": "input_text", "text": "a"}, {"type": "input_image", "file_id": "f"}),
            {},
            "input[0].content[1].file_id",
        ),
        (user({"type": "input_audio", "input_audio": {}}), {}, "input[0].content[0].type"),
        ([call(1), output(1, [IMAGE])], {}, "input[1].output[0].type"),
        ([{"type": "function_call_output", "name": "f", "output": "x"}], {}, "input[0].call_id"),
        ([call(1), output(1), output(1)], {}, "input[2].call_id"),
        ([output(1), call(1)], {}, "input[0].call_id"),
        ([{"type": "web_search_call", "id": "ws_1"}], {}, "input[0].type"),
        ("hi", {"history": [{"type": "mcp_call", "id": "mcp_1"}]}, "previous_response_id"),
    ],
)
def test_what_chat_cannot_say_is_refused_with_its_place(
    value: Any, fields: Json, param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        built(value, **fields)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", param)


# --- validate, forward_request --------------------------------------------------------------------

HELLO = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": None}, "messages", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
        (
            {"messages": [{"role": "user", "content": 1}]},
            "messages[0].content",
            "invalid_value",
        ),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_value"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_value"),
        ({"tools": [1]}, "tools[0]", "invalid_value"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"api_base": "http://x"}, "api_base", "unsupported_parameter"),
    ],
)
def test_a_bad_chat_request_is_refused_with_its_place(fields: Json, param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat_requests.validate({**HELLO, **fields})
    assert (caught.value.param, caught.value.code) == (param, code)


def test_an_impossible_model_name_is_an_invalid_model() -> None:
    with pytest.raises(InvalidModel):
        chat_requests.validate({**HELLO, "model": "../x"})


def test_nulls_unknown_fields_and_store_false_are_fine() -> None:
    nulls = dict.fromkeys(["stream", "temperature", "tools", "stop", "n", "user", "max_tokens"])
    chat_requests.validate({**HELLO, **nulls, "acme": [1], "store": False})


@pytest.mark.parametrize(
    ("quirks", "fields", "forwarded"),
    [
        ({}, {}, {}),
        ({}, *({"n": 2, "acme": {"x": None}, "stop": ["a"]},) * 2),
        ({}, {"store": False, "metadata": {"a": "b"}}, {}),
        ({}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        (
            {},
            {"stream": True, "stream_options": {"include_usage": False, "x": 1}},
            {"stream": True, "stream_options": {"include_usage": True, "x": 1}},
        ),
        (
            {"include_usage": False},
            {"stream": True, "stream_options": {"include_usage": True}},
            {"stream": True},
        ),
        ({}, {"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_tokens_field": "max_tokens"}, {"max_completion_tokens": 5}, {"max_tokens": 5}),
        (
            {"max_tokens_field": "max_tokens"},
            {"max_completion_tokens": 5, "max_tokens": 9},
            {"max_tokens": 5},
        ),
        ({}, {"max_completion_tokens": 5, "max_tokens": 9}, {"max_completion_tokens": 5}),
        (
            {"max_tokens_field": "max_tokens"},
            {"max_completion_tokens": None, "max_tokens": 9},
            {"max_tokens": 9},
        ),
        ({}, {"max_completion_tokens": None, "max_tokens": None}, {}),
    ],
)
def test_a_chat_request_is_forwarded_as_it_is(quirks: Json, fields: Json, forwarded: Json) -> None:
    tree = {**HELLO, **fields}
    before = json.dumps(tree)
    body = chat_requests.forward_request(tree, route(**quirks))
    assert body == {**HELLO, "model": "deployed", **forwarded}
    assert json.dumps(tree) == before


# --- parse_request --------------------------------------------------------------------------------


def parsed(*messages: Json, **fields: Any) -> Turn:
    tree = {**HELLO, **({"messages": list(messages)} if messages else {}), **fields}
    chat_requests.validate(tree)
    return chat_requests.parse_request(tree, NOW_MS)


def test_messages_become_items() -> None:
    custom = {"id": "c2", "type": "custom", "custom": {"name": "sh", "input": "ls"}}
    parts = [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "http://i", "detail": "low"}},
        {"type": "file", "file": {"file_id": "f"}},
    ]
    read = parsed(
        {"role": "system", "content": "be"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "see", "tool_calls": [chat_call(1, ""), custom]},
        {"role": "tool", "tool_call_id": "call_1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "two"}]},
        {"role": "assistant", "content": None, "refusal": "no"},
    )
    said = {"type": "output_text", "text": "see", "annotations": []}
    assert without_ids(read.input) == [
        {"status": "completed", **item}
        for item in (
            {
                "type": "message",
                "role": "system",
                "content": [{"type": "input_text", "text": "be"}],
            },
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "what?"},
                    {"type": "input_image", "image_url": "http://i", "detail": "low"},
                    {"type": "input_file", "file_id": "f"},
                ],
            },
            {"type": "message", "role": "assistant", "content": [said]},
            call(1),
            {"type": "custom_tool_call", "call_id": "c2", "name": "sh", "input": "ls"},
            output(1, "one"),
            {
                "type": "custom_tool_call_output",
                "call_id": "c2",
                "output": [{"type": "input_text", "text": "two"}],
            },
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "refusal", "refusal": "no"}],
            },
        )
    ]
    assert all(item["id"] for item in read.input)


@pytest.mark.parametrize(
    ("fields", "request_fields"),
    [
        ({"max_tokens": 5}, {"max_output_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 6}, {"max_output_tokens": 6}),
        ({"temperature": 0, "user": "u", "seed": 1}, {"temperature": 0, "user": "u"}),
        ({"acme": 1, "stop": None, "n": 1}, {"acme": 1}),
        (
            {"reasoning_effort": "low", "verbosity": "high"},
            {"reasoning": {"effort": "low"}, "text": {"verbosity": "high"}},
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
            {"text": {"format": {"type": "json_schema", **SCHEMA}}},
        ),
        (
            {"logprobs": True, "top_logprobs": 3},
            {"include": ["message.output_text.logprobs"], "top_logprobs": 3},
        ),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f"}}],
                "tool_choice": {"type": "function", "function": {"name": "f"}},
            },
            {
                "tools": [{"type": "function", "name": "f", "strict": False}],
                "tool_choice": {"type": "function", "name": "f"},
            },
        ),
    ],
)
def test_chat_settings_become_responses_settings(fields: Json, request_fields: Json) -> None:
    assert parsed(**fields).request == {"model": "m", "store": False, **request_fields}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"stop": ["x"]}, "stop", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        ({"functions": [{}]}, "functions", "unsupported_parameter"),
        ({"instructions": "x"}, "instructions", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages[0].content[0].type",
            "unsupported_parameter",
        ),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages[0].tool_call_id",
            "missing_required_parameter",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "x"}]}]},
            "messages[0].tool_calls[0].function",
            "missing_required_parameter",
        ),
        (
            {"messages": [{"role": "function", "content": "x"}]},
            "messages[0].role",
            "unsupported_parameter",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
            "messages[0].content[0].text",
            "invalid_value",
        ),
        (
            {"tool_choice": {"type": "x" * 5_000}},
            f"tool_choice.{'x' * 244}",
            "missing_required_parameter",
        ),
        (
            {"tool_choice": {"type": "x" * 5_000, "x" * 5_000: 1}},
            f"tool_choice.{'x' * 244}",
            "invalid_value",
        ),
    ],
)
def test_what_responses_cannot_say_is_refused_with_its_place(
    fields: Json, param: str, code: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)


# --- parse_answer, completion ---------------------------------------------------------------------


def answered(message: Json, finish_reason: str = "stop", **choice: Any) -> Answer:
    choice = {"index": 0, "message": message, "finish_reason": finish_reason, **choice}
    return chat_answers.parse_answer({"choices": [choice]}, NOW_MS)


def message(text: str, **fields: Any) -> Json:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": [], **fields}
    return {"type": "message", "status": "completed", "role": "assistant", "content": [part]}


def made(item: Json) -> Json:
    return {"status": "completed", **item}


def reasoning(text: str) -> Json:
    summary = [{"type": "summary_text", "text": text}]
    return {"type": "reasoning", "status": "completed", "summary": summary}


@pytest.mark.parametrize(
    ("said", "output"),
    [
        ({"content": "hello"}, [message("hello")]),
        ({"content": ""}, []),
        ({"content": None}, []),
        ({"reasoning_content": "hm", "content": "a"}, [reasoning("hm"), message("a")]),
        ({"reasoning": "hm", "content": "a"}, [reasoning("hm"), message("a")]),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "a"},
                ]
            },
            [reasoning("hm"), message("a")],
        ),
        (
            {"content": None, "refusal": "no"},
            [{**message(""), "content": [{"type": "refusal", "refusal": "no"}]}],
        ),
        (
            {"content": "let me", "tool_calls": [chat_call(1, '{"a":1}'), chat_call(2, "")]},
            [message("let me"), made(call(1, '{"a":1}')), made(call(2))],
        ),
        (
            {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}]},
            [
                {
                    "type": "function_call",
                    "status": "completed",
                    "call_id": "c",
                    "name": "f",
                    "arguments": '{"a":1}',
                }
            ],
        ),
        (
            {"tool_calls": [{"id": "c", "custom": {"name": "sh", "input": "ls"}}]},
            [
                {
                    "type": "custom_tool_call",
                    "status": "completed",
                    "call_id": "c",
                    "name": "sh",
                    "input": "ls",
                }
            ],
        ),
    ],
)
def test_a_message_becomes_items(said: Json, output: list[Json]) -> None:
    answer = answered({"role": "assistant", **said})
    assert without_ids(answer.output) == output
    assert answer.status == "completed"


def test_calls_without_a_usable_id_get_their_own() -> None:
    function = {"name": "f", "arguments": "{}"}
    calls = [{"function": function}, *({"id": "x", "function": function},) * 2]
    legacy = answered({"function_call": function})
    ids = [item["call_id"] for item in answered({"tool_calls": calls}).output + legacy.output]
    assert ids[1] == "x"
    assert len(set(ids)) == 4
    assert all(id_ for id_ in ids)


def test_citations_and_logprobs_are_kept() -> None:
    nested = {"type": "url_citation", "url_citation": {"url": "u", "title": "t"}}
    token = {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []}
    said = {"role": "assistant", "content": "a", "annotations": [nested]}
    answer = answered(said, logprobs={"content": [token], "refusal": None})
    flat = {"type": "url_citation", "url": "u", "title": "t"}
    assert without_ids(answer.output) == [message("a", annotations=[flat], logprobs=[token])]
    chat = chat_answers.completion(answer, id="i", model="m", created=1)["choices"][0]
    assert chat["message"]["annotations"] == [nested]
    assert chat["logprobs"] == {"content": [token], "refusal": None}


@pytest.mark.parametrize(
    ("finish_reason", "status", "reason", "last"),
    [
        ("stop", "completed", None, "completed"),
        ("tool_calls", "completed", None, "completed"),
        ("function_call", "completed", None, "completed"),
        ("eos", "completed", None, "completed"),
        (None, "completed", None, "completed"),
        ("length", "incomplete", "max_output_tokens", "incomplete"),
        ("content_filter", "incomplete", "content_filter", "incomplete"),
        ("error", "failed", None, "incomplete"),
    ],
)
def test_the_finish_reason_gives_the_status(
    finish_reason: str, status: str, reason: str | None, last: str
) -> None:
    answer = answered({"reasoning": "r", "content": "a"}, finish_reason)
    assert (answer.status, answer.incomplete_reason) == (status, reason)
    assert [item["status"] for item in answer.output] == ["completed", last]
    assert (answer.error is not None) == (status == "failed")


@pytest.mark.parametrize(
    ("usage", "canonical"),
    [
        (None, None),
        ({}, None),
        ({"prompt_tokens": 3, "completion_tokens": 10}, items.usage(3, 10)),
        (
            {"prompt_tokens": 3, "completion_tokens": 0, "prompt_tokens_details": None},
            items.usage(3, 0),
        ),
        ({"prompt_tokens": 2**31, "completion_tokens": 2**31}, items.usage(2**31, 2**31)),
        ({"prompt_tokens": 3, "completion_tokens": None}, None),
        ({"prompt_tokens": 3}, None),
        ({"prompt_tokens": 3, "completion_tokens": 2**31 + 1}, None),
        ({"prompt_tokens": 10**19, "completion_tokens": 10}, None),
        ({"prompt_tokens": 3.0, "completion_tokens": 10}, None),
        ({"prompt_tokens": "3", "completion_tokens": 10}, None),
        ({"prompt_tokens": True, "completion_tokens": 10}, None),
        ({"prompt_tokens": 3, "completion_tokens": -1}, None),
        (
            {
                "prompt_tokens": 3,
                "completion_tokens": 10,
                "prompt_tokens_details": {"cached_tokens": 10**19},
            },
            None,
        ),
        ([3, 10], None),
        (
            {
                "prompt_tokens": 3,
                "completion_tokens": 10,
                "total_tokens": 13,
                "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": 4},
            },
            items.usage(3, 10, cached=2, cache_write=1, reasoning=4),
        ),
    ],
)
def test_usage_is_translated(usage: Json | None, canonical: Json | None) -> None:
    assert chat_answers.usage_of(usage) == canonical


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"choices": []},
        {"choices": [{}]},
        {"choices": ["x"]},
        {"choices": [{"message": {"content": 5}}]},
        {"choices": [{"message": {"content": 0}}]},
        {"choices": [{"message": {"content": False}}]},
        {"choices": [{"message": {"content": {}}}]},
        {"choices": [{"message": {"content": [{"type": "text", "text": 0}]}}]},
        {"choices": [{"message": {"content": "a", "refusal": 0}}]},
        {"choices": [{"message": {"content": "a", "refusal": True}}]},
        {"choices": [{"message": {"content": "a"}}, {"message": {"content": 5}}]},
        {"choices": [{"message": {"content": "a"}}, {"message": {"refusal": 5}}]},
        {"choices": [{"message": {"content": "a"}}, "x"]},
        {"choices": [{"message": {"content": "a", "tool_calls": ["x"]}}]},
        {"error": {"message": "boom", "code": "oops"}},
        {"error": "boom"},
    ],
)
def test_what_is_no_completion_is_an_upstream_error(body: Json) -> None:
    with pytest.raises(UpstreamError):
        chat_answers.parse_answer(body, NOW_MS)


def test_a_completion_has_the_shape_of_openais() -> None:
    answer = answered({"reasoning": "hm", "content": "hi", "tool_calls": [chat_call(1)]})
    answer.usage = items.usage(3, 10, cached=1)
    assert chat_answers.completion(answer, id="chatcmpl-1", model="m", created=5) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "hi",
                    "refusal": None,
                    "reasoning_content": "hm",
                    "tool_calls": [chat_call(1)],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 10,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


# --- there and back -------------------------------------------------------------------------------

TEXT = st.text(min_size=1, max_size=5)
TURNS = st.lists(
    st.tuples(TEXT, st.none() | TEXT, st.lists(TEXT, max_size=3), st.none() | TEXT), max_size=4
)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(TURNS)
def test_parallel_calls_of_many_turns_keep_their_pairs_there_and_back(turns: list[Any]) -> None:
    given_items: list[Json] = []
    number = 0
    for asked, said, results, concluded in turns:
        given_items.append({"role": "user", "content": asked})
        if said:
            given_items.append({"role": "assistant", "content": said})
        numbers = range(number, number + len(results))
        number += len(results)
        given_items += [call(n, json.dumps({"n": n})) for n in numbers]
        given_items += [output(n, result) for n, result in zip(numbers, results, strict=True)]
        # Without results in between, two texts of the model would be one message in chat.
        if concluded and (results or not said):
            given_items.append({"role": "assistant", "content": concluded})
    canonical = turn(given_items)
    chat = {"model": "m", "messages": dialect_chat.build_request(canonical, route())["messages"]}
    waiting: set[str] = set()
    for message_ in chat["messages"]:
        if message_["role"] == "tool":
            waiting.remove(message_["tool_call_id"])
        else:
            assert not waiting
            waiting = {c["id"] for c in message_.get("tool_calls", ())}
    assert not waiting
    if given_items:
        chat_requests.validate(chat)
        back = chat_requests.parse_request(chat, NOW_MS)
        assert without_ids(back.input) == without_ids(canonical.input)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from(["user", "assistant", "call", "oldest", "newest"])),
    st.integers(0, 3),
)
def test_wherever_outputs_stand_they_are_sent_right_behind_their_calls(
    kinds: list[str], inherited: int
) -> None:
    given_items: list[Json] = []
    open_calls: list[int] = []
    for number, kind in enumerate(kinds):
        if kind in ("user", "assistant"):
            given_items.append({"role": kind, "content": str(number)})
        elif kind == "call":
            given_items.append(call(number))
            open_calls.append(number)
        elif open_calls:
            given_items.append(output(open_calls.pop(0 if kind == "oldest" else -1)))
    given_items += [output(number) for number in open_calls]
    canonical = turn(given_items)
    history, own = canonical.input[:inherited], canonical.input[inherited:]
    canonical = Turn("m", canonical.request, own, history, False)
    waiting: set[str] = set()
    spoken: list[str] = []
    for message in dialect_chat.build_request(canonical, route())["messages"]:
        if message["role"] == "tool":
            waiting.remove(message["tool_call_id"])
            continue
        assert not waiting
        waiting = {made["id"] for made in message.get("tool_calls", ())}
        spoken += (message["content"] or "").split()
    assert not waiting
    assert spoken == [item["content"] for item in given_items if "content" in item]
