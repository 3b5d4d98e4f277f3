"""RequireCapability: the capability that a route asks for, as a dependency.

With the middleware, the requirement was found before the body was read and was part of the one evaluation; the
dependency then only checks that this decision was made for it. Without the middleware, or for a second
requirement on the same route, it asks by itself. It never passes silently.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_args

from fastapi import Security
from fastapi.security import APIKeyHeader
from starlette.requests import HTTPConnection

from chio_core.canonical import canonical_json
from chio_core.decision import Decision
from chio_core.errors import ConfigurationError
from chio_core.models.capability import Operation
from chio_core.models.receipt import HttpReceipt
from chio_core.names import CAPABILITY_HEADER, STATE_DECISION
from chio_core.request import Requirement
from chio_fastapi.denied import ChioDenied
from chio_fastapi.evaluate import client_of, evaluate

Arguments = Mapping[str, Any] | Callable[[Mapping[str, Any]], Any] | None
"""JSON arguments for the grant's constraints, or a function that makes them from the path parameters."""


class CapabilityHeader(APIKeyHeader):
    """The security scheme in the OpenAPI document; works on HTTP and websocket routes."""

    async def __call__(self, connection: HTTPConnection) -> str | None:
        """Return the token's text, if there is one; it is not checked here."""
        return connection.headers.get(self.model.name)


_SCHEME = CapabilityHeader(
    name=CAPABILITY_HEADER,
    scheme_name="ChioCapability",
    description="A capability token, as compact ASCII JSON, that an authority trusted by the sidecar has issued.",
    auto_error=False,
)


class _CalledFirst(type):
    """Makes `Depends(RequireCapability)`, without parentheses, a mistake that shows when the route is defined."""

    @property
    def __signature__(cls) -> None:
        # FastAPI asks for the signature of what it is to call; without this it would make an instance for each
        # request out of query parameters, and that instance would ask nobody.
        raise ConfigurationError(
            'Depends(RequireCapability) lacks its parentheses: write Depends(RequireCapability("server", "tool")), or '
            "Depends(require_capability) for any valid capability"
        )


class RequireCapability(metaclass=_CalledFirst):
    """Asks for a capability: `Depends(RequireCapability("payments", "transfer"))` gives the receipt.

    Two objects with the same arguments are equal, so FastAPI solves them once a request and
    `app.dependency_overrides` finds them.

    Args:
        server: `server_id` that the token must grant.
        tool: `tool_name` that it must grant. Leave both out for any valid capability.
        operations: operations that one grant must contain.
        arguments: JSON that the grant's constraints are held against, or a function from the route's path
            parameters to it.

    Raises:
        ConfigurationError: only one of server and tool, or arguments that are no JSON.
    """

    def __init__(
        self,
        server: str | None = None,
        tool: str | None = None,
        *,
        operations: Sequence[Operation] = ("invoke",),
        arguments: Arguments = None,
    ) -> None:
        if (server is None) != (tool is None) or server == "" or tool == "":
            raise ConfigurationError("RequireCapability needs both server and tool, or neither")
        if not operations or not set(operations) <= set(get_args(Operation)):
            known = ", ".join(get_args(Operation))
            raise ConfigurationError(f"RequireCapability(operations=…) takes a list of some of: {known}")
        self.server = server
        self.tool = tool
        self.operations = tuple(operations)
        self.arguments = arguments
        self._key = (
            server,
            tool,
            self.operations,
            arguments if callable(arguments) else canonical_json(arguments),
        )

    def chio_requirement(self, path_params: Mapping[str, Any]) -> Requirement:
        """Return the requirement for one request, given its path parameters."""
        arguments = self.arguments(path_params) if callable(self.arguments) else self.arguments
        return Requirement(self.server, self.tool, self.operations, arguments)

    async def __call__(
        self, connection: HTTPConnection, _token: Annotated[str | None, Security(_SCHEME)] = None
    ) -> HttpReceipt:
        """Return the verified receipt of the decision that covers this requirement.

        Raises:
            ChioDenied: 401 when no capability was presented, 403 when it is not enough, 502 or 503 when there
                was no decision to be had.
        """
        requirement = self.chio_requirement(connection.path_params)
        decision = connection.scope.get("state", {}).get(STATE_DECISION)
        if not isinstance(decision, Decision) or not _same(decision.requirement, requirement):
            decision = await evaluate(connection, requirement)
        if decision.denial is not None:
            raise ChioDenied(decision.denial, client_of(connection).settings.receipt_header)
        if decision.receipt is None:
            raise ConfigurationError("a decision without receipt cannot meet a requirement")
        return decision.receipt

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RequireCapability) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"RequireCapability({self.server!r}, {self.tool!r})"


def _same(known: Requirement | None, wanted: Requirement) -> bool:
    # Python calls 1 and True equal, also inside of arguments; JSON does not.
    if known is None or known != wanted:
        return False
    return canonical_json(known.arguments) == canonical_json(wanted.arguments)


require_capability = RequireCapability()
"""`Depends(require_capability)`: any valid capability; gives the receipt."""
