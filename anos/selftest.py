"""`guards selftest`: canaries through every route, field, stream mode and encoding of the gateway.

The gateway is the real one, as it is configured, on a port of its own, with an empty database and a
scripted upstream in the place of every provider.
"""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web
from msgspec.structs import replace

from anos.config_sections import SOURCES, Config, GuardProfile, Guards, Key, Keywords, Moderation
from anos.screening import profiles_of
from anos.selftest_canary import CHAT, ESCAPED, PATTERN, REFUSED, RESPONSES, WAYS, canaries, said
from anos.selftest_cases import (
    FIELDS,
    MODES,
    PLACES,
    answers,
    model_paths,
    moderated,
    requests,
    unknown,
)
from anos.selftest_matrix import HOLE, OFF, Matrix, Table
from anos.selftest_trial import Case, Trial, outcome
from anos.selftest_wire import Upstream
from anos.server import Runner
from guards.keywords import Rules

Build = Callable[[Config], web.Application]

# Names of keys and of profiles that no configuration has.
_FREE, _ADMIN, _ALONE = "selftest free", "selftest admin", " without moderation"
# So many requests are on their way at a time.
_AT_ONCE = 16


async def matrices(config: Config, build: Build, names: Iterable[str]) -> list[Matrix]:
    """What came of the canaries of each of the profiles, which are in the configuration."""
    async with _started(config, build) as (trial_of, paths):
        return [await _matrix(config, name, trial_of, paths) for name in names]


def profiles(config: Config) -> dict[str, GuardProfile]:
    """Every profile by its name."""
    return {"default": config.guards, **config.guards.profiles}


# The gateway under test ---------------------------------------------------------------------------

_Trials = Callable[[str, str], Trial]
_Paths = dict[str, list[str]]


@asynccontextmanager
async def _started(config: Config, build: Build) -> AsyncIterator[tuple[_Trials, _Paths]]:
    """The running gateway: what puts a guard of a profile on trial, and the paths of its routes."""
    upstream = Upstream()
    await upstream.start()
    named = _tested(config)
    keys = {name: f"sk-{secrets.token_hex(16)}" for name in (*named, _ADMIN)}
    with tempfile.TemporaryDirectory(prefix="anos-selftest-") as folder:
        app = build(_config(config.server.chat_fields, named, keys, upstream.url, folder))
        runner = Runner(app)
        try:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            port = runner.addresses[0][1]

            def trial(name: str, guard: str) -> Trial:
                settings = getattr(named[name], guard)
                modes = (settings.input, settings.output, getattr(settings, "sources", SOURCES))
                key = keys.get(name + _ALONE, keys[name]) if guard == "keywords" else keys[name]
                return Trial(guard, *modes, port, upstream, key, keys[_FREE], keys[_ADMIN])

            yield trial, model_paths(app)
        finally:
            await runner.cleanup()
            await upstream.close()


def _tested(config: Config) -> dict[str, GuardProfile]:
    """The profiles as they are tested.

    Keywords are tried without moderation, which could stop what they let pass, and in the place of
    a judge is the scripted one. Only a verdict may stop anything: no failure of it, and no haste.
    """
    found = {_FREE: GuardProfile(keywords=Keywords(input="off", output="off"))}
    for name, profile in profiles(config).items():
        moderation = profile.moderation
        if (moderation.input, moderation.output) != ("off", "off"):
            found[name + _ALONE] = GuardProfile(keywords=profile.keywords)
            moderation = replace(moderation, on_error="pass", deadline_ms=10_000)
        if moderation.provider is not None:
            dialect = config.providers[moderation.provider].dialect
            moderation = replace(moderation, provider=dialect)
        found[name] = GuardProfile(keywords=profile.keywords, moderation=moderation)
    return found


def _config(
    chat_fields: bool, named: dict[str, GuardProfile], keys: dict[str, str], url: str, folder: str
) -> Config:
    """A configuration of the guards, and nothing else of it but what a client can see."""
    priced = {"reasoning": True, "price": {"input_per_million_usd": 0, "output_per_million_usd": 0}}
    dialects = (RESPONSES, CHAT)
    tree = {
        "server": {"database": f"{folder}/anos.db", "chat_fields": chat_fields, "drain_s": 0},
        "providers": {each: {"dialect": each, "base_url": url} for each in dialects},
        "models": {f"{each}/*": {"routes": [{"provider": each}], **priced} for each in dialects},
        "projects": {"selftest": {}},
    }
    profiles = {name: profile for name, profile in named.items() if name != "default"}
    default = named["default"]
    return replace(
        msgspec.convert(tree, Config),
        keys={
            **{name: Key(key=keys[name], guards=name, project="selftest") for name in named},
            _ADMIN: Key(key=keys[_ADMIN], guards=_FREE, role="admin"),
        },
        guards=Guards(keywords=default.keywords, moderation=default.moderation, profiles=profiles),
    )


# The matrix ---------------------------------------------------------------------------------------


async def _matrix(config: Config, name: str, trial_of: _Trials, paths: _Paths) -> Matrix:
    matrix = Matrix(name)
    for each in unknown(paths):
        matrix.hole(each, each)
    known = {route: paths[route] for route in FIELDS if route in paths}
    profile = profiles(config)[name]
    alone = Config(guards=Guards(keywords=profile.keywords))
    rules = profiles_of(alone, {})["default"].rules or Rules()
    await _keywords(matrix, rules, trial_of(name, "keywords"), known)
    await _moderation(matrix, profile.moderation, rules, trial_of(name, "moderation"), known)
    return matrix


async def _keywords(matrix: Matrix, rules: Rules, trial: Trial, paths: _Paths) -> None:
    """A table of the requests and one of the answers of each route."""
    line = f"keywords: input {trial.input}, output {trial.output}"
    is_empty = trial.is_on and not rules.phrases and not rules.patterns
    matrix.lines.append(f"{line}; it has no phrases and no patterns" if is_empty else line)
    if is_empty or not trial.is_on:
        return
    texts, named = canaries(rules)
    if not texts:
        matrix.hole("keywords", "keywords: no phrase and no pattern of it finds what it says")
        return
    matrix.lines.append(f"canaries: {', '.join(named)}")
    for route, those in paths.items():
        heading = f"POST {', '.join(those)}"
        if trial.input != "off":
            table = Table(f"requests: {heading}", WAYS)
            cases = requests(route, those, FIELDS[route], texts, trial, rules)
            await _fill(matrix, table, trial, [*cases])
            for row, cells in table.rows.items():
                if OFF in cells.values():  # and so are the ways that were not tried
                    table.rows[row] = dict.fromkeys(texts, OFF) | cells
        if trial.output != "off":
            table = Table(f"answers: {heading}", (*MODES[route], ESCAPED, PATTERN))
            await _fill(matrix, table, trial, [*answers(route, those, PLACES, texts)])


async def _moderation(
    matrix: Matrix, settings: Moderation, rules: Rules, trial: Trial, paths: _Paths
) -> None:
    """One table, of a message at each route and of the text of an answer."""
    line = f"moderation: input {trial.input}, output {trial.output}"
    if not trial.is_on:
        matrix.lines.append(line)
    elif rules.first(said(REFUSED)):
        matrix.lines.append(f"{line}; not tried: keywords find all that is said to it")
    elif settings.backend == "builtin" and not _refuses(settings):
        matrix.hole("moderation", "moderation: its thresholds let pass what its rules find")
    else:
        judge = f"a scripted judge in the place of {settings.model or settings.provider}"
        judge = "the built-in rules" if settings.backend == "builtin" else judge
        matrix.lines.append(f"{line}; by {judge}")
        cases = [each for route in paths for each in moderated(route, paths[route], trial)]
        await _fill(matrix, Table("moderation", MODES["/v1/responses"]), trial, cases)


def _refuses(settings: Moderation) -> bool:
    from guards.moderation import builtin

    return bool(builtin(said(REFUSED)).violated(settings.thresholds))


async def _fill(matrix: Matrix, table: Table, trial: Trial, cases: Sequence[Case]) -> None:
    """What comes of the cases goes into a table, and what is wrong to the holes."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def gated(case: Case) -> tuple[str, str]:
        async with gate:
            try:
                return await outcome(trial, case)
            except (OSError, LookupError, ValueError) as exc:
                return HOLE, f"what was answered is no answer: {exc!r}"

    matrix.tables.append(table)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(gated(case)) for case in cases]
    for case, task in zip(cases, tasks, strict=True):
        came, why = task.result()
        table.add(case.row, case.column, came)
        if came == HOLE:
            name = f"{case.row[0]}, {', '.join(dict.fromkeys((case.column, case.mode)))}"
            sent = f"POST {case.path}, {name}, for a {case.dialect} upstream: {why}"
            matrix.hole(f"{table.heading}, {case.row}", sent)
