"""What `chio_fastapi.check(app)` and `chio-sidecar check` say about an application (rows B13 and C9)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.staticfiles import StaticFiles
from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware

from chio_asgi import ChioASGIMiddleware
from chio_core import AnyResponse, Chain, ConfigurationError, GuardRequest, Next
from chio_core.guards import IpBlock, RateLimit, SecurityHeaders, Stopwatch
from chio_fastapi import Budget, Observe, Policy, RequireApproval, RequireCapability, add_chio, check, from_path
from chio_sidecar.cli import main
from chio_sidecar.cli.application import check_application
from tests.support import StubClient, call, run, settings


async def per_tenant(request: GuardRequest, next: Next) -> AnyResponse:
    return await next(request)


def application(*guards: Any, **options: Any) -> FastAPI:
    app = FastAPI()
    add_chio(app, settings(**options), guards=guards)
    return app


def told(app: Any) -> dict[str, tuple[str, str]]:
    """Return the findings by category; both ways of asking must say the same."""
    found = {finding.category: (finding.severity, finding.message) for finding in check(app)}
    asked = {finding.category: (finding.severity, finding.message) for finding in check_application(app)}
    assert found == {k: v for k, v in asked.items() if v[1] != "decide (0)"}
    return found


def test_the_resolved_chain_is_one_line_in_run_order_by_name() -> None:
    """B13, C9"""
    chain = Chain(per_tenant, RateLimit("5/minute", storage="memory://"), Stopwatch(), IpBlock([]))
    assert told(application(chain))["middleware_chain"] == (
        "INFO",
        "stopwatch (-100) → ip_block (-80) → rate_limit (-60) → decide (0) → per_tenant (10)",
    )


def test_without_guards_there_is_no_line_about_them() -> None:
    """C9"""
    assert "middleware_chain" not in told(application())


def test_an_impossible_order_is_an_error() -> None:
    app = Starlette()
    app.add_middleware(ChioASGIMiddleware, guards=[Chain().add(per_tenant, requires=["decision"], priority=-1)])
    found = {f.category: f for f in check(app)}
    assert found["middleware_order"].severity == "ERROR"
    assert "per_tenant (priority -1) requires 'decision'" in found["middleware_order"].message


def test_a_guard_of_priority_zero_is_named_with_what_to_write() -> None:
    """D14: other libraries use 0 as the default priority; here it runs before the decision."""
    app = application(Chain().add(per_tenant, priority=0), Chain().add(per_tenant, priority=1))
    severity, message = told(app)["priority_of_decide"]
    assert severity == "WARN"
    assert message.startswith("per_tenant has priority 0, as decide, and runs before the decision")
    assert "write priority=10" in message
    assert "priority_of_decide" not in told(application(per_tenant, IpBlock([])))


def test_what_runs_without_a_decision_is_listed() -> None:
    """Section 7: exclusions, OPTIONS among them, are the only ungoverned success."""
    app = application(exclude_paths={"/healthz", "/ready"}, exclude_prefixes={"/static"})
    found = told(app)
    assert found["excluded_methods"] == ("INFO", "methods that run without a decision: OPTIONS")
    assert found["excluded_paths"] == ("INFO", "paths that run without a decision: /healthz, /ready")
    assert found["excluded_prefixes"] == ("INFO", "paths with all below that run without a decision: /static")
    assert not {category for category in told(application(exclude_methods=())) if category.startswith("excluded")}


def test_a_limit_that_each_worker_counts_is_a_warning() -> None:
    """Section 7, in-memory limiter."""
    severity, message = told(application(RateLimit("5/minute")))["rate_limit_memory"]
    assert severity == "WARN"
    assert "each worker process allows the whole limit" in message


def test_cors_inside_of_chio_is_a_warning_and_outside_is_not() -> None:
    """B10"""
    app = FastAPI()
    app.add_middleware(CORSMiddleware)
    add_chio(app, settings())
    assert told(app)["cors_inside"][0] == "WARN"
    right = application()
    right.add_middleware(CORSMiddleware)
    assert "cors_inside" not in told(right)


def test_a_capability_that_browsers_send_by_themselves_needs_csrf_protection() -> None:
    class CSRFMiddleware(SessionMiddleware): ...

    app = application(capability_source="session")
    severity, message = told(app)["no_csrf"]
    assert severity == "WARN"
    assert message.startswith("capability_source is session, which browsers send by themselves, and there is no CSRF")
    app.add_middleware(CSRFMiddleware, secret_key="for tests")
    assert not {"no_csrf", "session_inside"} & set(told(app))
    assert "no_csrf" not in told(application())


def test_sessions_inside_of_chio_cannot_carry_a_capability() -> None:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key="for tests")
    add_chio(app, settings(capability_source="session"))
    assert told(app)["session_inside"][0] == "ERROR"


def test_unsafe_settings_are_warnings() -> None:
    found = told(application(fail_open=True, trusted_kernel_keys=(), capability_in_query=True))
    assert {"setting_fail_open", "setting_trusted_kernel_keys", "setting_capability_in_query"} <= set(found)


def test_a_handler_for_failures_and_a_mount_without_routes_are_warnings(tmp_path: Path) -> None:
    app = application()
    app.add_exception_handler(500, lambda request, exc: None)  # type: ignore[arg-type, return-value]
    app.mount("/files", StaticFiles(directory=tmp_path))
    found = told(app)
    assert found["own_500"][0] == found["route_pattern"][0] == "WARN"
    assert "/files" in found["route_pattern"][1]


def test_a_mount_that_is_excluded_is_evaluated_by_no_path(tmp_path: Path) -> None:
    app = application(exclude_prefixes={"/files"})
    app.mount("/files", StaticFiles(directory=tmp_path))
    assert "route_pattern" not in told(app)


def test_a_route_that_is_only_observed_is_reported_in_both_ways() -> None:
    app = application()
    app.post("/orders", dependencies=[Depends(Observe())])(lambda: None)
    severity, message = told(app)["observe"]
    assert severity == "WARN"
    assert "POST /orders" in message


def test_an_amount_that_names_no_parameter_of_the_path_is_an_error() -> None:
    app, inner = application(), FastAPI()
    wrong, right = RequireApproval(5, amount=from_path("amout")), RequireApproval(5, amount=from_path("amount"))
    app.post("/pay/{amount:int}", dependencies=[Depends(wrong)])(lambda: None)
    app.post("/right/{amount}", dependencies=[Depends(right)])(lambda: None)
    inner.post("/mounted", dependencies=[Depends(right)])(lambda: None)
    app.mount("/{amount}", inner)
    told_of = [finding for finding in check(app) if finding.category == "unknown_parameter"]
    assert [(one.severity, one.message) for one in told_of] == [
        (
            "ERROR",
            "POST /pay/{amount}: RequireApproval(amount=from_path('amout')) names no parameter of the path"
            " (it has: amount), so every request is refused",
        )
    ]
    app.get("/q", dependencies=[Depends(Budget(cost=from_path("n"), max_total_cost=1))])(lambda: None)
    assert (
        "GET /q: Budget(cost=from_path('n')) names no parameter of the path (it has: none)"
        in (told(app)["unknown_parameter"][1])
    )


def test_a_budget_without_any_limit_is_a_warning() -> None:
    app = application()
    app.post("/a", dependencies=[Depends(Budget(cost=5))])(lambda: None)
    app.post("/b", dependencies=[Depends(Budget(cost=5, max_cost_per_invocation=0))])(lambda: None)
    assert told(app)["budget_without_limit"] == (
        "WARN",
        "POST /a: Budget has no limit, so it counts and refuses nothing",
    )


def test_routes_that_write_and_require_nothing_are_listed() -> None:
    app = application(exclude_paths={"/webhook"}, exclude_methods={"DELETE"})
    router = APIRouter(prefix="/items")
    for path, demand in (("/observed", Observe()), ("/rated", Policy(sensitivity="internal"))):
        router.put(path, dependencies=[Depends(demand)])(lambda: None)
    app.include_router(router)
    app.api_route("/both", methods=["GET", "POST", "PATCH"])(lambda: None)
    app.delete("/excluded")(lambda: None)
    app.post("/webhook")(lambda: None)
    for number, demand in enumerate(
        (RequireCapability("s", "t"), Budget(max_invocations=1), RequireApproval(), Policy(side_effects=False))
    ):
        app.post(f"/{number}", dependencies=[Depends(demand)])(lambda: None)
    severity, message = told(app)["no_requirement"]
    assert severity == "INFO"
    assert message.endswith(": PUT /items/observed, PUT /items/rated, PATCH|POST /both")
    assert "no_requirement" not in told(application())


def test_websockets_that_require_nothing_are_listed() -> None:
    app = application(exclude_paths={"/public"})
    demands = {
        "/open": [],
        "/rated": [Policy(sensitivity="internal")],
        "/public": [],
        "/writes": [Policy(side_effects=True)],
        "/feed": [RequireCapability("feed", "watch")],
        "/meant": [Policy(side_effects=False)],
    }
    for path, demanded in demands.items():
        app.websocket(path, dependencies=[Depends(demand) for demand in demanded])(lambda: None)
    severity, message = told(app)["open_websocket"]
    assert severity == "INFO"
    assert message.endswith(": /open, /rated")
    assert "open_websocket" not in told(application())


def test_an_application_without_chio_is_an_error() -> None:
    assert told(FastAPI())["not_governed"][0] == "ERROR"


def test_the_middleware_as_a_wrapper_is_understood() -> None:
    wrapped = ChioASGIMiddleware(FastAPI(), settings(), guards=[SecurityHeaders()])
    assert told(wrapped)["middleware_chain"][1] == "security_headers (-90) → decide (0)"


def test_looking_changes_nothing() -> None:
    """More guards and middleware can be added after a look, and the application starts as ever."""
    chain = Chain(SecurityHeaders())
    app = FastAPI()
    app.add_middleware(ChioASGIMiddleware, client=StubClient(), guards=chain)
    check(app)
    chain.add(per_tenant)
    app.add_middleware(CORSMiddleware)
    assert next(f.message for f in check(app)) == "security_headers (-90) → decide (0) → per_tenant (10)"
    assert run(call(app, path="/nowhere")).status == 404
    with pytest.raises(ConfigurationError, match="frozen"):
        chain.add(per_tenant)


MODULE = """
from fastapi import Depends, FastAPI
from chio_core.guards import RateLimit
from chio_fastapi import add_chio

app = FastAPI()
bare = FastAPI()
add_chio(app, sidecar_url="embedded:never-opened.sqlite3", guards=[RateLimit("5/minute")])
raise_later = "x"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "checked_app.py").write_text(MODULE)
    (tmp_path / "broken_app.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "checked_app", raising=False)
    return tmp_path


def test_the_command_prints_the_resolved_chain(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "checked_app:app"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "INFO  middleware_chain: rate_limit (-60) → decide (0)"
    assert any(line.startswith("WARN  rate_limit_memory: ") for line in lines)
    assert not list(folder.glob("*.sqlite3")), "the application was imported, not started"


def test_the_command_prints_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "check", "checked_app:app"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert first == {"severity": "INFO", "category": "middleware_chain", "message": "rate_limit (-60) → decide (0)"}


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("checked_app", "MODULE:APP"),
        ("nowhere:app", "nowhere:app cannot be imported (ModuleNotFoundError"),
        ("checked_app:nothing", "cannot be imported (AttributeError"),
        ("broken_app:app", "cannot be imported (ZeroDivisionError"),
    ],
)
def test_the_command_says_plainly_what_it_cannot_find(
    folder: Path, place: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", place]) == 1
    assert said in capsys.readouterr().err


def test_the_command_fails_for_an_ungoverned_application(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "checked_app:bare"]) == 1
    assert capsys.readouterr().out.startswith("ERROR not_governed: ")


def test_a_part_that_is_governed_twice_is_reported() -> None:
    app, bank = application(), FastAPI(title="Bank")
    add_chio(bank, settings())
    middle = FastAPI()
    middle.mount("/banks", bank)
    app.mount("/{shop}", middle)
    severity, text = told(app)["governed_twice"]
    assert severity == "WARN"
    assert text.startswith("application 'Bank' below /{shop}/banks has Chio too: each request is evaluated twice")
    assert text.endswith("exclude its paths from the outer one (exclude_prefixes)")


def test_a_part_that_the_outer_one_excludes_is_not_governed_twice() -> None:
    app, bank = application(exclude_prefixes=["/bank"]), FastAPI(title="Bank")
    add_chio(bank, settings())
    app.mount("/bank", bank)
    assert "governed_twice" not in told(app)


def test_an_application_that_has_chio_twice_is_reported() -> None:
    app = application()
    add_chio(app, settings())
    assert told(app)["governed_twice"][1].startswith("application 'FastAPI' has Chio twice: ")
    assert "governed_twice" in told(ChioASGIMiddleware(application(), settings()))
    assert "governed_twice" not in told(application())
