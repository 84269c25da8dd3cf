"""The JSON of a request's body, exactly: what two parsers could read differently is refused."""

import json
import math
import re
from typing import Any

import msgspec

from anos.errors import InvalidRequest
from anos.validation import path_of, wrong_type

MAX_DEPTH = 200  # an agent's deepest schema has about 30 levels; other parsers give up near 500
_DIGITS_AS_0 = bytes.maketrans(b"123456789", b"0" * 9)
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|-?\d[\d.eE+-]*|[\[\]{},]', re.DOTALL)


def decode_body(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`; of duplicate keys the last counts.

    Refused with the path of the place: nesting over 200, a number beyond 64 bits, half of a
    surrogate pair. The next parser may read these differently from us, or not at all.
    """
    try:
        tree = msgspec.json.decode(body)
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not valid UTF-8.") from None
    except (msgspec.DecodeError, RecursionError) as exc:
        if not body.strip():
            raise InvalidRequest("The body is empty.") from None
        _refuse_extremes(body)
        raise InvalidRequest(f"The body is not valid JSON: {exc}.") from None
    if type(tree) is not dict:
        raise wrong_type("", "an object", tree)
    # Most bodies are cleared by counting: looking at every value would cost more than decoding.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _is_too_deep(tree):
        _refuse_extremes(body)
    if _may_hold_big_integer(body):
        _refuse_extremes(body)
    return tree


def _may_hold_big_integer(body: bytes) -> bool:
    # The shortest integer beyond 64 bits has 19 digits; every 6th byte shows at least 3 of them.
    return b"000" in body[::6].translate(_DIGITS_AS_0) and b"0000000000000000000" in body.translate(
        _DIGITS_AS_0
    )


def _is_too_deep(tree: Any) -> bool:
    level = [tree]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True


def _refuse_extremes(body: bytes) -> None:
    """Read `body` token by token and raise at the first extreme; it need not be valid JSON."""
    path: list[str | int] = []  # for each open container the key, or the position, we are at
    is_key = False
    for match in _TOKEN.finditer(body):
        token = match[0]
        if token in b"[{":
            path.append(0 if token == b"[" else "")
            is_key = token == b"{"
            if len(path) > MAX_DEPTH:
                raise _extreme(path, f"is nested over {MAX_DEPTH} levels deep")
        elif token in b"]},":
            if not path:  # more brackets closed than opened
                return
            if token != b",":
                path.pop()
            elif isinstance(path[-1], int):
                path[-1] += 1
            else:
                is_key = True
        elif token[:1] == b'"':
            text = _text_of(token)
            if is_key:
                path[-1] = text or ""
                is_key = False
            if text is None:
                raise _extreme(path, "holds half of a surrogate pair")
        elif _is_beyond_64_bits(token):
            raise _extreme(path, "is a number beyond 64 bits")


def _text_of(token: bytes) -> str | None:
    """The string a JSON token stands for; None if it holds half of a surrogate pair."""
    if b"\\" not in token:
        return token[1:-1].decode(errors="replace")
    try:
        text: str = json.loads(token.decode(errors="replace"), strict=False)
        text.encode()
    except UnicodeEncodeError:
        return None
    except ValueError:  # an escape that is none: the caller will say that this is not JSON
        return ""
    return text


def _is_beyond_64_bits(number: bytes) -> bool:
    try:
        if number.removeprefix(b"-").isdigit():
            return len(number) > 20 or not -(2**63) <= int(number) <= 2**64 - 1
        return math.isinf(float(number))
    except ValueError:  # something like 1-2, which is no number
        return False


def _extreme(path: list[str | int], problem: str) -> InvalidRequest:
    param = path_of(step for step in path if step != "")
    return InvalidRequest(f"'{param}' {problem}." if param else f"A value {problem}.", param=param)
