"""The guards of a profile at work: on a request, on a whole answer, and on a stream."""

import logging
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from anos.calls import Call
from anos.config_sections import Config, GuardProfile, Keywords, Words, words_of
from anos.errors import GuardBlocked
from anos.extract import Found
from anos.items import Item
from anos.ledger import Exchange, Receipt
from anos.scanner import Scanned, masked
from anos.stream import Stream
from anos.upstream import MODERATIONS, Upstream
from guards.keywords import Pattern, Phrase, Rules

if TYPE_CHECKING:
    from anos.moderation import Moderator

logger = logging.getLogger("anos")


class Profile(Struct, frozen=True, eq=False):
    """The guards of the keys that name it; None where there is nothing to look for."""

    settings: GuardProfile
    rules: Rules | None
    moderator: "Moderator | None"

    @property
    def scans_words(self) -> bool:
        """Whether what a model answers is looked at for words."""
        return self.rules is not None and self.settings.keywords.output != "off"


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
) -> None:
    """Look at all that the model would see, and at what was left out of it: see `Call.found`.

    What is to be masked is masked in the call. Raises GuardBlocked.
    """
    keywords, moderation = profile.settings.keywords, profile.settings.moderation
    has_words = profile.rules is not None and keywords.input != "off"
    if not has_words and profile.moderator is None:
        return
    found = call.found(resolved, recalled)
    blocked = False
    if has_words:
        wanted = [each for each in found if each.source in keywords.sources]
        receipt = _look(profile, "input", keywords.input, wanted)
        exchange.receipts.append(receipt)
        blocked = receipt.action == "block"
        if receipt.action == "mask":
            call.masked()
    if profile.moderator is not None:
        receipt = Receipt("moderation", "input", "skipped")
        if not blocked:
            # Names of fields are no speech.
            said = [each for each in found if each.writable or each.source == "files"]
            texts = [each.text for each in said if each.source != "tools"]
            receipt = await _judge(profile.moderator, "input", moderation.input, texts)
        exchange.receipts.append(receipt)
        blocked = blocked or receipt.action == "block"
    exchange.headers["anos-guards"] = ", ".join(
        f"{each.guard}={each.action}" for each in exchange.receipts
    )
    if blocked:
        raise GuardBlocked


def screen_answer(profile: Profile, exchange: Exchange, found: list[Found]) -> bool:
    """Look at a whole answer; whether something in it was masked. Raises GuardBlocked."""
    receipt = _look(profile, "output", profile.settings.keywords.output, found)
    exchange.receipts.append(receipt)
    if receipt.action == "block":
        raise GuardBlocked
    return receipt.action == "mask"


def screened(profile: Profile, call: Call, stream: Stream, now_ms: int) -> Stream:
    """The stream, screened if the profile asks for it."""
    if not profile.scans_words or profile.rules is None:
        return stream
    return Scanned(stream, call.events(now_ms), profile.rules, profile.settings.keywords.output)


def receipt_of(scanned: Scanned) -> Receipt:
    """What the scanner of a stream has seen and done."""
    matched = bool(scanned.found)
    return Receipt(
        "keywords",
        "output",
        scanned.mode if matched else "pass",
        texts=scanned.texts,
        bytes=scanned.bytes,
        us=scanned.ns // 1000,
        rules=dict(scanned.found),
    )


def _look(profile: Profile, direction: str, mode: str, found: list[Found]) -> Receipt:
    """Look for words in texts, and mask them if that is the mode."""
    assert profile.rules is not None
    receipt = Receipt("keywords", direction, "pass")
    started_ns = time.perf_counter_ns()
    counts: Counter[str] = Counter()
    try:
        for each in found:
            matches = _matches(profile.rules, mode, each)
            counts.update(matches)
            if matches and mode == "mask" and not each.writable:
                mode = "block"  # what cannot be covered must not pass
    except Exception as exc:  # its message may quote the text
        logger.error("a guard failed: %s", type(exc).__name__)
        receipt.error = "failed"
    receipt.us = (time.perf_counter_ns() - started_ns) // 1000
    receipt.texts, receipt.bytes = len(found), sum(map(_bytes, found))
    receipt.sources = dict(Counter(each.source for each in found))
    receipt.rules = dict(counts)
    if receipt.error and profile.settings.keywords.on_error == "block":
        receipt.action = "block"
    elif counts:
        receipt.action = mode
    elif receipt.error:
        receipt.action = "error"
    return receipt


def _matches(rules: Rules, mode: str, found: Found) -> list[str]:
    if mode == "block" and not found.is_json:
        match = rules.first(found.text)
        return [] if match is None else [match.rule]
    matches = rules.scan_json(found.text) if found.is_json else rules.scan(found.text)
    if matches and mode == "mask" and found.writable:
        covered, matches = masked(rules, found.text, is_json=found.is_json)
        found.container[found.key] = covered
    return [match.rule for match in matches]


async def _judge(moderator: "Moderator", direction: str, mode: str, texts: list[str]) -> Receipt:
    role = "user" if direction == "input" else "assistant"
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


def _bytes(found: Found) -> int:
    return len(found.text) if found.text.isascii() else len(found.text.encode())


def _profile(settings: GuardProfile, upstreams: Mapping[str, Upstream]) -> Profile:
    moderation, moderator = settings.moderation, None
    if moderation.input != "off":
        from anos.moderation import Moderator  # not loaded where nothing asks for it

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
    return Profile(settings, _rules(settings.keywords), moderator)


def _rules(keywords: Keywords) -> Rules | None:
    if keywords.input == "off" and keywords.output == "off":
        return None
    phrases: list[Phrase] = []
    patterns: list[Pattern] = []
    input_only = keywords.output == "off"
    groups: dict[str, Keywords | Words] = {"": keywords, **keywords.groups}
    for name, words in groups.items():
        texts = [*words.phrases, *(word for file in words.files for word in words_of(file))]
        stem = f"{name}." if name else ""
        phrases += [
            Phrase(str(text), f"{stem}phrases[{number}]", name) for number, text in enumerate(texts)
        ]
        patterns += [
            Pattern(str(text), f"{stem}patterns[{number}]", name, input_only)
            for number, text in enumerate(words.patterns)
        ]
    if not phrases and not patterns:
        return None
    return Rules(phrases, patterns, [str(text) for text in keywords.allow])
