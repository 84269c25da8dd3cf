"""A small measurement of what the gateway costs beside a plain reverse proxy; see README.md."""

import argparse
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from random import randrange
from statistics import median, quantiles
from time import perf_counter, process_time, sleep

import uvloop
from load import CHUNKS, Load, body, fault

BENCH = Path(__file__).parent
KEY, PHRASE = "sk-bench", "a phrase that is in no prompt"
LIMIT = {"requests_per_minute": 1_000_000}  # counted for every request, never reached
PROXY = (BENCH / "plain_proxy.py", "PORT")
OPTIONS = ("--config=bench.json", "--host=127.0.0.1", "--port=PORT", "--database=PORT.db")
GATEWAY = (BENCH.parent / "anos_gateway.py", *OPTIONS)
START_S, STOP_S = 30.0, 15.0
CPUS = sorted(os.sched_getaffinity(0))
# What is compared, and the model it is asked for; the first is the reference.
LANES = (("plain proxy", "mock"), ("gateway", "mock"), ("gateway, chat-only upstream", "chat"))
# What is counted, whether it is streamed, how many are in one reply, how many clients ask at once.
KINDS = (("request", False, 1, 64), ("chunk", True, CHUNKS, 32))
LINE = "{:28}{:>15}{:>8}{:>8}{:>13}{:>9}{:>9}{:>11}".format


class Process:
    """A program that answers POST /v1/responses on a port of its own; up once it is made."""

    def __init__(self, stack: ExitStack, folder: Path, cpu: int, *words: str | Path) -> None:
        self.port = _free_port()
        command = [sys.executable, *(str(word).replace("PORT", str(self.port)) for word in words)]
        options = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": str(BENCH.parent / "tests")}}
        log = folder / f"{self.port}.log"
        begun = perf_counter()
        with log.open("w") as file:
            self._child = subprocess.Popen(command, stdout=file, stderr=file, **options)
        stack.callback(self._stop)
        os.sched_setaffinity(self._child.pid, {CPUS[cpu % len(CPUS)]})
        while not self._is_up():
            if perf_counter() - begun > START_S or self._child.poll() is not None:
                sys.exit(f"{command} did not start: {log.read_text()[-2000:]}")
            sleep(0.005)
        self.start_s = perf_counter() - begun
        sizes = [text.split("VmRSS:")[1].split()[0] for text in self._read("status")]
        self.idle_mb = sum(map(int, sizes)) / 1024

    def _is_up(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            return not fault(*self.ask(body("mock"))[:2])
        return False

    def ask(self, request: bytes, key: str = KEY) -> tuple[int, bytes, str | None]:
        """Status and body of one reply, and the rate limit it tells."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)) as client:
            client.request("POST", "/v1/responses", request, headers)
            reply = client.getresponse()
            return reply.status, reply.read(), reply.getheader("x-ratelimit-limit-requests")

    def cpu_s(self) -> float:
        """The run time of all threads of the process and its children, as the scheduler counts."""
        return sum(int(text.split()[0]) for text in self._read("task/*/schedstat")) / 1e9

    def _read(self, pattern: str) -> list[str]:
        pids, texts = [str(self._child.pid)], []
        for pid in pids:  # grows by the children
            for path in Path("/proc", pid).glob("task/*/children"):
                pids += _text(path).split()
            texts += [_text(path) for path in Path("/proc", pid).glob(pattern)]
        return [text for text in texts if text]

    def _stop(self) -> None:
        self._child.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(STOP_S)
        self._child.kill()
        self._child.wait()


def _free_port() -> int:
    """From below those that outgoing connections take: it has to stay free until it is used."""
    while True:
        port = randrange(15_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _text(path: Path) -> str:
    with suppress(OSError):  # the thread has ended since it was listed
        return path.read_text()
    return ""


class Bench:
    """Rounds of fresh processes, what was measured of them, and what went wrong."""

    def __init__(self, stack: ExitStack, folder: Path, seconds: float) -> None:
        self.faults: Counter[str] = Counter()
        self._rows: dict[tuple[str, str], list[list[float]]] = defaultdict(list)  # one a round
        self._starts: dict[str, list[list[float]]] = defaultdict(list)
        self._folder, self._seconds = folder, seconds
        self._mock = Process(stack, folder, 1, BENCH / "mock_upstream.py", "PORT")
        self._upstream = f"http://127.0.0.1:{self._mock.port}"
        (folder / "bench.json").write_text(json.dumps(configuration(f"{self._upstream}/v1")))

    def round(self, number: int) -> None:
        """Measure every lane once, in the order that is this round's turn."""
        with ExitStack() as stack:
            proxy = Process(stack, self._folder, 0, *PROXY, self._upstream)
            gateway = Process(stack, self._folder, 0, *GATEWAY)
            self._starts["plain proxy"].append([proxy.start_s, proxy.idle_mb])
            self._starts["gateway"].append([gateway.start_s, gateway.idle_mb])
            self._check_refusals(gateway)
            good = 0
            for kind in KINDS:
                for at in range(len(LANES)):
                    lane = LANES[(at + number) % len(LANES)]
                    target = proxy if lane is LANES[0] else gateway
                    good += self._measure(lane, target, kind) * (target is gateway)
        self._check_rows(self._folder / f"{gateway.port}.db", good)

    def _measure(
        self, lane: tuple[str, str], target: Process, kind: tuple[str, bool, int, int]
    ) -> int:
        (name, model), (unit, streamed, units, clients) = lane, kind
        load = Load(target.port, KEY, body(model, stream=streamed), stream=streamed)

        def sample() -> list[float]:
            return [perf_counter(), target.cpu_s(), process_time() + self._mock.cpu_s()]

        try:
            window_s, cpu_s, load_s = uvloop.run(load.run(clients, self._seconds, sample))
        except OSError as exc:
            sys.exit(f"{name}: {exc}; {dict(self.faults)}")
        self.faults.update({f"{name}, {unit}, {what}": n for what, n in load.faults.items()})
        if len(load.times_s) < 2:
            sys.exit(f"{name} gave no replies to measure: {dict(self.faults)}")
        count, cuts = len(load.times_s) * units, quantiles(load.times_s, n=100)
        times_ms = [cuts[49] * 1e3, cuts[98] * 1e3]
        row = [cpu_s / count * 1e6, count / window_s, *times_ms, load_s / window_s]
        self._rows[unit, name].append(row)
        return load.good

    def _check_refusals(self, gateway: Process) -> None:
        """Keys, the limit and the keywords are on."""
        for key, prompt, expected in (
            ("sk-wrong", "Hello", (401, None)),
            (KEY, f"This is {PHRASE}.", (400, str(LIMIT["requests_per_minute"]))),
        ):
            status, _, limit = gateway.ask(body("mock", user=prompt), key)
            if (status, limit) != expected:
                self.faults[f"{status} with the limit {limit} instead of {expected}"] += 1

    def _check_rows(self, database: Path, good: int) -> None:
        """Every good reply is stored and has its exchange row."""
        with closing(sqlite3.connect(database)) as reader:
            for table, status in (("responses", "completed"), ("exchanges", 200)):
                query = f"SELECT count(*) FROM {table} WHERE status = ?"
                (rows,) = reader.execute(query, (status,)).fetchone()
                if rows < good:
                    self.faults[f"good replies that are not in {table}"] += good - rows

    def report(self) -> None:
        """Print the medians of all rounds, and how far the rounds lie apart."""
        for unit, _, _, clients in KINDS:
            heads = (f"CPU us/{unit}", "spread", "ratio", f"{unit}s/s", "p50 ms", "p99 ms")
            print("\n" + LINE(f"{clients} clients", *heads, "load CPU"))
            for name, _ in LANES:
                cpu_us, *rest = zip(*self._rows[unit, name], strict=True)
                rate, p50_ms, p99_ms, core = map(median, rest)
                cost, reference = median(cpu_us), self._rows[unit, LANES[0][0]]
                spread = f"{(max(cpu_us) - min(cpu_us)) / cost:.0%}"
                ratio = f"{cost / median(row[0] for row in reference):.2f}"
                speed = (f"{rate:,.0f}", f"{p50_ms:.1f}", f"{p99_ms:.1f}", f"{core:.0%}")
                print(LINE(name, f"{cost:.1f}", spread, ratio, *speed))
        print("\n" + LINE("start", "first reply s", "idle MB", *[""] * 5).rstrip())
        for name, rows in self._starts.items():
            start_s, idle_mb = map(median, zip(*rows, strict=True))
            print(LINE(name, f"{start_s:.2f}", f"{idle_mb:.0f}", *[""] * 5).rstrip())


def configuration(base_url: str) -> dict[str, object]:
    """The gateway's, with everything on that a request can meet."""
    dialects = {"mock": "responses", "chat": "chat"}
    provider = {"base_url": base_url, "api_key": "sk-upstream"}
    return {
        "providers": {name: {"dialect": kind, **provider} for name, kind in dialects.items()},
        "models": {name: {"routes": [{"provider": name}]} for name in dialects},
        "projects": {"bench": {}},
        "keys": {"bench": {"key": KEY, "limits": "bench", "project": "bench"}},
        "limits": {"bench": LIMIT, "global": LIMIT},
        "guards": {"keywords": {"phrases": [PHRASE, *(f"codename {n}" for n in range(100))]}},
    }


def main() -> int:
    """The command line; 1 if any reply was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each of a round's 6 windows")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    os.sched_setaffinity(0, {CPUS[1 % len(CPUS)]})
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bench = Bench(stack, Path(folder), options.seconds)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            bench.round(number)
    bench.report()
    for what, count in bench.faults.items():
        print(f"FAULT {what}: {count}")
    return 1 if bench.faults else 0


if __name__ == "__main__":
    sys.exit(main())
