"""Which observed requests enforcing would have refused, counted from their receipts.

An application in observe mode states it in its request to the sidecar (`enforcement`), with the capability that its
route requires and the operations that the presented one lacks; the sidecar copies that to the receipt's metadata. A
request would have been refused if the verdict is not `allow`, or if a capability is required and the receipt names
none, or one that lacks an operation. A request without a decision left no receipt and is in the application's log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

METADATA: Final = "chio_enforcement"
"""Member of a receipt's metadata with the application's `enforcement`."""

NEWEST: Final = 3
"""Receipt ids that are kept for each group."""

MAX_GROUPS: Final = 10_000
"""Groups that are kept apart by caller: a client that calls under ever new names cannot fill the memory."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What refusals of one group have in common; `caller` is None for all callers beyond `MAX_GROUPS`."""

    method: str
    route: str
    reason: str
    caller: str | None


@dataclass(slots=True)
class Group:
    """Refusals of one kind; `newest` has the ids of the newest receipts, the newest first."""

    kind: Kind
    count: int = 0
    newest: deque[str] = field(default_factory=lambda: deque(maxlen=NEWEST))

    def document(self) -> dict[str, Any]:
        """Return the group as a JSON object."""
        return {
            "count": self.count,
            "method": self.kind.method,
            "route_pattern": self.kind.route,
            "reason": self.kind.reason,
            "caller_identity_hash": self.kind.caller,
            "receipt_ids": list(self.newest),
        }


class Tally:
    """Counts receipts, oldest first, in bounded memory.

    Attributes:
        observed: receipts that were counted.
        refused: those whose requests would have been refused.
        beyond: refusals in no group: there were too many kinds.
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
        method, route = _text(receipt.get("method")), _text(receipt.get("route_pattern"))
        own = Kind(method, route, reason, _text(receipt.get("caller_identity_hash")))
        # A group for this caller while there is room, else the one for all further callers.
        for kind, room in ((own, self._max), (Kind(method, route, reason, None), 2 * self._max)):
            if kind in self._groups or len(self._groups) < room:
                group = self._groups.setdefault(kind, Group(kind))
                group.count += 1
                group.newest.appendleft(_text(receipt.get("id")))
                return
        self.beyond += 1

    def groups(self) -> list[Group]:
        """Return the groups, those with most refusals first."""
        return sorted(self._groups.values(), key=lambda one: (-one.count, one.kind.route, one.kind.method))

    def document(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "observed": self.observed,
            "would_refuse": self.refused,
            "groups": [group.document() for group in self.groups()],
            "beyond_groups": self.beyond,
        }


def is_observed(receipt: Mapping[str, Any]) -> bool:
    """Return True for the receipt of a request that was only observed."""
    return enforcement(receipt).get("mode") == "observe"


def why_refused(receipt: Mapping[str, Any]) -> str | None:
    """Return why a request would have been refused, or None."""
    verdict = receipt.get("verdict")
    stated = verdict if isinstance(verdict, Mapping) else {}
    if stated.get("verdict") != "allow":
        return _text(stated.get("reason")) or _text(stated.get("verdict")) or "no verdict"
    requires, lacks = (_text(enforcement(receipt).get(name)) for name in ("requires", "lacks"))
    if requires and lacks:
        return f"the capability lacks {lacks} for {requires}"
    if not requires or receipt.get("capability_id") is not None:
        return None
    return "no valid capability" if requires == "any" else f"no valid capability for {requires}"


def enforcement(receipt: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the application stated about observe mode; empty without such a statement."""
    metadata = receipt.get("metadata")
    found = metadata.get(METADATA) if isinstance(metadata, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
