"""Characters an upstream cut in two arrive whole, and as U+FFFD where a half stays alone."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anos import surrogates
from anos.surrogates import Joiner, mended
from tests import scripted
from tests.conftest import Gateway, Json, check_stream
from tests.dialects import speaking
from tests.scripted import Chunk
from tests.test_four_paths import CHAT, HI, PATHS, RESPONSES, Said, ask, heard

FACE = "\U0001f600"
HIGH, LOW = "\ud83d", "\ude00"
LOST = "\ufffd"
# Pieces of a text as an upstream cuts it, and what is left of it.
CUTS = {
    "in the middle": (["so ", "a" + HIGH, LOW + "b", "c"], "so a" + FACE + "bc"),
    "in deltas of their own": ([HIGH, LOW], FACE),
    "twice": ([HIGH, LOW + HIGH, LOW], FACE * 2),
    "with nothing between": ([HIGH, "", LOW], FACE),
    "and never goes on": (["a" + HIGH, "b"], "a" + LOST + "b"),
    "at the end": (["ab", "c" + HIGH], "abc" + LOST),
    "a second half alone": (["a", LOW + "b"], "a" + LOST + "b"),
    "two first halves": (["a" + HIGH, HIGH, LOW], "a" + LOST + FACE),
    "the wrong way round": (["a" + LOW, HIGH + "b"], "a" + LOST * 2 + "b"),
    "not at all": (["a" + FACE, "b"], "a" + FACE + "b"),
}
FIELDS = ("content", "refusal", "reasoning", "arguments")


def whole(pieces: list[str]) -> str:
    """The text of the pieces as a reader of JSON takes it that allows halves."""
    text = "".join(pieces)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def stream(dialect: str, field: str, pieces: list[str], said: str) -> list[Chunk]:
    """A stream that says the pieces; where OpenAI says the whole text again, it is `said`."""
    if dialect == "chat":
        if field == "arguments":
            call = {"index": 0, **scripted.chat_call("look", "", "call_1")}
            deltas: list[Json] = [{"tool_calls": [call]}]
            deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": p}}]} for p in pieces]
            return scripted.chat_chunks(deltas, finish="tool_calls")
        name = "reasoning_content" if field == "reasoning" else field
        return scripted.chat_chunks([{name: piece} for piece in pieces])
    item = {
        "content": scripted.message(said),
        "refusal": scripted.refusal(said),
        "reasoning": scripted.reasoning(said),
        "arguments": scripted.function_call("look", said),
    }[field]
    return scripted.responses_events([item], deltas=pieces)


def said_in(said: Said, field: str) -> str:
    if field == "arguments":
        ((_, _, arguments),) = said.calls
        return arguments
    text: str = getattr(said, field)
    return text


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(("path", "dialect"), PATHS)
async def test_a_character_cut_in_two_arrives_whole(
    gateway, upstream, path: str, dialect: str, field: str, name: str
) -> None:
    anos = await gateway(speaking(dialect))
    pieces, text = CUTS[name]
    upstream.answer(stream(dialect, field, pieces, whole(pieces)))
    answer = await ask(anos, path, True)
    assert said_in(heard(answer), field) == text
    if path == RESPONSES:
        assert (await anos.get(f"{RESPONSES}/{answer['id']}")).body == answer


def deltas_of(path: str, raw: bytes) -> Iterator[str]:
    for event in check_stream(path, raw):
        if path == CHAT:
            for choice in event["choices"]:
                yield choice["delta"].get("content", "")
        elif event["type"].endswith("text.delta"):
            yield event["delta"]


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize(("path", "dialect"), PATHS)
async def test_whoever_reads_the_deltas_alone_reads_all_of_it(
    gateway, upstream, path: str, dialect: str, name: str
) -> None:
    anos: Gateway = await gateway(speaking(dialect))
    pieces, text = CUTS[name]
    upstream.answer(stream(dialect, "content", pieces, whole(pieces)))
    reply = await anos.post(path, stream=True, **HI[path])
    assert "".join(deltas_of(path, reply.raw)) == text


@pytest.mark.parametrize(("path", "dialect"), PATHS)
async def test_the_guards_read_the_character_that_was_cut(
    gateway, upstream, path: str, dialect: str
) -> None:
    words = {"output": "block", "phrases": ["forbidden phrase"]}
    anos = await gateway({**speaking(dialect), "guards": {"keywords": words}})
    pieces = ["so \ud835", "\udc1forbidden ", "phrase"]  # a bold f
    upstream.answer(stream(dialect, "content", pieces, whole(pieces)))
    answer = await ask(anos, path, True)
    assert heard(answer).content.strip() == "so"
    assert heard(answer).finish == "content_filter"


@pytest.mark.parametrize(("path", "dialect"), PATHS)
async def test_half_a_character_in_a_whole_answer_is_replaced(
    gateway, upstream, path: str, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    make = scripted.chat_text if dialect == "chat" else scripted.responses_text
    upstream.answer(make(f"a{HIGH}b{FACE}"))
    for streamed in (False, True):  # in one piece also where a stream was asked for
        assert heard(await ask(anos, path, streamed)).content == f"a{LOST}b{FACE}"


async def test_choices_and_calls_that_take_turns_are_not_mixed_up(gateway, upstream) -> None:
    anos = await gateway(speaking("chat"))

    def choice(index: int, text: str, finish: str | None = None) -> Json:
        delta = {"role": "assistant", "content": text}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}

    chunks = scripted.chat_chunks([{}, {}, {}], finish=None, usage=None)
    for chunk, choices in zip(
        chunks,
        [
            [choice(0, HIGH), choice(1, "b" + HIGH)],
            [choice(0, LOW)],
            [choice(1, LOW, "stop"), choice(0, "a" + HIGH)],
            [choice(0, "", "stop")],
        ],
        strict=False,
    ):
        chunk["choices"] = choices
    upstream.answer(chunks)
    said = {0: "", 1: ""}
    for chunk in await anos.stream(CHAT, n=2, **HI[CHAT]):
        for each in chunk["choices"]:
            said[each["index"]] += each["delta"].get("content", "")
    assert said == {0: f"{FACE}a{LOST}", 1: f"b{FACE}"}


def test_a_chunk_that_ends_with_half_and_nothing_else_ends_with_the_replacement() -> None:
    (chunk, *_) = scripted.chat_chunks([{"content": "a"}])
    chunk["choices"][0] |= {"delta": {"content": "a" + HIGH}, "finish_reason": "stop"}
    (read,) = Joiner().feed(json.dumps(chunk).encode())
    assert json.loads(read)["choices"][0]["delta"] == {"content": "a" + LOST}


def test_a_half_that_waits_at_done_is_said_before_it() -> None:
    joiner = Joiner()
    _, *chunks = scripted.chat_chunks([{"content": "a" + HIGH}], finish=None, usage=None)
    for chunk in chunks[:-1]:
        joiner.feed(json.dumps(chunk).encode())
    filler, done = joiner.feed(b"[DONE]")
    assert json.loads(filler)["choices"][0]["delta"] == {"content": LOST}
    assert done == b"[DONE]"
    assert joiner.feed(b"[DONE]") == [b"[DONE]"]


def test_chunks_may_be_named_events() -> None:
    _, half, finish, *_ = scripted.chat_chunks([{"content": "a" + HIGH}])
    raw = b"".join(b"event: message\n" + scripted.encode(chunk) for chunk in (half, finish))
    *_, filler, last = Joiner().whole(raw).split(b"\n\n")[:-1]
    assert json.loads(filler.removeprefix(b"data: "))["choices"][0]["delta"] == {"content": LOST}
    assert json.loads(last.partition(b"data: ")[2]) == finish


STREAMS = [
    scripted.chat_stream(["Hel", "lo \u2028 é \\ud83d", "\ud55c"]),
    scripted.responses_stream(["Hel", f"lo {FACE}", "\ud55c"]),
]


@pytest.mark.parametrize("chunks", STREAMS)
def test_what_holds_no_half_passes_as_it_came(chunks: list[Chunk]) -> None:
    raw = b"".join(map(scripted.encode, chunks))
    for text in (raw, raw.replace(b'": ', b'":')):
        assert Joiner().whole(text) == text


def test_what_holds_no_surrogate_is_not_even_copied() -> None:
    raw = b"".join(map(scripted.encode, scripted.chat_stream(["Hel", "lo\n", "ü"])))
    assert Joiner().whole(raw) is raw
    joiner, data = Joiner(), b'{"choices":[]}'
    assert joiner.feed(data)[0] is data
    assert mended(raw) is raw


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[{"delta":{"content":"\\ud83d',
        b'{"choices":7,"a":"\\ud83d"}',
        b'{"choices":[7],"a":"\\ud83d"}',
        b'["\\ud83d"]',
        b'"\\ud83d"',
        b'{"type":"response.x.delta","no":"\\ud83d"}',
        b'{"\\ud83d":1,"choices":[]}',
        b'{"choices":[],"n":100000000000000000000000,"a":"\\ud83d"}',
        b"[" * 100_000 + b'"\\ud83d"',
    ],
)
def test_what_cannot_be_read_is_left_to_its_reader(data: bytes) -> None:
    assert Joiner().feed(data) == [data]


def test_an_error_that_holds_half_is_told() -> None:
    (read,) = Joiner().feed(b'{"error":{"message":"Oh \\ud83d."}}')
    assert json.loads(read) == {"error": {"message": f"Oh {LOST}."}}


@pytest.mark.parametrize("body", [b'{"a":"\\ud83d"', b'{"\\ud83d":1}', b"[" * 100_000 + b"\\ud83d"])
def test_a_body_that_cannot_be_read_stays_as_it_is(body: bytes) -> None:
    assert mended(body) == body


UNITS = st.lists(st.sampled_from([HIGH, LOW, "a", FACE, ""]), max_size=8)


@given(st.lists(UNITS.map("".join), max_size=6), st.sampled_from(["chat", "responses"]))
def test_however_a_text_is_cut_its_pieces_say_it(pieces: list[str], dialect: str) -> None:
    chunks = stream(dialect, "content", pieces, "")
    joiner, text = Joiner(), ""
    for chunk in chunks:
        data = b"[DONE]" if chunk == scripted.DONE else json.dumps(chunk).encode()
        for read in joiner.feed(data):
            event: Any = {} if read == b"[DONE]" else json.loads(read)
            for choice in event.get("choices", ()):
                text += choice["delta"].get("content", "")
            if event.get("type", "").endswith("text.delta"):
                text += event["delta"]
    expected = surrogates._HALF.sub(LOST, whole(pieces))
    assert text == expected
