"""Which routes of an application say that they are only observed, for those who start it and those who check it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chio_asgi.routing import flatten, router_of, sources_in

_MAX_DEPTH = 64


def observed_routes(app: Any, prefix: str = "", depth: int = 0) -> Iterator[str]:
    """Yield method and template of each route that bears an `Observe`, mounted applications included.

    Args:
        app: the application, or what stands around it.
        prefix: template below which it is mounted.
        depth: mounts around it; an application may be mounted in itself.
    """
    router = router_of(app)
    if router is None or depth > _MAX_DEPTH:
        return
    for entry in flatten(router.routes):
        route = getattr(entry, "starlette_route", None) or entry
        template = prefix + (getattr(route, "path_format", None) or "")
        inner = getattr(route, "app", None) if getattr(route, "dependant", None) is None else None
        if router_of(inner) is not None:
            yield from observed_routes(inner, template.removesuffix("/{path}"), depth + 1)
        elif any(getattr(source, "chio_observes", False) for source in sources_in(getattr(route, "dependant", None))):
            yield f"{'|'.join(sorted(getattr(route, 'methods', None) or {'websocket'}))} {template}"
