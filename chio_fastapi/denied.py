"""ChioDenied: a refusal that a dependency raises."""

from __future__ import annotations

from fastapi import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response as StarletteResponse
from starlette.websockets import WebSocket

from chio_asgi.send import accept_of
from chio_core.evaluation.hooks import header_value
from chio_core.names import RECEIPT_HEADER
from chio_core.refusals.problems import flat, refusal_headers, render
from chio_core.refusals.response import Denial


class ChioDenied(HTTPException):
    """A refusal. `add_chio` answers it with the flat envelope; without it FastAPI puts that under `detail`.

    Args:
        denial: the refusal itself.
        receipt_header: response header for the receipt id (setting `receipt_header`); None where that receipt was
            not verified, so that only the document names it.
    """

    def __init__(self, denial: Denial, receipt_header: str | None = RECEIPT_HEADER) -> None:
        headers = dict(refusal_headers(denial))
        value = header_value(denial.receipt_id) if denial.receipt_id else None
        if receipt_header is not None and value is not None:
            headers[receipt_header.lower()] = value
        super().__init__(denial.status, detail=flat(denial), headers=headers)
        self.denial = denial


async def answer_denied(connection: HTTPConnection, exc: Exception) -> StarletteResponse | None:
    """Exception handler for `ChioDenied` on HTTP and websocket routes."""
    if not isinstance(exc, ChioDenied):
        raise exc
    body, headers = render(exc.denial, accept=accept_of(connection.scope))
    # `exc.headers` has the receipt's, and what the application may have added, but not what the form depends on.
    lines = {**dict(headers), **(exc.headers or {}), "vary": dict(headers)["vary"]}
    answer = StarletteResponse(body, status_code=exc.denial.status, headers=lines)
    if isinstance(connection, Request):
        return answer
    if isinstance(connection, WebSocket):
        if "websocket.http.response" in (connection.scope.get("extensions") or {}):
            await connection.send_denial_response(answer)
        else:
            await connection.close(code=1008, reason=exc.denial.message[:120])
    return None
