"""What a test has told its sidecar to do: rules for some requests, a fault for all of them, a delay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from chio_core.models.demands import POLICY_GUARD
from chio_core.testing.behaviours import Behaviour, Reply
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
    told = "allowed by the test"
    evidence = [{"guard_name": POLICY_GUARD, "verdict": True, "details": told}, *asked.demands_met(told)]
    return Reply(asked.answer_bytes(evidence=evidence))
