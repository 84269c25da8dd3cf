"""The guards of a profile at work: on a request, on a whole answer, and on a stream."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import chain
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from anos import __version__
from anos.calls import Call
from anos.config_sections import SOURCES, Config, GuardProfile, Keywords, Words
from anos.config_values import words_of
from anos.errors import GuardBlocked, UpstreamError
from anos.exchange import Exchange, Receipt
from anos.extract import Found
from anos.items import Answer, Item
from anos.screened import Screened
from anos.stream import Stream
from anos.upstream import MODERATIONS, Upstream

# What looks and judges is loaded where somebody asks for it, and not before.
if TYPE_CHECKING:
    from anos.moderation import Moderator
    from guards.keywords import Rules
    from guards.turns import Turns

logger = logging.getLogger("anos")

# After so much text, a few milliseconds, others get their turn.
_TURN_CHARS = 65_536


class Profile(Struct, frozen=True, eq=False):
    """The guards of the keys that name it; None where there is nothing to look for."""

    settings: GuardProfile
    rules: "Rules | None"
    moderator: "Moderator | None"
    # Tells the guards of input from others; None: what they cleared cannot be trusted.
    version: str | None

    @property
    def scans_words(self) -> bool:
        """Whether what a model answers is looked at for words."""
        return self.rules is not None and self.settings.keywords.output != "off"

    @property
    def judges_answers(self) -> bool:
        """Whether what a model answers is moderated."""
        return self.moderator is not None and self.settings.moderation.output != "off"


def profiles_of(config: Config, upstreams: Mapping[str, Upstream]) -> dict[str, Profile]:
    """Every profile of a configuration, "default" among them; raises ValueError."""
    named = {"default": config.guards, **config.guards.profiles}
    return {name: _profile(each, upstreams) for name, each in named.items()}


async def screen_request(
    profile: Profile,
    exchange: Exchange,
    call: Call,
    resolved: Sequence[Item] = (),
    recalled: Collection[int] = (),
    trusted_bytes: int = 0,
) -> bool:
    """Look at all that the model would see, and at what was left out of it: see `Call.found`.

    What is to be masked is masked in the call. `trusted_bytes` are those of what was cleared
    before. Returns whether nothing was found, and no guard failed. Raises GuardBlocked.
    """
    keywords, moderation = profile.settings.keywords, profile.settings.moderation
    has_words = profile.rules is not None and keywords.input != "off"
    moderator = profile.moderator if moderation.input != "off" else None
    if not has_words and moderator is None:
        return False
    found = call.found(resolved, recalled)
    blocked = False
    if has_words:
        # What is joined is joined as it was masked, so it comes last.
        wanted = (x for x in chain(found, call.joined()) if x.source in keywords.sources)
        receipt = await _look(profile, "input", keywords.input, wanted)
        exchange.receipts.append(receipt)
        blocked = receipt.action == "block"
        if receipt.action == "mask":
            call.masked()
    if moderator is not None:
        receipt = Receipt("moderation", "input", "skipped")
        if not blocked:
            # Names of fields are no speech.
            said = [x for x in found if x.writable or x.source == "files"]
            said = [x for x in said if x.source != "tools"]
            receipt = await _judge(moderator, "input", moderation.input, said)
        exchange.receipts.append(receipt)
        blocked = blocked or receipt.action == "block"
    for receipt in exchange.receipts:
        receipt.trusted = trusted_bytes
    exchange.headers["anos-guards"] = _told(exchange.receipts)
    if blocked:
        raise GuardBlocked
    return all(each.action == "pass" for each in exchange.receipts)


async def screen_answer(profile: Profile, exchange: Exchange, call: Call, answer: Answer) -> bool:
    """Look at a whole answer; whether something in it was masked. Raises GuardBlocked."""
    action, found = "pass", call.answered(answer)
    if profile.scans_words:
        words = chain(found, call.together(answer))
        receipt = await _look(profile, "output", profile.settings.keywords.output, words)
        exchange.receipts.append(receipt)
        action = receipt.action
    is_blocked = action == "block"
    if profile.judges_answers and profile.moderator is not None:
        from anos.extract_readers import is_name
        from anos.windows import is_speech

        receipt = Receipt("moderation", "output", "skipped")
        if not is_blocked:
            mode = profile.settings.moderation.output
            # A word in a field beside the items is a setting that the upstream repeats.
            said = [x for x in found if x.source != "other" or not is_name(x.text)]
            receipt = await _judge(profile.moderator, "output", mode, [*filter(is_speech, said)])
        exchange.receipts.append(receipt)
        is_blocked = is_blocked or receipt.action == "block"
    receipts = [each for each in exchange.receipts if each.direction == "output"]
    exchange.headers["anos-guards-output"] = _told(receipts)
    if is_blocked:
        raise GuardBlocked
    return action == "mask"


def screen_message(profile: Profile, exchange: Exchange, message: str) -> str:
    """What a client may read of an upstream's words about an error: every match is covered."""
    if not profile.scans_words:
        return message
    shown = {"message": message}
    mode = "monitor" if profile.settings.keywords.output == "monitor" else "mask"
    found = Found("other", message, shown, "message", False, True)
    receipt = Receipt("keywords", "output", "pass")
    for _ in _timed(receipt, _searching(profile, receipt, mode, [found])):
        pass  # it is short
    exchange.receipts.append(receipt)
    return shown["message"] if receipt.action != "block" else UpstreamError.message


def screened(profile: Profile, call: Call, stream: Stream, now_ms: int, hold_s: float) -> Screened:
    """The stream behind the guards that the profile asks for.

    What waits to be judged waits `hold_s`.
    """
    scanned = judged = None
    if profile.scans_words and profile.rules is not None:
        from anos.scanner import Scanned

        words = profile.settings.keywords
        events = call.events(now_ms)
        stream = scanned = Scanned(stream, events, profile.rules, words.output, words.on_error)
    if profile.judges_answers and profile.moderator is not None:
        from anos.judging import Judged
        from anos.windows import Windows

        moderation = profile.settings.moderation
        mode, on_error = moderation.output, moderation.on_error
        events = call.events(now_ms)
        stream = windows = Windows(stream, events, holds=mode == "block", on_error=on_error)
        judged = Judged(windows, profile.moderator, mode, hold_s=hold_s)
    return Screened(stream, scanned, judged)


async def _look(profile: Profile, direction: str, mode: str, found: Iterable[Found]) -> Receipt:
    """Look for words in texts, and mask them if that is the mode; others get their turns."""
    receipt = Receipt("keywords", direction, "pass")
    for _ in _timed(receipt, _searching(profile, receipt, mode, found)):
        await asyncio.sleep(0)
    return receipt


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


def _searching(
    profile: Profile, receipt: Receipt, mode: str, found: Iterable[Found]
) -> Iterator[None]:
    """Look, turn by turn; `receipt` says at the end what came of it."""
    assert profile.rules is not None
    counts: Counter[str] = Counter()
    seen: list[Found] = []
    taken = 0
    try:
        for each in chain(found, _together(seen)):
            if taken > _TURN_CHARS:
                taken = 0
                yield
            taken += len(each.text)
            seen.append(each)
            matches = yield from _matches(profile.rules, mode, each)
            counts.update(matches)
            if matches and mode == "mask" and not each.writable:
                mode = "block"  # what cannot be covered must not pass
    except Exception as exc:  # its message may quote the text
        logger.error("a guard failed: %s", type(exc).__name__)
        receipt.error = "failed"
    receipt.texts, receipt.bytes = len(seen), sum(map(_bytes, seen))
    receipt.sources = dict(Counter(each.source for each in seen))
    receipt.rules = dict(counts)
    if receipt.error and profile.settings.keywords.on_error == "block":
        receipt.action = "block"
    elif counts:
        receipt.action = mode
    elif receipt.error:
        receipt.action = "error"


def _together(seen: list[Found]) -> Iterator[Found]:
    """What the parts of each message say together, as they are when they have been looked at."""
    messages: dict[int, list[Found]] = {}
    for each in seen:
        if each.parts is not None and len(each.parts) > 1:
            messages.setdefault(id(each.parts), []).append(each)
    for parts in messages.values():
        if len(parts) > 1:
            from guards.letters import JOINT

            text = JOINT.join([each.container[each.key] for each in parts])
            yield Found(parts[0].source, text, None, "", False, False, parts)


def _matches(rules: "Rules", mode: str, found: Found) -> "Turns[list[str]]":
    if found.container is None and found.parts is not None:
        return (yield from _across(rules, found.text))
    most = 1 if mode == "block" else None
    matches = yield from rules.steps(found.text, is_json=found.is_json, most=most)
    if matches and mode == "mask" and found.writable:
        from anos.scanner_parts import masking

        covered, matches = yield from masking(rules, found.text, is_json=found.is_json)
        found.container[found.key] = covered
    return [match.rule for match in matches]


def _across(rules: "Rules", text: str) -> "Turns[list[str]]":
    """What lies across the joints of a text, however a model is given its parts."""
    from guards.letters import JOINT

    matches = yield from rules.steps(text)
    if rules.patterns:
        matches += yield from rules.steps(text.replace(JOINT, "\n"))
    return [match.rule for match in {*matches} if JOINT in text[match.start : match.end]]


async def _judge(moderator: "Moderator", direction: str, mode: str, said: list[Found]) -> Receipt:
    role = "user" if direction == "input" else "assistant"
    # As they were masked: that is what the model, or the client, would get.
    texts = [x.container[x.key] if x.writable else x.text for x in said]
    text = "\n\n".join(texts)  # a sentence ends with its text
    judgement = await moderator.judge(text, role)
    receipt = Receipt("moderation", direction, "pass", texts=len(texts))
    receipt.bytes, receipt.us = judgement.bytes, judgement.us
    receipt.error = judgement.error
    receipt.rules = dict.fromkeys(judgement.violated, 1)
    if judgement.violated:
        receipt.action = mode
    elif judgement.error:
        receipt.action = "error"
    return receipt


def _told(receipts: list[Receipt]) -> str:
    return ", ".join([f"{each.guard}={each.action}" for each in receipts])


def _bytes(found: Found) -> int:
    return len(found.text) if found.text.isascii() else len(found.text.encode())


def _profile(settings: GuardProfile, upstreams: Mapping[str, Upstream]) -> Profile:
    moderation, moderator = settings.moderation, None
    if moderation.input != "off" or moderation.output != "off":
        from anos.moderation import Moderator

        path = MODERATIONS if moderation.backend == "endpoint" else ""
        upstream = upstreams[moderation.provider + path] if moderation.provider else None
        moderator = Moderator(
            moderation.backend,
            thresholds=moderation.thresholds,
            deadline_ms=moderation.deadline_ms,
            on_error=moderation.on_error,
            upstream=upstream,
            model=moderation.model,
        )
    words = _words(settings.keywords)
    return Profile(settings, _rules(settings.keywords, words), moderator, _version(settings, words))


# The phrases and patterns of each group, "" among them.
_Words = dict[str, tuple[list[str], list[str]]]


def _words(keywords: Keywords) -> _Words:
    groups: dict[str, Keywords | Words] = {"": keywords, **keywords.groups}
    return {
        name: (
            [*map(str, words.phrases), *(word for file in words.files for word in words_of(file))],
            [*map(str, words.patterns)],
        )
        for name, words in groups.items()
    }


def _rules(keywords: Keywords, groups: _Words) -> "Rules | None":
    if (keywords.input == "off" and keywords.output == "off") or not any(
        phrases or patterns for phrases, patterns in groups.values()
    ):
        return None
    from guards.keywords import Pattern, Phrase, Rules

    phrases: list[Phrase] = []
    patterns: list[Pattern] = []
    input_only = keywords.output == "off"
    for name, (texts, expressions) in groups.items():
        stem = f"{name}." if name else ""
        phrases += [
            Phrase(text, f"{stem}phrases[{number}]", name) for number, text in enumerate(texts)
        ]
        patterns += [
            Pattern(text, f"{stem}patterns[{number}]", name, input_only)
            for number, text in enumerate(expressions)
        ]
    return Rules(phrases, patterns, [str(text) for text in keywords.allow])


def _version(settings: GuardProfile, words: _Words) -> str | None:
    keywords, moderation = settings.keywords, settings.moderation
    if not set(SOURCES).issubset(keywords.sources):  # its turn was over, and it was not looked at
        return None
    judging = moderation if moderation.input != "off" else None
    looked = (
        __version__,
        keywords.input,
        keywords.sources,
        [*map(str, keywords.allow)],
        words,
        judging,
    )
    return blake2b(msgspec.json.encode(looked), digest_size=8).hexdigest()
