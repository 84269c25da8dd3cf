"""Who may ask which route: one row here for every route of the program."""

import pytest

import anos_gateway
from tests.conftest import Json
from tests.test_errors_http import concrete

CALLER, OPERATOR, VIEWER, ANYBODY = "key", "admin", "read-only", "nobody"
CALLERS = {CALLER, OPERATOR}
VIEWERS = {VIEWER, OPERATOR}
OPERATORS = {OPERATOR}
KEYS = {CALLER, VIEWER, OPERATOR}
EVERYBODY = {*KEYS, ANYBODY}

MATRIX: dict[tuple[str, str], set[str]] = {
    ("POST", "/v1/responses"): CALLERS,
    ("GET", "/v1/responses/{id}"): CALLERS,
    ("DELETE", "/v1/responses/{id}"): CALLERS,
    ("GET", "/v1/responses/{id}/input_items"): CALLERS,
    ("POST", "/v1/responses/{id}/cancel"): CALLERS,
    ("POST", "/v1/chat/completions"): CALLERS,
    ("POST", "/v1/moderations"): CALLERS,
    ("GET", "/v1/models"): CALLERS,
    ("GET", "/v1/models/{id:.+}"): CALLERS,
    ("GET", "/key/info"): KEYS,
    ("GET", "/admin/audit/verify"): VIEWERS,
    ("GET", "/admin/audit/export"): VIEWERS,
    ("GET", "/admin/changes"): VIEWERS,
    ("GET", "/admin/keys"): VIEWERS,
    ("GET", "/admin/keys/{name}"): VIEWERS,
    ("GET", "/key/list"): VIEWERS,
    ("GET", "/admin/spend"): VIEWERS,
    ("GET", "/admin/requests"): VIEWERS,
    ("GET", "/admin/requests/{id}"): VIEWERS,
    ("GET", "/admin/responses"): VIEWERS,
    ("GET", "/admin/inflight"): VIEWERS,
    ("GET", "/admin/events"): VIEWERS,
    ("POST", "/admin/explain"): VIEWERS,
    ("GET", "/spend/logs"): VIEWERS,
    ("GET", "/global/spend"): VIEWERS,
    ("GET", "/global/spend/keys"): VIEWERS,
    ("GET", "/global/spend/models"): VIEWERS,
    ("POST", "/admin/reload"): OPERATORS,
    ("POST", "/admin/spend/recompute"): OPERATORS,
    ("POST", "/admin/backup"): OPERATORS,
    ("POST", "/admin/integrity"): OPERATORS,
    ("POST", "/admin/keys"): OPERATORS,
    ("PATCH", "/admin/keys/{name}"): OPERATORS,
    ("DELETE", "/admin/keys/{name}"): OPERATORS,
    ("POST", "/admin/keys/{name}/rotate"): OPERATORS,
    ("POST", "/admin/keys/{name}/block"): OPERATORS,
    ("POST", "/admin/keys/{name}/unblock"): OPERATORS,
    ("POST", "/key/generate"): OPERATORS,
    ("POST", "/key/update"): OPERATORS,
    ("POST", "/key/delete"): OPERATORS,
    ("POST", "/key/block"): OPERATORS,
    ("POST", "/key/unblock"): OPERATORS,
    ("POST", "/key/regenerate"): OPERATORS,
    ("POST", "/key/{key}/regenerate"): OPERATORS,
    ("GET", "/healthz"): EVERYBODY,
    ("GET", "/readyz"): EVERYBODY,
    ("GET", "/health/liveliness"): EVERYBODY,
    ("GET", "/health/readiness"): EVERYBODY,
    ("GET", "/metrics"): EVERYBODY,
    ("GET", "/openapi.json"): EVERYBODY,
}


def config() -> Json:
    return {"keys": {name: {"key": f"sk-{name}", "role": name} for name in sorted(KEYS)}}


def test_every_route_of_the_program_has_a_row() -> None:
    routes = anos_gateway.ROUTES + anos_gateway.PUBLIC
    assert {(method, path) for method, path, _ in routes} == MATRIX.keys()


@pytest.mark.parametrize("role", sorted(EVERYBODY))
async def test_a_role_may_ask_what_is_its_and_nothing_else(gateway, role: str) -> None:
    anos = await gateway(config())
    headers = {"Authorization": f"Bearer sk-{role}"} if role != ANYBODY else {"Authorization": ""}
    for (method, path), allowed in MATRIX.items():
        async with anos.session.request(method, concrete(path), headers=headers) as answer:
            if role in allowed:
                assert answer.status not in (401, 403), (method, path)
                continue
            assert answer.status == (401 if role == ANYBODY else 403), (method, path)
            error = (await answer.json())["error"]
            expected = "invalid_api_key" if role == ANYBODY else "permission_denied"
            assert error["code"] == expected, (method, path)


async def test_the_master_key_is_an_admin(gateway) -> None:
    anos = await gateway()
    for method, path in MATRIX:
        async with anos.session.request(method, concrete(path)) as answer:
            assert answer.status not in (401, 403), (method, path)
