from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from chio_core.client.connection import request_head
from chio_core.client.pool import ConnectionPool
from chio_core.endpoint import LONGEST_SOCKET_PATH, Endpoint
from chio_core.errors import ConfigurationError, SidecarUnreachable
from tests.carrier.stubs import Threads
from tests.support import settings


@pytest.mark.parametrize(
    ("url", "authority", "base", "socket_path", "tls"),
    [
        ("http://127.0.0.1:9090", "127.0.0.1:9090", "", None, False),
        ("http://localhost", "localhost:80", "", None, False),
        ("https://sidecar.example/chio/", "sidecar.example:443", "/chio", None, True),
        ("http://[::1]:9", "[::1]:9", "", None, False),
        ("unix:/run/chio.sock", "localhost", "", "/run/chio.sock", False),
        ("unix:///run/chio.sock", "localhost", "", "/run/chio.sock", False),
        ("unix:/run/a%20b.sock", "localhost", "", "/run/a b.sock", False),
    ],
)
def test_a_url_says_where_to_connect(url: str, authority: str, base: str, socket_path: str | None, tls: bool) -> None:
    end = Endpoint.parse(url)
    assert (end.authority, end.base, end.socket_path, end.tls) == (authority, base, socket_path, tls)


def test_a_request_is_written_as_one_http_post() -> None:
    head = request_head(Endpoint.parse("http://h:1/base"), "/chio/evaluate", 5, [("X-Chio-Capability", '{"id":"a"}')])
    assert head == (
        b"POST /base/chio/evaluate HTTP/1.1\r\nhost: h:1\r\ncontent-type: application/json\r\n"
        b'accept: application/json\r\nx-chio-capability: {"id":"a"}\r\ncontent-length: 5\r\n\r\n'
    )


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\0", "\x7f", "ä", "\u2028"])
def test_a_header_value_cannot_end_its_line(value: str) -> None:
    with pytest.raises(ValueError, match="header x-chio-capability is not printable ASCII"):
        request_head(Endpoint.parse("http://h:1"), "/", 0, [("x-chio-capability", value)])


@pytest.mark.parametrize("url", ["http://h/a b", "http://bücher.example", "http://h/\u00e4", "http://h/\x7f"])
def test_a_url_that_no_request_line_can_carry_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"sidecar_url .*must be printable ASCII"):
        settings(sidecar_url=url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("unix:/run/" + "x" * 103, "at most 107 bytes, and this one 108"),
        ("unix:/run/" + "%C3%A4" * 52, "at most 107 bytes, and this one 109"),
        ("unix:@chio", "have no permissions"),
        ("unix:/run/a%00b", "no zero byte"),
    ],
)
def test_a_socket_that_cannot_be_is_refused_at_the_start(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        settings(sidecar_url=url)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow fewer bytes")
def test_the_longest_path_of_a_socket_can_be_used() -> None:
    path = "/tmp/" + "x" * (LONGEST_SOCKET_PATH - 5)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
    os.unlink(path)
    with pytest.raises(OSError, match="too long"), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path + "x")
    assert settings(sidecar_url=f"unix:{path}").sidecar_url


@pytest.mark.parametrize("new_pool", [ConnectionPool, Threads])
@pytest.mark.parametrize(
    ("path", "message"), [("a.sock", "there is no socket .*a.sock"), ("none/a.sock", "folder .* not exist: .*none")]
)
async def test_the_reason_names_what_is_missing(new_pool: Any, path: str, message: str, tmp_path: Path) -> None:
    pool = new_pool(Endpoint.parse(f"unix:{tmp_path}/{path}"))
    with pytest.raises(SidecarUnreachable, match=message):
        await pool.post("/chio/evaluate", b"{}", (), 5.0)
    await pool.aclose()
