"""The command line as a whole: options, usage, errors (wire protocol, section 10.1)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chio_sidecar.cli import COMMANDS, Command, build_parser, main
from tests.sidecar.control_tools import DEADLINE, environment

STATUS = ("trust", "status", "--capability-id", "cap-1")


@pytest.mark.parametrize("before", [True, False])
def test_a_global_option_may_stand_before_or_after_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: bool
) -> None:
    option = ("--revocation-db", str(tmp_path / "r.db"), "--json")
    assert main([*option, *STATUS] if before else [*STATUS, *option]) == 0
    assert json.loads(capsys.readouterr().out)["revoked"] is False


def test_an_option_given_after_the_command_beats_the_one_before() -> None:
    args = build_parser().parse_args(["--control-url", "http://a", *STATUS, "--control-url", "http://b"])
    assert args.control_url == "http://b"


def test_an_error_is_one_sentence_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capability", "issue", "--server", "s", "--tool", "t"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error [chio_cli]: exactly one issuer must be named"
    assert lines[1].startswith("suggested fix: give --control-url")
    assert len(lines) == 2


@pytest.mark.parametrize("option", [["--json"], ["--format", "json"]])
def test_an_error_is_one_object_for_programs(capsys: pytest.CaptureFixture[str], option: list[str]) -> None:
    assert main([*option, *STATUS]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err) == {
        "code": "chio_cli",
        "message": "trust commands require --revocation-db <path> or --control-url",
        "context": None,
        "suggested_fix": None,
    }


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["api"],
        ["trust", "nonsense"],
        ["api", "protect"],
        ["trust", "status"],
        ["receipt", "list", "--limit", "0"],
        ["receipt", "list", "--limit", "-3"],
        ["receipt", "list", "--since", "yesterday"],
        ["receipt", "list", "--outcome", "maybe"],
        ["receipt", "verify", "--trusted-key", "abc"],
        ["capability", "issue", "--server", "s", "--tool", "t", "--constraint", "{"],
        ["capability", "issue", "--server", "s", "--tool", "t", "--constraint", "[]"],
        ["capability", "issue", "--server", "s", "--tool", "t", "--operation", "fly"],
        ["capability", "issue", "--server", "s", "--tool", "t", "--ttl", "0"],
        ["capability", "issue", "--server", "s", "--tool", "t", "--subject", "me"],
        ["receipt", "list", "--lim", "3"],
    ],
)
def test_wrong_usage_ends_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: chio-sidecar" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.words)
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], command: Command) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command.words.split(), "--help"])
    assert caught.value.code == 0
    assert "--control-url" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["chio_sidecar", "chio_sidecar.cli"])
def test_both_modules_run_as_the_command(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *STATUS],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=environment(),
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "error [chio_cli]: trust commands require --revocation-db <path> or --control-url\n"


@pytest.mark.parametrize("url", ["nonsense", "ftp://x", "http://", "http://x:99999", "http://user:canary@x"])
def test_a_malformed_control_url_is_refused_without_repeating_it(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert main(["--control-url", url, "--control-token", "canary", *STATUS]) == 1
    error = capsys.readouterr().err
    assert "--control-url must be an http:// or https:// URL" in error
    assert "canary" not in error


@pytest.mark.parametrize("token", ["", "  ", " canary", "can\nary", "cänary"])
def test_an_unusable_token_is_refused_without_repeating_it(capsys: pytest.CaptureFixture[str], token: str) -> None:
    assert main(["--control-url", "http://127.0.0.1:1", "--control-token", token, *STATUS]) == 1
    error = capsys.readouterr().err
    assert "the service token" in error
    assert "nary" not in error


def test_an_unreachable_service_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--control-url", "http://127.0.0.1:1", "--control-token", "canary", *STATUS]) == 1
    error = capsys.readouterr().err
    assert "cannot reach the trust service at http://127.0.0.1:1" in error
    assert "canary" not in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["api", "protect", "--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0"],
        ["approval", "list"],
        ["capability", "issue", "--server", "s", "--tool", "t"],
        ["receipt", "list"],
        ["viewer"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
@pytest.mark.parametrize("folder", [".", "/"])
def test_a_folder_as_the_store_is_said_in_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], folder: str
) -> None:
    assert main([*arguments, "--receipt-store", folder]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "error [" in error
