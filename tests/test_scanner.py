"""The screening of a stream, fed with what the gateway would have sent."""

import itertools
import os
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anos import items
from anos.chat_passthrough import ChatPassthrough
from anos.errors import UpstreamError
from anos.events import EventWriter
from anos.items import Answer
from anos.passthrough import ResponsesPassthrough
from anos.scanner import Scanned
from anos.scanner_dialects import ChatChunks, ResponsesEvents
from guards.keywords import Pattern, Phrase, Rules
from tests import grammar, scripted
from tests.conftest import Json

PHRASE = "forbidden phrase"
RULES = Rules([Phrase(PHRASE, "r"), Phrase("stop it", "s")], [Pattern("x[0-9]{2,4}y", "p")])
ONLY = Rules([Phrase(PHRASE, "r")])
BASE = items.base_response({}, id="resp_1", model="m", created_at=1)
# Every way to cut 16 bytes into at most 6 pieces.
CUTS = [cut for count in range(6) for cut in itertools.combinations(range(1, 16), count)]
IS_TORTURE = bool(os.environ.get("ANOS_TORTURE"))


def some(cuts: Sequence[Any], count: int, seed: str) -> Sequence[Any]:
    """All where there is time, otherwise so many."""
    if IS_TORTURE or len(cuts) <= count:
        return cuts
    return random.Random(seed).sample(cuts, count)


def cut(text: str, places: Iterable[int]) -> list[str]:
    return [text[a:b] for a, b in itertools.pairwise([0, *places, len(text)])]


# Streams of upstreams -----------------------------------------------------------------------------

Make = Callable[[list[str]], list[Any]]


def _item(make: Callable[[str], Json]) -> Make:
    return lambda pieces: scripted.responses_events([make("".join(pieces))], deltas=pieces)


def _chat(*path: Any) -> Make:
    def delta(text: str) -> Any:
        value: Any = text
        for name in reversed(path):
            value = [{"index": 0, name[0]: value}] if isinstance(name, list) else {name: value}
        return value

    return lambda pieces: scripted.chat_chunks([delta(piece) for piece in pieces])


def _chat_call(pieces: list[str]) -> list[Any]:
    call = {"index": 0, **scripted.chat_call("find", "", "call_1")}
    deltas = [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces]
    return scripted.chat_chunks([{"tool_calls": [call]}, *deltas], finish="tool_calls")


def _second_choice(pieces: list[str]) -> list[Any]:
    chunks = scripted.chat_chunks([{"content": piece} for piece in pieces])
    other = scripted.chat_chunks([{"content": "I am the other. "}] * len(pieces))
    for chunk in chunks[:-2]:
        chunk["choices"][0]["index"] = 1
    pairs = itertools.chain.from_iterable(zip(other[:-2], chunks[:-2], strict=True))
    return [*pairs, *chunks[-2:]]


RESPONSES: dict[str, Make] = {
    "output_text": _item(scripted.message),
    "refusal": _item(scripted.refusal),
    "summary": _item(scripted.reasoning),
    "reasoning_text": _item(
        lambda text: {
            **scripted.reasoning(),
            "content": [{"type": "reasoning_text", "text": text}],
        }
    ),
    "arguments": _item(lambda text: scripted.function_call("find", text)),
    "input": _item(lambda text: scripted.custom_call("find", text)),
}
CHAT: dict[str, Make] = {
    "content": _chat("content"),
    "chat refusal": _chat("refusal"),
    "reasoning_content": _chat("reasoning_content"),
    "reasoning_details": _chat("reasoning_details", ["text"]),
    "chat arguments": _chat_call,
    "second choice": _second_choice,
}
KINDS = RESPONSES | CHAT


def streams(kind: str, mode: str, rules: Rules) -> Scanned:
    if kind in RESPONSES:
        inner = ResponsesPassthrough(EventWriter(BASE, 0), shows_encrypted=False, repair=False)
        return Scanned(inner, ResponsesEvents(BASE, 0), rules, mode)
    return Scanned(ChatPassthrough(wants_usage=True), ChatChunks(wants_usage=True), rules, mode)


def fed(scanned: Scanned, data: Iterable[bytes]) -> bytes:
    out = []
    for each in data:
        if not scanned.ended:
            out.append(scanned.feed(each))
    return b"".join(out)


def run(
    kind: str, data: Iterable[bytes], mode: str = "block", rules: Rules = ONLY
) -> tuple[list[Json], Answer, Scanned]:
    """The events that the client gets, which are a correct stream; the answer."""
    scanned = streams(kind, mode, rules)
    out = fed(scanned, data)
    closing, answer = scanned.finish()
    answer.usage = answer.usage or items.usage(1, 1)
    response = items.final_response(BASE, answer, 1)
    raw = out + closing + scanned.terminal(answer, response)
    if kind in RESPONSES:
        events = grammar.parse(raw, done=True)
        grammar.check(events)
        assert said_by(answer.output) == said(events)
    else:
        events = grammar.parse(raw)
        grammar.check_chat(events)
    return events, answer, scanned


def said(events: Iterable[Json]) -> str:
    """All the text of the deltas; of a chat, that of the choice that is under test."""
    texts = []
    for event in events:
        if "type" in event and event["type"].endswith(".delta"):
            texts.append(event["delta"])
        for choice in event.get("choices") or ():
            texts += _strings(choice["delta"])
    return "".join(texts).replace("I am the other. ", "")


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        names = ("role", "id", "type", "name")
        return [s for name, v in value.items() if name not in names for s in _strings(v)]
    if isinstance(value, list):
        return [s for v in value for s in _strings(v)]
    return [value] if isinstance(value, str) else []


def said_by(output: Iterable[Json]) -> str:
    texts = []
    for item in output:
        parts = [*(item.get("summary") or ()), *(item.get("content") or ())]
        texts += [grammar.text_of(part) for part in parts]
        texts += [item[name] for name in ("arguments", "input") if name in item]
    return "".join(texts)


def encoded(events: Iterable[Any]) -> list[bytes]:
    return [scripted.encode(event) for event in events]


def around(kind: str) -> tuple[str, str]:
    """What is said before and after the phrase."""
    return (
        ('{"q":"It is fine: ', ' and more."}')
        if "arguments" in kind
        else ("It is fine: ", " and more.")
    )


# Blocked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_phrase_that_is_cut_in_any_way_not_a_byte_is_let_out(kind: str) -> None:
    before, after = around(kind)
    cuts = some(CUTS, 400, kind)
    for places in cuts:
        data = encoded(KINDS[kind]([before, *cut(PHRASE, places), after]))
        events, answer, scanned = run(kind, data)
        assert said(events) == before, places
        assert (answer.status, answer.incomplete_reason) == ("incomplete", "content_filter")
        assert scanned.found == {"r": 1}
        assert scanned.ended
    print(f"{kind}: {len(cuts)} of {len(CUTS)} ways to cut")  # noqa: T201


@pytest.mark.parametrize("kind", KINDS)
def test_a_phrase_at_the_start_or_end_of_a_part_is_not_let_out(kind: str) -> None:
    before, after = around(kind)
    whole = f"{PHRASE}{after}"
    for pieces in (
        [PHRASE, after],
        [before, PHRASE],
        [PHRASE],
        [before + whole],
        [before, whole],
        [whole],
    ):
        events, _, _ = run(kind, encoded(KINDS[kind](pieces)))
        expected = before if pieces[0].startswith(before) else ""
        empty = "{}" if kind == "arguments" and not expected else ""  # arguments are always JSON
        assert said(events) == expected + empty


PAIRS = [
    ("text parts", lambda a, b: [scripted.message(a, b)]),
    ("messages", lambda a, b: [scripted.message(a), scripted.message(b, id="msg_2")]),
    ("summary and text", lambda a, b: [scripted.reasoning(a), scripted.message(b)]),
    ("text and call", lambda a, b: [scripted.message(a), scripted.custom_call("find", b)]),
    (
        "an empty part between",
        lambda a, b: [scripted.message(a, "", "", b)],
    ),
]


@pytest.mark.parametrize(("name", "make"), PAIRS, ids=[name for name, _ in PAIRS])
def test_a_phrase_that_is_cut_by_the_end_of_a_part_is_not_let_out(
    name: str, make: Callable[[str, str], list[Json]]
) -> None:
    count = 0
    for place in range(1, 16):
        for pieces in (1, 2, 5):
            output = make(f"Fine: {PHRASE[:place]}", f"{PHRASE[place:]} and more.")
            data = encoded(scripted.responses_events(output, pieces=pieces))
            events, answer, _ = run("output_text", data)
            assert said(events).rstrip() == "Fine:", (place, pieces)
            assert answer.incomplete_reason == "content_filter"
            count += 1
    print(f"{name}: {count} ways to cut")  # noqa: T201


@pytest.mark.parametrize("names", [*itertools.permutations(("content", "reasoning_content"))])
def test_a_phrase_that_is_cut_by_the_end_of_a_chat_part_is_not_let_out(
    names: tuple[str, str],
) -> None:
    for places in some([c for c in CUTS if c], 300, str(names)):
        first, *rest = cut(PHRASE, places)
        deltas = [{names[0]: "Fine: "}, {names[0]: first}, *({names[1]: each} for each in rest)]
        data = encoded(scripted.chat_chunks([*deltas, {names[1]: " and more."}]))
        events, _, _ = run("content", data)
        assert said(events) == "Fine: ", places


@pytest.mark.parametrize("kind", ["content", "chat arguments"])
def test_a_phrase_with_another_part_between_its_pieces_is_not_let_out(kind: str) -> None:
    for places in some([c for c in CUTS if c], 300, kind):
        pieces = ["Fine: ", *cut(PHRASE, places), " and more."]
        if kind == "content":
            own = [{"content": piece} for piece in pieces]
            other = [{"reasoning_content": "~"}] * len(own)
        else:
            calls = [
                {"tool_calls": [{"index": i, **scripted.chat_call("get", "", f"call_{i}")}]}
                for i in range(2)
            ]
            own, other = (
                [{"tool_calls": [{"index": i, "function": {"arguments": text}}]} for text in texts]
                for i, texts in enumerate((pieces, ["~"] * len(pieces)))
            )
            own, other = [calls[0], *own], [calls[1], *other]
        deltas = [*itertools.chain.from_iterable(zip(own, other, strict=True))]
        finish = "stop" if kind == "content" else "tool_calls"
        events, _, _ = run("content", encoded(scripted.chat_chunks(deltas, finish=finish)))
        assert said(events).replace("~", "") == "Fine: ", places


def test_two_choices_that_hold_at_once_lose_nothing_but_the_phrase() -> None:
    deltas = [(0, "One forbidden"), (1, "Two forbidden"), (0, " phrase"), (1, " phrases")]
    chunks = [scripted.chat_chunks([{"content": text}])[1] for _, text in deltas]
    role = scripted.chat_chunks([])[0]
    begun = [{**role, "choices": [{**role["choices"][0], "index": i}]} for i in range(2)]
    for chunk, (index, _) in zip(chunks, deltas, strict=True):
        chunk["choices"][0]["index"] = index
    ends = [
        {**begun[i], "choices": [{"index": i, "delta": {}, "finish_reason": "stop"}]}
        for i in (0, 1)
    ]
    events, answer, _ = run("content", encoded([*begun, *chunks, *ends, scripted.DONE]))
    assert answer.incomplete_reason == "content_filter"
    assert said(events) == "One "


# Masked and only counted --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_phrase_leaves_every_event_and_number_in_its_place(kind: str) -> None:
    before, after = around(kind)
    cuts = some(CUTS, 300, kind)
    for places in cuts:
        pieces = [before, *cut(PHRASE, places), ", ", *cut(PHRASE, places), after]
        stream = KINDS[kind](pieces)
        events, answer, scanned = run(kind, encoded(stream), "mask")
        assert said(events) == f"{before}***, ***{after}", places
        if kind != "reasoning_text":  # which is shown as a summary
            assert len(events) == len([each for each in stream if isinstance(each, dict)])
        assert answer.status == "completed"
        assert scanned.found == {"r": 2}
    print(f"{kind}: {len(cuts)} of {len(CUTS)} ways to cut")  # noqa: T201


def test_a_delta_with_very_many_phrases_is_masked() -> None:
    events, answer, scanned = run(
        "output_text", encoded(scripted.responses_stream([f"{PHRASE}. " * 1000, "end"])), "mask"
    )
    assert said(events) == "***. " * 1000 + "end"
    assert said_by(answer.output) == said(events)
    assert scanned.found == {"r": 1000}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_only_counted_keeps_its_bytes(kind: str) -> None:
    before, after = around(kind)
    for places in some(CUTS, 100, kind):
        data = encoded(KINDS[kind]([before, *cut(PHRASE, places), after]))
        scanned, bare = streams(kind, "monitor", ONLY), streams(kind, "monitor", ONLY)._inner
        assert fed(scanned, data) + scanned.finish()[0] == b"".join(map(bare.feed, data))
        assert scanned.found == {"r": 1}


# Nothing to find ----------------------------------------------------------------------------------

# Beginnings of phrases and what is nearly one, but no phrase.
PIECE = st.sampled_from(
    [
        *"forbdenphasti x1y.,",
        "forbidden ",
        "phras",
        "for",
        "stop ",
        "x12",
        "\u200b",
        "é",
        "\n",
        "ok ",
    ]
)


@pytest.mark.parametrize("mode", ["block", "mask", "monitor"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300 if IS_TORTURE else 25, deadline=None)
@given(pieces=st.lists(PIECE, min_size=1, max_size=12), size=st.integers(1, 400))
def test_with_nothing_to_find_bytes_come_out_as_they_went_in(
    kind: str, mode: str, pieces: list[str], size: int
) -> None:
    if RULES.scan("".join(pieces)) or "illicit" in pieces:
        pieces = ["fine"]
    if "arguments" in kind:
        pieces = [orjson.dumps(piece)[1:-1].decode() for piece in pieces]
    data = scripted.bytewise(KINDS[kind](pieces), size)
    scanned, bare = streams(kind, mode, RULES), streams(kind, mode, RULES)._inner
    expected = b"".join(bare.feed(each) for each in data if not bare.ended)
    out = fed(scanned, data)
    closing, answer = scanned.finish()
    bare_closing, bare_answer = bare.finish()
    assert out + closing == expected + bare_closing
    assert answer.output == bare_answer.output
    assert not scanned.found


# What does not grow -------------------------------------------------------------------------------


def entry(token: str, **fields: Any) -> Json:
    return {"token": token, "logprob": -0.1, "bytes": None, "top_logprobs": [], **fields}


SAID = "That is fine."


def changed(change: Callable[[Json], None]) -> list[Any]:
    events = scripted.responses_stream(["That is ", "fine."])
    for event in events:
        change(event)
    return events


def says(type_: str, **fields: Any) -> Callable[[Json], None]:
    return lambda event: event.update(fields) if event["type"] == type_ else None


TEXT = "response.output_text"
ALONE: dict[str, Callable[[Json], None]] = {
    "a done event": says(f"{TEXT}.done", text=PHRASE),
    "a part": says(
        "response.content_part.done",
        part={"type": "output_text", "text": PHRASE, "annotations": []},
    ),
    "an item": says("response.output_item.done", item=scripted.message(PHRASE)),
    "an annotation": says(
        "response.output_item.done",
        item=scripted.message(
            SAID,
            content=[
                {
                    "type": "output_text",
                    "text": SAID,
                    "annotations": [{"type": "url_citation", "title": PHRASE}],
                }
            ],
        ),
    ),
    "tokens": says(
        f"{TEXT}.delta",
        logprobs=[entry("forbidden"), entry(" phr"), entry("ase"), entry(".")],
    ),
    "tokens of the end": says(f"{TEXT}.done", logprobs=[entry("forbidden"), entry(" phrase")]),
    "another token": says(f"{TEXT}.delta", logprobs=[entry("a", top_logprobs=[entry(PHRASE)])]),
    "a field nobody knows": says(f"{TEXT}.delta", note=[{"deep": PHRASE}]),
}


@pytest.mark.parametrize("mode", ["block", "mask"])
@pytest.mark.parametrize("name", ALONE)
def test_a_phrase_that_the_deltas_do_not_say_is_not_let_out(name: str, mode: str) -> None:
    scanned = streams("output_text", mode, ONLY)
    raw = fed(scanned, encoded(changed(ALONE[name])))
    closing, answer = scanned.finish()
    raw += closing + scanned.terminal(answer, items.final_response(BASE, answer, 1))
    assert b"forbidden" not in raw
    assert b"phrase" not in raw
    assert scanned.found
    if mode == "block":
        grammar.check(grammar.parse(raw, done=True))
        assert answer.incomplete_reason == "content_filter"


def test_a_snapshot_that_says_more_than_the_stream_is_looked_at() -> None:
    events = scripted.responses_stream([SAID], tool_usage={"note": PHRASE})
    shown, answer, _ = run("output_text", encoded(events))
    assert PHRASE not in str(shown)
    assert answer.incomplete_reason == "content_filter"


NAMES = {"service_tier": "default", "system_fingerprint": "fp_0123456789"}


@pytest.mark.parametrize(
    "fields",
    [
        {"citations": [PHRASE]},
        {"x": {"y": PHRASE}},
        {"service_tier": PHRASE},
        {"system_fingerprint": PHRASE},
        {"system_fingerprint": [{"x": PHRASE}]},
    ],
    ids=str,
)
@pytest.mark.parametrize("names", [{}, NAMES], ids=["without names", "with names"])
def test_whatever_else_a_chunk_says_is_looked_at(fields: Json, names: Json) -> None:
    chunks = scripted.chat_stream(["Fine. ", "More."])
    for each in chunks[:-1]:
        each |= names
    chunks[2] |= fields
    events, _, _ = run("content", encoded(chunks))
    assert said(events) == "Fine. "
    assert PHRASE not in str(events)
    events, _, _ = run("content", encoded(chunks), "mask")
    assert PHRASE not in str(events)
    if all(type(value) is str for value in fields.values()):
        assert said(events) == "Fine. More."
        assert events[2].items() >= dict.fromkeys(fields, "***").items()


def test_the_plain_names_in_a_chunk_are_no_texts() -> None:
    chunks = scripted.chat_stream(["Fine. ", "More. ", "And more."])
    _, _, bare = run("content", encoded(chunks))
    for each in chunks[:-1]:
        each |= NAMES
    events, _, scanned = run("content", encoded(chunks))
    assert all(event.items() >= NAMES.items() for event in events[:-1])
    assert (scanned.texts, scanned.bytes) == (bare.texts, bare.bytes)


# Disguised ----------------------------------------------------------------------------------------

WIDE = "".join(chr(ord(char) + 0xFEE0) if char != " " else char for char in PHRASE)
DISGUISES = [WIDE, "for\u200bbid\u200bden phrase", "f0rb1dd3n phr4s3", "f.o.r.b.i.d.d.e.n phrase"]


@pytest.mark.parametrize("phrase", DISGUISES)
def test_a_disguised_phrase_cut_anywhere_is_not_let_out(phrase: str) -> None:
    for place in range(1, len(phrase)):
        for kind in ("output_text", "content"):
            pieces = ["Fine: ", phrase[:place], phrase[place:], " and more."]
            assert said(run(kind, encoded(KINDS[kind](pieces)))[0]) == "Fine: "


@pytest.mark.parametrize("kind", ["arguments", "chat arguments"])
@pytest.mark.parametrize("mode", ["block", "mask"])
def test_a_phrase_escaped_in_arguments_is_not_let_out(kind: str, mode: str) -> None:
    phrase = r"\u0066orb\u0069dden\nphr\u0061se"
    before, after = around(kind)
    for place in range(1, len(phrase)):
        pieces = [before, phrase[:place], phrase[place:], after]
        events, _, _ = run(kind, encoded(KINDS[kind](pieces)), mode)
        assert said(events) == (before if mode == "block" else f"{before}***{after}"), place


# The end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_held_is_let_out_at_the_end(kind: str) -> None:
    before, _ = around(kind)
    events, answer, scanned = run(kind, encoded(KINDS[kind]([before, "forbidden ", "phras"])))
    assert said(events) == f"{before}forbidden phras"
    assert answer.status == "completed"
    assert not scanned.found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("held", ["forbidden", PHRASE])
def test_a_stream_that_is_ended_gives_what_is_clear_and_nothing_else(kind: str, held: str) -> None:
    before, _ = around(kind)
    stream = KINDS[kind]([before, *cut(held, [3, 6]), "…"])
    scanned = streams(kind, "block", ONLY)
    at = next(i for i, each in enumerate(stream) if "…" in str(each))
    out = fed(scanned, encoded(stream[:at]))
    closing, answer = scanned.abort("cancelled", None)
    events = grammar.parse(out + closing)
    assert said(events) == (before if held == PHRASE else before + held)
    if kind in RESPONSES:
        assert said_by(answer.output) == said(events)
    assert answer.status == "cancelled"


@pytest.mark.parametrize("mode", ["block", "mask"])
def test_what_is_held_for_4_kib_is_a_phrase(mode: str) -> None:
    events, answer, _ = run(
        "output_text",
        encoded(scripted.responses_stream(["Fine: forbidden", *[" " * 512] * 12])),
        mode,
    )
    assert said(events).startswith("Fine: ***" if mode == "mask" else "Fine: ")
    assert "forbidden" not in said(events)
    assert answer.status == ("completed" if mode == "mask" else "incomplete")


@pytest.mark.parametrize("mode", ["block", "mask", "monitor"])
@pytest.mark.parametrize("kind", ["output_text", "content"])
@pytest.mark.parametrize(
    "broken", ['{"type":"x","sequence_number":', "[1]", '{"a":"\\ud83d"}', "5"]
)
def test_an_event_that_cannot_be_read_ends_the_stream(kind: str, mode: str, broken: str) -> None:
    scanned = streams(kind, mode, ONLY)
    stream = encoded(KINDS[kind](["Fine ", "forbidden ", "phras"]))
    out = fed(scanned, [each for each in stream if PHRASE[:-1].encode() not in each][:6])
    name = "event: x\n" if kind == "output_text" else ""
    inner = scanned._inner
    out += scanned._screened(f"{name}data: {broken}\n\n".encode())
    with pytest.raises(UpstreamError):
        scanned.finish()
    closing, answer = scanned.abort("failed", {"code": "server_error", "message": "It broke."})
    assert inner is not None
    assert answer.status == "failed"
    raw = out + closing + scanned.terminal(answer, items.final_response(BASE, answer, 1))
    if kind == "output_text":
        events = grammar.parse(raw, done=True)
        grammar.check(events)
        assert said_by(answer.output) == said(events)
    else:
        grammar.check_chat(events := grammar.parse(raw))
    assert said(events).startswith("Fine forbidden")


# Any stream ---------------------------------------------------------------------------------------

FRAGMENT = st.sampled_from(
    [
        "forbidden",
        "phrase",
        " ",
        "for",
        "bidden",
        "ph",
        "rase",
        "s",
        "x1",
        "2y",
        "stop",
        "it",
        ".",
        "é",
    ]
)
TEXT_PIECES = st.lists(
    st.lists(FRAGMENT, min_size=1, max_size=4).map("".join), min_size=1, max_size=7
)
MANY = settings(max_examples=2000 if IS_TORTURE else 60, deadline=None)


@pytest.mark.parametrize("kind", ["output_text", "refusal", "input", "content"])
@MANY
@given(pieces=TEXT_PIECES)
def test_what_is_let_out_is_all_that_precedes_the_first_match(kind: str, pieces: list[str]) -> None:
    whole = "".join(pieces)
    matches = RULES.scan(whole)
    events, _, _ = run(kind, encoded(KINDS[kind](pieces)), "block", RULES)
    assert said(events) == (whole[: matches[0].start] if matches else whole)
    events, _, scanned = run(kind, encoded(KINDS[kind](pieces)), "mask", RULES)
    assert not RULES.scan(said(events))
    assert bool(scanned.found) == bool(matches)


@MANY
@given(
    said_in=st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(["content", "refusal"]), FRAGMENT), max_size=12
    )
)
def test_parts_and_choices_that_speak_in_turns_let_nothing_out(
    said_in: list[tuple[int, str, str]],
) -> None:
    role, *_ = scripted.chat_chunks([])

    def chunk(index: int, delta: Json, reason: str | None = None) -> Json:
        return {**role, "choices": [{"index": index, "delta": delta, "finish_reason": reason}]}

    chunks = [chunk(index, {"role": "assistant"}) for index in range(2)]
    chunks += [chunk(index, {name: text}) for index, name, text in said_in]
    chunks += [chunk(index, {}, "stop") for index in range(2)]
    events, _, _ = run("content", encoded([*chunks, scripted.DONE]))
    for part in {(index, name) for index, name, _ in said_in}:
        whole = "".join(text for *each, text in said_in if tuple(each) == part)
        shown = "".join(
            choice["delta"].get(part[1]) or ""
            for event in events
            for choice in event["choices"]
            if choice["index"] == part[0]
        )
        matches = ONLY.scan(whole)
        assert whole.startswith(shown)
        assert not matches or len(shown) <= matches[0].start


# Read by their bytes ------------------------------------------------------------------------------


def delta(text: str, number: int, **fields: Any) -> Json:
    event = {"type": f"{TEXT}.delta", "sequence_number": number, "item_id": "msg_1"}
    return {**event, "output_index": 0, "content_index": 0, "delta": text, "logprobs": [], **fields}


def padded(text: str, number: int) -> Json:
    return delta(text, number, obfuscation="a8Zq"[: number % 5])


def numbered_last(text: str, number: int) -> Json:
    event = delta(text, number)
    return {**event, "sequence_number": event.pop("sequence_number")}


def chunk(text: str, number: int) -> Json:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "choices": [choice]}


def padded_chunk(text: str, number: int) -> Json:
    return {**chunk(text, number), "usage": None, "obfuscation": "x" * (number % 7)}


def call(text: str, number: int) -> Json:
    return delta(text, number, type="response.function_call_arguments.delta")


WRITTEN: dict[str, Callable[[str, int], Json]] = {
    "deltas": delta,
    "padded deltas": padded,
    "deltas with their number last": numbered_last,
    "chunks": chunk,
    "padded chunks": padded_chunk,
    "arguments": call,
}
SAYS = st.sampled_from([
    *("forbidden", " phrase", "for", "bidden ", "stop ", "it", "x1", "2y", ". ", "fine ", ""),
    *('"', "\\", "\\u0066", "é", "\u200b", "\n", "\x7f", "}\n\n", "日本", "\U0001f600"),
])  # fmt: skip


def screened(
    name: str, mode: str, reads: Iterable[bytes], rules: Rules = ONLY
) -> tuple[bytes, Scanned, Answer]:
    scanned = streams("content" if "chunk" in name else "output_text", mode, rules)
    out = b"".join([scanned._screened(read) for read in reads])
    if not scanned.is_blocked:
        out += scanned._cleared()
    closing, answer = scanned._closed("incomplete", None)
    return out + closing, scanned, answer


@pytest.mark.parametrize("mode", ["block", "mask", "monitor"])
@pytest.mark.parametrize("name", WRITTEN)
@settings(max_examples=300 if IS_TORTURE else 40, deadline=None)
@given(
    texts=st.lists(SAYS, max_size=16),
    sizes=st.lists(st.integers(1, 6), min_size=16),
    rules=st.sampled_from([ONLY, RULES]),
)
def test_events_that_are_not_parsed_come_out_as_those_that_are(
    name: str, mode: str, texts: list[str], sizes: list[int], rules: Rules
) -> None:
    made = [WRITTEN[name](text, number) for number, text in enumerate(texts, 3)]
    events = [scripted.encode(event) for event in made]
    # With a comment in it every event is one of its own.
    apart, closely, expected = screened(name, mode, [b": \n" + each for each in events], rules)
    rest, reads = iter(events), []
    for size in sizes:
        reads.append(b"".join(itertools.islice(rest, size)))
    together, scanned, answer = screened(name, mode, reads, rules)
    assert together == apart
    assert scanned.found == closely.found
    if scanned.is_blocked:  # what shows that a phrase is complete may come long after it
        assert scanned.texts <= closely.texts
        assert scanned.bytes <= closely.bytes
    else:
        assert (scanned.texts, scanned.bytes) == (closely.texts, closely.bytes)
    assert (answer.output, answer.text_bytes) == (expected.output, expected.text_bytes)


@pytest.mark.parametrize("name", ["deltas", "padded deltas", "chunks", "arguments"])
@pytest.mark.parametrize("phrase", [["forbidden phrase"], ["forbidden", " ", "phrase"]])
@pytest.mark.parametrize("end", [".", " é", "\n"])
def test_what_comes_in_one_read_with_a_match_but_after_it_does_not_count(
    name: str, phrase: list[str], end: str
) -> None:
    looked_at = ["Fine: ", "I am ", "a ", *phrase, end]
    texts = [*looked_at, *["More. ", "Même plus. "] * 5]
    events = [scripted.encode(WRITTEN[name](text, n)) for n, text in enumerate(texts)]
    for cuts in ([1], [2], [4], [5], [1, 3, 5], range(1, len(events))):
        reads = map(b"".join, (events[a:b] for a, b in itertools.pairwise([0, *cuts, None])))
        _, scanned, _ = screened(name, "block", reads)
        assert scanned.is_blocked
        assert (scanned.texts, scanned.bytes) == (
            len(looked_at),
            len("".join(looked_at).encode()),
        )


ODD = {
    "another field": b'"delta": "fine", "note": "forbidden phrase", "logprobs": []',
    "the same field again": b'"delta": "fine", "delta": "forbidden phrase", "logprobs": []',
    "an escaped name": b'"delta": "fine", "d\\u0065lta": "forbidden phrase", "logprobs": []',
    "escapes": b'"delta": "forb\\u0069dden phr\\u0061se", "logprobs": []',
    "tokens": b'"delta": "fine", "logprobs": [{"token": "forbidden phrase", "logprob": 0}]',
    "another number": b'"delta": "forbidden phrase", "logprobs": [], "sequence_number": 9',
}


@pytest.mark.parametrize("is_alone", [True, False])
@pytest.mark.parametrize("name", ODD)
def test_an_event_that_is_nearly_like_the_ones_before_is_parsed(name: str, is_alone: bool) -> None:
    usual = [scripted.encode(delta("fine. ", number)) for number in range(5)]
    odd = scripted.encode(delta("fine", 5)).replace(b'"delta": "fine", "logprobs": []', ODD[name])
    assert odd != scripted.encode(delta("fine", 5))
    reads = [*usual, odd] if is_alone else [usual[0], b"".join([*usual[1:], odd])]
    out, scanned, _ = screened("deltas", "block", reads)
    assert scanned.is_blocked
    assert b"phrase" not in out
    assert b"phr\\u0061se" not in out
    assert out.startswith(b"".join(usual))


@pytest.mark.parametrize(
    "broken", [b'"fine", "logprobs": []', b'"fine\xff"', b'"fi\x01ne"', b'"fine\\"', b'"fi"ne"']
)
def test_a_delta_that_cannot_be_read_is_not_let_out(broken: bytes) -> None:
    usual = [scripted.encode(delta("fine. ", number)) for number in range(5)]
    raw = scripted.encode(delta("fine", 5)).replace(b'"fine"', broken)
    raw = raw.replace(b', "logprobs": [], "logprobs": []}', b', "logprobs": []')
    for reads in ([*usual, raw], [usual[0], b"".join([*usual[1:], raw])]):
        scanned = streams("output_text", "block", ONLY)
        assert b"".join(map(scanned._screened, reads)) == b"".join(usual)
        with pytest.raises(UpstreamError):
            scanned.finish()


def test_deltas_of_a_part_that_goes_on_after_others_are_told_apart() -> None:
    texts = ["One ", "two ", "three ", "four "]
    events = [
        delta(text, n, item_id=f"m{n % 2}", output_index=n % 2) for n, text in enumerate(texts)
    ]
    out, _, answer = screened("deltas", "block", [scripted.encode(event) for event in events])
    assert out.startswith(b"".join(map(scripted.encode, events)))
    assert said_by(answer.output) == "One three two four "


def test_a_chat_without_a_chunk_of_its_own_for_the_role_is_closed_like_any_other() -> None:
    chunks = [scripted.encode(chunk(text, 0)) for text in ["Fine: ", "forbidden ", "phrase."]]
    out, scanned, _ = screened("chunks", "block", chunks)
    assert scanned.is_blocked
    last = grammar.parse(out)[-1]
    assert (last["id"], last["created"]) == ("c", 1)
    assert last["choices"][0]["finish_reason"] == "content_filter"
