"""Chio for any WSGI application: `ChioWSGIMiddleware(app)` governs Bottle, Falcon, Pyramid and others."""

from chio_wsgi.middleware import ChioWSGIMiddleware, WSGIGuardRequest, get_chio_receipt

__all__ = ["ChioWSGIMiddleware", "WSGIGuardRequest", "get_chio_receipt"]
