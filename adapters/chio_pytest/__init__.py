"""Chio for pytest: the fixture `chio`, a sidecar in the process of the test.

pytest loads this module in every run in which the distribution is installed, so it imports nothing but pytest. Without
the fixture it changes one thing: an embedded sidecar writes to a store for these tests (`chio_core.scratch`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chio_core.testing import ChioFixture


# Read by `chio_core.scratch`: the runs of this process (a test may run pytest in its own), and the first one's folder.
active = 0
basetemp: str | None = None


def pytest_configure(config: pytest.Config) -> None:
    """State that this process runs tests, and the folder that `--basetemp` names."""
    global active, basetemp
    if not active:
        basetemp = config.getoption("basetemp", None)
    active += 1


def pytest_unconfigure() -> None:
    """State that the tests are over."""
    global active
    active -= 1


@pytest.fixture
def chio() -> Iterator[ChioFixture]:
    """A sidecar that really signs, for one test; see `chio_core.testing.ChioFixture`.

    During the test `CHIO_SIDECAR_URL` and `CHIO_TRUSTED_KERNEL_KEYS` point to it, so an application that the test makes
    from the environment is connected. `chio.connect(app)` is for one that was made elsewhere.
    """
    from chio_core.testing import ChioFixture

    with ChioFixture() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in found.environ.items():
            patch.setenv(name, value)
        yield found
