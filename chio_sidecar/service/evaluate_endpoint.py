"""`POST /chio/evaluate`: its limits, its errors, and its HTTP side.

A receipt is sent only after the store made it durable. When anything fails, no decision is sent: the status is then
400 or above (wire protocol, section 1.8).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from starlette.types import Receive, Scope, Send

from chio_core.canonical import compact_bytes, compact_json
from chio_core.errors import ChioError, InvalidDocument
from chio_core.evaluation.exchange import UNKNOWN_PATH_LIMIT
from chio_sidecar.http import NO_BEARER, BodyError, presents_bearer, receive_body, send_json
from chio_sidecar.policy.approvals import APPROVAL_ID
from chio_sidecar.service.evaluate_request import EvaluateRequest, read_evaluate_request
from chio_sidecar.service.evaluation import Evaluated, Evaluation
from chio_sidecar.service.state import SidecarState
from chio_sidecar.store import StoreBusy, StoreUnavailable


class TokenBucket:
    """Lets `rate` units begin in a second, and as many at once after a pause. Any thread may use it.

    Args:
        rate: units per second, at least 1.
        clock: returns seconds; one that is set back adds nothing.
    """

    def __init__(self, rate: int, clock: Callable[[], float]) -> None:
        self.rate = rate
        self._clock = clock
        self._left = float(rate)
        self._refilled = clock()
        self._lock = threading.Lock()

    def is_empty(self) -> bool:
        """Return True if no unit is left now."""
        with self._lock:
            return self._refill() < 1

    def take(self) -> bool:
        """Take one unit; return False if none is left."""
        with self._lock:
            if self._refill() < 1:
                return False
            self._left -= 1
            return True

    def _refill(self) -> float:
        now = self._clock()
        self._left = min(self.rate, self._left + max(0.0, now - self._refilled) * self.rate)
        self._refilled = now
        return self._left


log = logging.getLogger(__name__)

MAX_BODY = 10 * 1024 * 1024
"""Largest body of an evaluate request, in bytes."""

_RETRY_AFTER = (b"retry-after", b"1")
_CONFLICT = "this request_id already has a receipt for other content; use a new request_id for each request"
_FEW = 8  # evaluations under way, with which none waits for long
_LARGE = 128 * 1024  # bytes of a body; a usual one has one to three thousand

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one evaluate request gets: a decision or an error.

    Attributes:
        status: of the HTTP response.
        decision: the decision; None for an error.
        error: the error document (wire protocol, section 1.8); None for a decision.
        headers: of the HTTP response, beside type and length of its content.
    """

    status: int
    decision: Evaluated | None = None
    error: dict[str, Any] | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def body(self) -> bytes:
        """Return the JSON document of the HTTP response."""
        if self.decision is None:
            return compact_bytes(self.error)
        # The stored text goes out as it is: it is what was signed.
        receipt, made_now = self.decision.receipt, self.decision.signed is not None
        verdict = compact_json(receipt["verdict"], plain=made_now)
        evidence = compact_json(receipt.get("evidence", []), plain=made_now)
        return f'{{"verdict":{verdict},"receipt":{self.decision.text},"evidence":{evidence}}}'.encode()


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
        """Respond to one evaluate request over HTTP."""
        answer = await self.answer(scope["headers"], scope["query_string"], receive)
        await send_json(send, answer.status, answer.body(), *answer.headers)

    async def answer(
        self, headers: Headers, query_string: bytes, receive: Receive, is_gone: Callable[[], bool] | None = None
    ) -> Answer:
        """Evaluate one request, and count it.

        Args:
            headers: of the evaluate request, names in lower case.
            query_string: of the evaluate request, still encoded.
            receive: gives its body as ASGI messages.
            is_gone: returns True if the client has closed its connection: nothing is decided for it then.
        """
        began = perf_counter()
        answer = await self._guarded(headers, query_string, receive, is_gone)
        code = None if answer.error is None else answer.error["error"]
        self._metrics.answered(perf_counter() - began, code)
        return answer

    async def _guarded(
        self, headers: Headers, query_string: bytes, receive: Receive, is_gone: Callable[[], bool] | None
    ) -> Answer:
        """Evaluate one request within the limits of this endpoint."""
        for name, _ in headers:
            if name == b"origin":
                # Adapters send no Origin; a web page that a browser shows on this machine does.
                return _error(403, "chio_control_forbidden", "web pages cannot request evaluations")
        # First, so that a stranger takes no part of the rate.
        if self._token is not None and not presents_bearer(headers, self._token):
            return _error(*NO_BEARER, (b"www-authenticate", b"Bearer"))
        with self._lock:
            full = self._places == 0
            self._places -= not full
        if full:
            return _overloaded("too many evaluations are under way; try again later")
        try:
            rate, unknown = self._rate, self._unknown_rate
            if rate is not None and rate.is_empty() and (unknown is None or unknown.is_empty()):
                return _overloaded(_over(rate))  # whatever the path is, which is not read yet
            body = await receive_body(receive, MAX_BODY)
            if len(body) <= _LARGE:
                call = read_evaluate_request(body, headers, query_string)
            else:  # reading 10 MiB takes half a second, in which the event loop must serve others
                call = await asyncio.to_thread(read_evaluate_request, body, headers, query_string)
            if is_gone is not None:
                if self._sidecar.config.max_pending - self._places > _FEW:
                    await asyncio.sleep(0)  # where many wait, a client may have given up: its end is read in this turn
                if is_gone():
                    return _error(499, "chio_client_gone", "the client closed its connection before the evaluation")
        except BodyError:
            return _error(400, "chio_bad_request", "failed to read evaluation body")
        except InvalidDocument as exc:
            return _error(400, "chio_bad_request", f"invalid ChioHttpRequest payload: {exc.message}")
        except Exception as exc:  # noqa: BLE001 - as in `_evaluate`
            return _failed(exc)
        else:
            return await self._evaluate(call)
        finally:
            with self._lock:
                self._places += 1

    def _take_rate(self, path: str) -> Answer | None:
        """Take a part of the rate of a path; return the refusal if none is left."""
        unknown = self._unknown_rate
        # Paths that the document does not describe have a separate rate, so a scanner takes nothing of the others'.
        # Their refusal has another status: the next one of several sidecars must not get what this one is spared.
        if unknown is not None and not self._sidecar.routes.covers(path):
            message = f"more than {unknown.rate} evaluations of unknown paths in a second; try again later"
            return None if unknown.take() else _error(429, UNKNOWN_PATH_LIMIT, message, _RETRY_AFTER)
        if self._rate is None or self._rate.take():
            return None
        return _overloaded(_over(self._rate))

    async def _evaluate(self, call: EvaluateRequest) -> Answer:
        try:
            refusal = self._take_rate(call.request.path)
            if refusal is not None:
                return refusal
            outcome = await self._evaluation.evaluate(call)
        except StoreBusy as exc:
            return _overloaded(exc.message)
        except StoreUnavailable as exc:
            return _error(500, exc.code, f"receipt persistence failed: {exc.message}")
        except InvalidDocument as exc:
            return _error(500, "chio_receipt_sign_failed", f"receipt signing failed: {exc.message}")
        except ChioError as exc:
            return _error(500, "chio_evaluation_failed", f"evaluation failed: {exc.message}")
        except Exception as exc:  # noqa: BLE001 - whatever happens, the client gets a response that is no decision
            return _failed(exc)
        if not isinstance(outcome, Evaluated):
            return _error(409, "chio_request_id_conflict", _CONFLICT)
        verdict = outcome.receipt["verdict"]
        self._metrics.decided(verdict, fresh=outcome.signed is not None)
        return _waiting(outcome.receipt) if verdict["verdict"] == "incomplete" else Answer(200, outcome)


def _waiting(receipt: dict[str, Any]) -> Answer:
    """Return the answer to a request that a person has to approve first."""
    document = {
        "error": "chio_approval_required",
        "message": receipt["verdict"]["reason"],
        "kernel_receipt_id": receipt["id"],
    }
    approval_id = receipt["metadata"].get(APPROVAL_ID)
    if approval_id is not None:
        document |= {"approval_id": approval_id, "resume_path": f"/approvals/{approval_id}/respond"}
    return Answer(409, error=document)


def _over(bucket: TokenBucket) -> str:
    return f"more than {bucket.rate} evaluations in a second; try again later"


def _failed(exc: Exception) -> Answer:
    # The message of an exception may repeat what a client sent; its type and place do not.
    frames = traceback.extract_tb(exc.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown place"
    log.error("evaluation failed: %s at %s", type(exc).__name__, place)
    return _error(500, "chio_evaluation_failed", f"evaluation failed: {type(exc).__name__}")


def _overloaded(message: str) -> Answer:
    return _error(503, "chio_overloaded", message, _RETRY_AFTER)


def _error(status: int, code: str, message: str, *headers: tuple[bytes, bytes]) -> Answer:
    return Answer(status, error={"error": code, "message": message}, headers=headers)
