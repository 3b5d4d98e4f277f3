"""The first ten minutes as a newcomer goes through them: the pages, word for word, with an installed wheel alone.

The wheel is built here and installed, with the extras that the pages name, into a new environment outside of this
checkout. Servers and requests are real.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.running import ROOT
from tests.pages.page import opened

PAGES = ("quick-start", "fastapi", "django", "flask")

OFFLINE = ("client error (Connect)", "network was disabled", "Failed to establish a new connection")
"""How uv and pip say that the package index cannot be reached."""


def beginning(page: str) -> str:
    """Return what a newcomer does first: all of the quick start; of a framework's page its first application."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    return text if page == "quick-start" else text[text.index("\n## Install\n") : text.index("\n### ")]


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of an environment that has the wheel, and what its extras bring."""
    folder = tmp_path_factory.mktemp("newcomer")
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    (folder / "locked.txt").write_text(_run(sys.executable, "scripts/requirements.py", "locked", cwd=ROOT))
    extras = {
        one for page in PAGES for found in re.findall(r"'\.\[(.*?)\]'", beginning(page)) for one in found.split(",")
    }
    assert extras == {"django", "fastapi", "flask", "sidecar"}
    wanted = [f"chio-frameworks[{','.join(sorted(extras))}] @ {wheel.as_uri()}", "pytest"]  # as the quick start says

    # uv has its own cache; without it, the environment gets a pip.
    python, uv = folder / "venv" / "bin" / "python", shutil.which("uv")
    _run(sys.executable, "-m", "venv", *(["--without-pip"] if uv else []), str(folder / "venv"), cwd=folder)
    pip = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
    _run(*pip, "--quiet", "-c", "locked.txt", *wanted, cwd=folder)
    return python.parent


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("page", PAGES)
def test_a_newcomer_gets_to_a_verified_receipt(page: str, commands: Path, tmp_path: Path) -> None:
    text = beginning(page)
    with opened(text, tmp_path, commands) as shown:
        found = shown.shell.run("python -c 'import chio_sidecar as one; print(one.__file__)'").strip()
        assert Path(found).is_relative_to(commands.parent)
        for step in shown.steps:
            shown.run(step)
    assert "chio-sidecar receipt verify" in text


def _run(*command: str, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    if done.returncode and any(reason in done.stderr for reason in OFFLINE):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, f"{' '.join(command[:4])} …: {done.stderr or done.stdout}"
    return done.stdout
