"""`POST /chio/evaluate`: what is read, what is answered, and what is said when no decision can be had.

A receipt is answered only after the store made it durable. When anything fails, no decision is handed out: the
status is then 400 or above (wire protocol, section 1.8).
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import traceback
from typing import Any

from starlette.types import Receive, Scope, Send

from chio_core.canonical import compact_json
from chio_core.errors import ChioError, InvalidDocument
from chio_sidecar.bodies import BodyError, receive_body, send_error, send_json
from chio_sidecar.policy.approvals import APPROVAL_ID
from chio_sidecar.service.evaluate_request import EvaluateRequest, read_call
from chio_sidecar.service.evaluation import Evaluation
from chio_sidecar.service.state import SidecarState
from chio_sidecar.store import StoreBusy, Stored, StoreUnavailable

log = logging.getLogger(__name__)

MAX_BODY = 10 * 1024 * 1024
"""Largest body of a call, in bytes."""

_RETRY_AFTER = (b"retry-after", b"1")
_LARGE = 128 * 1024  # bytes of a body; a usual one has one to three thousand


class EvaluateEndpoint:
    """The endpoint as a plain ASGI application: on this path a framework's request object costs too much.

    Args:
        sidecar: what it works with.
    """

    def __init__(self, sidecar: SidecarState) -> None:
        self._evaluation = Evaluation(sidecar)
        self._metrics = sidecar.metrics
        self._places = sidecar.config.max_pending
        self._lock = threading.Lock()  # several event loops may ask at once
        self._metrics.pending = lambda: sidecar.config.max_pending - self._places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        send = self._metrics.evaluation(send)
        if any(name == b"origin" for name, _ in scope["headers"]):
            # Adapters send no Origin; a web page that a browser shows on this machine does.
            await send_error(send, 403, "chio_control_forbidden", "web pages cannot ask for evaluations")
            return
        if not self._enter():
            await _send_overloaded(send, "too many evaluations are under way; try again later")
            return
        try:
            await self._answer(scope, receive, send)
        finally:
            self._leave()

    def _enter(self) -> bool:
        with self._lock:
            if self._places == 0:
                return False
            self._places -= 1
            return True

    def _leave(self) -> None:
        with self._lock:
            self._places += 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await receive_body(receive, MAX_BODY)
            call = await _read(body, scope)
        except BodyError:
            await send_error(send, 400, "chio_bad_request", "failed to read evaluation body")
        except InvalidDocument as exc:
            await send_error(send, 400, "chio_bad_request", f"invalid ChioHttpRequest payload: {exc.message}")
        else:
            await self._decide(call, send)

    async def _decide(self, call: EvaluateRequest, send: Send) -> None:
        try:
            outcome = await self._evaluation.evaluate(call)
        except StoreBusy as exc:
            await _send_overloaded(send, exc.message)
        except StoreUnavailable as exc:
            await send_error(send, 500, exc.code, f"receipt persistence failed: {exc.message}")
        except InvalidDocument as exc:
            await send_error(send, 500, "chio_receipt_sign_failed", f"receipt signing failed: {exc.message}")
        except ChioError as exc:
            await send_error(send, 500, "chio_evaluation_failed", f"evaluation failed: {exc.message}")
        except Exception as exc:  # noqa: BLE001 - whatever happens, the client gets an answer that is no decision
            log.error("evaluation failed: %s", _where(exc))
            await send_error(send, 500, "chio_evaluation_failed", f"evaluation failed: {type(exc).__name__}")
        else:
            if isinstance(outcome, Stored):
                receipt = json.loads(outcome.receipt_json)
                self._metrics.decided(receipt["verdict"], fresh=outcome.fresh)
                await _send_decided(send, receipt, outcome.receipt_json)
            else:
                await send_error(send, 409, "chio_request_id_conflict", _CONFLICT)


async def _read(body: bytes, scope: Scope) -> EvaluateRequest:
    if len(body) <= _LARGE:
        return read_call(body, scope["headers"], scope["query_string"])
    # Half a second for 10 MiB: the others are served meanwhile.
    return await asyncio.to_thread(read_call, body, scope["headers"], scope["query_string"])


_CONFLICT = "this request_id already has a receipt for other content; use a new request_id for each request"


async def _send_decided(send: Send, receipt: dict[str, Any], receipt_json: str) -> None:
    if receipt["verdict"]["verdict"] == "incomplete":
        await send_json(send, 409, _approval_required(receipt))
    else:
        await send_json(send, 200, _render(receipt, receipt_json))


def _approval_required(receipt: dict[str, Any]) -> bytes:
    """Return the answer for a request that a person has to approve first (wire protocol, section 1.8)."""
    approval_id = receipt["metadata"].get(APPROVAL_ID)
    document = {
        "error": "chio_approval_required",
        "message": receipt["verdict"]["reason"],
        "kernel_receipt_id": receipt["id"],
    }
    if approval_id is not None:
        document |= {"approval_id": approval_id, "resume_path": f"/approvals/{approval_id}/respond"}
    return compact_json(document).encode()


def _render(receipt: dict[str, Any], receipt_json: str) -> bytes:
    """Return the EvaluateResponse for a stored receipt, whose text is passed on as it stands."""
    verdict, evidence = compact_json(receipt["verdict"]), compact_json(receipt.get("evidence", []))
    return f'{{"verdict":{verdict},"receipt":{receipt_json},"evidence":{evidence}}}'.encode()


async def _send_overloaded(send: Send, message: str) -> None:
    await send_error(send, 503, "chio_overloaded", message, _RETRY_AFTER)


def _where(exc: Exception) -> str:
    # The message of an exception may repeat what a client sent; its type and place do not.
    frames = traceback.extract_tb(exc.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown place"
    return f"{type(exc).__name__} at {place}"
