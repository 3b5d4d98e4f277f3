"""Dependencies of handlers. All of them work on HTTP and on websocket routes, and need no `request` argument."""

import logging
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from chio_core.client.authority import Issuer
from chio_core.client.client import ChioClient
from chio_core.errors import ConfigurationError
from chio_core.evaluation.outcomes import Decision
from chio_core.models.receipt import ChioPassthrough, HttpReceipt
from chio_core.models.request import CallerIdentity
from chio_core.names import LOGGER, STATE_DECISION, STATE_PASSTHROUGH, STATE_RECEIPT
from chio_core.refusals.response import Denial
from chio_fastapi.requirements import require_capability
from chio_fastapi.shared import ChioDenied, caller_now, caller_of, client_of

log = logging.getLogger(LOGGER)


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
