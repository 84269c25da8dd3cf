"""Keys: who a request's headers say is calling."""

import pytest
from multidict import CIMultiDict

from anos import config
from anos.config import Limit
from anos.errors import Unauthorized
from anos.keys import Caller, Keyring

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
MASTER = Caller("master", "project:default", ("*",), None, True)
KEYRING = Keyring(config.parse(TREE, env={}))


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
    plain = Caller("plain", "key:plain", ("*",), Limit(requests_per_minute=1), False)
    shared = Caller("shared", "project:p", ("m", "t/*"), Limit(requests_per_minute=9), False)
    assert authenticate(("api-key", "sk-plain")) == plain
    assert authenticate(("api-key", "sk-shared")) == shared


def test_a_key_without_limits_has_none_where_there_is_no_default() -> None:
    keyring = Keyring(config.parse({"keys": {"a": {"key": "k"}}}, env={}))
    assert keyring.authenticate(CIMultiDict({"api-key": "k"})).limit is None


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
