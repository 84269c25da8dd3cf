"""What comes of one canary: a guard of a profile on trial in the running gateway."""

import asyncio
import itertools
import json
import secrets
from collections.abc import Iterator
from typing import Any

import orjson
from msgspec import Struct, field

from anos.selftest_canary import (
    ESCAPED,
    FORMS,
    ID,
    JSON,
    RESPONSES,
    TEXT,
    Json,
    escapes,
    formed,
    put,
    said,
)
from anos.selftest_fields import Field, Place
from anos.selftest_matrix import (
    BLOCK,
    HOLE,
    MASK,
    NOTE,
    OFF,
    came_through,
    ends_filtered,
    failed,
    response_id,
    strings,
    worst,
)
from anos.selftest_wire import SAYS, Reply, Upstream, ask

# How a request is sent, and how an answer comes: streamed in one piece, CUT, or in LETTERS.
WHOLE, STREAM, CUT, LETTERS, BACKGROUND = "whole", "stream", "cut", "letters", "background"
_STORED = "/v1/responses"
_CALLS = ("function_call", "custom_tool_call")
_POLL_S = 0.005
# A settled row of the ledger, or the end of a response in the background, is there by then.
_POLLS = 400


class Case(Struct, frozen=True):
    """A canary on its way: in a request, or in the answer to one."""

    row: tuple[str, str]  # of the matrix
    column: str
    mode: str
    path: str
    dialect: str  # of the upstream
    body: Json  # of the request, without its model and mode; a mark stands for the text
    canary: str
    at: Field | Place
    pieces: list[str] = []  # in which an answer says the text


class Trial(Struct):
    """A guard of a profile on trial, and the gateway and the upstream it is tried with."""

    guard: str  # "keywords" or "moderation"
    input: str  # its modes
    output: str
    sources: tuple[str, ...]
    port: int
    upstream: Upstream
    key: str  # with the guard
    free: str  # of the same project, without guards
    admin: str
    numbers: Iterator[int] = field(default_factory=itertools.count)
    parents: dict[tuple[str, str], "asyncio.Future[str]"] = field(default_factory=dict)

    @property
    def is_on(self) -> bool:
        """Whether the guard looks at anything."""
        return (self.input, self.output) != ("off", "off")

    def wanted(self, source: str) -> str:
        """The mode in which texts of a source are to be looked at."""
        return self.input if source in self.sources else "off"

    def named(self, dialect: str, answer: tuple[Json, list[Json]] | None = None) -> tuple[str, str]:
        """What the upstream calls a new case, in which that is answered, and the model to ask."""
        name = f"case-{self.key[-8:]}-{next(self.numbers)}"
        self.upstream.will_say(name, *(answer or SAYS[dialect].said(["Well."])))
        return name, f"{dialect}/{name}"

    async def get(self, path: str, key: str) -> Any:
        """The JSON of a GET."""
        return (await ask(self.port, path, key)).documents()[0]


async def outcome(trial: Trial, case: Case) -> tuple[str, str]:
    """What comes of a canary, and what is wrong where that is a HOLE."""
    at, is_escaped = case.at, case.column == ESCAPED
    answer = at.said(case.pieces) if isinstance(at, Place) else None
    name, model = trial.named(case.dialect, answer)
    text = formed(at.form, said(case.canary), escaped=is_escaped)
    body = put(case.body, {**dict.fromkeys(FORMS, text), ID: f"rs_{name}"})
    if isinstance(at, Field) and at.stored:
        body = await _referring(trial, (at.stored, case.column), body, text)
    data = _encoded({**body, "model": model, **_mode(case)}, text if is_escaped else "")
    reply = await ask(trial.port, case.path, trial.key, data, f"selftest-{name}")
    told = reply.documents()
    is_running = case.mode == BACKGROUND and reply.status == 200
    later = [await _ended(trial, told[0])] if is_running else []
    asked = trial.upstream.end(name)
    if isinstance(at, Field):
        is_plain = at.form == TEXT or (at.form == JSON and not is_escaped)
        needle = case.canary if is_plain else text
        seen = strings(orjson.loads(asked)) if asked else ()
        return _of_request(trial, at, reply, any(needle in each for _, each in seen))
    if case.mode not in (STREAM, LETTERS):  # what is stored of a stream is the same as of CUT
        later += await _later(trial, [*told, *later])
    return await _of_answer(trial, at, reply, later, f"selftest-{name}")


def _mode(case: Case) -> Json:
    if case.mode == BACKGROUND:
        return {"background": True}
    # What need not be stored is not: most of the time would go into that.
    kept: Json = {"store": False} if isinstance(case.at, Field) else {}
    return kept if case.mode == WHOLE else {**kept, "stream": True}


def _encoded(body: Json, escaped: str) -> bytes:
    data = json.dumps(body, ensure_ascii=False)
    if escaped:
        data = data.replace(json.dumps(escaped, ensure_ascii=False)[1:-1], escapes(escaped))
    return data.encode()


# A request ----------------------------------------------------------------------------------------


def _of_request(trial: Trial, at: Field, reply: Reply, has_passed: bool) -> tuple[str, str]:
    mode, told = trial.wanted(at.source), reply.headers.get("anos-guards", "")
    if _is_filtered(reply):
        return (HOLE, "it was refused and sent") if has_passed else (BLOCK, "")
    if reply.status != 200:
        return HOLE, f"it could not be sent: {reply.body.decode(errors='replace')[:200]}"
    if mode == "off":
        return OFF, ""
    has_receipt = f"{trial.guard}={mode}" in told.split(", ")
    if mode == "monitor":
        return (NOTE, "") if has_receipt else (HOLE, "no receipt notes it")
    if mode == "mask" and has_receipt and not has_passed:
        return MASK, ""
    return HOLE, "the upstream was sent it" if has_passed else "nothing was found"


def _is_filtered(reply: Reply) -> bool:
    return reply.status == 400 and b'"content_filter_error"' in reply.body


async def _referring(trial: Trial, name: tuple[str, str], body: Json, text: str) -> Json:
    """A request for what a request without guards has stored, once for each canary."""
    stored, _ = name
    if name not in trial.parents:
        trial.parents[name] = asyncio.ensure_future(_store(trial, stored, body, text))
    found = await trial.parents[name]
    if stored.endswith("history"):
        return {"previous_response_id": found, "input": "Well?"}
    well = {"role": "user", "content": "Well?"}
    return {"input": [{"type": "item_reference", "id": found}, well]}


async def _store(trial: Trial, stored: str, body: Json, text: str) -> str:
    """The id of what was stored: of the response, or of its item that has the text."""
    is_answered = stored.startswith("answered")
    answer, _ = SAYS[RESPONSES].said([text if is_answered else "Well."])
    answer["output"][0]["id"] = f"msg_{secrets.token_hex(8)}"
    name, model = trial.named(RESPONSES, (answer, []))
    reply = await ask(trial.port, _STORED, trial.free, _encoded({**body, "model": model}, ""))
    trial.upstream.end(name)
    made = reply.documents()[0]
    if stored.endswith("history"):
        return str(made["id"])
    if is_answered:
        return str(made["output"][0]["id"])
    items = await trial.get(f"{_STORED}/{made['id']}/input_items", trial.free)
    return str(items["data"][0]["id"])


# An answer ----------------------------------------------------------------------------------------


async def _of_answer(
    trial: Trial, place: Place, reply: Reply, later: list[Any], request_id: str
) -> tuple[str, str]:
    told = reply.documents()
    found = worst([came_through(told), *(came_through([each]) for each in later)])
    if not reply.is_whole:
        return HOLE, "the answer was cut off"
    if _is_filtered(reply) or any(map(ends_filtered, [*told, *later])):
        found = worst([found, BLOCK])
    elif not place.is_error and (reply.status != 200 or any(map(failed, [*told, *later]))):
        return HOLE, f"the answer failed: {reply.body.decode(errors='replace')[-200:]}"
    if found == HOLE and trial.output == "off":
        return OFF, ""
    if found == HOLE and trial.output == "monitor":
        is_noted = await _is_noted(trial, request_id)
        return (NOTE, "") if is_noted else (HOLE, "no receipt notes it")
    return found, "the client was sent it" if found == HOLE else ""


async def _ended(trial: Trial, response: Json) -> Json:
    """The response that is carried out in the background, when it has ended."""
    for _ in range(_POLLS):
        if response["status"] not in ("queued", "in_progress"):
            break
        await asyncio.sleep(_POLL_S)
        response = await trial.get(f"{_STORED}/{response['id']}", trial.key)
    return response


async def _is_noted(trial: Trial, request_id: str) -> bool:
    """Whether the ledger has a receipt of it; its row is written behind the answer."""
    for _ in range(_POLLS):
        reply = await ask(trial.port, f"/admin/requests/{request_id}", trial.admin)
        if reply.status == 200:
            receipts = reply.documents()[0]["guards"]
            actions = {(each["guard"], each["direction"]): each["action"] for each in receipts}
            return actions.get((trial.guard, "output")) == "monitor"
        await asyncio.sleep(_POLL_S)
    return False


async def _later(trial: Trial, documents: list[Any]) -> list[Any]:
    """What is stored of the answer, as it is retrieved, and as what follows it inherits it."""
    made = next(filter(None, map(response_id, reversed(documents))), "")
    if not made:
        return []
    response = await trial.get(f"{_STORED}/{made}", trial.key)
    if response.get("status") not in ("completed", "incomplete"):
        return [response]
    name, model = trial.named(RESPONSES)
    # Calls of tools have to be answered if they were made in full.
    outputs = [
        {"type": f"{each['type']}_output", "call_id": each["call_id"], "output": "Well?"}
        for each in response["output"]
        if each["type"] in _CALLS and response["status"] == "completed"
    ]
    body = {"model": model, "previous_response_id": made, "input": outputs or "Well?"}
    child = await ask(trial.port, _STORED, trial.free, orjson.dumps(body))
    trial.upstream.end(name)
    items = await trial.get(f"{_STORED}/{child.documents()[0]['id']}/input_items", trial.key)
    return [response, *items["data"]]
