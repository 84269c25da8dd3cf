"""The same answers in both upstream dialects, and what the upstream was told, for tests of both."""

import asyncio
from typing import Any

from tests import scripted
from tests.conftest import Gateway, Json
from tests.scripted import Upstream, silence


def speaking(dialect: str, **config: Any) -> Json:
    """The configuration in which the upstream speaks `dialect`."""
    return {"providers": {"up": {"dialect": dialect}}, **config}


def says(dialect: str, text: str, **fields: Any) -> Any:
    """An answer in one piece."""
    make = scripted.chat_text if dialect == "chat" else scripted.responses_text
    return make(text, **fields)


def streams(dialect: str, *parts: str, **fields: Any) -> list[Any]:
    """The same streamed, a delta for each part."""
    make = scripted.chat_stream if dialect == "chat" else scripted.responses_stream
    return make(parts, **fields)


def held(dialect: str, *parts: str) -> list[Any]:
    """A stream that falls silent after these deltas."""
    chunks = streams(dialect, *parts)
    is_delta = [
        "content" in chunk["choices"][0]["delta"] and bool(chunk["choices"][0]["delta"]["content"])
        if dialect == "chat"
        else chunk["type"].endswith("text.delta")
        for chunk in chunks
        if isinstance(chunk, dict) and chunk.get("choices", True)
    ]
    last = max(index for index, yes in enumerate(is_delta) if yes)
    return [*chunks[: last + 1], silence()]


def calls(dialect: str, streamed: bool = False) -> Any:
    """An answer that calls `weather` twice."""
    places = [('{"city":"Oslo"}', "call_1"), ('{"city":"Rome"}', "call_2")]
    if dialect == "chat":
        made = [scripted.chat_call("weather", text, id) for text, id in places]
        make = scripted.chat_tool_stream if streamed else scripted.chat_tool_calls
        return make(*made)
    output = [
        scripted.function_call("weather", text, call_id=id, id=f"fc_{id}") for text, id in places
    ]
    return scripted.responses_events(output) if streamed else scripted.responses_body(output)


def told(upstream: Upstream, number: int = -1) -> list[tuple[str, Any]]:
    """(role, text) of each message the upstream was given with that request."""
    body = upstream.requests[number].body
    entries = body["messages"] if "messages" in body else body["input"]
    if isinstance(entries, str):
        return [("user", entries)]
    return [(entry["role"], text_of(entry["content"])) for entry in entries]


def text_of(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def text(response: Json) -> str:
    """The text of a Response's only message."""
    (item,) = [item for item in response["output"] if item["type"] == "message"]
    return text_of(item["content"])


async def begin(gateway: Gateway, **body: Any) -> tuple[str, asyncio.Task[list[Json]]]:
    """The id of a response whose first delta has come, and the task that reads its stream."""
    opened: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def read() -> list[Json]:
        async with gateway.open_stream("/v1/responses", **body) as response:
            events = []
            while (event := await gateway.next_event(response)) is not None:
                events.append(event)
                if not opened.done() and "delta" in event:
                    opened.set_result(events[0]["response"]["id"])
            return events

    task = asyncio.create_task(read())
    return await opened, task
