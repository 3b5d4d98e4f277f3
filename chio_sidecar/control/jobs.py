"""Receipts of jobs, checking a tool receipt, and advice (wire protocol, sections 7.5 and 7.6)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from chio_core.canonical import compact_json, parse_json, sha256_hex
from chio_core.models.base import Text
from chio_core.models.caller import CallerIdentity
from chio_sidecar.control.access import ControlError, bad_request, control_endpoint, read_model
from chio_sidecar.control.tool_receipts import tool_receipt_report
from chio_sidecar.service.receipts import sign_receipt
from chio_sidecar.service.state import SidecarState
from chio_sidecar.store import NewReceipt, Stored

POLICY = "chio_api_protect_sidecar_receipt_submission"
"""The ASCII text whose SHA-256 is the policy hash of a job receipt."""

_PATH = "/v1/receipts"
_FAILED = "chio_receipt_persistence_failed"


class Step(BaseModel):
    """One observation of a job."""

    pod_name: Text
    phase: Text
    payload: Text
    observed_at: Text

    def complete(self) -> bool:
        """Tell whether no member is blank."""
        return all(text.strip() for text in (self.pod_name, self.phase, self.payload, self.observed_at))


class JobReceipt(BaseModel):
    """Body of `POST /v1/receipts`; a required text that is missing counts as blank."""

    job_name: Text = ""
    namespace: Text = ""
    job_uid: Text = ""
    outcome: Text = ""
    capability_id: Text | None = None
    started_at: Text | None = None
    completed_at: Text | None = None
    steps: list[Step] = Field(default_factory=list)

    @classmethod
    def read(cls, document: dict[str, Any]) -> JobReceipt:
        """Read the body.

        Raises:
            ControlError: 400.
        """
        job = read_model(cls, document, what="job receipt")
        if not all(text.strip() for text in (job.job_name, job.namespace, job.job_uid, job.outcome)):
            raise bad_request("job_name, namespace, job_uid, and outcome are required")
        if not all(step.complete() for step in job.steps):
            raise bad_request("receipt steps must include pod_name, phase, payload, and observed_at")
        return job

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of the stored receipt."""
        kind = {"chio_http_status_scope": "final", "submission_kind": "job_receipt"}
        told = self.model_dump(exclude={"capability_id"}, exclude_none=True)
        return kind | told


def job_routes(state: SidecarState) -> list[BaseRoute]:
    """Return the routes of `/v1/receipts` and `/v1/evaluate/advisory`."""
    calls = _Calls(state)
    return [
        control_endpoint(state, _PATH, calls.submit, what="job receipt", failure=_FAILED),
        control_endpoint(state, "/v1/receipts/verify", calls.verify, what="receipt verification", failure=_FAILED),
        control_endpoint(state, "/v1/evaluate/advisory", calls.advise, what="advisory evaluation", failure=_FAILED),
    ]


class _Calls:
    def __init__(self, state: SidecarState) -> None:
        self._state = state

    async def submit(self, document: dict[str, Any], body: bytes) -> Response:
        job = JobReceipt.read(document)
        receipt_id, request_id = str(self._state.ids.new()), f"job-receipt-submission:{job.job_uid}"
        receipt = sign_receipt(
            self._state.key,
            {
                "id": receipt_id,
                "request_id": request_id,
                "route_pattern": _PATH,
                "method": "POST",
                "caller_identity_hash": CallerIdentity.anonymous().identity_hash(),
                "verdict": {"verdict": "allow"},
                "response_status": 200,
                "timestamp": self._state.now(),
                "content_hash": sha256_hex(body),
                "policy_hash": sha256_hex(POLICY.encode()),
                "capability_id": job.capability_id,
                "metadata": job.metadata(),
            },
        )
        outcome = await self._state.store.append(
            NewReceipt(receipt_id, request_id, sha256_hex(body), compact_json(receipt))
        )
        if not isinstance(outcome, Stored):
            raise ControlError(
                409,
                "chio_request_id_conflict",
                "a receipt with other content was already submitted for this job_uid",
            )
        # The same submission again is answered with the receipt that it got the first time.
        stored_id = receipt_id if outcome.fresh else parse_json(outcome.receipt_json)["id"]
        return JSONResponse({"receipt_id": stored_id, "accepted": True})

    async def verify(self, document: dict[str, Any], _: bytes) -> Response:
        return JSONResponse(tool_receipt_report(document, trusted=self._state.key.public_hex))

    async def advise(self, _: dict[str, Any], __: bytes) -> Response:
        raise ControlError(
            409,
            "chio_advisory_disabled",
            "this sidecar gives no advice without a capability; ask POST /chio/evaluate for a decision",
        )
