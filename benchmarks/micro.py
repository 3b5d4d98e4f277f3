"""Where the time of a governed request goes: processor microseconds of its single steps.

    python -m benchmarks.micro
    python -m benchmarks.micro --rounds 9 --receipts short

Every step is repeated, the steps interleaved over the rounds; a figure is this process's processor time
divided by the repetitions, the median of the rounds. The response comes from the stub sidecar.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import uvloop

from benchmarks import machine, report, variants
from benchmarks.figures import Spread
from benchmarks.load import ECHO_BODY
from benchmarks.options import new_parser, positive, speaking_plainly
from benchmarks.servers import Servers
from chio_asgi import ASGIGuardRequest
from chio_core.canonical import canonical_json, parse_json, sha256_hex
from chio_core.client.pool import ConnectionPool
from chio_core.endpoint import Endpoint
from chio_core.evaluation.conclude import conclude
from chio_core.evaluation.exchange import EVALUATE_PATH, EvaluateCall, RawResponse, prepare
from chio_core.evaluation.precheck import precheck, singleton_headers
from chio_core.identity import default_extractor
from chio_core.models.receipt import HttpReceipt
from chio_core.receipts import KeyTrust, signed_bytes, verify_receipt
from chio_core.request import to_chio_request
from chio_core.settings import ChioSettings
from chio_core.signing import SigningKey, verify_signature
from tests.stub_sidecar import PUBLIC_KEY, SEED, Kernel

_NOW = 1776272775.0
_SLICE = 0.02  # seconds that one step runs in one round


def scope() -> dict[str, object]:
    """Return the ASGI scope of a POST /echo with a bearer token."""
    headers = {
        b"host": b"127.0.0.1:8000",
        b"user-agent": b"benchmarks",
        b"content-type": b"application/json",
        b"content-length": str(len(ECHO_BODY)).encode(),
        b"authorization": b"Bearer 0123456789abcdef0123456789abcdef",
    }
    return {
        "type": "http",
        "method": "POST",
        "path": "/echo",
        "raw_path": b"/echo",
        "root_path": "",
        "scheme": "http",
        "query_string": b"verbose=1",
        "headers": list(headers.items()),
        "client": ("127.0.0.1", 50000),
    }


def steps(full: bool) -> dict[str, Callable[[], object]]:
    """Return every step that is measured, by what it does."""
    view, settings = ASGIGuardRequest(scope()), ChioSettings(trusted_kernel_keys=(PUBLIC_KEY,))
    extract, singletons = default_extractor(), singleton_headers(settings)
    caller = extract(view)
    preparing = _preparing(view, settings)
    exchange = preparing()
    raw = Kernel(full=full).evaluate(json.loads(exchange.body))
    receipt = json.loads(raw)["receipt"]
    signed, signature = signed_bytes(receipt), receipt["signature"]
    response, trust, key = RawResponse(200, "application/json", raw), KeyTrust((PUBLIC_KEY,)), SigningKey(SEED)
    now, keys, expected = float(receipt["timestamp"]), frozenset({PUBLIC_KEY}), exchange.expectation
    return {
        "sha256_hex of a 34-byte body": lambda: sha256_hex(ECHO_BODY),
        "ASGIGuardRequest of a scope": lambda: ASGIGuardRequest(scope()),
        "precheck: could the request mean two things": lambda: precheck(view, settings, singletons),
        "extract the caller, bearer": lambda: extract(view),
        "identity_hash of that caller": caller.identity_hash,
        "to_chio_request": lambda: to_chio_request(
            view, request_id="r", timestamp=int(_NOW), caller=caller, body_hash="0" * 64, body_length=34
        ),
        "prepare: the request to the sidecar, its bytes included": preparing,
        f"parse_json of the response ({len(raw)} bytes)": lambda: parse_json(raw),
        "HttpReceipt.from_wire": lambda: HttpReceipt.from_wire(receipt),
        f"canonical_json of the receipt ({len(signed)} bytes)": lambda: canonical_json(receipt),
        "content_hash recomputed": lambda: exchange.request.content_hash("/echo"),
        "verify_signature": lambda: verify_signature(PUBLIC_KEY, signed, signature),
        "SigningKey.sign": lambda: key.sign(signed),
        "verify_receipt, all rules": lambda: verify_receipt(receipt, trusted_keys=keys, expected=expected, now=now),
        "conclude: from its bytes to the decision": lambda: conclude(response, exchange, settings, trust, now),
    }


def _preparing(view: ASGIGuardRequest, settings: ChioSettings) -> Callable[[], EvaluateCall]:
    caller = default_extractor()(view)
    presented = precheck(view, settings, singleton_headers(settings))

    def preparing() -> EvaluateCall:
        return prepare(
            view,
            settings,
            request_id="0b0c7a04-5a0e-4c57-a41e-0c2f6a1f9a51",
            now=_NOW,
            caller=caller,
            presented=presented,
            template="/echo",
            body_hash=sha256_hex(ECHO_BODY),
            body_length=len(ECHO_BODY),
        )

    return preparing


def measure(cases: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Spread]:
    """Return the processor seconds of each case."""
    counts = {name: _repetitions(step) for name, step in cases.items()}
    taken: dict[str, list[float]] = {name: [] for name in cases}
    gc.freeze()
    for _ in range(rounds):
        for name, step in cases.items():
            taken[name].append(_timed(step, counts[name]))
    return {name: Spread.of(values) for name, values in taken.items()}


def _timed(step: Callable[[], object], count: int) -> float:
    started = time.process_time()
    for _ in range(count):
        step()
    return (time.process_time() - started) / count


def _repetitions(step: Callable[[], object]) -> int:
    step()
    return max(10, int(_SLICE / max(1e-7, _timed(step, 20))))


async def carried(port: int, rounds: int, at_once: int = 16, calls: int = 2000) -> Spread:
    """Return the processor seconds of one POST through the connection pool, `at_once` of them at a time."""
    pool = ConnectionPool(Endpoint("127.0.0.1", port), limit=64)
    body = _preparing(ASGIGuardRequest(scope()), ChioSettings())().body

    async def caller(count: int) -> None:
        for _ in range(count):
            await pool.post(EVALUATE_PATH, body, (), 5.0)

    taken = []
    await caller(10)
    for _ in range(rounds):
        started = time.process_time()
        await asyncio.gather(*(caller(calls // at_once) for _ in range(at_once)))
        taken.append((time.process_time() - started) / (calls // at_once * at_once))
    await pool.aclose()
    return Spread.of(taken)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the options say; return the exit status."""
    parser = new_parser("benchmarks.micro", __doc__)
    parser.add_argument("--rounds", type=positive, default=7, metavar="N")
    parser.add_argument("--receipts", choices=("full", "short"), default="full", help="metadata of the receipts")
    options = parser.parse_args(arguments)
    cores = machine.two_cores()
    machine.require_tools("taskset")
    with tempfile.TemporaryDirectory() as folder, Servers(Path(folder)) as servers:
        sidecar = variants.start_sidecar(servers, cores, options.receipts)
        os.sched_setaffinity(0, {cores.app})
        result = measure(steps(full=options.receipts == "full"), options.rounds)
        result["one POST through the pool, 16 at once"] = uvloop.run(carried(sidecar.port, options.rounds))
    print(f"{options.rounds} rounds; medians; {options.receipts} receipts\n")
    print(report.markdown(("step", "CPU µs", "lowest–highest"), [_row(*item) for item in result.items()]))
    return 0


def _row(name: str, value: Spread) -> list[str]:
    return [name, f"{value.middle * 1e6:,.1f}", f"{value.low * 1e6:,.1f}–{value.high * 1e6:,.1f}"]


if __name__ == "__main__":
    sys.exit(speaking_plainly(main))
