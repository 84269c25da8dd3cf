"""Every form of `input` becomes one form; history is replayed without what upstreams refuse."""

import copy
import re
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anos.errors import InvalidRequest
from anos.inputs import check_tool_pairs, normalise_input, readable, replayable

SEEDED = settings(derandomize=True, deadline=None)
NOW = 1_700_000_000_000
MISSING = "missing_required_parameter"
INVALID = "invalid_value"


def normalised(value: object) -> list[dict]:
    """The canonical items; minted ids are checked and replaced by their prefix."""
    before = copy.deepcopy(value)
    items = normalise_input(value, NOW)
    assert value == before, "the input was changed"
    for item in items:
        if re.fullmatch(r"[a-z]+_018bcfe56800[0-9a-f]{20}", item["id"]):
            item["id"] = item["id"].partition("_")[0]
    return items


def user(*parts: dict, **fields: object) -> dict:
    item = {"type": "message", "id": "msg", "status": "completed", "role": "user"}
    return {**item, "content": list(parts), **fields}


def said(text: str) -> dict:
    return {"type": "output_text", "text": text, "annotations": []}


def asked(text: str) -> dict:
    return {"type": "input_text", "text": text}


def test_no_input_is_no_item():
    assert normalise_input(None, NOW) == normalise_input([], NOW) == []


FUNCTION_CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Hello", user(asked("Hello"))),
        ("", user(asked(""))),
        ([{"role": "user", "content": "a"}], user(asked("a"))),
        ([{"role": "system", "content": "a"}], user(asked("a"), role="system")),
        ([{"role": "developer", "content": "a"}], user(asked("a"), role="developer")),
        ([{"role": "assistant", "content": "a"}], user(said("a"), role="assistant")),
        ([{"type": "message", "role": "user", "content": "a"}], user(asked("a"))),
        (
            [{"type": None, "id": None, "status": None, "role": "user", "content": "a"}],
            user(asked("a")),
        ),
        ([{"id": "", "role": "user", "content": "a"}], user(asked("a"))),
        ([{"id": "msg_7", "role": "user", "content": "a"}], user(asked("a"), id="msg_7")),
        ([{"role": "user", "content": []}], user()),
        ([{"role": "user", "content": [asked("a")]}], user(asked("a"))),
        (
            [
                {
                    "role": "assistant",
                    "status": "incomplete",
                    "content": [{"type": "output_text", "text": "a", "logprobs": None}],
                }
            ],
            user(said("a"), role="assistant", status="incomplete"),
        ),
        ([{"role": "assistant", "content": [asked("a")]}], user(said("a"), role="assistant")),
        (
            [{"role": "assistant", "phase": "final_answer", "content": "a"}],
            user(said("a"), role="assistant", phase="final_answer"),
        ),
        ([{"role": "assistant", "phase": None, "content": "a"}], user(said("a"), role="assistant")),
        (
            [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}],
            user({"type": "refusal", "refusal": "no"}, role="assistant"),
        ),
        (
            [
                {
                    "role": "user",
                    "content": [{"type": "input_image", "image_url": "u", "file_id": None}],
                }
            ],
            user({"type": "input_image", "image_url": "u", "detail": "auto"}),
        ),
        (
            [
                {
                    "role": "user",
                    "content": [{"type": "input_file", "file_id": "f"}, {"type": "acme:p", "x": 1}],
                }
            ],
            user({"type": "input_file", "file_id": "f"}, {"type": "acme:p", "x": 1}),
        ),
        ([FUNCTION_CALL], {**FUNCTION_CALL, "id": "fc", "status": "completed"}),
        (
            [{**FUNCTION_CALL, "arguments": ""}],
            {**FUNCTION_CALL, "id": "fc", "status": "completed"},
        ),
        (
            [{"type": "function_call_output", "call_id": "c", "output": "o", "id": None}],
            {
                "type": "function_call_output",
                "call_id": "c",
                "output": "o",
                "id": "fco",
                "status": "completed",
            },
        ),
        (
            [
                {
                    "type": "function_call_output",
                    "name": "f",
                    "call_id": None,
                    "output": [asked("o")],
                }
            ],
            {
                "type": "function_call_output",
                "name": "f",
                "output": [asked("o")],
                "id": "fco",
                "status": "completed",
            },
        ),
        (
            [{"type": "custom_tool_call", "call_id": "c", "name": "f", "input": ""}],
            {
                "type": "custom_tool_call",
                "call_id": "c",
                "name": "f",
                "input": "",
                "id": "ctc",
                "status": "completed",
            },
        ),
        (
            [{"type": "custom_tool_call_output", "call_id": "c", "output": ""}],
            {
                "type": "custom_tool_call_output",
                "call_id": "c",
                "output": "",
                "id": "ctco",
                "status": "completed",
            },
        ),
        (
            [
                {
                    "type": "reasoning",
                    "summary": [],
                    "encrypted_content": "x",
                    "content": None,
                    "status": None,
                }
            ],
            {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "x"},
        ),
        (
            [{"type": "reasoning", "content": [{"type": "reasoning_text", "text": "t"}]}],
            {
                "type": "reasoning",
                "id": "rs",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "t"}],
            },
        ),
        ([{"id": "msg_1"}], {"type": "item_reference", "id": "msg_1"}),
        ([{"id": "msg_1", "type": None}], {"type": "item_reference", "id": "msg_1"}),
        ([{"id": "msg_1", "type": "item_reference"}], {"type": "item_reference", "id": "msg_1"}),
        (
            [{"type": "compaction", "encrypted_content": "x"}],
            {"type": "compaction", "id": "cmp", "encrypted_content": "x"},
        ),
        (
            [{"type": "acme:x", "a": {"b": None}}],
            {"type": "acme:x", "id": "item", "a": {"b": None}},
        ),
    ],
)
def test_every_form_becomes_the_canonical_one(given: object, expected: dict):
    assert normalised(given) == [expected]


def test_normalising_twice_changes_nothing():
    given = [{"role": "user", "content": "a"}, FUNCTION_CALL, {"id": "x"}, {"type": "reasoning"}]
    once = normalise_input(given, NOW)
    assert normalise_input(once, NOW + 1) == once


REASONED = {"type": "reasoning", "summary": [], "encrypted_content": "x"}


@pytest.mark.parametrize("name", ["x" * 256, "a/b é", "msg-1.2"])
def test_an_id_of_any_printable_characters_is_kept(name: str):
    assert normalise_input([{"id": name, "role": "user", "content": "a"}], NOW)[0]["id"] == name
    assert normalise_input([{"id": name}], NOW) == [{"type": "item_reference", "id": name}]


def in_content(part: object) -> list:
    return [{"role": "user", "content": "a"}, {"role": "user", "content": [asked("a"), part]}]


@pytest.mark.parametrize(
    ("value", "param", "code"),
    [
        (5, "input", INVALID),
        ({"role": "user", "content": "a"}, "input", INVALID),
        (["a"], "input[0]", INVALID),
        ([None], "input[0]", INVALID),
        ([{}], "input[0].type", MISSING),
        ([{"id": "x", "text": "y"}], "input[0].type", MISSING),
        ([{"type": 5}], "input[0].type", INVALID),
        ([{"type": "item_reference"}], "input[0].id", MISSING),
        ([{"type": "item_reference", "id": ""}], "input[0].id", MISSING),
        ([{"id": 7}], "input[0].id", INVALID),
        ([{"type": "message", "content": "a"}], "input[0].role", MISSING),
        ([{"role": "tool", "content": "a"}], "input[0].role", INVALID),
        ([{"role": ["user"], "content": "a"}], "input[0].role", INVALID),
        ([{"role": "user", "content": "a", "id": 7}], "input[0].id", INVALID),
        *(
            ([{**item, "id": wrong}], "input[0].id", INVALID)
            for item in ({"role": "user", "content": "a"}, {"type": "item_reference"}, {}, REASONED)
            for wrong in (" ", "\u2003 ", "a\0b", "a\n", "x" * 257)
        ),
        ([{"role": "user", "content": "a", "status": 7}], "input[0].status", INVALID),
        ([{"role": "user"}], "input[0].content", MISSING),
        ([{"role": "user", "content": None}], "input[0].content", MISSING),
        ([{"role": "user", "content": {}}], "input[0].content", INVALID),
        (in_content("b"), "input[1].content[1]", INVALID),
        (in_content({}), "input[1].content[1].type", MISSING),
        (in_content({"type": "input_text"}), "input[1].content[1].text", MISSING),
        (in_content({"type": "input_text", "text": 5}), "input[1].content[1].text", INVALID),
        (in_content({"type": "refusal"}), "input[1].content[1].refusal", MISSING),
        (in_content({"type": "input_image"}), "input[1].content[1].image_url", MISSING),
        (
            in_content({"type": "input_image", "image_url": {"url": "u"}}),
            "input[1].content[1].image_url",
            INVALID,
        ),
        (in_content({"type": "input_file"}), "input[1].content[1].file_data", MISSING),
        ([{**FUNCTION_CALL, "arguments": {}}], "input[0].arguments", INVALID),
        ([{**FUNCTION_CALL, "arguments": None}], "input[0].arguments", MISSING),
        ([{**FUNCTION_CALL, "call_id": ""}], "input[0].call_id", MISSING),
        ([{**FUNCTION_CALL, "name": 5}], "input[0].name", INVALID),
        ([{"type": "function_call_output", "output": "o"}], "input[0].call_id", MISSING),
        ([{"type": "function_call_output", "call_id": "c"}], "input[0].output", MISSING),
        (
            [{"type": "function_call_output", "call_id": "c", "output": {}}],
            "input[0].output",
            INVALID,
        ),
        (
            [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text"}]}],
            "input[0].output[0].text",
            MISSING,
        ),
        (
            [{"type": "custom_tool_call", "call_id": "c", "name": "f"}],
            "input[0].input",
            MISSING,
        ),
        ([{"type": "reasoning", "summary": "s"}], "input[0].summary", INVALID),
        ([{"type": "reasoning", "summary": ["s"]}], "input[0].summary[0]", INVALID),
        ([{"type": "reasoning", "content": [{}]}], "input[0].content[0].text", MISSING),
        ([{"type": "reasoning", "encrypted_content": 5}], "input[0].encrypted_content", INVALID),
    ],
)
def test_a_wrong_item_is_refused_with_its_path(value: object, param: str, code: str):
    with pytest.raises(InvalidRequest) as caught:
        normalise_input(value, NOW)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert f"'{param}'" in caught.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "role", "id", "content", "call_id", "name", "output", "summary"]
            )
            | st.text(max_size=3),
            inner
            | st.sampled_from(
                [
                    "message",
                    "user",
                    "reasoning",
                    "function_call",
                    "function_call_output",
                    "input_text",
                ]
            ),
            max_size=5,
        )
    ),
)


@SEEDED
@given(JSON)
def test_any_input_is_normalised_or_refused(value: object):
    with suppress(InvalidRequest):
        items = normalise_input(value, NOW)
        assert all(type(item["id"]) is type(item["type"]) is str for item in items)


# --- what is replayed -----------------------------------------------------------------------------


def call(call_id: str, **fields: object) -> dict:
    return {"type": "function_call", "id": f"fc_{call_id}", "call_id": call_id, **fields}


def output(call_id: str) -> dict:
    return {"type": "function_call_output", "id": f"fco_{call_id}", "call_id": call_id}


def reasoning(name: str, content: str | None = "sealed") -> dict:
    item = {"type": "reasoning", "id": f"rs_{name}", "summary": []}
    return {**item, "encrypted_content": content} if content else item


USER = {"type": "message", "id": "msg_u", "role": "user", "content": [asked("a")]}
ANSWER = {"type": "message", "id": "msg_a", "role": "assistant", "content": [said("b")]}
EMPTY = {"type": "message", "id": "msg_e", "role": "assistant", "content": []}


def without_id(item: dict) -> dict:
    return {name: value for name, value in item.items() if name != "id"}


@pytest.mark.parametrize(
    ("history", "new", "kept"),
    [
        ([USER, ANSWER], [USER], [USER, ANSWER]),
        ([USER, EMPTY], [USER], [USER]),
        ([USER, call("1"), output("1"), ANSWER], [], [USER, call("1"), output("1"), ANSWER]),
        ([USER, call("1")], [output("1")], [USER, call("1")]),
        ([USER, call("1"), call("2")], [output("2")], [USER, call("2")]),
        ([USER, call("1")], [USER], [USER]),
        ([USER, call("1", status="incomplete")], [output("1")], [USER]),
        ([USER, call("1", status="in_progress"), output("1"), ANSWER], [], [USER, ANSWER]),
        # A call_id that is used again: each call needs an output of its own.
        ([call("1"), output("1"), call("1")], [USER], [call("1"), output("1")]),
        ([call("1"), output("1"), call("1")], [output("1")], [call("1"), output("1"), call("1")]),
        ([call("1"), call("1"), output("1")], [], [call("1"), output("1")]),
        (
            [{"type": "web_search_call", "id": "ws_1"}],
            [],
            [{"type": "web_search_call", "id": "ws_1"}],
        ),
        # Reasoning stays with the item it led to.
        ([reasoning("1"), ANSWER], [USER], [reasoning("1"), ANSWER]),
        ([reasoning("1"), reasoning("2"), ANSWER], [], [reasoning("1"), reasoning("2"), ANSWER]),
        ([reasoning("1"), call("1")], [output("1")], [reasoning("1"), call("1")]),
        ([reasoning("1"), call("1")], [USER], []),
        ([reasoning("1")], [USER], []),
        ([reasoning("1"), USER], [], [USER]),
        ([reasoning("1", None), ANSWER, USER, ANSWER], [], [without_id(ANSWER), USER, ANSWER]),
        (
            [reasoning("1", None), call("1"), output("1"), reasoning("2"), ANSWER],
            [],
            [without_id(call("1")), output("1"), reasoning("2"), ANSWER],
        ),
    ],
)
def test_what_is_replayed(history: list[dict], new: list[dict], kept: list[dict]):
    before = copy.deepcopy(history)
    assert replayable(history, new, keep_reasoning=True) == kept
    assert history == before


def test_reasoning_of_another_route_is_left_out_with_the_ids_that_need_it():
    history = [USER, reasoning("1"), ANSWER]
    assert replayable(history, [], keep_reasoning=False) == [USER, without_id(ANSWER)]


BARE, RAW = reasoning("1", None), {**reasoning("2", None), "content": [said("Hm.")]}


@pytest.mark.parametrize(
    ("items", "recalled", "kept"),
    [
        ([USER, ANSWER], {1}, [USER, ANSWER]),
        ([reasoning("1"), ANSWER], {}, [reasoning("1"), ANSWER]),
        ([reasoning("1"), ANSWER], {0}, [reasoning("1"), ANSWER]),
        ([RAW, ANSWER], {}, [RAW, ANSWER]),
        ([RAW, ANSWER], {0}, [without_id(ANSWER)]),
        ([BARE, call("1"), output("1")], {}, [without_id(call("1")), output("1")]),
        ([BARE, call("1"), output("1")], {0}, [without_id(call("1")), output("1")]),
        ([BARE, ANSWER, USER, ANSWER], {}, [without_id(ANSWER), USER, ANSWER]),
        ([reasoning("1"), USER], {0}, [USER]),
        ([call("1"), USER], {}, [call("1"), USER]),
    ],
)
def test_what_is_read_of_reasoning_that_comes_back(items: list, recalled: set, kept: list):
    before = copy.deepcopy(items)
    assert readable(items, recalled, keep_reasoning=True) == kept
    assert items == before


def test_recalled_reasoning_is_left_out_where_it_is_not_asked_for():
    items = [reasoning("1"), ANSWER, reasoning("2"), ANSWER]
    assert readable(items, {0}, keep_reasoning=False) == [without_id(ANSWER), *items[2:]]


ITEMS = st.one_of(
    st.sampled_from([USER, ANSWER, EMPTY, reasoning("1"), reasoning("2", None)]),
    st.builds(call, st.sampled_from("12"), status=st.sampled_from(["completed", "incomplete"])),
    st.builds(output, st.sampled_from("12")),
)


@SEEDED
@given(st.lists(ITEMS), st.lists(ITEMS), st.booleans())
def test_what_is_replayed_once_is_replayed_again(history: list, new: list, keeps: bool):
    once = replayable(history, new, keep_reasoning=keeps)
    again = replayable(once, new, keep_reasoning=keeps)
    assert again == once


@SEEDED
@given(st.lists(ITEMS), st.booleans())
def test_every_replayed_call_has_its_output_and_every_output_its_call(history: list, keeps: bool):
    waiting: list[str] = []
    for item in replayable(history, [], keep_reasoning=keeps):
        if item["type"] == "function_call":
            waiting.append(item["call_id"])
        elif item["type"] == "function_call_output":
            waiting.remove(item["call_id"])
    assert waiting == []


def test_an_output_needs_its_call_before_it():
    check_tool_pairs([call("1"), call("2"), output("2"), output("1"), USER])
    check_tool_pairs([{"type": "function_call_output", "name": "f", "output": "o"}])
    with pytest.raises(InvalidRequest) as caught:
        check_tool_pairs([output("1"), call("1")])
    assert caught.value.message == "No tool call found for function call output with call_id 1."
    assert (caught.value.param, caught.value.status) == ("input", 400)
    with pytest.raises(InvalidRequest, match="for custom tool call output with call_id 9"):
        check_tool_pairs([{"type": "custom_tool_call_output", "call_id": "9", "output": ""}])
