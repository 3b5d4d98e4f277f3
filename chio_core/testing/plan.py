"""Plan: what a test has arranged for its sidecar, before the rules of `chio_core.testing.engine` decide."""

from __future__ import annotations

from dataclasses import dataclass

from chio_core.models.demands import POLICY_GUARD
from chio_core.testing.behaviours import Behaviour, Reply
from chio_core.testing.exchange import EvaluateRequest


@dataclass(frozen=True, slots=True)
class Rule:
    """A behaviour for some requests; None is any method, path (see `EvaluateRequest.is_about`) or required tool."""

    method: str | None
    path: str | None
    requires: str | None
    behaviour: Behaviour


@dataclass(frozen=True, slots=True)
class Plan:
    """What a test has told its sidecar.

    Attributes:
        rules: the last one that covers a request counts.
        fault: the behaviour for every request, whatever the rules say.
        delay: seconds before each response.
    """

    rules: tuple[Rule, ...] = ()
    fault: Behaviour | None = None
    delay: float = 0.0

    @property
    def down(self) -> bool:
        """True if the sidecar accepts no connection."""
        return self.fault is not None and self.fault.refuses

    def behaviour_for(self, request: EvaluateRequest) -> Behaviour | None:
        """Return the behaviour for a request; None if the test said nothing about it."""
        if self.fault is not None:
            return self.fault
        for rule in reversed(self.rules):
            if request.is_about(rule.method, rule.path) and rule.requires in (None, request.requires):
                return rule.behaviour
        return None


def _allow_as_told(request: EvaluateRequest) -> Reply:
    told = "allowed by the test"
    policy = {"guard_name": POLICY_GUARD, "verdict": True, "details": told}
    return Reply(request.response_bytes(evidence=[policy, *request.demands_met(told)]))


ALLOW_AS_TOLD = Behaviour("allow_as_told", "Allows, because the test says so.", _allow_as_told)
