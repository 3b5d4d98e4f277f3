"""RequireApproval and Budget: dependencies for an approval above a threshold, and for a limit on what is spent.

    @app.post("/payouts", dependencies=[Depends(RequireApproval(10_000, "USD", amount=from_body("amount")))])

The demand is part of the one evaluation, and the sidecar enforces it: up to the threshold it allows, above it the
request is answered 403 with the id of an approval. Once an operator has approved, the very same request with
`X-Chio-Approval: {id}` runs, once. The receipt says so, and an allow that does not say so is refused.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from fastapi import Header, Security
from starlette.requests import HTTPConnection

from chio_core.errors import ConfigurationError
from chio_core.evaluation.amounts import Amount, Facts, check_amount, check_query, check_units, read_amount, reads_body
from chio_core.evaluation.requirements import RequirementSource
from chio_core.models.demands import ApprovalDemand, BudgetDemand, check_currency
from chio_core.models.openapi import APPROVAL, APPROVAL_REQUIRED, BUDGET, BUDGET_LIMIT
from chio_core.models.receipt import HttpReceipt
from chio_core.names import APPROVAL_HEADER
from chio_core.request import Requirement
from chio_fastapi.shared import CAPABILITY_SCHEME, CalledFirst, receipt_for

_PLACE = "RequireApproval(amount=…)"
_HEADER_TEXT = "The id of an approval that was given for this very request, or its token as compact ASCII JSON."


class RequireApproval(RequirementSource, metaclass=CalledFirst):
    """Requires an approval above a threshold: `Depends(RequireApproval(10_000, "USD", amount=…))` gives the receipt.

    A capability is required too, because an approval is bound to one: `RequireCapability` on the same route names
    it, otherwise any valid one will do. Two objects with the same arguments are equal, so FastAPI solves them once a
    request and `app.dependency_overrides` finds them. A request presents one approval, so one demand for an approval
    is what a route can have.

    Args:
        threshold: amount, in units of `currency`, up to which no approval is needed.
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
        """True if the amount comes from the body."""
        return reads_body(self.amount)

    def chio_requirement(self, path_params: Mapping[str, Any]) -> Requirement:
        """Return what this requires where only the path parameters are known.

        Raises:
            ConfigurationError: the amount is elsewhere in the request.
        """
        return self.chio_requirement_for(Facts(path_params))

    def chio_requirement_for(self, facts: Facts) -> Requirement:
        """Return what this requires about one request.

        Raises:
            RequestRefused: the request does not clearly say the amount, or repeats a query parameter.
            ConfigurationError: the amount is unavailable for this kind of request.
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
                count, 502 or 503 if the evaluation failed, or one of a sidecar that knows no approvals.
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


_BUDGET_PLACE = "Budget(cost=…)"


class Budget(RequirementSource, metaclass=CalledFirst):
    """Limits what is spent on a route: `Depends(Budget(max_invocations=10))` gives the receipt.

    The account belongs to the capability that is presented, or without one to the caller; to the method and to the
    route. No capability is required: add `RequireCapability` for that, because a caller whom no guard has verified
    starts again under another name. Two objects with the same arguments are
    equal, so FastAPI solves them once a request and `app.dependency_overrides` finds them. Of several budgets on a
    route the first is part of the one evaluation, and each further one is evaluated, and spent, by itself; its account
    is known by its currency and limits, so it starts again when they change.

    Args:
        cost: what a request costs, in units of `currency`: a number, `from_path`, `from_query`, `from_body`, or a
            function of the path parameters.
        currency: one account has one currency.
        max_invocations: how many requests are allowed.
        max_cost_per_invocation: what one request may cost.
        max_total_cost: what all requests together may cost.

    Raises:
        ConfigurationError: a cost, currency or limit that cannot be used.
    """

    usage: ClassVar[str] = "Depends(Budget(max_invocations=10))"

    def __init__(
        self,
        *,
        cost: Amount = 0,
        currency: str = "USD",
        max_invocations: int | None = None,
        max_cost_per_invocation: int | None = None,
        max_total_cost: int | None = None,
    ) -> None:
        check_amount(cost, _BUDGET_PLACE)
        if cost is None:
            raise ConfigurationError("Budget(cost=None): an unknown cost cannot be spent; leave it out for 0")
        check_currency(currency, "Budget(currency=…)")
        limits = {
            "max_invocations": max_invocations,
            "max_cost_per_invocation": max_cost_per_invocation,
            "max_total_cost": max_total_cost,
        }
        for name, limit in limits.items():
            if limit is not None:
                check_units(limit, f"Budget({name}=…)")
        self.cost = cost
        self.limits = BudgetDemand(0, currency, max_invocations, max_cost_per_invocation, max_total_cost)

    @property
    def chio_reads_body(self) -> bool:
        """True if the cost comes from the body."""
        return reads_body(self.cost)

    def chio_requirement(self, path_params: Mapping[str, Any]) -> Requirement:
        """Return what this requires where only the path parameters are known.

        Raises:
            ConfigurationError: the cost is elsewhere in the request.
        """
        return self.chio_requirement_for(Facts(path_params))

    def chio_requirement_for(self, facts: Facts) -> Requirement:
        """Return what this requires about one request.

        Raises:
            RequestRefused: the request does not clearly say the cost.
            ConfigurationError: the cost is unavailable for this kind of request.
        """
        cost = read_amount(self.cost, facts, _BUDGET_PLACE) or 0
        return Requirement(capability=False, budget=replace(self.limits, cost=cost))

    def chio_extensions(self) -> dict[str, Any]:
        """Return the members that state this in an OpenAPI operation."""
        total = self.limits.max_total_cost
        return {BUDGET: self._stated()} if total is None else {BUDGET: self._stated(), BUDGET_LIMIT: total}

    async def __call__(
        self, connection: HTTPConnection, _token: Annotated[str | None, Security(CAPABILITY_SCHEME)] = None
    ) -> HttpReceipt | None:
        """Return the verified receipt, whose evidence says that the cost was spent.

        Returns:
            None in observe mode, where the request would have been refused; never None otherwise.

        Raises:
            ChioDenied: 400 or 415 when the request does not clearly say the cost, 403 when a limit is reached, 502
                or 503 if the evaluation failed, or one of a sidecar that knows no budgets.
        """
        return await receipt_for(connection, self)

    def _stated(self) -> dict[str, Any]:
        return {name: value for name, value in self.limits.to_wire().items() if name != "cost"}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Budget) and (self.cost, self.limits) == (other.cost, other.limits)

    def __hash__(self) -> int:
        return hash((self.cost, self.limits))

    def __repr__(self) -> str:
        stated = ", ".join(f"{name}={value!r}" for name, value in self._stated().items())
        return f"Budget(cost={self.cost!r}, {stated})"
