"""The grammar checker accepts correct streams and names what is wrong with every other."""

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from tests import scripted
from tests.grammar import check, check_chat, parse

Events = list[dict[str, Any]]
CITED = scripted.message("see there")
CITED["content"][0]["annotations"] = [{"type": "url_citation", "url": "http://a", "title": "a"}]
EVERYTHING = scripted.responses_events(
    [
        scripted.reasoning("first I think", "then I think again"),
        {
            "id": "rs_raw",
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "raw thoughts"}],
        },
        CITED | {"id": "msg_2"},
        scripted.message("two", "parts", id="msg_3"),
        scripted.refusal("I cannot", id="msg_4"),
        scripted.function_call("weather", '{"city":"Ulm"}'),
        scripted.function_call("weather", '{"city":"Bonn"}', id="fc_2", call_id="call_2"),
        scripted.custom_call("shell", "ls -l"),
        {"id": "ws_1", "type": "web_search_call", "status": "completed"},
    ],
    pieces=3,
)
HELLO = scripted.responses_stream(["Hel", "lo"])
CHAT = scripted.chat_stream(["Hel", "lo"])[:-1]
CALLS = scripted.chat_tool_stream(
    scripted.chat_call("weather", '{"city":"Ulm"}'), scripted.chat_call("time")
)[:-1]


def test_a_stream_of_every_kind_of_item_is_correct() -> None:
    check(EVERYTHING)


@pytest.mark.parametrize("status", ["incomplete", "failed"])
def test_a_stream_may_end_early(status: str) -> None:
    error = {"error": {"code": "server_error", "message": "broken"}} if status == "failed" else {}
    item = scripted.message("Hel", status="incomplete")
    check(scripted.responses_events([item], status=status, **error))


def test_a_cancelled_stream_ends_with_response_failed() -> None:
    events = deepcopy(HELLO)
    events[-1]["type"] = "response.failed"
    events[-1]["response"] |= {"status": "cancelled", "completed_at": None}
    check(events)


def test_calls_may_be_open_at_the_same_time() -> None:
    first, second = (
        scripted.item_events(
            index, scripted.function_call(f"f{index}"), lambda text: scripted.split(text, 2)
        )
        for index in (0, 1)
    )
    output = [first[-1]["item"], second[-1]["item"]]
    frame = scripted.responses_events(output)
    check(
        scripted.renumbered([*frame[:2], first[0], second[0], *first[1:], *second[1:], frame[-1]])
    )


def position(events: Events, kind: str) -> int:
    return next(index for index, event in enumerate(events) if event["type"].endswith(kind))


def changed(kind: str, **fields: Any) -> Callable[[Events], Events]:
    """The stream with fields of its first event of a kind replaced, "a.b" for a nested one."""

    def change(events: Events) -> Events:
        event = events[position(events, kind)]
        for path, value in fields.items():
            *parents, name = path.split("__")
            place = event
            for parent in parents:
                place = place[parent]
            place[name] = value
        return events

    return change


def dropped(kind: str) -> Callable[[Events], Events]:
    return lambda events: scripted.renumbered(
        [event for index, event in enumerate(events) if index != position(events, kind)]
    )


def twice(kind: str) -> Callable[[Events], Events]:
    def repeat(events: Events) -> Events:
        index = position(events, kind)
        return scripted.renumbered([*events[: index + 1], *events[index:]])

    return repeat


WRONG: dict[str, tuple[Callable[[Events], Events], str]] = {
    "no events": (lambda _: [], "no terminal event"),
    "no created": (dropped("created"), "response.created comes first"),
    "created twice": (twice("created"), "comes first, and once"),
    "no in_progress": (dropped("response.in_progress"), "before response.in_progress"),
    "numbers from 1": (lambda events: scripted.numbered_from(1, events), "sequence_number is 1"),
    "no numbers": (scripted.without_numbers, "sequence_number is None"),
    "a gap": (lambda events: [events[0], *events[2:]], "expected 1"),
    "no terminal event": (lambda events: events[:-1], "no terminal event"),
    "two terminal events": (twice("completed"), "follows the terminal event"),
    "another id": (changed("completed", response__id="resp_2"), "id was 'resp_up' and is 'resp_2'"),
    "another model": (changed("in_progress", response__model="other"), "model was"),
    "float time": (changed("created", response__created_at=1.5), "not an integer"),
    "field lost": (lambda e: (e[-1]["response"].pop("tools"), e)[1], "tools is gone"),
    "wrong status": (changed("completed", response__status="failed"), "has status 'failed'"),
    "early output": (changed("created", response__output=[CITED]), "has output already"),
    "not completed": (changed("completed", response__completed_at=None), "completed_at of"),
    "error": (changed("completed", response__error={"code": "x"}), "error of completed"),
    "no items": (scripted.with_empty_output, "is not the items done"),
    "bare usage": (changed("completed", response__usage={"input_tokens": 1}), "there is no 'out"),
    "item not added": (dropped("output_item.added"), "output_index 0 was never added"),
    "item not done": (dropped("output_item.done"), "item 0 was added and never done"),
    "item done twice": (twice("output_item.done"), "item 0 is done already"),
    "index from 1": (changed("output_item.added", output_index=1), "output_index is 1, expected 0"),
    "full when added": (changed("output_item.added", item__content=[CITED]), "content already"),
    "no id": (changed("output_item.added", item__id=""), "the item has no id"),
    "id changes": (changed("output_item.done", item__id="msg_9"), "names 'msg_9'"),
    "delta of another": (changed("text.delta", item_id="msg_9"), "names 'msg_9'"),
    "type changes": (changed("output_item.done", item__type="x"), "the item's type was"),
    "still going": (changed("output_item.done", item__status="in_progress"), "in progress"),
    "part not added": (dropped("content_part.added"), "part 0 was never added"),
    "part not done": (dropped("content_part.done"), "a content part is open"),
    "part from 1": (changed("content_part.added", content_index=1), "part index is 1, expected 0"),
    "text not done": (dropped("output_text.done"), "done before its text is"),
    "delta lost": (dropped("output_text.delta"), "done says 'Hello', the deltas 'lo'"),
    "other text": (changed("output_text.done", text="Help"), "done says 'Help'"),
    "other part": (changed("content_part.done", part__text="Help"), "done says 'Help'"),
    "other final": (changed("output_item.done", item__content=[]), "is not what was streamed"),
    "refusal delta": (changed("text.delta", type="response.refusal.delta"), "is a output_text"),
    "unknown": (changed("text.delta", type="response.reasoning.delta"), "no SDK knows"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_message_stream_is_named(case: str) -> None:
    change, reason = WRONG[case]
    with pytest.raises(AssertionError) as caught:
        check(change(deepcopy(HELLO)))
    assert reason in str(caught.value)


WRONG_CALL: dict[str, tuple[Callable[[Events], Events], str]] = {
    "no call_id": (changed("output_item.added", item__call_id=""), "has no call_id"),
    "call_id changes": (changed("output_item.done", item__call_id="c"), "the item's call_id was"),
    "no arguments": (dropped("arguments.done"), "done before its arguments"),
    "arguments at once": (changed("output_item.added", item__arguments="{}"), "arguments already"),
    "whole arguments not as a delta": (dropped("arguments.delta"), "done says '{}', the deltas ''"),
    "final arguments": (changed("output_item.done", item__arguments="{} "), "the deltas say '{}'"),
    "completed at once": (changed("output_item.added", item__status="completed"), "completed"),
}


@pytest.mark.parametrize("case", WRONG_CALL)
def test_a_wrong_call_stream_is_named(case: str) -> None:
    change, reason = WRONG_CALL[case]
    events = scripted.responses_events([scripted.function_call("f")], pieces=1)
    check(events)
    with pytest.raises(AssertionError) as caught:
        check(change(events))
    assert reason in str(caught.value)


def test_an_item_id_used_twice_is_named() -> None:
    events = scripted.responses_events([scripted.message("a"), scripted.message("b")])
    with pytest.raises(AssertionError, match="'msg_up1' is used twice"):
        check(events)


def test_an_incomplete_item_in_a_completed_response_is_named() -> None:
    events = scripted.responses_events([scripted.message("a", status="incomplete")])
    with pytest.raises(AssertionError, match="has incomplete items"):
        check(events)


def test_parse_gives_the_data_of_every_event() -> None:
    raw = b': hi\n\nevent: a\ndata: {"type":"a"}\n\ndata: {}\r\n\r\ndata: [DONE]\n\n'
    assert parse(raw, done=True) == [{"type": "a"}, {}]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"data: {}\n", "ends inside an event"),
        (b'event: b\ndata: {"type": "a"}\n\n', "carries type 'a'"),
        (b"data: [DONE]\n\ndata: {}\n\n", "not the last record"),
        (b"data: {}\n\n", "the last record is not"),
        (b"id: 1\ndata: {}\n\n", "no client needs"),
        (b"data: {}\ndata: {}\n\n", "stands twice"),
    ],
)
def test_parse_names_what_is_wrong_on_the_wire(raw: bytes, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        parse(raw, done=True)


def test_correct_chat_streams_are_correct() -> None:
    check_chat(CHAT)
    check_chat(CALLS)
    check_chat(scripted.chat_stream(["a"], usage=None, finish="length")[:-1])


def test_a_chat_stream_may_break_off_with_an_error() -> None:
    error = {"error": {"message": "m", "type": "upstream_error", "param": "", "code": "c"}}
    check_chat([*CHAT[:2], error])
    check_chat([error])


def last_choice(chunks: Events, **delta: Any) -> Events:
    return [*chunks, {**chunks[0], "choices": [{"index": 0, "delta": delta}]}]


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([], "no chunks"),
        (CHAT[1:], "no role"),
        (CHAT[:3], "has no finish_reason"),
        ([*CHAT, CHAT[-1]], "follows the usage chunk"),
        (last_choice(CHAT[:-1], content="more"), "goes on after its finish_reason"),
        ([*CHAT[:2], CHAT[-1], *CHAT[2:]], "usage comes before finish_reason"),
        ([*CHAT[:2], {**CHAT[2], "id": "other"}, *CHAT[3:]], "id was 'chatcmpl-up'"),
        ([*CHAT[:1], *CALLS[2:]], "tool call 0 starts without an id"),
        (json.loads(json.dumps(CALLS).replace("call_time", "call_weather")), "is used twice"),
        ([CHAT[0], CALLS[-2], CALLS[-1]], "finish_reason tool_calls without a call"),
    ],
)
def test_a_wrong_chat_stream_is_named(chunks: Events, reason: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check_chat(chunks)
    assert reason in str(caught.value)
