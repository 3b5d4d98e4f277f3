"""The framework-neutral core of Chio: settings, models, verification, the decision, the client."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_HOMES = {
    "client.client": ("ChioClient", "SyncChioClient"),
    "errors": ("ChioError", "ConfigurationError"),
    "evaluation.outcomes": ("Decision",),
    "guards.chain": ("Chain", "Next"),
    "refusals.response": ("AnyResponse", "Denial", "Downstream", "Response"),
    "request": ("GuardRequest", "Request", "Requirement"),
    "settings": ("ChioSettings",),
}


def __getattr__(name: str) -> object:
    # An import of one module of this package, as in the commands of the sidecar, does not load all of them.
    for home, names in _HOMES.items():
        if name in names:
            found = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
