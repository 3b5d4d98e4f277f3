"""Each extra is enough for its part: everything that it does not bring is out of sight, and the part still works.

What an extra brings is read from the lock. The libraries are those of the environment that runs these tests; a finder
hides all others from the interpreter that is started for each case.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.project.tree import ROOT
from tests.support import environment

OURS = "chio-frameworks"

HIDING = """
import json, sys

class Hidden:
    def __init__(self, names):
        self.names = frozenset(names)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

names, code = sys.argv[1:3]
del sys.argv[1:3]
sys.meta_path.insert(0, Hidden(json.loads(names)))
exec(code)
"""
"""Hides the names of the first argument, and runs the code of the second with the arguments that follow."""

EVERY_MODULE = """
import importlib, pkgutil

def every_module(*packages, without=None):
    for name in packages:
        package = importlib.import_module(name)
        # A package that cannot be imported fails below, unless it is left out.
        for module in pkgutil.walk_packages(package.__path__, name + ".", onerror=lambda name: None):
            if not module.name.endswith("__main__") and (without is None or without not in module.name):
                importlib.import_module(module.name)
"""

PARTS: dict[str, str] = {
    "": "import chio_asgi, chio_core.outbound, chio_core.testing\nchio_asgi.ChioASGIMiddleware(None)",
    "asgi": "every_module('chio_asgi')",
    "fastapi": (
        "import fastapi, chio_fastapi\nevery_module('chio_asgi', 'chio_fastapi')\n"
        "chio_fastapi.add_chio(fastapi.FastAPI())"
    ),
    "django": (
        "from django.conf import settings\nsettings.configure(INSTALLED_APPS=['chio_django'])\nimport django\n"
        "django.setup()\nfrom chio_django import ChioDjangoMiddleware, checks\nChioDjangoMiddleware(print)"
    ),
    "drf": (
        "from django.conf import settings\nsettings.configure(INSTALLED_APPS=['chio_django', 'rest_framework'])\n"
        "import django\ndjango.setup()\nevery_module('chio_django')"
    ),
    "flask": "import flask, chio_flask\nevery_module('chio_flask')\nchio_flask.Chio(flask.Flask('app'))",
    "guards": (
        "every_module('chio_core.guards')\nfrom chio_core.guards import JwtAuth, RateLimit\n"
        "JwtAuth(key='s' * 32, algorithms=['HS256']), RateLimit('5/minute')"
    ),
    "metrics": "from chio_core.telemetry.metrics import Metrics\nassert 'chio_decisions_total' in Metrics().render()",
    "otel": "import chio_core.telemetry.spans",
    "outbound": "from chio_core.outbound import Cache\nCache(ttl=60)",
    "sidecar": (
        "every_module('chio_sidecar', without='postgresql')\nfrom chio_sidecar.cli import main\n"
        "open('a.sqlite3', 'x').close()\n"
        "assert main(['capability', 'issue', '--receipt-store', 'a.sqlite3', '--server', 'a', '--tool', 'b']) == 0"
    ),
    "postgresql,sidecar": "every_module('chio_sidecar')",
    "fastapi,sidecar": (
        "import asyncio, fastapi, httpx, chio_fastapi\napp = fastapi.FastAPI()\napp.get('/')(lambda: 1)\n"
        "chio_fastapi.add_chio(app, sidecar_url='embedded:a.sqlite3')\nasync def main():\n"
        "    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url='http://a') as client:\n"
        "        assert (await client.get('/')).headers['x-chio-receipt']\n"
        "    await app.state.chio_client.aclose()\nasyncio.run(main())"
    ),
}
"""What is asked of each extra, or of several."""


@cache
def lock() -> dict[str, list[dict[str, Any]]]:
    """The packages of the lock by name; some are there in several versions."""
    found: dict[str, list[dict[str, Any]]] = {}
    for package in tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]:
        found.setdefault(package["name"], []).append(package)
    return found


def brought(name: str, extras: Iterable[str]) -> set[str]:
    """Return all packages that come with a package and some of its extras."""
    waiting, found = [(name, tuple(extras))], set()
    while waiting:
        one = waiting.pop()
        if one in found:
            continue
        found.add(one)
        for package in lock()[one[0]]:
            needed = [*package.get("dependencies", ())]
            for extra in one[1]:
                needed += package.get("optional-dependencies", {}).get(extra, ())
            waiting += [(other["name"], tuple(other.get("extra", ()))) for other in needed]
    return {package for package, _ in found}


def hidden(extras: Iterable[str]) -> list[str]:
    """Return the importable names of this environment that do not come with some extras."""
    kept = brought(OURS, extras)
    places = importlib.metadata.packages_distributions().items()
    return [name for name, owners in places if not {_normal(owner) for owner in owners} & {*kept, OURS}]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("extras", PARTS, ids=lambda extras: extras or "none")
def test_an_extra_alone_is_enough_for_its_part(extras: str, tmp_path: Path) -> None:
    names = hidden(extra for extra in extras.split(",") if extra)
    assert {"pytest", "hypothesis"} <= set(names)
    path = os.pathsep.join([str(ROOT), str(ROOT / "adapters")])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HIDING, json.dumps(names), EVERY_MODULE + PARTS[extras]],
        cwd=tmp_path, env=environment(PYTHONPATH=path), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_there_is_a_case_for_every_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {extra for case in PARTS for extra in case.split(",") if extra} == set(extras)
