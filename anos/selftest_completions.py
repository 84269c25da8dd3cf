"""Every place of a chat completion that can carry text, in the answer of an upstream.

https://platform.openai.com/docs/api-reference/chat/object and /chat-streaming
"""

from collections.abc import Callable
from typing import Any

from anos.selftest_places import CHAT, Json, Place, halves, tokens

_WHOLE = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "selftest"}
_USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}

Make = Callable[[str], Json]


def _choice(message: Json, index: int = 0, **fields: Any) -> Json:
    said = {"role": "assistant", "content": None, **message}
    return {"index": index, "message": said, "logprobs": None, "finish_reason": "stop", **fields}


def _completion(*choices: Json, **fields: Any) -> Json:
    whole = {**_WHOLE, "object": "chat.completion", "usage": _USAGE}
    return {**whole, "choices": list(choices), **fields}


def _delta(delta: Json, index: int = 0, **fields: Any) -> Json:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **fields}


def _chunks(*choices: Json, **fields: Any) -> list[Json]:
    """A stream: the first delta of each choice, what is said, and the end of each choice."""
    indexes = sorted({0, *(each["index"] for each in choices)})
    begun = [_delta({"role": "assistant", "content": ""}, index) for index in indexes]
    ended = [_delta({}, index, finish_reason="stop") for index in indexes]
    whole = {**_WHOLE, "object": "chat.completion.chunk"}
    said = [{**whole, "choices": [each], **fields} for each in (*begun, *choices, *ended)]
    return [*said, {**whole, "choices": [], "usage": _USAGE}]


def _growing(name: str, make: Make, form: str = "text") -> Place:
    """What stands in a message as it does in a delta."""

    def stream(pieces: list[str]) -> list[Json]:
        return _chunks(*(_delta(make(each)) for each in pieces))

    return Place(name, CHAT, lambda text: _completion(_choice(make(text))), stream, form)


def _call(name: str, make: Make, form: str = "text", **first: Any) -> Place:
    """What a call is made with; `first` is what only its first fragment says."""

    def call(text: str, **fields: Any) -> Json:
        return {"tool_calls": [{"index": 0, **fields, **make(text)}]}

    begun: Json = {"id": "call_1", "type": "function", **first}

    def stream(pieces: list[str]) -> list[Json]:
        deltas = [call(each, **(begun if at == 0 else {})) for at, each in enumerate(pieces)]
        return _chunks(*map(_delta, deltas))

    def whole(text: str) -> Json:
        return _completion(_choice(call(text, **begun)))

    return Place(name, CHAT, whole, stream, form)


def _fixed(name: str, make: Make) -> Place:
    """What stands in a message, and all of it in one delta."""

    def stream(pieces: list[str]) -> list[Json]:
        return _chunks(_delta(make("".join(pieces))))

    return Place(name, CHAT, lambda text: _completion(_choice(make(text))), stream)


def _beside(name: str, make: Make) -> Place:
    """What stands beside the message in a choice, and all of it beside one delta."""

    def stream(pieces: list[str]) -> list[Json]:
        return _chunks(_delta({"content": "Well."}, **make("".join(pieces))))

    def whole(text: str) -> Json:
        return _completion(_choice({"content": "Well."}, **make(text)))

    return Place(name, CHAT, whole, stream)


def _extra(name: str, make: Make) -> Place:
    """What stands beside the choices, all of it in one chunk."""

    def stream(pieces: list[str]) -> list[Json]:
        return _chunks(_delta({"content": "Well."}), **make("".join(pieces)))

    def whole(text: str) -> Json:
        return _completion(_choice({"content": "Well."}), **make(text))

    return Place(name, CHAT, whole, stream)


def _function(**fields: str) -> Json:
    return {"function": {"name": "find", **fields}}


def _logprobs(pieces: list[str], kind: str) -> Json:
    return {"logprobs": {"content": None, "refusal": None, kind: tokens(pieces)}}


def _tokens(kind: str) -> Place:
    """What the tokens spell."""
    return Place(
        "logprobs",
        CHAT,
        lambda text: _completion(_choice({"content": "Well."}, **_logprobs(halves(text), kind))),
        lambda pieces: _chunks(
            *(_delta({"content": "Well."}, **_logprobs([each], kind)) for each in pieces)
        ),
    )


def _other_tokens(text: str) -> Json:
    token = {**tokens(["Well."])[0], "top_logprobs": tokens([text])}
    return {"logprobs": {"content": [token], "refusal": None}}


def _second(pieces: list[str]) -> list[Json]:
    said = [[_delta({"content": "I "}), _delta({"content": each}, 1)] for each in pieces]
    return _chunks(*(each for pair in said for each in pair))


def _annotation(text: str) -> Json:
    citation = {"url": "https://example.com", "title": text}
    return {"annotations": [{"type": "url_citation", "url_citation": citation}]}


PLACES = (
    _growing("text", lambda t: {"content": t}),
    _fixed("text, in parts", lambda t: {"content": [{"type": "text", "text": t}]}),
    _growing("refusal", lambda t: {"refusal": t}),
    _growing("reasoning_content", lambda t: {"reasoning_content": t}),
    _growing("reasoning", lambda t: {"reasoning": t}),
    _growing("reasoning_details", lambda t: {"reasoning_details": [{"index": 0, "text": t}]}),
    _fixed(
        "reasoning, in parts",
        lambda t: {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": t}]}]},
    ),
    _call("function call", lambda t: _function(arguments=t), "json"),
    _call("function call", lambda t: _function(arguments=t)),
    _call("custom tool call", lambda t: {"custom": {"name": "find", "input": t}}, type="custom"),
    Place(
        "function call, name",
        CHAT,
        lambda t: _completion(_choice({"tool_calls": [{"id": "call_1", "function": {"name": t}}]})),
        lambda pieces: _chunks(
            _delta({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "".join(pieces)}}]})
        ),
    ),
    _growing(
        "function_call", lambda t: {"function_call": {"name": "find", "arguments": t}}, "json"
    ),
    _fixed("annotation", _annotation),
    _growing("audio", lambda t: {"audio": {"id": "audio_1", "transcript": t}}),
    _growing("other field of a message", lambda t: {"note": {"deep": [t]}}),
    _tokens("content"),
    _tokens("refusal"),
    _beside("logprobs, other tokens", _other_tokens),
    _beside("other field of a choice", lambda t: {"note": t}),
    Place(
        "second choice",
        CHAT,
        lambda t: _completion(_choice({"content": "I "}), _choice({"content": t}, 1)),
        _second,
    ),
    Place(
        "text, whole in a stream",
        CHAT,
        None,
        lambda pieces: _chunks(_delta({"content": "".join(pieces)}, finish_reason="stop")),
    ),
    _extra("other field of the completion", lambda t: {"note": t}),
    _extra("system_fingerprint", lambda t: {"system_fingerprint": t}),
    _extra("service_tier", lambda t: {"service_tier": t}),
)
