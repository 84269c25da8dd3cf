"""The stub speaks both dialects correctly and does what docs/stub.md says."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout, ServerDisconnectedError

from anos import stub
from anos.stub_answers import (
    DIRECTIVES,
    MOST_PIECES,
    MOST_READ,
    compose,
    directives,
    pieces,
    read_request,
    sample,
    spoken,
)
from tests.grammar import check, check_chat, parse

WEATHER = {
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TIME = {"name": "time", "parameters": {}}
TOOLS = [{"type": "function", **WEATHER}, {"type": "function", **TIME}]
CHAT_TOOLS = [{"type": "function", "function": WEATHER}, {"type": "function", "function": TIME}]
DOCUMENT = Path(__file__).parent.parent / "docs" / "stub.md"


def said(model: str = "gpt-4", input: Any = "Hi", **body: Any) -> str:
    """The text of the last item of the answer."""
    return spoken(compose(read_request({"model": model, "input": input, **body})).output[-1])[1]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("echo", {"echo": 0}),
        ("chunks-64-delay-5", {"chunks": 64, "delay": 5}),
        ("chunks-64 echo", {"chunks": 64, "echo": 0}),
        ("die", {"die": 0}),
        ("error", {"error": 500}),
        ("chunks-2-say-Hi there-you", {"chunks": 2, "say": "Hi there-you"}),
        ("gpt-35-turbo", {}),
        ("echo-unknown", {}),
        ("echo5", {}),
        ("", {}),
    ],
)
def test_directives_are_read(text: str, found: dict[str, Any]) -> None:
    assert directives(text) == found


@pytest.mark.parametrize(
    ("model", "input", "answer"),
    [
        ("gpt-35-turbo", "Say hello", "Hello! How can I help you today?"),
        ("gpt-35-turbo", "Hello, world!", "Hello! How can I help you today?"),
        ("gpt-35-turbo", "What is 2+2?", "2 + 2 = 4."),
        ("gpt-35-turbo", "Why?", "You said: Why?"),
        ("echo", " What\n is it? ", "What\n is it?"),
        ("say-Good_day", "Hi", "Good day"),
        ("chunks-4", "Hi", "1 2 3 4"),
        ("refuse", "Hi", "I'm sorry, but I can't help with that."),
        ("length-2", "Hi", "Hello!"),
        ("gpt-4", "[stub echo] Hi you", "Hi you"),
        ("chunks-3", "[stub say-Good day] Hi", "Good day"),
        ("echo", [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}], "a"),
        ("echo", [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "a"),
        ("echo", [], ""),
    ],
)
def test_the_answer_follows_from_model_and_prompt(model: str, input: Any, answer: str) -> None:
    assert said(model, input) == answer


def test_say_hello_is_counted_as_the_guide_counts_it() -> None:
    counts = compose(read_request({"model": "gpt-35-turbo", "input": "Say hello"})).usage
    assert counts is not None
    assert [counts[f"{name}_tokens"] for name in ("input", "output", "total")] == [3, 10, 13]


def test_a_cap_of_the_client_cuts_the_answer() -> None:
    answer = compose(read_request({"input": "Say hello", "max_output_tokens": 3}))
    assert answer.status == "incomplete"
    assert answer.incomplete_reason == "max_output_tokens"
    assert spoken(answer.output[0])[1] == "Hello! How"
    assert answer.usage is not None
    assert answer.usage["output_tokens"] == 3


def test_a_tool_is_called_once_and_its_output_ends_in_text() -> None:
    assert said(tools=TOOLS) == '{"city":"text"}'
    output = {"type": "function_call_output", "call_id": "call_1", "output": "12 degrees"}
    turn = [{"role": "user", "content": "Hi"}, {"type": "function_call"}, output]
    assert said(input=turn, tools=TOOLS) == "The tools say: 12 degrees"
    assert said(input=[*turn, {"role": "user", "content": "?"}], tools=TOOLS) == '{"city":"text"}'


def test_tool_choice_and_parallel_calls_are_kept_to() -> None:
    def called(model: str, **body: Any) -> list[str]:
        answer = compose(read_request({"model": model, "input": "Hi", "tools": TOOLS, **body}))
        return [item["name"] for item in answer.output if item["type"] == "function_call"]

    assert called("m") == ["weather"]
    assert called("calls-3") == ["weather", "time", "weather"]
    assert called("calls-3", parallel_tool_calls=False) == ["weather"]
    assert called("m", tool_choice={"type": "function", "name": "time"}) == ["time"]
    assert called("m", tool_choice="none") == []
    assert called("echo") == []


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_custom_tool_is_called_as_one_and_what_a_vendor_runs_is_not_called(wrapped: bool) -> None:
    named = {"name": "shell", "description": "Runs a command."}
    custom = {"type": "custom", **({"custom": named} if wrapped else named)}
    hosted = {"type": "web_search", "name": "search"}

    def called(**body: Any) -> list[tuple[str, str, str]]:
        items = compose(read_request({"input": "Hi", **body})).output
        return [(i["type"], i.get("name", ""), spoken(i)[1]) for i in items]

    assert called(tools=[hosted, custom]) == [("custom_tool_call", "shell", "text")]
    assert called(tools=[hosted]) == [("message", "", "Hello! How can I help you today?")]
    assert called(tools=[*TOOLS, custom], tool_choice=custom) == called(tools=[custom])
    output = {"type": "custom_tool_call_output", "call_id": "call_1", "output": "done"}
    asked = [{"role": "user", "content": "Hi"}, {"type": "custom_tool_call"}, output]
    assert said(input=asked, tools=[custom]) == "The tools say: done"


def test_the_tokens_of_a_very_long_text_are_estimated() -> None:
    text = "a b " * MOST_READ
    answer = compose(read_request({"model": "echo", "input": text}))
    assert spoken(answer.output[0])[1] == text.strip()
    assert answer.usage is not None
    tokens = MOST_READ // 2 + 1 + 3 * MOST_READ // 4
    assert [answer.usage[f"{name}_tokens"] for name in ("input", "output")] == [tokens + 1] * 2
    short = compose(read_request({"model": "length-3", "input": text}))
    assert spoken(short.output[0])[1] == "You said:"
    long = compose(read_request({"model": "echo", "input": text, "max_tokens": tokens - 1}))
    assert (long.status, len(spoken(long.output[0])[1])) == ("incomplete", 4 * MOST_READ - 4)


@pytest.mark.parametrize("model", ["length-3", "echo", "chunks-9-echo"])
def test_a_prompt_of_megabytes_does_not_hold_up_the_gateway(model: str) -> None:
    asked = read_request({"model": model, "input": "once upon a stor" * (1 << 19)})
    begun = time.process_time()
    pieces(compose(asked).output[0], asked.directives)
    read_request(asked.body)
    assert time.process_time() - begun < 0.7


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string"}, "text"),
        ({"type": ["integer", "null"], "minimum": 5}, 5),
        ({"enum": ["b", "a"]}, "b"),
        ({"const": None}, None),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, True),
        ({"type": "array", "items": {"type": "number"}}, [1]),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "string"}}}, "text"),
        ({"properties": {"a": {"type": "string"}, "b": {}}}, {"a": "text", "b": {}}),
    ],
)
def test_a_sample_fits_its_schema(schema: dict[str, Any], value: Any) -> None:
    assert sample(schema) == value


def test_structured_output_is_a_sample_of_its_schema() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    assert said(text={"format": {"type": "json_schema", "schema": schema}}) == '{"n":1}'
    chat = {"type": "json_schema", "json_schema": {"schema": schema}}
    assert said(response_format=chat) == '{"n":1}'
    assert said(text={"format": {"type": "json_object"}}) == '{"answer":"Hi"}'


def test_every_directive_is_documented() -> None:
    text = DOCUMENT.read_text()
    assert [name for name in (*DIRECTIVES, "say") if f"`{name}" not in text] == []


@pytest.fixture
async def session(no_task_left: None):
    runner, url = await stub.start()
    async with ClientSession(url + "/", timeout=ClientTimeout(total=10)) as session:
        yield session
    await runner.cleanup()


class Dialect:
    """One of the two wire formats, as seen by a client."""

    def __init__(self, session: ClientSession, path: str) -> None:
        self.session = session
        self.path = path
        self.is_chat = path == "chat/completions"

    def post(self, model: str, *, prompt: str = "Say hello", **body: Any) -> Any:
        entries = [{"role": "user", "content": prompt}]
        said = {"messages": entries} if self.is_chat else {"input": entries}
        if self.is_chat and body.get("stream"):
            body["stream_options"] = {"include_usage": True}
        return self.session.post(self.path, json={"model": model, **said, **body})

    async def whole(self, model: str, **body: Any) -> Any:
        async with self.post(model, **body) as response:
            assert response.status == 200
            return await response.json()

    async def streamed(self, model: str, **body: Any) -> list[Any]:
        async with self.post(model, stream=True, **body) as response:
            assert response.content_type == "text/event-stream"
            events = parse(await response.read(), done=self.is_chat)
            (check_chat if self.is_chat else check)(events)
            return events


@pytest.fixture(params=["responses", "chat/completions"])
def dialect(request: pytest.FixtureRequest, session: ClientSession) -> Dialect:
    return Dialect(session, request.param)


def without_ids(value: Any) -> Any:
    """The same JSON without what differs from answer to answer."""
    text = json.dumps(value)
    fresh = ("id", "call_id", "created", "created_at", "completed_at")
    return json.loads(text, object_hook=lambda o: {k: v for k, v in o.items() if k not in fresh})


MODELS = ["gpt-4", "reason", "refuse", "length-2", "chunks-64", "reason-calls-3", "echo"]


@pytest.mark.parametrize("model", MODELS)
async def test_responses_say_the_same_streamed_and_whole(session, model: str) -> None:
    dialect = Dialect(session, "responses")
    tools = [*TOOLS, {"type": "custom", "name": "shell"}] if "calls" in model else []
    whole = await dialect.whole(model, tools=tools)
    events = await dialect.streamed(model, tools=tools)
    assert without_ids(events[-1]["response"]) == without_ids(whole)


@pytest.mark.parametrize("model", MODELS)
async def test_chat_says_the_same_streamed_and_whole(session, model: str) -> None:
    dialect = Dialect(session, "chat/completions")
    custom = {"type": "custom", "custom": {"name": "shell"}}
    tools = {"tools": [*CHAT_TOOLS, custom]} if "calls" in model else {}
    whole = await dialect.whole(model, **tools)
    chunks = await dialect.streamed(model, **tools)
    choice = whole["choices"][0]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    for name in ("content", "refusal", "reasoning_content"):
        streamed = "".join(delta.get(name) or "" for delta in deltas)
        assert streamed == (choice["message"].get(name) or "")
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert reasons[-1] == choice["finish_reason"]
    assert chunks[-1]["usage"] == whole["usage"]


def text_deltas(events: list[Any]) -> list[str]:
    """The pieces of text in a stream of either dialect."""
    choices = [choice for event in events for choice in event.get("choices", [])]
    pieces = [choice["delta"].get("content") for choice in choices]
    pieces += [e["delta"] for e in events if e.get("type") == "response.output_text.delta"]
    return [piece for piece in pieces if piece]


async def test_chunks_are_as_many_as_asked_for(dialect: Dialect) -> None:
    deltas = text_deltas(await dialect.streamed("chunks-64"))
    assert [delta.strip() for delta in deltas] == [str(number) for number in range(1, 65)]
    deltas = text_deltas(await dialect.streamed("echo-chunks-3", prompt="äbc"))
    assert deltas == ["ä", "b", "c"]


async def test_a_very_long_answer_comes_in_a_bounded_number_of_chunks(dialect: Dialect) -> None:
    prompt = " ".join(map(str, range(MOST_PIECES + 1)))
    deltas = text_deltas(await dialect.streamed("echo", prompt=prompt))
    assert len(deltas) == MOST_PIECES
    assert "".join(deltas) == prompt


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_has_its_status_and_the_envelope(dialect: Dialect, stream: bool) -> None:
    async with dialect.post("error-429", stream=stream) as response:
        assert response.status == 429
        assert response.headers["Retry-After"] == "1"
        assert (await response.json())["error"]["code"] == "rate_limit_exceeded"


async def receive_until_cut(response: Any) -> bytes:
    received = b""
    try:
        async for data in response.content.iter_any():
            received += data
    except ClientError:
        return received
    raise AssertionError("the connection was not cut")


async def test_it_dies_after_the_chunks_it_was_told(dialect: Dialect) -> None:
    async with dialect.post("chunks-9-die-3", stream=True) as response:
        received = await receive_until_cut(response)
    assert "".join(text_deltas(parse(received))) == "1 2 3"


async def test_it_dies_at_the_end_if_there_are_fewer_chunks(dialect: Dialect) -> None:
    async with dialect.post("chunks-2-die-7", stream=True) as response:
        received = await receive_until_cut(response)
    assert "".join(text_deltas(parse(received))) == "1 2"
    assert b"response.completed" not in received
    assert b"DONE" not in received


@pytest.mark.parametrize("stream", [False, True])
async def test_it_dies_without_an_answer(dialect: Dialect, stream: bool) -> None:
    with pytest.raises(ServerDisconnectedError):
        await dialect.post("die", stream=stream)


async def test_a_malformed_event_stands_where_it_was_told(dialect: Dialect) -> None:
    async with dialect.post("chunks-3-malformed-2", stream=True) as response:
        raw = await response.read()
    before, broken, after = raw.partition(b'data: {"delta": "brok\n\n')
    assert broken
    assert before
    assert after
    parse(before)


async def test_a_malformed_answer_is_cut_in_the_middle(dialect: Dialect) -> None:
    async with dialect.post("malformed") as response:
        raw = await response.read()
    with pytest.raises(json.JSONDecodeError):
        json.loads(raw)


@pytest.mark.parametrize("stream", [False, True])
async def test_it_is_silent_until_the_client_leaves(dialect: Dialect, stream: bool) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(dialect.post("silent", stream=stream), 0.05)


async def test_it_falls_silent_after_the_chunks_it_was_told(dialect: Dialect) -> None:
    async with dialect.post("chunks-9-silent-1", stream=True) as response:
        deltas: list[str] = []
        while not deltas:
            deltas += text_deltas(parse(await response.content.readuntil(b"\n\n")))
        assert deltas == ["1"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(response.content.readany(), 0.05)


async def test_delay_is_waited_before_every_chunk(dialect: Dialect) -> None:
    clock = asyncio.get_running_loop().time
    began = clock()
    await dialect.streamed("chunks-5-delay-10")
    assert clock() - began >= 0.05
    began = clock()
    await dialect.whole("chunks-5-delay-10")
    assert clock() - began >= 0.05


async def test_models_are_listed(session: ClientSession) -> None:
    async with session.get("models") as response:
        assert "gpt-35-turbo" in [model["id"] for model in (await response.json())["data"]]
