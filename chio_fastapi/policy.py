"""Policy: what a route is, said where the route is: how sensitive, and whether it changes something.

    @app.get("/export", dependencies=[Depends(Policy(sensitivity="restricted", side_effects=True))])

It stands in the OpenAPI document, from which a sidecar takes it. What it says about side effects also counts where the
sidecar has no document: a route that has some asks for a capability, whatever its method is.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from fastapi import Security
from starlette.requests import HTTPConnection

from chio_core.errors import ConfigurationError
from chio_core.models.openapi import LEVELS, SENSITIVITY, SIDE_EFFECTS, Sensitivity
from chio_core.models.receipt import HttpReceipt
from chio_core.names import STATE_RECEIPT
from chio_core.request import Requirement
from chio_fastapi.asking import CAPABILITY_SCHEME, CalledFirst, receipt_for


class Policy(metaclass=CalledFirst):
    """States what a route is: `Depends(Policy(sensitivity="restricted", side_effects=True))`.

    Two objects with the same arguments are equal, so `app.dependency_overrides` finds them.

    Args:
        sensitivity: how much harm the route can do.
        side_effects: True asks for a capability also where the method is GET, HEAD or OPTIONS. False lets a sidecar
            that has the document allow other methods without one; it changes nothing on this side.

    Raises:
        ConfigurationError: neither is given, or a value is none of those.
    """

    usage: ClassVar[str] = "Depends(Policy(side_effects=True))"

    def __init__(self, *, sensitivity: Sensitivity | None = None, side_effects: bool | None = None) -> None:
        self._stated = stated_policy("Policy", sensitivity, side_effects)
        if not self._stated:
            raise ConfigurationError("Policy() states nothing: give it sensitivity, side_effects or both")
        self.sensitivity = sensitivity
        self.side_effects = side_effects

    def chio_requirement(self, path_params: Mapping[str, Any]) -> Requirement:
        """Return what this asks for: any valid capability where there are side effects, else nothing."""
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
            ChioDenied: there are side effects, and no capability, or none that is valid.
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
