"""What enforcing would have refused, out of the receipts of requests that were only observed.

An application in observe mode says so in the question (`enforcement`), with the capability that its route requires
and the operations that the one presented lacks, and our sidecar repeats that in the receipt's metadata
(`chio_enforcement`). A request would have been refused when the verdict is not `allow`, or when a capability was
required and the receipt names none, or one that lacks something. A request that the sidecar could not judge left no
receipt, so it is not counted here: the application's log has it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

METADATA: Final = "chio_enforcement"
"""Member of a receipt's metadata with what the application said about itself."""

NEWEST: Final = 3
"""Receipt ids that are kept for each group."""

MAX_GROUPS: Final = 10_000
"""Groups that are kept apart by caller; whoever calls under ever new names cannot fill the memory."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What refusals of one group have in common.

    Attributes:
        caller: `caller_identity_hash`; None for all callers beyond `MAX_GROUPS`.
    """

    method: str
    route: str
    reason: str
    caller: str | None


@dataclass(slots=True)
class Group:
    """Refusals of one kind.

    Attributes:
        newest: ids of the newest receipts, the newest first.
    """

    kind: Kind
    count: int = 0
    newest: deque[str] = field(default_factory=lambda: deque(maxlen=NEWEST))

    def document(self) -> dict[str, Any]:
        """Return the group for programs."""
        return {
            "count": self.count,
            "method": self.kind.method,
            "route_pattern": self.kind.route,
            "reason": self.kind.reason,
            "caller_identity_hash": self.kind.caller,
            "receipt_ids": list(self.newest),
        }


class Tally:
    """Counts receipts, oldest first, in memory that does not grow with them.

    Attributes:
        observed: receipts that were counted.
        refused: those whose requests would have been refused.
        beyond: refusals that are in none of the groups, because there were too many kinds.
    """

    def __init__(self, max_groups: int = MAX_GROUPS) -> None:
        self.observed = 0
        self.refused = 0
        self.beyond = 0
        self._max = max_groups
        self._groups: dict[Kind, Group] = {}

    def add(self, receipt: Mapping[str, Any]) -> None:
        """Count one receipt."""
        self.observed += 1
        reason = why_refused(receipt)
        if reason is None:
            return
        self.refused += 1
        method, route, caller = (
            _text(receipt.get(name)) for name in ("method", "route_pattern", "caller_identity_hash")
        )
        group = self._group(Kind(method, route, reason, caller))
        if group is None:
            self.beyond += 1
            return
        group.count += 1
        group.newest.appendleft(_text(receipt.get("id")))

    def groups(self) -> list[Group]:
        """Return the groups, those with most refusals first."""
        return sorted(self._groups.values(), key=lambda one: (-one.count, one.kind.route, one.kind.method))

    def document(self) -> dict[str, Any]:
        """Return the whole report for programs."""
        return {
            "observed": self.observed,
            "would_refuse": self.refused,
            "groups": [group.document() for group in self.groups()],
            "beyond_groups": self.beyond,
        }

    def _group(self, kind: Kind) -> Group | None:
        for wanted, room in self._places(kind):
            found = self._groups.get(wanted)
            if found is None and len(self._groups) < room:
                found = self._groups[wanted] = Group(wanted)
            if found is not None:
                return found
        return None

    def _places(self, kind: Kind) -> Iterator[tuple[Kind, int]]:
        yield kind, self._max
        yield Kind(kind.method, kind.route, kind.reason, None), 2 * self._max


def is_observed(receipt: Mapping[str, Any]) -> bool:
    """Tell whether a receipt is that of a request that was only observed."""
    return _enforcement(receipt).get("mode") == "observe"


def why_refused(receipt: Mapping[str, Any]) -> str | None:
    """Return why a request would have been refused, or None."""
    verdict = receipt.get("verdict")
    stated = verdict if isinstance(verdict, Mapping) else {}
    if stated.get("verdict") != "allow":
        return _text(stated.get("reason")) or _text(stated.get("verdict")) or "no verdict"
    requires, lacks = (_text(_enforcement(receipt).get(name)) for name in ("requires", "lacks"))
    if requires and lacks:
        return f"the capability lacks {lacks} for {requires}"
    if not requires or receipt.get("capability_id") is not None:
        return None
    return "no valid capability" if requires == "any" else f"no valid capability for {requires}"


def _enforcement(receipt: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = receipt.get("metadata")
    found = metadata.get(METADATA) if isinstance(metadata, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
