"""The official openai client for Python works with the real process.

Once on the built-in stub, without any configuration, and once in front of an upstream that has
nothing but Chat Completions.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests import chat_only
from tests.chat_only import HELLO

# One process for all the tests of a kind: to start one takes longer than all they do with it.
pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "gpt-35-turbo"
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "How warm it is",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
TOOL: Any = {"type": "function", **WEATHER}
CHAT_TOOL: Any = {"type": "function", "function": WEATHER}
# What a stream helper has to put together: text, reasoning, a refusal, calls.
ANSWERS: list[dict[str, Any]] = [
    {"input": "Say hello"},
    {"input": "[stub reason] Say hello"},
    {"input": "[stub refuse] Say hello"},
    {"input": "[stub calls-2] How warm is it?", "tools": [TOOL]},
]


class Person(BaseModel):
    name: str
    age: int
    is_known: bool


PERSON = Person(name="text", age=1, is_known=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["stub", "chat-only"])
async def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """The URL of the gateway."""
    async with chat_only.gateway(request.param, tmp_path_factory.mktemp("sdk")) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="module")
async def client(served: str) -> AsyncIterator[AsyncOpenAI]:
    # Without retries a failure shows. Silence for 5 s is one; keep-alives come more seldom.
    async with AsyncOpenAI(
        base_url=f"{served}/v1", api_key="sk-1234", max_retries=0, timeout=5
    ) as client:
        yield client


async def test_create_retrieve_delete(client: AsyncOpenAI) -> None:
    created = await client.responses.create(
        model=MODEL, input="Say hello", instructions="Be kind.", metadata={"a": "b"}
    )
    assert created.output_text == HELLO
    assert (created.status, created.error, created.incomplete_details) == ("completed", None, None)
    assert (created.model, created.instructions, created.metadata) == (
        MODEL,
        "Be kind.",
        {"a": "b"},
    )
    assert created.usage is not None
    assert created.usage.total_tokens == created.usage.input_tokens + created.usage.output_tokens
    assert created.usage.output_tokens == 10
    assert created._request_id
    retrieved = await client.responses.retrieve(created.id)
    assert retrieved.to_dict() == created.to_dict()
    await client.responses.delete(created.id)
    for gone in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError) as caught:
            await gone(created.id)
        assert (caught.value.code, caught.value.param) == ("not_found", "response_id")
        assert caught.value.request_id


async def test_the_stream_helper_ends_with_the_response_that_is_stored(client: AsyncOpenAI) -> None:
    for request in ANSWERS:
        async with client.responses.stream(model=MODEL, **request) as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
        text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        assert text == final.output_text
        calls = [item for item in final.output if item.type == "function_call"]
        arguments = "".join(
            e.delta for e in events if e.type == "response.function_call_arguments.delta"
        )
        assert arguments == "".join(call.arguments for call in calls)
        retrieved = await client.responses.retrieve(final.id)
        # The helper's objects have fields of their own ("parsed"); those the server sent are equal.
        assert events[-1].type == "response.completed"
        assert retrieved.output_text == final.output_text
        assert [(item.type, item.id) for item in retrieved.output] == [
            (item.type, item.id) for item in final.output
        ]
    assert len(calls) == 2


async def test_create_with_stream_gives_the_events(client: AsyncOpenAI) -> None:
    for request in ANSWERS:
        stream = await client.responses.create(model=MODEL, stream=True, **request)
        events = [event async for event in stream]
        assert events[0].type == "response.created"
        assert events[-1].type == "response.completed"
        assert [event.sequence_number for event in events] == list(range(len(events)))
        final = events[-1].response
        assert {e.response.id for e in events if hasattr(e, "response")} == {final.id}
        done = [e.item.to_dict() for e in events if e.type == "response.output_item.done"]
        assert done == [item.to_dict() for item in final.output]
        retrieved = await client.responses.retrieve(final.id)
        assert retrieved.to_dict() == final.to_dict()


async def test_an_answer_cut_at_the_limit_is_incomplete(client: AsyncOpenAI) -> None:
    request: Any = {"model": MODEL, "input": "[stub length-3] Say hello", "max_output_tokens": 16}
    whole = await client.responses.create(**request)
    assert whole.status == "incomplete"
    assert whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"
    events = [event async for event in await client.responses.create(stream=True, **request)]
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == whole.output_text == "Hello! How"


async def test_input_items_are_paged(client: AsyncOpenAI) -> None:
    texts = [f"Message {number}" for number in range(5)]
    messages: Any = [{"role": "user", "content": text} for text in texts]
    response = await client.responses.create(model=MODEL, input=messages)

    def said(items: list[Any]) -> list[str]:
        return [item.content[0].text for item in items]

    items = client.responses.input_items
    assert said([item async for item in items.list(response.id, limit=2)]) == texts[::-1]
    assert said([item async for item in items.list(response.id, limit=2, order="asc")]) == texts
    page = await items.list(response.id, limit=2, order="asc")
    pages = [page]
    while pages[-1].has_next_page():
        pages.append(await pages[-1].get_next_page())
    assert [len(page.data) for page in pages] == [2, 2, 1]
    rest = await items.list(response.id, after=page.data[1].id, order="asc")
    assert said(rest.data) == texts[2:]
    with pytest.raises(openai.BadRequestError) as caught:
        await items.list(response.id, after="msg_unknown")
    assert caught.value.param == "after"


async def test_a_background_response_is_polled_until_it_is_complete(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="Say hello", background=True)
    assert response.status == "queued"
    while response.status in ("queued", "in_progress"):
        response = await client.responses.retrieve(response.id)
    assert (response.status, response.output_text) == ("completed", HELLO)
    with pytest.raises(openai.BadRequestError):
        await client.responses.cancel(response.id)


async def test_a_background_response_is_cancelled(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="[stub silent]", background=True)
    with pytest.raises(openai.BadRequestError):
        await client.responses.delete(response.id)
    cancelled = await client.responses.cancel(response.id)
    assert (cancelled.id, cancelled.status) == (response.id, "cancelled")
    for again in (client.responses.cancel, client.responses.retrieve):
        assert (await again(response.id)).to_dict() == cancelled.to_dict()


async def test_a_stream_that_is_cancelled_elsewhere_ends(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(model=MODEL, input="[stub silent-2] Hi", stream=True)
    first = await anext(aiter(stream))
    assert first.type == "response.created"
    cancelled = await client.responses.cancel(first.response.id)
    last = [event async for event in stream][-1]
    assert last.type == "response.failed"
    assert last.response.status == cancelled.status == "cancelled"
    # What it had said is kept, and says that it is not whole.
    assert [item.to_dict()["status"] for item in last.response.output] == ["incomplete"]
    assert last.response.output_text in HELLO
    assert (await client.responses.retrieve(cancelled.id)).to_dict() == last.response.to_dict()
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.retrieve(cancelled.id, stream=True)
    assert refused.value.param == "stream"


async def test_a_conversation_goes_on_from_the_previous_response(client: AsyncOpenAI) -> None:
    first = await client.responses.create(model=MODEL, input="Say hello")
    second = await client.responses.create(
        model=MODEL, input="Say hello again", previous_response_id=first.id
    )
    async with client.responses.stream(
        model=MODEL, input="Say hello for ever", previous_response_id=second.id
    ) as stream:
        third = await stream.get_final_response()
    sizes = [turn.usage.input_tokens for turn in (first, second, third) if turn.usage]
    assert sizes[0] + 5 < sizes[1] < sizes[2] - 5
    items = [item async for item in client.responses.input_items.list(third.id, order="asc")]
    roles = [item.role for item in items if item.type == "message"]
    assert roles == ["user", "assistant"] * 2 + ["user"]
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model=MODEL, input="Hi", previous_response_id="resp_unknown")
    assert caught.value.code == "previous_response_not_found"
    assert caught.value.param == "previous_response_id"


async def test_functions_are_called_and_their_outputs_answered(client: AsyncOpenAI) -> None:
    question = "[stub calls-2] How warm is it?"
    asked = await client.responses.create(model=MODEL, input=question, tools=[TOOL])
    calls = [item for item in asked.output if item.type == "function_call"]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [
        ("weather", {"city": "text"})
    ] * 2
    outputs: Any = [
        {"type": "function_call_output", "call_id": call.call_id, "output": f"{degrees} degrees"}
        for degrees, call in enumerate(calls, 12)
    ]
    chained = await client.responses.create(
        model=MODEL, input=outputs, tools=[TOOL], previous_response_id=asked.id
    )
    # The same without the store: the client sends its own objects back.
    history: Any = [{"role": "user", "content": question}, *asked.output, *outputs]
    stateless = await client.responses.create(model=MODEL, input=history, tools=[TOOL], store=False)
    for answered in (chained, stateless):
        assert answered.output_text == "The tools say: 12 degrees; 13 degrees"
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(stateless.id)


async def test_structured_output_is_parsed(client: AsyncOpenAI) -> None:
    parsed = await client.responses.parse(model=MODEL, input="Who?", text_format=Person)
    assert parsed.output_parsed == PERSON
    async with client.responses.stream(model=MODEL, input="Who?", text_format=Person) as stream:
        assert (await stream.get_final_response()).output_parsed == PERSON
    completion = await client.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": "Who?"}], response_format=Person
    )
    assert completion.choices[0].message.parsed == PERSON


async def test_chat_completions(client: AsyncOpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Say hello"}]
    whole = await client.chat.completions.create(model=MODEL, messages=messages)
    assert whole.choices[0].message.content == HELLO
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert whole._request_id
    chunks = [
        chunk
        async for chunk in await client.chat.completions.create(
            model=MODEL, messages=messages, stream=True, stream_options={"include_usage": True}
        )
    ]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == HELLO
    assert chunks[-1].usage == whole.usage
    assert not any(chunk.usage for chunk in chunks[:-1])
    async with client.chat.completions.stream(model=MODEL, messages=messages) as stream:
        deltas = [event.delta async for event in stream if event.type == "content.delta"]
        final = await stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == HELLO


async def test_chat_completions_call_functions(client: AsyncOpenAI) -> None:
    messages: Any = [{"role": "user", "content": "[stub calls-2] How warm is it?"}]
    whole = await client.chat.completions.create(model=MODEL, messages=messages, tools=[CHAT_TOOL])
    async with client.chat.completions.stream(
        model=MODEL, messages=messages, tools=[CHAT_TOOL]
    ) as stream:
        streamed = await stream.get_final_completion()
    for choice in (whole.choices[0], streamed.choices[0]):
        assert choice.finish_reason == "tool_calls"
        calls = choice.message.tool_calls or []
        functions = [call.function for call in calls if call.type == "function"]
        assert [(f.name, f.arguments) for f in functions] == [("weather", '{"city":"text"}')] * 2
        outputs = [{"role": "tool", "tool_call_id": call.id, "content": "cold"} for call in calls]
        answered = await client.chat.completions.create(
            model=MODEL, messages=[*messages, choice.message, *outputs], tools=[CHAT_TOOL]
        )
        assert answered.choices[0].message.content == "The tools say: cold; cold"


async def test_the_models_are_listed(client: AsyncOpenAI) -> None:
    names = [model.id async for model in client.models.list()]
    assert sorted(names) == [MODEL, "gpt-4"]
    assert (await client.models.retrieve(MODEL)).id == MODEL
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("unknown")
    assert caught.value.code == "model_not_found"


async def test_refusals_are_the_clients_own_errors(client: AsyncOpenAI) -> None:
    create: Any = client.responses.create
    chat: Any = client.chat.completions.create
    messages = [{"role": "user", "content": "Hi"}]
    refused: list[tuple[type[openai.APIStatusError], Any, dict[str, Any], tuple[str, str]]] = [
        (openai.BadRequestError, create, {"model": "unknown", "input": "Hi"}, ("400", "model")),
        (
            openai.BadRequestError,
            chat,
            {"model": "unknown", "messages": messages},
            ("400", "model"),
        ),
        (
            openai.BadRequestError,
            create,
            {"model": MODEL, "input": "Hi", "temperature": 3},
            ("invalid_value", "temperature"),
        ),
    ]
    for kind, method, request, (code, param) in refused:
        with pytest.raises(kind) as caught:
            await method(**request)
        assert (caught.value.code, caught.value.param) == (code, param)
        assert caught.value.request_id == caught.value.response.headers["x-request-id"]
    with pytest.raises(openai.AuthenticationError) as denied:
        await client.with_options(api_key="sk-wrong").models.list()
    assert denied.value.code == "invalid_api_key"


async def test_failures_of_the_upstream_are_the_clients_own_errors(client: AsyncOpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as failed:
            await client.responses.create(model=MODEL, input="[stub error-500] Hi", stream=stream)
        assert failed.value.status_code == 502
        with pytest.raises(openai.RateLimitError):
            await client.responses.create(model=MODEL, input="[stub error-429] Hi", stream=stream)


async def test_a_stream_that_breaks_off_fails_in_the_clients_hands(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(model=MODEL, input="[stub die-3] Say hello", stream=True)
    events = [event async for event in stream]
    assert events[-1].type == "response.failed"
    assert events[-1].response.error is not None
    stored = await client.responses.retrieve(events[-1].response.id)
    assert stored.to_dict() == events[-1].response.to_dict()
    chunks = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "[stub die-3] Say hello"}], stream=True
    )
    with pytest.raises(openai.APIError):
        async for _ in chunks:
            pass


async def test_the_client_that_blocks_works_like_the_other(served: str) -> None:
    def converse() -> None:
        with OpenAI(base_url=f"{served}/v1", api_key="sk-1234", max_retries=0) as client:
            with client.responses.stream(model=MODEL, input="Say hello") as stream:
                text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
                final = stream.get_final_response()
            assert text == final.output_text == HELLO
            assert client.responses.retrieve(final.id).output_text == HELLO
            assert len(list(client.responses.input_items.list(final.id))) == 1
            client.responses.delete(final.id)

    await asyncio.to_thread(converse)
