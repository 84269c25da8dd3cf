"""Chat streams, both ways: in whatever chunks, they say what the whole answer says."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anos import chat_answers, items
from anos.chat_stream import ChunkWriter, Reader
from anos.errors import UpstreamError
from anos.events import EventWriter
from anos.items import Answer
from tests import grammar

NOW_MS = 1_700_000_000_000
Json = dict[str, Any]


def base() -> Json:
    return items.base_response({}, id="resp_1", model="m", created_at=NOW_MS // 1000)


def chunk(delta: Json | None = None, finish: str | None = None, **fields: Any) -> Json:
    logprobs = fields.pop("logprobs", None)
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish, "logprobs": logprobs}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice], **fields}


def read(chunks: list[Any], *, done: bool = True) -> tuple[list[Json], Answer]:
    """The whole canonical stream of some chunks, checked, and the answer."""
    writer = EventWriter(base(), NOW_MS)
    reader = Reader(writer)
    events: list[Json] = []
    for data in chunks:
        events += reader.feed(data if isinstance(data, bytes) else json.dumps(data).encode())
    if done:
        events += reader.feed(b"[DONE]")
    closing, answer = reader.finish()
    events += closing
    response = items.final_response(base(), answer, NOW_MS // 1000)
    events += writer.terminal(response)
    grammar.check(events)
    assert answer.output == events[-1]["response"]["output"]
    return events, answer


def without_ids(output: list[Json]) -> list[Json]:
    return [{k: v for k, v in item.items() if k != "id"} for item in output]


def call(index: int, *, id: str = "", name: str = "", arguments: str = "", **fields: Any) -> Json:
    function = {"name": name or None, "arguments": arguments}
    return {"index": index, "id": id or None, "type": "function", "function": function, **fields}


def calls(*fragments: Json) -> Json:
    return chunk({"tool_calls": list(fragments)})


def texts(answer: Answer) -> list[str]:
    return [part["text"] for item in answer.output for part in item["content"]]


def pairs(answer: Answer) -> list[tuple[str, str, str]]:
    return [(item["call_id"], item["name"], item["arguments"]) for item in answer.output]


END = chunk({}, "stop")


def test_a_leading_empty_content_says_nothing() -> None:
    events, answer = read([chunk({"role": "assistant", "content": ""}), END])
    assert answer.output == []
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.completed",
    ]


def test_the_first_chunk_starts_the_stream() -> None:
    reader = Reader(EventWriter(base(), NOW_MS))
    assert len(reader.feed(json.dumps(chunk({"role": "assistant"})).encode())) == 2


def test_text_passes_delta_by_delta() -> None:
    events, answer = read([chunk({"content": "Hel"}), chunk({"content": "lo"}), END])
    deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    assert (deltas, texts(answer)) == (["Hel", "lo"], ["Hello"])


def test_a_call_is_announced_when_its_id_and_name_are_known() -> None:
    writer = EventWriter(base(), NOW_MS)
    reader = Reader(writer)
    sent = [
        call(0, arguments='{"a'),
        call(0, name="f"),
        call(0, id="c1", arguments='":'),
        call(0, arguments="1}"),
    ]
    counts = [len(reader.feed(json.dumps(calls(fragment)).encode())) for fragment in sent]
    assert counts == [2, 0, 2, 1]
    assert pairs(reader.finish()[1]) == [("c1", "f", '{"a":1}')]


def test_calls_may_have_gaps_in_their_numbers_and_come_interleaved() -> None:
    _, answer = read(
        [
            calls(call(2, id="a", name="f", arguments="["), call(7, id="b", name="g")),
            calls(call(7, arguments="{")),
            calls(call(2, arguments="]")),
            calls(call(7, arguments="}")),
            chunk({}, "tool_calls"),
        ]
    )
    assert pairs(answer) == [("a", "f", "[]"), ("b", "g", "{}")]


def test_a_server_that_numbers_every_call_0_still_has_two_calls() -> None:
    _, answer = read(
        [
            calls(call(0, id="a", name="f", arguments="{}")),
            calls(call(0, id="b", name="g", arguments="{}")),
            chunk({}, "tool_calls"),
        ]
    )
    assert [pair[0] for pair in pairs(answer)] == ["a", "b"]


def test_a_call_without_a_number_or_an_id_is_one_call() -> None:
    fragment = {"type": "function", "function": {"name": "f", "arguments": ""}}
    _, answer = read([calls(fragment), chunk({}, "tool_calls")])
    assert answer.output[0]["call_id"].startswith("call_")
    assert answer.output[0]["arguments"] == "{}"


def test_a_legacy_function_call_is_a_call() -> None:
    _, answer = read(
        [
            chunk({"function_call": {"name": "f", "arguments": '{"a"'}}),
            chunk({"function_call": {"arguments": ":1}"}}),
            chunk({}, "function_call"),
        ]
    )
    assert pairs(answer)[0][1:] == ("f", '{"a":1}')


def test_reasoning_is_closed_when_the_answer_begins() -> None:
    events, answer = read(
        [chunk({"reasoning_content": "h"}), chunk({"reasoning": "m"}), chunk({"content": "a"}), END]
    )
    kinds = [event["type"] for event in events]
    assert kinds.index("response.output_item.done") < kinds.index("response.output_text.delta")
    assert answer.output[0]["summary"] == [{"type": "summary_text", "text": "hm"}]


def test_items_are_done_in_index_order_however_the_upstream_jumps() -> None:
    events, answer = read(
        [
            chunk({"content": "a"}),
            calls(call(0, id="c", name="f", arguments="{")),
            chunk({"reasoning": "hm"}),
            chunk({"content": "b"}),
            calls(call(0, arguments="}")),
            END,
        ]
    )
    done = [e["output_index"] for e in events if e["type"] == "response.output_item.done"]
    assert done == [0, 1, 2]
    assert [item["type"] for item in answer.output] == ["message", "function_call", "reasoning"]
    assert answer.output[0]["content"][0]["text"] == "ab"


def test_a_refusal_is_a_part_of_the_same_message() -> None:
    _, answer = read([chunk({"content": "a"}), chunk({"refusal": "no"}), END])
    assert [part["type"] for part in answer.output[0]["content"]] == ["output_text", "refusal"]


def test_only_the_first_choice_counts() -> None:
    other = {"index": 1, "delta": {"content": "other"}, "finish_reason": "length"}
    _, answer = read([chunk({"content": "a"}), {"choices": [other]}, END])
    assert (texts(answer), answer.status) == (["a"], "completed")


def test_usage_may_come_late_or_in_every_chunk() -> None:
    early = {"prompt_tokens": 1, "completion_tokens": 1}
    late = {"prompt_tokens": 3, "completion_tokens": 10}
    last = [{"choices": [], "usage": late}, chunk(usage=None)]
    _, answer = read([chunk({"content": "a"}, usage=early), END, *last])
    assert answer.usage == items.usage(3, 10)
    assert read([END])[1].usage is None


def test_the_service_tier_is_kept() -> None:
    assert read([chunk({"content": "a"}, service_tier="flex"), END])[1].extra == {
        "service_tier": "flex"
    }


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
        ("error", "failed", None),
    ],
)
def test_an_answer_cut_short_has_an_incomplete_last_item(
    finish: str, status: str, reason: str | None
) -> None:
    half = calls(call(0, id="c", name="f", arguments='{"'))
    _, answer = read([chunk({"content": "a"}), half, chunk({}, finish)])
    assert (answer.status, answer.incomplete_reason) == (status, reason)
    assert [item["status"] for item in answer.output] == ["completed", "incomplete"]


def test_a_stream_that_just_ends_has_failed() -> None:
    _, answer = read([chunk({"content": "a"})], done=False)
    assert answer.status == "failed"
    assert answer.error is not None
    assert answer.error["code"] == "server_error"
    assert answer.output[0]["status"] == "incomplete"


def test_a_finish_reason_is_enough_without_done_and_the_other_way_round() -> None:
    assert read([chunk({"content": "a"}), END], done=False)[1].status == "completed"
    assert read([chunk({"content": "a"})])[1].status == "completed"


def test_an_aborted_stream_keeps_what_it_had() -> None:
    writer = EventWriter(base(), NOW_MS)
    reader = Reader(writer)
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    events = reader.feed(json.dumps(chunk({"content": "a"}, usage=usage)).encode())
    closing, answer = reader.abort("cancelled", None)
    assert (answer.status, answer.usage) == ("cancelled", items.usage(1, 2))
    response = items.final_response(base(), answer, None)
    grammar.check(events + closing + writer.terminal(response))
    assert answer.output[0]["status"] == "incomplete"


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[]",
        b"5",
        b'{"choices":5}',
        b'{"choices":["x"]}',
        b'{"choices":[{"delta":{"content":5}}]}',
        b'{"choices":[{"delta":{"content":0}}]}',
        b'{"choices":[{"delta":{"content":true}}]}',
        b'{"choices":[{"delta":{"refusal":false}}]}',
        b'{"choices":[{"delta":{"tool_calls":[{"custom":{"input":5}}]}}]}',
        b'{"choices":[{"delta":{"tool_calls":[5]}}]}',
        b'{"choices":[{"delta":{"tool_calls":[{"function":5}]}}]}',
        b'{"choices":[{"delta":{"tool_calls":[{"index":[],"function":{}}]}}]}',
        b'{"choices":[{"logprobs":[1]}]}',
        b'{"error":{"message":"boom"}}',
        b'{"error":"boom"}',
    ],
)
def test_a_chunk_that_is_none_is_an_upstream_error(data: bytes) -> None:
    with pytest.raises(UpstreamError):
        Reader(EventWriter(base(), NOW_MS)).feed(data)


# --- streamed == not streamed ---------------------------------------------------------------------

TEXT = st.text(max_size=6)
TOKENS = st.lists(
    st.builds(lambda t: {"token": t, "logprob": -0.5, "bytes": None, "top_logprobs": []}, TEXT),
    max_size=3,
)
CALLS = st.lists(
    st.builds(
        lambda name, text, is_custom: {
            "type": "custom" if is_custom else "function",
            "custom" if is_custom else "function": {
                "name": name,
                "input" if is_custom else "arguments": text if is_custom else json.dumps([text]),
            },
        },
        st.sampled_from("fgh"),
        TEXT,
        st.booleans(),
    ),
    max_size=3,
)
ANSWERS = st.fixed_dictionaries(
    {
        "reasoning": TEXT,
        "content": TEXT,
        "tokens": TOKENS,
        "annotated": st.booleans(),
        "refusal": TEXT,
        "calls": CALLS,
        "finish": st.sampled_from(["stop", "tool_calls", "length", "content_filter"]),
        "usage": st.none() | st.just({"prompt_tokens": 3, "completion_tokens": 10}),
    }
)
CITATION = {"type": "url_citation", "url_citation": {"url": "u", "title": "t"}}


def pieces(data: st.DataObject, text: str) -> list[str]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def whole(answer: Json) -> Json:
    said = {"role": "assistant", "content": answer["content"] or None}
    said["reasoning_content"] = answer["reasoning"]
    said["refusal"] = answer["refusal"] or None
    said["tool_calls"] = [{"id": f"c{n}", **c} for n, c in enumerate(answer["calls"])]
    if has_citation(answer):
        said["annotations"] = [CITATION]
    logprobs = {"content": answer["tokens"]} if answer["content"] else None
    choice = {"index": 0, "message": said, "logprobs": logprobs, "finish_reason": answer["finish"]}
    return {"choices": [choice], "usage": answer["usage"]}


def has_citation(answer: Json) -> bool:
    return bool(answer["annotated"] and answer["content"])


def chunked(answer: Json, data: st.DataObject) -> list[Json]:
    chunks = [chunk({"role": "assistant", "content": ""})]
    chunks += [chunk({"reasoning_content": p}) for p in pieces(data, answer["reasoning"])]
    if answer["content"]:
        said = pieces(data, answer["content"])
        tokens = list(answer["tokens"])
        for piece in said:
            taken, tokens = (tokens[:1], tokens[1:]) if piece != said[-1] else (tokens, [])
            logprobs = {"content": taken} if taken else None
            chunks.append(chunk({"content": piece}, logprobs=logprobs))
    if has_citation(answer):
        chunks.append(chunk({"annotations": [CITATION]}))
    chunks += [chunk({"refusal": p}) for p in pieces(data, answer["refusal"])]
    chunks += call_chunks(answer["calls"], data)
    chunks.append(chunk({}, answer["finish"]))
    return [*chunks, {"choices": [], "usage": answer["usage"]}]


def call_chunks(made: list[Json], data: st.DataObject) -> list[Json]:
    """The calls one after the other, or their arguments in turns."""
    fragments: list[list[Json]] = []
    for number, made_call in enumerate(made):
        kind = made_call["type"]
        text = "input" if kind == "custom" else "arguments"
        body = made_call[kind]
        first = {"name": body["name"], text: ""}
        head = {"index": 3 * number, "id": f"c{number}", "type": kind, kind: first}
        rest = [{"index": 3 * number, kind: {text: piece}} for piece in pieces(data, body[text])]
        fragments.append([head, *rest])
    if data.draw(st.booleans()):
        return [calls(f) for of_call in fragments for f in of_call]
    turns = max((len(of_call) for of_call in fragments), default=0)
    return [calls(*(f[t] for f in fragments if t < len(f))) for t in range(turns)]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(ANSWERS, st.data())
def test_streamed_equals_not_streamed(answer: Json, data: st.DataObject) -> None:
    _, streamed = read(chunked(answer, data))
    at_once = chat_answers.parse_answer(whole(answer), NOW_MS)
    assert without_ids(streamed.output) == without_ids(at_once.output)
    streamed.output = at_once.output
    assert streamed == at_once


def folded(chunks: list[Json]) -> Json:
    """The completion a chat client puts together from its chunks."""
    message: Json = {}
    tokens: list[Json] = []
    result: Json = {"object": "chat.completion"}
    finish = None
    for sent in chunks:
        result |= {k: v for k, v in sent.items() if k not in ("object", "choices")}
        for choice in sent["choices"]:
            tokens += (choice["logprobs"] or {}).get("content") or []
            finish = choice["finish_reason"] or finish
            for name, value in choice["delta"].items():
                if name == "tool_calls":
                    fold_calls(message.setdefault(name, []), value)
                elif name == "role":
                    message[name] = value
                else:
                    message[name] = message.get(name, type(value)()) + value
    message.setdefault("refusal", None)
    is_silent = not message["content"] and (message["refusal"] or "tool_calls" in message)
    message["content"] = None if is_silent else message["content"]
    logprobs = {"content": tokens, "refusal": None} if tokens else None
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish}
    return {k: v for k, v in {**result, "choices": [choice]}.items() if v is not None}


def fold_calls(made: list[Json], fragments: list[Json]) -> None:
    for fragment in fragments:
        if fragment["index"] == len(made):
            kind = fragment["type"]
            made.append({"id": fragment["id"], "type": kind, kind: dict(fragment[kind])})
        else:
            kind = made[fragment["index"]]["type"]
            for name, text in fragment[kind].items():
                made[fragment["index"]][kind][name] += text


@settings(derandomize=True, deadline=None, max_examples=200)
@given(ANSWERS, st.booleans(), st.data())
def test_a_stream_read_and_written_again_is_the_same_completion(
    answer: Json, include_usage: bool, data: st.DataObject
) -> None:
    named: Json = {"id": "chatcmpl-1", "model": "m", "created": 5}
    events, read_answer = read(chunked(answer, data))
    writer = ChunkWriter(**named, include_usage=include_usage)
    chunks = [sent for event in events for sent in writer.feed([event])]
    chunks += writer.finish(read_answer)
    if answer["finish"] != "tool_calls":  # for which the checker reads all input as JSON
        grammar.check_chat(chunks)
    if not include_usage:
        read_answer.usage = None
    assert folded(chunks) == chat_answers.completion(read_answer, **named)


def test_parts_of_reasoning_are_kept_apart_alike_streamed_or_not() -> None:
    named: Json = {"id": "chatcmpl-1", "model": "m", "created": 5}
    writer = EventWriter(base(), NOW_MS)
    summary = [{"type": "summary_text", "text": text} for text in ("one", "two")]
    events = writer.add({"type": "reasoning", "summary": summary})
    events += writer.add({"type": "reasoning", "summary": summary[:1]})
    answer = Answer("completed", writer.items, None)
    chunks = ChunkWriter(**named, include_usage=False)
    sent = chunks.feed(events) + chunks.finish(answer)
    message = folded(sent)["choices"][0]["message"]
    assert message["reasoning_content"] == "one\n\ntwo\n\none"
    assert folded(sent) == chat_answers.completion(answer, **named)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_failed_answer_has_no_finish_reason(status: str) -> None:
    writer = ChunkWriter(id="i", model="m", created=5, include_usage=True)
    assert writer.finish(Answer(status, [], None)) == []
