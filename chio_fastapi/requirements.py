"""RequireCapability, RequireApproval, Budget, Policy and Observe: what a route requires and states, as dependencies.

    @app.post("/payouts", dependencies=[Depends(RequireApproval(10_000, "USD", amount=from_body("amount")))])

With the middleware, the requirement was found before the body was read and was part of the one evaluation; the
dependency then only checks that this decision was made for it. Without the middleware, or for a second
requirement on the same route, it evaluates the request itself. It never allows a request unchecked.
"""

from typing import Annotated, ClassVar

from fastapi import Header, Security
from starlette.requests import HTTPConnection

from chio_core.evaluation import policies
from chio_core.evaluation.requirements import CapabilityRule
from chio_core.models.receipt import ChioPassthrough, HttpReceipt
from chio_core.names import APPROVAL_HEADER, STATE_RECEIPT
from chio_fastapi.shared import (
    CAPABILITY_SCHEME,
    CalledFirst,
    ChioDenied,
    client_of,
    decision_for,
    dependency,
    receipt_for,
)

_HEADER_TEXT = "The id of an approval that was given for this very request, or its token as compact ASCII JSON."


class Policy(policies.Policy, metaclass=CalledFirst):
    """States what a route is: `Depends(Policy(sensitivity="restricted", side_effects=True))`.

    Two objects with the same arguments are equal, so `app.dependency_overrides` finds them.

    Args:
        sensitivity, side_effects: see `chio_core.evaluation.policies.Policy`.
    """

    usage: ClassVar[str] = "Depends(Policy(side_effects=True))"

    @dependency
    async def __call__(
        self, connection: HTTPConnection, _token: Annotated[str | None, Security(CAPABILITY_SCHEME)] = None
    ) -> HttpReceipt | None:
        """Return the verified receipt of this request.

        Returns:
            None where the route has no side effects and is excluded, or runs without a decision or against one.

        Raises:
            ChioDenied: there are side effects, and no valid capability.
        """
        if not self.chio_decides:
            known: HttpReceipt | None = connection.scope.get("state", {}).get(STATE_RECEIPT)
            return known
        return await receipt_for(connection, self)


class RequireCapability(CapabilityRule, metaclass=CalledFirst):
    """Requires a capability: `Depends(RequireCapability("payments", "transfer"))` gives the receipt.

    Two objects with the same arguments are equal, so FastAPI solves them once a request and
    `app.dependency_overrides` finds them.

    Args:
        server, tool, operations, arguments, sensitivity, side_effects: see
            `chio_core.evaluation.requirements.CapabilityRule`.
    """

    usage: ClassVar[str] = (
        'Depends(RequireCapability("server", "tool")), or Depends(require_capability) for any valid capability'
    )

    @dependency
    async def __call__(
        self, connection: HTTPConnection, _token: Annotated[str | None, Security(CAPABILITY_SCHEME)] = None
    ) -> HttpReceipt | None:
        """Return the verified receipt of the decision that covers this requirement.

        Returns:
            None in observe mode, where the capability would have been refused; never None otherwise.

        Raises:
            ChioDenied: 401 when no capability was presented, 403 when it is not enough, 502 or 503 when there
                was no decision.
        """
        return await receipt_for(connection, self)


require_capability = RequireCapability()
"""`Depends(require_capability)`: any valid capability; gives the receipt."""


class RequireApproval(policies.RequireApproval, metaclass=CalledFirst):
    """Requires an approval above a threshold: `Depends(RequireApproval(10_000, "USD", amount=…))` gives the receipt.

    The demand is part of the one evaluation, and the sidecar enforces it: up to the threshold it allows, above it the
    request is answered 403 with the id of an approval. Once an operator has approved, the very same request with
    `X-Chio-Approval: {id}` runs, once. The receipt says so, and an allow that does not say so is refused.

    Args:
        threshold, currency, amount: see `chio_core.evaluation.policies.RequireApproval`.
    """

    usage: ClassVar[str] = "Depends(RequireApproval(threshold=10_000))"

    @dependency
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


class Budget(policies.Budget, metaclass=CalledFirst):
    """Limits what is spent on a route: `Depends(Budget(max_invocations=10))` gives the receipt.

    Args:
        cost, currency, max_invocations, max_cost_per_invocation, max_total_cost: see
            `chio_core.evaluation.policies.Budget`.
    """

    usage: ClassVar[str] = "Depends(Budget(max_invocations=10))"

    @dependency
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


class Observe(policies.Observe, metaclass=CalledFirst):
    """Lets a route run whatever Chio decides: `Depends(Observe())` gives the mark of this request.

    The mark is None where the request was allowed. A dependency that requires a capability gives None instead of a
    receipt where the capability would have been refused.
    """

    usage: ClassVar[str] = "Depends(Observe())"

    @dependency
    async def __call__(self, connection: HTTPConnection) -> ChioPassthrough | None:
        """Return why this request runs although it would have been refused; None when it was allowed.

        Without the middleware, or on an excluded path, everything that the route requires is evaluated here.

        Raises:
            ChioDenied: the request could not be evaluated at all.
        """
        decision = await decision_for(connection, self)
        if decision.denial is not None:
            raise ChioDenied(decision.denial, client_of(connection).settings.receipt_header)
        return decision.passthrough
