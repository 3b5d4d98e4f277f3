"""What the commands write: no control of a terminal, no traceback, and nothing that is lost without an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from tests.sidecar.control_tools import DEADLINE, CommandLine, environment, write_store
from tests.viewer.browser import listening
from tests.viewer.records import receipt

RED = "\x1b[31m\x1b]0;title\x07\x9b2J\u202egnp"
SHOWN = "\\x1b[31m\\x1b]0;title\\x07\\x9b2J\\u202egnp"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "r.sqlite3", [receipt(1), receipt(2)])


@pytest.mark.parametrize(
    "arguments",
    [
        ["receipt", "show", RED, "--receipt-store", "STORE"],
        ["receipt", "show", "x", "--receipt-store", RED],
        ["explain", RED],
        ["explain", RED, "--receipt-store", "STORE"],
        ["approval", "show", "x", "--sidecar-url", f"http://127.0.0.1:1/{RED}"],
        ["check", f"{RED}:app"],
        ["api", "protect", "--upstream", "http://127.0.0.1:1", "--listen", RED],
    ],
    ids=lambda arguments: " ".join(arguments[:2]).partition("\x1b")[0],
)
def test_an_argument_that_is_repeated_moves_no_cursor(store: Path, cli: CommandLine, arguments: list[str]) -> None:
    error = cli.fails(*(str(store) if one == "STORE" else one for one in arguments))
    assert all(char.isprintable() for char in error.replace("\n", "")), error
    assert "31m" in error


def test_wrong_usage_moves_no_cursor(cli: CommandLine) -> None:
    error = cli.misused("receipt", "list", f"--{RED}")
    assert ("\x1b" in error, SHOWN in error) == (False, True)


def test_the_error_of_a_trust_service_moves_no_cursor_and_breaks_no_line(cli: CommandLine) -> None:
    async def service(scope: Scope, receive: Receive, send: Send) -> None:
        body = json.dumps({"error": f"{RED}\nerror [chio_cli]: forged"}).encode()
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": body})

    with listening(service) as url:
        error = cli.fails("trust", "status", "--capability-id", "c", "--control-url", url, "--control-token", "t")
    assert (error.count("\n"), "\x1b" in error) == (1, False)
    assert f"{SHOWN}\\nerror [chio_cli]: forged" in error


def command(store: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as a process, whose output Python buffers or not."""
    return subprocess.run(
        [sys.executable, "-m", "chio_sidecar", *arguments, *(["--receipt-store", str(store)] if arguments else [])],
        text=True,
        timeout=DEADLINE,
        check=False,
        env=environment(PYTHONUNBUFFERED=options.pop("unbuffered", "")),
        **options,
    )


WRITING = [["receipt", "list"], ["receipt", "fsck"], ["receipt", "verify"], ["receipt", "show", "receipt-00001"]]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [*WRITING, ["--help"], ["receipt", "list", "--help"]], ids=" ".join)
def test_a_full_output_is_one_sentence_and_a_failure(store: Path, arguments: list[str], unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        done = command(store, *arguments, stdout=full, stderr=subprocess.PIPE, unbuffered=unbuffered)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.stderr.splitlines()[-1] == "error [chio_cli]: cannot write standard output: No space left on device"
    assert done.returncode == 1


@pytest.mark.parametrize("arguments", WRITING, ids=" ".join)
def test_a_closed_output_is_one_sentence_and_a_failure(store: Path, arguments: list[str]) -> None:
    done = command(store, *arguments, stderr=subprocess.PIPE, preexec_fn=lambda: os.close(1))
    assert "Traceback" not in done.stderr
    assert "error [chio_cli]: standard output is closed\n" in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize("full", [False, True])
def test_what_is_for_people_never_goes_to_the_output_and_may_be_lost(store: Path, full: bool) -> None:
    with open("/dev/full", "w") as device:
        stderr = {"stderr": device} if full else {"preexec_fn": lambda: os.close(2)}
        done = command(store, "receipt", "list", "--limit", "1", stdout=subprocess.PIPE, **stderr)
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["id"] == "receipt-00001"
    assert done.returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["receipt", "show", "\udcff"],
        ["receipt", "list", "--capability", "\udcff"],
        ["explain", "\udcff"],
        ["capability", "issue", "--server", "\udcff", "--tool", "x"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]).replace("\udcff", "WHAT"),
)
def test_an_argument_that_is_not_utf_8_is_wrong_usage(store: Path, cli: CommandLine, arguments: list[str]) -> None:
    error = cli.misused(*arguments, "--receipt-store", store)
    assert "\\udcff is not UTF-8 text" in error


def test_a_file_may_have_a_name_that_is_not_utf_8(store: Path, cli: CommandLine) -> None:
    odd = store.rename(store.with_name("r\udcff"))
    assert cli("receipt", "list", "--receipt-store", odd, "--limit", 2).count("\n") == 2


def test_without_standard_input_explain_says_so(store: Path) -> None:
    done = command(
        store, "explain", "-", stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=lambda: os.close(0)
    )
    assert (done.returncode, "there is no standard input" in done.stderr) == (1, True)
