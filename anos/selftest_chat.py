"""Every place of a chat completion that can carry text: in the request, and in the answer.

https://platform.openai.com/docs/api-reference/chat/create, /chat/object and /chat-streaming
"""

from collections.abc import Mapping
from typing import Any

from anos.selftest_canary import (
    CHAT,
    DATA_URL,
    JSON,
    NAME,
    RESPONSES,
    TEXT,
    TOKENS,
    Json,
    put,
    tokens,
)
from anos.selftest_fields import (
    AUDIO,
    IN_A_FILE,
    UNKNOWN,
    Place,
    Row,
    fields,
    marks,
    messages,
    said,
    schemas,
)


def _model(**fields: Any) -> Json:
    return {"role": "assistant", "content": "fine", **fields}


def _called(output: Any = "fine", **call: Any) -> list[Json]:
    made = {"id": "call_1", "type": "function", **(call or _function())}
    answer = {"role": "tool", "tool_call_id": "call_1", "content": output}
    return [{"role": "assistant", "content": None, "tool_calls": [made]}, answer]


def _function(**fields: Any) -> Json:
    return {"function": {"name": "find", "arguments": "{}", **fields}}


def _custom(**fields: Any) -> Json:
    return {"type": "custom", "custom": {"name": "find", "input": "it", **fields}}


def _files(*fields: Json) -> list[Json]:
    return said(*({"type": "file", "file": each} for each in fields))


def _tool(type_: str = "function", **fields: Any) -> Json:
    return {"tools": [{"type": type_, type_: {"name": "find", **fields}}]}


def _format(**fields: Any) -> Json:
    schema = {"name": "answer", "schema": {"type": "object"}, **fields}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


_HI = {"role": "user", "content": "Hi"}
_PART, _IMAGE = {"type": "text", "text": TEXT}, {"type": "image_url"}
_THOUGHT = {"type": "thinking", "thinking": [{"text": TEXT}]}
_CHOICE = {"type": "custom", "custom": {"name": TEXT}}
_MESSAGES: tuple[Row, ...] = (
    *messages("text", "text"),
    ("message of a tool", "outputs", _called(TEXT), _called([_PART])),
    ("refusal", "assistant", _model(refusal=TEXT)),
    ("address of an image", "user", *said({**_IMAGE, "image_url": {"url": TEXT}})),
    ("name of a file", "files", *_files({"file_id": "file_1", "filename": TEXT})),
    ("text in a file", "files", *_files(*({"file_data": each} for each in IN_A_FILE))),
    ("text in a file", "files", *said({**_IMAGE, "image_url": {"url": DATA_URL}})),
    ("function call", "arguments", *(_called(**_function(arguments=t)) for t in (JSON, TEXT))),
    ("function call, name", "arguments", _called(**_function(name=TEXT))),
    ("custom tool call", "arguments", _called(**_custom(input=TEXT))),
    ("custom tool call", "arguments", _called(**_custom(name=TEXT))),
)
_MESSAGES_ALONE: tuple[Row, ...] = (
    ("message of a function", "outputs", {"role": "function", "name": "find", "content": TEXT}),
    ("message of a function", "outputs", {"role": "function", "name": TEXT, "content": "fine"}),
    ("message of another role", "other", {"role": "critic", "content": TEXT}),
    ("message of another role", "other", {"role": TEXT, "content": "fine"}),
    ("reasoning", "assistant", _model(reasoning_content=TEXT), _model(reasoning=TEXT)),
    ("reasoning", "assistant", _model(reasoning_details=[{"text": TEXT}])),
    ("reasoning", "assistant", *said(_THOUGHT, role="assistant")),
    ("name of who speaks", "user", {**_HI, "name": TEXT}),
    ("other field of a message", "user", {**_HI, "note": {"deep": [TEXT]}}, {**_HI, TEXT: 1}),
    ("part of another type", "other", *said({"type": "new", "words": TEXT})),
    ("audio", "user", *said(AUDIO)),
    ("audio", "assistant", _model(audio={"id": "audio_1", "transcript": TEXT})),
    ("function call", "arguments", _model(function_call={"name": "find", "arguments": JSON})),
)
_BESIDE: tuple[Row, ...] = (
    ("response_format", "system", _format(description=TEXT)),
    ("response_format", "system", *(_format(schema=each) for each in schemas())),
    ("function tool", "tools", _tool(name=TEXT), _tool(description=TEXT)),
    ("function tool", "tools", *(_tool(parameters=each) for each in schemas())),
    ("custom tool", "tools", _tool("custom", name=TEXT), _tool("custom", description=TEXT)),
    ("choice of a tool", "tools", {**_tool(), "tool_choice": _CHOICE}),
    ("other field of the request", "other", *({"acme": each} for each in UNKNOWN), {TEXT: 1}),
)
_BESIDE_ALONE: tuple[Row, ...] = (
    ("response_format", "system", _format(name=NAME)),
    ("prediction", "system", {"prediction": {"type": "content", "content": TEXT}}),
    ("prediction", "system", {"prediction": {"type": "content", "content": [_PART]}}),
    ("functions", "tools", {"functions": [{"name": TEXT}]}),
    ("functions", "tools", {"functions": [{"name": "find", "description": TEXT}]}),
    ("functions", "tools", {"functions": [{"name": "find"}], "function_call": {"name": TEXT}}),
    ("stop", "other", {"stop": TEXT}, {"stop": ["x", TEXT]}),
    ("other field of a setting", "other", {"stream": True, "stream_options": {"note": TEXT}}),
    (
        "other field of a setting",
        "other",
        {"web_search_options": {"user_location": {"city": TEXT}}},
    ),
    ("other field of a setting", "other", {"audio": {"voice": TEXT, "format": "wav"}}),
    ("other field of a setting", "other", {"reasoning_effort": TEXT}, {"verbosity": TEXT}),
)
FIELDS = (
    *fields("messages", (RESPONSES, CHAT), _BESIDE, _MESSAGES),
    *fields("messages", (CHAT,), _BESIDE_ALONE, _MESSAGES_ALONE),
)

# The answer --------------------------------------------------------------------------------

_USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


def _body(object_: str, *choices: Json, **fields: Any) -> Json:
    head = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "selftest"}
    return {**head, "object": object_, "choices": [*choices], **fields}


def _choice(index: int, kind: str, message: Json, **beside: Any) -> Json:
    return {"index": index, kind: message, "logprobs": None, "finish_reason": None, **beside}


def _fragment(message: Json) -> Json:
    """A message as a later delta has it: of a call only the first says what it is."""
    calls = message.get("tool_calls", ())
    rest = [{k: v for k, v in call.items() if k not in ("id", "type")} for call in calls]
    return {**message, "tool_calls": rest} if rest else message


def _of(
    name: str,
    *messages: Json,
    grows: bool = True,
    form: str = TEXT,
    beside: Mapping[str, Any] = {},
    **fields: Any,
) -> Place:
    """In the messages of the choices, `beside` them, or in `fields` beside the choices.

    What does not grow is said in one chunk.
    """

    def whole(text: list[str]) -> Json:
        opened: Json = {"role": "assistant", "content": None}
        choices = [
            _choice(number, "message", {**opened, **each}, **{"finish_reason": "stop", **beside})
            for number, each in enumerate(messages)
        ]
        made: Json = put(_body("chat.completion", *choices, usage=_USAGE, **fields), marks(text))
        return made

    def answer(pieces: list[str]) -> tuple[Json, list[Json]]:
        numbers = range(len(messages))
        opened: Json = {"role": "assistant", "content": ""}
        chunks = [_choice(number, "delta", opened) for number in numbers]
        for at, grown in enumerate([[each] for each in pieces] if grows else [pieces]):
            for number, each in enumerate(messages):
                delta = _fragment(each) if at else each
                chunks.append(put(_choice(number, "delta", delta, **beside), marks(grown)))
        chunks += [_choice(number, "delta", {}, finish_reason="stop") for number in numbers]
        extra = put(fields, marks(pieces))
        stream = [_body("chat.completion.chunk", each, **extra) for each in chunks]
        return whole(pieces), [*stream, _body("chat.completion.chunk", usage=_USAGE)]

    return Place(name, CHAT, answer, form)


def _made(**fields: Any) -> Json:
    return {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", **fields}]}


def _named(**fields: str) -> Json:
    return _made(function={"name": "find", **fields})


_OTHER_TOKEN = {**tokens(["Well."])[0], "top_logprobs": tokens([TEXT])}
_SAY: Json = {"content": "Well."}
_THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": TEXT}]}
_CITATIONS = [{"type": "url_citation", "url_citation": {"url": "", "title": TEXT}}]


def _spelt(content: Any, refusal: Any) -> Json:
    return {"logprobs": {"content": content, "refusal": refusal}}


PLACES = (
    _of("text", {"content": TEXT}),
    _of("text, in parts", {"content": [{"type": "text", "text": TEXT}]}, grows=False),
    _of("refusal", {"refusal": TEXT}),
    _of("reasoning_content", {"reasoning_content": TEXT}),
    _of("reasoning", {"reasoning": TEXT}),
    _of("reasoning_details", {"reasoning_details": [{"index": 0, "text": TEXT}]}),
    _of("reasoning, in parts", {"content": [_THINKING]}, grows=False),
    _of("function call", _named(arguments=JSON), form=JSON),
    _of("function call", _named(arguments=TEXT)),
    _of("custom tool call", _made(type="custom", custom={"name": "find", "input": TEXT})),
    _of("function call, name", _made(function={"name": TEXT}), grows=False),
    _of("function_call", {"function_call": {"name": "find", "arguments": JSON}}, form=JSON),
    _of("annotation", {"annotations": _CITATIONS}, grows=False),
    _of("audio", {"audio": {"id": "audio_1", "transcript": TEXT}}),
    _of("other field of a message", {"note": {"deep": [TEXT]}}),
    _of("logprobs", _SAY, beside=_spelt(TOKENS, None)),
    _of("logprobs", _SAY, beside=_spelt(None, TOKENS)),
    _of("logprobs, other tokens", _SAY, beside=_spelt([_OTHER_TOKEN], None), grows=False),
    _of("other field of a choice", _SAY, beside={"note": TEXT}, grows=False),
    _of("second choice", {"content": "I "}, {"content": TEXT}),
    _of(
        "text, whole in a stream", {"content": TEXT}, beside={"finish_reason": "stop"}, grows=False
    ),
    _of("other field of the completion", _SAY, note=TEXT, grows=False),
    _of("system_fingerprint", _SAY, system_fingerprint=TEXT, grows=False),
    _of("service_tier", _SAY, service_tier=TEXT, grows=False),
)
