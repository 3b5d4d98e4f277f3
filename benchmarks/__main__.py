"""Measure the bare application, this middleware and the published one in one run, and print one table.

    python -m benchmarks                                        a few minutes, all variants
    python -m benchmarks --variants bare,ours --rounds 1        a quick look
    python -m benchmarks --connections 1,64,256                 does governance grow with the connections?

The table goes to standard output, the progress to standard error. Exit status 1: governance
takes more processor time than `CEILING` allows, in multiples of the bare application's. 2: this machine cannot measure.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import machine, peer, report, variants
from benchmarks.figures import Figures, Window
from benchmarks.load import Wrk
from benchmarks.options import names, new_parser, numbers, positive, speaking_plainly
from benchmarks.rounds import Plan, measure
from benchmarks.servers import Servers

CEILING = {"ours": 6.0, "embedded": 12.0}
"""What governance may take at most, in multiples of the bare application's processor time for the same request."""


@dataclass(frozen=True)
class Run:
    """The results of one run."""

    plan: Plan
    receipts: str
    machine: dict[str, str]
    peer: dict[str, str]
    idle_mib: dict[str, float]
    windows: list[Window]

    def excess(self) -> dict[str, float]:
        """Return the variants that cost more than `CEILING`, and what they cost."""
        costs = {name: Figures(self.windows).multiple(name) for name in CEILING if name in self.plan.variants}
        return {name: cost for name, cost in costs.items() if cost is not None and cost > CEILING[name]}

    def markdown(self) -> str:
        """Return the report."""
        figures = Figures(self.windows)
        parts = (
            report.preface(self.plan, self.machine, self.peer, self.receipts),
            report.table(self.plan, figures, self.idle_mib),
            report.ratios(figures),
            report.multiples(figures, CEILING),
            report.memory(figures, self.idle_mib),
            report.remarks(figures),
        )
        return "\n\n".join(part for part in parts if part)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the options say; return the exit status."""
    parser = new_parser("benchmarks", __doc__)
    parser.add_argument("--variants", type=names, default=tuple(variants.MEANING), metavar="LIST")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N")
    parser.add_argument("--seconds", type=positive, default=5, metavar="S", help="length of one window")
    parser.add_argument("--connections", type=numbers, default=(16, 1), metavar="LIST")
    parser.add_argument("--receipts", choices=("full", "short"), default="full", help="metadata of the receipts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every window of the run there")
    options = parser.parse_args(arguments)
    plan = Plan(options.variants, options.rounds, options.seconds, options.connections)
    run = _measure(plan, options.receipts)
    print(run.markdown())
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(asdict(run), indent=1) + "\n")
    return 1 if run.excess() else 0


def _measure(plan: Plan, receipts: str) -> Run:
    cores = machine.two_cores()
    machine.require_tools("taskset", "wrk")
    machine.require_modules("fastapi", "uvicorn", "uvloop", "httptools", "nacl", "rfc8785")
    pythons = variants.interpreters(plan.variants)
    with tempfile.TemporaryDirectory() as folder, Servers(Path(folder)) as servers:
        sidecar = variants.start_sidecar(servers, cores, receipts)
        apps, idle = {}, {}
        for name, python in pythons.items():
            apps[name] = variants.start_app(servers, cores, name, python, sidecar)
            idle[name] = apps[name].resident_mib()
            apps[name].freeze()
        print(f"about {plan.minutes():.1f} minutes", file=sys.stderr)
        windows = measure(plan, variants.Stage(sidecar, apps), Wrk(Path(folder), cores.load), cores)
    peers = peer.versions(pythons["published"]) if "published" in pythons else {}
    return Run(plan, receipts, machine.describe(), peers, idle, windows)


if __name__ == "__main__":
    sys.exit(speaking_plainly(main))
