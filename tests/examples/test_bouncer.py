"""examples/bouncer and examples/raw-sockets: started as a person would start them (rows B1, B5, B9, B10, B12, B19)."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import http.client
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chio_core import Response
from tests.examples.running import RECEIPT_ID, ROOT, environment, free_port
from tests.project.tree import parse

BOUNCER = ROOT / "examples" / "bouncer"
RAW = ROOT / "examples" / "raw-sockets" / "middleware.py"


@contextmanager
def started(command: list[str], cwd: Path, ready: str, **more: str) -> Iterator[list[str]]:
    """Run a command until it has said that it is ready; gives the lines until then."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1", **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line.rstrip())
            if ready in line:
                break
        assert any(ready in line for line in lines), lines
        yield lines
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=30)


def ask(
    port: int, path: str, method: str = "GET", source: str = "127.0.0.1", **headers: str
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30, source_address=(source, 0))
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def listening(port: int) -> None:
    """Return when the port accepts connections: uvicorn's workers say that they have started before they do."""
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "nobody listens"
            time.sleep(0.02)
        else:
            return


def test_the_handlers_of_the_bouncer_import_nothing_of_ours() -> None:
    """B12: the endpoints are blind."""
    imported = {
        name
        for node in ast.walk(parse(BOUNCER / "api.py"))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported == {"__future__", "collections.abc", "typing", "fastapi"}


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_the_bouncer_as_it_is_started() -> None:
    """B1, B5, B9, B10: eighty endpoints, two workers, one limit; refusals carry CORS and security headers."""
    port = free_port()
    shop = "https://shop.example"
    with started(
        ["./run.sh"], BOUNCER, "Application startup complete", BOUNCER_PORT=str(port), BOUNCER_BLOCKED="127.0.0.66"
    ) as lines:
        listening(port)
        token = next(line.partition("=")[2] for line in lines if line.startswith("TOKEN="))
        blocked = ask(port, "/prices/7", source="127.0.0.66", origin=shop)
        assert (blocked.status, blocked.getheader("x-chio-receipt")) == (403, None)
        assert blocked.getheader("x-frame-options") == "DENY"
        assert blocked.getheader("access-control-allow-origin") == shop
        preflight = ask(port, "/prices/7", "OPTIONS", origin=shop, access_control_request_method="GET")
        assert preflight.status == 200
        stranger = ask(port, "/prices/1", origin=shop)
        assert (stranger.status, stranger.getheader("www-authenticate")) == (401, 'Bearer realm="chio"')
        known = [
            ask(port, path, authorization=f"Bearer {token}") for path in ("/prices/1", "/prices/79", "/me", "/nowhere")
        ]
        assert [answer.status for answer in known] == [200, 200, 200, 404]
        assert all(RECEIPT_ID.fullmatch(answer.getheader("x-chio-receipt") or "") for answer in known)
        assert re.match(r"app;dur=", known[0].getheader("server-timing") or "")
        sixth = ask(port, "/prices/1", authorization=f"Bearer {token}", origin=shop)
        assert (sixth.status, sixth.getheader("access-control-allow-origin")) == (429, shop)
        assert sixth.getheader("retry-after")


def test_the_bouncers_chain_is_printed_by_the_command() -> None:
    """B13"""
    done = subprocess.run(
        [sys.executable, "-m", "chio_sidecar", "check", "app:app"],
        cwd=BOUNCER,
        env=environment(PYTHONPATH=str(ROOT), BOUNCER_SECRET="s" * 32),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (
        "stopwatch (-100) → security_headers (-90) → ip_block (-80) → rate_limit (-60) → jwt_auth (-50) → decide (0)"
        in (done.stdout)
    )


def test_the_raw_socket_server_allows_and_blocks(tmp_path: Path) -> None:
    """B19: from an allowed address 200 with a header of the outbound phase; from a blocked one 403 before routing."""
    port = free_port()
    options = {
        "RAW_SOCKETS_PORT": str(port),
        "RAW_SOCKETS_BLOCKED": "127.0.0.66",
        "CHIO_SIDECAR_URL": "embedded:r.sqlite3",
    }
    with started([sys.executable, str(RAW)], tmp_path, "listening on", **options):
        allowed = ask(port, "/hello?a=1")
        assert (allowed.status, allowed.getheader("x-frame-options")) == (200, "DENY")
        assert RECEIPT_ID.fullmatch(allowed.getheader("x-chio-receipt") or "")
        assert ask(port, "/nowhere").status == 404
        assert ask(port, "/").getheader("content-type") == "text/html; charset=utf-8"
        blocked = ask(port, "/hello", source="127.0.0.66")
        assert (blocked.status, blocked.getheader("x-frame-options")) == (403, "DENY")
        assert blocked.getheader("x-chio-receipt") is None
        refused = ask(port, "/hello", "POST")
        assert refused.status == 403
        assert RECEIPT_ID.fullmatch(refused.getheader("x-chio-receipt") or "")


def test_the_plain_socket_server_lets_a_verified_allow_through_and_nothing_else(tmp_path: Path) -> None:
    port = free_port()
    options = {"RAW_SOCKETS_PORT": str(port), "CHIO_SIDECAR_URL": "embedded:r.sqlite3"}
    with started([sys.executable, str(RAW.with_name("plain.py"))], tmp_path, "listening on", **options):
        idle = socket.create_connection(("127.0.0.1", port), 5)  # as browsers open them in advance
        for method, path, status in (("GET", "/", 200), ("GET", "/hello", 200), ("GET", "/x", 404), ("POST", "/", 403)):
            answer = ask(port, path, method)
            assert answer.status == status
            assert RECEIPT_ID.fullmatch(answer.getheader("x-chio-receipt") or "")
        for request in (b"GET\r\n\r\n", b"TRACE / HTTP/1.1\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port), 5) as connection:
                connection.sendall(request)
                assert connection.recv(4096).split(b" ")[1] in (b"400", b"405")
        idle.close()


def test_the_raw_socket_server_does_not_start_with_a_store_that_cannot_be_used(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(RAW)],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT), CHIO_SIDECAR_URL="embedded:missing/r.sqlite3"),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "cannot open receipt store" in done.stderr


async def test_the_raw_socket_server_writes_a_stream_in_pieces_and_closes_it() -> None:
    send = runpy.run_path(str(RAW), run_name="looked_at")["send"]
    closed: list[str] = []

    async def endless() -> AsyncIterator[str]:
        try:
            while True:
                yield "data: x\n\n"
        finally:
            closed.append("stream")

    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await send(Response(endless()), None, writer)
        writer.close()
        served.set()  # the end of the exchange

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"content-length" not in head
        assert await reader.readexactly(9) == b"data: x\n\n"
        writer.transport.abort()
        await served.wait()
    assert closed == ["stream"]


def test_the_raw_socket_server_imports_no_framework() -> None:
    """B19: two lines of comment for each phase, too."""
    code = (
        f"import runpy, sys; runpy.run_path({str(RAW)!r}, run_name='looked_at')\n"
        "print(*sorted({'starlette', 'fastapi', 'django', 'flask', 'uvicorn', 'chio_asgi'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == ""
    for phase in ("PHASE 1, INBOUND", "PHASE 2, OUTBOUND"):
        assert re.search(rf"    # {phase}: .*\n    # [^\n]+\n    [^#\s]", RAW.read_text())
