"""Alarms, not aims: a module is about 150 lines; a function is as long as what it does, in one piece."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.project.tree import ROOT, modules, packages, parse, place

MOST_LINES_OF_A_MODULE = 400
MOST_LINES_OF_A_FUNCTION = 60

FOLDERS = [*packages().values(), ROOT / "scripts", ROOT / "examples", ROOT / "benchmarks"]
FILES = [path for folder in FOLDERS for path in modules(folder)]


@pytest.mark.parametrize("path", FILES, ids=place)
def test_a_module_is_not_too_long_and_neither_is_any_function_in_it(path: Path) -> None:
    tree = parse(path)
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES_OF_A_MODULE, f"{place(path)} has {lines} lines: make a second file"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = _length(node)
            assert length <= MOST_LINES_OF_A_FUNCTION, f"{place(path)}:{node.lineno} {node.name} has {length} lines"


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    # What is explained is not what is long: the docstring does not count.
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        length -= (first.end_lineno or first.lineno) - first.lineno + 1
    return length
