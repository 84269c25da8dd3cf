"""The canaries that an upstream says, on their way back through the running gateway."""

import asyncio
from typing import Any

import orjson
from msgspec import Struct

from anos.selftest_canary import AFTER, BEFORE
from anos.selftest_cases import BACKGROUND, POLL_S, POLLS, WHOLE, Profile, is_filtered
from anos.selftest_matrix import BLOCK, HOLE, NONE, NOTE, OFF, ORDER, came_through
from anos.selftest_places import Json, Place, formed, halves
from anos.selftest_wire import ask

CUT, LETTERS = "cut", "letters"
_ASKED: dict[str, Json] = {
    "/v1/responses": {"input": "Hi"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
}
_RESPONSES = "/v1/responses"
# What is stored of a stream is the same, however it was cut.
_STORED_MODES = (WHOLE, CUT, BACKGROUND)


class Said(Struct, frozen=True):
    """One answer with a canary in it."""

    route: str  # as in the table of the fields
    path: str
    place: Place
    mode: str  # WHOLE; or streamed in one piece, CUT or in LETTERS; or BACKGROUND
    canary: str
    is_escaped: bool = False


async def answer_outcome(profile: Profile, said: Said) -> tuple[str, str]:
    """What comes of a canary in an answer, and what is wrong where that is a HOLE."""
    place = said.place
    if (place.whole if said.mode == WHOLE else place.stream) is None:
        return NONE, ""
    case, model = profile.case(place.dialect)
    profile.upstream.will_say(case, *_script(said))
    modes: dict[str, Json] = {WHOLE: {}, BACKGROUND: {"background": True}}
    body = {**_ASKED[said.route], "model": model, **modes.get(said.mode, {"stream": True})}
    request_id = f"selftest-{case}"
    reply = await ask(profile.port, "POST", said.path, profile.key, orjson.dumps(body), request_id)
    answer, later = reply.documents(), []
    if said.mode == BACKGROUND and reply.status == 200:
        later = [await profile.ended(reply, profile.key)]
    if said.mode in _STORED_MODES:
        later += await _later(profile, [*answer, *later])
    profile.upstream.end(case)
    outcomes = [came_through(answer), *(came_through([each]) for each in later)]
    outcome = min(outcomes, key=ORDER.index)
    if not reply.is_whole:
        return HOLE, "the answer was cut off"
    if is_filtered(reply) or any(map(_ends_filtered, [*answer, *later])):
        outcome = min(outcome, BLOCK, key=ORDER.index)
    elif not place.is_error and (reply.status != 200 or any(map(_failed, [*answer, *later]))):
        return HOLE, f"the answer failed: {reply.body.decode(errors='replace')[-200:]}"
    return await _judged(profile, outcome, request_id)


async def _judged(profile: Profile, outcome: str, request_id: str) -> tuple[str, str]:
    mode = profile.keywords.output
    if outcome == HOLE and mode == "off":
        return OFF, ""
    if outcome == HOLE and mode == "monitor":
        is_noted = await _noted(profile, request_id)
        return (NOTE, "") if is_noted else (HOLE, "no receipt notes it")
    return outcome, "the client was sent it" if outcome == HOLE else ""


def _script(said: Said) -> tuple[Json | None, list[Json]]:
    """The answer of the upstream, whole and as a stream."""
    place = said.place
    text = formed(place.form, f"{BEFORE}{said.canary}{AFTER}", escaped=said.is_escaped)
    pieces = [text]
    if said.mode in (CUT, BACKGROUND):
        core = formed(place.form, said.canary, escaped=said.is_escaped)
        core = core[6:-2] if place.form == "json" else core
        at = text.index(core)
        pieces = [text[:at], *halves(core), text[at + len(core) :]]
    elif said.mode == LETTERS:
        pieces = list(text)
    whole = place.whole(text) if place.whole is not None else None
    return whole, place.stream(pieces) if place.stream is not None else []


async def _later(profile: Profile, documents: list[Any]) -> list[Any]:
    """What is stored of the answer, as it is retrieved, and as what follows it inherits it."""
    made = next(filter(None, map(_response_id, reversed(documents))), "")
    if not made:
        return []
    response = await profile.get(f"{_RESPONSES}/{made}", profile.key)
    if response.get("status") not in ("completed", "incomplete"):
        return [response]
    case, model = profile.case("responses")
    profile.upstream.will_say(case, *profile.answers("responses"))
    body = {"model": model, "previous_response_id": made, "input": "Well?"}
    child = await ask(profile.port, "POST", _RESPONSES, profile.free, orjson.dumps(body))
    profile.upstream.end(case)
    path = f"{_RESPONSES}/{child.documents()[0]['id']}/input_items"
    items = await profile.get(path, profile.key)
    return [response, *items["data"]]


def _response_id(document: Any) -> str:
    found = document.get("response", document)
    return found["id"] if found.get("object") == "response" else ""


def _ends_filtered(document: Any) -> bool:
    found = document.get("response", document)
    if (found.get("incomplete_details") or {}).get("reason") == "content_filter":
        return True
    choices = found.get("choices") or ()
    return any(choice.get("finish_reason") == "content_filter" for choice in choices)


def _failed(document: Any) -> bool:
    found = document.get("response", document)
    return bool(found.get("error")) or found.get("type") == "error"


async def _noted(profile: Profile, request_id: str) -> bool:
    """Whether the ledger has a receipt of it; its row is written behind the answer."""
    path = f"/admin/requests/{request_id}"
    for _ in range(POLLS):
        reply = await ask(profile.port, "GET", path, profile.admin)
        if reply.status == 200:
            receipts = reply.documents()[0]["guards"]
            actions = {(each["guard"], each["direction"]): each["action"] for each in receipts}
            return actions.get(("keywords", "output")) == "monitor"
        await asyncio.sleep(POLL_S)
    return False
