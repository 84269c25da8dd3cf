"""How the guards read a stream of Responses events, and how they end it at a hit."""

from collections.abc import Container
from typing import Any

from anos import sse
from anos.events import EventWriter
from anos.extract import Found, reason_texts
from anos.extract_readers import FIELDS, is_name
from anos.items import NEW, Answer, settings_told
from anos.scanner_parts import Event, Part, Piece, Reading
from anos.scanner_reading import (
    BLOCKED,
    Sent,
    item_texts,
    padded,
    part_texts,
    read_field,
    read_growing,
    read_tokens,
)

_OWN = {"response.created", "response.in_progress"}  # what is in them is the gateway's
_PLACES = ("sequence_number", "output_index", "content_index", "summary_index")
_PLAIN = frozenset({*_PLACES, "type", "item_id", "obfuscation", "delta", "logprobs"})
_EVENT = (
    FIELDS
    | _PLAIN
    | {
        *("annotation_index", "command_index", "item", "part", "annotation"),
        *("partial_image_b64", "partial_image_index"),
    }
)
# Of these words the types of events are made; any other is a text.
_TYPES = frozenset({
    *("response", "created", "queued", "in_progress", "completed", "incomplete", "failed", "added"),
    *("done", "delta", "searching", "interpreting", "generating", "partial_image", "output_item"),
    *("output_text", "annotation", "content_part", "refusal", "reasoning", "reasoning_text"),
    *("reasoning_summary", "reasoning_summary_part", "reasoning_summary_text", "audio"),
    *("transcript", "function_call_arguments", "custom_tool_call_input", "mcp_call_arguments"),
    *("mcp_call", "mcp_list_tools", "web_search_call", "file_search_call", "computer_call"),
    *("code_interpreter_call", "code_interpreter_call_code", "image_generation_call"),
    *("shell_call", "shell_call_command", "apply_patch_call"),
})  # fmt: skip
# How most messages and their texts begin: this is seen in a fifth of the time that a walk takes.
_BEGUN = {"id": "", "type": "message", "status": "in_progress", "content": [], "role": "assistant"}
_BEGUN_PART = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
_JSON = {"response.function_call_arguments.delta", "response.mcp_call_arguments.delta"}


class ResponsesEvents(Sent):
    """A stream of Responses events."""

    patience: int | None = None
    ordered = frozenset({"response.output_text.delta", "response.refusal.delta"})

    def __init__(self, base: dict[str, Any], now_ms: int, settings: Container[str] = ()) -> None:
        """`settings` are those that stay as they were sent, whatever the upstream says."""
        super().__init__()
        self._writer = EventWriter(base, now_ms)
        self._settings = settings

    def delta(self, event: Event) -> Piece | None:
        """See Dialect."""
        type_, text = event["type"], event.get("delta")
        if type(text) is not str or event.get("logprobs") or not _PLAIN.issuperset(event):
            return None
        id_, padding = event.get("item_id"), event.get("obfuscation")
        is_named = id_ is None or (type(id_) is str and is_name(id_))
        is_placed = all(type(event.get(name, 0)) is int for name in _PLACES)
        if not (is_named and is_placed and _is_type(type_)) or padded(event, padding):
            return None
        return Piece(_part(type_, event), event, "delta", type_ in _JSON)

    def read(self, event: Event) -> Reading:
        """See Dialect."""
        type_, reading = event["type"], Reading()
        if type_ in _OWN:
            return reading
        part = _part(
            type_.removesuffix("done") + "delta" if type_.endswith(".done") else type_, event
        )
        for name, value in event.items():
            if name in _EVENT and (not value or type(value) is int):
                continue
            if name == "type":
                if not _is_type(type_):
                    reading.texts.append(Found("assistant", type_, event, name, False, True))
            elif name == "item" and _is_item(value):
                reading.texts += () if _is_begun(value) else item_texts(value)
            elif name == "logprobs" and type_.endswith(".delta"):
                read_tokens(event, name, ("tokens", *part), reading)
            elif name == "logprobs":
                reading.texts += part_texts({"logprobs": value})
            elif name == "delta":
                read_growing(part, event, name, reading, is_json=type_ in _JSON)
            elif name == "part":
                reading.texts += () if value == _BEGUN_PART else part_texts(value)
            else:
                read_field(reading.texts, event, name, _EVENT)
                if name not in _EVENT:  # it may be a text that grows besides
                    read_growing((*part, name), event, name, reading)
        if type_.endswith(".done"):
            reading.ends = [part, ("tokens", *part)]
        return reading

    def closed(self, status: str, error: dict[str, Any] | None) -> tuple[bytes, Answer]:
        """See Dialect."""
        self._fold()
        self._writer.start()
        self._writer.close_all("incomplete")
        reason = BLOCKED if status == "incomplete" else None
        output = self._writer.items
        answer = Answer(status, output, None, incomplete_reason=reason, error=error)
        return sse.encode_events(self._writer.take()), answer

    def texts(self, answer: Answer) -> list[Found]:
        """See Dialect."""
        found = super().texts(answer)
        answer.extra = settings_told(answer.extra, self._settings)
        for name in answer.extra:
            read_field(found, answer.extra, name, NEW.keys())
        return found + reason_texts(answer)

    def terminal(self, answer: Answer, response: dict[str, Any]) -> bytes:
        """See Dialect."""
        return sse.encode_events(self._writer.terminal(response)) + sse.DONE

    def _fold(self) -> None:
        for event in self._sent:
            self._writer.observe(event)
        self._sent = []


def _is_type(type_: str) -> bool:
    return _TYPES.issuperset(type_.split("."))


def _is_begun(item: Event) -> bool:
    """Whether this is a message as most of them begin, and says nothing."""
    id = item.get("id")
    return type(id) is str and is_name(id) and {**item, "id": ""} == _BEGUN


def _is_item(value: Any) -> bool:
    return type(value) is dict and type(value.get("type")) is str


def _part(type_: str, event: Event) -> Part:
    """The part whose deltas are of that type."""
    get = event.get
    index = get("content_index"), get("summary_index"), get("command_index")
    return "", type_, get("output_index"), index
