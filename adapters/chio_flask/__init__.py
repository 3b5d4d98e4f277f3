"""Chio for Flask: `Chio(app)` governs an application."""

from chio_core.evaluation.amounts import from_body, from_path, from_query
from chio_flask.decorators import Budget, Observe, Policy, RequireApproval, RequireCapability, require_capability
from chio_flask.driver import ChioDenied
from chio_flask.extension import Chio, metrics
from chio_flask.issue import aissue_capability, issue_capability
from chio_flask.listing import document_for
from chio_flask.view import FlaskGuardRequest, from_session

__all__ = [
    "Budget",
    "Chio",
    "ChioDenied",
    "FlaskGuardRequest",
    "Observe",
    "Policy",
    "RequireApproval",
    "RequireCapability",
    "aissue_capability",
    "document_for",
    "from_body",
    "from_path",
    "from_query",
    "from_session",
    "issue_capability",
    "metrics",
    "require_capability",
]
