"""The receipts viewer in a real Chromium: how long listing and filtering take, from the key stroke to the rows.

    python -m benchmarks.viewer
    python -m benchmarks.viewer --receipts 100000 --rounds 3

The receipts are signed by a key of the run and stored in a file; `chio-sidecar viewer` shows it. The browser waits for
what a person waits for: the rows, and the sentence that states their number. A filter counts after a pause of 150 ms,
so that typing does not send a request for each letter; that pause is part of these figures. Exit status 1: a median is
above --limit.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from benchmarks import machine, report
from benchmarks.figures import Spread
from benchmarks.machine import ROOT, UnsuitableError
from benchmarks.options import new_parser, positive, speaking_plainly
from benchmarks.servers import Servers
from chio_core.canonical import compact_json, sha256_hex
from chio_sidecar.keys import load_or_create_key
from chio_sidecar.service.receipts import sign_receipt
from chio_sidecar.store import NewReceipt
from chio_sidecar.store.sqlite import SqliteReceiptStore
from chio_sidecar.viewer import VIEWER_PATH
from tests.viewer.browser import MISSING, Browser, browsing

_ROUTES = 50
_FILTERS = {
    "one route of fifty": ("route", "/things/7/"),
    "a verdict": ("verdict", "deny"),
    "a caller": ("caller", sha256_hex(b"3")[:16]),
    "nothing matches": ("capability", "nowhere"),
}
_SETTLED = "/receipts(, newest first)?$/.test(summary.textContent) && !summary.textContent.includes('+')"
_FILTER = f"""
const [summary, field] = [document.querySelector('#summary'), document.querySelector('#f-' + args[0])];
const before = summary.textContent, began = performance.now();
field.value = args[1];
field.dispatchEvent(new Event('input', {{bubbles: true}}));
const settled = () => summary.textContent !== before && {_SETTLED};
while (!settled()) await new Promise((go) => setTimeout(go));
await new Promise((go) => requestAnimationFrame(() => setTimeout(go)));
return performance.now() - began;
"""
_OPENED = f"""
const summary = document.querySelector('#summary');
while (!({_SETTLED})) await new Promise((go) => setTimeout(go));
await new Promise((go) => requestAnimationFrame(() => setTimeout(go)));
return performance.now();
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the options say; return the exit status."""
    parser = new_parser("benchmarks.viewer", __doc__)
    parser.add_argument("--receipts", type=positive, default=10_000, metavar="N")
    parser.add_argument("--rounds", type=positive, default=7, metavar="N")
    parser.add_argument("--limit", type=positive, default=1_000, metavar="MS", help="highest median that is well")
    parser.add_argument("--command", default=f"{shlex.quote(sys.executable)} -m chio_sidecar", help="how to start it")
    options = parser.parse_args(arguments)
    if MISSING:
        raise UnsuitableError(f"{MISSING}: Debian has them in the packages chromium and chromium-driver.")
    cores, port = machine.two_cores(), machine.free_port()
    with tempfile.TemporaryDirectory() as name, Servers(Path(name)) as servers:
        store = Path(name, "receipts.sqlite3")
        asyncio.run(_fill(store, options.receipts))
        listen = ["viewer", "--receipt-store", str(store), "--listen", f"127.0.0.1:{port}"]
        command = [*shlex.split(options.command), *listen]
        servers.start("viewer", command, port=port, core=cores.app, env={"PYTHONPATH": str(ROOT)})
        address = f"http://127.0.0.1:{port}{VIEWER_PATH}"
        figures = _server(address, options.rounds)
        Path(name, "browser").mkdir()
        with browsing(Path(name, "browser")) as browser:
            figures |= _browser(browser, address, options.rounds)
    print(_markdown(figures, options.receipts))
    return 0 if all(spread.middle <= options.limit for spread in figures.values()) else 1


async def _fill(path: Path, receipts: int) -> None:
    key = load_or_create_key(path.with_name(path.name + ".key"))
    store, began = SqliteReceiptStore(path), int(time.time()) - receipts
    try:
        for start in range(0, receipts, 4_000):
            numbers = range(start, min(start + 4_000, receipts))
            texts = [compact_json(sign_receipt(key, _receipt(number, began))) for number in numbers]
            entries = [NewReceipt(f"receipt-{n}", f"request-{n}", "f", t) for n, t in zip(numbers, texts, strict=True)]
            await asyncio.gather(*map(store.append, entries))
    finally:
        await store.close()


def _receipt(number: int, began: int) -> dict[str, object]:
    denied = {"verdict": "deny", "reason": "side-effect route requires a capability token", "http_status": 403}
    return {
        "id": f"receipt-{number}",
        "request_id": f"request-{number}",
        "route_pattern": f"/things/{number % _ROUTES}/parts/{{part_id}}",
        "method": ("GET", "POST", "PUT")[number % 3],
        "caller_identity_hash": sha256_hex(b"%d" % (number % 9)),
        "verdict": denied if number % 20 == 0 else {"verdict": "allow"},
        "evidence": [{"guard_name": "DefaultPolicyGuard", "verdict": number % 20 != 0, "details": "by its method"}],
        "response_status": 200,
        "timestamp": began + number,
        "content_hash": sha256_hex(b"content"),
        "policy_hash": sha256_hex(b"policy"),
        "capability_id": f"cap-{number % 40}",
        "metadata": {"chio_http_status_scope": "decision", "note": "x" * 500},
    }


def _server(address: str, rounds: int) -> dict[str, Spread]:
    paths = {"newest 200": "receipts"} | {
        f"{what}, {name}": f"{name}?{field}={value}"
        for what, (field, value) in _FILTERS.items()
        for name in ("receipts", "count")
    }
    with httpx.Client(base_url=f"{address}api/", trust_env=False) as http:
        return {
            f"server: {what}": _spread(rounds, lambda path=path: _fetch(http, path)) for what, path in paths.items()
        }


def _fetch(http: httpx.Client, path: str) -> float:
    began = time.perf_counter()
    http.get(path).raise_for_status()
    return (time.perf_counter() - began) * 1000


def _browser(browser: Browser, address: str, rounds: int) -> dict[str, Spread]:
    browser.resize(1400, 900)

    def opened() -> float:
        browser.open("about:blank")
        browser.open(address)
        return float(browser.wait(_OPENED))

    def filtered(field: str, value: str) -> float:
        opened()
        return float(browser.wait(_FILTER, field, value))

    figures = {"page: opened, newest 200 shown": _spread(rounds, opened)}
    for what, (field, value) in _FILTERS.items():
        figures[f"page: filtered and counted, {what}"] = _spread(rounds, lambda f=field, v=value: filtered(f, v))
    return figures


def _spread(rounds: int, measure: Callable[[], float]) -> Spread:
    measure()  # to warm up
    return Spread.of([measure() for _ in range(rounds)])


def _markdown(figures: dict[str, Spread], receipts: int) -> str:
    rows = [[what, f"{s.middle:,.0f}", f"{s.low:,.0f}–{s.high:,.0f}"] for what, s in figures.items()]
    heading = f"Viewer of a store with {receipts:,} receipts; milliseconds."
    return f"{heading}\n\n{report.markdown(('what', 'median ms', 'lowest–highest'), rows)}"


if __name__ == "__main__":
    sys.exit(speaking_plainly(main))
