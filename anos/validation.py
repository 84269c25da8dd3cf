"""What a request may say: the fields of a create call, and query parameters.

Every refusal is an InvalidRequest whose `param` is the path of the field, like
`tools[1].parameters`. Create fields:
https://platform.openai.com/docs/api-reference/responses/create
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta, Struct

from anos.errors import InvalidModel, InvalidRequest

_NAMES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "object": "an object",
    "dict": "an object",
    "array": "an array",
    "list": "an array",
    "null": "null",
    "NoneType": "null",
}
T = TypeVar("T")
_MOST_REPEATED = 256  # characters of what a request says
Path = tuple[str | int, ...]  # the steps to a value: a field's name, an item's position


def path_of(steps: Iterable[str | int]) -> str:
    """The `param` of a path: ("input", 0, "content") is `input[0].content`; 256 characters."""
    param = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return param.removeprefix(".")[:_MOST_REPEATED]


def missing(param: str) -> InvalidRequest:
    """A field that must be there is not."""
    param = param[:_MOST_REPEATED]
    return InvalidRequest(
        f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
    )


def wrong_type(param: str, expected: str, got: Any) -> InvalidRequest:
    """`got` is of another type than `expected`, which is said in words: "an array of items"."""
    param = param[:_MOST_REPEATED]
    name = f"'{param}'" if param else "the body"
    got_name = _NAMES.get(type(got).__name__, "something else")
    return InvalidRequest(
        f"Invalid type for {name}: expected {expected}, but got {got_name} instead.", param=param
    )


def unsupported(param: str, reason: str) -> InvalidRequest:
    """A field of the API that this gateway does not serve; `reason` is a sentence."""
    return InvalidRequest(
        reason[: 2 * _MOST_REPEATED], param=param[:_MOST_REPEATED], code="unsupported_parameter"
    )


def check_shape(value: Any, shape: type[T], where: str = "") -> T:
    """`value` read as a msgspec Struct; `where` is the path of the value in the request."""
    try:
        return msgspec.convert(value, shape, strict=True)
    except msgspec.ValidationError as exc:
        raise _explain(str(exc), where) from None


_PROBLEM = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_TYPES = re.compile(r"Expected `(.+)`, got `(.+)`")
_BOUND = re.compile(r"Expected `(\w+)` (.+)")
_NAME = re.compile(r"Expected `str` matching regex '\^\[a-zA-Z0-9_-\]\{1,(\d+)\}.*'")
_FIELD = re.compile(r"Object missing required field `(.+)`")


def _explain(problem: str, where: str) -> InvalidRequest:
    """msgspec's message in the words and with the `param` of OpenAI's errors."""
    found = _PROBLEM.fullmatch(problem)
    param = where + (found["path"] or "") if found else where
    param = param.removeprefix(".").replace("[...]", "")[:_MOST_REPEATED]
    what = found["what"] if found else problem
    if match := _FIELD.fullmatch(what):
        return missing(f"{param}.{match[1]}".removeprefix("."))
    if match := _TYPES.fullmatch(what):
        kinds = [_NAMES.get(kind, kind) for kind in match[1].split(" | ") if kind != "null"]
        got = _NAMES.get(match[2], match[2])
        return InvalidRequest(
            f"Invalid type for '{param}': expected {' or '.join(kinds)}, but got {got} instead.",
            param=param,
        )
    if match := _NAME.fullmatch(what):
        rule = f"1 to {match[1]} letters, digits, _ or -"
    elif match := _BOUND.fullmatch(what):
        rule = f"{_NAMES.get(match[1], match[1])} {match[2]}"
    else:
        allowed = _ALLOWED.get(param.rpartition(".")[2].partition("[")[0])
        rule = "one of " + ", ".join(f"'{value}'" for value in allowed) if allowed else ""
    expected = f": expected {rule}" if rule else ""
    return InvalidRequest(f"Invalid value for '{param}'{expected}.", param=param)


# --- create ---------------------------------------------------------------------------------------

Include = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Summary = Literal["auto", "concise", "detailed"]
Verbosity = Literal["low", "medium", "high"]
Truncation = Literal["auto", "disabled"]
ToolMode = Literal["none", "auto", "required"]
_ALLOWED: dict[str, tuple[str, ...]] = {
    "include": get_args(Include),
    "effort": get_args(Effort),
    "summary": get_args(Summary),
    "verbosity": get_args(Verbosity),
    "truncation": get_args(Truncation),
    "tool_choice": get_args(ToolMode),
    "mode": ("auto", "required"),
    "type": ("text", "json_object", "json_schema"),
}
# A cap is kept with what a call reserves: sums of larger ones would leave 64 bits.
Count = Annotated[int, Meta(ge=1, le=2**31)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]


class _Plain(Struct, tag_field="type", tag="text"):
    pass


class _JsonObject(Struct, tag_field="type", tag="json_object"):
    pass


class _JsonSchema(Struct, tag_field="type", tag="json_schema"):
    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}\Z")]
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class _Text(Struct):
    format: _Plain | _JsonObject | _JsonSchema | None = None
    verbosity: Verbosity | None = None


class _Reasoning(Struct):
    effort: Effort | None = None
    summary: Summary | None = None
    generate_summary: Summary | None = None


class _StreamOptions(Struct):
    include_obfuscation: bool | None = None


class _Tool(Struct):
    type: str


class _FunctionTool(Struct):
    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,128}\Z")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _CustomTool(Struct):
    name: str
    description: str | None = None
    format: dict[str, Any] | None = None


class _ToolChoice(Struct):
    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[dict[str, Any]] | None = None


class _Create(Struct):
    model: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    background: bool | None = None
    store: bool | None = None
    include: list[Include] | None = None
    tools: list[Any] | None = None
    tool_choice: ToolMode | _ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Count | None = None
    max_output_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    max_tokens: Count | None = None
    n: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    truncation: Truncation | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    user: str | None = None


# A request that chooses the upstream's address can have our key sent to it (CVE-2024-6587), and one
# that lists models beside its own gets those that its key may not use, at a price nobody expects.
_CREDENTIALS = frozenset({
    *("api_base", "base_url", "api_key", "api_type", "api_version", "azure_ad_token"),
    *("headers", "extra_headers", "default_headers", "extra_query", "extra_body"),
    *("organization", "project", "project_id", "custom_llm_provider", "deployment_id"),
    *("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "aws_region_name"),
    *("aws_role_name", "aws_bedrock_runtime_endpoint", "aws_sts_endpoint", "azure_endpoint"),
    *("vertex_project", "vertex_location", "vertex_credentials", "vertex_ai_credentials"),
    *("openai_api_base", "openai_api_key", "organization_id", "user_config"),
    *("model_list", "litellm_params"),
    *("models", "fallbacks", "context_window_fallbacks", "content_policy_fallbacks"),
    "context_window_fallback_dict",
})  # fmt: skip
_LATER = frozenset({"conversation", "prompt", "context_management", "background_options"})
# Of Chat Completions; an upstream that knows them would take them in place of what we checked.
_ELSEWHERE = {"messages": "input", "response_format": "text.format"}
_REFUSED = _CREDENTIALS | _LATER | _ELSEWHERE.keys()
_OPTIONAL = _REFUSED.union(_Create.__struct_fields__, {"input"})
MODEL_NAME = "[A-Za-z0-9._:/@-]{1,256}"
_MODEL = re.compile(MODEL_NAME)


def validate_create(tree: dict[str, Any]) -> None:
    """Check the body of a create call, and tidy it in place.

    Afterwards no known field is null (null means not sent), chat's names for the cap have become
    `max_output_tokens`, and `n`, which is 1, is gone. Unknown fields stay for the upstream. `input`
    is checked where it is read.
    """
    if None in tree.values():
        for name in [name for name in tree if tree[name] is None and name in _OPTIONAL]:
            del tree[name]
    if not _REFUSED.isdisjoint(tree):
        _refuse(tree)
    request = check_shape(tree, _Create)
    check_model(request.model)
    if "input" not in tree and request.previous_response_id is None:
        raise missing("input")
    if request.background or request.stream_options:
        _check_modes(request)
    if request.tools:
        _check_tools(request.tools)
    if isinstance(request.tool_choice, _ToolChoice):
        _check_tool_choice(request.tool_choice)
    if request.metadata:
        _check_metadata(request.metadata)
    if request.n or request.max_tokens or request.max_completion_tokens:
        _tidy(tree)


def _tidy(tree: dict[str, Any]) -> None:
    if tree.pop("n", 1) > 1:
        raise unsupported("n", "A Response has one choice only; leave 'n' out.")
    for name in ("max_completion_tokens", "max_tokens"):
        if name in tree:
            tree.setdefault("max_output_tokens", tree.pop(name))


def refuse_credentials(tree: dict[str, Any]) -> None:
    """Refuse a field that would choose the upstream's address, key, account, headers or models."""
    for name in _CREDENTIALS.intersection(tree):
        raise unsupported(name, f"'{name}' is set by the gateway's operator, not by a request.")


def check_model(model: str | None) -> None:
    """Refuse a missing model (missing_required_parameter) or an impossible name (InvalidModel)."""
    if model is None:
        raise missing("model")
    if not _MODEL.fullmatch(model) or ".." in model:
        raise InvalidModel


def _refuse(tree: dict[str, Any]) -> None:
    refuse_credentials(tree)
    if "conversation" in tree and "previous_response_id" in tree:
        raise InvalidRequest(
            "Mutually exclusive parameters. Ensure you are only providing one of: "
            "'previous_response_id' or 'conversation'.",
            param="previous_response_id",
            code="mutually_exclusive_parameters",
        )
    for name in _ELSEWHERE.keys() & tree:
        use = _ELSEWHERE[name]
        raise unsupported(name, f"'{name}' is not of the Responses API; use '{use}'.")
    name = min(_LATER.intersection(tree))
    raise unsupported(name, f"'{name}' is not supported by this gateway.")


def _check_modes(request: _Create) -> None:
    if request.background and request.store is False:
        raise unsupported("background", "'background' needs 'store' to be true.")
    if request.background and request.stream:
        raise unsupported("stream", "'stream' is not supported together with 'background'.")
    if request.stream_options and not request.stream:
        raise InvalidRequest(
            "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
        )


def _check_tools(tools: list[Any]) -> None:
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        kind = check_shape(tool, _Tool, where).type
        if kind == "function":
            check_shape(tool, _FunctionTool, where)
        elif kind == "custom":
            check_shape(tool, _CustomTool, where)


def _check_tool_choice(choice: _ToolChoice) -> None:
    if choice.type in ("function", "custom") and choice.name is None:
        raise missing("tool_choice.name")
    if choice.type == "allowed_tools" and choice.mode is None:
        raise missing("tool_choice.mode")
    if choice.type == "allowed_tools" and choice.tools is None:
        raise missing("tool_choice.tools")


def _check_metadata(metadata: dict[str, Any]) -> None:
    if len(metadata) > 16:
        raise InvalidRequest(
            "Invalid value for 'metadata': expected at most 16 pairs.", param="metadata"
        )
    for name, value in metadata.items():
        if len(name) > 64:
            raise InvalidRequest(
                "Invalid value for 'metadata': expected keys of at most 64 characters.",
                param="metadata",
            )
        if type(value) is not str:
            raise wrong_type(f"metadata.{name}", "a string", value)
        if len(value) > 512:
            raise InvalidRequest(
                f"Invalid value for 'metadata.{name}': expected at most 512 characters.",
                param=f"metadata.{name}",
            )


# --- query parameters -----------------------------------------------------------------------------


class Page(Struct, frozen=True):
    """Which items of a list are wanted."""

    limit: int  # 1 to 100
    is_ascending: bool  # oldest first
    after: str | None  # the id of the item before the first


def read_page(query: Mapping[str, str]) -> Page:
    """`limit` (20), `order` (desc) and `after` of a list's query string."""
    limit = query.get("limit", "20")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= 100):
        raise InvalidRequest(
            "Invalid value for 'limit': expected an integer from 1 to 100.", param="limit"
        )
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("Invalid value for 'order': expected 'asc' or 'desc'.", param="order")
    return Page(int(limit), order == "asc", query.get("after"))


def read_include(query: Mapping[str, str]) -> frozenset[str]:
    """The values of `include`, `include[]` and `include[0]` in a query string."""
    values = {value for name, value in query.items() if name.partition("[")[0] == "include"}
    if not values <= set(_ALLOWED["include"]):
        raise _explain("", "include")
    return frozenset(values)
