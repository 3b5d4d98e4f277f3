"""The shops: each is run as its first lines say, and used in Chromium: login, form, refusal, capability, logout."""

from __future__ import annotations

import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.examples.running import ROOT, environment, free_port, run
from tests.viewer.browser import DEADLINE, MISSING, Browser, browsing

PATHS = f"{ROOT}:{ROOT / 'adapters'}"
SHOPS = {
    "shop-django": ("manage.py demo; manage.py runserver --noreload {port}", "Quit the server"),
    "shop-fastapi": ("-m uvicorn app:app --port {port}", "Uvicorn running on"),
    "shop-flask": ("-m flask --app app run --port {port}", "Running on"),
}
"""How each is started, with the port, and the text that says that it runs."""

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
HOME = "document.querySelector('#orders')"
REFUSED = "document.body.innerText.includes('{}')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@contextmanager
def running(name: str, folder: Path) -> Iterator[str]:
    """Run an example in a copy of its folder; give its address."""
    commands, ready = SHOPS[name]
    shutil.copytree(ROOT / "examples" / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3*"))
    port = free_port()
    *before, command = [[sys.executable, *part.split()] for part in commands.format(port=port).split(";")]
    for one in before:
        done = run(*one, cwd=folder / name, PYTHONPATH=PATHS)
        assert done.returncode == 0, done.stderr
    process = subprocess.Popen(
        command,
        cwd=folder / name,
        env=environment(PYTHONPATH=PATHS, PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=lambda: [lines.put(line) for line in process.stdout or ()], daemon=True)
    reader.start()
    try:
        seen = [lines.get(timeout=DEADLINE)]
        while ready not in seen[-1]:
            assert process.poll() is None or not lines.empty(), seen
            seen.append(lines.get(timeout=DEADLINE))
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(DEADLINE)
        reader.join(DEADLINE)
        process.stdout.close()


@pytest.fixture(scope="module", params=sorted(SHOPS))
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(request.param, tmp_path_factory.mktemp("shop")) as address:
        yield address


class Visitor:
    """A person at a shop: fills in forms, and reads."""

    def __init__(self, browser: Browser, shop: str) -> None:
        self.browser = browser
        browser.open(shop)
        browser.run("sessionStorage.clear()")
        browser.cdp("Network.clearBrowserCookies")
        self.shop = shop
        self.home()

    def home(self) -> None:
        self.browser.open(self.shop)
        self.browser.until(HOME)

    def send(self, form: str, **fields: str) -> str:
        """Fill in a form, press its button, and return what is shown then."""
        for name, value in fields.items():
            self.browser.run("document.querySelector(arguments[0]).value = ''", f"{form} [name={name}]")
            self.browser.type(f"{form} [name={name}]", value)
        # A form of the page loads the next one; a script says in #message what came out.
        self.browser.run("window.old = true; document.querySelector('#message')?.replaceChildren()")
        self.browser.click(f"{form} button")
        said = "!['', '…', undefined].includes(document.querySelector('#message')?.textContent)"
        # Each look is a script of its own: one that waits in a page ends with it, and never says so.
        deadline = time.monotonic() + DEADLINE
        while not self.browser.run(f"return window.old ? {said} : document.readyState === 'complete'"):
            assert time.monotonic() < deadline, self.browser.run("return document.body.innerText")
        return str(self.browser.run("return document.body.innerText"))

    def log_in(self, name: str) -> None:
        assert f"You are {name}" in self.send("#login", name=name, password=name)


def test_a_visitor_is_refused_and_a_user_orders_until_the_logout(browser: Browser, shop: str) -> None:
    visitor = Visitor(browser, shop)
    assert "Chio capability required for shop/order" in visitor.send("#order", item="tea")
    visitor.home()
    visitor.log_in("alice")
    assert "green tea for alice" in visitor.send("#order", item="green tea")
    assert "capability does not authorize tool refund on server shop" in visitor.send("#refund")
    visitor.home()
    visitor.send("#logout")
    assert "Chio capability required for shop/order" in visitor.send("#order", item="coffee")
    visitor.home()
    visitor.log_in("max")
    assert "for alice" not in visitor.send("#refund")
