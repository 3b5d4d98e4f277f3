"""B17: "microseconds" is a number that is written down, and a command that measures it (no test measures time)."""

from __future__ import annotations

import asyncio
import re

from benchmarks import guards
from chio_core.guards import IpBlock, RateLimit, SecurityHeaders
from tests.project.tree import ROOT

PAGE = (ROOT / "docs" / "guards.md").read_text(encoding="utf-8")


def test_the_benchmark_measures_the_chains_whose_cost_is_stated() -> None:
    """B17: addresses, headers and a limit in memory in the default order, and ten guards that only look; all served."""
    cases = guards.cases()
    assert [type(member.guard) for member in cases[guards.CHAIN].chain.freeze()][:-1] == [
        SecurityHeaders, IpBlock, RateLimit,
    ]  # fmt: skip
    assert [member.guard for member in cases[guards.TEN].chain.freeze()][1:] == [guards.look] * 10
    wanted = (guards.FLOOR, guards.TEN, guards.CHAIN)
    found = asyncio.run(guards.measure({name: cases[name] for name in wanted}, rounds=1))
    assert all(figure.middle > 0 for figure in found.values())


def test_the_page_states_the_number_that_the_benchmark_holds_the_chain_to() -> None:
    """B17"""
    row = re.search(r"\| `IpBlock`, `SecurityHeaders` and `RateLimit` in memory, at most (\d+) \| (\d+) \|", PAGE)
    assert row is not None
    assert float(row[2]) < float(row[1]) == guards.MUST


def test_the_page_states_the_number_that_the_benchmark_holds_ten_guards_to() -> None:
    """B17: over the bare application, the middleware around them included."""
    row = re.search(r"\| the middleware with 1 / 5 / 10 request-only guards, 10 below (\d+) \| .* / ([\d.]+) \|", PAGE)
    assert row is not None
    assert float(row[2]) < float(row[1]) == guards.TEN_MUST
