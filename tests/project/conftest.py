from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _no_second_copy_of_an_adapter() -> Iterator[None]:
    """At the end of the whole run: no test has imported an adapter through its folder (its classes would be twins)."""
    yield
    twins = [name for name in sys.modules if name.partition(".")[0] == "adapters" and name != "adapters"]
    assert not twins, f"imported through the folder adapters/: {twins}"
