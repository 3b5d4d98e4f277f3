"""The embedded sidecar as a process: evaluations per second, each signed and committed before its response.

    python -m benchmarks.sidecar
    python -m benchmarks.sidecar --connections 16,1,64 --rate 600 --store-folder /mnt/fast

The sidecar runs on one core, wrk on the other; every evaluation has a fresh request id. After the last window
the sidecar is killed without warning, and the receipts in its store are counted. There may be more of them
than wrk counted responses (some were under way when a window closed), never fewer: else the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import machine, report
from benchmarks.figures import Spread
from benchmarks.load import Load, Wrk
from benchmarks.machine import RESULTS, ROOT, Cores, UnsuitableError
from benchmarks.options import new_parser, numbers, positive, speaking_plainly
from benchmarks.servers import Server, Servers
from chio_sidecar.store.driver import sqlite3

_ENDPOINT = "/chio/evaluate"


@dataclass(frozen=True)
class Window:
    """One window of evaluations.

    Attributes:
        rate: wanted evaluations per second; None: each connection sends again as soon as it has its response.
        cpu_ms: the sidecar's processor time per response, milliseconds.
        busy: share of its core that the sidecar used.
    """

    connections: int
    rate: int | None
    load: Load
    cpu_ms: float
    busy: float


@dataclass(frozen=True)
class Result:
    """All windows, and the contents of the store at the end.

    Attributes:
        responses: responses that wrk counted, warm-up included.
        rows: committed rows of the table `http_receipts`.
        distinct: different request ids among them.
        sync_ms: median milliseconds of writing 4 KiB to the store's folder and syncing it.
    """

    windows: list[Window]
    responses: int
    rows: int
    distinct: int
    sync_ms: float
    resident_mib: float

    @property
    def kept_everything(self) -> bool:
        """True if every response has its own row."""
        return self.rows >= self.responses and self.distinct == self.rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the options say; return the exit status."""
    parser = new_parser("benchmarks.sidecar", __doc__)
    parser.add_argument("--rounds", type=positive, default=3, metavar="N")
    parser.add_argument("--seconds", type=positive, default=5, metavar="S", help="length of one window")
    parser.add_argument("--connections", type=numbers, default=(16, 1), metavar="LIST")
    parser.add_argument("--rate", type=positive, default=1200, metavar="N", help="evaluations a second, last row")
    parser.add_argument("--command", default=f"{shlex.quote(sys.executable)} -m chio_sidecar", help="how to start it")
    parser.add_argument(
        "--store-folder", type=Path, default=RESULTS, metavar="DIR", help="disk that the store is measured on"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    cores = machine.two_cores()
    machine.require_tools("taskset", "wrk")
    options.store_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.store_folder) as folder:
        result = _measure(Path(folder), cores, options)
    print(_markdown(result, options))
    if options.json:
        options.json.write_text(json.dumps(asdict(result), indent=1) + "\n")
    return 0 if result.kept_everything else 1


def _measure(folder: Path, cores: Cores, options: argparse.Namespace) -> Result:
    store = folder / "receipts.sqlite3"
    sync_ms = _sync_milliseconds(folder)
    with Servers(folder) as servers:
        sidecar = _start(servers, cores, store, options.command)
        windows, responses = _load(sidecar, Wrk(folder, cores.load), options)
        resident = sidecar.resident_mib()
        # Killed without warning, so that nothing can be committed after the responses.
        sidecar.signal(signal.SIGKILL)
        sidecar.process.wait()
    rows, distinct = _count(store)
    return Result(windows, responses, rows, distinct, sync_ms, resident)


def _start(servers: Servers, cores: Cores, store: Path, command: str) -> Server:
    port = machine.free_port()
    arguments = ["api", "protect", "--upstream", "http://127.0.0.1:1", "--listen", f"127.0.0.1:{port}"]
    arguments += ["--receipt-store", str(store)]
    env = {"PYTHONPATH": str(ROOT)}
    return servers.start("sidecar", [*shlex.split(command), *arguments], port=port, core=cores.app, env=env)


def _load(sidecar: Server, wrk: Wrk, options: argparse.Namespace) -> tuple[list[Window], int]:
    windows, responses = [], 0
    for number in range(options.rounds):
        for connections, rate in _settings(options):
            responses += wrk.run(sidecar.port, _ENDPOINT, connections, 1, rate).requests  # to warm up
            clock, used = time.monotonic(), sidecar.cpu_seconds()
            load = wrk.run(sidecar.port, _ENDPOINT, connections, options.seconds, rate)
            wall, cpu = time.monotonic() - clock, sidecar.cpu_seconds() - used
            if load.requests == 0:
                raise UnsuitableError("the sidecar responded to no evaluation.")
            responses += load.requests
            windows.append(Window(connections, rate, load, cpu * 1000 / load.requests, cpu / wall))
            pace = f"at {rate}/s" if rate else "at full speed"
            print(f"round {number + 1} {connections} connections {pace}: {load.rps:.0f}/s", file=sys.stderr)
    return windows, responses


def _settings(options: argparse.Namespace) -> list[tuple[int, int | None]]:
    # At full speed, n connections wait n / throughput for each response. The time that a response takes in service
    # shows at a rate that the sidecar can sustain.
    return [*((connections, None) for connections in options.connections), (options.connections[0], options.rate)]


def _count(store: Path) -> tuple[int, int]:
    """Return the number of committed receipts and of different request ids among them."""
    with closing(sqlite3.connect(store)) as database:
        row = database.execute(
            "SELECT count(*), count(DISTINCT json_extract(receipt_json, '$.request_id')) FROM http_receipts"
        ).fetchone()
    return int(row[0]), int(row[1])


def _sync_milliseconds(folder: Path) -> float:
    """Return what the disk below the store takes for one small durable write."""
    took = []
    descriptor = os.open(folder / "sync-probe", os.O_CREAT | os.O_WRONLY)
    try:
        for _ in range(50):
            started = time.perf_counter()
            os.write(descriptor, b"\0" * 4096)
            os.fdatasync(descriptor)
            took.append((time.perf_counter() - started) * 1000)
    finally:
        os.close(descriptor)
    return Spread.of(took).middle


def _markdown(result: Result, options: argparse.Namespace) -> str:
    headings = ("connections", "rate", "evaluations/s", "p50 ms", "p99 ms", "CPU ms each", "core busy", "not 200")
    rows = [_row(result, *setting) for setting in _settings(options)]
    kept = "every response has its row" if result.kept_everything else "RESPONSES WITHOUT THEIR OWN ROW"
    return "\n\n".join(
        (
            f"POST {_ENDPOINT}, {options.rounds} windows of {options.seconds} s; medians (lowest–highest).",
            report.markdown(headings, rows, text_columns=(1,)),
            f"Responses {result.responses:,}; committed rows {result.rows:,}, different request ids "
            f"{result.distinct:,}: {kept}. One write and fdatasync of 4 KiB takes {result.sync_ms:.2f} ms "
            f"there; resident memory {result.resident_mib:.0f} MiB.",
        )
    )


def _row(result: Result, connections: int, rate: int | None) -> list[str]:
    windows = [window for window in result.windows if (window.connections, window.rate) == (connections, rate)]
    speed = Spread.of([window.load.rps for window in windows])
    return [
        str(connections),
        f"{rate:,} a second" if rate else "at full speed",
        f"{speed.middle:,.0f} ({speed.low:,.0f}–{speed.high:,.0f})",
        f"{Spread.of([window.load.p50_ms for window in windows]).middle:.2f}",
        f"{Spread.of([window.load.p99_ms for window in windows]).middle:.2f}",
        f"{Spread.of([window.cpu_ms for window in windows]).middle:.3f}",
        f"{Spread.of([window.busy for window in windows]).middle:.0%}",
        str(sum(window.load.refused + window.load.broken for window in windows)),
    ]


if __name__ == "__main__":
    sys.exit(speaking_plainly(main))
