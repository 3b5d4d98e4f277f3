"""`explain`: from the facts of a refusal to plain words, a rule, and a capability that would be allowed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, get_args

from chio_core.evaluation.outcomes import FILL_IN, granted_operations
from chio_core.models.capability import Operation, ToolGrant
from chio_core.models.demands import APPROVAL_GUARD
from chio_core.models.openapi import CAPABILITY
from chio_sidecar.explain.codes import OUTCOMES, UNDECIDED
from chio_sidecar.explain.inputs import Refusal
from chio_sidecar.explain.reasons import ANY_REQUIRED, recognise
from chio_sidecar.policy.openapi import load, operations_of

UNKNOWN_ISSUER = ("--receipt-store", "FILE")
"""The issuer of a command line if none was named: the reader has to fill in the sidecar's store, see `FILL_IN`."""

UNKNOWN_TOOL: Final = (
    "not known: this document does not say what the route requires; give the body of the refusal for a missing"
    " capability, or the OpenAPI document with --spec"
)
"""What `Explanation.passes` states where any capability might be the wrong one."""

_FILL_IN_KEY = "FILE is the file of the sidecar's signing key"
_FILL_IN_TOOL = "SERVER and TOOL are those that the route requires"

_ISSUE = "chio-sidecar capability issue"
_APPROVAL_ID = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.:-]*", re.ASCII)
_SCOPE = re.compile(r"([^/\s]+)/([^:\s]+):([a-z_]+(?:,[a-z_]+)*)")

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
_OWN_CODE = (
    "Chio has no such code among its refusals. A guard of the application refused with its own code, or the code is"
    " misspelt, or it is an error of the control plane or the proxy.",
    "compare the code with the body or the log that states it; the authors of the application know its own codes",
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
        return f"{_ISSUE} {' '.join(words)}"


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
        passes: the capability that would be allowed, `server/tool:operations` and its constraints; `UNKNOWN_TOOL` if
            nothing states what the route requires.
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
            why, remedy = _OWN_CODE
        why = _NO_VERDICT.get(refusal.verdict or "", why)
    hint = refusal.details.get("hint")
    if not refusal.allowed and hint is not None and not hint.startswith("chio-sidecar "):  # commands come below
        remedy = hint

    # The capability that would be allowed, if one would.
    if found is not None:
        helps = found.issue
    else:
        helps = refusal.code == "chio_capability_required" or "required_scope" in refusal.details
    passes = command = None
    notes = []
    if refusal.lacks_capability or (helps and not refusal.allowed):
        required = required_by(refusal, wanted)
        passes = UNKNOWN_TOOL if required is None else required.title
        command = (required or Wanted()).command(issuer)
        notes = [_FILL_IN_TOOL] if required is None else []
        notes += [FILL_IN] if tuple(issuer) == UNKNOWN_ISSUER else []
        notes += [_FILL_IN_KEY] if issuer[1].endswith(("?key=FILE", "&key=FILE")) else []

    if refusal.allowed:
        outcome = "allowed"
    elif refusal.observed:
        outcome = "observed"
    else:
        outcome = "not decided" if refusal.code in UNDECIDED else "refused"
    rule = refusal.rule or (found.rule if found is not None else None)
    return Explanation(
        subject=f"{refusal.method} {refusal.route}" if refusal.method and refusal.route else None,
        outcome=outcome,
        rule=rule or refusal.code or refusal.guard or refusal.verdict or "unknown",
        reason=refusal.reason,
        why=why,
        remedy=remedy,
        passes=passes,
        command=command or _command(refusal, issuer),
        note="; ".join(notes) or None,
        status=refusal.status,
        guard=refusal.guard,
        receipt_id=refusal.receipt_id,
    )


def required_by(refusal: Refusal, documented: Wanted | None = None) -> Wanted | None:
    """Return the capability that the route of a refusal requires; None if that is not known.

    Args:
        refusal: its facts.
        documented: what the route requires by another source, for example the OpenAPI document; None without one.
    """
    if documented is not None and documented.tool is not None:
        return documented
    if (known := _named(refusal) or documented) is not None:
        return known
    # Any capability will do only if the application has stated that its route names no tool; a receipt alone does not
    # state that. The body for a missing capability has the command for this route; observe mode states the requirement.
    hint = refusal.details.get("hint", "")
    for_any = refusal.code is not None and hint.startswith(_ISSUE) and hint.endswith(" --server SERVER --tool TOOL")
    return Wanted() if for_any or refusal.requires is not None or refusal.reason in ANY_REQUIRED else None


def _named(refusal: Refusal) -> Wanted | None:
    # Our refusals write the scope as `Wanted.title` does; another sidecar may write something else.
    scope = _SCOPE.fullmatch(refusal.details.get("required_scope", ""))
    if scope is not None and set(operations := scope[3].split(",")) <= set(get_args(Operation)):
        return Wanted(scope[1], scope[2], tuple(operations))
    found = recognise(refusal.reason or "", refusal.rule)
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
    """Return the capability that an operation requires; None if the document does not state one.

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
    operation = next((one for template, verb, one in known if (template, verb) == (pattern, method)), None)
    # The sidecar lets any capability pass where the member is missing, but the application may require a certain one.
    if operation is None or CAPABILITY not in operation:
        return None
    named = operation[CAPABILITY]
    first = next((one for one in named if isinstance(one, dict)), {}) if isinstance(named, list) else {}
    server, tool, operations = first.get("server"), first.get("tool"), first.get("operations")
    if not isinstance(server, str) or not isinstance(tool, str):
        return Wanted()  # `[{}]`: any capability
    listed = tuple(one for one in operations if isinstance(one, str)) if isinstance(operations, list) else ()
    return Wanted(server, tool, listed or ("invoke",))


def compact_ascii(value: Any) -> str:
    """Return a value as JSON without blanks and in ASCII, for a line of text."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))
