"""`receipt diff`: what observe mode would have refused, from its receipts."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from flask import Flask

from chio_core.evaluation.policies import ViewPolicies
from chio_fastapi import RequireCapability, add_chio
from chio_sidecar.cli.options import moment
from chio_sidecar.cli.receipt_diff import WOULD_REFUSE
from chio_sidecar.records.observed import NEWEST, Tally, is_observed, why_refused
from chio_sidecar.store.driver import sqlite3
from tests.sidecar.control_tools import CommandLine, write_store

ALLOW = {"verdict": "allow"}
START = 1_776_272_775
Run = Callable[..., str]


def deny(reason: str = "no") -> dict[str, Any]:
    return {"verdict": "deny", "reason": reason, "guard": "G", "http_status": 403}


def receipt(
    number: int = 1,
    verdict: Mapping[str, Any] = ALLOW,
    *,
    requires: str | None = None,
    observed: bool = True,
    **members: Any,
) -> dict[str, Any]:
    enforcement = {"mode": "observe"} | ({"requires": requires} if requires else {})
    metadata = {"chio_http_status_scope": "decision"} | ({"chio_enforcement": enforcement} if observed else {})
    return {
        "id": f"receipt-{number:06d}",
        "request_id": f"request-{number}",
        "route_pattern": "/pets/{pet_id}",
        "method": "GET",
        "caller_identity_hash": "ab" * 32,
        "verdict": dict(verdict),
        "response_status": 200,
        "timestamp": START + number,
        "content_hash": "0" * 64,
        "policy_hash": "0" * 64,
        "metadata": metadata,
        "kernel_key": "0" * 64,
        "signature": "0" * 128,
    } | members


@pytest.fixture
def diff(tmp_path: Path, cli: CommandLine) -> Run:
    """Write a store with these receipts, run the command, and return its output."""

    def run(receipts: Iterable[Mapping[str, Any]], *arguments: object, status: int = 0) -> str:
        store = write_store(tmp_path / "receipts.sqlite3", receipts)
        return cli("receipt", "diff", "--receipt-store", store, *arguments, status=status)

    return run


def mixed() -> list[dict[str, Any]]:
    """3,400 observed requests of which 12 would have been refused, and others between them."""
    refused = [receipt(number, deny("blocked by policy"), method="DELETE") for number in range(5)]
    refused += [receipt(number, requires="pay/send", method="POST") for number in range(5, 11)]
    refused += [receipt(11, {"verdict": "incomplete"}, caller_identity_hash="cd" * 32)]
    good = [receipt(number) for number in range(12, 3400)]
    enforced = [receipt(number, deny(), observed=False) for number in range(3400, 3500)]
    return [*good[:2000], *refused, *enforced, *good[2000:]]


def test_the_report_says_how_many_of_how_many_and_groups_them(diff: Run, cli: CommandLine) -> None:
    lines = diff(mixed(), status=WOULD_REFUSE).splitlines()
    assert cli.err == ""
    assert lines[0] == "would have refused 12 of 3,400 observed requests"
    assert lines[2] == "      6  POST /pets/{pet_id}: no valid capability for pay/send"
    assert lines[3].strip() == ("100% of its 6, 1 caller, 2026-04-15 17:06 to 2026-04-15 17:06, newest receipt-000010")
    assert lines[4].strip().startswith("give its callers a capability: chio-sidecar capability issue --receipt-store ")
    assert lines[4].endswith("--server pay --tool send")
    assert lines[6] == "      5  DELETE /pets/{pet_id}: blocked by policy"
    assert lines[10] == "      1  GET /pets/{pet_id}: incomplete"
    assert lines[11].strip().startswith("0.0295% of its 3,389, 1 caller, ")


def test_the_report_for_programs_has_every_group(diff: Run) -> None:
    document = json.loads(diff(mixed(), "--json", "--top", 1, status=WOULD_REFUSE))
    assert (document["observed"], document["would_refuse"], document["beyond_groups"]) == (3400, 12, 0)
    assert [group["count"] for group in document["groups"]] == [6, 5, 1]
    last = document["groups"][2]
    assert "receipt-000011" in last.pop("remedies")[0]["line"]
    assert last == {
        "count": 1,
        "method": "GET",
        "route_pattern": "/pets/{pet_id}",
        "reason": "incomplete",
        "route_requests": 3389,
        "callers": 1,
        "callers_complete": True,
        "first": START + 11,
        "last": START + 11,
        "receipt_ids": ["receipt-000011"],
    }


def test_callers_have_groups_of_their_own_on_demand_only(diff: Run) -> None:
    receipts = [receipt(number, deny(), caller_identity_hash=f"{number:064d}") for number in range(4)]
    (group,) = json.loads(diff(receipts, "--json", status=WOULD_REFUSE))["groups"]
    assert (group["count"], group["callers"]) == (4, 4)
    groups = json.loads(diff([], "--json", "--by", "caller", status=WOULD_REFUSE))["groups"]
    assert [group["caller_identity_hash"] for group in groups] == [f"{number:064d}" for number in range(4)]


@pytest.mark.parametrize(
    ("rule", "reasons"),
    [
        ("R5b", ["invalid capability token: capability expired at 1776272775", "… expired at 1776272776"]),
        (None, ["capability expired at 1776272775", "capability expired at 1776272776"]),
    ],
    ids=["this sidecar", "another sidecar"],
)
def test_ids_and_times_in_a_reason_make_no_groups(diff: Run, rule: str | None, reasons: list[str]) -> None:
    receipts = [receipt(number, deny(reason)) for number, reason in enumerate(reasons)]
    for one in receipts:
        one["metadata"] |= {"chio_rule": rule} if rule else {}
    (group,) = json.loads(diff(receipts, "--json", status=WOULD_REFUSE))["groups"]
    assert group["reason"].endswith("capability expired at …")


@pytest.mark.parametrize(
    ("stated", "lines"),
    [
        ({"framework": "fastapi"}, ['@app.post("/pets/{pet_id}", dependencies=[Depends(Policy(side_effects=False))])']),
        ({"framework": "django"}, ["@Policy(side_effects=False)"]),
        ({"framework": "flask"}, ["@Policy(side_effects=False)"]),
        ({}, ['"x-chio-side-effects": false']),
        ({"requires": "pay/send"}, ["chio-sidecar capability issue", "--server pay --tool send"]),
        ({"requires": "pay/send", "lacks": "read"}, ["--operation invoke --operation read"]),
        ({"refused": "413 request body is larger than 10 bytes", "size": "12582913"}, ["CHIO_MAX_BODY_BYTES=13631488"]),
        ({"refused": "400 header authorization occurs more than once"}, ["correct the client"]),
    ],
    ids=str,
)
def test_each_group_has_the_line_to_write(diff: Run, stated: dict[str, str], lines: list[str]) -> None:
    one = receipt(1, deny("side-effect route requires a capability token"), method="POST")
    one["metadata"] = {"chio_rule": "R8", "chio_enforcement": {"mode": "observe", **stated}}
    out = diff([one], status=WOULD_REFUSE)
    assert all(line in out for line in lines), out


@pytest.mark.parametrize("stated", [{"framework": "fastapi"}, {}], ids=["another method", "another path"])
def test_a_path_that_no_route_answers_needs_no_line(diff: Run, stated: dict[str, str]) -> None:
    one = receipt(1, deny("side-effect route requires a capability token"), method="PUT", route_pattern="/nosuch")
    one["metadata"] = {"chio_rule": "R8", "chio_enforcement": {"mode": "observe", **stated}}
    out = diff([one], status=WOULD_REFUSE)
    assert "if no route answers" in out
    assert "write nothing" in out
    assert ("in place of the decorator of this route" in out) == bool(stated)


def opened(number: int, framework: str, view: str, **members: Any) -> dict[str, Any]:
    """Return the receipt of a request to a view that has no policy."""
    one = receipt(number, deny("side-effect route requires a capability token"), method="POST", **members)
    stated = {"mode": "observe", "framework": framework, "view": view}
    return one | {"metadata": {"chio_rule": "R8", "chio_enforcement": stated}}


@pytest.mark.parametrize(
    ("framework", "separator", "first", "setting"),
    [
        ("django", ":", "from chio_django import Policy", "CHIO_VIEW_POLICIES"),
        ("flask", ".", "from chio_flask import Policy", 'app.config["CHIO_VIEW_POLICIES"]'),
    ],
)
def test_views_of_a_namespace_are_opened_together_by_lines_that_can_be_pasted(
    diff: Run, framework: str, separator: str, first: str, setting: str
) -> None:
    views = [f"shop{separator}buy", f"shop{separator}pay", f"news{separator}send", "login"]
    receipts = [opened(number, framework, view, route_pattern=f"/{view}") for number, view in enumerate(views)]
    out = diff(receipts, "--top", 9, status=WOULD_REFUSE)
    together = f"shop{separator}*"
    line = f'"{together}": Policy(side_effects=False)  # in {setting}'
    assert out.count(f"if no view of {together} needs a capability: {line}") == 2
    assert out.count("if its callers need no capability: ") == 2
    assert "a * opens every view of its namespace, also those that no receipt is about\n" in out
    block = out[out.index(first) :]
    names: dict[str, Any] = {"app": Flask("shop")}
    exec(block, names)
    stated = names["app"].config if framework == "flask" else names
    assert set(stated["CHIO_VIEW_POLICIES"]) == {f"shop{separator}*", f"news{separator}send", "login"}
    policies = ViewPolicies(stated["CHIO_VIEW_POLICIES"])
    assert policies(f"shop{separator}other", "/x") != ()
    assert policies(f"news{separator}other", "/x") == ()
    (found,) = json.loads(diff([], "--json", status=WOULD_REFUSE))["view_policies"]
    assert found["lines"] == block.rstrip("\n")


def test_one_view_of_djangos_admin_names_the_whole_admin(diff: Run) -> None:
    out = diff([opened(1, "django", "admin:login")], status=WOULD_REFUSE)
    assert '"admin:*": Policy(side_effects=False),' in out
    assert "admin:login" not in out


def test_a_line_of_fastapi_names_its_imports(diff: Run) -> None:
    out = diff([opened(1, "fastapi", ""), opened(2, "fastapi", "")], status=WOULD_REFUSE)
    assert out.endswith("the lines above need:\nfrom fastapi import Depends; from chio_fastapi import Policy\n")
    (group,) = json.loads(diff([], "--json", status=WOULD_REFUSE))["groups"]
    assert group["remedies"][0]["import"] == "from fastapi import Depends; from chio_fastapi import Policy"


def test_the_template_that_the_application_states_makes_one_route_of_its_paths(diff: Run) -> None:
    receipts = [receipt(number, deny(), route_pattern=f"/pets/{number}") for number in range(3)]
    for one in receipts:
        one["metadata"]["chio_enforcement"]["route"] = "/pets/{pet}"
    (group,) = json.loads(diff(receipts, "--json", status=WOULD_REFUSE))["groups"]
    assert (group["route_pattern"], group["count"], group["route_requests"]) == ("/pets/{pet}", 3, 3)


def test_two_reports_are_compared_and_only_what_is_new_fails_a_build(
    diff: Run, cli: CommandLine, tmp_path: Path
) -> None:
    saved = tmp_path / "report.json"
    saved.write_text(diff([receipt(1, deny("a")), receipt(2, deny("b"))], "--json", status=WOULD_REFUSE))
    compare = ("--since-report", saved, "--fail-on", "new")
    assert "0 kinds of refusal are new, 0 are gone" in diff([], *compare)
    assert "0 kinds of refusal are new, 1 are gone" in diff([receipt(3, deny("a"))], "--last", 1, *compare)
    out = diff([receipt(4, deny("c"))], *compare, status=WOULD_REFUSE)
    assert "(before: 2 of 2)" in out
    assert "new: GET /pets/{pet_id}: c" in out
    assert "before 1: GET /pets/{pet_id}: a" in out
    document = json.loads(diff([], *compare, "--json", "--last", 1, status=WOULD_REFUSE))
    assert [group["before"] for group in document["groups"]] == [None]
    assert [group["reason"] for group in document["gone"]] == ["a", "b"]


@pytest.mark.parametrize("content", [None, "[]", "{", '{"groups": [{}]}', '{"groups": 1}', "\xff"])
def test_a_report_that_cannot_be_read_is_one_sentence(
    diff: Run, cli: CommandLine, tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    diff([receipt(1)], "--since-report", tmp_path / "report.json", status=1)
    assert "--since-report" in cli.err
    diff([], "--fail-on", "new", status=1)
    assert "give --since-report FILE" in cli.err


def test_nothing_refused_is_a_success(diff: Run, cli: CommandLine) -> None:
    out = diff([receipt(1), receipt(2, requires="any", capability_id="cap-1")])
    assert (out, cli.err) == ("would have refused 0 of 2 observed requests\n", "")


def test_nothing_to_compare_is_no_success(diff: Run, cli: CommandLine) -> None:
    assert diff([receipt(1, observed=False)], status=1) == "would have refused 0 of 0 observed requests\n"
    assert "there are no receipts of observed requests" in cli.err
    assert "CHIO_OBSERVE" in cli.err


def test_all_counts_receipts_of_a_sidecar_that_does_not_mark_them(diff: Run) -> None:
    out = diff([receipt(1, observed=False), receipt(2, deny(), observed=False)], "--all", status=WOULD_REFUSE)
    assert out.startswith("would have refused 1 of 2 ")


@pytest.mark.parametrize(
    ("arguments", "counted"),
    [
        (["--since", START + 8], 2),
        (["--since", "2026-04-15T17:06:23Z"], 2),
        (["--since", "2026-04-15T17:06:23"], 2),
        (["--since", "2026-04-15T19:06:23+02:00"], 2),
        (["--since", "1s"], 0),
        (["--since", "9999999d"], 10),
        (["--last", 3], 3),
        (["--last", 500], 10),
        (["--last", 5, "--since", START + 8], 2),
    ],
)
def test_since_and_last_leave_out_older_receipts(diff: Run, arguments: list[object], counted: int) -> None:
    out = diff([receipt(number) for number in range(10)], *arguments, status=0 if counted else 1)
    assert out == f"would have refused 0 of {counted} observed requests\n"


@pytest.mark.parametrize("text", ["yesterday", "", "-1", "1w", "2026-13-01", "1.5", "\u0661"])
def test_a_malformed_time_is_wrong_usage(text: str, cli: CommandLine) -> None:
    assert "is not a time" in cli.misused("receipt", "diff", "--receipt-store", "x", f"--since={text}")


def test_a_time_before_1970_is_the_beginning() -> None:
    assert moment("1900-01-01") == moment("0001-01-01T00:00:00Z") == 0


def test_controls_that_strangers_wrote_do_not_reach_a_terminal(diff: Run) -> None:
    forged = receipt(1, deny("\x1b[2Jgone\nforged line"), route_pattern="/\x1b]0;x", id="a\nb")
    out = diff([forged], status=WOULD_REFUSE)
    assert "\x1b" not in out
    assert "\nforged" not in out
    assert "\nb" not in out


def test_only_the_largest_groups_are_printed_for_people(diff: Run) -> None:
    receipts = [receipt(number, deny(f"reason {number % 25:02d}")) for number in range(60)]
    out = diff(receipts, "--top", 2, status=WOULD_REFUSE)
    assert out.count("newest") == 2
    assert out.endswith("and 54 more in 23 smaller groups; --top or --json shows them\n")


def test_a_store_may_be_named_as_for_the_other_commands(tmp_path: Path, cli: CommandLine) -> None:
    cli("--receipt-db", write_store(tmp_path / "s.sqlite3", [receipt()]), "receipt", "diff")
    assert "give --receipt-store FILE" in cli.fails("receipt", "diff")


def test_a_file_that_is_no_store_is_one_sentence(tmp_path: Path, cli: CommandLine) -> None:
    (tmp_path / "s").write_bytes(b"x" * 4096)
    for name in ("s", "none"):
        cli.fails("receipt", "diff", "--receipt-store", tmp_path / name)


@pytest.mark.parametrize(
    "metadata", [None, 1, "observe", [], {"chio_enforcement": None}, {"chio_enforcement": "observe"}]
)
def test_a_receipt_with_other_metadata_was_not_observed(metadata: Any) -> None:
    assert not is_observed({"metadata": metadata})
    assert why_refused({"metadata": metadata, "verdict": ALLOW}) is None


@pytest.mark.parametrize("verdict", [None, 5, {}, {"verdict": None}, {"verdict": "ALLOW"}, {"verdict": ["allow"]}])
def test_a_verdict_that_is_not_exactly_allow_would_have_been_refused(verdict: Any) -> None:
    assert why_refused({"verdict": verdict}) is not None


def test_a_required_capability_of_any_kind_is_named_so() -> None:
    assert why_refused(receipt(requires="any")) == "no valid capability"
    assert why_refused(receipt(requires="any", capability_id="c")) is None


def test_many_callers_do_not_fill_the_memory_and_are_all_counted() -> None:
    tally = Tally(max_groups=10, max_callers=100)
    for number in range(1000):
        tally.add(receipt(number, deny(f"reason {number % 50}"), caller_identity_hash=str(number)))
    groups = tally.groups()
    assert len(groups) == 10
    assert sum(group.count for group in groups) + tally.beyond == tally.refused == tally.observed == 1000
    assert sum(group.callers for group in groups) == 100
    assert all(group.many_callers for group in groups)
    assert all(len(group.newest) <= NEWEST for group in groups)


@pytest.mark.slow
def test_a_long_store_is_read_in_bounded_memory(diff: Run, full_size: bool) -> None:
    rows = 100_000 if full_size else 6_000
    receipts = (receipt(number, ALLOW if number % 100 else deny()) for number in range(rows))
    tracemalloc.start()
    try:
        out = diff(receipts, status=WOULD_REFUSE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert out.startswith(f"would have refused {rows // 100:,} of {rows:,} ")
    assert peak < 16 * 1024 * 1024


def test_rows_that_a_running_sidecar_adds_meanwhile_are_not_waited_for(tmp_path: Path, cli: CommandLine) -> None:
    store = write_store(tmp_path / "s.sqlite3", [receipt(1)])
    with closing(sqlite3.connect(store)) as writing:
        writing.execute("BEGIN IMMEDIATE")
        cli("receipt", "diff", "--receipt-store", store)


def test_an_application_is_observed_and_the_report_says_what_enforcing_would_do(
    tmp_path: Path, cli: CommandLine
) -> None:
    store = tmp_path / "chio.sqlite3"
    app = FastAPI()

    @app.post("/transfers", dependencies=[Depends(RequireCapability("payments", "transfer"))])
    async def transfer() -> None: ...

    @app.get("/balance", dependencies=[Depends(RequireCapability("payments", "read"))])
    async def balance() -> None: ...

    @app.get("/hello")
    async def hello() -> None: ...

    add_chio(app, sidecar_url=f"embedded:{store}", observe=True)
    issued = {name: _issued(store, name, cli) for name in ("transfer", "read")}
    with TestClient(app) as browser:
        statuses = [
            browser.get("/hello").status_code,
            browser.post("/transfers").status_code,
            browser.post("/transfers").status_code,
            browser.post("/transfers", headers=issued["read"]).status_code,
            browser.post("/transfers", headers=issued["transfer"]).status_code,
            browser.get("/balance").status_code,
            browser.get("/balance", headers=issued["read"]).status_code,
        ]
    assert statuses == [200] * 7
    report = json.loads(cli("receipt", "diff", "--receipt-store", store, "--json", status=WOULD_REFUSE))
    assert (report["observed"], report["would_refuse"]) == (7, 4)
    found = {(group["method"], group["route_pattern"], group["reason"]): group["count"] for group in report["groups"]}
    assert found == {
        ("POST", "/transfers", "side-effect route requires a capability token"): 2,
        ("POST", "/transfers", "capability does not authorize tool transfer on server payments"): 1,
        ("GET", "/balance", "side-effect route requires a capability token"): 1,
    }


def test_an_operation_that_a_capability_lacks_is_counted_as_enforcing_would_refuse_it(
    tmp_path: Path, cli: CommandLine
) -> None:
    reports, enforced = {}, {}
    for observe in (True, False):
        store = tmp_path / f"observe-{observe}.sqlite3"
        app = FastAPI()
        needed = RequireCapability("payments", "audit", operations=("read", "delegate"))
        app.add_api_route("/audit", lambda: None, dependencies=[Depends(needed)])
        add_chio(app, sidecar_url=f"embedded:{store}", observe=observe)
        tokens = [
            _issued(store, "audit", cli, *(f"--operation={name}" for name in names))
            for names in ([], ["invoke", "read"], ["read"], ["invoke", "delegate", "read"])
        ]
        with TestClient(app) as browser:
            enforced[observe] = [browser.get("/audit", headers=token).status_code for token in [{}, *tokens]]
        command = ("receipt", "diff", "--receipt-store", store, "--all", "--json")
        reports[observe] = json.loads(cli(*command, status=WOULD_REFUSE))
    assert (enforced[True], enforced[False]) == ([200] * 5, [401, 403, 403, 403, 200])
    assert (reports[True]["observed"], reports[True]["would_refuse"]) == (5, 4)
    reasons = {group["reason"] for group in reports[True]["groups"]}
    assert "the capability lacks delegate for payments/audit" in reasons
    assert "the capability lacks delegate,read for payments/audit" in reasons


def _issued(store: Path, tool: str, cli: CommandLine, *more: str) -> dict[str, str]:
    key = ("--authority-seed-file", f"{store}.key")  # before the first start there is no store
    token = cli("capability", "issue", *key, "--server", "payments", "--tool", tool, *more)
    return {"X-Chio-Capability": token.strip()}
