"""Which routes of an application say that they are only observed, for those who start it and those who check it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chio_asgi.listing import list_routes
from chio_asgi.routing import sources_in


def observed_routes(app: Any) -> Iterator[str]:
    """Yield method and template of each route that bears an `Observe`, mounted applications included.

    Args:
        app: the application, or what stands around it; nothing is yielded for one without routes.
    """
    for one in list_routes(app):
        sources = sources_in(getattr(one.route, "dependant", None))
        if any(getattr(source, "chio_observes", False) for source in sources):
            yield one.title
