"""No option does nothing in silence: the help lists what a command reads, and the rest is wrong usage or has a note."""

from __future__ import annotations

from pathlib import Path

import pytest

from chio_sidecar.cli import COMMANDS, Command
from tests.sidecar.control_tools import CommandLine, write_store
from tests.viewer.records import receipt

GLOBAL = {
    "control_url": "http://127.0.0.1:1",
    "control_token": "t",
    "receipt_store": "s.sqlite3",
    "receipt_db": "s.sqlite3",
    "revocation_db": "r.sqlite3",
    "authority_db": "a.sqlite3",
    "authority_seed_file": "seed",
    "budget_db": "b.sqlite3",
    "session_db": "x.sqlite3",
}


def option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.words)
def test_the_help_of_a_command_lists_only_the_global_options_that_it_reads(command: Command, cli: CommandLine) -> None:
    with pytest.raises(SystemExit):
        cli(*command.words.split(), "--help")
    shown = cli.printed().split("options that may also precede the command:")[1]
    assert {name for name in GLOBAL if f"{option(name)} " in shown} == set(command.reads)


@pytest.mark.parametrize("before", [True, False])
def test_a_global_option_without_effect_has_a_note(tmp_path: Path, cli: CommandLine, before: bool) -> None:
    store = write_store(tmp_path / "s.sqlite3", [receipt()])
    unread = [
        text for name in GLOBAL if name not in ("receipt_store", "receipt_db") for text in (option(name), GLOBAL[name])
    ]
    command = ["receipt", "show", "receipt-00001", "--receipt-store", str(store)]
    cli(*([*unread, *command] if before else [*command, *unread]))
    assert cli.err.splitlines() == [
        f"note: {option(name)} has no effect on `receipt show`"
        for name in GLOBAL
        if name not in ("receipt_store", "receipt_db")
    ]
    cli("--json", *unread, *command)
    assert cli.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["receipt", "show", "x", "--trusted-key", "0" * 64], "--trusted-key has no effect without --verify"),
        (["api", "protect", "a:b", "--upstream-timeout", "5"], "--upstream-timeout has no effect without --upstream"),
        (["explain", "x", "--path", "/"], "--path has no effect without --token"),
        (["explain", "x", "--trusted-issuer", "0" * 64], "--trusted-issuer has no effect without --token"),
        (["explain", "x", "--operation", "read"], "--operation has no effect without --server"),
    ],
)
def test_an_option_that_needs_another_one_is_wrong_usage_alone(
    cli: CommandLine, arguments: list[str], message: str
) -> None:
    assert message in cli.misused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["receipt", "verify", "--allow-partial"], "--allow-partial is about a bundle"),
        (
            ["api", "protect", "--spec", "s.yaml", "--listen", "127.0.0.1:0", "--socket-mode", "600"],
            "--socket-mode is about",
        ),
        (["receipt", "list", "--count", "--control-url", "http://127.0.0.1:1"], "a trust service always counts"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_an_option_that_contradicts_another_one_is_an_error(
    tmp_path: Path, cli: CommandLine, arguments: list[str], message: str
) -> None:
    store = write_store(tmp_path / "s.sqlite3", [receipt()])
    assert message in cli.fails(*arguments, "--receipt-store", store)


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        (["--control-token", "t", "receipt", "list"], "--control-token has no effect without --control-url"),
        (
            ["trust", "status", "--capability-id", "c", "--revocation-db", "r"],
            "--receipt-store has no effect beside --revocation-db",
        ),
        (["receipt", "verify", "FILE"], "--receipt-store has no effect beside FILE"),
        (
            ["approval", "list", "--sidecar-control-token", "t"],
            "--sidecar-control-token has no effect beside --receipt-store",
        ),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_an_option_that_another_one_beats_has_a_note(
    tmp_path: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch, arguments: list[str], note: str
) -> None:
    monkeypatch.chdir(tmp_path)
    store = write_store(tmp_path / "s.sqlite3", [receipt()])
    (tmp_path / "FILE").write_text("{}")
    cli(*arguments, "--receipt-store", store, status=None)
    assert f"note: {note}\n" in cli.err


def test_json_is_written_to_a_yaml_file_if_json_is_asked_for(
    tmp_path: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asked_for_json.py").write_text(
        "from starlette.applications import Starlette\nfrom starlette.routing import Route\n\n"
        "app = Starlette(routes=[Route('/', lambda request: None)])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cli("openapi", "asked_for_json:app", "--json", "--output", tmp_path / "o.yaml")
    assert (tmp_path / "o.yaml").read_text().startswith("{")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["receipt", "list", "--recipt-store", "secret"],
            "receipt list: error: unrecognized option: --recipt-store; did you mean --receipt-store?",
        ),
        (
            ["trust", "status", "--capability-id", "a", "--control-tokn=secret"],
            "unrecognized option: --control-tokn; did you mean --control-token?",
        ),
        (["receipt", "list", "--nothing-like-it"], "unrecognized option: --nothing-like-it\n"),
        (["receipt", "list", "extra"], "unexpected argument: extra"),
    ],
)
def test_a_mistyped_option_is_named_without_its_value_and_with_the_option_that_is_meant(
    cli: CommandLine, arguments: list[str], message: str
) -> None:
    said = cli.misused(*arguments)
    assert message in f"{said}\n"
    assert "secret" not in said


@pytest.mark.parametrize(
    "arguments", [["--control-tokn", "canary", "receipt"], ["receipt", "--control-tokn", "canary"]]
)
def test_the_value_of_a_mistyped_option_before_the_command_is_not_repeated(
    cli: CommandLine, arguments: list[str]
) -> None:
    error = cli.misused(*arguments, "list")
    assert "no such command, or an option before it is mistyped" in error
    assert "canary" not in error
