from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.stacks.running import Stacks, running


@pytest.fixture(scope="package")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stacks]:
    with running(tmp_path_factory.mktemp("stacks")) as found:
        yield found
