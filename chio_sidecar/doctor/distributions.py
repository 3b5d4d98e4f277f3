"""Other distributions with the same import names, and which of them is imported now."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, distributions
from importlib.util import find_spec
from pathlib import Path

from chio_sidecar.doctor.result import Check

OURS = "chio-frameworks"

PUBLISHED = {"chio-asgi": "chio_asgi", "chio-fastapi": "chio_fastapi", "chio-django": "chio_django"}
"""Published distributions whose import names this one also has."""

HARMLESS = {"chio-sdk-python": "chio_sdk", "chio-sdk": "chio"}
"""Published distributions of the same family with import names of their own."""


def check_distributions(path: Sequence[str] | None = None) -> Iterator[Check]:
    """Yield a check for each import name that two distributions claim, and for related ones.

    Args:
        path: folders to look into; None: those of this interpreter.
    """
    found = _installed(path)
    rivals = [name for name in PUBLISHED if name in found]
    for name in rivals:
        yield _conflict(PUBLISHED[name], [found[name], *_own(found)], path, rivals)
    for name in HARMLESS:
        if name in found:
            text = f"{name} {found[name].version} is installed; its import name {HARMLESS[name]} is its own"
            yield Check(f"package.{HARMLESS[name]}", "ok", text)
    if not rivals:
        names = ", ".join(PUBLISHED.values())
        yield Check("package", "ok", f"no other distribution claims {names}")


def _installed(path: Sequence[str] | None) -> dict[str, Distribution]:
    every = distributions() if path is None else distributions(path=list(path))
    found: dict[str, Distribution] = {}
    for one in every:
        found.setdefault(_name(one), one)  # the first on the path is the one that is imported
    return found


def _name(distribution: Distribution) -> str:
    return (distribution.metadata["Name"] or "").lower().replace("_", "-")


def _own(found: dict[str, Distribution]) -> list[Distribution]:
    return [found[OURS]] if OURS in found else []


def _conflict(
    module: str, claimants: Sequence[Distribution], path: Sequence[str] | None, rivals: Sequence[str]
) -> Check:
    origin = _origin(module, path)
    owner = _owner(module, origin, claimants)
    titles = " and ".join(f"{_name(one)} {one.version}" for one in claimants)
    verb = "both claim" if len(claimants) > 1 else "claims"
    text = f"{titles} {verb} {module}; imported is that of {owner}" + (f" ({origin})" if origin is not None else "")
    remedy = f"pip uninstall -y {' '.join(rivals)} && pip install --force-reinstall --no-deps {OURS}"
    return Check(f"package.{module}", "fail" if owner in rivals else "warn", text, remedy, {"owner": owner})


def _origin(module: str, path: Sequence[str] | None) -> Path | None:
    try:
        spec = find_spec(module) if path is None else PathFinder.find_spec(module, list(path))
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def _owner(module: str, origin: Path | None, claimants: Iterable[Distribution]) -> str:
    """Return the distribution whose record fits the file that is imported: the one that was installed last."""
    if origin is None:
        return "nobody"
    try:
        content = origin.read_bytes()
    except OSError:
        return "an unreadable file"
    for one in claimants:
        for file in one.files or ():
            if str(file) != f"{module}/__init__.py" or file.hash is None or file.hash.mode != "sha256":
                continue
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            if file.hash.value == digest:
                return _name(one)
    return "a folder that no distribution has recorded"
