"""A ledger of 10,000,000 exchanges: how long operators' questions, and its upkeep, take on it.

    .venv/bin/python bench/big_ledger.py                  # builds it first: minutes, and 7 GB
    .venv/bin/python bench/big_ledger.py --rows 20000     # a small one: seconds

The database is kept in --folder, and used again where it is there already.
"""

import argparse
import http.client
import json
import os
import signal
import sqlite3
import sys
import tempfile
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from statistics import median, quantiles
from time import perf_counter, time_ns
from typing import Any
from urllib.parse import urlencode

import uvloop
from load import Load, body
from quick import BENCH, CPUS, KEY, Process

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from anos import secret  # noqa: E402
from anos.audit import START, link  # noqa: E402
from anos.config_sections import Server  # noqa: E402
from anos.statements import Statements, parse_schema  # noqa: E402
from anos.store_file import prepare  # noqa: E402
from anos.store_ledger import QUARTER_MS, insert_rows  # noqa: E402

DAY_MS = 86_400_000
DAYS = 90
SECRET = "the-secret-of-a-ledger-that-is-only-measured"
OPERATOR = "sk-operator"
KEYS, PROJECTS = 50, 10
# Model to dollars per million tokens of input and of output.
MODELS = {"fast": (1, 4), "large": (5, 20), "mock": (2, 8), "small": (0.1, 0.4)}
_TRANSACTION_ROWS = 50_000
# Status, error code and how the response ended, with how many of a hundred end so.
_ENDS = (
    (200, None, "completed", 97),
    (429, "429", None, 1),
    (499, "client_left", "cancelled", 1),
    (502, "upstream_error", None, 1),
)


def configuration(base_url: str, audit_days: int) -> dict[str, Any]:
    """The gateway's: the keys, projects and models that the ledger is of."""
    return {
        "server": {"secret": SECRET, "master_key": OPERATOR},
        "providers": {"mock": {"dialect": "responses", "base_url": base_url, "api_key": "sk-up"}},
        "models": {
            name: {
                "routes": [{"provider": "mock"}],
                "price": {"input_per_million_usd": read, "output_per_million_usd": written},
            }
            for name, (read, written) in MODELS.items()
        },
        "projects": {f"project-{number}": {} for number in range(PROJECTS)},
        "keys": {
            f"key-{number:02}": {
                "key": f"sk-bench-{number:02}",
                "project": f"project-{number % PROJECTS}",
            }
            for number in range(KEYS)
        }
        | {"bench": {"key": KEY}},
        "retention": {"audit_days": audit_days},
    }


class Rows:
    """Makes the rows of a ledger in the order of time, each linked to the one before.

    `add` appends them to `exchanges` and their sums to `spend`, as the store's writer would.
    """

    def __init__(self, sql: Statements) -> None:
        self.exchanges: list[tuple[Any, ...]] = []
        self.spend: dict[tuple[int, str, str, str], list[int]] = {}
        self._secret = sql.secret
        self._digest = START
        self._at = {name: place for place, name in enumerate(sql.exchanges.columns)}
        self._random = Random(1)
        self._ends = [end[:3] for end in _ENDS for _ in range(end[3])]
        self._templates = [self._template(key, model) for key in range(KEYS) for model in MODELS]

    def add(self, seq: int, started_ms: int) -> None:
        """One more exchange."""
        chance, at = self._random.random, self._at
        template, rates = self._templates[int(chance() * len(self._templates))]
        row = template.copy()
        status, code, finish = self._ends[int(chance() * 100)]
        inputs = outputs = cost = 0
        row[at["seq"]] = seq
        row[at["request_id"]] = f"req_{started_ms:012x}{seq:016x}"
        row[at["started_ms"]] = started_ms
        row[at["duration_us"]] = 200_000 + int(chance() * 3_000_000)
        row[at["status"]], row[at["error_code"]], row[at["finish"]] = status, code, finish
        if finish is not None:
            inputs, outputs = 50 + int(chance() * 4000), 10 + int(chance() * 900)
            cost = (inputs * rates[0] + outputs * rates[1] + 999_999) // 1_000_000
            row[at["response_id"]] = f"resp_{started_ms:012x}{seq:016x}"
            row[at["input_tokens"]], row[at["output_tokens"]] = inputs, outputs
            row[at["cost"]], row[at["charged_ms"]] = cost, started_ms
        values = tuple(row[:-1])
        self._digest = link(self._secret, self._digest, values)
        self.exchanges.append((*values, self._digest))
        owner = (
            started_ms - started_ms % QUARTER_MS,
            row[at["key"]],
            row[at["project"]],
            row[at["model"]],
        )
        total = self.spend.get(owner)
        if total is None:
            total = self.spend[owner] = [0] * 7
        total[0] += 1
        total[1] += status >= 400
        total[2] += inputs
        total[4] += outputs
        total[6] += cost

    def _template(self, key: int, model: str) -> tuple[list[Any], tuple[int, int]]:
        values: dict[str, Any] = {
            "overhead_us": 900,
            "key": f"key-{key:02}",
            "project": f"project:project-{key % PROJECTS}",
            "method": "POST",
            "route": "/v1/responses" if key % 5 else "/v1/chat/completions",
            "model": model,
            "provider": "mock",
            "deployment": model,
            "usage_source": "upstream",
            "client": f"{key:016x}",
            "first_byte_us": 150_000,
            "counted": 1,
            "attempts": 1,
            "guards": '[{"guard":"keywords","direction":"input","action":"pass","texts":2,'
            '"bytes":412,"us":11}]',
            "request_bytes": 640,
            "response_bytes": 1480,
        }
        read, written = MODELS[model]
        rates = (round(read * 1_000_000), round(written * 1_000_000))
        return [values.get(name) for name in self._at], rates


def build(database: Path, rows: int, now_ms: int) -> float:
    """Write a ledger of so many exchanges in the days before `now_ms`; the seconds it took."""
    begun = perf_counter()
    schema = parse_schema((ROOT / "store.sql").read_text())
    root = secret.load(Server(database=str(database), secret=SECRET))
    sql = Statements(schema, secret.derive(root, "audit"))
    made = Rows(sql)
    with closing(sqlite3.connect(database, isolation_level=None)) as conn:
        prepare(schema, "normal", conn)
        # Nobody else looks at it, and what a crash leaves of it is thrown away.
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -262144"):
            conn.execute(f"PRAGMA {pragma}")
        first_ms, step = int(now_ms - DAYS * DAY_MS), DAYS * DAY_MS / rows
        for start in range(0, rows, _TRANSACTION_ROWS):
            for number in range(start, min(start + _TRANSACTION_ROWS, rows)):
                made.add(number + 1, first_ms + int(number * step))
            conn.execute("BEGIN")
            insert_rows(conn, sql.exchanges, made.exchanges)
            insert_rows(conn, sql.spend, [(*owner, *total) for owner, total in made.spend.items()])
            conn.execute("COMMIT")
            made.spend.clear()
        conn.execute("PRAGMA journal_mode = WAL")
    return perf_counter() - begun


# Its name, the path, the query; and whether it is of one day, which is to take 300 ms at most.
Question = tuple[str, str, dict[str, Any], bool]

MOST_MS = 300
_TIMES = 5
_CLIENTS = 8
# A day goes in small steps, with pauses: it takes half a minute.
_MOST_WINDOWS = 100
_LINE = "{:46}{:>10}{:>10}{:>10}{:>8}".format


class Bench:
    """A ledger that is there, and the gateways that are started on it one after another."""

    def __init__(self, stack: ExitStack, folder: Path, database: Path, seconds: float) -> None:
        self.is_slow = False
        self._folder, self._database, self._seconds = folder, database, seconds
        self._upstream = Process(stack, folder, 1, BENCH / "mock_upstream.py", "PORT")
        (self._first_ms,), (self._last_ms,) = (
            self._read(f"SELECT started_ms FROM exchanges ORDER BY seq {order} LIMIT 1")
            for order in ("ASC", "DESC")
        )

    def gateway(self, stack: ExitStack, audit_days: int) -> Process:
        """A gateway on the ledger; it begins at once to remove what is older than its days."""
        url = f"http://127.0.0.1:{self._upstream.port}/v1"
        tree = configuration(url, audit_days)
        (self._folder / "ledger.json").write_text(json.dumps(tree))
        options = ("--config=ledger.json", "--port=PORT", f"--database={self._database}")
        return Process(stack, self._folder, 0, ROOT / "anos_gateway.py", *options)

    def ask(self, gateway: Process) -> None:
        """Print how long each question takes."""
        print(_LINE("question", "ms", "worst ms", "rows", ""))
        for name, path, query, is_day in self._questions():
            times_ms, rows = [], 0
            for _ in range(_TIMES):
                begun = perf_counter()
                answer = _answer(gateway.port, path, query)
                times_ms.append((perf_counter() - begun) * 1e3)
                rows = len(answer.get("data", ())) if isinstance(answer, dict) else len(answer)
            slow = is_day and median(times_ms) > MOST_MS
            self.is_slow = self.is_slow or slow
            figures = (f"{median(times_ms):.1f}", f"{max(times_ms):.1f}", str(rows))
            print(_LINE(name, *figures, "SLOW" if slow else ""))

    def load(self, gateway: Process, name: str, until_ms: int | None = None) -> None:
        """Print how long calls take, for one window or until everything before a time is gone."""
        times_s: list[float] = []
        begun = perf_counter()
        for _ in range(_MOST_WINDOWS):
            load = Load(gateway.port, KEY, body("mock"), stream=False)
            uvloop.run(load.run(_CLIENTS, self._seconds, list))
            times_s += load.times_s
            if load.faults:
                sys.exit(f"{name}: {dict(load.faults)}")
            if until_ms is None or self._oldest_ms() >= until_ms:
                break
        else:
            sys.exit(f"{name}: not done in {perf_counter() - begun:.0f} s")
        cuts = quantiles(times_s, n=1000)
        figures = [f"{value * 1e3:.1f}" for value in (cuts[499], cuts[989], max(times_s))]
        took = f"{perf_counter() - begun:.0f} s"
        print(_LINE(f"{name}, {len(times_s):,} calls", *figures, took))

    def prune(self) -> None:
        """Print what the removal of the oldest day does to calls."""
        now_ms = time_ns() // 1_000_000
        days = (now_ms - self._first_ms) // DAY_MS - 1
        with ExitStack() as stack:
            gateway = self.gateway(stack, max(1, days))
            self.load(gateway, "while a day is removed", now_ms - max(1, days) * DAY_MS)

    def _oldest_ms(self) -> int:
        oldest: int = self._read("SELECT started_ms FROM exchanges ORDER BY seq LIMIT 1")[0]
        return oldest

    def _read(self, query: str) -> Any:
        with closing(sqlite3.connect(self._database)) as reader:
            return reader.execute(query).fetchone()

    def _questions(self) -> list[Question]:
        day = {"since": _iso(self._last_ms - DAY_MS), "until": _iso(self._last_ms)}
        hour = {"since": _iso(self._last_ms - DAY_MS // 24)}
        month = {"since": _iso(self._last_ms - 30 * DAY_MS), "group_by": "day"}
        all_of_it = {"since": _iso(self._first_ms), "group_by": "project,month"}
        dates = {"start_date": day["since"][:10], "end_date": day["until"][:10]}
        one = {"status": "502", "key": "key-07", "model": "large"}
        oldest = self._read("SELECT request_id FROM exchanges ORDER BY seq LIMIT 1")[0]
        spend, found = "/admin/spend", "/admin/requests"
        return [
            ("spend of a day", spend, day | {"group_by": ""}, True),
            ("... by key", spend, day | {"group_by": "key"}, True),
            ("... by key, model and hour", spend, day | {"group_by": "key,model,hour"}, True),
            ("... of one key by hour", spend, day | {"key": "key-07", "group_by": "hour"}, True),
            ("spend of 30 days by day", spend, month, False),
            ("spend of 90 days by project and month", spend, all_of_it, False),
            ("requests of a day", found, day, True),
            ("... that failed upstream", found, day | {"status": "5xx"}, True),
            ("... of those one key's of one model", found, day | one, True),
            ("... none found", found, day | {"status": "418"}, True),
            ("requests of 90 days, none found: one page", found, {"status": "418"}, False),
            ("the oldest request, in full", f"{found}/{oldest}", {}, True),
            ("stored responses", "/admin/responses", {}, True),
            ("/spend/logs of two dates", "/spend/logs", dates, False),
            ("/global/spend/keys", "/global/spend/keys", {}, False),
            ("recompute of an hour", "/admin/spend/recompute", hour, False),
        ]


def _answer(port: int, path: str, query: dict[str, Any]) -> Any:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as client:
        headers = {"Authorization": f"Bearer {OPERATOR}"}
        if path.endswith("/recompute"):
            client.request("POST", path, json.dumps(query), headers)
        else:
            client.request("GET", f"{path}?{urlencode(query)}" if query else path, None, headers)
        reply = client.getresponse()
        text = reply.read()
        if reply.status != 200:
            sys.exit(f"{path}: {text.decode()}")
        return json.loads(text)


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()


def _rows(database: Path) -> int:
    """How many rows the ledger there has; 0 if there is none."""
    if not database.exists():
        return 0
    with closing(sqlite3.connect(database)) as reader:
        rows: int = reader.execute("SELECT coalesce(max(seq), 0) FROM exchanges").fetchone()[0]
        return rows


def main() -> int:
    """The command line; 1 if a question of one day took too long."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "big-ledger"))
    parser.add_argument("--seconds", type=float, default=5.0, help="of each window of load")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    options.folder.mkdir(parents=True, exist_ok=True)
    database = options.folder / "ledger.db"
    if _rows(database) < options.rows:
        for path in options.folder.glob("ledger.db*"):
            path.unlink()
        took_s = build(database, options.rows, time_ns() // 1_000_000)
        print(f"built {options.rows:,} rows in {took_s:.0f} s")
    print(f"{database.stat().st_size / 1e9:.2f} GB")
    os.sched_setaffinity(0, {CPUS[1 % len(CPUS)]})
    with ExitStack() as stack:
        bench = Bench(stack, options.folder, database, options.seconds)
        with ExitStack() as inner:
            gateway = bench.gateway(inner, 36_500)
            bench.ask(gateway)
            print("\n" + _LINE(f"{_CLIENTS} clients", "p50 ms", "p99 ms", "most ms", "took"))
            bench.load(gateway, "while nothing is removed")
        bench.prune()
    return 1 if bench.is_slow else 0


if __name__ == "__main__":
    sys.exit(main())
