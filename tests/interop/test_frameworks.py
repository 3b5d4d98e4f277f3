"""The middleware governs frameworks whose router it does not know, under a real server and with a real sidecar.

They live in a virtual environment of their own, made once and kept. Django-ninja shares ours: see
`tests/faces/test_policies.py`.
"""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.interop.environments import ROOT, environment_for
from tests.sidecar.control_tools import environment, run_command, serving

PROGRAMS = Path(__file__).with_name("framework_programs.py")
FRAMEWORKS = [
    "litestar==2.25.0", "quart==0.22.0", "blacksheep==2.6.4", "falcon==4.4.0", "sanic==25.12.1", "fastmcp==4.2.3",
    "bottle==0.13.4", "pyramid==2.1",
]  # fmt: skip
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMES = (
    "litestar", "litestar_routed_later", "quart", "blacksheep", "falcon", "sanic", "fastmcp", "bottle", "pyramid",
    "falcon_wsgi",
)  # fmt: skip


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each framework answered."""
    python = environment_for("frameworks", [*PROJECT["dependencies"], "uvicorn>=0.53", *FRAMEWORKS])
    state = tmp_path_factory.mktemp("state")
    trust_options = ("--listen", "127.0.0.1:0", "--service-token", "interop", "--authority-db", state / "a.sqlite3")
    with serving("trust", "serve", *trust_options, "--revocation-db", state / "revoked.sqlite3") as trust:
        reach = ("--control-url", trust.url, "--control-token", "interop")
        issued = run_command("capability", "issue", *reach, "--server", "http", "--tool", "*")
        assert issued.returncode == 0, issued.stderr
        protect = ("api", "protect", "--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0")
        with serving(*reach, *protect, "--receipt-store", state / "receipts.sqlite3") as sidecar:
            done = subprocess.run(
                [python, PROGRAMS, sidecar.url, issued.stdout.strip()],
                capture_output=True, text=True, timeout=240, check=False,
                env={**environment(), "PYTHONPATH": f"{ROOT}:{ROOT / 'adapters'}"},
            )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_each_framework_is_there(answers: dict[str, Any]) -> None:
    assert tuple(answers) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_write_runs_with_a_capability_only_and_every_response_names_its_receipt(
    answers: dict[str, Any], name: str
) -> None:
    found = answers[name]
    assert (found["refused"]["status"], found["unknown"]["status"]) == (403, 404)
    assert 200 <= found["permitted"]["status"] < 300
    assert "Rex" in found["permitted"]["text"]
    receipts = [one["receipt"] for one in found.values()]
    assert all(receipts)
    assert len(set(receipts)) == len(receipts)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "fastmcp"])
def test_the_handler_reads_the_receipt_that_the_response_names(answers: dict[str, Any], name: str) -> None:
    read = answers[name]["read"]
    assert json.loads(read["text"]) == {"pet": 3, "receipt": read["receipt"]}
