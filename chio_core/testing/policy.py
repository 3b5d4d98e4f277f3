"""MemoryPolicy: what the sidecar of a test decides when the test says nothing.

It is the policy of a sidecar without an OpenAPI document (wire protocol, sections 1.6 and 6.3): GET, HEAD and OPTIONS
are allowed, everything else needs a valid capability, and what a route asks for must be granted by it. Tokens are
verified as always; the one authority is the sidecar's own key. Approvals and budgets are in `demands`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from chio_core.capabilities import CapabilityRejected, ConstraintError, match_grant, verify_capability
from chio_core.models import demands as reasons
from chio_core.models.capability import CapabilityToken
from chio_core.models.demands import CAPABILITY_GUARD, POLICY_GUARD
from chio_core.models.request import SAFE_METHODS
from chio_core.testing.behaviours import Behaviour, Reply
from chio_core.testing.demands import ApprovalPending, Demands, Refused
from chio_core.testing.question import Asked, compact


class MemoryPolicy:
    """Judges questions, and remembers what was revoked, used, approved and spent.

    Attributes:
        demands: approvals and budgets.
        behaviour: this policy as a behaviour.
    """

    def __init__(self) -> None:
        self.demands = Demands()
        self.behaviour = Behaviour("policy", "Decides by method, capability, approval and budget.", self.reply)
        self._lock = threading.Lock()
        self._revoked: set[str] = set()
        self._used: dict[tuple[str, int], int] = {}

    def revoke(self, capability_id: str) -> None:
        """Let a token count no more."""
        self._revoked.add(capability_id)

    def reply(self, asked: Asked) -> Reply:
        """Return the answer to a question, with a receipt of what was decided."""
        try:
            with self._lock:
                capability, evidence = self._judge(asked)
        except ApprovalPending as pending:
            return _waiting(asked, pending)
        except Refused as no:
            return _denied(asked, no)
        except (KeyError, TypeError, ValueError) as exc:
            message = f"invalid ChioHttpRequest payload: {type(exc).__name__}"
            return Reply(compact({"error": "chio_bad_request", "message": message}), 400)
        capability_id = None if capability is None else capability.id
        return Reply(asked.answer_bytes(capability_id=capability_id, evidence=evidence))

    def _judge(self, asked: Asked) -> tuple[CapabilityToken | None, list[dict[str, Any]]]:
        named = [asked.document.get(name) is not None for name in ("tool_server", "tool_name")]
        if any(named) and not all(named):
            raise Refused(reasons.BOTH_TOOL_FIELDS, CAPABILITY_GUARD)
        capability, use = self._capability(asked)
        evidence = [_route(asked, capability)]
        capability_id = None if capability is None else capability.id
        try:
            evidence += self.demands.meet(asked, capability_id)
        except Refused as no:
            no.capability_id, no.before = capability_id, evidence
            raise
        if use is not None:
            self._used[use] = self._used.get(use, 0) + 1
        return capability, evidence

    def _capability(self, asked: Asked) -> tuple[CapabilityToken | None, tuple[str, int] | None]:
        """Return the valid token that was presented, and the limited grant that the request uses."""
        if asked.capability_text is None:
            return None, None
        try:
            token = verify_capability(asked.capability_text, trusted_issuers=[asked.key.public_hex], now=int(asked.now))
            grant = self._grant(asked, token)
        except (CapabilityRejected, ConstraintError) as exc:
            raise Refused(exc.reason, CAPABILITY_GUARD) from None
        if asked.document.get("capability_id") not in (None, token.id):
            raise Refused(reasons.OTHER_CAPABILITY, CAPABILITY_GUARD)
        if token.id in self._revoked:
            revoked = Refused(reasons.REVOKED, "CapabilityRevocation", details=None)
            revoked.capability_id = token.id
            raise revoked
        return token, grant

    def _grant(self, asked: Asked, token: CapabilityToken) -> tuple[str, int] | None:
        server, tool = asked.document.get("tool_server"), asked.document.get("tool_name")
        if server is None or tool is None:
            return None
        found = match_grant(
            token, server, tool, asked.document.get("arguments"), model_metadata=asked.document.get("model_metadata")
        )
        if found is None:
            raise Refused(reasons.NOT_GRANTED.format(tool=tool, server=server), CAPABILITY_GUARD)
        limit = token.scope.grants[found].max_invocations
        if limit is None:
            return None
        if self._used.get((token.id, found), 0) >= limit:
            none_left = reasons.EXHAUSTED.format(limit=limit, tool=tool, server=server)
            raise Refused(none_left, CAPABILITY_GUARD)
        return token.id, found


def _route(asked: Asked, capability: CapabilityToken | None) -> dict[str, Any]:
    if asked.method in SAFE_METHODS:
        guard, details = POLICY_GUARD, reasons.SAFE_EVIDENCE
    elif capability is not None:
        guard, details = CAPABILITY_GUARD, reasons.CAPABILITY_EVIDENCE
    else:
        raise Refused(reasons.NO_CAPABILITY, CAPABILITY_GUARD, details=reasons.NO_CAPABILITY_EVIDENCE)
    return {"guard_name": guard, "verdict": True, "details": details}


def _denied(asked: Asked, no: Refused) -> Reply:
    verdict = {"verdict": "deny", "reason": no.reason, "guard": no.guard, "http_status": 403}
    return Reply(asked.answer_bytes(verdict, capability_id=no.capability_id, evidence=_against(no)))


def _waiting(asked: Asked, pending: ApprovalPending) -> Reply:
    verdict = {"verdict": "incomplete", "reason": reasons.NEEDS_APPROVAL}
    receipt = asked.receipt(verdict, capability_id=pending.capability_id, evidence=_against(pending))
    approval_id = pending.approval.id
    document: Mapping[str, Any] = {
        "error": "chio_approval_required",
        "message": reasons.NEEDS_APPROVAL,
        "kernel_receipt_id": receipt["id"],
        "approval_id": approval_id,
        "resume_path": f"/approvals/{approval_id}/respond",
    }
    return Reply(compact(document), 409, kept=receipt)


def _against(no: Refused) -> list[dict[str, Any]] | None:
    if no.details is None:
        return None
    return [*no.before, {"guard_name": no.guard, "verdict": False, "details": no.details}]
