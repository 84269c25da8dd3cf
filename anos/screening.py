"""The guards of a profile at work: on a request, on a whole answer, and on a stream."""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
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
    before. Returns whether nothing was found, and no guard failed; moderation is yet to say so if
    the exchange has something `unjudged`. Raises GuardBlocked.
    """
    keywords, moderation = profile.settings.keywords, profile.settings.moderation
    has_words = profile.rules is not None and keywords.input != "off"
    moderator = profile.moderator if moderation.input != "off" else None
    if not has_words and moderator is None:
        return False
    found = call.found(resolved, recalled, with_tools=has_words and "tools" in keywords.sources)
    blocked = False
    if has_words:
        wanted = [x for x in found if x.source in keywords.sources]
        # What is joined, all of it the model's, is joined as it was masked.
        joined = call.joined() if "assistant" in keywords.sources else ()
        receipt = await _look(profile, "input", keywords.input, wanted, joined)
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
            if moderation.during_call and not call.background:
                exchange.unjudged = said
            else:
                receipt = await _judge(moderator, "input", moderation.input, said)
        exchange.receipts.append(receipt)
        blocked = blocked or receipt.action == "block"
    for receipt in exchange.receipts:
        receipt.trusted = trusted_bytes
    exchange.headers["anos-guards"] = _told(exchange.receipts)
    if blocked:
        raise GuardBlocked
    done = exchange.receipts if exchange.unjudged is None else exchange.receipts[:-1]
    return all(each.action == "pass" for each in done)


async def judge_request(profile: Profile, exchange: Exchange) -> str:
    """Judge what `screen_request` has left to be judged while the model is called.

    The receipt that said "skipped" until then says what came of it; its action is returned.
    """
    receipts, mode = exchange.receipts, profile.settings.moderation.input
    place = len(receipts) - 1
    assert profile.moderator is not None
    assert exchange.unjudged is not None
    receipt = await _judge(profile.moderator, "input", mode, exchange.unjudged)
    receipt.trusted = receipts[place].trusted
    receipts[place] = receipt
    exchange.headers["anos-guards"] = _told(receipts[: place + 1])
    return receipt.action


async def screen_answer(profile: Profile, exchange: Exchange, call: Call, answer: Answer) -> bool:
    """Look at a whole answer; whether something in it was masked. Raises GuardBlocked."""
    action, found = "pass", call.answered(answer)
    if profile.scans_words:
        mode = profile.settings.keywords.output
        receipt = await _look(profile, "output", mode, found, call.together(answer))
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


def screen_message(profile: Profile, receipts: list[Receipt], message: str) -> str:
    """What may be read of an upstream's words about an error: every match is covered."""
    if not profile.scans_words:
        return message
    shown = {"message": message}
    mode = "monitor" if profile.settings.keywords.output == "monitor" else "mask"
    found = Found("other", message, shown, "message", False, True)
    receipt = Receipt("keywords", "output", "pass")
    for _ in _turns(profile, receipt, mode, [[found]]):
        pass  # it is short
    receipts.append(receipt)
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


async def _look(profile: Profile, direction: str, mode: str, *looks: Iterable[Found]) -> Receipt:
    """Look for words in texts, and mask them if that is the mode; others get their turns."""
    receipt = Receipt("keywords", direction, "pass")
    for _ in _turns(profile, receipt, mode, looks):
        await asyncio.sleep(0)
    return receipt


def _turns(
    profile: Profile, receipt: Receipt, mode: str, looks: Iterable[Iterable[Found]]
) -> Iterator[None]:
    import anos.looking

    assert profile.rules is not None
    on_error = profile.settings.keywords.on_error
    return anos.looking.turns(profile.rules, receipt, mode, on_error, looks)


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
