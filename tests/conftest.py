"""What all tests share: the choice between the small sizes of every day and the full ones of `make chaos`."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]  # runs the tests of users, see tests/plugin


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="tests marked `slow` run at their full size")


@pytest.fixture(scope="session")
def full_size(request: pytest.FixtureRequest) -> bool:
    """True under `make chaos`: a test marked `slow` then takes minutes instead of seconds."""
    return bool(request.config.getoption("--full"))
