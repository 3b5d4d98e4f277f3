"""Every code block of these pages of docs/ is executed, and prints what the page shows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.django import project  # noqa: F401 - docs/django.md needs Django's settings
from tests.examples.running import copy_of
from tests.pages.page import ROOT, opened, steps_of

PAGES = [
    "asgi.md", "auditors.md", "capabilities.md", "concepts.md", "django.md", "fastapi.md", "flask.md", "holders.md",
    "migration.md", "observe.md", "operations.md", "outcomes.md", "proxy.md", "security.md", "settings.md",
    "sidecar.md", "telemetry.md", "testing.md", "troubleshooting.md", "wsgi.md",
]  # fmt: skip

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@needs_curl
@pytest.mark.parametrize("name", PAGES)
def test_a_page_does_what_it_shows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    if "| jq " in text and shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    if "cd examples/hello-fastapi" in text:
        copy_of("hello-fastapi", tmp_path)
    with opened(text, tmp_path) as page:
        for step in page.steps:
            page.run(step)
    check(name, page.namespace)


def check(name: str, names: dict[str, Any]) -> None:
    """Check what the Python of a page has made."""
    if name == "flask.md":
        assert "chio" in names["create_app"]().extensions
    if name == "django.md":
        assert names["Transfers"].permission_classes[0].server == "payments"


def test_a_page_that_shows_something_else_fails(tmp_path: Path) -> None:
    with opened("```console\n$ echo one\ntwo\n```\n", tmp_path) as page, pytest.raises(AssertionError, match="one"):
        page.run(page.steps[0])


def test_a_block_that_nobody_runs_fails(tmp_path: Path) -> None:
    with opened("```ruby\nputs 1\n```\n", tmp_path) as page, pytest.raises(AssertionError, match="is not run"):
        page.run(page.steps[0])


def test_all_pages_are_run_by_a_test() -> None:
    others = {
        "architecture.md",
        "deployment.md",
        "frameworks.md",
        "glossary.md",
        "guards.md",
        "outbound.md",
        "postgresql.md",
        "promises.md",
        "quick-start.md",  # with an installed wheel: tests/examples/test_first_ten_minutes.py
    }
    assert {path.name for path in (ROOT / "docs").glob("*.md")} == {*PAGES, *others}
    assert [step.kind for step in steps_of((ROOT / "docs/architecture.md").read_text())] == ["", "", ""]
