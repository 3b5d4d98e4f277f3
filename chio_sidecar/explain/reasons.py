"""The reasons that a sidecar gives, and those of the application's side, each in plain words.

The texts themselves stand in `chio_core.models.demands`, or where they are made (`chio_sidecar.policy.rules`); here
they are templates: `{name}` stands for anything, and what it stood for can be used in the words. The first
template that fits counts, so the special ones come before the general ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Final

from chio_core.models import demands as reasons
from chio_sidecar.policy.rules import Rule

FRESH: Final = "issue a fresh one"


@dataclass(frozen=True, slots=True)
class Known:
    """One reason.

    Attributes:
        rule: its short name; R1 to R8 are those of wire protocol, section 1.6.
        text: template of the exact text.
        why: what it means. A name that ends in `_time` stands for the moment of that name, in UTC.
        remedy: what to do.
        issue: a capability that is issued now would help.
    """

    rule: str
    text: str
    why: str
    remedy: str
    issue: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A reason that was recognised, and what its placeholders stood for."""

    known: Known
    values: Mapping[str, str]

    @property
    def why(self) -> str:
        """What it means, placeholders filled in."""
        return _filled(self.known.why, self.values)

    @property
    def remedy(self) -> str:
        """What to do, placeholders filled in."""
        return _filled(self.known.remedy, self.values)


REASONS: Final = (
    Known(
        "R1",
        reasons.BOTH_TOOL_FIELDS,
        "The question to the sidecar named a tool server without a tool, or a tool without a server.",
        "name both in the route's requirement, or neither",
    ),
    Known(
        "R5a",
        "invalid capability token: capability not yet valid (not_before: {not_before})",
        "The token counts from {not_before_time} on, and the sidecar's clock is not there yet.",
        "wait until then, or set the clocks of issuer and sidecar right (`chio-sidecar doctor`)",
    ),
    Known(
        "R5b",
        "invalid capability token: capability expired at {expires_at}",
        "The token counted until {expires_at_time}; it is over.",
        FRESH,
        issue=True,
    ),
    Known(
        "R2",
        "invalid capability token: {text}",
        "What stood in the capability header is no capability token: {text}.",
        "send the token as one line of JSON, exactly as it was issued",
        issue=True,
    ),
    Known(
        "R3",
        "capability issuer is not trusted",
        "The key that signed the token is neither the sidecar's own nor one that it was told to trust.",
        "name the issuer's public key in CHIO_TRUSTED_ISSUER_KEYS of the sidecar, or have the token issued by a key"
        " that it trusts",
        issue=True,
    ),
    Known(
        "R4",
        "capability signature verification failed",
        "The token was changed after it was signed, or it narrows itself in a way that this sidecar does not know.",
        "send the token exactly as it was issued, or issue a fresh one",
        issue=True,
    ),
    Known(
        "R6",
        reasons.NOT_GRANTED,
        "The token is good, but none of its grants allows tool {tool} on server {server} with these arguments: the"
        " names must be equal or *, the grant must contain the operation invoke, and each constraint must hold.",
        "present a capability that grants it; --token shows which condition fails",
        issue=True,
    ),
    Known(
        "R6x",
        "failed to evaluate capability scope: {text}",
        "A constraint of the token cannot be evaluated, so nothing is allowed: {text}.",
        "have the capability issued with a pattern that compiles (RE2 syntax)",
        issue=True,
    ),
    Known(
        "R7",
        reasons.OTHER_CAPABILITY,
        "The request names one capability by its id and presents another one.",
        "present the token that is named, or leave the id out",
    ),
    Known(
        "R8",
        reasons.NO_CAPABILITY,
        "This route may change something, and such a route runs only with a capability; none was presented.",
        "present a capability in the X-Chio-Capability header",
        issue=True,
    ),
    Known(
        "revoked",
        reasons.REVOKED,
        "The token was revoked (or released), for good.",
        FRESH,
        issue=True,
    ),
    Known(
        "revoked ancestor",
        Rule.ANCESTOR_REVOKED.text,
        "The token was derived from capability {id}, and that one was revoked, for good.",
        "have a capability issued that does not come from it",
        issue=True,
    ),
    Known(
        "invocations",
        reasons.EXHAUSTED,
        "The grant could be used {limit} times for tool {tool} on server {server}; all of them are spent.",
        FRESH,
        issue=True,
    ),
    Known(
        "authority",
        Rule.AUTHORITY_UNAVAILABLE.text,
        "The trust service that knows about revocations did not answer, so nobody could tell whether the token"
        " still counts.",
        "start the trust service, or correct --control-url and its token; then repeat the request",
    ),
    Known(
        "delegation",
        "delegation depth {depth} exceeds maximum {maximum}",
        "The token was handed on {depth} times; at most {maximum} are accepted.",
        "have one issued closer to the authority",
        issue=True,
    ),
    Known(
        "delegation",
        "delegation chain broken: {text}",
        "The token was handed on, and one step of that cannot be proven: {text}.",
        "have it handed on again by its holder",
        issue=True,
    ),
    Known(
        "nonce",
        "execution nonce preflight requires retry with presented nonce",
        "This sidecar wants each request twice: it gave a nonce, and the repetition has to present it.",
        "switch strict nonces off at the sidecar, or use a client that presents them",
    ),
    Known(
        "unsupported member",
        Rule.UNSUPPORTED.text,
        "The sidecar does not support the member {field}, which the route's approval or budget needs.",
        "use a sidecar that knows it, for example chio-sidecar of this distribution",
    ),
    Known(
        "requirement",
        "Chio capability required for {server}/{tool}",
        "This route asks for a capability for tool {tool} on server {server}; none was presented.",
        "present one in the X-Chio-Capability header",
        issue=True,
    ),
    Known(
        "requirement",
        "Chio capability required",
        "This route asks for a capability; none was presented.",
        "present any valid one in the X-Chio-Capability header",
        issue=True,
    ),
    Known(
        "requirement",
        "the capability presented does not authorize any capability",
        "This route asks for a capability, and the sidecar did not take the one that was presented for valid.",
        "present a valid one",
        issue=True,
    ),
    Known(
        "requirement",
        "the capability presented does not authorize {server}/{tool}",
        "The sidecar allowed the request, and the application looked at the token once more: no grant of it allows"
        " tool {tool} on server {server} with all operations that the route asks for.",
        "present a capability that grants it",
        issue=True,
    ),
)


def recognise(reason: str, more: tuple[Known, ...] = ()) -> Found | None:
    """Return what a reason means; None for a text that is not known here.

    Args:
        more: further reasons, looked at first.
    """
    for known in (*more, *REASONS):
        if match := _pattern(known.text).fullmatch(reason):
            return Found(known, match.groupdict())
    return None


def utc(seconds: str) -> str:
    """Return a moment in UTC, given whole seconds since 1970 as text; the text itself where that is no moment."""
    try:
        return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return seconds


@cache
def _pattern(template: str) -> re.Pattern[str]:
    # Literal texts and names in turn; a name takes as much as it can, and the same where it stands again.
    found, seen = [], set()
    for at, part in enumerate(re.split(r"\{(\w+)\}", template)):
        if at % 2 == 0:
            found.append(re.escape(part))
        else:
            found.append(f"(?P={part})" if part in seen else f"(?P<{part}>.+)")
            seen.add(part)
    return re.compile("".join(found), re.DOTALL)


def _filled(template: str, values: Mapping[str, str]) -> str:
    times = {f"{name}_time": utc(value) for name, value in values.items()}
    return re.sub(r"\{(\w+)\}", lambda match: (times | dict(values)).get(match[1], match[0]), template)
