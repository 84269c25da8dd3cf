"""The windows of a stream, fed with what the gateway would have sent and judged by the test."""

import itertools
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anos import items
from anos.chat_passthrough import ChatPassthrough
from anos.errors import UpstreamError
from anos.events import EventWriter
from anos.extract import Found
from anos.items import Answer
from anos.passthrough import ResponsesPassthrough
from anos.scanner import Scanned
from anos.scanner_chat import ChatChunks
from anos.scanner_responses import ResponsesEvents
from anos.stream import Stream
from anos.windows import CONTEXT_CHARS, WINDOW_CHARS, Windows, is_speech
from guards.keywords import Phrase, Rules
from tests import grammar, scripted
from tests.conftest import Json
from tests.test_scanner import BASE, KINDS, RESPONSES, encoded, said, said_by

Verdict = Callable[[str], bool]
# 64 words of 16 characters are the first window; each is in one place only.
WORDS = [f"word {number:09d}, " for number in range(250)]
BAD = "VIOLATION"
SIZES = [1, 7, 61, 500, 4096, 1 << 20]


def never(text: str) -> bool:
    return False


def is_bad(text: str) -> bool:
    return BAD in text


def plain(kind: str) -> Stream:
    if kind in RESPONSES:
        return ResponsesPassthrough(EventWriter(BASE, 0), shows_encrypted=False, repair=False)
    return ChatPassthrough(wants_usage=True)


def dialect(kind: str) -> Any:
    return (
        ResponsesEvents(BASE, 0) if kind in RESPONSES else ChatChunks(wants_usage=True, choices=2)
    )


def windows_of(kind: str, *, holds: bool = True) -> Windows:
    return Windows(plain(kind), dialect(kind), holds=holds)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def judge(windows: Windows, verdict: Verdict, asked: list[str]) -> bytes:
    out = b""
    while windows.is_due:
        asked.append(windows.text())
        out += windows.judged(violated=verdict(asked[-1]))
    return out


def drive(
    windows: Windows, data: Iterable[bytes], verdict: Verdict = never
) -> tuple[bytes, Answer, list[str]]:
    """All the bytes the client gets, the answer, and the texts that were judged."""
    out, asked = b"", []
    for each in data:
        if not windows.ended:
            out += windows.feed(each) + judge(windows, verdict, asked)
    out += windows.end() + judge(windows, verdict, asked)
    closing, answer = windows.finish()
    answer.usage = answer.usage or items.usage(1, 1)
    return out + closing + ended(windows, answer), answer, asked


def ended(stream: Stream, answer: Answer) -> bytes:
    return stream.terminal(answer, items.final_response(BASE, answer, 1))


def checked(kind: str, raw: bytes, answer: Answer | None = None) -> list[Json]:
    """The events, which are a correct stream and say what the answer says."""
    if kind not in RESPONSES:
        events = grammar.parse(raw)
        grammar.check_chat(events)
        return events
    events = grammar.parse(raw, done=True)
    grammar.check(events)
    if answer is not None:
        assert said_by(answer.output) == said(events)
    return events


def unguarded(kind: str, data: bytes) -> bytes:
    stream = plain(kind)
    out = stream.feed(data)
    closing, answer = stream.finish()
    return out + closing + ended(stream, answer)


def pieces_of(kind: str, words: list[str]) -> list[str]:
    return ['{"q":"', *words, '"}'] if "arguments" in kind else words


# Clean --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_clean_stream_has_the_same_bytes_and_windows_however_it_is_cut(kind: str) -> None:
    data = b"".join(encoded(KINDS[kind](pieces_of(kind, WORDS))))
    expected = unguarded(kind, data)
    questions = []
    for size in SIZES:
        out, _, asked = drive(windows_of(kind), cut(data, size))
        assert out == expected, size
        questions.append(asked)
    assert all(asked == questions[0] for asked in questions)
    assert 3 < len(questions[0]) < 12


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "second choice"])
def test_everything_that_is_said_is_judged_once_with_some_of_what_precedes_it(kind: str) -> None:
    data = encoded(KINDS[kind](WORDS))
    _, _, asked = drive(windows_of(kind), data)
    for before, text in itertools.pairwise(asked):
        (said_last,) = {part[-CONTEXT_CHARS:] for part in before.split("\n\n") if "word" in part}
        assert any(part.startswith(said_last) for part in text.split("\n\n"))
    new = [
        "".join(
            part[CONTEXT_CHARS if number else 0 :] for part in text.split("\n\n") if "w" in part
        )
        for number, text in enumerate(asked)
    ]
    assert "".join(new) == "".join(WORDS)
    assert all(len(each) >= WINDOW_CHARS for each in new[:-1])


def test_parts_are_judged_apart_each_with_its_own_past() -> None:
    output = [scripted.message("a" * 800, "b" * 800), scripted.message("c" * 800, id="msg_2")]
    data = encoded(scripted.responses_events(output, pieces=8))
    _, _, asked = drive(windows_of("output_text"), data)
    assert asked == [
        "a" * 800 + "\n\n" + "b" * 200,
        "b" * 800 + "\n\n" + "c" * 400,
        "c" * 800,
    ]


def test_a_text_that_repeats_what_was_judged_is_not_judged_again() -> None:
    data = encoded(scripted.responses_stream(["Hello, ", "world."]))
    windows = windows_of("output_text")
    asked: list[str] = []
    for each in data:
        windows.feed(each)
        if windows.is_holding and not asked:
            asked.append(windows.text())
            windows.judged(violated=False)
    assert windows.is_holding
    assert windows.text() == "Hello, world."
    windows.judged(violated=False)
    assert not windows.is_holding
    windows.end()
    assert not windows.is_due
    assert asked == ["Hello, "]


def test_a_whole_text_that_nobody_has_said_is_judged() -> None:
    events = scripted.responses_stream(["Fine."])
    for event in events:
        if event["type"] == "response.output_text.done":
            event["text"] = f"{BAD}!"
    raw, answer, asked = drive(windows_of("output_text"), encoded(events), is_bad)
    assert asked == [f"Fine.\n\n{BAD}!"]
    assert BAD.encode() not in raw
    assert answer.status == "incomplete"


def test_what_only_the_last_event_says_is_judged_unless_it_is_a_word() -> None:
    events = scripted.responses_stream(["Fine."], note=f"A {BAD} at last", tier="fast")
    raw, answer, asked = drive(windows_of("output_text"), encoded(events), is_bad)
    assert asked == [f"Fine.\n\nA {BAD} at last"]
    assert (answer.status, answer.incomplete_reason) == ("incomplete", "content_filter")
    assert answer.usage is not None
    assert answer.usage["output_tokens"] == scripted.USAGE[1]
    assert b"Fine." not in raw


def test_tokens_that_say_the_text_again_are_not_judged_twice_but_others_are() -> None:
    tokens = [
        {"token": token, "logprob": 0, "top_logprobs": [{"token": other, "logprob": -1}]}
        for token, other in [("Hel", "Hel"), ("lo", BAD)]
    ]
    chunks = scripted.chat_stream(["Hel", "lo"])
    for chunk, token in zip(chunks[1:3], tokens, strict=True):
        chunk["choices"][0]["logprobs"] = {"content": [token]}
    _, _, asked = drive(windows_of("content"), encoded(chunks))
    assert asked == [f"Hello\n\n{BAD}"]


def test_events_without_text_pass_until_one_with_text_waits() -> None:
    events = scripted.responses_events([scripted.message("Hello"), scripted.reasoning(id="rs_1")])
    windows = windows_of("output_text")
    passed = [bool(windows.feed(scripted.encode(event))) for event in events]
    kinds = [event["type"].removeprefix("response.") for event in events]
    first = kinds.index("output_text.delta")
    # Both opening events go out with the first.
    assert passed[:first] == [True, False, *[True] * (first - 2)]
    assert not any(passed[first:])


def test_events_without_text_make_a_window_full_too() -> None:
    windows = windows_of("content")
    chunk = scripted.chat_stream(["Hello"])[1]
    assert windows.feed(scripted.encode({**chunk, "id": "x" * 300_000})) == b""
    assert windows.is_due
    assert windows.text() == "Hello"


def test_names_of_fields_are_no_speech_and_sentences_in_their_place_are() -> None:
    assert not is_speech(Found("other", "tokens", {}, "tokens", False, False))
    assert is_speech(Found("other", "how to", {}, "how to", False, False))
    assert is_speech(Found("other", "tokens", {}, "name", False, True))


def test_comments_and_ids_of_the_transport_are_not_let_out() -> None:
    chunk = scripted.encode(scripted.chat_stream(["Hello"])[0])
    windows = windows_of("content")
    assert windows.feed(b": " + BAD.encode() + b"\nid: 1\n" + chunk) == chunk


# Violated -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [0, 30, 62, 100, 150])
def test_of_a_window_with_a_violation_and_of_all_that_follows_not_a_byte_is_let_out(
    kind: str, place: int
) -> None:
    words = [*WORDS]
    words[place] = f"{BAD} {place:05d}"
    data = b"".join(encoded(KINDS[kind](pieces_of(kind, words))))
    results = []
    for size in SIZES[1:]:
        raw, answer, asked = drive(windows_of(kind), cut(data, size), is_bad)
        assert BAD.encode() not in raw
        assert not any(word.strip().encode() in raw for word in words[place:])
        assert not any(map(is_bad, asked[:-1]))
        judged = {word for word in words if any(word in text for text in asked[:-1])}
        let_out = {word for word in words if word.strip().encode() in raw}
        assert let_out == judged
        assert (answer.status, answer.incomplete_reason) == ("incomplete", "content_filter")
        events = checked(kind, raw, answer)
        assert [e["type"] for e in events if "type" in e][-1:] in ([], ["response.incomplete"])
        results.append(raw)
    assert all(raw == results[0] for raw in results)


@pytest.mark.parametrize("kind", KINDS)
def test_a_violation_at_the_end_is_not_let_out_either(kind: str) -> None:
    words = pieces_of(kind, [*WORDS[:100], BAD])
    raw, answer, asked = drive(windows_of(kind), encoded(KINDS[kind](words)), is_bad)
    assert BAD.encode() not in raw
    assert answer.incomplete_reason == "content_filter"
    assert len(asked) > 1
    assert checked(kind, raw, answer)


def test_after_a_violation_nothing_more_is_read() -> None:
    windows = windows_of("content")
    windows.feed(b"".join(encoded(scripted.chat_stream([BAD * 200]))))
    windows.judged(violated=True)
    assert (windows.ended, windows.is_blocked, windows.is_holding) == (True, True, False)
    assert windows.feed(scripted.encode(scripted.chat_stream(["More"])[1])) == b""
    assert windows.end() == b""
    assert windows.finish()[1].incomplete_reason == "content_filter"
    assert windows.abort("cancelled", None)[1].incomplete_reason == "content_filter"


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([*KINDS]),
    st.lists(st.integers(0, 249), min_size=1, max_size=120),
    st.integers(1, 3000),
    st.integers(0, 150),
    st.randoms(use_true_random=False),
)
def test_whenever_it_is_judged_only_what_was_clear_is_let_out_and_the_stream_is_correct(
    kind: str, picked: list[int], size: int, bad: int, pick: random.Random
) -> None:
    words = [f"{at:03d} {WORDS[number]}" for at, number in enumerate(picked)]
    if bad < len(words):
        words[bad] = f"{bad:03d} {BAD}."
    windows, out, asked = windows_of(kind), b"", []
    for each in cut(b"".join(encoded(KINDS[kind](pieces_of(kind, words)))), size):
        if windows.ended:
            break
        out += windows.feed(each) + judge(windows, is_bad, asked)
        if windows.is_holding and pick.random() < 0.3:  # the time is over
            asked.append(windows.text())
            out += windows.judged(violated=is_bad(asked[-1]))
    out += windows.end() + judge(windows, is_bad, asked)
    closing, answer = windows.finish()
    answer.usage = answer.usage or items.usage(1, 1)
    raw = out + closing + ended(windows, answer)
    events = checked(kind, raw, answer)
    clear = "\n".join(text for text in asked if not is_bad(text))
    assert all(word in clear for word in words if word in said(events))
    assert windows.is_blocked == (bad < len(words))
    if not windows.is_blocked:
        assert "".join(words) in said(events)


# Watched ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_is_to_be_held_events_pass_at_once_and_are_judged_all_the_same(
    kind: str,
) -> None:
    words = pieces_of(kind, [*WORDS[:100], BAD, *WORDS[100:]])
    data = b"".join(encoded(KINDS[kind](words)))
    for size in (7, 500, 1 << 20):
        windows, bare = windows_of(kind, holds=False), plain(kind)
        asked: list[str] = []
        for each in cut(data, size):
            if not windows.ended:
                assert windows.feed(each) == bare.feed(each)
                assert not windows.is_holding
                assert judge(windows, is_bad, asked) == b""
        assert windows.end() == b""
        judge(windows, is_bad, asked)
        assert windows.finish()[1].status == "completed"
        assert not windows.is_blocked
        assert any(map(is_bad, asked))
        assert all(any(word in text for text in asked) for word in words)


# Ended before the end -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("holds", [True, False])
def test_who_ends_a_stream_drops_what_waits(kind: str, holds: bool) -> None:
    words = pieces_of(kind, WORDS)
    data = encoded(KINDS[kind](words))
    windows, asked = windows_of(kind, holds=holds), []
    out = b""
    for each in data[:120]:
        out += windows.feed(each) + judge(windows, never, asked)
    assert windows.is_holding == holds
    closing, answer = windows.abort("cancelled", None)
    assert answer.status == "cancelled"
    events = checked_end(kind, out + closing + ended(windows, answer), answer)
    let_out = said(events)
    assert "".join(words).startswith(let_out)
    judged = "".join(asked)
    unjudged = [word for word in words if word in let_out and word not in judged]
    assert bool(unjudged) != holds


def checked_end(kind: str, raw: bytes, answer: Answer) -> list[Json]:
    events = checked(kind, raw, answer) if kind in RESPONSES else grammar.parse(raw)
    return [event for event in events if "error" not in event or "type" in event]


def test_who_ends_a_stream_while_its_last_window_is_judged_lets_out_none_of_it() -> None:
    windows = windows_of("output_text")
    out = b"".join(map(windows.feed, encoded(scripted.responses_stream(["Hello", " world"]))))
    assert windows.end() == b""
    assert windows.is_due
    closing, answer = windows.abort("failed", {"code": "server_error", "message": "No more."})
    assert not windows.is_due
    raw = out + closing + ended(windows, answer)
    assert b"Hello" not in raw
    assert answer.error == {"code": "server_error", "message": "No more."}
    assert checked("output_text", raw, answer)[-1]["type"] == "response.failed"


@pytest.mark.parametrize(
    "broken",
    [b"data: {\n\n", b"data: []\n\n", b'data: {"choices":[{"delta":{"content":"x"}'],
    ids=["JSON", "a list", "a cut"],
)
@pytest.mark.parametrize("holds", [True, False])
def test_of_a_stream_that_breaks_what_waits_is_dropped(broken: bytes, holds: bool) -> None:
    data = encoded(scripted.chat_stream(["Hello"]))
    windows = windows_of("content", holds=holds)
    out = b"".join(map(windows.feed, [*data[:2], broken]))
    with pytest.raises(UpstreamError):
        windows.end()
    closing, answer = windows.abort("failed", {"code": "upstream_error", "message": "Broken."})
    raw = out + closing + ended(windows, answer)
    assert (b"Hello" in raw) != holds
    assert grammar.parse(raw)[-1]["error"]["message"] == "Broken."


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"finish_reason":null\n\n',
        b'data: {"finish_reason":null}\n\n',
    ],
    ids=["no JSON", "no event"],
)
@pytest.mark.parametrize("holds", [True, False])
def test_an_event_that_cannot_be_read_ends_the_stream(event: bytes, holds: bool) -> None:
    data = encoded(scripted.chat_stream(["Hello"]))
    windows = windows_of("content", holds=holds)
    out = b"".join(map(windows.feed, [*data[:2], event]))
    assert (b"Hello" in out) != holds
    assert (windows.ended, windows.end()) == (True, b"")
    with pytest.raises(UpstreamError, match="cannot be read"):
        windows.finish()
    error = {"code": "upstream_error", "message": "Broken."}
    closing, answer = windows.abort("failed", error)
    assert answer.error == error
    assert (
        grammar.parse(out + closing + ended(windows, answer))[-1]["error"]["message"] == "Broken."
    )


# Behind the keywords ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["mask", "block"])
def test_what_the_keywords_let_through_is_what_is_judged(kind: str, mode: str) -> None:
    rules = Rules([Phrase("forbidden phrase", "r")])
    scanned = Scanned(plain(kind), dialect(kind), rules, mode)
    windows = Windows(scanned, dialect(kind), holds=True)
    words = pieces_of(kind, [*WORDS[:70], "forbidden ", "phrase. ", *WORDS[70:90]])
    raw, answer, asked = drive(windows, encoded(KINDS[kind](words)))
    assert "forbidden" not in "".join(asked)
    assert b"forbidden" not in raw
    events = checked(kind, raw, answer)
    expected = "".join(words[: words.index("forbidden ")])
    if mode == "mask":
        assert said(events) == "".join(words).replace("forbidden phrase", "***")
    else:
        assert said(events) == expected
        assert (answer.incomplete_reason, scanned.is_blocked) == ("content_filter", True)
    assert not windows.is_blocked


@pytest.mark.parametrize("kind", KINDS)
def test_a_violation_before_a_phrase_ends_the_stream_at_the_violation(kind: str) -> None:
    rules = Rules([Phrase("forbidden phrase", "r")])
    windows = Windows(
        Scanned(plain(kind), dialect(kind), rules, "block"), dialect(kind), holds=True
    )
    words = pieces_of(kind, [*WORDS[:65], BAD, "forbidden ", "phrase. "])
    raw, answer, _ = drive(windows, encoded(KINDS[kind](words)), is_bad)
    assert BAD.encode() not in raw
    assert checked(kind, raw, answer)
    assert windows.is_blocked
