"""hello-fastapi: the smoke test, what it leaves behind, and the commands that its page tells people to type."""

from __future__ import annotations

import json
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chio_core.capabilities import parse_capability
from chio_core.receipts import verify_receipt
from tests.examples.running import RECEIPT_ID, ROOT, copy_of, environment, free_port, run, status_of


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of("hello-fastapi", tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def smoke(example: Path) -> subprocess.CompletedProcess[str]:
    """What `make demo` prints: it runs the example's smoke test."""
    root = example.parents[1]
    shutil.copy(ROOT / "Makefile", root)
    done = run("make", "demo", cwd=root, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def artifacts(smoke: subprocess.CompletedProcess[str], example: Path) -> Path:
    (folder,) = (example / ".artifacts").iterdir()
    return folder


def typed(command: str, folder: Path) -> str:
    """Return what a command of the page prints; skip when the machine lacks the program."""
    for program in ("jq", "sqlite3"):
        if program in command and shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout


def test_the_smoke_says_what_it_does_meanwhile(smoke: subprocess.CompletedProcess[str]) -> None:
    steps = [line for line in smoke.stderr.splitlines() if line.startswith("hello-fastapi: ")]
    assert [step.split(",")[0].split()[1:] for step in steps] == [[str(number), "of", "5"] for number in range(1, 6)]


def test_the_smoke_tells_the_three_calls_and_their_verified_receipts(smoke: subprocess.CompletedProcess[str]) -> None:
    for expected in (
        "1. GET /hello, no capability",
        '200 {"message":"hello from fastapi"}',
        "2. POST /echo, no capability",
        "403 {",
        "3. POST /echo, capability cap-",
        '200 {"message":"hello","count":2}',
        "all 3 receipts verified under kernel key ",
    ):
        assert expected in smoke.stdout
    assert smoke.stdout.count("signature verified") == 3


def test_the_artifacts_are_where_the_page_says(artifacts: Path) -> None:
    assert time.strptime(artifacts.name, "%Y%m%dT%H%M%SZ")
    for name in ("hello", "deny", "allow"):
        assert (artifacts / f"{name}.headers").is_file()
        assert isinstance(json.loads((artifacts / f"{name}.json").read_text()), dict)
    for name in ("receipts.ndjson", "logs/app.log", "state/sidecar-receipts.sqlite3"):
        assert (artifacts / name).is_file()


def test_the_capability_is_the_authority_s_response_and_its_token_stands_beside(artifacts: Path) -> None:
    response = json.loads((artifacts / "capability.json").read_text())
    (line,) = (artifacts / "capability.token").read_text().splitlines()
    assert json.loads(line) == response["capability"]
    assert parse_capability(line).id.startswith("cap-")


def test_the_receipt_header_is_found_as_the_page_says(artifacts: Path) -> None:
    for name in ("hello", "deny", "allow"):
        line = typed(f"grep -i x-chio-receipt {name}.headers", artifacts)
        header, _, receipt_id = line.strip().partition(": ")
        assert header == "x-chio-receipt"
        assert RECEIPT_ID.fullmatch(receipt_id)


def test_one_receipt_a_request_is_listed(artifacts: Path) -> None:
    assert typed("wc -l receipts.ndjson", artifacts).split()[0] == "3"


def test_jq_prints_ids_and_outcomes(artifacts: Path) -> None:
    lines = typed("jq -r '.id, .verdict.outcome' receipts.ndjson", artifacts).splitlines()
    assert all(RECEIPT_ID.fullmatch(line) for line in lines[::2])
    assert lines[1::2] == ["allow", "deny", "allow"]
    counted = typed("jq -r '.verdict.outcome' receipts.ndjson | sort | uniq -c", artifacts)
    assert counted.split() == ["2", "allow", "1", "deny"]


def test_sqlite_prints_the_newest_receipts_first(artifacts: Path) -> None:
    query = "select id, substr(verdict_outcome,1,8) from receipts order by created_at desc limit 5;"
    rows = typed(f'sqlite3 state/sidecar-receipts.sqlite3 "{query}"', artifacts).splitlines()
    listed = [json.loads(line)["id"] for line in (artifacts / "receipts.ndjson").read_text().splitlines()]
    assert rows == [f"{listed[2]}|allow", f"{listed[1]}|deny", f"{listed[0]}|allow"]


def test_every_listed_receipt_verifies_under_the_one_kernel_key(artifacts: Path) -> None:
    receipts = [json.loads(line) for line in (artifacts / "receipts.ndjson").read_text().splitlines()]
    (key,) = {receipt["kernel_key"] for receipt in receipts}
    assert [verify_receipt(one, trusted_keys={key}).verdict.verdict for one in receipts] == ["allow", "deny", "allow"]


def test_the_application_was_told_whose_receipts_count(artifacts: Path) -> None:
    assert "first use" not in (artifacts / "logs" / "app.log").read_text()


def test_what_the_smoke_starts_it_also_ends(artifacts: Path) -> None:
    for name in ("app", "sidecar", "trust"):
        log = (artifacts / "logs" / f"{name}.log").read_text()
        assert "Traceback" not in log
    assert "Finished server process" in (artifacts / "logs" / "app.log").read_text()


def test_the_command_that_chio_bin_names_is_used_for_everything_and_python_makes_the_calls_without_curl(
    tmp_path: Path, example: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in ("sh", "env", "sed", "date", "mkdir", "dirname", "cat", "grep", "sleep"):
        (programs / program).symlink_to(shutil.which(program) or program)
    used, command = tmp_path / "used", tmp_path / "chio"
    command.write_text(f'#!/bin/sh\necho "$@" >>{used}\nexec {sys.executable} -m chio_sidecar "$@"\n')
    command.chmod(0o755)
    done = run("./smoke.sh", cwd=example, PYTHONPATH=str(ROOT), CHIO_BIN=str(command), PATH=str(programs))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"governed by {command}" in done.stdout
    assert done.stdout.count("signature verified") == 3
    words = used.read_text()
    for expected in ("trust serve", "api protect", "receipt list"):
        assert expected in words


def test_a_port_in_use_is_named_in_one_sentence(example: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = str(taken.getsockname()[1])
        done = run("./smoke.sh", cwd=example, PYTHONPATH=str(ROOT), HELLO_FASTAPI_PORT=number)
    assert done.returncode == 1
    assert f"port {number} of 127.0.0.1 cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sidecar_that_does_not_start_is_told_with_the_end_of_its_log(tmp_path: Path, example: Path) -> None:
    command = tmp_path / "chio"
    command.write_text("#!/bin/sh\necho 'this is no sidecar' >&2\nexit 3\n")
    command.chmod(0o755)
    done = run("./smoke.sh", cwd=example, PYTHONPATH=str(ROOT), CHIO_BIN=str(command))
    assert done.returncode == 1
    assert "this is no sidecar" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_starts_the_application_where_its_variable_says(example: Path) -> None:
    port, nobody = free_port(), free_port()
    told = environment(
        PYTHONPATH=str(ROOT), HELLO_FASTAPI_PORT=str(port), CHIO_SIDECAR_URL=f"http://127.0.0.1:{nobody}"
    )
    with subprocess.Popen(
        ["./run.sh"], cwd=example, env=told, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            started = next(line for line in process.stderr if "Uvicorn running on" in line)
            assert f"http://127.0.0.1:{port}" in started
            assert status_of(f"http://127.0.0.1:{port}/healthz") == (200, None)
            assert status_of(f"http://127.0.0.1:{port}/hello") == (503, "chio_sidecar_unreachable")
        finally:
            process.terminate()


def test_the_scripts_can_be_started() -> None:
    for script in ("run.sh", "smoke.sh"):
        assert (ROOT / "examples" / "hello-fastapi" / script).stat().st_mode & stat.S_IXUSR
