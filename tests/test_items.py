"""Ids, Response snapshots, the chat fields beside them, and the strings a guard must see."""

import copy
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anos.items import (
    Answer,
    add_chat_fields,
    base_response,
    chat_message,
    final_response,
    new_id,
    texts,
    usage,
)

SEEDED = settings(derandomize=True, deadline=None)
# The 31 fields of Open Responses, and what the spec says of each when the client sent nothing.
DEFAULTS = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1700000000,
    "completed_at": None,
    "status": "in_progress",
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "model": "gpt-4",
    "output": [],
    "previous_response_id": None,
    "tools": [],
    "tool_choice": "auto",
    "truncation": "disabled",
    "parallel_tool_calls": True,
    "text": {"format": {"type": "text"}},
    "temperature": 1.0,
    "top_p": 1.0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "top_logprobs": 0,
    "reasoning": {"effort": None, "summary": None},
    "usage": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "store": True,
    "background": False,
    "service_tier": "default",
    "metadata": {},
    "safety_identifier": None,
    "prompt_cache_key": None,
}


def base(**request: object) -> dict:
    return base_response(request, id="resp_1", model="gpt-4", created_at=1700000000)


def message(*parts: dict, **fields: object) -> dict:
    item = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant"}
    return {**item, "content": list(parts), **fields}


def text(value: str) -> dict:
    return {"type": "output_text", "text": value, "annotations": []}


def call(name: str = "f", arguments: str = "{}") -> dict:
    item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "status": "completed"}
    return {**item, "name": name, "arguments": arguments}


def test_an_id_holds_its_prefix_its_time_and_80_random_bits():
    assert re.fullmatch(r"msg_018bcfe56800[0-9a-f]{20}", new_id("msg", 1_700_000_000_000))
    assert new_id("msg", 1) != new_id("msg", 1)


@SEEDED
@given(st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1))
def test_ids_sort_by_time(earlier: int, later: int):
    if earlier < later:
        assert new_id("resp", earlier) < new_id("resp", later)


def test_usage_has_both_detail_objects_and_the_sum():
    assert usage(3, 10, cached=1, cache_write=2, reasoning=4) == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 2},
        "output_tokens": 10,
        "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": 13,
    }


def test_a_response_to_a_request_that_set_nothing_has_all_31_fields():
    assert len(DEFAULTS) == 31
    assert base() == DEFAULTS


@pytest.mark.parametrize(
    ("sent", "echoed"),
    [
        ({"temperature": 0.5, "top_p": 0}, {"temperature": 0.5, "top_p": 0}),
        ({"store": False, "metadata": {"a": "b"}}, {"store": False, "metadata": {"a": "b"}}),
        ({"temperature": None, "truncation": None}, {}),
        ({"user": "u1", "prompt_cache_retention": "24h"}, ...),
        ({"previous_response_id": "resp_0"}, ...),
        ({"reasoning": {"effort": "low"}}, {"reasoning": {"effort": "low", "summary": None}}),
        ({"reasoning": {}}, {"reasoning": {"effort": None, "summary": None}}),
        (
            {"text": {"verbosity": None, "format": None}},
            {"text": {"format": {"type": "text"}}},
        ),
        (
            {"text": {"verbosity": "low"}},
            {"text": {"format": {"type": "text"}, "verbosity": "low"}},
        ),
        (
            {"tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "c"}]},
            {
                "tools": [
                    {
                        "type": "function",
                        "name": "f",
                        "description": None,
                        "parameters": None,
                        "strict": None,
                    },
                    {"type": "custom", "name": "c"},
                ]
            },
        ),
        ({"model": "other", "id": "x", "status": "y", "output": 1, "seed": 7, "stream": True}, {}),
    ],
)
def test_a_response_repeats_the_settings_of_its_request_but_no_null(sent: dict, echoed):
    expected = sent if echoed is ... else echoed
    before = copy.deepcopy(sent)
    assert base(**sent) == {**DEFAULTS, **expected}
    assert sent == before


def test_two_responses_do_not_share_their_output():
    one = base()
    one["output"].append("x")
    assert base()["output"] == []


def test_a_completed_response_has_output_usage_and_its_time():
    answer = Answer("completed", [message(text("hi"))], usage(1, 2))
    assert final_response(base(), answer, 1700000005) == {
        **DEFAULTS,
        "status": "completed",
        "completed_at": 1700000005,
        "output": answer.output,
        "usage": answer.usage,
    }


@pytest.mark.parametrize(
    ("answer", "changed"),
    [
        (
            Answer("incomplete", [], None, incomplete_reason="max_output_tokens"),
            {"incomplete_details": {"reason": "max_output_tokens"}},
        ),
        (
            Answer("failed", [], None, error={"code": "server_error", "message": "m"}),
            {"error": {"type": "server_error", "code": "server_error", "message": "m"}},
        ),
        (Answer("cancelled", [], None), {}),
    ],
)
def test_only_a_completed_response_has_completed_at(answer: Answer, changed: dict):
    expected = {**DEFAULTS, "status": answer.status, **changed}
    assert final_response(base(), answer, 1700000005) == expected


def test_fields_of_the_upstream_pass_but_never_over_ours_and_never_as_null():
    extra = {"service_tier": "priority", "temperature": None, "id": "x", "model": "y", "new": 1}
    answer = Answer("completed", [], None, extra=extra | {"store": False, "metadata": {"z": "z"}})
    response = final_response(base(), answer, 1)
    assert response["service_tier"] == "priority"
    assert response["new"] == 1
    same = ("id", "model", "temperature", "store", "metadata")
    assert {name: response[name] for name in same} == {name: DEFAULTS[name] for name in same}


def test_the_guides_body_is_part_of_a_response():
    answer = Answer("completed", [message(text("Hello! How can I help you today?"))], usage(3, 10))
    response = add_chat_fields(final_response(base(), answer, 1700000001))
    assert response["created"] == 1700000000
    assert response["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello! How can I help you today?"},
            "finish_reason": "stop",
        }
    ]
    assert response["usage"] == {
        **usage(3, 10),
        "prompt_tokens": 3,
        "completion_tokens": 10,
    }
    assert set(DEFAULTS) | {"created", "choices"} == set(response)


@pytest.mark.parametrize(
    ("status", "reason", "output", "finish_reason"),
    [
        ("completed", None, [message(text("a"))], "stop"),
        ("completed", None, [], "stop"),
        ("completed", None, [message(text("a")), call()], "tool_calls"),
        ("incomplete", "max_output_tokens", [message(text("a"))], "length"),
        ("incomplete", "content_filter", [message(text("a"))], "content_filter"),
        ("incomplete", "max_output_tokens", [call()], "length"),
        ("queued", None, [], None),
        ("in_progress", None, [], None),
        ("failed", None, [message(text("a"))], None),
        ("cancelled", None, [message(text("a"))], None),
    ],
)
def test_finish_reason(status: str, reason: str | None, output: list, finish_reason: str | None):
    response = final_response(base(), Answer(status, output, None, incomplete_reason=reason), 1)
    choices = add_chat_fields(response)["choices"]
    assert [choice["finish_reason"] for choice in choices] == [finish_reason] * bool(finish_reason)
    assert "choices" not in response


TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ([], {"content": ""}),
        ([message(text("a"), text("b")), message(text("c"))], {"content": "abc"}),
        ([message(text(""))], {"content": ""}),
        ([call()], {"content": None, "tool_calls": [TOOL_CALL]}),
        ([message(text("a")), call()], {"content": "a", "tool_calls": [TOOL_CALL]}),
        (
            [message({"type": "refusal", "refusal": "No."})],
            {"content": None, "refusal": "No."},
        ),
        (
            [{"type": "custom_tool_call", "call_id": "c", "name": "n", "input": "i"}],
            {
                "content": None,
                "tool_calls": [
                    {"id": "c", "type": "custom", "custom": {"name": "n", "input": "i"}}
                ],
            },
        ),
        (
            [{"type": "reasoning", "id": "rs_1", "summary": []}, message(text("a"))],
            {"content": "a"},
        ),
    ],
)
def test_the_chat_message_of_an_output(output: list, expected: dict):
    assert chat_message(output) == {"role": "assistant", **expected}


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (message(text("a"), {"type": "refusal", "refusal": "b"}), ["a", "b"]),
        (call("name", '{"q": "w"}'), ["name", '{"q": "w"}']),
        ({"type": "function_call_output", "call_id": "c", "output": "out"}, ["out"]),
        (
            {
                "type": "function_call_output",
                "call_id": "c",
                "output": [
                    {"type": "input_text", "text": "a"},
                    {"type": "input_file", "filename": "f.pdf", "file_data": "QUJD"},
                ],
            },
            ["a", "f.pdf"],
        ),
        ({"type": "custom_tool_call", "call_id": "c", "name": "n", "input": "i"}, ["n", "i"]),
        (
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "s"}],
                "content": [{"type": "reasoning_text", "text": "r"}],
                "encrypted_content": "xyz",
            },
            ["s", "r"],
        ),
        (
            message(
                {"type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": "low"},
                {"type": "input_image", "image_url": "https://example.com/words"},
                {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "mp3"}},
                role="user",
            ),
            ["https://example.com/words"],
        ),
        ({"type": "image_generation_call", "id": "ig_1", "result": "QUJD"}, []),
        (
            {"type": "acme:note", "id": "x", "result": "a", "data": "b", "deep": [{"k": ["c"]}]},
            ["a", "b", "c"],
        ),
        ({"type": "acme:note", "id": {"hidden": "words"}, "status": ["more"]}, ["words", "more"]),
    ],
)
def test_texts_are_the_strings_a_model_reads(item: dict, expected: list[str]):
    assert list(texts([item])) == expected


@SEEDED
@given(st.lists(st.text()))
def test_texts_come_in_the_order_of_the_items(words: list[str]):
    assert list(texts([message(text(word)) for word in words])) == words
