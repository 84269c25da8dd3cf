"""The handler of /v1/chat/completions.

API: https://platform.openai.com/docs/api-reference/chat
"""

import time

from aiohttp import web

from anos import admission, chat_requests, items, pipeline, screening
from anos.calls import ChatCall
from anos.decoding import decode_body
from anos.intake import read_body
from anos.runs import Run
from anos.state import EXCHANGE, SERVING


async def create(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions: a completion or its stream; it cannot be retrieved later."""
    gateway, exchange = request[SERVING], request[EXCHANGE]
    live, caller = gateway.live, exchange.caller
    assert caller is not None  # the route is not public
    tree = decode_body(await read_body(request))
    chat_requests.validate(tree)
    routes = await admission.admit(gateway, live, exchange, caller, tree["model"])
    now_ms = time.time_ns() // 1_000_000
    call = ChatCall(
        tree, response_id=items.new_id("chatcmpl", now_ms), created_s=now_ms // 1000, now_ms=now_ms
    )
    await screening.screen_request(live.profiles[caller.guards], exchange, call)
    run = Run(call.response_id, caller.project, call.base, now_ms, exchange, stream=call.stream)
    return await pipeline.Work(gateway, live, exchange, call, routes, run).foreground(request)
