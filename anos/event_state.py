"""What a Responses stream has said so far: the fold of its events, whoever wrote them.

And of an item that is finished, what the stream has not said of it.

Events: https://platform.openai.com/docs/api-reference/responses-streaming
"""

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct, field

from anos.items import new_item_id


class Kind(Struct, frozen=True):
    """How one kind of growing text is named on the wire."""

    stem: str  # of its delta and done events
    text: str  # the field that holds it, in the done event and in the part or item
    parts: str = ""  # the item's list of parts; "" where the text is a field of the item itself
    index: str = ""
    part_stem: str = ""
    part_type: str = ""


def _content(stem: str, part_type: str, text: str = "text") -> Kind:
    return Kind(stem, text, "content", "content_index", "response.content_part", part_type)


_SUMMARY_PART = ("summary", "summary_index", "response.reasoning_summary_part", "summary_text")
KINDS = {
    "text": _content("response.output_text", "output_text"),
    "refusal": _content("response.refusal", "refusal", "refusal"),
    "summary": Kind("response.reasoning_summary_text", "text", *_SUMMARY_PART),
    "raw": _content("response.reasoning_text", "reasoning_text"),
    "arguments": Kind("response.function_call_arguments", "arguments"),
    "input": Kind("response.custom_tool_call_input", "input"),
    "mcp": Kind("response.mcp_call_arguments", "arguments"),
}
KIND_OF_PART = {kind.part_type: kind for kind in KINDS.values() if kind.parts}
# Items with one text, which is a field of their own.
KIND_OF_CALL = {
    "function_call": KINDS["arguments"],
    "custom_tool_call": KINDS["input"],
    "mcp_call": KINDS["mcp"],
}
# The items whose text streams, as they are before their first delta. Items of every other type
# (hosted tools, extensions) are passed on as their upstream wrote them.
ZERO: dict[str, dict[str, Any]] = {
    "message": {"role": "assistant", "content": []},
    "reasoning": {"summary": []},
    "function_call": {"arguments": ""},
    "custom_tool_call": {"input": ""},
    "mcp_call": {"arguments": ""},
}
_DELTAS = {f"{kind.stem}.delta": kind for kind in KINDS.values()}
_DONES = {f"{kind.stem}.done": kind for kind in KINDS.values()}
_PARTS = {f"{kind.part_stem}.{end}" for kind in KIND_OF_PART.values() for end in ("added", "done")}
_TERMINAL = {"response.completed", "response.incomplete", "response.failed"}


class Text(Struct, eq=False):
    """One growing text: a content or summary part, or the arguments or input of a call."""

    kind: Kind
    position: int  # among the item's parts of the same list
    asked: int  # the number its upstream gave it
    part: dict[str, Any] = field(default_factory=dict)
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    annotations: list[Any] = field(default_factory=list)
    text_done: bool = False
    done: bool = False

    def take(self, delta: str, logprobs: Iterable[Any] | None) -> None:
        """Grow by one delta."""
        self.pieces.append(delta)
        if logprobs:
            self.logprobs += logprobs

    def text(self) -> str:
        """The whole text so far."""
        if len(self.pieces) > 1:
            self.pieces = ["".join(self.pieces)]
        return self.pieces[0] if self.pieces else ""

    def as_part(self) -> dict[str, Any]:
        """The content or summary part as far as it is known."""
        if self.done:
            return self.part
        part = {**self.part, "type": self.kind.part_type, self.kind.text: self.text()}
        if self.kind is KINDS["text"]:
            part |= {"annotations": self.annotations.copy(), "logprobs": self.logprobs.copy()}
        return part


class OutputItem(Struct, eq=False):
    """One output item; `fields` is how it was added until it is done, then how it was done."""

    fields: dict[str, Any]
    texts: list[Text] = field(default_factory=list)
    done: bool = False

    def current(self) -> dict[str, Any]:
        """The item as far as it is known."""
        if self.done:
            return self.fields
        item = dict(self.fields)
        for text in self.texts:
            if not text.kind.parts:
                item[text.kind.text] = text.text()
            elif text.position == 0:
                item[text.kind.parts] = [t.as_part() for t in self.of_list(text.kind.parts)]
        return item

    def of_list(self, parts: str) -> list[Text]:
        """The texts in one of the item's lists, "content" or "summary"."""
        return [text for text in self.texts if text.kind.parts == parts]

    def find(self, kind: Kind, position: Any) -> Text | None:
        """The text at a position of its list; calls have but one."""
        for text in reversed(self.texts):
            if not kind.parts or (text.kind.parts == kind.parts and text.position == position):
                return text
        return None

    def add(self, kind: Kind) -> Text:
        """A new text at the end of its list."""
        position = len(self.of_list(kind.parts))
        text = Text(kind, position, position)
        self.texts.append(text)
        return text


class StreamState:
    """The output items of a stream and how far it is, from the events `observe` is given."""

    def __init__(self, now_ms: int) -> None:
        self.created = False
        self.started = False
        self.ended = False
        self.now_ms = now_ms
        self._next = 0  # the next sequence_number
        self._items: dict[int, OutputItem] = {}  # by output_index

    @property
    def items(self) -> list[dict[str, Any]]:
        """The output items so far, in order; open ones in their partial form."""
        return [self._items[index].current() for index in sorted(self._items)]

    def observe(self, event: dict[str, Any]) -> None:
        """Take into account an event the client was sent by someone else; unknown ones are fine."""
        number = event.get("sequence_number")
        self._next = number + 1 if isinstance(number, int) else self._next + 1
        self._apply(event)

    def _apply(self, event: dict[str, Any]) -> None:
        type_ = event["type"]
        index = event.get("output_index")
        if isinstance(index, int):
            self._apply_to_item(type_, index, event)
        elif type_ == "response.created":
            self.created = True
        elif type_ == "response.in_progress":
            self.created = self.started = True
        elif type_ in _TERMINAL:
            self.created = self.started = self.ended = True

    def _apply_to_item(self, type_: str, index: int, event: dict[str, Any]) -> None:
        if type_ in _DELTAS:
            if isinstance(delta := event.get("delta"), str):
                self._text_of(_DELTAS[type_], event).take(delta, event.get("logprobs"))
        elif type_ in _DONES:
            text = self._text_of(_DONES[type_], event)
            text.text_done = True
            if isinstance(whole := event.get(text.kind.text), str):
                text.pieces = [whole]
        elif type_ in _PARTS:
            self._apply_part(event.get("part") or {}, event)
        elif type_ == "response.output_item.added":
            self._items[index] = _added(event["item"])
        elif type_ == "response.output_item.done":
            self._items[index] = OutputItem(event["item"], done=True)
        elif type_ == "response.output_text.annotation.added":
            self._text_of(KINDS["text"], event).annotations.append(event.get("annotation"))

    def _apply_part(self, part: dict[str, Any], event: dict[str, Any]) -> None:
        kind = KIND_OF_PART.get(part.get("type", ""))
        if kind is None:
            return
        text = self._text_of(kind, event)
        text.part = part
        text.done = event["type"].endswith(".done")
        text.text_done = text.text_done or text.done

    def _text_of(self, kind: Kind, event: dict[str, Any]) -> Text:
        # An item or part that nobody announced counts as open from its first event.
        item = self._items.get(event["output_index"])
        if item is None:
            added = self._unannounced(kind)
            added["id"] = event.get("item_id") or new_item_id(added["type"], self.now_ms)
            item = self._items[event["output_index"]] = OutputItem(added)
        return item.find(kind, event.get(kind.index)) or item.add(kind)

    def _unannounced(self, kind: Kind) -> dict[str, Any]:
        type_ = next((name for name, own in KIND_OF_CALL.items() if own is kind), "")
        type_ = type_ or ("reasoning" if kind.part_stem.endswith("summary_part") else "message")
        return {"type": type_, "status": "in_progress", **ZERO[type_]}


def _added(fields: dict[str, Any]) -> OutputItem:
    item = OutputItem(fields)
    if fields.get("type") in ZERO:
        # Parts that came with the item were not announced one by one: they are as they are.
        for part in [*(fields.get("summary") or ()), *(fields.get("content") or ())]:
            if kind := KIND_OF_PART.get(part.get("type", "")):
                text = item.add(kind)
                text.part, text.text_done, text.done = part, True, True
    return item


def raw_number(part: int) -> int:
    """Raw part 0 is not summary part 0, though both are shown as summaries."""
    return -1 - part


def _final_texts(item: OutputItem, final: dict[str, Any]) -> list[Text]:
    """The texts of a finished item as they would be shown, with the upstream's numbers."""
    own = KIND_OF_CALL.get(item.fields["type"])
    if own is not None:
        return [_final_text(own, 0, 0, final)]
    texts: list[Text] = []
    if item.fields["type"] not in ZERO:
        return texts
    is_raw = any(text.kind is KINDS["raw"] for text in item.texts)
    counts = {"summary": 0, "content": 0}
    for name in counts:
        for number, part in enumerate(final.get(name) or ()):
            kind, asked = KIND_OF_PART.get(part.get("type", "")), number
            if kind is KINDS["raw"] and not is_raw:
                kind, asked = KINDS["summary"], raw_number(number)
                part = {**part, "type": kind.part_type}
            if kind is not None:
                texts.append(_final_text(kind, counts[kind.parts], asked, part))
                counts[kind.parts] += 1
    return texts


def _final_text(kind: Kind, position: int, asked: int, part: dict[str, Any]) -> Text:
    whole = part.get(kind.text)
    return Text(kind, position, asked, part, [whole] if isinstance(whole, str) else [])


_Unsaid = list[tuple[Text | None, Text]]
# What tells which finished text is which of the stream's, the surest first.
_MARKS: list[Callable[[Text], Any]] = [
    lambda text: (text.kind.parts, text.asked),
    lambda text: (text.kind.parts, text.position),
    lambda text: text.text(),
]


def unsaid(item: OutputItem, final: dict[str, Any]) -> _Unsaid:
    """The texts of a finished item that may say more, each with that of the stream it goes on.

    That is None for a new part. Upstreams leave parts out, number them anew or cut them elsewhere:
    a mark is trusted if by it every text of the stream is one that ended as it began.
    """
    texts, finals = item.texts, _final_texts(item, final)
    if not texts:
        return [(None, final) for final in finals]
    attempts = [_paired(mark, texts, finals) for mark in _MARKS]
    whole = [pairs for pairs in attempts if _has_each_once(pairs, texts)]
    for pairs in whole:
        if all(_goes_on(text, final) for text, final in _begun(pairs)):
            return [*_begun(pairs), *_new(pairs, "")]
    said = "".join([text.text() for text in texts])
    if "".join([final.text() for final in finals]).startswith(said):
        return _beyond(len(said), texts[-1], finals)
    # They contradict each other: what may have been said is not said again.
    guess = [*whole, attempts[1]][0]
    return [*_begun(guess), *_new(guess, said)]


def _paired(mark: Callable[[Text], Any], texts: list[Text], finals: list[Text]) -> _Unsaid:
    marked = {mark(text): text for text in texts}
    return [(marked.get(mark(final)), final) for final in finals]


def _has_each_once(pairs: _Unsaid, texts: list[Text]) -> bool:
    return sorted(id(text) for text, _ in _begun(pairs)) == sorted(map(id, texts))


def _goes_on(text: Text, final: Text) -> bool:
    said, whole = text.text(), final.text()
    is_fine = said == whole if text.text_done else whole.startswith(said)
    return is_fine and text.kind is final.kind


def _begun(pairs: _Unsaid) -> list[tuple[Text, Text]]:
    return [(text, final) for text, final in pairs if text is not None]


def _new(pairs: _Unsaid, said: str) -> _Unsaid:
    return [pair for pair in pairs if pair[0] is None and pair[1].text() not in said]


def _beyond(said: int, last: Text, finals: list[Text]) -> _Unsaid:
    """What the finished texts say after so many characters; one that is cut there goes on."""
    unsaid: _Unsaid = []
    for final in finals:
        whole = final.text()
        if 0 < said < len(whole):
            part = {**final.part, final.kind.text: last.text() + whole[said:]}
            unsaid.append((last, _final_text(final.kind, 0, 0, part)))
        elif not said and whole:
            unsaid.append((None, final))
        said = max(said - len(whole), 0)
    return unsaid
