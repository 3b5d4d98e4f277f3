"""Refusals and the line of the start reach the person at the terminal, once, and never against a configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from chio_core import ChioSettings, Denial, Requirement
from chio_core.evaluation.outcomes import Decision, capability_required
from chio_core.settings_report import report_settings
from chio_core.telemetry.notices import QUIET_SECONDS, Notices

REFUSED = Decision(verdict="deny", denial=Denial(message="no\nentry", guard="G", receipt_id="r-1", suggestion="wait"))
OPEN = Denial(message="no capability", guard="CapabilityGuard", details={"hint": "chio-sidecar capability issue"})


@contextmanager
def unconfigured() -> Iterator[logging.Logger]:
    """Give the logger of Chio as if nothing had configured logging."""
    logger = logging.getLogger("chio")
    handlers, logger.handlers, logger.propagate = logger.handlers, [], False  # pytest has added its own
    try:
        yield logger
    finally:
        logger.handlers, logger.propagate = handlers, True
        logger.setLevel(logging.NOTSET)
        logging.disable(logging.NOTSET)


def test_a_refusal_is_warned_of_once_for_each_route_and_reason_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    notices = Notices(lambda: now[0])
    for _ in range(3):
        for template in ("/a/{id}", "/b/{id}", None):
            notices.note(REFUSED, "POST", "/a/7", template)
    assert len(caplog.records) == 3
    now[0] = QUIET_SECONDS
    notices.note(REFUSED, "POST", "/a/8", "/a/{id}")
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 4
    assert caplog.messages[0] == (
        r"chio: refused POST /a/{id}: 403 chio_access_denied: no\nentry. To do: wait."
        " Details: chio-sidecar explain r-1"
    )
    assert caplog.messages[3].endswith("(2 more since the last warning)")


def test_paths_without_a_route_cannot_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices()
    for number in range(5):
        notices.note(REFUSED, "GET", f"/scan/{number}", None)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "decision",
    [
        Decision(verdict="allow"),
        Decision(verdict="error", denial=Denial(status=502, message="m")),
        Decision(verdict="deny", withheld=OPEN),
    ],
    ids=["allow", "error", "observed"],
)
def test_what_the_log_of_decisions_already_shows_is_not_repeated(
    caplog: pytest.LogCaptureFixture, decision: Decision
) -> None:
    Notices().note(decision, "GET", "/", "/")
    assert caplog.records == []


def test_the_remedy_names_the_ways_that_are_open(caplog: pytest.LogCaptureFixture) -> None:
    needed = capability_required(Requirement("payments", "transfer"), "X-Chio-Capability", None)
    Notices().note(Decision(verdict="deny", denial=OPEN), "POST", "/login", "/login")
    Notices().note(Decision(verdict="allow", denial=needed, requirement=Requirement("a", "b")), "POST", "/t", "/t")
    free, required = caplog.messages
    assert "present a capability (chio-sidecar capability issue), or declare" in free
    assert "CHIO_EXCLUDE_PATHS" in free
    assert "--server payments --tool transfer" in required
    assert "CHIO_EXCLUDE_PATHS" not in required


def test_a_filter_that_fails_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(record: logging.LogRecord) -> bool:
        raise RuntimeError("broken filter")

    logger = logging.getLogger("chio.refusal")
    logger.addFilter(broken)
    try:
        Notices().note(REFUSED, "GET", "/", "/")
    finally:
        logger.removeFilter(broken)


def start(number: int, **options: Any) -> None:
    report_settings(ChioSettings(sidecar_url=f"embedded:{number}.db", **options), {})


def test_the_start_is_printed_once_where_logging_is_not_configured(capsys: pytest.CaptureFixture[str]) -> None:
    with unconfigured():
        start(1)
        start(1)
    assert capsys.readouterr().err == (
        "chio: requests are evaluated by the sidecar embedded:1.db; key: its own; not governed: OPTIONS\n"
    )


@pytest.mark.parametrize(
    "configure",
    [
        lambda logger: logger.setLevel(logging.WARNING),
        lambda logger: logging.disable(logging.INFO),
        lambda logger: logger.addHandler(logging.NullHandler()),
    ],
    ids=["level", "disabled", "handler"],
)
def test_the_start_is_quiet_where_the_application_says_so(
    capsys: pytest.CaptureFixture[str], configure: Callable[[logging.Logger], None]
) -> None:
    with unconfigured() as logger:
        configure(logger)
        start(2)
    assert capsys.readouterr().err == ""
