"""EvaluateCall and RawResponse: what goes to `POST /chio/evaluate`, and what came back over the wire."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from chio_core.evaluation.outcomes import Decision
from chio_core.models.receipt import HttpReceipt
from chio_core.models.request import ChioHttpRequest
from chio_core.receipts import Expectation
from chio_core.request import Requirement

EVALUATE_PATH = "/chio/evaluate"


@dataclass(frozen=True, slots=True)
class RawResponse:
    """What came back over the wire."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class EvaluateCall:
    """What to send to `POST /chio/evaluate`, and what the receipt will have to match.

    Attributes:
        capability: the token's text, a secret; like the headers that carry it, it is left out of the `repr`.
        observe: a refusal is recorded only, see `chio_core.evaluation.observe`.
    """

    request: ChioHttpRequest
    body: bytes = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    expectation: Expectation
    capability: str | None = field(repr=False)
    requirement: Requirement | None
    observe: bool = False


FURTHER_TO: Final = "chio_further_to"
"""Member of a receipt's metadata: the receipt of the first question."""


def as_further(
    request: ChioHttpRequest, requirement: Requirement | None, earlier: Iterable[Decision]
) -> ChioHttpRequest:
    """Return the description of a request with the receipt that it is further to; as it is where there is none.

    Args:
        request: what the sidecar is to be asked.
        requirement: what this question demands.
        earlier: decisions that were made for the same incoming request, oldest first.
    """
    for decision in earlier:
        receipt = decision.receipt
        if receipt is not None and _is_first(decision, requirement) and _is_about(receipt, request):
            return request.model_copy(update={"further_to": receipt.id})
    return request


def is_further(receipt: HttpReceipt) -> bool:
    """Tell whether a receipt answers a further question; another one cannot be further to it."""
    return isinstance(receipt.metadata, dict) and FURTHER_TO in receipt.metadata


def _is_first(decision: Decision, requirement: Requirement | None) -> bool:
    # What only this question says a cost about, the document's limits have not been held against yet.
    spends = requirement is not None and requirement.budget is not None
    spent = decision.requirement is not None and decision.requirement.budget is not None
    return decision.verdict == "allow" and (spent or not spends)


def _is_about(receipt: HttpReceipt, request: ChioHttpRequest) -> bool:
    # A handler may hand another request to the application, with what it knows about its own.
    return not is_further(receipt) and receipt.content_hash == request.content_hash(receipt.route_pattern)
