"""Routing: which routes a model name gets."""

import pytest

from anos import config
from anos.config_sections import Quirks
from anos.errors import InvalidModel
from anos.routing import Route, Router

ROUTER = Router(
    config.parse(
        {
            "providers": {
                "a": {"dialect": "chat", "base_url": "http://a/v1", "quirks": {"repair": True}},
                "b": {"dialect": "responses", "base_url": "stub:"},
            },
            "models": {
                "*": {"routes": [{"provider": "b"}]},
                "exact": {"routes": [{"provider": "a", "deployment": "x"}, {"provider": "b"}]},
                "team/*": {"routes": [{"provider": "a"}], "reasoning": True},
                "team/big-*": {"routes": [{"provider": "b", "deployment": "fixed"}]},
                "team/one": {"routes": [{"provider": "b"}]},
            },
        },
        env={},
    )
)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("exact", [("a", "x"), ("b", "exact")]),
        ("team/one", [("b", "team/one")]),
        ("team/two", [("a", "two")]),
        ("team/a/b", [("a", "a/b")]),
        ("team/big-1", [("b", "fixed")]),
        ("team/big-", [("a", "big-")]),
        ("team/", [("b", "team/")]),
        ("other", [("b", "other")]),
    ],
)
def test_the_exact_name_wins_then_the_longest_prefix(
    model: str, expected: list[tuple[str, str]]
) -> None:
    routes = ROUTER.resolve(model)
    assert [(route.provider, route.deployment) for route in routes] == expected


def test_a_route_says_what_its_provider_and_its_model_are() -> None:
    assert ROUTER.resolve("team/two") == (Route("a", "chat", "two", Quirks(repair=True), True),)


@pytest.mark.parametrize("model", ["", "*", "team/*", "a b", "a..b", "é", "x\n", "%2e", "x" * 257])
def test_a_name_no_client_may_use_is_an_invalid_model_even_if_everything_matches(
    model: str,
) -> None:
    with pytest.raises(InvalidModel):
        ROUTER.resolve(model)


def test_an_unknown_name_is_an_invalid_model() -> None:
    router = Router(config.parse({}, env={}))
    assert router.resolve("stub/echo")[0].deployment == "echo"
    for model in ("gpt-5", "stub", "stub/", "GPT-4"):
        with pytest.raises(InvalidModel):
            router.resolve(model)


def test_the_names_are_the_exact_ones_in_the_order_of_the_file() -> None:
    assert ROUTER.names == ("exact", "team/one")
