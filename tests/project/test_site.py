"""The site, llms.txt and the page of messages name what exists. `make docs` builds the site; warnings are errors."""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module

from tests.django import project  # noqa: F401 - chio_django.drf needs Django's settings
from tests.project.tree import ROOT

DOCS = ROOT / "docs"
PAGES = {path.name for path in DOCS.glob("*.md")}


def test_every_page_is_linked_in_llms_txt_and_every_link_there_is_a_page() -> None:
    text = (DOCS / "llms.txt").read_text(encoding="utf-8")
    assert re.match(r"# .+\n\n> .+\n\n", text)
    linked = re.findall(r"^- \[[^]]+\]\(([^)]+)\): .", text, re.MULTILINE)
    assert sorted(linked) == sorted(PAGES)


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    tree = ast.parse((DOCS / "site" / "conf.py").read_text(encoding="utf-8"))
    (value,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NAVIGATION"
    )
    listed = [f"{name}.md" for names in ast.literal_eval(value).values() for name in names if "/" not in name]
    assert sorted(listed) == sorted(PAGES)


def test_every_public_package_is_in_the_api_reference() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "site" / "reference").glob("*.rst"))
    modules = set(re.findall(r"automodule:: (\S+)", text))
    assert modules >= {"chio_asgi", "chio_core", "chio_core.models", "chio_core.outbound", "chio_core.testing"}
    assert modules >= {"chio_django", "chio_django.drf", "chio_fastapi", "chio_flask", "chio_wsgi"}


def test_the_signatures_that_the_reference_writes_out_are_those_of_the_code() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "site" / "reference").glob("*.rst"))
    written = re.findall(r"autoclass:: (chio_(?:django|django\.drf|fastapi|flask))\.(\w+)\((.*)\)", text)
    assert len(written) == 20
    for module, name, parameters in written:
        (stated,) = (node for node in ast.walk(ast.parse(f"lambda {parameters}: 0")) if isinstance(node, ast.arguments))
        found = inspect.getfullargspec(getattr(import_module(module), name).__init__)
        names = [one.arg for one in (*stated.args, *stated.kwonlyargs)]
        assert names == [*found.args[1:], *found.kwonlyargs], f"{module}.{name}"


def test_the_messages_that_troubleshooting_explains_are_those_of_the_product() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]
    messages = [text for cell in cells for text in re.findall(r"`([^`]+)`", cell)]
    folders = ("chio_core", "chio_asgi", "chio_fastapi", "chio_sidecar", "adapters")
    said = "\n".join(
        text
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        for text in texts(path.read_text(encoding="utf-8"))
    )
    assert len(messages) > 30
    assert not [text for text in messages if text not in said]


def texts(source: str) -> list[str]:
    """Return the strings of a module, adjacent ones joined, and only what stands between the fields of an f-string."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    return [node.value for node in found if isinstance(node.value, str)]
