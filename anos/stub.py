"""The built-in upstream: a small server that speaks OpenAI's wire format, to test against.

What a model name or a prompt can ask it for: docs/stub.md. The wire:
https://platform.openai.com/docs/api-reference/responses and /chat.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import orjson
from aiohttp import web

from anos import sse
from anos.chat_answers import completion
from anos.chat_stream import ChunkWriter
from anos.events import EventWriter
from anos.items import Answer, base_response, final_response, new_id
from anos.stub_answers import DIRECTIVES, Request, compose, pieces, read_request, spoken

Json = dict[str, Any]


async def start() -> tuple[web.AppRunner, str]:
    """The running stub on a free port of the loopback interface, and its base URL ending in /v1."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/v1/responses", _create)
    app.router.add_post("/v1/chat/completions", _create)
    app.router.add_get("/v1/models", _models)
    # A silent or slow answer ends when its client leaves, and does not hold up a shutdown.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"


async def _create(request: web.Request) -> web.StreamResponse:
    asked = read_request(orjson.loads(await request.read()))
    wanted = asked.directives
    if "error" in wanted:
        return _error(min(max(wanted["error"], 400), 599))
    answer = compose(asked)
    is_chat = request.path.endswith("/chat/completions")
    if asked.body.get("stream"):
        events = _events(asked, answer)
        writes = _chunks(asked, answer, events) if is_chat else map(sse.encode_events, events)
        return await _send_stream(request, wanted, list(writes))
    if wanted.keys() & {"die", "silent"}:
        return await _vanish(request, "silent" in wanted)
    deltas = sum(len(pieces(item, wanted)) for item in answer.output)
    await asyncio.sleep(wanted.get("delay", 0) * deltas / 1000)
    whole = completion(answer, **_names(asked, "chatcmpl")) if is_chat else _response(asked, answer)
    data = orjson.dumps(whole)
    data = data[: len(data) // 2] if "malformed" in wanted else data
    return web.Response(body=data, content_type="application/json")


async def _models(request: web.Request) -> web.Response:
    names = ("gpt-35-turbo", "gpt-4", *DIRECTIVES)
    models = [{"id": name, "object": "model", "created": 0, "owned_by": "stub"} for name in names]
    return web.json_response({"object": "list", "data": models})


def _error(status: int) -> web.Response:
    codes = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
    error = {
        "message": f"The stub was asked for status {status}.",
        "type": "server_error" if status >= 500 else "invalid_request_error",
        "param": None,
        "code": codes.get(status),
    }
    headers = {"Retry-After": "1"} if status == 429 else {}
    return web.json_response({"error": error}, status=status, headers=headers)


async def _send_stream(
    request: web.Request, wanted: dict[str, Any], writes: list[bytes]
) -> web.StreamResponse:
    # The writes are: the opening events, one per delta, the closing events. A fault after k deltas
    # comes before write k + 1; after none, before everything, the headers too.
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    faults = {
        min(wanted[name] and wanted[name] + 1, len(writes) - 1): name
        for name in ("malformed", "die", "silent")
        if name in wanted
    }
    for count, data in enumerate(writes):
        if 0 < count < len(writes) - 1 and "delay" in wanted:
            await asyncio.sleep(wanted["delay"] / 1000)
        fault = faults.get(count)
        if fault in ("die", "silent"):
            return await _vanish(request, fault == "silent")
        if not response.prepared:
            await response.prepare(request)
        await response.write(b'data: {"delta": "brok\n\n' + data if fault else data)
    return response


async def _vanish(request: web.Request, is_silent: bool) -> web.Response:
    if is_silent:
        await asyncio.Event().wait()  # until the client leaves
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _names(asked: Request, prefix: str) -> dict[str, Any]:
    now_ms = time.time_ns() // 1_000_000
    model = str(asked.body.get("model", ""))
    return {"id": new_id(prefix, now_ms), "model": model, "created": now_ms // 1000}


def _response(asked: Request, answer: Answer, base: Json | None = None) -> Json:
    return final_response(base or _base(asked), answer, completed_at=int(time.time()))


def _base(asked: Request) -> Json:
    names = _names(asked, "resp")
    return base_response(asked.body, created_at=names.pop("created"), **names)


def _events(asked: Request, answer: Answer) -> list[list[Json]]:
    # One list per write, as _send_stream wants them.
    base = _base(asked)
    writer = EventWriter(base, base["created_at"] * 1000)
    writes = [writer.start()]
    waiting: list[Json] = []
    for item in answer.output:
        index, opened = writer.open(item)
        waiting += opened
        for piece in pieces(item, asked.directives):
            writes.append(waiting + writer.delta(index, spoken(item)[0], piece))
            waiting = []
        waiting += writer.close(index, status=item.get("status", "completed"), final=item)
    return [*writes, waiting + writer.terminal(_response(asked, answer, base))]


def _chunks(asked: Request, answer: Answer, writes: list[list[Json]]) -> Iterator[bytes]:
    options = asked.body.get("stream_options") or {}
    wants_usage = bool(options.get("include_usage"))
    writer = ChunkWriter(include_usage=wants_usage, **_names(asked, "chatcmpl"))
    for events in writes[:-1]:
        yield _encoded(writer.feed(events))
    yield _encoded(writer.feed(writes[-1]) + writer.finish(answer)) + sse.DONE


def _encoded(chunks: list[Json]) -> bytes:
    return b"".join(sse.encode("", orjson.dumps(chunk)) for chunk in chunks)
