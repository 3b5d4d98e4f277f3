"""The sidecar does what its OpenAPI document says, and nothing that a generated request makes it do is a failure (A7).

Schemathesis lives in a virtual environment of its own, made once and kept: it is 25 packages, one of which is a plugin
that every run of pytest would load.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from openapi_spec_validator import validate
from starlette.routing import Route

from chio_sidecar.app import create_app
from chio_sidecar.config import SidecarConfig
from chio_sidecar.viewer import VIEWER_PATH
from tests.interop.environments import ROOT, environment_for
from tests.sidecar.control_tools import environment, serving

DOCUMENT = ROOT / "docs" / "sidecar-api.yaml"

# A schema cannot say all that is checked: `1.0` is no integer here, and one member must fit another.
NOT_CHECKED = "positive_data_acceptance"


def test_the_document_is_valid_and_has_every_path_of_the_sidecar_but_the_viewer(tmp_path: Path) -> None:
    document = yaml.safe_load(DOCUMENT.read_text())
    validate(document)
    stated = {
        (path, method.upper()) for path, item in document["paths"].items() for method in item if method != "parameters"
    }
    app = create_app(SidecarConfig(store_path=tmp_path / "receipts.sqlite3"))
    routes = [route for route in app.routes if isinstance(route, Route)]
    served = {(route.path, method) for route in routes for method in route.methods or () if method != "HEAD"}
    viewer = VIEWER_PATH.removesuffix("/")
    assert stated == {(path, method) for path, method in served if not path.startswith(viewer)}


@pytest.mark.slow  # some 80 requests, and thousands at full size
def test_the_sidecar_does_what_the_document_says_for_generated_requests(tmp_path: Path, full_size: bool) -> None:
    python = environment_for("schemathesis", ["schemathesis==4.32.5"])
    generated = ["--phases", "coverage,fuzzing", "-n", "100"] if full_size else ["--phases", "fuzzing", "-n", "5"]
    seed = [] if full_size else ["--seed", "1"]
    protect = ("api", "protect", "--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0")
    with serving(*protect, "--receipt-store", tmp_path / "receipts.sqlite3") as sidecar:
        command = [python.with_name("st"), "run", DOCUMENT, "--url", sidecar.url, *generated, *seed]
        done = subprocess.run(
            [*command, "--exclude-checks", NOT_CHECKED, "--max-failures", "5", "--no-color"],
            capture_output=True, text=True, timeout=1800, check=False, cwd=tmp_path, env=environment(),
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
