"""Upstreams that break off, fail or answer otherwise than they were asked, on all four paths."""

from copy import deepcopy

import pytest

from tests import scripted
from tests.dialects import speaking
from tests.scripted import CUT, DONE, HEADERS, Chunk, Json
from tests.test_four_paths import ANSWERS, CHAT, HI, PATHS, RESPONSES, Said, ask, heard

# A stream that breaks ----------------------------------------------------------------------------

EVERYTHING = Said(
    reasoning="They greet me.",
    content="Hello there.",
    calls=(("c1", "weather", '{"city":"Oslo"}'), ("c2", "time", "{}")),
    finish="tool_calls",
)


def text_in(chunks: list[Json]) -> str:
    """All that the deltas of either dialect say, one after the other."""
    said = ""
    for chunk in chunks:
        if "type" in chunk:
            said += chunk["delta"] if chunk["type"].endswith(".delta") else ""
        for choice in chunk.get("choices", ()):
            delta = choice["delta"]
            for name in ("reasoning_content", "content", "refusal"):
                said += delta.get(name) or ""
            for call in delta.get("tool_calls", ()):
                said += call["function"].get("arguments") or ""
    return said


@pytest.mark.parametrize("wants_usage", [True, False])
@pytest.mark.parametrize("choices", [{"choices": None}, {}], ids=["null", "none"])
async def test_the_chunk_with_the_usage_may_be_without_choices(
    gateway, upstream, choices: Json, wants_usage: bool
) -> None:
    anos = await gateway(speaking("chat"))
    chunks = scripted.chat_stream(["Hel", "lo."])
    at = next(i for i, each in enumerate(chunks) if isinstance(each, dict) and each.get("usage"))
    usage = {name: value for name, value in chunks[at].items() if name != "choices"}
    upstream.answer([*chunks[:at], {**usage, **choices}, *chunks[at + 1 :]])
    got = await anos.stream(CHAT, **HI[CHAT], stream_options={"include_usage": wants_usage})
    assert text_in(got) == "Hello."
    told = [(each["choices"], each["usage"]) for each in got if each.get("usage")]
    assert told == ([([], usage["usage"])] if wants_usage else [])
    (row,) = await anos.calls()
    assert (row["input_tokens"], row["output_tokens"]) == scripted.USAGE


@pytest.mark.parametrize("is_abort", [True, False])
@pytest.mark.parametrize(("path", "dialect"), PATHS)
async def test_a_stream_cut_anywhere_ends_well_and_keeps_what_was_said(
    gateway, upstream, path: str, dialect: str, is_abort: bool
) -> None:
    """After each event in turn the connection is reset, or just ends."""
    anos = await gateway(speaking(dialect))
    chunks = EVERYTHING.upstream(dialect, True)
    # With its finish_reason a chat stream has said all, unless the connection breaks.
    whole = len(chunks) if is_abort or dialect == "responses" else len(chunks) - 2
    for cut in range(1, whole):
        upstream.answer([*chunks[:cut], *([CUT] if is_abort else [])])
        got = await anos.stream(path, **HI[path])
        said = text_in([chunk for chunk in chunks[:cut] if isinstance(chunk, dict)])
        if path == CHAT:
            assert got[-1]["error"]["message"] == "The upstream broke off its answer."
            assert text_in(got[:-1]).startswith(said)
            continue
        failed = got[-1]["response"]
        assert (got[-1]["type"], failed["status"]) == ("response.failed", "failed")
        assert failed["error"]["code"] in ("upstream_error", "server_error")
        # What was said is there, and calls that had said nothing yet are closed as empty objects.
        assert text_in(got).replace("{}", "").startswith(said.replace("{}", ""))
        assert (await anos.get(f"{RESPONSES}/{failed['id']}")).body == failed
        statuses = {item["status"] for item in failed["output"] if item["type"] != "reasoning"}
        assert statuses <= {"completed", "incomplete"}


@pytest.mark.parametrize(
    "reply",
    [[CUT], [HEADERS, CUT], [HEADERS], [DONE], [": so\n\n", CUT]],
    ids=["cut", "headers", "empty", "done", "comment"],
)
@pytest.mark.parametrize(("path", "dialect"), PATHS)
async def test_a_stream_that_never_began_is_a_plain_error(
    gateway, upstream, path: str, dialect: str, reply: list[Chunk]
) -> None:
    anos = await gateway(speaking(dialect))
    upstream.answer(reply)
    refused = await anos.post(path, stream=True, **HI[path])
    assert (refused.status, refused.error["type"]) == (502, "upstream_error")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("path", "dialect"), PATHS)
async def test_an_error_in_place_of_an_answer_is_told(
    gateway, upstream, path: str, dialect: str, streamed: bool
) -> None:
    anos = await gateway(speaking(dialect))
    error = {"message": "Overloaded.", "type": "server_error", "code": "slow_down"}
    upstream.answer([{"error": error}] if streamed else {"error": error})
    refused = await anos.post(path, stream=streamed, **HI[path])
    assert refused.status == 502
    assert (refused.error["message"], refused.error["code"]) == ("Overloaded.", "slow_down")


@pytest.mark.parametrize(("path", "dialect"), PATHS)
async def test_an_error_in_the_middle_of_a_stream_is_told_at_its_end(
    gateway, upstream, path: str, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    chunks = EVERYTHING.upstream(dialect, True)
    upstream.answer([*chunks[:5], {"error": {"message": "Overloaded.", "code": "slow_down"}}])
    last = (await anos.stream(path, **HI[path]))[-1]
    error = last["error"] if path == CHAT else last["response"]["error"]
    assert (error["message"], error["code"]) == ("Overloaded.", "slow_down")


async def test_an_answer_that_failed_is_no_completion(gateway, upstream) -> None:
    anos = await gateway()
    error = {"code": "rate_limit_exceeded", "message": "Please try again in 1.2s."}
    failed = scripted.responses_body([], status="failed", error=error)
    upstream.answer(failed, scripted.responses_events([], status="failed", error=error))
    refused = await anos.post(CHAT, **HI[CHAT])
    assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
    last = (await anos.stream(CHAT, **HI[CHAT]))[-1]
    assert (last["error"]["code"], last["error"]["message"]) == tuple(error.values())
    upstream.answer(failed)
    told = await anos.post(RESPONSES, **HI[RESPONSES])
    assert (told.status, told.body["status"]) == (200, "failed")
    assert told.body["error"] == {"type": "server_error", **error}
    assert (await anos.get(f"{RESPONSES}/{told.body['id']}")).body == told.body


@pytest.mark.parametrize("status", ["queued", "in_progress"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("path", [RESPONSES, CHAT])
async def test_an_answer_that_has_not_ended_is_an_upstream_error(
    gateway, upstream, path: str, streamed: bool, status: str
) -> None:
    anos = await gateway()
    upstream.answer(scripted.responses_body([], status=status, usage=None))
    refused = await anos.post(path, stream=streamed, **HI[path])
    assert (refused.status, refused.error["type"]) == (502, "upstream_error")
    assert refused.error["message"] == (
        f"The upstream answered with a response that is still {status}."
    )


# Answers of another kind than was asked for ------------------------------------------------------


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize(("path", "dialect"), PATHS)
async def test_an_answer_in_one_piece_is_streamed_all_the_same(
    gateway, upstream, path: str, dialect: str, name: str
) -> None:
    anos = await gateway(speaking(dialect))
    upstream.answer(ANSWERS[name].upstream(dialect, False))
    streamed = await ask(anos, path, True)
    expected = deepcopy(ANSWERS[name])
    expected.usage = expected.usage or (1, 10)
    assert heard(streamed) == expected
    if path == RESPONSES:
        assert (await anos.get(f"{RESPONSES}/{streamed['id']}")).body == streamed


async def test_all_choices_of_an_answer_in_one_piece_are_streamed(gateway, upstream) -> None:
    anos = await gateway(speaking("chat"))
    whole = scripted.chat_text("Hello")
    whole["choices"].append({**whole["choices"][0], "index": 1})
    upstream.answer(whole)
    (chunk,) = await anos.stream(CHAT, n=2, **HI[CHAT])
    assert [choice["delta"]["content"] for choice in chunk["choices"]] == ["Hello", "Hello"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"output": 5}', b"", b'"x"'])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("path", "dialect"), PATHS)
async def test_json_that_is_no_answer_is_an_upstream_error(
    gateway, upstream, path: str, dialect: str, streamed: bool, body: bytes
) -> None:
    anos = await gateway(speaking(dialect))
    upstream.answer((200, body, {"Content-Type": "application/json"}))
    refused = await anos.post(path, stream=streamed, **HI[path])
    assert (refused.status, refused.error["type"]) == (502, "upstream_error")


@pytest.mark.parametrize(("path", "dialect"), PATHS)
async def test_a_stream_nobody_asked_for_is_an_upstream_error(
    gateway, upstream, path: str, dialect: str
) -> None:
    anos = await gateway(speaking(dialect))
    upstream.answer(EVERYTHING.upstream(dialect, True))
    refused = await anos.post(path, **HI[path])
    assert refused.status == 502
    assert refused.error["message"] == (
        "The upstream sent an event stream where JSON was asked for."
    )
