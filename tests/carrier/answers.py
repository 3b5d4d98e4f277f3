"""Bytes that a broken sidecar sends."""

from __future__ import annotations

from tests.support import http_answer

GARBAGE: list[bytes] = [b"x", b"HTTP/1.1 200 OK\r\n\r\n", http_answer(b"stray"), b"\r\n\r\nHTTP", b"\0" * 100]
"""What must not follow an answer."""

BROKEN: list[tuple[str, bytes]] = [
    ("no HTTP", b"SSH-2.0-OpenSSH\r\n"),
    ("a switch of protocols", b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"),
    ("two lengths", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxy"),
    ("a bad length", b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"),
    ("a bad chunk", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"),
    ("HTTP/2", b"HTTP/2 200\r\n\r\n"),
    ("nothing", b""),
    ("half a head", b"HTTP/1.1 200 OK\r\ncontent-le"),
    ("half a body", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"),
    ("half a chunk", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab"),
    ("a body without an end", b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{}"),
    ("too much", b"HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n" + b"x" * 2_000_000),
]
"""Answers that are none."""
