"""Chio for Flask: `Chio(app)` governs an application."""

from chio_flask.decorators import require_capability
from chio_flask.driver import ChioDenied
from chio_flask.extension import Chio, metrics
from chio_flask.view import FlaskGuardRequest

__all__ = ["Chio", "ChioDenied", "FlaskGuardRequest", "metrics", "require_capability"]
