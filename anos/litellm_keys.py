"""The handlers of /key/...: keys by the names and fields of LiteLLM's proxy.

API: https://docs.litellm.ai/docs/proxy/virtual_keys
"""

import time
from typing import Any

import orjson
from aiohttp import web

from anos import admin_params, changes, key_changes, key_views, litellm_fields
from anos.config_sections import Config
from anos.errors import Forbidden, InvalidRequest, NotFound
from anos.key_settings import Settings, Tree, iso, tree_of
from anos.key_views import Known
from anos.keys import MASTER, digest_of
from anos.state import EXCHANGE, SERVING, Gateway, Live
from anos.validation import missing, unsupported

_MAX_SIZE = 100


async def generate(request: web.Request) -> web.Response:
    """POST /key/generate: a new key, whose text is in this answer and in no other."""
    body = await changes.body_of(request)
    key, name = body.pop("key", None), body.pop("key_alias", None)
    with litellm_fields.refusals():
        settings = litellm_fields.patched({}, body)
        name, text = await key_changes.create(
            request[SERVING], request[EXCHANGE], name, settings, key=key
        )
    return await _answered(request, name, text)


async def update(request: web.Request) -> web.Response:
    """POST /key/update: what the fields that are sent say; null is the default again."""
    body = await changes.body_of(request)
    name = _named(request[SERVING].live, body.pop("key", None), "key")
    _check_alias(body, name)
    with litellm_fields.refusals():
        await key_changes.edit(
            request[SERVING],
            request[EXCHANGE],
            name,
            "key.edit",
            lambda tree: litellm_fields.patched(tree, body),
        )
    return await _answered(request, name)


async def delete(request: web.Request) -> web.Response:
    """POST /key/delete: all of `keys` and `key_aliases`, or none if one is not known."""
    body = await changes.body_of(request)
    given = [
        (field, each) for field in ("keys", "key_aliases") for each in _listed(body.get(field))
    ]
    if not given:
        raise missing("keys")
    names = list(dict.fromkeys(_named(request[SERVING].live, each, field) for field, each in given))
    for name in names:
        key_changes.editable(request[SERVING].live, name)
    for name in names:
        await key_changes.delete(request[SERVING], request[EXCHANGE], name)
    return _json({"deleted_keys": names})


async def block(request: web.Request) -> web.Response:
    """POST /key/block."""
    return await _set_blocked(request, "key.block", is_blocked=True)


async def unblock(request: web.Request) -> web.Response:
    """POST /key/unblock."""
    return await _set_blocked(request, "key.unblock", is_blocked=False)


async def regenerate(request: web.Request) -> web.Response:
    """POST /key/regenerate: a new text for a key, and what the other fields say."""
    body = await changes.body_of(request)
    return await _regenerated(request, body.pop("key", None), body)


async def regenerate_named(request: web.Request) -> web.Response:
    """POST /key/{key}/regenerate."""
    body = await changes.body_of(request)
    body.pop("key", None)
    return await _regenerated(request, request.match_info["key"], body)


async def info(request: web.Request) -> web.Response:
    """GET /key/info: the key of the query; any caller may ask for its own, which is the default."""
    caller = request[EXCHANGE].caller
    assert caller is not None  # the route is not public
    admin_params.once(request.query)
    given = request.query.get("key")
    gateway = request[SERVING]
    if caller.role == "key" and given is not None and _find(gateway.live, given) != caller.key:
        raise Forbidden("A key of the role 'key' may ask for itself only.")
    name = caller.key if given is None else _named(gateway.live, given, "key")
    return _json({"key": name, "info": await _info(gateway, name)})


async def list_keys(request: web.Request) -> web.Response:
    """GET /key/list: names, or the whole with `return_full_object`, page by page."""
    gateway, query = request[SERVING], request.query
    admin_params.once(query)
    page, size = _count(query.get("page", "1"), "page"), _count(query.get("size", "10"), "size")
    size = min(size, _MAX_SIZE)
    wanted = {name: query[name] for name in ("team_id", "user_id", "key_alias") if name in query}
    found = []
    for name in key_views.names(gateway.live):
        shown = _shown(gateway.live, name)
        if all(shown[field] == value for field, value in wanted.items()):
            found.append(name)
    keys: list[Any] = found[(page - 1) * size : page * size]
    if query.get("return_full_object", "").lower() == "true":
        keys = [{"token": name, **await _info(gateway, name)} for name in keys]
    return _json(
        {
            "keys": keys,
            "total_count": len(found),
            "current_page": page,
            "total_pages": -(-len(found) // size),
        }
    )


async def _set_blocked(request: web.Request, action: str, *, is_blocked: bool) -> web.Response:
    body = await changes.body_of(request)
    name = _named(request[SERVING].live, body.get("key"), "key")
    await key_changes.edit(
        request[SERVING],
        request[EXCHANGE],
        name,
        action,
        lambda tree: {**tree, "blocked": is_blocked},
    )
    return await _answered(request, name)


async def _regenerated(request: web.Request, given: Any, body: Tree) -> web.Response:
    name = _named(request[SERVING].live, given, "key")
    _check_alias(body, name)
    key, grace = body.pop("new_key", None), body.pop("grace_period", None)
    with litellm_fields.refusals():
        text = await key_changes.rotate(
            request[SERVING],
            request[EXCHANGE],
            name,
            litellm_fields.seconds(grace, "grace_period") if grace else 0,
            key=key,
            change=lambda tree: litellm_fields.patched(tree, body),
        )
    return await _answered(request, name, text)


def _check_alias(body: Tree, name: str) -> None:
    if body.pop("key_alias", None) not in (None, name):
        raise unsupported("key_alias", "The name of a key stays: it owns responses.")


def _named(live: Live, given: Any, field: str) -> str:
    """The name of the key that a request means by its text or its name; raises NotFound."""
    if not isinstance(given, str) or not given:
        raise missing(field)
    name = _find(live, given)
    if name is None:
        raise NotFound("There is no such key.", param=field)
    return name


def _find(live: Live, given: str) -> str | None:
    record = live.keyring.records.get(given)
    if given in live.keyring.by_name or (record is not None and not record.deleted):
        return given
    return live.keyring.name_of(digest_of(given))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _count(text: str, param: str) -> int:
    number = admin_params.integer_of(text)
    if not number:
        raise InvalidRequest(
            f"Invalid value for '{param}': expected a positive integer.", param=param
        )
    return number


def _shown(live: Live, name: str) -> Tree:
    if name == MASTER:
        master = Known(name=MASTER, source="config", hint="sk-...", settings=tree_of(Settings()))
        return litellm_fields.shown(master, Config())  # none of the defaults is the master's
    return litellm_fields.shown(key_views.find(live, name), live.config)


async def _info(gateway: Gateway, name: str) -> Tree:
    """All that LiteLLM tells of a key; `spend` is that of its budget's window, if it has one."""
    shown = _shown(gateway.live, name)
    account, now_ms = f"key:{name}", time.time_ns() // 1_000_000
    budgets = gateway.budgets.state(account, now_ms)
    if not budgets:
        spent = (await gateway.store.spent([("key", name, 0)]))[0] / 1e6
        return {**shown, "spend": spent, "budget_reset_at": None}
    resets_ms: Any = budgets[0]["resets_at_ms"]
    return {
        **shown,
        "spend": gateway.budgets.spent(account, now_ms)[0] / 1e6,
        "budget_reset_at": None if resets_ms is None else iso(resets_ms),
    }


async def _answered(request: web.Request, name: str, text: str = "") -> web.Response:
    key = {"key": text or name, "token": name, "token_id": name}
    return _json(key | await _info(request[SERVING], name))


def _json(body: Tree) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json")
