"""The one place that produces Responses stream events: their order, indexes and numbers.

Events: https://platform.openai.com/docs/api-reference/responses-streaming
"""

from collections.abc import Container
from typing import Any

from anos.event_state import (
    KIND_OF_CALL,
    KINDS,
    ZERO,
    Kind,
    OutputItem,
    StreamState,
    Text,
    raw_number,
    unsaid,
)
from anos.items import new_id, new_item_id

Event = dict[str, Any]

_TEXT = KINDS["text"]
_IDENTITY = ("id", "type", "call_id", "name", "role")
# Said by `added` and the deltas; what a finished item says differently comes too late.
_STREAMED = {*_IDENTITY, "status", "content", "summary", "arguments", "input"}


class EventWriter(StreamState):
    """Writes one response's events: `sequence_number` from 0, added before delta, every item done.

    Its state is the fold of the events written or observed so far, so it can go on from any point
    of a stream it did not write itself. Events are dicts {"type", "sequence_number", …}; once
    returned they are never changed.
    """

    def __init__(
        self, base: dict[str, Any], now_ms: int, taken: Container[str] = frozenset()
    ) -> None:
        """`taken` are the ids of the items before the answer."""
        super().__init__(now_ms)
        self.taken = taken
        self._base = base
        self._unsent: list[Event] = []

    def event(self, type_: str, **fields: Any) -> Event:
        """Any event, numbered and taken into account."""
        event = {"type": type_, "sequence_number": self._next, **fields}
        self._next += 1
        self._apply(event)
        self._unsent.append(event)
        return event

    def take(self) -> list[Event]:
        """The events written since the last call: also those before a fault in their midst."""
        events, self._unsent = self._unsent, []
        return events

    def start(self) -> list[Event]:
        """`response.created` and `response.in_progress`, once; later calls return []."""
        if self.started:
            return []
        created = [] if self.created else [self.event("response.created", response=self._base)]
        return [*created, self.event("response.in_progress", response=self._base)]

    def terminal(self, response: dict[str, Any]) -> list[Event]:
        """The terminal event for the response's status, once; close the items before.

        A cancelled response ends with `response.failed`: there is no `response.cancelled`.
        """
        if self.ended:
            return []
        status = response["status"]
        type_ = "response.failed" if status == "cancelled" else f"response.{status}"
        return [*self.start(), self.event(type_, response=response)]

    def open(self, item: dict[str, Any]) -> tuple[int, list[Event]]:
        """(output_index, events) of a new item, added empty; a missing or repeated id is minted.

        `item` has a type and what identifies it: role, or call_id and name.
        """
        events = self.start()
        index = max(self._items, default=-1) + 1
        type_ = item["type"]
        added = {"id": "", **ZERO.get(type_, {}), **_present(item), "status": "in_progress"}
        for name in ZERO.get(type_, {}).keys() - {"role"}:
            added[name] = ZERO[type_][name]
        if type_ == "reasoning":
            added.pop("content", None)
        elif type_ in ("function_call", "custom_tool_call"):
            added["call_id"] = added.get("call_id") or new_id("call", self.now_ms)
            added.setdefault("name", "")
        said = {"", *(other.fields["id"] for other in self._items.values())}
        if added["id"] in said or added["id"] in self.taken:
            added["id"] = new_item_id(type_, self.now_ms)
        events.append(self.event("response.output_item.added", output_index=index, item=added))
        return index, events

    def id_of(self, index: int) -> str:
        """The id of the item at an output_index."""
        item_id: str = self._items[index].fields["id"]
        return item_id

    def type_of(self, index: int) -> str:
        """The type of the item at an output_index."""
        type_: str = self._items[index].fields["type"]
        return type_

    def is_open(self, index: int) -> bool:
        """Whether the item at an output_index is not done."""
        return not self._items[index].done

    def delta(
        self,
        index: int,
        kind: str,
        text: str,
        *,
        part: int | None = None,
        logprobs: list[Any] | None = None,
    ) -> list[Event]:
        """More text of an item; opens its part first, where that is not the one open now.

        `kind` is text, refusal, summary, reasoning, arguments or input. `part` is the upstream's
        number of the part: another number begins another part. An index past the last item opens an
        item that fits, as the next one. Nothing is written for an item that is done, nor for "",
        unless it has logprobs.
        """
        if not text and not logprobs:
            return []
        events: list[Event] = []
        if index not in self._items:
            index, events = self.open(self._unannounced(KINDS.get(kind, KINDS["summary"])))
        item = self._items[index]
        if item.done:
            return events
        wire = _kind(item, kind)
        if kind == "reasoning" and wire is KINDS["summary"] and part is not None:
            part = raw_number(part)
        target = item.texts[-1] if item.texts else None
        is_said = target is not None and target.kind is wire and target.text_done
        if target and is_said and (not wire.parts or target.asked == part):
            return events  # it was said in full before
        if (
            target is None
            or target.text_done
            or target.kind is not wire
            or (part is not None and part != target.asked)
        ):
            target, events_of_part = self._open_text(index, wire, part)
            events += events_of_part
        events.append(self._delta(index, target, text, logprobs))
        return events

    def annotate(self, index: int, annotation: dict[str, Any]) -> list[Event]:
        """An annotation of the item's open text part."""
        item = self._items[index]
        if item.done:
            return []
        events: list[Event] = []
        target = item.texts[-1] if item.texts else None
        if target is None or target.done or target.kind is not _TEXT:
            target, events = self._open_text(index, _TEXT, None)
        numbers = {"annotation_index": len(target.annotations), "annotation": annotation}
        events.append(
            self._of_text(index, target, "response.output_text.annotation.added", numbers)
        )
        return events

    def close(
        self, index: int, *, status: str = "completed", final: dict[str, Any] | None = None
    ) -> list[Event]:
        """The closing events of an item; none if it is done already.

        `final` is the upstream's finished item. Text it has beyond the deltas is written as a delta
        first, other fields are taken over. Where it contradicts the stream, the stream stays.
        """
        item = self._items[index]
        if item.done or self.ended:
            return []
        events = self._missing(index, final) if final else []
        if not item.texts and item.fields["type"] in KIND_OF_CALL:
            item.add(KIND_OF_CALL[item.fields["type"]])
        for text in item.texts:
            events += self._close_text(index, text)
        done = _finished(item.current(), status, final or {})
        events.append(self.event("response.output_item.done", output_index=index, item=done))
        return events

    def close_all(self, status: str = "completed") -> list[Event]:
        """The closing events of every open item, in index order."""
        return [event for at in sorted(self._items) for event in self.close(at, status=status)]

    def add(self, item: dict[str, Any]) -> list[Event]:
        """All events of a finished item."""
        index, events = self.open(item)
        return events + self.close(index, final=item)

    def _open_text(self, index: int, kind: Kind, asked: int | None) -> tuple[Text, list[Event]]:
        item = self._items[index]
        if not kind.parts:
            return item.add(kind), []
        events = [event for text in item.texts for event in self._close_text(index, text)]
        part: dict[str, Any] = {"type": kind.part_type, kind.text: ""}
        if kind is _TEXT:
            part |= {"annotations": [], "logprobs": []}
        text = item.add(kind)
        text.asked = text.position if asked is None else asked
        events.append(self._of_text(index, text, f"{kind.part_stem}.added", {"part": part}))
        return text, events

    def _delta(self, index: int, text: Text, delta: str, logprobs: list[Any] | None) -> Event:
        # Built by hand: this is what a stream consists of, and it costs a quarter of `event`.
        kind = text.kind
        event: Event = {
            "type": f"{kind.stem}.delta",
            "sequence_number": self._next,
            "item_id": self._items[index].fields["id"],
            "output_index": index,
        }
        if kind.parts:
            event[kind.index] = text.position
        event["delta"] = delta
        if kind is _TEXT:
            event["logprobs"] = logprobs or []
        self._next += 1
        self._unsent.append(event)
        text.take(delta, logprobs)
        return event

    def _close_text(self, index: int, text: Text) -> list[Event]:
        events: list[Event] = []
        kind = text.kind
        if not text.text_done:
            # Some clients read a call from its deltas alone, and arguments are always JSON.
            if kind.text == "arguments" and not text.text():
                events.append(self._delta(index, text, "{}", None))
            said: dict[str, Any] = {kind.text: text.text()}
            if kind is _TEXT:
                said["logprobs"] = text.logprobs.copy()
            events.append(self._of_text(index, text, f"{kind.stem}.done", said))
        if kind.parts and not text.done:
            events.append(
                self._of_text(index, text, f"{kind.part_stem}.done", {"part": text.as_part()})
            )
        return events

    def _of_text(self, index: int, text: Text, type_: str, fields: dict[str, Any]) -> Event:
        where = {text.kind.index: text.position} if text.kind.parts else {}
        item_id = self._items[index].fields["id"]
        return self.event(type_, item_id=item_id, output_index=index, **where, **fields)

    def _missing(self, index: int, final: dict[str, Any]) -> list[Event]:
        item = self._items[index]
        events: list[Event] = []
        for begun, finished in unsaid(item, final):
            text = begun
            if text is None:
                text, events_of_part = self._open_text(index, finished.kind, None)
                events += events_of_part
            if not text.text_done and text.kind is finished.kind:
                events += self._missing_of(index, text, finished)
        return events

    def _missing_of(self, index: int, text: Text, finished: Text) -> list[Event]:
        events: list[Event] = []
        said, whole, part = text.text(), finished.text(), finished.part
        logprobs = part.get("logprobs") or []
        if whole.startswith(said) and len(whole) > len(said):
            # Logprobs are matched to a delta only where the delta is the whole text.
            events.append(self._delta(index, text, whole[len(said) :], None if said else logprobs))
        text.logprobs = text.logprobs or [*logprobs]
        for annotation in (part.get("annotations") or ())[len(text.annotations) :]:
            events += self.annotate(index, annotation)
        text.part = {**_present(part), **text.part}
        return events


def _kind(item: OutputItem, kind: str) -> Kind:
    if kind == "arguments":
        return KIND_OF_CALL.get(item.fields["type"], KINDS[kind])
    if kind != "reasoning":
        return KINDS[kind]
    # Raw reasoning is shown as a summary, which every client can read, unless the client has been
    # sent the raw form already.
    is_raw = bool(item.texts) and item.texts[-1].kind is KINDS["raw"]
    return KINDS["raw" if is_raw else "summary"]


def _finished(item: dict[str, Any], status: str, final: dict[str, Any]) -> dict[str, Any]:
    if status == "completed" and final.get("status") in ("incomplete", "failed"):
        status = final["status"]
    if item["type"] in ZERO:
        # Of a hosted tool's call null fields are a part.
        said = final if item["type"] == "mcp_call" else _present(final)
        extra = {name: value for name, value in said.items() if name not in _STREAMED}
        return {**item, **extra, "status": status}
    kept = {name: item[name] for name in _IDENTITY if name in item}
    return {**item, **final, **kept, "status": status}


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    """Without nulls: strict clients take an optional field absent, not null."""
    return {name: value for name, value in fields.items() if value is not None}
