"""What a scanner costs a sidecar: anonymous requests to paths that the application does not have.

    python -m benchmarks.scanner
    python -m benchmarks.scanner --requests 20000 --limit 50

Each row is a sidecar with a store of its own, in this process, and the evaluations that an application would send for
these requests, sixteen at a time. CPU is that of the process, the sending included.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report
from benchmarks.options import new_parser, positive, speaking_plainly
from chio_core.client.in_process import InProcessCarrier
from chio_core.evaluation.exchange import EVALUATE_PATH
from chio_sidecar.app import create_app
from chio_sidecar.config import SidecarConfig
from chio_sidecar.store.driver import sqlite3

_AT_ONCE = 16
_SPEC = {"openapi": "3.1.0", "info": {"title": "s", "version": "1"}, "paths": {"/hello": {"get": {"responses": {}}}}}


@dataclass(frozen=True)
class Cost:
    """What one kind of request has cost.

    Attributes:
        kind: title of the row.
        statuses: how often the sidecar responded with which status.
        rows, size: of the store: receipts, and bytes of the file.
        cpu: seconds.
    """

    kind: str
    statuses: Counter[int]
    rows: int
    size: int
    cpu: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the options say; return the exit status."""
    parser = new_parser("benchmarks.scanner", __doc__)
    parser.add_argument("--requests", type=positive, default=5000, metavar="N", help="for each row (5000)")
    parser.add_argument("--limit", type=positive, default=100, metavar="N", help="of unknown paths a second (100)")
    options = parser.parse_args(arguments)
    kinds: list[tuple[str, str, int | None]] = [
        ("GET", "/x", None),
        ("POST", "/x", None),
        ("POST, the longest path", "/" + "x" * 8000, None),
        (f"POST, --max-unknown-paths-per-second {options.limit}", "/x", options.limit),
    ]
    costs = [_measure(kind, path, limit, options.requests) for kind, path, limit in kinds]
    print(_markdown(costs))
    return 0


def _measure(kind: str, path: str, limit: int | None, number: int) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "receipts.sqlite3")
        config = SidecarConfig(store_path=store, spec_text=json.dumps(_SPEC), max_unknown_per_second=limit)
        bodies = [json.dumps(_question(kind.partition(",")[0], f"{path}{one}", one)).encode() for one in range(number)]
        began = time.process_time()
        statuses = asyncio.run(_evaluate(config, bodies))
        used = time.process_time() - began
        with closing(sqlite3.connect(store)) as database:
            (rows,) = database.execute("SELECT count(*) FROM http_receipts").fetchone()
        return Cost(kind, statuses, rows, store.stat().st_size, used)


async def _evaluate(config: SidecarConfig, bodies: Sequence[bytes]) -> Counter[int]:
    app = create_app(config)
    app.state.sidecar.open()
    carrier, places = InProcessCarrier(app), asyncio.Semaphore(_AT_ONCE)

    async def ask(body: bytes) -> int:
        async with places:
            return (await carrier.post(EVALUATE_PATH, body, (), 30)).status

    statuses = Counter(await asyncio.gather(*map(ask, bodies)))
    await carrier.aclose()
    await app.state.close()
    return statuses


def _question(method: str, path: str, number: int) -> dict[str, object]:
    return {
        "request_id": f"00000000-0000-4000-8000-{number:012d}",
        "method": method,
        "route_pattern": path,
        "path": path,
        "caller": {"subject": "anonymous", "auth_method": {"method": "anonymous"}, "verified": False},
        "body_length": 0,
        "timestamp": int(time.time()),
    }


def _markdown(costs: Sequence[Cost]) -> str:
    headings = ("requests", "responses", "receipts", "store kB", "bytes each", "CPU s")
    rows = [
        [
            cost.kind,
            ", ".join(f"{number:,} with {status}" for status, number in sorted(cost.statuses.items())),
            f"{cost.rows:,}",
            f"{cost.size / 1000:,.0f}",
            f"{cost.size / cost.rows:,.0f}",
            f"{cost.cpu:.1f}",
        ]
        for cost in costs
    ]
    return report.markdown(headings, rows, text_columns=(0, 1))


if __name__ == "__main__":
    sys.exit(speaking_plainly(main))
