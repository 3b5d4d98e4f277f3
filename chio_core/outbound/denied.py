"""OutboundDenied: what a caller gets instead of a response when a send was refused."""

from __future__ import annotations

from chio_core.errors import ChioError
from chio_core.evaluation.outcomes import Decision
from chio_core.models.receipt import HttpReceipt
from chio_core.refusals.response import Denial


class OutboundDenied(ChioError):
    """A send was refused, or no decision could be had. Nothing has reached the network.

    It is an exception and no response with status 403, so that nobody takes the refusal for the upstream's
    answer, and no error of httpx, so that nobody repeats the call because of it.

    Args:
        decision: the outcome; its `denial` is set.
        method: method of the refused request.
        target: its URL without user, query and fragment.

    Attributes:
        decision, denial, method, target: see above.
        hop: 1 for the call itself, 2 and more for a redirect.
    """

    code = "chio_access_denied"

    def __init__(self, decision: Decision, denial: Denial, *, method: str, target: str, hop: int = 1) -> None:
        super().__init__(f"{method} {target} was not sent: {denial.message}")
        self.code = denial.code
        self.decision = decision
        self.denial = denial
        self.method = method
        self.target = target
        self.hop = hop

    @property
    def receipt(self) -> HttpReceipt | None:
        """The verified receipt of the refusal; None when the sidecar gave none."""
        return self.decision.receipt
