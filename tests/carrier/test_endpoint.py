from __future__ import annotations

import pytest

from chio_core.client.connection import request_head
from chio_core.endpoint import Endpoint
from chio_core.errors import ConfigurationError
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
