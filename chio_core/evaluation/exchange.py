"""Question and Answer: what goes to `POST /chio/evaluate`, and what came back over the wire."""

from __future__ import annotations

from dataclasses import dataclass, field

from chio_core.models.request import ChioHttpRequest
from chio_core.receipts import Expectation
from chio_core.request import Requirement

EVALUATE_PATH = "/chio/evaluate"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back over the wire."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Question:
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
