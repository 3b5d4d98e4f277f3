"""Fixtures of the tests of outgoing calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from chio_core.settings import ChioSettings
from tests.outbound.tools import KEY


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ChioSettings:
    monkeypatch.setenv("CHIO_TRUSTED_ISSUER_KEYS", KEY.public_hex)
    return ChioSettings(sidecar_url=f"embedded:{tmp_path / 'receipts.sqlite3'}", _env_file=None)
