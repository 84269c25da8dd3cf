"""Asks what a text violates, within a deadline: the built-in rules, an endpoint, or a model.

The pure half is guards/moderation.py and guards/judges.py.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec
import orjson
from msgspec import Struct

from anos.errors import UpstreamError, UpstreamTimeout
from anos.upstream import Upstream
from guards.judges import Format, Question, format_of, questions
from guards.moderation import Verdict, builtin, load_builtin, merged, parse_endpoint

Backend = Literal["builtin", "endpoint", "model"]
OnError = Literal["block", "pass"]
Trouble = Literal["", "timeout", "down", "wrong answer"]

# Guards read a few thousand tokens at most.
_PIECE_CHARS = 8_000
_OVERLAP_CHARS = 200
# The built-in rules read this much in a few milliseconds; then others get their turn.
_TURN_CHARS = 64_000
_CACHED = 4_096
_AT_ONCE = 8  # calls for one text
_ALL_AT_ONCE = 64


class Judgement(Struct, frozen=True):
    """What a back end says about one text."""

    violated: tuple[str, ...]  # categories; "unavailable" if it could not be asked and must be
    scores: dict[str, float]
    error: Trouble
    cached: bool
    us: int
    bytes: int  # of the text


class Moderator:
    """One back end with its thresholds and its memory of verdicts."""

    def __init__(
        self,
        backend: Backend = "builtin",
        *,
        thresholds: Mapping[str, float] | None = None,
        deadline_ms: int = 2_000,
        on_error: OnError = "block",
        upstream: Upstream | None = None,
        model: str | None = None,
        format: Format | None = None,
    ) -> None:
        """`upstream` is there unless the back end is built in; an endpoint's has its own path.

        `format` is how a model is asked, None: as its name says. A model needs `model`. The
        upstream stays the caller's to close.
        """
        if backend == "builtin":
            load_builtin()  # before a request waits for it
        self.model = model
        self.backend = backend
        self._thresholds = thresholds or {}
        self._deadline_s = deadline_ms / 1000
        self._blocks_on_error = on_error == "block"
        self._upstream = upstream
        self._format: Format = format or format_of(model or "")
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()
        self._room = asyncio.Semaphore(_ALL_AT_ONCE)

    async def judge(self, text: str, role: str) -> Judgement:
        """What `text` violates; whatever is not the assistant's counts as the user's.

        Answers within the deadline and raises nothing. The built-in rules answer without a task
        switch up to 64,000 characters.
        """
        started_ns = time.perf_counter_ns()
        raw = text.encode("utf-8", "surrogatepass")
        author: Literal["user", "assistant"] = "assistant" if role == "assistant" else "user"
        key = self._key(author, raw)
        error: Trouble = ""
        if (verdict := self._verdicts.get(key)) is not None:
            self._verdicts.move_to_end(key)
            was_cached = True
        else:
            was_cached = False
            verdict, error = await self._ask(text, author)
            if not error:
                self._remember(key, verdict)
        violated = verdict.violated(self._thresholds)
        if error and self._blocks_on_error:
            violated += ("unavailable",)
        us = (time.perf_counter_ns() - started_ns) // 1000
        return Judgement(violated, dict(verdict.scores), error, was_cached, us, len(raw))

    def _key(self, role: str, raw: bytes) -> bytes:
        head = f"{self.backend}\0{self.model}\0{self._format}\0{role}\0".encode()
        return hashlib.sha256(head + raw).digest()

    def _remember(self, key: bytes, verdict: Verdict) -> None:
        self._verdicts[key] = verdict
        if len(self._verdicts) > _CACHED:
            self._verdicts.popitem(last=False)

    async def _ask(self, text: str, role: Literal["user", "assistant"]) -> tuple[Verdict, Trouble]:
        if not text.strip():
            return merged([]), ""
        deadline_s = asyncio.get_running_loop().time() + self._deadline_s
        if self.backend == "builtin":
            return await _builtin(text, deadline_s)
        calls = self._calls(text, role)
        verdicts: list[Verdict] = []
        errors: list[Trouble] = []

        async def work() -> None:
            for call in calls:
                if errors:  # the others cannot change that there was one
                    return
                try:
                    async with asyncio.timeout_at(deadline_s), self._room:
                        verdicts.append(await self._call(call))
                except (TimeoutError, UpstreamTimeout):
                    errors.append("timeout")
                except UpstreamError:
                    errors.append("down")
                except ValueError:
                    errors.append("wrong answer")

        await asyncio.gather(*[work() for _ in range(min(_AT_ONCE, 1 + len(text) // 100))])
        return merged(verdicts), errors[0] if errors else ""

    def _calls(
        self, text: str, role: Literal["user", "assistant"]
    ) -> Iterator[tuple[bytes, Question | None]]:
        """The bodies that are sent, and for a model how its answer is read."""
        for piece in _pieces(text, _PIECE_CHARS):
            if self.backend == "endpoint":
                model = {} if self.model is None else {"model": self.model}
                yield _encoded({**model, "input": piece}), None
                continue
            for question in questions(self._format, piece, role):
                yield _encoded(self._request(question)), question

    def _request(self, question: Question) -> dict[str, Any]:
        assert self._upstream is not None
        provider = self._upstream.provider
        chat = provider.dialect == "chat"
        body: dict[str, Any] = {"model": self.model}
        body["messages" if chat else "input"] = question.messages
        if not chat:
            body["store"] = False
        if question.cap:  # a guard; models that reason take neither a temperature nor a small cap
            cap_name = provider.quirks.max_tokens_field if chat else "max_output_tokens"
            body |= {"temperature": 0, cap_name: question.cap}
        return body

    async def _call(self, call: tuple[bytes, Question | None]) -> Verdict:
        """Raises UpstreamError, or ValueError for an answer that is none."""
        body, question = call
        assert self._upstream is not None
        answering = await self._upstream.post(body, stream=False)
        try:
            answer = await answering.read()
        finally:
            answering.close()
        if question is None:
            return parse_endpoint(answer)
        return question.read(_said(answer))


async def _builtin(text: str, deadline_s: float) -> tuple[Verdict, Trouble]:
    if len(text) <= _TURN_CHARS:
        return builtin(text), ""
    time_of = asyncio.get_running_loop().time
    verdicts: list[Verdict] = []
    for piece in _pieces(text, _TURN_CHARS):
        if time_of() > deadline_s:
            return merged(verdicts), "timeout"
        verdicts.append(builtin(piece))
        await asyncio.sleep(0)
    return merged(verdicts), ""


def _pieces(text: str, size: int) -> Iterator[str]:
    """The text in pieces of at most `size` characters, each with the end of the one before."""
    for start in range(0, max(1, len(text) - _OVERLAP_CHARS), size - _OVERLAP_CHARS):
        yield text[start : start + size]


def _encoded(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # half of a surrogate pair
        return orjson.dumps(_whole(body))


def _whole(body: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for name, value in body.items()
    }


class _Text(Struct):
    text: str = ""
    type: str = ""


class _Item(Struct):
    content: list[_Text] | None = None
    type: str = ""


class _Message(Struct):
    content: str


class _Choice(Struct):
    message: _Message


class _Said(Struct):
    """What of a whole answer is read, in either dialect."""

    choices: list[_Choice] | None = None
    output: list[_Item] | None = None


def _said(answer: bytes) -> str:
    """The text of a model's answer; ValueError if there is none."""
    try:
        said = msgspec.json.decode(answer, type=_Said)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError(f"not an answer of a model: {exc}") from None
    if said.choices:
        return said.choices[0].message.content
    parts = [
        part for item in said.output or () if item.type == "message" for part in item.content or ()
    ]
    if not parts:
        raise ValueError("an answer without text")
    return "".join([part.text for part in parts if part.type == "output_text"])
