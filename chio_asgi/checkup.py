"""What an application's routes and handlers have to tell people who look at it before they deploy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chio_asgi.document import overlap_findings
from chio_asgi.listing import list_blind_mounts
from chio_asgi.observed import observed_routes
from chio_asgi.routing import router_of
from chio_asgi.send import has_own_500
from chio_core.chain import Finding
from chio_core.exclusions import is_among
from chio_core.settings import ChioSettings


def application_findings(app: Any, settings: ChioSettings) -> Iterator[Finding]:
    """Yield what can be seen of an application without starting it.

    Args:
        app: an application, or what stands around it; nothing is yielded for one without routes.
        settings: its options; what is excluded altogether is not judged by any path.
    """
    yield from _own_500(router_of(app))
    yield from overlap_findings(app)
    for name in observed_routes(app):
        yield Finding("WARN", "observe", f"what is refused on {name} is recorded and runs nevertheless (Observe)")
    for prefix in list_blind_mounts(app):
        if not is_among(prefix, (), settings.exclude_prefixes):
            text = f"what runs below {prefix or '/'} has no routes to look at, so it is judged by its plain path"
            yield Finding("WARN", "route_pattern", text)


def _own_500(app: Any) -> Iterator[Finding]:
    if has_own_500(app):
        text = (
            "failures are answered outside of all middleware (a handler for 500 or Exception, or debug): "
            "these answers carry neither the receipt header nor the headers of guards"
        )
        yield Finding("WARN", "own_500", text)
