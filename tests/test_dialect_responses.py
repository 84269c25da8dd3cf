"""The request to a Responses upstream, and its whole answer, which is the one it streams."""

import json
import re
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anos import dialect_responses, items
from anos.calls import as_stream
from anos.chat_stream import ChunkWriter
from anos.config_sections import Quirks
from anos.dialect_responses import Reader, build_request, parse_answer
from anos.errors import UpstreamError
from anos.events import EventWriter
from anos.inputs import normalise_input
from anos.items import Answer, Turn
from anos.routing import Route
from anos.translated import Translated
from tests import grammar, scripted
from tests.scripted import Json
from tests.test_chat_stream import folded
from tests.test_passthrough import ANSWERS, NOW_MS, Relayed, compact, relay

ROUTE = Route("up", "responses", "up-model", Quirks(), False)
REASONING = Route("up", "responses", "up-model", Quirks(), True)
ENCRYPTED = "reasoning.encrypted_content"


def request(
    given: Any = "Hi", route: Route = ROUTE, history: list[Json] | None = None, **fields: Any
) -> Json:
    """The body the upstream is sent; `given` is the client's input, None to have it resolved."""
    tree = {"model": "gpt-4", **fields}
    own = normalise_input(given or "Hi", NOW_MS)
    turn = Turn("gpt-4", tree, own, history or [], tree.get("stream") is True)
    return build_request(turn, route, None if history is not None else given)


# Requests ----------------------------------------------------------------------------------------


def test_a_request_goes_on_as_the_client_wrote_it() -> None:
    given = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    fields = {
        "instructions": "Be brief.",
        "temperature": 0.5,
        "max_output_tokens": 99,
        "tools": [{"type": "web_search"}, {"type": "function", "name": "f", "parameters": {}}],
        "text": {"format": {"type": "json_object"}},
        "metadata": {"a": "b"},
        "something_new": {"deep": [1, 2.5, None]},
    }
    assert request(given, **fields) == {
        **fields, "model": "up-model", "input": given, "store": False, "stream": False
    }  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [{"store": True}, {"store": None}, {"background": True}, {"previous_response_id": "resp_1"}],
)
def test_what_the_gateway_does_itself_is_not_asked_of_the_upstream(fields: Json) -> None:
    assert request(**fields) == request()
    assert request()["store"] is False


@pytest.mark.parametrize(("include", "route", "asked"), [
    (None, ROUTE, None),
    ([], ROUTE, None),
    (["message.output_text.logprobs"], ROUTE, ["message.output_text.logprobs"]),
    ([ENCRYPTED], ROUTE, [ENCRYPTED]),
    (None, REASONING, [ENCRYPTED]),
    ([ENCRYPTED], REASONING, [ENCRYPTED]),
    (["message.output_text.logprobs"], REASONING, ["message.output_text.logprobs", ENCRYPTED]),
])  # fmt: skip
def test_encrypted_reasoning_is_asked_for_where_the_model_reasons(
    include: Any, route: Route, asked: Any
) -> None:
    assert request(include=include, route=route).get("include") == asked
    assert include in (None, [], [ENCRYPTED], ["message.output_text.logprobs"])


def test_history_goes_before_the_input_without_ids_that_mean_nothing_to_the_upstream() -> None:
    output = {
        "type": "function_call_output",
        "id": "fco_1",
        "status": "completed",
        "call_id": "c",
        "output": "1",
    }
    history = [
        {"type": "message", "id": "msg_1", "status": "completed", "role": "user", "content": []},
        scripted.reasoning("Hm.", encrypted_content="c2VjcmV0"),
        scripted.function_call("f", call_id="c"),
        output,
        scripted.message("Yes."),
    ]
    sent = request(history=history)["input"]
    assert sent == [
        {"type": "message", "role": "user", "content": []},
        *history[1:3],
        {"type": "function_call_output", "call_id": "c", "output": "1"},
        history[4],
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "Hi"}],
        },
    ]


def test_a_stream_is_asked_for_as_the_client_asked() -> None:
    options = {"include_obfuscation": False}
    body = request(stream=True, stream_options=options)
    assert (body["stream"], body["stream_options"]) == (True, options)


# Answers -----------------------------------------------------------------------------------------


def same(output: list[Json]) -> list[Json]:
    """Without the ids that had to be minted."""
    return [{k: v for k, v in item.items() if k != "id"} for item in output]


def read(body: Json) -> Answer:
    return parse_answer(json.loads(json.dumps(body)), NOW_MS)


@pytest.mark.parametrize("name", ANSWERS)
def test_a_conforming_answer_is_the_one_that_is_streamed(name: str) -> None:
    events = ANSWERS[name]()
    body = events[-1]["response"]
    answer = read(body)
    assert answer.output == body["output"]
    assert answer == relay(events).answer


def spoiled(output: list[Json]) -> list[tuple[str, list[Json]]]:
    """What servers other than OpenAI's do to the same items."""

    def each(**fields: Any) -> list[Json]:
        return [{**item, **fields} for item in output]

    def part_of(item: Json, **fields: Any) -> Json:
        if item["type"] != "message":
            return item
        return {**item, "content": [{**part, **fields} for part in item["content"]]}

    texts = [item for item in output if item["type"] == "message"]
    return [
        ("no ids", [{k: v for k, v in item.items() if k != "id"} for item in output]),
        ("one id", each(id="msg_same")),
        ("a bad id", each(id="x y")),
        ("a null id", each(id=None)),
        ("a long id", each(id="msg_" + "x" * 61)),
        ("still in progress", each(status="in_progress")),
        ("no status", [{k: v for k, v in item.items() if k != "status"} for item in output]),
        ("nulls", each(phase=None, encrypted_content=None)),
        ("null logprobs", [part_of(item, logprobs=None) for item in output]),
        ("null annotations", [part_of(item, annotations=None) for item in output]),
        ("no role", [{k: v for k, v in item.items() if k != "role"} for item in texts]),
        (
            "no arguments",
            [{**item, "arguments": ""} if "arguments" in item else item for item in output],
        ),
        (
            "raw reasoning",
            [
                {
                    "type": "reasoning",
                    "id": "rs_9",
                    "summary": [{"type": "summary_text", "text": "One."}],
                    "content": [
                        {"type": "reasoning_text", "text": "Two."},
                        {"type": "reasoning_text", "text": "Three."},
                    ],
                },
                *texts,
            ],
        ),
        ("reasoning without a summary", [{"type": "reasoning", "id": "rs_9"}, *texts]),
    ]


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_repaired_as_its_stream_would_be(name: str) -> None:
    body = ANSWERS[name]()[-1]["response"]
    for how, output in spoiled(body["output"]):
        changed = {**body, "output": output}
        answer = read(changed)
        streamed = relay([{"type": f"response.{body['status']}", "response": changed}]).answer
        assert same(answer.output) == same(streamed.output), how
        assert len({item["id"] for item in answer.output}) == len(output)
        for item in answer.output:
            assert item["type"] not in ("message", "function_call") or item["status"] in (
                "completed", "incomplete"
            )  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_a_whole_answer_makes_the_stream_that_was_asked_for(name: str) -> None:
    body = ANSWERS[name]()[-1]["response"]
    stream = as_stream(ROUTE, json.dumps(body, indent=1).encode())
    relayed = Relayed([stream])
    assert same(relayed.answer.output) == same(read(body).output)
    assert relayed.answer.usage == read(body).usage


@pytest.mark.parametrize(
    ("fields", "status", "reason", "error"),
    [
        ({}, "completed", None, None),
        ({"status": None}, "completed", None, None),
        ({"status": "done"}, "completed", None, None),
        ({"incomplete_details": {"reason": "max_output_tokens"}}, "completed", None, None),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
            "incomplete",
            "content_filter",
            None,
        ),
        (
            {"status": "incomplete", "incomplete_details": None},
            "incomplete",
            "max_output_tokens",
            None,
        ),
        (
            {"status": "failed", "error": {"code": "x", "message": "Oh.", "more": 1}},
            "failed",
            None,
            {"code": "x", "message": "Oh."},
        ),
        (
            {"status": "failed", "error": None},
            "failed",
            None,
            {"code": "server_error", "message": "The upstream failed."},
        ),
        ({"status": "cancelled"}, "cancelled", None, None),
    ],
)
def test_the_status_says_how_it_ended(fields: Json, status: str, reason: Any, error: Any) -> None:
    answer = read(scripted.responses_body([scripted.message("Hi")]) | fields)
    assert (answer.status, answer.incomplete_reason, answer.error) == (status, reason, error)


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        (None, None),
        ({}, None),
        ({"input_tokens": "7"}, None),
        ({"input_tokens": -1}, None),
        ({"input_tokens": 7}, None),
        ({"input_tokens": 0, "output_tokens": 0}, items.usage(0, 0)),
        ({"input_tokens": 2**31, "output_tokens": 2**31}, items.usage(2**31, 2**31)),
        ({"input_tokens": 2**31 + 1, "output_tokens": 2}, None),
        ({"input_tokens": 7, "output_tokens": 10**19}, None),
        ({"input_tokens": 7, "output_tokens": 2.0}, None),
        ({"input_tokens": 7, "output_tokens": False}, None),
        (
            {
                "input_tokens": 7,
                "output_tokens": 2,
                "output_tokens_details": {"reasoning_tokens": 9 * 10**15},
            },
            None,
        ),
        ({"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}, items.usage(7, 2)),
        ({"input_tokens": 7, "output_tokens": 2, "input_tokens_details": None}, items.usage(7, 2)),
        (
            {
                "input_tokens": 7,
                "output_tokens": 2,
                "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 1},
                "output_tokens_details": {"reasoning_tokens": 1},
            },
            items.usage(7, 2, cached=3, cache_write=1, reasoning=1),
        ),
    ],
)
def test_usage_has_one_shape(usage: Any, counted: Any) -> None:
    assert read(scripted.responses_body([]) | {"usage": usage}).usage == counted


def test_other_fields_of_the_upstream_pass_and_those_of_the_gateway_do_not() -> None:
    body = scripted.responses_text("Hi", service_tier="flex", something_new={"a": 1})
    base = items.base_response(
        {"metadata": {"a": "b"}, "store": False}, id="resp_1", model="gpt-4", created_at=5
    )
    final = items.final_response(base, read(body), 7)
    assert final["service_tier"] == "flex"
    assert final["something_new"] == {"a": 1}
    assert (final["id"], final["model"], final["created_at"]) == ("resp_1", "gpt-4", 5)
    assert (final["metadata"], final["store"], final["completed_at"]) == ({"a": "b"}, False, 7)


@pytest.mark.parametrize("body", [
    {},
    {"output": None},
    {"output": "Hi"},
    {"output": [5]},
    {"output": [{}]},
    {"output": [{"type": 5}]},
    {"output": [{"type": "message", "content": "Hi"}]},
    {"output": [{"type": "message", "content": [{"type": "output_text"}]}]},
    {"output": [{"type": "function_call", "name": "f"}]},
    {"object": "chat.completion", "output": []},
], ids=str)  # fmt: skip
def test_what_is_no_response_is_an_upstream_error(body: Json) -> None:
    with pytest.raises(UpstreamError):
        read(body)


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_a_response_that_has_not_ended_is_no_answer(status: str) -> None:
    for make in (read, dialect_responses.as_stream):
        with pytest.raises(UpstreamError, match=f"still {status}"):
            make(scripted.responses_body([scripted.message("Hi")], status=status))


def test_an_error_in_place_of_an_answer_is_passed_on() -> None:
    for make in (read, dialect_responses.as_stream):
        with pytest.raises(UpstreamError, match="Oh") as caught:
            make({"error": {"message": "Oh.", "code": "odd"}})
        assert caught.value.code == "odd"


# Streams whose parts are not those of the finished item ------------------------------------------


def to_chat(events: list[Json]) -> tuple[Json, list[Json]]:
    """The message a chat client puts together, and the output that is known of it."""
    base = items.base_response({}, id="resp_1", model="m", created_at=NOW_MS // 1000)
    writer = EventWriter(base, NOW_MS)
    chunks = ChunkWriter(include_usage=False, id="c", model="m", created=1)
    stream = Translated(Reader(writer, shows_encrypted=False), chunks, writer)
    sent = stream.feed(b"".join(map(compact, events)))
    closing, answer = stream.finish()
    raw = sent + closing + stream.terminal(answer, {})
    message: Json = folded(grammar.parse(raw, done=True))["choices"][0]["message"]
    return message, answer.output


def without_deltas(events: list[Json], field: str, number: int) -> list[Json]:
    """The same stream, in which a part has no delta."""
    return scripted.renumbered(
        [e for e in events if e.get(field) != number or not e["type"].endswith(".delta")]
    )


def refused(*texts: str) -> Json:
    parts = [{"type": "refusal", "refusal": text} for text in texts]
    return {**scripted.message(), "content": parts}


WORD = re.compile("<[0-9]+>")


def words(output: list[Json]) -> list[str]:
    """The words of all parts, in order."""
    parts = [part for item in output for part in item.get("content") or item.get("summary") or ()]
    return [word for part in parts for word in WORD.findall(part.get("text", part.get("refusal")))]


def check_said_once(events: list[Json], expected: list[str]) -> None:
    """That either client is told every word once, and so is the store."""
    message, output = to_chat(events)
    told = [message.get(name) or "" for name in ("reasoning_content", "content", "refusal")]
    assert sorted(WORD.findall("".join(told))) == sorted(words(output)) == expected
    for relayed in (relay(events), relay(events, repair=True)):
        deltas = [event["delta"] for event in relayed.events if event["type"].endswith(".delta")]
        assert sorted(WORD.findall("".join(deltas))) == expected
        assert sorted(words(relayed.answer.output)) == expected


def a_refusal(*texts: str) -> Json:
    return scripted.message(content=[{"type": "refusal", "refusal": text} for text in texts])


@pytest.mark.parametrize("is_silent", [False, True])
@pytest.mark.parametrize("make", [scripted.message, a_refusal, scripted.reasoning])
@pytest.mark.parametrize(
    "texts", [["", "<1><2>"], ["", "", "<1>", "<2>"], ["<1>", "", "<2>"], ["<1><2>", ""]]
)
def test_a_part_without_text_does_not_make_the_next_one_said_twice(
    make: Callable[..., Json], texts: list[str], is_silent: bool
) -> None:
    events = scripted.responses_events([make(*texts)])
    if is_silent:
        events = [event for event in events if event.get("delta") != ""]
    check_said_once(scripted.renumbered(events), ["<1>", "<2>"])


def test_parts_that_are_cut_elsewhere_in_the_finished_item_are_said_once() -> None:
    events = scripted.responses_events([scripted.message("", "<1><2>")])
    for event in events:
        if event["type"] == "response.output_item.done":
            event["item"] = scripted.message("<1>", "<2>", "", "")
    check_said_once(events, ["<1>", "<2>"])


Parts = list[str]
# How a finished item may differ from its stream.
FINISHED: dict[str, Callable[[Parts], Parts]] = {
    "the same": lambda texts: texts,
    "without the empty ones": lambda texts: [text for text in texts if text],
    "one more": lambda texts: [*texts, "<900>"],
    "one more and empty ones": lambda texts: ["", *texts, "", "<900>"],
    "one less": lambda texts: texts[:-1],
    "none": lambda texts: [],
    "joined": lambda texts: ["".join(texts)],
    "word by word": lambda texts: [*WORD.findall("".join(texts)), *([""] * len(texts))],
}


@settings(max_examples=150)
@given(st.data())
def test_every_text_is_said_once_however_the_finished_item_has_it_in_parts(
    data: st.DataObject,
) -> None:
    numbers = count(1)
    streamed: list[Json] = []
    finished: list[Json] = []
    for at in range(data.draw(st.integers(1, 3))):
        sizes = data.draw(st.lists(st.integers(0, 2), max_size=4))
        texts = ["".join(f"<{next(numbers)}>" for _ in range(size)) for size in sizes]
        make = data.draw(st.sampled_from([scripted.message, a_refusal, scripted.reasoning]))
        how = data.draw(st.sampled_from(sorted(FINISHED)))
        ended = [text.replace("900", f"90{at}") for text in FINISHED[how](texts)]
        for items_of, parts in ((streamed, texts), (finished, ended)):
            items_of.append({**make(*parts), "id": f"msg_{at}"})
    events = scripted.responses_events(streamed, pieces=data.draw(st.integers(1, 3)))
    left_out = [(), (".delta",), ("text.done", "refusal.done", "part.done"), ("part.added",)]
    events = scripted.without(events, *data.draw(st.sampled_from(left_out)))
    for event in events:
        if event["type"] == "response.output_item.done":
            event["item"] = finished[event["output_index"]]
    events[-1]["response"]["output"] = data.draw(st.sampled_from([[], finished]))
    is_told = any(event["type"].endswith(".delta") for event in events)
    expected = {*(words(streamed) if is_told else ()), *words(finished)}
    check_said_once(scripted.renumbered(events), sorted(expected))
