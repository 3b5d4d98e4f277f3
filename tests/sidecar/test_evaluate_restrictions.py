"""Restrictions of a capability beside the call itself: enforced for this request, or the capability does not count."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from chio_core.capabilities import issue_capability, sign_link
from chio_core.capabilities.restrictions import BY_SIDECAR, GRANT, REFUSED
from chio_core.capabilities.scope import bound
from chio_core.errors import InvalidDocument
from chio_core.models.capability import Attenuation, CapabilityToken
from chio_core.models.demands import ApprovalDemand, BudgetDemand
from chio_core.models.request import CallerIdentity
from chio_core.outbound import attenuate
from chio_core.signing import SigningKey
from chio_sidecar.app import SidecarApp
from tests.sidecar.fsck_tools import inspect
from tests.sidecar.sidecar_tools import (
    AUTHORITY,
    HOLDER,
    KERNEL,
    NOW,
    SERVER,
    STRANGER,
    TOOL,
    capability,
    decision,
    evaluate,
    grant,
    sidecar,
    token_text,
)

NUMBERS = itertools.count()
WITH_TOOL = {"method": "POST", "tool_server": SERVER, "tool_name": TOOL}
WITHOUT_TOOL = {"method": "POST"}
USD = {"units": 5, "currency": "USD"}
VALUES: dict[str, Any] = {
    "governed_intent_required": None,
    "seller_exact": "shop",
    "minimum_runtime_assurance": "verified",
    "minimum_autonomy_tier": "autonomous",
    "table_allowlist": ["orders"],
    "column_denylist": ["secret"],
    "max_rows_returned": 0,
    "operation_class": "read_only",
    "content_review_tier": "basic",
    "max_transaction_amount_usd": "1.00",
    "require_dual_approval": True,
}


def constrained(kind: str, value: Any) -> dict[str, Any]:
    return grant(constraints=[{"type": kind} if value is None else {"type": kind, "value": value}])


def altered(change: Any) -> CapabilityToken:
    """A token into which somebody wrote members that the signature does not cover."""
    document = capability(grants=[constrained("require_approval_above", {"threshold_units": 5})]).to_wire()
    change(document["scope"])
    return CapabilityToken.model_validate(document)


RESTRICTED: dict[str, tuple[CapabilityToken, str]] = {
    "dpop_required": (capability(grants=[grant(dpop_required=True)]), "dpop_required"),
    **{
        kind: (capability(grants=[constrained(kind, value)]), kind)
        for kind, value in VALUES.items()
        if kind not in {"content_review_tier", "max_transaction_amount_usd", "require_dual_approval"}
    },
    "require_approval_above": (
        capability(grants=[constrained("require_approval_above", {"threshold_units": 5})]),
        "require_approval_above",
    ),
    "max_cost_per_invocation": (capability(grants=[grant(max_cost_per_invocation=USD)]), "max_cost_per_invocation"),
    "max_total_cost": (capability(grants=[grant(max_total_cost=USD)]), "max_total_cost"),
    "two": (capability(grants=[grant(dpop_required=True, max_total_cost=USD)]), "dpop_required, max_total_cost"),
    "unknown in the grant": (
        altered(lambda scope: scope["grants"][0].update(only_on_mondays=True)),
        "a member that is not known, require_approval_above",
    ),
    "unknown in a constraint": (
        altered(lambda scope: scope["grants"][0]["constraints"][0].update(unless="x")),
        "a member that is not known, require_approval_above",
    ),
    "unknown in a constraint's value": (
        altered(lambda scope: scope["grants"][0]["constraints"][0]["value"].update(currency="JPY")),
        "a member that is not known, require_approval_above",
    ),
    "unknown in the scope": (altered(lambda scope: scope.update(denied=["x"])), "a member that is not known"),
}


def test_every_type_that_nothing_enforces_is_tried_here() -> None:
    assert set(VALUES) == REFUSED
    assert set(RESTRICTED) >= set(BY_SIDECAR) - {"max_invocations"}


@pytest.mark.parametrize("case", RESTRICTED)
async def test_a_restriction_that_is_not_enforced_refuses_where_a_capability_is_needed(
    case: str, tmp_path: Path
) -> None:
    token, members = RESTRICTED[case]
    reason = f"capability is restricted by {members}, which is not enforced for this route"
    async with sidecar(tmp_path) as app:
        for number, request in enumerate((WITH_TOOL, WITHOUT_TOOL, WITH_TOOL | {"method": "GET"})):
            answer = await decision(app, token, **request, request_id=f"req-{number}")
            assert answer["verdict"]["reason"] == reason
            assert answer["receipt"]["metadata"]["chio_rule"] == "restriction"
        # Nothing depends on the token of a safe request that names no tool.
        safe = await decision(app, token, request_id="safe")
        assert safe["verdict"] == {"verdict": "allow"}


@pytest.mark.parametrize("kind", ["content_review_tier", "max_transaction_amount_usd", "require_dual_approval"])
async def test_a_type_that_never_holds_refuses_as_the_protocol_says(kind: str, tmp_path: Path) -> None:
    token = capability(grants=[constrained(kind, VALUES[kind])])
    async with sidecar(tmp_path) as app:
        answer = await decision(app, token, **WITH_TOOL)
        assert answer["receipt"]["metadata"]["chio_rule"] == "R6"
        plain = await decision(app, token, **WITHOUT_TOOL, request_id="plain")
        assert plain["receipt"]["metadata"]["chio_rule"] == "restriction"


async def test_another_grant_without_a_restriction_is_used(tmp_path: Path) -> None:
    void, free = grant(dpop_required=True, max_invocations=9), grant(max_invocations=1)
    async with sidecar(tmp_path) as app:
        first = await decision(app, capability(grants=[void, free]), **WITH_TOOL)
        again = await decision(app, capability(grants=[void, free]), **WITH_TOOL, request_id="again")
        plain = await decision(app, capability(grants=[void, free]), **WITHOUT_TOOL, request_id="plain")
        empty = await decision(app, capability(grants=[], name="cap-2"), **WITHOUT_TOOL, request_id="empty")
    assert first["receipt"]["metadata"][GRANT] == {"index": 1, "enforced": ["max_invocations"]}
    assert again["receipt"]["metadata"]["chio_rule"] == "invocations"
    assert plain["verdict"] == empty["verdict"] == {"verdict": "allow"}


async def test_a_scope_without_restrictions_states_nothing(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as app:
        answer = await decision(app, capability(), **WITH_TOOL)
    assert GRANT not in answer["receipt"]["metadata"]


async def test_limits_of_cost_count_where_the_route_states_its_cost(tmp_path: Path) -> None:
    token = capability(grants=[grant(max_cost_per_invocation=USD, max_total_cost={"units": 7, "currency": "USD"})])

    async def pay(app: SidecarApp, cost: int) -> Any:
        budget = BudgetDemand(cost).to_wire()
        return await decision(app, token, **WITH_TOOL, budget=budget, request_id=f"pay-{next(NUMBERS)}")

    async with sidecar(tmp_path) as app:
        answers = [await pay(app, cost) for cost in (6, 4, 4, 3)]
    assert [answer["verdict"]["verdict"] for answer in answers] == ["deny", "allow", "deny", "allow"]
    stated = {"index": 0, "enforced": ["max_cost_per_invocation", "max_total_cost"]}
    assert answers[1]["receipt"]["metadata"][GRANT] == stated
    assert GRANT not in answers[0]["receipt"]["metadata"]


@pytest.mark.parametrize(("threshold", "verdict"), [(5, "allow"), (4, "allow"), (6, "deny")])
async def test_an_approval_from_the_amount_on_enforces_require_approval_above(
    threshold: int, verdict: str, tmp_path: Path
) -> None:
    token = capability(grants=[constrained("require_approval_above", {"threshold_units": 5})])
    async with sidecar(tmp_path) as app:
        small = ApprovalDemand(threshold, "USD", 1).to_wire()
        answer = await decision(app, token, **WITH_TOOL, governed_intent=small)
        assert answer["verdict"]["verdict"] == verdict
        if verdict == "allow":
            stated = {"index": 0, "enforced": ["require_approval_above"]}
            assert answer["receipt"]["metadata"][GRANT] == stated
            large = ApprovalDemand(threshold, "USD", 6).to_wire()
            waits = await evaluate(app, token, **WITH_TOOL, governed_intent=large, request_id="large")
            assert waits.document["error"] == "chio_approval_required"


# Delegation


def limited(limit: int | None = 1, *, name: str = "root", **more: Any) -> CapabilityToken:
    members = more if limit is None else {"max_invocations": limit, **more}
    return capability(grants=[grant(**members)], name=name)


def derived(parent: Any, limit: int | None = 1, *, key: SigningKey = AUTHORITY, **more: Any) -> str:
    members = more if limit is None else {"max_invocations": limit, **more}
    return attenuate(token_text(parent), key, scope={"grants": [grant(**members)]}, now=NOW - 30, ttl_seconds=600)


async def uses(app: SidecarApp, tokens: Sequence[Any], **more: Any) -> list[str]:
    found = []
    for token in tokens:
        answer = await decision(app, token, **WITH_TOOL, **more, request_id=f"use-{next(NUMBERS)}")
        found.append(answer["receipt"]["metadata"].get("chio_rule", "allow"))
    return found


async def test_one_use_stays_one_use_however_often_it_is_attenuated(tmp_path: Path) -> None:
    root = limited(1)
    siblings = [derived(root) for _ in range(4)]
    line = [derived(limited(1, name="other"))]
    for _ in range(3):
        line.append(derived(line[-1]))
    async with sidecar(tmp_path) as app:
        assert await uses(app, [*siblings, root]) == ["allow", *["invocations"] * 4]
        assert await uses(app, [line[3], *line, limited(1, name="other")]) == ["allow", *["invocations"] * 5]
    async with sidecar(tmp_path) as app:
        assert await uses(app, [derived(root)]) == ["invocations"]
    findings, _ = inspect(tmp_path / "receipts.sqlite3", trusted={KERNEL.public_hex})
    assert findings == []


async def test_each_token_of_a_descent_has_its_own_limit_and_shares_that_of_its_ancestors(tmp_path: Path) -> None:
    root = limited(5)
    narrow, wide = derived(root, 2), derived(root, 4)
    grandchild = derived(wide, 1)
    async with sidecar(tmp_path) as app:
        assert await uses(app, [root, root, narrow]) == ["allow"] * 3
        assert await uses(app, [grandchild, grandchild]) == ["allow", "invocations"]
        assert await uses(app, [narrow, narrow, root, wide]) == ["allow", *["invocations"] * 3]


async def test_a_use_of_a_child_counts_for_its_parent_and_not_for_the_siblings_own_limit(tmp_path: Path) -> None:
    root = limited(None)
    children = [derived(root, 1) for _ in range(5)]
    async with sidecar(tmp_path) as app:
        # The root has no limit, so each child has its own use.
        assert await uses(app, [*children, root, root]) == ["allow"] * 7
        assert await uses(app, children) == ["invocations"] * 5
        late = derived(derived(root, None), 1)
        assert await uses(app, [late, late]) == ["allow", "invocations"]


async def test_grants_of_other_tools_are_counted_apart(tmp_path: Path) -> None:
    root = capability(grants=[grant(max_invocations=1), grant(tool="other", max_invocations=1)], name="root")
    here, there = (
        derived(root),
        attenuate(
            token_text(root), AUTHORITY, scope={"grants": [grant(tool="other", max_invocations=1)]}, now=NOW - 30
        ),
    )
    async with sidecar(tmp_path) as app:
        assert await uses(app, [here, root]) == ["allow", "invocations"]
        other = await decision(app, there, method="POST", tool_server=SERVER, tool_name="other", request_id="there")
    assert other["verdict"] == {"verdict": "allow"}


async def test_uses_through_a_grant_of_any_tool_count_against_it(tmp_path: Path) -> None:
    root = capability(grants=[grant("*", "*", max_invocations=2)], name="root")
    async with sidecar(tmp_path) as app:
        assert await uses(app, [derived(root), derived(root), root]) == ["allow", "allow", "invocations"]


async def test_a_limited_grant_beside_an_unlimited_one_of_the_same_tool_is_shared_all_the_same(tmp_path: Path) -> None:
    short = {"constraints": [{"type": "max_length", "value": 3}]}
    long = {"constraints": [{"type": "max_length", "value": 9}]}
    root = capability(grants=[grant(max_invocations=1, **long), grant(**short)], name="root")
    children = [derived(root, 1, **long) for _ in range(3)]
    async with sidecar(tmp_path) as app:
        assert await uses(app, children, arguments="12345") == ["allow", "invocations", "invocations"]
        assert await uses(app, [derived(root, None, **short), root], arguments="12345") == ["R6", "invocations"]
        assert await uses(app, [derived(root, None, **short)] * 3, arguments="123") == ["allow"] * 3


async def test_of_many_children_at_once_as_many_are_allowed_as_the_root_has_uses(tmp_path: Path) -> None:
    root = limited(7)
    async with sidecar(tmp_path) as app:
        answers = await asyncio.gather(
            *(decision(app, derived(root), **WITH_TOOL, request_id=f"req-{number}") for number in range(40))
        )
    assert sum(answer["verdict"]["verdict"] == "allow" for answer in answers) == 7


async def test_a_chain_that_states_no_limits_shares_the_limit_of_its_token(tmp_path: Path) -> None:
    """As another implementation would sign it."""
    links = [sign_link(HOLDER, capability_id="root", delegatee=HOLDER.public_hex, timestamp=NOW - 50)]
    tokens = [capability(grants=[grant(max_invocations=1)], links=links, name=f"child-{number}") for number in range(3)]
    async with sidecar(tmp_path) as app:
        assert await uses(app, tokens) == ["allow", "invocations", "invocations"]


async def test_a_total_cost_is_shared_by_all_tokens_of_a_descent(tmp_path: Path) -> None:
    root = limited(None, max_total_cost={"units": 10, "currency": "USD"})
    children = [derived(root, None, max_total_cost={"units": 6, "currency": "USD"}) for _ in range(3)]
    free = limited(None, name="free")
    purses = [derived(free, None, max_total_cost={"units": 6, "currency": "USD"}) for _ in range(3)]
    async with sidecar(tmp_path) as app:
        pay = {"budget": BudgetDemand(5).to_wire()}
        found = await uses(app, [children[0], children[0], children[1], children[2], root], **pay)
        assert found == ["allow", "budget.total", "allow", "budget.total", "budget.total"]
        assert await uses(app, purses, **pay) == ["allow"] * 3


def stranger_chain(*, ends_at: str) -> list[Any]:
    other = SigningKey(b"\x42" * 32)
    return [
        sign_link(STRANGER, capability_id="cap-made-up", delegatee=other.public_hex, timestamp=NOW - 50),
        sign_link(other, capability_id="cap-made-up-2", delegatee=ends_at, timestamp=NOW - 40),
    ]


@pytest.mark.parametrize("end", [HOLDER.public_hex, SigningKey(b"\x43" * 32).public_hex], ids=["subject", "stranger"])
async def test_a_chain_that_strangers_signed_is_refused_in_a_token_of_a_trusted_issuer(
    end: str, tmp_path: Path
) -> None:
    token = capability(links=stranger_chain(ends_at=end))
    async with sidecar(tmp_path) as app:
        answer = await decision(app, token, **WITH_TOOL)
    text = "delegation chain broken: it belongs to neither the issuer nor the subject of the token"
    assert answer["verdict"]["reason"] == text


async def test_a_chain_that_comes_to_the_issuer_is_accepted_as_in_the_protocol(tmp_path: Path) -> None:
    token = capability(links=stranger_chain(ends_at=AUTHORITY.public_hex))
    async with sidecar(tmp_path) as app:
        assert (await decision(app, token, **WITH_TOOL))["verdict"] == {"verdict": "allow"}


NAMES = {"server_id": SERVER, "tool_name": TOOL}
TAKEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "remove_tool": ({}, {}),
    "remove_operation": ({"operation": "invoke"}, {}),
    "add_constraint": ({"constraint": {"type": "max_length", "value": 3}}, {}),
    "reduce_budget": ({"max_invocations": 2}, {"max_invocations": 3}),
    "reduce_cost_per_invocation": ({"max_cost_per_invocation": USD}, {"max_cost_per_invocation": {**USD, "units": 6}}),
    "reduce_total_cost": ({"max_total_cost": USD}, {"max_total_cost": {"units": 1, "currency": "EUR"}}),
}


def narrowed(kind: str, members: dict[str, Any], **more: Any) -> CapabilityToken:
    attenuation = Attenuation(type=kind, **(NAMES | members))
    link = sign_link(
        HOLDER, capability_id="root", delegatee=HOLDER.public_hex, timestamp=NOW - 50, attenuations=[attenuation]
    )
    return capability(grants=[grant(**more)], links=[link])


@pytest.mark.parametrize("kind", TAKEN)
async def test_a_grant_that_allows_what_the_delegation_took_away_is_refused(kind: str, tmp_path: Path) -> None:
    members, more = TAKEN[kind]
    budget = {"budget": BudgetDemand(0).to_wire()}
    async with sidecar(tmp_path) as app:
        answer = await decision(app, narrowed(kind, members, **more), **WITH_TOOL, **budget)
        assert answer["verdict"]["reason"] == f"delegation chain broken: the grant contradicts {kind} of link 0"
        other = narrowed(kind, members | {"tool_name": "other"}, **more)
        apart = await decision(app, other, **WITH_TOOL, **budget, request_id="other")
        assert apart["verdict"] == {"verdict": "allow"}


async def test_a_token_must_not_outlive_what_its_delegation_leaves(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as app:
        for end, reason in (
            (NOW + 3540, None),
            (NOW + 3539, "delegation chain broken: the token outlives what link 0 leaves"),
        ):
            link = sign_link(
                HOLDER,
                capability_id="root",
                delegatee=HOLDER.public_hex,
                timestamp=NOW - 50,
                attenuations=[Attenuation(type="shorten_expiry", new_expires_at=end)],
            )
            answer = await decision(app, capability(links=[link]), **WITH_TOOL, request_id=f"{end}")
            assert answer["verdict"].get("reason") == reason


async def test_a_link_with_members_that_are_not_known_is_refused(tmp_path: Path) -> None:
    document = capability(parents=["root"]).to_wire()
    async with sidecar(tmp_path) as app:
        document["delegation_chain"][0]["scope_hash"] = "ab"
        assert (await decision(app, document, **WITH_TOOL))["verdict"] == {"verdict": "allow"}
        document["delegation_chain"][0]["only_on_mondays"] = True
        answer = await decision(app, document, **WITH_TOOL, request_id="2")
    assert answer["verdict"]["reason"] == "delegation chain broken: link 0 has members that are not known"


def test_a_scope_with_members_that_are_not_known_cannot_be_issued() -> None:
    with pytest.raises(InvalidDocument, match="members that are not known"):
        issue_capability(
            AUTHORITY, subject=HOLDER.public_hex, scope={"grants": [grant(only_on_mondays=True)]}, ttl_seconds=60
        )


@pytest.mark.parametrize("pattern", ["[0-9a-f]{64}", "chio"])
def test_the_holder_among_the_arguments_satisfies_no_other_constraint(pattern: str, tmp_path: Path) -> None:
    caller = CallerIdentity.user("alice")
    holder = str(caller.holder)
    token = capability(grants=[bound(constrained("regex_match", pattern), holder)])

    async def main() -> dict[str, Any]:
        async with sidecar(tmp_path) as app:
            sent = {"arguments": {"chio_holder": holder}, "caller": caller.to_wire()}
            return await decision(app, token, **WITH_TOOL, **sent)

    assert asyncio.run(main())["verdict"]["reason"].startswith("capability does not authorize tool")
