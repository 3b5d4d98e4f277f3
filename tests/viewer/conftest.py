"""One Chromium and one server for all tests of the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from chio_sidecar.records.listing import PAGE
from chio_sidecar.viewer import VIEWER_PATH, create_viewer_app
from tests.sidecar.control_tools import CommandLine
from tests.viewer.browser import LISTED, MISSING, Browser, Shown, browsing, listening
from tests.viewer.records import KEY, STORE, fill


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if MISSING:
        pytest.skip(MISSING)
    with browsing(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The browser with a wide window; the page must not have made it complain."""
    chromium.resize(1400, 900)
    chromium.scheme("light")
    chromium.complaints()
    yield chromium
    assert chromium.complaints() == []


@pytest.fixture(scope="session")
def served() -> Iterator[tuple[Shown, str]]:
    shown = Shown()
    with listening(shown) as address:
        yield shown, address + VIEWER_PATH


@pytest.fixture
def show(browser: Browser, served: tuple[Shown, str], tmp_path: Path) -> Iterator[Any]:
    """Give a function that stores receipts, opens the page of the store, and returns its address.

    Without a token it waits until the receipts are listed.
    """
    shown, address = served

    def open_page(
        receipts: Sequence[Any], *, token: str | None = None, keys: Any = (KEY.public_hex,), hash: str = ""
    ) -> str:
        path = fill(tmp_path / STORE, receipts)
        shown.app = create_viewer_app(path, keys=frozenset(keys), token=SecretStr(token) if token else None)
        browser.open(address + hash)
        if token is None:
            browser.until(LISTED.format(min(len(receipts), PAGE)))
        return address

    yield open_page
    browser.open("about:blank")
