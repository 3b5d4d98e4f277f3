"""`explain`: from the facts of a refusal to plain words, a rule, and a capability that would pass."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from chio_core.evaluation.outcomes import FILL_IN, granted_operations
from chio_core.models.capability import Operation, ToolGrant
from chio_core.models.openapi import CAPABILITY
from chio_sidecar.explain.demands import POLICY_REASONS, approval_command
from chio_sidecar.explain.outcomes import DOCTOR, NOT_DECIDED, OUTCOMES, SEE_THE_SIDECAR
from chio_sidecar.explain.reasons import Found, recognise
from chio_sidecar.explain.refusal import Refusal
from chio_sidecar.policy.openapi import read_operations

ISSUE = "chio-sidecar capability issue"

UNKNOWN_ISSUER = ("--receipt-store", "FILE")
"""The issuer of a command line when nobody named one: the reader has to fill in the sidecar's store, see `FILL_IN`."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A capability.

    Attributes:
        server, tool: what one grant must name; None when any tool will do, or nobody can tell.
        operations: what that grant must contain.
        constraints: conditions that the grant carries, as JSON objects.
        max_invocations: how often it may be used; None is without limit.
        subject: public key of its holder; None for nobody in particular.
    """

    server: str | None = None
    tool: str | None = None
    operations: tuple[str, ...] = ("invoke",)
    constraints: tuple[Any, ...] = ()
    max_invocations: int | None = None
    subject: str | None = None

    @classmethod
    def of_grant(cls, grant: ToolGrant, subject: str | None = None) -> Wanted:
        """Return what a grant of a token gives."""
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
        return " ".join([name, *(_json(constraint) for constraint in self.constraints)])

    def command(self, issuer: Sequence[str] = UNKNOWN_ISSUER) -> str:
        """Return the command line that issues it, quoted for a POSIX shell.

        Args:
            issuer: the option that says who signs, with its value.
        """
        words = [*issuer, "--server", self.server or "SERVER", "--tool", self.tool or "TOOL"]
        operations = granted_operations(self.operations)
        if operations != ("invoke",):
            words += [word for operation in operations for word in ("--operation", operation)]
        words += [word for constraint in self.constraints for word in ("--constraint", _json(constraint))]
        if self.max_invocations is not None:
            words += ["--max-invocations", str(self.max_invocations)]
        if self.subject is not None and self.subject.strip("0"):
            words += ["--subject", self.subject]
        # An option's value that begins with a hyphen would be read as an option.
        return f"{ISSUE} {' '.join(_joined(words))}"


def _joined(words: Sequence[str]) -> list[str]:
    found: list[str] = []
    for option, value in zip(words[::2], words[1::2], strict=True):
        found.append(shlex.quote(f"{option}={value}") if value.startswith("-") else f"{option} {shlex.quote(value)}")
    return found


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


_ALLOWED = (
    "The sidecar allowed this request. If it was answered with a refusal all the same, the application added that:"
    " the route's capability was not presented or not enough, or a guard behind the decision refused.",
    "give the body of the refused answer instead of the receipt",
)
_ALLOWED_TOKENLESS = (
    "The sidecar allowed this request. Its route asks for a capability all the same, and none was presented, so the"
    " application refuses it where it enforces.",
    "present one in the X-Chio-Capability header",
)
_NO_VERDICT = {
    "cancel": "The sidecar cancelled the evaluation; only an explicit allow lets a request through.",
    "incomplete": "The sidecar could not come to a decision; only an explicit allow lets a request through.",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `explain` prints.

    Attributes:
        subject: what it is about, for example `POST /transfers`; None when the document does not say.
        outcome: `allowed`, `refused`, `observed` (it would have been refused, and ran) or `not decided`.
        rule: short name of the rule, for example `R6`; the wire code where no rule is known.
        reason: the exact text.
        why: plain words.
        remedy: what to do.
        passes: the capability that would pass, `server/tool:operations` and its constraints.
        command: the command line that issues it, or that does what the remedy says.
        note: what stands for a placeholder of the command.
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
        """Return it as a JSON object; what is unknown is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def explain(refusal: Refusal, *, wanted: Wanted | None = None, issuer: Sequence[str] = UNKNOWN_ISSUER) -> Explanation:
    """Explain a refusal.

    Args:
        refusal: what is known of it.
        wanted: what the route asks for, when that is known from elsewhere, for example from the OpenAPI document.
        issuer: the option of `capability issue` that says who signs, with its value.
    """
    found = recognise(refusal.reason or "", POLICY_REASONS)
    why, remedy = _words(refusal, found)
    passes = _wanted(refusal, found, wanted)
    command = passes.command(issuer) if passes is not None else _command(refusal, issuer)
    return Explanation(
        subject=f"{refusal.method} {refusal.route}" if refusal.method and refusal.route else None,
        outcome=_outcome(refusal),
        rule=found.known.rule if found is not None else refusal.code or refusal.guard or refusal.verdict or "unknown",
        reason=refusal.reason,
        why=why,
        remedy=remedy,
        passes=passes.title if passes is not None else None,
        command=command,
        note=FILL_IN if passes is not None and tuple(issuer) == UNKNOWN_ISSUER else None,
        status=refusal.status,
        guard=refusal.guard,
        receipt_id=refusal.receipt_id,
    )


def _outcome(refusal: Refusal) -> str:
    if refusal.allowed:
        return "allowed"
    if refusal.observed:
        return "observed"
    return "not decided" if refusal.code in NOT_DECIDED else "refused"


def _words(refusal: Refusal, found: Found | None) -> tuple[str, str]:
    if refusal.allowed:
        return _ALLOWED_TOKENLESS if refusal.lacks_capability else _ALLOWED
    if found is not None:
        return found.why, _hint(refusal) or found.remedy
    why, remedy = OUTCOMES.get(refusal.code or "chio_access_denied", OUTCOMES["chio_access_denied"])
    if refusal.code is not None and refusal.code not in OUTCOMES:
        why = "A guard of the application refused with a code of its own."
    if refusal.verdict is not None:
        why = _NO_VERDICT.get(refusal.verdict, why)
    return why, _hint(refusal) or remedy


def _hint(refusal: Refusal) -> str | None:
    # A command line has a place of its own.
    hint = refusal.details.get("hint")
    return hint if hint is not None and not hint.startswith("chio-sidecar ") else None


def _wanted(refusal: Refusal, found: Found | None, wanted: Wanted | None) -> Wanted | None:
    """Return the capability that would pass, where one would."""
    if not refusal.lacks_capability and (refusal.allowed or not _issue_helps(refusal, found)):
        return None
    return wanted or _named(refusal, found) or Wanted()


def required_by(refusal: Refusal) -> Wanted | None:
    """Return the capability that a refusal names as the one its route asks for; None when it names none."""
    return _named(refusal, recognise(refusal.reason or "", POLICY_REASONS))


def _named(refusal: Refusal, found: Found | None) -> Wanted | None:
    values = found.values if found is not None else {}
    named = Wanted(values["server"], values["tool"]) if "server" in values else None
    return _of_scope(refusal) or named or _of_details(refusal) or _of_requires(refusal)


def _issue_helps(refusal: Refusal, found: Found | None) -> bool:
    if found is not None:
        return found.known.issue
    return refusal.code == "chio_capability_required" or "required_scope" in refusal.details


def _of_scope(refusal: Refusal) -> Wanted | None:
    # Our own refusals write it as `Wanted.title` does; another sidecar may write something else.
    match = re.fullmatch(r"([^/\s]+)/([^:\s]+):([a-z_]+(?:,[a-z_]+)*)", refusal.details.get("required_scope", ""))
    if match is None or not set(operations := match[3].split(",")) <= set(get_args(Operation)):
        return None
    return Wanted(match[1], match[2], tuple(operations))


def _of_details(refusal: Refusal) -> Wanted | None:
    # A newer sidecar says what it asked for (wire protocol, section 1.4).
    server, tool = refusal.details.get("tool_server"), refusal.details.get("tool_name")
    return Wanted(server, tool) if server and tool else None


def _of_requires(refusal: Refusal) -> Wanted | None:
    server, slash, tool = (refusal.requires or "").partition("/")
    return Wanted(server, tool) if slash and server and tool else None


def _command(refusal: Refusal, issuer: Sequence[str]) -> str | None:
    if refusal.code in SEE_THE_SIDECAR:
        return DOCTOR
    return approval_command(refusal, issuer)


def wanted_by(spec_text: str, method: str, pattern: str) -> Wanted | None:
    """Return the capability that an operation names; None when it names none, or there is no such operation.

    Args:
        spec_text: the document, JSON or YAML.
        method: upper case.
        pattern: the template as a receipt states it.

    Raises:
        ConfigurationError: the document cannot be read.
    """
    return wanted_among(read_operations(spec_text), method, pattern)


def wanted_among(known: Iterable[tuple[str, str, dict[str, Any]]], method: str, pattern: str) -> Wanted | None:
    """Do the same for a document whose operations (template, method, object) were read before."""
    for template, operation_method, operation in known:
        if (template, operation_method) != (pattern, method):
            continue
        named = operation.get(CAPABILITY)
        first = next((one for one in named if isinstance(one, dict)), None) if isinstance(named, list) else None
        if first is None:
            return None
        server, tool, operations = first.get("server"), first.get("tool"), first.get("operations")
        if not isinstance(server, str) or not isinstance(tool, str):
            return Wanted()  # `[{}]`: any capability
        listed = tuple(one for one in operations if isinstance(one, str)) if isinstance(operations, list) else ()
        return Wanted(server, tool, listed or ("invoke",))
    return None
