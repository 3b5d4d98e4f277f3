"""Converts pyproject.toml and uv.lock for installers that support neither dependency groups nor the lock.

python scripts/requirements.py locked    constraints: every version in uv.lock
python scripts/requirements.py lowest    constraints: the lower bound of every dependency, extras included
python scripts/requirements.py tools     requirements: the development group
python scripts/requirements.py docs      requirements: the group of the site
python scripts/requirements.py extras    all extras, joined by commas
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

_BOUND = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?\s*>=\s*(?P<version>[0-9][0-9A-Za-z.]*)")


def read(name: str) -> dict[str, Any]:
    """Parse a TOML file of the repository."""
    return tomllib.loads((ROOT / name).read_text(encoding="utf-8"))


def locked() -> Iterator[str]:
    """Yield `name==version` for each package that the lock has in exactly one version."""
    versions: dict[str, set[str]] = {}
    for package in read("uv.lock")["package"]:
        if "registry" in package["source"]:
            versions.setdefault(package["name"], set()).add(package["version"])
    for name, found in sorted(versions.items()):
        if len(found) == 1:
            yield f"{name}=={found.pop()}"


def lowest() -> Iterator[str]:
    """Yield `name==version` for the lower bound of each dependency, extras included.

    Raises:
        SystemExit: a dependency declares no lower bound.
    """
    project = read("pyproject.toml")["project"]
    extras = project["optional-dependencies"].values()
    for text in [*project["dependencies"], *(text for extra in extras for text in extra)]:
        bound = _BOUND.match(text)
        if bound is None:
            raise SystemExit(f"pyproject.toml: {text!r} declares no lower bound; write NAME>=VERSION")
        yield f"{bound['name']}=={bound['version']}"


def tools() -> Iterator[str]:
    """Yield the requirements of the development group."""
    yield from read("pyproject.toml")["dependency-groups"]["dev"]


def docs() -> Iterator[str]:
    """Yield the requirements of the group that builds the site."""
    yield from read("pyproject.toml")["dependency-groups"]["docs"]


def extras() -> Iterator[str]:
    """Yield all extras as one line."""
    yield ",".join(read("pyproject.toml")["project"]["optional-dependencies"])


PARTS = {part.__name__: part for part in (locked, lowest, tools, docs, extras)}


def main(arguments: list[str]) -> int:
    """Print the part that the argument names; return the exit status."""
    if len(arguments) != 1 or arguments[0] not in PARTS:
        print(__doc__, file=sys.stderr)
        return 2
    print("\n".join(PARTS[arguments[0]]()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
