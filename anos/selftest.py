"""`guards selftest`: canaries through every route, field, stream mode and encoding of the gateway.

The gateway is the real one, as it is configured, on a port of its own, with an empty database and a
scripted upstream in the place of every provider.
"""

import asyncio
import itertools
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from anos import routes
from anos import selftest_plan as plan
from anos.config_sections import (
    Config,
    GuardProfile,
    Guards,
    Key,
    Keywords,
    Model,
    ModelPrice,
    Project,
    Provider,
    RouteEntry,
    Server,
)
from anos.screening import profiles_of
from anos.selftest_canary import ESCAPED, PATTERN, WAYS, canaries
from anos.selftest_cases import Profile, Sent, request_outcome
from anos.selftest_fields import FIELDS, WITHOUT_FIELDS
from anos.selftest_matrix import HOLE, OFF, Matrix, Table
from anos.selftest_outputs import Said, answer_outcome
from anos.selftest_places import CHAT, RESPONSES
from anos.selftest_wire import Upstream
from anos.server import Runner
from guards.keywords import Rules

Build = Callable[[Config], web.Application]
Modes = tuple[str, ...]

_PROJECT, _FREE, _ADMIN = "selftest", "selftest free", "selftest admin"
# So many requests are on their way at a time.
_AT_ONCE = 16


def run(config: Config, build: Build, names: Iterable[str]) -> list[Matrix]:
    """As `matrices`, in an event loop like that of the gateway."""
    import uvloop

    return uvloop.run(matrices(config, build, names))


async def matrices(config: Config, build: Build, names: Iterable[str]) -> list[Matrix]:
    """What came of the canaries of each of the profiles, which are in the configuration."""
    async with _started(config, build) as (profile_of, paths):
        return [
            await _matrix(name, profile_of(name), _rules(config, name), paths) for name in names
        ]


def profiles(config: Config) -> dict[str, GuardProfile]:
    """Every profile by its name."""
    return {"default": config.guards, **config.guards.profiles}


def has_keywords(profile: GuardProfile) -> bool:
    """Whether there is anything to test in it."""
    return (profile.keywords.input, profile.keywords.output) != ("off", "off")


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


# The gateway under test ---------------------------------------------------------------------------


def _rules(config: Config, name: str) -> Rules | None:
    alone = Config(guards=Guards(keywords=profiles(config)[name].keywords))
    return profiles_of(alone, {})["default"].rules


@asynccontextmanager
async def _started(
    config: Config, build: Build
) -> AsyncIterator[tuple[Callable[[str], Profile], dict[str, list[str]]]]:
    """The running gateway: what makes a profile ready to be tested, and the paths of its routes."""
    upstream = Upstream()
    await upstream.start()
    named = profiles(config)
    keys = {name: f"sk-{secrets.token_hex(16)}" for name in (*named, _FREE, _ADMIN)}
    with tempfile.TemporaryDirectory(prefix="anos-selftest-") as folder:
        app = build(_tested(config, keys, upstream.url, folder))
        runner = Runner(app)
        try:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            port = runner.addresses[0][1]

            def ready(name: str) -> Profile:
                keywords = named[name].keywords
                return Profile(port, upstream, keys[name], keys[_FREE], keys[_ADMIN], keywords)

            yield ready, model_paths(app)
        finally:
            await runner.cleanup()
            await upstream.close()


def _tested(config: Config, keys: dict[str, str], url: str, folder: str) -> Config:
    """The configuration with its guards, and nothing else of it but what a client can see."""
    free = ModelPrice(input_per_million_usd=0, output_per_million_usd=0)
    named = {
        name: GuardProfile(keywords=profile.keywords) for name, profile in profiles(config).items()
    }
    without = GuardProfile(keywords=Keywords(input="off", output="off"))
    return Config(
        server=Server(
            database=str(Path(folder) / "selftest.db"),
            chat_fields=config.server.chat_fields,
            drain_s=0.0,
        ),
        providers={
            RESPONSES: Provider(dialect="responses", base_url=url),
            CHAT: Provider(dialect="chat", base_url=url),
        },
        models={
            f"{each}/*": Model(routes=(RouteEntry(provider=each),), reasoning=True, price=free)
            for each in (RESPONSES, CHAT)
        },
        projects={_PROJECT: Project()},
        keys={
            **{name: Key(key=keys[name], guards=name, project=_PROJECT) for name in named},
            _FREE: Key(key=keys[_FREE], guards=_FREE, project=_PROJECT),
            _ADMIN: Key(key=keys[_ADMIN], guards=_FREE, role="admin"),
        },
        guards=Guards(keywords=named.pop("default").keywords, profiles={**named, _FREE: without}),
    )


# The matrix ---------------------------------------------------------------------------------------


async def _matrix(
    name: str, profile: Profile, rules: Rules | None, paths: dict[str, list[str]]
) -> Matrix:
    keywords = profile.keywords
    matrix = Matrix(name, [f"keywords: input {keywords.input}, output {keywords.output}"])
    matrix.holes += unknown(paths)
    if rules is None:
        matrix.lines.append("it has no phrases and no patterns")
        return matrix
    texts, named = canaries(rules)
    if not texts:
        matrix.holes.append("no phrase and no pattern of it finds what it says")
        return matrix
    matrix.lines.append(f"canaries: {', '.join(named)}")
    for route in (each for each in FIELDS if each in paths):
        heading = f"POST {', '.join(paths[route])}"
        if keywords.input != "off":
            sends = plan.requests(route, paths[route], texts, rules, keywords)
            await _requests(matrix, profile, sends, f"requests: {heading}", texts)
        if keywords.output != "off":
            says = list(plan.answers(route, paths[route], texts))
            await _answers(matrix, profile, says, f"answers: {heading}", plan.ANSWER_MODES[route])
    return matrix


async def _requests(
    matrix: Matrix, profile: Profile, sends: Sequence[Sent], heading: str, ways: Iterable[str]
) -> None:
    table = Table(heading, WAYS)
    matrix.tables.append(table)

    async def one(sent: Sent) -> None:
        outcome, why = await request_outcome(profile, sent)
        row = table.add(sent.field.name, sent.field.source, sent.way, outcome)
        if outcome == OFF:  # and so are the ways that were not tried
            row.cells = dict.fromkeys(ways, OFF) | row.cells
        if outcome == HOLE:
            where = f"POST {sent.path}, {sent.field.name}, {sent.way}, {sent.mode}"
            matrix.holes.append(f"{where}, for a {sent.dialect} upstream: {why}")

    for sent in sends:
        table.row(sent.field.name, sent.field.source)
    await _all(map(one, sends))


async def _answers(
    matrix: Matrix, profile: Profile, says: Sequence[tuple[str, Said]], heading: str, modes: Modes
) -> None:
    table = Table(heading, (*modes, ESCAPED, PATTERN))
    matrix.tables.append(table)

    async def one(column: str, said: Said) -> None:
        outcome, why = await answer_outcome(profile, said)
        place = said.place
        table.add(place.name, place.dialect, column, outcome)
        if outcome == HOLE:
            where = f"POST {said.path}, {place.name} of {place.dialect}, {column}, {said.mode}"
            matrix.holes.append(f"{where}: {why}")

    for _, said in says:
        table.row(said.place.name, said.place.dialect)
    await _all(itertools.starmap(one, says))


async def _all(jobs: Iterable[Coroutine[None, None, None]]) -> None:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def gated(job: Coroutine[None, None, None]) -> None:
        async with gate:
            await job

    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(gated(job))
