"""Bodies are decoded exactly, and what two parsers could read differently is refused."""

import json
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anos.decoding import decode_body
from anos.errors import InvalidRequest

SEEDED = settings(derandomize=True, deadline=None)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def nested(depth: int, value: object = 1) -> object:
    for _ in range(depth):
        value = [value]
    return value


def refused(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        decode_body(body)
    assert caught.value.code == "invalid_value"
    assert caught.value.message.endswith(".")
    caught.value.param.encode()
    return caught.value


@SEEDED
@given(st.dictionaries(st.text(), JSON), st.booleans())
def test_every_json_object_survives(tree: dict, is_ascii: bool):
    assert decode_body(json.dumps(tree, ensure_ascii=is_ascii).encode()) == tree


def test_the_last_of_duplicate_keys_counts():
    assert decode_body(b'{"model":"a","model":"b"}') == {"model": "b"}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"a":}',
        b'{"a":1,}',
        b'{"a":1} x',
        b"{'a':1}",
        b'{"a":NaN}',
        b"\xef\xbb\xbf{}",
        b'{"a":"\x00"}',
        b'{"a":"\\q"}',
        b'{"a":1-2e}',
        b"]",
        b",",
        b'{"a":1}]',
        b'"\\',
    ],
)
def test_what_is_not_json_is_refused(body: bytes):
    error = refused(body)
    assert error.message.startswith("The body is not valid JSON")
    assert error.param == ""


@pytest.mark.parametrize("body", [b"", b" ", b"\r\n\t"])
def test_an_empty_body_is_told_as_that(body: bytes):
    error = refused(body)
    assert (error.message, error.param) == ("The body is empty.", "")


def test_what_is_not_utf_8_is_refused():
    assert refused(b'{"a":"\xff"}').message == "The body is not valid UTF-8."
    assert refused(b'{"a":"\xed\xa0\x80"}').message == "The body is not valid UTF-8."


@pytest.mark.parametrize(
    ("body", "got"),
    [
        (b"[]", "an array"),
        (b'"a"', "a string"),
        (b"1", "an integer"),
        (b"1.5", "a number"),
        (b"null", "null"),
        (b"true", "a boolean"),
    ],
)
def test_a_body_must_be_an_object(body: bytes, got: str):
    message = f"Invalid type for the body: expected an object, but got {got} instead."
    assert refused(body).message == message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ('{"seed":18446744073709551616}', "seed"),
        ('{"seed":-9223372036854775809}', "seed"),
        ('{"a":"x","input":[{},{"n":[0,1,18446744073709551616]}]}', "input[1].n[2]"),
        ('{"a":' + "9" * 5000 + "}", "a"),
        ('{"a":[1,1e999]}', "a[1]"),
        ('{"a":[-1e999]}', "a[0]"),
        (
            '{"input":[{"content":"x"},{"content":[{"text":"\\ud800"}]}]}',
            "input[1].content[0].text",
        ),
        ('{"a":"\\udc00\\ud800"}', "a"),
        ('{"a":"\\uD83Dx"}', "a"),
        ('{"a":{"\\ud800":1}}', "a"),
        ('{"a":["\\ud800"]}', "a[0]"),
        ('{"a":{"b":[1,{"c":2}],"d":"e\\"f,[","g":18446744073709551616}}', "a.g"),
        ('{"\\u0061":18446744073709551616}', "a"),
        ('{"a":[[],[[]],{},18446744073709551616]}', "a[3]"),
    ],
)
def test_an_extreme_value_is_refused_with_its_path(body: str, param: str):
    assert refused(body.encode()).param == param


@pytest.mark.parametrize(
    "body",
    [
        '{"a":18446744073709551615,"b":-9223372036854775808}',
        '{"a":"' + "9" * 40 + '"}',
        '{"a":0.1234567890123456789012}',
        '{"a":1234567890123456789.5}',
        '{"a":12345678901234567890e-5}',
        '{"a":"\\ud83d\\ude00"}',
        '{"a":"\\\\ud800"}',
    ],
)
def test_what_only_looks_extreme_is_not(body: str):
    assert decode_body(body.encode()) == json.loads(body)


@SEEDED
@given(
    st.integers(-(10**30), 10**30), st.text(alphabet='0123456789ab "\\', max_size=30), st.booleans()
)
@example(2**64, "", False)
@example(2**64 - 1, "", False)
@example(-(2**63) - 1, "", False)
def test_an_integer_passes_exactly_if_it_fits_in_64_bits(number: int, text: str, is_deep: bool):
    body = json.dumps({text: text, "n": [number] if is_deep else number}).encode()
    if -(2**63) <= number <= 2**64 - 1:
        assert decode_body(body) == json.loads(body)
    else:
        assert refused(body).param == ("n[0]" if is_deep else "n")


@pytest.mark.parametrize("depth", [1, 199])
def test_nesting_up_to_200_is_accepted(depth: int):
    assert decode_body(json.dumps({"a": nested(depth)}).encode()) == {"a": nested(depth)}


def test_nesting_over_200_is_refused_with_its_path():
    error = refused(json.dumps({"a": {"b": [0, nested(199)]}}).encode())
    assert error.param.startswith("a.b[1][0][0]")
    assert len(error.param) == 256
    assert error.message.endswith("is nested over 200 levels deep.")


def test_nesting_beyond_any_recursion_limit_is_refused_the_same():
    error = refused(b'{"a":' + b"[" * 1_000_000)
    assert error.param.startswith("a[0][0]")
    assert refused(b'{"a":' * 100_000 + b"1" + b"}" * 100_000).param.startswith("a.a.a")


def test_many_shallow_brackets_are_not_deep():
    tree = {"a": [{"b": []}] * 1000, "c": "[" * 1000}
    assert decode_body(json.dumps(tree).encode()) == tree


@SEEDED
@given(st.binary(max_size=60))
@example(b'{"a":[}')
@example(b'{"a":1}}},1')
@example(b"[{]1,2e99999")
def test_any_bytes_are_an_object_or_refused(body: bytes):
    with suppress(InvalidRequest):
        assert type(decode_body(body)) is dict
