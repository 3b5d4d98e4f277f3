"""One run over the applications: start every variant, measure the plan, stop them."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine, peer, report, variants
from benchmarks.figures import Figures, Window
from benchmarks.load import Wrk
from benchmarks.machine import Cores
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
            report.multiples(figures, CEILING),
            report.memory(figures, self.idle_mib),
            report.remarks(figures),
        )
        return "\n\n".join(part for part in parts if part)


def run(plan: Plan, cores: Cores, receipts: str = "full", before: Path | None = None) -> Run:
    """Measure a plan.

    Args:
        plan: what to measure, and how often.
        cores: the cores of the application and of the load.
        receipts: `full` or `short`: what the stub sidecar writes into its receipts.
        before: the checkout of the variant `before`.

    Raises:
        UnsuitableError: this machine cannot measure it.
    """
    machine.require_tools("taskset", "wrk")
    machine.require_modules("fastapi", "uvicorn", "uvloop", "httptools", "nacl", "rfc8785")
    pythons = variants.interpreters(plan.variants)
    with tempfile.TemporaryDirectory(dir=machine.results()) as folder, Servers(Path(folder)) as servers:
        sidecar = variants.start_sidecar(servers, cores, receipts)
        apps, idle = {}, {}
        for name, python in pythons.items():
            apps[name] = variants.start_app(servers, cores, name, python, sidecar, before)
            idle[name] = apps[name].resident_mib()
            apps[name].freeze()
        print(f"about {plan.minutes():.1f} minutes", file=sys.stderr)
        windows = measure(plan, variants.Stage(sidecar, apps), Wrk(Path(folder), cores.load), cores)
    peers = peer.versions(pythons["published"]) if "published" in pythons else {}
    return Run(plan, receipts, machine.describe(), peers, idle, windows)
