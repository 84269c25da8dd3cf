"""What a stream must look like, written from the specification and not from our code.

Every stream a test reads passes through here.

Responses: the event order, ids and indexes that the official SDKs insist on (Open Responses,
"Streaming"; openai-node `ResponseStream.mjs`).
Chat: https://platform.openai.com/docs/api-reference/chat-streaming.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

LIFECYCLE = {"response.created", "response.queued", "response.in_progress"}
# The statuses a terminal event's snapshot may have; there is no response.cancelled event.
TERMINAL = {
    "response.completed": {"completed"},
    "response.incomplete": {"incomplete"},
    "response.failed": {"failed", "cancelled"},
}
# Event of an open part -> (index field, type of the part, name of the whole text in *.done).
PARTS = {
    "response.output_text": ("content_index", "output_text", "text"),
    "response.refusal": ("content_index", "refusal", "refusal"),
    "response.reasoning_text": ("content_index", "reasoning_text", "text"),
    "response.reasoning_summary_text": ("summary_index", "summary_text", "text"),
}
# Event of an open item whose text is a field of the item itself -> that field.
FIELDS = {
    "response.function_call_arguments": ("function_call", "arguments"),
    "response.custom_tool_call_input": ("custom_tool_call", "input"),
    "response.mcp_call_arguments": ("mcp_call", "arguments"),
}
# Everything else openai-node's stream helper knows; an unknown type is fatal there.
HOSTED = re.compile(
    r"response\.(("
    r"(web_search|file_search|code_interpreter|image_generation|mcp)_call|mcp_list_tools|compaction)\."
    r"(in_progress|searching|interpreting|generating|partial_image|compacting|completed|failed)"
    r"|code_interpreter_call_code\.(delta|done)"
    r"|shell_call_command\.(added|delta|done)|shell_call_output_content\.(delta|done)"
    r"|audio(\.transcript)?\.(delta|done))"
)
IDENTITY = ("id", "type", "call_id", "name", "role")
FINISH_REASONS = {"stop", "length", "tool_calls", "content_filter", "function_call"}


def parse(raw: bytes, *, done: bool = False) -> list[dict[str, Any]]:
    """The data of every event in `raw`; comments and the `[DONE]` at the end are left out.

    Asserts that each event is whole and named after its data's `type`, and, with done=True, that
    the last record is `[DONE]`.
    """
    text = raw.decode().replace("\r\n", "\n").replace("\r", "\n")
    assert text == "" or text.endswith("\n\n"), f"the stream ends inside an event: {text[-200:]!r}"
    records: list[tuple[str, str]] = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        fields = [line.partition(":")[::2] for line in lines]
        unknown = {name for name, _ in fields} - {"event", "data"}
        assert not unknown, f"no client needs the SSE fields {unknown}: {block[:200]!r}"
        values = {name: value.removeprefix(" ") for name, value in fields}
        if fields:
            assert len(values) == len(fields), f"a field stands twice in one event: {block[:200]!r}"
            records.append((values.get("event", ""), values["data"]))
    ended = bool(records) and records[-1] == ("", "[DONE]")
    last = records[-1:]
    if ended:
        records.pop()
    assert all(data != "[DONE]" for _, data in records), "[DONE] is not the last record"
    events = [json.loads(data) for _, data in records]
    for (name, _), event in zip(records, events, strict=True):
        assert name == event.get("type", ""), f"event: {name!r} carries type {event.get('type')!r}"
    assert ended or not done, f"the last record is not [DONE] but {last}"
    return events


@dataclass
class Part:
    """One content or summary part of an open item."""

    type: str
    text: str = ""
    annotations: list[Any] = field(default_factory=list)
    text_done: bool = False
    done: dict[str, Any] | None = None


@dataclass
class Item:
    """One output item between its added and its done event."""

    added: dict[str, Any]
    content: list[Part] = field(default_factory=list)
    summary: list[Part] = field(default_factory=list)
    text: str = ""
    text_done: bool = False
    done: dict[str, Any] | None = None

    def parts(self, index_field: str) -> list[Part]:
        return self.summary if index_field == "summary_index" else self.content


def check(events: list[dict[str, Any]]) -> None:
    """Nothing, if `events` is a whole and correct Responses stream; an AssertionError if not."""
    checker = Checker()
    for event in events:
        try:
            checker.feed(event)
        except (AssertionError, KeyError) as exc:
            why = f"there is no {exc}" if isinstance(exc, KeyError) else exc
            raise AssertionError(f"{why} ({checker.count}: {json.dumps(event)[:500]})") from None
    assert checker.ended, f"the stream has no terminal event; its last is {events[-1:]}"


class Checker:
    """The state of one stream; `feed` asserts that the next event may stand where it stands."""

    def __init__(self) -> None:
        self.count = 0
        self.seen: list[str] = []
        self.first: dict[str, Any] = {}
        self.items: list[Item] = []
        self.ended = False

    def feed(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        assert not self.ended, f"{kind} follows the terminal event"
        assert event.get("sequence_number") == self.count, (
            f"sequence_number is {event.get('sequence_number')!r}, expected {self.count}"
        )
        assert (kind == "response.created") == (self.count == 0), (
            "response.created comes first, and once"
        )
        if kind in LIFECYCLE:
            self.lifecycle(kind, event["response"])
        elif kind in TERMINAL:
            self.terminal(kind, event["response"])
        elif kind == "error":
            assert {"type", "code", "message", "param"} <= event["error"].keys(), (
                "error needs its nested form"
            )
            assert event["message"] == event["error"]["message"], "error says two different things"
        else:
            self.of_item(kind, event)
        self.seen.append(kind)
        self.count += 1

    def lifecycle(self, kind: str, response: dict[str, Any]) -> None:
        assert kind not in self.seen, f"{kind} comes twice"
        assert not self.items, f"{kind} comes after an item"
        assert kind != "response.queued" or "response.in_progress" not in self.seen, (
            "queued after in_progress"
        )
        self.first = self.first or response
        self.snapshot(response)
        expected = {kind.removeprefix("response.")} - {"created"} or {"queued", "in_progress"}
        assert response["status"] in expected, f"{kind} has status {response['status']!r}"
        assert response["output"] == [], f"{kind} has output already"

    def snapshot(self, response: dict[str, Any]) -> None:
        assert response["object"] == "response", "a snapshot's object is response"
        assert response["id"], "the response has no id"
        created_at = response["created_at"]
        assert isinstance(created_at, int), f"created_at is {created_at!r}, not an integer"
        for name in ("id", "model", "created_at"):
            was = self.first[name]
            assert response[name] == was, f"{name} was {was!r} and is {response[name]!r}"
        for name, value in self.first.items():
            assert name in response, f"response.{name} is gone from the snapshot ({value!r})"

    def terminal(self, kind: str, response: dict[str, Any]) -> None:
        self.snapshot(response)
        status = response["status"]
        assert status in TERMINAL[kind], f"{kind} has status {status!r}"
        for index, item in enumerate(self.items):
            assert item.done is not None, f"item {index} was added and never done"
        done = [item.done for item in self.items]
        output = response["output"]
        assert output == done, f"the final output {output} is not the items done: {done}"
        for name, wanted in (
            ("error", "failed"),
            ("incomplete_details", "incomplete"),
            ("completed_at", "completed"),
        ):
            value = response[name]
            assert (value is not None) == (status == wanted), f"{name} of {status} is {value!r}"
        if status == "completed":
            unfinished = [item for item in done if item and item.get("status") == "incomplete"]
            assert not unfinished, f"a completed response has incomplete items: {unfinished}"
        check_usage(response["usage"])
        self.ended = True

    def of_item(self, kind: str, event: dict[str, Any]) -> None:
        assert "response.in_progress" in self.seen, f"{kind} comes before response.in_progress"
        if kind == "response.output_item.added":
            self.item_added(event)
            return
        item = self.open_item(event)
        stem, _, verb = kind.rpartition(".")
        if kind == "response.output_item.done":
            self.item_done(item, event["item"])
        elif kind == "response.output_text.annotation.added":
            self.annotation(item, event)
        elif stem in ("response.content_part", "response.reasoning_summary_part"):
            index_field = "content_index" if stem == "response.content_part" else "summary_index"
            step = {"added": self.part_added, "done": self.part_done}[verb]
            step(item.parts(index_field), event[index_field], event["part"])
        elif stem in PARTS:
            self.part_text(item, verb, event, *PARTS[stem])
        elif stem in FIELDS:
            self.field_text(item, verb, event, *FIELDS[stem])
        else:
            assert HOSTED.fullmatch(kind), f"no SDK knows {kind}"

    def open_item(self, event: dict[str, Any]) -> Item:
        index = event["output_index"]
        assert 0 <= index < len(self.items), f"output_index {index} was never added"
        item = self.items[index]
        assert item.done is None, f"item {index} is done already"
        item_id = event["item"]["id"] if "item" in event else event.get("item_id", item.added["id"])
        was = item.added["id"]
        assert item_id == was, f"item {index} is {was!r}, the event names {item_id!r}"
        return item

    def item_added(self, event: dict[str, Any]) -> None:
        item = event["item"]
        assert event["output_index"] == len(self.items), (
            f"output_index is {event['output_index']}, expected {len(self.items)}"
        )
        assert item.get("id"), "the item has no id"
        ids = [other.added["id"] for other in self.items]
        assert item["id"] not in ids, f"item id {item['id']!r} is used twice"
        for name in ("content", "summary"):
            assert item.get(name) in (None, []), f"the added item has {name} already"
        for type_, name in FIELDS.values():
            if item["type"] == type_:
                assert item[name] == "", f"the added item has {name} already"
        if item["type"] in ("function_call", "custom_tool_call"):
            assert item["call_id"], "the added call has no call_id"
            assert item["name"], "the added call has no name"
            assert item.get("status") != "completed", "the added call is completed already"
        self.items.append(Item(item))

    def part_added(self, parts: list[Part], index: int, part: dict[str, Any]) -> None:
        assert index == len(parts), f"part index is {index}, expected {len(parts)}"
        assert not parts or parts[-1].done is not None, f"part {index - 1} is still open"
        assert text_of(part) == "", "the added part has text already"
        assert not part.get("annotations"), "the added part has annotations already"
        parts.append(Part(part["type"]))

    def part_done(self, parts: list[Part], index: int, part: dict[str, Any]) -> None:
        open_part = self.open_part(parts, index, part["type"])
        assert open_part.text_done, f"part {index} is done before its text is"
        text = text_of(part)
        assert text == open_part.text, f"done says {text!r}, the deltas {open_part.text!r}"
        if open_part.annotations:
            assert part["annotations"] == open_part.annotations, "annotations are not those added"
        open_part.done = part

    def open_part(self, parts: list[Part], index: int, type_: str) -> Part:
        assert 0 <= index < len(parts), f"part {index} was never added"
        part = parts[index]
        assert part.done is None, f"part {index} is done already"
        assert part.type == type_, f"part {index} is a {part.type}, the event is for {type_}"
        return part

    def part_text(
        self, item: Item, verb: str, event: dict[str, Any], index_field: str, type_: str, name: str
    ) -> None:
        part = self.open_part(item.parts(index_field), event[index_field], type_)
        assert not part.text_done, f"{verb} follows the part's text done"
        if verb == "delta":
            part.text += event["delta"]
        else:
            assert event[name] == part.text, f"done says {event[name]!r}, the deltas {part.text!r}"
            part.text_done = True

    def field_text(
        self, item: Item, verb: str, event: dict[str, Any], type_: str, name: str
    ) -> None:
        assert item.added["type"] == type_, f"{name} {verb} for a {item.added['type']}"
        assert not item.text_done, f"{verb} follows the {name} done"
        if verb == "delta":
            item.text += event["delta"]
        else:
            assert event[name] == item.text, f"done says {event[name]!r}, the deltas {item.text!r}"
            item.text_done = True

    def annotation(self, item: Item, event: dict[str, Any]) -> None:
        part = self.open_part(item.content, event["content_index"], "output_text")
        assert event["annotation_index"] == len(part.annotations), "annotation_index has a gap"
        part.annotations.append(event["annotation"])

    def item_done(self, item: Item, final: dict[str, Any]) -> None:
        for name in IDENTITY:
            was, value = item.added.get(name), final.get(name)
            assert value == was, f"the item's {name} was {was!r} and is {value!r}"
        # A reasoning item may have no status at all.
        assert final.get("status") != "in_progress", "the item is done and in progress"
        for name, parts in (("content", item.content), ("summary", item.summary)):
            said = [part.done for part in parts]
            assert None not in said, f"the item is done while a {name} part is open"
            assert shown(final.get(name) or []) == shown(said), (
                f"the final {name} {final.get(name)} is not what was streamed: {said}"
            )
        for type_, name in FIELDS.values():
            if final["type"] == type_:
                assert item.text_done, f"the item is done before its {name}"
                value = final[name]
                assert value == item.text, f"{name} is {value!r}, the deltas say {item.text!r}"
        if final["type"] == "function_call" and final["status"] == "completed":
            assert final["arguments"], 'the finished call has no arguments, not even "{}"'
        item.done = final


def text_of(part: dict[str, Any]) -> str:
    """The text of a content or summary part, whatever its type calls it."""
    text: str = part["refusal"] if part["type"] == "refusal" else part["text"]
    return text


def shown(parts: list[Any]) -> list[Any]:
    """What a reader sees of finished parts; absent and empty annotations are the same."""
    return [(part["type"], text_of(part), part.get("annotations") or []) for part in parts]


def check_usage(usage: dict[str, Any] | None) -> None:
    """The exact shape of a Response's usage; None is allowed."""
    if usage is None:
        return
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        assert isinstance(usage[name], int), f"usage.{name} is {usage[name]!r}"
    cached = usage["input_tokens_details"]["cached_tokens"]
    reasoning = usage["output_tokens_details"]["reasoning_tokens"]
    assert isinstance(cached, int), f"cached_tokens is {cached!r}"
    assert isinstance(reasoning, int), f"reasoning_tokens is {reasoning!r}"


@dataclass
class Choice:
    """One choice of a chat stream so far."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    started: bool = False
    finish_reason: str | None = None


def check_chat(chunks: list[dict[str, Any]]) -> None:
    """Nothing, if `chunks` is a whole and correct chat stream; an AssertionError if not.

    A stream that broke ends with one {"error": …} record; what came before it is still checked."""
    assert chunks, "the stream has no chunks"
    broken = "error" in chunks[-1]
    if broken:
        *chunks, last = chunks
        missing = {"message", "type", "param", "code"} - last["error"].keys()
        assert not missing, f"the error is not an envelope: {last}"
    choices: dict[int, Choice] = {}
    usage_seen = False
    for count, chunk in enumerate(chunks):
        try:
            assert chunk["object"] == "chat.completion.chunk", (
                "the object is not chat.completion.chunk"
            )
            for name in ("id", "model", "created"):
                was = chunks[0][name]
                assert chunk[name] == was, f"{name} was {was!r} and is {chunk[name]!r}"
            assert not usage_seen, "a chunk follows the usage chunk"
            if not chunk["choices"]:
                usage_seen = chunk.get("usage") is not None
            for choice in chunk["choices"]:
                chat_choice(choices.setdefault(choice["index"], Choice()), choice)
            finished = all(state.finish_reason for state in choices.values())
            assert finished or not usage_seen, "usage comes before finish_reason"
        except (AssertionError, KeyError) as exc:
            why = f"there is no {exc}" if isinstance(exc, KeyError) else exc
            raise AssertionError(f"{why} ({count}: {json.dumps(chunk)[:500]})") from None
    assert sorted(choices) == list(range(len(choices))), f"the choices are {sorted(choices)}"
    if not broken:
        assert choices, "the stream has no choice"
        for index, state in choices.items():
            assert state.finish_reason, f"choice {index} has no finish_reason"


def chat_choice(state: Choice, choice: dict[str, Any]) -> None:
    """Adds one chunk's choice to the state of that choice."""
    delta = choice["delta"]
    assert state.finish_reason is None, "a choice goes on after its finish_reason"
    if not state.started:
        assert delta.get("role") == "assistant", "the first delta has no role"
        state.started = True
    for fragment in delta.get("tool_calls") or []:
        chat_call(state.calls, fragment)
    reason = choice.get("finish_reason")
    if reason is not None:
        assert reason in FINISH_REASONS, f"finish_reason is {reason!r}"
        assert reason != "tool_calls" or state.calls, "finish_reason tool_calls without a call"
        state.finish_reason = reason


def chat_call(calls: list[dict[str, Any]], fragment: dict[str, Any]) -> None:
    """Adds one fragment of a tool call; the first one carries id, type and name."""
    index = fragment["index"]
    if index == len(calls):
        assert fragment.get("id"), f"tool call {index} starts without an id"
        called = fragment.get("function") or fragment.get("custom") or {}
        assert called.get("name"), f"tool call {index} starts without a name"
        ids = [call["id"] for call in calls]
        assert fragment["id"] not in ids, f"tool call id {fragment['id']!r} is used twice"
        calls.append(fragment)
    assert 0 <= index < len(calls), f"tool call index {index} follows {len(calls) - 1}"
    was = calls[index]["id"]
    assert fragment.get("id") in (None, "", was), f"tool call {index} changes its id"
