"""What the tests of the control plane and of the command line share: sidecars, and commands in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chio_sidecar.app import SidecarApp
from tests.sidecar.control_tools import CommandLine, sidecars
from tests.sidecar.sidecar_tools import AUTHORITY, KERNEL, Clock, with_carrier


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


@pytest.fixture
def create(tmp_path: Path) -> Iterator[Callable[..., SidecarApp]]:
    """Create sidecars on one store that trust `AUTHORITY` and sign with `KERNEL`; they are closed after the test."""
    defaults: dict[str, Any] = {
        "store_path": tmp_path / "receipts.sqlite3",
        "signing_key": KERNEL,
        "trusted_issuers": {AUTHORITY.public_hex},
        "clock": Clock(),
    }
    with sidecars() as function:
        yield lambda **options: function(**with_carrier(defaults | options))


@pytest.fixture
def app(create: Callable[..., SidecarApp]) -> SidecarApp:
    return create()
