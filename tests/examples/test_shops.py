"""The shops: each passes its own tests, and is used in Chromium: login, form, refusal, capability, logout, attacks."""

from __future__ import annotations

import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
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
# A login to the API of the shop in Django by the user whose page it is. A client of an API sends no session cookie.
API = """
    const name = document.querySelector("#user").textContent;
    const form = new URLSearchParams({name, password: name});
    const found = await (await fetch("/api/token", {method: "POST", body: form})).json();
"""
# What an attacker who has read them would copy: the capability of the user who is logged in.
CAPABILITY = {
    "shop-django": API + "return found.capability",
    "shop-fastapi": "return JSON.parse(sessionStorage.session).capability",
    "shop-flask": None,  # a script cannot read the cookie
}
# A refund with a capability as this user: their own session, access token and CSRF token.
REFUND = {
    "shop-django": API
    + """
        const headers = {"X-Chio-Capability": args[0], Authorization: `Bearer ${found.token}`};
        return (await fetch("/api/refund", {method: "POST", headers, credentials: "omit"})).status""",
    "shop-fastapi": """
        const {access_token} = JSON.parse(sessionStorage.session);
        const headers = {"X-Chio-Capability": args[0], Authorization: `Bearer ${access_token}`};
        return (await fetch("/orders", {method: "DELETE", headers})).status""",
    "shop-flask": """
        const body = new FormData(document.querySelector("#refund"));
        return (await fetch("/orders/refund", {method: "POST", body})).status""",
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("chromium")) as found:
        yield found


TESTS = {
    "shop-django": "manage.py test",
    "shop-fastapi": "-m pytest -q -p chio_pytest -p no:cacheprovider",
    "shop-flask": "-m pytest -q -p chio_pytest -p no:cacheprovider",
}
CHECKS = {
    "shop-django": "",  # of DJANGO_SETTINGS_MODULE
    "shop-fastapi": "app:app",
    "shop-flask": "app:create_app()",
}


def copied(name: str, folder: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "*.sqlite3*")
    return Path(shutil.copytree(ROOT / "examples" / name, folder / name, ignore=ignored))


@pytest.mark.parametrize("name", SHOPS)
def test_the_tests_of_a_shop_pass_and_leave_no_store_and_no_key(name: str, tmp_path: Path) -> None:
    folder = copied(name, tmp_path)
    done = run(sys.executable, "-W", "error", *TESTS[name].split(), cwd=folder, PYTHONPATH=PATHS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    assert not list(folder.glob("*.sqlite3*"))


@pytest.mark.parametrize("name", SHOPS)
def test_a_shop_is_found_to_be_governed(name: str, tmp_path: Path) -> None:
    command = ("-m", "chio_sidecar", "check", *CHECKS[name].split())
    more = {"PYTHONPATH": PATHS, "DJANGO_SETTINGS_MODULE": "shop.settings"}
    done = run(sys.executable, *command, cwd=copied(name, tmp_path), **more)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def running(name: str, folder: Path) -> Iterator[str]:
    """Run an example in a copy of its folder; give its address."""
    commands, ready = SHOPS[name]
    copied(name, folder)
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


@dataclass(frozen=True, slots=True)
class Shop:
    name: str
    address: str


@pytest.fixture(scope="module", params=sorted(SHOPS))
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with running(request.param, tmp_path_factory.mktemp("shop")) as address:
        yield Shop(request.param, address)


class Visitor:
    """A person at a shop: fills in forms, and reads."""

    def __init__(self, browser: Browser, shop: Shop) -> None:
        self.browser = browser
        self.shop = shop
        browser.open(shop.address)
        browser.run("sessionStorage.clear()")
        browser.cdp("Network.clearBrowserCookies")
        self.home()

    def home(self) -> None:
        self.browser.open(self.shop.address)
        self.browser.until(HOME)

    def send(self, form: str, **fields: str) -> str:
        """Fill in a form, press its button, and return what is shown then."""
        for name, value in fields.items():
            self.browser.run("document.querySelector(arguments[0]).value = ''", f"{form} [name={name}]")
            self.browser.type(f"{form} [name={name}]", value)
        # A form of the page loads the next one; a script says in #message what came out.
        self.browser.run("window.old = true; document.querySelector('#message')?.replaceChildren()")
        self.browser.click(f"{form} button, {form} [type=submit]")
        said = "!['', '…', undefined].includes(document.querySelector('#message')?.textContent)"
        # Each look is a script of its own: one that waits in a page ends with it, and never says so.
        deadline = time.monotonic() + DEADLINE
        while not self.browser.run(f"return window.old ? {said} : document.readyState === 'complete'"):
            assert time.monotonic() < deadline, self.browser.run("return document.body.innerText")
        return str(self.browser.run("return document.body.innerText"))

    def log_in(self, name: str) -> None:
        self.home()
        assert f"You are {name}" in self.send("#login", name=name, password=name)

    def log_out(self) -> None:
        self.home()
        self.send("#logout")

    def capability(self) -> str:
        """Return the capability of the user who is logged in."""
        script = CAPABILITY[self.shop.name]
        if script is not None:
            return str(self.browser.wait(script))
        (cookie,) = (one for one in self.cookies() if one["name"] == "capability")
        assert cookie["httpOnly"]
        return str(cookie["value"])

    def refund_with(self, capability: str) -> int:
        """Return the status of a refund by this user with a capability."""
        if self.shop.name == "shop-flask":
            url = self.shop.address
            self.browser.cdp("Network.setCookie", name="capability", value=capability, url=url, httpOnly=True)
        return int(self.browser.wait(REFUND[self.shop.name], capability))

    def orders(self) -> str:
        if self.shop.name == "shop-fastapi":
            return str(self.browser.wait("return (await fetch('/orders')).text()"))
        self.home()
        return self.browser.text("#orders")

    def cookies(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.browser.cdp("Network.getCookies", urls=[self.shop.address])["cookies"]
        return found


@pytest.fixture
def visitor(browser: Browser, shop: Shop) -> Visitor:
    return Visitor(browser, shop)


def test_a_visitor_is_refused_and_a_user_orders_until_the_logout(visitor: Visitor) -> None:
    assert "Chio capability required for shop/order" in visitor.send("#order", item="tea")
    visitor.log_in("alice")
    assert "green tea for alice" in visitor.send("#order", item="green tea")
    assert "capability does not authorize tool refund on server shop" in visitor.send("#refund")
    visitor.log_out()
    assert "Chio capability required for shop/order" in visitor.send("#order", item="coffee")
    visitor.log_in("max")
    assert "for alice" not in visitor.send("#refund")


def test_the_capability_of_another_user_refunds_nothing(visitor: Visitor) -> None:
    visitor.log_in("max")
    taken = visitor.capability()
    visitor.log_out()
    visitor.log_in("alice")
    visitor.send("#order", item="white tea")
    assert visitor.refund_with(taken) in (401, 403)
    assert "white tea for alice" in visitor.orders()
    visitor.log_out()
    visitor.log_in("max")
    assert visitor.refund_with(visitor.capability()) == 200
    assert "white tea for alice" not in visitor.orders()


def test_stolen_cookies_refund_nothing_without_the_token_of_a_form(visitor: Visitor) -> None:
    visitor.log_in("max")
    visitor.send("#order", item="black tea")
    stolen = {one["name"]: one["value"] for one in visitor.cookies()}
    refund = {"shop-fastapi": ("DELETE", "orders")}.get(visitor.shop.name, ("POST", "orders/refund"))
    for headers in ({}, {"Sec-Fetch-Site": "same-origin", "Origin": visitor.shop.address[:-1]}):
        response = httpx.request(
            refund[0], visitor.shop.address + refund[1], cookies=stolen, headers=headers, trust_env=False
        )
        assert response.status_code in (400, 401, 403)
    assert "black tea for max" in visitor.orders()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_page_of_another_origin_orders_nothing(visitor: Visitor, host: str) -> None:
    path = {"shop-fastapi": "orders", "shop-flask": "orders/", "shop-django": "orders/"}[visitor.shop.name]
    page = (
        f"<form id=order method=post action='{visitor.shop.address}{path}'><input name=item><button>Win</button></form>"
    )
    visitor.log_in("alice")
    with served(page) as port:
        visitor.browser.open(f"http://{host}:{port}/")
        visitor.send("#order", item="gift")
        assert visitor.browser.run("return location.href") == visitor.shop.address + path
    visitor.home()
    assert "gift" not in visitor.orders()
    assert "own tea for alice" in visitor.send("#order", item="own tea")


@pytest.mark.parametrize("shop", ["shop-django"], indirect=True)
def test_the_admin_of_django_is_used_with_its_own_permissions(visitor: Visitor) -> None:
    browser = visitor.browser
    browser.open(visitor.shop.address + "admin/shop/order/add/")
    visitor.send("#login-form", username="root", password="root")
    visitor.send("#order_form", item="mint", user="root")
    assert "mint for root" in browser.text("#result_list")
    assert "mint for root" in visitor.orders()


@contextmanager
def served(page: str) -> Iterator[int]:
    """Serve one page on a port of its own; give the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()
