"""Human approvals on the wire (wire protocol, sections 7.7 and 12.4); what they do is in `approval_desk`.

Whoever may use the control plane may answer as the operator. Without a control token that is every program on this
machine, so a token keeps those who ask from answering themselves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from chio_core.errors import ChioError, InvalidDocument
from chio_sidecar.bodies import BodyError, parse_object, read_body
from chio_sidecar.control.access import ControlError, check_access, refusal
from chio_sidecar.control.approval_desk import DEFAULT_LIMIT, ApprovalDesk, DeskError, Filter
from chio_sidecar.policy.approvals import MAX_OPEN
from chio_sidecar.service.state import SidecarState

MAX_BODY = 2 * 1024 * 1024
"""Largest body of `/approvals/*`, in bytes."""

Handler = Callable[[ApprovalDesk, Request], Awaitable[dict[str, Any]]]
"""Answers a request whose caller may use the control plane."""


def approval_routes(state: SidecarState) -> list[BaseRoute]:
    """Return the routes of `/approvals/*`."""
    return [
        Route("/approvals/pending", _guarded(state, _pending)),
        Route("/approvals/submit", _guarded(state, _submit), methods=["POST"]),
        Route("/approvals/batch/respond", _guarded(state, _batch), methods=["POST"]),
        Route("/approvals/{approval_id}", _guarded(state, _show)),
        Route("/approvals/{approval_id}/respond", _guarded(state, _respond), methods=["POST"]),
        Route("/approvals/{approval_id}/operator-respond", _guarded(state, _operator_respond), methods=["POST"]),
    ]


def _guarded(state: SidecarState, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            check_access(request, state.config.control_token)
            desk = ApprovalDesk(state.store, state.key, state.engine.trusted_approvers, state.now)
            return JSONResponse(await handler(desk, request))
        except ControlError as exc:
            return refusal(exc)
        except DeskError as exc:
            return refusal(ControlError(exc.status, exc.code, exc.message))
        except ChioError as exc:
            return refusal(ControlError(500, "internal_error", exc.message))

    return answer


async def _pending(desk: ApprovalDesk, request: Request) -> dict[str, Any]:
    query = request.query_params
    wanted = Filter(
        subject_id=query.get("subject_id"),
        tool_server=query.get("tool_server"),
        tool_name=query.get("tool_name"),
        not_expired_at=_number(request, "not_expired_at", 0),
        limit=min(_number(request, "limit", DEFAULT_LIMIT), MAX_OPEN),
    )
    return await desk.pending(wanted)


async def _show(desk: ApprovalDesk, request: Request) -> dict[str, Any]:
    return await desk.show(request.path_params["approval_id"])


async def _submit(desk: ApprovalDesk, request: Request) -> dict[str, Any]:
    return await desk.submit(await _document(request))


async def _respond(desk: ApprovalDesk, request: Request) -> dict[str, Any]:
    return await desk.respond(request.path_params["approval_id"], await _document(request))


async def _operator_respond(desk: ApprovalDesk, request: Request) -> dict[str, Any]:
    return await desk.operator_respond(request.path_params["approval_id"], await _document(request))


async def _batch(desk: ApprovalDesk, request: Request) -> dict[str, Any]:
    return await desk.batch(await _document(request))


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise ControlError(400, "bad_request", f"{name} must be a whole number")
    return int(text)


async def _document(request: Request) -> dict[str, Any]:
    try:
        return parse_object(await read_body(request, MAX_BODY))
    except BodyError:
        raise ControlError(400, "bad_request", "failed to read approval body") from None
    except InvalidDocument as exc:
        raise ControlError(400, "bad_request", f"invalid approval payload: {exc.message}") from None
