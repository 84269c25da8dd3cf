"""The OpenAPI document is well formed, covers every route, and its schemas fit what we make."""

import re
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

import anos_gateway
from anos import errors, items
from anos.inputs import normalise_input
from anos.openapi import document

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
    served = {
        (re.sub(r":[^}]*", "", path), method.lower())
        for method, path, _ in anos_gateway.ROUTES + anos_gateway.PUBLIC
    }
    assert {(path, method) for path, method, _ in OPERATIONS} == served


def test_exactly_the_public_routes_need_no_key():
    keyless = {path for path, _, operation in OPERATIONS if "security" in operation}
    assert keyless == {path for _, path, _ in anos_gateway.PUBLIC}


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
