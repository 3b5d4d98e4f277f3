"""Several sidecars on one PostgreSQL database: evaluations per second and processor time, beside those of one.

    python -m benchmarks.sidecars
    python -m benchmarks.sidecars --sidecars 1,2,4,8 --connections 32
    python -m benchmarks.sidecars --sidecars 1,2,4,8 --processor-share 0.1 --charge shared
    python -m benchmarks.sidecars --sidecars 1 --connections 1

Each round measures one sidecar on SQLite, then every number of sidecars on one database that commits durably; every
second round goes backwards. Sidecar `i` runs on processor `i`, as far as there are so many; wrk and the database run
where there is room. Rates of one run are only compared with each other, and only grow with the sidecars while
processors are left: the report states how busy they were. With `--processor-share` they are left: a control group holds
each sidecar to that share of one processor, so what more sidecars do not gain, the database or its locks have cost.
With one connection the median latency is that of one decision, to be compared with a commit of the database itself. At
the end the rows of both stores are counted: fewer than responses is exit status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import machine, report, usage
from benchmarks.figures import Spread
from benchmarks.load import Load, Wrk
from benchmarks.machine import RESULTS, ROOT, UnsuitableError
from benchmarks.options import new_parser, numbers, positive, share, speaking_plainly
from benchmarks.servers import Server, Servers
from benchmarks.shares import ProcessorShares
from chio_sidecar.store.driver import sqlite3
from tests.sidecar.postgres_tools import PostgresqlKit
from tests.sidecar.postgres_tools import Server as Database
from tests.tokens import ISSUER, token

_ENDPOINT = "/chio/evaluate"


SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"

_COMMITS = 100
_RECEIPT_BYTES = 1400


@dataclass(frozen=True)
class Window:
    """One window of evaluations.

    Attributes:
        store: `SQLITE` or `POSTGRESQL`.
        rate: evaluations per second of all sidecars together.
        cpu_us: processor time of the sidecars per evaluation, microseconds.
        database_us: that of the database.
        busy: share of all processors that sidecars, database and wrk used.
    """

    store: str
    sidecars: int
    responses: int
    failed: int
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    database_us: float
    busy: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the options say; return the exit status."""
    parser = new_parser("benchmarks.sidecars", __doc__)
    parser.add_argument("--sidecars", type=numbers, default=(1, 2, 4), metavar="LIST")
    parser.add_argument("--connections", type=positive, default=32, metavar="N", help="to each sidecar")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N")
    parser.add_argument("--seconds", type=positive, default=5, metavar="S", help="length of one window")
    parser.add_argument("--processor-share", type=share, metavar="SHARE", help="of one processor, for each sidecar")
    parser.add_argument(
        "--charge", choices=("own", "shared"), help="a budget: of one capability for each sidecar, or one for all"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    machine.require_tools("taskset", "wrk")
    machine.require_modules("psycopg")
    RESULTS.mkdir(parents=True, exist_ok=True)
    database = Database(fsync="on")
    try:
        with (
            tempfile.TemporaryDirectory(dir=RESULTS) as folder,
            Servers(Path(folder)) as servers,
            ProcessorShares(options.processor_share) as shares,
        ):
            bench = Bench(servers, database, shares, options)
            windows, rows = bench.measure(), bench.rows()
    finally:
        database.close()
    responses = sum(window.responses for window in windows)
    print(_markdown(windows, options, rows, Spread.of(bench.commits_ms)))
    if options.json:
        options.json.write_text(json.dumps([asdict(window) for window in windows], indent=1) + "\n")
    return 0 if rows >= responses else 1


class Bench:
    """The sidecars of one run, all started: those on the database, and one on SQLite.

    Attributes:
        commits_ms: for each round, the milliseconds of a commit of the database itself.
    """

    def __init__(self, servers: Servers, database: Database, shares: ProcessorShares, options: argparse.Namespace):
        self._folder, self._database, self._options = servers.workdir, database, options
        self._cores = sorted(os.sched_getaffinity(0))
        self._kit = PostgresqlKit(database)
        self.commits_ms: list[float] = []
        self._file = self._folder / "receipts.sqlite3"
        stores = [f"{self._kit.url}&key={self._folder / f'{number}.key'}" for number in range(max(options.sidecars))]
        self._sidecars = [self._start(servers, number, store) for number, store in enumerate(stores)]
        self._on_sqlite = self._start(servers, len(stores), str(self._file))
        for sidecar in (*self._sidecars, self._on_sqlite):  # they started without a limit
            shares.hold(sidecar.name, sidecar.process.pid)
            sidecar.freeze()
        tokens = [token(("server", "tool")) for _ in self._sidecars]
        self._tokens = {None: [""] * len(tokens), "own": tokens, "shared": tokens[:1] * len(tokens)}[options.charge]

    def _start(self, servers: Servers, number: int, store: str) -> Server:
        port = machine.free_port()
        command = [sys.executable, "-m", "chio_sidecar", "api", "protect", "--upstream", "http://127.0.0.1:1"]
        command += ["--listen", f"127.0.0.1:{port}", "--receipt-store", store]
        environ = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "adapters")])}
        environ["CHIO_TRUSTED_ISSUER_KEY"] = ISSUER.public_hex
        return servers.start(f"sidecar-{number}", command, port=port, core=self._core(number), env=environ)

    def _core(self, number: int) -> int:
        return self._cores[number % len(self._cores)]

    def measure(self) -> list[Window]:
        """Return the windows of all rounds; a sidecar that is not measured is stopped."""
        windows = []
        with self._database.connect("postgres") as connection:
            connection.execute("CREATE TABLE commits (text text)")
        cases = [(SQLITE, [self._on_sqlite]), *((POSTGRESQL, self._sidecars[:n]) for n in self._options.sidecars)]
        for number in range(self._options.rounds):
            self.commits_ms.append(self._commit_ms())
            for store, sidecars in cases if number % 2 == 0 else reversed(cases):
                for sidecar in sidecars:
                    sidecar.thaw()
                windows.append(self._window(store, sidecars))
                for sidecar in sidecars:
                    _finish(sidecar)
                    sidecar.freeze()
                line = f"round {number + 1}, {len(sidecars)} on {store}: {windows[-1].rate:.0f}/s"
                print(line, file=sys.stderr)
        return windows

    def _window(self, store: str, sidecars: list[Server]) -> Window:
        def load(number: int, seconds: int) -> Load:
            own = self._folder / f"wrk-{number}"
            own.mkdir(exist_ok=True)
            wrk, connections = Wrk(own, self._core(number + 1)), self._options.connections
            return wrk.run(sidecars[number].port, _ENDPOINT, connections, seconds, token=self._tokens[number])

        parent = self._database.processes()[0]
        with ThreadPoolExecutor(len(sidecars)) as threads:
            list(threads.map(lambda number: load(number, 1), range(len(sidecars))))  # to warm up
            began, used = time.monotonic(), sum(sidecar.cpu_seconds() for sidecar in sidecars)
            database_used = usage.cpu_seconds(parent)
            loads = list(threads.map(lambda number: load(number, self._options.seconds), range(len(sidecars))))
        wall = time.monotonic() - began
        cpu = sum(sidecar.cpu_seconds() for sidecar in sidecars) - used
        database_cpu = usage.cpu_seconds(parent) - database_used
        responses = sum(one.requests for one in loads)
        if responses == 0:
            raise UnsuitableError("the sidecars responded to no evaluation.")
        wrk = max(one.cpu_seconds for one in loads)  # of all children of this process, as each thread reads it
        return Window(
            store=store,
            sidecars=len(sidecars),
            responses=responses,
            failed=sum(one.refused + one.broken for one in loads),
            rate=sum(one.rps for one in loads),
            p50_ms=Spread.of([one.p50_ms for one in loads]).middle,
            p99_ms=max(one.p99_ms for one in loads),
            cpu_us=cpu * 1e6 / responses,
            database_us=database_cpu * 1e6 / responses,
            busy=(cpu + database_cpu + wrk) / wall / len(self._cores),
        )

    def _commit_ms(self) -> float:
        """Return the median of what the database takes to insert and commit one row of a receipt's size."""
        taken = []
        with self._database.connect("postgres") as connection:
            for _ in range(_COMMITS):
                began = time.perf_counter()
                connection.execute("INSERT INTO commits VALUES (%s)", ("x" * _RECEIPT_BYTES,))
                taken.append((time.perf_counter() - began) * 1e3)
        return Spread.of(taken).middle

    def rows(self) -> int:
        """Return the number of committed receipts, of both stores."""
        ((rows,),) = self._kit.fetch("SELECT count(*) FROM chio.http_receipts")
        with closing(sqlite3.connect(self._file)) as connection:
            ((own,),) = connection.execute("SELECT count(*) FROM http_receipts").fetchall()
        return int(rows) + int(own)


def _finish(sidecar: Server) -> None:
    """Return when a sidecar has stored what wrk left under way; stopped before that, it would hold locks."""
    with urllib.request.urlopen(f"{sidecar.url}/chio/health", timeout=30) as response:
        response.read()


def _markdown(windows: list[Window], options: argparse.Namespace, rows: int, commit: Spread) -> str:
    headings = (
        *("sidecars", "evaluations/s", "beside one", "p50 ms", "p99 ms"),
        *("CPU µs each", "of one on SQLite", "database CPU µs", "processors busy", "not 200"),
    )

    def middle(name: str, chosen: list[Window]) -> float:
        return Spread.of([getattr(window, name) for window in chosen]).middle

    cases: dict[tuple[str, int], list[Window]] = {(one.store, one.sidecars): [] for one in windows}
    for window in windows:
        cases[window.store, window.sidecars].append(window)
    on_sqlite = cases[SQLITE, 1]
    first = cases[POSTGRESQL, options.sidecars[0]]
    table = []
    for (store, count), own in cases.items():
        rate = Spread.of([window.rate for window in own])
        beside = Spread.of([one.rate / other.rate for one, other in zip(own, first, strict=True)])
        cpu = Spread.of([one.cpu_us / other.cpu_us for one, other in zip(own, on_sqlite, strict=True)])
        table.append(
            [
                f"{count} on {store}",
                f"{rate.middle:,.0f} ({rate.low:,.0f}–{rate.high:,.0f})",
                f"{beside.middle:.2f} ({beside.low:.2f}–{beside.high:.2f})",
                *(f"{middle(name, own):.2f}" for name in ("p50_ms", "p99_ms")),
                f"{middle('cpu_us', own):.0f}",
                f"{cpu.middle:.2f} ({cpu.low:.2f}–{cpu.high:.2f})",
                f"{middle('database_us', own):.0f}",
                f"{middle('busy', own):.0%}",
                str(sum(window.failed for window in own)),
            ]
        )
    responses = sum(window.responses for window in windows)
    kept = "every response has its row" if rows >= responses else "RESPONSES WITHOUT THEIR OWN ROW"
    held = f", each sidecar held to {options.processor_share:.1%} of one" if options.processor_share else ""
    charged = {
        None: "charging no budget",
        "own": "charging a budget of a capability for each sidecar",
        "shared": "charging a budget of one capability for all",
    }
    return "\n\n".join(
        (
            f"POST {_ENDPOINT}, {charged[options.charge]}; one PostgreSQL database; {len(os.sched_getaffinity(0))}"
            f" processors for all{held}; {options.connections} connections to each sidecar; {options.rounds} windows of"
            f" {options.seconds} s; medians (lowest–highest).",
            report.markdown(headings, table),
            f"The database inserts and commits one row of {_RECEIPT_BYTES} bytes in {commit.middle:.2f} ms"
            f" ({commit.low:.2f}–{commit.high:.2f}), by {_COMMITS} in each round.",
            f"Responses {responses:,} in the windows; committed rows {rows:,}: {kept}.",
        )
    )


if __name__ == "__main__":
    sys.exit(speaking_plainly(main))
