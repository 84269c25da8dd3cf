"""Every place of a request for a Response that can carry text.

https://platform.openai.com/docs/api-reference/responses/create
"""

from typing import Any

from anos.extract_readers import ITEM, SETTING
from anos.selftest_canary import (
    BASE64,
    CHAT,
    DATA_URL,
    ID,
    JSON,
    NAME,
    RESPONSES,
    TEXT,
    Json,
    tokens,
)
from anos.selftest_fields import (
    AUDIO,
    IN_A_FILE,
    UNKNOWN,
    Field,
    Row,
    fields,
    messages,
    said,
    schemas,
)

_HI = {"type": "input_text", "text": "Hi"}
_FILE, _IMAGE = {"type": "input_file"}, {"type": "input_image"}


def _model(**fields: Any) -> list[Json]:
    part = {"type": "output_text", "text": "fine", "annotations": [], **fields}
    return said(part, role="assistant")


def _cited(name: str) -> list[Json]:
    return _model(annotations=[{"type": "url_citation", name: TEXT}])


def _call(kind: str, output: Any = "fine", **fields: Any) -> list[Json]:
    said = {"arguments": "{}"} if kind == "function_call" else {"input": "it"}
    call = {"type": kind, "call_id": "call_1", "name": "find", **said, **fields}
    return [call, {"type": f"{kind}_output", "call_id": "call_1", "output": output}]


def _answered(*outputs: Any) -> list[list[Json]]:
    kinds = ("function_call", "custom_tool_call")
    return [_call(kind, output) for kind in kinds for output in outputs]


def _thought(**fields: Any) -> Json:
    return {"type": "reasoning", "id": ID, "summary": [], **fields}


def _format(**fields: Any) -> Json:
    schema = {"type": "json_schema", "name": "answer", "schema": {"type": "object"}}
    return {"text": {"format": {**schema, **fields}}}


def _tool(type_: str = "function", **fields: Any) -> Json:
    return {"tools": [{"type": type_, "name": "find", **fields}]}


_SUMMARY = [{"type": "summary_text", "text": TEXT}]
_OTHER_TOKEN = {**tokens(["fine"])[0], "top_logprobs": [{"token": TEXT}]}
_GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": TEXT}
_SCREENSHOT = {"type": "computer_screenshot", "url": TEXT}
_ITEMS: tuple[Row, ...] = (
    *messages("input_text", "output_text"),
    ("annotation", "assistant", *map(_cited, ("title", "url", "quote"))),
    ("logprobs", "assistant", _model(logprobs=tokens([TEXT])), _model(logprobs=[_OTHER_TOKEN])),
    ("address of an image", "user", *said({**_IMAGE, "image_url": TEXT})),
    ("name of a file", "files", *said({**_FILE, "file_id": "file_1", "filename": TEXT})),
    ("text in a file", "files", *said(*({**_FILE, "file_data": each} for each in IN_A_FILE))),
    ("text in a file", "files", *said({**_IMAGE, "image_url": DATA_URL})),
    ("function call", "arguments", *(_call("function_call", arguments=t) for t in (JSON, TEXT))),
    ("function call, name and id", "arguments", _call("function_call", name=TEXT)),
    ("custom tool call", "arguments", _call("custom_tool_call", input=TEXT)),
    ("custom tool call, name", "arguments", _call("custom_tool_call", name=TEXT)),
    ("output of a tool", "outputs", *_answered(TEXT, [{**_HI, "text": TEXT}])),
)
_ITEMS_ALONE: tuple[Row, ...] = (
    ("audio", "user", *said(AUDIO)),
    ("audio", "user", *said({**AUDIO, "input_audio": {"data": "QQ==", "format": TEXT}})),
    ("address of a file", "files", *said({**_FILE, "file_url": TEXT})),
    ("text in a file", "files", *said({**_FILE, "file_url": DATA_URL})),
    ("text in a file", "files", *_answered([{**_FILE, "file_data": BASE64}])),
    ("part of another type", "other", *said({"type": "new", "words": TEXT})),
    ("other field of a message", "user", {"role": "user", "content": [_HI], "note": TEXT}),
    ("other field of a message", "user", {"role": "user", "content": [_HI], TEXT: 1}),
    ("other field of a message", "user", *said({**_HI, "note": [TEXT]}, {**_HI, TEXT: 1})),
    *(
        ("in place of an id or a kind", "user", {**said(_HI)[0], "type": "message", name: TEXT})
        for name in ("id", "status", "phase")
    ),
    *(
        ("in place of an id or a kind", "user", *said({**_HI, name: TEXT}))
        for name in ITEM
        if name not in ("type", "file_data")
    ),
    (
        *("output of a tool, its name", "outputs"),
        {"type": "function_call_output", "name": TEXT, "output": "fine"},
    ),
    ("reasoning", "assistant", _thought(summary=_SUMMARY)),
    ("reasoning", "assistant", _thought(content=[{"type": "reasoning_text", "text": TEXT}])),
    ("reasoning", "assistant", _thought(summary=_SUMMARY, encrypted_content="QQ==")),
    ("reasoning", "assistant", _thought(encrypted_content=TEXT)),
    ("compaction", "assistant", {"type": "compaction", "note": TEXT}),
    *(
        ("item of another type", "other", {"type": type_, **fields})
        for type_, fields in (
            ("web_search_call", {"action": {"type": "search", "query": TEXT}}),
            ("mcp_call", {"name": "find", "arguments": "{}", "output": TEXT}),
            ("mcp_call", {"name": "find", "arguments": JSON}),
            ("image_generation_call", {"result": TEXT}),
            ("computer_call_output", {"output": _SCREENSHOT}),
            ("new", {"deep": [{"words": {"of": [TEXT]}}]}),
            ("new", {"deep": {TEXT: 1}}),
        )
    ),
)
_BESIDE: tuple[Row, ...] = (
    ("input, a string", "user", {"input": TEXT}),
    ("instructions", "system", {"instructions": TEXT}),
    ("format of the text", "system", _format(description=TEXT), _format(name=NAME)),
    ("format of the text", "system", *(_format(schema=each) for each in schemas())),
    ("function tool", "tools", _tool(description=TEXT), _tool(name=NAME)),
    ("function tool", "tools", *(_tool(parameters=each) for each in schemas())),
    ("custom tool", "tools", _tool("custom", name=TEXT), _tool("custom", description=TEXT)),
    ("custom tool", "tools", _tool("custom", format=_GRAMMAR)),
    ("choice of a tool", "tools", {**_tool(), "tool_choice": {"type": "custom", "name": TEXT}}),
    ("other field of the request", "other", *({"acme": each} for each in UNKNOWN)),
    ("other field of the request", "other", {"service_tier": TEXT}, {TEXT: 1}),
)
_BESIDE_ALONE: tuple[Row, ...] = (
    ("tool of a vendor", "tools", _tool("mcp", note=TEXT), _tool(TEXT)),
    *(
        ("other field of a setting", "other", {"acme": {name: TEXT}})
        for name in SETTING
        if name != "file_data"
    ),
    ("other field of a setting", "other", {"reasoning": {"note": TEXT}}),
    ("other field of a setting", "other", {"stream": True, "stream_options": {"note": TEXT}}),
)
FIELDS = (
    *fields("input", (RESPONSES, CHAT), _BESIDE, _ITEMS),
    *fields("input", (RESPONSES,), _BESIDE_ALONE, _ITEMS_ALONE),
    *(
        Field(name, source, ({"input": text},), TEXT, (RESPONSES, CHAT), stored)
        for name, source in (("history", "history"), ("item by reference", "reference"))
        for text, stored in ((TEXT, source), ("Hi", f"answered {source}"))
    ),
)
