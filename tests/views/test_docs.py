"""docs/django.md, docs/flask.md and docs/frameworks.md are executed, and say what the code says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from chio_django import checks
from tests.examples.running import free_port
from tests.pages.page import matches, transcript
from tests.views.documents import consoles_of, python_of, serving, text_of, write_files

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@needs_curl
@pytest.mark.parametrize(("page", "ready"), [("django.md", "Quit the server"), ("flask.md", "Press CTRL+C")])
def test_the_page_s_application_does_what_the_page_shows(page: str, ready: str, tmp_path: Path) -> None:
    env, port = write_files(page, tmp_path), str(free_port())
    start, use = ([(c.replace("8000", port), s) for c, s in block] for block in consoles_of(page))
    *before, (command, _) = start
    for done, shown, printed in transcript(before, tmp_path, env):
        assert matches(shown, printed), f"{done}\n{printed}"
    with serving([one for one, _ in before], command, tmp_path, env, ready):
        for done, shown, printed in transcript(use, tmp_path, env):
            assert matches(shown, printed), f"{done}\n--- shown\n{shown}\n--- printed\n{printed}"


@pytest.mark.parametrize("page", ["django.md", "flask.md"])
def test_all_python_of_a_page_compiles(page: str) -> None:
    for source in python_of(page):
        compile(source, page, "exec")


def test_the_application_factory_of_the_page_governs_what_it_makes() -> None:
    factory: dict[str, object] = {"__name__": "tests.views.stacks"}
    exec(next(source for source in python_of("flask.md") if "create_app" in source), factory)
    app = factory["create_app"]()  # type: ignore[operator]
    assert "chio" in app.extensions


def test_the_permission_of_the_page_is_one() -> None:
    names: dict[str, object] = {}
    exec(next(source for source in python_of("django.md") if "permission_classes" in source), names)
    assert names["Transfers"].permission_classes[0].chio_rules[0].server == "payments"  # type: ignore[attr-defined]


def test_the_page_lists_the_checks_that_there_are() -> None:
    rows = re.compile(r"^\| `(chio\.[EW]\d+)` \| (.*) \|$", re.MULTILINE)
    assert rows.findall(text_of("django.md")) == rows.findall(checks.__doc__ or "")
