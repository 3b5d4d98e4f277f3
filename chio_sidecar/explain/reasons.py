"""What each reason of a refusal means, in plain words.

A receipt of this sidecar names the rule that refused. Other documents state the exact text only: problem documents, and
receipts of other sidecars. The rule is then found by the templates of the texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Final

from chio_sidecar.policy.rules import HINTS, Rule

_FRESH = "issue a fresh one"
_NEW_APPROVAL = HINTS[Rule.APPROVAL_DENIED.guard]
_REPEAT = (
    "have an operator approve it, then repeat exactly the same request with the approval's id in the X-Chio-Approval"
    " header"
)
_WAIT = "approve or deny some of them, or wait until they expire"
_SPEND_LESS = HINTS[Rule.TOTAL_EXCEEDED.guard]


@dataclass(frozen=True, slots=True)
class Words:
    """An explanation with placeholders, for example `{tool}`, for values of the reason.

    Attributes:
        why: what the reason means. `{expires_at_time}` is the moment `expires_at` in UTC, and so on.
        remedy: what to do.
        issue: a capability that is issued now would help.
    """

    why: str
    remedy: str
    issue: bool = False


WORDS: Final[Mapping[Rule, Words]] = {
    Rule.BOTH_TOOL_FIELDS: Words(
        "The request to the sidecar named a tool server without a tool, or a tool without a server.",
        "name both in the route's requirement, or neither",
    ),
    Rule.TOKEN_UNREADABLE: Words(
        "The capability header holds no capability token: {text}.",
        "send the token as one line of JSON, exactly as it was issued",
        issue=True,
    ),
    Rule.ISSUER_UNTRUSTED: Words(
        "The key that signed the token is neither the sidecar's key nor one that it trusts, or the key that signed the"
        " token or a link of its delegation was withdrawn.",
        "if the key was withdrawn (trust revoke --issuer), have a new capability issued with the present key; only if"
        " it was not, and the sidecar is to trust it, name the key in CHIO_TRUSTED_ISSUER_KEYS of the sidecar",
        issue=True,
    ),
    Rule.BAD_SIGNATURE: Words(
        "The token was changed after it was signed, or it narrows itself in a way that this sidecar does not know.",
        "send the token exactly as it was issued, or issue a fresh one",
        issue=True,
    ),
    Rule.NOT_YET_VALID: Words(
        "The token is valid from {not_before_time} on, and the sidecar's clock is not there yet.",
        "wait until then, or set the clocks of issuer and sidecar right (`chio-sidecar doctor`)",
    ),
    Rule.EXPIRED: Words("The token was valid until {expires_at_time}.", _FRESH, issue=True),
    Rule.NOT_GRANTED: Words(
        "The token is valid, but none of its grants allows tool {tool} on server {server} with these arguments: the"
        " names must be equal or *, the grant must contain the operation invoke, and each constraint must hold.",
        "present a capability that grants it; --token shows which condition fails",
        issue=True,
    ),
    Rule.BAD_PATTERN: Words(
        "A constraint of the token cannot be evaluated, so nothing is allowed: {text}.",
        "have the capability issued with a pattern that compiles (RE2 syntax)",
        issue=True,
    ),
    Rule.OTHER_CAPABILITY: Words(
        "The request names one capability by its id and presents another one.",
        "present the token that is named, or leave the id out",
    ),
    Rule.NO_CAPABILITY: Words(
        "This route may change something, so it needs a capability; none was presented.",
        "present a capability in the X-Chio-Capability header",
        issue=True,
    ),
    Rule.DELEGATION: Words(
        "The token was delegated, and its delegation chain is not accepted: delegation {text}.",
        "have its holder delegate it again, or have one issued closer to the authority",
        issue=True,
    ),
    Rule.OTHER_HOLDER: Words(
        "The token was issued to one caller (its constraint chio_holder), and another one presents it: another user,"
        " session or bearer token, or none.",
        "present it as the caller that it was issued to, or have a capability issued to this caller",
        issue=True,
    ),
    Rule.UNSUPPORTED: Words(
        "The sidecar does not support the member {field}, which the route's approval or budget needs.",
        "use a sidecar that knows it, for example chio-sidecar of this distribution",
    ),
    Rule.REVOKED: Words(
        "The token has been revoked (or released). A revocation is permanent.",
        "issue a new capability for the same server and tool as the revoked one",
        issue=True,
    ),
    Rule.ANCESTOR_REVOKED: Words(
        "The token was derived from capability {id}, which was revoked. A revocation is permanent.",
        "have a capability issued that does not come from it",
        issue=True,
    ),
    Rule.AUTHORITY_UNAVAILABLE: Words(
        "The trust service that knows about revocations did not answer, so the token may be a revoked one.",
        "start the trust service, or correct --control-url and its token; then repeat the request",
    ),
    Rule.NOT_ENFORCED: Words(
        "The token states a restriction that is not enforced for this route, so it does not count here: {members}."
        " Limits of cost need a route that states its cost (a budget), require_approval_above needs one that demands an"
        " approval from that amount on; docs/security.md lists what is enforced, and where.",
        "present a capability without this restriction",
        issue=True,
    ),
    Rule.EXHAUSTED: Words(
        "The grant could be used {limit} times for tool {tool} on server {server}, by all tokens of one descent"
        " together; all of them are spent.",
        _FRESH,
        issue=True,
    ),
    Rule.APPROVAL_NEEDED: Words("A person has to approve exactly this request, and has not done so yet.", _REPEAT),
    Rule.APPROVAL_DENIED: Words("A person denied this request (approval {id}).", _NEW_APPROVAL),
    Rule.APPROVAL_UNKNOWN: Words("This store holds no approval with the id {id}.", _NEW_APPROVAL),
    Rule.APPROVAL_OTHER: Words(
        "Approval {id} was given for a request that differs: in method, route, path, query, body, caller, capability,"
        " arguments or amount.",
        "repeat exactly the request that was approved, or have this one approved",
    ),
    Rule.APPROVAL_EXPIRED: Words("Approval {id} has expired; an approval is valid for an hour.", _NEW_APPROVAL),
    Rule.APPROVAL_USED: Words("An approval is valid for one request, and {id} was used.", _NEW_APPROVAL),
    Rule.APPROVAL_REPLAYED: Words(
        "An approver's token is valid for one approval, and the one of {id} was used for another.",
        "have the approver sign a new one",
    ),
    Rule.TOO_MANY_OWN: Words("{limit} requests of this caller wait for an approval, which is the most.", _WAIT),
    Rule.TOO_MANY: Words("{limit} requests wait for an approval, which is the most.", _WAIT),
    Rule.APPROVER_UNTRUSTED: Words(
        "The key that signed the approval may not approve here.",
        "name it in CHIO_TRUSTED_APPROVERS of the sidecar, or have a trusted approver sign",
    ),
    Rule.APPROVAL_TOKEN_UNREADABLE: Words(
        "The X-Chio-Approval header holds neither the id of an approval nor a token: {why}.",
        "send the id, or the token as one line of JSON",
    ),
    Rule.APPROVAL_TOKEN_SIGNATURE: Words(
        "The approval was changed after it was signed.", "send it exactly as it was signed"
    ),
    Rule.APPROVAL_TOKEN_OTHER: Words(
        "The approval was signed for a request that differs from this one.",
        "repeat exactly the request that was approved",
    ),
    Rule.APPROVAL_TOKEN_SUBJECT: Words(
        "The approval was signed for the holder of another capability.",
        "present the capability for which it was signed",
    ),
    Rule.APPROVAL_TOKEN_TOO_LONG: Words(
        "An approval may be valid for {seconds} s at most, and this one states more.",
        "have the approver sign a shorter one",
    ),
    Rule.APPROVAL_TOKEN_NOT_YET: Words(
        "The approval is valid from {issued_at_time} on, and the sidecar's clock is not there yet.",
        "wait until then, or set the clocks right",
    ),
    Rule.APPROVAL_TOKEN_EXPIRED: Words(
        "The approval was valid until {expires_at_time}.", "have the approver sign a new one"
    ),
    Rule.BUDGET_CURRENCY: Words(
        "The application counts in {stated} and the sidecar's document in {route}, which cannot be compared.",
        "state one currency in both places",
    ),
    Rule.GRANT_CURRENCY: Words(
        "The application counts in {currency}, the capability limits {spender} in {limit}: not to be compared.",
        "ask the authority for a capability whose limits are in {currency}",
    ),
    Rule.COST_TOO_HIGH: Words(
        "One invocation of {spender} may cost {most} {currency}, and this one costs {cost}.", _SPEND_LESS
    ),
    Rule.NO_INVOCATION: Words(
        "{spender} may be invoked {most} times with this capability (without one: by this caller), and was.",
        _SPEND_LESS,
    ),
    Rule.TOTAL_EXCEEDED: Words(
        "{spender} may cost {most} {currency} in all; {left} are left, and this request costs {cost}.", _SPEND_LESS
    ),
    Rule.FOLLOW_UP_UNKNOWN: Words(
        "The application had one request evaluated twice, and this store does not hold receipt {id} of the first"
        " evaluation.",
        "let all sidecars of one application share one store, and repeat the request",
    ),
    Rule.FOLLOW_UP_NO_ALLOW: Words(
        "Receipt {id} records a refusal, belongs to a second evaluation itself, or was signed with another key.",
        "repeat the request",
    ),
    Rule.FOLLOW_UP_OTHER: Words(
        "Receipt {id} differs from this request in method, route, path, query, body, caller, capability or document.",
        "repeat the request",
    ),
    Rule.FOLLOW_UP_TOO_OLD: Words(
        "The second evaluation of one request came more than {within} s after {id}, the receipt of the first.",
        "find out what takes so long between the checks of one route, and repeat the request",
    ),
}
"""The rules of this sidecar, by which other sidecars refuse as well."""

FOREIGN: Final[Mapping[str, tuple[str, Words]]] = {
    "execution nonce preflight requires retry with presented nonce": (
        "nonce",
        Words(
            "This sidecar wants each request twice: it gave a nonce, and the repetition has to present it.",
            "switch strict nonces off at the sidecar, or use a client that presents them",
        ),
    ),
    "Chio capability required for {server}/{tool}": (
        "requirement",
        Words(
            "This route requires a capability for tool {tool} on server {server}; none was presented.",
            "present one in the X-Chio-Capability header",
            issue=True,
        ),
    ),
    "Chio capability required": (
        "requirement",
        Words(
            "This route requires a capability; none was presented.",
            "present any valid one in the X-Chio-Capability header",
            issue=True,
        ),
    ),
    "the capability presented does not authorize any capability": (
        "requirement",
        Words(
            "This route requires a capability, and the sidecar did not find the presented one valid.",
            "present a valid one",
            issue=True,
        ),
    ),
    "the capability presented does not authorize {server}/{tool}": (
        "requirement",
        Words(
            "The sidecar allowed the request, but the application checks the token once more: no grant of it allows"
            " tool {tool} on server {server} with all operations that the route requires.",
            "present a capability that grants it",
            issue=True,
        ),
    ),
}
"""Texts of other sidecars and of applications, each with the short name of its rule."""

ANY_REQUIRED: Final = frozenset(
    {"Chio capability required", "the capability presented does not authorize any capability"}
)
"""Texts of applications whose route names no tool, so that any valid capability is enough."""


@dataclass(frozen=True, slots=True)
class Found:
    """The explanation of one reason.

    Attributes:
        rule: id of the rule.
        issue: a capability that is issued now would help.
        values: texts for the placeholders of the reason's template.
    """

    rule: str
    why: str
    remedy: str
    issue: bool
    values: Mapping[str, str]


def recognise(reason: str, rule_id: str | None = None) -> Found | None:
    """Return what a reason means; None for an unknown text of an unknown rule.

    Args:
        reason: the exact text.
        rule_id: the rule that the receipt names.
    """
    for rule, pattern, words in _known():
        match = pattern.fullmatch(reason)
        if rule == rule_id or (match and rule_id is None):
            values = match.groupdict() if match else {}
            return Found(rule, _filled(words.why, values), _filled(words.remedy, values), words.issue, values)
    return None if rule_id is None else recognise(reason)


def utc(seconds: str) -> str:
    """Return a moment in UTC, given whole seconds since 1970 as text; the text itself if it is no moment."""
    try:
        return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return seconds


@cache
def _known() -> tuple[tuple[str, re.Pattern[str], Words], ...]:
    """Return the id, the pattern and the words of each reason, the most special pattern first."""
    known = [(rule.id, rule.text, words) for rule, words in WORDS.items()]
    known += [(rule, text, words) for text, (rule, words) in FOREIGN.items()]
    # The template with the longest literal text is the most special one that fits.
    known.sort(key=lambda entry: -len(re.sub(r"\{\w+\}", "", entry[1])))
    patterns = []
    for rule, text, words in known:
        # Literal texts and names in turn. A name matches as much as it can, and the same text if it occurs again.
        found, seen = [], set()
        for at, part in enumerate(re.split(r"\{(\w+)\}", text)):
            if at % 2 == 0:
                found.append(re.escape(part))
            else:
                found.append(f"(?P={part})" if part in seen else f"(?P<{part}>.+)")
                seen.add(part)
        patterns.append((rule, re.compile("".join(found), re.DOTALL), words))
    return tuple(patterns)


def _filled(template: str, values: Mapping[str, str]) -> str:
    known = {**{f"{name}_time": utc(value) for name, value in values.items()}, **values}
    return re.sub(r"\{(\w+)\}", lambda match: known.get(match[1], "?"), template)
