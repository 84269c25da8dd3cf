"""What guards make of the parts of a message, of long requests, and of a guard that fails."""

import asyncio
import base64
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anos import config, exchange
from anos.calls import ChatCall
from anos.errors import GuardBlocked
from anos.extract import Found
from anos.screening import Profile, _look, profiles_of, screen_message, screen_request
from guards.turns import at_once
from tests import scripted
from tests.conftest import Gateway, Json
from tests.scripted import Upstream

Start = Callable[..., Awaitable[Gateway]]
RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"
KEYWORDS: Json = {
    "phrases": ["cheap pills"],
    "patterns": ["\\bsecret\\s\\d{1,9}\\b", "\\bid\\d{4}\\b"],
}


def guarding(**keywords: Any) -> Json:
    return {"guards": {"keywords": {**KEYWORDS, **keywords}}}


def part(path: str, text: str) -> Json:
    return {"type": "input_text" if path == RESPONSES else "text", "text": text}


def said(path: str, *texts: str, between: tuple[Json, ...] = ()) -> Json:
    parts = [part(path, text) for text in texts]
    messages = [{"role": "user", "content": [parts[0], *between, *parts[1:]]}]
    return {"input" if path == RESPONSES else "messages": messages}


def profile_of(**keywords: Any) -> Profile:
    return profiles_of(config.parse(guarding(**keywords)), {})["default"]


def call_of(*contents: Any) -> ChatCall:
    tree = {"model": "m", "messages": [{"role": "user", "content": each} for each in contents]}
    return ChatCall(tree, response_id="r", created_s=0, now_ms=0)


async def receipt(anos: Gateway) -> Json:
    (row,) = await anos.calls(1)
    guard: Json = (await anos.get(f"/admin/requests/{row['id']}")).body["guards"][0]
    return guard


# Parts of a message -------------------------------------------------------------------------------

SPLIT = [
    *(
        ("buy cheap ", "pills"),
        ("buy cheap", "pills"),
        ("che", "ap pills"),
        ("cheap pi", "lls now"),
    ),
    *(("ch", "ea", "p pil", "ls"), ("secret", "123"), ("secret ", "123"), ("id1", "234")),
]


@pytest.mark.parametrize("path", [RESPONSES, CHAT])
@pytest.mark.parametrize("mode", ["block", "mask"])
@pytest.mark.parametrize("texts", SPLIT, ids="|".join)
async def test_what_the_parts_of_a_message_say_together_is_refused(
    gateway: Start, upstream: Upstream, path: str, mode: str, texts: tuple[str, ...]
) -> None:
    anos = await gateway(guarding(input=mode))
    refused = await anos.post(path, **said(path, *texts))
    assert (refused.status, refused.body["error"]["type"]) == (400, "content_filter_error")
    assert upstream.requests == []
    assert (await receipt(anos))["action"] == "block"


async def test_it_is_refused_around_a_picture_in_outputs_of_tools_and_wherever_parts_are(
    gateway: Start, upstream: Upstream
) -> None:
    anos = await gateway(guarding())
    picture = {"type": "input_image", "image_url": "https://example.com/a.png"}
    texts = ("cheap", "pills")
    output = [part(RESPONSES, text) for text in texts]
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    told = {"type": "function_call_output", "call_id": "c", "output": output}
    spoken = {"role": "assistant", "content": [{"type": "output_text", "text": t} for t in texts]}
    for body in (
        said(RESPONSES, *texts, between=(picture,)),
        {"input": [call, told]},
        {"input": [spoken, {"role": "user", "content": "So?"}]},
        {"input": "Hi", "instructions": said(RESPONSES, *texts)["input"]},
    ):
        assert (await anos.post(RESPONSES, **body)).status == 400
    assert upstream.requests == []


@pytest.mark.parametrize("path", [RESPONSES, CHAT])
async def test_what_is_masked_in_its_part_is_not_found_again(
    gateway: Start, upstream: Upstream, path: str
) -> None:
    upstream.answer(scripted.responses_text("Well."))
    anos = await gateway(guarding(input="mask"))
    assert (await anos.post(path, **said(path, "the cheap pills", "are here"))).status == 200
    assert b"the ***" in upstream.requests[0].raw
    guard = await receipt(anos)
    assert (guard["action"], guard["rules"]) == ("mask", {"phrases[0]": 1})


@pytest.mark.parametrize(
    ("texts", "count"), [(("cheap pills", "and"), 1), (("cheap pills for cheap", "pills"), 2)]
)
async def test_what_a_part_says_alone_is_counted_once(texts: tuple[str, ...], count: int) -> None:
    noted = exchange.begin("POST", CHAT)
    call = call_of([part(CHAT, text) for text in texts])
    assert not await screen_request(profile_of(input="monitor"), noted, call)
    assert noted.receipts[0].rules == {"phrases[0]": count}


async def test_messages_stay_apart_and_so_do_the_end_and_the_beginning_of_words() -> None:
    profile = profile_of()
    for call in (
        call_of([part(CHAT, "so cheap")], [part(CHAT, "pills")]),
        call_of([part(CHAT, "cheap"), part(CHAT, "pillsbury")], "pills"),
        call_of([part(CHAT, "x"), part(CHAT, "so cheap")], [part(CHAT, "pills"), part(CHAT, "y")]),
    ):
        assert await screen_request(profile, exchange.begin("POST", CHAT), call)


async def test_what_is_not_to_be_looked_at_is_not_looked_at_in_parts_either() -> None:
    call = call_of([part(CHAT, "cheap "), part(CHAT, "pills")])
    noted = exchange.begin("POST", CHAT)
    assert await screen_request(profile_of(sources=["system"]), noted, call)
    assert noted.receipts[0].texts == 0


# Files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"caf\xe9, cheap pills", "cheap pills".encode("utf-16"), b"word " * 300_000 + b"id1234"],
)
async def test_a_text_file_is_searched_however_it_is_encoded_and_to_its_end(data: bytes) -> None:
    file = {"filename": "a.txt", "file_data": base64.b64encode(data).decode()}
    with pytest.raises(GuardBlocked):
        await screen_request(
            profile_of(), exchange.begin("POST", CHAT), call_of([{"type": "file", "file": file}])
        )


# Many texts ---------------------------------------------------------------------------------------

SAYINGS = st.sampled_from([
    *("well", "cheap", "pills", "so cheap pills!", "ch\u00e9ap p1lls", "C++", "C", "++", "\u2014"),
    *("\\u0063heap pills", "no cheap pills", "no", "", "word " * 2_000, "id1234"),
])  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(SAYINGS, st.booleans()), max_size=12),
    st.sampled_from([{"patterns": []}, {"patterns": [], "allow": ["no cheap pills"]}, {}]),
)
def test_what_is_found_in_many_texts_is_what_is_found_in_each(
    said: list[tuple[str, bool]], rules: Json
) -> None:
    profile = profile_of(phrases=["cheap pills", "C++"], **rules)
    assert profile.rules is not None
    found, counts = [], Counter[str]()
    for text, is_json in said:
        found.append(Found("user", text, {}, "text", is_json, True))
        matches = at_once(profile.rules.steps(text, is_json=is_json))
        counts.update(match.rule for match in matches)
    receipt = asyncio.run(_look(profile, "input", "monitor", found))
    assert receipt.rules == counts
    assert receipt.texts == len(said)
    assert receipt.bytes == sum(len(text.encode()) for text, _ in said)


@pytest.mark.parametrize("mode", ["mask", "monitor"])
async def test_what_is_made_of_texts_is_looked_at_as_they_were_masked(mode: str) -> None:
    shown = {"text": "so cheap pills"}

    def joined() -> Iterator[Found]:
        yield Found("assistant", f"{shown['text']}, all", None, "", False, False)

    found = [Found("assistant", shown["text"], shown, "text", False, True)]
    receipt = await _look(profile_of(patterns=[]), "input", mode, found, joined())
    assert (receipt.action, receipt.texts) == (mode, 2)
    assert receipt.rules == {"phrases[0]": 1 if mode == "mask" else 2}


# Turns --------------------------------------------------------------------------------------------


async def turns_during(work: Awaitable[Any]) -> int:
    """How often something else gets its turn while the work is done."""
    task, turns = asyncio.ensure_future(work), 0
    while not task.done():
        turns += 1
        await asyncio.sleep(0)
    await task
    return turns


async def test_others_get_their_turn_between_the_texts_of_a_long_request() -> None:
    profile, noted = profile_of(), exchange.begin("POST", CHAT)
    call = call_of(*["word " * 8_000] * 16)
    assert await turns_during(screen_request(profile, noted, call)) >= 8
    assert (noted.receipts[0].texts, noted.receipts[0].bytes) == (16, 640_000)


async def test_others_get_their_turn_between_many_short_texts() -> None:
    noted = exchange.begin("POST", CHAT)
    call = call_of(*["word " * 200] * 640)
    assert await turns_during(screen_request(profile_of(patterns=[]), noted, call)) >= 6
    assert (noted.receipts[0].texts, noted.receipts[0].bytes) == (640, 640_000)


async def test_others_get_their_turn_between_texts_of_a_word_each() -> None:
    noted = exchange.begin("POST", CHAT)
    assert await turns_during(screen_request(profile_of(), noted, call_of(*["word"] * 640))) >= 9


async def test_others_get_their_turn_within_one_long_text() -> None:
    profile, noted = profile_of(), exchange.begin("POST", CHAT)
    assert await turns_during(screen_request(profile, noted, call_of("word " * 200_000))) >= 16
    found = screen_request(profile, noted, call_of("word " * 200_000 + "cheap pills"))
    with pytest.raises(GuardBlocked):
        await turns_during(found)


async def test_a_short_request_is_searched_without_a_task_switch() -> None:
    coroutine = screen_request(
        profile_of(), exchange.begin("POST", CHAT), call_of("word " * 5_000, "Hi")
    )
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    assert stopped.value.value is True


async def test_what_others_do_in_their_turn_is_not_time_of_the_guard() -> None:
    noted = exchange.begin("POST", CHAT)
    task = asyncio.create_task(screen_request(profile_of(), noted, call_of(*["x" * 70_000] * 3)))
    await asyncio.sleep(0)
    started = time.perf_counter()
    while time.perf_counter() < started + 0.5:
        assert not task.done()
    await task
    assert noted.receipts[0].us < 400_000


@pytest.mark.parametrize("before", [1, 20])
@pytest.mark.parametrize(("on_error", "action"), [("block", "block"), ("pass", "error")])
async def test_whatever_is_raised_while_a_guard_looks_is_a_failed_guard(
    caplog: pytest.LogCaptureFixture, before: int, on_error: str, action: str
) -> None:
    def broken() -> Iterator[Found]:
        yield from [Found("user", "word " * 8_000, {}, "text", False, True)] * before
        raise ValueError("a text of the user")

    found = await _look(profile_of(on_error=on_error), "input", "block", broken())
    assert (found.action, found.error, found.texts) == (action, "failed", before)
    assert caplog.messages == ["a guard failed: ValueError"]


def test_an_upstreams_words_are_masked_at_once() -> None:
    noted = exchange.begin("POST", CHAT)
    words = "word " * 30_000
    shown = screen_message(profile_of(output="block"), noted.receipts, f"no cheap pills {words}")
    assert shown == f"no *** {words}"
    assert [each.action for each in noted.receipts] == ["mask"]
