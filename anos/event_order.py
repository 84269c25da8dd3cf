"""The order of a conforming Responses stream: while it is kept, nothing has to be written anew.

Events: https://platform.openai.com/docs/api-reference/responses-streaming
"""

from collections.abc import Container
from typing import Any

from anos.event_state import KIND_OF_CALL, KINDS, ZERO, Kind
from anos.items import Item
from anos.shapes import conforms, is_item_id

LIFECYCLE = frozenset({"response.created", "response.queued", "response.in_progress"})
TERMINAL = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
)
_ADDED, _DONE = "response.output_item.added", "response.output_item.done"
_ANNOTATION = "response.output_text.annotation.added"
# Raw reasoning is missing: it is shown as a summary, which every client can read.
_SHOWN = [kind for kind in KINDS.values() if kind is not KINDS["raw"]]
DELTAS = {f"{kind.stem}.delta": kind for kind in _SHOWN}
_SAID = {f"{kind.stem}.done": kind for kind in _SHOWN}
# The kinds of parts that begin and end with an event, by the type of the part.
_PARTS: dict[str, dict[Any, Kind]] = {
    f"{stem}.{end}": {kind.part_type: kind for kind in _SHOWN if kind.part_stem == stem}
    for stem in {kind.part_stem for kind in _SHOWN if kind.parts}
    for end in ("added", "done")
}
# Which items hold them.
_HOLDER = {KINDS["text"]: "message", KINDS["refusal"]: "message", KINDS["summary"]: "reasoning"}
_OF_ITEM = {"output_index", "item_id"}
_OF_ITEMS = {_DONE, _ANNOTATION, *DELTAS, *_SAID, *_PARTS}
_IDENTITY = ("type", "role", "call_id", "name")
# The text of an item or part: not there, growing, or said in full.
_NO_TEXT, _GROWS, _IS_SAID = range(3)


class Deviation(Exception):
    """The upstream left the order of events."""


class OpenItem:
    """An output item that is added and not done, and how far its text is."""

    __slots__ = ("_state", "added", "annotations", "counts", "id", "index", "is_spoken", "kind")

    def __init__(self, index: int, added: Item) -> None:
        self.index = index
        self.id: str = added["id"]
        self.added = added
        self.kind: Kind | None = KIND_OF_CALL.get(added["type"])
        self.counts = {"content": 0, "summary": 0}
        self.annotations = 0
        self.is_spoken = False  # a delta has come
        self._state = _GROWS if self.kind else _NO_TEXT

    @property
    def grows(self) -> bool:
        """Whether a delta may come."""
        return self._state == _GROWS

    @property
    def place(self) -> bytes:
        """How the events of its open text name it, where they are written as OpenAI does."""
        kind = self.kind
        if kind is None or not kind.parts:
            return f'"item_id":"{self.id}","output_index":{self.index},'.encode()
        part = self.counts[kind.parts] - 1
        where = f'"item_id":"{self.id}","output_index":{self.index},"{kind.index}":{part},'
        return where.encode()

    def about_text(self, kind: Kind | None, event: dict[str, Any]) -> bool:
        """Whether the event is about the open text, which is of that kind."""
        return (
            kind is not None
            and kind is self.kind
            and event.get("item_id") == self.id
            and (not kind.parts or event.get(kind.index) == self.counts[kind.parts] - 1)
        )

    def begin(self, kind: Kind) -> int:
        """A part begins; its number."""
        self.kind, self._state = kind, _GROWS
        self.annotations, self.is_spoken = 0, False
        self.counts[kind.parts] += 1
        return self.counts[kind.parts] - 1

    def ends(self, type_: str) -> bool:
        """Whether the text or its part ends with an event of that type; then it has."""
        if self._state == _GROWS and self.is_spoken and _SAID.get(type_) is self.kind:
            self._state = _IS_SAID
            return True
        kind = self.kind
        if (
            self._state == _IS_SAID
            and kind is not None
            and type_.endswith(".done")
            and _PARTS.get(type_, {}).get(kind.part_type) is kind
        ):
            self._state, self.kind = _NO_TEXT, None
            return True
        return False

    def is_done_as(self, item: Any) -> bool:
        """Whether `item` is what was streamed, as far as that was looked at."""
        if not conforms(item) or item["id"] != self.id:
            return False
        added, type_ = self.added, item["type"]
        for name in _IDENTITY:
            if item.get(name) != added.get(name):
                return False
        if type_ in KIND_OF_CALL:
            return self._state == _IS_SAID
        return self._state == _NO_TEXT and (
            type_ not in ZERO
            or (
                len(item.get("content") or ()) == self.counts["content"]
                and len(item.get("summary") or ()) == self.counts["summary"]
            )
        )


class Order:
    """Checks a stream event by event: items are added before their text and done after it.

    `done` are the finished items by output_index, `open` the others. `taken` are the ids of the
    items before the answer.
    """

    def __init__(self, taken: Container[str]) -> None:
        self.done: dict[int, Item] = {}
        self.open: dict[int, OpenItem] = {}
        self._ids: set[str] = set()
        self._taken = taken

    def output(self) -> list[Item]:
        """The finished items in order."""
        return [self.done[index] for index in sorted(self.done)]

    def check(self, type_: str, event: dict[str, Any]) -> OpenItem | None:
        """The item the event is about, if any; raises Deviation if it may not stand here."""
        if type_ == _ADDED:
            return self._add(event, event.get("item") or {"type": ""})
        item = self.open.get(event.get("output_index", -1))
        if item is None or event.get("item_id", item.id) != item.id:
            # Whatever names no item is nobody's business here.
            if type_ in LIFECYCLE or type_ in _OF_ITEMS or "_call" in type_:
                raise Deviation
            if not _OF_ITEM.isdisjoint(event):
                raise Deviation
            return None
        if type_ in DELTAS:
            is_fine = item.grows and item.about_text(DELTAS[type_], event)
            is_fine = is_fine and type(event.get("delta")) is str
            item.is_spoken = True
        elif type_ == _DONE:
            is_fine = item.is_done_as(event.get("item"))
            if is_fine:
                self.done[item.index] = event["item"]
                del self.open[item.index]
        elif type_ in _PARTS:
            is_fine = _part(item, type_, event, event.get("part") or {})
        elif type_ in _SAID:
            is_fine = _said(item, type_, event)
        elif type_ == _ANNOTATION:
            is_fine = item.about_text(KINDS["text"], event) and bool(event.get("annotation"))
            is_fine = is_fine and event.get("annotation_index") == item.annotations
            item.annotations += 1
        else:
            # Raw, or one of the other names servers have for reasoning.
            is_fine = not type_.startswith("response.reasoning")
        if not is_fine:
            raise Deviation
        return item

    def _add(self, event: dict[str, Any], item: Item) -> OpenItem:
        index = len(self._ids)
        if (
            event.get("output_index") != index
            or not is_item_id(item.get("id"))
            or item["id"] in self._ids
            or item["id"] in self._taken
            or (item["type"] in ZERO and not _is_empty(item))
        ):
            raise Deviation
        self._ids.add(item["id"])
        self.open[index] = added = OpenItem(index, item)
        return added


def _part(item: OpenItem, type_: str, event: dict[str, Any], part: dict[str, Any]) -> bool:
    kind = _PARTS[type_].get(part.get("type"))
    if kind is None:
        return False
    if type_.endswith("done"):
        is_text = type(part.get(kind.text)) is str
        return is_text and item.about_text(kind, event) and item.ends(type_)
    return (
        item.kind is None
        and item.added["type"] == _HOLDER[kind]
        and part.get(kind.text) == ""
        and not part.get("annotations")
        and event.get("item_id") == item.id
        and event.get(kind.index) == item.begin(kind)
    )


def _said(item: OpenItem, type_: str, event: dict[str, Any]) -> bool:
    kind = _SAID[type_]
    text = event.get(kind.text)
    # A text without any delta is for those who read the deltas alone an empty one.
    if text == "" and kind is not KINDS["arguments"]:
        item.is_spoken = True
    return type(text) is str and item.about_text(kind, event) and item.ends(type_)


def _is_empty(item: Item) -> bool:
    type_ = item["type"]
    if item.get("status", "in_progress") != "in_progress":
        return False
    if None in item.values() and type_ != "mcp_call":
        return False
    if type_ in ("function_call", "custom_tool_call"):
        for name in ("call_id", "name"):
            if type(item.get(name)) is not str or not item[name]:
                return False
    for name, value in ZERO[type_].items():
        if item.get(name) != value:
            return False
    return not item.get("content")
