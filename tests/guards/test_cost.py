"""B17: "microseconds" is a number that is written down, and a command that measures it (no test measures time)."""

from __future__ import annotations

import asyncio
import re

from benchmarks import guards
from chio_core.guards import IpBlock, RateLimit, SecurityHeaders
from tests.project.tree import ROOT

PAGE = (ROOT / "docs" / "guards.md").read_text(encoding="utf-8")


def test_the_benchmark_measures_the_chain_whose_cost_is_stated() -> None:
    """B17: addresses, headers and a limit in memory, in the default order, served to the end."""
    cases = guards.cases()
    assert [type(member.guard) for member in cases[guards.CHAIN].chain.freeze()][:-1] == [
        SecurityHeaders, IpBlock, RateLimit,
    ]  # fmt: skip
    found = asyncio.run(guards.measure({name: cases[name] for name in (guards.FLOOR, guards.CHAIN)}, rounds=1))
    assert all(figure.middle > 0 for figure in found.values())


def test_the_page_states_the_number_that_the_benchmark_holds_the_chain_to() -> None:
    """B17"""
    row = re.search(r"\| `IpBlock`, `SecurityHeaders` and `RateLimit` in memory, at most (\d+) \| (\d+) \|", PAGE)
    assert row is not None
    assert float(row[2]) < float(row[1]) == guards.MUST
