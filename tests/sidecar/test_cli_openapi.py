"""`openapi` and `api protect MODULE:APP`: their output, and their errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from chio_core.canonical import sha256_hex
from chio_sidecar.policy.routes import DENY_BY_DEFAULT, RouteTable
from tests.sidecar.control_tools import ROOT, CommandLine, evaluation, serving

MAIN = """
from typing import Annotated
from fastapi import Depends, FastAPI
from chio_fastapi import RequireCapability

def nothing() -> None: ...

def create_app() -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.add_api_route("/pay", nothing, dependencies=[Depends(RequireCapability("payments", "pay"))])
    app.add_api_route("/yes", nothing, methods=["POST"], openapi_extra={"x-chio-sensitivity": "public"})
    return app

app = create_app()
other = object()
doubtful = FastAPI(openapi_url=None)
doubtful.add_api_route("/x/{rest:path}", nothing)
doubtful.add_api_route("/x", nothing, openapi_extra={"x-chio-sideeffects": True})
twice = FastAPI(openapi_url=None)
twice.add_api_route("/{a}/x", nothing, methods=["POST"])
twice.add_api_route("/pets/{b}", nothing, methods=["POST"])
"""
BROKEN = {
    "broken_division": ("1 / 0", "broken_division:app cannot be imported (ZeroDivisionError: division by zero"),
    "broken_exit": ("import sys; sys.exit('canary-exit')", "broken_exit:app cannot be imported (SystemExit"),
    "broken_lines": ("raise ValueError('first\\ncanary')", "cannot be imported (ValueError: first; "),
    "broken_dsn": (
        "raise OSError('no answer from postgres://app:can/ary@db:5432/main')",
        "cannot be imported (OSError: no answer from postgres://…@db:5432/main; ",
    ),
    "broken_syntax": ("def (", "cannot be imported (SyntaxError"),
    "broken_setting": (
        "from fastapi import FastAPI\nfrom chio_fastapi import add_chio\nadd_chio(FastAPI(), timeout='soon')",
        "broken_setting:app cannot be imported: timeout",
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with applications, as the working directory; their modules are forgotten afterwards."""
    (tmp_path / "spec_app.py").write_text(MAIN)
    for name, (text, _) in BROKEN.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("spec_app", *BROKEN):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def refusal(cli: CommandLine, *arguments: str) -> str:
    """Run a command that fails, and return its one line of error."""
    captured = cli.fails(*arguments)
    assert cli.out == ""
    errors = [line for line in captured.splitlines() if line.startswith("error ")]
    assert len(errors) == 1, captured
    assert "canary" not in captured.replace("canary-exit", "")
    return errors[0]


def test_the_document_goes_to_standard_output(folder: Path, cli: CommandLine) -> None:
    text = cli("openapi", "spec_app:app")
    table = RouteTable.from_openapi(text)
    assert len(table) == 2
    assert table.match("GET", "/pay").policy == DENY_BY_DEFAULT
    assert text == cli("openapi", "spec_app:create_app()") == cli("openapi", "spec_app:app", "--json")


def test_yaml_says_the_same_as_json(folder: Path, cli: CommandLine) -> None:
    expected = json.loads(cli("openapi", "spec_app:app"))
    text = cli("openapi", "spec_app:app", "--format", "yaml")
    assert yaml.safe_load(text) == expected
    one, other = RouteTable.from_openapi(text), RouteTable.from_openapi(json.dumps(expected))
    assert [one.match(method, path) for method in ("GET", "POST") for path in ("/pay", "/yes")] == [
        other.match(method, path) for method in ("GET", "POST") for path in ("/pay", "/yes")
    ]
    cli("openapi", "spec_app:app", "--output", "o.yml")
    assert Path("o.yml").read_text() == text
    cli("openapi", "spec_app:app", "--output", "json.yml", "--format", "json")
    assert json.loads(Path("json.yml").read_text()) == expected


def test_a_file_is_written_whole_and_the_policy_hash_is_printed(folder: Path, cli: CommandLine) -> None:
    text = cli("openapi", "spec_app:app")
    Path("spec.json").write_text("old")
    Path("spec.json").chmod(0o640)
    cli("openapi", "spec_app:app", "--output", "spec.json")
    assert cli.out == ""
    assert cli.err == f"wrote 2 operations to spec.json, policy hash {sha256_hex(text.encode())}\n"
    assert Path("spec.json").read_bytes() == text.encode()
    assert Path("spec.json").stat().st_mode & 0o777 == 0o640
    assert {path.suffix for path in folder.iterdir() if path.is_file()} == {".py", ".json"}, "no draft is left"


def test_a_build_can_check_that_a_file_is_up_to_date(folder: Path, cli: CommandLine) -> None:
    cli("openapi", "spec_app:app", "--output", "spec.json")
    cli("openapi", "spec_app:app", "--check", "spec.json")
    assert "spec.json is up to date" in cli.err
    cli("openapi", "spec_app:twice", "--check", "spec.json", status=1)
    assert "spec.json is out of date: write it again with --output" in cli.err
    assert "cannot read --check nowhere.json" in refusal(cli, "openapi", "spec_app:app", "--check", "nowhere.json")


def test_a_file_that_cannot_be_written_is_one_sentence(folder: Path, cli: CommandLine) -> None:
    (folder / "taken").mkdir()
    for place in ("nowhere/spec.json", "taken"):
        error = refusal(cli, "openapi", "spec_app:app", "--output", place)
        assert error.startswith(f"error [chio_cli]: cannot write --output {place}: ")


def test_routes_that_the_sidecar_will_decide_differently_are_named(folder: Path, cli: CommandLine) -> None:
    cli("openapi", "spec_app:doubtful")
    (line,) = cli.err.splitlines()
    assert line.startswith("warning: /x/{rest}: {rest} takes several segments of a path")
    cli("openapi", "spec_app:twice")
    (line,) = cli.err.splitlines()
    assert line.startswith(
        "warning: POST /pets/x runs /{a}/x here but is /pets/{b} to the sidecar, so the document"
        " leaves out POST /pets/{b}, whose paths are evaluated without its policy; add /pets/{b} before /{a}/x"
    )


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("command", [["openapi"], ["check"], ["api", "protect", "--listen", "127.0.0.1:0"]])
def test_an_application_that_fails_when_it_is_imported_is_one_sentence(
    folder: Path, cli: CommandLine, command: list[str], name: str
) -> None:
    assert BROKEN[name][1] in refusal(cli, *command, f"{name}:app")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("spec_app", "'spec_app' is not an application; write MODULE:APP"),
        ("spec_app:", "'spec_app:' is not an application; write MODULE:APP"),
        ("nowhere_app:app", "nowhere_app:app cannot be imported (ModuleNotFoundError: No module named 'nowhere_app'"),
        ("spec_app:nothing_here", "cannot be imported (AttributeError"),
        ("spec_app:other", "spec_app:other is not an application with routes to read"),
        ("spec_app:create_app", "spec_app:create_app is not an application with routes to read"),
        ("spec_app:FastAPI", "spec_app:FastAPI is not an application with routes to read"),
        ("spec_app:other()", "cannot be imported (TypeError"),
    ],
)
def test_a_place_without_an_application_is_named(folder: Path, cli: CommandLine, place: str, message: str) -> None:
    assert message in refusal(cli, "openapi", place)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["spec_app:app", "--spec", "spec.json"], "MODULE:APP and --spec are two documents of one application"),
        ([], "nothing says which application is governed"),
        (["spec_app:other"], "failed to start chio api protect: spec_app:other is not an application"),
        (["--strict-spec", "spec_app:doubtful"], "x-chio-sideeffects of GET /x is unknown and is ignored; known are"),
    ],
)
def test_a_sidecar_that_cannot_start_says_why(
    folder: Path, cli: CommandLine, arguments: list[str], message: str
) -> None:
    error = refusal(cli, "api", "protect", "--listen", "127.0.0.1:0", *arguments)
    assert "failed to start chio api protect: " in error
    assert message in error


def test_a_sidecar_is_for_one_application(cli: CommandLine) -> None:
    assert "MODULE:APP" in cli.misused("api", "protect", "main:app", "--upstream", "http://127.0.0.1:1")


@pytest.mark.parametrize("arguments", [["--format", "toml"], ["--output", "a", "--check", "b"]])
def test_wrong_usage_exits_with_two(arguments: list[str], cli: CommandLine) -> None:
    assert cli.misused("openapi", "spec_app:app", *arguments)


def test_an_error_is_one_object_for_programs(folder: Path, cli: CommandLine) -> None:
    error: dict[str, Any] = json.loads(cli.fails("openapi", "spec_app:other", "--format", "json"))
    assert error["code"] == "chio_cli"
    assert error["suggested_fix"].startswith("name an application of FastAPI, Starlette, Django or Flask")


def test_a_sidecar_knows_the_routes_of_the_application_that_it_is_given(folder: Path) -> None:
    path = f"{folder}:{ROOT}"
    with serving("api", "protect", "spec_app:app", "--listen", "127.0.0.1:0", PYTHONPATH=path) as sidecar:
        assert sidecar.ready.startswith("chio api protect: governing 2 routes of spec_app:app on 127.0.0.1:")
        url, body = f"{sidecar.url}/chio/evaluate", evaluation(method="GET", path="/pay")
        receipt = httpx.post(url, json=body, trust_env=False).json()["receipt"]
    assert (receipt["route_pattern"], receipt["verdict"]["verdict"]) == ("/pay", "deny")


def test_check_reports_overlapping_routes(folder: Path, cli: CommandLine) -> None:
    lines = cli("check", "spec_app:twice", status=1).splitlines()  # nothing governs it
    assert lines[0].startswith("ERROR not_governed: ")
    assert lines[1].startswith(
        "WARN  overlapping_routes: POST /pets/x runs /{a}/x here but is /pets/{b} to the sidecar"
    )
