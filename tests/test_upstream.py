"""What a client is told when the upstream fails: over every pair of dialects, streamed and not."""

import asyncio
import gzip
import json
import socket
from typing import Any

import pytest

from tests import grammar, scripted
from tests.conftest import Gateway, Json, Reply
from tests.raw import serve
from tests.scripted import CUT, HEADERS

PATHS = {"responses": "/v1/responses", "chat": "/v1/chat/completions"}
ASKS: dict[str, Json] = {
    "responses": {"input": "hi"},
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
}
SECRET = "sk-upstream"


class Way:
    """One of the ways a call can take: the client's dialect, the upstream's, streamed or not."""

    def __init__(self, client: str, upstream: str, streams: bool) -> None:
        self.client, self.upstream, self.streams = client, upstream, streams

    def __str__(self) -> str:
        return f"{self.client}-{self.upstream}-{'stream' if self.streams else 'plain'}"

    def config(self, **provider: Any) -> Json:
        return {"providers": {"up": {"dialect": self.upstream, **provider}}}

    async def ask(self, gateway: Gateway, **body: Any) -> Reply:
        """The answer to a call, as it came over the wire, whatever it is."""
        path = PATHS[self.client]
        return await gateway.post(path, stream=self.streams, **ASKS[self.client], **body)

    async def ask_past(self, gate: asyncio.Event, gateway: Gateway) -> Reply:
        """The same, opening the gate as soon as the first text is here."""
        async with gateway.open_stream(PATHS[self.client], **ASKS[self.client]) as response:
            raw = b""
            while b"Hel" not in raw:
                raw += await response.content.readuntil(b"\n\n")
            gate.set()
            return Reply(response.status, response.headers, raw + await response.read())


WAYS = [
    Way(client, upstream, streams)
    for client in PATHS
    for upstream in PATHS
    for streams in (False, True)
]
STREAMS = [way for way in WAYS if way.streams]
PLAINS = [way for way in WAYS if not way.streams]
every_way = pytest.mark.parametrize("way", WAYS, ids=str)
every_stream = pytest.mark.parametrize("way", STREAMS, ids=str)
every_plain = pytest.mark.parametrize("way", PLAINS, ids=str)


def ok(body: bytes, *headers: str, kind: str = "application/json") -> bytes:
    """The head of a 200 answer with the length of `body`, and `body`."""
    lines = ["HTTP/1.1 200 OK", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def failure(reply: Reply, status: int, code: str) -> Json:
    """The error of a refusal before the answer began."""
    assert reply.status == status, reply.raw
    assert reply.headers["Content-Type"].startswith("application/json")
    assert reply.headers["x-request-id"]
    assert reply.error["code"] == code
    return reply.error


def broken(way: Way, reply: Reply) -> Json:
    """The error with which a stream that had begun ended, in the client's dialect."""
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("text/event-stream")
    if way.client == "chat":
        chunks = grammar.parse(reply.raw)
        grammar.check_chat(chunks)
        assert b"[DONE]" not in reply.raw
        error: Json = chunks[-1]["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        return error
    events = grammar.parse(reply.raw, done=True)
    grammar.check(events)
    assert events[-1]["type"] == "response.failed"
    ended: Json = events[-1]["response"]["error"]
    return ended


# The upstream answers with an error -----------------------------------------------------------


def refusal(status: int, error: Any, headers: Json | None = None) -> Any:
    return (status, {"error": error}, headers or {})


@every_way
async def test_a_refusal_of_our_key_is_ours_and_says_nothing_of_it(
    gateway, upstream, way: Way
) -> None:
    running = await gateway(way.config())
    incorrect = {"message": f"Incorrect API key: {SECRET}"}
    for status, error in (
        (401, {**incorrect, "code": "k"}),
        (403, {**incorrect, "code": "k"}),
        (403, {"message": f"Incorrect {SECRET}", "code": "invalid_api_key"}),
        (400, {**incorrect, "type": "authentication_error"}),
    ):
        upstream.answer(refusal(status, error))
        reply = await way.ask(running)
        failure(reply, 502, "upstream_auth_error")
        assert SECRET not in reply.raw.decode()
        assert "Incorrect" not in reply.raw.decode()


@every_way
async def test_a_403_about_something_else_is_told_as_what_it_is(
    gateway, upstream, way: Way
) -> None:
    code = "unsupported_country_region_territory"
    error = {"message": "Country not supported.", "type": "request_forbidden", "code": code}
    upstream.answer(refusal(403, error))
    reply = await way.ask(await gateway(way.config()))
    assert failure(reply, 403, code) == {**error, "param": ""}


@every_way
async def test_what_is_wrong_with_our_account_or_way_is_502_and_says_nothing_of_it(
    gateway, upstream, way: Way
) -> None:
    running = await gateway(way.config())
    for status in (402, 407):
        upstream.answer(refusal(status, {"message": "Insufficient Balance"}))
        error = failure(await way.ask(running), 502, "upstream_error")
        assert error["message"] == f"The upstream failed with status {status}."


@every_way
async def test_a_fault_of_the_request_passes_with_its_text_and_without_our_key(
    gateway, upstream, way: Way
) -> None:
    error = {"type": "invalid_request_error", "param": "messages[0]", "code": "too_long"}
    upstream.answer(refusal(400, {"message": f"Too long for {SECRET}.", **error}))
    reply = await way.ask(await gateway(way.config()))
    assert failure(reply, 400, "too_long") == {"message": "Too long for ***.", **error}


@every_way
async def test_a_rate_limit_of_the_upstream_passes_with_its_delay(
    gateway, upstream, way: Way
) -> None:
    error = {"message": "Slow down.", "type": "requests", "param": None, "code": "slow_down"}
    upstream.answer(refusal(429, error, {"Retry-After": "7", "retry-after-ms": "6500"}))
    reply = await way.ask(await gateway(way.config()))
    assert failure(reply, 429, "slow_down") == {**error, "param": ""}
    assert reply.headers["Retry-After"] == "7"
    assert reply.headers["retry-after-ms"] == "6500"


@every_way
async def test_whether_to_ask_again_passes_with_a_refusal(gateway, upstream, way: Way) -> None:
    running = await gateway(way.config())
    for status, said, told in (
        (429, "false", "false"),
        (429, "true", "true"),
        (400, "false", "false"),
        (429, "no", None),
        (429, "False", None),
        (500, "false", None),
    ):
        upstream.answer(refusal(status, {"message": "Slow down."}, {"x-should-retry": said}))
        assert (await way.ask(running)).headers.get("x-should-retry") == told


@every_way
async def test_a_vendors_quota_that_is_used_up_need_not_be_asked_for_again(
    gateway, upstream, way: Way
) -> None:
    running = await gateway(way.config())
    for error in (
        {"type": "insufficient_quota", "code": "credit_balance_exhausted"},
        {"type": "requests", "code": "insufficient_quota"},
    ):
        upstream.answer(refusal(429, {"message": "No credit.", **error}, {"Retry-After": "1"}))
        reply = await way.ask(running)
        failure(reply, 429, error["code"])
        assert reply.headers["x-should-retry"] == "false"


@every_way
async def test_an_overloaded_upstream_keeps_its_code(gateway, upstream, way: Way) -> None:
    running = await gateway(way.config())
    for code in ("server_is_overloaded", "slow_down"):
        error = {"message": "Too busy.", "type": "service_unavailable_error", "code": code}
        upstream.answer(refusal(503, error, {"Retry-After": "3"}))
        reply = await way.ask(running)
        assert failure(reply, 503, code) == {**error, "param": ""}
        assert reply.headers["Retry-After"] == "3"


@every_way
async def test_a_failure_of_the_upstream_is_502(gateway, upstream, way: Way) -> None:
    running = await gateway(way.config())
    for status in (500, 502, 503, 529):
        upstream.answer(refusal(status, {"message": "a stack trace"}, {"Retry-After": "3"}))
        reply = await way.ask(running)
        error = failure(reply, 502, "upstream_error")
        assert error["message"] == f"The upstream failed with status {status}."
        assert reply.headers["Retry-After"] == "3"


@every_way
async def test_a_timeout_the_upstream_reports_is_504(gateway, upstream, way: Way) -> None:
    upstream.answer((504, b"<html>gateway timeout</html>", {}))
    failure(await way.ask(await gateway(way.config())), 504, "upstream_timeout")


@every_way
async def test_a_wrong_url_or_deployment_is_our_fault_not_the_clients(
    gateway, upstream, way: Way
) -> None:
    upstream.answer(refusal(404, {"message": "The model `up-model` does not exist"}))
    failure(await way.ask(await gateway(way.config())), 502, "upstream_error")


@every_way
async def test_a_404_about_an_item_of_the_request_passes(gateway, upstream, way: Way) -> None:
    upstream.answer(refusal(404, {"message": "No such File object: file-1", "code": None}))
    error = failure(await way.ask(await gateway(way.config())), 404, "upstream_error")
    assert error["message"] == "No such File object: file-1"


@every_way
async def test_a_redirect_is_not_followed(gateway, upstream, way: Way) -> None:
    running = await gateway(way.config())
    for status in (301, 302, 307, 308):
        upstream.answer((status, b"", {"Location": f"{upstream.url}/elsewhere"}))
        failure(await way.ask(running), 502, "upstream_error")
    assert len(upstream.requests) == 4


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error": "Only text."}', "Only text."),
        ('{"message": "vLLM of old.", "object": "error", "code": 400}', "vLLM of old."),
        ('{"error": {"message": {"a": 1}}}', "The upstream answered with status 400."),
        ('{"detail": [{"loc": ["body"]}]}', "The upstream answered with status 400."),
        ('[{"error": {"message": "In a list."}}]', "The upstream answered with status 400."),
        ("<html>Bad Request</html>", "The upstream answered with status 400."),
        ('{"error": "\\ud800"}', "The upstream answered with status 400."),
        (b"\xff", "The upstream answered with status 400."),
        ("", "The upstream answered with status 400."),
        ("[" * 100_000, "The upstream answered with status 400."),
        (json.dumps({"error": "x" * 100_000}), "x" * 4096),
    ],
    ids=["text", "flat", "object", "detail", "list", "html", "surrogate", "bytes", "none", "deep",
         "long"],
)  # fmt: skip
async def test_any_body_of_an_error_becomes_an_envelope(
    gateway, upstream, body: str | bytes, message: str
) -> None:
    upstream.answer((400, body, {}))
    reply = await (await gateway()).post("/v1/responses", input="hi")
    assert failure(reply, 400, "upstream_error") == {
        "message": message,
        "type": "invalid_request_error",
        "param": "",
        "code": "upstream_error",
    }


async def test_a_code_a_type_and_a_param_are_words_and_no_place_for_a_text(
    gateway, upstream
) -> None:
    said = {"message": "No.", "type": "buy now", "code": "cheap pills", "param": "a\nb"}
    upstream.answer(refusal(400, said))
    reply = await (await gateway()).post("/v1/responses", input="hi")
    assert failure(reply, 400, "upstream_error") == {
        "message": "No.",
        "type": "invalid_request_error",
        "param": "",
        "code": "upstream_error",
    }


@pytest.mark.parametrize("status", ["failed", "incomplete"])
async def test_a_reason_and_the_code_of_a_failure_are_words(gateway, upstream, status: str) -> None:
    error = {"code": "cheap pills", "message": "No."} if status == "failed" else None
    body = scripted.responses_body(
        [], status=status, error=error, incomplete_details={"reason": "cheap pills"}
    )
    upstream.answer(body)
    reply = await (await gateway()).post("/v1/responses", input="hi")
    assert reply.body["status"] == status
    assert b"cheap" not in reply.raw


@pytest.mark.parametrize("delay", ["\xff", f"{SECRET}", "1" * 100, "cheap pills", "Mon, soon"])
async def test_a_delay_that_is_none_is_not_passed(gateway, upstream, delay: str) -> None:
    upstream.answer(refusal(429, {"message": "Slow down."}, {"Retry-After": delay}))
    reply = await (await gateway()).post("/v1/responses", input="hi")
    failure(reply, 429, "upstream_error")
    assert "Retry-After" not in reply.headers


async def test_no_other_header_of_the_upstream_passes(gateway, upstream) -> None:
    headers = {"Set-Cookie": "a=b", "x-request-id": "theirs", "X-Secret": SECRET}
    upstream.answer((200, scripted.responses_text("Hello"), headers), refusal(400, "no", headers))
    running = await gateway()
    for status in (200, 400):
        reply = await running.post("/v1/responses", input="hi")
        assert reply.status == status
        assert not {"Set-Cookie", "X-Secret"} & set(reply.headers)
        assert reply.headers["x-request-id"].startswith("req_")
    assert "Cookie" not in upstream.requests[1].headers


@pytest.mark.parametrize("path", PATHS.values())
async def test_no_header_of_the_client_goes_to_the_upstream(gateway, upstream, path: str) -> None:
    way = Way("chat" if path == PATHS["chat"] else "responses", "responses", False)
    theirs = {"Cookie": "a=b", "OpenAI-Organization": "org", "X-Evil": "1", "User-Agent": "me"}
    running = await gateway()
    body = {"model": "gpt-4", **ASKS[way.client]}
    assert (await running.request("POST", path, json=body, headers=theirs)).status == 200
    sent = upstream.requests[0].headers
    assert {name.lower() for name in sent} == {
        *("host", "content-type", "content-length", "accept", "accept-encoding"),
        *("user-agent", "authorization"),
    }
    assert sent["Authorization"] == f"Bearer {SECRET}"
    assert sent["Accept-Encoding"] == "identity"
    assert sent["User-Agent"] != "me"


# No answer --------------------------------------------------------------------------------------


@every_way
async def test_a_refused_connection_is_502(gateway, way: Way) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    reply = await way.ask(await gateway(way.config(base_url=url)))
    failure(reply, 502, "upstream_error")
    assert "127.0.0.1" not in reply.raw.decode()


@every_way
async def test_a_connection_that_does_not_come_about_is_504(gateway, way: Way) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        with socket.create_connection(address):  # the queue is full; the next SYN is dropped
            url = f"http://127.0.0.1:{address[1]}/v1"
            config = way.config(base_url=url, timeouts={"connect_s": 0.1})
            failure(await way.ask(await gateway(config)), 504, "upstream_timeout")


@every_way
async def test_silence_instead_of_an_answer_is_504(gateway, upstream, way: Way) -> None:
    upstream.answer([scripted.silence()])
    running = await gateway(way.config(timeouts={"first_byte_s": 0.1}))
    failure(await way.ask(running), 504, "upstream_timeout")
    await asyncio.wait_for(upstream.disconnected.wait(), 2)


@every_way
@pytest.mark.parametrize("end", [[], [CUT]], ids=["closed", "reset"])
async def test_a_connection_that_ends_before_an_answer_is_tried_once_more(
    gateway, way: Way, end: list[Any]
) -> None:
    async with serve(*end) as upstream:
        reply = await way.ask(await gateway(way.config(base_url=upstream.url)))
    failure(reply, 502, "upstream_error")
    assert upstream.requests == 2


@every_way
@pytest.mark.parametrize("begun", [b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\nContent-"])
async def test_an_answer_that_breaks_off_in_its_head_is_not_asked_for_again(
    gateway, way: Way, begun: bytes
) -> None:
    async with serve(begun) as upstream:
        reply = await way.ask(await gateway(way.config(base_url=upstream.url)))
    failure(reply, 502, "upstream_error")
    assert upstream.requests == 1


NOT_HTTP = [
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"HTTP/1.1 200 OK\r\nContent-",
    b"HTTP/1.1 two hundred OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\n{}",
]


@every_way
async def test_an_answer_that_is_not_http_is_502(gateway, way: Way) -> None:
    async with serve() as upstream:
        running = await gateway(way.config(base_url=upstream.url))
        for upstream.writes in [(answer,) for answer in NOT_HTTP]:
            failure(await way.ask(running), 502, "upstream_error")


# Half an answer -----------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize("end", [[], [CUT]], ids=["closed", "reset"])
async def test_a_head_without_its_body_is_502(gateway, way: Way, end: list[Any]) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n\r\n"
    async with serve(head, *end) as upstream:
        reply = await way.ask(await gateway(way.config(base_url=upstream.url)))
    failure(reply, 502, "upstream_error")


@every_plain
async def test_a_body_in_broken_chunks_is_502(gateway, way: Way) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
    broken_off = [b"", b"9\r\n{", b"zz\r\n{}\r\n", b"ffffffffffffffffff\r\n{}\r\n"]
    async with serve() as upstream:
        running = await gateway(way.config(base_url=upstream.url))
        for upstream.writes in [(head + rest,) for rest in broken_off]:
            failure(await way.ask(running), 502, "upstream_error")


@every_plain
async def test_a_body_that_stops_is_504(gateway, way: Way) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"
    async with serve(head, gate := asyncio.Event()) as upstream:
        times = {"first_byte_s": 0.1, "idle_s": 0.1}
        running = await gateway(way.config(base_url=upstream.url, timeouts=times))
        failure(await way.ask(running), 504, "upstream_timeout")
        gate.set()


NO_ANSWERS = [b"<html>hello</html>", b"[]", b'"text"', b"{}", b'{"a": ', b"\xff", b""]


@every_way
async def test_a_body_that_is_no_answer_is_502(gateway, way: Way) -> None:
    async with serve() as upstream:
        running = await gateway(way.config(base_url=upstream.url))
        for upstream.writes in [(ok(body),) for body in NO_ANSWERS]:
            failure(await way.ask(running), 502, "upstream_error")


@pytest.mark.parametrize("way", PLAINS[:2], ids=str)
async def test_a_body_over_the_limit_is_502(gateway, way: Way) -> None:
    megabyte = b" " * (1 << 20)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (65 << 20)
    async with serve(head, *[megabyte] * 65) as upstream:
        reply = await way.ask(await gateway(way.config(base_url=upstream.url)))
    assert "more than" in failure(reply, 502, "upstream_error")["message"]


@pytest.mark.parametrize("way", PLAINS[:2], ids=str)
async def test_a_small_body_that_inflates_to_a_huge_one_is_502(gateway, way: Way) -> None:
    bomb = gzip.compress(b" " * (65 << 20), 1)
    async with serve(ok(bomb, "Content-Encoding: gzip")) as upstream:
        reply = await way.ask(await gateway(way.config(base_url=upstream.url)))
    assert "more than" in failure(reply, 502, "upstream_error")["message"]


@every_way
async def test_a_compressed_answer_is_read_although_none_was_asked_for(gateway, way: Way) -> None:
    request = {"stream": way.streams}
    answer = scripted.default(PATHS[way.upstream], request)
    if way.streams:
        raw = b"".join(scripted.encode(chunk) for chunk in answer)
    else:
        raw = json.dumps(answer).encode()
    packed = ok(gzip.compress(raw), "Content-Encoding: gzip", kind="text/event-stream")
    async with serve(packed) as upstream:
        reply = await way.ask(await gateway(way.config(base_url=upstream.url)))
    assert reply.status == 200
    assert b"Hel" in reply.raw


@every_way
async def test_an_error_in_place_of_an_answer_does_not_show_our_key(gateway, way: Way) -> None:
    error = {"message": f"Incorrect API key: {SECRET}", "code": "invalid_api_key"}
    body = {"output": [], "status": "failed", "error": error}
    failed = {"type": "response.failed", "sequence_number": 0, "response": body}
    async with serve() as upstream:
        running = await gateway(way.config(base_url=upstream.url, api_key=SECRET))
        for answer in (
            ok(json.dumps({"error": error}).encode()),
            ok(json.dumps(body).encode()),
            ok(scripted.encode({"error": error}), kind="text/event-stream"),
            ok(scripted.encode(failed), kind="text/event-stream"),
        ):
            upstream.writes = (answer,)
            reply = await way.ask(running)
            assert SECRET not in reply.raw.decode()


# What says nothing ------------------------------------------------------------------------------


def spoken(way: Way, events: list[Json]) -> str:
    """The text of a stream as the client reads it."""
    if way.client == "responses":
        text: str = events[-1]["response"]["output"][0]["content"][0]["text"]
        return text
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


@every_stream
@pytest.mark.parametrize("empty", [b"data:\n\n", b"data: \n\n", b"event: ping\ndata: \n\n"])
async def test_an_event_without_data_is_passed_over(
    gateway, upstream, way: Way, empty: bytes
) -> None:
    whole = scripted.default(PATHS[way.upstream], {"stream": True})
    upstream.answer([empty, *(each for event in whole for each in (event, empty))])
    events = await (await gateway(way.config())).stream(PATHS[way.client], **ASKS[way.client])
    assert spoken(way, events) == "Hello"


@pytest.mark.parametrize("client", PATHS)
@pytest.mark.parametrize("choices", [{"choices": None}, {}, {"choices": []}])
async def test_a_chunk_without_choices_says_nothing(
    gateway, upstream, client: str, choices: Json
) -> None:
    way = Way(client, "chat", True)
    bare = {"id": "chatcmpl-up", "object": "chat.completion.chunk", "model": "m", **choices}
    first, *rest = scripted.chat_stream(["Hel", "lo"])
    upstream.answer([bare, first, bare, *rest[:-1], bare, rest[-1]])
    events = await (await gateway(way.config())).stream(PATHS[way.client], **ASKS[way.client])
    assert spoken(way, events) == "Hello"


@pytest.mark.parametrize("choices", ["no", {"a": 1}, [5]])
async def test_choices_that_are_none_cannot_be_read(gateway, upstream, choices: Any) -> None:
    way = Way("chat", "chat", True)
    upstream.answer([{"choices": choices}])
    error = failure(await way.ask(await gateway(way.config())), 502, "upstream_error")
    assert error["message"] == "The upstream sent a chunk that cannot be read."


@pytest.mark.parametrize("client", PATHS)
async def test_of_a_stream_that_is_written_anew_clients_know_every_event(
    gateway, upstream, client: str
) -> None:
    way = Way(client, "responses", True)
    events = scripted.responses_stream(["Hel", "lo"])
    added = {"type": "response.brand_new.event", "sequence_number": 3, "what": "is this"}
    upstream.answer([*events[:3], added, *events[3:]])
    told = await (await gateway(way.config(quirks={"repair": True}))).stream(
        PATHS[client], **ASKS[client]
    )
    assert spoken(way, told) == "Hello"
    assert "response.brand_new.event" not in [event.get("type") for event in told]


async def test_events_of_tools_that_a_vendor_hosts_stay_in_a_stream_that_is_written_anew(
    gateway, upstream
) -> None:
    search = {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {}}
    place = {"output_index": 0, "item_id": "ws_1"}
    upstream.answer(
        [
            {"type": "response.created", "response": scripted.responses_body([])},
            {"type": "response.output_item.added", "output_index": 0, "item": search},
            {"type": "response.web_search_call.searching", **place},
            {"type": "response.output_item.done", "output_index": 0, "item": search},
            {"type": "response.completed", "response": scripted.responses_body([search])},
        ]
    )
    running = await gateway({"providers": {"up": {"quirks": {"repair": True}}}})
    events = await running.stream("/v1/responses", input="hi")
    assert "response.web_search_call.searching" in [event["type"] for event in events]


# A stream that breaks after it has begun ----------------------------------------------------------


def opened(way: Way) -> list[Any]:
    """The beginning of the upstream's stream, up to its first text."""
    parts = ["Hel", "lo"]
    if way.upstream == "chat":
        return scripted.chat_stream(parts)[:2]
    events = scripted.responses_stream(parts)
    first = next(i for i, event in enumerate(events) if event["type"].endswith("text.delta"))
    return list(events[: first + 1])


def continued(way: Way) -> list[Any]:
    """Its second text."""
    parts = ["Hel", "lo"]
    stream = scripted.chat_stream if way.upstream == "chat" else scripted.responses_stream
    return list(stream(parts)[len(opened(way)) :][:1])


FAULTS = {
    "no JSON": b"data: {broken\n\n",
    "no object": b"data: []\n\n",
    "error": b'data: {"error": {"message": "overloaded", "code": "overloaded"}}\n\n',
}
every_fault = pytest.mark.parametrize("fault", FAULTS)


@every_stream
@pytest.mark.parametrize(
    "rest",
    [[CUT], [], *([fault] for fault in FAULTS.values()), [b"data: " + b"x" * (17 << 20)]],
    ids=["cut", "end", *FAULTS, "huge event"],
)
async def test_a_broken_stream_ends_in_the_clients_dialect(
    gateway, upstream, way: Way, rest: list[Any]
) -> None:
    gate = asyncio.Event()
    upstream.answer([*opened(way), gate, *rest])
    reply = await way.ask_past(gate, await gateway(way.config()))
    error = broken(way, reply)
    assert error["message"]
    assert error["code"] in ("upstream_error", "server_error", "overloaded")


@every_stream
@every_fault
async def test_what_came_together_with_the_fault_is_not_lost(
    gateway, upstream, way: Way, fault: str
) -> None:
    gate = asyncio.Event()
    text = b"".join(map(scripted.encode, continued(way)))
    upstream.answer([*opened(way), gate, text + FAULTS[fault]])
    reply = await way.ask_past(gate, await gateway(way.config()))
    broken(way, reply)
    assert b'"lo' in reply.raw


@every_stream
async def test_a_stream_that_falls_silent_ends_as_a_timeout(gateway, upstream, way: Way) -> None:
    upstream.answer([*opened(way), scripted.silence()])
    reply = await way.ask(await gateway(way.config(timeouts={"idle_s": 0.1})))
    assert broken(way, reply)["code"] == "upstream_timeout"
    await asyncio.wait_for(upstream.disconnected.wait(), 2)


@every_stream
async def test_a_stream_that_is_silent_after_its_head_is_504(gateway, upstream, way: Way) -> None:
    upstream.answer([HEADERS, scripted.silence()])
    running = await gateway(way.config(timeouts={"idle_s": 0.1}))
    failure(await way.ask(running), 504, "upstream_timeout")


@every_stream
@pytest.mark.parametrize(
    "events",
    [
        [],
        [CUT],
        [b"data: {broken\n\n"],
        [b'data: {"error": {"message": "overloaded"}}\n\n'],
        [b"data: " + b"x" * (17 << 20)],
    ],
    ids=["empty", "cut", "no JSON", "error", "huge event"],
)
async def test_a_stream_that_fails_before_its_first_event_is_502(
    gateway, upstream, way: Way, events: list[Any]
) -> None:
    upstream.answer([HEADERS, *events])
    failure(await way.ask(await gateway(way.config())), 502, "upstream_error")


@pytest.mark.parametrize("client", PATHS)
async def test_an_error_event_instead_of_the_first_is_502(gateway, upstream, client: str) -> None:
    way = Way(client, "responses", True)
    error = {"type": "error", "sequence_number": 0, "message": "overloaded", "code": "x"}
    upstream.answer([error])
    reply = await way.ask(await gateway(way.config()))
    assert failure(reply, 502, "x")["message"] == "overloaded"


IN_PLACE = [
    ({"type": "invalid_request_error", "code": "context_length_exceeded"}, 400),
    ({"type": "invalid_request_error", "code": "x"}, 400),
    ({"code": "context_length_exceeded"}, 400),
    ({"type": "x", "code": "rate_limit_exceeded"}, 429),
    ({"type": "rate_limit_error", "code": "x"}, 429),
    ({"type": "insufficient_quota", "code": "insufficient_quota"}, 429),
    ({"type": "y", "code": "server_is_overloaded"}, 502),
    ({"type": "server_error", "code": "server_error"}, 502),
    ({"code": "x"}, 502),
]


@every_way
@pytest.mark.parametrize("starts_late", [False, True])
async def test_an_error_in_place_of_an_answer_has_the_status_it_asks_for(
    gateway, upstream, way: Way, starts_late: bool
) -> None:
    running = await gateway(way.config())
    head = b": hello, this is the comment with which the stream of some proxies begins\n\n"
    for said, status in IN_PLACE:
        error = {"message": "No.", **said}
        if not way.streams:
            upstream.answer((200, {"error": error}, {}))
        elif way.upstream == "chat":
            upstream.answer([head * starts_late + scripted.encode({"error": error})])
        else:
            event = {"type": "error", "sequence_number": 0, "error": error}
            upstream.answer([head * starts_late + scripted.encode(event)])
        reply = await way.ask(running)
        told = failure(reply, status, said["code"])
        assert told["message"] == "No."
        assert reply.headers.get("x-should-retry") == (
            "false" if said["code"] == "insufficient_quota" else None
        )
        if status != 502 and "type" in said:
            assert told["type"] == said["type"]


@pytest.mark.parametrize("client", PATHS)
async def test_a_flat_error_event_has_the_status_it_asks_for(
    gateway, upstream, client: str
) -> None:
    way = Way(client, "responses", True)
    upstream.answer([{"type": "error", "message": "Long.", "code": "context_length_exceeded"}])
    error = failure(await way.ask(await gateway(way.config())), 400, "context_length_exceeded")
    assert (error["type"], error["message"]) == ("invalid_request_error", "Long.")


@every_way
async def test_a_refused_key_in_place_of_an_answer_is_ours(gateway, upstream, way: Way) -> None:
    running = await gateway(way.config())
    for named in ({"code": "invalid_api_key"}, {"type": "authentication_error", "code": "x"}):
        error = {"message": f"Incorrect {SECRET}", **named}
        upstream.answer([{"error": error}] if way.streams else {"error": error})
        reply = await way.ask(running)
        failure(reply, 502, "upstream_auth_error")
        assert "Incorrect" not in reply.raw.decode()
