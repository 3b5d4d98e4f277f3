"""What guards cost: processor microseconds that each adds to a bare ASGI application, beside their peers.

    python -m benchmarks.guards
    python -m benchmarks.guards --no-peer        without fastapi-guard (its environment is made at the first run)

Exit status 1: ten request-only guards, or the chain of addresses, headers and a limit in memory, take longer than they
may. What counts is what they add to the bare application, the middleware around them included.

The path is excluded from the decision, so there is no sidecar: only the middleware and its guards are measured. Every
case serves the same requests in this process, the cases interleaved over the rounds; a figure is the median.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.middleware.base import BaseHTTPMiddleware

from benchmarks import machine, report
from benchmarks.figures import Spread
from benchmarks.options import new_parser, positive, speaking_plainly
from chio_asgi import ChioASGIConfig, ChioASGIMiddleware
from chio_core import AnyResponse, GuardRequest, Next
from chio_core.guards import IpBlock, JwtAuth, RateLimit, RequestId, SecurityHeaders, Stopwatch

HERE = Path(__file__).resolve().parent
PEER = "fastapi-guard==8.1.2"
_REPEAT = 400
_SECRET = "a secret of sixty-four characters" * 2
_CLAIMS = {"sub": "alice", "exp": 4_000_000_000}

_BLOCKED = ["192.168.1.50", "10.9.0.0/16"]

FLOOR = "bare application"
ALONE = "the middleware alone, path excluded"
CHAIN = "IpBlock + SecurityHeaders + RateLimit in memory"
TEN = "10 request-only guards"
MUST = 60.0
"""What `CHAIN` may add to the bare application, median, in CPU microseconds."""
TEN_MUST = 5.0
"""What `TEN`, and the middleware that runs them, must stay below: the quietest rounds of both, in CPU microseconds."""


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Answer 200 with two bytes."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def look(request: GuardRequest) -> None:
    """A request-only guard that does nothing."""


async def wrap(request: GuardRequest, next: Next) -> AnyResponse:
    """A `next`-style member that does nothing."""
    return await next(request)


def governed(*guards: Any) -> ChioASGIMiddleware:
    """Return the bare application behind guards."""
    config = ChioASGIConfig(sidecar_url="http://127.0.0.1:9", exclude_paths={"/"}, trusted_kernel_keys=("00" * 32,))
    return ChioASGIMiddleware(bare, config, guards=guards)


def layered(count: int) -> Any:
    """Return the bare application inside of Starlette's BaseHTTPMiddleware."""

    async def dispatch(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    app: Any = bare
    for _ in range(count):
        app = BaseHTTPMiddleware(app, dispatch=dispatch)
    return app


def cases() -> dict[str, Any]:
    """Return every application that is measured, by what it is."""
    key = Ed25519PrivateKey.generate()
    networks = [f"{10 + n // 65536}.{n // 256 % 256}.{n % 256}.0/24" for n in range(10_000)]
    shared = RateLimit("1000000000/minute")
    return {
        FLOOR: bare,
        ALONE: governed(),
        **{f"{n} request-only guards": governed(*[look] * n) for n in (1, 5, 10)},
        **{f"{n} members with next": governed(*[wrap] * n) for n in (1, 5, 10)},
        **{f"{n} × BaseHTTPMiddleware": layered(n) for n in (1, 5)},
        "IpBlock, 10,000 networks": governed(IpBlock(networks)),
        "RateLimit in memory": governed(shared),
        "SecurityHeaders, 4 lines": governed(SecurityHeaders()),
        "Stopwatch": governed(Stopwatch(on_time=lambda *what: None)),
        "RequestId": governed(RequestId()),
        "JwtAuth, HS256": governed(JwtAuth(key=_SECRET, algorithms=["HS256"])),
        "JwtAuth, EdDSA": _Token(governed(JwtAuth(key=key.public_key(), algorithms=["EdDSA"])), key),
        "IpBlock + RateLimit in memory": governed(IpBlock(_BLOCKED), shared),
        CHAIN: governed(SecurityHeaders(), IpBlock(_BLOCKED), shared),
    }


class _Token:
    """An application that receives another token than the others."""

    def __init__(self, app: Any, key: Any) -> None:
        self.app = app
        self.token = jwt.encode(_CLAIMS, key, "EdDSA").encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope["headers"] = [*scope["headers"][:-1], (b"authorization", b"Bearer " + self.token)]
        await self.app(scope, receive, send)


def scope_maker() -> Callable[[], dict[str, Any]]:
    """Return a function that makes the scope of a GET with a token."""
    token = jwt.encode(_CLAIMS, _SECRET, "HS256").encode()
    return lambda: {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"user-agent", b"wrk"), (b"authorization", b"Bearer " + token)],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }


async def measure(applications: Mapping[str, Any], rounds: int) -> dict[str, Spread]:
    """Return the processor microseconds of one request of each application."""
    make = scope_maker()
    taken: dict[str, list[float]] = {name: [] for name in applications}
    statuses: set[int] = set()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.add(message["status"])

    for _ in range(rounds):
        for name, app in applications.items():
            scopes = [make() for _ in range(_REPEAT)]
            started = time.process_time()
            for scope in scopes:
                await app(scope, receive, send)
            taken[name].append((time.process_time() - started) / _REPEAT * 1e6)
    if statuses != {200}:
        raise machine.UnsuitableError(f"a case was answered {sorted(statuses)} instead of 200; nothing is reported.")
    return {name: Spread.of(values) for name, values in taken.items()}


def peer() -> dict[str, float]:
    """Return what fastapi-guard adds, measured in a separate environment.

    Raises:
        UnsuitableError: that environment cannot be made, without a network or Python's venv.
    """
    folder = HERE / ".venv-guards"
    python, stamp = folder / "bin" / "python", folder / "made-of.txt"
    if not (stamp.exists() and stamp.read_text() == _wanted()):
        print(f"making {folder} for {PEER} …", file=sys.stderr)
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *_wanted().split()])
        stamp.write_text(_wanted())
    found: dict[str, float] = json.loads(_run([str(python), str(HERE / "app" / "guards_peer.py")]).splitlines()[-1])
    return {f"{PEER.replace('==', ' ')}, {name}, the same two rules": value for name, value in found.items()}


def _wanted() -> str:
    return " ".join([PEER, *(f"{name}=={machine.version_of(name)}" for name in ("fastapi", "starlette", "pydantic"))])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise machine.UnsuitableError(f"`{' '.join(command)}` failed ({lines[-1]}); --no-peer measures without it.")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print one table; return the exit status."""
    parser = new_parser("benchmarks.guards", __doc__)
    parser.add_argument("--rounds", type=positive, default=15, metavar="N")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="leave fastapi-guard out")
    options = parser.parse_args(arguments)
    found = asyncio.run(measure(cases(), options.rounds))
    floor, alone = found.pop(FLOOR), found[ALONE]
    rows = [_row(name, value, floor, alone) for name, value in found.items()]
    if options.peer:
        rows += [[name, f"{value:.1f}", "–", "–"] for name, value in peer().items()]
    print(f"{options.rounds} rounds of {_REPEAT} requests; CPU µs; the bare application takes {floor.middle:.2f}\n")
    headings = ("", "added to the bare application: median", "lowest", "added to the middleware alone: median")
    print(report.markdown(headings, rows))
    ten, chain = found[TEN].low - floor.low, found[CHAIN].middle - floor.middle
    print("\nadded to the bare application, the middleware included:")
    print(f"{TEN}: {ten:.1f} µs in the quietest rounds, must be below {TEN_MUST:.0f}")
    print(f"{CHAIN}: {chain:.1f} µs, of {MUST:.0f} that it may take")
    return 0 if ten < TEN_MUST and chain <= MUST else 1


def _row(name: str, value: Spread, floor: Spread, alone: Spread) -> list[str]:
    more = "–" if name == ALONE or "BaseHTTP" in name else f"{value.middle - alone.middle:.1f}"
    return [name, f"{value.middle - floor.middle:.1f}", f"{value.low - floor.low:.1f}", more]


if __name__ == "__main__":
    sys.exit(speaking_plainly(main))
