"""What the dependencies that ask for something share: the header in the document, and the way to a receipt."""

from typing import Final

from fastapi.security import APIKeyHeader
from starlette.requests import HTTPConnection

from chio_asgi.routing import RequirementSource
from chio_core.models import openapi as extensions
from chio_core.evaluation.amounts import InputRefused
from chio_core.evaluation.outcomes import Decision, bad_request, body_too_large
from chio_core.errors import ConfigurationError
from chio_core.evaluation.hooks import is_met
from chio_core.models.receipt import HttpReceipt
from chio_core.names import CAPABILITY_HEADER
from chio_fastapi.denied import ChioDenied
from chio_fastapi.shared import client_of, decision_for, tell_refused


class CapabilityHeader(APIKeyHeader):
    """The security scheme in the OpenAPI document; works on HTTP and websocket routes."""

    async def __call__(self, connection: HTTPConnection) -> str | None:
        """Return the token's text, if there is one; it is not checked here."""
        return connection.headers.get(self.model.name)


CAPABILITY_SCHEME: Final = CapabilityHeader(
    name=CAPABILITY_HEADER,
    scheme_name=extensions.CAPABILITY_SCHEME,
    description=extensions.CAPABILITY_SCHEME_TEXT,
    auto_error=False,
)


class CalledFirst(type):
    """Makes a dependency without its parentheses, `Depends(Budget)`, a mistake that shows when the route is defined.

    A class of this kind says in `usage` how it is written.
    """

    usage: str

    @property
    def __signature__(cls) -> None:
        # FastAPI asks for the signature of what it is to call; without this it would make an instance for each
        # request out of query parameters, and that instance would ask nobody.
        raise ConfigurationError(f"Depends({cls.__name__}) lacks its parentheses: write {cls.usage}")


async def receipt_for(connection: HTTPConnection, source: RequirementSource) -> HttpReceipt | None:
    """Return the verified receipt of a decision that was made for what a dependency asks for.

    Returns:
        None in observe mode, where that would have been refused; never None otherwise.

    Raises:
        ChioDenied: it is refused, or no decision was to be had.
    """
    return checked(connection, await asked(connection, source))


async def asked(connection: HTTPConnection, source: RequirementSource) -> Decision:
    """Return a decision that was made for what a dependency asks for; see `chio_fastapi.shared.decision_for`.

    Raises:
        ChioDenied: the request does not clearly say what has to be judged.
    """
    try:
        return await decision_for(connection, source)
    except InputRefused as exc:
        settings = client_of(connection).settings
        too_large = exc.status == 413
        denial = body_too_large(settings.max_body_bytes) if too_large else bad_request(exc.message, exc.status)
        tell_refused(connection, Decision(verdict="refused", denial=denial))
        raise ChioDenied(denial, settings.receipt_header) from None


def checked(connection: HTTPConnection, decision: Decision) -> HttpReceipt | None:
    """Return the receipt of a decision as a handler sees it.

    Raises:
        ChioDenied: the decision refuses.
        ConfigurationError: it neither refuses nor has a receipt; nothing may pass on that.
    """
    if not is_met(decision) and decision.denial is not None:
        name = client_of(connection).settings.receipt_header
        raise ChioDenied(decision.denial, name if decision.receipt is not None else None)
    return decision.handler_receipt
