"""RequireApproval: a person has to approve what goes beyond a threshold, as a dependency.

    @app.post("/payouts", dependencies=[Depends(RequireApproval(10_000, "USD", amount=from_body("amount")))])

The demand is part of the one evaluation, and the sidecar enforces it: up to the threshold it allows, above it the
request is answered 403 with the id of an approval. Once an operator has approved, the very same request with
`X-Chio-Approval: {id}` runs, once. The receipt says so, and an allow that does not say so is refused.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from fastapi import Header, Security
from starlette.requests import HTTPConnection

from chio_core.evaluation.amounts import Amount, Facts, check_amount, check_query, check_units, read_amount, reads_body
from chio_core.models.openapi import APPROVAL, APPROVAL_REQUIRED
from chio_core.models.receipt import HttpReceipt
from chio_core.names import APPROVAL_HEADER
from chio_core.models.demands import ApprovalDemand, check_currency
from chio_core.request import Requirement
from chio_fastapi.asking import CAPABILITY_SCHEME, CalledFirst, receipt_for

_PLACE = "RequireApproval(amount=…)"
_HEADER_TEXT = "The id of an approval that was given for this very request, or its token as compact ASCII JSON."


class RequireApproval(metaclass=CalledFirst):
    """Asks for an approval above a threshold: `Depends(RequireApproval(10_000, "USD", amount=…))` gives the receipt.

    A capability is asked for too, because an approval is bound to one: `RequireCapability` on the same route names
    it, otherwise any valid one will do. Two objects with the same arguments are equal, so FastAPI solves them once a
    request and `app.dependency_overrides` finds them. A request presents one approval, so one demand for an approval
    is what a route can have.

    Args:
        threshold: amount, in units of `currency`, up to which nobody is asked.
        currency: for example `USD`. What a unit is, cents or dollars, is yours to say; it is compared only.
        amount: what a request is about: a number, `from_path`, `from_query`, `from_body`, or a function of the path
            parameters. Left out, it is unknown, and every request needs an approval.

    Raises:
        ConfigurationError: a threshold, currency or amount that cannot be used.
    """

    usage: ClassVar[str] = "Depends(RequireApproval(threshold=10_000))"

    def __init__(self, threshold: int = 10_000, currency: str = "USD", *, amount: Amount = None) -> None:
        check_units(threshold, "RequireApproval(threshold=…)")
        check_currency(currency, "RequireApproval(currency=…)")
        check_amount(amount, _PLACE)
        self.threshold = threshold
        self.currency = currency
        self.amount = amount

    @property
    def chio_reads_body(self) -> bool:
        """True when the amount stands in the body."""
        return reads_body(self.amount)

    def chio_requirement(self, path_params: Mapping[str, Any]) -> Requirement:
        """Return what this asks for where only the path parameters are known.

        Raises:
            ConfigurationError: the amount stands elsewhere in the request.
        """
        return self.chio_requirement_for(Facts(path_params))

    def chio_requirement_for(self, facts: Facts) -> Requirement:
        """Return what this asks for about one request.

        Raises:
            InputRefused: the request does not clearly say the amount, or repeats a query parameter.
            ConfigurationError: the amount cannot be worked out for this kind of request.
        """
        amount = read_amount(self.amount, facts, _PLACE)
        check_query(facts)
        return Requirement(approval=ApprovalDemand(self.threshold, self.currency, amount))

    def chio_extensions(self) -> dict[str, Any]:
        """Return the members that state this in an OpenAPI operation."""
        terms = {"threshold": self.threshold, "currency": self.currency}
        return {APPROVAL_REQUIRED: True, APPROVAL: terms}

    async def __call__(
        self,
        connection: HTTPConnection,
        _token: Annotated[str | None, Security(CAPABILITY_SCHEME)] = None,
        _approval: Annotated[str | None, Header(alias=APPROVAL_HEADER, description=_HEADER_TEXT)] = None,
    ) -> HttpReceipt | None:
        """Return the verified receipt, whose evidence says that the demand was met.

        Returns:
            None in observe mode, where the request would have been refused; never None otherwise.

        Raises:
            ChioDenied: 400 or 415 when the request does not clearly say the amount, or repeats a query parameter,
                401 when no capability was presented, 403 when a person has to approve first or the approval does not
                count, 502 or 503 when there was no decision to be had, or one of a sidecar that knows no approvals.
        """
        return await receipt_for(connection, self)

    def _key(self) -> tuple[Any, ...]:
        return self.threshold, self.currency, self.amount

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RequireApproval) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"RequireApproval({self.threshold!r}, {self.currency!r}, amount={self.amount!r})"
