"""Keys: who a request's headers say is calling."""

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from anos import config, config_sections
from anos.config_sections import Limit
from anos.errors import InvalidRequest, Unauthorized
from anos.key_settings import MAX_BYTES, Kept, hint_of, merged, read, tree_of
from anos.keys import Caller, Keyring, digest_of
from anos.schema import KeyRecord

TREE = {
    "server": {"master_key": "sk-master"},
    "projects": {"p": {}},
    "limits": {
        "default": {"requests_per_minute": 1},
        "fast": {"requests_per_minute": 9},
        "global": {"requests_per_minute": 99},
    },
    "keys": {
        "plain": {"key": "sk-plain"},
        "shared": {"key": "sk-shared", "project": "p", "limits": "fast", "models": ["m", "t/*"]},
    },
}
MASTER = Caller(
    key="master",
    project="project:default",
    models=("*",),
    role="admin",
    scopes=(("global", Limit(requests_per_minute=99)),),
    accounts=("key:master", "project:default", "global"),
)
CONFIG = config.parse(TREE, env={})
KEYRING = Keyring(CONFIG)


def authenticate(*headers: tuple[str, str]) -> Caller:
    return KEYRING.authenticate(CIMultiDict(headers))


def refusal(*headers: tuple[str, str]) -> str:
    with pytest.raises(Unauthorized) as caught:
        authenticate(*headers)
    assert caught.value.headers == {"WWW-Authenticate": "Bearer"}
    return caught.value.message


@pytest.mark.parametrize(
    "header",
    [
        ("Authorization", "Bearer sk-master"),
        ("authorization", "bearer  sk-master "),
        ("AUTHORIZATION", "BEARER sk-master"),
        ("api-key", "sk-master"),
        ("X-API-Key", "sk-master"),
        ("x-litellm-api-key", "Bearer sk-master"),
    ],
)
def test_a_key_is_accepted_in_each_of_its_headers(header: tuple[str, str]) -> None:
    assert authenticate(header) == MASTER


def test_a_key_owns_its_responses_unless_it_has_a_project() -> None:
    plain, shared = authenticate(("api-key", "sk-plain")), authenticate(("api-key", "sk-shared"))
    assert (plain.key, plain.project, plain.models) == ("plain", "key:plain", ("*",))
    assert (shared.key, shared.project, shared.models) == ("shared", "project:p", ("m", "t/*"))


def limits_of(caller: Caller) -> dict[str, int | None]:
    return {scope: limit.requests_per_minute for scope, limit in caller.scopes}


def test_a_key_fills_its_own_limit_its_projects_and_the_one_for_all() -> None:
    tree = {**TREE, "projects": {"p": {"limits": "default"}}}
    keyring = Keyring(config.parse(tree, env={}))
    plain, shared = keyring.by_name["plain"], keyring.by_name["shared"]
    assert limits_of(plain) == {"key:plain": 1, "global": 99}
    assert limits_of(shared) == {"key:shared": 9, "project:p": 1, "global": 99}


def test_a_key_without_limits_has_none_where_there_is_no_default() -> None:
    keyring = Keyring(config.parse({"keys": {"a": {"key": "k"}}}, env={}))
    assert keyring.authenticate(CIMultiDict({"api-key": "k"})).scopes == ()


def test_a_key_spends_its_own_budget_its_projects_and_the_one_for_all() -> None:
    month = {"usd": 5, "window": "month"}
    tree = {
        "projects": {"p": {"budget": "team"}, "q": {}},
        "budgets": {
            "default": month,
            "team": [month, {"usd": 1, "window": "day"}],
            "global": month,
        },
        "keys": {"a": {"key": "k-a", "project": "p"}, "b": {"key": "k-b", "project": "q"}},
    }
    keyring = Keyring(config.parse(tree, env={}))
    assert keyring.by_name["a"].accounts == ("key:a", "project:p", "global")
    assert keyring.by_name["b"].accounts == ("key:b", "project:q", "global")
    assert {name: len(each) for name, each in keyring.accounts.items()} == {
        "key:a": 1,
        "key:b": 1,
        "project:p": 2,
        "global": 1,
    }


def test_the_master_key_is_of_the_project_default_and_has_no_limits_or_budgets_of_its_own() -> None:
    everything = {"requests_per_minute": 1}
    month = {"usd": 5, "window": "month"}
    tree = {
        "server": {"master_key": "sk-master"},
        "projects": {"default": {"budget": "team", "limits": "team"}},
        "limits": {"default": everything, "team": everything, "global": everything},
        "budgets": {"default": month, "team": month},
    }
    keyring = Keyring(config.parse(tree, env={}))
    master = keyring.by_name["master"]
    assert [name for name, _ in master.scopes] == ["project:default", "global"]
    assert keyring.accounts.keys() == {"project:default"}
    assert set(master.accounts) == {"key:master", "project:default", "global"}


def test_a_caller_may_use_the_models_of_its_key() -> None:
    shared = authenticate(("api-key", "sk-shared"))
    assert [m for m in ("m", "mm", "t/", "t/x", "t", "M") if shared.may_use(m)] == [
        "m",
        "t/",
        "t/x",
    ]
    assert MASTER.may_use("anything")


def test_a_request_without_a_key_is_told_so() -> None:
    missing = "Authentication Error, No api key passed in."
    assert refusal() == missing
    assert refusal(("Authorization", "Bearer ")) == missing
    assert refusal(("api-key", "")) == missing


@pytest.mark.parametrize(
    "header",
    [
        ("Authorization", "Bearer sk-wrong"),
        ("Authorization", "Bearer sk-master extra"),
        ("Authorization", "sk-master"),
        ("Authorization", "Basic sk-master"),
        ("x-api-key", "SK-MASTER"),
        ("x-api-key", "sk-m\udcff"),
        ("x-api-key", "\ud800"),
    ],
)
def test_a_wrong_key_is_refused_and_not_repeated(header: tuple[str, str]) -> None:
    told = refusal(header)
    assert told.startswith("Authentication Error, ")
    assert "sk-" not in told.lower()


def test_two_different_keys_are_refused_and_the_same_one_twice_is_not() -> None:
    master, plain = ("api-key", "sk-master"), ("x-api-key", "sk-plain")
    assert refusal(master, plain) == "Authentication Error, two different api keys passed in."
    bearer = ("Authorization", "Bearer sk-plain")
    assert refusal(("Authorization", "Bearer sk-master"), bearer).endswith("keys passed in.")
    assert authenticate(("Authorization", "Bearer sk-master"), master) == MASTER


def test_without_a_master_key_nothing_is_the_master_key() -> None:
    keyring = Keyring(config.parse({}, env={}))
    for value in ("sk-1234", "None", ""):
        with pytest.raises(Unauthorized):
            keyring.authenticate(CIMultiDict({"Authorization": f"Bearer {value}"}))


# Keys that were made through the API --------------------------------------------------------------


def record(
    name: str, key: str = "", *, at: str = "", until_ms: int = 0, **settings: Any
) -> KeyRecord:
    """`at` is the key before a rotation, which works until `until_ms`."""
    kept = Kept(settings=read(settings, CONFIG), hint="", created_ms=0, created_by="master")
    return KeyRecord(
        name=name,
        digest=digest_of(key or f"sk-{name}"),
        settings=msgspec.json.encode(kept),
        old_digest=digest_of(at) if at else None,
        old_until_ms=until_ms if at else None,
    )


def refused(keyring: Keyring, key: str) -> str:
    with pytest.raises(Unauthorized) as caught:
        keyring.authenticate(CIMultiDict({"Authorization": f"Bearer {key}"}))
    assert "sk-" not in caught.value.message
    return caught.value.message


def caller_of(keyring: Keyring, key: str) -> str:
    return keyring.authenticate(CIMultiDict({"Authorization": f"Bearer {key}"})).key


def test_a_made_key_has_what_its_settings_say() -> None:
    keyring = Keyring(
        CONFIG,
        [record("a", project="p", limits="fast", models=["m"], role="read-only", bodies="hashed")],
    )
    caller = keyring.by_name["a"]
    assert caller_of(keyring, "sk-a") == "a"
    assert (caller.project, caller.models, caller.role) == ("project:p", ("m",), "read-only")
    assert (caller.bodies, limits_of(caller)) == ("hashed", {"key:a": 9, "global": 99})


def test_limits_and_budgets_of_a_key_may_be_its_own() -> None:
    keyring = Keyring(
        CONFIG,
        [record("a", limits={"requests_per_minute": 4}, budget={"usd": 2, "window": "day"})],
    )
    assert limits_of(keyring.by_name["a"]) == {"key:a": 4, "global": 99}
    assert keyring.by_name["a"].accounts == ("key:a", "global")
    assert keyring.accounts == {"key:a": (config_sections.Budget(usd=2, window="day"),)}


@pytest.mark.parametrize("source", ["configured", "made"])
def test_a_key_that_has_expired_is_refused(source: str) -> None:
    over = "2020-01-01T00:00:00Z"
    if source == "made":
        keyring = Keyring(CONFIG, [record("a", expires=over)])
    else:
        keyring = Keyring(config.parse({"keys": {"a": {"key": "sk-a", "expires": over}}}, env={}))
    assert refused(keyring, "sk-a") == "Authentication Error, the api key has expired."


def test_a_key_that_is_to_expire_is_accepted() -> None:
    assert caller_of(Keyring(CONFIG, [record("a", expires="2999-01-01")]), "sk-a") == "a"


def test_a_blocked_key_is_refused() -> None:
    keyring = Keyring(CONFIG, [record("a", blocked=True)])
    assert refused(keyring, "sk-a") == "Authentication Error, the api key is blocked."


def test_the_key_before_a_rotation_works_until_its_time() -> None:
    later = time.time_ns() // 1_000_000 + 60_000
    keyring = Keyring(CONFIG, [record("a", "sk-new", at="sk-old", until_ms=later)])
    assert [caller_of(keyring, key) for key in ("sk-new", "sk-old")] == ["a", "a"]
    over = keyring.replaced(record("a", "sk-new", at="sk-old", until_ms=1))
    assert caller_of(over, "sk-new") == "a"
    assert refused(over, "sk-old") == "Authentication Error, the api key has expired."


def test_the_key_before_a_rotation_does_not_outlive_the_key() -> None:
    made = record("a", "sk-new", at="sk-old", until_ms=2**45, expires="2020-01-01")
    assert refused(Keyring(CONFIG, [made]), "sk-old").endswith("has expired.")


def test_a_new_state_of_a_key_replaces_the_old_one_and_no_other_key() -> None:
    before = Keyring(CONFIG, [record("a", budget={"usd": 1, "window": "day"}), record("b")])
    after = before.replaced(record("a", "sk-other"))
    assert caller_of(after, "sk-other") == "a"
    assert [caller_of(after, key) for key in ("sk-b", "sk-plain")] == ["b", "plain"]
    assert refused(after, "sk-a").endswith("invalid api key passed in.")
    assert after.accounts == {}
    # Who holds the old one sees nothing of it.
    assert caller_of(before, "sk-a") == "a"
    assert before.accounts.keys() == {"key:a"}


def test_a_deleted_key_is_an_unknown_one_whose_name_stays() -> None:
    tombstone = KeyRecord(name="a", digest=b"", settings=b"{}", deleted=True)
    keyring = Keyring(CONFIG, [record("a")]).replaced(tombstone)
    assert refused(keyring, "sk-a").endswith("invalid api key passed in.")
    assert "a" not in keyring.by_name
    assert keyring.records["a"].deleted


def test_of_two_keys_with_one_name_the_configured_one_is_in_force() -> None:
    keyring = Keyring(CONFIG, [record("plain", "sk-made")])
    assert refused(keyring, "sk-made").endswith("invalid api key passed in.")
    assert caller_of(keyring, "sk-plain") == "plain"
    assert keyring.shadowed == ["plain"]


def test_a_made_key_never_takes_the_place_of_a_configured_one() -> None:
    keyring = Keyring(CONFIG, [record("a", "sk-master")])
    assert caller_of(keyring, "sk-master") == "master"
    assert caller_of(keyring.replaced(record("a", "sk-else")), "sk-master") == "master"


def test_a_key_whose_settings_name_what_is_gone_lets_nobody_in() -> None:
    made = record("a", project="p", limits="fast")
    keyring = Keyring(config.parse({}, env={}), [made])
    assert keyring.faults == {"a": 'project: no project "p"; limits: no limit "fast"'}
    assert refused(keyring, "sk-a").endswith("invalid api key passed in.")


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "param", "words"),
    [
        ({"foo": 1}, "foo", "unknown key"),
        ({"models": []}, "models", "must be a list of at least one model"),
        ({"models": ["a", "b*c"]}, "models[1]", "must be at most 256 letters"),
        ({"project": "nope"}, "project", 'no project "nope"'),
        ({"limits": "nope"}, "limits", 'no limit "nope"'),
        ({"limits": {}}, "limits", "limits nothing"),
        ({"limits": {"queue": {"size": 1}}}, "limits", "limits nothing"),
        ({"limits": {"requests_per_minute": 0}}, "limits.requests_per_minute", "from 1 to"),
        ({"limits": 5}, "limits", "must be an object"),
        ({"budget": {"usd": 1}}, "budget.window", "is missing"),
        ({"budget": []}, "budget", "must be a budget, or a list of at least one"),
        ({"budget": [{"usd": -1, "window": "day"}]}, "budget[0].usd", "dollars from 0"),
        ({"role": "root"}, "role", 'must be "admin" or "key" or "read-only"'),
        ({"expires": "soon"}, "expires", "must be a time like"),
        ({"guards": "strict"}, "guards", 'no profile "strict"'),
        ({"metadata": {"a": 1}}, "metadata.a", "must be text that is not blank"),
        ({"metadata": {"a b": "c"}}, "metadata.a b", "the name must be"),
        ({"blocked": "yes"}, "blocked", "must be true or false"),
        ({"metadata": {"a": "x" * MAX_BYTES}}, "", "at most 65536 bytes"),
    ],
)
def test_a_fault_of_the_settings_is_told_with_its_path(
    tree: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(tree, CONFIG)
    assert caught.value.param == param
    assert words in caught.value.message


def test_all_faults_of_the_settings_are_told_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read({"role": 1, "bodies": 2}, CONFIG)
    assert caught.value.message.count("; ") == 1


def test_settings_read_no_file_and_no_variable(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret")
    for reference in (f"file:{tmp_path}/secret", "env:PATH", "env:", "file:"):
        settings = read({"metadata": {"a": reference}}, CONFIG)
        assert settings.metadata == {"a": reference}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("2030-01-31", "2030-01-31T00:00:00Z"),
        ("2030-01-31T12:00:00+02:00", "2030-01-31T10:00:00Z"),
        ("2030-01-31T12:00:00.5Z", "2030-01-31T12:00:00.500Z"),
        ("9999-12-31T23:59:59-12:00", "9999-12-31T23:59:59.999Z"),
        ("0001-01-01T00:00:00+12:00", "1970-01-01T00:00:00Z"),
    ],
)
def test_a_time_is_shown_in_utc(given: str, shown: str) -> None:
    assert read({"expires": given}, CONFIG).expires == shown


def test_what_is_shown_of_settings_reads_as_the_same_settings() -> None:
    settings = read(
        {
            "models": ["a", "b/*"],
            "limits": {"concurrent": 2, "queue": {"size": 3, "wait_s": 1}},
            "budget": [{"usd": 0.1, "window": "day"}, {"usd": 9, "window": "12h", "soft_usd": 5}],
            "expires": "2030-01-31",
            "metadata": {"team": "x"},
            "project": "p",
        },
        CONFIG,
    )
    assert read(tree_of(settings), CONFIG) == settings


names = st.sampled_from("abc")
trees = st.recursive(
    st.none() | st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(names, trees), st.dictionaries(names, trees))
def test_a_merge_patch_says_all_that_is_in_it_and_touches_nothing_else(
    tree: dict[str, Any], patch: dict[str, Any]
) -> None:
    result = merged(tree, patch)
    assert merged(result, patch) == result
    for name in tree.keys() | patch.keys():
        if name not in patch:
            assert result[name] == tree[name]
        elif patch[name] is None:
            assert name not in result
        elif not isinstance(patch[name], dict):
            assert result[name] == patch[name]


def test_a_hint_shows_the_end_of_a_long_key_only() -> None:
    assert hint_of("sk-0123456789abcdefWXYZ") == "sk-...WXYZ"
    assert hint_of("0123456789abcdefWXYZ") == "...WXYZ"
    assert hint_of("sk-short") == "sk-..."
