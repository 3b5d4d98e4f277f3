"""SecurityHeaders: on every answer, refusals and errors too. The values come from the library `secure`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chio_core.errors import ConfigurationError
from chio_core.guards.response_hooks import header_change, response_hooks
from chio_core.request import GuardRequest

API_HEADERS: Mapping[str, str] = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Strict-Transport-Security": "max-age=31536000",
}
"""What suits an API that serves no pages; for pages give a `secure.Secure`."""


class SecurityHeaders:
    """Puts security headers on every answer.

    Args:
        policy: a `secure.Secure` (its presets, content security policy builder and validation), or a mapping of
            header lines; `API_HEADERS` when left out.
        replace: replace what the application has set itself.
        priority: place in the chain.

    Raises:
        ConfigurationError: neither of the two, or a line break in a header.
    """

    name = "security_headers"
    waits = False

    def __init__(self, policy: Any = None, *, replace: bool = True, priority: int = -90) -> None:
        self.priority = priority
        self.enabled = True
        lines = API_HEADERS if policy is None else getattr(policy, "headers", policy)
        if not isinstance(lines, Mapping):
            raise ConfigurationError("SecurityHeaders takes a secure.Secure or a mapping of header names to values")
        self._wishes = [header_change(str(name), str(value), replace=replace) for name, value in lines.items() if value]

    async def __call__(self, request: GuardRequest) -> None:
        """Leave the headers for the answer; never refuses."""
        response_hooks(request).headers.extend(self._wishes)
