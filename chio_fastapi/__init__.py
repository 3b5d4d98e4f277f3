"""Chio for FastAPI: one line for the application, one dependency for a route."""

from chio_asgi.view import from_session
from chio_core.evaluation.amounts import from_body, from_path, from_query
from chio_fastapi.application import add_chio, check
from chio_fastapi.dependencies import (
    Budget,
    CallerDep,
    Capability,
    ChioClientDep,
    ChioPassthroughDep,
    ChioReceipt,
    IssuerDep,
    Observe,
    OptionalChioReceipt,
    Policy,
    RequireApproval,
    RequireCapability,
    get_caller_identity,
    get_chio_client,
    get_chio_decision,
    get_chio_passthrough,
    get_chio_receipt,
    get_issuer,
    require_capability,
)
from chio_fastapi.openapi import document_for
from chio_fastapi.outbound import OutboundClient
from chio_fastapi.shared import ChioDenied

__all__ = [
    "Budget",
    "CallerDep",
    "Capability",
    "ChioClientDep",
    "ChioDenied",
    "ChioPassthroughDep",
    "ChioReceipt",
    "IssuerDep",
    "Observe",
    "OptionalChioReceipt",
    "OutboundClient",
    "Policy",
    "RequireApproval",
    "RequireCapability",
    "add_chio",
    "check",
    "document_for",
    "from_body",
    "from_path",
    "from_query",
    "from_session",
    "get_caller_identity",
    "get_chio_client",
    "get_chio_decision",
    "get_chio_passthrough",
    "get_chio_receipt",
    "get_issuer",
    "require_capability",
]
