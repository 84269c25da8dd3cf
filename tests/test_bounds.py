"""What a call can come to at most: what is counted, and what is refused to a key with a budget."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anos import bounds
from anos.bounds import input_bound
from anos.config_sections import Quirks
from anos.errors import InvalidRequest
from anos.inputs import normalise_input
from anos.routing import Route
from tests import scripted
from tests.conftest import Json
from tests.test_exchanges import CHAT, HI, RESPONSES, row, rows, some
from tests.test_governance import ask, priced

BOTH = pytest.mark.parametrize("path", [RESPONSES, CHAT])
DIALECTS = pytest.mark.parametrize("dialect", ["responses", "chat"])
# A token of input is a micro-dollar, and output costs nothing.
INPUT_ONLY = {"input_per_million_usd": 1, "output_per_million_usd": 0}
PNG = "data:image/png;base64," + "A" * 4000


def reading(dialect: str = "responses", **model: Any) -> Json:
    """Ann pays for input alone; an image or a file is 300 tokens."""
    media = {"max_image_tokens": 300, "max_file_tokens": 300}
    model = {"price": INPUT_ONLY, **media, **model}
    return priced(model=model, providers={"up": {"dialect": dialect}})


def function(path: str, **schema: Any) -> Json:
    named = {"name": "f", "parameters": {"type": "object", **schema}}
    return {"type": "function", **(named if path == RESPONSES else {"function": named})}


def said(path: str, *content: Any) -> Json:
    """A request with one message of the user."""
    message = {"role": "user", "content": content[0] if len(content) == 1 else list(content)}
    return {"input" if path == RESPONSES else "messages": [message]}


def text(path: str, words: str) -> Json:
    return {"type": "input_text" if path == RESPONSES else "text", "text": words}


def image(path: str, url: str) -> Json:
    if path == RESPONSES:
        return {"type": "input_image", "image_url": url}
    return {"type": "image_url", "image_url": {"url": url}}


def file(path: str, data: str) -> Json:
    named = {"filename": "a.pdf", "file_data": data}
    return {"type": "input_file", **named} if path == RESPONSES else {"type": "file", "file": named}


# Input --------------------------------------------------------------------------------------------


@BOTH
@DIALECTS
@pytest.mark.parametrize("word", ["input_image", "image_url", "input_file", "file"])
async def test_a_text_that_begins_like_data_is_reserved_in_full(
    gateway, upstream, path: str, dialect: str, word: str
) -> None:
    anos = await gateway(reading(dialect))
    tool = function(path, properties={"kind": {"enum": [word]}, word: {"type": "string"}})
    words = "data:" + " word" * 2000
    assert (await ask(anos, path, **said(path, words), tools=[tool])).status == 200
    assert (await row(anos))["reserved"] == len(upstream.requests[0].raw) > 10_000


@BOTH
@DIALECTS
async def test_only_what_stands_in_an_image_or_a_file_is_left_out_of_what_is_reserved(
    gateway, upstream, path: str, dialect: str
) -> None:
    anos = await gateway(reading(dialect))
    parts = (text(path, "data:" + "x" * 5000), image(path, PNG), file(path, "B" * 4000))
    assert (await ask(anos, path, **said(path, *parts))).status == 200
    whole = len(upstream.requests[0].raw)
    assert (await row(anos))["reserved"] == whole - len(PNG) - 4000 + 600


def route(**limits: int) -> Route:
    return Route("p", "chat", "deployed", Quirks(), False, **limits)


SEES = route(max_image_tokens=100, max_file_tokens=10)


def weighed(tree: Json, at: Route = SEES) -> int:
    """What is bounded beside the bytes; negative where some are left out."""
    body = json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode()
    return input_bound(body, at) - len(body)


@pytest.mark.parametrize(
    ("tree", "beside"),
    [
        ({"input": "data:image/png;base64,AAAA"}, 0),
        ({"input": [{"type": "message", "content": '"image_url"'}]}, 0),
        (said(RESPONSES, image(RESPONSES, PNG), image(RESPONSES, "http://i")), 200 - len(PNG)),
        (said(CHAT, image(CHAT, PNG), image(CHAT, PNG)), 200 - 2 * len(PNG)),
        (said(CHAT, {"type": "image_url", "image_url": PNG}, {"type": "text"}), 100 - len(PNG)),
        (said(CHAT, {"type": "image_url"}, {"type": "text", "text": PNG}), 100),
        (said(CHAT, {"type": "image_url", "image_url": {"url": 5}}, {"type": "text"}), 100),
        (said(CHAT, {"type": "image_url", "image_url": {"url": "x"}, "text": PNG}, {}), 100),
        (said(CHAT, file(CHAT, "AAAA"), {"type": "file", "file": None}), 20 - 4),
        (said(RESPONSES, file(RESPONSES, "BBB"), {"type": "input_file", "file_id": "f"}), 20 - 3),
        # What is written in more bytes than it has characters is left out too little, never more.
        (said(CHAT, file(CHAT, '"é'), {}), 10 - 2),
        ({"input": [{"type": "function_call_output", "output": [image(RESPONSES, PNG)]}]}, None),
    ],
)
def test_images_and_files_count_as_configured_in_place_of_their_data(
    tree: Json, beside: int | None
) -> None:
    assert weighed(tree) == (100 - len(PNG) if beside is None else beside)


@pytest.mark.parametrize("path", [RESPONSES, CHAT])
@pytest.mark.parametrize("url", ["data:video/mp4;base64,AAAA", "data:text/plain,hello", "data:"])
def test_data_that_is_no_image_is_refused_where_an_image_is_due(path: str, url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        weighed(said(path, image(path, url), text(path, "x")))
    assert caught.value.code == "unsupported_parameter"


@pytest.mark.parametrize("path", [RESPONSES, CHAT])
@pytest.mark.parametrize("kind", ["video/mp4", "audio/wav"])
def test_a_file_that_is_sound_or_moves_is_refused(path: str, kind: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        weighed(said(path, file(path, f"data:{kind};base64,AAAA"), text(path, "x")))
    assert caught.value.code == "unsupported_parameter"


words = st.sampled_from(["input_image", "image_url", "file", "data:x", "data:image/png,", "type"])
trees = st.recursive(
    words | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(words | st.text(), inner),
    max_leaves=20,
)


@given(trees)
def test_nothing_a_text_or_a_schema_says_makes_a_request_smaller(value: Any) -> None:
    tree = {**said(CHAT, json.dumps(value)), "tools": [function(CHAT, properties=value)]}
    assert weighed(tree, route()) == 0


# Output -------------------------------------------------------------------------------------------


@DIALECTS
async def test_a_response_has_one_choice_with_an_upstream_of_either_dialect(
    gateway, upstream, dialect: str
) -> None:
    anos = await gateway(priced(providers={"up": {"dialect": dialect}}))
    refused = await ask(anos, n=50)
    assert (refused.status, refused.error["code"], refused.error["param"]) == (
        *(400, "unsupported_parameter", "n"),
    )
    assert (await anos.post(RESPONSES, input="Hi", n=2)).error["param"] == "n"
    assert (await ask(anos, n=1)).status == 200
    (sent,) = upstream.requests
    assert "n" not in sent.body


@pytest.mark.parametrize("field", ["max_completion_tokens", "max_tokens"])
@pytest.mark.parametrize("sent", [{"max_completion_tokens": 7}, {"max_completion_tokens": None}])
async def test_one_cap_is_sent_to_a_chat_upstream_and_it_is_the_one_that_is_reserved(
    gateway, upstream, field: str, sent: Json
) -> None:
    up = {"dialect": "chat", "quirks": {"max_tokens_field": field}}
    anos = await gateway(priced(providers={"up": up}))
    assert (await ask(anos, CHAT, max_tokens=900, **sent)).status == 200
    cap = sent["max_completion_tokens"] or 900
    body = upstream.requests[0].body
    assert {name: body[name] for name in body if name.startswith("max_")} == {field: cap}
    assert (await row(anos))["reserved"] == cap


@DIALECTS
@pytest.mark.parametrize(
    ("sent", "cap"),
    [
        ({"max_completion_tokens": 7}, 7),
        ({"max_completion_tokens": 7, "max_tokens": 900}, 7),
        ({"max_completion_tokens": 900, "max_output_tokens": 7}, 7),
        ({"max_completion_tokens": None, "max_tokens": 7}, 7),
    ],
)
async def test_a_response_has_one_cap_by_whatever_name(
    gateway, upstream, dialect: str, sent: Json, cap: int
) -> None:
    anos = await gateway(priced(providers={"up": {"dialect": dialect}}))
    assert (await ask(anos, **sent)).status == 200
    name = "max_output_tokens" if dialect == "responses" else "max_completion_tokens"
    body = upstream.requests[0].body
    assert {name: body[name] for name in body if name.startswith("max_")} == {name: cap}
    assert (await row(anos))["reserved"] == cap


@BOTH
async def test_no_cap_is_beyond_what_can_be_summed(gateway, upstream, path: str) -> None:
    anos = await gateway(priced())
    refused = await ask(anos, path, max_tokens=2**31 + 1)
    assert (refused.status, refused.error["param"]) == (400, "max_tokens")
    refused = await ask(anos, path, max_tokens=2**31)
    assert (refused.status, refused.error["code"]) == (429, "insufficient_quota")


# What is not bounded ------------------------------------------------------------------------------

HOSTED = {"type": "web_search"}


def chat_part(*parts: Any) -> Json:
    return said(CHAT, *parts, {"type": "text", "text": "x"})


UNBOUNDED: list[tuple[str, Json, str]] = [
    (CHAT, {"tools": [function(CHAT), HOSTED]}, "tools[1]"),
    (CHAT, {"tools": [{"googleSearch": {}}]}, "tools[0]"),
    (CHAT, {"tools": [{"type": ["function"]}]}, "tools[0]"),
    (CHAT, {"tools": [function(CHAT) | {"googleSearch": {}}]}, "tools[0]"),
    (CHAT, {"plugins": [{"id": "web"}]}, "plugins"),
    (CHAT, {"best_of": 20}, "best_of"),
    (CHAT, {"prediction": {"type": "content", "content": "x"}}, "prediction"),
    (CHAT, {"chat_template": "{{ messages * 100 }}"}, "chat_template"),
    (CHAT, {"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs"),
    (CHAT, {"chat_template_kwargs": [1]}, "chat_template_kwargs"),
    (CHAT, {"provider": {"order": ["dear"]}}, "provider"),
    (CHAT, {"service_tier": "priority"}, "service_tier"),
    (CHAT, {"service_tier": ["priority"]}, "service_tier"),
    (CHAT, {"modalities": ["image", "text"]}, "modalities"),
    (CHAT, {"audio": {"voice": "x"}}, "audio"),
    (CHAT, {"web_search_options": {}}, "web_search_options"),
    (CHAT, {"prompt_cache_options": {"ttl": "12h"}}, "prompt_cache_options"),
    *(
        (CHAT, chat_part({"type": kind, kind: {"url": "http://x"}}), "messages[0].content[0]")
        for kind in ("video_url", "audio_url", "document", "image", "image_embeds", "input_video")
    ),
    (CHAT, chat_part({"type": "input_audio", "input_audio": {}}), "messages[0].content[0]"),
    (CHAT, chat_part({"image_url": {"url": "http://x"}}), "messages[0].content[0]"),
    (CHAT, chat_part({"type": ["text"], "text": "x"}), "messages[0].content[0]"),
    (
        CHAT,
        chat_part({"type": "text", "uuid": "u", "image_url": {"url": "http://x"}}),
        "messages[0].content[0]",
    ),
    (
        CHAT,
        chat_part({"type": "image_url", "image_url": {"url": "http://x", "max_pixels": 9**9}}),
        "messages[0].content[0]",
    ),
    (
        CHAT,
        chat_part({"type": "thinking", "thinking": [image(CHAT, PNG)]}),
        "messages[0].content[0].thinking[0]",
    ),
    (
        CHAT,
        chat_part({"type": "text", "text": "x", "cache_control": {"ttl": "1h"}}),
        "messages[0].content[0]",
    ),
    (
        CHAT,
        {"messages": [{"role": "assistant", "audio": {"id": "a"}}, *HI[CHAT]["messages"]]},
        "messages[0].audio",
    ),
    (
        CHAT,
        {"messages": [{"role": "assistant", "annotations": [{"type": "file"}]}]},
        "messages[0].annotations",
    ),
    (RESPONSES, {"tools": [HOSTED]}, "tools[0]"),
    (RESPONSES, {"web_search_options": {}}, "web_search_options"),
    (RESPONSES, {"modalities": ["text", "audio"], "audio": {"voice": "x"}}, "modalities"),
    (RESPONSES, {"plugins": [{"id": "web"}]}, "plugins"),
    (RESPONSES, {"reasoning": {"mode": "pro"}}, "reasoning"),
    (RESPONSES, {"service_tier": "priority"}, "service_tier"),
]


async def refused_beside_a_budget_only(
    gateway: Any, upstream: Any, config: Json, path: str, body: Json, param: str
) -> None:
    anos = await gateway(config)
    refused = await ask(anos, path, **body)
    assert (refused.status, refused.error["code"], refused.error["param"]) == (
        *(400, "unsupported_parameter", param),
    )
    assert refused.error["message"].startswith("A budget holds for this key, and what ")
    assert upstream.requests == []
    tree = {"model": "gpt-4", **HI[path], **body}
    assert (await anos.request("POST", path, json=tree)).status == 200
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(("path", "body", "param"), UNBOUNDED)
async def test_what_is_not_bounded_is_refused_to_a_key_with_a_budget_only(
    gateway, upstream, path: str, body: Json, param: str
) -> None:
    is_only_theirs = path == RESPONSES and body.keys() & {"tools", "reasoning"}
    dialect = "responses" if is_only_theirs else "chat"
    config = reading(dialect)
    await refused_beside_a_budget_only(gateway, upstream, config, path, body, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (
            {"input": [{"type": "web_search_call", "id": "ws_1"}, {"role": "user", "content": ""}]},
            "input[0]",
        ),
        (
            said(RESPONSES, {"type": "input_video", "video_url": "x"}, text(RESPONSES, "x")),
            "input[0].content[0]",
        ),
        (
            said(RESPONSES, text(RESPONSES, "x") | {"image_url": "http://x"}, image(RESPONSES, "")),
            "input[0].content[0]",
        ),
        (
            {
                "input": [
                    {
                        "type": "reasoning",
                        "summary": [{"text": "x", "image_url": "y"}],
                        "encrypted_content": "x",
                    }
                ]
            },
            "input[0].summary[0]",
        ),
    ],
)
async def test_items_that_are_not_bounded_are_refused_to_a_key_with_a_budget_only(
    gateway, upstream, body: Json, param: str
) -> None:
    config = reading()
    await refused_beside_a_budget_only(gateway, upstream, config, RESPONSES, body, param)


async def test_what_was_inherited_is_refused_to_a_key_with_a_budget_too(gateway, upstream) -> None:
    config = reading()
    config["projects"] = {"team": {}}
    config["keys"] |= {"ann": {**config["keys"]["ann"], "project": "team"}}
    config["keys"] |= {"bob": {"key": "sk-bob", "project": "team"}}
    anos = await gateway(config)
    upstream.answer(scripted.responses_body([{"type": "web_search_call", "id": "ws_1"}]))
    bob = {"Authorization": "Bearer sk-bob"}
    tree = {"model": "gpt-4", "input": "Hi"}
    first = await anos.request("POST", RESPONSES, headers=bob, json=tree)
    refused = await ask(anos, previous_response_id=first.body["id"])
    assert (refused.status, refused.error["param"]) == (400, "previous_response_id")


SETTINGS: Json = {
    "temperature": 1,
    "top_p": 1,
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "seed": 1,
    "user": "u",
    "acme": None,
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "explicit", "ttl": "30m"},
    "service_tier": "flex",
    "chat_template_kwargs": {"enable_thinking": False, "reasoning_effort": "high"},
    "usage": {"include": True},
    "thinking": {"type": "enabled"},
    "metadata": {"a": "b"},
}
CACHED = {"cache_control": {"type": "ephemeral"}}


@pytest.mark.parametrize(
    ("path", "dialect", "body"),
    [
        (
            CHAT,
            "chat",
            {
                **SETTINGS,
                "stop": ["x"],
                "logit_bias": {"1": 2},
                "verbosity": "low",
                "n": 2,
                "modalities": ["text"],
                "reasoning_effort": "low",
                "audio": None,
                "stream_options": None,
                "response_format": {"type": "json_object"},
                "tools": [
                    function(CHAT),
                    {"type": "custom", "custom": {"name": "c"}},
                    function(CHAT) | CACHED,
                ],
                "messages": [
                    {"role": "system", "content": [{"type": "text", "text": "x", **CACHED}]},
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                            {"type": "refusal", "refusal": "no"},
                        ],
                        "audio": None,
                        "annotations": [],
                        "refusal": "no",
                        "name": "a",
                        "reasoning_content": "hm",
                        "tool_calls": [scripted.chat_call("f")],
                    },
                    {"role": "tool", "tool_call_id": "call_f", "content": "x"},
                    {"role": "assistant", "annotations": [{"type": "url_citation"}], "content": ""},
                    {"role": "user", "content": [image(CHAT, PNG), file(CHAT, "AAAA")]},
                ],
            },
        ),
        (
            RESPONSES,
            "responses",
            {
                **SETTINGS,
                "instructions": "be",
                "reasoning": {"effort": "low", "context": "auto"},
                "text": {"verbosity": "low"},
                "truncation": "auto",
                "parallel_tool_calls": True,
                "include": ["reasoning.encrypted_content"],
                "max_tool_calls": 1,
                "store": True,
                "tools": [function(RESPONSES), {"type": "custom", "name": "c"}],
                "input": [
                    {"role": "user", "content": [image(RESPONSES, PNG), file(RESPONSES, "AAAA")]},
                    {"type": "reasoning", "summary": [], "encrypted_content": "x"},
                    scripted.message("Hm."),
                    scripted.refusal("No."),
                    scripted.function_call("f"),
                    {
                        "type": "function_call_output",
                        "call_id": "call_f",
                        "output": [text(RESPONSES, "x")],
                    },
                    scripted.custom_call("c", "x"),
                    {"type": "custom_tool_call_output", "call_id": "call_c", "output": "x"},
                ],
            },
        ),
        (RESPONSES, "chat", {**SETTINGS, "stop": ["x"], "logit_bias": {}, "n": 1}),
    ],
)
async def test_what_is_bounded_is_served_to_a_key_with_a_budget(
    gateway, upstream, path: str, dialect: str, body: Json
) -> None:
    anos = await gateway(reading(dialect))
    answer = await ask(anos, path, **body)
    assert (answer.status, len(upstream.requests)) == (200, 1), answer.raw


@BOTH
@pytest.mark.parametrize("name", ["models", "fallbacks"])
async def test_no_request_chooses_models_beside_its_own(
    gateway, upstream, path: str, name: str
) -> None:
    anos = await gateway()
    refused = await anos.post(path, **{**HI[path], name: ["dear"]})
    assert (refused.status, refused.error["code"], refused.error["param"]) == (
        *(400, "unsupported_parameter", name),
    )
    assert upstream.requests == []


def test_the_first_thing_that_is_not_bounded_is_named() -> None:
    tree = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    assert bounds.unbounded_in_chat(tree) is None
    items = normalise_input("hi", 0)
    assert bounds.unbounded_in_responses({"model": "m"}, [], items) is None
    strange = [{"type": "acme:item", "id": "i"}]
    assert bounds.unbounded_in_responses({}, strange, items) == "previous_response_id"
    assert bounds.unbounded_in_responses({}, items, strange) == "input[0]"


# What the translation writes ----------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
async def test_no_field_of_a_client_replaces_what_the_translation_writes(
    gateway, upstream, streamed: bool
) -> None:
    anos = await gateway({"providers": {"up": {"dialect": "chat"}}})
    mine = {"reasoning_effort": "high", "verbosity": "high", "logprobs": False, "acme": 1}
    smuggled = {
        "messages": [{"role": "user", "content": "smuggled"}],
        "response_format": {"type": "json_object"},
    }
    theirs = {
        "text": {
            "format": {"type": "json_schema", "name": "s", "schema": {}},
            "verbosity": "low",
        },
        "reasoning": {"effort": "low"},
        "include": ["message.output_text.logprobs"],
    }
    for name, value in smuggled.items():
        refused = await anos.post(RESPONSES, input="Hi", **{name: value}, **theirs)
        assert (refused.status, refused.error["param"]) == (400, name)
    answer = await anos.post(RESPONSES, input="Hi", **mine, **theirs, stream=streamed)
    assert answer.status == 200
    (sent,) = upstream.requests
    body = sent.body
    assert body["messages"] == [{"role": "user", "content": "Hi"}]
    assert some(body, "reasoning_effort", "verbosity", "logprobs") == ("low", "high", True)
    assert body["acme"] == 1
    assert body["response_format"]["type"] == "json_schema"
    assert body.get("stream", False) is streamed


@pytest.mark.parametrize(
    "field",
    [
        {"input": "smuggled"},
        {"instructions": "smuggled"},
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"prompt": {"id": "pmpt_1"}},
        {"context_management": [{"type": "compaction"}]},
    ],
)
async def test_a_chat_request_cannot_speak_past_its_messages(
    gateway, upstream, field: Json
) -> None:
    anos = await gateway()
    refused = await anos.post(CHAT, **HI[CHAT], **field)
    (name,) = field
    assert (refused.status, refused.error["param"]) == (400, name)
    assert upstream.requests == []


async def test_what_a_chat_request_says_of_the_gateways_own_is_left_out(gateway, upstream) -> None:
    anos = await gateway()
    own = {"include": 5, "background": True, "text": {"format": {"type": "json_object"}}}
    wanted = {"response_format": {"type": "text"}, "max_output_tokens": 900, "max_tokens": 5}
    assert (await anos.post(CHAT, **HI[CHAT], **own, **wanted)).status == 200
    body = upstream.requests[0].body
    assert "background" not in body
    assert "include" not in body
    assert some(body, "text", "max_output_tokens") == ({"format": {"type": "text"}}, 5)


# What an upstream reports -------------------------------------------------------------------------

ABSURD = [9e15, 10**19, 2**31 + 1, -1, 7.0, "7", True, None]


def reported(path: str, counts: Json, streamed: bool) -> Any:
    """An answer that says "Hello" and has these counts; None is a count that is missing."""
    names = {"input": "prompt", "output": "completion"} if path == CHAT else {}
    usage = {
        f"{names.get(name, name)}_tokens": count
        for name, count in counts.items()
        if count is not None
    }
    if path == CHAT:
        if not streamed:
            return {**scripted.chat_text("Hello"), "usage": usage}
        *chunks, last, done = scripted.chat_stream(["Hel", "lo"])
        return [*chunks, {**last, "usage": usage}, done]
    if not streamed:
        return {**scripted.responses_text("Hello"), "usage": usage}
    *events, last = scripted.responses_stream(["Hel", "lo"])
    return [*events, {**last, "response": {**last["response"], "usage": usage}}]


@BOTH
@DIALECTS
@pytest.mark.parametrize("streamed", [False, True])
async def test_counts_that_no_upstream_can_mean_are_estimated(
    gateway, upstream, path: str, dialect: str, streamed: bool
) -> None:
    anos = await gateway(priced(usd=1, cap=100, providers={"up": {"dialect": dialect}}))
    theirs = CHAT if dialect == "chat" else RESPONSES
    for count in ABSURD:
        for counts in ({"input": count, "output": 2}, {"input": 7, "output": count}):
            upstream.answer(reported(theirs, counts, streamed))
            assert (await ask(anos, path, stream=streamed)).status == 200
    found = await rows(anos)
    assert len(found) == 2 * len(ABSURD)
    for each in found:
        assert (each["usage_source"], each["cost"]) == ("estimated", each["output_tokens"])
        assert 0 < each["output_tokens"] < 10
    await anos.stop()
    again = await gateway(priced(usd=1, cap=100, providers={"up": {"dialect": dialect}}))
    upstream.answer(reported(theirs, {"input": 7, "output": 2}, False))
    assert (await ask(again, path)).status == 200


@BOTH
@DIALECTS
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_count_that_is_zero_is_believed(
    gateway, upstream, path: str, dialect: str, streamed: bool
) -> None:
    anos = await gateway(priced(providers={"up": {"dialect": dialect}}))
    theirs = CHAT if dialect == "chat" else RESPONSES
    upstream.answer(reported(theirs, {"input": 0, "output": 0}, streamed))
    assert (await ask(anos, path, stream=streamed)).status == 200
    assert some(await row(anos), "usage_source", "output_tokens", "cost") == ("upstream", 0, 0)


async def test_a_stream_whose_counts_cannot_be_meant_ends_with_the_estimate(
    gateway, upstream
) -> None:
    anos = await gateway({"providers": {"up": {"dialect": "chat"}}})
    upstream.answer(reported(CHAT, {"input": 10**19, "output": 2}, True))
    chunks = await anos.stream(CHAT, **HI[CHAT], stream_options={"include_usage": True})
    counts = chunks[-1]["usage"]
    assert 0 < counts["completion_tokens"] < counts["total_tokens"] < 100
    found = await row(anos)
    assert some(found, "usage_source", "output_tokens") == (
        *("estimated", counts["completion_tokens"]),
    )
