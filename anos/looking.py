"""The search for words: short texts together, long ones in turns; what is found is masked."""

import logging
import time
from collections.abc import Iterable, Iterator

from anos.exchange import Receipt
from anos.extract import Found
from guards.escapes import plain
from guards.keywords import Rules
from guards.letters import JOINT
from guards.turns import Turns

logger = logging.getLogger("anos")

# After so many bytes, a few milliseconds, others get their turn.
_TURN_BYTES = 65_536
# So many bytes are searched together, with a few more between two texts; a text that is looked at
# by itself takes as long as so many bytes.
_BATCH_BYTES, _APART_BYTES, _ALONE_BYTES = 32_768, 8, 1_024


def turns(
    rules: Rules, receipt: Receipt, mode: str, on_error: str, looks: Iterable[Iterable[Found]]
) -> Iterator[None]:
    """Look, turn by turn, and mask if that is the mode; `receipt` says at the end what came of it.

    A look is asked for its texts when those of the looks before it are masked.
    """
    return _timed(receipt, _looking(rules, receipt, mode, on_error, looks))


def _timed(receipt: Receipt, turns: Iterator[None]) -> Iterator[None]:
    """The same turns; the receipt is told what they take, and not what is done between them."""
    spent_ns, is_over = 0, False
    while not is_over:
        started_ns = time.perf_counter_ns()
        is_over = next(turns, True) is True
        spent_ns += time.perf_counter_ns() - started_ns
        receipt.us = spent_ns // 1000
        if not is_over:
            yield


def _looking(
    rules: Rules, receipt: Receipt, mode: str, on_error: str, looks: Iterable[Iterable[Found]]
) -> Iterator[None]:
    seen: list[Found] = []
    work = 0
    try:
        for batch in _batches(receipt, seen, [*looks, _together(seen)]):
            for each in _unclear(rules, batch):
                for rule in (yield from _matches(rules, mode, each)):
                    receipt.rules[rule] = receipt.rules.get(rule, 0) + 1
                    if mode == "mask" and not each.writable:
                        mode = "block"  # what cannot be covered must not pass
                work += _ALONE_BYTES
                if work > _TURN_BYTES:
                    work = 0
                    yield
            work += _BATCH_BYTES
            if work > _TURN_BYTES:
                work = 0
                yield
    except Exception as exc:  # its message may quote the text
        logger.error("a guard failed: %s", type(exc).__name__)
        receipt.error = "failed"
    receipt.texts = len(seen)
    if receipt.error and on_error == "block":
        receipt.action = "block"
    elif receipt.rules:
        receipt.action = mode
    elif receipt.error:
        receipt.action = "error"


def _batches(
    receipt: Receipt, seen: list[Found], looks: Iterable[Iterable[Found]]
) -> Iterator[list[Found]]:
    """The texts of the looks, each look by itself; what is short is taken together."""
    sources = receipt.sources
    for look in looks:
        batch: list[Found] = []
        room = _BATCH_BYTES
        for each in look:
            text, source = each.text, each.source
            size = len(text) if text.isascii() else len(text.encode())
            seen.append(each)
            receipt.bytes += size
            sources[source] = sources.get(source, 0) + 1
            room -= size + _APART_BYTES
            if room < 0 and batch:
                yield batch
                batch, room = [], _BATCH_BYTES - size
            batch.append(each)
        if batch:
            yield batch


def _unclear(rules: Rules, batch: list[Found]) -> list[Found]:
    """Those that are to be looked at one by one: in the others one search has found nothing."""
    said = [plain(each.text) if each.is_json else each.text for each in batch]
    together = [text for text in said if text.isascii()]
    if not together or not rules.is_clear(together):
        return batch
    if len(together) == len(batch):
        return []
    return [each for each, text in zip(batch, said, strict=True) if not text.isascii()]


def _together(seen: list[Found]) -> Iterator[Found]:
    """What the parts of each message say together, as they are when they have been looked at."""
    messages: dict[int, list[Found]] = {}
    for each in seen:
        if each.parts is not None and len(each.parts) > 1:
            messages.setdefault(id(each.parts), []).append(each)
    for parts in messages.values():
        if len(parts) > 1:
            text = JOINT.join([each.container[each.key] for each in parts])
            yield Found(parts[0].source, text, None, "", False, False, parts)


def _matches(rules: Rules, mode: str, found: Found) -> Turns[list[str]]:
    if found.container is None and found.parts is not None:
        return (yield from _across(rules, found.text))
    most = 1 if mode == "block" else None
    matches = yield from rules.steps(found.text, is_json=found.is_json, most=most)
    if matches and mode == "mask" and found.writable:
        from anos.scanner_parts import masking

        covered, matches = yield from masking(rules, found.text, is_json=found.is_json)
        found.container[found.key] = covered
    return [match.rule for match in matches]


def _across(rules: Rules, text: str) -> Turns[list[str]]:
    """What lies across the joints of a text, however a model is given its parts."""
    matches = yield from rules.steps(text)
    if rules.patterns:
        matches += yield from rules.steps(text.replace(JOINT, "\n"))
    return [match.rule for match in {*matches} if JOINT in text[match.start : match.end]]
