"""The fields of a create call, and the query parameters of the reading calls."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import MultiDict

from anos.errors import InvalidModel, InvalidRequest
from anos.validation import (
    Page,
    check_model,
    missing,
    path_of,
    read_include,
    read_page,
    refuse_credentials,
    unsupported,
    validate_create,
    wrong_type,
)

INVALID = "invalid_value"
MISSING = "missing_required_parameter"
UNSUPPORTED = "unsupported_parameter"


def valid(**fields: Any) -> dict[str, Any]:
    """What a create body has become after its validation."""
    tree = {"model": "gpt-4", "input": "Hello", **fields}
    validate_create(tree)
    del tree["model"], tree["input"]
    return tree


def refused(tree: dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        validate_create(tree)
    return caught.value


FUNCTION = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
SCHEMA = {"type": "json_schema", "name": "answer", "schema": {"type": "object"}}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"instructions": "Be kind.", "stream": True, "store": False, "user": "u"},
        {"temperature": 0, "top_p": 1, "top_logprobs": 20, "max_output_tokens": 1},
        {"temperature": 2.0, "top_p": 0.0, "presence_penalty": -2, "frequency_penalty": 2},
        {"tools": [FUNCTION, FUNCTION, {"type": "web_search"}, {"type": "acme:tool", "name": 5}]},
        {"tools": [{"type": "function", "name": "f", "strict": None, "description": None}]},
        {"tools": [{"type": "custom", "name": "any name", "format": {"type": "text"}}]},
        {"tool_choice": "required", "parallel_tool_calls": False, "max_tool_calls": 3},
        {"tool_choice": {"type": "function", "name": "f"}},
        {"tool_choice": {"type": "web_search"}},
        {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [FUNCTION]}},
        {"text": {"format": {"type": "text"}, "verbosity": "low"}},
        {"text": {"format": {"type": "json_object"}}},
        {"text": {"format": {**SCHEMA, "strict": True, "description": None}}},
        {"text": {"format": None, "verbosity": None, "later": 1}},
        {"reasoning": {"effort": "xhigh", "summary": "auto", "context": "auto"}},
        {"reasoning": {"effort": None}, "truncation": "auto", "service_tier": "on_demand"},
        {"include": ["reasoning.encrypted_content", "message.output_text.logprobs"]},
        {"metadata": {"k" * 64: "v" * 512}, "safety_identifier": "s", "prompt_cache_key": "p"},
        {"metadata": {str(n): "" for n in range(16)}},
        {"background": True, "store": True},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        {"previous_response_id": "resp_1"},
        {"seed": 7, "stop": None, "acme": {"x": None}},
    ],
)
def test_valid_fields_stay_as_they_were_sent(fields: dict):
    assert valid(**copy.deepcopy(fields)) == fields


def test_null_of_a_known_field_means_not_sent():
    names = "instructions previous_response_id stream stream_options background store include tools"
    names += " messages response_format"
    names += " tool_choice parallel_tool_calls max_tool_calls max_output_tokens max_tokens text"
    names += " temperature top_p top_logprobs presence_penalty frequency_penalty reasoning user"
    names += " truncation metadata service_tier safety_identifier prompt_cache_key conversation"
    names += " prompt context_management api_key"
    assert valid(**dict.fromkeys(names.split())) == {}


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"max_tokens": 5}, {"max_output_tokens": 5}),
        ({"max_tokens": 5, "max_output_tokens": 7}, {"max_output_tokens": 7}),
        ({"max_tokens": 5, "max_output_tokens": None}, {"max_output_tokens": 5}),
        ({"max_tokens": None, "max_output_tokens": 7}, {"max_output_tokens": 7}),
        ({"max_completion_tokens": 5}, {"max_output_tokens": 5}),
        ({"max_tokens": 9, "max_completion_tokens": 5}, {"max_output_tokens": 5}),
        ({"max_tokens": 9, "max_completion_tokens": None}, {"max_output_tokens": 9}),
        (
            {"max_tokens": 9, "max_completion_tokens": 5, "max_output_tokens": 7},
            {"max_output_tokens": 7},
        ),
    ],
)
def test_chats_caps_become_max_output_tokens_which_wins(sent: dict, expected: dict):
    assert valid(**sent) == expected


@pytest.mark.parametrize("n", [1, None])
def test_one_choice_is_what_a_response_has_anyway(n: int | None):
    assert valid(n=n) == {}


def test_more_choices_than_one_are_not_a_response():
    error = refused({"model": "m", "input": "x", "n": 2})
    assert (error.param, error.code) == ("n", UNSUPPORTED)
    assert refused({"model": "m", "input": "x", "n": "2"}).code == INVALID


def test_input_may_be_left_out_when_a_response_is_continued():
    validate_create({"model": "m", "previous_response_id": "resp_1"})
    assert (refused({"model": "m"}).param, refused({"model": "m"}).code) == ("input", MISSING)


@pytest.mark.parametrize(
    ("fields", "param", "code", "message"),
    [
        (
            {"max_output_tokens": "9"},
            "max_output_tokens",
            INVALID,
            "Invalid type for 'max_output_tokens': expected an integer, but got a string instead.",
        ),
        (
            {"temperature": "1"},
            "temperature",
            INVALID,
            "Invalid type for 'temperature': expected a number, but got a string instead.",
        ),
        (
            {"tool_choice": 5},
            "tool_choice",
            INVALID,
            "Invalid type for 'tool_choice': expected a string or an object, "
            "but got an integer instead.",
        ),
        (
            {"max_output_tokens": 0},
            "max_output_tokens",
            INVALID,
            "Invalid value for 'max_output_tokens': expected an integer >= 1.",
        ),
        (
            {"temperature": 2.1},
            "temperature",
            INVALID,
            "Invalid value for 'temperature': expected a number <= 2.0.",
        ),
        (
            {"truncation": "some"},
            "truncation",
            INVALID,
            "Invalid value for 'truncation': expected one of 'auto', 'disabled'.",
        ),
        (
            {"text": {"format": {"type": "xml"}}},
            "text.format.type",
            INVALID,
            "Invalid value for 'text.format.type': "
            "expected one of 'text', 'json_object', 'json_schema'.",
        ),
        (
            {"tools": [FUNCTION, {"type": "function", "function": {"name": "f"}}]},
            "tools[1].name",
            MISSING,
            "Missing required parameter: 'tools[1].name'.",
        ),
        (
            {"api_base": "http://evil"},
            "api_base",
            UNSUPPORTED,
            "'api_base' is set by the gateway's operator, not by a request.",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}]},
            "messages",
            UNSUPPORTED,
            "'messages' is not of the Responses API; use 'input'.",
        ),
        (
            {"response_format": {"type": "json_object"}},
            "response_format",
            UNSUPPORTED,
            "'response_format' is not of the Responses API; use 'text.format'.",
        ),
    ],
)
def test_the_words_of_a_refusal(fields: dict, param: str, code: str, message: str):
    error = refused({"model": "m", "input": "x", **fields})
    assert (error.param, error.code, error.message) == (param, code, message)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": None}, "model", MISSING),
        ({"model": 5}, "model", INVALID),
        ({"instructions": ["a"]}, "instructions", INVALID),
        ({"previous_response_id": 5}, "previous_response_id", INVALID),
        ({"stream": "true"}, "stream", INVALID),
        ({"stream": 1}, "stream", INVALID),
        ({"store": "no"}, "store", INVALID),
        ({"max_output_tokens": True}, "max_output_tokens", INVALID),
        ({"max_output_tokens": 1.0}, "max_output_tokens", INVALID),
        ({"max_tokens": "5", "max_output_tokens": 7}, "max_tokens", INVALID),
        ({"max_tool_calls": 0}, "max_tool_calls", INVALID),
        ({"temperature": True}, "temperature", INVALID),
        ({"temperature": -0.1}, "temperature", INVALID),
        ({"top_p": 1.1}, "top_p", INVALID),
        ({"top_p": -1}, "top_p", INVALID),
        ({"top_logprobs": 21}, "top_logprobs", INVALID),
        ({"top_logprobs": -1}, "top_logprobs", INVALID),
        ({"presence_penalty": 3}, "presence_penalty", INVALID),
        ({"frequency_penalty": -3}, "frequency_penalty", INVALID),
        ({"include": "x"}, "include", INVALID),
        ({"include": ["reasoning.encrypted_content", "x"]}, "include[1]", INVALID),
        ({"include": [5]}, "include[0]", INVALID),
        ({"tools": {}}, "tools", INVALID),
        ({"tools": [5]}, "tools[0]", INVALID),
        ({"tools": [{}]}, "tools[0].type", MISSING),
        ({"tools": [{"type": ["function"]}]}, "tools[0].type", INVALID),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", INVALID),
        ({"tools": [{"type": "function", "name": "a\n"}]}, "tools[0].name", INVALID),
        ({"tools": [{"type": "function", "name": "a" * 129}]}, "tools[0].name", INVALID),
        ({"tools": [{**FUNCTION, "parameters": "{}"}]}, "tools[0].parameters", INVALID),
        ({"tools": [{**FUNCTION, "strict": "yes"}]}, "tools[0].strict", INVALID),
        ({"tools": [FUNCTION, {"type": "custom"}]}, "tools[1].name", MISSING),
        ({"tool_choice": "maybe"}, "tool_choice", INVALID),
        ({"tool_choice": {}}, "tool_choice.type", MISSING),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name", MISSING),
        ({"tool_choice": {"type": "custom"}}, "tool_choice.name", MISSING),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.mode", MISSING),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto"}},
            "tool_choice.tools",
            MISSING,
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "none", "tools": []}},
            "tool_choice.mode",
            INVALID,
        ),
        ({"text": "json"}, "text", INVALID),
        ({"text": {"verbosity": "loud"}}, "text.verbosity", INVALID),
        ({"text": {"format": {}}}, "text.format.type", MISSING),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.name", MISSING),
        (
            {"text": {"format": {"type": "json_schema", "name": "n"}}},
            "text.format.schema",
            MISSING,
        ),
        ({"text": {"format": {**SCHEMA, "name": "a b"}}}, "text.format.name", INVALID),
        ({"text": {"format": {**SCHEMA, "name": "a" * 65}}}, "text.format.name", INVALID),
        ({"text": {"format": {**SCHEMA, "schema": []}}}, "text.format.schema", INVALID),
        ({"reasoning": "high"}, "reasoning", INVALID),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", INVALID),
        ({"reasoning": {"summary": 5}}, "reasoning.summary", INVALID),
        ({"metadata": []}, "metadata", INVALID),
        ({"metadata": {"a": 5}}, "metadata.a", INVALID),
        ({"metadata": {"a": None}}, "metadata.a", INVALID),
        ({"metadata": {"a": "v" * 513}}, "metadata.a", INVALID),
        ({"metadata": {"k" * 65: "v"}}, "metadata", INVALID),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", INVALID),
        ({"user": 5}, "user", INVALID),
        ({"service_tier": 5}, "service_tier", INVALID),
        ({"stream_options": {}}, "stream_options", INVALID),
        ({"stream_options": {}, "stream": False}, "stream_options", INVALID),
        (
            {"stream_options": {"include_obfuscation": 1}, "stream": True},
            "stream_options.include_obfuscation",
            INVALID,
        ),
        ({"background": True, "store": False}, "background", UNSUPPORTED),
        ({"background": True, "stream": True}, "stream", UNSUPPORTED),
        ({"conversation": "conv_1"}, "conversation", UNSUPPORTED),
        ({"prompt": {"id": "p"}}, "prompt", UNSUPPORTED),
        ({"context_management": []}, "context_management", UNSUPPORTED),
        ({"background_options": {}}, "background_options", UNSUPPORTED),
        (
            {"conversation": "conv_1", "previous_response_id": "resp_1"},
            "previous_response_id",
            "mutually_exclusive_parameters",
        ),
    ],
)
def test_a_wrong_field_is_refused_with_its_path(fields: dict, param: str, code: str):
    error = refused({"model": "m", "input": "x", **fields})
    assert (error.status, error.param, error.code) == (400, param, code)
    assert f"'{param}'" in error.message


@pytest.mark.parametrize(
    "name",
    ["api_base", "base_url", "api_key", "extra_headers", "extra_body", "organization", "headers"],
)
def test_a_request_cannot_choose_where_its_upstream_is(name: str):
    assert refused({"model": "m", "input": "x", name: "secret"}).param == name
    with pytest.raises(InvalidRequest) as caught:
        refuse_credentials({name: "secret"})
    assert (caught.value.param, caught.value.code) == (name, UNSUPPORTED)
    assert "secret" not in caught.value.message
    refuse_credentials({"model": "m"})


@pytest.mark.parametrize("model", ["gpt-4", "stub/echo", "a:b@c/d.e_f", "m" * 256, "."])
def test_a_possible_model_name(model: str):
    check_model(model)


@pytest.mark.parametrize("model", ["", "m" * 257, "a b", "a..b", "../x", "é", "a\n", "a%2fb", "*"])
def test_an_impossible_model_name_is_an_invalid_model(model: str):
    with pytest.raises(InvalidModel):
        check_model(model)
    assert type(refused({"model": model, "input": "x"})) is InvalidModel


@settings(derandomize=True, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                *("model", "input", "stream", "store", "tools", "tool_choice", "text", "include"),
                *("metadata", "temperature", "max_tokens", "max_output_tokens", "background"),
                *("reasoning", "conversation", "stream_options"),
            ]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.sampled_from(["type", "name", "format", "mode"]), inner)
            ),
            max_leaves=4,
        ),
    )
)
def test_any_body_is_valid_or_refused(tree: dict):
    try:
        validate_create(tree)
    except InvalidRequest as error:
        named = error.param
    else:
        named = "model"
        assert None not in tree.values()
        assert "max_tokens" not in tree
    assert named


@pytest.mark.parametrize(
    ("steps", "param"),
    [
        ((), ""),
        (("model",), "model"),
        (("input", 0, "content", 12, "text"), "input[0].content[12].text"),
        (("a" * 300,), "a" * 256),
    ],
)
def test_a_path_is_written_as_a_param(steps: tuple, param: str):
    assert path_of(steps) == param


def test_a_refusal_repeats_no_more_than_some_hundred_characters():
    name = "x" * 5_000
    for error in (missing(name), wrong_type(name, "a string", 5), unsupported(name, f"No {name}.")):
        assert error.param == "x" * 256
        assert len(error.message) < 600


def test_refusals_name_their_field():
    assert (missing("a").param, missing("a").code) == ("a", MISSING)
    assert (unsupported("a", "No.").param, unsupported("a", "No.").code) == ("a", UNSUPPORTED)
    assert wrong_type("a", "an object", None).message.endswith("but got null instead.")


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ({}, Page(20, False, None)),
        ({"limit": "1", "order": "asc", "after": "msg_1"}, Page(1, True, "msg_1")),
        ({"limit": "100", "order": "desc", "before": "x"}, Page(100, False, None)),
        ({"limit": "007"}, Page(7, False, None)),
    ],
)
def test_a_page(query: dict, page: Page):
    assert read_page(query) == page


@pytest.mark.parametrize(
    "limit",
    ["0", "101", "-1", "1.0", "", "x", "٣", "9" * 5000, "10000", "1e1", "00001000", "0001" * 9],
)
def test_a_limit_is_from_1_to_100(limit: str):
    with pytest.raises(InvalidRequest) as caught:
        read_page({"limit": limit})
    assert caught.value.param == "limit"


def test_an_unknown_order_is_refused():
    with pytest.raises(InvalidRequest) as caught:
        read_page({"order": "ASC"})
    assert caught.value.param == "order"


def test_include_is_read_in_every_spelling_of_a_list():
    both = frozenset({"reasoning.encrypted_content", "message.output_text.logprobs"})
    for names in (("include", "include"), ("include[]", "include[]"), ("include[0]", "include[1]")):
        assert read_include(MultiDict(zip(names, both, strict=True))) == both
    assert read_include({}) == frozenset()
    with pytest.raises(InvalidRequest) as caught:
        read_include({"include": "everything"})
    assert caught.value.param == "include"
    assert "'reasoning.encrypted_content'" in caught.value.message
