"""Alarms, not aims: a module is about 150 lines; a function is as long as what it does, in one piece."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.project.tree import ROOT, modules, packages, parse, place

MOST_LINES_OF_A_MODULE = 400
MOST_LINES_OF_A_FUNCTION = 60

FOLDERS = [*packages().values(), ROOT / "scripts", ROOT / "examples", ROOT / "benchmarks"]


def test_no_module_and_no_function_is_too_long() -> None:
    found = [alarm for folder in FOLDERS for path in modules(folder) for alarm in alarms(path)]
    assert not found, "make a second file, or a second function"


def alarms(path: Path) -> Iterator[str]:
    """Yield what is too long in a module; the docstring of a function does not count."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    if lines > MOST_LINES_OF_A_MODULE:
        yield f"{place(path)} has {lines} lines"
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                length -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
            if length > MOST_LINES_OF_A_FUNCTION:
                yield f"{place(path)}:{node.lineno} {node.name} has {length} lines"
