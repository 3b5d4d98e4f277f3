"""All behaviours by name: whatever a sidecar, or what stands in its place, may do with a question.

The ones that tests of applications need most have names of their own; `deny`, `verdict`, `status`, `reset_at`,
`closed_at`, `signed_wrongly` and `changed_after_signing` make further ones.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from chio_core.errors import ConfigurationError
from chio_core.testing import bad_answers, bad_receipts, faults, verdicts
from chio_core.testing.bad_answers import status
from chio_core.testing.bad_receipts import changed_after_signing, signed_wrongly
from chio_core.testing.behaviour import Behaviour
from chio_core.testing.faults import HANG, REFUSE, closed_at, reset_at
from chio_core.testing.verdicts import ALLOW, CANCEL, DENY, IGNORES_DEMANDS, INCOMPLETE, UNKNOWN_VERDICT, deny, verdict

__all__ = [
    "ALLOW",
    "BEHAVIOURS",
    "CANCEL",
    "DENY",
    "HANG",
    "IGNORES_DEMANDS",
    "INCOMPLETE",
    "REFUSE",
    "UNKNOWN_VERDICT",
    "behaviour",
    "changed_after_signing",
    "closed_at",
    "deny",
    "reset_at",
    "signed_wrongly",
    "status",
    "verdict",
]


def _by_name(*groups: tuple[Behaviour, ...]) -> Mapping[str, Behaviour]:
    found: dict[str, Behaviour] = {}
    for one in (one for group in groups for one in group):
        if one.name in found:
            raise ConfigurationError(f"two behaviours have the name {one.name}")
        found[one.name] = one
    return MappingProxyType(found)


BEHAVIOURS: Mapping[str, Behaviour] = _by_name(
    verdicts.BEHAVIOURS, bad_receipts.BEHAVIOURS, bad_answers.BEHAVIOURS, faults.BEHAVIOURS
)
"""Every behaviour of this package by its name, in a fixed order."""


def behaviour(name: str, among: Mapping[str, Behaviour] = BEHAVIOURS) -> Behaviour:
    """Return the behaviour of this name.

    Raises:
        ConfigurationError: there is none; the text names the nearest.
    """
    found = among.get(name)
    if found is None:
        near = difflib.get_close_matches(name, among, n=1)
        raise ConfigurationError(f"no behaviour is called {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    return found
