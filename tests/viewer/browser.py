"""A real Chromium, driven over the HTTP protocol of WebDriver (W3C), and the server of its pages."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp

from chio_sidecar.cli.serving import bind
from tests.watchdog import Watchdog

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = None if CHROMIUM and DRIVER else "chromium and chromedriver are not installed"
DEADLINE = 20
"""Seconds that the browser may take for one thing."""

_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--force-color-profile=srgb",
]  # fmt: skip
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"

# The page's content security policy forbids code made from text, so the expression becomes part of the script here.
_UNTIL = """
const done = arguments[arguments.length - 1];
const look = () => {
  let found;
  try { found = (EXPRESSION); } catch (error) { found = null; }
  if (found) done(found); else setTimeout(look, 10);
};
look();
"""


class Browser:
    def __init__(self, driver: str, profile: Path, downloads: Path) -> None:
        self._http = httpx.Client(base_url=driver, timeout=60, trust_env=False)
        options = {"binary": CHROMIUM, "args": [*_FLAGS, f"--user-data-dir={profile}"]}
        always = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"script": DEADLINE * 1000, "pageLoad": DEADLINE * 1000},
        }
        self._session = ""
        self._session = "/session/" + self._post("/session", capabilities={"alwaysMatch": always})["sessionId"]
        self.downloads = downloads
        self.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def open(self, url: str) -> None:
        self._post("/url", url=url)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of a function in the page."""
        return self._post("/execute/sync", script=script, args=list(arguments))

    def until(self, expression: str) -> Any:
        """Return the value of an expression once it is true; fail after the deadline."""
        return self._post("/execute/async", script=_UNTIL.replace("EXPRESSION", expression), args=[])

    def wait(self, script: str, *arguments: Any) -> Any:
        """Run the body of an async function in the page and return what it gives."""
        body = f"const done = arguments[arguments.length - 1]; (async (...args) => {{ {script} }})"
        return self._post("/execute/async", script=body + "(...arguments).then(done)", args=list(arguments))

    def click(self, selector: str) -> None:
        self._post(f"/element/{self._find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        self._post(f"/element/{self._find(selector)}/value", text=text)

    def press(self, key: str) -> None:
        """Press and release one key where the focus is."""
        strokes = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._post("/actions", actions=[{"type": "key", "id": "keyboard", "actions": strokes}])

    def choose(self, selector: str, value: str) -> None:
        script = "const field = document.querySelector(arguments[0]); field.value = arguments[1];"
        self.run(script + "field.dispatchEvent(new Event('input', {bubbles: true}));", selector, value)

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def number_of(self, selector: str) -> int:
        return int(self.run("return document.querySelectorAll(arguments[0]).length", selector))

    def resize(self, width: int, height: int) -> None:
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def scheme(self, name: str) -> None:
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def complaints(self) -> list[str]:
        """Return warnings and errors of the console since the last call."""
        found = self._post("/se/log", type="browser")
        return [entry["message"] for entry in found if entry["level"] in ("WARNING", "SEVERE")]

    def cdp(self, command: str, **parameters: Any) -> Any:
        return self._post("/goog/cdp/execute", cmd=command, params=parameters)

    def close(self) -> None:
        self._http.delete(self._session)
        self._http.close()

    def _find(self, selector: str) -> str:
        return str(self._post("/element", using="css selector", value=selector)[_ELEMENT])

    def _post(self, path: str, **body: Any) -> Any:
        response = self._http.post(self._session + path, json=body)
        value = response.json()["value"]
        if response.is_error:
            raise AssertionError(f"{value['error']}: {value['message']}")
        return value


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """Start a browser with an empty profile, and end it when the block ends."""
    for name in ("profile", "downloads"):
        (folder / name).mkdir()
    with (
        subprocess.Popen(
            [str(DRIVER), "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"TMPDIR": str(folder)},  # Chromium leaves a folder there
        ) as driver,
        closing(Watchdog("pkill -KILL -P $1; kill -KILL $1", driver.pid)),
    ):
        try:
            assert driver.stdout is not None
            started = next(line for line in driver.stdout if "successfully on port" in line)
            port = started.rstrip(". \n").rpartition(" ")[2]
            browser = Browser(f"http://127.0.0.1:{port}", folder / "profile", folder / "downloads")
            try:
                yield browser
            finally:
                browser.close()
        finally:
            driver.terminate()


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """Serve an application on a free port of this machine, in a thread; give its address."""
    with bind("127.0.0.1:0") as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener.socket]})
        thread.start()
        try:
            yield f"http://{listener.address}"
        finally:
            server.should_exit = True
            thread.join(DEADLINE)


def arrived(folder: Path, browser: Browser, pattern: str = "*.json") -> Path:
    """Return the file that is being downloaded into a folder, once it is there."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        found = [path for path in folder.glob(pattern) if path.stat().st_size]
        if found:
            return found[0]
        browser.wait("await new Promise((go) => setTimeout(go, 20))")
    raise AssertionError(f"nothing was downloaded into {folder}: {list(folder.iterdir())}")


class Shown:
    """Serves the application of the current test."""

    app: ASGIApp

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


def open_row(browser: Browser, position: int = 1) -> None:
    """Open a receipt of the list, counted from 1, and wait until it is shown."""
    row = f"#rows tr:nth-child({position})"
    browser.click(f"{row} a")
    browser.until(f"document.querySelector('#detail').dataset.id === document.querySelector('{row}').dataset.id")


def checks(browser: Browser) -> list[str]:
    """Return the verifications of the opened receipt, by the browser and by the server."""
    return list(browser.run("return [...document.querySelectorAll('#checks li')].map((item) => item.innerText)"))


LOOK_NOW = "document.dispatchEvent(new Event('visibilitychange'))"
"""Lets the page request new receipts at once, as when its tab becomes visible again."""

LISTED = "document.querySelectorAll('#rows tr').length === {}"
"""True once the table has so many rows."""

SUMMARY = "document.querySelector('#summary').textContent === '{}'"
"""True once the sentence above the table is this one."""

ESCAPE, DOWN, ENTER, TAB = "\ue00c", "\ue015", "\ue007", "\ue004"
