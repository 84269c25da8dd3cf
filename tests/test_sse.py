"""The splitter, parser and encoder of event streams."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anos.errors import UpstreamError
from anos.sse import COMMENT, DONE, Splitter, encode, parse

STREAM = (
    b": hello\n\n"
    b'event: response.created\ndata: {"a": 1}\n\n'
    b'data: {"no": "type"}\n\n'
    b"retry: 3000\n\n"
    b"\n\n\n"
    b": a comment first\nevent: x\ndata: one\ndata: two\nid: 7\n\n"
    b"event: nothing to say\n\n"
    b"event: data:\n\n"
    b"data: \n\n"
    b"event: ping\ndata:\n\n"
    b"\ndata:no space\n\n" + "data: line\u2028separator\x85\n\n".encode() + b"data: [DONE]\n\n"
)
EVENTS = [
    ("response.created", b'{"a": 1}'),
    ("", b'{"no": "type"}'),
    ("x", b"one\ntwo"),
    ("", b"no space"),
    ("", "line\u2028separator\x85".encode()),
    ("", b"[DONE]"),
]
LINE_ENDS = {"lf": b"\n", "cr": b"\r", "crlf": b"\r\n"}


def feed(data: bytes, size: int) -> list[bytes]:
    splitter = Splitter()
    events = []
    for start in range(0, len(data), size):
        events += splitter.feed(data[start : start + size])
    return events


@pytest.mark.parametrize("end", LINE_ENDS.values(), ids=LINE_ENDS)
def test_every_chunk_size_gives_the_same_events(end: bytes) -> None:
    stream = STREAM.replace(b"\n", end)
    whole = feed(stream, len(stream))
    assert [parse(event) for event in whole] == EVENTS
    for size in range(1, len(stream)):
        assert feed(stream, size) == whole


@pytest.mark.parametrize("end", LINE_ENDS.values(), ids=LINE_ENDS)
def test_an_event_is_released_with_its_blank_line_and_not_later(end: bytes) -> None:
    splitter = Splitter()
    assert splitter.feed(b"data: x" + end) == []
    assert splitter.tail == b"data: x\n"
    assert splitter.feed(end) == [b"data: x\n\n"]
    assert splitter.tail == b""


def test_a_line_feed_after_a_split_crlf_does_not_end_the_event() -> None:
    splitter = Splitter()
    assert splitter.feed(b"event: x\r") == []
    assert splitter.feed(b"\ndata: y\r") == []
    assert splitter.feed(b"\n") == []
    assert splitter.feed(b"\r") == [b"event: x\ndata: y\n\n"]
    assert splitter.feed(b"\ndata: z\n\n") == [b"data: z\n\n"]


def test_events_keep_their_bytes() -> None:
    raw = b'event: a\nid: 1\n: note\ndata: {"x":"\xc3\xa9"}\n\n'
    assert Splitter().feed(raw) == [raw]


def test_a_byte_order_mark_at_the_start_is_dropped() -> None:
    assert feed(b"\xef\xbb\xbfdata: x\n\n", 1) == [b"data: x\n\n"]


@pytest.mark.parametrize("empty", [b"data:", b"data: ", b"event: ping\ndata: ", b": x\ndata:"])
def test_an_event_without_data_is_none(empty: bytes) -> None:
    assert Splitter().feed(empty + b"\n\ndata: x\n\n" + empty + b"\n\n") == [b"data: x\n\n"]
    assert Splitter().feed(b"data: x\ndata:\n\n") == [b"data: x\ndata:\n\n"]


def test_an_unfinished_event_stays_in_the_tail() -> None:
    splitter = Splitter()
    assert splitter.feed(b"data: a\n\ndata: b") == [b"data: a\n\n"]
    assert splitter.tail == b"data: b"


@pytest.mark.parametrize("size", [1, 3, 7, 64])
def test_an_event_over_the_bound_is_an_upstream_error_in_every_chunking(size: int) -> None:
    event = b"data: 0123456789\n\n"
    fits, fails = Splitter(max_bytes=len(event)), Splitter(max_bytes=len(event) - 1)
    chunks = [(event * 3)[i : i + size] for i in range(0, len(event) * 3, size)]
    assert sum(len(fits.feed(chunk)) for chunk in chunks) == 3
    with pytest.raises(UpstreamError, match="more than 17 bytes"):
        [fails.feed(chunk) for chunk in chunks]


def test_an_endless_line_is_bounded() -> None:
    splitter = Splitter(max_bytes=1000)
    with pytest.raises(UpstreamError):
        [splitter.feed(b"x" * 64) for _ in range(100)]
    assert splitter.tail == b""


@pytest.mark.parametrize("line", [b"data: x\r\n\r\n", b"data: x\r\r", b"data: x\n\n"])
def test_parse_reads_all_three_line_ends(line: bytes) -> None:
    assert parse(line) == ("", b"x")


def test_parse_takes_one_space_only_after_the_colon() -> None:
    assert parse(b"event:  x\ndata:  y\n\n") == (" x", b" y")


def test_the_constants_are_what_they_say() -> None:
    assert parse(DONE) == ("", b"[DONE]")
    assert Splitter().feed(COMMENT) == []


def test_encode_writes_the_wire_form() -> None:
    assert encode("a.b", b"{}") == b"event: a.b\ndata: {}\n\n"
    assert encode("", b"{}") == b"data: {}\n\n"
    assert encode("", b"a\nb") == b"data: a\ndata: b\n\n"


def test_an_event_type_cannot_forge_further_lines() -> None:
    assert encode("x\ndata: forged\n\r", b"{}") == b"event: x data: forged\ndata: {}\n\n"


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.text("abc._", max_size=8), st.text(max_size=20)), max_size=6),
    st.integers(1, 40),
)
def test_what_is_encoded_comes_back_in_every_chunking(
    pairs: list[tuple[str, str]], size: int
) -> None:
    stream = b"".join(encode(name, text.encode()) for name, text in pairs)
    expected = [
        (name, text.replace("\r\n", "\n").replace("\r", "\n").encode())
        for name, text in pairs
        if text
    ]
    assert [parse(event) for event in feed(stream, size)] == expected
