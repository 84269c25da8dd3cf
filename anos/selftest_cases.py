"""Which canaries the self test sends: every field and place, in every mode and encoding."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from aiohttp import web
from msgspec.structs import replace

from anos import routes, selftest_chat, selftest_places, selftest_responses
from anos.selftest_canary import (
    ESCAPED,
    JSON,
    NAME,
    PATTERN,
    PLAIN,
    REFUSED,
    Json,
    formed,
    halves,
    said,
)
from anos.selftest_fields import Field, Place
from anos.selftest_trial import BACKGROUND, CUT, LETTERS, STREAM, WHOLE, Case, Trial
from anos.selftest_wire import SAYS
from guards.keywords import Rules

# By the POST route, as in anos/routes.py.
FIELDS: dict[str, tuple[Field, ...]] = {
    "/v1/responses": selftest_responses.FIELDS,
    "/v1/chat/completions": selftest_chat.FIELDS,
}
PLACES: tuple[Place, ...] = (*selftest_places.PLACES, *selftest_chat.PLACES)
# Routes of callers that have no fields, and why.
WITHOUT_FIELDS = {
    "/v1/responses/{id}/cancel": "it has no body",
    "/v1/moderations": "what is asked about a text is no model",
}
# What an answer is asked for with, and how it comes; a request need not be cut.
_ASKED: dict[str, Json] = {
    "/v1/responses": {"input": "Hi"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
}
# What the upstream says in a choice that nobody asked for is let out to nobody.
_SECOND, _TWO = "second choice", {"/v1/chat/completions": {"n": 2}}
MODES = {
    "/v1/responses": (WHOLE, STREAM, CUT, LETTERS, BACKGROUND),
    "/v1/chat/completions": (WHOLE, STREAM, CUT, LETTERS),
}


def model_paths(app: web.Application) -> dict[str, list[str]]:
    """By their route the paths at which callers may send something, but those without fields."""
    found: dict[str, list[str]] = {}
    for method, path, handler in routes.CALLS:
        if method == "POST" and path not in WITHOUT_FIELDS:
            found[path] = [
                route.resource.canonical
                for route in app.router.routes()
                if route.handler is handler and route.resource is not None
            ]
    return found


def unknown(paths: Iterable[str]) -> list[str]:
    """What is wrong with routes for which nobody has entered a field."""
    return [f"POST {path}: no field of it is known" for path in paths if path not in FIELDS]


def requests(
    route: str,
    paths: Sequence[str],
    fields: Iterable[Field],
    texts: Mapping[str, str],
    trial: Trial,
    rules: Rules | None = None,
) -> Iterator[Case]:
    """The requests with canaries, at the paths of a route in turn: they have one handler.

    Each field is tried in each way, with each of its bodies in one and with one of them in the
    others. Of what is not looked at one is enough.
    """
    modes = [mode for mode in MODES[route] if mode not in (CUT, LETTERS)]
    count = itertools.count()
    for field in fields:
        ways = texts
        if field.form == NAME and rules is not None:
            ways = {way: text for way, text in texts.items() if rules.first(formed(NAME, text))}
        is_off = trial.wanted(field.source) == "off"
        tried = _each(field, [*ways][:1] if is_off else [*ways], modes[:1] if is_off else modes)
        for (body, way, mode), number in zip(tried, count, strict=False):
            path = paths[(number + number // len(modes)) % len(paths)]
            dialect = field.upstreams[number % len(field.upstreams)]
            row = (field.name, field.source)
            yield Case(row, way, mode, path, dialect, body, texts[way], field)


def _each(
    field: Field, ways: Sequence[str], modes: Sequence[str]
) -> Iterator[tuple[Json, str, str]]:
    """A body, a way and a mode of each case."""
    bodies = itertools.cycle(field.bodies)
    for way in ways:
        for mode in modes:
            for body in field.bodies if way == ways[0] else (next(bodies),):
                yield body, way, STREAM if "stream" in body else mode


def answers(
    route: str, paths: Sequence[str], places: Iterable[Place], texts: Mapping[str, str]
) -> Iterator[Case]:
    """The answers with canaries, at the paths of a route in turn."""
    turns = itertools.cycle(paths)
    for place in places:
        columns = [(mode, mode) for mode in MODES[route] if PLAIN in texts]
        if ESCAPED in texts and place.form == JSON:
            columns += [(ESCAPED, WHOLE), (ESCAPED, CUT)]
        if PATTERN in texts:
            columns += [(PATTERN, WHOLE), (PATTERN, CUT)]
        for column, mode in columns:
            canary = texts.get(column, texts.get(PLAIN, ""))
            row, asked = (place.name, place.dialect), _ASKED[route]
            if place.name == _SECOND:
                asked = asked | _TWO.get(route, {})
            pieces = _pieces(place.form, mode, canary, escaped=column == ESCAPED)
            yield Case(row, column, mode, next(turns), row[1], asked, canary, place, pieces)


def _pieces(form: str, mode: str, canary: str, *, escaped: bool) -> list[str]:
    """The pieces in which the upstream says it."""
    text = formed(form, said(canary), escaped=escaped)
    if mode in (CUT, BACKGROUND):
        core = formed(form, canary, escaped=escaped)
        before, core, after = text.partition(core[6:-2] if form == JSON else core)
        return [before, *halves(core), after]
    return list(text) if mode == LETTERS else [text]


def moderated(route: str, paths: Sequence[str], trial: Trial) -> Iterator[Case]:
    """What moderation refuses, in a message and in the text of an answer; columns are the modes."""
    texts = {PLAIN: REFUSED}
    if trial.input != "off":
        fields = [each for each in FIELDS[route] if each.name == "message of the user"]
        for each in requests(route, paths, fields, texts, trial):
            yield replace(each, row=(each.row[0], route), column=each.mode)
    if trial.output != "off":
        for each in answers(route, paths, SAYS.values(), texts):
            yield replace(each, row=(f"{each.row[0]} of {each.dialect}", route))
