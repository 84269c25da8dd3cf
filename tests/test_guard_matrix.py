"""Canaries through every route, field, mode and encoding: no cell of the matrix is a hole.

What a text can stand in is entered as anos/selftest_fields.py says. The tests here take it from the
tables that the gateway itself reads by, so that what is added there and not entered fails.
"""

from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import Any

import msgspec
import pytest
import pytest_asyncio

import anos_gateway
from anos import (
    chat_requests,
    config,
    dialect_responses,
    event_state,
    extract,
    extract_readers,
    extract_walk,
    inputs,
    routes,
    selftest,
    selftest_cases,
    shapes,
    validation,
)
from anos.config_sections import Config, Source
from anos.openapi_schemas import schemas
from anos.selftest_canary import BEFORE, CHAT, FORMS, RESPONSES, WAYS, tokens
from anos.selftest_cases import FIELDS, PLACES, WITHOUT_FIELDS
from anos.selftest_matrix import BLOCK, HOLE, NONE, Matrix
from tests import scripted
from tests.conftest import Json

ROUTES = {"/v1/responses": RESPONSES, "/v1/chat/completions": CHAT}
KEYWORDS: Json = {
    "phrases": ["cheap pills"],
    "patterns": ["\\bsecret-\\d{1,32}\\b"],
    "sources": list(msgspec.inspect.type_info(Source).values),  # type: ignore[attr-defined]
}
GUARDS: Json = {
    "keywords": {**KEYWORDS, "input": "block", "output": "block"},
}
ROWS = sorted({(route, each.name, each.source) for route in FIELDS for each in FIELDS[route]})
SAID = sorted({(route, each.name, each.dialect) for route in FIELDS for each in PLACES})
# Fields that no model reads, so that no guard does.
UNREAD = (
    *("model", "previous_response_id", "metadata", "user", "safety_identifier"),
    *("prompt_cache_key", "prompt_cache_retention"),
)
# What a client of the other dialect is not told, so that nothing of it can be seen.
UNTOLD = {
    ("/v1/responses", "audio", CHAT),
    ("/v1/responses", "other field of a choice", CHAT),
    ("/v1/responses", "other field of a message", CHAT),
    ("/v1/responses", "other field of the completion", CHAT),
    ("/v1/responses", "reasoning_details", CHAT),
    ("/v1/responses", "second choice", CHAT),
    ("/v1/responses", "system_fingerprint", CHAT),
    ("/v1/chat/completions", "code of a hosted tool", RESPONSES),
    ("/v1/chat/completions", "event of another type", RESPONSES),
    ("/v1/chat/completions", "other field of the Response", RESPONSES),
}


def guarded(**guards: Any) -> Config:
    return config.parse({"guards": {**GUARDS, **guards}})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def matrix() -> AsyncIterator[Matrix]:
    """What came of every canary where everything is to be blocked."""
    (found,) = await selftest.matrices(guarded(), anos_gateway.build_app, ["default"])
    yield found


def row(matrix: Matrix, kind: str, route: str, name: str, note: str) -> dict[str, str]:
    (table,) = (each for each in matrix.tables if each.heading.startswith(f"{kind}: POST {route},"))
    return table.rows[name, note]


@pytest.mark.parametrize(("route", "name", "source"), ROWS)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_canary_in_a_field_is_refused_however_it_is_written_and_sent(
    matrix: Matrix, route: str, name: str, source: str
) -> None:
    cells = row(matrix, "requests", route, name, source)
    assert cells.keys() == set(WAYS)
    assert set(cells.values()) == {BLOCK}, cells


@pytest.mark.parametrize(("route", "name", "dialect"), SAID)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_canary_in_an_answer_does_not_arrive_however_it_is_cut(
    matrix: Matrix, route: str, name: str, dialect: str
) -> None:
    cells = set(row(matrix, "answers", route, name, dialect).values())
    assert HOLE not in cells
    assert (cells == {NONE}) == ((route, name, dialect) in UNTOLD), cells


@pytest.mark.asyncio(loop_scope="module")
async def test_every_route_is_tried_at_every_path_that_it_has(matrix: Matrix) -> None:
    assert matrix.holes == {}
    headings = [each.heading for each in matrix.tables]
    assert headings == [
        f"{kind}: POST {route}, {route.removeprefix('/v1')}, /openai{route}"
        for route in FIELDS
        for kind in ("requests", "answers")
    ]


def test_every_route_by_which_callers_send_something_has_its_fields() -> None:
    posts = {path for method, path, _ in routes.CALLS if method == "POST"}
    assert posts == FIELDS.keys() | WITHOUT_FIELDS.keys()
    assert {path for path, _ in routes.HOT} <= FIELDS.keys()
    found = selftest_cases.model_paths(anos_gateway.build_app(guarded()))
    assert found.keys() == FIELDS.keys()
    assert all(len(paths) == 3 for paths in found.values())


def test_a_route_without_fields_is_a_hole() -> None:
    assert selftest_cases.unknown({"/v1/embeddings": ["/v1/embeddings"], "/v1/responses": []}) == [
        "POST /v1/embeddings: no field of it is known"
    ]


@pytest.mark.parametrize("route", FIELDS)
async def test_of_a_masked_answer_no_token_says_what_was_masked(
    gateway, upstream, route: str
) -> None:
    anos = await gateway({"guards": {"keywords": {"output": "mask", "phrases": ["cheap pills"]}}})
    item = scripted.message("Buy cheap pills.")
    item["content"][0]["logprobs"] = tokens(["Buy ", "cheap", " pills", "."])
    upstream.answer(scripted.responses_body([item]))
    said = {"input": "Hi", "messages": [{"role": "user", "content": "Hi"}]}
    field = "input" if route == "/v1/responses" else "messages"
    answer = await anos.post(route, **{field: said[field]})
    assert answer.status == 200
    assert b"Buy ***." in answer.raw
    assert b"cheap" not in answer.raw
    assert b"pills" not in answer.raw


# The table is complete ----------------------------------------------------------------------------


def bodies(route: str) -> list[Json]:
    return [body for field in FIELDS[route] for body in field.bodies]


def over_text(node: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names above every text of a body."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name in FORMS:
                yield names
            yield from over_text(value, (*names, name))
    elif isinstance(node, list):
        for each in node:
            yield from over_text(each, names)
    elif isinstance(node, str) and node in FORMS:
        yield names


def values(node: Any, name: str) -> Iterator[Any]:
    """Every value that goes by a name."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == name and isinstance(value, str):
                yield value
            yield from values(value, name)
    elif isinstance(node, list):
        for each in node:
            yield from values(each, name)


def carries_text(kind: msgspec.inspect.Type) -> bool:
    """Whether a text that nobody has foreseen can stand in a value of that type."""
    if isinstance(kind, msgspec.inspect.UnionType):
        return any(map(carries_text, kind.types))
    if isinstance(kind, msgspec.inspect.ListType):
        return carries_text(kind.item_type)
    plain = (msgspec.inspect.StrType, msgspec.inspect.AnyType, msgspec.inspect.DictType)
    return isinstance(kind, (*plain, msgspec.inspect.StructType))


def fields_of(struct: type) -> set[str]:
    """The fields of a struct that can carry text."""
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    return {field.encode_name for field in info.fields if carries_text(field.type)}


@pytest.mark.parametrize(
    ("route", "module"), [("/v1/responses", validation), ("/v1/chat/completions", chat_requests)]
)
def test_every_field_of_a_request_that_can_carry_text_is_entered(
    route: str, module: ModuleType
) -> None:
    entered = {names[0] for body in bodies(route) for names in over_text(body) if names}
    known = fields_of(module._Create)
    schema = "CreateResponse" if route == "/v1/responses" else "CreateChatCompletion"
    told = schemas()[schema]["properties"]
    known |= {
        name for name, each in told.items() if "enum" not in str(each) and "string" in str(each)
    }
    readers = extract._RESPONSES if route == "/v1/responses" else extract._CHAT
    known |= {name for name, how in readers.items() if how is not None}
    assert known - set(UNREAD) <= entered


def test_what_no_guard_reads_is_what_the_table_leaves_out() -> None:
    assert set(UNREAD) == set(extract._UNREAD)
    for route in FIELDS:
        for body in bodies(route):
            assert not {names[0] for names in over_text(body) if names} & set(UNREAD)


def test_every_source_of_texts_is_entered() -> None:
    sources = {field.source for route in FIELDS for field in FIELDS[route]}
    assert sources == set(KEYWORDS["sources"])


def test_every_item_part_and_role_that_the_gateway_knows_is_entered() -> None:
    kinds = {kind for body in bodies("/v1/responses") for kind in values(body, "type")}
    assert {*inputs._SHAPES, *extract._OF_ITEM, "reasoning"} <= kinds
    kinds |= {kind for body in bodies("/v1/chat/completions") for kind in values(body, "type")}
    parts = {*extract_walk._PARTS, *extract_walk._FILES, *extract_walk._TEXTS} - {None}
    assert parts <= kinds
    for route, known in (
        ("/v1/responses", inputs.ROLES),
        ("/v1/chat/completions", set(extract_readers.ROLES)),
    ):
        assert known <= {role for body in bodies(route) for role in values(body, "role")}


def test_a_text_stands_under_every_name_of_what_is_no_text() -> None:
    entered = {
        names[-1] for route in FIELDS for b in bodies(route) for names in over_text(b) if names
    }
    short = {*extract_readers.ITEM, *extract_readers.SETTING, *extract_readers.SCHEMA}
    assert short <= entered


def test_a_text_stands_in_every_kind_of_event_and_item_that_the_gateway_reads() -> None:
    answers = [each.said([BEFORE]) for each in PLACES if each.dialect == RESPONSES]
    said = [stream for _, stream in answers]
    with_text = {event["type"] for events in said for event in events if BEFORE in str(event)}
    kinds = event_state.KINDS.values()
    assert {f"{kind.stem}.{end}" for kind in kinds for end in ("delta", "done")} <= with_text
    assert {f"{kind.part_stem}.done" for kind in kinds if kind.parts} <= with_text
    assert dialect_responses._DELTAS.keys() <= with_text
    assert {event["type"] for events in said for event in events} >= dialect_responses._RESTATED
    types = {kind for whole, _ in answers for kind in values(whole, "type")}
    assert {*shapes._ITEMS, *shapes._TEXT, *event_state.KIND_OF_CALL} <= types
