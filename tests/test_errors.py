"""The exception tree and its envelope."""

import re

import pytest

from anos import errors
from anos.errors import GatewayError, UpstreamError, envelope


def tree(root: type[GatewayError] = GatewayError) -> list[type[GatewayError]]:
    """The classes of errors.py; other modules may refine one for their own use."""
    children = [kind for kind in root.__subclasses__() if kind.__module__ == root.__module__]
    return [root] + [kind for child in children for kind in tree(child)]


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (
            errors.InvalidModel(),
            400,
            {
                "message": "Invalid model specified",
                "type": "invalid_request_error",
                "param": "model",
                "code": 400,
            },
        ),
        (
            errors.RateLimited(),
            429,
            {
                "message": "Rate limit exceeded",
                "type": "rate_limit_error",
                "param": "",
                "code": 429,
            },
        ),
        (
            errors.GuardBlocked(),
            400,
            {
                "message": "Content violates usage policies",
                "type": "content_filter_error",
                "param": "",
                "code": 400,
            },
        ),
    ],
    ids=["model", "rate", "content"],
)
def test_the_three_bodies_of_the_guide_have_number_codes(
    error: GatewayError, status: int, body: dict
) -> None:
    assert (error.status, envelope(error)) == (status, {"error": body})


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_every_kind_has_a_full_envelope_by_itself(kind: type[GatewayError]) -> None:
    error = kind()
    body = envelope(error)["error"]
    assert list(body) == ["message", "type", "param", "code"]
    assert body["message"] == str(error) != ""
    assert 400 <= error.status <= 599


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_the_drawing_at_the_top_matches_the_classes(kind: type[GatewayError]) -> None:
    drawn = re.search(
        rf"^( +){kind.__name__} +(\d+)  (\w+) +(\w+)", errors.__doc__ or "", re.MULTILINE
    )
    assert drawn
    depth = len(kind.__mro__) - len(GatewayError.__mro__)
    assert len(drawn[1]) == 4 + 2 * depth
    assert [drawn[2], drawn[3], drawn[4]] == [str(kind.status), kind.type, str(kind.code)]


def test_an_instance_says_more_than_its_class() -> None:
    error = errors.InvalidRequest(
        "Unknown item.", param="input[0].id", code="x", headers={"Allow": "GET"}
    )
    assert envelope(error)["error"] == {
        "message": "Unknown item.",
        "type": "invalid_request_error",
        "param": "input[0].id",
        "code": "x",
    }
    assert error.headers == {"Allow": "GET"}


def test_an_upstreams_own_status_and_type_are_carried_on() -> None:
    error = UpstreamError(
        "Too long.", status=400, type="invalid_request_error", code="context_length_exceeded"
    )
    assert (error.status, error.type, error.code) == (
        400,
        "invalid_request_error",
        "context_length_exceeded",
    )
    assert (UpstreamError().status, UpstreamError().type) == (502, "upstream_error")
