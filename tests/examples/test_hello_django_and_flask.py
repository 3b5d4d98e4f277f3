"""hello-django and hello-flask: the same smoke test as hello-fastapi's, with a receipt id in each answer's body."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chio_core.receipts import verify_receipt
from tests.examples.running import ROOT, copy_of, environment, free_port, run, status_of

PATHS = f"{ROOT}:{ROOT / 'adapters'}"
STARTED = {"hello-django": "Starting development server at", "hello-flask": "Running on"}
REFUSED = {
    "hello-django": lambda body: (body["error"]["code"], body["error"]["receipt_id"]),
    "hello-flask": lambda body: (body["error"], body["receipt_id"]),
}
CODE = {"hello-django": "CHIO_GUARD_DENIED", "hello-flask": "chio_access_denied"}
UNREACHABLE = {"hello-django": "CHIO_SIDECAR_UNAVAILABLE", "hello-flask": "chio_sidecar_unreachable"}


@pytest.fixture(scope="module", params=sorted(STARTED))
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of(request.param, tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def smoke(example: Path) -> subprocess.CompletedProcess[str]:
    done = run("./smoke.sh", cwd=example, PYTHONPATH=PATHS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def artifacts(smoke: subprocess.CompletedProcess[str], example: Path) -> Path:
    (folder,) = (example / ".artifacts").iterdir()
    return folder


def test_the_smoke_tells_the_three_calls_and_their_verified_receipts(
    smoke: subprocess.CompletedProcess[str], example: Path
) -> None:
    framework = example.name.removeprefix("hello-")
    for expected in (
        f"hello from {framework}",
        "2. POST /echo, no capability",
        "3. POST /echo, capability cap-",
        "403 {",
    ):
        assert expected in smoke.stdout
    assert smoke.stdout.count("signature verified") == 3


def test_the_answers_name_the_receipts_that_are_stored(artifacts: Path, example: Path) -> None:
    answers = {name: json.loads((artifacts / f"{name}.json").read_text()) for name in ("hello", "deny", "allow")}
    code, refused = REFUSED[example.name](answers["deny"])
    assert code == CODE[example.name]
    receipts = [json.loads(line) for line in (artifacts / "receipts.ndjson").read_text().splitlines()]
    assert [one["id"] for one in receipts] == [answers["hello"]["receipt_id"], refused, answers["allow"]["receipt_id"]]
    (key,) = {one["kernel_key"] for one in receipts}
    assert [verify_receipt(one, trusted_keys={key}).verdict.verdict for one in receipts] == ["allow", "deny", "allow"]


def test_the_view_reads_the_body_that_was_hashed(artifacts: Path) -> None:
    answer = json.loads((artifacts / "allow.json").read_text())
    assert (answer["message"], answer["count"], answer["body_cached"]) == ("hello", 2, True)


def test_the_artifacts_are_those_of_every_example(artifacts: Path) -> None:
    for name in ("hello.headers", "deny.headers", "allow.headers", "capability.token", "logs/app.log"):
        assert (artifacts / name).is_file()
    response = json.loads((artifacts / "capability.json").read_text())
    assert json.loads((artifacts / "capability.token").read_text()) == response["capability"]
    assert (artifacts / "state" / "sidecar-receipts.sqlite3").is_file()
    assert " 403 " in (artifacts / "deny.headers").read_text().splitlines()[0]
    for log in (artifacts / "logs").iterdir():
        assert "Traceback" not in log.read_text()


@contextmanager
def started(example: Path, **more: str) -> Iterator[None]:
    """Run `run.sh` for as long as the context lasts."""
    told = environment(PYTHONPATH=PATHS, PYTHONUNBUFFERED="1", **more)
    with subprocess.Popen(
        ["./run.sh"], cwd=example, env=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert any(STARTED[example.name] in line for line in process.stdout)
            yield
        finally:
            process.terminate()


def test_run_starts_the_application_where_its_variable_says_and_it_fails_closed(example: Path) -> None:
    port, nobody = free_port(), free_port()
    variable = f"{example.name.replace('-', '_').upper()}_PORT"
    with started(example, **{variable: str(port), "CHIO_SIDECAR_URL": f"http://127.0.0.1:{nobody}"}):
        assert status_of(f"http://127.0.0.1:{port}/healthz") == (200, None)
        assert status_of(f"http://127.0.0.1:{port}/hello") == (503, UNREACHABLE[example.name])


@pytest.mark.parametrize("server", ["wsgi", "asgi"])
def test_the_django_project_has_an_entry_point_for_each_kind_of_server(server: str) -> None:
    code = f"from hello_project.{server} import application; print(type(application).__name__)"
    done = run(sys.executable, "-c", code, cwd=ROOT / "examples" / "hello-django", PYTHONPATH=PATHS)
    assert done.stdout.strip() == f"{server.upper()}Handler", done.stderr


def test_the_django_project_passes_its_own_checks() -> None:
    folder = ROOT / "examples" / "hello-django"
    done = run(sys.executable, "manage.py", "check", cwd=folder, PYTHONPATH=PATHS)
    assert "no issues (0 silenced)" in done.stdout, done.stderr


@pytest.mark.parametrize("name", sorted(STARTED))
def test_the_scripts_can_be_started(name: str) -> None:
    for script in ("run.sh", "smoke.sh"):
        assert (ROOT / "examples" / name / script).stat().st_mode & stat.S_IXUSR
