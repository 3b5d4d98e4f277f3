"""Chio for any ASGI application."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chio_asgi.config import ChioASGIConfig
    from chio_asgi.metrics import metrics_app
    from chio_asgi.middleware import ChioASGIMiddleware
    from chio_asgi.view import ASGIGuardRequest

__all__ = ["ASGIGuardRequest", "ChioASGIConfig", "ChioASGIMiddleware", "metrics_app"]

_HOMES = {
    "ASGIGuardRequest": "view",
    "ChioASGIConfig": "config",
    "ChioASGIMiddleware": "middleware",
    "metrics_app": "metrics",
}


def __getattr__(name: str) -> object:
    # An import of one module of this package, as of the list of routes in commands, does not load all of them.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
