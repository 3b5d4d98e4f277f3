"""`try_token`: hold a token against each rule of the sidecar, and say which it fails. Nothing is stored or spent.

The rules and their order are those of `chio_sidecar.policy.engine`. Unlike the engine, which
ends at the first rule that refuses, the trial goes on, so that one run shows everything that is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from chio_core.capabilities import (
    DEFAULT_MAX_DEPTH,
    CapabilityRejected,
    ConstraintError,
    match_grant,
    parse_capability,
    verify_capability,
    verify_delegation_chain,
)
from chio_core.capabilities.constraints import Arguments, Call, holds
from chio_core.errors import InvalidDocument
from chio_core.models.capability import CapabilityToken, Constraint, ToolGrant
from chio_core.models.demands import NOT_GRANTED
from chio_sidecar.explain.explanation import Wanted
from chio_sidecar.explain.reasons import utc
from chio_sidecar.policy.routes import SESSION_ALLOW, RouteTable
from chio_sidecar.records.reader import ReceiptReader

Result = Literal["ok", "fail", "no", "unknown"]


@dataclass(frozen=True, slots=True)
class Step:
    """One rule.

    Attributes:
        result: `fail` refuses the request. `no` is said of one grant of several, which does not refuse by itself.
            `unknown`: something that would have to be known was not given.
        text: what was found, one sentence.
    """

    name: str
    result: Result
    text: str


@dataclass(frozen=True, slots=True)
class Trial:
    """What a request would be.

    Attributes:
        method, path: None when no request is meant: then only the token counts.
        server, tool: what the route asks for; None: it names no tool.
        arguments: what the grant's constraints are held against.
        issuers: public keys that are trusted; None when nobody knows them.
        routes: the sidecar's route table.
        store: a store that knows revocations and spent uses; None without a store.
        now: whole seconds since 1970.
    """

    now: int
    method: str | None = None
    path: str | None = None
    server: str | None = None
    tool: str | None = None
    operations: tuple[str, ...] = ("invoke",)
    arguments: Any = None
    issuers: Collection[str] | None = None
    routes: RouteTable | None = None
    store: ReceiptReader | None = None


def try_token(text: str | bytes, trial: Trial) -> list[Step]:
    """Return what each rule says about a token, in the sidecar's order."""
    steps = list(_policy(trial))
    try:
        token = parse_capability(text)
    except CapabilityRejected as exc:
        return [*steps, Step("form", "fail", exc.reason)]
    title = ", ".join(Wanted.of_grant(grant).title for grant in token.scope.grants) or "no tool"
    steps.append(Step("form", "ok", f"capability {token.id}, which grants {title}"))
    steps += [_issuer(token, trial), _signature(token, trial), _time(token, trial)]
    steps += _scope(token, trial)
    steps.append(_delegation(token))
    steps += _ledger(token, trial)
    return steps


def _policy(trial: Trial) -> Iterator[Step]:
    if trial.method is None or trial.path is None:
        return
    if trial.routes is None:
        yield Step("route", "unknown", f"no OpenAPI document was given, so {trial.path} is judged by its method alone")
    rule = (trial.routes or RouteTable.by_method()).match(trial.method, trial.path)
    need = "no capability is needed" if rule.policy == SESSION_ALLOW else "a valid capability is needed"
    yield Step("policy", "ok", f"{trial.method} {rule.pattern}: {need}; one that is presented has to be valid")


def _issuer(token: CapabilityToken, trial: Trial) -> Step:
    if trial.issuers is None:
        return Step("issuer", "unknown", f"it is issued by {token.issuer}; which keys the sidecar trusts is not known")
    if token.issuer in trial.issuers:
        return Step("issuer", "ok", f"it is issued by {token.issuer}, which is trusted")
    return Step("issuer", "fail", f"capability issuer is not trusted: it is {token.issuer}")


def _signature(token: CapabilityToken, trial: Trial) -> Step:
    # The time is asked for elsewhere, so here it is one at which the token counts.
    try:
        verify_capability(token, now=token.issued_at, check_delegation=False)
    except CapabilityRejected as exc:
        if exc.rule == "R4":
            return Step("signature", "fail", exc.reason)
    return Step("signature", "ok", "the signature is the issuer's, over every member")


def _time(token: CapabilityToken, trial: Trial) -> Step:
    begin, end = utc(str(token.issued_at)), utc(str(token.expires_at))
    if trial.now < token.issued_at:
        wait = token.issued_at - trial.now
        return Step("time", "fail", f"it counts from {begin} on, which is in {wait} s by this clock")
    if trial.now >= token.expires_at:
        return Step("time", "fail", f"it expired at {end}, {trial.now - token.expires_at} s ago")
    return Step("time", "ok", f"it counts until {end}, for {token.expires_at - trial.now} s more")


def _delegation(token: CapabilityToken) -> Step:
    chain = token.delegation_chain
    try:
        verify_delegation_chain(chain, max_depth=DEFAULT_MAX_DEPTH, accept_newer=True)
    except CapabilityRejected as exc:
        return Step("delegation", "fail", exc.reason)
    return Step("delegation", "ok", f"{len(chain)} steps, each proven" if chain else "it was not handed on")


def _scope(token: CapabilityToken, trial: Trial) -> Iterator[Step]:
    if trial.server is None or trial.tool is None:
        yield Step("scope", "ok", "no tool is named, so the scope is not looked at")
        return
    wanted = Wanted(trial.server, trial.tool, trial.operations).title
    try:
        call = Call(Arguments(trial.arguments))
        index = match_grant(token, trial.server, trial.tool, trial.arguments)
    except ConstraintError as exc:
        yield Step("scope", "fail", exc.reason)
        return
    except InvalidDocument as exc:
        yield Step("scope", "fail", exc.message)
        return
    for number, grant in enumerate(token.scope.grants):
        yield from _grant(number, grant, trial, call)
    if index is None:
        yield Step("scope", "fail", NOT_GRANTED.format(tool=trial.tool, server=trial.server))
    elif missing := token.scope.grants[index].lacks(trial.operations):
        yield Step("scope", "fail", f"grant {index}, the first that fits, lacks the operations {', '.join(missing)}")
    else:
        yield Step("scope", "ok", f"grant {index} allows {wanted}")


def _grant(number: int, grant: ToolGrant, trial: Trial, call: Call) -> Iterator[Step]:
    name = f"grant {number}"
    pairs = (("server", grant.server_id, trial.server), ("tool", grant.tool_name, trial.tool))
    for what, granted, asked in pairs:
        if granted not in ("*", asked):
            yield Step(name, "no", f"does not fit: its {what} is {granted}, asked for is {asked}")
            return
    if "invoke" not in grant.operations:
        granted = ", ".join(grant.operations) or "no operation"
        yield Step(name, "no", f"does not fit: it grants {granted}, not invoke")
        return
    for constraint in grant.constraints:
        yield _constraint(name, constraint, call)
    if not grant.constraints:
        yield Step(name, "ok", "fits, and has no constraints")


def _constraint(name: str, constraint: Constraint, call: Call) -> Step:
    text = json.dumps(constraint.to_signed(), ensure_ascii=True, separators=(",", ":"))
    if holds(constraint, call):
        return Step(name, "ok", f"constraint holds: {text}")
    return Step(name, "no", f"constraint does not hold for these arguments: {text}")


def _ledger(token: CapabilityToken, trial: Trial) -> Iterator[Step]:
    if trial.store is None:
        yield Step("revocation", "unknown", "no store was given, so revocations and spent uses are not known")
        return
    lineage = dict.fromkeys((token.id, *(link.capability_id for link in token.delegation_chain)))
    revoked = next((name for name in lineage if trial.store.is_revoked(name)), None)
    if revoked is not None:
        yield Step("revocation", "fail", f"capability {revoked} was revoked")
    else:
        yield Step("revocation", "ok", "it was not revoked in this store")
    yield from _uses(token, trial, trial.store)


def _uses(token: CapabilityToken, trial: Trial, store: ReceiptReader) -> Iterator[Step]:
    # Only the first grant that fits is spent from; a use of the others is none.
    number = _first_that_fits(token, trial)
    limit = None if number is None else token.scope.grants[number].max_invocations
    if number is not None and limit is not None:
        spent = store.invocations(token.id, number)
        yield Step("uses", "ok" if spent < limit else "fail", f"{spent} of {limit} uses of grant {number} are spent")


def _first_that_fits(token: CapabilityToken, trial: Trial) -> int | None:
    if trial.server is None or trial.tool is None:
        return None
    try:
        return match_grant(token, trial.server, trial.tool, trial.arguments)
    except InvalidDocument:
        return None
