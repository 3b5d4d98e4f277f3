"""The variants that are compared, and how each is started."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import peer
from benchmarks.load import ECHO_BODY
from benchmarks.machine import ROOT, Cores, UnsuitableError, free_port
from benchmarks.servers import Server, Servers
from tests.stub_sidecar import PUBLIC_KEY

MEANING = {
    "bare": "the FastAPI application alone",
    "bound": "behind the lower bound: a raw socket, signature and binding verified, no library",
    "ours": "behind this checkout's ChioASGIMiddleware, kernel key pinned, each receipt verified",
    "embedded": "the same with the sidecar in the process, each receipt committed to the disk before the response",
    "remote": "the same with that sidecar as a process of its own: both on the application's core, both counted",
    "before": "as `embedded`, with the packages of another checkout (`--before DIR`)",
    "published": "behind chio-asgi 0.1.0 from PyPI, which verifies no receipt",
}
USUAL = ("bare", "bound", "ours", "embedded", "published")
GOVERNED = ("bound", "ours", "published")
"""What the stub sidecar evaluates."""

OWN = ("ours", "embedded", "remote", "before")
ENDPOINTS = ("/hello", "/echo")
METHOD = {"/hello": "GET", "/echo": "POST"}


@dataclass(frozen=True)
class Stage:
    """Everything that runs during a measurement."""

    sidecar: Server
    apps: dict[str, Server]


def interpreters(names: Sequence[str]) -> dict[str, Path]:
    """Return the Python that each variant runs on."""
    own = Path(sys.executable)
    return {name: peer.interpreter() if name == "published" else own for name in names}


def start_sidecar(servers: Servers, cores: Cores, receipts: str) -> Server:
    """Start the signing stub on the core of the load."""
    port = free_port()
    command = [sys.executable, "-m", "tests.stub_sidecar", "--port", str(port), "--receipts", receipts]
    return servers.start("stub-sidecar", command, port=port, core=cores.load)


def start_app(
    servers: Servers, cores: Cores, name: str, python: Path, sidecar: Server, before: Path | None = None
) -> Server:
    """Start one variant on the core of the application and make sure that it does what it is measured for.

    Args:
        before: the checkout of the variant `before`.
    """
    port = free_port()
    command = [str(python), str(ROOT / "benchmarks" / "app" / "serve.py"), name, "--port", str(port)]
    command += [
        "--sidecar",
        sidecar.url,
        "--kernel-key",
        PUBLIC_KEY,
        "--store",
        str(servers.workdir / f"{name}.sqlite3"),
    ]
    env = {"PYTHONPATH": str(before if before and name == "before" else ROOT)} if name in OWN else {}
    server = servers.start(name, command, port=port, core=cores.app, env=env)
    probe(server, sidecar)
    return server


def evaluations(sidecar: Server) -> int:
    """Return the number of evaluations of the stub so far."""
    return int(json.loads(_fetch(sidecar.port, "GET", "/stats")[1])["evaluations"])


def probe(server: Server, sidecar: Server) -> None:
    """Make sure that a variant serves both endpoints and has each governed request evaluated once.

    Raises:
        UnsuitableError: it does not.
    """
    before = evaluations(sidecar)
    for endpoint in ENDPOINTS:
        body = ECHO_BODY if endpoint == "/echo" else None
        status, content, receipt = _fetch(server.port, METHOD[endpoint], endpoint, body)
        right = json.loads(body or b'{"message":"hello"}')
        if status != 200 or json.loads(content) != right:
            raise UnsuitableError(f"{server.name} answers {METHOD[endpoint]} {endpoint} with {status}: {content!r}")
        if server.name in OWN and not receipt:
            raise UnsuitableError(f"{server.name} answers {METHOD[endpoint]} {endpoint} without a receipt.")
    counted = evaluations(sidecar) - before
    expected = len(ENDPOINTS) if server.name in GOVERNED else 0
    if counted != expected:
        raise UnsuitableError(f"{server.name} had {counted} evaluations for 2 requests, not {expected}.")


def _fetch(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Content-Type": "application/json", "Connection": "close"}
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content, response.getheader("X-Chio-Receipt")
