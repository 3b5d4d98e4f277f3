"""Several sidecars on one PostgreSQL database: evaluations per second and processor time, beside those of one.

    python -m benchmarks.sidecars
    python -m benchmarks.sidecars --sidecars 1,2,4,8 --connections 32

Each round measures every number of sidecars, one after the other, on a database that commits durably. Sidecar `i` runs
on processor `i`, as far as there are so many; wrk and the database run where there is room. Rates of one run are only
compared with each other, and only grow with the sidecars while processors are left: the report states how busy they
were. At the end the rows of the database are counted: fewer than responses is exit status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import machine, report, usage
from benchmarks.figures import Spread
from benchmarks.load import Load, Wrk
from benchmarks.machine import RESULTS, ROOT, UnsuitableError
from benchmarks.options import new_parser, numbers, positive, speaking_plainly
from benchmarks.servers import Server, Servers
from tests.sidecar.postgres_tools import PostgresqlKit
from tests.sidecar.postgres_tools import Server as Database

_ENDPOINT = "/chio/evaluate"


@dataclass(frozen=True)
class Window:
    """One window of evaluations.

    Attributes:
        rate: evaluations per second of all sidecars together.
        cpu_us: processor time of the sidecars per evaluation, microseconds.
        database_us: that of the database.
        busy: share of all processors that sidecars, database and wrk used.
    """

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
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    machine.require_tools("taskset", "wrk")
    machine.require_modules("psycopg")
    cores = sorted(os.sched_getaffinity(0))
    RESULTS.mkdir(parents=True, exist_ok=True)
    database = Database(fsync="on")
    try:
        kit = PostgresqlKit(database)
        with tempfile.TemporaryDirectory(dir=RESULTS) as folder, Servers(Path(folder)) as servers:
            sidecars = [_start(servers, kit, number, cores) for number in range(max(options.sidecars))]
            windows = _measure(sidecars, database, Path(folder), cores, options)
        ((rows,),) = kit.fetch("SELECT count(*) FROM chio.http_receipts")
    finally:
        database.close()
    responses = sum(window.responses for window in windows)
    print(_markdown(windows, options, len(cores), rows, responses))
    if options.json:
        options.json.write_text(json.dumps([asdict(window) for window in windows], indent=1) + "\n")
    return 0 if rows >= responses else 1


def _start(servers: Servers, kit: PostgresqlKit, number: int, cores: list[int]) -> Server:
    port = machine.free_port()
    store = f"{kit.url}&key={servers.workdir / f'{number}.key'}"
    command = [sys.executable, "-m", "chio_sidecar", "api", "protect", "--upstream", "http://127.0.0.1:1"]
    command += ["--listen", f"127.0.0.1:{port}", "--receipt-store", store]
    path = os.pathsep.join([str(ROOT), str(ROOT / "adapters")])
    core = cores[number % len(cores)]
    return servers.start(f"sidecar-{number}", command, port=port, core=core, env={"PYTHONPATH": path})


def _measure(
    sidecars: list[Server], database: Database, folder: Path, cores: list[int], options: argparse.Namespace
) -> list[Window]:
    windows = []
    for number in range(options.rounds):
        for count in options.sidecars:
            measured, idle = sidecars[:count], sidecars[count:]
            for sidecar in idle:
                sidecar.freeze()
            windows.append(_window(measured, database, folder, cores, options))
            for sidecar in idle:
                sidecar.thaw()
            print(f"round {number + 1}, {count} sidecars: {windows[-1].rate:.0f}/s", file=sys.stderr)
    return windows


def _window(
    sidecars: list[Server], database: Database, folder: Path, cores: list[int], options: argparse.Namespace
) -> Window:
    def load(number: int, seconds: int) -> Load:
        own = folder / f"wrk-{number}"
        own.mkdir(exist_ok=True)
        core = cores[(number + 1) % len(cores)]
        return Wrk(own, core).run(sidecars[number].port, _ENDPOINT, options.connections, seconds)

    parent = database.processes()[0]
    with ThreadPoolExecutor(len(sidecars)) as threads:
        list(threads.map(lambda number: load(number, 1), range(len(sidecars))))  # to warm up
        began, used = time.monotonic(), [sidecar.cpu_seconds() for sidecar in sidecars]
        database_used = usage.cpu_seconds(parent)
        loads = list(threads.map(lambda number: load(number, options.seconds), range(len(sidecars))))
    wall = time.monotonic() - began
    cpu = sum(sidecar.cpu_seconds() for sidecar in sidecars) - sum(used)
    database_cpu = usage.cpu_seconds(parent) - database_used
    responses = sum(one.requests for one in loads)
    if responses == 0:
        raise UnsuitableError("the sidecars responded to no evaluation.")
    wrk = max(one.cpu_seconds for one in loads)  # of all children of this process, as each thread reads it
    return Window(
        sidecars=len(sidecars),
        responses=responses,
        failed=sum(one.refused + one.broken for one in loads),
        rate=sum(one.rps for one in loads),
        p50_ms=Spread.of([one.p50_ms for one in loads]).middle,
        p99_ms=max(one.p99_ms for one in loads),
        cpu_us=cpu * 1e6 / responses,
        database_us=database_cpu * 1e6 / responses,
        busy=(cpu + database_cpu + wrk) / wall / len(cores),
    )


def _markdown(windows: list[Window], options: argparse.Namespace, cores: int, rows: int, responses: int) -> str:
    headings = (
        *("sidecars", "evaluations/s", "beside one", "p50 ms", "p99 ms"),
        *("CPU µs each", "database CPU µs", "processors busy", "not 200"),
    )
    first = Spread.of([window.rate for window in windows if window.sidecars == options.sidecars[0]]).middle
    table = []
    for count in options.sidecars:
        own = [window for window in windows if window.sidecars == count]

        def middle(name: str, own: list[Window] = own) -> float:
            return Spread.of([getattr(window, name) for window in own]).middle

        rate = Spread.of([window.rate for window in own])
        table.append(
            [
                str(count),
                f"{rate.middle:,.0f} ({rate.low:,.0f}–{rate.high:,.0f})",
                f"{rate.middle / first:.2f}",
                *(f"{middle(name):.2f}" for name in ("p50_ms", "p99_ms")),
                *(f"{middle(name):.0f}" for name in ("cpu_us", "database_us")),
                f"{middle('busy'):.0%}",
                str(sum(window.failed for window in own)),
            ]
        )
    kept = "every response has its row" if rows >= responses else "RESPONSES WITHOUT THEIR OWN ROW"
    return "\n\n".join(
        (
            f"POST {_ENDPOINT}, one PostgreSQL database, {cores} processors for all, {options.connections} connections"
            f" to each sidecar, {options.rounds} windows of {options.seconds} s; medians (lowest–highest).",
            report.markdown(headings, table),
            f"Responses {responses:,} in the windows; committed rows {rows:,}: {kept}.",
        )
    )


if __name__ == "__main__":
    sys.exit(speaking_plainly(main))
