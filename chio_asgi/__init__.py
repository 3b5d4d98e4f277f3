"""Chio for any ASGI application."""

from chio_asgi.config import ChioASGIConfig
from chio_asgi.metrics import metrics_app
from chio_asgi.middleware import ChioASGIMiddleware
from chio_asgi.view import ASGIGuardRequest

__all__ = ["ASGIGuardRequest", "ChioASGIConfig", "ChioASGIMiddleware", "metrics_app"]
