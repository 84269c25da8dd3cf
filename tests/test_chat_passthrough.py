"""A chat stream for a chat client: bytes as they came, usage only if asked for, a clean end."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from anos import items
from anos.chat_passthrough import ChatPassthrough
from anos.errors import UpstreamError
from anos.items import Answer
from tests import grammar, scripted
from tests.scripted import DONE, Chunk, Json

FAILED = {"code": "server_error", "message": "Oh."}


def compact(chunk: Chunk) -> bytes:
    if not isinstance(chunk, dict):
        return scripted.encode(chunk)
    return f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n".encode()


def crlf(chunk: Chunk) -> bytes:
    return compact(chunk).replace(b"\n", b"\r\n")


def commented(chunk: Chunk) -> bytes:
    return b": OPENROUTER PROCESSING\n\n" + compact(chunk)


WRITTEN: dict[str, Callable[[Chunk], bytes]] = {
    "as OpenAI does": compact,
    "with spaces": scripted.encode,
    "CRLF": crlf,
    "with comments": commented,
}


def choices(*deltas: Json, **fields: Any) -> list[Chunk]:
    return scripted.chat_chunks(deltas, **fields)


def with_usage_everywhere(chunks: list[Chunk], usage: Any) -> list[Chunk]:
    """Every chunk but the last has this usage; OpenAI writes null if it is asked for usage."""
    return [{"usage": usage, **chunk} if isinstance(chunk, dict) else chunk for chunk in chunks]


def of_choices(*numbers: int) -> list[Chunk]:
    """What `n` gives: a choice per number, in turns."""
    chunks = choices({"content": "Hel"}, {"content": "lo"})
    every: list[Chunk] = []
    for chunk in chunks:
        if isinstance(chunk, dict) and chunk["choices"]:
            every += [
                {**chunk, "choices": [{**chunk["choices"][0], "index": number}]}
                for number in numbers
            ]
        else:
            every.append(chunk)
    return every


ANSWERS: dict[str, Callable[[], list[Chunk]]] = {
    "text": lambda: scripted.chat_stream(["Hel", "lo \u2028", 'th"ere.', '"usage":', " 你好"]),
    "calls": lambda: scripted.chat_tool_stream(
        scripted.chat_call("weather", '{"city":"Oslo"}'), scripted.chat_call("weather", "{}", "c2")
    ),
    "reasoning": lambda: choices({"reasoning_content": "Hm."}, {"content": "So."}),
    "refusal": lambda: choices({"refusal": "No."}),
    "length": lambda: scripted.chat_stream(["Hel"], finish="length"),
    "two choices": lambda: of_choices(0, 1),
    "usage null": lambda: with_usage_everywhere(scripted.chat_stream(["Hel", "lo"]), None),
}


@pytest.fixture(params=ANSWERS)
def chunks(request: pytest.FixtureRequest) -> list[Chunk]:
    """The chunks of a whole stream, with usage and [DONE]."""
    made: list[Chunk] = ANSWERS[request.param]()
    return made


class Relayed:
    """What the client got for the bytes of an upstream, and what is known of the answer."""

    def __init__(
        self, data: Iterable[bytes], *, wants_usage: bool = False, status: str = ""
    ) -> None:
        stream = ChatPassthrough(wants_usage=wants_usage)
        self.error: UpstreamError | None = None
        pieces = []
        for piece in data:
            pieces.append(stream.feed(piece))
            if stream.ended:
                break
        self.before = b"".join(pieces)
        try:
            closing, self.answer = stream.abort(status, None) if status else stream.finish()
        except UpstreamError as exc:
            self.error = exc
            closing, self.answer = stream.abort("failed", FAILED)
        counted: Answer = self.answer
        if counted.usage is None and counted.status == "completed":
            counted.usage = items.usage(1, counted.text_bytes or 0)  # as the gateway estimates it
        self.raw = self.before + closing + stream.terminal(counted, {})
        self.chunks = grammar.parse(self.raw)
        self.ended_well = self.raw.endswith(DONE)


def relay(
    chunks: Iterable[Chunk], write: Callable[[Chunk], bytes] = compact, **options: Any
) -> Relayed:
    return Relayed([b"".join(map(write, chunks))], **options)


def written(chunks: Iterable[Chunk], write: Callable[[Chunk], bytes] = compact) -> bytes:
    """The bytes of all chunks that have choices."""
    return b"".join([write(c) for c in chunks if isinstance(c, dict) and c["choices"]])


@pytest.mark.parametrize("how", ["as OpenAI does", "with spaces"])
def test_chunks_pass_as_they_came_and_usage_only_if_it_was_asked_for(
    chunks: list[Chunk], how: str
) -> None:
    write = WRITTEN[how]
    relayed = relay(chunks, write)
    grammar.check_chat(relayed.chunks)
    assert relayed.raw == written(chunks, write) + DONE
    asked = relay(chunks, write, wants_usage=True)
    assert asked.raw == b"".join(map(write, chunks))
    for each in (relayed, asked):
        assert each.answer.usage == items.usage(*scripted.USAGE)


@pytest.mark.parametrize("how", WRITTEN)
@pytest.mark.parametrize("wants_usage", [False, True])
def test_the_same_bytes_come_out_whatever_the_chunks(
    chunks: list[Chunk], how: str, wants_usage: bool
) -> None:
    raw = b"".join(map(WRITTEN[how], chunks))
    whole = Relayed([raw], wants_usage=wants_usage)
    if how != "with spaces":
        assert whole.raw == relay(chunks, compact, wants_usage=wants_usage).raw
    for size in (1, 2, 3, 7, 64, 1000):
        pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
        cut = Relayed(pieces, wants_usage=wants_usage)
        assert (cut.raw, cut.answer) == (whole.raw, whole.answer)


def test_usage_may_be_in_every_chunk_and_the_last_one_counts() -> None:
    chunks = with_usage_everywhere(scripted.chat_stream(["Hel", "lo"]), scripted.chat_usage((7, 1)))
    relayed = relay(chunks)
    assert relayed.answer.usage == items.usage(*scripted.USAGE)
    assert len(relayed.chunks) == len(chunks) - 2
    only = relay([c for c in chunks if isinstance(c, bytes) or c["choices"]])
    assert only.answer.usage == items.usage(7, 1)


@pytest.mark.parametrize(
    ("name", "text_bytes"),
    [
        ("text", len('Hello \u2028th"ere."usage": 你好'.encode())),
        ("calls", 17),
        ("reasoning", 6),
        ("refusal", 3),
        ("two choices", 10),
    ],
)
def test_text_is_counted_where_the_upstream_counts_nothing(name: str, text_bytes: int) -> None:
    chunks = [c for c in ANSWERS[name]() if isinstance(c, bytes) or c["choices"]]
    relayed = relay(chunks)
    assert relayed.raw == written(chunks) + DONE
    assert relayed.answer.text_bytes == text_bytes
    asked = relay(chunks, wants_usage=True)
    grammar.check_chat(asked.chunks)
    assert asked.chunks[:-1] == relayed.chunks
    assert asked.chunks[-1]["choices"] == []
    assert asked.chunks[-1]["usage"]["completion_tokens"] == text_bytes
    assert asked.chunks[-1]["id"] == "chatcmpl-up"


def test_a_long_answer_is_counted_to_its_end() -> None:
    relayed = relay(scripted.chat_stream(["a" * 100] * 2000, usage=None))
    assert relayed.answer.text_bytes == 200_000


@pytest.mark.parametrize(
    "numbers", [(0, 1, 2), (0, 3, 7), (0, 0, 0), (None, None, None), (2, 1, 0)]
)
def test_tool_calls_are_numbered_without_gaps(numbers: tuple[Any, ...]) -> None:
    deltas = [
        {"tool_calls": [{**scripted.chat_call("f", "", f"c{at}"), "index": number}]}
        for at, number in enumerate(numbers)
    ]
    if len(set(numbers)) > 1:  # where they can be told apart their fragments may take turns
        deltas += [{"tool_calls": [{"index": n, "function": {"arguments": "{}"}}]} for n in numbers]
    chunks = choices(*deltas, finish="tool_calls")
    relayed = relay(chunks)
    grammar.check_chat(relayed.chunks)
    sent = [call for c in relayed.chunks for call in c["choices"][0]["delta"].get("tool_calls", ())]
    assert [call["index"] for call in sent] == [0, 1, 2] * (len(deltas) // 3)
    assert [call["id"] for call in sent[:3]] == ["c0", "c1", "c2"]
    if numbers == (0, 1, 2):
        assert relayed.raw == written(chunks) + DONE


def fragments(*calls: Json) -> list[Json]:
    """What a client reads of one call's fragments."""
    relayed = relay(choices(*({"tool_calls": [call]} for call in calls), finish="tool_calls"))
    return [c for s in relayed.chunks for c in s["choices"][0]["delta"].get("tool_calls", ())]


@pytest.mark.parametrize("again", [
    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '"}'}},
    {"id": None, "type": None, "function": {"name": None, "arguments": '"}'}},
    {"function": {"arguments": '"}'}},
])  # fmt: skip
def test_a_call_is_named_in_its_first_fragment_alone(again: Json) -> None:
    first = {"index": 0, **scripted.chat_call("f", '{"', "c1")}
    rest = {"index": 0, "function": {"arguments": '"}'}}
    assert fragments(first, {"index": 0, **again}, rest) == [first, rest, rest]


def test_what_names_a_call_may_come_late_or_in_pieces() -> None:
    sent = [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "get_"}},
        {"index": 0, "function": {"name": "weather", "arguments": ""}},
    ]
    assert fragments(*sent) == sent
    late = [
        {"index": 0, "function": {"arguments": "{"}},
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "}"}},
    ]
    assert fragments(*late) == late


def test_arguments_are_json_also_where_an_upstream_sends_the_object() -> None:
    call = {"index": 0, "id": "c1", "type": "function"}
    (got,) = fragments({**call, "function": {"name": "f", "arguments": {"a": 1}}})
    assert got["function"] == {"name": "f", "arguments": '{"a":1}'}
    (got,) = fragments({**call, "function": {"name": "f", "arguments": None}})
    assert got["function"] == {"name": "f"}
    (got,) = fragments({**call, "function": {"name": "f", "arguments": 4111111111111111}})
    assert got["function"] == {"name": "f", "arguments": "4111111111111111"}


@pytest.mark.parametrize("delta", [{"delta": None}, {}])
def test_a_choice_without_a_delta_says_nothing(delta: Json) -> None:
    *said, last, usage, done = scripted.chat_stream(["Hel", "lo"])
    finish = {"index": 0, "finish_reason": "stop", "logprobs": None, **delta}
    relayed = relay([*said, {**last, "choices": [finish]}, usage, done])
    assert relayed.chunks[-1]["choices"] == [{**finish, "delta": {}}]
    grammar.check_chat(relayed.chunks)


def test_a_chunk_before_the_first_choice_does_not_name_the_stream() -> None:
    first = {"id": "", "object": "", "created": 0, "model": "", "choices": []}
    *chunks, _, _, done = scripted.chat_stream(["Hel", "lo"])
    relayed = relay([{**first, "prompt_filter_results": []}, *chunks, done], wants_usage=True)
    assert relayed.chunks[0] == {**first, "prompt_filter_results": []}
    grammar.check_chat(relayed.chunks[1:])
    assert relayed.chunks[-1]["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize("done", ["data: [DONE] \n\n", "data:[DONE]\n\n"])
def test_done_may_have_spaces_around_it(chunks: list[Chunk], done: str) -> None:
    relayed = relay([*chunks[:-1], done])
    assert (relayed.error, relayed.raw) == (None, written(chunks) + DONE)


def test_a_finish_reason_is_enough_without_done(chunks: list[Chunk]) -> None:
    relayed = relay(chunks[:-1])
    assert relayed.error is None
    assert relayed.raw == written(chunks) + DONE


@pytest.mark.parametrize(("name", "reason"), [
    ("text", "stop"), ("calls", "tool_calls"), ("refusal", "stop"), ("two choices", "stop")
])  # fmt: skip
def test_a_missing_finish_reason_is_added_before_done(name: str, reason: str) -> None:
    def is_finish(chunk: Chunk) -> bool:
        return isinstance(chunk, dict) and any(c["finish_reason"] for c in chunk["choices"])

    chunks = [chunk for chunk in ANSWERS[name]() if not is_finish(chunk)]
    relayed = relay(chunks)
    grammar.check_chat(relayed.chunks)
    assert relayed.before == written(chunks)
    assert {choice["finish_reason"] for choice in relayed.chunks[-1]["choices"]} == {reason}
    assert relayed.ended_well


@pytest.mark.parametrize("how", WRITTEN)
def test_a_stream_cut_anywhere_before_its_end_says_that_it_failed(
    chunks: list[Chunk], how: str
) -> None:
    encoded = list(map(WRITTEN[how], chunks))
    finish = next(
        index for index, chunk in enumerate(chunks)
        if any(choice["finish_reason"] for choice in chunk["choices"])
    )  # fmt: skip
    for cut in range(finish + 1):
        for rest in (b"", encoded[cut][:-3]):
            relayed = Relayed([*encoded[:cut], rest])
            assert relayed.error is not None
            assert relayed.answer.status == "failed"
            assert relayed.chunks[-1]["error"]["message"] == "Oh."
            assert not relayed.ended_well
            assert len(relayed.chunks) == cut + 1
            if cut:
                grammar.check_chat(relayed.chunks)


@pytest.mark.parametrize("data", [
    '{"error":{"message":"Oh.","type":"server_error","code":"odd"}}', '{"error":"Oh."}',
    "{", "[1]", "5", "{}", '{"choices":5}', '{"choices":[5]}', "null", '{"choices":[{"delta":5}]}',
    '{"choices":[{"delta":{"tool_calls":5}}]}', '{"choices":[{"delta":{"tool_calls":[5]}}]}',
    '{"choices":[{"delta":{"tool_calls":[{"index":[]}]}}]}',
    '{"choices":[{"delta":{"tool_calls":[{"custom":{"input":5}}]}}]}',
    '{"choices":[{"delta":{"tool_calls":[{"custom":{"input":false}}]}}]}',
])  # fmt: skip
def test_an_error_or_what_is_no_chunk_ends_the_stream(chunks: list[Chunk], data: str) -> None:
    for cut in range(len(chunks) - 2):
        relayed = relay([*chunks[:cut], f"data: {data}\n\n", *chunks[cut:]])
        assert relayed.error is not None
        assert relayed.before == written(chunks[:cut])
        assert not relayed.ended_well
        if "error" in data:
            assert relayed.error.message == "Oh."


def test_a_stream_without_any_choice_has_failed() -> None:
    assert relay([DONE]).error is not None
    assert relay([]).error is not None


def test_a_cancelled_stream_ends_with_an_error_and_keeps_its_count(chunks: list[Chunk]) -> None:
    relayed = relay(chunks[:3], status="cancelled")
    assert relayed.chunks[-1]["error"]["code"] == "cancelled"
    assert not relayed.ended_well
    assert relayed.answer.status == "cancelled"


def test_nothing_after_done_is_read(chunks: list[Chunk]) -> None:
    raw = b"".join(map(compact, chunks))
    for tail in (raw, b"data: {\n\n", b": so\n\n"):
        assert Relayed([raw + tail]).raw == Relayed([raw]).raw


@pytest.mark.parametrize("wants_usage", [False, True])
def test_usage_that_cannot_be_meant_is_not_passed_on(wants_usage: bool) -> None:
    absurd = {**scripted.chat_usage((7, 2)), "completion_tokens": 10**19}
    *said, last, done = scripted.chat_stream(["Hel", "lo"])
    relayed = relay([*said, {**last, "usage": absurd}, done], wants_usage=wants_usage)
    grammar.check_chat(relayed.chunks)
    closing = [chunk["usage"] for chunk in relayed.chunks if not chunk["choices"]]
    assert [counts["completion_tokens"] for counts in closing] == [5] * wants_usage
    assert b"10000000000000000000" not in relayed.raw


def test_usage_that_cannot_be_meant_is_taken_out_of_a_chunk_that_says_something() -> None:
    absurd = {"prompt_tokens": -1, "completion_tokens": 2}
    relayed = relay(with_usage_everywhere(scripted.chat_stream(["Hi"], usage=None), absurd))
    assert [chunk["usage"] for chunk in relayed.chunks] == [None] * 3
    assert [chunk["choices"][0]["delta"].get("content") for chunk in relayed.chunks][1] == "Hi"
    assert relayed.answer.usage == items.usage(1, 2)
