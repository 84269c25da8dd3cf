"""What goes into a turn: the items of `input` in canonical form, and the history before them.

https://platform.openai.com/docs/api-reference/responses/create#responses-create-input
"""

from collections.abc import Callable, Container, Iterable, Sequence, Set
from typing import Any

from anos.errors import InvalidRequest
from anos.items import Item, new_id, new_item_id
from anos.validation import Path, missing, path_of, wrong_type

ROLES = frozenset({"user", "assistant", "system", "developer"})
# The client runs these itself, and the model waits for what they say.
_OWN_CALLS = frozenset({"function_call", "custom_tool_call"})
_UNFINISHED = frozenset({"in_progress", "incomplete"})


def normalise_input(value: Any, now_ms: int, first: int = 0) -> list[Item]:
    """The canonical items of a request's `input`: a string, a list of items, or None (no items).

    Every item gets a `type` and an `id`, and `status: completed` where its type has a status and it
    has none; messages get their content as parts; nulls are dropped. `{"id": …}` alone is an item
    reference. Items and parts of types unknown to us pass. Raises InvalidRequest with a `param`
    like `input[2].content[0].text`; of a part of the list `first` is the place of its first item.
    """
    if type(value) is str:
        return [_plain_message("user", value, now_ms)]
    if value is None:
        return []
    if type(value) is not list:
        raise wrong_type("input", "a string or an array of items", value)
    return [_item(given, index, now_ms) for index, given in enumerate(value, first)]


def _plain_message(role: str, text: str, now_ms: int) -> Item:
    return {
        "type": "message",
        "id": new_id("msg", now_ms),
        "status": "completed",
        "role": role,
        "content": [_text_part(role, text)],
    }


def _text_part(role: str, text: str) -> Item:
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": []}
    return {"type": "input_text", "text": text}


def _item(given: Any, index: int, now_ms: int) -> Item:
    if type(given) is dict and len(given) == 2:
        # Most items are {"role": …, "content": "…"}; the general way takes five times as long.
        role, text = given.get("role"), given.get("content")
        if type(text) is str and type(role) is str and role in ROLES:
            return _plain_message(role, text, now_ms)
    at: Path = ("input", index)
    item = _without_nulls(given, at)
    kind = _string(item, "type", at) if "type" in item else _implied_type(item, at)
    if kind == "item_reference":
        return {"type": kind, "id": _id(item, at)}
    minted = not item.get("id")
    known = {
        "type": kind,
        "id": new_item_id(kind, now_ms) if minted else _id(item, at),
    }
    if kind == "reasoning":
        return {**item, **known, **_reasoning(item, at)}
    shape = _SHAPES.get(kind)
    if shape is None:
        return {**item, **known}
    known["status"] = _string(item, "status", at) if "status" in item else "completed"
    return {**item, **known, **shape(item, at)}


def _implied_type(item: Item, at: Path) -> str:
    if "role" in item:
        return "message"
    if item.keys() == {"id"}:
        return "item_reference"
    raise missing(path_of((*at, "type")))


def _message(item: Item, at: Path) -> Item:
    role = _string(item, "role", at)
    if role not in ROLES:
        param = path_of((*at, "role"))
        raise InvalidRequest(
            f"Invalid value for '{param}': expected 'user', 'assistant', 'system' or 'developer'.",
            param=param,
        )
    content = item.get("content")
    if type(content) is str:
        return {"content": [_text_part(role, content)]}
    return {"content": _parts(content, (*at, "content"), role)}


def _parts(parts: Any, at: Path, role: str) -> list[Item]:
    if parts is None:
        raise missing(path_of(at))
    if type(parts) is not list:
        raise wrong_type(path_of(at), "a string or an array of content parts", parts)
    return [_part(part, (*at, index), role) for index, part in enumerate(parts)]


def _part(given: Any, at: Path, role: str) -> Item:
    part = _without_nulls(given, at)
    kind = _string(part, "type", at)
    if kind == "input_text" or kind == "output_text":
        text = _string(part, "text", at)
        # Some clients write assistant history as input_text, which no upstream accepts.
        if kind == "output_text" or role == "assistant":
            return {"annotations": [], **part, "type": "output_text", "text": text}
    elif kind == "refusal":
        _string(part, "refusal", at)
    elif kind == "input_image":
        _one_of(part, ("image_url", "file_id"), at)
        return {"detail": "auto", **part}
    elif kind == "input_file":
        _one_of(part, ("file_data", "file_id", "file_url"), at)
    return part


def _function_call(item: Item, at: Path) -> Item:
    _filled(item, "call_id", at)
    _filled(item, "name", at)
    return {"arguments": _string(item, "arguments", at) or "{}"}


def _custom_tool_call(item: Item, at: Path) -> Item:
    _filled(item, "call_id", at)
    _filled(item, "name", at)
    return {"input": _string(item, "input", at)}


def _tool_output(item: Item, at: Path) -> Item:
    # An output without call_id answers no call of the model; then `name` says what it is of.
    if "call_id" in item or "name" not in item:
        _filled(item, "call_id", at)
    output = item.get("output")
    return {"output": output if type(output) is str else _parts(output, (*at, "output"), "user")}


def _reasoning(item: Item, at: Path) -> Item:
    for name in ("summary", "content"):
        parts = item.get(name, [])
        if type(parts) is not list:
            raise wrong_type(path_of((*at, name)), "an array", parts)
        for index, part in enumerate(parts):
            place = (*at, name, index)
            _string(_without_nulls(part, place), "text", place)
    if "encrypted_content" in item:
        _string(item, "encrypted_content", at)
    return {"summary": item.get("summary", [])}


_SHAPES: dict[str, Callable[[Item, Path], Item]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _tool_output,
    "custom_tool_call": _custom_tool_call,
    "custom_tool_call_output": _tool_output,
}


def _without_nulls(given: Any, at: Path) -> Item:
    if type(given) is not dict:
        raise wrong_type(path_of(at), "an object", given)
    if None not in given.values():
        return given
    return {name: value for name, value in given.items() if value is not None}


def _string(item: Item, name: str, at: Path) -> str:
    value = item.get(name)
    if type(value) is str:
        return value
    if value is None:
        raise missing(path_of((*at, name)))
    raise wrong_type(path_of((*at, name)), "a string", value)


def _filled(item: Item, name: str, at: Path) -> str:
    value = _string(item, name, at)
    if not value:
        raise missing(path_of((*at, name)))
    return value


def _id(item: Item, at: Path) -> str:
    value = _filled(item, "id", at)
    if len(value) > 256 or not value.isprintable() or value.isspace():
        param = path_of((*at, "id"))
        raise InvalidRequest(
            f"Invalid value for '{param}': expected at most 256 printable characters.", param=param
        )
    return value


def _one_of(part: Item, names: tuple[str, ...], at: Path) -> None:
    for name in names:
        if name in part:
            _string(part, name, at)
            return
    raise missing(path_of((*at, names[0])))


def distinct(history: list[Item], items: list[Item], ids: Set[str], now_ms: int) -> list[Item]:
    """The items as they are kept: one with an id that came before, in either, has a new one.

    `ids` are those of both. Whoever pages through a conversation goes on after an id, which then
    must name one place.
    """
    if len(ids) == len(history) + len(items):
        return items
    seen = {item["id"] for item in history}
    kept = []
    for item in items:
        if item["id"] in seen:
            item = {**item, "id": new_item_id(item["type"], now_ms)}
        seen.add(item["id"])
        kept.append(item)
    return kept


def check_tool_pairs(items: Iterable[Item]) -> None:
    """Refuse (InvalidRequest, param `input`) an output whose call does not come before it.

    And a call of a client's own tool that nothing answers. `items` is the whole context, history
    first. Clients that replay a conversation rely on the refusal to learn that the gateway does not
    know their call.
    """
    calls = set()
    waiting: dict[str, str] = {}
    for item in items:
        call_id = item.get("call_id")
        if call_id is None:
            continue
        if _is_call(item):
            calls.add(call_id)
            if item["type"] in _OWN_CALLS:
                waiting[call_id] = item["type"]
        elif _is_output(item):
            if call_id not in calls:
                raise _unpaired("call", item["type"], "with call_id ", call_id)
            waiting.pop(call_id, None)
    for call_id, kind in waiting.items():
        raise _unpaired("output", kind, "", call_id)


def _unpaired(what: str, kind: str, by: str, call_id: object) -> InvalidRequest:
    name = kind.replace("_", " ")
    return InvalidRequest(
        f"No tool {what} found for {name} {by}{str(call_id)[:64]}.", param="input"
    )


def replayable(
    history: Sequence[Item], new_input: Sequence[Item], *, keep_reasoning: bool, said: int = 0
) -> list[Item]:
    """What of `history` the next call can carry, in order, as new items where they change.

    Left out are calls that were not finished or that nothing answers, neither in the history nor in
    `new_input`, messages that say nothing, and reasoning: without encrypted content, before an item
    that was left out, or all of it unless `keep_reasoning`. Items that followed left-out reasoning
    lose their id, since OpenAI refuses such an id without its reasoning. Of the last items, which a
    completed response `said`, unanswered calls of a client's own tool stay: it owes their outputs.
    """
    dropped = _unanswered(history, new_input, len(history) - said)
    for index, item in enumerate(history):
        if item["type"] == "reasoning":
            is_useless = not (keep_reasoning and item.get("encrypted_content"))
        else:
            is_useless = item["type"] == "message" and not item["content"]
        if is_useless:
            dropped.add(index)
    return _without(history, dropped)


def readable(
    items: Sequence[Item], recalled: Container[int], *, keep_reasoning: bool
) -> list[Item]:
    """A request's own items without reasoning that no upstream could read.

    That is reasoning which is neither encrypted nor raw. Items at the positions `recalled` are not
    the client's but the store's: their reasoning is treated as in `replayable`.
    """
    dropped = set()
    for index, item in enumerate(items):
        if item["type"] == "reasoning":
            is_ours = index in recalled
            says = item.get("encrypted_content") or (not is_ours and item.get("content"))
            if not says or (is_ours and not keep_reasoning):
                dropped.add(index)
    return _without(items, dropped)


def is_bare_reasoning(item: Item) -> bool:
    """Whether a client replays reasoning as it was shown: a summary, which no upstream can read."""
    return item["type"] == "reasoning" and not (
        item.get("encrypted_content") or item.get("content")
    )


def _without(items: Sequence[Item], dropped: set[int]) -> list[Item]:
    """The items but those, and but reasoning they followed: OpenAI refuses it without them."""
    if not any(item["type"] == "reasoning" for item in items):
        return [item for index, item in enumerate(items) if index not in dropped]
    has_follower = False
    for index in reversed(range(len(items))):
        if items[index]["type"] == "reasoning" and not has_follower:
            dropped.add(index)
        if index not in dropped:
            has_follower = _is_models(items[index])
    kept: list[Item] = []
    is_orphan = False  # the reasoning that led to these items was left out
    for index, item in enumerate(items):
        if item["type"] == "reasoning":
            is_orphan = index in dropped
        elif not _is_models(item):
            is_orphan = False
        if index not in dropped:
            kept.append({k: v for k, v in item.items() if k != "id"} if is_orphan else item)
    return kept


def _unanswered(history: Sequence[Item], new_input: Sequence[Item], owed: int) -> set[int]:
    """Positions of unfinished and unanswered calls, and of outputs whose call is one of them.

    Not of own calls from the position `owed` on that only lack an output. Some upstreams use a
    call_id again in a later turn, so calls are matched in order.
    """
    items = [*history, *new_input]
    waiting: dict[str, int] = {}
    dropped: set[int] = set()
    for index, item in enumerate(items):
        call_id = item.get("call_id")
        if call_id is None:
            continue
        if _is_call(item):
            if call_id in waiting:
                dropped.add(waiting[call_id])
            if item.get("status") in _UNFINISHED:
                dropped.add(index)
            waiting[call_id] = index
        elif _is_output(item):
            call = waiting.pop(call_id, None)
            if call is None or call in dropped:
                dropped.add(index)
    return dropped.union(
        index
        for index in waiting.values()
        if index < owed or items[index]["type"] not in _OWN_CALLS
    )


def _is_call(item: Item) -> bool:
    kind: str = item["type"]
    return kind.endswith("_call") or kind == "program"


def _is_output(item: Item) -> bool:
    kind: str = item["type"]
    return kind.endswith("_output")


def _is_models(item: Item) -> bool:
    if item["type"] == "message":
        return bool(item["role"] == "assistant")
    return not _is_output(item)
