"""The published sidecar in Rust (`chio-api-protect` 0.1.0) behind every framework, over its own sockets.

`cargo build --release --manifest-path benchmarks/rust/Cargo.toml` builds it once, in some minutes.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI

from benchmarks.rust_sidecar import BINARY
from chio_asgi import ChioASGIConfig, ChioASGIMiddleware
from chio_core.client.client import ChioClient
from chio_core.receipts import verify_receipt
from chio_core.signing import SigningKey
from chio_fastapi import Budget, RequireApproval, add_chio
from chio_sidecar.records.archive import open_archive
from tests.faces.apps import starlette_app
from tests.faces.faces import ALONE, FACES, Face, Governed
from tests.tokens import ISSUER, token

pytestmark = pytest.mark.skipif(not BINARY.exists(), reason=f"{BINARY} is not built; `.ci/run` builds it with cargo")

OPERATIONS = {"/hello": "get", "/pets/{pet}": "get", "/anything": "post", "/accounts/{account}/transfer": "post"}
DOCUMENT = {
    "openapi": "3.1.0",
    "info": {"title": "contract", "version": "1"},
    "paths": {path: {method: {"responses": {"200": {"description": "ok"}}}} for path, method in OPERATIONS.items()},
}
PLACE = "/accounts/7/transfer"
RIGHT = ("payments", "transfer")

each_face = pytest.mark.parametrize("face", FACES, ids=str)
each_requiring = pytest.mark.parametrize("face", [*(face for face in FACES if face.asks), *ALONE], ids=str)


@dataclass(frozen=True)
class Real:
    """A running sidecar.

    Attributes:
        key: its public key in hex.
        store: its file.
    """

    url: str
    key: str
    store: Path

    @property
    def settings(self) -> dict[str, Any]:
        """What an application needs to know of it."""
        return {"sidecar_url": self.url, "trusted_kernel_keys": [self.key]}

    def stored(self, receipt_id: str | None) -> dict[str, Any]:
        """Return a stored receipt, verified."""
        assert receipt_id is not None
        with open_archive(self.store) as archive:
            found = archive.get(receipt_id)
        assert found is not None, receipt_id
        verify_receipt(found, trusted_keys={self.key})
        return found


@contextmanager
def running(folder: Path, port: int = 0) -> Iterator[Real]:
    """Run the sidecar; it makes a new key each time."""
    if port == 0:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    document, store = folder / "openapi.json", folder / "receipts.sqlite3"
    document.write_text(json.dumps(DOCUMENT))
    process = subprocess.Popen([BINARY, f"127.0.0.1:{port}", store, document, ISSUER.public_hex])
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 5).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None, "it has ended"
                assert time.monotonic() < deadline, "it does not listen"
        yield Real(f"http://127.0.0.1:{port}", key_of(f"http://127.0.0.1:{port}"), store)
    finally:
        process.kill()
        process.wait()


def key_of(url: str) -> str:
    """Return the key that signs; only a receipt states it."""
    caller = {"subject": "anonymous", "auth_method": {"method": "anonymous"}, "verified": False}
    request = {"request_id": "first", "method": "GET", "route_pattern": "/hello", "path": "/hello", "caller": caller}
    answer = httpx.post(f"{url}/chio/evaluate", json={**request, "timestamp": int(time.time())})
    key = answer.json()["receipt"]["kernel_key"]
    assert isinstance(key, str)
    return key


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    with running(tmp_path_factory.mktemp("real")) as found:
        yield found


@contextmanager
def governed(face: Face, real: Real, **options: Any) -> Iterator[Any]:
    """Govern an application with it; the sidecar of `Governed` is not used."""
    with face.opened(**real.settings, **options) as send:
        yield Governed(None, send)  # type: ignore[arg-type]


@each_face
def test_it_allows_a_get_and_its_receipt_is_verified_and_stored(face: Face, real: Real) -> None:
    with governed(face, real) as application:
        for target in ("/hello", "/pets/a%20b?x=1&x=2&y=%C3%A4", "/pets/%C3%A4"):
            found = application.get(target)
            assert found.status == 200, found.body
            assert real.stored(found.receipt)["verdict"] == {"verdict": "allow"}


@each_face
@pytest.mark.parametrize("body", [b"", b"x" * 100_000, [b"one", b"two", b""]], ids=["none", "large", "chunked"])
def test_a_side_effect_needs_a_capability_and_its_body_is_bound(face: Face, real: Real, body: Any) -> None:
    with governed(face, real) as application:
        refused = application.send("POST", "/anything", {}, body)
        allowed = application.send("POST", "/anything", {"X-Chio-Capability": token(RIGHT)}, body)
    assert (refused.status, refused.seen) == (403, [])
    assert refused.code == face.code("chio_access_denied")
    assert real.stored(refused.problem["receipt_id"])["verdict"]["verdict"] == "deny"
    assert allowed.status == 200, allowed.body
    assert allowed.seen[0].body == (body if isinstance(body, bytes) else b"".join(body))
    assert real.stored(allowed.receipt)["capability_id"].startswith("cap-")


@each_requiring
def test_a_route_runs_with_the_capability_that_it_requires_and_with_no_other(face: Face, real: Real) -> None:
    presented = {
        "right": token(RIGHT),
        "none": None,
        "other tool": token(("payments", "refund")),
        "read only": token({"server_id": "payments", "tool_name": "transfer", "operations": ["read"]}),
        "foreign issuer": token(RIGHT, key=SigningKey(b"\x77" * 32)),
        "changed": token(RIGHT).replace('"transfer"', '"refund"'),
    }
    with governed(face, real) as application:
        found = {
            name: application.send("POST", PLACE, {} if text is None else {"X-Chio-Capability": text}, b"x")
            for name, text in presented.items()
        }
    ran = {name: (one.status, len(one.seen)) for name, one in found.items()}
    refused = dict.fromkeys(("other tool", "read only", "foreign issuer", "changed"), (403, 0))
    assert ran == {"right": (200, 1), "none": (401, 0), **refused}
    receipt = found.pop("right").seen[0].receipt
    assert receipt is not None
    assert real.stored(receipt.id)["verdict"] == {"verdict": "allow"}
    for one in found.values():
        assert real.stored(one.problem["receipt_id"])["verdict"]["verdict"] == "deny"


def test_a_hundred_requests_at_once_get_a_receipt_each(real: Real) -> None:
    async def main() -> list[str]:
        client = ChioClient(ChioASGIConfig(**real.settings))
        transport = httpx.ASGITransport(ChioASGIMiddleware(starlette_app.make(), client=client))
        async with client, httpx.AsyncClient(transport=transport, base_url="http://testserver") as caller:
            answers = await asyncio.gather(*(caller.get(f"/pets/{number}") for number in range(100)))
        assert {answer.status_code for answer in answers} == {200}
        return [answer.headers["x-chio-receipt"] for answer in answers]

    found = asyncio.run(main())
    assert len(set(found)) == 100
    for receipt_id in found:
        real.stored(receipt_id)


def test_demands_that_it_does_not_know_are_a_502_and_never_run(real: Real) -> None:
    ran: list[str] = []
    app = FastAPI()
    add_chio(app, client=ChioClient(ChioASGIConfig(**real.settings)))

    @app.post("/approved", dependencies=[Depends(RequireApproval(0))])
    @app.post("/paid", dependencies=[Depends(Budget(max_total_cost=500, currency="USD", cost=1))])
    def runs() -> None:
        ran.append("")

    async def main() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        headers = {"X-Chio-Capability": token(RIGHT)}
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver", headers=headers) as caller:
            return [await caller.post(path) for path in ("/approved", "/paid")]

    answers = asyncio.run(main())
    assert [(answer.status_code, answer.json()["error"]) for answer in answers] == [
        (502, "chio_policy_not_enforced")
    ] * 2
    assert ran == []


def test_after_a_restart_its_new_key_is_not_trusted_and_it_is_a_503_meanwhile(tmp_path: Path) -> None:
    face = FACES[0]
    with running(tmp_path) as first:
        port = int(first.url.rpartition(":")[2])
        with governed(face, first) as application:
            assert application.get("/hello").status == 200
    with governed(face, first) as application:
        assert application.get("/hello").status == 503
        with running(tmp_path, port) as second:
            refused = application.get("/hello")
            assert (refused.status, refused.seen) == (502, [])
            with governed(face, second) as trusting:
                assert trusting.get("/hello").status == 200
