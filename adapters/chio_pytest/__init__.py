"""Chio for pytest: the fixture `chio`, a sidecar in the process of the test.

pytest loads this module in every run in which the distribution is installed, so it imports nothing but pytest and
changes nothing for tests without the fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chio_core.testing import ChioFixture


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
