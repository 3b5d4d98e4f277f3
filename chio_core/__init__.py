"""The framework-neutral core of Chio: settings, models, verification, the decision, the client."""

from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.errors import ChioError, ConfigurationError
from chio_core.evaluation.outcomes import Decision
from chio_core.guards.chain import Chain, Next
from chio_core.refusals.response import AnyResponse, Denial, Downstream, Response
from chio_core.request import GuardRequest, Request, Requirement
from chio_core.settings import ChioSettings

__all__ = [
    "AnyResponse",
    "Chain",
    "ChioClient",
    "ChioError",
    "ChioSettings",
    "ConfigurationError",
    "Decision",
    "Denial",
    "Downstream",
    "GuardRequest",
    "Next",
    "Request",
    "Requirement",
    "Response",
    "SyncChioClient",
]
