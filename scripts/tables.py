"""Keeps the tables of the pages, and the tree of docs/architecture.md, equal to the code that they describe.

python scripts/tables.py            name the stale pages; exit status 1 if there are any
python scripts/tables.py --write    write them again
"""

from __future__ import annotations

import ast
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def settings_table() -> str:
    """Return the table of all options, from the model."""
    from chio_core.settings import ChioSettings

    rows = ["| option | environment | default | meaning |", "|---|---|---|---|"]
    for name, field in ChioSettings.model_fields.items():
        rows.append(f"| `{name}` | `CHIO_{name.upper()}` | {shown(field.default)} | {field.description} |")
    return "\n".join(rows)


def shown(default: Any) -> str:
    """Return a default as people would write it in the environment."""
    if default is None or default in ("", (), frozenset()):
        return "none"
    if isinstance(default, frozenset | tuple):
        return f"`{','.join(sorted(default))}`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, float):
        return f"`{default:g}`"
    return f"`{default}`"


def outcomes_table() -> str:
    """Return the table of outcomes, from the module that renders them."""
    from chio_core.evaluation import outcomes as decision

    return "\n".join(line for line in (decision.__doc__ or "").splitlines() if line.startswith("|"))


def commands_table() -> str:
    """Return the table of the commands of `chio-sidecar`."""
    from chio_sidecar.cli import COMMANDS

    rows = [f"| `chio-sidecar {command.words}` | {command.help} |" for command in COMMANDS]
    return "\n".join(["| command | does |", "|---|---|", *rows])


def fasthttp_table() -> str:
    """Return the differences to FastHTTP, from the record of tests/interop."""
    record = json.loads((ROOT / "tests/interop/fasthttp_programs/fasthttp.json").read_text(encoding="utf-8"))
    different = {name: one for name, one in record.items() if "here" in one}
    equal = len(record) - len(different)
    rows = [f"{equal} of {len(record)} programs do the same. The others:", ""]
    rows += ["| program | fasthttp 1.3.21 | here | why |", "|---|---|---|---|"]
    for one in different.values():
        rows.append(f"| {one['what']} | {_observed(one['there'])} | {_observed(one['here'])} | {one['why']} |")
    return "\n".join(rows)


def _observed(found: Any) -> str:
    if isinstance(found, dict) and found.keys() == {"raises"}:
        return f"raises {found['raises']}"
    if isinstance(found, dict):
        return " and ".join({"there" if there else "not there" for there in found.values()})
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    return f"`{text}`"


def tree() -> str:
    """Return the tree of the packages: each folder and module with the first sentence of its docstring."""
    lines: list[str] = []
    for pattern in ("chio_core", "chio_asgi", "chio_fastapi", "adapters/chio_*", "chio_sidecar"):
        for folder in sorted(ROOT.glob(pattern)):
            lines += branch(folder, 0)
    return "\n".join(["```", *lines, "```"])


def branch(folder: Path, depth: int) -> Iterator[str]:
    """Yield the lines of one folder: its own, its modules and then its folders."""
    name = folder.relative_to(ROOT).as_posix() if depth == 0 else folder.name
    yield from entry(f"{name}/", folder / "__init__.py", depth)
    for path in sorted(folder.glob("*.py")):
        if not path.name.startswith("__"):
            yield from entry(path.name, path, depth + 1)
    for init in sorted(folder.glob("*/__init__.py")):
        yield from branch(init.parent, depth + 1)


def entry(name: str, path: Path, depth: int) -> list[str]:
    """Return a module's name and the first sentence of its docstring, wrapped.

    Raises:
        SystemExit: the module has no docstring.
    """
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not docstring:
        raise SystemExit(f"{path.relative_to(ROOT)} needs a docstring: docs/architecture.md shows its first sentence")
    sentence = docstring.partition("\n\n")[0].replace("\n", " ").partition(". ")[0].removesuffix(".")
    sentence = re.sub(r" \(wire protocol[^)]*\)", "", sentence)
    label = f"{'    ' * depth}{name}"
    return textwrap.wrap(
        sentence, 120, initial_indent=f"{label:<27} ", subsequent_indent=" " * 28,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


TABLES = {
    "commands": commands_table,
    "fasthttp": fasthttp_table,
    "outcomes": outcomes_table,
    "settings": settings_table,
    "tree": tree,
}
PAGES = {
    "docs/architecture.md": ("tree",),
    "docs/outbound.md": ("fasthttp",),
    "docs/outcomes.md": ("outcomes",),
    "docs/settings.md": ("settings",),
    "docs/sidecar.md": ("commands",),
}
"""Which tables each page has, between its markers."""


def rewritten(page: str, text: str) -> str:
    """Return a page with each marked table as the code has it now.

    Raises:
        SystemExit: a table's markers are missing.
    """
    for name in PAGES[page]:
        before, opening, rest = text.partition(f"<!-- {name} -->\n")
        _, closing, after = rest.partition(f"\n<!-- /{name} -->")
        if not opening or not closing:
            raise SystemExit(f"{page} has no markers <!-- {name} --> … <!-- /{name} -->")
        text = before + opening + TABLES[name]() + closing + after
    return text


def main(arguments: list[str]) -> int:
    """Compare, or write; return the exit status."""
    stale = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        wanted = rewritten(page, text)
        if arguments == ["--write"]:
            (ROOT / page).write_text(wanted, encoding="utf-8")
        elif text != wanted:
            stale.append(page)
    if stale:
        print(f"out of date: the tables of {', '.join(stale)}; run: python scripts/tables.py --write")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
