"""A thousand clients at once: does each get a response, and does the application recover?

    python -m benchmarks.burst                                   1000 clients, 4 requests each
    python -m benchmarks.burst --clients 200 --requests 2 --variants ours

Each client opens one connection and sends its requests over it, one after the other; all clients
start in the same moment. The application runs alone on one core; the clients and the signing stub share the
other. Each variant starts afresh. Some seconds after the last response one more request shows whether the
variant still works: a connection pool that stayed full does not respond.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from benchmarks import machine, report, targets, variants
from benchmarks.machine import Cores
from benchmarks.options import new_parser, positive, speaking_plainly, variant_names
from benchmarks.servers import Server, Servers

_PAUSE = 6.0  # seconds between the burst and the request that shows whether the variant recovered


@dataclass(frozen=True)
class Burst:
    """What came of one burst.

    Attributes:
        outcomes: how many requests ended with a status ("200") or without one (the error's name).
        wall_seconds: from the start to the last response.
        cpu_seconds: what the application's process tree used in that time.
        afterwards: outcome of the one request after the pause.
        resident_mib: resident memory of the application at the end.
    """

    variant: str
    outcomes: dict[str, int]
    wall_seconds: float
    cpu_seconds: float
    afterwards: str
    resident_mib: float


class Client:
    """One client: a connection, opened on the first request and again after each failure."""

    def __init__(self, port: int, limit: float) -> None:
        """Wait at most `limit` seconds for each response."""
        self._port = port
        self._limit = limit
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str) -> str:
        """Send one GET; return the status, or the name of the error if there is no response."""
        try:
            async with asyncio.timeout(self._limit):
                return await self._exchange(path)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            self.close()
            return type(error).__name__

    def close(self) -> None:
        """Close the connection."""
        if self._streams:
            self._streams[1].close()
        self._streams = None

    async def _exchange(self, path: str) -> str:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
        await reader.readexactly(int(fields[b"content-length"]))
        if fields.get(b"connection") == b"close":
            self.close()
        return head[9:12].decode()


async def burst(app: Server, clients: int, requests: int, limit: float) -> Burst:
    """Let `clients` clients send `requests` requests each, all at once."""
    outcomes: Counter[str] = Counter()

    async def one_client() -> None:
        client = Client(app.port, limit)
        for _ in range(requests):
            outcomes[await client.get("/hello")] += 1
        client.close()

    started, used = time.monotonic(), app.cpu_seconds()
    await asyncio.gather(*(one_client() for _ in range(clients)))
    wall, cpu = time.monotonic() - started, app.cpu_seconds() - used
    await asyncio.sleep(_PAUSE)
    last = Client(app.port, limit)
    afterwards = await last.get("/hello")
    last.close()
    return Burst(app.name, dict(outcomes), wall, cpu, afterwards, app.resident_mib())


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options of `measure`."""
    parser = new_parser("benchmarks.burst", __doc__)
    parser.add_argument("--clients", type=positive, default=1000, metavar="N")
    parser.add_argument("--rounds", type=positive, default=1, metavar="N")
    parser.add_argument("--requests", type=positive, default=4, metavar="M", help="per client")
    parser.add_argument("--limit", type=positive, default=60, metavar="S", help="longest wait for a response")
    parser.add_argument("--variants", type=variant_names, default=variants.GOVERNED, metavar="LIST")
    parser.add_argument("--receipts", choices=("full", "short"), default="full", help="metadata of the receipts")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the options say; return the exit status."""
    options = parser().parse_args(arguments)
    bursts = measure(options, machine.two_cores())
    print(markdown(bursts, options) + "\n\n" + targets.markdown(targets.of_bursts(bursts)))
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in bursts], indent=1) + "\n")
    return 0


def measure(options: argparse.Namespace, cores: Cores) -> list[Burst]:
    """Return the bursts of all rounds, every variant in turn; the options are those of `parser`.

    From here on this process stays on the core of the load.
    """
    machine.require_tools("taskset")
    _allow_sockets(options.clients)
    os.sched_setaffinity(0, {cores.load})
    pythons = variants.interpreters(options.variants)
    return [
        _one_variant(name, python, cores, options) for _ in range(options.rounds) for name, python in pythons.items()
    ]


def _one_variant(name: str, python: Path, cores: Cores, options: argparse.Namespace) -> Burst:
    with tempfile.TemporaryDirectory() as folder, Servers(Path(folder)) as servers:
        sidecar = variants.start_sidecar(servers, cores, options.receipts)
        app = variants.start_app(servers, cores, name, python, sidecar)
        print(f"{name}: {options.clients} clients, {options.requests} requests each …", file=sys.stderr)
        return uvloop.run(burst(app, options.clients, options.requests, options.limit))


def _allow_sockets(clients: int) -> None:
    # A socket per client here, and in the application one per client and one per evaluation. The
    # started processes inherit the limit.
    needed = 2 * clients + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (-1, resource.RLIM_INFINITY) and hard < needed:
        raise machine.UnsuitableError(
            f"{clients} clients need {needed} open files and `ulimit -Hn` allows {hard}: use fewer --clients."
        )
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def markdown(bursts: Sequence[Burst], options: argparse.Namespace) -> str:
    """Return the table of bursts that were measured with these options."""
    title = f"GET /hello, {options.clients} clients at once, {options.requests} requests each"
    headings = (
        "variant",
        "200",
        "other responses",
        "wall s",
        "app CPU s",
        "CPU ms per request",
        f"one request {_PAUSE:.0f} s later",
        "RSS MiB",
    )
    return f"{title}\n\n{report.markdown(headings, [_row(result) for result in bursts])}"


def _row(result: Burst) -> list[str]:
    others = [f"{count:,} × {name}" for name, count in sorted(result.outcomes.items()) if name != "200"]
    return [
        result.variant,
        f"{result.outcomes.get('200', 0):,}",
        ", ".join(others) or "none",
        f"{result.wall_seconds:.1f}",
        f"{result.cpu_seconds:.1f}",
        f"{result.cpu_seconds * 1000 / sum(result.outcomes.values()):.2f}",
        result.afterwards,
        f"{result.resident_mib:.0f}",
    ]


if __name__ == "__main__":
    sys.exit(speaking_plainly(main))
