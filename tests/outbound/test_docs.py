"""docs/outbound.md is executed, every block of it, and its table of members is true."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from chio_core import outbound
from chio_core.outbound import Calls
from chio_core.testing import ScriptedSidecar
from tests.examples.running import run
from tests.outbound.tools import KEY, grant, token

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "outbound.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def network() -> httpx.AsyncBaseTransport:
    """Return a transport that replaces the real one of the page."""

    def respond(request: httpx.Request) -> httpx.Response:
        headers = {"set-cookie": "session=s1"} if request.url.path == "/login" else {}
        return httpx.Response(200, json={"price": 5, "cookie": request.headers.get("cookie")}, headers=headers)

    return httpx.MockTransport(respond)


class OfflineCalls(Calls):
    def __init__(self, **options: Any) -> None:
        super().__init__(transport=network(), **options)


def offline(block: str) -> str:
    """Return a block with the network taken out."""
    block = block.replace("httpx.AsyncHTTPTransport()", "network()")
    block = block.replace("import Calls\n", "import Calls as RealCalls\n").replace(
        "Calls(middle", "OfflineCalls(middle"
    )
    return block.replace("members=Cache(ttl=60))", "members=Cache(ttl=60), transport=network)")


@pytest.fixture
def sidecar(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedSidecar]:
    with ScriptedSidecar().serving_in_thread() as listening:
        monkeypatch.setenv("CHIO_SIDECAR_URL", listening.url)
        monkeypatch.setenv("CHIO_TRUSTED_KERNEL_KEYS", listening.public_key)
        yield listening


async def test_every_block_of_the_page_runs(sidecar: ScriptedSidecar, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"network": network, "OfflineCalls": OfflineCalls, "key": KEY}
    names["token"] = token(grant("stock", "read"))
    for block in BLOCKS:
        code = compile(offline(block), "docs/outbound.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, names)
        if inspect.isawaitable(result):
            await result
    app = names["app"]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://service") as client:
        response = await client.get("/price/7", headers={"X-Chio-Capability": names["token"]})
        assert response.json()["price"] == 5
        assert (await client.get("/price/7")).status_code == 401
    await app.state.chio_client.aclose()
    await names["sidecar"].aclose()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "200 /https/api.example.com/items/7"
    assert printed[1].startswith("403 the capability presented does not authorize payments/charge")
    assert printed[2] == "{'price': 5, 'cookie': 'session=s1'} []"


def test_the_priorities_of_the_page_are_those_of_the_members() -> None:
    rows = re.findall(r"^\| `(\w+)(?:\([^`]*\))?` \| (\d+) \|", TEXT, re.MULTILINE)
    assert {name: getattr(outbound, name).__priority__ for name, _ in rows} == {name: int(n) for name, n in rows}
    assert len(rows) == 8


def test_the_example_runs_to_its_end() -> None:
    done = run("./run.sh", cwd=ROOT / "examples" / "outbound", PYTHONPATH=str(ROOT), VENV=sys.prefix)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in (
        "→ GET https://api.example.com/echo",
        "{'cookie': 'session_id=s-1'}",
        "s-1",
        "{'cookie': 'session_id=known'}",
        "401 Chio capability required for stock/read; 0 outgoing receipts",
        "403 capability does not authorize tool charge on server payments; 0 outgoing receipts",
        "200 [{'item': 7, 'price': 5}, {'charged': 5}]; 2 outgoing receipts",
    ):
        assert line in done.stdout.splitlines()
    assert "Traceback" not in done.stderr


def test_importing_the_package_needs_no_framework_and_no_cache_library() -> None:
    code = "import sys, chio_core.outbound; print({'cachetools', 'fastapi', 'starlette'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "set()"
