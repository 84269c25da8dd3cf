"""Every refusal a client can get, read as it gets it: status, the four fields, headers."""

import asyncio
import json
import resource
from typing import Any

import pytest
from yarl import URL

import anos_gateway
from anos.middleware import answer
from anos.state import Bounds
from tests import grammar, scripted
from tests.conftest import MASTER, Gateway, Json, Process, Reply

RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"
OWN_KEYS: Json = {
    "keys": {
        "narrow": {"key": "sk-narrow", "models": ["gpt-4"]},
        "limited": {"key": "sk-limited", "limits": "one"},
    },
    "limits": {"one": {"requests_per_minute": 1}},
    "guards": {"keywords": {"input": "block", "phrases": ["forbidden phrase"]}},
}


def refused(reply: Reply, status: int, code: str | int, param: str = "") -> Json:
    """The error of a reply that has to be this one."""
    assert reply.status == status, reply.raw
    assert reply.headers["Content-Type"].startswith("application/json")
    assert reply.headers["x-request-id"]
    assert (reply.error["code"], reply.error["param"]) == (code, param), reply.error
    assert reply.error["message"]
    return reply.error


# What is wrong with the body ------------------------------------------------------------------

WRONG_BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", ""),
    "no JSON": (b'{"model": ', ""),
    "two values": (b"{}{}", ""),
    "a list": (b"[]", ""),
    "a string": (b'"text"', ""),
    "null": (b"null", ""),
    "bytes": (b'{"model": "\xff"}', ""),
    "UTF-16": ('{"model": "gpt-4"}'.encode("utf-16"), ""),
    "NaN": (b'{"temperature": NaN}', ""),
    "a comment": (b"{} // no", ""),
    "nested too deeply": (b'{"metadata": ' + b"[" * 1000 + b"]" * 1000 + b"}", None),
    "nested beyond every stack": (b"[" * 1_000_000, None),
    "beyond 64 bits": (b'{"metadata": {"a": 18446744073709551616}}', "metadata.a"),
    "beyond every float": (b'{"temperature": 1e999}', "temperature"),
    "half a surrogate pair": (b'{"user": "\\ud800"}', "user"),
}


@pytest.mark.parametrize("path", [RESPONSES, CHAT])
@pytest.mark.parametrize("name", WRONG_BODIES)
async def test_a_body_that_is_no_json_object_is_400(gateway, path: str, name: str) -> None:
    body, param = WRONG_BODIES[name]
    reply = await (await gateway()).request("POST", path, data=body)
    refused(reply, 400, "invalid_value", reply.error["param"] if param is None else param)


def user(content: Any) -> Json:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (RESPONSES, {"model": 5}, "model"),
        (RESPONSES, {"input": 5}, "input"),
        (RESPONSES, {"input": [5]}, "input[0]"),
        (RESPONSES, {"input": [user(5)]}, "input[0].content"),
        (RESPONSES, {"input": ["hi", user([{"type": "input_text", "text": 5}])]}, None),
        (RESPONSES, {"stream": "yes"}, "stream"),
        (RESPONSES, {"temperature": "hot"}, "temperature"),
        (RESPONSES, {"temperature": 3}, "temperature"),
        (RESPONSES, {"max_output_tokens": -1}, "max_output_tokens"),
        (RESPONSES, {"metadata": {"a": 5}}, "metadata.a"),
        (RESPONSES, {"tools": [{"type": "function", "name": 5}]}, "tools[0].name"),
        (RESPONSES, {"include": ["everything"]}, "include[0]"),
        (CHAT, {"messages": "hi"}, "messages"),
        (CHAT, {"messages": [5]}, "messages[0]"),
        (CHAT, {"messages": [{"role": 5, "content": "hi"}]}, "messages[0].role"),
        (CHAT, {"messages": [user(5)]}, "messages[0].content"),
        (CHAT, {"temperature": "hot"}, "temperature"),
        (CHAT, {"n": 0}, "n"),
    ],
)
async def test_a_value_of_a_wrong_type_is_400_with_its_path(
    gateway, path: str, fields: Json, param: str | None
) -> None:
    ask = {"input": "hi"} if path == RESPONSES else {"messages": [user("hi")]}
    reply = await (await gateway()).post(path, **ask | fields)
    refused(reply, 400, "invalid_value", reply.error["param"] if param is None else param)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (RESPONSES, {"input": "hi"}, "model"),
        (CHAT, {"messages": [user("hi")]}, "model"),
        (CHAT, {"model": "gpt-4"}, "messages"),
    ],
)
async def test_a_missing_field_is_400_with_its_name(
    gateway, path: str, body: Json, param: str
) -> None:
    reply = await (await gateway()).request("POST", path, json=body)
    refused(reply, 400, "missing_required_parameter", param)


@pytest.mark.parametrize("path", [RESPONSES, CHAT])
@pytest.mark.parametrize(
    "name",
    [
        "api_base",
        "base_url",
        "api_key",
        "extra_headers",
        "organization",
        "azure_endpoint",
        "models",
    ],
)
async def test_a_client_does_not_choose_where_its_request_goes(
    gateway, upstream, path: str, name: str
) -> None:
    ask = {"input": "hi"} if path == RESPONSES else {"messages": [user("hi")]}
    reply = await (await gateway()).post(path, **ask, **{name: "https://evil.example"})
    assert reply.status == 400
    assert reply.error["param"] == name
    assert upstream.requests == []


@pytest.mark.parametrize("path", [RESPONSES, CHAT])
@pytest.mark.parametrize("model", ["no-such", "", "../gpt-4", "stub/../x", "gpt-4 ", "a" * 10_000])
async def test_an_unknown_model_is_400(gateway, path: str, model: str) -> None:
    ask = {"input": "hi"} if path == RESPONSES else {"messages": [user("hi")]}
    reply = await (await gateway()).post(path, model=model, **ask)
    assert reply.status == 400
    assert reply.error == {
        "message": "Invalid model specified",
        "type": "invalid_request_error",
        "param": "model",
        "code": 400,
    }


@pytest.mark.parametrize("path", [RESPONSES, CHAT])
async def test_a_model_the_key_may_not_use_is_403(gateway, path: str) -> None:
    ask = {"input": "hi"} if path == RESPONSES else {"messages": [user("hi")]}
    headers = {"Authorization": "Bearer sk-narrow"}
    body = {"model": "gpt-35-turbo", **ask}
    reply = await (await gateway(OWN_KEYS)).request("POST", path, json=body, headers=headers)
    refused(reply, 403, "model_not_allowed", "model")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [RESPONSES, CHAT])
async def test_a_used_up_limit_is_429_and_says_when_to_come_back(
    gateway, path: str, stream: bool
) -> None:
    running = await gateway(OWN_KEYS)
    ask = {"input": "hi"} if path == RESPONSES else {"messages": [user("hi")]}
    body = {"model": "gpt-4", "stream": stream, **ask}
    headers = {"Authorization": "Bearer sk-limited"}
    first, second = [
        await running.request("POST", path, json=body, headers=headers) for _ in range(2)
    ]
    assert first.status == 200
    assert first.headers["x-ratelimit-limit-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    refused(second, 429, 429)
    assert second.error["type"] == "rate_limit_error"
    assert 0 < int(second.headers["Retry-After"]) <= 60
    assert 0 < int(second.headers["retry-after-ms"]) <= 60_000
    assert second.headers["x-ratelimit-remaining-requests"] == "0"
    assert second.headers["x-ratelimit-reset-requests"].endswith("s")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [RESPONSES, CHAT])
async def test_a_banned_phrase_is_400_and_is_not_repeated(
    gateway, upstream, path: str, stream: bool
) -> None:
    text = "Say the Forbidden phrase."
    ask = {"input": text} if path == RESPONSES else {"messages": [user(text)]}
    reply = await (await gateway(OWN_KEYS)).post(path, stream=stream, **ask)
    refused(reply, 400, 400)
    assert reply.error["type"] == "content_filter_error"
    assert "phrase" not in reply.raw.decode()
    assert upstream.requests == []


@pytest.mark.parametrize("path", [RESPONSES, CHAT])
async def test_of_a_repeated_key_the_value_that_was_checked_is_sent(
    gateway, upstream, path: str
) -> None:
    running = await gateway(OWN_KEYS)
    headers = {"Authorization": "Bearer sk-narrow"}
    name = "input" if path == RESPONSES else "messages"
    text = {"good": '"hi"', "bad": '"a forbidden phrase"'}
    if path == CHAT:
        text = {key: json.dumps([user(json.loads(value))]) for key, value in text.items()}

    async def ask(models: tuple[str, str], texts: tuple[str, str]) -> Reply:
        pairs = [("model", f'"{model}"') for model in models] + [(name, text[key]) for key in texts]
        body = "{" + ",".join(f'"{key}":{value}' for key, value in pairs) + "}"
        return await running.request("POST", path, data=body, headers=headers)

    forbidden = await ask(("gpt-4", "gpt-35-turbo"), ("good", "good"))
    refused(forbidden, 403, "model_not_allowed", "model")
    refused(await ask(("gpt-4", "gpt-4"), ("good", "bad")), 400, 400)
    assert upstream.requests == []
    assert (await ask(("gpt-35-turbo", "gpt-4"), ("bad", "good"))).status == 200
    sent = upstream.requests[0].raw.decode()
    assert sent.count('"model"') == 1
    assert "forbidden" not in sent


# Paths, methods, keys -------------------------------------------------------------------------

PREFIXES = ("/v1", "", "/openai/v1")
ROUTES = [
    (method, (prefix + path.removeprefix("/v1") if path.startswith("/v1/") else path))
    for method, path, _ in anos_gateway.ROUTES
    for prefix in (PREFIXES if path.startswith("/v1/") else ("",))
]


def concrete(path: str) -> str:
    """The path with names of things that do not exist."""
    for pattern, name in (("{id:.+}", "no-such"), ("{id}", "resp_none")):
        path = path.replace(pattern, name)
    return path.replace("{name}", "none").replace("{key}", "none")


async def test_every_route_asks_for_a_key_before_anything_else(gateway) -> None:
    running = await gateway()
    headers = {"Authorization": "Bearer sk-wrong"}
    for method, path in ROUTES:
        reply = await running.request(method, concrete(path), data=b"{broken", headers=headers)
        refused(reply, 401, "invalid_api_key")
        assert reply.headers["WWW-Authenticate"] == "Bearer"


async def test_another_method_is_405_and_lists_what_is_allowed(gateway) -> None:
    running = await gateway()
    for method, path in ROUTES:
        reply = await running.request("PUT", concrete(path))
        refused(reply, 405, "method_not_allowed")
        assert method in reply.headers["Allow"].split(", ")


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v2/responses", "/v1/responses/", "/v1//responses", "/v1/Responses"]
)
async def test_an_unknown_path_is_404(gateway, path: str) -> None:
    refused(await (await gateway()).get(path), 404, "not_found")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("POST", "/conversations", "Conversations are not supported yet."),
        ("GET", "/conversations/conv_1/items", "Conversations are not supported yet."),
        ("POST", "/embeddings", "Embeddings are not supported yet."),
        ("POST", "/messages", "The Messages API is not supported yet."),
        ("POST", "/webhook_endpoints", "Webhooks are not supported yet."),
        ("POST", "/images/generations", "Images are not supported yet."),
        ("POST", "/responses/compact", "Compaction is not supported yet."),
        (
            "POST",
            "/responses/input_tokens",
            "Counting the tokens of an input is not supported yet.",
        ),
    ],
)
async def test_what_is_not_built_is_refused_by_its_name(
    gateway, prefix: str, method: str, path: str, message: str
) -> None:
    reply = await (await gateway()).request(method, prefix + path, json={})
    assert refused(reply, 404, "not_found")["message"] == message


@pytest.mark.parametrize(
    "path", ["/v1/conversation", "/v1/xembeddings", "/embeddings2", "/v3/files"]
)
async def test_what_only_sounds_like_it_is_an_unknown_path(gateway, path: str) -> None:
    reply = await (await gateway()).request("POST", path, json={})
    assert refused(reply, 404, "not_found")["message"] == "Unknown path."


async def test_a_websocket_is_refused_by_its_name(gateway) -> None:
    running = await gateway()
    upgrade = {"Connection": "Upgrade", "Upgrade": "WebSocket", "Sec-WebSocket-Version": "13"}
    reply = await running.request("GET", RESPONSES, headers=upgrade)
    error = refused(reply, 400, "unsupported_parameter", "Upgrade")
    assert error["message"] == "WebSocket is not supported yet."
    refused(await running.get(RESPONSES), 405, "method_not_allowed")


@pytest.mark.parametrize("name", ["resp_none", "%00", "%2e%2e", "%ff", "a" * 5000, "resp_%F0%9F"])
async def test_an_unknown_id_is_404(gateway, name: str) -> None:
    running = await gateway()
    for method, path in (
        ("GET", f"/v1/responses/{name}"),
        ("DELETE", f"/v1/responses/{name}"),
        ("GET", f"/v1/responses/{name}/input_items"),
        ("POST", f"/v1/responses/{name}/cancel"),
    ):
        url = URL(running.url + path, encoded=True)
        async with running.session.request(method, url) as response:
            reply = Reply(response.status, response.headers, await response.read())
        refused(reply, 404, "not_found", "response_id")


@pytest.mark.parametrize(
    "name", ["no-such", "../responses", "..%2f..%2fadmin", "%2e%2e", "a%00b", "%ff", "a" * 5000]
)
async def test_an_unknown_model_name_in_a_path_is_404(gateway, name: str) -> None:
    running = await gateway()
    url = URL(f"{running.url}/v1/models/{name}", encoded=True)
    async with running.session.get(url) as response:
        reply = Reply(response.status, response.headers, await response.read())
    refused(reply, 404, "model_not_found", "model")
    assert len(reply.error["message"]) < 300


@pytest.mark.parametrize("name", ["gpt-4", "stub/echo", "stub%2Fecho"])
async def test_a_model_name_may_have_slashes(gateway, name: str) -> None:
    assert (await (await gateway()).get(f"/v1/models/{name}")).status == 200


@pytest.mark.parametrize("query", ["stream=true", "include=everything", "include[]=everything"])
async def test_a_wrong_parameter_of_a_query_is_400(gateway, query: str) -> None:
    running = await gateway()
    stored = (await running.post(RESPONSES, input="hi")).body["id"]
    reply = await running.get(f"/v1/responses/{stored}?{query}")
    assert reply.status == 400
    assert reply.error["param"]


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "order=up", "after=no-such", "after=%ff"])
async def test_a_wrong_parameter_of_a_page_is_400(gateway, query: str) -> None:
    running = await gateway()
    stored = (await running.post(RESPONSES, input="hi")).body["id"]
    reply = await running.get(f"/v1/responses/{stored}/input_items?{query}")
    assert reply.status == 400
    assert reply.error["param"] == query.split("=")[0]


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/readyz", 200), ("/v1/x", 404)])
async def test_head_is_answered_without_a_body(gateway, path: str, status: int) -> None:
    reply = await (await gateway()).request("HEAD", path)
    assert (reply.status, reply.raw) == (status, b"")
    assert int(reply.headers["Content-Length"]) > 0


# Headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [RESPONSES, CHAT])
async def test_every_answer_tells_its_id_and_its_time(gateway, path: str, stream: bool) -> None:
    running = await gateway()
    ask = {"input": "hi"} if path == RESPONSES else {"messages": [user("hi")]}
    for reply in (
        await running.post(path, stream=stream, **ask),
        await running.post(path, stream=stream),
        await running.get("/healthz"),
        await running.get("/nowhere"),
    ):
        assert reply.headers["x-request-id"].startswith("req_")
        assert int(reply.headers["openai-processing-ms"]) >= 0
        assert 0 <= float(reply.headers["anos-overhead-ms"]) < 30_000
        assert "x-ratelimit-limit-requests" not in reply.headers
        assert "Set-Cookie" not in reply.headers


async def test_the_time_of_the_upstream_is_no_overhead(gateway, upstream) -> None:
    gate = asyncio.Event()
    upstream.answer([gate, *scripted.responses_stream(["Hello"])])
    running = await gateway()
    asked = asyncio.create_task(running.post(RESPONSES, input="hi", stream=True))
    await upstream.received(1)
    await asyncio.wait([asked], timeout=0.2)
    gate.set()
    headers = (await asked).headers
    assert int(headers["openai-processing-ms"]) >= 200
    assert float(headers["anos-overhead-ms"]) < int(headers["openai-processing-ms"]) - 100


@pytest.mark.parametrize("sent", ["a", "A-b_c.9", "x" * 128])
async def test_a_clients_request_id_is_kept(gateway, sent: str) -> None:
    running = await gateway()
    for path in ("/healthz", "/nowhere"):
        reply = await running.request("GET", path, headers={"x-request-id": sent})
        assert reply.headers["x-request-id"] == sent


@pytest.mark.parametrize("sent", ["", "a b", "ä", "a\tb", "x" * 129, "<script>", "a,b"])
async def test_a_request_id_that_is_none_is_replaced(gateway, sent: str) -> None:
    reply = await (await gateway()).request("GET", "/healthz", headers={"x-request-id": sent})
    assert reply.headers["x-request-id"].startswith("req_")


# Silence --------------------------------------------------------------------------------------

BRISK = Bounds(silence_s=0.05)


def dialect_of(path: str) -> Json:
    return {"providers": {"up": {"dialect": "chat" if path == CHAT else "responses"}}}


async def silent_stream(running: Gateway, path: str, gate: asyncio.Event) -> Reply:
    """The whole stream; the gate opens when two signs of life have come."""
    ask = {"input": "hi"} if path == RESPONSES else {"messages": [user("hi")]}
    async with running.open_stream(path, **ask) as response:
        signs = [await response.content.readuntil(b"\n\n") for _ in range(2)]
        assert signs == [b": keep-alive\n\n"] * 2
        gate.set()
        return Reply(response.status, response.headers, await response.read())


@pytest.mark.parametrize("path", [RESPONSES, CHAT])
async def test_a_silent_upstream_is_bridged_with_comments(gateway, upstream, path: str) -> None:
    gate = asyncio.Event()
    stream = scripted.chat_stream if path == CHAT else scripted.responses_stream
    upstream.answer([gate, *stream(["Hello"])])
    reply = await silent_stream(await gateway(dialect_of(path), bounds=BRISK), path, gate)
    assert b"Hello" in reply.raw
    if path == RESPONSES:
        grammar.check(grammar.parse(reply.raw, done=True))
    else:
        grammar.check_chat(grammar.parse(reply.raw, done=True))


@pytest.mark.parametrize(
    "failure",
    [[scripted.CUT], (500, {"error": {"message": "down"}}, {}), (400, {"error": "no"}, {})],
    ids=["cut", "500", "400"],
)
@pytest.mark.parametrize("path", [RESPONSES, CHAT])
async def test_a_failure_after_silence_ends_in_the_clients_dialect(
    gateway, upstream, path: str, failure: Any
) -> None:
    gate = asyncio.Event()

    async def fail(request: Any) -> Any:
        await gate.wait()
        return await scripted.respond(request, failure)

    upstream.answer(fail)
    reply = await silent_stream(await gateway(dialect_of(path), bounds=BRISK), path, gate)
    events = grammar.parse(reply.raw)
    if path == CHAT:
        assert [event.keys() for event in events] == [{"error"}]
        assert b"[DONE]" not in reply.raw
    else:
        grammar.check(events)
        types = [event["type"].removeprefix("response.") for event in events]
        assert types == ["created", "in_progress", "failed"]
        assert reply.raw.endswith(scripted.DONE)


# The database ---------------------------------------------------------------------------------


def limit_file_size(process: Process, size: int) -> None:
    """What the process writes beyond `size` bytes of a file fails, as on a full disk."""
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, hard))


async def test_a_full_disk_is_503_and_reading_goes_on(process, upstream) -> None:
    running = await process({})
    stored = (await running.post(RESPONSES, input="hi")).body["id"]
    limit_file_size(running, 1024)
    # The model has answered: to ask again would cost again.
    lost = await running.post(RESPONSES, input="hi")
    refused(lost, 503, "server_error")
    assert lost.headers["x-should-retry"] == "false"
    asked = len(upstream.requests)
    for path, ask in ((RESPONSES, {"input": "hi"}), (CHAT, {"messages": [user("hi")]})):
        for stream in (False, True):
            refused(await running.post(path, stream=stream, **ask), 503, "service_unavailable")
    refused(await running.post(RESPONSES, input="hi", background=True), 503, "service_unavailable")
    refused(await running.delete(f"/v1/responses/{stored}"), 503, "service_unavailable")
    assert len(upstream.requests) == asked
    assert (await running.get("/readyz")).status == 503
    assert (await running.get("/healthz")).status == 200
    assert (await running.get(f"/v1/responses/{stored}")).body["id"] == stored
    assert (await running.get("/v1/models")).status == 200
    limit_file_size(running, resource.RLIM_INFINITY)
    await until_ready(running)
    assert (await running.post(RESPONSES, input="hi")).status == 200


async def test_a_stream_that_cannot_be_stored_ends_as_failed(process, upstream) -> None:
    running = await process({})
    limit_file_size(running, 1024)
    events = await running.stream(RESPONSES, input="hi")
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["code"] == "server_error"


async def until_ready(running: Process) -> None:
    for _ in range(200):
        if (await running.get("/readyz")).status == 200:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it does not recover")


# What nobody may read -------------------------------------------------------------------------


async def test_no_key_and_no_prompt_is_in_a_log_an_error_or_a_metric(process, upstream) -> None:
    secret, prompt = "sk-canary-upstream", "canary-prompt-41"
    ours, wrong = "sk-canary-own", "sk-canary-wrong"
    running = await process(
        {
            "server": {"master_key": ours},
            "providers": {"up": {"api_key": secret, "timeouts": {"idle_s": 0.1}}},
            "guards": {"keywords": {"phrases": ["canary-banned"]}},
        }
    )
    ask = {"model": "gpt-4", "input": prompt, "instructions": prompt, "user": prompt}
    echo = {"message": f"{secret} {prompt}", "code": f"{secret}"}
    stream = scripted.responses_stream([prompt])
    seen = []

    async def post(key: str = ours, path: str = RESPONSES, **fields: Any) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        reply = await running.request("POST", path, json=ask | fields, headers=headers)
        if reply.status != 200:
            seen.append(reply.raw.decode())

    for status in (400, 401, 403, 404, 429, 500, 503):
        upstream.answer((status, {"error": echo}, {"Retry-After": secret}))
        await post()
    for body in (f"<html>{secret}", {"output": [{"type": prompt}]}):
        upstream.answer((200, body, {}))
        await post()
    for end in ([scripted.CUT], [b"data: {" + prompt.encode() + b"\n\n"], [scripted.silence()]):
        upstream.answer([*stream[:5], *end])
        await post(stream=True)
    upstream.answer(scripted.responses_text("Hello"))
    await post(key=wrong)
    await post(input=f"{prompt} canary-banned")
    await post(model=f"{prompt}")
    await post(temperature=prompt)
    await post(previous_response_id=wrong)
    await post(tools=[{"type": prompt, "name": 5}])
    await post(path=f"/v1/responses/{wrong}/cancel")
    for header in ("Content-Encoding", "Expect", "Host", "x-request-id", "Content-Type"):
        headers = {"Authorization": f"Bearer {ours}", header: wrong}
        reply = await running.request("POST", RESPONSES, data=prompt.encode(), headers=headers)
        seen.append(reply.raw.decode() + str(reply.headers).replace(f"'{wrong}'", "", 1))
    metrics = (await running.get("/metrics")).raw.decode()
    assert await running.terminate() == 0
    for text in (metrics, running.log):
        assert "canary" not in text
    assert all(secret not in text and ours not in text for text in seen)


def test_a_fault_of_our_own_is_logged_without_its_message(caplog) -> None:
    def work(text: str) -> int:
        return int(text)

    prompt = "canary-prompt"
    try:
        work(prompt)
    except ValueError as exc:
        reply = answer(exc)
    assert reply.status == 500
    assert b"canary" not in reply.body
    assert "ValueError" in caplog.text
    assert "return int(text)" in caplog.text
    assert "canary" not in caplog.text


async def test_metrics_are_for_this_machine_and_for_keys(gateway) -> None:
    running = await gateway()
    without = {"Authorization": ""}
    assert (await running.request("GET", "/metrics", headers=without)).status == 200
    for name in ("X-Forwarded-For", "forwarded", "X-Real-IP"):
        # A proxy on this machine: who it asks for may be anybody.
        reply = await running.request("GET", "/metrics", headers={name: "192.0.2.1", **without})
        refused(reply, 401, "invalid_api_key")
        headers = {name: "192.0.2.1", **MASTER}
        assert (await running.request("GET", "/metrics", headers=headers)).status == 200


async def test_metrics_have_no_label_a_client_can_write(gateway) -> None:
    running = await gateway()
    await running.get("/canary-path")
    await running.request("CANARY", "/healthz")
    await running.post(RESPONSES, model="stub/canary-model", input="hi")
    await running.post(RESPONSES, model="canary-model", input="hi")
    metrics = (await running.get("/metrics")).raw.decode()
    assert "canary" not in metrics.lower()
    assert json.dumps("other") in metrics
