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
from anos.chat_stream import ChunkWriter
from anos.dialect_responses import Reader
from anos.errors import UpstreamError
from anos.events import EventWriter
from anos.items import Answer
from anos.passthrough import ResponsesPassthrough
from anos.scanner import Scanned
from anos.scanner_chat import ChatChunks
from anos.scanner_parts import masked
from anos.scanner_responses import ResponsesEvents
from anos.translated import Translated
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
    return Scanned(
        ChatPassthrough(wants_usage=True), ChatChunks(wants_usage=True, choices=2), rules, mode
    )


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


def delta_event(text: str) -> Json:
    """A delta of the text of a canned answer."""
    (event,) = (each for each in scripted.responses_stream([text]) if "delta" in each)
    return event


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


def test_a_word_that_is_stuck_to_a_match_does_not_stay_alone() -> None:
    rules = Rules([Phrase("casino", "word")], [Pattern("[0-9]{13,19}", "card")])
    digits = "4111111111111111111"
    for pieces in (["the ", "casino", *digits, " now"], ["the casino" + digits + " now"]):
        for mode, shown in (("block", ""), ("mask", "the ")):
            events, answer, scanned = run(
                "output_text", encoded(scripted.responses_stream(pieces)), mode, rules
            )
            assert "casino" not in said(events)
            assert said(events).startswith(shown)
            assert said_by(answer.output) == said(events)
            assert scanned.found["card"] == 1
    covered, found = masked(rules, f"the casino{digits} now")
    assert (covered, len(found)) == ("the ****** now", 2)


@pytest.mark.parametrize(
    "event",
    [
        delta_event("x " * 600_000),
        {"type": "response.foo", "sequence_number": 5, "note": "x " * 600_000},
        {"type": "response.foo", "sequence_number": 5, "note": [{"a": "b"}] * 60_000},
        delta_event(f"{PHRASE}. " * 1_001),
    ],
    ids=["a text", "a text beside", "strings", "matches"],
)
def test_an_event_that_takes_too_long_to_look_at_ends_the_stream(event: Json) -> None:
    events = scripted.responses_stream(["Fine. ", "More."])
    scanned = streams("output_text", "mask", ONLY)
    out = fed(scanned, encoded(scripted.renumbered([*events[:5], event, *events[5:]])))
    closing, answer = scanned.finish()
    assert (scanned.error, answer.incomplete_reason) == ("failed", "content_filter")
    assert len(out + closing) < 10_000
    assert b"Fine. " in out


@pytest.mark.parametrize("mode", ["block", "mask"])
@pytest.mark.parametrize("value", [4111111111111111, True, 0.5, {"a": 1}], ids=repr)
@pytest.mark.parametrize("name", ["content", "refusal"])
def test_a_number_in_the_place_of_a_text_ends_the_stream(name: str, value: Any, mode: str) -> None:
    chunks = [plain_chunk({"content": "Fine. "}), plain_chunk({name: value})]
    scanned = streams("content", mode, ONLY)
    inner = scanned._inner
    out = fed(scanned, encoded([*chunks, scripted.DONE]))
    with pytest.raises(UpstreamError):
        scanned.finish()
    assert inner is not None
    assert b"4111" not in out


def test_parts_that_come_whole_are_looked_at_together() -> None:
    said_so = [scripted.message("It is forbidden "), scripted.message("phrase.", id="msg_2")]
    events = scripted.responses_events(said_so)
    kept = [each for each in events if each["type"] in ("response.created", "response.completed")]
    _, answer, scanned = run("output_text", encoded(scripted.renumbered(kept)))
    assert scanned.is_blocked
    assert PHRASE not in said_by(answer.output)


PICTURE = "iVBORw0KGgo" + "A" * 1_500_000


def drawing(picture: str) -> list[bytes]:
    """A stream that says something, and draws a picture, of which a part comes before."""
    item = {"id": "ig_1", "type": "image_generation_call", "status": "completed", "result": PICTURE}
    events = scripted.responses_events([scripted.message("Fine. "), item])
    image = {"type": "response.image_generation_call.partial_image", "item_id": "ig_1"}
    image |= {"output_index": 1, "partial_image_index": 0, "partial_image_b64": picture}
    return encoded(scripted.renumbered([*events[:-2], image, *events[-2:]]))


def test_a_large_picture_that_comes_in_a_stream_is_no_text() -> None:
    scanned, bare = (
        streams("output_text", "block", ONLY),
        streams("output_text", "off", ONLY)._inner,
    )
    out = fed(scanned, drawing(PICTURE))
    assert (scanned.error, scanned.is_blocked) == ("", False)
    assert out == b"".join(map(bare.feed, drawing(PICTURE)))
    scanned = streams("output_text", "block", ONLY)
    assert PHRASE.encode() not in fed(scanned, drawing(PHRASE))
    assert scanned.is_blocked
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}
    assert PICTURE.encode() in shown_of(encoded([plain_chunk({"images": [url]}), scripted.DONE]))


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


@pytest.mark.parametrize("mode", ["block", "mask", "monitor"])
@pytest.mark.parametrize("said", ["Here. ", "Früher. ", f"Here: {PHRASE}."])
def test_texts_that_are_looked_at_together_count_each(said: str, mode: str) -> None:
    texts = {"one": "first", "two": said, "three": "last", "four": "first"}
    events = KINDS["output_text"](["Fine. "])
    _, _, bare = run("output_text", encoded(events), mode)
    events[-1]["response"] |= texts
    _, answer, scanned = run("output_text", encoded(events), mode)
    is_found = PHRASE in said
    assert scanned.found == ({"r": 1} if is_found else {})
    assert scanned.is_blocked == (is_found and mode == "block")
    assert (PHRASE in str(answer.extra)) == (is_found and mode == "monitor")
    if not scanned.is_blocked:
        looked_at = {*texts, *texts.values()}
        assert scanned.texts == bare.texts + len(looked_at)
        assert scanned.bytes == bare.bytes + sum(len(each.encode()) for each in looked_at)


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
        {"obfuscation": PHRASE},
        {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "x": [PHRASE]}},
        {"usage": {"prompt_tokens": 1, "completion_tokens": 1, PHRASE: 1}},
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


@pytest.mark.parametrize("key", ["id", "object", "created", "model"])
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("mode", ["block", "mask"])
def test_what_every_chunk_repeats_is_looked_at_where_it_changes(
    key: str, at: int, mode: str
) -> None:
    chunks = scripted.chat_stream(["Fine. ", "More. ", "And more. ", "And yet more."])
    for each in chunks[at:-1]:
        each[key] = PHRASE
    scanned = streams("content", mode, RULES)
    shown = fed(scanned, encoded(chunks)) + scanned.finish()[0]
    assert PHRASE.encode() not in shown
    assert (b"Fine. " in shown) == (at > 0 or mode == "mask")
    assert (b"And yet more." in shown) == (mode == "mask")


@pytest.mark.parametrize(
    "fields",
    [
        {"finish_reason": PHRASE},
        {"delta": {"content": "More.", "role": PHRASE}},
        {"delta": {"tool_calls": [{"index": 0, "id": PHRASE, "type": "function"}]}},
        {"delta": {"tool_calls": [{"index": 0, "id": "call_1", "type": PHRASE}]}},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["block", "mask"])
def test_whatever_else_a_choice_says_is_looked_at(fields: Json, mode: str) -> None:
    chunks = scripted.chat_stream(["Fine. ", "More."])
    chunks[2]["choices"][0] |= fields
    scanned = streams("content", mode, RULES)
    shown = fed(scanned, encoded(chunks)) + scanned.finish()[0]
    assert b"Fine. " in shown
    assert PHRASE.encode() not in shown
    assert scanned.is_blocked == (mode == "block")


@pytest.mark.parametrize("key", ["obfuscation", "item_id"])
def test_what_pads_or_names_an_event_is_looked_at_if_it_is_more(key: str) -> None:
    events = KINDS["output_text"](["Fine. ", "More."])
    delta = next(each for each in events if each.get("delta") == "More.")
    delta[key] = PHRASE
    shown, _, _ = run("output_text", encoded(events))
    assert said(shown).startswith("Fine. ")
    assert PHRASE not in str(shown)


@pytest.mark.parametrize("name", ["response.created", "response.in_progress"])
def test_an_opening_event_that_is_not_the_gateways_own_does_not_pass(name: str) -> None:
    events = KINDS["output_text"](["Fine. ", "More."])
    event = {"type": name, "output_index": 0, "note": PHRASE}
    shown, answer, _ = run(
        "output_text", encoded(scripted.renumbered([*events[:5], event, *events[5:]]))
    )
    assert PHRASE not in str(shown)
    assert [each["type"] for each in shown].count(name) == 1
    assert answer.output[0]["content"][0]["text"] == "Fine. More."


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
    thinking = {"type": "response.reasoning_summary_text.delta", "summary_index": 0}
    events = [
        delta(text, n, item_id=f"rs_{n % 2}", output_index=n % 2, **thinking)
        for n, text in enumerate(texts)
    ]
    out, _, answer = screened("deltas", "block", [scripted.encode(event) for event in events])
    assert out.startswith(b"".join(map(scripted.encode, events)))
    assert said_by(answer.output) == "One three two four "


@pytest.mark.parametrize("mode", ["block", "mask"])
@pytest.mark.parametrize("place", ["output_index", "content_index"])
def test_a_text_that_goes_on_before_another_which_clients_put_behind_it_does_not_pass(
    place: str, mode: str
) -> None:
    texts = [("Fine: ", 0), ("phrase", 1), ("forbidden ", 0)]
    events = [delta(text, n, **{place: at}) for n, (text, at) in enumerate(texts)]
    out, scanned, answer = screened("deltas", mode, [scripted.encode(event) for event in events])
    assert b"forbidden" not in out
    assert scanned.is_blocked
    assert "forbidden" not in said_by(answer.output)


def test_a_text_that_goes_on_before_another_is_only_noted_where_nothing_is_to_be_blocked() -> None:
    events = [delta(text, n, output_index=n % 2) for n, text in enumerate(["a", "b", "c"])]
    out, scanned, _ = screened("deltas", "monitor", [scripted.encode(event) for event in events])
    assert out.startswith(b"".join(map(scripted.encode, events)))
    assert not scanned.error


def test_a_chat_without_a_chunk_of_its_own_for_the_role_is_closed_like_any_other() -> None:
    chunks = [scripted.encode(chunk(text, 0)) for text in ["Fine: ", "forbidden ", "phrase."]]
    out, scanned, _ = screened("chunks", "block", chunks)
    assert scanned.is_blocked
    last = grammar.parse(out)[-1]
    assert (last["id"], last["created"]) == ("c", 1)
    assert last["choices"][0]["finish_reason"] == "content_filter"


# What an upstream hides ---------------------------------------------------------------------------


def plain_chunk(delta: Json, reason: str | None = None, index: Any = 0, **fields: Any) -> Json:
    (made,) = scripted.chat_chunks([delta])[1:2]
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason, **fields}
    return {**made, "choices": [choice]}


def shown_of(data: Iterable[bytes], mode: str = "block", rules: Rules = ONLY) -> bytes:
    scanned = streams("content", mode, rules)
    out = fed(scanned, data)
    return out + scanned.finish()[0]


@pytest.mark.parametrize("places", [[3], [9], [10], [3, 12]])
@pytest.mark.parametrize("reasons", [["stop"] * 9, ["stop"] + [None] * 8], ids=["all", "first"])
def test_a_choice_that_goes_on_after_its_finish_reason_is_looked_at(
    places: list[int], reasons: list[str | None]
) -> None:
    texts = ["Fine: ", *cut(PHRASE, places), "."]
    chunks = [
        plain_chunk({"content": text}, reason) for text, reason in zip(texts, reasons, strict=False)
    ]
    raw = shown_of(encoded([*chunks, scripted.DONE]))
    assert said(grammar.parse(raw, done=False)) == "Fine: "


def test_a_choice_that_has_finished_is_not_waited_for() -> None:
    chunks = [
        plain_chunk({"content": "Fine, but forbidden "}, "stop"),
        *[plain_chunk({"content": "I am the other. "}, index=1)] * 20,
    ]
    scanned = streams("content", "block", ONLY)
    out = fed(scanned, encoded(chunks))
    assert b"but forbidden " in out
    assert out.count(b"I am the other.") == 20


ORDER = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"ok"},"finish_reason":null}]}\n'
OTHER = ORDER.replace(b'"ok"', b'"forbidden phrase"')
HIDDEN = {
    "a comment": b"event: x\n%b: %b\n" % (OTHER.replace(b"data: ", b"data:"), ORDER),
    "an id": b"event: x\n%bid: %b\n" % (OTHER.replace(b"data: ", b"data:"), ORDER),
    "before a comment": b": %b\n%b\n" % (ORDER, OTHER.replace(b"data: ", b"data:")),
    "a name": b"event: forbidden phrase\n" + ORDER + b"\n",
    "a comment alone": b": forbidden phrase\n" + ORDER + b"\n",
    "an id alone": b"id: forbidden phrase\n" + ORDER + b"\n",
    "a field again": ORDER.replace(b'"ok"', b'"forbidden phrase","content":"ok"') + b"\n",
    "choices again": b'data: {"choices":[{"index":0,"delta":{"content":"forbidden phrase"}}],'
    + ORDER[7:]
    + b"\n",
    "an escaped name again": ORDER.replace(b'"ok"', b'"forbidden phrase","c\\u006fntent":"ok"')
    + b"\n",
}


@pytest.mark.parametrize("mode", ["block", "mask", "monitor"])
@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("count", [1, 3])
def test_a_client_reads_what_was_looked_at(name: str, mode: str, count: int) -> None:
    usual = [plain_chunk({"content": "Fine. "})] * count
    raw = b"".join([*encoded(usual), HIDDEN[name]])
    scanned = streams("content", mode, ONLY)
    out = scanned._screened(raw)
    assert out.startswith(b"".join(encoded(usual)))
    assert all(line.startswith(b"data: {") for line in out.split(b"\n\n")[:-1])
    scanned._cleared()
    is_shown = mode == "monitor" and bool(scanned.found)
    assert (b"forbidden phrase" in out) == is_shown


def test_a_field_that_is_there_twice_is_shown_as_it_was_read() -> None:
    events = [scripted.encode(delta("fine. ", number)) for number in range(3)]
    twice = events[1].replace(b'"delta": "fine. "', b'"delta": "forbidden", "delta": "fine. "')
    out, _, _ = screened("deltas", "block", [events[0], twice, events[2]])
    assert b"forbidden" not in out
    assert said(grammar.parse(out)[:3]) == "fine. fine. fine. "


ODD_LOGPROBS: list[Any] = [
    {"content": [{"logprob": 0}]},
    {"content": [{"token": None}]},
    {"content": [{"token": 3}]},
    {"content": "abc"},
    {"content": {"a": 1}},
    {"content": [{"token": "x", "top_logprobs": ["a"]}]},
    {"content": [{"token": "x", "top_logprobs": [{"token": 3}]}]},
    {"content": [{"token": "x", "top_logprobs": 3}]},
    {"version": "1"},
    {"tokens": ["Fi", "ne"], "token_logprobs": [-0.1, None], "text_offset": [0, 2]},
    [1],
    "abc",
]


@pytest.mark.parametrize("logprobs", ODD_LOGPROBS, ids=str)
def test_odd_logprobs_pass(logprobs: Any) -> None:
    *chunks, done = encoded(
        [*[plain_chunk({"content": "Fine. "}, logprobs=logprobs)] * 2, scripted.DONE]
    )
    assert shown_of([*chunks, done]).startswith(b"".join(chunks))


@pytest.mark.parametrize(
    "logprobs",
    [
        {"content": [entry("ok", note=PHRASE)]},
        {"content": [entry("ok", **{PHRASE: 1})]},
        {"content": [entry("ok", top_logprobs=[entry("ok", note=PHRASE)])]},
        {"content": [entry("ok", bytes=[PHRASE])]},
        {"content": [{"token": [PHRASE]}]},
        {"content": PHRASE},
        {"tokens": ["forb", "idden ph", "rase"]},
        {PHRASE: []},
        [PHRASE],
        PHRASE,
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["block", "mask"])
def test_whatever_else_logprobs_say_is_looked_at(logprobs: Any, mode: str) -> None:
    chunk = plain_chunk({"content": "Fine. "}, logprobs=logprobs)
    raw = shown_of(encoded([chunk, scripted.DONE]), mode)
    assert b"phrase" not in raw
    assert b"rase" not in raw


@pytest.mark.parametrize(
    "index", [[1], {"a": 1}, "0", 0.0, False, "", None], ids=lambda index: repr(index)
)
def test_a_choice_with_an_odd_number_is_looked_at(index: Any) -> None:
    texts = [("Fine: forbidden ", 0), ("phrase. ", index)]
    chunks = [plain_chunk({"content": text}, index=at) for text, at in texts]
    whole = [plain_chunk({"content": PHRASE}, index=index)]
    assert b"phrase" not in shown_of(encoded([*chunks, scripted.DONE]))
    assert (
        b"phrase" not in shown_of(encoded([*chunks, *whole, scripted.DONE])).partition(b"Fine")[0]
    )
    assert b"content_filter" in shown_of(encoded([chunks[0], *whole, scripted.DONE]))


@pytest.mark.parametrize("mode", ["block", "mask"])
@pytest.mark.parametrize("index", [2, -1, 0.5, "2", "one", PHRASE], ids=repr)
def test_a_choice_that_nobody_asked_for_ends_the_stream(index: Any, mode: str) -> None:
    chunks = [
        plain_chunk({"content": "Fine: for"}),
        plain_chunk({"content": "bidden"}, index=index),
    ]
    scanned = streams("content", mode, RULES)
    out = fed(scanned, encoded([*chunks, scripted.DONE]))
    with pytest.raises(UpstreamError):
        scanned.finish()
    assert b"bidden" not in out


@pytest.mark.parametrize("mode", ["block", "mask"])
def test_a_text_beside_the_delta_that_grows_is_looked_at_as_one(mode: str) -> None:
    chunks = [{**plain_chunk({}), "id": "c"} for _ in range(3)]
    for chunk, text in zip(chunks, ["Fine: ", "forbidden ", "phrase."], strict=True):
        chunk["choices"][0]["text"] = text
    raw = shown_of(encoded([*chunks, scripted.DONE]), mode)
    assert b"Fine: " in raw
    assert b"phrase" not in raw
    assert b"forbidden" not in raw


def test_a_text_in_a_field_of_an_event_that_grows_is_looked_at_as_one() -> None:
    events = scripted.responses_stream(["Fine. "])
    notes = [{"type": "response.foo", "note": text} for text in ("forbidden ", "phrase")]
    shown, answer, _ = run(
        "output_text", encoded(scripted.renumbered([*events[:5], *notes, *events[5:]]))
    )
    assert "phrase" not in str(shown)
    assert answer.incomplete_reason == "content_filter"


WORD = Rules([Phrase("zorkmid", "r")])


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "zorkmid"},
        {"id": "zorkmid"},
        {"object": "zorkmid"},
        {"system_fingerprint": "zorkmid"},
        {"usage": {"zorkmid": 1}},
        {"zorkmid": 1},
        {"choices": [{"index": 0, "delta": {"content": "ok"}, "finish_reason": "zorkmid"}]},
        {"choices": [{"index": 0, "delta": {"content": "ok"}, "zorkmid": None}]},
        {"choices": [{"index": 0, "delta": {"content": "ok", "zorkmid": 1}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "type": "zorkmid"}]}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "zorkmid": {}}]}}]},
        {"choices": [{"index": 0, "delta": {"annotations": [{"title": "zorkmid"}]}}]},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["block", "mask"])
def test_a_word_in_any_place_of_a_chunk_is_looked_at(fields: Json, mode: str) -> None:
    first = {**plain_chunk({"content": "Fine. "}), "system_fingerprint": "fp_1"}
    chunks = [first, {**first, **fields}, plain_chunk({"annotations": [{"title": "bury"}]})]
    raw = shown_of(encoded([*chunks, scripted.DONE]), mode, WORD)
    assert b"Fine. " in raw
    assert b"zorkmid" not in raw


NOT_SAID: dict[str, Callable[[Json], None]] = {
    "the type of an event": says(f"{TEXT}.annotation.added", type="zorkmid"),
    "the name of a field": says(f"{TEXT}.delta", zorkmid=1),
    "a number": says(f"{TEXT}.delta", annotation_index="zorkmid"),
    "another number": says(f"{TEXT}.delta", command_index="zorkmid"),
    "padding": says(f"{TEXT}.delta", obfuscation="zorkmid-"),
    "a field of a token": says(f"{TEXT}.delta", logprobs=[entry("fine", note="zorkmid")]),
    "a field of an alternative": says(
        f"{TEXT}.delta", logprobs=[entry("fine", top_logprobs=[entry("fine", note="zorkmid")])]
    ),
    "the name of a field of a part": says(
        "response.content_part.done", part={"type": "output_text", "text": SAID, "zorkmid": 1}
    ),
    "what looks like a token": says(
        "response.output_item.done",
        item=scripted.message(SAID, x={"token": "zorkmid", "logprob": 0}),
    ),
    "a field of a token of an item": says(
        "response.output_item.done",
        item=scripted.message(
            SAID,
            content=[
                {"type": "output_text", "text": SAID, "logprobs": [entry(SAID, note="zorkmid")]}
            ],
        ),
    ),
}


@pytest.mark.parametrize("mode", ["block", "mask"])
@pytest.mark.parametrize("name", NOT_SAID)
def test_a_word_in_any_place_of_an_event_is_looked_at(name: str, mode: str) -> None:
    annotation = {"type": "response.output_text.annotation.added", "annotation": {}}
    scanned = streams("output_text", mode, WORD)
    events = scripted.responses_stream(["That is ", "fine."])
    events.insert(5, annotation)
    for event in events:
        if event.get("delta") != "That is ":
            NOT_SAID[name](event)
    raw = b"".join(scanned._screened(scripted.encode(event)) for event in events[:-1])
    assert b"That is " in raw
    assert b"zorkmid" not in raw.lower()


def test_the_name_of_a_field_of_the_last_event_is_looked_at() -> None:
    events = scripted.responses_stream([SAID], zorkmid=1)
    shown, answer, _ = run("output_text", encoded(events), rules=WORD)
    assert "zorkmid" not in str(shown)
    assert answer.incomplete_reason == "content_filter"


def test_a_cut_leaves_no_part_of_a_word_of_another_choice() -> None:
    rules = Rules([Phrase("casino", "c"), Phrase(PHRASE, "r")])
    texts = [(1, "Fine: "), (0, "forbidden "), (1, "casi"), (1, "no"), (1, "x. "), (0, "phrase.")]
    chunks = [plain_chunk({"content": text}, index=index) for index, text in texts]
    raw = shown_of(encoded([*chunks, scripted.DONE]), rules=rules)
    assert b"casi" not in raw


@pytest.mark.parametrize("kind", ["output_text", "content"])
def test_what_is_held_when_the_client_has_left_was_not_said(kind: str) -> None:
    stream = KINDS[kind](["Fine: ", "forbidden ", "…"])
    at = next(i for i, each in enumerate(stream) if "…" in str(each))
    scanned = streams(kind, "block", ONLY)
    out = fed(scanned, encoded(stream[:at]))
    scanned.drop()
    closing, answer = scanned.abort("cancelled", None)
    assert said(grammar.parse(out + closing)) == "Fine: "
    assert answer.status == "cancelled"
    if kind == "output_text":
        assert said_by(answer.output) == "Fine: "


# Translated ---------------------------------------------------------------------------------------


def translated(mode: str) -> Scanned:
    writer = EventWriter(BASE, 0)
    chunks = ChunkWriter(id="chatcmpl_1", model="m", created=1, include_usage=False)
    inner = Translated(Reader(writer, shows_encrypted=False), chunks, writer)
    return Scanned(inner, ChatChunks(wants_usage=False, choices=2), ONLY, mode)


JOINED: dict[str, Callable[[str, str], list[Json]]] = {
    "parts": lambda a, b: [scripted.message(a, b)],
    "items": lambda a, b: [scripted.message(a), scripted.message(b, id="msg_2")],
    "items around another": lambda a, b: [
        scripted.message(a),
        scripted.reasoning("Hm."),
        scripted.message(b, id="msg_2"),
    ],
}


@pytest.mark.parametrize("mode", ["block", "mask"])
@pytest.mark.parametrize("name", JOINED)
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (f"Fine: {PHRASE}", "More."),
        ("Fine", f"{PHRASE} and more."),
        *[(f"Fine: {PHRASE[:at]}", f"{PHRASE[at:]}.") for at in (3, 9, 10, 13)],
    ],
)
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_phrase_at_the_edge_of_a_part_does_not_reach_a_chat_client(
    name: str, mode: str, first: str, second: str, pieces: int
) -> None:
    scanned = translated(mode)
    data = encoded(scripted.responses_events(JOINED[name](first, second), pieces=pieces))
    out = fed(scanned, data)
    closing, answer = scanned.finish()
    raw = out + closing + scanned.terminal(answer, items.final_response(BASE, answer, 1))
    shown = "".join(
        choice["delta"].get("content") or ""
        for event in grammar.parse(raw)
        for choice in event["choices"]
    )
    assert "forb" not in shown or "rase" not in shown
    assert "phrase" not in shown
    assert shown.startswith("Fine")
    if mode == "block":
        assert answer.incomplete_reason == "content_filter"


# Where looking fails ------------------------------------------------------------------------------

# More than waits: what is said last may become a phrase, and what follows is large.
HEAVY: list[Any] = [
    plain_chunk({"content": "Fine: "}),
    plain_chunk({"content": "forbidden "}),
    *[{**plain_chunk({}), "note": f"{n} " + "x" * 50_000} for n in range(30)],
    plain_chunk({"content": "end."}),
    plain_chunk({}, "stop"),
    scripted.DONE,
]


@pytest.mark.parametrize("size", [None, 1 << 22], ids=["one by one", "at once"])
def test_a_stream_that_cannot_be_looked_at_ends_as_at_a_match(size: int | None) -> None:
    data = encoded(HEAVY)
    scanned = streams("content", "block", ONLY)
    out = fed(scanned, data if size is None else [b"".join(data)])
    closing, answer = scanned.finish()
    raw = out + closing + scanned.terminal(answer, {})
    assert (scanned.error, scanned.is_blocked) == ("failed", True)
    assert said(grammar.parse(raw)) == "Fine: "
    assert answer.incomplete_reason == "content_filter"


@pytest.mark.parametrize("mode", ["block", "mask"])
@pytest.mark.parametrize("size", [None, 1 << 22], ids=["one by one", "at once"])
def test_a_stream_that_cannot_be_looked_at_passes_if_it_is_to(size: int | None, mode: str) -> None:
    data = encoded(HEAVY)
    scanned = Scanned(
        ChatPassthrough(wants_usage=True),
        ChatChunks(wants_usage=True, choices=2),
        ONLY,
        mode,
        "pass",
    )
    out = fed(scanned, data if size is None else [b"".join(data)])
    closing, answer = scanned.finish()
    assert (scanned.error, scanned.is_blocked) == ("failed", False)
    assert out + closing == b"".join(data[:-1])
    assert answer.status == "completed"
