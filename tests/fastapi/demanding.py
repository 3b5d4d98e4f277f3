"""Applications whose routes demand approvals and budgets, before a scripted sidecar."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastapi import Depends, FastAPI, Request

from chio_core.testing import ScriptedSidecar
from tests.fastapi.apps import govern, with_token
from tests.support import Reply, call, run

HOLDER = with_token(("pay", "out"))
"""Request headers of a caller with a capability."""

JSON = ("content-type", "application/json")


class Served:
    """An application with one route, `/pay/{account}` by default.

    Args:
        demands: the dependencies of the route.
        middleware: False leaves the dependencies to ask by themselves.
        options: of `ChioSettings`.

    Attributes:
        sidecar: evaluates; its `script` may be changed.
        ran: the body that the handler read, for each time that it ran.
    """

    def __init__(
        self,
        *demands: Any,
        middleware: bool = True,
        path: str = "/pay/{account}",
        method: str = "POST",
        overrides: Sequence[Any] = (),
        **options: Any,
    ) -> None:
        self.sidecar = ScriptedSidecar()
        self.app = FastAPI()
        self.ran: list[bytes] = []
        for one in overrides:
            self.app.dependency_overrides[one] = lambda: None
        self.app.add_api_route(path, self._handler, methods=[method], dependencies=[Depends(one) for one in demands])
        govern(self.app, self.sidecar.client(**options), middleware)

    async def _handler(self, request: Request) -> None:
        self.ran.append(await request.body())

    def ask(self, path: str = "/pay/7", *, method: str = "POST", body: Any = b"", headers: Any = None,
            query: bytes = b"", **more: Any) -> Reply:  # fmt: skip
        """Send one request; a body that is no bytes is sent as JSON."""
        lines = HOLDER if headers is None else headers
        if not isinstance(body, (bytes, list)):
            body, lines = json.dumps(body).encode(), [*lines, JSON]
        return run(call(self.app, method, path, body=body, query=query, headers=lines, **more))

    @property
    def asked(self) -> list[dict[str, Any]]:
        """Every question so far."""
        return [dict(one.document) for one in self.sidecar.asked]


def problem(reply: Reply) -> dict[str, Any]:
    """Return the flat envelope of a refusal, with and without the middleware."""
    document = reply.json()
    found: dict[str, Any] = document.get("detail", document)
    return found
