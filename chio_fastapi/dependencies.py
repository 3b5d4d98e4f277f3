"""Dependencies of handlers: what a route requires and states, and what a handler can be given of the outcome.

    @app.post("/payouts", dependencies=[Depends(RequireApproval(10_000, "USD", amount=from_body("amount")))])

With the middleware, the requirement was found before the body was read and was part of the one evaluation; the
dependency then only checks that this decision was made for it. Without the middleware, or for a second
requirement on the same route, it evaluates the request itself. It never allows a request unchecked.

All of them work on HTTP and on websocket routes, and need no `request` argument.
"""

import logging
from typing import Annotated, Any, ClassVar

from fastapi import Depends, Header, Security
from starlette.requests import HTTPConnection

from chio_core.client.authority import Issuer
from chio_core.client.client import ChioClient
from chio_core.errors import ConfigurationError
from chio_core.evaluation import policies
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.requirements import CapabilityRule
from chio_core.models.receipt import ChioPassthrough, HttpReceipt
from chio_core.models.request import CallerIdentity
from chio_core.names import APPROVAL_HEADER, LOGGER, STATE_DECISION, STATE_PASSTHROUGH, STATE_RECEIPT
from chio_core.refusals.response import Denial
from chio_fastapi.shared import (
    CAPABILITY_SCHEME,
    CalledFirst,
    ChioDenied,
    caller_now,
    caller_of,
    client_of,
    decision_for,
    dependency,
    receipt_for,
)

log = logging.getLogger(LOGGER)

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


async def get_chio_receipt(request: HTTPConnection) -> HttpReceipt | None:
    """Return the verified receipt of this request; None where it was excluded, or passed without or against one."""
    return _state(request, STATE_RECEIPT)  # type: ignore[no-any-return]


async def get_governed_receipt(request: HTTPConnection) -> HttpReceipt:
    """Return the verified receipt of this request, and never None.

    Raises:
        ChioDenied: 503, the request passed without a decision (`fail_open`); in observe mode the refusal itself,
            because the receipt would be None.
        ConfigurationError: the route is excluded, or the application has no Chio middleware.
    """
    receipt = _state(request, STATE_RECEIPT)
    if isinstance(receipt, HttpReceipt):
        return receipt
    decision = _state(request, STATE_DECISION)
    if isinstance(decision, Decision) and decision.withheld is not None:
        log.warning(
            "chio: observe mode cannot let a handler with ChioReceipt run, for which there is no receipt (%s);"
            " OptionalChioReceipt lets it run",
            decision.withheld.code,
        )
        raise ChioDenied(decision.withheld, client_of(request).settings.receipt_header)
    if _state(request, STATE_PASSTHROUGH) is not None:
        raise ChioDenied(Denial(status=503, code="chio_sidecar_unreachable", message="this route needs a receipt"))
    raise ConfigurationError(
        "this route needs a receipt but is not governed: add chio_fastapi.add_chio(app), or take the path out of "
        "exclude_paths, or depend on get_chio_receipt, which may give None"
    )


async def get_chio_decision(request: HTTPConnection) -> Decision | None:
    """Return the whole decision; None where there was none."""
    return _state(request, STATE_DECISION)  # type: ignore[no-any-return]


async def get_chio_passthrough(request: HTTPConnection) -> ChioPassthrough | None:
    """Return why this request runs without a decision (`fail_open`) or against it (`observe`); None when allowed."""
    return _state(request, STATE_PASSTHROUGH)  # type: ignore[no-any-return]


async def get_caller_identity(request: HTTPConnection) -> CallerIdentity:
    """Return who is calling, as the sidecar was told; on an excluded route, as it would be told."""
    return caller_of(request)


async def get_chio_client(request: HTTPConnection) -> ChioClient:
    """Return the client of this application."""
    return client_of(request)


async def get_issuer(request: HTTPConnection) -> Issuer:
    """Return what issues capabilities from the application's own authority, to the caller of this request or another.

    Raises:
        ConfigurationError: when it issues, if the settings name no authority.
    """
    client = client_of(request)
    return Issuer(lambda: client.authority, lambda: caller_now(request))


def _state(request: HTTPConnection, name: str) -> Any:
    return request.scope.get("state", {}).get(name)


Capability = Annotated[HttpReceipt | None, Depends(require_capability)]
"""For signatures: any valid capability is required; the value is the receipt, None only in observe mode."""

ChioReceipt = Annotated[HttpReceipt, Depends(get_governed_receipt)]
"""For signatures: the receipt of this request; never None."""

OptionalChioReceipt = Annotated[HttpReceipt | None, Depends(get_chio_receipt)]
"""For signatures: the receipt, or None."""

IssuerDep = Annotated[Issuer, Depends(get_issuer)]
"""For signatures: `await issuer.aissue("shop/order")`, and `issuer.issue(…)` in a `def` handler."""

CallerDep = Annotated[CallerIdentity, Depends(get_caller_identity)]
ChioClientDep = Annotated[ChioClient, Depends(get_chio_client)]
ChioPassthroughDep = Annotated[ChioPassthrough | None, Depends(get_chio_passthrough)]
