"""Writes what the programs do in both packages to fasthttp.json; the reasons in it stay.

    python record.py PYTHON_WITH_FASTHTTP

Rows of differences without a reason are printed. `scripts/tables.py` makes the table of docs/outbound.md of the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RECORD = HERE / "fasthttp.json"
OURS = "chio_core.outbound.fasthttp"


def run(python: str, package: str, *names: str) -> dict[str, Any]:
    """Run the programs with an interpreter; return `{name: [description, observation]}`."""
    command = [python, "-W", "ignore", str(HERE / "run.py"), package, *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(python: str) -> None:
    """Run both, and write the file."""
    there, here = run(python, "fasthttp"), run(sys.executable, OURS)
    known = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    record = {}
    for name, (what, observed) in there.items():
        record[name] = {"what": what, "there": observed}
        if here[name][1] != observed:
            record[name] |= {"here": here[name][1], "why": known.get(name, {}).get("why", "")}
            if not record[name]["why"]:
                print(name)
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(record) - sum('here' in one for one in record.values())} of {len(record)} are equal")


if __name__ == "__main__":
    main(*sys.argv[1:])
