"""Ready guards. Default priorities: stopwatch −100, request id −95, headers −90, addresses −80, rate −60, JWT −50."""

from typing import TYPE_CHECKING

from chio_core.errors import install_extra
from chio_core.guards.addresses import IpAllow, IpBlock
from chio_core.guards.response_hooks import RequestId, SecurityHeaders, Stopwatch

if TYPE_CHECKING:
    from chio_core.guards.jwt_auth import JwtAuth
    from chio_core.guards.rate_limit import RateLimit

__all__ = ["IpAllow", "IpBlock", "JwtAuth", "RateLimit", "RequestId", "SecurityHeaders", "Stopwatch"]


def __getattr__(name: str) -> object:
    # These two need libraries of the extra `guards`, which are imported at the first use.
    try:
        if name == "RateLimit":
            from chio_core.guards.rate_limit import RateLimit

            return RateLimit
        if name == "JwtAuth":
            from chio_core.guards.jwt_auth import JwtAuth

            return JwtAuth
    except ModuleNotFoundError as exc:
        missing = f"{name} needs the extra 'guards' ({exc.name} is missing): {install_extra('guards')}"
        raise ModuleNotFoundError(missing, name=exc.name) from None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
