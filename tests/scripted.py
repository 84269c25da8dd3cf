"""The scripted upstream, a real server that answers what a test tells it to, and canned answers.

Everything here is written by hand from the vendors' documentation and shares no code with the
gateway. No test sleeps: an `asyncio.Event` in a stream holds it until the test sets the event.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from multidict import CIMultiDictProxy

CUT = object()  # in a stream: the TCP connection is aborted here
HEADERS = b""  # in a stream: status and headers go out, and nothing else yet
DONE = b"data: [DONE]\n\n"

Json = dict[str, Any]
Chunk = Any  # bytes | str | a dict (one event) | asyncio.Event (a gate) | CUT
Reply = (
    Any  # a dict | chunks | (status, dict or chunks, headers) | async (request) -> StreamResponse
)


def silence() -> asyncio.Event:
    """A gate that never opens."""
    return asyncio.Event()


@dataclass(frozen=True)
class Recorded:
    """One request the upstream was sent."""

    method: str
    path: str
    headers: CIMultiDictProxy[str]
    body: Any  # the decoded JSON, None if there was no body
    raw: bytes


class Upstream:
    """What `async with Upstream() as upstream` gives: .url ends in /v1."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[Recorded] = []
        self.disconnected = asyncio.Event()  # the gateway closed its connection during an answer
        self._received = asyncio.Condition()
        self._replies: deque[Reply] = deque()
        self._reply: Reply = None

    def answer(self, *replies: Reply) -> None:
        """Puts the replies in the queue, one per request; the last one is repeated for ever.

        A dict is JSON with status 200. A list is an event stream: bytes and str as they are, each
        in a write of its own, a dict as one event, an asyncio.Event as a gate, CUT as the end of
        the connection. A tuple is (status, dict or list, headers). A coroutine function is called
        with the request. Without any, the upstream says "Hello" in the dialect of the path.
        """
        self._replies.extend(replies)

    async def received(self, count: int) -> Recorded:
        """The `count`th request (from 1), as soon as it is here."""
        async with self._received:
            await self._received.wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    async def __aenter__(self) -> "Upstream":
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # handler_cancellation: `disconnected` is set also while we are silent.
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json.loads(raw) if raw else None
        async with self._received:
            self.requests.append(
                Recorded(request.method, request.path_qs, request.headers, body, raw)
            )
            self._received.notify_all()
        if self._replies:
            self._reply = self._replies.popleft()
        reply = default(request.path, body or {}) if self._reply is None else self._reply
        try:
            return await respond(request, reply)
        except (asyncio.CancelledError, ConnectionError):
            self.disconnected.set()
            raise


async def respond(request: web.Request, reply: Reply) -> web.StreamResponse:
    """Sends one reply; see Upstream.answer."""
    if callable(reply):
        answered: web.StreamResponse = await reply(request)
        return answered
    status, content, headers = reply if isinstance(reply, tuple) else (200, reply, {})
    if isinstance(content, list):
        return await stream(request, status, content, headers)
    if isinstance(content, bytes | str):
        content = content.encode() if isinstance(content, str) else content
        return web.Response(status=status, body=content, headers=headers)
    return web.json_response(content, status=status, headers=headers)


async def stream(
    request: web.Request, status: int, chunks: Sequence[Chunk], headers: Mapping[str, str]
) -> web.StreamResponse:
    """Sends the chunks, holding at every gate; headers go out with the first that is no gate."""
    response = web.StreamResponse(
        status=status, headers={"Content-Type": "text/event-stream", **headers}
    )
    for chunk in chunks:
        if isinstance(chunk, asyncio.Event):
            await chunk.wait()
        elif chunk is CUT:
            assert request.transport is not None
            request.transport.abort()
            return response
        else:
            if not response.prepared:
                await response.prepare(request)
            if chunk != HEADERS:
                await response.write(encode(chunk))
    if not response.prepared:
        await response.prepare(request)
    await response.write_eof()
    return response


def encode(chunk: Chunk) -> bytes:
    """The bytes of one chunk; a dict with a `type` is a named event, another a bare data line."""
    if isinstance(chunk, dict):
        name = f"event: {chunk['type']}\n" if "type" in chunk else ""
        return f"{name}data: {json.dumps(chunk)}\n\n".encode()
    return chunk.encode() if isinstance(chunk, str) else chunk


def default(path: str, body: Json) -> Reply:
    """Hello, in the dialect of the path, streamed if that was asked for."""
    streamed = body.get("stream", False)
    if path.endswith("/chat/completions"):
        return chat_stream(["Hel", "lo"]) if streamed else chat_text("Hello")
    if path.endswith("/responses"):
        return responses_stream(["Hel", "lo"]) if streamed else responses_text("Hello")
    return (404, {"error": {"message": "no such path", "type": "invalid_request_error"}}, {})


# Chat Completions: https://platform.openai.com/docs/api-reference/chat --------------------------

USAGE = (7, 2)  # input and output tokens of a canned answer that names none


def chat_usage(usage: tuple[int, int]) -> Json:
    """A chat usage object of (input, output) tokens."""
    return {
        "prompt_tokens": usage[0],
        "completion_tokens": usage[1],
        "total_tokens": sum(usage),
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def chat_message(
    *, finish: str = "stop", usage: tuple[int, int] | None = USAGE, **message: Any
) -> Json:
    """A chat.completion whose message has the given fields besides its role."""
    body: Json = {
        "id": "chatcmpl-up",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "up-model-2026",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": None} | message,
                "logprobs": None,
                "finish_reason": finish,
            }
        ],
    }
    return body if usage is None else {**body, "usage": chat_usage(usage)}


def chat_text(text: str, **fields: Any) -> Json:
    """A chat.completion that says `text`; other fields as in chat_message."""
    return chat_message(content=text, **fields)


def chat_call(name: str, arguments: str = "{}", id: str = "") -> Json:
    """One entry of a message's tool_calls."""
    return {
        "id": id or f"call_{name}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def chat_tool_calls(*calls: Json, **fields: Any) -> Json:
    """A chat.completion that makes the calls (see chat_call)."""
    return chat_message(finish=fields.pop("finish", "tool_calls"), tool_calls=list(calls), **fields)


def chat_chunks(
    deltas: Iterable[Json], *, finish: str | None = "stop", usage: tuple[int, int] | None = USAGE
) -> list[Chunk]:
    """A chat stream of the deltas: first the role, then finish_reason, usage and [DONE]."""

    def chunk(choices: list[Json], **fields: Any) -> Json:
        return {
            "id": "chatcmpl-up",
            "object": "chat.completion.chunk",
            "created": 1700000000,
            "model": "up-model-2026",
            "choices": choices,
            **fields,
        }

    def choice(delta: Json, reason: str | None = None) -> list[Json]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]

    chunks: list[Chunk] = [chunk(choice({"role": "assistant", "content": ""}))]
    chunks += [chunk(choice(delta)) for delta in deltas]
    if finish is not None:
        chunks.append(chunk(choice({}, finish)))
    if usage is not None:
        chunks.append(chunk([], usage=chat_usage(usage)))
    return [*chunks, DONE]


def chat_stream(parts: Sequence[str], **fields: Any) -> list[Chunk]:
    """A chat stream that says `parts`, one chunk each; `finish` and `usage` as in chat_chunks."""
    return chat_chunks(({"content": part} for part in parts), **fields)


def chat_tool_stream(*calls: Json, pieces: int = 2, **fields: Any) -> list[Chunk]:
    """A chat stream of tool calls (see chat_call), the arguments of each in `pieces` fragments."""
    deltas = []
    for index, call in enumerate(calls):
        function = {**call["function"], "arguments": ""}
        deltas.append({"tool_calls": [{"index": index, **call, "function": function}]})
        for piece in split(call["function"]["arguments"], pieces):
            deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    return chat_chunks(deltas, finish=fields.pop("finish", "tool_calls"), **fields)


def split(text: str, pieces: int) -> list[str]:
    """`text` in at most `pieces` pieces of nearly one size."""
    size = max(1, -(-len(text) // pieces))
    return [text[start : start + size] for start in range(0, len(text), size)]


# Responses: https://platform.openai.com/docs/api-reference/responses ----------------------------


def message(*texts: str, id: str = "msg_up1", **fields: Any) -> Json:
    """An assistant message item with one output_text part per text."""
    content = [
        {"type": "output_text", "text": text, "annotations": [], "logprobs": []} for text in texts
    ]
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": content,
        **fields,
    }


def refusal(text: str, id: str = "msg_up1") -> Json:
    """An assistant message item that refuses."""
    return message(id=id, content=[{"type": "refusal", "refusal": text}])


def function_call(name: str, arguments: str = "{}", *, id: str = "", call_id: str = "") -> Json:
    """A function_call item; id and call_id are made of the name unless given."""
    return {
        "id": id or f"fc_{name}",
        "type": "function_call",
        "status": "completed",
        "call_id": call_id or f"call_{name}",
        "name": name,
        "arguments": arguments,
    }


def custom_call(name: str, input: str, *, id: str = "", call_id: str = "") -> Json:
    """A custom_tool_call item."""
    return {
        "id": id or f"ctc_{name}",
        "type": "custom_tool_call",
        "status": "completed",
        "call_id": call_id or f"call_{name}",
        "name": name,
        "input": input,
    }


def reasoning(*summary: str, id: str = "rs_up1", **fields: Any) -> Json:
    """A reasoning item with one summary_text part per text; encrypted_content=… as given."""
    parts = [{"type": "summary_text", "text": text} for text in summary]
    return {"id": id, "type": "reasoning", "summary": parts, **fields}


def responses_body(
    output: Sequence[Json],
    *,
    usage: tuple[int, int] | None = USAGE,
    status: str = "completed",
    **fields: Any,
) -> Json:
    """A Response as OpenAI's server writes it; `fields` (error, service_tier, …) go on top."""
    counts = usage and {
        "input_tokens": usage[0],
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": usage[1],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": sum(usage),
    }
    return {
        "id": "resp_up",
        "object": "response",
        "created_at": 1700000000,
        "completed_at": 1700000001 if status == "completed" else None,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "max_output_tokens": None,
        "model": "up-model-2026",
        "output": list(output),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": counts,
        "metadata": {},
        **fields,
    }


def responses_text(text: str, **fields: Any) -> Json:
    """A Response that says `text`; other fields as in responses_body."""
    return responses_body([message(text)], **fields)


def responses_stream(parts: Sequence[str], **fields: Any) -> list[Chunk]:
    """A stream that says `parts`, one delta each; other fields as in responses_body."""
    return responses_events([message("".join(parts))], deltas=[*parts], **fields)


def responses_events(
    output: Sequence[Json], *, pieces: int = 2, deltas: Sequence[str] | None = None, **fields: Any
) -> list[Chunk]:
    """A whole and correct stream of finished items, every text in `pieces` deltas (or in `deltas`).

    Ends with the event that `status` asks for, without [DONE]: OpenAI sends none.
    """
    final = responses_body(output, **fields)
    begun = {**final, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    begun |= {"error": None, "incomplete_details": None}
    events = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    for index, item in enumerate(output):
        cut = (lambda _: list(deltas)) if deltas is not None else (lambda text: split(text, pieces))
        events += item_events(index, item, cut)
    events.append({"type": f"response.{final['status']}", "response": final})
    return renumbered(deepcopy(events))


def item_events(index: int, item: Json, cut: Callable[[str], list[str]]) -> list[Json]:
    """output_item.added … output_item.done of one finished item."""
    here = {"output_index": index, "item_id": item["id"]}
    empty: Json = {name: [] for name in ("content", "summary") if name in item}
    empty |= {name: "" for name in ("arguments", "input") if name in item}
    empty |= {"status": "in_progress"} if "status" in item else {}
    events = [{"type": "response.output_item.added", "output_index": index, "item": item | empty}]
    for number, part in enumerate(item.get("summary", [])):
        stem = "response.reasoning_summary"
        events += part_events(
            f"{stem}_part", f"{stem}_text", part, cut, {**here, "summary_index": number}
        )
    for number, part in enumerate(item.get("content", [])):
        place = {**here, "content_index": number}
        events += part_events("response.content_part", f"response.{part['type']}", part, cut, place)
    for name, stem in (
        ("arguments", "response.function_call_arguments"),
        ("input", "response.custom_tool_call_input"),
    ):
        if name in item:
            events += [
                {"type": f"{stem}.delta", **here, "delta": piece} for piece in cut(item[name])
            ]
            events.append({"type": f"{stem}.done", **here, name: item[name]})
    return [*events, {"type": "response.output_item.done", "output_index": index, "item": item}]


def part_events(
    part_stem: str, text_stem: str, part: Json, cut: Callable[[str], list[str]], place: Json
) -> list[Json]:
    """part.added … part.done of one finished content or summary part."""
    name = "refusal" if part["type"] == "refusal" else "text"
    extra = {"logprobs": []} if part["type"] == "output_text" else {}
    bare = {key: [] if isinstance(value, list) else value for key, value in part.items()}
    events = [{"type": f"{part_stem}.added", **place, "part": {**bare, name: ""}}]
    events += [
        {"type": f"{text_stem}.delta", **place, "delta": piece, **extra}
        for piece in cut(part[name])
    ]
    for number, annotation in enumerate(part.get("annotations", [])):
        events.append(
            {
                "type": "response.output_text.annotation.added",
                **place,
                "annotation_index": number,
                "annotation": annotation,
            }
        )
    events.append({"type": f"{text_stem}.done", **place, name: part[name], **extra})
    return [*events, {"type": f"{part_stem}.done", **place, "part": part}]


# Deviations: what servers other than OpenAI's do to the same stream -----------------------------


def renumbered(events: Iterable[Chunk]) -> list[Chunk]:
    """The events with sequence_number from 0, gapless."""
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def without(events: Iterable[Chunk], *ends: str) -> list[Chunk]:
    """Renumbered, without the events whose type ends in one of `ends`, "output_item.added" say."""
    return renumbered(event for event in events if not event["type"].endswith(ends))


def without_numbers(events: Iterable[Chunk]) -> list[Chunk]:
    """No sequence_number at all (llama.cpp, older vLLM)."""
    return [{k: v for k, v in event.items() if k != "sequence_number"} for event in events]


def numbered_from(start: int, events: Iterable[Chunk]) -> list[Chunk]:
    """sequence_number from `start` (some examples of OpenAI's own begin at 1)."""
    return [{**event, "sequence_number": number} for number, event in enumerate(events, start)]


def with_one_item_id(events: Iterable[Chunk], item_id: str = "msg_same") -> list[Chunk]:
    """Every item of the response has the same id; an id that is malformed may be given, too."""
    changed = deepcopy(list(events))
    for event in changed:
        if "item_id" in event:
            event["item_id"] = item_id
        for item in [event.get("item"), *event.get("response", {}).get("output", [])]:
            if item:
                item["id"] = item_id
    return changed


def with_empty_output(events: Iterable[Chunk]) -> list[Chunk]:
    """The terminal snapshot shows no output although items were streamed."""
    changed = deepcopy(list(events))
    changed[-1]["response"]["output"] = []
    return changed


def bytewise(chunks: Iterable[Chunk], size: int = 1) -> list[bytes]:
    """The stream's bytes in writes of `size` bytes, whatever the events are."""
    raw = b"".join(encode(chunk) for chunk in chunks)
    return [raw[start : start + size] for start in range(0, len(raw), size)]
