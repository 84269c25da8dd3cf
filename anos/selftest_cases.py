"""The canaries of one profile on their way through the running gateway."""

import asyncio
import itertools
import json
from collections.abc import Iterator
from typing import Any

import orjson
from msgspec import Struct, field

from anos import selftest_answers, selftest_completions
from anos.config_sections import Keywords
from anos.selftest_canary import AFTER, BEFORE, ESCAPED
from anos.selftest_matrix import BLOCK, HOLE, MASK, NOTE, OFF, strings
from anos.selftest_places import CHAT, ID, RESPONSES, TEXT, Field, Json, escapes, formed, put
from anos.selftest_wire import Reply, Upstream, ask

WHOLE, STREAM, BACKGROUND = "whole", "stream", "background"
_STORED = "/v1/responses"
_PLAIN = {RESPONSES: selftest_answers.PLACES[0], CHAT: selftest_completions.PLACES[0]}
_RUNNING = ("queued", "in_progress")
POLL_S = 0.005
# A settled row of the ledger, or the end of a response in the background, is there by then.
POLLS = 400


class Profile(Struct):
    """A profile that is tested, its keys, and the gateway and the upstream it is tested with."""

    port: int
    upstream: Upstream
    key: str  # with the guards of the profile
    free: str  # of the same project, without guards
    admin: str
    keywords: Keywords
    numbers: Iterator[int] = field(default_factory=itertools.count)
    parents: dict[tuple[str, str], "asyncio.Future[str]"] = field(default_factory=dict)

    def case(self, dialect: str) -> tuple[str, str]:
        """A new case: what the upstream calls it, and the model a client asks for."""
        case = f"case-{self.key[-8:]}-{next(self.numbers)}"
        return case, f"{dialect}/{case}"

    def answers(self, dialect: str, text: str = "Well.") -> tuple[Json, list[Json]]:
        """An answer that says a text, whole and as a stream."""
        place = _PLAIN[dialect]
        assert place.whole is not None
        assert place.stream is not None
        return place.whole(text), place.stream([text])

    async def get(self, path: str, key: str) -> Any:
        """The JSON of a GET."""
        return (await ask(self.port, "GET", path, key)).documents()[0]

    async def ended(self, reply: Reply, key: str) -> Json:
        """The response that is carried out in the background, when it has ended."""
        made: Json = reply.documents()[0]
        for _ in range(POLLS):
            if made["status"] not in _RUNNING:
                break
            await asyncio.sleep(POLL_S)
            made = await self.get(f"{_STORED}/{made['id']}", key)
        return made


def wanted(keywords: Keywords, source: str) -> str:
    """The mode in which a configuration that has rules wants texts of a source looked at."""
    return keywords.input if source in keywords.sources else "off"


class Sent(Struct, frozen=True):
    """One request with a canary in it."""

    path: str
    dialect: str  # of the upstream
    mode: str  # WHOLE, STREAM or BACKGROUND
    field: Field
    body: Json
    way: str
    canary: str


async def request_outcome(profile: Profile, sent: Sent) -> tuple[str, str]:
    """What comes of a canary in a request, and what is wrong where that is a HOLE."""
    field, is_escaped = sent.field, sent.way == ESCAPED
    text = formed(field.form, f"{BEFORE}{sent.canary}{AFTER}", escaped=is_escaped)
    case, model = profile.case(sent.dialect)
    body = put(sent.body, {TEXT: text, ID: f"rs_{case}"})
    if field.stored:
        body = await _referring(profile, sent, body, text)
    profile.upstream.will_say(case, *profile.answers(sent.dialect))
    data = _encoded({**body, "model": model, **_MODES[sent.mode]}, text if is_escaped else "")
    reply = await ask(profile.port, "POST", sent.path, profile.key, data)
    if reply.status == 200 and sent.mode == BACKGROUND:
        await profile.ended(reply, profile.key)
    asked = profile.upstream.end(case)
    is_text = field.form in ("text", "json") and not (is_escaped and field.form == "json")
    needle = sent.canary if is_text else text
    return _judged(profile, sent, reply, asked is not None and _has(asked, needle))


def _judged(profile: Profile, sent: Sent, reply: Reply, has_passed: bool) -> tuple[str, str]:
    mode = wanted(profile.keywords, sent.field.source)
    action = _actions(reply).get("keywords")
    if is_filtered(reply):
        return (HOLE, "it was refused and sent") if has_passed else (BLOCK, "")
    if reply.status != 200:
        return HOLE, f"it could not be sent: {reply.body.decode(errors='replace')[:200]}"
    if mode == "off":
        return OFF, ""
    if mode == "monitor":
        return (NOTE, "") if action == "monitor" else (HOLE, "no receipt notes it")
    if mode == "mask" and action == "mask" and not has_passed:
        return MASK, ""
    return HOLE, "the upstream was sent it" if has_passed else "nothing was found"


# What need not be stored is not: most of the time would go into that.
_MODES: dict[str, Json] = {
    WHOLE: {"store": False},
    STREAM: {"store": False, "stream": True},
    BACKGROUND: {"background": True},
}


def _encoded(body: Json, escaped: str) -> bytes:
    data = json.dumps(body, ensure_ascii=False)
    if escaped:
        data = data.replace(json.dumps(escaped, ensure_ascii=False)[1:-1], escapes(escaped))
    return data.encode()


def _has(asked: bytes, needle: str) -> bool:
    return any(needle in text for _, text in strings(orjson.loads(asked)))


def _actions(reply: Reply) -> dict[str, str]:
    said = reply.headers.get("anos-guards", "")
    return dict(each.split("=", 1) for each in said.split(", ") if each)


def is_filtered(reply: Reply) -> bool:
    """Whether the guards have refused it."""
    return reply.status == 400 and b'"content_filter_error"' in reply.body


async def _referring(profile: Profile, sent: Sent, body: Json, text: str) -> Json:
    """A request for what a request without guards has stored, once for each canary."""
    name = (sent.field.stored, sent.way)
    if name not in profile.parents:
        profile.parents[name] = asyncio.ensure_future(_store(profile, sent, body, text))
    found = await profile.parents[name]
    if sent.field.stored.endswith("history"):
        return {"previous_response_id": found, "input": "Well?"}
    reference = {"type": "item_reference", "id": found}
    return {"input": [reference, {"role": "user", "content": "Well?"}]}


async def _store(profile: Profile, sent: Sent, body: Json, text: str) -> str:
    """The id of what was stored: of the response, or of its item that has the text."""
    case, model = profile.case(RESPONSES)
    is_answered = sent.field.stored.startswith("answered")
    answer, _ = profile.answers(RESPONSES, text if is_answered else "Well.")
    answer["output"][0]["id"] = f"msg_{case}"
    profile.upstream.will_say(case, answer, [])
    data = _encoded({**body, "model": model}, "")
    reply = await ask(profile.port, "POST", _STORED, profile.free, data)
    profile.upstream.end(case)
    made = reply.documents()[0]
    if sent.field.stored.endswith("history"):
        return str(made["id"])
    if is_answered:
        return str(made["output"][0]["id"])
    items = await profile.get(f"{_STORED}/{made['id']}/input_items", profile.free)
    return str(items["data"][0]["id"])
