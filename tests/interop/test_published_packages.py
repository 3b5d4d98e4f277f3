"""The packages chio-asgi, chio-fastapi and chio-django 0.1.0 work as clients of our sidecar (row S23).

They have our import names, so they live in their own virtual environment, made once and kept.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from chio_core.receipts import verify_receipt
from tests.interop.environments import environment_for
from tests.sidecar.control_tools import environment, run_command, serving

HERE = Path(__file__).resolve().parent
PACKAGES = ["chio-asgi==0.1.0", "chio-fastapi==0.1.0", "chio-django==0.1.0", "chio-sdk-python==0.1.0"]


@pytest.fixture(scope="module")
def published() -> Path:
    """The interpreter that has the published packages; skips where they cannot be installed."""
    return environment_for("published", PACKAGES)


@pytest.fixture(scope="module")
def answers(published: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each published client answered, and the store that our sidecar wrote meanwhile."""
    state = tmp_path_factory.mktemp("state")
    store = state / "receipts.sqlite3"
    trust_options = (
        "--listen",
        "127.0.0.1:0",
        "--service-token",
        "interop",
        "--revocation-db",
        state / "revoked.sqlite3",
    )
    with serving("trust", "serve", *trust_options, "--authority-db", state / "authority.sqlite3") as trust:
        reach = ("--control-url", trust.url, "--control-token", "interop")
        issued = run_command("capability", "issue", *reach, "--server", "http-sidecar-client", "--tool", "hello_write")
        assert issued.returncode == 0, issued.stderr
        protect = ("api", "protect", "--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0")
        with serving(*reach, *protect, "--receipt-store", store) as sidecar:
            told = subprocess.run(
                [published, HERE / "published_clients.py", sidecar.url, issued.stdout.strip()],
                capture_output=True, text=True, timeout=120, check=False,
                env={**environment(), "PYTHONPATH": ""},
            )  # fmt: skip
    assert told.returncode == 0, told.stderr
    return {"clients": json.loads(told.stdout.splitlines()[-1]), "store": store}


def test_chio_asgi_is_allowed_denied_and_allowed_with_a_capability(answers: dict[str, Any]) -> None:
    cases = answers["clients"]["chio-asgi"]
    assert [status for status, _, _ in cases.values()] == [200, 403, 200]
    assert all(receipt for _, receipt, _ in cases.values())


def test_chio_fastapi_is_refused_without_and_allowed_with_a_capability(answers: dict[str, Any]) -> None:
    cases = answers["clients"]["chio-fastapi"]
    assert [status for status, _, _ in cases.values()] == [200, 401, 200]


def test_chio_django_is_allowed_denied_and_allowed_with_a_capability(answers: dict[str, Any]) -> None:
    cases = answers["clients"]["chio-django"]
    assert [status for status, _, _ in cases.values()] == [200, 403, 200]
    assert cases["deny"][2]["error"]["code"] == "CHIO_GUARD_DENIED"


def test_each_of_their_decisions_left_a_receipt_that_verifies(answers: dict[str, Any]) -> None:
    listed = run_command("receipt", "list", "--receipt-db", answers["store"])
    receipts = [json.loads(line) for line in listed.stdout.splitlines()]
    assert len(receipts) == 7  # three by chio-asgi, one by chio-fastapi, three by chio-django
    for receipt in receipts:
        verify_receipt(receipt, trusted_keys={receipts[0]["kernel_key"]})
