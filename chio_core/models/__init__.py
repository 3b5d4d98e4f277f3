"""The documents of the wire protocol, both profiles; unknown members are kept, because they are signed."""

from chio_core.models.base import WireModel
from chio_core.models.capability import CapabilityToken, ChioScope, ToolGrant
from chio_core.models.receipt import ChioPassthrough, EvaluateResponse, GuardEvidence, HttpReceipt, Verdict
from chio_core.models.request import AuthMethod, CallerIdentity, ChioHttpRequest, ModelMetadata

__all__ = [
    "AuthMethod",
    "CallerIdentity",
    "CapabilityToken",
    "ChioHttpRequest",
    "ChioPassthrough",
    "ChioScope",
    "EvaluateResponse",
    "GuardEvidence",
    "HttpReceipt",
    "ModelMetadata",
    "ToolGrant",
    "Verdict",
    "WireModel",
]
