"""Chio for any WSGI application: `ChioWSGIMiddleware(app)` governs Bottle, Falcon, Pyramid and others."""

from chio_wsgi.middleware import ChioWSGIMiddleware, get_chio_receipt
from chio_wsgi.view import WSGIGuardRequest

__all__ = ["ChioWSGIMiddleware", "WSGIGuardRequest", "get_chio_receipt"]
