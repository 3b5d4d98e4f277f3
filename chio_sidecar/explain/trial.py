"""`try_token`: check a token by each rule of the sidecar, and say which it fails. Nothing is stored or spent.

The rules and their order are those of `chio_sidecar.policy.engine`. The engine ends at the first rule that refuses; the
trial goes on, so that one run shows everything that is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from chio_core.capabilities import (
    DEFAULT_MAX_DEPTH,
    CapabilityRejected,
    ConstraintError,
    matching_grants,
    parse_capability,
    verify_capability,
    verify_token_chain,
)
from chio_core.capabilities.constraints import Arguments, Call, holds
from chio_core.capabilities.restrictions import (
    Enforced,
    NotEnforced,
    by_sidecar,
    shared_uses,
    usable_grant,
    void_because,
    void_scope,
)
from chio_core.capabilities.scope import holders_of
from chio_core.errors import InvalidDocument
from chio_core.models.capability import CapabilityToken
from chio_core.models.demands import NOT_ENFORCED, NOT_GRANTED, OTHER_HOLDER
from chio_sidecar.explain.explanation import Wanted, compact_ascii
from chio_sidecar.explain.reasons import utc
from chio_sidecar.policy.budgets import shared_index
from chio_sidecar.policy.routes import SESSION_ALLOW, RouteTable
from chio_sidecar.records.archive import ReceiptArchive
from chio_sidecar.store.issuers import issuer_name

if TYPE_CHECKING:
    from chio_sidecar.trust.client import TrustClient

Result = Literal["ok", "fail", "no", "unknown"]


@dataclass(frozen=True, slots=True)
class Step:
    """One rule.

    Attributes:
        result: `fail` refuses the request; `no` concerns one grant of several, which does not refuse by itself;
            `unknown`: a fact that the rule needs was not given.
        text: one sentence.
    """

    name: str
    result: Result
    text: str


@dataclass(frozen=True, slots=True)
class Trial:
    """The request, and the facts about the sidecar.

    Attributes:
        now: whole seconds since 1970.
        method, path: None to check the token without a request.
        server, tool: what the route requires; None: it names no tool.
        arguments: value that the grant's constraints are checked with.
        holder: `CallerIdentity.holder` of the caller; None if it is not known.
        issuers: trusted public keys (hex); None if they are not known.
        routes: the sidecar's route table.
        store: the sidecar's store; None if it is not known.
        service: the trust service whose revocations count too; None without one.
    """

    now: int
    method: str | None = None
    path: str | None = None
    server: str | None = None
    tool: str | None = None
    operations: tuple[str, ...] = ("invoke",)
    arguments: Any = None
    holder: str | None = None
    issuers: Collection[str] | None = None
    routes: RouteTable | None = None
    store: ReceiptArchive | None = None
    service: TrustClient | None = None

    def is_revoked(self, name: str) -> bool:
        """Return True if a capability, or the key of an issuer by its name, was revoked in the store or the service.

        Raises:
            ConfigurationError: the store cannot be read, or the service does not answer.
        """
        return any(place.is_revoked(name) for place in (self.store, self.service) if place is not None)


def try_token(text: str | bytes, trial: Trial) -> list[Step]:
    """Return what each rule says about a token, in the sidecar's order.

    Raises:
        ConfigurationError: the store cannot be read, or the trust service does not answer.
    """
    steps: list[Step] = []
    if trial.method is not None and trial.path is not None:
        if trial.routes is None:
            reason = f"no OpenAPI document was given, so only the method of {trial.path} counts"
            steps.append(Step("route", "unknown", reason))
        rule = (trial.routes or RouteTable.by_method()).match(trial.method, trial.path)
        need = "no capability is needed" if rule.policy == SESSION_ALLOW else "a valid capability is needed"
        steps.append(Step("policy", "ok", f"{trial.method} {rule.pattern}: {need}; a presented one has to be valid"))
    try:
        token = parse_capability(text)
    except CapabilityRejected as exc:
        return [*steps, Step("form", "fail", exc.reason)]
    title = ", ".join(Wanted.of_grant(grant).title for grant in token.scope.grants) or "no tool"
    steps.append(Step("form", "ok", f"capability {token.id}, which grants {title}"))

    steps.append(_issuer(token, trial))
    signature = Step("signature", "ok", "the signature is the issuer's, over every member")
    try:
        # The time is the next step's subject: at `issued_at` only the signature can fail.
        verify_capability(token, now=token.issued_at, check_delegation=False)
    except CapabilityRejected as exc:
        if exc.rule == "R4":
            signature = Step("signature", "fail", exc.reason)
    steps.append(signature)

    begin, end = utc(str(token.issued_at)), utc(str(token.expires_at))
    if trial.now < token.issued_at:
        reason = f"it is valid from {begin} on, which is in {token.issued_at - trial.now} s by this clock"
        steps.append(Step("time", "fail", reason))
    elif trial.now >= token.expires_at:
        steps.append(Step("time", "fail", f"it expired at {end}, {trial.now - token.expires_at} s ago"))
    else:
        steps.append(Step("time", "ok", f"it is valid until {end}, for {token.expires_at - trial.now} s more"))

    steps += _holder(token, trial)
    if trial.holder is None and (holders := holders_of(token)):
        trial = replace(trial, holder=min(holders))  # the other steps are about this caller then
    steps += _scope(token, trial)
    chain = token.delegation_chain
    try:
        verify_token_chain(token, max_depth=DEFAULT_MAX_DEPTH, accept_newer=True)
    except CapabilityRejected as exc:
        steps.append(Step("delegation", "fail", exc.reason))
    else:
        proven = f"{len(chain)} steps, each proven" if chain else "it was not delegated"
        steps.append(Step("delegation", "ok", proven))
    return [*steps, *_store(token, trial)]


def _issuer(token: CapabilityToken, trial: Trial) -> Step:
    # A withdrawn key counts for nothing that it has signed: neither a token nor a link of its delegation.
    for key in dict.fromkeys((token.issuer, *(link.delegator for link in token.delegation_chain))):
        if trial.is_revoked(issuer_name(key)):
            signed = "" if key == token.issuer else ", which signed a link of its delegation,"
            return Step("issuer", "fail", f"capability issuer is not trusted: {key}{signed} was withdrawn")
    if trial.issuers is None:
        return Step("issuer", "unknown", f"it is issued by {token.issuer}; the sidecar's trusted keys are not known")
    if token.issuer in trial.issuers:
        return Step("issuer", "ok", f"it is issued by {token.issuer}, which is trusted")
    return Step("issuer", "fail", f"capability issuer is not trusted: it is {token.issuer}")


def _holder(token: CapabilityToken, trial: Trial) -> Iterator[Step]:
    for holder in sorted(holders_of(token)):
        if trial.holder is None:
            yield Step("holder", "unknown", f"only the holder {holder} may present it; --holder was not given")
        elif trial.holder == holder:
            yield Step("holder", "ok", f"the caller is its holder {holder}")
        else:
            yield Step("holder", "fail", f"{OTHER_HOLDER}: it is {holder}")


def _any_scope(token: CapabilityToken, trial: Trial) -> Step:
    """Return what the scope means where no tool is named; a safe request needs no capability."""
    safe = False
    if trial.method is not None and trial.path is not None:
        safe = (trial.routes or RouteTable.by_method()).match(trial.method, trial.path).policy == SESSION_ALLOW
    if not safe and (void := void_scope(token)):
        return Step("scope", "fail", NOT_ENFORCED.format(members=", ".join(void)))
    return Step("scope", "ok", "no tool is named, so the scope does not count")


def _scope(token: CapabilityToken, trial: Trial) -> Iterator[Step]:
    if trial.server is None or trial.tool is None:
        yield _any_scope(token, trial)
        return
    try:
        call = Call(Arguments(trial.arguments), holder=trial.holder)
        matching = matching_grants(token, trial.server, trial.tool, trial.arguments, holder=trial.holder)
    except (ConstraintError, InvalidDocument) as exc:
        yield Step("scope", "fail", exc.reason if isinstance(exc, ConstraintError) else exc.message)
        return
    for number, grant in enumerate(token.scope.grants):
        name = f"grant {number}"
        if grant.server_id not in ("*", trial.server):
            yield Step(name, "no", f"does not fit: its server is {grant.server_id}, required is {trial.server}")
        elif grant.tool_name not in ("*", trial.tool):
            yield Step(name, "no", f"does not fit: its tool is {grant.tool_name}, required is {trial.tool}")
        elif "invoke" not in grant.operations:
            granted = ", ".join(grant.operations) or "no operation"
            yield Step(name, "no", f"does not fit: it grants {granted}, not invoke")
        elif not grant.constraints:
            yield Step(name, "ok", "fits, and has no constraints")
        else:
            for constraint in grant.constraints:
                document = compact_ascii(constraint.to_signed())
                if holds(constraint, call):
                    yield Step(name, "ok", f"constraint holds: {document}")
                else:
                    yield Step(name, "no", f"constraint does not hold for these arguments: {document}")
    # A limit of cost and an approval depend on the route's budget and approval, which are not known here.
    for number in matching:
        grant = token.scope.grants[number]
        if void := void_because(grant):
            yield Step(f"grant {number}", "no", NOT_ENFORCED.format(members=", ".join(void)))
        for name in by_sidecar(grant):
            if name != "max_invocations":
                yield Step(f"grant {number}", "unknown", f"{name} has to be enforced by the route's budget or approval")
    if not matching:
        yield Step("scope", "fail", NOT_GRANTED.format(tool=trial.tool, server=trial.server))
        return
    try:
        index = usable_grant(token, matching, trial.server, trial.tool, Enforced(costs=True, approval_from=0))
    except (NotEnforced, CapabilityRejected) as exc:
        yield Step("scope", "fail", exc.reason)
        return
    if missing := token.scope.grants[index].lacks(trial.operations):
        yield Step("scope", "fail", f"grant {index}, the first that fits, lacks the operations {', '.join(missing)}")
    else:
        title = Wanted(trial.server, trial.tool, trial.operations).title
        yield Step("scope", "ok", f"grant {index} allows {title}")


def _store(token: CapabilityToken, trial: Trial) -> Iterator[Step]:
    store = trial.store
    lineage = dict.fromkeys((token.id, *(link.capability_id for link in token.delegation_chain)))
    revoked = next((name for name in lineage if trial.is_revoked(name)), None)
    if revoked is not None:
        yield Step("revocation", "fail", f"capability {revoked} was revoked")
    elif store is not None:
        asked = "this store" if trial.service is None else "this store, nor at the trust service"
        yield Step("revocation", "ok", f"it was not revoked in {asked}")
    elif trial.service is not None:
        yield Step("revocation", "ok", "it was not revoked at the trust service; a sidecar's own store was not given")
    if store is None:
        if trial.service is None:
            yield Step("revocation", "unknown", "no store was given, so revocations and spent uses are not known")
        return

    # A use is spent from the first grant that fits and is enforced, and from what all tokens of one descent share.
    if trial.server is None or trial.tool is None:
        return
    try:
        matching = matching_grants(token, trial.server, trial.tool, trial.arguments, holder=trial.holder)
        if not matching:
            return
        number = usable_grant(token, matching, trial.server, trial.tool, Enforced(costs=True, approval_from=0))
    except InvalidDocument:
        return
    limit = token.scope.grants[number].max_invocations
    if limit is not None:
        spent = store.invocations(token.id, number)
        yield Step("uses", "ok" if spent < limit else "fail", f"{spent} of {limit} uses of grant {number} are spent")
    for one in shared_uses(token, number, trial.server, trial.tool):
        spent = store.invocations(one.capability_id, shared_index(one.server, one.tool))
        text = f"{spent} of {one.limit} uses by {one.capability_id} and all tokens derived from it are spent"
        yield Step("uses", "ok" if spent < one.limit else "fail", text)
