"""`POST /chio/evaluate`: its HTTP side.

A receipt is sent only after the store made it durable. When anything fails, no decision is sent: the status is then
400 or above (wire protocol, section 1.8).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback

from starlette.types import Receive, Scope, Send

from chio_core.canonical import compact_json
from chio_core.errors import ChioError, InvalidDocument
from chio_core.evaluation.exchange import UNKNOWN_PATH_LIMIT
from chio_sidecar.bearer import NO_BEARER, presents_bearer
from chio_sidecar.bodies import BodyError, receive_body, send_error, send_json
from chio_sidecar.policy.approvals import APPROVAL_ID
from chio_sidecar.service.evaluate_request import EvaluateRequest, read_evaluate_request
from chio_sidecar.service.evaluation import Evaluated, Evaluation
from chio_sidecar.service.rate import TokenBucket
from chio_sidecar.service.state import SidecarState
from chio_sidecar.store import StoreBusy, StoreUnavailable

log = logging.getLogger(__name__)

MAX_BODY = 10 * 1024 * 1024
"""Largest body of an evaluate request, in bytes."""

_RETRY_AFTER = (b"retry-after", b"1")
_CONFLICT = "this request_id already has a receipt for other content; use a new request_id for each request"
_LARGE = 128 * 1024  # bytes of a body; a usual one has one to three thousand


class EvaluateEndpoint:
    """The endpoint as a plain ASGI application: on this path a framework's request object costs too much.

    Args:
        sidecar: the sidecar that evaluates.
    """

    def __init__(self, sidecar: SidecarState) -> None:
        config = sidecar.config
        self._sidecar = sidecar
        self._evaluation = Evaluation(sidecar)
        self._metrics = sidecar.metrics
        self._token = config.evaluate_token
        unknown = None if config.spec_text is None else config.max_unknown_per_second
        self._rate, self._unknown_rate = (
            None if rate is None else TokenBucket(rate, config.clock) for rate in (config.max_per_second, unknown)
        )
        self._places = config.max_pending
        self._lock = threading.Lock()  # several event loops may share the endpoint
        self._metrics.pending = lambda: config.max_pending - self._places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one evaluate request."""
        send = self._metrics.evaluation(send)
        if b"origin" in dict(scope["headers"]):
            # Adapters send no Origin; a web page that a browser shows on this machine does.
            await send_error(send, 403, "chio_control_forbidden", "web pages cannot request evaluations")
            return
        # First, so that a stranger takes no part of the rate.
        if self._token is not None and not presents_bearer(scope["headers"], self._token):
            await send_error(send, *NO_BEARER, (b"www-authenticate", b"Bearer"))
            return
        with self._lock:
            full = self._places == 0
            self._places -= not full
        if full:
            await _send_overloaded(send, "too many evaluations are under way; try again later")
            return
        try:
            rate, unknown = self._rate, self._unknown_rate
            if rate is not None and rate.is_empty() and (unknown is None or unknown.is_empty()):
                await _send_overloaded(send, _over(rate))  # whatever the path is, which is not read yet
                return
            body = await receive_body(receive, MAX_BODY)
            if len(body) <= _LARGE:
                call = read_evaluate_request(body, scope["headers"], scope["query_string"])
            else:  # reading 10 MiB takes half a second, in which the event loop must serve others
                call = await asyncio.to_thread(read_evaluate_request, body, scope["headers"], scope["query_string"])
        except BodyError:
            await send_error(send, 400, "chio_bad_request", "failed to read evaluation body")
        except InvalidDocument as exc:
            await send_error(send, 400, "chio_bad_request", f"invalid ChioHttpRequest payload: {exc.message}")
        except Exception as exc:  # noqa: BLE001 - as in `_evaluate`
            await _send_failed(send, exc)
        else:
            await self._evaluate(call, send)
        finally:
            with self._lock:
                self._places += 1

    def _take_rate(self, path: str) -> tuple[int, str, str] | None:
        """Take a part of the rate of a path; return status, code and message if none is left."""
        unknown = self._unknown_rate
        # Paths that the document does not describe have a rate of their own, so a scanner takes nothing of the others'.
        # Their refusal has another status: the next one of several sidecars must not get what this one is spared.
        if unknown is not None and not self._sidecar.routes.covers(path):
            message = f"more than {unknown.rate} evaluations of unknown paths in a second; try again later"
            return None if unknown.take() else (429, UNKNOWN_PATH_LIMIT, message)
        if self._rate is None or self._rate.take():
            return None
        return 503, "chio_overloaded", _over(self._rate)

    async def _evaluate(self, call: EvaluateRequest, send: Send) -> None:
        try:
            refusal = self._take_rate(call.request.path)
            if refusal is not None:
                await send_error(send, *refusal, _RETRY_AFTER)
                return
            outcome = await self._evaluation.evaluate(call)
        except StoreBusy as exc:
            await _send_overloaded(send, exc.message)
        except StoreUnavailable as exc:
            await send_error(send, 500, exc.code, f"receipt persistence failed: {exc.message}")
        except InvalidDocument as exc:
            await send_error(send, 500, "chio_receipt_sign_failed", f"receipt signing failed: {exc.message}")
        except ChioError as exc:
            await send_error(send, 500, "chio_evaluation_failed", f"evaluation failed: {exc.message}")
        except Exception as exc:  # noqa: BLE001 - whatever happens, the client gets a response that is no decision
            await _send_failed(send, exc)
        else:
            if isinstance(outcome, Evaluated):
                await self._send_evaluated(send, outcome)
            else:
                await send_error(send, 409, "chio_request_id_conflict", _CONFLICT)

    async def _send_evaluated(self, send: Send, evaluated: Evaluated) -> None:
        """Send the EvaluateResponse, or 409 for a request that a person has to approve first."""
        receipt = evaluated.receipt
        verdict = receipt["verdict"]
        self._metrics.decided(verdict, fresh=evaluated.fresh)
        if verdict["verdict"] == "incomplete":
            approval_id = receipt["metadata"].get(APPROVAL_ID)
            document = {
                "error": "chio_approval_required",
                "message": verdict["reason"],
                "kernel_receipt_id": receipt["id"],
            }
            if approval_id is not None:
                document |= {"approval_id": approval_id, "resume_path": f"/approvals/{approval_id}/respond"}
            await send_json(send, 409, compact_json(document).encode())
            return
        # The stored text goes out as it is: it is what was signed.
        evidence = compact_json(receipt.get("evidence", []))
        text = f'{{"verdict":{compact_json(verdict)},"receipt":{evaluated.text},"evidence":{evidence}}}'
        await send_json(send, 200, text.encode())


def _over(bucket: TokenBucket) -> str:
    return f"more than {bucket.rate} evaluations in a second; try again later"


async def _send_failed(send: Send, exc: Exception) -> None:
    # The message of an exception may repeat what a client sent; its type and place do not.
    frames = traceback.extract_tb(exc.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown place"
    log.error("evaluation failed: %s at %s", type(exc).__name__, place)
    await send_error(send, 500, "chio_evaluation_failed", f"evaluation failed: {type(exc).__name__}")


async def _send_overloaded(send: Send, message: str) -> None:
    await send_error(send, 503, "chio_overloaded", message, _RETRY_AFTER)
