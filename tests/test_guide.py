"""Every example of docs/responses-guide.md, run as it stands there, does what the page says.

Only the origin is replaced, `resp_abc123` where the example needs a response that exists, and the
comments in the JSON are left out.
"""

import ast
import asyncio
import json
import os
import re
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Gateway, Json, check_stream

GUIDE = (Path(__file__).parent.parent / "docs" / "responses-guide.md").read_text()
ORIGIN = "https://anos-production.up.railway.app"
PLACEHOLDER = "resp_abc123"
# The models of a gateway that nobody has configured.
UNCONFIGURED: Json = {"providers": None, "models": None}
# JSON where the example would print for people.
NODE_PRINTS_JSON = "data:text/javascript,console.log = value => console.info(JSON.stringify(value))"


@dataclass(frozen=True)
class Example:
    """One fenced block of the page and the heading above it."""

    heading: str
    language: str
    code: str


def read_examples(markdown: str) -> list[Example]:
    """Every fenced block, in order."""
    found, heading = [], ""
    pattern = r"^#+ ([^\n]+)$|^```(\w+)\n(.*?)^```$"
    for match in re.finditer(pattern, markdown, re.MULTILINE | re.DOTALL):
        if match[1]:
            heading = match[1]
        else:
            found.append(Example(heading, match[2], match[3]))
    return found


EXAMPLES = read_examples(GUIDE)


def example(heading: str, language: str = "bash", number: int = 0) -> str:
    """The code of the `number`th block of that language under the heading."""
    found = [each for each in EXAMPLES if (each.heading, each.language) == (heading, language)]
    return found[number].code


def example_json(heading: str) -> Json:
    body: Json = json.loads(re.sub(r"//.*", "", example(heading, "json")))
    return body


async def run(url: str, language: str, code: str) -> str:
    """What the example prints when the gateway is at `url`."""
    command, *arguments = {
        "bash": ["bash", "-e", "-o", "pipefail", "-c"],
        "python": [sys.executable, "-W", "error", "-c"],
        "javascript": ["node", "--import", NODE_PRINTS_JSON, "--input-type=module", "-e"],
    }[language]
    for needed in (command, "curl", "jq") if language == "bash" else (command,):
        assert shutil.which(needed), f"this test needs {needed}"
    assert ORIGIN in code
    process = await asyncio.create_subprocess_exec(
        command,
        *arguments,
        code.replace(ORIGIN, url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "NO_PROXY": "*", "no_proxy": "*"},
    )
    printed, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    return printed.decode()


async def run_for_bodies(url: str, language: str, code: str) -> list[Json]:
    """The JSON bodies the example prints, one after the other."""
    printed = await run(url, language, code)
    if language == "python":
        return [ast.literal_eval(printed)]
    bodies, rest = [], printed.strip()
    while rest:
        body, end = json.JSONDecoder().raw_decode(rest)
        bodies.append(body)
        rest = rest[end:].strip()
    return bodies


def assert_like(shown: Any, actual: Any, path: str = "body") -> None:
    """Every field of the example is in the answer: text as shown up to a `...`, numbers as numbers.

    A field the example does not have may be there, too.
    """
    assert type(actual) is type(shown), f"{path}: {actual!r}"
    if isinstance(shown, dict):
        for name, value in shown.items():
            assert name in actual, f"{path}.{name} is missing"
            assert_like(value, actual[name], f"{path}.{name}")
    elif isinstance(shown, list):
        assert len(actual) == len(shown), path
        for number, value in enumerate(shown):
            assert_like(value, actual[number], f"{path}[{number}]")
    elif isinstance(shown, str) and path == "body.id":
        assert re.fullmatch(r"resp_\w{1,59}", actual)
    elif isinstance(shown, str):
        beginning = shown.removesuffix("...")
        assert actual == shown or (shown != beginning and actual.startswith(beginning)), path


def text_of(response: Json) -> str:
    """What it says; asserts that both shapes of the Response say and count the same."""
    said = response["choices"][0]["message"]["content"]
    assert response["output"][-1]["content"][0]["text"] == said
    assert response["created"] == response["created_at"]
    usage = response["usage"]
    assert usage["prompt_tokens"] == usage["input_tokens"] > 0
    assert usage["completion_tokens"] == usage["output_tokens"] > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    text: str = said
    return text


HELLO = "Hello! How can I help you today?"
# What each example that creates responses prints: the texts of the bodies, as far as they matter.
CREATING = {
    ("Create a Response", "bash"): ["AI stands for Artificial Intelligence"],
    ("Simple Question", "bash"): ["2 + 2 = 4."],
    ("With Temperature", "bash"): ["Once upon a time"],
    ("Retrieve Response Later", "bash"): [HELLO],
    ("Using with Your Models", "bash"): [HELLO, HELLO],
    ("Testing", "bash"): [HELLO],
    ("Python", "python"): [HELLO],
    ("JavaScript", "javascript"): [HELLO],
    ("cURL", "bash"): [HELLO],
}
STREAMING = "Streaming Response"
# The sections about the endpoints: first the method and its paths, then (not for all) an example.
CREATE, GET, DELETE, INPUT_ITEMS, CANCEL = (
    "1. Create Response",
    "2. Get Response by ID",
    "3. Delete Response",
    "4. Get Response Input Items",
    "5. Cancel Response",
)
ERRORS = ("Invalid Model", "Rate Limit Exceeded", "Content Moderation Block")


def test_no_example_is_left_out() -> None:
    counts = {"bash": 16, "json": 6, "python": 1, "javascript": 1}
    assert Counter(each.language for each in EXAMPLES) == counts
    tested = [
        *CREATING,
        (STREAMING, "bash"),
        *[(heading, "bash") for heading in (CREATE, GET, DELETE, INPUT_ITEMS, CANCEL)],
        *[(heading, "bash") for heading in (GET, DELETE, CANCEL)],
        *[(heading, "json") for heading in ("Response Format", CREATE, *ERRORS, "Testing")],
    ]
    assert Counter((each.heading, each.language) for each in EXAMPLES) == Counter(tested)


@pytest.fixture
async def api(gateway) -> Gateway:
    return await gateway(UNCONFIGURED)


@pytest.mark.parametrize(("heading", "language"), CREATING)
async def test_an_example_creates_a_response_that_can_be_retrieved(
    api: Gateway, heading: str, language: str
) -> None:
    bodies = await run_for_bodies(api.url, language, example(heading, language))
    texts = [text_of(body) for body in bodies]
    expected = CREATING[heading, language]
    assert len(texts) == len(expected)
    assert all(text.startswith(begin) for text, begin in zip(texts, expected, strict=True))
    for body in bodies:
        assert body["status"] == "completed"
        assert body["model"] in ("gpt-35-turbo", "gpt-4")
        assert (await api.get(f"/responses/{body['id']}")).body == body


async def test_the_response_format_is_the_one_shown(api: Gateway) -> None:
    (body,) = await run_for_bodies(api.url, "bash", example("Create a Response"))
    assert_like(example_json("Response Format"), body)


async def test_the_expected_response_to_say_hello_is_the_one_shown(api: Gateway) -> None:
    (body,) = await run_for_bodies(api.url, "bash", example("Testing"))
    shown = example_json("Testing")
    assert_like(shown, body)
    assert body["choices"] == shown["choices"]
    assert {name: body["usage"][name] for name in shown["usage"]} == shown["usage"]


async def test_the_settings_of_an_example_are_kept(api: Gateway) -> None:
    (body,) = await run_for_bodies(api.url, "bash", example("With Temperature"))
    assert (body["temperature"], body["max_output_tokens"]) == (0.9, 500)


async def test_the_example_with_stream_prints_events_up_to_done(api: Gateway) -> None:
    printed = await run(api.url, "bash", example(STREAMING))
    events = check_stream("/v1/responses", printed.encode())
    deltas = [event["delta"] for event in events if event["type"].endswith("output_text.delta")]
    assert len(deltas) > 10
    final = events[-1]["response"]
    assert "".join(deltas) == text_of(final)
    assert final["choices"][0]["finish_reason"] == "stop"
    assert (await api.get(f"/v1/responses/{final['id']}")).body == final


@pytest.mark.parametrize("heading", [GET, DELETE, CANCEL])
async def test_an_example_with_an_unknown_id_is_answered_404(api: Gateway, heading: str) -> None:
    code = example(heading, number=1)
    (body,) = await run_for_bodies(api.url, "bash", code)
    assert body["error"]["message"] == f"Response with id '{PLACEHOLDER}' not found."
    assert body["error"]["code"] == "not_found"
    status = await run(api.url, "bash", code.rstrip() + " -s -o /dev/null -w '%{http_code}'")
    assert status == "404"


async def test_the_example_of_get_gives_the_response_that_was_created(api: Gateway) -> None:
    created = (await api.post("/v1/responses", input="Say hello")).body
    code = example(GET, number=1).replace(PLACEHOLDER, created["id"])
    assert await run_for_bodies(api.url, "bash", code) == [created]


async def test_the_example_of_delete_deletes(api: Gateway) -> None:
    created = (await api.post("/v1/responses", input="Say hello")).body
    code = example(DELETE, number=1).replace(PLACEHOLDER, created["id"])
    answer = {"id": created["id"], "object": "response", "deleted": True}
    assert await run_for_bodies(api.url, "bash", code) == [answer]
    assert json.dumps({**answer, "id": PLACEHOLDER}) in GUIDE
    assert (await api.get(f"/v1/responses/{created['id']}")).status == 404


async def test_the_example_of_cancel_ends_a_response_that_runs(api: Gateway) -> None:
    created = (await api.post("/v1/responses", input="[stub silent]", background=True)).body
    code = example(CANCEL, number=1).replace(PLACEHOLDER, created["id"])
    (cancelled,) = await run_for_bodies(api.url, "bash", code)
    assert (cancelled["id"], cancelled["status"]) == (created["id"], "cancelled")
    assert (await api.get(f"/v1/responses/{created['id']}")).body == cancelled


async def test_the_example_of_cancel_is_refused_for_a_completed_response(api: Gateway) -> None:
    created = (await api.post("/v1/responses", input="Say hello")).body
    code = example(CANCEL, number=1).replace(PLACEHOLDER, created["id"])
    (body,) = await run_for_bodies(api.url, "bash", code)
    assert body["error"]["message"] == "Cannot cancel a completed response."


async def test_the_request_body_is_accepted_as_shown_with_its_comments_left_out(
    api: Gateway,
) -> None:
    reply = await api.request("POST", "/v1/responses", json=example_json(CREATE))
    assert reply.status == 200
    assert text_of(reply.body) == "You said: Your prompt here"
    assert (reply.body["temperature"], reply.body["max_output_tokens"]) == (0.7, 1000)


def paths(heading: str) -> list[tuple[str, str]]:
    """The (method, path) of each line of the first block under the heading."""
    lines = re.sub(r"#.*", "", example(heading)).splitlines()
    return [(method, path) for method, path in map(str.split, lines)]


SHOWN_PATHS = [line for each in (CREATE, GET, DELETE, INPUT_ITEMS, CANCEL) for line in paths(each)]
AZURE_PATHS = [(method, f"/openai{path}") for method, path in SHOWN_PATHS if "/v1" in path]


def test_every_path_is_read_from_the_page() -> None:
    assert (len(SHOWN_PATHS), len(AZURE_PATHS)) == (8, 5)


@pytest.mark.parametrize(("method", "path"), SHOWN_PATHS + AZURE_PATHS)
async def test_each_path_works(api: Gateway, method: str, path: str) -> None:
    is_cancel = path.endswith("/cancel")
    prompt = "[stub silent]" if is_cancel else "Hello"
    created = (await api.post("/v1/responses", input=prompt, background=is_cancel)).body
    path = path.replace("{response_id}", created["id"])
    body = example_json(CREATE) if path.endswith("/responses") else None
    reply = await api.request(method, path, json=body)
    assert reply.status == 200
    assert reply.body["object"] == ("list" if path.endswith("/input_items") else "response")


REFUSED: dict[str, tuple[int, str, Json]] = {
    ERRORS[0]: (400, "model", {"model": "no-such-model", "input": "Hello"}),
    ERRORS[1]: (429, "", {"input": "Hello"}),
    ERRORS[2]: (400, "", {"input": "Where can I BUY  CHEAP PILLS?"}),
}


@pytest.mark.parametrize("path", ["/v1/responses", "/responses", "/v1/chat/completions"])
@pytest.mark.parametrize("heading", ERRORS)
async def test_an_error_is_the_one_shown_and_its_param(gateway, heading: str, path: str) -> None:
    limits = {"global": {"requests_per_minute": 1}} if heading == ERRORS[1] else {}
    guards = {"keywords": {"phrases": ["cheap pills"]}}
    api = await gateway({**UNCONFIGURED, "limits": limits, "guards": guards})
    if limits:
        assert (await api.post("/v1/responses", input="Hello")).status == 200
    status, param, body = REFUSED[heading]
    if path.endswith("/completions"):
        body = {**body, "messages": [{"role": "user", "content": body["input"]}], "input": None}
    reply = await api.post(path, **body)
    assert reply.status == status
    shown = example_json(heading)["error"]
    assert reply.body == {"error": {**shown, "param": param}}


@pytest.mark.parametrize(
    ("method", "path"), [(method, path) for method, path in SHOWN_PATHS if "{" in path]
)
async def test_a_chat_completion_is_not_available_there_not_even_while_it_runs(
    api: Gateway, method: str, path: str
) -> None:
    messages = [{"role": "user", "content": "[stub silent-2] Hello"}]
    async with api.open_stream("/v1/chat/completions", messages=messages) as response:
        chunk = await api.next_event(response)
        assert chunk is not None
        reply = await api.request(method, path.replace("{response_id}", chunk["id"]))
    assert reply.status == 404
    assert reply.error["code"] == "not_found"
