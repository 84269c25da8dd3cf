"""The configuration: what is accepted, what is refused, and that file, docs and code agree."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from anos import config, config_sections
from anos.config import ConfigFault
from anos.config_sections import Provider

ROOT = Path(__file__).parent.parent
STUB = {"dialect": "responses", "base_url": "stub:"}
MODEL = {"routes": [{"provider": "stub"}]}
BASE: dict[str, Any] = {"providers": {"stub": STUB}, "models": {"m": MODEL}}


def faults(tree: object, env: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigFault) as caught:
        config.parse(tree, env=env or {})
    return caught.value.faults


def load_faults(path: Path | None = None, **options: Any) -> list[str]:
    with pytest.raises(ConfigFault) as caught:
        config.load(path, **{"env": {}, **options})
    return caught.value.faults


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


PROVIDER_URL = 'must be "stub:" or an http(s) URL without user name, query and fragment'
SECRET = "must be at most 4096 printable ASCII characters without blanks"
MODEL_NAME = 'must be at most 256 letters, digits and . _ : / @ - without ".."; a * may end it'


def provider(**fields: object) -> dict[str, Any]:
    return {**BASE, "providers": {"stub": {**STUB, **fields}}}


def key(**fields: object) -> dict[str, Any]:
    return {**BASE, "keys": {"a": {"key": "k-a", **fields}}}


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ([], ["configuration: must be an object"]),
        ({"server": []}, ["server: must be an object"]),
        ({"sever": {}}, ["sever: unknown key"]),
        ({"server": {"port": "4000"}}, ["server.port: must be an integer from 0 to 65535"]),
        ({"server": {"port": True}}, ["server.port: must be an integer from 0 to 65535"]),
        ({"server": {"port": 65536}}, ["server.port: must be an integer from 0 to 65535"]),
        ({"server": {"host": " "}}, ["server.host: must be text that is not blank"]),
        ({"server": {"database": "\ud800"}}, ["server.database: must be text that is not blank"]),
        ({"server": {"chat_fields": 1}}, ["server.chat_fields: must be true or false"]),
        ({"server": {"synchronous": "off"}}, ['server.synchronous: must be "normal" or "full"']),
        (
            {"server": {"drain_s": float("nan")}},
            ["server.drain_s: must be a number from 0 to 3600"],
        ),
        ({"server": {"master_key": "a b"}}, [f"server.master_key: {SECRET}"]),
        (
            {"server": {"cors_origins": ["https://a.example", "a.example"]}},
            ['server.cors_origins[1]: must be "*" or an origin like "https://app.example.com"'],
        ),
        ({"models": {"m": MODEL}}, ['models.m.routes[0].provider: no provider "stub"']),
        ({"providers": {"stub": STUB}}, ["models: at least one model with a route is needed"]),
        ({**BASE, "models": {}}, ["models: at least one model with a route is needed"]),
        (
            {**BASE, "models": {"m": {"routes": []}}},
            ["models.m.routes: must be a list of at least one route"],
        ),
        ({**BASE, "models": {"m": {}}}, ["models.m.routes: is missing"]),
        ({"limits": {"l": {}}}, ["limits.l: limits nothing"]),
        (
            {"limits": {"l": {"concurrent": 1, "queue": {"size": -1}}}},
            ["limits.l.queue.size: must be an integer from 0 to 100000"],
        ),
        ({"budgets": {"b": []}}, ["budgets.b: must be a budget, or a list of at least one"]),
        (
            {"budgets": {"b": [{"usd": 0.0000001, "window": "year"}]}},
            [
                "budgets.b[0].usd: must be dollars from 0 to 10^9 with at most six decimals",
                'budgets.b[0].window: must be "hour", "day", "week", "month", "total", or like '
                '"12h" or "30d"',
            ],
        ),
        (
            {"budgets": {"b": {"usd": 1, "window": "day", "soft_usd": 1.000001}}},
            ["budgets.b.soft_usd: must not be above usd"],
        ),
        (
            {
                "budgets": {
                    "a": {"usd": 1, "window": "day", "soft_usd": 1},
                    "b": [
                        {"usd": 5, "window": "day", "soft_usd": 2},
                        {"usd": 1, "window": "month", "soft_usd": 2},
                    ],
                }
            },
            ["budgets.b[1].soft_usd: must not be above usd"],
        ),
        (
            {"budgets": {"b": {"usd": 1, "window": "day", "time_zone": "Mars/Olympus"}}},
            ['budgets.b.time_zone: must be a time zone this machine knows, like "Europe/Berlin"'],
        ),
        (key(expires="soon"), ['keys.a.expires: must be a time like "2030-01-31T12:00:00Z"']),
        (key(budget="b"), ['keys.a.budget: no budget "b"']),
        *(
            (
                {"guards": {"keywords": {"output": mode, "patterns": ["a+"]}}},
                ["guards.keywords.patterns[0]: for output at most 256 characters wide"],
            )
            for mode in ("block", "mask", "monitor")
        ),
        (key(guards="none"), ['keys.a.guards: no profile "none"']),
        (
            {"guards": {"keywords": {"patterns": ["("], "files": ["/none"]}}},
            [
                "guards.keywords.patterns[0]: must be a regular expression of RE2 (missing ))",
                "guards.keywords.files[0]: must be a file of phrases in UTF-8, one a line",
            ],
        ),
        (
            {
                "guards": {
                    "moderation": {"input": "mask", "output": "mask", "thresholds": {"rude": 2}}
                }
            },
            [
                'guards.moderation.input: must be "block" or "monitor" or "off"',
                'guards.moderation.output: must be "block" or "monitor" or "off"',
                "guards.moderation.thresholds.rude: the name must be a category of moderation",
                "guards.moderation.thresholds.rude: must be a number over 0, at most 1",
            ],
        ),
        (key(role="root"), ['keys.a.role: must be "admin" or "key" or "read-only"']),
        ({**BASE, "models": {"a..b": MODEL}}, [f"models.a..b: the name {MODEL_NAME}"]),
        ({**BASE, "models": {"a*b": MODEL}}, [f"models.a*b: the name {MODEL_NAME}"]),
        ({**BASE, "models": {"m\n": MODEL}}, [f"models.m\n: the name {MODEL_NAME}"]),
        (
            {**BASE, "providers": {"stub": {}}},
            ["providers.stub.dialect: is missing", "providers.stub.base_url: is missing"],
        ),
        (provider(api_key="line\nbreak"), [f"providers.stub.api_key: {SECRET}"]),
        (
            provider(timeouts={"idle_s": 0}),
            ["providers.stub.timeouts.idle_s: must be a number over 0, at most 86400"],
        ),
        (
            {**BASE, "keys": {"master": {"key": "k"}}},
            ['keys.master: the name must be 1 to 64 letters, digits and . _ @ -, not "master"'],
        ),
        (key(key=""), [f"keys.a.key: {SECRET}"]),
        (key(models=[]), ["keys.a.models: must be a list of at least one model"]),
        (key(models=["*a"]), [f"keys.a.models[0]: {MODEL_NAME}"]),
        (key(limits="fast"), ['keys.a.limits: no limit "fast"']),
        (key(project="p"), ['keys.a.project: no project "p"']),
        (
            {**key(), "server": {"master_key": "k-a"}},
            ["keys.a.key: the same key as server.master_key"],
        ),
        (
            {"limits": {"default": {"requests_per_minute": 0}}},
            ["limits.default.requests_per_minute: must be an integer from 1 to 1000000"],
        ),
        (
            {"guards": {"keywords": {"phrases": ["a", " ", 3]}}},
            [
                "guards.keywords.phrases[1]: must be text with a letter or a digit",
                "guards.keywords.phrases[2]: must be text with a letter or a digit",
            ],
        ),
        (
            {"retention": {"responses_days": 0}},
            ["retention.responses_days: must be an integer from 1 to 36500"],
        ),
    ],
)
def test_a_wrong_value_is_a_fault_with_its_path(tree: object, expected: list[str]) -> None:
    assert faults(tree) == expected


@pytest.mark.parametrize(
    "url",
    [
        "stub",
        "ftp://host/v1",
        "//host/v1",
        "http://",
        "http:///v1",
        "http://host:port/v1",
        "http://host:99999/v1",
        "http://user:pass@host/v1",
        "http://host/v1?api-version=1",
        "http://host/v1#x",
        "http://ho st/v1",
        "http://host\n/v1",
    ],
)
def test_a_base_url_that_cannot_be_called_is_a_fault_that_does_not_repeat_it(url: str) -> None:
    assert faults(provider(base_url=url)) == [f"providers.stub.base_url: {PROVIDER_URL}"]


@pytest.mark.parametrize(
    "url", ["https://api.openai.com/v1", "http://[::1]:8090/v1/", "http://llm.local", "stub:"]
)
def test_a_base_url_that_can_be_called_is_kept_as_it_is(url: str) -> None:
    assert config.parse(provider(base_url=url), env={}).providers["stub"].base_url == url


@pytest.mark.parametrize(
    ("tree", "path"),
    [
        (provider(quirks={"api_version": "1"}), "providers.stub.quirks.api_version"),
        (
            {**BASE, "models": {"m": {"routes": [{"provider": "stub", "weight": 1}]}}},
            "models.m.routes[0].weight",
        ),
    ],
)
def test_a_planned_key_is_refused_and_not_ignored(tree: object, path: str) -> None:
    assert faults(tree) == [f"{path}: not built yet"]


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (provider(dialect="messages"), 'providers.stub.dialect: "messages" is not built yet'),
    ],
)
def test_a_planned_value_is_refused_and_not_ignored(tree: object, expected: str) -> None:
    assert faults(tree) == [expected]


def test_every_fault_is_reported_at_once() -> None:
    tree = {
        "server": {"port": -1, "hots": "x", "master_key": "env:MISSING"},
        "providers": {"p": {"dialect": "soap", "base_url": "x"}},
        "models": {"m": {"routes": [{"provider": "p"}, {"provider": "q"}]}},
        "keys": {"a": {"key": "same", "limits": "none"}, "b": {"key": "same"}},
    }
    assert [fault.split(":")[0] for fault in faults(tree)] == [
        "server.hots",
        "server.port",
        "server.master_key",
        "providers.p.dialect",
        "providers.p.base_url",
        "models.m.routes[1].provider",
        "keys.a.limits",
        "keys.b.key",
    ]


def test_a_fault_of_one_kind_hides_none_of_another() -> None:
    tree = {
        "providers": {"p": {"dialect": "responses", "base_url": "http://127.0.0.1"}},
        "models": {"m": {"routes": [{"provider": "p"}]}},
        "limits": {"none": {}, "typo": {"request_per_minute": 1}},
        "budgets": {"b": [{"usd": 1, "window": "day"}, {"usd": 1, "window": "day", "soft_usd": 2}]},
        "keys": {"a": {"key": "sk-a", "role": "x", "guards": "nobody"}},
        "guards": {
            "keywords": {"output": "block", "patterns": ["a+"], "groups": {"g": {"patterns": "("}}},
            "moderation": {"backend": "model", "output": "mask"},
            "profiles": {"strict": {"moderation": {"backend": "endpoint"}}},
        },
    }
    assert [fault.split(":")[0] for fault in faults(tree)] == [
        "keys.a.role",
        "keys.a.guards",
        "limits.none",
        "limits.typo.request_per_minute",
        "budgets.b[1].soft_usd",
        "guards.keywords.groups.g.patterns",
        "guards.moderation.output",
        "guards.profiles.strict.moderation.provider",
    ]
    tree["guards"]["keywords"]["groups"] = {"g": {"patterns": ["x*"]}}  # type: ignore[index]
    assert [fault for fault in faults(tree) if "patterns" in fault] == [
        "guards.keywords.patterns[0]: for output at most 256 characters wide",
        "guards.keywords.groups.g.patterns[0]: for output at most 256 characters wide",
    ]


def test_what_is_read_equals_what_msgspec_itself_makes_of_the_tree() -> None:
    tree = json.loads((ROOT / "anos.example.json").read_text())
    env = {"ANOS_MASTER_KEY": "sk-master", "CI_KEY": "sk-ci"}
    tree["server"]["master_key"], tree["keys"]["ci"]["key"] = env.values()
    read = config.parse(tree, env={})
    tree["budgets"]["monthly"] = [tree["budgets"]["monthly"]]  # one is read as a list of one
    assert read == msgspec.convert(tree, config_sections.Config)


def test_a_string_may_come_from_the_environment_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("sk-file\n")
    tree = {
        "server": {"host": "env:HOST", "port": "env:MY_PORT", "master_key": "env:MASTER"},
        "keys": {"a": {"key": f"file:{tmp_path}/secret"}},
    }
    loaded = config.parse(tree, env={"HOST": "::1", "MY_PORT": "81", "MASTER": "sk-env"})
    assert (loaded.server.host, loaded.server.port) == ("::1", 81)
    assert (loaded.server.master_key, loaded.keys["a"].key) == ("sk-env", "sk-file")


def test_a_missing_reference_is_a_fault_where_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "big").write_bytes(b"x" * 65_537)

    def fault(reference: str) -> str:
        return faults(key(key=reference), {"EMPTY": ""})[0].removeprefix("keys.a.key: ")

    assert fault("env:NO_SUCH") == "environment variable NO_SUCH is not set"
    assert fault("env:EMPTY") == "environment variable EMPTY is not set"
    assert fault("file:/no/such") == 'cannot read "/no/such": No such file or directory'
    assert fault(f"file:{tmp_path}/binary") == f'cannot read "{tmp_path}/binary": not UTF-8 text'
    for name in ("empty", "big"):
        assert fault(f"file:{tmp_path}/{name}").endswith("is empty or over 65536 bytes")


def test_no_fault_shows_a_secret() -> None:
    tree = {
        "server": {"master_key": "sk secret", "port": "env:SECRET"},
        "providers": {
            "p": {
                "dialect": "env:SECRET",
                "base_url": "http://u:sk-secret@h",
                "api_key": "é-secret",
            }
        },
        "models": {"m": {"routes": [{"provider": "env:SECRET"}]}},
        "keys": {
            "a": {"key": "env:sk-secret"},
            "b": {"key": "s3-secret"},
            "c": {"key": "s3-secret"},
        },
    }
    told = "\n".join(faults(tree, {"SECRET": "x-secret"}))
    assert len(told.splitlines()) == 8
    assert "secret" not in told


def test_a_configuration_does_not_show_its_secrets() -> None:
    tree = {
        **provider(api_key="up-secret"),
        "server": {"master_key": "sk-secret"},
        "keys": {"a": {"key": "k-secret"}},
        "guards": {"keywords": {"phrases": ["the-secret"]}},
    }
    assert "-secret" not in repr(config.parse(tree, env={}))


def test_without_a_file_the_stub_is_served_with_the_default_key(empty_directory: Path) -> None:
    loaded = config.load(env={})
    assert list(loaded.models) == ["gpt-35-turbo", "gpt-4", "stub/*"]
    assert loaded.providers == {"stub": Provider(dialect="responses", base_url="stub:")}
    assert loaded.server.master_key == "sk-1234"
    assert loaded.default_key


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "gateway.example"])
def test_the_default_key_is_refused_off_loopback(empty_directory: Path, host: str) -> None:
    (told,) = load_faults(flags={"host": host})
    assert told.startswith("server.master_key: sk-1234 is public knowledge")
    assert "ANOS_MASTER_KEY" in told
    mine = config.load(flags={"host": host}, env={"ANOS_MASTER_KEY": "sk-mine"})
    assert not mine.default_key


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_the_default_key_is_accepted_on_loopback(empty_directory: Path, host: str) -> None:
    assert config.load(flags={"host": host}, env={}).default_key


def test_the_default_key_is_refused_off_loopback_as_any_key_of_a_file() -> None:
    tree = {**key(key="sk-1234"), "server": {"host": "0.0.0.0"}}
    assert faults(tree)[0].startswith("keys.a.key: sk-1234 is public knowledge")


def test_with_a_file_and_no_master_key_there_is_no_master_key(empty_directory: Path) -> None:
    (empty_directory / "anos.json").write_text('{"server": {"host": "0.0.0.0"}}')
    loaded = config.load(config.DEFAULT_FILE, env={})
    assert loaded.server.master_key is None
    assert list(loaded.models) == ["gpt-35-turbo", "gpt-4", "stub/*"]


def test_flags_beat_environment_beats_file_beats_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text('{"server": {"host": "::1", "port": 1, "master_key": "sk-file"}}')
    env: dict[str, str] = {}

    def server(**flags: object) -> config_sections.Server:
        return config.load(file, env=env, flags=flags).server

    assert (server().host, server().port, server().database) == ("::1", 1, "anos.db")
    env |= {"ANOS_HOST": "localhost", "PORT": "2", "ANOS_DATABASE": "e.db", "MINE": "sk-mine"}
    assert (server().host, server().port, server().database) == ("localhost", 2, "e.db")
    env |= {"ANOS_PORT": "3", "ANOS_MASTER_KEY": "sk-env"}
    assert (server().port, server().master_key) == (3, "sk-env")
    env |= {"ANOS_PORT": ""}
    assert server().port == 2
    flagged = server(host="127.0.0.1", port=4, database="f.db", master_key_env="MINE")
    assert (flagged.host, flagged.port, flagged.database) == ("127.0.0.1", 4, "f.db")
    assert flagged.master_key == "sk-mine"


def test_a_fault_in_the_environment_names_the_variable(empty_directory: Path) -> None:
    assert load_faults(env={"PORT": "http"}, flags={"master_key_env": "MINE"}) == [
        "server.port: must be an integer from 0 to 65535 (from env:PORT)",
        "server.master_key: environment variable MINE is not set",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "cannot be read: No such file or directory"),
        (b'{"server": {},}', "line 1, column 15: Illegal trailing comma"),
        (b'{\n"server"}', "line 2, column 9: Expecting ':' delimiter"),
        (b"\xff", "not JSON in UTF-8, or nested too deeply"),
        (b"[" * 100_000, "not JSON in UTF-8, or nested too deeply"),
        (b'{"server": {"port": 1, "port": 2}}', "server.port is given twice"),
        (b'{"a": [{}, {"b": {"c": 1, "c": 2}}]}', "a[1].b.c is given twice"),
        (b'{"a": {"b": 1, "b": 2}, "a": 1}', "a is given twice"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_fault(
    tmp_path: Path, text: bytes | None, expected: str
) -> None:
    file = tmp_path / "c.json"
    if text is not None:
        file.write_bytes(text)
    (told,) = load_faults(file)
    # Python 3.11 and 3.12 have other words for a comma too many.
    expected = expected.removesuffix("Illegal trailing comma")
    assert told.startswith(f"{file}: {expected}")


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_bytes(b"\xef\xbb\xbf{}")
    assert config.load(file, env={}).server.port == 4000


def test_the_difference_of_two_configurations_names_what_changed_and_no_secret() -> None:
    old = config.parse({**key(), "guards": {"keywords": {"phrases": ["old-secret"]}}}, env={})
    new = config.parse(
        {
            "server": {"port": 5, "master_key": "sk-secret"},
            "providers": {"stub": {**STUB, "api_key": "up-secret"}},
            "models": {"m": MODEL, "n": MODEL},
            "keys": {"a": {"key": "new-secret", "models": ["m"]}},
            "guards": {"keywords": {"phrases": ["x-secret", "y-secret"]}},
        },
        env={},
    )
    assert config.diff(old, new) == [
        "server.port: 4000 -> 5",
        "server.master_key: none -> (secret)",
        "providers.stub.api_key: none -> (secret)",
        'models.n: none -> {"routes": [{"provider": "stub"}]}',
        "keys.a.key: (secret) -> (secret)",
        'keys.a.models: ["*"] -> ["m"]',
        "guards.keywords.phrases: 1 (secret) -> 2 (secret)",
    ]
    assert config.diff(old, old) == []
    removed = config.parse({"models": {"m": MODEL}, "providers": {"stub": STUB}}, env={})
    assert 'keys.a: {"key": "(secret)", "models": ["m"]} -> none' in config.diff(new, removed)


def test_a_running_gateway_cannot_change_where_it_listens_and_writes() -> None:
    old = config.parse({}, env={})
    fixed = {"host": "::1", "port": 1, "database": "x", "synchronous": "full", "secret": "s" * 16}
    new = config.parse({"server": {**fixed, "drain_s": 1}}, env={})
    assert config.reload_faults(old, new) == [
        f"server.{name}: cannot change while the gateway runs; restart it" for name in fixed
    ]
    assert config.reload_faults(old, config.parse({"server": {"drain_s": 1}}, env={})) == []


def schema_paths(schema: dict[str, Any], node: dict[str, Any], path: str = "") -> set[str]:
    """Every path of the JSON schema that holds a value, `*` for a name and `[]` for an index."""
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    if node.get("properties"):
        prefix = f"{path}." if path else ""
        inner = [(f"{prefix}{name}", value) for name, value in node["properties"].items()]
    elif isinstance(node.get("additionalProperties"), dict):
        inner = [(f"{path}.*", node["additionalProperties"])]
    elif "$ref" in node.get("items", {}):
        inner = [(f"{path}[]", node["items"])]
    elif "anyOf" in node:
        structs = [each for each in node["anyOf"] if "$ref" in str(each)]
        return schema_paths(schema, structs[0], path) if structs else {path}
    else:
        return {path}
    return {found for name, value in inner for found in schema_paths(schema, value, name)}


def tree_paths(node: object, path: str, known: set[str]) -> set[str]:
    """The paths of a configuration tree, written like those of the schema."""
    if isinstance(node, dict) and any(other.startswith(f"{path}[]") for other in known):
        node = [node]  # one of what may be a list
    if isinstance(node, dict) and path not in known:
        prefix = f"{path}." if path else ""
        wild = not any(other.startswith(prefix) and other[len(prefix)] != "*" for other in known)
        children = [(f"{prefix}*" if wild else f"{prefix}{name}", node[name]) for name in node]
    elif isinstance(node, list) and path not in known:
        children = [(f"{path}[]", inner) for inner in node]
    else:
        return {path}
    return {found for name, inner in children for found in tree_paths(inner, name, known)}


@pytest.mark.parametrize(
    "tree",
    [
        json.loads((ROOT / "anos.example.json").read_text()),
        {"$schema": "./anos.schema.json", "server": {"port": "env:PORT", "chat_fields": "file:x"}},
        {"keys": {"a": {"key": "env:KEY", "role": "env:ROLE"}}},
        {"budgets": {"b": {"usd": "env:USD", "window": "day"}}},
    ],
)
def test_what_may_be_written_is_right_by_the_schema(tree: Any) -> None:
    validator = jsonschema.Draft202012Validator(config.json_schema())
    assert list(validator.iter_errors(tree)) == []


def test_what_may_not_be_written_is_wrong_by_the_schema() -> None:
    validator = jsonschema.Draft202012Validator(config.json_schema())
    wrong = [{"server": {"port": "4000"}}, {"budgets": {"b": 5}}, {"sever": {}}]
    assert [len(list(validator.iter_errors(tree))) for tree in wrong] == [1, 1, 1]


def test_the_name_of_the_schema_is_no_unknown_key() -> None:
    assert config.parse({"$schema": "anos.schema.json"}, env={}) == config.parse({}, env={})


def known_paths() -> set[str]:
    schema = config.json_schema()
    return schema_paths(schema, schema) - {"$schema"}


def test_the_example_loads_and_holds_every_key_with_its_default() -> None:
    env = {"ANOS_MASTER_KEY": "sk-master", "CI_KEY": "sk-ci"}
    loaded = config.load(ROOT / "anos.example.json", env=env)
    tree = json.loads((ROOT / "anos.example.json").read_text())
    assert tree_paths(tree, "", known_paths()) == known_paths()
    default = config_sections.Config()
    assert msgspec.structs.replace(loaded.server, master_key=None) == default.server
    replace = msgspec.structs.replace
    guards = replace(
        loaded.guards,
        keywords=replace(loaded.guards.keywords, groups={}),
        moderation=replace(loaded.guards.moderation, thresholds={}),
        profiles={},
    )
    assert guards == default.guards
    assert loaded.retention == default.retention
    local = loaded.providers["local"]
    assert local == Provider(dialect=local.dialect, base_url=local.base_url)


def documented() -> dict[str, str]:
    text = (ROOT / "docs" / "configuration.md").read_text()
    table = text[text.index("## Keys") : text.index("**Models.**")]
    rows = re.findall(r"^\| `([^`]+)` \| `?(.+?)`? \|", table, re.MULTILINE)
    return dict(rows)


def test_the_documentation_lists_every_key_and_none_that_does_not_exist() -> None:
    assert {"server.port", "models.*.routes[].deployment"} <= known_paths()
    assert set(documented()) == known_paths()


def test_the_documentation_gives_the_defaults_that_hold() -> None:
    documents = documented()
    for kind, path in [
        (config_sections.Server, "server"),
        (config_sections.Provider, "providers.*"),
        (config_sections.Quirks, "providers.*.quirks"),
        (config_sections.Timeouts, "providers.*.timeouts"),
        (config_sections.RouteEntry, "models.*.routes[]"),
        (config_sections.Model, "models.*"),
        (config_sections.Key, "keys.*"),
        (config_sections.Limit, "limits.*"),
        (config_sections.Queue, "limits.*.queue"),
        (config_sections.Project, "projects.*"),
        (config_sections.Budget, "budgets.*[]"),
        (config_sections.ModelPrice, "models.*.price"),
        (config_sections.PriceTier, "models.*.price.tiers[]"),
        (config_sections.Keywords, "guards.keywords"),
        (config_sections.Moderation, "guards.moderation"),
        (config_sections.Retention, "retention"),
    ]:
        for field in msgspec.structs.fields(kind):
            told = documents.get(f"{path}.{field.name}")
            if told == "required" or told is None:
                assert field.required or f"{path}.{field.name}" not in known_paths()
            else:
                assert json.loads(told) == json.loads(json.dumps(field.default)), path
