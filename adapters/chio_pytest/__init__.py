"""Chio for pytest: the fixture `chio`, a sidecar in the process of the test.

pytest loads this for every run where the distribution is installed, so nothing is imported here but pytest, and
nothing is changed for tests that do not ask for the fixture.
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

    For as long as the test lasts, `CHIO_SIDECAR_URL` and `CHIO_TRUSTED_KERNEL_KEYS` point to it, so an application that
    the test makes from the environment asks here. `chio.connect(app)` is for one that was made elsewhere.
    """
    from chio_core.testing import ChioFixture

    with ChioFixture() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in found.environ.items():
            patch.setenv(name, value)
        yield found
