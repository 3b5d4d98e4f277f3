"""What is not governed: exactly what was written down, compared with what the router matches."""

from __future__ import annotations

import pytest

from chio_core.evaluation.precheck import Exclusions
from chio_core.settings import ChioSettings

SETTINGS = ChioSettings(exclude_paths="/health,/a/b/", exclude_prefixes="/static,/docs/", exclude_methods="OPTIONS")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"), ("DELETE", "/health"), ("GET", "/a/b/"), ("GET", "/static"), ("GET", "/static/"),
        ("GET", "/static/a/b.css"), ("GET", "/docs/x"), ("GET", "/docs"), ("OPTIONS", "/anything"),
    ],
)  # fmt: skip
def test_what_was_written_down_is_excluded(method: str, path: str) -> None:
    assert Exclusions(SETTINGS).cover(method, path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"), ("GET", ""), ("GET", "/health/"), ("GET", "/HEALTH"), ("GET", "//health"), ("GET", "/health/x"),
        ("GET", "/healthz"), ("GET", "/x/health"), ("GET", "/health?"), ("GET", "/health;x"), ("GET", "/health%00"),
        ("GET", "/./health"), ("GET", "/a/b"), ("GET", "/statics"), ("GET", "/Static/a"), ("GET", "//static/a"),
        ("GET", "/admin/../static"), ("GET", "static/a"), ("options", "/anything"), ("OPTIONS ", "/x"), ("HEAD", "/x"),
    ],
)  # fmt: skip
def test_no_other_spelling_is(method: str, path: str) -> None:
    assert not Exclusions(SETTINGS).cover(method, path)


def test_nothing_is_excluded_by_default_but_options() -> None:
    assert not Exclusions(ChioSettings()).cover("GET", "/health")
    assert Exclusions(ChioSettings()).cover("OPTIONS", "/health")
