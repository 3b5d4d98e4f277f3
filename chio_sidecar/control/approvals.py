"""Human approvals on the wire (wire protocol, sections 7.7 and 12.4); `approval_desk` has their rules.

Every caller of the control plane may answer as the operator. Without a control token that is every program on this
machine, so a token keeps requesters from approving their own requests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from chio_core.errors import InvalidDocument
from chio_sidecar.control.access import ControlError, guarded_route
from chio_sidecar.control.approval_desk import DEFAULT_LIMIT, ApprovalDesk, DeskError, Filter
from chio_sidecar.http import BodyError, parse_object, read_body
from chio_sidecar.policy.approvals import MAX_OPEN
from chio_sidecar.service.state import SidecarState

MAX_BODY = 2 * 1024 * 1024
"""Largest body of `/approvals/*`, in bytes."""


def approval_routes(state: SidecarState) -> list[BaseRoute]:
    """Return the routes of `/approvals/*`."""

    def route(path: str, call: Callable[[ApprovalDesk, Request], Awaitable[dict[str, Any]]], method: str) -> BaseRoute:
        async def respond(request: Request) -> Response:
            desk = ApprovalDesk(state.store, state.key, state.engine.trusted_approvers, state.now)
            try:
                return JSONResponse(await call(desk, request))
            except DeskError as exc:
                raise ControlError(exc.status, exc.code, exc.message) from None

        return guarded_route(state, path, respond, failure="internal_error", methods=(method,))

    def post(path: str, call: Callable[[ApprovalDesk, str, dict[str, Any]], Awaitable[dict[str, Any]]]) -> BaseRoute:
        async def with_document(desk: ApprovalDesk, request: Request) -> dict[str, Any]:
            try:
                document = parse_object(await read_body(request, MAX_BODY))
            except BodyError:
                raise ControlError(400, "bad_request", "failed to read approval body") from None
            except InvalidDocument as exc:
                raise ControlError(400, "bad_request", f"invalid approval payload: {exc.message}") from None
            return await call(desk, request.path_params.get("approval_id", ""), document)

        return route(path, with_document, "POST")

    return [
        route("/approvals/pending", list_pending, "GET"),
        post("/approvals/submit", lambda desk, _, document: desk.submit(document)),
        post("/approvals/batch/respond", lambda desk, _, document: desk.batch(document)),
        route("/approvals/{approval_id}", lambda desk, request: desk.show(request.path_params["approval_id"]), "GET"),
        post("/approvals/{approval_id}/respond", ApprovalDesk.respond),
        post("/approvals/{approval_id}/operator-respond", ApprovalDesk.operator_respond),
    ]


async def list_pending(desk: ApprovalDesk, request: Request) -> dict[str, Any]:
    """Return the pending approvals that the query of `GET /approvals/pending` selects.

    Raises:
        ControlError: 400 if a number in the query is malformed.
    """
    query = request.query_params

    def number(name: str, default: int) -> int:
        text = query.get(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdecimal() or len(text) > 18:
            raise ControlError(400, "bad_request", f"{name} must be a whole number")
        return int(text)

    return await desk.pending(
        Filter(
            subject_id=query.get("subject_id"),
            tool_server=query.get("tool_server"),
            tool_name=query.get("tool_name"),
            not_expired_at=number("not_expired_at", 0),
            limit=min(number("limit", DEFAULT_LIMIT), MAX_OPEN),
        )
    )
