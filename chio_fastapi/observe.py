"""Observe: a route whose decisions are recorded and refuse nothing, as a dependency.

    @app.post("/transfers", dependencies=[Depends(Observe()), Depends(RequireCapability("payments", "transfer"))])

With the middleware, it was found before the body was read. The request is judged as it always is, and what would
have been refused runs, marked and logged; see `chio_core.evaluation.observe`. The settings `observe`, `observe_paths` and
`observe_prefixes` do the same for more than one route.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from starlette.requests import HTTPConnection

from chio_core.models.openapi import OBSERVE
from chio_core.models.receipt import ChioPassthrough
from chio_core.request import Requirement
from chio_fastapi.asking import CalledFirst, asked
from chio_fastapi.denied import ChioDenied
from chio_fastapi.shared import client_of


class Observe(metaclass=CalledFirst):
    """Lets a route run whatever Chio decides: `Depends(Observe())` gives the mark of this request.

    The mark is None where the request was allowed. What cannot be judged (a malformed request, a body that is too
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

        Without the middleware, or on an excluded path, all that the route asks for is asked for here.

        Raises:
            ChioDenied: the request could not be judged at all.
        """
        decision = await asked(connection, self)
        if decision.denial is not None:
            raise ChioDenied(decision.denial, client_of(connection).settings.receipt_header)
        return decision.passthrough

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Observe)

    def __hash__(self) -> int:
        return hash(Observe)

    def __repr__(self) -> str:
        return "Observe()"
