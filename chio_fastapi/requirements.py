"""RequireCapability: the capability that a route requires, as a dependency.

With the middleware, the requirement was found before the body was read and was part of the one evaluation; the
dependency then only checks that this decision was made for it. Without the middleware, or for a second
requirement on the same route, it evaluates the request itself. It never allows a request unchecked.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from fastapi import Security
from starlette.requests import HTTPConnection

from chio_core.errors import ConfigurationError
from chio_core.evaluation.requirements import Arguments, CapabilityRule, RequirementSource
from chio_core.models.capability import Operation
from chio_core.models.openapi import LEVELS, OBSERVE, SENSITIVITY, SIDE_EFFECTS, Sensitivity
from chio_core.models.receipt import ChioPassthrough, HttpReceipt
from chio_core.names import STATE_RECEIPT
from chio_core.request import Requirement
from chio_fastapi.shared import CAPABILITY_SCHEME, CalledFirst, ChioDenied, client_of, decision_for, receipt_for


class Policy(RequirementSource, metaclass=CalledFirst):
    """States what a route is: `Depends(Policy(sensitivity="restricted", side_effects=True))`.

    Two objects with the same arguments are equal, so `app.dependency_overrides` finds them.

    Args:
        sensitivity: how much harm the route can do.
        side_effects: True requires a capability also for GET, HEAD and OPTIONS. False lets a sidecar
            that has the document allow other methods without one; it changes nothing on this side.

    Raises:
        ConfigurationError: neither is given, or a value is unknown.
    """

    usage: ClassVar[str] = "Depends(Policy(side_effects=True))"

    def __init__(self, *, sensitivity: Sensitivity | None = None, side_effects: bool | None = None) -> None:
        self._stated = stated_policy("Policy", sensitivity, side_effects)
        if not self._stated:
            raise ConfigurationError("Policy() states nothing: give it sensitivity, side_effects or both")
        self.sensitivity = sensitivity
        self.side_effects = side_effects

    def chio_requirement(self, path_params: Mapping[str, Any]) -> Requirement:
        """Return what this requires: any valid capability if there are side effects, else nothing."""
        return Requirement(capability=self.side_effects is True)

    def chio_extensions(self) -> dict[str, Any]:
        """Return the members that state this in an OpenAPI operation."""
        return dict(self._stated)

    async def __call__(
        self, connection: HTTPConnection, _token: Annotated[str | None, Security(CAPABILITY_SCHEME)] = None
    ) -> HttpReceipt | None:
        """Return the verified receipt of this request.

        Returns:
            None where the route has no side effects and is excluded, or runs without a decision or against one.

        Raises:
            ChioDenied: there are side effects, and no valid capability.
        """
        if self.side_effects is not True:
            known: HttpReceipt | None = connection.scope.get("state", {}).get(STATE_RECEIPT)
            return known
        return await receipt_for(connection, self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policy) and self._stated == other._stated

    def __hash__(self) -> int:
        return hash((self.sensitivity, self.side_effects))

    def __repr__(self) -> str:
        return f"Policy(sensitivity={self.sensitivity!r}, side_effects={self.side_effects!r})"


def stated_policy(place: str, sensitivity: Any, side_effects: Any) -> dict[str, Any]:
    """Return the members of an OpenAPI operation for what is stated; what is None is left out.

    Args:
        place: how to name the dependency in an error.

    Raises:
        ConfigurationError: a value that the document cannot have.
    """
    if sensitivity is not None and sensitivity not in LEVELS:
        raise ConfigurationError(f"{place}(sensitivity=…) takes one of: {', '.join(LEVELS)}")
    if side_effects is not None and not isinstance(side_effects, bool):
        raise ConfigurationError(f"{place}(side_effects=…) takes True or False")
    members = {SENSITIVITY: sensitivity, SIDE_EFFECTS: side_effects}
    return {name: value for name, value in members.items() if value is not None}


class RequireCapability(CapabilityRule, metaclass=CalledFirst):
    """Requires a capability: `Depends(RequireCapability("payments", "transfer"))` gives the receipt.

    Two objects with the same arguments are equal, so FastAPI solves them once a request and
    `app.dependency_overrides` finds them.

    Args:
        server: `server_id` that the token must grant.
        tool: `tool_name` that it must grant. Leave both out for any valid capability.
        operations: operations that one grant must contain, besides `invoke`.
        arguments: JSON that the grant's constraints are checked with, or a function from the route's path
            parameters to it.
        sensitivity: `public`, `internal`, `sensitive` or `restricted`; goes into the OpenAPI document.
        side_effects: whether the route changes something; goes into the OpenAPI document.

    Raises:
        ConfigurationError: only one of server and tool, or arguments that are no JSON.
    """

    title: ClassVar[str] = "RequireCapability"
    usage: ClassVar[str] = (
        'Depends(RequireCapability("server", "tool")), or Depends(require_capability) for any valid capability'
    )

    def __init__(
        self,
        server: str | None = None,
        tool: str | None = None,
        *,
        operations: Sequence[Operation] = ("invoke",),
        arguments: Arguments = None,
        sensitivity: Sensitivity | None = None,
        side_effects: bool | None = None,
    ) -> None:
        super().__init__(server, tool, operations=operations, arguments=arguments)
        self._stated = stated_policy(self.title, sensitivity, side_effects)
        self._key = (*self._key, sensitivity, side_effects)

    def chio_extensions(self) -> dict[str, Any]:
        """Return the members that state this in an OpenAPI operation."""
        return {**super().chio_extensions(), **self._stated}

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


class Observe(RequirementSource, metaclass=CalledFirst):
    """Lets a route run whatever Chio decides: `Depends(Observe())` gives the mark of this request.

    The mark is None where the request was allowed. What cannot be evaluated (a malformed request, a body that is too
    large) is refused as ever, and so is what a guard of the application refuses. A dependency that requires a
    capability gives None instead of a receipt where the capability would have been refused.

    All objects of this class are equal, so `app.dependency_overrides` finds them.
    """

    usage: ClassVar[str] = "Depends(Observe())"
    chio_observes: ClassVar[bool] = True
    """By this the other dependencies of the route find it, where there is no middleware."""

    def chio_requirement(self, path_params: Mapping[str, Any]) -> Requirement:
        """Return what this adds to the route's requirement: nothing but the mode."""
        return Requirement(capability=False, observe=True)

    def chio_extensions(self) -> dict[str, Any]:
        """Return the members that state this in an OpenAPI operation."""
        return {OBSERVE: True}

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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Observe)

    def __hash__(self) -> int:
        return hash(Observe)

    def __repr__(self) -> str:
        return "Observe()"
