"""Configuration of the site that `make docs` builds from the pages, and from the docstrings of the public names."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from sphinx.application import Sphinx

import chio_fastapi  # noqa: F401 - autodoc imports with TYPE_CHECKING set, and pydantic refuses that

ROOT = Path(__file__).resolve().parents[2]

settings.configure()  # chio_django.drf cannot be imported without
django.setup()

project = "chio-frameworks"
html_title = "Chio for Python frameworks"
html_theme = "furo"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

# The source folder is the repository, so that a link such as ../SECURITY.md leads to a page of the site too.
NAVIGATION = {
    "Start": ["quick-start", "concepts", "holders", "glossary"],
    "Frameworks": ["fastapi", "asgi", "django", "flask", "wsgi", "frameworks", "outbound", "proxy"],
    "Concepts": ["capabilities", "guards", "observe", "testing", "outcomes", "security", "promises"],
    "Operations": ["troubleshooting", "sidecar", "deployment", "postgresql", "operations", "telemetry", "auditors"],
    "Reference": ["settings", "site/reference/index", "migration", "architecture"],
    "Project": ["/CHANGELOG", "/CONTRIBUTING", "/SECURITY", "/benchmarks/README", "/benchmarks/figures"],
}
root_doc = "README"
include_patterns = ["*.md", "docs/**", "benchmarks/*.md"]

myst_heading_anchors = 4
# Markdown of a code host has no other syntax.
myst_enable_extensions: list[str] = []
# Output of commands and shortened documents are no valid source of their language; they are shown as they are.
suppress_warnings = ["misc.highlighting_failure"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "all"
autodoc_preserve_defaults = True
# The models inherit dozens of methods of pydantic.
autodoc_inherit_docstrings = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Docstrings write code in single backquotes, as the pages do.
default_role = "code"

html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}


def add_navigation(app: Sphinx, docname: str, source: list[str]) -> None:
    """Append the table of contents to the first page, which has none on a code host."""
    if docname == root_doc:
        for caption, pages in NAVIGATION.items():
            paths = "\n".join(page if page.startswith("/") else f"/docs/{page}" for page in pages)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{paths}\n```\n"


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Lead a browser that opens the folder to the first page; give programs llms.txt and the pages as Markdown."""
    if exception is None:
        page = f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={root_doc}.html">\n'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")
        for source in (ROOT / "docs" / "llms.txt", *(ROOT / "docs").glob("*.md")):
            shutil.copy(source, Path(app.outdir) / "docs")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the functions above to the build."""
    app.connect("source-read", add_navigation)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
