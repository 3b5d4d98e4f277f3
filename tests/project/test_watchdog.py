"""What the tests have started ends when they are killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.tree import ROOT

PROGRAM = """
import os, signal, sys
from tests.watchdog import Watchdog

watchdog = Watchdog('touch "$1"', sys.argv[1])
if sys.argv[2] == "closed":
    watchdog.close()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["killed", "closed"])
def test_its_script_runs_if_the_process_is_killed_before_it_is_closed(end: str, tmp_path: Path) -> None:
    # The shell has this output too, so that it is read until the script has ended.
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "ran"), end]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    assert (done.returncode, (tmp_path / "ran").exists()) == (-9, end == "killed")
