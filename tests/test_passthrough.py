"""A Responses stream for a Responses client: bytes as they came while they conform, else repaired.

Whatever the upstream does, the client gets a correct stream, and what is stored is what was shown.
"""

import json
from collections.abc import Callable, Iterable
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from anos import items
from anos.errors import UpstreamError
from anos.events import EventWriter
from anos.items import Answer
from anos.passthrough import ResponsesPassthrough
from tests import grammar, scripted
from tests.scripted import Json

NOW_MS = 1_700_000_000_000
FAILED = {"code": "server_error", "message": "The upstream broke off its answer."}
# How OpenAI orders the fields of its events; what is not named comes after them.
FIRST = ("type", "sequence_number", "item_id", "output_index", "content_index", "summary_index")
CITATION = {
    "type": "url_citation",
    "url": "https://a.b",
    "title": "t",
    "start_index": 0,
    "end_index": 1,
}
TOKEN = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}


def compact(event: Json) -> bytes:
    """An event as OpenAI writes it."""
    ordered = {name: event[name] for name in FIRST if name in event} | event
    data = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False)
    return f"event: {event['type']}\ndata: {data}\n\n".encode()


def number_last(event: Json) -> bytes:
    """As pydantic writes it: in alphabetical order, or nearly."""
    data = json.dumps(dict(sorted(event.items())), separators=(",", ":"))
    return f"event: {event['type']}\ndata: {data}\n\n".encode()


def crlf(event: Json) -> bytes:
    return compact(event).replace(b"\n", b"\r\n")


def commented(event: Json) -> bytes:
    return b": ping\n\n" + compact(event) + b":\n\n"


def with_id(event: Json) -> bytes:
    """With fields of the transport that no client of this API needs."""
    return b"id: 7\nretry: 10\n: so\n" + compact(event)


def unnamed(event: Json) -> bytes:
    return b"data: " + compact(event).partition(b"data: ")[2]


def pretty(event: Json) -> bytes:
    lines = json.dumps(event, indent=1).split("\n")
    return b"".join(
        [f"event: {event['type']}\n".encode(), *(f"data: {x}\n".encode() for x in lines), b"\n"]
    )


WRITTEN: dict[str, Callable[[Json], bytes]] = {
    "as OpenAI does": compact,
    "with spaces": scripted.encode,
    "number last": number_last,
    "CRLF": crlf,
    "with comments": commented,
    "with ids": with_id,
    "without names": unnamed,
    "pretty": pretty,
}


# Answers -----------------------------------------------------------------------------------------


def hosted(events: list[Json]) -> list[Json]:
    """With a web search, a code interpreter and an MCP call before everything else."""
    search = {
        "id": "ws_1",
        "type": "web_search_call",
        "status": "completed",
        "action": {"type": "search", "query": "q"},
    }
    code = {
        "id": "ci_1",
        "type": "code_interpreter_call",
        "status": "completed",
        "code": "1+1",
        "container_id": "c",
        "outputs": None,
    }
    mcp = {
        "id": "mcp_1",
        "type": "mcp_call",
        "status": "completed",
        "name": "ask",
        "server_label": "s",
        "arguments": '{"a":1}',
        "output": "2",
        "error": None,
        "approval_request_id": None,
    }
    stem = "response.web_search_call"
    at: list[Json] = []
    for index, (item, empty, between) in enumerate((
        (search, {}, [f"{stem}.in_progress", f"{stem}.searching", f"{stem}.completed"]),
        (code, {"code": ""}, ["response.code_interpreter_call.in_progress"]),
        (mcp, {"arguments": ""}, ["response.mcp_call.in_progress"]),
    )):  # fmt: skip
        here = {"output_index": index, "item_id": item["id"]}
        at.append(
            {
                "type": "response.output_item.added",
                "output_index": index,
                "item": item | empty | {"status": "in_progress"},
            }
        )
        at += [{"type": type_, **here} for type_ in between]
        if item is code:
            at += [
                {"type": "response.code_interpreter_call_code.delta", **here, "delta": "1+"},
                {"type": "response.code_interpreter_call_code.delta", **here, "delta": "1"},
                {"type": "response.code_interpreter_call_code.done", **here, "code": "1+1"},
            ]
        if item is mcp:
            at += [
                {"type": "response.mcp_call_arguments.delta", **here, "delta": '{"a":'},
                {"type": "response.mcp_call_arguments.delta", **here, "delta": "1}"},
                {"type": "response.mcp_call_arguments.done", **here, "arguments": '{"a":1}'},
            ]
        at.append({"type": "response.output_item.done", "output_index": index, "item": item})
    rest = [
        event | {"output_index": event["output_index"] + 3} if "output_index" in event else event
        for event in events[2:]
    ]
    rest[-1]["response"]["output"] = [search, code, mcp, *rest[-1]["response"]["output"]]
    return scripted.renumbered([*events[:2], *at, *rest])


def interleaved(events: list[Json]) -> list[Json]:
    """The items all begin, then their events take turns."""
    of_item: dict[int, list[Json]] = {}
    for event in events[2:-1]:
        of_item.setdefault(event["output_index"], []).append(event)
    mixed = [of_item[index].pop(0) for index in sorted(of_item)]
    while any(of_item.values()):
        mixed += [waiting.pop(0) for waiting in of_item.values() if waiting]
    return scripted.renumbered([*events[:2], *mixed, events[-1]])


def with_logprobs(events: list[Json]) -> list[Json]:
    """Every delta has a token, and what ends a text has all of them."""
    tokens: list[Json] = []
    for event in events:
        stem, _, verb = event["type"].rpartition(".")
        if stem == "response.content_part" and verb == "added":
            tokens = []
        elif stem == "response.output_text":
            event["logprobs"] = [TOKEN | {"token": event["delta"]}] if verb == "delta" else tokens
            tokens = tokens + event["logprobs"] if verb == "delta" else tokens
        elif stem == "response.content_part":
            event["part"]["logprobs"] = tokens
        elif stem == "response.output_item" and verb == "done":
            event["item"]["content"][-1]["logprobs"] = tokens
    for item in events[-1]["response"]["output"]:
        item["content"][-1]["logprobs"] = tokens
    return events


CALLS = [
    scripted.function_call("weather", '{"city":"Oslo"}', id="fc_1", call_id="call_1"),
    scripted.function_call("weather", '{"city":"Rome"}', id="fc_2", call_id="call_2"),
    scripted.custom_call("shell", "ls -l"),
]
THOUGHT = scripted.reasoning("First.", "Then.", encrypted_content="c2VjcmV0", status="completed")
CITED = scripted.message("Hi there", id="msg_2")
CITED["content"][0]["annotations"] = [CITATION]


def say(*output: Json, **fields: Any) -> list[Json]:
    return scripted.responses_events(json.loads(json.dumps(output)), **fields)


ANSWERS: dict[str, Callable[[], list[Json]]] = {
    "text": lambda: scripted.responses_stream(["Hel", "lo \u2028\x85", "th\"ere.", " 你好"]),
    "two parts": lambda: say(scripted.message("One.", "Two."), pieces=3),
    "empty text": lambda: say(scripted.message("")),
    "refusal": lambda: say(scripted.refusal("I can't.")),
    "calls": lambda: say(*CALLS, pieces=3),
    "calls at once": lambda: interleaved(say(*CALLS, pieces=3)),
    "reasoning": lambda: say(THOUGHT, scripted.message("So.")),
    "citations": lambda: say(CITED),
    "logprobs": lambda: with_logprobs(say(scripted.message("Hi there"))),
    "hosted tools": lambda: hosted(say(scripted.message("Found."))),
    "length": lambda: say(scripted.message("Hel", status="incomplete"), status="incomplete"),
    "everything": lambda: hosted(say(THOUGHT, CITED, *CALLS, scripted.refusal("No."))),
}  # fmt: skip


@pytest.fixture(params=ANSWERS)
def events(request: pytest.FixtureRequest) -> list[Json]:
    """The events of a conforming stream."""
    made: list[Json] = ANSWERS[request.param]()
    grammar.check(made)
    return made


# The relay ---------------------------------------------------------------------------------------


class Relayed:
    """What the client got for the bytes of an upstream, and what is stored."""

    def __init__(
        self,
        chunks: Iterable[bytes],
        *,
        include: bool = True,
        repair: bool = False,
        cancelled: bool = False,
    ) -> None:
        self.error: UpstreamError | None = None
        base = items.base_response({}, id="resp_1", model="m", created_at=NOW_MS // 1000)
        writer = EventWriter(base, NOW_MS)
        stream = ResponsesPassthrough(writer, shows_encrypted=include, repair=repair)
        pieces = []
        for chunk in chunks:
            pieces.append(stream.feed(chunk))
            if stream.ended:
                break
        self.before = b"".join(pieces)
        try:
            closing, answer = stream.abort("cancelled", None) if cancelled else stream.finish()
        except UpstreamError as exc:
            self.error = exc
            closing, answer = stream.abort("failed", FAILED)
        self.answer: Answer = answer
        final = items.final_response(base, answer, NOW_MS // 1000)
        if not include:
            final["output"] = [without_encrypted(item) for item in final["output"]]
        self.raw = self.before + closing + stream.terminal(answer, final)
        self.events = grammar.parse(self.raw, done=True)
        grammar.check(self.events)
        assert self.events[-1]["response"] == final

    @property
    def output(self) -> list[Json]:
        """What was stored, without ids."""
        return nameless(self.answer.output)


def relay(
    events: Iterable[Json], write: Callable[[Json], bytes] = compact, **options: Any
) -> Relayed:
    return Relayed([b"".join(map(write, events))], **options)


def nameless(output: list[Json]) -> list[Json]:
    """Without what a repaired item may differ in: its id, and a status where it had none."""
    return [{k: v for k, v in item.items() if k not in ("id", "status")} for item in output]


def in_any_order(output: list[Json]) -> list[str]:
    return sorted(json.dumps(item, sort_keys=True) for item in nameless(output))


def without_encrypted(item: Json) -> Json:
    return {k: v for k, v in item.items() if k != "encrypted_content"}


def written(events: list[Json], write: Callable[[Json], bytes] = compact) -> list[bytes]:
    """The events a client of a conforming stream gets as they came."""
    return [write(event) for event in events[2:-1]]


def blocks(raw: bytes) -> list[bytes]:
    return [block + b"\n\n" for block in raw.split(b"\n\n")[:-1]]


# Conforming streams ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["as OpenAI does", "with spaces", "number last"])
def test_what_conforms_passes_byte_by_byte_between_its_first_and_last_events(
    events: list[Json], how: str
) -> None:
    write = WRITTEN[how]
    relayed = relay(events, write)
    created, in_progress, *middle = blocks(relayed.before)
    assert middle == written(events, write)
    assert b'"id":"resp_1"' in created
    assert b'"id":"resp_1"' in in_progress
    assert relayed.answer.output == events[-1]["response"]["output"]
    assert relayed.events[-1]["response"]["id"] == "resp_1"


@pytest.mark.parametrize("how", ["CRLF", "with comments", "with ids"])
def test_what_only_the_transport_adds_is_left_out(events: list[Json], how: str) -> None:
    relayed = relay(events, WRITTEN[how])
    assert blocks(relayed.before)[2:] == written(events)


@pytest.mark.parametrize("how", WRITTEN)
def test_the_same_bytes_come_out_whatever_the_chunks(events: list[Json], how: str) -> None:
    raw = b"".join(map(WRITTEN[how], events))
    whole = Relayed([raw])
    for size in (1, 64, 1000):
        chunks = [raw[start : start + size] for start in range(0, len(raw), size)]
        cut = Relayed(chunks)
        # Ids that had to be minted are the only thing that is never the same twice.
        assert cut.raw == whole.raw
        assert cut.answer == whole.answer


@pytest.mark.parametrize("how", ["as OpenAI does", "without names"])
def test_every_size_of_chunk_gives_the_same_bytes(how: str) -> None:
    raw = b"".join(map(WRITTEN[how], ANSWERS["text"]()))
    whole = Relayed([raw])
    for size in range(1, len(raw)):
        cut = Relayed(raw[start : start + size] for start in range(0, len(raw), size))
        assert cut.raw == whole.raw


def test_nothing_is_parsed_twice_in_a_long_answer() -> None:
    events = scripted.responses_stream(["a" * 100] * 2000)  # more than is kept to close it with
    assert blocks(relay(events).before)[2:] == written(events)
    cut = relay(events[:1500])
    assert blocks(cut.before)[2:] == written(events)[:1498]
    assert cut.answer.output[0]["content"][0]["text"] == "a" * 100 * 1496


# Deviations --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", WRITTEN)
@pytest.mark.parametrize("repair", [False, True])
def test_every_way_to_write_a_stream_says_the_same(
    events: list[Json], how: str, repair: bool
) -> None:
    relayed = relay(events, WRITTEN[how], repair=repair)
    assert relayed.output == nameless(events[-1]["response"]["output"])
    assert relayed.answer.status == events[-1]["response"]["status"]


def test_a_number_that_is_wrong_anywhere_is_made_right(events: list[Json]) -> None:
    expected = nameless(events[-1]["response"]["output"])
    for position in range(len(events)):
        for wrong in (None, position + 1, position - 1, "1"):
            changed = [*events]
            changed[position] = {**events[position], "sequence_number": wrong}
            if wrong is None:
                del changed[position]["sequence_number"]
            if wrong == "1":
                changed[position:] = scripted.numbered_from(position + 5, events[position:])
            relayed = relay(changed)
            assert relayed.output == expected
            before = written(events)[: max(0, position - 2)]
            assert blocks(relayed.before)[2 : 2 + len(before)] == before


def test_any_event_may_be_missing(events: list[Json]) -> None:
    output = events[-1]["response"]["output"]
    for position, event in enumerate(events):
        rest = events[:position] + events[position + 1 :]
        is_delta = event["type"].endswith(".delta")
        for changed in (rest, scripted.renumbered(rest)):
            if is_delta and changed is not rest:
                continue  # nobody can see that
            relayed = relay(changed)
            if event is events[-1]:
                assert relayed.error is not None
            else:
                assert relayed.error is None
            if not is_delta:
                # A call whose beginning is missing waits for its end, while others begin.
                assert in_any_order(relayed.answer.output) == in_any_order(output), event["type"]


@pytest.mark.parametrize("kinds", [
    ("output_item.added",),
    ("content_part.added", "summary_part.added"),
    ("_part.added", "_part.done"),
    ("text.done", "refusal.done", "arguments.done", "input.done"),
    ("part.done",),
    (".done",),
    ("item.done",),
    (".added",),
    (".added", ".done"),
    (".delta",),
    (".delta", "part.added", "part.done", "text.done", "arguments.done", "input.done"),
    (".added", ".done", ".delta", ".searching", "call.in_progress", "call.completed"),
    ("created", "in_progress"),
], ids=str)  # fmt: skip
def test_a_kind_of_event_may_be_missing_altogether(
    events: list[Json], kinds: tuple[str, ...]
) -> None:
    for cut in (scripted.without(events, *kinds), scripted.without_numbers(events)):
        kept = [event for event in cut if not event["type"].endswith(kinds)]
        relayed = relay(kept)
        assert in_any_order(relayed.answer.output) == in_any_order(events[-1]["response"]["output"])


def test_any_event_may_come_twice(events: list[Json]) -> None:
    output = nameless(events[-1]["response"]["output"])
    for position, event in enumerate(events):
        if event["type"].endswith((".delta", "annotation.added")):
            continue  # nobody can see that
        twice = [*events[: position + 1], *events[position:]]
        for changed in (twice, scripted.renumbered(twice)):
            assert relay(changed).output == output, event["type"]


def test_neighbours_may_change_places(events: list[Json]) -> None:
    output = events[-1]["response"]["output"]
    for position in range(len(events) - 1):
        first, second = events[position : position + 2]
        same_item = first.get("output_index", -1) == second.get("output_index", -2)
        if first["type"].endswith(".delta") and same_item:
            continue  # nobody can see that
        swapped = [*events[:position], second, first, *events[position + 2 :]]
        for changed in (swapped, scripted.renumbered(swapped)):
            relayed = relay(changed)
            if not first["type"].endswith(".delta"):
                assert in_any_order(relayed.answer.output) == in_any_order(output)


@pytest.mark.parametrize(
    "item_id",
    ["", "x" * 65, "msg_" + "x" * 61, "no-prefix", "msg_a b", "msg_\u00e9", "Msg_1", None],
)
def test_an_id_no_client_can_use_is_replaced_everywhere(item_id: Any) -> None:
    events = say(THOUGHT, scripted.message("Hi", id="msg_1"), *CALLS)
    text = json.dumps(events).replace('"msg_1"', json.dumps(item_id))
    relayed = relay(json.loads(text))
    assert relayed.output == nameless(events[-1]["response"]["output"])
    ids = [item["id"] for item in relayed.answer.output]
    assert ids[0] == "rs_up1"
    assert item_id not in ids
    assert len(set(ids)) == len(ids)


def test_one_id_for_all_items_becomes_one_for_each(events: list[Json]) -> None:
    relayed = relay(scripted.with_one_item_id(events))
    assert relayed.output == nameless(events[-1]["response"]["output"])
    assert relayed.answer.output[0]["id"] == "msg_same"


@pytest.mark.parametrize("first", [0, 7, None])
def test_items_whose_numbers_are_wrong_are_numbered_anew(
    events: list[Json], first: int | None
) -> None:
    """All are 0, they begin at 7, or there are none."""
    # Items that grow side by side under one number cannot be told apart: then only order is kept.
    are_told_apart = first == 7 or not has_parallel_items(events)
    for event in events:
        if "output_index" in event:
            event["output_index"] = first and event["output_index"] + first
            if first is None:
                del event["output_index"]
    relayed = relay(events).output
    assert relayed == nameless(events[-1]["response"]["output"]) or not are_told_apart


def has_parallel_items(events: list[Json]) -> bool:
    is_added = [event["type"].endswith("item.added") for event in events if "item" in event]
    return any(both == (True, True) for both in pairwise(is_added))


@pytest.mark.parametrize("repair", [False, True])
def test_the_final_snapshot_may_show_nothing(events: list[Json], repair: bool) -> None:
    expected = nameless(events[-1]["response"]["output"])
    assert relay(scripted.with_empty_output(events), repair=repair).output == expected


def test_an_empty_snapshot_after_items_that_were_never_done(events: list[Json]) -> None:
    relayed = relay(scripted.without(scripted.with_empty_output(events), "item.done"))
    shown = events[-1]["response"]["output"]
    assert [item["type"] for item in relayed.output] == [item["type"] for item in shown]
    assert relayed.answer.status == events[-1]["response"]["status"]
    texts = [item["content"] for item in relayed.output if item["type"] == "message"]
    assert [[part["type"] for part in content] for content in texts] == [
        [part["type"] for part in item["content"]] for item in shown if item["type"] == "message"
    ]


@pytest.mark.parametrize("names", ["reasoning_text", "reasoning"])
@pytest.mark.parametrize("announced", ["content_part", "reasoning_part", ""])
def test_raw_reasoning_is_shown_as_a_summary(names: str, announced: str) -> None:
    raw = {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hm, well."}],
        "encrypted_content": None,
    }
    events = scripted.responses_events([raw, scripted.message("So.")])
    for event in events:
        event["type"] = event["type"].replace("response.reasoning_text.", f"response.{names}.")
        if (
            event["type"].startswith("response.content_part")
            and event["part"]["type"] == "reasoning_text"
        ):
            event["type"] = event["type"].replace("content_part", announced or "content_part")
    if not announced:
        events = scripted.renumbered(
            event for event in events
            if event.get("part", {}).get("type") != "reasoning_text"
        )  # fmt: skip
    relayed = relay(events)
    thought, said = relayed.answer.output
    assert thought["summary"] == [{"type": "summary_text", "text": "Hm, well."}]
    assert not thought.get("content")
    assert "encrypted_content" not in thought
    assert said["content"][0]["text"] == "So."
    assert not [event for event in relayed.events if "reasoning_text" in event["type"]]


def test_a_stream_of_the_last_event_alone_says_everything(events: list[Json]) -> None:
    relayed = relay(events[-1:])
    assert relayed.output == nameless(events[-1]["response"]["output"])


def test_nothing_after_the_end_is_read(events: list[Json]) -> None:
    raw = b"".join(map(compact, events))
    for tail in (raw, b"data: [DONE]\n\n", b"data: {\n\n", b": so\n\n"):
        assert Relayed([raw + tail]).raw == Relayed([raw]).raw


def test_an_unknown_event_passes() -> None:
    events = say(scripted.message("Hi"))
    keepalive = {"type": "keepalive"}
    changed = scripted.renumbered([*events[:3], keepalive, *events[3:]])
    base = items.base_response({}, id="resp_1", model="m", created_at=1)
    stream = ResponsesPassthrough(EventWriter(base, NOW_MS), shows_encrypted=False, repair=False)
    assert blocks(stream.feed(b"".join(map(compact, changed))))[2:] == written(changed)


def test_an_event_about_an_item_that_is_not_open_does_not_pass() -> None:
    events = say(scripted.message("Hi"))
    searching = {"type": "response.web_search_call.searching"}
    stray = {**searching, "output_index": 5, "item_id": "ws_1"}
    late = {**searching, "output_index": 0, "item_id": "msg_up1"}
    relayed = relay(scripted.renumbered([*events[:3], stray, *events[3:-1], late, events[-1]]))
    assert [event["type"] for event in relayed.events] == [event["type"] for event in events]


# Encrypted reasoning -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["as OpenAI does", "without names"])
def test_encrypted_reasoning_is_kept_and_not_shown_unless_it_was_asked_for(how: str) -> None:
    events = say(
        THOUGHT,
        scripted.message("So."),
        scripted.reasoning("Hm.", id="rs_2", encrypted_content="dHdv"),
    )
    secrets = ["c2VjcmV0", None, "dHdv"]
    for cut in range(2, len(events) + 1):
        for cancelled in (False, True):
            chunks = [b"".join(map(WRITTEN[how], events[:cut]))]
            hidden = Relayed(chunks, include=False, cancelled=cancelled)
            assert b"encrypted_content" not in hidden.raw
            kept = [item.get("encrypted_content") for item in hidden.answer.output]
            done = len([event for event in events[:cut] if event["type"].endswith("item.done")])
            assert kept[:done] == secrets[:done]
    assert b'"encrypted_content":"c2VjcmV0"' in relay(events, WRITTEN[how]).before


# The end -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["as OpenAI does", "without names"])
@pytest.mark.parametrize("cancelled", [False, True])
def test_a_stream_cut_anywhere_ends_well_and_loses_nothing(
    events: list[Json], how: str, cancelled: bool
) -> None:
    encoded = list(map(WRITTEN[how], events))
    for cut in range(len(events)):
        for rest in (b"", encoded[cut][:-1]):
            relayed = Relayed([*encoded[:cut], rest], cancelled=cancelled)
            assert relayed.answer.status == ("cancelled" if cancelled else "failed")
            assert (relayed.error is None) == cancelled
            texts = said_by(events[:cut])
            assert [said_by(relayed.events)[index] for index in texts] == list(texts.values())


def said_by(events: list[Json]) -> dict[int, str]:
    """What the deltas of each item say together."""
    said: dict[int, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            said[event["output_index"]] = said.get(event["output_index"], "") + event["delta"]
    return said


@pytest.mark.parametrize("event", [
    {"type": "error", "code": "server_error", "message": "Oh.", "param": None},
    {"type": "error", "error": {"type": "server_error", "code": "server_error", "message": "Oh."}},
    {"error": {"code": "server_error", "message": "Oh."}, "type": "odd"},
], ids=str)  # fmt: skip
def test_an_error_of_the_upstream_ends_the_stream_with_what_it_says(
    events: list[Json], event: Json
) -> None:
    for cut in range(len(events)):
        relayed = relay([*events[:cut], {**event, "sequence_number": cut}, *events[cut:]])
        assert relayed.error is not None
        assert (relayed.error.message, relayed.error.code) == ("Oh.", "server_error")
        assert blocks(relayed.before)[2:] == written(events)[: max(0, cut - 2)]


def test_a_failed_response_keeps_its_error_and_its_output(events: list[Json]) -> None:
    error = {"code": "rate_limit_exceeded", "message": "Please try again in 1.2s."}
    for cut in range(2, len(events) - 1):
        failed = {**events[-1]["response"], "status": "failed", "error": error, "output": []}
        end = {"type": "response.failed", "response": failed, "sequence_number": cut}
        relayed = relay([*events[:cut], end])
        assert (relayed.answer.status, relayed.answer.error) == ("failed", error)
        assert said_by(relayed.events) == said_by(events[:cut]) | {
            index: said for index, said in said_by(relayed.events).items() if said == "{}"
        }


@pytest.mark.parametrize("type_", ["completed", "incomplete", "failed", "cancelled"])
@pytest.mark.parametrize("says", [{"status": "in_progress"}, {"status": None}, {}])
def test_the_name_of_the_last_event_decides(type_: str, says: Json) -> None:
    events = say(scripted.message("Hi"))
    response = {k: v for k, v in events[-1]["response"].items() if k != "status"} | says
    for write in (compact, unnamed):
        relayed = relay(
            [*events[:-1], {**events[-1], "type": f"response.{type_}", "response": response}], write
        )
        assert relayed.answer.status == type_


@pytest.mark.parametrize(
    "data", ["{", "[1]", "5", "{}", '{"type":5}', "\xff", '{"type":"response.output_text.delta"}']
)
def test_what_is_no_event_ends_the_stream(data: str) -> None:
    events = say(scripted.message("Hi there"))
    for name in ("", "event: response.output_text.delta\n"):
        raw = f"{name}data: {data}\n\n".encode("latin-1")
        for cut in range(len(events)):
            relayed = Relayed([*map(compact, events[:cut]), raw, *map(compact, events[cut:])])
            assert relayed.error is not None


# Anything ----------------------------------------------------------------------------------------

VALUES: list[Any] = [
    None,
    True,
    -3,
    0,
    1,
    70,
    "",
    "x",
    "message",
    "in_progress",
    "msg_up1",
    "fc_1",
    [],
    {},
    [1],
    {"id": "x"},
    {"type": "output_text", "text": "x"},
]
# Only who reads every delta could tell that an upstream contradicts itself about a text. Events and
# items of an unknown type are none of the gateway's business.
LEFT = {
    "delta",
    "text",
    "refusal",
    "arguments",
    "input",
    "code",
    "part",
    "annotations",
    "content",
    "summary",
    "logprobs",
    "type",
    "annotation",
}
OF_TEXT = (
    ".delta",
    "text.done",
    "refusal.done",
    "arguments.done",
    "input.done",
    "code.done",
    "annotation.added",
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a tree where something else may stand."""
    found: list[tuple[Any, Any]] = []
    for key in value if isinstance(value, dict) else range(len(value)):
        if key not in LEFT:
            found.append((value, key))
            if isinstance(value[key], dict | list):
                found += places(value[key])
    return found


def spoil(events: list[Json], random: Random) -> None:
    """Something is changed, left out, repeated or moved."""
    position = random.randrange(len(events))
    event = events[position]
    action = random.choice(["change", "remove", "drop", "repeat", "move"])
    if action in ("change", "remove"):
        within, key = random.choice(places(event))
        if action == "remove":
            del within[key]
        else:
            within[key] = random.choice(VALUES)
    elif not event["type"].endswith(OF_TEXT) and len(events) > 1:
        if action != "repeat":
            events.pop(position)
        if action != "drop":
            events.insert(random.randrange(len(events)), event)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_an_upstream_says_the_stream_is_correct(events: list[Json], seed: int) -> None:
    random = Random(seed)
    for _ in range(12):
        spoiled: list[Json] = json.loads(json.dumps(events))
        for _ in range(random.randint(1, 3)):
            spoil(spoiled, random)
        if random.random() < 0.5:
            spoiled = scripted.renumbered(spoiled)
        raw = b"".join(map(random.choice([compact, unnamed]), spoiled))
        size = random.choice([17, 500, len(raw)])
        Relayed(raw[start : start + size] for start in range(0, len(raw), size))
