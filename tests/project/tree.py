"""What the tests of the project itself know about its tree."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def packages() -> dict[str, Path]:
    """Return the folder of each import package, by its name."""
    candidates = [*ROOT.glob("chio_*/__init__.py"), *ROOT.glob("adapters/chio_*/__init__.py")]
    return {init.parent.name: init.parent for init in sorted(candidates)}


def modules(folder: Path) -> Iterator[Path]:
    """Yield the Python files below a folder, environments and caches left out."""
    for path in sorted(folder.rglob("*.py")):
        if not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(folder).parts):
            yield path


def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file.

    Without the garbage collector: a finalizer that runs inside `ast.parse` makes CPython 3.11 raise a SystemError
    (recursion depth mismatch).
    """
    text = path.read_text(encoding="utf-8")
    collecting = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(text, str(path))
    finally:
        if collecting:
            gc.enable()


def place(path: Path) -> str:
    """Return a path as people write it in this repository."""
    return path.relative_to(ROOT).as_posix()
