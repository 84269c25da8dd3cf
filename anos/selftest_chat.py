"""Every place of a request for a chat completion that can carry text.

https://platform.openai.com/docs/api-reference/chat/create
"""

from typing import Any

from anos.selftest_places import CHAT, TEXT, Field, Json
from anos.selftest_responses import schemas

_ONLY = (CHAT,)  # what a Response cannot be asked for, or is not told


def _messages(*messages: Json, **fields: Any) -> Json:
    return {"messages": [*messages, {"role": "user", "content": "Well?"}], **fields}


def _parts(role: str, *parts: Json) -> tuple[Json, ...]:
    return tuple(_messages({"role": role, "content": [part]}) for part in parts)


def _message(role: str) -> tuple[Json, ...]:
    return _messages({"role": role, "content": TEXT}), *_parts(role, {"type": "text", "text": TEXT})


def _model(**fields: Any) -> Json:
    return _messages({"role": "assistant", "content": "fine", **fields})


def _call(output: Any = "fine", **call: Any) -> Json:
    said = {"id": "call_1", "type": "function", **(call or _function())}
    return _messages(
        {"role": "assistant", "content": None, "tool_calls": [said]},
        {"role": "tool", "tool_call_id": said["id"], "content": output},
    )


def _function(**fields: Any) -> Json:
    return {"function": {"name": "find", "arguments": "{}", **fields}}


def _custom(**fields: Any) -> Json:
    return {"type": "custom", "custom": {"name": "find", "input": "it", **fields}}


def _file(**fields: str) -> tuple[Json, ...]:
    return _parts("user", {"type": "file", "file": fields})


def _tool(type_: str = "function", **fields: Any) -> Json:
    return _messages(tools=[{"type": type_, type_: {"name": "find", **fields}}])


def _format(**fields: Any) -> Json:
    schema = {"name": "answer", "schema": {"type": "object"}, **fields}
    return _messages(response_format={"type": "json_schema", "json_schema": schema})


_SAID = (
    Field("message of the user", "user", _message("user")),
    Field("message of the system", "system", _message("system")),
    Field("message of the developer", "system", _message("developer")),
    Field("message of the assistant", "assistant", _message("assistant")),
    Field("message of a tool", "outputs", (_call(TEXT), _call([{"type": "text", "text": TEXT}]))),
    Field(
        "message of a function",
        "outputs",
        (
            _messages({"role": "function", "name": "find", "content": TEXT}),
            _messages({"role": "function", "name": TEXT, "content": "fine"}),
        ),
        upstreams=_ONLY,
    ),
    Field(
        "message of another role",
        "other",
        (_messages({"role": "critic", "content": TEXT}),),
        upstreams=_ONLY,
    ),
    Field(
        "message of another role",
        "other",
        (_messages({"role": TEXT, "content": "fine"}),),
        upstreams=_ONLY,
    ),
    Field("refusal", "assistant", (_model(refusal=TEXT),)),
    Field("refusal", "assistant", _parts("assistant", {"type": "refusal", "refusal": TEXT})),
    Field(
        "reasoning",
        "assistant",
        (
            _model(reasoning_content=TEXT),
            _model(reasoning=TEXT),
            _model(reasoning_details=[{"text": TEXT}]),
            *_parts("assistant", {"type": "thinking", "thinking": [{"text": TEXT}]}),
        ),
        upstreams=_ONLY,
    ),
    Field(
        "name of who speaks",
        "user",
        (_messages({"role": "user", "name": TEXT, "content": "Hi"}),),
        upstreams=_ONLY,
    ),
    Field(
        "other field of a message",
        "user",
        (
            _messages({"role": "user", "content": "Hi", "note": {"deep": [TEXT]}}),
            _messages({"role": "user", "content": "Hi", TEXT: 1}),
        ),
        upstreams=_ONLY,
    ),
    Field(
        "part of another type",
        "other",
        _parts("user", {"type": "new", "words": TEXT}),
        upstreams=_ONLY,
    ),
    Field(
        "address of an image",
        "user",
        _parts("user", {"type": "image_url", "image_url": {"url": TEXT}}),
    ),
    Field(
        "audio",
        "user",
        _parts("user", {"type": "input_audio", "input_audio": {"data": TEXT, "format": "wav"}}),
        upstreams=_ONLY,
    ),
    Field(
        "audio",
        "assistant",
        (_model(audio={"id": "audio_1", "transcript": TEXT}),),
        upstreams=_ONLY,
    ),
    Field("name of a file", "files", _file(file_id="file_1", filename=TEXT)),
    Field("text in a file", "files", _file(file_data=TEXT)),
    Field("text in a file", "files", _file(file_data=TEXT), "base64"),
    Field("text in a file", "files", _file(file_data=TEXT), "data URL"),
    Field("text in a file", "files", _file(file_data=TEXT), "percent URL"),
    Field(
        "text in a file",
        "files",
        _parts("user", {"type": "image_url", "image_url": {"url": TEXT}}),
        "data URL",
    ),
    Field("function call", "arguments", (_call(**_function(arguments=TEXT)),), "json"),
    Field("function call", "arguments", (_call(**_function(arguments=TEXT)),)),
    Field(
        "function call",
        "arguments",
        (_model(function_call={"name": "find", "arguments": TEXT}),),
        "json",
        _ONLY,
    ),
    Field("function call, name", "arguments", (_call(**_function(name=TEXT)),)),
    Field(
        "custom tool call", "arguments", (_call(**_custom(input=TEXT)), _call(**_custom(name=TEXT)))
    ),
)
_SETTINGS = (
    Field("response_format", "system", (_format(description=TEXT),)),
    Field("response_format", "system", tuple(_format(schema=each) for each in schemas())),
    Field("response_format", "system", (_format(name=TEXT),), "name", _ONLY),
    Field(
        "prediction",
        "system",
        (
            _messages(prediction={"type": "content", "content": TEXT}),
            _messages(prediction={"type": "content", "content": [{"type": "text", "text": TEXT}]}),
        ),
        upstreams=_ONLY,
    ),
    Field("function tool", "tools", (_tool(name=TEXT), _tool(description=TEXT))),
    Field("function tool", "tools", tuple(_tool(parameters=each) for each in schemas())),
    Field("custom tool", "tools", (_tool("custom", name=TEXT), _tool("custom", description=TEXT))),
    Field(
        "functions",
        "tools",
        (
            _messages(functions=[{"name": TEXT}]),
            _messages(functions=[{"name": "find", "description": TEXT}]),
            _messages(functions=[{"name": "find"}], function_call={"name": TEXT}),
        ),
        upstreams=_ONLY,
    ),
    Field(
        "choice of a tool",
        "tools",
        ({**_tool(), "tool_choice": {"type": "custom", "custom": {"name": TEXT}}},),
    ),
    Field("stop", "other", (_messages(stop=TEXT), _messages(stop=["x", TEXT])), upstreams=_ONLY),
    Field(
        "other field of the request",
        "other",
        (
            *(_messages(acme=each) for each in (TEXT, [{"deep": TEXT}], {TEXT: 1})),
            _messages(**{TEXT: 1}),
        ),
    ),
    Field(
        "other field of a setting",
        "other",
        (
            _messages(stream=True, stream_options={"note": TEXT}),
            _messages(web_search_options={"user_location": {"city": TEXT}}),
            _messages(audio={"voice": TEXT, "format": "wav"}),
            *(_messages(**{name: TEXT}) for name in ("reasoning_effort", "verbosity")),
        ),
        upstreams=_ONLY,
    ),
)
FIELDS = (*_SAID, *_SETTINGS)
