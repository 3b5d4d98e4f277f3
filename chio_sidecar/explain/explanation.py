"""`explain`: from the facts of a refusal to plain words, a rule, and a capability that would be allowed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, get_args

from chio_core.evaluation.exchange import UNKNOWN_PATH_LIMIT
from chio_core.evaluation.outcomes import FILL_IN, granted_operations
from chio_core.models.capability import Operation, ToolGrant
from chio_core.models.demands import APPROVAL_GUARD
from chio_core.models.openapi import CAPABILITY
from chio_sidecar.explain.inputs import Refusal
from chio_sidecar.explain.reasons import Found, recognise
from chio_sidecar.policy.openapi import load, operations_of

UNKNOWN_ISSUER = ("--receipt-store", "FILE")
"""The issuer of a command line if none was named: the reader has to fill in the sidecar's store, see `FILL_IN`."""

_APPROVAL_ID = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.:-]*", re.ASCII)
_SCOPE = re.compile(r"([^/\s]+)/([^:\s]+):([a-z_]+(?:,[a-z_]+)*)")

_UNDECIDED: Final = {
    "chio_sidecar_unreachable": (
        "the sidecar cannot be reached.",
        "start the sidecar, or correct CHIO_SIDECAR_URL",
    ),
    "chio_timeout": (
        "the sidecar did not answer within CHIO_TIMEOUT.",
        "check what keeps the sidecar busy: its disk, its store, or a trust service that does not answer",
    ),
    "chio_evaluation_failed": (
        "the sidecar's response was no decision (another status than 200, or a broken document).",
        "read the application's log: it states the status, code and reason of the sidecar; `explain CODE` explains"
        " the code",
    ),
    "chio_receipt_persistence_failed": (
        "the sidecar could not store the receipt, and returns no decision without one.",
        "check whether the store's disk is full, or another process holds the file",
    ),
    "chio_receipt_sign_failed": ("the sidecar could not sign the receipt.", "read the sidecar's log"),
    "chio_request_id_conflict": (
        "the request id has a receipt already, for other content.",
        "use a new request_id for each request",
    ),
    "chio_overloaded": (
        "too many requests, or request bodies, were waiting; the application's log states which.",
        "repeat the request later; raise CHIO_MAX_CONNECTIONS, move calls that block the event loop into threads, or"
        " give the sidecar a faster disk; for bodies raise CHIO_MAX_SPOOLED_BYTES",
    ),
}
_EARLY: Final = {
    "chio_bad_request": (
        "the request is malformed or ambiguous.",
        "correct the request; the message names the place",
    ),
    "chio_body_too_large": ("the body is larger than CHIO_MAX_BODY_BYTES.", "send less, or raise the limit"),
    "chio_address_blocked": ("a guard of the application refuses this address.", "contact its operator"),
    "chio_rate_limited": (
        "a guard of the application saw too many requests of this caller.",
        "wait as long as Retry-After says",
    ),
    "chio_rate_limit_unavailable": (
        "the place where a guard counts requests does not answer.",
        "start it (for example Redis), then repeat the request",
    ),
    "chio_unauthorized": (
        "a guard of the application requires a valid bearer token.",
        "present one in the Authorization header",
    ),
    "chio_keys_unavailable": (
        "the keys of the bearer token's issuer cannot be fetched.",
        "check whether the issuer answers, then repeat the request",
    ),
}
OUTCOMES: Final[Mapping[str, tuple[str, str]]] = {
    "chio_access_denied": (
        "The sidecar evaluated the request and did not allow it; a receipt records the decision.",
        "read the reason; the receipt holds the evidence",
    ),
    "chio_capability_required": (
        "This route requires a capability, and none was presented.",
        "present one in the X-Chio-Capability header",
    ),
    "chio_approval_required": (
        "A person has to approve this request before it can run.",
        "have it approved, then repeat the same request with the approval's id in X-Chio-Approval",
    ),
    "chio_policy_not_enforced": (
        "The sidecar allowed the request, but its receipt does not state that the route's approval or budget was"
        " checked, or the route's budget cannot be determined, so the allow does not count.",
        "use a sidecar that supports approvals and budgets, for example chio-sidecar of this distribution; within a"
        " mount with parameters, govern the outer application instead",
    ),
    "chio_invalid_receipt": (
        "The sidecar's receipt does not count: it does not verify, its key is not trusted, its time is too far"
        " from this clock, or it belongs to another request. The application's log names the rule.",
        "pin the sidecar's key in CHIO_TRUSTED_KERNEL_KEYS, and compare the clocks and the routes of both",
    ),
    "chio_configuration": (
        "The application is configured in a way that cannot work.",
        "read its log, and run `chio-sidecar check MODULE:APP`",
    ),
    "chio_guard_failed": (
        "A guard of the application failed, so the request is refused.",
        "read the application's log; the message names the guard",
    ),
    "chio_control_forbidden": (
        "The sidecar's control plane does not serve this caller.",
        "call it from the same machine, or with its bearer (CHIO_SIDECAR_CONTROL_TOKEN)",
    ),
    UNKNOWN_PATH_LIMIT: (
        "The sidecar had too many evaluations of paths that its OpenAPI document does not describe.",
        "describe the path in the document if it is one of the application's, or raise --max-unknown-paths-per-second",
    ),
    "chio_evaluate_unauthorized": (
        "The sidecar evaluates for bearers of its token only, and this application presented none or another one.",
        "set CHIO_EVALUATE_TOKEN in the application to the value of the sidecar's CHIO_SIDECAR_EVALUATE_TOKEN",
    ),
    **{
        code: (f"There is no decision, so the handler did not run: {why}", fix)
        for code, (why, fix) in _UNDECIDED.items()
    },
    **{code: (f"The sidecar was not called: {why}", fix) for code, (why, fix) in _EARLY.items()},
}
"""What each wire code means, and what to do: those of `chio_core.evaluation.outcomes` and a sidecar's own."""

_NO_DECISION: Final = frozenset(_UNDECIDED)
_SEE_DOCTOR: Final = frozenset(
    {"chio_sidecar_unreachable", "chio_timeout", "chio_evaluation_failed", "chio_invalid_receipt"}
)

_ALLOWED = (
    "The sidecar allowed this request. If it was refused all the same, the application did that: the route's"
    " capability was not presented or not sufficient, or a guard refused after the decision.",
    "give the body of the refused response instead of the receipt",
)
_ALLOWED_TOKENLESS = (
    "The sidecar allowed this request. But its route requires a capability, and none was presented, so the"
    " application refuses it unless it only observes.",
    "present one in the X-Chio-Capability header",
)
_NO_VERDICT = {
    "cancel": "The sidecar cancelled the evaluation; only an explicit allow lets a request through.",
    "incomplete": "The sidecar could not come to a decision; only an explicit allow lets a request through.",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A capability.

    Attributes:
        server, tool: what one grant must name; None if any tool will do, or the tool is unknown.
        operations: what that grant must contain.
        constraints: conditions of the grant, as JSON objects.
        max_invocations: how often it may be used; None without limit.
        subject: public key of its holder; None for no holder.
    """

    server: str | None = None
    tool: str | None = None
    operations: tuple[str, ...] = ("invoke",)
    constraints: tuple[Any, ...] = ()
    max_invocations: int | None = None
    subject: str | None = None

    @classmethod
    def of_grant(cls, grant: ToolGrant, subject: str | None = None) -> Wanted:
        """Return what a grant of a token allows."""
        return cls(
            grant.server_id,
            grant.tool_name,
            tuple(grant.operations) or ("invoke",),
            tuple(constraint.to_signed() for constraint in grant.constraints),
            grant.max_invocations,
            subject,
        )

    @property
    def title(self) -> str:
        """`server/tool:operations`, for example `payments/transfer:invoke`, and the constraints behind it."""
        if self.server is None or self.tool is None:
            return "any valid capability of a trusted issuer"
        name = f"{self.server}/{self.tool}:{','.join(self.operations)}"
        return " ".join([name, *map(compact_ascii, self.constraints)])

    def command(self, issuer: Sequence[str] = UNKNOWN_ISSUER) -> str:
        """Return the command line that issues it, quoted for a POSIX shell.

        Args:
            issuer: the option that says who signs, with its value.
        """
        options = [(issuer[0], issuer[1]), ("--server", self.server or "SERVER"), ("--tool", self.tool or "TOOL")]
        operations = granted_operations(self.operations)
        if operations != ("invoke",):
            options += [("--operation", operation) for operation in operations]
        options += [("--constraint", compact_ascii(constraint)) for constraint in self.constraints]
        if self.max_invocations is not None:
            options.append(("--max-invocations", str(self.max_invocations)))
        if self.subject is not None and self.subject.strip("0"):
            options.append(("--subject", self.subject))
        # A value that begins with a hyphen would be read as an option.
        words = [
            shlex.quote(f"{name}={value}") if value.startswith("-") else f"{name} {shlex.quote(value)}"
            for name, value in options
        ]
        return f"chio-sidecar capability issue {' '.join(words)}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `explain` prints.

    Attributes:
        subject: for example `POST /transfers`; None if the document does not say.
        outcome: `allowed`, `refused`, `observed` (it would have been refused, and ran) or `not decided`.
        rule: id of the rule, for example `R6`; the wire code if no rule is known.
        reason: the exact text.
        why: plain words.
        remedy: what to do.
        passes: the capability that would be allowed, `server/tool:operations` and its constraints.
        command: the command line that issues it, or that does what the remedy says.
        note: what a placeholder of the command means.
    """

    subject: str | None
    outcome: str
    rule: str
    reason: str | None
    why: str
    remedy: str
    passes: str | None = None
    command: str | None = None
    note: str | None = None
    status: int | None = None
    guard: str | None = None
    receipt_id: str | None = None

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object without unknown members."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def explain(refusal: Refusal, *, wanted: Wanted | None = None, issuer: Sequence[str] = UNKNOWN_ISSUER) -> Explanation:
    """Explain a refusal.

    Args:
        refusal: its facts.
        wanted: what the route requires, if that is known from elsewhere, for example from the OpenAPI document.
        issuer: the option of `capability issue` that says who signs, with its value.
    """
    found = recognise(refusal.reason or "", refusal.rule)

    # The words: of an allow, of the rule, else of the code or the verdict.
    if refusal.allowed:
        why, remedy = _ALLOWED_TOKENLESS if refusal.lacks_capability else _ALLOWED
    elif found is not None:
        why, remedy = found.why, found.remedy
    else:
        why, remedy = OUTCOMES.get(refusal.code or "chio_access_denied", OUTCOMES["chio_access_denied"])
        if refusal.code is not None and refusal.code not in OUTCOMES:
            why = "A guard of the application refused with its own code."
        why = _NO_VERDICT.get(refusal.verdict or "", why)
    hint = refusal.details.get("hint")
    if not refusal.allowed and hint is not None and not hint.startswith("chio-sidecar "):  # commands come below
        remedy = hint

    # The capability that would be allowed, if one would.
    if found is not None:
        helps = found.issue
    else:
        helps = refusal.code == "chio_capability_required" or "required_scope" in refusal.details
    passes = None
    if refusal.lacks_capability or (helps and not refusal.allowed):
        passes = wanted or _required(refusal, found) or Wanted()

    if refusal.allowed:
        outcome = "allowed"
    elif refusal.observed:
        outcome = "observed"
    else:
        outcome = "not decided" if refusal.code in _NO_DECISION else "refused"
    rule = refusal.rule or (found.rule if found is not None else None)
    return Explanation(
        subject=f"{refusal.method} {refusal.route}" if refusal.method and refusal.route else None,
        outcome=outcome,
        rule=rule or refusal.code or refusal.guard or refusal.verdict or "unknown",
        reason=refusal.reason,
        why=why,
        remedy=remedy,
        passes=passes.title if passes is not None else None,
        command=passes.command(issuer) if passes is not None else _command(refusal, issuer),
        note=FILL_IN if passes is not None and tuple(issuer) == UNKNOWN_ISSUER else None,
        status=refusal.status,
        guard=refusal.guard,
        receipt_id=refusal.receipt_id,
    )


def required_by(refusal: Refusal) -> Wanted | None:
    """Return the capability that a refusal names as required; None if it names none."""
    return _required(refusal, recognise(refusal.reason or "", refusal.rule))


def _required(refusal: Refusal, found: Found | None) -> Wanted | None:
    # Our refusals write the scope as `Wanted.title` does; another sidecar may write something else.
    scope = _SCOPE.fullmatch(refusal.details.get("required_scope", ""))
    if scope is not None and set(operations := scope[3].split(",")) <= set(get_args(Operation)):
        return Wanted(scope[1], scope[2], tuple(operations))
    server, slash, tool = (refusal.requires or "").partition("/")
    candidates = (
        (found.values.get("server"), found.values.get("tool")) if found is not None else (None, None),
        # A newer sidecar states what it requires (wire protocol, section 1.4).
        (refusal.details.get("tool_server"), refusal.details.get("tool_name")),
        (server, tool) if slash else (None, None),
    )
    return next((Wanted(server, tool) for server, tool in candidates if server and tool), None)


def _command(refusal: Refusal, issuer: Sequence[str]) -> str | None:
    """Return the command of a refusal that no capability helps; None if there is no such command."""
    if refusal.code in _SEE_DOCTOR:
        return "chio-sidecar doctor"
    if refusal.code != "chio_approval_required" and refusal.guard != APPROVAL_GUARD and not refusal.waits:
        return None
    named = issuer[0] == "--receipt-store" and issuer[1] != UNKNOWN_ISSUER[1]
    place = f" --receipt-store {shlex.quote(issuer[1])}" if named else ""
    approval_id = refusal.details.get("approval_id", "")
    # The id comes from the document: only one that no shell can misread becomes part of a command.
    if not _APPROVAL_ID.fullmatch(approval_id) or refusal.verdict == "deny":
        return f"chio-sidecar approval list{place}"
    return f"chio-sidecar approval respond {approval_id} --approve{place}"


def wanted_by(spec_text: str, method: str, pattern: str) -> Wanted | None:
    """Return the capability that an operation names; None if it names none, or there is no such operation.

    Args:
        spec_text: the document, JSON or YAML.
        method: upper case.
        pattern: the template as a receipt states it.

    Raises:
        ConfigurationError: the document cannot be read.
    """
    return wanted_among(operations_of(load(spec_text)), method, pattern)


def wanted_among(known: Iterable[tuple[str, str, dict[str, Any]]], method: str, pattern: str) -> Wanted | None:
    """Do the same for operations (template, method, object) that were read before."""
    operation = next((one for template, verb, one in known if (template, verb) == (pattern, method)), {})
    named = operation.get(CAPABILITY)
    first = next((one for one in named if isinstance(one, dict)), None) if isinstance(named, list) else None
    if first is None:
        return None
    server, tool, operations = first.get("server"), first.get("tool"), first.get("operations")
    if not isinstance(server, str) or not isinstance(tool, str):
        return Wanted()  # `[{}]`: any capability
    listed = tuple(one for one in operations if isinstance(one, str)) if isinstance(operations, list) else ()
    return Wanted(server, tool, listed or ("invoke",))


def compact_ascii(value: Any) -> str:
    """Return a value as JSON without blanks and in ASCII, for a line of text."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))
