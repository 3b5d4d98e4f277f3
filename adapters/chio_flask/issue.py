"""issue_capability: a capability for the user of a request, from the application's own authority."""

from __future__ import annotations

from typing import Literal

from flask import current_app, request

from chio_core.client.authority import Grant, Issuer
from chio_core.errors import ConfigurationError
from chio_core.identity import identify
from chio_core.models.capability import CapabilityToken
from chio_core.models.request import CallerIdentity
from chio_core.names import FLASK_EXTENSION
from chio_flask.driver import GovernedApp
from chio_flask.view import FlaskGuardRequest


def issue_capability(
    *grants: Grant,
    ttl: int = 3600,
    holder: CallerIdentity | Literal["caller"] | None = "caller",
    subject: str | None = None,
) -> CapabilityToken:
    """Issue a capability inside a view; see `chio_core.client.authority.Authority.issue`.

    Args:
        grants: what it allows, for example `"shop/order"`.
        ttl: seconds for which it is valid.
        holder: the only caller who may present it; `"caller"`: the one of this request as its session states it now;
            None: any caller may present it.
        subject: public key of 64 hex digits.

    Raises:
        ConfigurationError: the application is not governed, has no authority, or the holder is the anonymous caller.
        NotIssued: the trust service does not respond, or refuses.
    """
    return _issuer().issue(*grants, ttl=ttl, holder=holder, subject=subject)


async def aissue_capability(
    *grants: Grant,
    ttl: int = 3600,
    holder: CallerIdentity | Literal["caller"] | None = "caller",
    subject: str | None = None,
) -> CapabilityToken:
    """Issue a capability inside an `async def` view; see `issue_capability`."""
    return await _issuer().aissue(*grants, ttl=ttl, holder=holder, subject=subject)


def _issuer() -> Issuer:
    governed = current_app.extensions.get(FLASK_EXTENSION)
    if not isinstance(governed, GovernedApp):
        raise ConfigurationError("issue_capability needs a governed application: Chio(app)")
    runtime = governed.live.get()
    view = FlaskGuardRequest(request._get_current_object(), current_app._get_current_object())  # type: ignore[attr-defined]
    return Issuer(runtime.authority, lambda: identify(view, runtime.pipeline.extractor))
