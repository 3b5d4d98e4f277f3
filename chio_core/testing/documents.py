"""Documents: the policy that connected applications state for their routes, as a sidecar reads it from `--spec`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.errors import ConfigurationError
from chio_core.models.openapi import needs_capability
from chio_core.testing.exchange import EvaluateRequest

Client = TypeVar("Client", bound=ChioClient | SyncChioClient)

Operations = Mapping[tuple[str, str], Mapping[str, Any]]
"""Operation objects by upper-case method and path template."""


class Documents:
    """The OpenAPI documents of the applications of one test."""

    def __init__(self) -> None:
        self._sources: list[Callable[[], str | None]] = []

    def add(self, document: str | Mapping[str, Any]) -> None:
        """Add a document.

        Args:
            document: JSON text, or the object.

        Raises:
            ConfigurationError: it is no JSON object with `paths`.
        """
        text = document if isinstance(document, str) else json.dumps(document)
        operations_in(text)
        self._sources.append(lambda: text)

    def add_from(self, client: Client) -> Client:
        """Add the document of the application that a client serves, read when a request needs it; return the client."""
        known: dict[tuple[str, ...], str | None] = {}

        def read() -> str | None:
            if client.document is None:
                return None
            mounts = tuple(client.mounts)  # they are known once the first request came
            if mounts not in known:
                known[mounts] = client.document(mounts)
            return known[mounts]

        self._sources.append(read)
        return client

    def need_capability(self, request: EvaluateRequest) -> bool:
        """Return True if a request is refused without a capability: by its route's policy, else by its method.

        If several documents have the route, the strictest counts.
        """
        key = (request.method, request.route)
        texts = filter(None, (read() for read in self._sources))
        found = [operations[key] for operations in map(operations_in, texts) if key in operations]
        return any(needs_capability(request.method, members) for members in found or [{}])


@lru_cache(maxsize=32)
def operations_in(text: str) -> Operations:
    """Return the operations of a document.

    Raises:
        ConfigurationError: it is no JSON object with `paths`.
    """
    try:
        items = json.loads(text)["paths"].items()
        found = [(path, method, operation) for path, item in items for method, operation in item.items()]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ConfigurationError(
            "the document is no JSON object with `paths`; `chio-sidecar openapi module:app` writes one"
        ) from None
    return {(method.upper(), path): operation for path, method, operation in found if isinstance(operation, dict)}
