"""Whatever is written, observed or cut off: what the client gets is one correct stream."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anos import items
from anos.events import EventWriter
from anos.items import Answer
from tests import grammar

NOW_MS = 1_700_000_000_000
Events = list[dict[str, Any]]


def base() -> dict[str, Any]:
    return items.base_response({}, id="resp_1", model="m", created_at=NOW_MS // 1000)


def writer() -> EventWriter:
    return EventWriter(base(), NOW_MS)


def end(writer: EventWriter, status: str = "completed") -> Events:
    error = {"code": "server_error", "message": "x"} if status == "failed" else None
    answer = Answer(status, writer.items, items.usage(1, 2), "max_output_tokens", error)
    return writer.terminal(items.final_response(base(), answer, NOW_MS // 1000))


def done_items(events: Events) -> list[dict[str, Any]]:
    return [e["item"] for e in events if e["type"] == "response.output_item.done"]


def kinds(events: Events) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def part(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": [], **fields}


CITATION = {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1}
TOKEN = {"token": "He", "logprob": -0.1, "bytes": [72, 101], "top_logprobs": []}
FINISHED: dict[str, dict[str, Any]] = {
    "reasoning": {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [
            {"type": "summary_text", "text": "First."},
            {"type": "summary_text", "text": "Then."},
        ],
        "encrypted_content": "gAAA",
    },
    "message": {
        "id": "msg_1",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "phase": "final_answer",
        "content": [
            part("Hello", annotations=[CITATION], logprobs=[TOKEN]),
            {"type": "refusal", "refusal": "No more."},
            part(""),
        ],
    },
    "function call": {
        "id": "fc_1",
        "type": "function_call",
        "status": "completed",
        "call_id": "call_1",
        "name": "look",
        "arguments": '{"at":"it"}',
    },
    "custom call": {
        "id": "ctc_1",
        "type": "custom_tool_call",
        "status": "completed",
        "call_id": "call_2",
        "name": "shout",
        "input": "HEY",
    },
    "mcp call": {
        "id": "mcp_1",
        "type": "mcp_call",
        "status": "completed",
        "server_label": "s",
        "name": "n",
        "arguments": "{}",
        "output": "o",
    },
    "hosted call": {
        "id": "ws_1",
        "type": "web_search_call",
        "status": "completed",
        "action": {"type": "search", "query": "q"},
    },
    "extension": {"id": "x_1", "type": "acme:thing", "status": "completed", "payload": [{"a": 1}]},
}


def native_stream() -> Events:
    """A Responses stream as OpenAI sends it, written by hand: every kind of item and event."""

    def item(index: int, added: dict[str, Any], done: dict[str, Any], *between: Any) -> None:
        say("output_item.added", output_index=index, item=added)
        for type_, fields in between:
            say(type_, output_index=index, item_id=added["id"], **fields)
        say("output_item.done", output_index=index, item=done)

    def say(type_: str, **fields: Any) -> None:
        events.append({"type": f"response.{type_}", "sequence_number": len(events), **fields})

    def text(index: int, stem: str, part_stem: str, name: str, whole: dict[str, Any]) -> Any:
        at = {"content_index" if part_stem == "content_part" else "summary_index": index}
        said = whole[name]
        extra = {"logprobs": []} if name == "text" and part_stem == "content_part" else {}
        yield f"{part_stem}.added", {**at, "part": {**whole, name: "", **empty(whole)}}
        for piece in (said[:2], said[2:]):
            yield f"{stem}.delta", {**at, "delta": piece, **extra}
        if whole.get("annotations"):
            yield (
                "output_text.annotation.added",
                {**at, "annotation_index": 0, "annotation": CITATION},
            )
        yield f"{stem}.done", {**at, name: said, **extra}
        yield f"{part_stem}.done", {**at, "part": whole}

    def empty(whole: dict[str, Any]) -> dict[str, Any]:
        return {name: [] for name in ("annotations", "logprobs") if name in whole}

    events: Events = []
    say("created", response=base())
    say("in_progress", response=base())
    summary = {"type": "summary_text", "text": "Think."}
    raw = {"type": "reasoning_text", "text": "Hmm, well."}
    reasoning = {"id": "rs_1", "type": "reasoning", "encrypted_content": "gAAA"}
    item(
        0,
        {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "gA"},
        {**reasoning, "summary": [summary], "content": [raw]},
        *text(0, "reasoning_summary_text", "reasoning_summary_part", "text", summary),
        *text(0, "reasoning_text", "content_part", "text", raw),
    )
    search = FINISHED["hosted call"]
    item(
        1,
        {**search, "status": "in_progress"},
        search,
        ("web_search_call.in_progress", {}),
        ("web_search_call.searching", {}),
        ("web_search_call.completed", {}),
    )
    parts = [part("Hello", annotations=[CITATION]), {"type": "refusal", "refusal": "No more."}]
    message = {"id": "msg_1", "type": "message", "role": "assistant", "phase": "commentary"}
    item(
        2,
        {**message, "status": "in_progress", "content": []},
        {**message, "status": "completed", "content": parts},
        *text(0, "output_text", "content_part", "text", parts[0]),
        *text(1, "refusal", "content_part", "refusal", parts[1]),
    )
    for index, (name, field, stem) in enumerate(
        (
            ("function call", "arguments", "function_call_arguments"),
            ("custom call", "input", "custom_tool_call_input"),
            ("mcp call", "arguments", "mcp_call_arguments"),
        ),
        3,
    ):
        call = FINISHED[name]
        item(
            index,
            {**call, "status": "in_progress", field: ""},
            call,
            (f"{stem}.delta", {"delta": call[field]}),
            (f"{stem}.done", {field: call[field]}),
        )
    answer = Answer("completed", done_items(events), items.usage(1, 2))
    say("completed", response=items.final_response(base(), answer, NOW_MS // 1000))
    return events


NATIVE = native_stream()


def test_the_native_sample_is_a_correct_stream() -> None:
    grammar.check(NATIVE)


@pytest.mark.parametrize("cut", range(len(NATIVE)))
def test_a_stream_cut_after_any_event_is_closed_correctly(cut: int) -> None:
    seeded = writer()
    for event in NATIVE[:cut]:
        seeded.observe(event)
    closing = seeded.close_all("incomplete")
    before = done_items(NATIVE[:cut])
    closing += end(seeded, "incomplete")
    grammar.check(NATIVE[:cut] + closing)
    assert seeded.items[: len(before)] == before
    assert all(item["status"] == "incomplete" for item in seeded.items[len(before) :])


@pytest.mark.parametrize("cut", range(len(NATIVE)))
def test_a_stream_goes_on_from_any_event_with_what_the_upstream_says_last(cut: int) -> None:
    seeded = writer()
    for event in NATIVE[:cut]:
        seeded.observe(event)
    rest = []
    for index, item in enumerate(NATIVE[-1]["response"]["output"]):
        if index < len(seeded.items):
            rest += seeded.close(index, final=item)
        else:
            rest += seeded.add(item)
    events = NATIVE[:cut] + rest + end(seeded)
    grammar.check(events)
    for item, wanted in zip(seeded.items, NATIVE[-1]["response"]["output"], strict=True):
        if item["type"] != "reasoning":  # raw reasoning depends on whether it was shown raw
            assert item == wanted


def test_a_finished_stream_gets_no_second_end() -> None:
    seeded = writer()
    for event in NATIVE:
        seeded.observe(event)
    assert seeded.close_all() + end(seeded) == []
    assert seeded.items == NATIVE[-1]["response"]["output"]


@pytest.mark.parametrize("item", FINISHED.values(), ids=FINISHED)
def test_a_whole_item_becomes_a_correct_stream_of_itself(item: dict[str, Any]) -> None:
    fresh = writer()
    events = fresh.add(item)
    events += end(fresh)
    grammar.check(events)
    assert fresh.items == [{"status": "completed", **item}]


@pytest.mark.parametrize("item", FINISHED.values(), ids=FINISHED)
def test_a_failed_response_may_have_any_item_half_done(item: dict[str, Any]) -> None:
    fresh = writer()
    _, events = fresh.open(item)
    events += fresh.close_all("incomplete")
    events += end(fresh, "failed")
    grammar.check(events)
    assert fresh.items[0]["status"] == "incomplete"


def test_nothing_but_created_and_in_progress_comes_first_and_once() -> None:
    fresh = writer()
    assert kinds(fresh.start()) == ["created", "in_progress"]
    assert fresh.start() == []
    assert kinds(writer().open({"type": "message"})[1]) == [
        "created",
        "in_progress",
        "output_item.added",
    ]


def test_a_stream_that_produced_nothing_still_starts_and_ends() -> None:
    fresh = writer()
    events = fresh.close_all() + end(fresh, "failed")
    grammar.check(events)
    assert kinds(events) == ["created", "in_progress", "failed"]


def test_a_cancelled_response_ends_as_failed_and_there_is_one_end() -> None:
    fresh = writer()
    response = {**base(), "status": "cancelled"}
    assert kinds(fresh.terminal(response)) == ["created", "in_progress", "failed"]
    assert fresh.terminal(response) == []


def test_another_kind_of_text_closes_the_open_part() -> None:
    fresh = writer()
    index, events = fresh.open({"type": "message"})
    events += fresh.delta(index, "text", "a")
    events += fresh.delta(index, "refusal", "b")
    events += fresh.close(index)
    assert kinds(events)[3:] == [
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "content_part.added",
        "refusal.delta",
        "refusal.done",
        "content_part.done",
        "output_item.done",
    ]


def test_another_part_number_of_the_upstream_begins_another_part() -> None:
    fresh = writer()
    index, _ = fresh.open({"type": "reasoning"})
    for number, text in ((0, "a"), (0, "b"), (5, "c"), (5, "d")):
        fresh.delta(index, "summary", text, part=number)
    assert [part["text"] for part in fresh.items[0]["summary"]] == ["ab", "cd"]


def test_raw_reasoning_is_shown_as_a_summary() -> None:
    fresh = writer()
    index, events = fresh.open({"type": "reasoning", "content": []})
    events += fresh.delta(index, "reasoning", "hm")
    events += fresh.close(
        index, final={"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hmm"}]}
    )
    events += end(fresh)
    grammar.check(events)
    assert fresh.items[0]["summary"] == [{"type": "summary_text", "text": "hmm"}]
    assert "content" not in fresh.items[0]


def test_raw_reasoning_and_its_summary_stay_apart() -> None:
    fresh = writer()
    for kind, text in (("reasoning", "a"), ("reasoning", "b"), ("summary", "c"), ("summary", "d")):
        fresh.delta(0, kind, text, part=0)
    assert [part["text"] for part in fresh.items[0]["summary"]] == ["ab", "cd"]


def test_raw_reasoning_the_client_has_seen_raw_goes_on_raw() -> None:
    seeded = writer()
    cut = 1 + next(i for i, e in enumerate(NATIVE) if e["type"] == "response.reasoning_text.delta")
    for event in NATIVE[:cut]:
        seeded.observe(event)
    events = seeded.delta(0, "reasoning", "more")
    assert kinds(events) == ["reasoning_text.delta"]
    grammar.check(NATIVE[:cut] + events + seeded.close_all() + end(seeded))


@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        ("text", "message"),
        ("refusal", "message"),
        ("summary", "reasoning"),
        ("reasoning", "reasoning"),
        ("arguments", "function_call"),
        ("input", "custom_tool_call"),
    ],
)
def test_a_delta_for_an_item_nobody_announced_opens_it(kind: str, type_: str) -> None:
    fresh = writer()
    events = fresh.delta(0, kind, "{}")
    assert kinds(events)[2] == "output_item.added"
    assert fresh.items[0]["type"] == type_
    assert kinds(fresh.close_all())[-1] == "output_item.done"


@pytest.mark.parametrize("cut", ["item", "part"])
def test_observed_deltas_without_their_announcements_are_kept(cut: str) -> None:
    seeded = writer()
    added = [e for e in NATIVE if e["type"] == "response.output_item.added" and cut == "part"]
    deltas = [e for e in NATIVE if e["type"].endswith((".delta", "annotation.added"))]
    for event in NATIVE[:2] + added + deltas:
        seeded.observe(event)
    events = seeded.close_all()
    texts = [item for item in done_items(events) if item["type"] == "message"]
    assert [p.get("text", p.get("refusal")) for p in texts[0]["content"]] == ["Hello", "No more."]


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.acme.thing", "sequence_number": 2},
        {"type": "response.output_text.delta", "sequence_number": 2, "delta": "no index"},
        {"type": "response.content_part.added", "sequence_number": 2, "output_index": 0},
        {"type": "error", "sequence_number": 2, "message": "m", "code": "c", "param": ""},
        {"type": "keepalive", "sequence_number": 2},
    ],
)
def test_an_unknown_event_only_takes_its_number(event: dict[str, Any]) -> None:
    seeded = writer()
    for seen in [*NATIVE[:2], event]:
        seeded.observe(seen)
    assert seeded.items == []
    assert end(seeded)[0]["sequence_number"] == 3


def test_ids_are_minted_where_they_are_missing_or_repeated() -> None:
    fresh = writer()
    for item in (
        {"type": "message", "id": "msg_1"},
        {"type": "message", "id": "msg_1"},
        {"type": "message", "id": None},
        {"type": "function_call", "name": "f", "call_id": None},
        {"type": "reasoning", "id": ""},
        {"type": "custom_tool_call", "name": "f"},
    ):
        fresh.open(item)
    ids = [item["id"] for item in fresh.items]
    assert ids[0] == "msg_1"
    assert [id_.partition("_")[0] for id_ in ids] == ["msg", "msg", "msg", "fc", "rs", "ctc"]
    assert len(set(ids)) == len(ids)
    assert fresh.items[3]["call_id"].startswith("call_")


def test_a_call_without_arguments_has_a_delta_with_an_empty_object() -> None:
    fresh = writer()
    index, _ = fresh.open({"type": "function_call", "call_id": "c", "name": "f"})
    events = fresh.close(index)
    assert kinds(events) == [
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    assert [events[0]["delta"], events[1]["arguments"]] == ["{}", "{}"]


def test_what_contradicts_the_stream_comes_too_late() -> None:
    fresh = writer()
    index, events = fresh.open({"type": "function_call", "call_id": "c", "name": "f", "id": "fc_1"})
    events += fresh.delta(index, "arguments", '{"a":1}')
    final = {"id": "other", "call_id": "other", "name": "other", "arguments": "[]", "extra": 1}
    events += fresh.close(index, final={"type": "function_call", "status": "completed", **final})
    events += end(fresh)
    grammar.check(events)
    assert fresh.items[0]["arguments"] == '{"a":1}'
    assert fresh.items[0]["extra"] == 1


def test_nulls_are_left_out() -> None:
    fresh = writer()
    message = {"type": "message", "phase": None, "status": None, "content": [part("a")]}
    fresh.add(message)
    assert fresh.items[0].keys() == {"id", "type", "status", "role", "content"}


def test_a_finished_item_takes_no_more_text() -> None:
    fresh = writer()
    fresh.add(FINISHED["message"])
    assert fresh.delta(0, "text", "late") == []
    assert fresh.annotate(0, CITATION) == []
    assert fresh.close(0) == []


def test_tokens_without_text_keep_their_logprobs() -> None:
    fresh = writer()
    fresh.delta(0, "text", "a", logprobs=[TOKEN])
    assert fresh.delta(0, "text", "") == []
    assert len(fresh.delta(0, "text", "", logprobs=[TOKEN])) == 1
    fresh.close_all()
    assert fresh.items[0]["content"] == [part("a", logprobs=[TOKEN, TOKEN])]


def test_any_other_event_is_numbered_in_between() -> None:
    fresh = writer()
    index, events = fresh.open(FINISHED["hosted call"])
    item_id = fresh.items[index]["id"]
    events.append(
        fresh.event("response.web_search_call.searching", output_index=index, item_id=item_id)
    )
    events += fresh.close_all() + end(fresh)
    grammar.check(events)


# --- any sequence of calls ------------------------------------------------------------------------

OPENINGS = st.sampled_from(
    [
        {"type": "message"},
        {"type": "reasoning"},
        {"type": "function_call", "name": "f"},
        {"type": "custom_tool_call", "name": "f"},
        {"type": "web_search_call", "status": "in_progress"},
    ]
)
TEXTS = {
    "message": ("text", "refusal"),
    "reasoning": ("summary", "reasoning"),
    "function_call": ("arguments",),
    "custom_tool_call": ("input",),
    "web_search_call": (),
}


def played(fresh: EventWriter, data: st.DataObject) -> Events:
    events: Events = []
    for _ in range(data.draw(st.integers(0, 12))):
        if not fresh.items or data.draw(st.integers(0, 3)) == 0:
            events += fresh.open(data.draw(OPENINGS))[1]
            continue
        index = data.draw(st.integers(0, len(fresh.items) - 1))
        type_ = fresh.items[index]["type"]
        if data.draw(st.integers(0, 5)) == 0:
            events += fresh.close(index)
        elif type_ == "message" and data.draw(st.integers(0, 5)) == 0:
            events += fresh.annotate(index, CITATION)
        elif TEXTS[type_]:
            kind = data.draw(st.sampled_from(TEXTS[type_]))
            # Digits are JSON, however they are cut.
            events += fresh.delta(index, kind, data.draw(st.sampled_from(["1", "23", ""])))
    return events


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.data())
def test_any_sequence_of_calls_cut_anywhere_is_a_correct_stream(data: st.DataObject) -> None:
    fresh = writer()
    events = played(fresh, data)
    as_returned = copy.deepcopy(events)
    whole = events + fresh.close_all() + end(fresh)
    grammar.check(whole)
    assert events == as_returned, "an event changed after it was returned"
    assert fresh.items == whole[-1]["response"]["output"]
    cut = data.draw(st.integers(0, len(whole) - 1))
    seeded = writer()
    for event in whole[:cut]:
        seeded.observe(event)
    grammar.check(whole[:cut] + seeded.close_all("incomplete") + end(seeded, "incomplete"))
