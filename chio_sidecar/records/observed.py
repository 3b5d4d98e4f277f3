"""Which observed requests enforcing would have refused, counted from their receipts.

An application in observe mode states it in its request to the sidecar (`enforcement`): the capability that its route
requires, the operations that the presented one lacks, and the refusal of a request that is not evaluated otherwise. The
sidecar copies that to the receipt's metadata. A request would have been refused if such a refusal is stated, if the
verdict is not `allow`, or if a capability is required and the receipt names none, or one that lacks an operation. A
request without a decision left no receipt and is in the application's log.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from chio_sidecar.policy.rules import Rule, rule_of

METADATA: Final = "chio_enforcement"
"""Member of a receipt's metadata with the application's `enforcement`."""

NEWEST: Final = 3
"""Receipt ids that are kept for each group."""

MAX_GROUPS: Final = 10_000
"""Groups, and routes, that are kept apart: paths and callers are chosen by strangers and cannot fill the memory."""

MAX_CALLERS: Final = 100_000
"""Most callers that one report counts exactly, over all groups."""

_FIELD = re.compile(r"\{(\w+)\}")
_NUMBER = re.compile(r"\d{5,}")  # a time or an id in a reason of another sidecar
_SAME_FOR_A_ROUTE = {"tool", "server", "members", "field", "limit", "currency", "route"}


@dataclass(frozen=True, slots=True)
class Kind:
    """What refusals of one group have in common.

    Attributes:
        caller: hash of the caller, where each caller is a group; None for all callers.
    """

    method: str
    route: str
    reason: str
    caller: str | None = None


@dataclass(slots=True)
class Group:
    """Refusals of one kind.

    Attributes:
        requests: all observed requests of its route.
        callers: how many callers were refused; `many_callers` if there are more than that: the others were not counted.
        first, last: seconds since 1970.
        newest: ids of the newest receipts, the newest first.
        stated: what the application stated last, see `enforcement`.
        rule: id of the sidecar's rule that refused; empty without one.
        size: bytes of the largest body that is above the limit.
    """

    kind: Kind
    count: int = 0
    requests: int = 0
    callers: int = 0
    many_callers: bool = False
    first: int = 0
    last: int = 0
    newest: deque[str] = field(default_factory=lambda: deque(maxlen=NEWEST))
    stated: Mapping[str, Any] = field(default_factory=dict)
    rule: str = ""
    size: int = 0

    def document(self) -> dict[str, Any]:
        """Return the group as a JSON object."""
        kind = self.kind
        caller = {} if kind.caller is None else {"caller_identity_hash": kind.caller}
        return {
            "count": self.count,
            "method": kind.method,
            "route_pattern": kind.route,
            "reason": kind.reason,
            **caller,
            "route_requests": self.requests,
            "callers": self.callers,
            "callers_complete": not self.many_callers,
            "first": self.first,
            "last": self.last,
            "receipt_ids": list(self.newest),
        }


class Tally:
    """Counts receipts, oldest first, in bounded memory.

    Args:
        by_caller: make a group for each caller.

    Attributes:
        observed: receipts that were counted.
        refused: those whose requests would have been refused.
        beyond: refusals in no group: there were too many kinds.
    """

    def __init__(
        self, max_groups: int = MAX_GROUPS, max_callers: int = MAX_CALLERS, *, by_caller: bool = False
    ) -> None:
        self.observed = self.refused = self.beyond = 0
        self._max, self._callers_left, self._by_caller = max_groups, max_callers, by_caller
        self._groups: dict[Kind, Group] = {}
        self._callers: dict[Kind, set[str]] = {}
        self._routes: Counter[tuple[str, str]] = Counter()

    def add(self, receipt: Mapping[str, Any]) -> None:
        """Count one receipt."""
        self.observed += 1
        stated = enforcement(receipt)
        method, route = _text(receipt.get("method")), _text(stated.get("route")) or _text(receipt.get("route_pattern"))
        if (method, route) in self._routes or len(self._routes) < self._max:
            self._routes[method, route] += 1
        reason = why_refused(receipt)
        if reason is None:
            return
        self.refused += 1
        caller = _text(receipt.get("caller_identity_hash"))
        kind = Kind(method, route, reason, caller if self._by_caller else None)
        group = self._groups.get(kind)
        if group is None and len(self._groups) >= self._max:
            self.beyond += 1
            return
        time = receipt.get("timestamp")
        seconds = time if isinstance(time, int) else 0
        if group is None:
            group = self._groups[kind] = Group(kind, first=seconds)
        group.count += 1
        group.last = seconds
        group.newest.appendleft(_text(receipt.get("id")))
        group.stated, group.rule = stated, rule_of(receipt) or ""
        size = _text(stated.get("size"))
        group.size = max(group.size, int(size[:15]) if size.isdecimal() and size.isascii() else 0)
        known = self._callers.setdefault(kind, set())
        if caller not in known:
            if self._callers_left:
                self._callers_left -= 1
                known.add(caller)
            else:
                group.many_callers = True

    def groups(self) -> list[Group]:
        """Return the groups, those with most refusals first."""
        for kind, group in self._groups.items():
            group.callers = len(self._callers[kind])
            group.requests = max(group.count, self._routes[kind.method, kind.route])
        return sorted(self._groups.values(), key=lambda one: (-one.count, one.kind.route, one.kind.method))


@dataclass(frozen=True)
class Earlier:
    """An earlier report, to compare with.

    Attributes:
        observed, refused: its totals.
        counts: refusals of each of its groups.
    """

    observed: int
    refused: int
    counts: Mapping[Kind, int]

    @classmethod
    def read(cls, document: Any) -> Earlier:
        """Read the report that `receipt diff --json` has printed.

        Raises:
            ValueError: it is no such report.
        """
        try:
            kinds = (
                (one["method"], one["route_pattern"], one["reason"], one.get("caller_identity_hash"), one["count"])
                for one in document["groups"]
            )
            counts = {Kind(method, route, reason, caller): int(count) for method, route, reason, caller, count in kinds}
            return cls(int(document["observed"]), int(document["would_refuse"]), counts)
        except (KeyError, TypeError, AttributeError) as exc:
            raise ValueError("it is no report of receipt diff --json") from exc

    def gone(self, groups: list[Group]) -> list[dict[str, Any]]:
        """Return the groups of this report that are not among `groups`."""
        now = {group.kind for group in groups}
        return [asdict(kind) | {"count": count} for kind, count in self.counts.items() if kind not in now]


def is_observed(receipt: Mapping[str, Any]) -> bool:
    """Return True for the receipt of a request that was only observed."""
    return enforcement(receipt).get("mode") == "observe"


def why_refused(receipt: Mapping[str, Any]) -> str | None:
    """Return why a request would have been refused, the same text for all with this fault; None if it would run."""
    refused, requires, lacks = (_text(enforcement(receipt).get(name)) for name in ("refused", "requires", "lacks"))
    if refused:
        return refused
    verdict = receipt.get("verdict")
    stated = verdict if isinstance(verdict, Mapping) else {}
    if stated.get("verdict") != "allow":
        return _reason_of(receipt, stated) or _text(stated.get("verdict")) or "no verdict"
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


def _reason_of(receipt: Mapping[str, Any], verdict: Mapping[str, Any]) -> str:
    """Return the verdict's reason, without the ids, times and amounts that differ between requests with one fault."""
    reason = _text(verdict.get("reason"))
    try:
        template = Rule.by_id(rule_of(receipt) or "").text
    except KeyError:
        return _NUMBER.sub("…", reason)
    return reason if set(_FIELD.findall(template)) <= _SAME_FOR_A_ROUTE else _FIELD.sub("…", template)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
