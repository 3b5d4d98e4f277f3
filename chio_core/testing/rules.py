"""What a test has told its sidecar to do: rules for some requests, a fault for all of them, a delay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from chio_core.policy import (
    APPROVAL_GUARD,
    BUDGET_GUARD,
    approval_evidence,
    approval_from,
    budget_evidence,
    budget_from,
)
from chio_core.testing.behaviour import Behaviour, Reply
from chio_core.testing.question import Asked


@dataclass(frozen=True, slots=True)
class Rule:
    """What is done with some requests.

    Attributes:
        method, path: see `Asked.is_about`.
        requires: what the route asks for, for example `payments/transfer`; None for any.
        behaviour: what is done.
    """

    method: str | None
    path: str | None
    requires: str | None
    behaviour: Behaviour

    def covers(self, asked: Asked) -> bool:
        """Tell whether this rule is about a question."""
        return asked.is_about(self.method, self.path) and self.requires in (None, asked.requires)


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it.

    Attributes:
        rules: the last one that covers a question counts.
        fault: done with every question, whatever the rules say.
        delay: seconds before each answer.
    """

    rules: tuple[Rule, ...] = ()
    fault: Behaviour | None = None
    delay: float = 0.0

    def behaviour_for(self, asked: Asked) -> Behaviour | None:
        """Return what is to be done with a question; None: nothing was said."""
        if self.fault is not None:
            return self.fault
        return next((rule.behaviour for rule in reversed(self.rules) if rule.covers(asked)), None)


class Until:
    """A change that lasts until the end of the test, or of a `with` block: `with chio.down(): …`.

    At the end of the block everything is again as it was before the change.

    Args:
        undo: makes it so.
    """

    def __init__(self, undo: Callable[[], None]) -> None:
        self._undo = undo

    def __enter__(self) -> Until:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo()


def allow_as_told(asked: Asked) -> Reply:
    """Allow, with the evidence that every demand of the route is met."""
    return Reply(asked.answer_bytes(evidence=_evidence(asked)))


def _evidence(asked: Asked) -> list[dict[str, Any]]:
    said = [("DefaultPolicyGuard", "allowed by the test")]
    intent, limits = asked.document.get("governed_intent"), asked.document.get("budget")
    if intent is not None:
        said.append((APPROVAL_GUARD, f"{approval_evidence(approval_from(intent))}allowed by the test"))
    if limits is not None:
        said.append((BUDGET_GUARD, f"{budget_evidence(budget_from(limits))}allowed by the test"))
    return [{"guard_name": guard, "verdict": True, "details": details} for guard, details in said]
