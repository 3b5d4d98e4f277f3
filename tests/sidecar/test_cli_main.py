"""The command line as a whole: options, usage, errors (wire protocol, section 10.1)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chio_sidecar.cli import COMMANDS, Command, build_parser, main
from chio_sidecar.trust.stores import RevocationStore
from tests.sidecar.control_tools import CommandLine, run_command, write_store

STATUS = ("trust", "status", "--capability-id", "cap-1")
ISSUE = ("capability", "issue", "--server", "s", "--tool", "t")


@pytest.mark.parametrize("before", [True, False])
def test_a_global_option_may_stand_before_or_after_the_command(tmp_path: Path, cli: CommandLine, before: bool) -> None:
    RevocationStore(tmp_path / "r.db").close()
    option = ("--revocation-db", tmp_path / "r.db", "--json")
    assert json.loads(cli(*option, *STATUS) if before else cli(*STATUS, *option))["revoked"] is False


def test_an_option_given_after_the_command_beats_the_one_before() -> None:
    args = build_parser().parse_args(["--control-url", "http://a", *STATUS, "--control-url", "http://b"])
    assert args.control_url == "http://b"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([*ISSUE, "--server", "t"], "--server"),
        (["receipt", "list", "--limit", "1", "--limit", "2"], "--limit"),
        (["receipt", "list", "--receipt-store", "a", "--receipt-db", "b"], "--receipt-store"),
        (["--json", "--receipt-db", "a", "--receipt-db", "b", *STATUS], "--receipt-db"),
        (["explain", "--tool", "a", "--tool=b"], "--tool"),
    ],
)
def test_an_option_with_one_value_that_is_given_twice_is_wrong_usage(
    cli: CommandLine, arguments: list[str], named: str
) -> None:
    assert f"{named} was given before, and only one can count" in cli.misused(*arguments)


def test_options_of_the_published_command_are_accepted_before_and_after_a_command() -> None:
    args = build_parser().parse_args(["--budget-db", "b", *STATUS, "--session-db", "s"])
    assert (str(args.budget_db), str(args.session_db)) == ("b", "s")


def test_an_error_is_one_sentence_for_people(cli: CommandLine) -> None:
    error, fix = cli.fails(*ISSUE).splitlines()
    assert error == "error [chio_cli]: exactly one issuer must be named"
    assert fix.startswith("suggested fix: give --control-url")


@pytest.mark.parametrize("option", [["--json"], ["--format", "json"]])
def test_an_error_is_one_object_for_programs(cli: CommandLine, option: list[str]) -> None:
    assert json.loads(cli.fails(*option, *STATUS)) == {
        "code": "chio_cli",
        "message": "trust commands require --revocation-db <path> or --control-url",
        "context": None,
        "suggested_fix": "give one of them, or --receipt-store FILE for the revocations of one sidecar, "
        "or set CHIO_SIDECAR_URL=embedded:FILE",
    }
    assert cli.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["api"],
        ["trust", "nonsense"],
        ["trust", "status"],
        ["receipt", "list", "--limit", "0"],
        ["receipt", "list", "--limit", "-3"],
        ["receipt", "list", "--since", "yesterday"],
        ["receipt", "list", "--outcome", "maybe"],
        ["receipt", "list", "--lim", "3"],
        ["receipt", "verify", "--trusted-key", "abc"],
        [*ISSUE, "--constraint", "{"],
        [*ISSUE, "--constraint", "[]"],
        [*ISSUE, "--operation", "fly"],
        [*ISSUE, "--ttl", "0"],
        [*ISSUE, "--subject", "me"],
        [*ISSUE, "--tool", " "],
        [*ISSUE, "--server", ""],
    ],
)
def test_wrong_usage_ends_with_2(cli: CommandLine, arguments: list[str]) -> None:
    assert "usage: chio-sidecar" in cli.misused(*arguments)


@pytest.mark.parametrize(
    ("option", "value", "lowest"), [("--limit", "-1", 1), ("--limit", "0", 1), ("--cursor", "99999999999999999999", 0)]
)
def test_a_number_outside_its_range_is_refused_with_the_range(
    cli: CommandLine, option: str, value: str, lowest: int
) -> None:
    error = cli.misused("receipt", "list", option, value)
    assert f"{option}: '{value}' is not a whole number from {lowest} to 999999999999999999" in error


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.words)
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], command: Command) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command.words.split(), "--help"])
    assert caught.value.code == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["chio_sidecar", "chio_sidecar.cli"])
def test_both_modules_run_as_the_command(module: str) -> None:
    done = run_command(*STATUS, module=module)
    assert done.returncode == 1
    error, fix = done.stderr.splitlines()
    assert error == "error [chio_cli]: trust commands require --revocation-db <path> or --control-url"
    assert "--receipt-store FILE" in fix


@pytest.mark.parametrize("url", ["nonsense", "ftp://x", "http://", "http://x:99999", "http://user:canary@x"])
def test_a_malformed_control_url_is_refused_without_repeating_it(cli: CommandLine, url: str) -> None:
    error = cli.fails("--control-url", url, "--control-token", "canary", *STATUS)
    assert "--control-url must be an http:// or https:// URL" in error
    assert "canary" not in error


@pytest.mark.parametrize("token", ["", "  ", " canary", "can\nary", "cänary"])
def test_an_unusable_token_is_refused_without_repeating_it(cli: CommandLine, token: str) -> None:
    error = cli.fails("--control-url", "http://127.0.0.1:1", "--control-token", token, *STATUS)
    assert "the service token" in error
    assert "nary" not in error


def test_an_unreachable_service_is_one_sentence(cli: CommandLine) -> None:
    error = cli.fails("--control-url", "http://127.0.0.1:1", "--control-token", "canary", *STATUS)
    assert "cannot reach the trust service at http://127.0.0.1:1" in error
    assert "canary" not in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["api", "protect", "--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0"],
        ["approval", "list"],
        [*ISSUE],
        ["receipt", "list"],
        ["viewer"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
@pytest.mark.parametrize("folder", [".", "/"])
def test_a_folder_as_the_store_is_one_sentence(cli: CommandLine, arguments: list[str], folder: str) -> None:
    cli.fails(*arguments, "--receipt-store", folder)


HELP_OF_ALL = """
import contextlib, io, sys
from chio_sidecar.cli import COMMANDS, main
for command in COMMANDS:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main([*command.words.split(), "--help"])
"""
LIST = """
import sys
from chio_sidecar.cli import main
assert main(["receipt", "list", "--receipt-store", sys.argv[1]]) == 0
"""


@pytest.mark.parametrize(
    ("program", "unneeded"),
    [
        (HELP_OF_ALL, {"fastapi", "httpx", "starlette", "uvicorn"}),
        (LIST, {"asyncio", "httpx", "nacl", "pydantic", "starlette"}),
    ],
    ids=["the help of each command", "a list of receipts"],
)
def test_a_command_starts_without_the_libraries_that_it_does_not_use(
    tmp_path: Path, program: str, unneeded: set[str]
) -> None:
    store = tmp_path / "r.sqlite3"
    write_store(store, [])
    shown = "\nprint(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program + shown, store], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert unneeded & set(done.stderr.split()) == set()
