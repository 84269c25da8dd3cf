"""What happens to a model call on its way to the upstream: models, limits, guards, routes."""

import asyncio
import json
import sqlite3
from typing import Any

import pytest

from anos.state import GATEWAY
from anos.store import Delete
from tests import scripted
from tests.conftest import Gateway, Json, Reply, free_port, merge
from tests.scripted import CUT, Upstream, silence

RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"
PATHS = [RESPONSES, CHAT]
HI: dict[str, Json] = {
    RESPONSES: {"input": "Hi"},
    CHAT: {"messages": [{"role": "user", "content": "Hi"}]},
}


def bearer(key: str) -> Json:
    return {"Authorization": f"Bearer {key}"}


async def call(anos: Gateway, path: str, key: str = "sk-1234", **body: Any) -> Reply:
    """A model call with that key; what is not given says Hi to gpt-4."""
    tree = {"model": "gpt-4", **HI[path], **body}
    return await anos.request("POST", path, headers=bearer(key), json=tree)


# Routes ------------------------------------------------------------------------------------------


@pytest.fixture
async def second(no_task_left: None):
    """Another upstream."""
    async with Upstream() as another:
        yield another


def routed(*urls: str, **timeouts: float) -> Json:
    """gpt-4 is served by providers at these URLs, in this order; deployments model-0, model-1 …"""
    return {
        "providers": {
            f"up{number}": {"dialect": "responses", "base_url": url, "timeouts": timeouts}
            for number, url in enumerate(urls)
        },
        "models": {
            "gpt-4": {
                "routes": [
                    {"provider": f"up{number}", "deployment": f"model-{number}"}
                    for number in range(len(urls))
                ]
            }
        },
    }


def failure(status: int) -> Any:
    return (status, {"error": {"message": "No.", "type": "some_error", "code": "no"}}, {})


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fault", [failure(500), failure(503), failure(429), [CUT], [silence()]])
async def test_the_next_route_is_tried_when_one_fails(
    gateway, upstream, second, path: str, fault: Any, streamed: bool
) -> None:
    anos = await gateway(routed(upstream.url, second.url, first_byte_s=0.1))
    upstream.answer(fault)
    if streamed:
        await anos.stream(path, model="gpt-4", **HI[path])
    else:
        assert (await call(anos, path)).status == 200
    assert [request.body["model"] for request in second.requests] == ["model-1"]


def broken_off(streamed: bool) -> Any:
    """An answer whose head comes, and nothing that could be passed on."""
    part = scripted.HEADERS if streamed else '{"id": "resp_1", "outp'
    return (200, [part, CUT], {} if streamed else {"Content-Type": "application/json"})


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("path", PATHS)
async def test_the_next_route_is_tried_when_an_answer_breaks_off_before_any_of_it_was_passed_on(
    gateway, upstream, second, path: str, streamed: bool
) -> None:
    anos = await gateway(routed(upstream.url, second.url))
    upstream.answer(broken_off(streamed))
    if streamed:
        await anos.stream(path, model="gpt-4", **HI[path])
    else:
        assert (await call(anos, path)).status == 200
    assert (len(upstream.requests), len(second.requests)) == (1, 1)


def of_two_dialects(first: str, first_url: str, second: str, second_url: str) -> Json:
    config = routed(first_url, second_url)
    config["providers"]["up0"]["dialect"] = first
    config["providers"]["up1"]["dialect"] = second
    return config


SEARCH = {"tools": [{"type": "web_search"}]}  # what no upstream of Chat Completions has


async def test_a_route_that_cannot_carry_the_request_is_left_out(gateway, upstream, second) -> None:
    anos = await gateway(of_two_dialects("chat", upstream.url, "responses", second.url))
    assert (await call(anos, RESPONSES, **SEARCH)).status == 200
    assert (len(upstream.requests), len(second.requests)) == (0, 1)


async def test_a_failure_is_told_as_it_is_when_no_other_route_can_carry_the_request(
    gateway, upstream, second
) -> None:
    anos = await gateway(of_two_dialects("responses", upstream.url, "chat", second.url))
    upstream.answer(failure(503))
    refused = await call(anos, RESPONSES, **SEARCH)
    assert refused.status == 502
    assert refused.error["message"] == "The upstream failed with status 503."
    assert not second.requests


async def test_a_request_that_no_route_can_carry_is_refused(gateway, upstream, second) -> None:
    anos = await gateway(of_two_dialects("chat", upstream.url, "chat", second.url))
    refused = await call(anos, RESPONSES, **SEARCH)
    assert (refused.status, refused.error["param"]) == (400, "tools[0].type")
    assert upstream.requests + second.requests == []


async def test_a_budget_bounds_the_routes_that_can_carry_the_request(
    gateway, upstream, second
) -> None:
    config = of_two_dialects("chat", upstream.url, "responses", second.url)
    config["models"]["gpt-4"]["price"] = {"input_per_million_usd": 1, "output_per_million_usd": 1}
    anos = await gateway(config | {"budgets": {"global": {"usd": 1, "window": "day"}}})
    carried = await call(anos, CHAT, stop=["END"])
    assert (carried.status, len(upstream.requests)) == (200, 1)


async def test_a_route_that_cannot_be_reached_is_passed_over(gateway, second) -> None:
    anos = await gateway(routed(f"http://127.0.0.1:{free_port()}/v1", second.url))
    assert (await call(anos, RESPONSES)).status == 200


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_what_the_request_itself_is_to_blame_for_is_not_tried_elsewhere(
    gateway, upstream, second, status: int
) -> None:
    anos = await gateway(routed(upstream.url, second.url))
    error = {"message": "No such item.", "param": "input", "type": "bad_request", "code": "gone"}
    upstream.answer((status, {"error": error}, {}))
    refused = await call(anos, RESPONSES)
    assert (refused.status, refused.error) == (status, error)
    assert not second.requests


async def test_the_last_route_says_why_it_failed(gateway, upstream, second) -> None:
    anos = await gateway(routed(upstream.url, second.url))
    upstream.answer(failure(503))
    error = {"message": "Slow down.", "code": "slow_down"}
    second.answer((429, {"error": error}, {"Retry-After": "7"}))
    refused = await call(anos, RESPONSES)
    assert (refused.status, refused.error["code"], refused.headers["Retry-After"]) == (
        429, "slow_down", "7"
    )  # fmt: skip


async def test_a_refusal_of_a_route_that_may_not_is_tried_elsewhere(
    gateway, upstream, second
) -> None:
    anos = await gateway(routed(upstream.url, second.url))
    upstream.answer(failure(403))
    assert (await call(anos, RESPONSES)).status == 200
    assert len(second.requests) == 1


@pytest.mark.parametrize("path", PATHS)
async def test_an_error_instead_of_the_first_event_is_the_next_routes_chance(
    gateway, upstream, second, path: str
) -> None:
    anos = await gateway(routed(upstream.url, second.url))
    error = {"type": "server_error", "code": "server_is_overloaded", "message": "Busy."}
    upstream.answer([{"type": "error", "error": error}])
    await anos.stream(path, model="gpt-4", **HI[path])
    assert len(second.requests) == 1
    error["code"] = "context_length_exceeded"
    refused = await call(anos, path, stream=True)
    assert (refused.status, refused.error["code"]) == (400, "context_length_exceeded")
    assert len(second.requests) == 1


# Why an upstream refused, for operators ----------------------------------------------------------

UPSTREAM_KEY = "sk-of-the-gateway"


def refusing(*urls: str, **more: Any) -> Json:
    config = merge(routed(*urls), more)
    for provider in config["providers"].values():
        provider["api_key"] = UPSTREAM_KEY
    return config


async def attempts(anos: Gateway, calls: int = 1) -> list[Json]:
    """What operators are shown of the failed attempts of the newest call, without their times."""
    newest = (await anos.calls(calls))[-1]
    told = (await anos.get(f"/admin/requests/{newest['id']}")).body["attempts"]["failed"]
    return [{name: value for name, value in each.items() if name != "ms"} for each in told]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("status", "error", "code", "message"),
    [
        (404, {"message": "model 'x' not found, try pulling it first"}, "upstream_error", None),
        (401, {"message": "Incorrect key", "code": "invalid_api_key"}, "invalid_api_key", None),
        (403, {"message": "No access to this model", "type": "forbidden"}, "forbidden", None),
        (402, {"message": "Insufficient Balance", "code": "no_money"}, "no_money", None),
        (500, {"message": f"{UPSTREAM_KEY} is wrong"}, "upstream_error", "*** is wrong"),
        (429, {"message": "x" * 1000, "code": "slow_down"}, "slow_down", "x" * 500),
        (503, "busy", "upstream_error", "busy"),
    ],
)  # fmt: skip
async def test_an_operator_is_told_why_the_upstream_refused(
    gateway, upstream, caplog, path: str, streamed: bool, status: int, error: Any, code: str,
    message: str | None,
) -> None:  # fmt: skip
    anos = await gateway(refusing(upstream.url))
    upstream.answer((status, {"error": error}, {}))
    await call(anos, path, stream=streamed)
    assert await attempts(anos) == [
        {
            "provider": "up0",
            "deployment": "model-0",
            "status": status,
            "code": code,
            "message": message or error["message"],
        }
    ]
    (line,) = warnings_of(caplog)
    assert line == f"a call failed at up0 (model-0): status {status}, code {code}"


async def test_the_log_has_one_line_for_a_call_that_failed_and_none_for_one_that_did_not(
    gateway, upstream, second, caplog
) -> None:
    anos = await gateway(refusing(upstream.url, second.url))
    upstream.answer(failure(503))
    assert (await call(anos, RESPONSES)).status == 200
    assert warnings_of(caplog) == []
    second.answer((500, {"error": {"message": "Down, says the prompt."}}, {}))
    assert (await call(anos, RESPONSES)).status == 502
    assert warnings_of(caplog) == [
        "a call failed at up1 (model-1): status 500, code upstream_error"
    ]
    told = await attempts(anos, 2)
    assert [(each["status"], each["code"], each["message"]) for each in told] == [
        (503, "no", "No."),
        (500, "upstream_error", "Down, says the prompt."),
    ]


@pytest.mark.parametrize("path", PATHS)
async def test_an_error_in_place_of_a_stream_is_told_to_operators_too(
    gateway, upstream, caplog, path: str
) -> None:
    anos = await gateway(refusing(upstream.url))
    error = {"message": f"Too long for {UPSTREAM_KEY}", "code": "context_length_exceeded"}
    upstream.answer([{"type": "error", "error": error}], [{"error": {"code": UPSTREAM_KEY}}])
    assert (await call(anos, path, stream=True)).status == 400
    (told,) = await attempts(anos)
    assert (told["status"], told["code"]) == (400, "context_length_exceeded")
    assert told["message"] == ""  # the client is told it, and it may quote the request
    assert len(warnings_of(caplog)) == 1
    assert (await call(anos, path, stream=True)).status == 502
    assert (await attempts(anos, 2))[0]["code"] == "***"
    assert UPSTREAM_KEY not in caplog.text


async def test_an_upstream_that_says_nothing_is_told_in_our_words(gateway, caplog) -> None:
    anos = await gateway(refusing(f"http://127.0.0.1:{free_port()}/v1"))
    assert (await call(anos, RESPONSES)).status == 502
    (told,) = await attempts(anos)
    assert (told["status"], told["message"]) == (502, "The upstream could not be reached.")
    assert len(warnings_of(caplog)) == 1


async def test_a_background_call_is_told_to_operators_too(gateway, upstream, caplog) -> None:
    anos = await gateway(refusing(upstream.url))
    upstream.answer((404, {"error": {"message": "no such model"}}, {}))
    begun = await call(anos, RESPONSES, background=True)
    assert begun.status == 200
    (told,) = await attempts(anos)
    assert (told["status"], told["message"]) == (404, "no such model")
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize(("output", "shown"), [("block", "Say *** today"), ("off", None)])
async def test_what_guards_find_in_an_upstreams_words_is_not_shown_to_operators_either(
    gateway, upstream, caplog, output: str, shown: str | None
) -> None:
    keywords = {"phrases": ["cheap pills"], "output": output}
    anos = await gateway(refusing(upstream.url, guards={"keywords": keywords}))
    said = "Say cheap pills today"
    upstream.answer((404, {"error": {"message": said}}, {}))
    refused = await call(anos, RESPONSES)
    assert refused.error["message"] == "The upstream failed with status 404."
    assert (await attempts(anos))[0]["message"] == (shown or said)
    assert "pills" not in caplog.text
    # A phrase that the bound would cut is found before it is.
    upstream.answer((404, {"error": {"message": "x" * 490 + " cheap pills"}}, {}))
    await call(anos, RESPONSES)
    assert ("cheap" in (await attempts(anos, 2))[0]["message"]) == (output == "off")
    guards = (await anos.get(f"/admin/requests/{(await anos.calls(2))[0]['id']}")).body["guards"]
    assert len([each for each in guards if each["direction"] == "output"]) == (output != "off")


@pytest.mark.parametrize("path", PATHS)
async def test_a_connection_that_fails_before_any_byte_is_tried_once_more(
    gateway, upstream, path: str
) -> None:
    anos = await gateway()
    upstream.answer([CUT], scripted.responses_text("Hello"))
    assert (await call(anos, path)).status == 200
    assert len(upstream.requests) == 2
    upstream.answer([CUT])
    refused = await call(anos, path)
    assert (refused.status, refused.error["type"]) == (502, "upstream_error")
    assert len(upstream.requests) == 4


@pytest.mark.parametrize("fault", [failure(500), ["event: x\n", CUT]])
async def test_an_upstream_that_answered_is_not_asked_again(gateway, upstream, fault: Any) -> None:
    anos = await gateway()
    upstream.answer(fault)
    assert (await call(anos, RESPONSES)).status == 502
    assert len(upstream.requests) == 1


async def test_no_route_is_tried_after_an_event_was_relayed(gateway, upstream, second) -> None:
    anos = await gateway(routed(upstream.url, second.url))
    upstream.answer([*scripted.responses_stream(["Hel", "lo"])[:5], CUT])
    events = await anos.stream(RESPONSES, model="gpt-4", input="Hi")
    assert events[-1]["type"] == "response.failed"
    assert not second.requests


# Models ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
async def test_a_model_that_no_route_serves_is_refused(gateway, upstream, path: str) -> None:
    anos = await gateway()
    refused = await call(anos, path, model="gpt-99")
    assert refused.status == 400
    assert refused.error == {
        "message": "Invalid model specified",
        "type": "invalid_request_error",
        "param": "model",
        "code": 400,
    }


@pytest.mark.parametrize("path", PATHS)
async def test_a_model_the_key_may_not_use_is_refused(gateway, upstream, path: str) -> None:
    anos = await gateway({"keys": {"some": {"key": "sk-some", "models": ["gpt-35*"]}}})
    refused = await call(anos, path, "sk-some")
    assert (refused.status, refused.error["code"]) == (403, "model_not_allowed")
    assert refused.error["param"] == "model"
    assert (await call(anos, path, "sk-some", model="gpt-35-turbo")).status == 200
    assert len(upstream.requests) == 1


# Limits ------------------------------------------------------------------------------------------

LIMITED: Json = {
    "limits": {"two": {"requests_per_minute": 2}},
    "keys": {
        "few": {"key": "sk-few", "limits": "two", "models": ["gpt-4"]},
        "also": {"key": "sk-also", "limits": "two"},
        "free": {"key": "sk-free"},
    },
    "guards": {"keywords": {"phrases": ["forbidden phrase"]}},
}


@pytest.mark.parametrize("path", PATHS)
async def test_a_request_over_the_limit_is_told_when_to_come_back(
    gateway, upstream, path: str
) -> None:
    anos = await gateway(LIMITED)
    for left in ("1", "0"):
        passed = await call(anos, path, "sk-few")
        assert passed.status == 200
        assert passed.headers["x-ratelimit-limit-requests"] == "2"
        assert passed.headers["x-ratelimit-remaining-requests"] == left
    refused = await call(anos, path, "sk-few")
    assert refused.status == 429
    assert refused.error == {
        "message": "Rate limit exceeded",
        "type": "rate_limit_error",
        "param": "",
        "code": 429,
    }
    wait_ms = int(refused.headers["retry-after-ms"])
    assert 50_000 < wait_ms <= 60_001
    assert refused.headers["Retry-After"] == str(-(-wait_ms // 1000))
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"].endswith("s")
    assert len(upstream.requests) == 2
    # Another key has a window of its own, and one without a limit has no headers about it.
    assert (await call(anos, path, "sk-also")).status == 200
    assert "x-ratelimit-limit-requests" not in (await call(anos, path, "sk-free")).headers


async def test_a_stream_says_what_is_left_too(gateway, upstream) -> None:
    anos = await gateway(LIMITED)
    tree = {"model": "gpt-4", "input": "Hi", "stream": True}
    streamed = await anos.request("POST", RESPONSES, headers=bearer("sk-few"), json=tree)
    assert streamed.headers["x-ratelimit-remaining-requests"] == "1"


async def test_only_valid_calls_of_a_known_model_count(gateway, upstream) -> None:
    anos = await gateway(LIMITED)
    made = (await call(anos, RESPONSES, "sk-few")).body  # the first
    path = f"{RESPONSES}/{made['id']}"
    for method, where in (("GET", path), ("GET", "/v1/models"), ("POST", f"{path}/cancel")):
        await anos.request(method, where, headers=bearer("sk-few"))
    for body in (
        {"model": "gpt-99"},
        {"model": "gpt-35-turbo"},
        {"model": None},
        {"temperature": "hot"},
        {"input": [{"type": "message"}]},
        {"input": 5},
    ):
        assert (await call(anos, RESPONSES, "sk-few", **body)).status in (400, 403), body
    refused = await call(anos, RESPONSES, "sk-few", input="A forbidden phrase.")  # the second
    assert refused.status == 400
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    for _ in range(3):
        assert (await call(anos, RESPONSES, "sk-few")).status == 429
    gone = await anos.request("DELETE", path, headers=bearer("sk-few"))
    assert gone.status == 200


async def test_the_default_limit_is_for_keys_that_name_none_and_global_for_all(
    gateway, upstream
) -> None:
    limits = {
        "default": {"requests_per_minute": 1},
        "two": {"requests_per_minute": 2},
        "global": {"requests_per_minute": 5},
    }
    anos = await gateway({**LIMITED, "limits": limits})
    statuses = {
        key: [(await call(anos, RESPONSES, key)).status for _ in range(count)]
        for key, count in (("sk-free", 2), ("sk-few", 3), ("sk-1234", 3))
    }
    # The master key has no limit of its own; what was refused took nothing from the global window.
    assert statuses == {
        "sk-free": [200, 429],
        "sk-few": [200, 200, 429],
        "sk-1234": [200, 200, 429],
    }


# Keywords ----------------------------------------------------------------------------------------

BANNED = "Say the Forbidden PHRASE now"
GUARDED: Json = {"guards": {"keywords": {"phrases": ["forbidden phrase"]}}}
BLOCKED = {
    "message": "Content violates usage policies",
    "type": "content_filter_error",
    "param": "",
    "code": 400,
}
CALL = {"type": "function_call", "call_id": "call_1", "name": "find", "arguments": "{}"}


def called(output: Any) -> list[Json]:
    return [CALL, {"type": "function_call_output", "call_id": "call_1", "output": output}]


def user(content: Any) -> list[Json]:
    return [{"role": "user", "content": content}]


def tool(**fields: Any) -> list[Json]:
    return [{"type": "function", "name": "find", **fields}]


@pytest.mark.parametrize(
    "body",
    [
        {"input": BANNED},
        {"input": "Please:\nforbidden phrase"},
        {"input": user(BANNED)},
        {"input": [{"role": "user", "content": "fine"}, {"role": "system", "content": BANNED}]},
        {
            "input": user(
                [{"type": "input_text", "text": "fine"}, {"type": "input_text", "text": BANNED}]
            )
        },
        {"input": user([{"type": "input_file", "file_data": "data:,", "filename": BANNED}])},
        {"input": user([{"type": "input_new", "words": {"deep": [BANNED]}}])},
        {"input": [{"role": "assistant", "content": BANNED}, {"role": "user", "content": "?"}]},
        {"input": "fine", "instructions": BANNED},
        {"input": called(BANNED)},
        {"input": called([{"type": "input_text", "text": BANNED}])},
        {"input": [{**CALL, "arguments": f'{{"query": "{BANNED}"}}'}, called("fine")[1]]},
        {"input": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": BANNED}]}]},
        {"input": "fine", "stream": True, "instructions": BANNED},
        {"input": "fine", "background": True, "instructions": BANNED},
    ],
    ids=json.dumps,
)
async def test_a_banned_phrase_anywhere_in_a_request_never_reaches_the_model(
    gateway, upstream, body: Json
) -> None:
    anos = await gateway(GUARDED)
    refused = await call(anos, RESPONSES, **body)
    assert (refused.status, refused.error) == (400, BLOCKED)
    assert not upstream.requests


@pytest.mark.parametrize(
    "messages",
    [
        user(BANNED),
        user([{"type": "text", "text": BANNED}]),
        [{"role": "system", "content": BANNED}, *user("fine")],
        [
            *user("fine"),
            {
                "role": "assistant",
                "tool_calls": [scripted.chat_call("find", f'{{"a":"{BANNED}"}}', "call_1")],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "fine"},
        ],
        [
            *user("fine"),
            {"role": "assistant", "tool_calls": [scripted.chat_call("find", "{}", "call_1")]},
            {"role": "tool", "tool_call_id": "call_1", "content": BANNED},
        ],
    ],
    ids=json.dumps,
)  # fmt: skip
async def test_a_banned_phrase_in_any_chat_message_never_reaches_the_model(
    gateway, upstream, messages: list[Json]
) -> None:
    anos = await gateway(GUARDED)
    refused = await call(anos, CHAT, messages=messages)
    assert (refused.status, refused.error) == (400, BLOCKED)
    assert not upstream.requests


def spoken(*parts: str, kind: str = "output_text") -> Json:
    name = "refusal" if kind == "refusal" else "text"
    return {"role": "assistant", "content": [{"type": kind, name: part} for part in parts]}


HALVES = {
    "two parts": [spoken("a forbidden", "phrase")],
    "two messages": [spoken("a forbidden"), spoken("phrase")],
    "a call between": [spoken("a forbidden"), *called("fine")[:1], spoken("phrase"), called("")[1]],
    "two refusals": [spoken("a forbidden", "phrase", kind="refusal")],
}


@pytest.mark.parametrize("mode", ["block", "mask", "monitor"])
@pytest.mark.parametrize("halves", HALVES.values(), ids=HALVES)
async def test_a_phrase_that_the_gateway_itself_would_put_together_never_reaches_the_model(
    gateway, upstream, halves: list[Json], mode: str
) -> None:
    config = merge(GUARDED, {"guards": {"keywords": {"input": mode}}})
    anos = await gateway(merge(config, {"providers": {"up": {"dialect": "chat"}}}))
    reply = await call(anos, RESPONSES, input=[*halves, *user("?")])
    if mode == "monitor":
        assert (reply.status, reply.headers["anos-guards"]) == (200, "keywords=monitor")
        assert "forbidden\\nphrase" in json.dumps(upstream.requests[0].body)
    else:
        assert (reply.status, reply.error) == (400, BLOCKED)
        assert not upstream.requests


async def test_what_is_put_together_with_the_history_is_looked_at(gateway, upstream) -> None:
    anos = await gateway(merge(GUARDED, {"providers": {"up": {"dialect": "chat"}}}))
    upstream.answer(scripted.chat_text("A forbidden"))
    made = (await call(anos, RESPONSES)).body
    child = {"previous_response_id": made["id"]}
    assert (await call(anos, RESPONSES, input=[spoken("thing")], **child)).status == 200
    refused = await call(anos, RESPONSES, input=[spoken("phrase")], **child)
    assert (refused.status, refused.error) == (400, BLOCKED)


async def test_what_was_masked_is_put_together_as_it_was_masked(gateway, upstream) -> None:
    config = merge(GUARDED, {"guards": {"keywords": {"input": "mask"}}})
    anos = await gateway(merge(config, {"providers": {"up": {"dialect": "chat"}}}))
    reply = await call(anos, RESPONSES, input=[spoken("a forbidden phrase", "or two"), *user("?")])
    assert reply.status == 200
    assert upstream.requests[0].body["messages"][0]["content"] == "a ***\nor two"


async def test_a_banned_phrase_in_the_history_never_reaches_the_model_again(
    gateway, upstream
) -> None:
    anos = await gateway(GUARDED)
    upstream.answer(scripted.responses_text(BANNED))
    made = (await call(anos, RESPONSES)).body
    child = await call(anos, RESPONSES, input="And?", previous_response_id=made["id"])
    named = await call(anos, RESPONSES, input=[*user("?"), {"id": made["output"][0]["id"]}])
    for refused in (child, named):
        assert (refused.status, refused.error) == (400, BLOCKED)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "tools",
    [
        tool(description=BANNED),
        tool(parameters={"properties": {"a": {"description": BANNED}}}),
    ],
    ids=json.dumps,
)
async def test_the_definition_of_a_tool_is_looked_at_where_the_configuration_says_so(
    gateway, upstream, tools: list[Json]
) -> None:
    free = await gateway(GUARDED)
    assert (await call(free, RESPONSES, input="fine", tools=tools)).status == 200
    await free.stop()
    strict = await gateway(merge(GUARDED, {"guards": {"keywords": {"sources": ["tools"]}}}))
    refused = await call(strict, RESPONSES, input="fine", tools=tools)
    assert (refused.status, refused.error) == (400, BLOCKED)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"input": "unforbidden phrases are fine, a forbidden  thing too"},
        {
            "input": user(
                [{"type": "input_image", "image_url": "data:image/png;base64,Zm9yYmlkZGVu"}]
            )
        },
        {"input": "fine", "metadata": {"note": BANNED}},
    ],
    ids=json.dumps,
)
async def test_what_the_model_does_not_read_is_not_looked_at(gateway, upstream, body: Json) -> None:
    anos = await gateway(GUARDED)
    assert (await call(anos, RESPONSES, **body)).status == 200


async def test_a_guard_that_is_off_lets_everything_through(gateway, upstream) -> None:
    off = {"keywords": {"input": "off", "phrases": ["forbidden phrase"]}}
    anos = await gateway({"guards": off})
    assert (await call(anos, RESPONSES, input=BANNED)).status == 200


# The store ---------------------------------------------------------------------------------------


async def test_a_database_another_program_holds_for_a_moment_is_waited_for(
    gateway, upstream
) -> None:
    anos = await gateway()
    other = sqlite3.connect(anos.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = [asyncio.create_task(call(anos, RESPONSES)) for _ in range(5)]
    await upstream.received(5)
    assert not any(task.done() for task in waiting)
    other.execute("COMMIT")
    other.close()
    assert [reply.status for reply in await asyncio.gather(*waiting)] == [200] * 5


async def test_a_full_queue_refuses_calls_before_the_model_is_asked(gateway, upstream) -> None:
    anos = await gateway()
    store = anos.app[GATEWAY].store
    other = sqlite3.connect(anos.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    jobs = []
    for _ in range(2):  # once for what the writer takes and cannot commit, once for the queue
        while store.accepting:
            jobs.append(store.submit(Delete("nobody", "resp_none")))
        await anos.get("/healthz")
    refused = await call(anos, RESPONSES)
    assert (refused.status, refused.error["code"]) == (503, "service_unavailable")
    assert not upstream.requests
    other.execute("COMMIT")
    other.close()
    await asyncio.gather(*jobs, return_exceptions=True)
    assert (await call(anos, RESPONSES)).status == 200


@pytest.mark.parametrize(("sources", "status"), [(["reference"], 400), (["user"], 200)])
async def test_what_a_reference_names_is_a_source_of_its_own(
    gateway, upstream, sources: list[str], status: int
) -> None:
    anos = await gateway(merge(GUARDED, {"guards": {"keywords": {"sources": sources}}}))
    upstream.answer(scripted.responses_text(BANNED), scripted.responses_text("Fine"))
    made = (await call(anos, RESPONSES)).body
    reference = {"type": "item_reference", "id": made["output"][0]["id"]}
    assert (await call(anos, RESPONSES, input=[*user("?"), reference])).status == status


async def test_a_stream_that_is_blocked_before_it_begins_is_a_400_with_its_receipt(
    gateway, upstream
) -> None:
    guards = {"keywords": {"input": "off", "output": "block"}}
    config = merge(GUARDED, {"guards": guards, "providers": {"up": {"dialect": "chat"}}})
    anos = await gateway(config)
    whole = scripted.chat_stream(["Forbidden PHRASE"])
    whole[1]["choices"][0]["delta"]["role"] = "assistant"
    upstream.answer(whole[1:])
    refused = await call(anos, CHAT, stream=True)
    assert (refused.status, refused.error) == (400, BLOCKED)
    await anos.stop()
    with sqlite3.connect(anos.database) as connection:
        ((guards_json, tokens),) = connection.execute(
            "SELECT guards, output_tokens FROM exchanges WHERE method = 'POST'"
        )
    (receipt,) = json.loads(guards_json)
    assert (receipt["direction"], receipt["action"]) == ("output", "block")
    assert tokens > 0
