"""Job receipts, verification of tool-call receipts, and advice (wire protocol, sections 3.8, 7.5 and 7.6).

Sidecars sign HttpReceipts; kernels sign tool-call receipts (ChioReceipt), in one of two wire profiles. This sidecar
verifies tool-call receipts and never makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from chio_core.canonical import canonical_json, compact_json, parse_json, sha256_hex
from chio_core.errors import InvalidDocument
from chio_core.models.base import Text
from chio_core.models.request import CallerIdentity
from chio_core.signing import verify_signature
from chio_sidecar.control.access import ControlError, bad_request, control_endpoint, read_model
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


@dataclass(frozen=True, slots=True)
class ToolReceiptReport:
    """The result of each check of a tool-call receipt.

    Attributes:
        semantics_valid: kind, class, trust, decision and outcome are consistent.
        authoritative: it records a decision that was made before the tool ran, not an observation.
        receipt_id_valid: the id is the hash of the body; always true in the April profile, which does not derive ids.
        parameter_hash_valid: the hash is that of the parameters.
        signature_holds: the signature alone.
    """

    semantics_valid: bool
    authoritative: bool
    receipt_id_valid: bool
    parameter_hash_valid: bool
    signature_holds: bool

    @property
    def signature_valid(self) -> bool:
        """True if signature, id and semantics are all valid."""
        return self.signature_holds and self.receipt_id_valid and self.semantics_valid


_OPTIONAL = ("metadata", "tenant_id", "observation_outcome", "decision")
_OMIT_EMPTY = ("evidence", "actor_chain")
_SEMANTICS = {
    "mediated_decision": ("prevent", "mediated"),
    "trace_observation": ("detect_only", "verified"),
    "advisory_evaluation": ("advisory_only", "advisory"),
}


def check_tool_receipt(receipt: Mapping[str, Any]) -> ToolReceiptReport:
    """Check a tool-call receipt against the key that it names; the caller decides whether that key is trusted.

    Args:
        receipt: the parsed JSON object. A malformed member makes the receipt invalid.
    """
    # Only the newer profile has kinds, and derives the id from the body.
    newer = "receipt_kind" in receipt
    kind = receipt.get("receipt_kind", "mediated_decision")
    if newer:
        wanted = _SEMANTICS.get(kind) if isinstance(kind, str) else None
        decided, observed = receipt.get("decision") is not None, receipt.get("observation_outcome") is not None
        semantics = (
            wanted == (receipt.get("boundary_class"), receipt.get("trust_level"))
            and decided != observed
            and decided == (kind == "mediated_decision")
        )
    else:
        decision = receipt.get("decision")
        semantics = isinstance(decision, dict) and decision.get("verdict") is not None

    # The signature covers the body as the kernel serializes it: without members that have their default.
    body = {
        name: value
        for name, value in receipt.items()
        if name not in ("signature", "algorithm")
        and not (name == "id" and newer)
        and not (value is None and name in _OPTIONAL)
        and not (name in _OMIT_EMPTY and not value)
        and not (name == "trust_level" and value == "mediated" and not newer)
    }
    signed = _canonical({"id": receipt.get("id"), "body": body} if newer else body)
    key, signature = receipt.get("kernel_key"), receipt.get("signature")
    texts = isinstance(key, str) and isinstance(signature, str)

    action = receipt.get("action")
    if not isinstance(action, dict):
        action = {}
    return ToolReceiptReport(
        semantics_valid=semantics,
        authoritative=semantics
        and kind == "mediated_decision"
        and receipt.get("trust_level", "mediated") == "mediated",
        receipt_id_valid=not newer or _hash(body) == receipt.get("id"),
        parameter_hash_valid="parameters" in action and _hash(action["parameters"]) == action.get("parameter_hash"),
        signature_holds=texts and signed is not None and verify_signature(str(key), signed, str(signature)),
    )


def _canonical(value: Any) -> bytes | None:
    try:
        return canonical_json(value)
    except InvalidDocument:
        return None


def _hash(value: Any) -> str | None:
    text = _canonical(value)
    return None if text is None else sha256_hex(text)


class Expectations(BaseModel):
    """What `POST /v1/receipts/verify` may check besides the receipt."""

    expected_decision: Text | None = None
    expected_capability_id: Text | None = None


def tool_receipt_report(document: dict[str, Any], *, trusted: str) -> dict[str, Any]:
    """Check a tool-call receipt and return the response's JSON object.

    Args:
        document: the receipt's members and those of `Expectations`.
        trusted: public key, hex, whose receipts are trusted.

    Raises:
        ControlError: 400 if an expectation is not a text.
    """
    expected = read_model(Expectations, document, what="receipt verification")
    receipt = {name: value for name, value in document.items() if name not in Expectations.model_fields}
    found = check_tool_receipt(receipt)
    signer_trusted = receipt.get("kernel_key") == trusted
    ok = found.signature_valid and signer_trusted and found.parameter_hash_valid and found.authoritative

    decision = receipt.get("decision")
    verdict = decision.get("verdict") if isinstance(decision, dict) else None
    verdict = verdict if isinstance(verdict, str) else None
    wanted, capability = expected.expected_decision, expected.expected_capability_id
    # The reason is that of the first check that fails.
    checks = (
        (found.signature_holds, "receipt signature did not verify"),
        (signer_trusted, "receipt signer is not trusted"),
        (found.receipt_id_valid, "receipt id does not match body"),
        (found.parameter_hash_valid, "receipt action parameter_hash does not match parameters"),
        (found.authoritative, "receipt semantics are not authoritative"),
        (wanted in (None, verdict), f"decision {verdict} does not match expected {wanted}"),
        (
            capability in (None, receipt.get("capability_id")),
            "receipt capability_id does not match expected_capability_id",
        ),
    )
    reason = next((text for holds, text in checks if not holds), None)
    report = {
        "signature_valid": found.signature_valid,
        "signer_trusted": signer_trusted,
        "receipt_id_valid": found.receipt_id_valid,
        "parameter_hash_valid": found.parameter_hash_valid,
        "receipt_kind": receipt.get("receipt_kind"),
        "boundary_class": receipt.get("boundary_class"),
        "trust_level": receipt.get("trust_level", "mediated"),
        "result": verdict if verdict in ("allow", "deny", "cancelled", "incomplete") else "incomplete",
        "authorized": ok and verdict == "allow",
        "signer_key_hex": receipt.get("kernel_key"),
        "ok": ok,
        "valid": reason is None,
        "reason": reason,
        "decision": verdict,
        "signed_at": receipt.get("timestamp"),
        "receipt_id": receipt.get("id"),
    }
    return {name: value for name, value in report.items() if value is not None}


def receipt_routes(state: SidecarState) -> list[BaseRoute]:
    """Return the routes of `/v1/receipts` and `/v1/evaluate/advisory`."""

    async def submit(document: dict[str, Any], body: bytes) -> Response:
        job = read_model(JobReceipt, document, what="job receipt")
        if not all(text.strip() for text in (job.job_name, job.namespace, job.job_uid, job.outcome)):
            raise bad_request("job_name, namespace, job_uid, and outcome are required")
        if not all(text.strip() for step in job.steps for text in step.model_dump().values()):
            raise bad_request("receipt steps must include pod_name, phase, payload, and observed_at")
        receipt_id, request_id = str(state.ids.new()), f"job-receipt-submission:{job.job_uid}"
        members = job.model_dump(exclude={"capability_id"}, exclude_none=True)
        receipt = sign_receipt(
            state.key,
            {
                "id": receipt_id,
                "request_id": request_id,
                "route_pattern": _PATH,
                "method": "POST",
                "caller_identity_hash": CallerIdentity.anonymous().identity_hash(),
                "verdict": {"verdict": "allow"},
                "response_status": 200,
                "timestamp": state.now(),
                "content_hash": sha256_hex(body),
                "policy_hash": sha256_hex(POLICY.encode()),
                "capability_id": job.capability_id,
                "metadata": {"chio_http_status_scope": "final", "submission_kind": "job_receipt"} | members,
            },
        )
        outcome = await state.store.append(NewReceipt(receipt_id, request_id, sha256_hex(body), compact_json(receipt)))
        if not isinstance(outcome, Stored):
            raise ControlError(
                409,
                "chio_request_id_conflict",
                "a receipt with other content was already submitted for this job_uid",
            )
        # Repeating a submission returns the receipt of the first one.
        stored_id = receipt_id if outcome.fresh else parse_json(outcome.receipt_json)["id"]
        return JSONResponse({"receipt_id": stored_id, "accepted": True})

    async def verify(document: dict[str, Any], _: bytes) -> Response:
        return JSONResponse(tool_receipt_report(document, trusted=state.key.public_hex))

    async def advise(_: dict[str, Any], __: bytes) -> Response:
        raise ControlError(
            409,
            "chio_advisory_disabled",
            "this sidecar gives no advice without a capability; POST /chio/evaluate decides",
        )

    return [
        control_endpoint(state, _PATH, submit, what="job receipt", failure=_FAILED),
        control_endpoint(state, f"{_PATH}/verify", verify, what="receipt verification", failure=_FAILED),
        control_endpoint(state, "/v1/evaluate/advisory", advise, what="advisory evaluation", failure=_FAILED),
    ]
