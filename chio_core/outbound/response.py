"""Response: what hooks and handlers of outgoing calls get.

It is the library's own response with one more name, `status`. Everything else (`json()`, `text`, `headers`,
`status_code`, …) is the library's.
"""

from __future__ import annotations

from typing import Any


class Response:
    """A response of httpx or httpx2 that also answers to `status`.

    Args:
        native: the library's response.

    Attributes:
        native: see above.
    """

    __slots__ = ("native",)

    native: Any

    def __init__(self, native: Any) -> None:
        object.__setattr__(self, "native", native)

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.native.status_code)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.native, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.native, "status_code" if name == "status" else name, value)

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


def native_of(response: Any) -> Any:
    """Return the library's response behind one of ours; anything else as it is."""
    return response.native if isinstance(response, Response) else response
