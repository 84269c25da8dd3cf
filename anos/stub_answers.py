"""What the built-in upstream says: the directives it understands, and answers made up by rule.

docs/stub.md explains them. Nothing here depends on anything but the request and the clock.
"""

import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
from msgspec import Struct

from anos.items import Answer, new_id, usage

Json = dict[str, Any]

# Every directive with the number it has if none is written: docs/stub.md explains them in order.
DIRECTIVES = {
    "echo": 0,
    "refuse": 0,
    "reason": 0,
    "calls": 1,
    "length": 5,
    "chunks": 8,
    "delay": 20,
    "error": 500,
    "die": 0,
    "malformed": 1,
    "silent": 0,
}
_WORD = re.compile(
    r"[-\s]*(?:say-(?P<say>.+)|(?P<word>[a-z]+)(?:-(?P<number>\d{1,6}))?(?=[-\s]|$))", re.DOTALL
)
_IN_PROMPT = re.compile(r"\[stub ([^\]]*)\]\s*")
# A word or a sign with the space before it: what a token is here. Joined again they are the text.
_TOKEN = re.compile(r"\s*(?:\w+|[^\w\s])|\s+")

# A prompt of megabytes would take seconds of the gateway's time, said again in single words, or
# read in them: what comes after so many characters has a token in every four.
MOST_PIECES = 10_000
MOST_READ = 100_000
_CHARACTERS = 4

REFUSAL = "I'm sorry, but I can't help with that."
# The first pattern that begins the prompt decides; a prompt without one is repeated.
ANSWERS = {
    r"say hello|hello\b|hi\b": "Hello! How can I help you today?",
    r"what is 2\s*\+\s*2": "2 + 2 = 4.",
    r"tell me about ai\b": "AI stands for Artificial Intelligence: machines doing what was thought "
    "to need a person. This answer needed neither; it comes from the built-in stub.",
    r".*\bstory\b": "Once upon a time there was a gateway. It carried questions one way and "
    "answers the other, and it never lost a word. One night the wire broke in the middle of a "
    "sentence, and the gateway said so instead of pretending that the story was over. The end.",
}


class Request(Struct, frozen=True):
    """What the stub reads of a request, the same for both dialects."""

    body: Json
    directives: dict[str, Any]  # number of each directive given; "say" has a text
    prompt: str  # the last thing the user said, without directives
    tool_outputs: list[str]  # what the tools said after it
    input_tokens: int


def directives(text: str) -> dict[str, Any]:
    """The directives in "chunks-64-delay-20" or "echo delay-5": name to number; {} if it is none.

    "say-" takes all that follows; its value is that text.
    """
    found: dict[str, Any] = {}
    position = 0
    while position < len(text.rstrip()):
        match = _WORD.match(text, position)
        if match is None or (match["word"] and match["word"] not in DIRECTIVES):
            return {}
        if match["say"]:
            found["say"] = match["say"]
        else:
            found[match["word"]] = int(match["number"] or DIRECTIVES[match["word"]])
        position = match.end()
    return found


def read_request(body: Json) -> Request:
    """What a body of either dialect asks for; the prompt's directives beat the model's."""
    said = [("system", str(body.get("instructions") or "")), *_dialogue(body)]
    turns = [index for index, (role, _) in enumerate(said) if role == "user"]
    last = turns[-1] if turns else 0
    prompt = said[last][1]
    wanted = directives(str(body.get("model", "")).replace("_", " "))
    for match in _IN_PROMPT.finditer(prompt):
        wanted |= directives(match[1])
    return Request(
        body,
        wanted,
        _IN_PROMPT.sub("", prompt).strip(),
        [text for role, text in said[last + 1 :] if role == "tool"],
        # One more than the text has, as for an end sign: OpenAI counts 3 for "Say hello".
        1 + sum(_count(text) for _, text in said),
    )


def _dialogue(body: Json) -> Iterator[tuple[str, str]]:
    entries = body.get("input") or body.get("messages") or []
    if isinstance(entries, str):
        entries = [{"role": "user", "content": entries}]
    for entry in entries:
        is_output = str(entry.get("type")).endswith("_output")
        yield (
            "tool" if is_output else entry.get("role", ""),
            _text_of(entry.get("output") if is_output else entry.get("content")),
        )


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content)
    return content if isinstance(content, str) else ""


def compose(request: Request) -> Answer:
    """The answer that the request's directives and prompt ask for."""
    wanted, now_ms = request.directives, time.time_ns() // 1_000_000
    output = [_reasoning(request, now_ms)] if "reason" in wanted else []
    thought = sum(_count(spoken(item)[1]) for item in output)
    is_cut = False
    if calls := _calls(request, now_ms):
        output += calls
    else:
        whole = REFUSAL if "refuse" in wanted else _text(request)
        said = _cut(whole, _cap(request))
        is_cut = len(said) < len(whole)
        output.append(_message(said, "refuse" in wanted, is_cut, now_ms))
    # A whole answer has its end sign, a cut one has not.
    output_tokens = sum(_count(spoken(item)[1]) for item in output) + (not is_cut)
    return Answer(
        status="incomplete" if is_cut else "completed",
        output=output,
        usage=usage(request.input_tokens, output_tokens, reasoning=thought),
        incomplete_reason="max_output_tokens" if is_cut else None,
    )


def _count(text: str) -> int:
    """How many tokens a text has."""
    left = max(0, len(text) - MOST_READ)
    return len(_TOKEN.findall(text, 0, MOST_READ)) + -(-left // _CHARACTERS)


def _cut(text: str, cap: int) -> str:
    """The first so many tokens of a text."""
    tokens = _TOKEN.findall(text, 0, MOST_READ)
    if len(tokens) >= cap:
        return "".join(tokens[:cap])
    return text[: MOST_READ + (cap - len(tokens)) * _CHARACTERS]


def _cap(request: Request) -> int:
    names = ("max_output_tokens", "max_completion_tokens", "max_tokens")
    caps = [request.body.get(name) for name in names] + [request.directives.get("length")]
    return min([cap for cap in caps if cap is not None], default=1 << 30)


def _text(request: Request) -> str:
    wanted, prompt = request.directives, request.prompt
    if "say" in wanted:
        return str(wanted["say"])
    if "echo" in wanted:
        return request.tool_outputs[-1] if request.tool_outputs else prompt
    if "chunks" in wanted:
        # Numbered, so that a lost, repeated or misplaced chunk shows.
        return " ".join(str(number) for number in range(1, wanted["chunks"] + 1))
    if request.tool_outputs:
        return "The tools say: " + "; ".join(request.tool_outputs)
    form = request.body.get("response_format") or (request.body.get("text") or {}).get("format")
    if form and form.get("type") in ("json_schema", "json_object"):
        schema = form.get("schema") or form.get("json_schema", {}).get("schema") or {}
        return orjson.dumps(sample(schema) if schema else {"answer": prompt}).decode()
    for pattern, answer in ANSWERS.items():
        if re.match(pattern, prompt[:MOST_READ], re.IGNORECASE):
            return answer
    return f"You said: {prompt}"


def _calls(request: Request, now_ms: int) -> list[Json]:
    body, wanted = request.body, request.directives
    # Others are run by a vendor, which this is not.
    tools = [
        tool
        for tool in body.get("tools") or []
        if tool.get("type") in ("function", "custom") and "name" in _named(tool)
    ]
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and (name := _named(choice).get("name")):
        tools = [tool for tool in tools if _named(tool)["name"] == name]
    talks = wanted.keys() & {"say", "echo", "refuse", "chunks"} and "calls" not in wanted
    if not tools or choice == "none" or request.tool_outputs or talks:
        return []
    count = wanted.get("calls", 1) if body.get("parallel_tool_calls") is not False else 1
    return [_call(tool, now_ms) for tool in (tools * count)[:count]]


def _named(tool: Json) -> Json:
    """Where a tool, or the choice of one, has its name: Chat Completions wraps it."""
    found: Json = tool.get(tool.get("type", ""), tool)
    return found


def _call(tool: Json, now_ms: int) -> Json:
    inner = _named(tool)
    prefix, kind, field, text = "ctc", "custom_tool_call", "input", "text"
    if tool["type"] == "function":
        prefix, kind, field = "fc", "function_call", "arguments"
        text = orjson.dumps(sample(inner.get("parameters") or {})).decode()
    return {
        "id": new_id(prefix, now_ms),
        "type": kind,
        "status": "completed",
        "call_id": new_id("call", now_ms),
        "name": inner["name"],
        field: text,
    }


def sample(schema: Json, root: Json | None = None, depth: int = 0) -> Any:
    """A value the JSON Schema allows, the same one every time; null where it contains itself."""
    root = root or schema
    if depth > 16:
        return None
    if "$ref" in schema:
        found: Any = root
        for name in schema["$ref"].removeprefix("#").split("/")[1:]:
            found = found.get(name, {})
        return sample(found, root, depth + 1)
    if "anyOf" in schema:
        return sample(schema["anyOf"][0], root, depth + 1)
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        fields = schema.get("properties", {}).items()
        return {name: sample(field, root, depth + 1) for name, field in fields}
    if kind == "array":
        return [sample(schema.get("items", {}), root, depth + 1)]
    number = schema.get("minimum", 1)
    return {"string": "text", "integer": number, "number": number, "boolean": True}.get(kind)


def _message(text: str, is_refusal: bool, is_cut: bool, now_ms: int) -> Json:
    part: Json = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "id": new_id("msg", now_ms),
        "type": "message",
        "status": "incomplete" if is_cut else "completed",
        "role": "assistant",
        "content": [{"type": "refusal", "refusal": text} if is_refusal else part],
    }


def _reasoning(request: Request, now_ms: int) -> Json:
    item: Json = {
        "id": new_id("rs", now_ms),
        "type": "reasoning",
        "status": "completed",
        "summary": [{"type": "summary_text", "text": f"The user says: {request.prompt}"}],
    }
    if "reasoning.encrypted_content" in (request.body.get("include") or []):
        item["encrypted_content"] = "c3R1Yg=="
    return item


def spoken(item: Json) -> tuple[str, str]:
    """The kind of an item's text, as EventWriter.delta calls it, and the text."""
    if item["type"] == "reasoning":
        return "summary", item["summary"][0]["text"]
    for kind in ("arguments", "input"):
        if kind in item:
            return kind, item[kind]
    part = item["content"][0]
    return ("refusal", part["refusal"]) if "refusal" in part else ("text", part["text"])


def pieces(item: Json, wanted: dict[str, Any]) -> list[str]:
    """An item's text as it is streamed: token by token, or in the number of chunks asked for."""
    text = spoken(item)[1]
    tokens = _TOKEN.findall(text) if len(text) <= MOST_READ else []
    if "chunks" not in wanted and len(text) <= MOST_READ and len(tokens) <= MOST_PIECES:
        return tokens
    # Whole tokens in each chunk where there are enough of them, else characters.
    chunks = wanted.get("chunks", MOST_PIECES)
    units: Sequence[str] = tokens if len(tokens) >= chunks else text
    count = max(1, min(chunks, len(units)))
    edges = [len(units) * index // count for index in range(count + 1)]
    return ["".join(units[edges[index] : edges[index + 1]]) for index in range(count)]
