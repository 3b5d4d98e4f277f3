"""Further questions about one request: which receipt they name, and when they name none."""

from __future__ import annotations

from typing import Any

import pytest

from chio_core.evaluation.conclude import conclude
from chio_core.evaluation.exchange import FURTHER_TO, EvaluateCall
from chio_core.evaluation.outcomes import Decision
from chio_core.models.demands import BudgetDemand
from chio_core.receipts import KeyTrust
from chio_core.request import Requirement
from chio_core.testing import KEY
from chio_core.testing.exchange import DENY
from tests.core.views import NOW, SETTINGS, View, answered, asked, question

SPENDS = Requirement(capability=False, budget=BudgetDemand(1))
ALSO = Requirement(capability=False, budget=BudgetDemand(2))
NOTHING = Requirement(capability=False)


def made(about: EvaluateCall, verdict: Any = None, **changes: Any) -> Decision:
    """Return the decision on the sidecar's response."""
    one = asked(about)
    body = one.response_bytes(**changes) if verdict is None else one.response_bytes(verdict, **changes)
    return conclude(answered(body), about, SETTINGS, KeyTrust((KEY.public_hex,)), NOW)


def named(*earlier: Decision, requirement: Requirement | None = NOTHING, view: View | None = None) -> Any:
    """Return the receipt that a question after these decisions names."""
    return question(view, requirement=requirement, request_id="req-2", earlier=earlier).request.further_to


def test_a_question_names_the_first_receipt_and_one_without_any_names_none() -> None:
    first, second = made(question(requirement=SPENDS)), made(question(requirement=NOTHING, request_id="req-3"))
    assert first.receipt is not None
    assert named(first, second) == first.receipt.id
    assert named() is None
    assert "further_to" not in question(requirement=SPENDS).request.to_wire()


def test_a_refusal_is_not_named() -> None:
    assert named(made(question(requirement=SPENDS), DENY)) is None


def test_the_first_cost_of_a_request_is_held_against_the_limits_of_the_document() -> None:
    plain, spent = made(question(requirement=NOTHING)), made(question(requirement=SPENDS, request_id="req-3"))
    assert spent.receipt is not None
    assert named(plain, requirement=ALSO) is None
    assert named(plain, spent, requirement=ALSO) == spent.receipt.id


def test_the_receipt_of_a_further_question_is_not_named() -> None:
    metadata = {"chio_http_status_scope": "decision", FURTHER_TO: "another"}
    assert named(made(question(requirement=SPENDS), metadata=metadata)) is None


@pytest.mark.parametrize("view", [View(path="/pets/8"), View(method="PUT"), View(query="a=1")])
def test_the_receipt_of_another_request_is_not_named(view: View) -> None:
    assert named(made(question(requirement=SPENDS)), view=view) is None
