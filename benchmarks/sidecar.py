"""The sidecar beside the published one in Rust: evaluations per second, each signed and committed before its response.

    python -m benchmarks.sidecar
    python -m benchmarks.sidecar --connections 16,1,64 --rate 600 --store-folder /mnt/fast

Both run on one core, in turn, the other one stopped meanwhile, and wrk on another core; every evaluation has a fresh
request id. Without a Rust toolchain only ours is measured, and the report says so. After the last window they are
killed without warning, and the receipts in their stores are counted. There may be more of them than wrk counted
responses (some were under way when a window closed), of ours never fewer: else the exit status is 1.
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
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import machine, report, rust_sidecar, targets
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
        sidecar: `ours`, or `rust` for the published one.
        rate: wanted evaluations per second; None: each connection sends again as soon as it has its response.
        cpu_ms: the sidecar's processor time per response, milliseconds.
        busy: share of its core that the sidecar used.
    """

    sidecar: str
    connections: int
    rate: int | None
    load: Load
    cpu_ms: float
    busy: float


@dataclass(frozen=True)
class Kept:
    """What a sidecar's store holds after it was killed.

    Attributes:
        responses: responses that wrk counted, warm-up included.
        rows: committed rows of the table `http_receipts`.
        distinct: different request ids among them.
    """

    responses: int
    rows: int
    distinct: int

    @property
    def everything(self) -> bool:
        """True if every response has its own row."""
        return self.rows >= self.responses and self.distinct == self.rows


@dataclass(frozen=True)
class Result:
    """All windows, and the contents of the stores at the end.

    Attributes:
        sync_ms: median milliseconds of writing 4 KiB to the stores' folder and syncing it.
        resident_mib: memory of each sidecar after the load.
        absent: why the published sidecar was not measured; empty if it was.
    """

    windows: list[Window]
    kept: dict[str, Kept]
    sync_ms: float
    resident_mib: dict[str, float]
    absent: str

    def of(self, sidecar: str, connections: int, rate: int | None) -> list[Window]:
        """Return the windows of one row, in the order of the rounds."""
        row = (sidecar, connections, rate)
        return [window for window in self.windows if (window.sidecar, window.connections, window.rate) == row]

    def beside_rust(self, connections: int, value: Callable[[Window], float]) -> Spread:
        """Return this sidecar's value divided by the published one's, at full speed, within each round."""
        pairs = zip(self.of("ours", connections, None), self.of("rust", connections, None), strict=True)
        return Spread.of([value(own) / value(peer) for own, peer in pairs])


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options of `measure`."""
    parser = new_parser("benchmarks.sidecar", __doc__)
    parser.add_argument("--rounds", type=positive, default=3, metavar="N")
    parser.add_argument("--seconds", type=positive, default=5, metavar="S", help="length of one window")
    parser.add_argument("--connections", type=numbers, default=(16, 1), metavar="LIST")
    parser.add_argument("--rate", type=int, default=1200, metavar="N", help="evaluations a second, last row; 0: none")
    parser.add_argument("--command", default=f"{shlex.quote(sys.executable)} -m chio_sidecar", help="how to start it")
    parser.add_argument("--no-rust", action="store_true", help="do not measure the published sidecar")
    parser.add_argument("--rust", type=Path, metavar="FILE", help="its executable, if it is built elsewhere")
    parser.add_argument(
        "--store-folder", type=Path, default=RESULTS, metavar="DIR", help="disk that the stores are measured on"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the options say; return the exit status."""
    options = parser().parse_args(arguments)
    result = measure(options, machine.two_cores())
    print(markdown(result, options) + "\n\n" + targets.markdown(targets.of_sidecars(result, options.connections)))
    if options.json:
        options.json.write_text(json.dumps(asdict(result), indent=1) + "\n")
    return 0 if result.kept["ours"].everything else 1


def measure(options: argparse.Namespace, cores: Cores) -> Result:
    """Measure as the options say; they are those of `parser`."""
    machine.require_tools("taskset", "wrk")
    options.store_folder.mkdir(parents=True, exist_ok=True)
    rust = "left out by --no-rust" if options.no_rust else options.rust or rust_sidecar.build()
    with tempfile.TemporaryDirectory(dir=options.store_folder) as folder:
        return _measure(Path(folder), cores, options, rust)


def _measure(folder: Path, cores: Cores, options: argparse.Namespace, rust: Path | str) -> Result:
    sync_ms = _sync_milliseconds(folder)
    stores = {name: folder / f"{name}.sqlite3" for name in ("ours", "rust")}
    with Servers(folder) as servers:
        sidecars = {"ours": _start(servers, cores, stores["ours"], options.command)}
        sidecars["ours"].freeze()
        if isinstance(rust, Path):
            sidecars["rust"] = rust_sidecar.start(servers, cores, stores["rust"], rust)
            sidecars["rust"].freeze()
        windows, responses = _load(sidecars, Wrk(folder, cores.load), options)
        resident = {name: sidecar.resident_mib() for name, sidecar in sidecars.items()}
        # Killed without warning, so that nothing can be committed after the responses.
        for sidecar in sidecars.values():
            sidecar.signal(signal.SIGKILL)
            sidecar.process.wait()
    kept = {name: Kept(responses[name], *_count(stores[name])) for name in sidecars}
    return Result(windows, kept, sync_ms, resident, rust if isinstance(rust, str) else "")


def _start(servers: Servers, cores: Cores, store: Path, command: str) -> Server:
    port = machine.free_port()
    arguments = ["api", "protect", "--upstream", "http://127.0.0.1:1", "--listen", f"127.0.0.1:{port}"]
    arguments += ["--receipt-store", str(store)]
    env = {"PYTHONPATH": str(ROOT)}
    return servers.start("sidecar", [*shlex.split(command), *arguments], port=port, core=cores.app, env=env)


def _load(sidecars: dict[str, Server], wrk: Wrk, options: argparse.Namespace) -> tuple[list[Window], dict[str, int]]:
    windows, responses = [], dict.fromkeys(sidecars, 0)
    for number in range(options.rounds):
        for connections, rate in _settings(options):
            # There and back, so that a machine that grows slower or faster favours none.
            for name in sidecars if number % 2 == 0 else reversed(sidecars):
                sidecar = sidecars[name]
                sidecar.thaw()
                responses[name] += wrk.run(sidecar.port, _ENDPOINT, connections, 1, rate).requests  # to warm up
                clock, used = time.monotonic(), sidecar.cpu_seconds()
                load = wrk.run(sidecar.port, _ENDPOINT, connections, options.seconds, rate)
                wall, cpu = time.monotonic() - clock, sidecar.cpu_seconds() - used
                sidecar.freeze()
                if load.requests == 0:
                    raise UnsuitableError(f"{sidecar.name} responded to no evaluation.")
                responses[name] += load.requests
                windows.append(Window(name, connections, rate, load, cpu * 1000 / load.requests, cpu / wall))
                pace = f"at {rate}/s" if rate else "at full speed"
                print(f"round {number + 1} {name} {connections} connections {pace}: {load.rps:.0f}/s", file=sys.stderr)
    return windows, responses


def _settings(options: argparse.Namespace) -> list[tuple[int, int | None]]:
    # At full speed, n connections wait n / throughput for each response. The time that a response takes in service
    # shows at a rate that the sidecar can sustain.
    paced = [(options.connections[0], options.rate)] if options.rate else []
    return [*((connections, None) for connections in options.connections), *paced]


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


def markdown(result: Result, options: argparse.Namespace) -> str:
    """Return the report of what was measured with these options."""
    headings = (
        "sidecar",
        "connections",
        "rate",
        "evaluations/s",
        "p50 ms",
        "p99 ms",
        "CPU ms each",
        "core busy",
        "not 200",
    )
    rows = [_row(result, name, *setting) for setting in _settings(options) for name in result.kept]
    parts = [
        f"POST {_ENDPOINT}, {options.rounds} windows of {options.seconds} s; medians (lowest–highest).",
        report.markdown(headings, rows, text_columns=(0, 2)),
        f"The published sidecar in Rust was not measured: {result.absent}." if result.absent else "",
    ]
    for name, kept in result.kept.items():
        whole = "every response has its row" if kept.everything else "RESPONSES WITHOUT THEIR OWN ROW"
        parts.append(
            f"{name}: responses {kept.responses:,}; committed rows {kept.rows:,}, different request ids "
            f"{kept.distinct:,}: {whole}. Resident memory {result.resident_mib[name]:.0f} MiB."
        )
    parts.append(f"One write and fdatasync of 4 KiB takes {result.sync_ms:.2f} ms there.")
    return "\n\n".join(part for part in parts if part)


def _row(result: Result, sidecar: str, connections: int, rate: int | None) -> list[str]:
    windows = result.of(sidecar, connections, rate)
    speed = Spread.of([window.load.rps for window in windows])
    return [
        sidecar,
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
