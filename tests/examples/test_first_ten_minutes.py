"""The first ten minutes, as a newcomer goes through them: eight steps in an empty folder, with the commands alone.

Everything happens over loopback; the commands are those of the environment that runs this test.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.examples.running import RECEIPT_ID, ROOT, environment

LONGEST = 60
"""Seconds after which a command hangs; all of them together take a quarter of that."""

MAIN = """\
from fastapi import Depends, FastAPI

from chio_fastapi import ChioReceipt, RequireCapability, add_chio

app = FastAPI()
add_chio(app)


@app.get("/hello")
async def hello(receipt: ChioReceipt) -> dict[str, str]:
    return {"message": "hello", "allowed_by": receipt.id}


@app.post("/transfers", dependencies=[Depends(RequireCapability("payments", "transfer"))])
async def transfer() -> dict[str, str]:
    return {"status": "transferred"}
"""

DOTENV = "CHIO_SIDECAR_URL=embedded:chio.sqlite3\n"

TESTS = """\
from fastapi.testclient import TestClient
from main import app


def test_hello(chio):
    client = TestClient(chio.require_receipts(chio.connect(app)))
    response = client.get("/hello")
    assert response.json()["allowed_by"] == chio.receipt_of(response).id


def test_a_transfer_needs_its_capability(chio):
    client = TestClient(chio.require_receipts(chio.connect(app)))
    assert client.post("/transfers").status_code == 401
    chio.assert_requires("POST", "/transfers", "payments/transfer")
    token = chio.capability("payments", "transfer")
    assert client.post("/transfers", headers=chio.headers(token)).status_code == 200


def test_nothing_runs_without_a_decision(chio):
    client = TestClient(chio.connect(app))
    for trouble in (chio.down, chio.slow, chio.tamper, chio.deny):
        with trouble():
            assert client.get("/hello").status_code >= 400
"""


class Newcomer:
    """Somebody with an empty folder and a shell."""

    def __init__(self, folder: Path, bin_folder: Path) -> None:
        self.folder = folder
        self.told = ""
        path = os.pathsep.join([str(bin_folder), os.environ["PATH"]])
        python_path = os.pathsep.join([str(ROOT), str(ROOT / "adapters")])
        self._environment = environment(PATH=path, PYTHONPATH=python_path, PYTHONUNBUFFERED="1")

    def types(self, command: str, **variables: str) -> str:
        """Run a command line and return what it prints; what it says beside that is `told`."""
        done = subprocess.run(
            shlex.split(command),
            cwd=self.folder,
            env=self._environment | variables,
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        self.told = done.stderr
        return done.stdout

    @contextmanager
    def starts(self, command: str, ready: str, **variables: str) -> Iterator[str]:
        """Start a server; gives what the pattern `ready` finds in its output. What it prints later is not read."""
        with (
            (self.folder / "server.log").open("w") as log,
            subprocess.Popen(
                shlex.split(command),
                cwd=self.folder,
                env=self._environment | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process,
        ):
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    log.write(line)
                    if found := re.search(ready, line):
                        yield found[1]
                        break
                else:
                    pytest.fail(f"{command} has not started: {(self.folder / 'server.log').read_text()}")
            finally:
                process.terminate()
                process.communicate(timeout=LONGEST)

    def serves(self, **variables: str) -> Any:
        """Start the application; gives its address."""
        return self.starts("uvicorn main:app --port 0", r"running on (http://\S+)", **variables)


@pytest.fixture
def newcomer(tmp_path: Path) -> Newcomer:
    """A newcomer in whose environment the distribution is installed."""
    commands = {"chio-sidecar": "chio_sidecar", "uvicorn": "uvicorn", "pytest": "pytest"}
    bin_folder, folder = tmp_path / "bin", tmp_path / "first"
    bin_folder.mkdir()
    folder.mkdir()
    for name, module in commands.items():
        (bin_folder / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {module} "$@"\n')
        (bin_folder / name).chmod(0o755)
    return Newcomer(folder, bin_folder)


def curl(newcomer: Newcomer, method: str, url: str, **headers: str) -> tuple[int, Mapping[str, str], Any]:
    """Send a request as a person would, with curl where there is one; return status, headers and document."""
    if shutil.which("curl") is None:
        answer = httpx.request(method, url, headers=headers)
        return answer.status_code, answer.headers, answer.json()
    lines = " ".join(shlex.join(["-H", f"{name}: {value}"]) for name, value in headers.items())
    head, _, body = newcomer.types(f"curl -sS -i -X {method} {lines} {url}").replace("\r\n", "\n").partition("\n\n")
    status, *fields = head.splitlines()
    return int(status.split()[1]), httpx.Headers([tuple(line.split(": ", 1)) for line in fields]), json.loads(body)


def test_the_first_ten_minutes(newcomer: Newcomer) -> None:
    # 1, 2: it is installed; three lines and one route.
    (newcomer.folder / "main.py").write_text(MAIN)
    (newcomer.folder / ".env").write_text(DOTENV)
    with newcomer.serves() as app:
        status, headers, document = curl(newcomer, "GET", f"{app}/hello")
        assert (status, document["allowed_by"]) == (200, headers["x-chio-receipt"])

        # 3: the refusal names the header, the scope, and the command that mints a token.
        status, headers, document = curl(newcomer, "POST", f"{app}/transfers")
        assert (status, document["error"]) == (401, "chio_capability_required")
        assert "X-Chio-Capability" in document["suggestion"]
        assert document["details"]["required_scope"] == "payments/transfer:invoke"
        hint = document["details"]["hint"]
        assert hint.startswith("chio-sidecar capability issue --receipt-store chio.sqlite3")

        # 4: that very command, and again.
        token = newcomer.types(hint).strip()
        status, headers, document = curl(newcomer, "POST", f"{app}/transfers", **{"X-Chio-Capability": token})
        assert (status, document) == (200, {"status": "transferred"})
        receipt_id = headers["x-chio-receipt"]
        assert RECEIPT_ID.fullmatch(receipt_id)

        # 5: the receipt, and that it is valid.
        show = f"chio-sidecar --receipt-db chio.sqlite3 receipt show {receipt_id} --verify"
        shown = json.loads(newcomer.types(show))
        assert (shown["route_pattern"], shown["method"]) == ("/transfers", "POST")
        who, what = shown["kernel_key"], f"POST /transfers, request {shown['request_id']}"
        assert newcomer.told.splitlines()[-2:] == [f"{receipt_id} valid", f"signed by {who}, about {what}"]
        listed = newcomer.types("chio-sidecar --receipt-db chio.sqlite3 receipt list")
        (newcomer.folder / "receipts.ndjson").write_text(listed)
        verified = newcomer.types("chio-sidecar receipt verify receipts.ndjson --each").split()
        assert verified[1:6:2] == ["valid"] * 3
        assert verified[4] == receipt_id

        # 6: the lock in the documentation.
        assert "swagger" in httpx.get(f"{app}/docs").text.lower()
        described = httpx.get(f"{app}/openapi.json").json()
        operation = described["paths"]["/transfers"]["post"]
        assert operation["security"] == [{"ChioCapability": []}]
        assert described["components"]["securitySchemes"]["ChioCapability"]["name"] == "X-Chio-Capability"
        assert operation["x-chio-capability"] == [{"server": "payments", "tool": "transfer", "operations": ["invoke"]}]

    # 7: tests without network.
    (newcomer.folder / "test_main.py").write_text(TESTS)
    tests = "pytest -q --disable-plugin-autoload -p chio_pytest -p no:cacheprovider -W error"
    assert "3 passed" in newcomer.types(tests)

    # 8: a separate sidecar; the application and its tests stay as they are.
    newcomer.types("chio-sidecar openapi main:app --output openapi.json")
    protect = "chio-sidecar api protect --upstream http://127.0.0.1:1 --spec openapi.json --receipt-store own.sqlite3"
    with newcomer.starts(f"{protect} --listen 127.0.0.1:0", r" on (127\.0\.0\.1:\d+)$") as address:
        elsewhere = {"CHIO_SIDECAR_URL": f"http://{address}"}
        with newcomer.serves(**elsewhere) as app:
            assert curl(newcomer, "GET", f"{app}/hello")[0] == 200
            assert curl(newcomer, "POST", f"{app}/transfers")[0] == 401
            other = {"X-Chio-Capability": token}
            assert curl(newcomer, "POST", f"{app}/transfers", **other)[0] == 403, "the embedded sidecar's token"
            issue = "chio-sidecar capability issue --receipt-store own.sqlite3 --server payments --tool transfer"
            own = {"X-Chio-Capability": newcomer.types(issue).strip()}
            assert curl(newcomer, "POST", f"{app}/transfers", **own)[0] == 200
        assert "3 passed" in newcomer.types(tests, **elsewhere)
