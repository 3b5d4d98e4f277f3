"""System checks: each has a number, and what is wrong is found by `manage.py check`."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.test import override_settings

from chio_core.errors import ConfigurationError
from chio_core.testing import KEY
from chio_django import ChioDjangoMiddleware, checks
from chio_django.conf import conf
from tests.django.project import CHIO
from tests.project.tree import ROOT

CACHE = "django.middleware.cache.FetchFromCacheMiddleware"
GOOD: dict[str, Any] = {"CHIO_TRUSTED_KERNEL_KEYS": [KEY.public_hex]}


def found(deploy: bool = False, **settings: Any) -> list[str]:
    """Return the ids of what the checks find under these settings."""
    with override_settings(**(GOOD | settings)):
        messages = run_checks(include_deployment_checks=deploy)
    ours = [message for message in messages if str(message.id).startswith("chio.")]
    assert all(message.hint for message in ours)
    return [str(message.id) for message in ours]


def test_good_settings_raise_nothing() -> None:
    assert found() == []
    assert found(deploy=True) == []


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"CHIO_FAIL_OPEN": "perhaps"}, "chio.E001"),
        ({"CHIO_TIMEOUT": -1}, "chio.E001"),
        ({"CHIO_SIDECAR_URL": None}, "chio.E001"),
        ({"CHIO_EXCLUDE_PATHS": "healthz"}, "chio.E001"),
        ({"CHIO_EXCLUDE_PATH": ["/healthz"]}, "chio.E002"),
        ({"CHIO_NONSENSE": 1}, "chio.E002"),
        ({"CHIO_EXTRACTOR": "no.such.module"}, "chio.E003"),
        ({"CHIO_ON_RECEIPT": 5}, "chio.E003"),
        ({"MIDDLEWARE": [CHIO, CHIO]}, "chio.E004"),
        ({"CHIO_CAPABILITY_SOURCE": "session"}, "chio.E008"),
        ({"CHIO_CAPABILITY_SOURCE": "cookie:chio"}, "chio.E008"),
        ({"MIDDLEWARE": []}, "chio.W005"),
        ({"MIDDLEWARE": [CACHE, CHIO]}, "chio.W006"),
    ],
)
def test_a_mistake_has_its_number(settings: dict[str, Any], wanted: str) -> None:
    assert found(**settings) == [wanted]


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"CHIO_FAIL_OPEN": True}, "chio.W001"),
        ({"CHIO_EXCLUDE_METHODS": ["GET"]}, "chio.W008"),
        ({"CHIO_OBSERVE": True}, "chio.W009"),
        ({"CHIO_OBSERVE_PATHS": ["/a"]}, "chio.W009"),
        ({"CHIO_OBSERVE_PREFIXES": "/a,/b"}, "chio.W009"),
        ({"CHIO_TRUSTED_KERNEL_KEYS": []}, "chio.W002"),
        ({"CHIO_SIDECAR_URL": "http://sidecar.internal:9090"}, "chio.W003"),
        ({"CHIO_CAPABILITY_IN_QUERY": True}, "chio.W004"),
        ({"CHIO_TRUST_URL": "http://trust.internal:9090", "CHIO_TRUST_TOKEN": "t"}, "chio.W011"),
    ],
)
def test_what_weakens_governance_is_found_before_a_deployment(settings: dict[str, Any], wanted: str) -> None:
    assert found(deploy=True, **settings) == [wanted]
    assert found(**settings) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"CHIO_EXCLUDE_PATHS": ["/healthz"], "CHIO_EXCLUDE_METHODS": ["OPTIONS"], "CHIO_RECEIPT_HEADER": "X-R"},
        {"CHIO_EXCLUDE_PATHS": "/a,/b"},
        {"CHIO_GUARDS": []},
        {"CHIO_BIN": "/usr/bin/chio"},
        {"CHIO_EXTRACTOR": "chio_core.identity.from_bearer"},
        {"MIDDLEWARE": [CHIO, CACHE]},
        {"MIDDLEWARE": ["tests.django.test_checks.OwnMiddleware"]},
    ],
)
def test_what_is_no_mistake_is_not_complained_about(settings: dict[str, Any]) -> None:
    assert found(**settings) == []


class OwnMiddleware(ChioDjangoMiddleware):
    """A subclass counts as the middleware."""


def test_an_unknown_name_comes_with_the_one_that_was_meant() -> None:
    with override_settings(CHIO_EXCLUDE_PATH=["/healthz"]):
        assert conf.unknown == {"CHIO_EXCLUDE_PATH": "Did you mean CHIO_EXCLUDE_PATHS?"}


def test_the_check_command_fails_and_names_setting_and_number() -> None:
    text = io.StringIO()
    with override_settings(CHIO_TIMEOUT="soon"), pytest.raises(CommandError) as refused:
        call_command("check", stdout=text, stderr=text)
    assert "chio.E001" in str(refused.value)
    assert "CHIO_TIMEOUT" in str(refused.value)


def test_no_secret_is_repeated() -> None:
    with override_settings(CHIO_CONTROL_TOKEN=["a-secret"]), pytest.raises(ConfigurationError) as refused:
        _ = conf.settings
    assert "a-secret" not in str(refused.value)


def test_a_server_does_not_start_with_settings_that_cannot_be_used() -> None:
    with override_settings(CHIO_TIMEOUT="soon"), pytest.raises(ConfigurationError, match="CHIO_TIMEOUT"):
        ChioDjangoMiddleware(lambda request: None)


def test_unknown_names_are_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(CHIO_FAIL_OPN=True):
        ChioDjangoMiddleware(lambda request: None)
    assert "Did you mean CHIO_FAIL_OPEN?" in caplog.text


def test_django_s_settings_beat_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIO_TIMEOUT", "3")
    monkeypatch.setenv("CHIO_RECEIPT_HEADER", "X-From-Environment")
    with override_settings(CHIO_TIMEOUT=4):
        assert conf.settings.timeout == 4
        assert conf.settings.receipt_header == "X-From-Environment"


def test_the_page_lists_the_checks() -> None:
    rows = re.compile(r"^\| `(chio\.[EW]\d+)` \| (.*) \|$", re.MULTILINE)
    page = (ROOT / "docs" / "django.md").read_text(encoding="utf-8")
    assert rows.findall(page) == rows.findall(checks.__doc__ or "") != []
