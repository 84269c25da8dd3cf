"""Clients of both APIs in front of upstreams of both dialects: the same answer on all four paths.

Streamed, in one piece and retrieved are one answer, and every end of a stream is a proper one.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest

from tests import scripted
from tests.conftest import Gateway
from tests.dialects import speaking
from tests.scripted import Chunk, Json
from tests.test_chat_stream import folded

RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"
PATHS = [
    pytest.param(client, dialect, id=f"{client.rpartition('/')[2]} on {dialect}")
    for client in (RESPONSES, CHAT)
    for dialect in ("responses", "chat")
]
HI: dict[str, Json] = {
    RESPONSES: {"input": "Hi"},
    CHAT: {"messages": [{"role": "user", "content": "Hi"}]},
}
# What every Response has, whatever was asked for and however far it is.
FIELDS = {
    *("id", "object", "created_at", "completed_at", "status", "error", "incomplete_details"),
    *("model", "output", "usage", "instructions", "previous_response_id", "tools", "tool_choice"),
    *("parallel_tool_calls", "max_tool_calls", "max_output_tokens", "temperature", "top_p"),
    *("presence_penalty", "frequency_penalty", "top_logprobs", "text", "reasoning", "truncation"),
    *("store", "background", "service_tier", "metadata", "safety_identifier", "prompt_cache_key"),
    *("created", "choices"),
}
TOKENS = [
    {"token": token, "logprob": -0.5, "bytes": None, "top_logprobs": []} for token in ("Hel", "lo")
]


# One answer in every form ------------------------------------------------------------------------


@dataclass
class Said:
    """What a model says, whatever the API calls it."""

    content: str = ""
    refusal: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str, str], ...] = ()  # call id, name, arguments
    tokens: tuple[str, ...] = ()
    finish: str = "stop"
    usage: tuple[int, int] | None = scripted.USAGE

    def upstream(self, dialect: str, streamed: bool) -> Any:
        """The upstream's answer that says it."""
        if dialect == "responses":
            return self.responses(streamed)
        message: Json = {
            "reasoning_content": self.reasoning or None,
            "content": self.content or None,
            "refusal": self.refusal or None,
        }
        logprobs = {"content": TOKENS, "refusal": None} if self.tokens else None
        calls = [scripted.chat_call(name, arguments, id) for id, name, arguments in self.calls]
        if not streamed:
            if calls:
                message["tool_calls"] = calls
            body = scripted.chat_message(finish=self.finish, usage=self.usage, **message)
            body["choices"][0]["logprobs"] = logprobs
            return body
        return self.chat_stream(message, calls)

    def chat_stream(self, message: Json, calls: list[Json]) -> list[Chunk]:
        deltas: list[Json] = []
        for name, text in message.items():
            deltas += [{name: piece} for piece in scripted.split(text or "", 2) if piece]
        for number, call in enumerate(calls):
            index = number * 3  # some servers leave numbers out
            opened = {**call, "function": {**call["function"], "arguments": ""}}
            deltas.append({"tool_calls": [{"index": index, **opened}]})
            deltas += [
                {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
                for piece in scripted.split(call["function"]["arguments"], 2)
            ]
        chunks = scripted.chat_chunks(deltas, finish=self.finish, usage=self.usage)
        if self.tokens:
            for chunk, token in zip(chunks[1:], TOKENS, strict=False):
                chunk["choices"][0]["logprobs"] = {"content": [token], "refusal": None}
        return chunks

    def responses(self, streamed: bool) -> Any:
        is_cut = self.finish in ("length", "content_filter")
        status = "incomplete" if is_cut else "completed"
        output = []
        if self.reasoning:
            output.append(scripted.reasoning(self.reasoning))
        if self.refusal:
            output.append(scripted.refusal(self.refusal))
        elif self.content:
            output.append(scripted.message(self.content, status=status))
            if self.tokens:
                output[-1]["content"][0]["logprobs"] = TOKENS[:]
        for id, name, arguments in self.calls:
            output.append(scripted.function_call(name, arguments, id=f"fc_{id}", call_id=id))
        details = {"reason": {"length": "max_output_tokens"}.get(self.finish, self.finish)}
        fields = {"incomplete_details": details} if is_cut else {}
        if not streamed:
            return scripted.responses_body(output, status=status, usage=self.usage, **fields)
        deltas = list(self.tokens) or None
        events = scripted.responses_events(
            output, status=status, usage=self.usage, deltas=deltas, **fields
        )
        tokens = iter(TOKENS if self.tokens else ())
        for event in events:
            if event["type"] == "response.output_text.delta":
                event["logprobs"] = [next(tokens)] if self.tokens else []
        return events


ANSWERS = {
    "text": Said(content="Hello there."),
    "calls": Said(
        calls=(("c1", "weather", '{"city":"Oslo"}'), ("c2", "weather", "{}"), ("c3", "time", "{}")),
        finish="tool_calls",
    ),
    "text and calls": Said(
        content="Let me see.", calls=(("c1", "weather", '{"a":1}'),), finish="tool_calls"
    ),
    "refusal": Said(refusal="I can't help with that."),
    "reasoning": Said(reasoning="They greet me.", content="Hello!"),
    "length": Said(content="Hel", finish="length"),
    "filter": Said(content="Hel", finish="content_filter"),
    "JSON": Said(content='{"answer": "42"}'),
    "logprobs": Said(content="Hello", tokens=("Hel", "lo")),
    "no usage": Said(content="Hello" * 8, usage=None),
}


def heard(body: Json) -> Said:
    """What a Response or a completion says."""
    usage = body["usage"]
    if body["object"] == "response":
        said = of_response(body)
        said.usage = (usage["input_tokens"], usage["output_tokens"])
        assert usage["prompt_tokens"] == usage["input_tokens"]
        return said
    (choice,) = body["choices"]
    message = choice["message"]
    tokens = (choice.get("logprobs") or {}).get("content") or []
    calls = message.get("tool_calls") or []
    return Said(
        content=message.get("content") or "",
        refusal=message.get("refusal") or "",
        reasoning=message.get("reasoning_content") or "",
        calls=tuple((c["id"], c["function"]["name"], c["function"]["arguments"]) for c in calls),
        tokens=tuple(token["token"] for token in tokens),
        finish=choice["finish_reason"],
        usage=(usage["prompt_tokens"], usage["completion_tokens"]),
    )


def of_response(response: Json) -> Said:
    said = Said()
    for item in response["output"]:
        if item["type"] == "reasoning":
            said.reasoning += "".join(part["text"] for part in item["summary"])
        elif item["type"] == "function_call":
            said.calls += ((item["call_id"], item["name"], item["arguments"]),)
        for part in item.get("content", ()):
            said.content += part.get("text", "")
            said.refusal += part.get("refusal", "")
            said.tokens += tuple(token["token"] for token in part.get("logprobs", ()))
    (choice,) = response["choices"]
    said.finish = choice["finish_reason"]
    message = choice["message"]
    assert (message["content"] or "") == said.content
    assert message.get("refusal", "") == said.refusal
    assert [call["id"] for call in message.get("tool_calls", ())] == [c[0] for c in said.calls]
    return said


def timeless(body: Json) -> Json:
    """A body without what two equal ones differ in: ids and times."""
    output = [{k: v for k, v in item.items() if k != "id"} for item in body.get("output", [])]
    changing = {"id", "created_at", "created", "completed_at"}
    return {k: v for k, v in body.items() if k not in changing} | {"output": output}


async def ask(anos: Gateway, path: str, streamed: bool, **body: Any) -> Json:
    """The client's whole answer, put together from the stream if it is one."""
    body = {**HI[path], **body}
    if not streamed:
        reply = await anos.post(path, **body)
        assert reply.status == 200, reply.raw
        whole: Json = reply.body
        return whole
    if path == CHAT:
        options = {"stream_options": {"include_usage": True}}
        chunks = await anos.stream(path, **options, **body)
        return folded(chunks) | {"object": "chat.completion"}
    events = await anos.stream(path, **body)
    for event in events:
        if "response" in event:
            assert event["response"].keys() >= FIELDS, event["type"]
    last: Json = events[-1]["response"]
    return last


WANTED: dict[str, dict[str, Json]] = {
    "JSON": {
        RESPONSES: {"text": {"format": {"type": "json_object"}}},
        CHAT: {"response_format": {"type": "json_object"}},
    },
    "logprobs": {
        RESPONSES: {"include": ["message.output_text.logprobs"], "top_logprobs": 0},
        CHAT: {"logprobs": True, "top_logprobs": 0},
    },
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize(("path", "dialect"), PATHS)
async def test_streamed_whole_and_retrieved_are_one_answer(
    gateway, upstream, path: str, dialect: str, name: str
) -> None:
    anos = await gateway(speaking(dialect))
    said = ANSWERS[name]
    wanted = WANTED.get(name, {}).get(path, {})
    upstream.answer(said.upstream(dialect, False), said.upstream(dialect, True))
    whole = await ask(anos, path, False, **wanted)
    streamed = await ask(anos, path, True, **wanted)
    expected = deepcopy(said)
    expected.usage = said.usage or (1, 10)  # estimated: a token has about four characters
    assert heard(whole) == expected
    assert heard(streamed) == expected
    if path == RESPONSES:
        assert timeless(streamed) == timeless(whole)
        for response in (whole, streamed):
            assert (await anos.get(f"{RESPONSES}/{response['id']}")).body == response
            assert response.keys() >= FIELDS
    if name in WANTED:
        sent = [request.body for request in upstream.requests]
        translated = WANTED[name][CHAT if dialect == "chat" else RESPONSES]
        assert all(body.items() >= translated.items() for body in sent)


async def test_chat_on_chat_gives_as_many_choices_as_were_asked_for(gateway, upstream) -> None:
    anos = await gateway(speaking("chat"))
    whole = scripted.chat_text("Hello")
    whole["choices"].append({**whole["choices"][0], "index": 1})
    chunks = scripted.chat_stream(["Hel", "lo"])
    both: list[Chunk] = []
    for chunk in chunks:
        both.append(chunk)
        if isinstance(chunk, dict) and chunk["choices"]:
            both.append({**chunk, "choices": [{**chunk["choices"][0], "index": 1}]})
    upstream.answer(whole, both)
    answered = await anos.post(CHAT, n=2, **HI[CHAT])
    assert answered.body == whole
    streamed = await anos.stream(CHAT, n=2, **HI[CHAT])
    assert streamed == [c for c in both if isinstance(c, dict) and c["choices"]]
    assert [request.body["n"] for request in upstream.requests] == [2, 2]


@pytest.mark.parametrize("streamed", [False, True])
async def test_chat_on_chat_keeps_what_the_upstream_says_about_itself(
    gateway, upstream, streamed: bool
) -> None:
    anos = await gateway(speaking("chat"))
    body = await ask(anos, CHAT, streamed)
    assert (body["id"], body["model"]) == ("chatcmpl-up", "up-model-2026")


@pytest.mark.parametrize(("path", "dialect"), [p for p in PATHS if p.id != "completions on chat"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_every_other_answer_has_the_name_of_the_model_that_was_asked_for(
    gateway, upstream, path: str, dialect: str, streamed: bool
) -> None:
    anos = await gateway(speaking(dialect))
    body = await ask(anos, path, streamed, model="gpt-4")
    assert body["model"] == "gpt-4"
    assert upstream.requests[0].body["model"] == "up-model"
    assert body["id"].startswith("resp_" if path == RESPONSES else "chatcmpl_")


# Requests ----------------------------------------------------------------------------------------

IMAGE, FILE = "data:image/png;base64,aGk=", "data:application/pdf;base64,aGk="
PICTURED: dict[str, Json] = {
    RESPONSES: {"input": [{"role": "user", "content": [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": IMAGE, "detail": "low"},
        {"type": "input_file", "file_data": FILE, "filename": "a.pdf"},
    ]}]},
    CHAT: {"messages": [{"role": "user", "content": [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}},
        {"type": "file", "file": {"file_data": FILE, "filename": "a.pdf"}},
    ]}]},
}  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("path", "dialect"), PATHS)
async def test_images_and_files_reach_the_upstream(
    gateway, upstream, path: str, dialect: str, streamed: bool
) -> None:
    anos = await gateway(speaking(dialect))
    await ask(anos, path, streamed, **PICTURED[path])
    sent = upstream.requests[0].body
    told = PICTURED[CHAT if dialect == "chat" else RESPONSES]
    expected = told.get("messages") or told["input"]
    (message,) = sent.get("messages") or sent["input"]
    assert {"role": message["role"], "content": message["content"]} == expected[0]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("path", "dialect"), PATHS)
async def test_a_field_nobody_knows_reaches_the_upstream(
    gateway, upstream, path: str, dialect: str, streamed: bool
) -> None:
    anos = await gateway(speaking(dialect))
    new = {"something_new": {"deep": [1, 2.5, None]}, "min_p": 0.1}
    await ask(anos, path, streamed, **new)
    sent = upstream.requests[0].body
    assert sent.items() >= new.items()
    assert sent["model"] == "up-model"
    assert sent.get("store", False) is False


def user(*parts: Json) -> Json:
    return {"input": [{"role": "user", "content": list(parts)}]}


def chat_user(*parts: Json) -> Json:
    return {"messages": [{"role": "user", "content": list(parts)}]}


AUDIO = {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("path", "dialect", "body", "param"),
    [
        (RESPONSES, "chat", {"tools": [{"type": "web_search"}]}, "tools[0].type"),
        (
            RESPONSES,
            "chat",
            {"tools": [{"type": "function", "name": "f"}, {"type": "mcp"}]},
            "tools[1].type",
        ),
        (
            RESPONSES,
            "chat",
            {"tool_choice": {"type": "file_search"}, "tools": [{"type": "function", "name": "f"}]},
            "tool_choice",
        ),
        (
            RESPONSES,
            "chat",
            user({"type": "input_file", "file_url": "https://a/b.pdf"}),
            "input[0].content[0].file_url",
        ),
        (
            RESPONSES,
            "chat",
            user({"type": "input_text", "text": "?"}, {"type": "input_image", "file_id": "file_1"}),
            "input[0].content[1].file_id",
        ),
        (
            RESPONSES,
            "chat",
            {"input": [{"type": "compaction", "encrypted_content": "x"}]},
            "input[0].type",
        ),
        (RESPONSES, "chat", {"moderation": {"model": "m"}}, "moderation"),
        (CHAT, "responses", {"n": 2}, "n"),
        (CHAT, "responses", {"stop": ["\n"]}, "stop"),
        (CHAT, "responses", {"logit_bias": {"1": 2}}, "logit_bias"),
        (CHAT, "responses", {"web_search_options": {}}, "web_search_options"),
        (CHAT, "responses", {"audio": {"voice": "v"}, "modalities": ["audio"]}, "audio"),
        (CHAT, "responses", {"functions": [{"name": "f"}]}, "functions"),
        (CHAT, "responses", chat_user(AUDIO), "messages[0].content[0].type"),
    ],
    ids=str,
)
async def test_what_the_upstream_cannot_be_asked_is_refused_with_its_place(
    gateway, upstream, path: str, dialect: str, body: Json, param: str, streamed: bool
) -> None:
    anos = await gateway(speaking(dialect))
    refused = await anos.post(path, **{**HI[path], **body, "stream": streamed})
    assert refused.status == 400
    assert (refused.error["code"], refused.error["param"]) == ("unsupported_parameter", param)
    assert not upstream.requests


async def test_the_whole_history_goes_to_an_upstream_of_either_dialect(gateway, upstream) -> None:
    anos = await gateway(
        {
            "providers": {"chat": {"dialect": "chat", "base_url": upstream.url}},
            "models": {"talker": {"routes": [{"provider": "chat", "deployment": "talker"}]}},
        }
    )
    call = Said(calls=(("c1", "weather", '{"city":"Oslo"}'),), finish="tool_calls")
    upstream.answer(call.upstream("responses", True), call.upstream("chat", False))
    models = ("gpt-4", "talker")
    first = await ask(anos, RESPONSES, True, model="gpt-4", **PICTURED[RESPONSES])
    output = [{"type": "function_call_output", "call_id": "c1", "output": "Rain."}]
    upstream.answer(scripted.responses_text("It rains."), scripted.chat_text("It rains."))
    # Both continue the same response: each is told the same in its own words.
    ids = []
    for model in models[::-1]:
        reply = await anos.post(
            RESPONSES, model=model, input=output, previous_response_id=first["id"]
        )
        ids.append((model, reply.body["id"]))
    chat, responses = (upstream.requests[-2].body, upstream.requests[-1].body)
    assert chat["messages"] == [
        PICTURED[CHAT]["messages"][0],
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [scripted.chat_call("weather", '{"city":"Oslo"}', "c1")],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "Rain."},
    ]
    assert [item["type"] for item in responses["input"]] == [
        "message", "function_call", "function_call_output"
    ]  # fmt: skip
    assert responses["input"][1] == first["output"][0]


# Usage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [False, True, None])
@pytest.mark.parametrize(("path", "dialect"), [p for p in PATHS if "completions" in str(p.id)])
async def test_a_chat_client_gets_usage_only_if_it_asks_for_it(
    gateway, upstream, path: str, dialect: str, wanted: bool | None
) -> None:
    anos = await gateway(speaking(dialect))
    options = {} if wanted is None else {"stream_options": {"include_usage": wanted}}
    chunks = await anos.stream(path, **HI[path], **options)
    found = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert len(found) == (wanted is True)
    if dialect == "chat":
        assert upstream.requests[0].body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("path", [RESPONSES, CHAT])
async def test_an_upstream_that_refuses_the_option_is_not_asked_for_usage(
    gateway, upstream, path: str
) -> None:
    quirks = {"dialect": "chat", "quirks": {"include_usage": False}}
    anos = await gateway({"providers": {"up": quirks}})
    upstream.answer(Said(content="Hello" * 8, usage=None).upstream("chat", True))
    answer = await ask(anos, path, True)
    assert heard(answer).usage == (1, 10)
    assert "stream_options" not in upstream.requests[0].body
