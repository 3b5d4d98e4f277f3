"""Decision: what came out, and the table of outcomes.

| what the sidecar does | status | code | receipt | with `fail_open` |
|---|---|---|---|---|
| allow, receipt verified | the application's | – | yes | the same |
| deny, receipt verified | its `http_status` (400 to 599), else 403 | `chio_access_denied` | yes | the same |
| cancel, incomplete, an unknown verdict, receipt verified | 403 | `chio_access_denied` | yes | the same |
| allow, but the route's capability was not presented | 401 | `chio_capability_required` | yes | the same |
| allow, but the capability does not grant what the route requires | 403 | `chio_access_denied` | yes | the same |
| allow without evidence of the route's approval or budget | 502 | `chio_policy_not_enforced` | yes | the same |
| no connection | 503 | `chio_sidecar_unreachable` | no | passes, marked; never if the route requires something |
| no response in time | 503 | `chio_timeout` | no | passes, marked; never if the route requires something |
| overloaded, or this process is (all connections in use, event loop held) | 503 | `chio_overloaded` | no | the same |
| approval required (409) | 403 | `chio_approval_required` | no | the same |
| any other status, not JSON, wrong shape, cut off, too long | 502 | `chio_evaluation_failed` | no | the same |
| a receipt that does not verify or is not for this request | 502 | `chio_invalid_receipt` | no | the same |
| (not evaluated) malformed request, repeated security header | 400 | `chio_bad_request` | no | the same |
| (not evaluated) amount not clearly stated | 400 or 415 | `chio_bad_request` | no | the same |
| (not evaluated) method unknown to the protocol | 405 | `chio_bad_request` | no | the same |
| (not evaluated) body that does not arrive in time, under ASGI | 408 | `chio_bad_request` | no | the same |
| (not evaluated) chunked body on a server that needs a Content-Length | 411 | `chio_bad_request` | no | the same |
| (not evaluated) body above the limit | 413 | `chio_body_too_large` | no | the same |
| (not evaluated) path of more than 8,192 characters | 414 | `chio_bad_request` | no | the same |
| (not evaluated) no room for the body in temporary files | 503 | `chio_overloaded` | no | the same |
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from chio_core.errors import (
    ApprovalRequired,
    CallerTimeout,
    ConfigurationError,
    EvaluationFailed,
    Overloaded,
    ReceiptRejected,
    SidecarError,
    SidecarTimeout,
    SidecarUnreachable,
)
from chio_core.models.demands import (
    APPROVAL_GUARD,
    CAPABILITY_GUARD,
    NEEDS_APPROVAL,
    NOT_ENFORCED,
    OTHER_HOLDER,
    ApprovalDemand,
)
from chio_core.models.receipt import ChioPassthrough, GuardEvidence, HttpReceipt, Verdict
from chio_core.models.request import CallerIdentity
from chio_core.names import APPROVAL_HEADER
from chio_core.refusals.response import Denial
from chio_core.request import Requirement
from chio_core.scratch import replaces

FILL_IN: Final = (
    "FILE is the receipt store of the sidecar, on its machine; where it was started with --authority-seed-file or"
    " --control-url, that option with its value may replace --receipt-store FILE"
)
"""Hint for the placeholder of `--receipt-store FILE` in a command line."""

FILL_IN_EMBEDDED: Final = "FILE is the file of the application's sidecar_url, embedded:FILE"
"""The same for an embedded sidecar."""


def granted_operations(operations: Iterable[str]) -> tuple[str, ...]:
    """Return what a grant has to contain so that a requirement of these operations is met.

    `invoke` is always among them: a sidecar looks at no grant without it (wire protocol, section 5.5).
    """
    return tuple(dict.fromkeys(("invoke", *operations)))


def required_scope(requirement: Requirement) -> str | None:
    """Return the scope of a requirement, for example `payments/transfer:invoke`; None where any capability will do."""
    if requirement.server is None:
        return None
    return f"{requirement.title}:{','.join(granted_operations(requirement.operations))}"


def issue_command(requirement: Requirement, sidecar_url: str = "") -> str:
    """Return the command line that issues a capability for a requirement, quoted for a POSIX shell.

    Every sidecar with a store has it; `issue_hint` explains its placeholders.

    Strangers read it. So the store of an embedded sidecar is named only where it is a plain file name, as in a first
    try; where else it is, and the address of any other sidecar, are for the operator to fill in.

    Args:
        requirement: what the route requires.
        sidecar_url: as `ChioSettings.sidecar_url`.
    """
    server, tool = requirement.server or "SERVER", requirement.tool or "TOOL"
    store = _plain_file(sidecar_url) if sidecar_url.startswith("embedded:") else None
    words = [_option("--receipt-store", store or "FILE"), _option("--server", server), _option("--tool", tool)]
    operations = granted_operations(requirement.operations)
    if operations != ("invoke",):
        words += [f"--operation {operation}" for operation in operations]
    return " ".join(["chio-sidecar capability issue", *words])


def test_hint(server: str | None, tool: str | None) -> str:
    """Return how a test presents a capability for a tool; None for any capability."""
    wanted = "" if server is None else f"chio.capability({server!r}, {tool!r})"
    return f"in a test, with the fixture chio: headers=chio.headers({wanted})"


def issue_hint(requirement: Requirement, sidecar_url: str = "") -> dict[str, str]:
    """Return what a refusal says of the command: `hint`, and `hint_note` where a part is to be filled in.

    Args:
        requirement: what the route requires.
        sidecar_url: as `ChioSettings.sidecar_url`.
    """
    if replaces(sidecar_url):
        return {"hint": test_hint(requirement.server, requirement.tool)}
    hint = {"hint": issue_command(requirement, sidecar_url)}
    if not sidecar_url.startswith("embedded:"):
        return hint | {"hint_note": FILL_IN}
    return hint if _plain_file(sidecar_url) else hint | {"hint_note": FILL_IN_EMBEDDED}


def _plain_file(sidecar_url: str) -> str | None:
    file = sidecar_url.removeprefix("embedded:").partition("?")[0]
    return file if file and not set(file) & set("/\\") and file.isprintable() else None


def _option(name: str, value: str) -> str:
    # A value that begins with a hyphen would be read as an option.
    return shlex.quote(f"{name}={value}") if value.startswith("-") else f"{name} {shlex.quote(value)}"


SUGGEST_APPROVAL = "repeat the same request with {header}: {approval_id} once an operator has approved it"
SUGGEST_CAPABILITY = "provide a valid capability token in the {header} header"


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome for one request.

    Attributes:
        request_id: id that was sent to the sidecar; None without an evaluation.
        verdict: `allow`, `deny`, `cancel`, `incomplete` or another text of the sidecar; `refused` when a rule on
            this side refused without or against it; `passthrough`; `error` if the evaluation failed.
        receipt: the verified receipt, also of a refusal.
        denial: how to answer; None lets the request through.
        passthrough: set when the request runs without a decision (`fail_open`), or against it (observe mode).
        requirement: what the route requires, as part of the evaluation.
        caller: the caller that was sent to the sidecar; None without an evaluation.
        evidence: what the guards said.
        withheld: in observe mode the refusal that was recorded instead of answered; `verdict` and `receipt` are
            what they would have been.
    """

    verdict: str
    request_id: str | None = None
    receipt: HttpReceipt | None = None
    denial: Denial | None = None
    passthrough: ChioPassthrough | None = None
    requirement: Requirement | None = None
    caller: CallerIdentity | None = None
    evidence: tuple[GuardEvidence, ...] = ()
    withheld: Denial | None = None

    def withhold(self, denial: Denial) -> Decision:
        """Return the decision of observe mode: `denial` is recorded, and the request runs and is marked."""
        mark = ChioPassthrough(mode="observe", error=denial.code, message=denial.message)
        return replace(self, withheld=denial, passthrough=mark)

    @property
    def observed(self) -> bool:
        """True when the request was refused, and that was only recorded."""
        return self.withheld is not None

    @property
    def handler_receipt(self) -> HttpReceipt | None:
        """The receipt as handlers see it, None where it is that of a refusal which was only recorded."""
        return self.receipt if self.withheld is None else None

    @property
    def receipt_header(self) -> str | None:
        """The receipt's id as a header value; None without a receipt, or if no header can carry the id."""
        if self.receipt is None:
            return None
        value = self.receipt.id
        return value if value.isascii() and value.isprintable() else None

    @property
    def allowed(self) -> bool:
        """True when the handler may run."""
        return self.denial is None and (self.receipt is not None or self.passthrough is not None)

    def meets_requirement(self, *, proven: bool = True) -> bool:
        """Return True if this decision about a requirement lets the handler run; in observe mode it does.

        Args:
            proven: False for what requires no receipt, like `Observe`.

        Raises:
            ConfigurationError: the decision has neither a denial nor a receipt (a bug; fail closed).
        """
        if proven and self.denial is None and self.receipt is None and not self.observed:
            raise ConfigurationError("a decision without receipt cannot meet a requirement")
        return self.denial is None


def denial_for_verdict(verdict: Verdict, receipt_id: str, capability_header: str) -> Denial:
    """Return the refusal for a verdict that is not `allow`."""
    status = verdict.http_status if verdict.verdict == "deny" else None
    details = {k: v for k, v in (verdict.details or {}).items() if isinstance(v, str)}
    challenge = (_challenge(capability_header),) if status == 401 else ()
    return Denial(
        status=status if status is not None and 400 <= status <= 599 else 403,
        message=verdict.reason or "denied",
        guard=verdict.guard or "ChioGuard",
        receipt_id=receipt_id,
        suggestion=details.get("hint") or SUGGEST_CAPABILITY.format(header=capability_header),
        details=details,
        headers=challenge,
    )


def _challenge(capability_header: str) -> tuple[str, str]:
    return "www-authenticate", f'Chio realm="chio", header="{capability_header}"'


def capability_required(
    requirement: Requirement,
    capability_header: str,
    receipt_id: str | None,
    sidecar_url: str = "",
    hint: str | None = None,
) -> Denial:
    """Return the 401 for a route whose capability was not presented (RFC 9110, section 15.5.2).

    Args:
        sidecar_url: where the sidecar is; decides what the hint can say, see `issue_hint`.
        hint: of the sidecar, which knows best where its capabilities come from.
    """
    way = issue_hint(requirement, sidecar_url) if hint is None else {"hint": hint}
    known = {"required_scope": required_scope(requirement), **way}
    return Denial(
        status=401,
        code="chio_capability_required",
        message="Chio capability required" + (f" for {requirement.title}" if requirement.server else ""),
        guard=CAPABILITY_GUARD,
        receipt_id=receipt_id,
        suggestion=SUGGEST_CAPABILITY.format(header=capability_header),
        details={name: text for name, text in known.items() if text is not None},
        headers=(_challenge(capability_header),),
    )


def with_way_in(denial: Denial, requirement: Requirement | None, sidecar_url: str) -> Denial:
    """Return the 403 of a request without a capability, telling the way to one as the 401 of a requirement does.

    Args:
        denial: the refusal for the sidecar's verdict.
        requirement: what the route requires.
        sidecar_url: as for `capability_required`.
    """
    if denial.guard != CAPABILITY_GUARD or "hint" in denial.details:
        return denial
    return replace(denial, details={**denial.details, **issue_hint(requirement or Requirement(), sidecar_url)})


def capability_insufficient(requirement: Requirement, receipt_id: str | None) -> Denial:
    """Return the 403 for a capability that does not cover what the route requires."""
    scope = required_scope(requirement)
    return Denial(
        message=f"the capability presented does not authorize {requirement.title}",
        guard=CAPABILITY_GUARD,
        receipt_id=receipt_id,
        suggestion=f"ask the authority for a capability that grants {scope or requirement.title}",
        details={} if scope is None else {"required_scope": scope},
    )


def capability_of_another(receipt_id: str | None) -> Denial:
    """Return the 403 for a capability that states another holder than the caller."""
    return Denial(
        message=OTHER_HOLDER,
        guard=CAPABILITY_GUARD,
        receipt_id=receipt_id,
        suggestion="present it as the caller that it was issued to, or have a capability issued to this one",
    )


def capability_restricted(members: Iterable[str], receipt_id: str | None) -> Denial:
    """Return the 403 for a capability with restrictions that neither the sidecar nor this side enforces.

    Args:
        members: names of the restrictions.
    """
    return Denial(
        message=NOT_ENFORCED.format(members=", ".join(members)),
        guard=CAPABILITY_GUARD,
        receipt_id=receipt_id,
        suggestion="ask the authority for a capability without this restriction, or use a sidecar that enforces it",
    )


def policy_not_enforced(requirement: Requirement, receipt_id: str | None) -> Denial:
    """Return the 502 for an allow of a sidecar that did not enforce the route's approval or budget."""
    wanted = [("approval", requirement.approval), ("budget", requirement.budget)]
    what = " and ".join(name for name, demand in wanted if demand is not None)
    return Denial(
        status=502,
        code="chio_policy_not_enforced",
        message=f"Chio sidecar did not enforce the {what} of this route",
        receipt_id=receipt_id,
        suggestion="use a sidecar that knows approvals and budgets, for example chio-sidecar of this distribution",
    )


def budget_of_each_path(receipt_id: str | None) -> Denial:
    """Return the 502 for a budget on a route of unknown template: each path would have its own account."""
    return Denial(
        status=502,
        code="chio_policy_not_enforced",
        message="the template of this route is not known, so each of its paths would have its own budget",
        receipt_id=receipt_id,
        suggestion="govern the application around the mount instead, or give the sidecar the OpenAPI document",
    )


def approval_required(error: ApprovalRequired, demand: ApprovalDemand | None) -> Denial:
    """Return the 403 for a request that a person has to approve first.

    Args:
        error: what the sidecar said.
        demand: the route's own demand; None when only the sidecar's document has one.
    """
    known = {"approval_id": error.approval_id, "resume_path": error.resume_path}
    terms = {"threshold": demand.threshold, "currency": demand.currency} if demand is not None else {}
    suggestion = None
    if error.approval_id is not None:
        suggestion = SUGGEST_APPROVAL.format(header=APPROVAL_HEADER, approval_id=error.approval_id)
    return Denial(
        status=403,
        code="chio_approval_required",
        message=NEEDS_APPROVAL,
        guard=APPROVAL_GUARD,
        receipt_id=error.receipt_id,
        suggestion=suggestion,
        details={**{name: value for name, value in known.items() if value is not None}, **terms},
    )


def denial_for_error(error: SidecarError, requirement: Requirement | None = None) -> Denial:
    """Return the refusal for a failed evaluation. Its texts name no address and no content.

    Args:
        requirement: what the route requires.
    """
    if isinstance(error, (SidecarUnreachable, SidecarTimeout, Overloaded)):
        retry = (("retry-after", "1"),)
        message = "Chio sidecar is unavailable"
        if isinstance(error, Overloaded):
            message = "too many requests at once"
        elif isinstance(error, CallerTimeout):
            message = "there was no decision within the caller's timeout"
        return Denial(status=503, code=error.code, message=message, headers=retry)
    if isinstance(error, ReceiptRejected):
        message = "Chio sidecar returned a receipt that does not count for this request"
        return Denial(status=502, code=error.code, message=message)
    if isinstance(error, EvaluationFailed) and error.detail == "chio_approval_required":
        said = error if isinstance(error, ApprovalRequired) else ApprovalRequired(None, None, None)
        return approval_required(said, requirement.approval if requirement is not None else None)
    return Denial(status=502, code=error.code, message="Chio sidecar gave no usable decision")


def passthrough_for(error: SidecarError) -> ChioPassthrough | None:
    """Return the mark of a fail-open passage, or None for an error that never opens."""
    if isinstance(error, (SidecarUnreachable, SidecarTimeout)) and not isinstance(error, CallerTimeout):
        return ChioPassthrough(error=error.code, message="Chio sidecar unavailable")
    return None
