"""issue_capability: a capability for the user of a request, from the application's own authority."""

from __future__ import annotations

from typing import Any, Literal

from django.apps import apps
from django.http import HttpRequest

from chio_core.client.authority import Grant, Issuer
from chio_core.identity import identify
from chio_core.models.capability import CapabilityToken
from chio_core.models.request import CallerIdentity
from chio_django.apps import ChioDjangoConfig
from chio_django.context import LiveRuntime, context_of
from chio_django.view import DjangoGuardRequest


def issue_capability(
    request: HttpRequest,
    *grants: Grant,
    ttl: int = 3600,
    holder: CallerIdentity | Literal["caller"] | None = "caller",
    subject: str | None = None,
) -> CapabilityToken:
    """Issue a capability in a view; see `chio_core.client.authority.Authority.issue`.

    Args:
        request: Django's request, or the one of Django REST framework.
        grants: what it allows, for example `"shop/order"`.
        ttl: seconds for which it is valid.
        holder: the only caller who may present it; `"caller"`: the one of this request as its session states it now;
            None: any caller may present it.
        subject: public key of 64 hex digits.

    Raises:
        ConfigurationError: the project has no authority, or the holder is the anonymous caller.
        NotIssued: the trust service does not respond, or refuses.
    """
    return _issuer(request).issue(*grants, ttl=ttl, holder=holder, subject=subject)


async def aissue_capability(
    request: HttpRequest,
    *grants: Grant,
    ttl: int = 3600,
    holder: CallerIdentity | Literal["caller"] | None = "caller",
    subject: str | None = None,
) -> CapabilityToken:
    """Issue a capability in an `async def` view; see `issue_capability`."""
    return await _issuer(request).aissue(*grants, ttl=ttl, holder=holder, subject=subject)


def _issuer(request: Any) -> Issuer:
    plain: HttpRequest = getattr(request, "_request", request)  # Django REST framework wraps its requests
    context = context_of(plain)
    if context is not None:
        runtime = context.runtime
    else:
        config = next((one for one in apps.get_app_configs() if isinstance(one, ChioDjangoConfig)), None)
        runtime = (config.runtime if config is not None else LiveRuntime()).get()
    view = DjangoGuardRequest(plain)
    return Issuer(runtime.authority, lambda: identify(view, runtime.pipeline.extractor))
