"""The logs: what is tampered with is found, what is not verifies, and both can be taken out."""

import asyncio
import csv
import io
import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anos import cli, secret, store_audit, upkeep
from anos.admin_params import iso
from anos.audit import (
    LOGS,
    START,
    UNDETECTABLE,
    Head,
    Report,
    Signed,
    Verifier,
    fingerprint,
    link,
    sign,
)
from anos.audit_export import encode
from anos.config_sections import Config, Server
from anos.exchange import KEPT_BYTES
from anos.schema import ChangeRecord, ExchangeRecord
from anos.state import GATEWAY
from anos.statements import Statements, parse_schema
from anos.store import LogChange, Save, Store
from anos.store_audit import Cursor, export_page
from tests import records
from tests.conftest import ROOT, Gateway, Json

SQL = ROOT / "store.sql"
OURS, OTHERS = b"o" * 32, b"x" * 32
DAY_MS = 86_400_000


# The walk ----------------------------------------------------------------------------------------


def chain(values: Sequence[tuple[Any, ...]], key: bytes = OURS) -> list[tuple[Any, ...]]:
    """Rows of a log: seq from 1, the values, the digest."""
    rows, digest = [], START
    for seq, each in enumerate(values, 1):
        digest = link(key, digest, (seq, *each))
        rows.append((seq, *each, digest))
    return rows


def signed(seq: int, digest: bytes, key: bytes = OURS) -> Signed:
    return Signed(seq, 5, digest, fingerprint(key), sign(key, "exchanges", seq, 5, digest))


def walk(
    rows: Sequence[tuple[Any, ...]],
    checkpoints: Sequence[Signed],
    head: Head | None = None,
    page: int = 1000,
) -> Report:
    verifier = Verifier("exchanges", OURS, head)
    verifier.feed(rows[0][0] if rows else None, (), checkpoints)
    for start in range(0, len(rows), page):
        verifier.feed(rows[0][0], rows[start : start + page], checkpoints)
    return verifier.report()


BEGUN = signed(0, START)
VALUES = st.lists(
    st.tuples(st.text(), st.none() | st.integers(-(2**63), 2**63 - 1)), min_size=2, max_size=12
)


@given(VALUES, st.integers(1, 5))
def test_a_log_that_nobody_touched_verifies_in_pages_of_any_size(
    values: list[tuple[Any, ...]], page: int
) -> None:
    rows = chain(values)
    report = walk(rows, [BEGUN, signed(rows[1][0], rows[1][-1])], page=page)
    assert (report.ok, report.broken, report.verified) == (True, None, len(rows))
    assert (report.first, report.last) == (1, len(rows))


@given(VALUES, st.data())
def test_the_first_row_that_was_tampered_with_is_named(
    values: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    rows = chain(values)
    at = data.draw(st.integers(0, len(rows) - 2), "row")
    row, kind = rows[at], data.draw(st.sampled_from(["alter", "remove", "insert", "swap", "blank"]))
    tampered, seq, why = list(rows), row[0], "altered"
    if kind == "alter":
        tampered[at] = (row[0], row[1] + "!", *row[2:])
    elif kind == "remove":
        del tampered[at]
        seq, why = seq + 1, "missing"
    elif kind == "insert":
        forged = (seq, "forged", 1, row[-1])
        tampered[at:] = [forged, *((each[0] + 1, *each[1:]) for each in rows[at:])]
    elif kind == "swap":
        tampered[at], tampered[at + 1] = (seq, *rows[at + 1][1:]), (seq + 1, *row[1:])
    else:
        tampered[at] = (*row[:-1], None)
    broken = walk(tampered, [BEGUN], page=data.draw(st.integers(1, 5), "page")).broken
    assert broken is not None
    assert (broken.seq, broken.why) == (seq, why)


ROWS = chain([("a", 1), ("b", 2), ("c", 3), ("d", 4)])


def test_rows_that_retention_cut_off_are_not_missing_but_others_are() -> None:
    cut = signed(2, ROWS[1][-1])
    report = walk(ROWS[2:], [cut])
    assert (report.ok, report.first, report.verified) == (True, 3, 2)
    report = walk(ROWS[1:], [BEGUN, cut])
    assert report.broken is not None
    assert (report.broken.seq, report.broken.why) == (2, "missing")
    # Not even up to a checkpoint, as long as rows before it are there.
    report = walk([ROWS[0], *ROWS[2:]], [BEGUN, cut])
    assert report.broken is not None
    assert (report.broken.seq, report.broken.why) == (3, "missing")


def test_rows_that_go_while_we_walk_are_not_missing() -> None:
    verifier = Verifier("exchanges", OURS)
    verifier.feed(1, ROWS[:1], [BEGUN])
    verifier.feed(4, ROWS[3:], [signed(3, ROWS[2][-1])])
    report = verifier.report()
    assert (report.ok, report.verified) == (True, 2)


def test_rows_cut_off_after_the_newest_checkpoint_are_found_by_a_head_that_was_noted() -> None:
    checkpoints = [BEGUN, signed(2, ROWS[1][-1])]
    for rows, ok in ((ROWS[:1], False), (ROWS[:2], True), (ROWS[:3], True)):
        broken = walk(rows, checkpoints).broken
        assert (broken is None) is ok
        assert broken is None or broken.why == "cut"
    noted = Head("exchanges", 4, ROWS[3][-1])
    assert walk(ROWS, checkpoints, noted).compared == "same"
    broken = walk(ROWS[:3], checkpoints, noted).broken
    assert broken is not None
    assert (broken.seq, broken.why) == (3, "cut")
    assert walk([], [BEGUN], noted).broken is not None


def test_a_log_that_was_written_anew_by_who_has_the_secret_differs_from_a_noted_head() -> None:
    noted = Head("exchanges", 3, ROWS[2][-1])
    anew = chain([("a", 1), ("b", 0), ("c", 3), ("d", 4)])
    assert walk(anew, [BEGUN]).ok
    broken = walk(anew, [BEGUN], noted).broken
    assert broken is not None
    assert (broken.seq, broken.why) == (3, "head")
    assert walk(ROWS[3:], [signed(3, ROWS[2][-1])], noted).compared == "gone"
    assert walk(ROWS, [BEGUN], Head("exchanges", 0, START)).compared == "same"


@pytest.mark.parametrize(
    ("checkpoints", "seq"),
    [
        ([], 1),
        ([signed(2, ROWS[1][-1])], 1),
        ([BEGUN, Signed(2, 6, ROWS[1][-1], fingerprint(OURS), signed(2, START).signature)], 2),
        ([BEGUN, signed(2, ROWS[0][-1])], 2),
        ([Signed(0, 5, START, fingerprint(OURS), b"")], 0),
    ],
    ids=["none", "not before the first row", "not signed", "of another row", "unsigned start"],
)
def test_a_checkpoint_that_is_not_as_it_must_be_is_found(
    checkpoints: list[Signed], seq: int
) -> None:
    broken = walk(ROWS, checkpoints).broken
    assert broken is not None
    assert broken.seq == seq
    assert broken.why == ("missing" if seq == 1 else "checkpoint")


def test_an_empty_log_verifies_and_an_emptied_one_does_not() -> None:
    assert walk([], [BEGUN]).ok
    assert not walk([], []).ok
    assert not walk([], [BEGUN, signed(4, ROWS[3][-1])]).ok
    assert not walk([], [Signed(0, 5, START, fingerprint(OURS), b"")]).ok


def test_rows_older_than_the_digests_are_counted_and_no_later_row_may_pass_for_one() -> None:
    old = [(1, "x", 1, None), (2, "y", 2, None)]
    digest = link(OURS, START, (3, "a", 1))
    begun, rows = signed(2, START), [*old, (3, "a", 1, digest)]
    report = walk(rows, [begun])
    assert (report.ok, report.older, report.verified) == (True, 2, 1)
    broken = walk([*old, (3, "forged", 1, None)], [begun]).broken
    assert broken is not None
    assert (broken.seq, broken.why) == (3, "altered")


def test_rows_of_another_secret_are_never_taken_for_verified() -> None:
    later = (3, "c", 3)
    rows = chain([("a", 1), ("b", 2)], OTHERS)
    rows.append((*later, link(OURS, rows[1][-1], later)))
    checkpoints = [signed(0, START, OTHERS), signed(2, rows[1][-1])]
    report = walk(rows, checkpoints)
    assert (report.ok, report.broken) == (False, None)
    assert (report.foreign, report.foreign_through, report.verified) == (2, 2, 1)


@pytest.mark.parametrize("log", LOGS)
def test_a_head_is_read_as_it_is_printed(log: Any) -> None:
    head = Head(log, 7, ROWS[0][-1])
    assert Head.parse(str(head)) == head
    assert Head.parse(f"7:{ROWS[0][-1].hex()}").log == "exchanges"


@pytest.mark.parametrize("text", ["", "1", "1:ab", f"x:1:{'00' * 32}", f"-1:{'00' * 32}", "a:b:c"])
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Head.parse(text)


# The file ----------------------------------------------------------------------------------------


def exchange(number: int, **changes: Any) -> ExchangeRecord:
    values = {"request_id": f"req_{number}", "started_ms": 1_000_000 + number}
    return records.exchange(**(values | changes))


def change(number: int) -> ChangeRecord:
    return ChangeRecord(
        at_ms=1_000_000 + number,
        actor="master",
        request_id=f"req_{number}",
        action="key.create",
        object=f"key:k{number}",
        after=json.dumps({"number": number}),
    )


FULL = exchange(
    1,
    **dict.fromkeys(("overhead_us", "first_byte_us", "counted", "attempts", "cost"), 3),
    **dict.fromkeys(("response_id", "provider", "deployment", "finish", "error_code"), "x\0é"),
    **dict.fromkeys(("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"), 9),
    **dict.fromkeys(("usage_source", "client", "request_digest", "response_digest"), "=y"),
    **dict.fromkeys(("cache_write_tokens", "reserved", "charged_ms", "corrects"), 7),
    **dict.fromkeys(("request_bytes", "response_bytes"), 2**40),
    **dict.fromkeys(("failures", "guards"), '[{"a": 1}]'),
)


async def opened(folder: Path, key: bytes = OURS) -> Store:
    store = await Store.open(folder / "anos.db", SQL, key)
    await upkeep.sign(store, now_ms=1)
    return store


async def fill(folder: Path, exchanges: int = 3, changes: int = 3) -> None:
    """A closed file with rows of both logs, the first exchange with every column."""
    store = await opened(folder)
    for number in range(1, exchanges + 1):
        await store.submit(Save(FULL if number == 1 else exchange(number)))
    for number in range(1, changes + 1):
        await store.submit(LogChange(change(number)))
    await store.close()


def tamper(folder: Path, *statements: str) -> None:
    connection = sqlite3.connect(folder / "anos.db")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


async def verified(folder: Path, key: bytes = OURS) -> list[Report]:
    store = await Store.open(folder / "anos.db", SQL, key)
    reports = await upkeep.verify(store, {})
    await store.close()
    return reports


COLUMNS = [
    *(f"exchanges.{name}" for name in ExchangeRecord.__struct_fields__[:-3]),
    *(f"changes.{name}" for name in ChangeRecord.__struct_fields__),
]


async def test_every_column_of_a_row_is_covered_by_its_digest(tmp_path: Path) -> None:
    await fill(tmp_path)
    assert [report.ok for report in await verified(tmp_path)] == [True, True]
    whole = (tmp_path / "anos.db").read_bytes()
    for log, name in (column.split(".") for column in COLUMNS):
        (tmp_path / "anos.db").write_bytes(whole)
        query = f"SELECT typeof({name}) FROM {log} WHERE seq = 1"
        connection = sqlite3.connect(tmp_path / "anos.db")
        kind = connection.execute(query).fetchone()[0]
        connection.close()
        value = f"{name} + 1" if kind == "integer" else f"coalesce({name}, '') || '!'"
        tamper(tmp_path, f"UPDATE {log} SET {name} = {value} WHERE seq = 1")
        (report,) = [report for report in await verified(tmp_path) if not report.ok]
        assert (report.log, report.broken and report.broken.seq) == (log, 1), name
    assert len(COLUMNS) == 35 + 7


async def test_a_file_from_before_the_digests_goes_on_with_them(tmp_path: Path) -> None:
    text = SQL.read_text(encoding="utf-8")
    (tmp_path / "one.sql").write_text(text[: text.index("-- migration 2")])
    connection = sqlite3.connect(tmp_path / "anos.db")
    connection.executescript(parse_schema((tmp_path / "one.sql").read_text()).migrations[0])
    connection.executescript(
        "PRAGMA user_version = 1;"
        "INSERT INTO exchanges (request_id, started_ms, duration_us, key, project, method, route,"
        " status) VALUES ('a', 1, 1, 'k', 'p', 'POST', '/', 200), ('b', 1, 1, 'k', 'p', 'GET', '/',"
        " 200);"
    )
    connection.close()
    await fill(tmp_path)
    report, _ = await verified(tmp_path)
    assert (report.ok, report.older, report.verified, report.last) == (True, 2, 3, 5)
    tamper(tmp_path, "INSERT INTO bodies VALUES (2, 1, x'7b7d', NULL)")
    report, _ = await verified(tmp_path)
    assert report.broken is not None
    assert (report.broken.seq, report.broken.why) == (2, "altered")
    tamper(tmp_path, "DELETE FROM bodies", "UPDATE exchanges SET digest = NULL")
    report, _ = await verified(tmp_path)
    assert report.broken is not None
    assert (report.broken.seq, report.broken.why) == (3, "altered")


async def test_under_another_secret_the_rows_before_it_are_not_verified_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(tmp_path)
    assert caplog.text == ""
    store = await opened(tmp_path, OTHERS)
    assert "exchanges up to row 3 verify only with the secret" in caplog.text
    assert fingerprint(OURS) in caplog.text
    await store.submit(Save(exchange(4)))
    await store.close()
    caplog.clear()
    await (await opened(tmp_path, OTHERS)).close()
    assert caplog.text == ""
    report, _ = await verified(tmp_path, OTHERS)
    assert (report.ok, report.foreign, report.foreign_through) == (False, 3, 3)
    assert (report.broken, report.verified) == (None, 1)


# Bodies ------------------------------------------------------------------------------------------


SAID = {"request": b'{"input": "Hi"}', "response": b'{"output": "Yes"}'}


def keeping(number: int, **bodies: bytes) -> ExchangeRecord:
    """An exchange of a key that keeps bodies."""
    kept = {f"{name}_body": body for name, body in bodies.items()}
    digests = {f"{name}_digest": sha256(body).hexdigest() for name, body in bodies.items()}
    return exchange(number, **kept, **digests)


async def fill_bodies(folder: Path, *rows: ExchangeRecord) -> None:
    store = await opened(folder)
    for record in rows:
        await store.submit(Save(record))
    await store.close()


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("UPDATE bodies SET request = x'00' WHERE seq = 2", "request"),
        ("UPDATE bodies SET response = x'' WHERE seq = 2", "answer"),
        ("UPDATE bodies SET request = response, response = request WHERE seq = 2", "request"),
        ("INSERT INTO bodies VALUES (2, 1, x'7b7d', NULL)", "request"),
        ("INSERT INTO bodies VALUES (2, 1, NULL, x'7b7d')", "answer"),
    ],
    ids=["request", "answer", "swapped", "request of a digest", "answer of a digest"],
)
async def test_a_body_that_is_not_the_one_of_its_row_is_named(
    tmp_path: Path, statement: str, word: str
) -> None:
    kept = keeping(2, **SAID)
    hashed = keeping(2, **SAID)
    hashed.request_body = hashed.response_body = None
    second = hashed if "INSERT" in statement else kept
    await fill_bodies(tmp_path, keeping(1, **SAID), second, keeping(3, **SAID))
    assert all(report.ok for report in await verified(tmp_path))
    tamper(tmp_path, statement)
    report, changes = await verified(tmp_path)
    assert report.broken is not None
    assert (report.ok, report.broken.seq, report.broken.why) == (False, 2, "altered")
    assert word in report.broken.sentence
    assert (report.verified, changes.ok) == (1, True)


@pytest.mark.parametrize(
    ("kept", "statement", "word"),
    [
        ({}, "INSERT INTO bodies VALUES (2, 1, x'7b7d', NULL)", "request"),
        ({}, "INSERT INTO bodies VALUES (2, 1, NULL, x'')", "answer"),
        ({"request": b"{}"}, "UPDATE bodies SET response = x'7b7d' WHERE seq = 2", "answer"),
        ({"response": b"{}"}, "UPDATE bodies SET request = x'7b7d' WHERE seq = 2", "request"),
    ],
    ids=["request", "answer", "answer beside", "request beside"],
)
async def test_a_body_that_its_row_knows_nothing_of_is_named(
    tmp_path: Path, kept: dict[str, bytes], statement: str, word: str
) -> None:
    await fill_bodies(tmp_path, exchange(1), keeping(2, **kept), exchange(3))
    assert all(report.ok for report in await verified(tmp_path))
    tamper(tmp_path, statement)
    report, changes = await verified(tmp_path)
    assert report.broken is not None
    assert (report.broken.seq, report.broken.why, report.verified) == (2, "altered", 1)
    assert report.broken.sentence == f"The body of the {word} of row 2 was added."
    assert changes.ok


async def test_of_an_altered_row_and_an_altered_body_the_first_is_named(tmp_path: Path) -> None:
    await fill_bodies(tmp_path, *(keeping(number, **SAID) for number in range(1, 6)))
    tamper(tmp_path, "UPDATE bodies SET request = x'00' WHERE seq = 3")
    tamper(tmp_path, "UPDATE exchanges SET status = 201 WHERE seq = 4")
    report, _ = await verified(tmp_path)
    assert report.broken is not None
    assert (report.broken.seq, report.broken.sentence) == (
        *(3, "The body of the request of row 3 was altered."),
    )
    tamper(tmp_path, "UPDATE exchanges SET status = 201 WHERE seq = 2")
    report, _ = await verified(tmp_path)
    assert report.broken is not None
    assert report.broken.seq == 2


async def test_a_body_that_is_gone_is_no_fault(tmp_path: Path) -> None:
    await fill_bodies(tmp_path, keeping(1, **SAID), keeping(2, **SAID), keeping(3, request=b""))
    tamper(tmp_path, "DELETE FROM bodies WHERE seq = 1")
    tamper(tmp_path, "UPDATE bodies SET request = NULL WHERE seq = 2")
    report, _ = await verified(tmp_path)
    assert (report.ok, report.verified) == (True, 3)


async def test_bodies_are_compared_a_few_at_a_time(tmp_path: Path) -> None:
    large = bytes(KEPT_BYTES)
    await fill_bodies(
        tmp_path, *(keeping(number, request=large, response=large) for number in range(1, 5))
    )
    store = await Store.open(tmp_path / "anos.db", SQL, OURS)
    verifier, steps = await store.read(partial(store_audit.walk, "exchanges", None)), []
    while await store.read(partial(store_audit.verify_page, verifier, 100)):
        steps.append(verifier.seq)
    await store.close()
    assert steps == [1, 2, 3]
    assert verifier.report().verified == 4


def test_what_cannot_be_found_names_bodies_sums_and_checkpoints_that_went_too() -> None:
    said = " ".join(UNDETECTABLE)
    for words in ("checkpoints that were made after them", "bodies that were removed", "sums"):
        assert words in said
        assert words in (ROOT / "docs" / "audit.md").read_text().replace("\n", " ")


# Export ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dangerous",
    [*("=1+1", "+1", "-1", "@x"), *map("{}x".format, "\t\r\n\0\uff1d\uff0b\uff0d\uff20")],
)
def test_a_cell_that_a_spreadsheet_would_run_is_text(dangerous: str) -> None:
    encoded = encode("csv", ["a", "b"], [(dangerous, "x")]).decode()
    (row,) = csv.reader(io.StringIO(encoded, newline=""))
    assert row == ["'" + dangerous, "x"]
    assert encode("csv", ["a"], [(dangerous,)]).lstrip(b'"').startswith(b"'")


def test_units_are_those_of_the_api() -> None:
    names = ["started_ms", "cost", "digest", "guards", "key"]
    rows = [(1_000, -1_500_000, b"\x01", '{"a": 1}', 'x,"\n'), (1, None, None, None, "")]
    lines = encode("jsonl", names, rows).splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "started_at": "1970-01-01T00:00:01Z",
            "cost_usd": -1.5,
            "digest": "01",
            "guards": {"a": 1},
            "key": 'x,"\n',
        },
        {
            "started_at": "1970-01-01T00:00:00.001Z",
            **dict.fromkeys(("cost_usd", "digest", "guards")),
            "key": "",
        },
    ]
    assert encode("csv", names, rows, heading=True).decode().split("\r\n") == [
        "started_at,cost_usd,digest,guards,key",
        '1970-01-01T00:00:01Z,-1.500000,01,"{""a"": 1}","x,""\n"',
        "1970-01-01T00:00:00.001Z,,,,",
        "",
    ]


@pytest.mark.parametrize("log", LOGS)
@settings(deadline=None)
@given(
    times=st.lists(st.integers(0, 9), max_size=12),
    span=st.tuples(st.integers(0, 9), st.integers(0, 10)),
    limit=st.integers(1, 5),
)
def test_an_export_has_each_row_of_its_time_once(
    log: Any, times: list[int], span: tuple[int, int], limit: int
) -> None:
    schema = parse_schema(SQL.read_text(encoding="utf-8"))
    connection = sqlite3.connect(":memory:")
    for migration in schema.migrations:
        connection.executescript(migration)
    names = {
        "exchanges": "started_ms, request_id, key, project, method, route, duration_us, status",
        "changes": "at_ms, request_id, actor, action, object, digest",
    }[log]
    others: list[Any] = ["r", "k", "p", "m", "r", 1, 1] if log == "exchanges" else [*"raao", b""]
    marks = ", ".join("?" * (2 + len(others)))
    for seq, at_ms in enumerate(times, 1):
        statement = f"INSERT INTO {log} (seq, {names}) VALUES ({marks})"
        connection.execute(statement, [seq, at_ms, *others])
    cursor, blocks = Cursor(log, "jsonl", *span), []
    while not cursor.at_end:
        blocks.append(export_page(cursor, limit, Statements(schema, OURS), connection))
    connection.close()
    got = [json.loads(line)["seq"] for line in b"".join(blocks).splitlines()]
    expected = [seq for seq, at_ms in enumerate(times, 1) if span[0] <= at_ms < span[1]]
    if log == "exchanges":
        expected.sort(key=lambda seq: (times[seq - 1], seq))
    assert got == expected


# Over HTTP ---------------------------------------------------------------------------------------

KEYS = {
    "keys": {
        "reader": {"key": "sk-reader", "models": ["*"], "role": "read-only"},
        "user": {"key": "sk-user", "models": ["*"], "bodies": "full"},
    }
}


def bearer(key: str) -> Json:
    return {"headers": {"Authorization": f"Bearer {key}"}}


async def test_what_the_gateway_writes_verifies(gateway) -> None:
    anos: Gateway = await gateway(KEYS | {"budgets": {"global": {"usd": 1, "window": "day"}}})
    for path in ("/v1/responses", "/v1/nothing", "/v1/responses/resp_1"):
        await anos.post(path, input="Hi")
        await anos.get(path)
    await anos.stream("/v1/responses", input="Hi")
    await anos.request(
        "POST", "/v1/responses", json={"model": "gpt-4", "input": "Hi"}, **bearer("sk-user")
    )
    await anos.request("POST", "/admin/integrity")
    body = (await anos.get("/admin/audit/verify")).body
    assert body["ok"] is True
    exchanges, changes = body["logs"]
    assert exchanges["verified"] >= 4
    assert changes["verified"] >= 1
    head = exchanges["head"]
    again = (await anos.get("/admin/audit/verify", head=head)).body["logs"]
    assert [log["compared"] for log in again] == ["same", None]
    assert body["not_detected"]


async def test_a_row_that_was_altered_under_the_running_gateway_is_reported(gateway) -> None:
    anos: Gateway = await gateway()
    for _ in range(3):
        await anos.post("/v1/responses", input="Hi")
    tamper(anos.database.parent, "UPDATE exchanges SET cost = 0, status = 201 WHERE seq = 2")
    body = (await anos.get("/admin/audit/verify")).body
    assert body["ok"] is False
    assert body["logs"][0]["broken"]["seq"] == 2
    assert body["logs"][0]["broken"]["why"] == "altered"
    assert body["logs"][1]["ok"] is True


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("form", ["jsonl", "csv"])
async def test_an_export_is_streamed_in_either_format(gateway, log: str, form: str) -> None:
    anos: Gateway = await gateway()
    for _ in range(3):
        await anos.post("/admin/integrity")
    reply = await anos.get("/admin/audit/export", log=log, format=form)
    assert reply.status == 200
    assert f"{log}.{form}" in reply.headers["Content-Disposition"]
    assert reply.headers["x-request-id"]
    text = reply.raw.decode()
    if form == "csv":
        rows: Any = list(csv.DictReader(text.splitlines()))
    else:
        rows = [json.loads(line) for line in text.splitlines()]
    assert [int(row["seq"]) for row in rows][:2] == [1, 2]


async def test_an_export_in_many_pages_misses_nothing_and_ends_where_it_is_told(gateway) -> None:
    anos: Gateway = await gateway()
    store, now_ms = anos.app[GATEWAY].store, time.time_ns() // 1_000_000
    rows = [exchange(number, started_ms=now_ms - 2000 + number) for number in range(1100)]
    await asyncio.gather(*[store.submit(Save(row)) for row in rows])
    until = iso(now_ms - 900)
    text = (await anos.get("/admin/audit/export", until=until)).raw.decode()
    seqs = [json.loads(line)["seq"] for line in text.splitlines()]
    assert seqs == list(range(1, 1101))
    since = iso(now_ms - 1500)
    text = (await anos.get("/admin/audit/export", since=since, until=until)).raw.decode()
    assert len(text.splitlines()) == 600


async def test_changes_are_listed_newest_first_page_by_page(gateway) -> None:
    anos: Gateway = await gateway()
    for _ in range(3):
        assert (await anos.request("POST", "/admin/integrity")).status == 200
    first = (await anos.get("/admin/changes", limit=2)).body
    assert [row["seq"] for row in first["data"]] == [3, 2]
    assert (first["object"], first["has_more"]) == ("list", True)
    second = (await anos.get("/admin/changes", limit=2, after=first["next"])).body
    assert [row["seq"] for row in second["data"]] == [1]
    assert (second["has_more"], second["next"]) == (False, None)
    (row,) = second["data"]
    assert (row["actor"], row["action"], row["object"]) == ("master", "integrity.check", "database")
    assert (row["before"], row["after"]) == (None, {"ok": True, "problems": []})
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", row["at"])
    assert (await anos.get("/admin/changes", object="key:none")).body["data"] == []


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/admin/audit/verify?head=1:ab", "head"),
        ("/admin/audit/verify?page=1", "page"),
        (f"/admin/audit/verify?head=1:{'00' * 32}&head=exchanges:2:{'00' * 32}", "head"),
        ("/admin/audit/export?log=changes&log=changes", "log"),
        ("/admin/changes?limit=00000000000000000001", "limit"),
        ("/admin/audit/export?format=xml", "format"),
        ("/admin/audit/export?log=keys", "log"),
        ("/admin/audit/export?since=yesterday", "since"),
        ("/admin/changes?limit=0", "limit"),
        ("/admin/changes?after=x", "after"),
        ("/admin/changes?actor=x", "actor"),
    ],
)
async def test_a_parameter_that_is_wrong_is_named(gateway, path: str, param: str) -> None:
    reply = await (await gateway()).get(path)
    assert (reply.status, reply.error["param"]) == (400, param)


@pytest.mark.parametrize("path", ["audit/verify", "audit/export", "changes"])
async def test_who_may_look_may_not_change_and_a_users_key_may_neither(gateway, path: str) -> None:
    anos: Gateway = await gateway(KEYS)
    assert (await anos.request("GET", f"/admin/{path}", **bearer("sk-reader"))).status == 200
    assert (await anos.request("GET", f"/admin/{path}", **bearer("sk-user"))).status == 403
    for work in ("backup", "integrity"):
        assert (await anos.request("POST", f"/admin/{work}", **bearer("sk-reader"))).status == 403


async def test_one_walk_at_a_time(gateway) -> None:
    anos: Gateway = await gateway()
    store = anos.app[GATEWAY].store
    await asyncio.gather(*[store.submit(Save(exchange(number))) for number in range(3000)])
    walks = [anos.get("/admin/audit/verify") for _ in range(2)]
    replies = sorted(await asyncio.gather(*walks), key=lambda reply: reply.status)
    assert [reply.status for reply in replies] == [200, 400]
    assert replies[1].error["code"] == "conflict"
    assert (await anos.get("/admin/audit/verify")).status == 200


# From a shell ------------------------------------------------------------------------------------


def command(folder: Path, *arguments: str) -> int:
    def serve(config: Config, load: Callable[[], Config], file: Path | None) -> None:
        raise AssertionError

    return cli.main(["--database", str(folder / "anos.db"), *arguments], serve)


@pytest.fixture
async def filled(tmp_path: Path) -> Path:
    """A folder with the file of a gateway that has stopped, and its secret."""
    key = secret.derive(secret.load(Server(database=str(tmp_path / "anos.db"))), "audit")
    store = await opened(tmp_path, key)
    for number in range(1, 4):
        await store.submit(Save(exchange(number)))
        await store.submit(LogChange(change(number)))
    await store.close()
    return tmp_path


def test_verify_says_what_it_found_and_what_it_cannot_find(filled: Path, capsys) -> None:
    assert command(filled, "audit", "verify") == 0
    said = capsys.readouterr().out
    assert "exchanges: ok: 3 rows verified" in said
    assert "changes: ok: 3 rows verified" in said
    assert "No check of the file can find:" in said
    tamper(filled, "DELETE FROM changes WHERE seq = 2")
    assert command(filled, "audit", "verify") == 1
    said = capsys.readouterr().out
    assert "changes: BROKEN: 1 rows verified\n  Rows before row 3 are missing." in said


def test_a_head_that_was_noted_is_looked_for(filled: Path, capsys) -> None:
    assert command(filled, "audit", "head") == 0
    heads = capsys.readouterr().out.split()
    assert [head.split(":")[:2] for head in heads] == [["exchanges", "3"], ["changes", "3"]]
    assert command(filled, "audit", "verify", "--head", heads[0], "--head", heads[1]) == 0
    assert capsys.readouterr().out.count("It contains the head") == 2
    assert command(filled, "audit", "verify", "--head", heads[0].removeprefix("exchanges:")) == 0
    tamper(filled, "DELETE FROM exchanges WHERE seq = 3")
    assert command(filled, "audit", "verify") == 0
    assert command(filled, "audit", "verify", "--head", heads[0]) == 1
    assert command(filled, "audit", "verify", "--head", "nonsense") == 2


def test_an_export_goes_to_a_new_file_or_is_printed(filled: Path, capsysbinary) -> None:
    file = filled / "log.csv"
    arguments = ("audit", "export", "--log", "changes", "--format", "csv", "--output", str(file))
    assert command(filled, *arguments) == 0
    assert file.read_text().count("\n") == 4
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(SystemExit, match=r"/log\.csv: File exists$"):
        command(filled, *arguments)
    with pytest.raises(SystemExit, match=r"/none/log\.csv: No such file or directory$"):
        command(filled, *arguments[:-1], str(filled / "none" / "log.csv"))
    assert command(filled, "audit", "export", "--since", "1970-01-01T00:16:40.002Z") == 0
    lines = capsysbinary.readouterr().out.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [2, 3]
    assert command(filled, "audit", "export", "--until", "never") == 2


@pytest.mark.parametrize("words", ["audit export", "audit head", "check --json-schema"])
def test_who_reads_what_is_printed_may_leave(filled: Path, words: str) -> None:
    with subprocess.Popen(
        [sys.executable, str(ROOT / "anos_gateway.py"), *words.split(), "--database", "anos.db"],
        cwd=filled,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(30)) == (b"", 0)


@pytest.mark.parametrize("words", ["audit verify", "audit export", "audit check", "backup copy"])
def test_nothing_is_left_beside_a_file_that_nobody_has_open(
    filled: Path, monkeypatch, words: str
) -> None:
    monkeypatch.chdir(filled)
    before = {file.name: file.read_bytes() for file in filled.iterdir()}
    assert before.keys() == {"anos.db", "anos.db.key"}
    assert command(filled, *words.split()) == 0
    after = {file.name: file.read_bytes() for file in filled.iterdir() if file.name != "copy"}
    assert after == before


def test_what_a_crash_left_in_the_log_is_read_and_stays_there(filled: Path, capsys) -> None:
    with sqlite3.connect(filled / "anos.db") as writing:
        writing.execute("UPDATE exchanges SET cost = 5 WHERE seq = 3")
    for suffix in ("", "-wal"):
        (filled / f"crashed.db{suffix}").write_bytes((filled / f"anos.db{suffix}").read_bytes())
    writing.close()
    log = (filled / "crashed.db-wal").read_bytes()
    (filled / "crashed.db.key").write_bytes((filled / "anos.db.key").read_bytes())
    assert command(filled, "audit", "verify", "--database", str(filled / "crashed.db")) == 1
    assert "exchanges: BROKEN: 2 rows verified" in capsys.readouterr().out
    assert (filled / "crashed.db-wal").read_bytes() == log


def test_an_option_that_would_be_ignored_is_refused(filled: Path, capsys) -> None:
    assert command(filled, "audit", "verify", "--format", "csv") == 2
    assert command(filled, "audit", "export", "--head", "1:ab") == 2
    assert "takes no --head" in capsys.readouterr().err


def test_what_cannot_be_verified_is_said_in_a_sentence(filled: Path, tmp_path: Path) -> None:
    (filled / "anos.db.key").unlink()
    with pytest.raises(SystemExit, match="There is no secret"):
        command(filled, "audit", "verify")
    assert not (filled / "anos.db.key").exists()
    (filled / "anos.db.key").write_text("short")
    with pytest.raises(SystemExit, match="holds no secret"):
        command(filled, "audit", "verify")
    tamper(filled, "PRAGMA user_version = 1")
    with pytest.raises(SystemExit, match="of version 1"):
        command(filled, "audit", "head")
    (filled / "anos.db").unlink()
    for action in ("head", "check"):
        with pytest.raises(SystemExit, match="cannot be used"):
            command(filled, "audit", action)
    assert not (filled / "anos.db").exists()


async def test_rows_of_another_secret_are_told_from_broken_ones(filled: Path, capsys) -> None:
    (filled / "anos.db.key").write_text("another secret of enough characters\n")
    key = secret.derive(secret.load(Server(database=str(filled / "anos.db"))), "audit")
    await (await opened(filled, key)).close()
    assert command(filled, "audit", "verify") == 1
    said = capsys.readouterr().out
    assert "exchanges: NOT VERIFIED: 0 rows verified" in said
    assert "3 rows, up to 3, verify only with the secret they were written under" in said


async def test_the_commands_of_the_page_work_beside_a_running_gateway(process, tmp_path) -> None:
    anos = await process(None)
    await anos.post("/v1/responses", input="Hi")
    text = (ROOT / "docs" / "audit.md").read_text()
    commands = re.findall(r"^\.venv/bin/python anos_gateway\.py (.+)$", text, re.M)
    assert len(commands) >= 6
    for line in commands:
        words = line.partition(" #")[0].split()
        words = [word for word in words if word not in ("\\",)]
        run = partial(
            subprocess.run,
            [sys.executable, str(ROOT / "anos_gateway.py"), *words, "--database", "process.db"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if "SEQ:HEX" in line or "LOG:" in line:
            continue
        ended = await asyncio.to_thread(run)
        assert ended.returncode == 0, ended
