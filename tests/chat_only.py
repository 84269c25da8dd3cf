"""A server that knows Chat Completions and nothing else: `upstream.answer(chat_only.respond)`.

It understands the few directives of the built-in stub that the tests of the official clients use,
so that they can ask both for the same things, but it shares no code with it.
"""

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from tests import scripted
from tests.conftest import processes
from tests.scripted import Json, Reply, Upstream

HELLO = "Hello! How can I help you today?"


@asynccontextmanager
async def gateway(kind: str, folder: Path) -> AsyncIterator[str]:
    """The URL of the real process: unconfigured on the "stub", or in front of this server."""
    async with Upstream() as upstream, processes(folder, lambda: upstream) as start:
        upstream.answer(respond)
        config = None if kind == "stub" else {"providers": {"up": {"dialect": "chat"}}}
        yield (await start(config)).url


async def respond(request: web.Request) -> web.StreamResponse:
    """404 for every path but the one, like any server that has no Responses API."""
    if request.path != "/v1/chat/completions":
        error = {"message": f"Invalid URL ({request.path})", "type": "invalid_request_error"}
        return web.json_response({"error": error}, status=404)
    return await scripted.respond(request, reply(await request.json()))


def reply(body: Json) -> Reply:
    """What a request is answered with, for scripted.respond."""
    said = [(message["role"], text_of(message)) for message in body["messages"]]
    last = max(index for index, (role, _) in enumerate(said) if role == "user")
    directives = re.findall(r"\[stub (.*?)\]", said[last][1])
    wanted = directives[0] if directives else ""
    number = int((re.findall(r"\d+", wanted) or ["1"])[0])
    if wanted.startswith("error"):
        return (number, {"error": {"message": "Overloaded", "type": "server_error"}}, {})
    usage = (sum(len(text.split()) for _, text in said), 10)
    outputs = [text for role, text in said[last:] if role == "tool"]
    message, finish = compose(body, wanted, number, outputs)
    if not body.get("stream"):
        return scripted.chat_message(finish=finish, usage=usage, **message)
    chunks = scripted.chat_chunks(deltas(message), finish=finish, usage=usage)
    if wanted.startswith(("die", "silent")):
        end = scripted.CUT if wanted.startswith("die") else scripted.silence()
        return [*chunks[: number + 1], end]
    return chunks


def text_of(message: Json) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def compose(body: Json, wanted: str, number: int, outputs: list[str]) -> tuple[Json, str]:
    """The assistant's message and its finish_reason."""
    if outputs:
        return {"content": "The tools say: " + "; ".join(outputs)}, "stop"
    if body.get("tools"):
        name = body["tools"][0]["function"]["name"]
        calls = [
            scripted.chat_call(name, '{"city":"text"}', id=f"call_{index}")
            for index in range(number)
        ]
        return {"tool_calls": calls}, "tool_calls"
    if schema := (body.get("response_format") or {}).get("json_schema", {}).get("schema"):
        kinds = {"string": "text", "integer": 1, "boolean": True}
        fields = schema["properties"].items()
        return {"content": json.dumps({k: kinds[field["type"]] for k, field in fields})}, "stop"
    if wanted == "refuse":
        return {"refusal": "I'm sorry, but I can't help with that."}, "stop"
    if wanted == "reason":
        return {"reasoning_content": "They greet me.", "content": HELLO}, "stop"
    if wanted.startswith("length"):
        return {"content": "Hello! How"}, "length"
    return {"content": HELLO}, "stop"


def deltas(message: Json) -> Iterator[Json]:
    """The message as the deltas of a stream."""
    for name, value in message.items():
        if name != "tool_calls":
            for piece in scripted.split(value, 4):
                yield {name: piece}
            continue
        for index, call in enumerate(value):
            opened = {**call, "function": {**call["function"], "arguments": ""}}
            yield {"tool_calls": [{"index": index, **opened}]}
            for piece in scripted.split(call["function"]["arguments"], 3):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
