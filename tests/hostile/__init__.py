"""Every wrong or odd response that a sidecar, or a process in its place, could give, for `ScriptedSidecar`.

`chio_core.testing.BEHAVIOURS` has those that tests of applications need; `BEHAVIOURS` here has them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from chio_core.testing import behaviours
from chio_core.testing.behaviours import Behaviour
from tests.hostile import bad_answers, bad_receipts, faults, verdicts

_ALL = (
    *behaviours.BEHAVIOURS.values(),
    *verdicts.BEHAVIOURS,
    *bad_receipts.BEHAVIOURS,
    *bad_answers.BEHAVIOURS,
    *faults.BEHAVIOURS,
)

BEHAVIOURS: Mapping[str, Behaviour] = MappingProxyType({one.name: one for one in _ALL})
"""Every behaviour by its name, in a fixed order."""

if len(BEHAVIOURS) != len(_ALL):
    raise ValueError("two behaviours have the same name")
