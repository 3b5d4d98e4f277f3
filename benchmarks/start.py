"""What it costs to start: CPU milliseconds of an import, and of the sidecar's help.

    python -m benchmarks.start

Each program is a process, the programs take turns, and the lowest of the rounds counts: what else a machine does only
makes it dearer.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Sequence

from benchmarks import report, targets
from benchmarks.figures import Spread
from benchmarks.machine import ROOT
from benchmarks.options import new_parser, positive, speaking_plainly
from benchmarks.servers import neutral_environment

_STARLETTE = "import starlette.applications, starlette.requests, starlette.routing"
_NAMES = "from chio_asgi import ChioASGIConfig, ChioASGIMiddleware"
PROGRAMS = {
    "starlette": ["-c", _STARLETTE],
    "starlette, and `import chio_asgi`": ["-c", f"{_STARLETTE}; import chio_asgi"],
    "starlette, pydantic and pydantic-settings": ["-c", f"{_STARLETTE}; from pydantic_settings import BaseSettings"],
    f"starlette, and `{_NAMES}`": ["-c", f"{_STARLETTE}; {_NAMES}"],
    "`chio-sidecar --help`": ["-m", "chio_sidecar", "--help"],
}


def measure(rounds: int) -> dict[str, float]:
    """Return the CPU milliseconds of each program."""
    environment = {**neutral_environment(), "PYTHONPATH": f"{ROOT}:{ROOT / 'adapters'}"}
    taken: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(rounds):
        for name, arguments in PROGRAMS.items():
            before = _children_ms()
            command = [sys.executable, *arguments]
            subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, cwd=ROOT, check=True)
            taken[name].append(_children_ms() - before)
    return {name: min(values) for name, values in taken.items()}


def markdown(found: dict[str, float]) -> str:
    """Return the table."""
    return report.markdown(("program", "CPU ms"), [[name, f"{value:.0f}"] for name, value in found.items()])


def of_start(found: dict[str, float]) -> list[targets.Target]:
    """Return the targets of the start."""
    floor, package, _, _, told = found.values()
    return [
        targets.Target(
            "`import chio_asgi` over starlette, CPU", {"": Spread.of([package - floor])}, 60, form="{:.0f} ms"
        ),
        targets.Target("`chio-sidecar --help`, CPU", {"": Spread.of([told])}, 350, form="{:.0f} ms"),
    ]


def _children_ms() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table; return the exit status."""
    parser = new_parser("benchmarks.start", __doc__)
    parser.add_argument("--rounds", type=positive, default=7, metavar="N")
    options = parser.parse_args(arguments)
    found = measure(options.rounds)
    print(markdown(found) + "\n\n" + targets.markdown(of_start(found)))
    return 0


if __name__ == "__main__":
    sys.exit(speaking_plainly(main))
