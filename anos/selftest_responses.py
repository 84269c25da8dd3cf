"""Every place of a request for a Response that can carry text.

https://platform.openai.com/docs/api-reference/responses/create
"""

from typing import Any

from anos.extract_readers import ITEM, SCHEMA, SETTING
from anos.selftest_places import ID, RESPONSES, TEXT, Field, Json

_ONLY = (RESPONSES,)  # what Chat Completions cannot say, or is not told
_HI = {"type": "input_text", "text": "Hi"}
_FILE, _IMAGE = {"type": "input_file"}, {"type": "input_image"}


def _input(*items: Json) -> Json:
    return {"input": [*items, {"role": "user", "content": "Well?"}]}


def _said(role: str, part: Json, **fields: Any) -> Json:
    return _input({"role": role, "content": [part], **fields})


def _user(*parts: Json) -> tuple[Json, ...]:
    return tuple(_said("user", part) for part in parts)


def _model(**fields: Any) -> Json:
    return _said("assistant", {"type": "output_text", "text": "fine", "annotations": [], **fields})


def _message(role: str) -> tuple[Json, ...]:
    type_ = "output_text" if role == "assistant" else "input_text"
    return _input({"role": role, "content": TEXT}), _said(role, {"type": type_, "text": TEXT})


def _cited(**fields: str) -> Json:
    return _model(annotations=[{"type": "url_citation", **fields}])


def _token(**fields: Any) -> Json:
    token = {"token": "fine", "logprob": -1.0, "bytes": [], "top_logprobs": [], **fields}
    return _model(logprobs=[token])


def _call(kind: str, output: Any = "fine", **fields: Any) -> Json:
    said = {"arguments": "{}"} if kind == "function_call" else {"input": "it"}
    call = {"type": kind, "call_id": "call_1", "name": "find", **said, **fields}
    return _input(call, {"type": f"{kind}_output", "call_id": call["call_id"], "output": output})


def _answered(*outputs: Any) -> tuple[Json, ...]:
    kinds = ("function_call", "custom_tool_call")
    return tuple(_call(kind, output) for kind in kinds for output in outputs)


def _thought(**fields: Any) -> Json:
    return _input({"type": "reasoning", "id": ID, "summary": [], **fields})


def schemas() -> tuple[Json, ...]:
    """Schemas with a text in each place."""
    words: tuple[Json, ...] = (
        *({name: TEXT} for name in ("description", "title", "default", "pattern", "const")),
        *({name: [TEXT]} for name in ("enum", "examples")),
        *({name: TEXT} for name in SCHEMA),
    )
    inner = ({"type": "object", "properties": {"q": {"type": "string", **each}}} for each in words)
    return (*inner, {"type": "object", "properties": {TEXT: {"type": "string"}}})


def _in_place_of_names() -> tuple[Json, ...]:
    """A text under every name of the short list of what is no text."""
    of_message = (
        _said("user", _HI, type="message", **{name: TEXT}) for name in ("id", "status", "phase")
    )
    in_part = (name for name in ITEM if name not in ("type", "file_data"))
    return (*of_message, *_user(*({**_HI, name: TEXT} for name in in_part)))


def _settings() -> tuple[Json, ...]:
    """A text under every name of that list in a field that nobody knows."""
    return tuple({"input": "Hi", "acme": {name: TEXT}} for name in SETTING if name != "file_data")


def _format(**fields: Any) -> Json:
    schema = {"type": "json_schema", "name": "answer", "schema": {"type": "object"}}
    return {"input": "Hi", "text": {"format": {**schema, **fields}}}


def _tool(type_: str = "function", **fields: Any) -> Json:
    return {"input": "Hi", "tools": [{"type": type_, "name": "find", **fields}]}


_SAID = (
    Field("input, a string", "user", ({"input": TEXT},)),
    Field("message of the user", "user", _message("user")),
    Field("message of the system", "system", _message("system")),
    Field("message of the developer", "system", _message("developer")),
    Field("message of the assistant", "assistant", _message("assistant")),
    Field("refusal", "assistant", (_said("assistant", {"type": "refusal", "refusal": TEXT}),)),
    Field("annotation", "assistant", tuple(_cited(**{n: TEXT}) for n in ("title", "url", "quote"))),
    Field("logprobs", "assistant", (_token(token=TEXT), _token(top_logprobs=[{"token": TEXT}]))),
    Field("address of an image", "user", _user({**_IMAGE, "image_url": TEXT})),
    Field(
        "audio",
        "user",
        _user(
            {"type": "input_audio", "input_audio": {"data": TEXT, "format": "wav"}},
            {"type": "input_audio", "input_audio": {"data": "QQ==", "format": TEXT}},
        ),
        upstreams=_ONLY,
    ),
    Field("name of a file", "files", _user({**_FILE, "file_id": "file_1", "filename": TEXT})),
    Field("address of a file", "files", _user({**_FILE, "file_url": TEXT}), upstreams=_ONLY),
    Field("text in a file", "files", _user({**_FILE, "file_data": TEXT})),
    Field("text in a file", "files", _user({**_FILE, "file_data": TEXT}), "base64"),
    Field("text in a file", "files", _user({**_FILE, "file_data": TEXT}), "data URL"),
    Field("text in a file", "files", _user({**_FILE, "file_data": TEXT}), "percent URL"),
    Field("text in a file", "files", _user({**_IMAGE, "image_url": TEXT}), "data URL"),
    Field("text in a file", "files", _user({**_FILE, "file_url": TEXT}), "data URL", _ONLY),
    Field("text in a file", "files", _answered([{**_FILE, "file_data": TEXT}]), "base64", _ONLY),
    Field("part of another type", "other", _user({"type": "new", "words": TEXT}), upstreams=_ONLY),
    Field(
        "other field of a message",
        "user",
        (
            _said("user", _HI, note=TEXT),
            _said("user", _HI, **{TEXT: 1}),
            *_user({**_HI, "note": [TEXT]}, {**_HI, TEXT: 1}),
        ),
        upstreams=_ONLY,
    ),
    Field("in place of an id or a kind", "user", _in_place_of_names(), upstreams=_ONLY),
)
_DONE = (
    Field("function call", "arguments", (_call("function_call", arguments=TEXT),), "json"),
    Field("function call", "arguments", (_call("function_call", arguments=TEXT),)),
    Field("function call, name and id", "arguments", (_call("function_call", name=TEXT),)),
    Field("custom tool call", "arguments", (_call("custom_tool_call", input=TEXT),)),
    Field("custom tool call, name", "arguments", (_call("custom_tool_call", name=TEXT),)),
    Field("output of a tool", "outputs", _answered(TEXT, [{**_HI, "text": TEXT}])),
    Field(
        "output of a tool, its name",
        "outputs",
        (_input({"type": "function_call_output", "name": TEXT, "output": "fine"}),),
        upstreams=_ONLY,
    ),
    Field(
        "reasoning",
        "assistant",
        (
            _thought(summary=[{"type": "summary_text", "text": TEXT}]),
            _thought(content=[{"type": "reasoning_text", "text": TEXT}]),
            _thought(summary=[{"type": "summary_text", "text": TEXT}], encrypted_content="QQ=="),
            _thought(encrypted_content=TEXT),
        ),
        upstreams=_ONLY,
    ),
    Field(
        "compaction", "assistant", (_input({"type": "compaction", "note": TEXT}),), upstreams=_ONLY
    ),
    Field(
        "item of another type",
        "other",
        (
            _input({"type": "web_search_call", "action": {"type": "search", "query": TEXT}}),
            _input({"type": "mcp_call", "name": "find", "arguments": "{}", "output": TEXT}),
            _input({"type": "image_generation_call", "result": TEXT}),
            _input(
                {
                    "type": "computer_call_output",
                    "output": {"type": "computer_screenshot", "url": TEXT},
                }
            ),
            _input({"type": "new", "deep": [{"words": {"of": [TEXT]}}]}),
            _input({"type": "new", "deep": {TEXT: 1}}),
        ),
        upstreams=_ONLY,
    ),
    Field(
        "item of another type",
        "other",
        (_input({"type": "mcp_call", "name": "find", "arguments": TEXT}),),
        "json",
        _ONLY,
    ),
)
_SETTINGS = (
    Field("instructions", "system", ({"input": "Hi", "instructions": TEXT},)),
    Field("format of the text", "system", (_format(description=TEXT),)),
    Field("format of the text", "system", tuple(_format(schema=each) for each in schemas())),
    Field("format of the text", "system", (_format(name=TEXT),), "name"),
    Field("function tool", "tools", (_tool(description=TEXT),)),
    Field("function tool", "tools", tuple(_tool(parameters=each) for each in schemas())),
    Field("function tool", "tools", (_tool(name=TEXT),), "name"),
    Field("custom tool", "tools", (_tool("custom", name=TEXT), _tool("custom", description=TEXT))),
    Field(
        "custom tool",
        "tools",
        (_tool("custom", format={"type": "grammar", "syntax": "lark", "definition": TEXT}),),
    ),
    Field("tool of a vendor", "tools", (_tool("mcp", note=TEXT), _tool(TEXT)), upstreams=_ONLY),
    Field(
        "choice of a tool", "tools", ({**_tool(), "tool_choice": {"type": "custom", "name": TEXT}},)
    ),
    Field(
        "other field of the request",
        "other",
        (
            *({"input": "Hi", "acme": each} for each in (TEXT, [{"deep": TEXT}], {TEXT: 1})),
            {"input": "Hi", "service_tier": TEXT},
            {"input": "Hi", TEXT: 1},
        ),
    ),
    Field(
        "other field of a setting",
        "other",
        (
            *_settings(),
            {"input": "Hi", "reasoning": {"note": TEXT}},
            {"input": "Hi", "stream": True, "stream_options": {"note": TEXT}},
        ),
        upstreams=_ONLY,
    ),
)
_STORED = (
    Field("history", "history", ({"input": TEXT},), stored="history"),
    Field("history", "history", ({"input": "Hi"},), stored="answered history"),
    Field("item by reference", "reference", ({"input": TEXT},), stored="reference"),
    Field("item by reference", "reference", ({"input": "Hi"},), stored="answered reference"),
)
FIELDS = (*_SAID, *_DONE, *_SETTINGS, *_STORED)
