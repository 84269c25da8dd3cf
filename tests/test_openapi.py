"""The OpenAPI document is well formed, covers every route, and its schemas fit what we make."""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from anos import errors, items
from anos.inputs import normalise_input
from anos.openapi import document
from anos.routes import PUBLIC, ROLES, ROUTES
from tests import grammar, scripted
from tests.conftest import Client, Json, Process
from tests.test_errors_http import concrete

DOCUMENT = document("1.2.3")
OPERATIONS = [
    (path, method, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from nodes(value)


def resolve(ref: str) -> Any:
    node = DOCUMENT
    for step in ref.removeprefix("#/").split("/"):
        node = node[step]
    return node


def fits(name: str, value: Any) -> bool:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return Draft202012Validator(schema).is_valid(value)


def test_the_document_is_openapi_3_1_of_this_version():
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert DOCUMENT["info"]["version"] == "1.2.3"
    assert orjson.loads(orjson.dumps(DOCUMENT)) == DOCUMENT


def test_every_route_is_described_and_nothing_else():
    served = {(re.sub(r":[^}]*", "", path), method.lower()) for method, path, _ in ROUTES + PUBLIC}
    assert {(path, method) for path, method, _ in OPERATIONS} == served


def test_exactly_the_public_routes_need_no_key():
    keyless = {path for path, _, operation in OPERATIONS if "security" in operation}
    assert keyless == {path for _, path, _ in PUBLIC}


def test_every_reference_leads_somewhere_and_every_component_is_used():
    refs = {node["$ref"] for node in nodes(DOCUMENT) if isinstance(node.get("$ref"), str)}
    for ref in refs:
        assert resolve(ref)
    components = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "responses")
        for name in DOCUMENT["components"][kind]
    }
    assert components == refs


@pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
def test_a_schema_is_a_json_schema(name: str):
    Draft202012Validator.check_schema(DOCUMENT["components"]["schemas"][name])


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_an_operation_is_complete(path: str, method: str, operation: dict):
    assert operation["summary"]
    assert operation["tags"][0] in [tag["name"] for tag in DOCUMENT["tags"]]
    assert "200" in operation["responses"]
    parameters = operation.get("parameters", [])
    in_path = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
    assert in_path == set(re.findall(r"{(\w+)}", path))
    for parameter in parameters:
        Draft202012Validator.check_schema(parameter["schema"])
    if path.startswith("/v1/"):
        bare = path.removeprefix("/v1")
        assert f"`{bare}` and `/openai/v1{bare}`" in operation["description"]
        assert "401" in operation["responses"]


def test_operation_ids_are_unique():
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(names) == len(set(names))


def errors_below(kind: type[errors.GatewayError]) -> Iterator[type[errors.GatewayError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from errors_below(child)


@pytest.mark.parametrize("kind", list(errors_below(errors.GatewayError)))
def test_every_error_fits_its_schema(kind: type[errors.GatewayError]):
    body = errors.envelope(kind())
    assert fits("Error", body)
    assert not fits("Error", {"error": {**body["error"], "param": None}})


OUTPUT = normalise_input(
    [
        {"role": "assistant", "content": "Hello"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": ""},
        {"type": "web_search_call"},
    ],
    0,
)
SETTINGS = {
    "temperature": 0.5,
    "tools": [{"type": "function", "name": "f"}, {"type": "web_search"}],
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}, "verbosity": "low"},
    "reasoning": {"effort": "low"},
    "metadata": {"a": "b"},
}


@pytest.mark.parametrize("request_", [{}, SETTINGS])
@pytest.mark.parametrize(
    "answer",
    [
        items.Answer("completed", OUTPUT, items.usage(1, 2)),
        items.Answer("incomplete", OUTPUT[:1], None, incomplete_reason="max_output_tokens"),
        items.Answer("failed", [], None, error={"code": "server_error", "message": "m"}),
        items.Answer("cancelled", [], None),
    ],
)
def test_every_response_fits_its_schema(request_: dict, answer: items.Answer):
    base = items.base_response(request_, id="resp_1", model="m", created_at=1)
    final = items.final_response(base, answer, 2)
    for response in (base, final, items.add_chat_fields(final)):
        assert fits("Response", response)
        assert not fits("Response", {**response, "temperature": None})
        assert not fits("Response", {**response, "output": [{"type": "message", "id": "msg_1"}]})


@pytest.mark.parametrize(
    "body",
    [
        {"model": "m", "input": "x"},
        {"model": "m", "input": "x", "temperature": None, "max_tokens": 5, "unknown": 1},
        {"model": "m", "input": [{"role": "user", "content": "x"}, {"id": "msg_1"}]},
        {"model": "m", "input": OUTPUT, **SETTINGS},
    ],
)
def test_a_valid_request_fits_its_schema(body: dict):
    assert fits("CreateResponse", body)


@pytest.mark.parametrize(
    "body",
    [
        {"input": "x"},
        {"model": "a b", "input": "x"},
        {"model": "m", "input": 5},
        {"model": "m", "input": "x", "temperature": 3},
        {"model": "m", "input": "x", "reasoning": {"effort": "huge"}},
        {"model": "m", "input": "x", "metadata": {"a": 5}},
    ],
)
def test_an_invalid_request_does_not(body: dict):
    assert not fits("CreateResponse", body)


# Roles and parameters -----------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_an_operation_of_operators_says_who_may_ask_it(path: str, method: str, operation: dict):
    said = operation.get("description", "").rpartition("For ")[2]
    told = set(re.findall(r"`(.+?)`", said)) if said != "every key." else {*ROLES[1][1]}
    allowed = {
        role
        for routes, roles in ROLES[1:]
        for verb, route, _ in routes
        if (route, verb.lower()) == (path, method)
        for role in roles
    }
    assert not allowed or told == allowed


@pytest.mark.parametrize("role", ["key", "read-only", None])
async def test_a_refusal_is_one_that_the_operation_names(gateway, role: str | None):
    keys = {each: {"key": f"sk-{each}", "role": each} for each in ("key", "read-only")}
    anos = await gateway({"keys": keys})
    headers = {"Authorization": f"Bearer sk-{role}"} if role else {"Authorization": ""}
    for path, method, operation in OPERATIONS:
        url = concrete(path)
        async with anos.session.request(method, url, headers=headers) as answer:
            assert str(answer.status) in operation["responses"], (method, path)


async def test_the_parameters_are_those_that_are_known(gateway):
    anos, strict = await gateway(), set()
    for path, method, operation in OPERATIONS:
        if method != "get" or path in ("/admin/events",):
            continue
        reply = await anos.get(concrete(path), surprise="1")
        if reply.status == 400:
            assert (reply.error["code"], reply.error["param"]) == ("unknown_parameter", "surprise")
            known = reply.error["message"].partition("known are ")[2].rstrip(".")
            given = [each["name"] for each in operation.get("parameters", [])]
            told = [each for each in given if f"{{{each}}}" not in path]
            assert sorted(told) == sorted(filter(None, known.split(", "))), path
            strict.add(path)
    assert strict == {
        *("/admin/audit/verify", "/admin/audit/export", "/admin/changes", "/admin/inflight"),
        "/admin/keys",
        *("/admin/spend", "/admin/requests", "/admin/requests/{id}", "/admin/responses"),
        *("/spend/logs", "/global/spend", "/global/spend/keys", "/global/spend/models"),
        "/v1/responses/{id}/input_items",
    }


# Real answers -------------------------------------------------------------------------------------


def closed(tree: Any) -> Any:
    """A schema that has no room for fields it does not name."""
    if isinstance(tree, list):
        return [closed(each) for each in tree]
    if not isinstance(tree, dict):
        return tree
    copy = {name: closed(each) for name, each in tree.items()}
    if "required" in copy and copy.get("type") == "object":
        copy.setdefault("additionalProperties", False)
    return copy


CLOSED = closed(deepcopy(DOCUMENT["components"]))


class Described:
    """Calls of a gateway; everything sent and answered has to be as the document says."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.seen: set[tuple[str, str]] = set()

    async def ask(
        self,
        verb: str,
        path: str,
        body: Json | None = None,
        query: Json | None = None,
        **names: str,
    ) -> Any:
        """The answer to a request that succeeds: JSON, or all events or lines."""
        operation = DOCUMENT["paths"][path][verb.lower()]
        if body is not None:
            sent = operation["requestBody"]["content"]["application/json"]
            validate(DOCUMENT["components"], sent["schema"], body)
        reply = await self._client.request(verb, path.format(**names), json=body, params=query)
        assert reply.status == 200, reply.raw
        kind = reply.headers["Content-Type"].partition(";")[0]
        values = read(kind, reply.raw)
        for value in values:
            self.check(verb, path, kind, value)
        return values[0] if kind == "application/json" else values

    def check(self, verb: str, path: str, kind: str, value: Any) -> None:
        content = DOCUMENT["paths"][path][verb.lower()]["responses"]["200"]["content"]
        schema = content[kind]["schema"]
        # What an upstream adds to a call comes through; what is ours has no field without a name.
        if path.startswith("/v1/"):
            validate(DOCUMENT["components"], schema, value)
        else:
            validate(CLOSED, closed(schema), value)
        self.seen.add((verb, path))


def validate(components: Any, schema: Json, value: Any) -> None:
    Draft202012Validator({**schema, "components": components}).validate(value)


def read(kind: str, raw: bytes) -> list[Any]:
    """The values of an answer that the schema is of."""
    match kind:
        case "application/json":
            return [json.loads(raw)]
        case "application/jsonl":
            return [json.loads(line) for line in raw.splitlines()]
        case "text/event-stream":
            return grammar.parse(raw)
    return [raw.decode()]


PRICE = {"input_per_million_usd": 1, "output_per_million_usd": 10}
GOVERNED: Json = {
    "models": {"gpt-4": {"price": PRICE}},
    "projects": {"research": {"budget": "monthly"}},
    "budgets": {
        "monthly": {"usd": 50, "window": "month", "soft_usd": 40},
        "global": {"usd": 1000, "window": "total"},
    },
    "limits": {"default": {"requests_per_minute": 600, "tokens_per_minute": 10**6}},
    "keys": {"ann": {"key": "sk-ann", "project": "research"}},
    "guards": {"keywords": {"phrases": ["forbidden"]}},
}
MODEL = {"model": "gpt-4"}
HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture
async def described(process, upstream) -> Described:
    return Described(await process(GOVERNED))


async def test_calls_are_answered_as_described(described: Described):
    ask = described.ask
    made = await ask("POST", "/v1/responses", {**MODEL, "input": "Hi"})
    await ask("POST", "/v1/responses", {**MODEL, "input": "Hi", "stream": True})
    await ask("GET", "/v1/responses/{id}", id=made["id"])
    await ask("GET", "/v1/responses/{id}/input_items", id=made["id"])
    await ask("DELETE", "/v1/responses/{id}", id=made["id"])
    await ask("POST", "/v1/chat/completions", {**MODEL, "messages": HI})
    await ask("POST", "/v1/chat/completions", {**MODEL, "messages": HI, "stream": True})
    await ask("POST", "/v1/moderations", {"input": ["Hi", "I'm going to kill my wife"]})
    await ask("POST", "/v1/moderations", {"input": [{"type": "text", "text": "Hi"}], "model": "m"})
    await ask("GET", "/v1/models")
    await ask("GET", "/v1/models/{id}", id="gpt-4")
    silent = {"model": "stub/silent", "input": "Hi", "background": True}
    running = await ask("POST", "/v1/responses", silent)
    listed = await ask("GET", "/admin/inflight")
    assert [run["id"] for run in listed["data"]] == [running["id"]]
    await ask("POST", "/v1/responses/{id}/cancel", id=running["id"])
    for _, path, _ in PUBLIC:
        await ask("GET", path)
    expected = {(verb, re.sub(r":[^}]*", "", path)) for verb, path, _ in (*ROLES[0][0], *PUBLIC)}
    assert described.seen == expected | {("GET", "/admin/inflight")}


OPERATED = {(verb, path) for routes, _ in ROLES[1:] for verb, path, _ in routes}
SETTINGS_OF_A_KEY: Json = {
    "name": "web",
    "models": ["gpt-4"],
    "limits": {"requests_per_minute": 60, "queue": {"size": 1, "wait_s": 1}, "concurrent": 1},
    "budget": [{"usd": 5, "window": "day", "soft_usd": 4}, {"usd": 20, "window": "30d"}],
    "expires": "2099-01-31",
    "metadata": {"team": "web"},
}
LITELLM_KEY: Json = {
    "key_alias": "bob",
    "duration": "30d",
    "max_budget": 10,
    "budget_duration": "1mo",
    "rpm_limit": 60,
    "user_id": "u-1",
    "tags": ["a"],
}


async def ask_about_keys(described: Described) -> None:
    ask = described.ask
    made = await ask("POST", "/admin/keys", SETTINGS_OF_A_KEY)
    assert made["budget"][0] == {"usd": 5.0, "window": "day", "soft_usd": 4.0, "time_zone": "UTC"}
    await ask("POST", "/admin/keys", {"name": "plain", "project": "research", "models": None})
    await ask("GET", "/admin/keys", query={"limit": "2"})
    for name in ("web", "ann"):
        await ask("GET", "/admin/keys/{name}", name=name)
    patch = {"expires": None, "metadata": {"team": None}, "limits": {"queue": None}}
    await ask("PATCH", "/admin/keys/{name}", patch, name="web")
    await ask("POST", "/admin/keys/{name}/rotate", {"overlap_s": 60}, name="web")
    await ask("POST", "/admin/keys/{name}/block", name="web")
    await ask("POST", "/admin/keys/{name}/unblock", name="web")
    await ask("DELETE", "/admin/keys/{name}", name="plain")


async def ask_as_litellm(described: Described) -> None:
    ask = described.ask
    today = datetime.now(UTC).date().isoformat()
    await ask("POST", "/key/generate", LITELLM_KEY)
    await ask("POST", "/key/update", {"key": "bob", "models": ["gpt-4"], "duration": None})
    await ask("POST", "/key/block", {"key": "bob"})
    await ask("POST", "/key/unblock", {"key": "bob"})
    await ask("POST", "/key/regenerate", {"key": "bob", "grace_period": "1h"})
    await ask("POST", "/key/{key}/regenerate", {"tpm_limit": 1000}, key="bob")
    for query in ({}, {"key": "bob"}, {"key": "ann"}):
        await ask("GET", "/key/info", query=query)
    for query in ({}, {"return_full_object": "true"}):
        await ask("GET", "/key/list", query=query)
    await ask("POST", "/key/delete", {"keys": ["bob"]})
    assert await ask("GET", "/spend/logs")
    for query in ({}, {"summarize": "false"}):
        assert await ask(
            "GET", "/spend/logs", query={"start_date": today, "end_date": today, **query}
        )
    await ask("GET", "/global/spend")
    assert await ask("GET", "/global/spend/keys")
    assert await ask("GET", "/global/spend/models")


async def ask_the_ledger(described: Described) -> None:
    ask = described.ask
    for by in ("day", "hour,key,project,model", "month"):
        assert (await ask("GET", "/admin/spend", query={"group_by": by}))["data"]
    listed = await ask("GET", "/admin/requests", query={"limit": "1"})
    assert listed["has_more"]
    for row in (await ask("GET", "/admin/requests", query={"limit": "100"}))["data"]:
        await ask("GET", "/admin/requests/{id}", id=str(row["seq"]))
    assert (await ask("GET", "/admin/responses"))["data"]
    explained = await ask("POST", "/admin/explain", {"key": "ann", **MODEL, "input": "Hi"})
    assert explained["admitted"]
    refused = {"key": "ann", **MODEL, "input": "forbidden", "max_output_tokens": 10**9}
    assert not (await ask("POST", "/admin/explain", refused))["admitted"]
    await ask("GET", "/admin/inflight")


async def ask_about_logs(described: Described) -> None:
    ask = described.ask
    report = await ask("GET", "/admin/audit/verify")
    heads = [each["head"] for each in report["logs"]]
    assert (await ask("GET", "/admin/audit/verify", query={"head": heads[0]}))["ok"]
    for log in ("exchanges", "changes"):
        for form in ("jsonl", "csv"):
            assert await ask("GET", "/admin/audit/export", query={"log": log, "format": form})
    assert (await ask("GET", "/admin/changes", query={"limit": "1"}))["has_more"]
    await ask("GET", "/admin/changes")
    await ask("POST", "/admin/backup", {"file": "copy.db"})
    await ask("POST", "/admin/integrity")


async def ask_for_corrections(described: Described, folder: Path) -> None:
    file = folder / "anos-0.json"
    tree = json.loads(file.read_text())
    tree["models"]["gpt-4"]["price"]["output_per_million_usd"] = 20
    file.write_text(json.dumps(tree))
    assert (await described.ask("POST", "/admin/reload"))["changed"]
    since = {"since": "2026-01-01", "model": None}
    assert (await described.ask("POST", "/admin/spend/recompute", since))["corrected"]


async def watch(described: Described, client: Client) -> None:
    """The two kinds of events that come by themselves."""
    async with client.session.get("/admin/events") as response:
        await response.content.readuntil(b"\n\n")
        await client.post("/admin/keys", name="seen")
        for _ in range(2):
            block = await response.content.readuntil(b"\n\n")
            event = json.loads(block.partition(b"data: ")[2])
            described.check("GET", "/admin/events", response.content_type, event)
        response.close()


async def test_operators_are_answered_as_described(process, upstream, tmp_path: Path):
    anos: Process = await process(GOVERNED)
    described = Described(anos)
    ann = {"Authorization": "Bearer sk-ann"}
    upstream.answer(scripted.responses_text("Hi"), (500, {}, {}))
    for model in ("gpt-4", "gpt-4", "none"):
        body = {"model": model, "input": "Hi"}
        await anos.request("POST", "/v1/responses", headers=ann, json=body)
    await ask_about_keys(described)
    await ask_for_corrections(described, tmp_path)
    await ask_the_ledger(described)
    await ask_as_litellm(described)
    await ask_about_logs(described)
    await watch(described, anos)
    assert described.seen == OPERATED
