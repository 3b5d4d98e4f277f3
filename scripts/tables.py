"""Keeps the tables of README.md and docs/security.md equal to the code that they describe.

python scripts/tables.py            says whether they are; exit status 1 when not
python scripts/tables.py --write    puts them right
"""

from __future__ import annotations

import sys
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


TABLES = {"settings": settings_table, "outcomes": outcomes_table}
PAGES = {"README.md": ("settings", "outcomes"), "docs/security.md": ("outcomes",)}
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
        print(f"tables of {', '.join(stale)} are not those of the code; run: python scripts/tables.py --write")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
