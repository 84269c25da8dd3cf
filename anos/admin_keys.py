"""The handlers of /admin/keys: keys made, changed and ended while the gateway runs."""

from bisect import bisect_right
from functools import partial
from typing import Any

import orjson
from aiohttp import web

from anos import changes, key_changes, key_views
from anos.admin_params import known, listed
from anos.key_settings import Tree, merged
from anos.state import EXCHANGE, SERVING
from anos.validation import missing, read_page


async def create(request: web.Request) -> web.Response:
    """POST /admin/keys: the new key, whose text is in this answer and in no other."""
    settings = await changes.body_of(request)
    if "name" not in settings:
        raise missing("name")
    name, key = settings.pop("name"), settings.pop("key", None)
    name, text = await key_changes.create(
        request[SERVING], request[EXCHANGE], name or "", settings, key=key
    )
    return _shown(request, name, key=text)


async def list_keys(request: web.Request) -> web.Response:
    """GET /admin/keys: a page of keys by name, of one project if the query names it."""
    known(request.query, ("project", "limit", "after"))
    live, page = request[SERVING].live, read_page(request.query)
    names = key_views.names(live)
    data: list[Tree] = []
    project = request.query.get("project")
    for name in names[bisect_right(names, page.after or "") :]:
        key = key_views.find(live, name)
        if project in (None, key.settings.get("project")):
            data.append(key.shown())
        if len(data) > page.limit:
            break
    following = data[page.limit - 1]["name"] if len(data) > page.limit else None
    return _json(listed(data[: page.limit], following))


async def retrieve(request: web.Request) -> web.Response:
    """GET /admin/keys/{name}."""
    return _shown(request, _name(request))


async def edit(request: web.Request) -> web.Response:
    """PATCH /admin/keys/{name}: the settings with this merge patch; null is the default again."""
    patch = await changes.body_of(request)
    return await _edited(request, "key.edit", patch)


async def rotate(request: web.Request) -> web.Response:
    """POST /admin/keys/{name}/rotate: a new text; the old one works for `overlap_s` more."""
    body = await changes.body_of(request)
    known(body, ("overlap_s",))
    text = await key_changes.rotate(
        request[SERVING], request[EXCHANGE], _name(request), body.get("overlap_s", 0)
    )
    return _shown(request, _name(request), key=text)


async def block(request: web.Request) -> web.Response:
    """POST /admin/keys/{name}/block."""
    return await _edited(request, "key.block", {"blocked": True})


async def unblock(request: web.Request) -> web.Response:
    """POST /admin/keys/{name}/unblock."""
    return await _edited(request, "key.unblock", {"blocked": None})


async def delete(request: web.Request) -> web.Response:
    """DELETE /admin/keys/{name}: for good; the name is never given again."""
    await key_changes.delete(request[SERVING], request[EXCHANGE], _name(request))
    return _json({"object": "key", "name": _name(request), "deleted": True})


async def _edited(request: web.Request, action: str, patch: Tree) -> web.Response:
    change = partial(merged, patch=patch)
    await key_changes.edit(request[SERVING], request[EXCHANGE], _name(request), action, change)
    return _shown(request, _name(request))


def _name(request: web.Request) -> str:
    return request.match_info["name"]


def _shown(request: web.Request, name: str, **more: Any) -> web.Response:
    return _json(key_views.find(request[SERVING].live, name).shown() | more)


def _json(body: Tree) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json")
