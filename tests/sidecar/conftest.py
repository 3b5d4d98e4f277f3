"""What the tests of the control plane and of the command line share: sidecars, and commands in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chio_sidecar.app import SidecarApp
from tests.sidecar.control_tools import KEY, NOW, CommandLine, sidecars


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


@pytest.fixture
def create(tmp_path: Path) -> Iterator[Callable[..., SidecarApp]]:
    """Create sidecars on one store, whose clock stands at `NOW` and which sign with `KEY`."""
    defaults = {"store_path": tmp_path / "receipts.sqlite3", "signing_key": KEY, "clock": lambda: NOW}
    with sidecars() as function:
        yield lambda **options: function(**(defaults | options))


@pytest.fixture
def app(create: Callable[..., SidecarApp]) -> SidecarApp:
    return create()
