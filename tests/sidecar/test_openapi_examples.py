"""The examples: with the document that the command writes, the sidecar decides as with `MODULE:APP`, route by route."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from chio_sidecar.cli import main
from chio_sidecar.cli.application import read_routes
from chio_sidecar.policy.routes import RouteTable
from tests.sidecar.control_tools import ROOT
from tests.sidecar.sidecar_tools import capability, decision, sidecar
from tests.support import run

EXAMPLES = {"hello-fastapi": "app:app", "bouncer": "app:app", "shop-fastapi": "app:app"}
"""Examples that are FastAPI applications; the others have their document written by hand."""

Answers = dict[tuple[str, str, bool], dict[str, Any]]


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Stand in the folder of an example; what is imported there is forgotten afterwards."""
    monkeypatch.chdir(ROOT / "examples" / request.param)
    monkeypatch.setenv("BOUNCER_SECRET", "0123456789abcdef0123456789abcdef")
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("app", "api"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return EXAMPLES[request.param]


each_example = pytest.mark.parametrize("example", EXAMPLES, indirect=True)


def test_every_example_with_fastapi_is_tested() -> None:
    found = {path.parent.name for path in (ROOT / "examples").glob("*/app.py") if "FastAPI(" in path.read_text()}
    assert found == set(EXAMPLES)


def operations(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield (method, template, a path for it); and a path that no route has, with several methods."""
    for template, item in json.loads(text)["paths"].items():
        for method in item:
            yield method.upper(), template, "/".join("7" if part[:1] == "{" else part for part in template.split("/"))
    for method in ("GET", "POST", "HEAD", "OPTIONS", "DELETE"):
        yield method, "/no/such/route", "/no/such/route"


async def decisions(store: Path, spec: str) -> Answers:
    """Ask about every route and method, with a token and without."""
    found: Answers = {}
    async with sidecar(store.parent, store_path=store, spec_text=spec) as app:
        for method, template, path in operations(spec):
            for token in (None, capability()):
                number = f"req-{len(found)}"
                answer = await decision(app, token, request_id=number, method=method, path=path, route_pattern=template)
                receipt = answer["receipt"]
                assert receipt["route_pattern"] == template
                kept = {name: receipt.get(name) for name in ("policy_hash", "verdict", "evidence", "capability_id")}
                found[method, path, token is not None] = kept
    return found


@each_example
def test_decisions_with_the_written_document_are_those_with_the_application(example: str, tmp_path: Path) -> None:
    file = tmp_path / "openapi.json"
    assert main(["openapi", example, "--output", str(file)]) == 0
    OpenAPIV31SpecValidator(json.loads(file.read_text())).validate()
    by_file = run(decisions(tmp_path / "one.sqlite3", file.read_text()))
    assert by_file == run(decisions(tmp_path / "two.sqlite3", read_routes(example).text))
    verdicts = {(method, token, answer["verdict"]["verdict"]) for (method, _, token), answer in by_file.items()}
    assert verdicts >= {("GET", False, "allow"), ("POST", False, "deny"), ("POST", True, "allow")}


@each_example
def test_an_example_has_nothing_to_warn_about(example: str) -> None:
    assert read_routes(example).findings == ()


@pytest.mark.parametrize("example", ["hello-fastapi"], indirect=True)
def test_the_document_that_was_written_by_hand_decides_the_same(example: str) -> None:
    derived, written = RouteTable.from_openapi(read_routes(example).text), Path("openapi.yaml").read_text()
    table = RouteTable.from_openapi(written)
    for method, path in [("GET", "/hello"), ("POST", "/echo")]:
        assert derived.match(method, path) == table.match(method, path)
        assert derived.match(method, path).pattern == path
