"""The adapters behind real servers: what comes over a socket is hashed, and is what the view reads."""

from __future__ import annotations

import hashlib
import http.client
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chio_core.testing import ScriptedSidecar
from tests.examples.running import environment

ROOT = Path(__file__).resolve().parents[2]
GUNICORN = ("gunicorn", "--bind", "fd://{fd}", "--workers", "1", "--threads", "2", "--preload", "--log-level", "error")
UVICORN = ("uvicorn", "--fd", "{fd}", "--log-level", "error")
SERVERS = {
    "django-gunicorn": (*GUNICORN, "tests.views.served:application"),
    "flask-gunicorn": (*GUNICORN, "tests.views.served:flask_app"),
    "django-uvicorn": (*UVICORN, "tests.views.served:asgi"),
}
LARGE = b"0123456789abcdef" * 100_000


@contextmanager
def served(name: str, **options: str) -> Iterator[tuple[http.client.HTTPConnection, ScriptedSidecar]]:
    """Run a server; its socket listens before it runs, so nobody has to wait for it."""
    with ScriptedSidecar().serving_in_thread() as sidecar, socket.create_server(("127.0.0.1", 0)) as listener:
        env = environment(
            PYTHONPATH=f"{ROOT}:{ROOT / 'adapters'}",
            CHIO_SIDECAR_URL=sidecar.url,
            CHIO_TRUSTED_KERNEL_KEYS=sidecar.public_key,
            **options,
        )
        listener.set_inheritable(True)
        command = [part.format(fd=listener.fileno()) for part in SERVERS[name]]
        server = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=env, pass_fds=[listener.fileno()])
        with server:
            connection = http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=30)
            try:
                yield connection, sidecar
            finally:
                connection.close()
                server.terminate()
                server.wait(20)


@pytest.mark.parametrize("name", SERVERS)
def test_bodies_of_every_kind_are_hashed_and_read(name: str) -> None:
    with served(name, CHIO_MAX_BODY_BYTES=str(len(LARGE))) as (connection, sidecar):
        for body, chunked in ((b"hello", False), (b"hello", True), (LARGE, False), (LARGE, True), (b"", True)):
            pieces = iter([body[at : at + 65_000] for at in range(0, len(body), 65_000)])
            connection.request("POST", "/echo-read", pieces if chunked else body, encode_chunked=chunked,
                               headers={"Transfer-Encoding": "chunked"} if chunked else {})  # fmt: skip
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, body)
            assert response.headers["X-Chio-Receipt"]
            asked = sidecar.asked[-1].document
            assert asked.get("body_hash") == (hashlib.sha256(body).hexdigest() if body else None)
            assert asked["body_length"] == len(body)
        assert len(sidecar.asked) == 5


@pytest.mark.parametrize("name", SERVERS)
def test_a_body_above_the_limit_is_413_however_it_comes(name: str) -> None:
    with served(name, CHIO_MAX_BODY_BYTES="10") as (connection, sidecar):
        for chunked in (False, True):
            pieces = iter([b"x" * 6, b"x" * 5])
            connection.request("POST", "/echo", pieces if chunked else b"x" * 11, encode_chunked=chunked,
                               headers={"Transfer-Encoding": "chunked"} if chunked else {})  # fmt: skip
            response = connection.getresponse()
            assert response.status == 413
            response.read()
            connection.close()
        assert sidecar.asked == []


@pytest.mark.parametrize("name", SERVERS)
def test_a_second_security_header_is_400_over_a_socket(name: str) -> None:
    with served(name) as (connection, sidecar):
        connection.putrequest("GET", "/hello")
        connection.putheader("Authorization", "Bearer a")
        connection.putheader("Authorization", "Bearer b")
        connection.endheaders()
        response = connection.getresponse()
        assert response.status == 400
        response.read()
        assert sidecar.asked == []


@pytest.mark.parametrize("name", SERVERS)
def test_streams_arrive_with_their_receipt(name: str) -> None:
    with served(name) as (connection, _):
        connection.request("GET", "/stream")
        response = connection.getresponse()
        assert response.read().startswith(b"0")
        assert response.headers["X-Chio-Receipt"]
