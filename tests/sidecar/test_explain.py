"""Why a request was refused, and what would be allowed: each reason and each code, as the sidecar states them."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chio_core import Denial, Requirement
from chio_core.capabilities import issue_capability
from chio_core.capabilities.scope import bound
from chio_core.errors import InvalidDocument
from chio_core.evaluation import outcomes as decision
from chio_core.models import Verdict
from chio_core.refusals.problems import flat, nested
from chio_sidecar.cli import build_parser
from chio_sidecar.explain import Refusal, Wanted, explain, read_refusal
from chio_sidecar.explain.codes import OUTCOMES
from chio_sidecar.explain.explanation import UNKNOWN_TOOL, wanted_by
from chio_sidecar.explain.reasons import FOREIGN, WORDS, recognise
from chio_sidecar.policy.rules import Rule
from chio_sidecar.store.place import DatabasePlace
from tests.sidecar.sidecar_tools import (
    NOW,
    SERVER,
    STRANGER,
    TOOL,
    capability,
    evaluate,
    grant,
    send,
    sidecar,
    token_text,
)
from tests.sidecar.sidecar_tools import decision as decided
from tests.support import run  # fmt: skip

WRITE = {"method": "POST", "path": "/pets", "tool_server": SERVER, "tool_name": TOOL}


AMOUNT = {"units": 5, "currency": "USD"}
REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "R1": (lambda: None, {"tool_server": SERVER}),
    "R2": (lambda: "no token at all", WRITE),
    "R3": (lambda: capability(STRANGER), WRITE),
    "R4": (lambda: token_text(capability().to_wire() | {"expires_at": NOW + 9_999}), WRITE),
    "R5a": (lambda: capability(issued=NOW + 60), WRITE),
    "R5b": (lambda: capability(issued=NOW - 7200), WRITE),
    "R6": (lambda: capability(grants=[grant(tool="other")]), WRITE),
    "R6x": (lambda: capability(grants=[grant(constraints=[{"type": "regex_match", "value": "("}])]), WRITE),
    "R7": (capability, {**WRITE, "capability_id": "cap-other"}),
    "R8": (lambda: None, {"method": "POST", "path": "/pets"}),
    "holder": (lambda: capability(grants=[bound(grant(), "a" * 64)]), WRITE),
    "restriction": (lambda: capability(grants=[grant(dpop_required=True, max_total_cost=AMOUNT)]), WRITE),
    "invocations": (lambda: capability(grants=[grant(max_invocations=0)]), WRITE),
    "delegation": (lambda: capability(parents=[f"cap-{n}" for n in range(9)]), WRITE),
}


@pytest.mark.parametrize("rule", REFUSED)
async def test_each_reason_of_the_sidecar_is_explained_by_its_rule(rule: str, tmp_path: Path) -> None:
    token, changes = REFUSED[rule]
    async with sidecar(tmp_path) as app:
        response = await decided(app, token(), **changes)
    assert response["verdict"]["verdict"] == "deny"
    for document in (response, response["receipt"]):
        found = explain(read_refusal(document))
        assert found.rule == rule
        assert found.outcome == "refused"
        assert found.reason == response["verdict"]["reason"]
        assert found.receipt_id == response["receipt"]["id"]
        assert "{" not in found.why
        assert "{" not in found.remedy


async def test_a_revoked_token_and_a_revoked_ancestor_are_explained(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as app:
        await app.state.sidecar.store.revoke("cap-1")
        own = explain(read_refusal(await decided(app, capability(), **WRITE)))
        child = capability(name="cap-2", parents=["cap-1"])
        derived = explain(read_refusal(await decided(app, child, request_id="2", **WRITE)))
    assert own.rule == "revoked"
    assert (derived.rule, "cap-1" in derived.why) == ("revoked.ancestor", True)


def test_the_capability_that_is_said_to_pass_does_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "it's here" / "receipts.sqlite3"
    store.parent.mkdir()

    async def verdict(token: Any, request_id: str) -> Any:
        async with sidecar(store.parent, signing_key=None, clock=time.time) as app:
            return (await decided(app, token, request_id=request_id, **WRITE))["verdict"]

    assert run(verdict(None, "a"))["verdict"] == "deny"
    refused = decision.capability_required(Requirement(SERVER, TOOL), "X-Chio-Capability", "rcpt")
    found = explain(read_refusal(flat(refused)), issuer=("--receipt-store", str(store)))
    assert found.passes == f"{SERVER}/{TOOL}:invoke"
    args = build_parser().parse_args(shlex.split(found.command or "")[1:])
    assert args.run(args) == 0
    token = capsys.readouterr().out.strip()
    assert run(verdict(token, "b")) == {"verdict": "allow"}
    assert run(verdict(capability(grants=[grant(tool="other")]), "c"))["verdict"] == "deny"


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(),
        Wanted("s", "t", ("read", "invoke")),
        Wanted("-s", "--tool", ("invoke",)),
        Wanted("it's; rm -rf ~", "$(id)\n", ("delegate",)),
        Wanted("s", "t", constraints=({"type": "max_length", "value": 3}, {"type": "regex_match", "value": "^-'\""})),
        Wanted("s", "t", max_invocations=7, subject="ab" * 32),
        Wanted("s", "t", subject="0" * 64),
    ],
    ids=lambda wanted: wanted.title,
)
def test_every_command_can_be_pasted_into_a_shell_and_gives_that_capability(wanted: Wanted) -> None:
    words = shlex.split(wanted.command(("--receipt-store", "-x y.sqlite3")))
    args = build_parser().parse_args(words[1:])
    assert words[0] == "chio-sidecar"
    assert str(args.receipt_store) == "-x y.sqlite3"
    assert (args.server, args.tool) == (wanted.server or "SERVER", [wanted.tool or "TOOL"])
    assert set(args.operation or ["invoke"]) == {"invoke", *wanted.operations}
    assert tuple(args.constraint or ()) == wanted.constraints
    assert args.max_invocations == wanted.max_invocations


def test_the_capability_of_a_grant_can_be_issued_again() -> None:
    full = grant(operations=["invoke", "read"], constraints=[{"type": "max_length", "value": 5}], max_invocations=3)
    token = issue_capability(STRANGER, subject="ab" * 32, scope={"grants": [full]}, ttl_seconds=60)
    wanted = Wanted.of_grant(token.scope.grants[0], token.subject)
    assert wanted.title == f'{SERVER}/{TOOL}:invoke,read {{"type":"max_length","value":5}}'
    assert (wanted.max_invocations, wanted.subject) == (3, "ab" * 32)


def test_every_code_of_the_outcomes_table_is_explained() -> None:
    codes = set(re.findall(r"`(chio_\w+)`", decision.__doc__ or ""))
    assert codes >= {"chio_access_denied", "chio_timeout"}
    assert codes <= set(OUTCOMES)
    for code in codes:
        for document in (flat(Denial(code=code, message="m")), nested(Denial(code=code, message="m"))):
            found = explain(read_refusal(document))
            assert found.why
            assert found.remedy


@pytest.mark.parametrize(
    ("document", "rule", "outcome"),
    [
        ({"error": "chio_timeout", "message": "Chio sidecar is unavailable"}, "chio_timeout", "not decided"),
        ({"error": "chio_overloaded", "message": "x"}, "chio_overloaded", "not decided"),
        ({"error": "SidecarUnavailable", "message": "Chio sidecar unavailable", "status": 503},
         "chio_sidecar_unreachable", "not decided"),
        ({"error": "CapabilityGuard", "message": "capability issuer is not trusted", "status": 403}, "R3", "refused"),
        ({"error": {"code": "CHIO_CAPABILITY_REQUIRED", "message": "Chio capability required for a/b"}},
         "requirement", "refused"),
        ({"detail": {"error": "chio_access_denied", "message": "no", "guard": "G"}}, "chio_access_denied", "refused"),
        ({"error": "my_own", "message": "no", "guard": "local/mine", "status": 418}, "my_own", "refused"),
        ({"verdict": {"verdict": "cancel", "reason": "gone"}}, "cancel", "refused"),
        ({"verdict": {"verdict": "incomplete", "reason": "?"}}, "incomplete", "refused"),
        ({"verdict": {"verdict": "allow"}}, "allow", "allowed"),
        ({"error": "chio_bad_request", "message": "header authorization occurs more than once", "status": 400},
         "chio_bad_request", "refused"),
    ],
)  # fmt: skip
def test_all_published_documents_can_be_read(document: dict[str, Any], rule: str, outcome: str) -> None:
    found = explain(read_refusal(document))
    assert (found.rule, found.outcome) == (rule, outcome)


@pytest.mark.parametrize(
    "document", [[], {}, None, "deny", 7, {"error": 5}, {"verdict": {"verdict": 5}}, {"detail": {}}]
)
def test_a_document_that_is_no_refusal_is_rejected(document: Any) -> None:
    with pytest.raises(InvalidDocument, match=r"neither a refusal nor a receipt|states no verdict"):
        read_refusal(document)


@pytest.mark.parametrize(
    "document", [{"error": {}}, {"error": ""}, {"error": {"code": 5, "message": [], "details": 1}}]
)
def test_a_refusal_without_any_fact_is_still_explained(document: Any) -> None:
    assert explain(read_refusal(document)).why


def test_the_scope_that_a_newer_sidecar_states_is_used() -> None:
    details = {"tool_server": "pay", "tool_name": "move", "required_scope": "pay/move", "hint": "ask the treasurer"}
    verdict = Verdict(verdict="deny", reason="scope missing", guard="ScopeGuard", details=details)
    found = explain(read_refusal(flat(decision.denial_for_verdict(verdict, "rcpt", "X"))))
    assert found.passes == "pay/move:invoke"
    assert found.remedy == "ask the treasurer"


def test_a_route_of_the_openapi_document_names_the_capability_that_passes() -> None:
    operation = {"x-chio-capability": [{"server": "pay", "tool": "move", "operations": ["read"]}], "responses": {}}
    operations = {"post": operation, "put": {"x-chio-capability": [{}], "responses": {}}, "get": {"responses": {}}}
    info = {"title": "t", "version": "1"}
    text = json.dumps({"openapi": "3.1.0", "info": info, "paths": {"/pets/{id}": operations}})
    assert wanted_by(text, "POST", "/pets/{id}") == Wanted("pay", "move", ("read",))
    assert wanted_by(text, "PUT", "/pets/{id}") == Wanted()
    assert wanted_by(text, "GET", "/pets/{id}") is None
    assert wanted_by(text, "POST", "/other") is None
    refusal = Refusal(verdict="deny", reason="side-effect route requires a capability token", method="POST")
    assert explain(refusal, wanted=wanted_by(text, "POST", "/pets/{id}")).passes == "pay/move:read"


def test_an_operation_that_states_no_capability_leaves_open_which_one_passes() -> None:
    info = {"title": "t", "version": "1"}
    text = json.dumps({"openapi": "3.1.0", "info": info, "paths": {"/pets": {"post": {"responses": {}}}}})
    refusal = Refusal(verdict="deny", reason="side-effect route requires a capability token", method="POST")
    assert explain(refusal, wanted=wanted_by(text, "POST", "/pets")).passes == UNKNOWN_TOOL


ANY = "any valid capability of a trusted issuer"


@pytest.mark.parametrize("rule", [rule for rule in Rule if WORDS[rule].issue])
def test_a_receipt_that_does_not_say_what_its_route_requires_promises_no_capability(rule: Rule) -> None:
    text = re.sub(r"\{\w+\}", "12", rule.text)
    verdict = {"verdict": "deny", "reason": text, "guard": rule.guard}
    found = explain(read_refusal({"verdict": verdict, "metadata": {"chio_rule": rule.id}}))
    if "{tool}" in rule.text:
        assert found.passes == "12/12:invoke"
    else:
        assert (found.passes or "").startswith("not known")
        assert "--spec" in (found.passes or "")
        assert "SERVER and TOOL are those that the route requires" in (found.note or "")


def test_any_capability_passes_only_where_the_application_or_the_document_says_so() -> None:
    denial = Denial(message=Rule.NO_CAPABILITY.text, guard=Rule.NO_CAPABILITY.guard)
    for_any = decision.with_way_in(denial, None, "http://127.0.0.1:9090")
    required = decision.capability_required(Requirement(), "X-Chio-Capability", "rcpt")
    too_little = decision.capability_insufficient(Requirement(), "rcpt")
    for one in (for_any, required, too_little):
        assert explain(read_refusal(flat(one))).passes == ANY
    stated = {"verdict": {"verdict": "deny"}, "metadata": {"chio_enforcement": {"mode": "observe", "requires": "any"}}}
    assert explain(read_refusal(stated | {"metadata": stated["metadata"] | {"chio_rule": "R8"}})).passes == ANY
    receipt = Refusal(verdict="deny", rule="R8", method="POST")
    assert explain(receipt, wanted=Wanted()).passes == ANY


def test_what_the_refusal_names_counts_where_the_document_names_no_tool() -> None:
    refusal = Refusal(verdict="deny", reason="capability does not authorize tool move on server pay")
    assert explain(refusal, wanted=Wanted()).passes == "pay/move:invoke"


def test_the_command_for_a_database_has_its_user_and_a_place_for_its_key() -> None:
    bare, named = (
        DatabasePlace.parse(f"postgresql://me@db/chio{query}").url_with_key for query in ("", "?port=6&key=/k y")
    )
    assert (bare, named) == ("postgresql://me@db/chio?key=FILE", "postgresql://me@db/chio?port=6&key=/k%20y")
    refusal = Refusal(code="chio_capability_required", reason="Chio capability required")
    assert explain(refusal, issuer=("--receipt-store", bare)).note == "FILE is the file of the sidecar's signing key"
    assert explain(refusal, issuer=("--receipt-store", named)).note is None


def test_a_revoked_capability_is_replaced_by_one_for_the_same_tool() -> None:
    denial = Denial(message=Rule.REVOKED.text, guard=Rule.REVOKED.guard)
    found = explain(read_refusal(flat(denial)))
    assert "has been revoked" in found.why
    assert "for the same server and tool" in found.remedy
    assert found.passes != ANY


def test_the_key_of_an_issuer_is_named_only_if_it_was_not_withdrawn() -> None:
    remedy = WORDS[Rule.ISSUER_UNTRUSTED].remedy
    withdrawn, trusted = remedy.index("withdrawn"), remedy.index("CHIO_TRUSTED_ISSUER_KEYS")
    assert withdrawn < remedy.index("new capability issued with the present key") < remedy.index("only if") < trusted


def test_a_code_that_chio_does_not_have_is_said_to_be_none_of_its_codes() -> None:
    assert explain(read_refusal({"error": "chio_nosuch_code"})).why.startswith("Chio has no such code")


TEXTS = [*((rule.id, rule.text) for rule in Rule), *((rule, text) for text, (rule, _) in FOREIGN.items())]


@pytest.mark.parametrize(("rule", "text"), TEXTS, ids=lambda text: text[:40])
def test_each_reason_is_recognised_by_its_text_alone(rule: str, text: str) -> None:
    found = recognise(re.sub(r"\{\w+\}", "12", text))
    assert found is not None
    assert found.rule == rule
    assert "?" not in found.why + found.remedy


def test_the_rule_that_a_receipt_names_counts_whatever_its_text_says() -> None:
    named = {"verdict": {"verdict": "deny", "reason": "in other words"}, "metadata": {"chio_rule": "R8"}}
    found = explain(read_refusal(named))
    assert (found.rule, found.why) == ("R8", WORDS[Rule.NO_CAPABILITY].why)
    newer = {"verdict": {"verdict": "deny", "reason": Rule.REVOKED.text}, "metadata": {"chio_rule": "R99"}}
    found = explain(read_refusal(newer))
    assert (found.rule, found.why) == ("R99", WORDS[Rule.REVOKED].why)


async def test_an_error_of_the_sidecar_itself_is_explained(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as app:
        broken = await send(app, "POST", "/chio/evaluate", b"{")
        await evaluate(app)
        twice = await evaluate(app, path="/other")
    assert explain(read_refusal(broken.document)).rule == "chio_bad_request"
    assert explain(read_refusal(twice.document)).rule == "chio_request_id_conflict"


def test_every_rule_of_the_sidecar_is_known_here() -> None:
    assert set(WORDS) == set(Rule)


APPROVE = {"approval": {"threshold_units": 5, "currency": "USD"}, "amount": {"units": 9, "currency": "USD"}}


async def test_a_request_that_waits_for_a_person_names_the_command_that_approves_it(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as app:
        response = await evaluate(app, method="GET", governed_intent=APPROVE)
        wrong = await decided(app, method="GET", request_id="2", governed_intent=APPROVE, approval_token="apr-none")
        stored = await app.state.sidecar.store.get(response.document["kernel_receipt_id"])
    approval_id = response.document["approval_id"]
    for document in (response.document, json.loads(stored.receipt_json)):
        found = explain(read_refusal(document), issuer=("--receipt-store", "r.sqlite3"))
        command = f"chio-sidecar approval respond {approval_id} --approve --receipt-store r.sqlite3"
        assert (found.rule, found.command) == ("approval.needed", command)
        args = build_parser().parse_args(shlex.split(command)[1:])
        assert (args.id, args.outcome) == (approval_id, "approved")
    refused = explain(read_refusal(wrong))
    assert (refused.rule, refused.command) == ("approval.unknown", "chio-sidecar approval list")


async def test_a_spent_budget_is_explained_in_its_numbers(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as app:
        budget = {"cost": 9, "currency": "USD", "max_cost_per_invocation": 5}
        found = explain(read_refusal(await decided(app, method="GET", budget=budget)))
    assert found.rule == "budget.cost"
    assert "may cost 5 USD, and this one costs 9" in found.why


def test_an_id_that_a_shell_could_misread_is_not_put_into_a_command() -> None:
    body = {"error": "chio_approval_required", "message": "m", "details": {"approval_id": "$(id)"}}
    assert explain(read_refusal(body)).command == "chio-sidecar approval list"


async def test_a_refusal_that_was_only_observed_is_explained_as_such(tmp_path: Path) -> None:
    observe = {"mode": "observe", "requires": "pay/move"}
    async with sidecar(tmp_path) as app:
        denied = explain(read_refusal(await decided(app, method="POST", enforcement=observe)))
        allowed = explain(read_refusal(await decided(app, method="GET", request_id="2", enforcement=observe)))
    assert (denied.outcome, denied.rule, denied.passes) == ("observed", "R8", "pay/move:invoke")
    assert (allowed.outcome, allowed.passes) == ("allowed", "pay/move:invoke")


@pytest.mark.parametrize(
    ("scope", "passes"),
    [
        ("pay/move:invoke,read", "pay/move:invoke,read"),
        ("pay/move:everything", "a/b:invoke"),
        ("tools:move", "a/b:invoke"),
        ("", "a/b:invoke"),
    ],
)
def test_the_scope_that_a_refusal_states_names_the_operations(scope: str, passes: str) -> None:
    body = {"error": "chio_capability_required", "message": "Chio capability required for a/b"}
    details = {"required_scope": scope, "hint": "chio-sidecar capability issue --receipt-store elsewhere"}
    found = explain(read_refusal(body | {"details": details}))
    assert found.passes == passes
    assert "elsewhere" not in found.remedy
