"""RequireCapability: the capability that a route asks for, as a dependency.

With the middleware, the requirement was found before the body was read and was part of the one evaluation; the
dependency then only checks that this decision was made for it. Without the middleware, or for a second
requirement on the same route, it asks by itself. It never passes silently.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from fastapi import Security
from starlette.requests import HTTPConnection

from chio_core.models.openapi import Sensitivity
from chio_core.models.capability import Operation
from chio_core.models.receipt import HttpReceipt
from chio_core.evaluation.requirements import Arguments, CapabilityRule
from chio_fastapi.asking import CAPABILITY_SCHEME, CalledFirst, receipt_for
from chio_fastapi.policy import stated_policy


class RequireCapability(CapabilityRule, metaclass=CalledFirst):
    """Asks for a capability: `Depends(RequireCapability("payments", "transfer"))` gives the receipt.

    Two objects with the same arguments are equal, so FastAPI solves them once a request and
    `app.dependency_overrides` finds them.

    Args:
        server: `server_id` that the token must grant.
        tool: `tool_name` that it must grant. Leave both out for any valid capability.
        operations: operations that one grant must contain, besides `invoke`.
        arguments: JSON that the grant's constraints are held against, or a function from the route's path
            parameters to it.
        sensitivity: `public`, `internal`, `sensitive` or `restricted`; stands in the OpenAPI document.
        side_effects: whether the route changes something; stands in the OpenAPI document.

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
                was no decision to be had.
        """
        return await receipt_for(connection, self)


require_capability = RequireCapability()
"""`Depends(require_capability)`: any valid capability; gives the receipt."""
