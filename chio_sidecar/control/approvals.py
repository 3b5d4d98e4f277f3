"""Human approvals (wire protocol, section 7.7).

This sidecar asks nobody for an approval: a route that needs one is denied by default and opened by a capability.
So nothing ever waits here. The lists are empty, every id is unknown, and no answer to one is accepted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from chio_core.errors import InvalidDocument
from chio_core.models.base import Text
from chio_core.models.receipt import explain
from chio_sidecar.bodies import BodyError, parse_object, read_body
from chio_sidecar.control.access import ControlError, check_access, refusal
from chio_sidecar.state import SidecarState

MAX_BODY = 2 * 1024 * 1024
"""Largest body of `/approvals/*`, in bytes."""


class _Decision(BaseModel):
    approval_id: Text


class _Batch(BaseModel):
    decisions: list[_Decision]


def approval_routes(state: SidecarState) -> list[BaseRoute]:
    """Return the routes of `/approvals/*`."""
    return [
        Route("/approvals/pending", _guarded(state, _pending)),
        Route("/approvals/batch/respond", _guarded(state, _batch), methods=["POST"]),
        Route("/approvals/{approval_id}", _guarded(state, _unknown)),
        Route("/approvals/{approval_id}/respond", _guarded(state, _respond), methods=["POST"]),
    ]


def _guarded(
    state: SidecarState, handler: Callable[[Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            check_access(request, state.config.control_token)
            return await handler(request)
        except ControlError as exc:
            return refusal(exc)

    return answer


async def _pending(_: Request) -> Response:
    return JSONResponse({"approvals": [], "count": 0})


async def _unknown(request: Request) -> Response:
    raise ControlError(404, "not_found", f"approval {request.path_params['approval_id'][:100]} is not known")


async def _respond(request: Request) -> Response:
    await _document(request)
    return await _unknown(request)


async def _batch(request: Request) -> Response:
    try:
        batch = _Batch.model_validate(await _document(request))
    except ValidationError as exc:
        raise ControlError(400, "bad_request", f"invalid approval batch: {explain(exc)}") from None
    results = [
        {
            "approval_id": decision.approval_id,
            "status": "rejected",
            "error": f"approval {decision.approval_id[:100]} is not known",
        }
        for decision in batch.decisions
    ]
    summary = {"total": len(results), "approved": 0, "denied": 0, "rejected": len(results)}
    return JSONResponse({"results": results, "summary": summary})


async def _document(request: Request) -> dict[str, Any]:
    try:
        return parse_object(await read_body(request, MAX_BODY))
    except BodyError:
        raise ControlError(400, "bad_request", "failed to read approval body") from None
    except InvalidDocument as exc:
        raise ControlError(400, "bad_request", f"invalid approval payload: {exc.message}") from None
