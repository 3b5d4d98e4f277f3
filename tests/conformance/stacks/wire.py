"""Requests as data, sent over a real socket, and the responses.

`requests.jsonl` has one request a line:

| member | meaning |
|---|---|
| name | `group/what it is`, unique |
| line | the request line |
| headers | header lines; `Host`, `Connection: close` and, with a body, its framing are added |
| body | sent with a Content-Length |
| chunks | sent in the chunked coding, one chunk for each |
| times | how often the body, or the text of a chunk, is repeated |
| bare | nothing is added |

One character is one byte (ISO 8859-1). `{token}` means a capability token of a known issuer, `{long}` for a
header of 70,000 bytes.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("requests.jsonl")
ANSWER_SECONDS = 90.0


@dataclass(frozen=True)
class Wire:
    """One request as it goes over the wire.

    Attributes:
        data: the bytes.
        split: bytes in each write; None sends all in one.
    """

    name: str
    method: str
    data: bytes
    split: int | None = None

    @property
    def pieces(self) -> list[bytes]:
        """The bytes, one item for each write."""
        size = self.split or len(self.data)
        return [self.data[at : at + size] for at in range(0, len(self.data), size)]

    def traced(self, parent: str) -> Wire | None:
        """Return the request with a `traceparent`; None if it has one already, or can have no header."""
        line, end, rest = self.data.partition(b"\r\n")
        if b"HTTP/" not in line or b"traceparent:" in rest:
            return None
        return replace(self, data=line + end + f"traceparent: {parent}\r\n".encode() + rest)

    def __str__(self) -> str:
        return self.name


@dataclass
class Answer:
    """What came back.

    Attributes:
        status: None when the server closed without an answer.
        headers: names in lower case.
        document: the body as JSON, the message of a websocket included; None where it is something else.
    """

    status: int | None = None
    headers: Sequence[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    document: Any = None

    def lines(self, name: str) -> list[str]:
        """Return the values of each line of a header."""
        return [value for key, value in self.headers if key == name]


def read(token: str) -> list[Wire]:
    """Read the requests."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return [request(**{"token": token, **json.loads(line)}) for line in lines]


def request(
    name: str,
    line: str,
    headers: Sequence[str] = (),
    body: str | bytes | None = None,
    chunks: Sequence[str] | None = None,
    bare: bool = False,
    times: int = 1,
    token: str = "",
    split: int | None = None,
) -> Wire:
    """Return the bytes of one request.

    Args:
        token: replaces `{token}`.
        split: bytes in each write; all in one otherwise.
    """
    content = (body.encode("latin-1") if isinstance(body, str) else body or b"") * times
    lines = [line, *headers]
    if not bare:
        lines[1:1] = ["Host: conformance.test", "Connection: close"]
        if body is not None:
            lines.append(f"Content-Length: {len(content)}")
        if chunks is not None:
            lines.append("Transfer-Encoding: chunked")
            content = b"".join(_chunk(piece.encode("latin-1") * times) for piece in [*chunks, ""])
    text = "\r\n".join([*lines, "", ""]).replace("{token}", token).replace("{long}", "x" * 70_000)
    return Wire(name, line.split(" ")[0], text.encode("latin-1") + content, split)


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(piece), piece)


def handshake(path: str = "/ws", headers: Sequence[str] = ()) -> Wire:
    """Return the opening handshake of a websocket."""
    own = ["Host: conformance.test", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    key = f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}"
    return request("websocket", f"GET {path} HTTP/1.1", [*own, key, *headers], bare=True)


def exchange(port: int, wire: Wire) -> Answer:
    """Send one request on a new connection and return the response."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in wire.pieces:
                connection.sendall(piece)
        except ConnectionError:
            pass  # refused before it was complete; the answer may have come nevertheless
        return receive(connection, wire.method)


def receive(connection: socket.socket, method: str = "GET") -> Answer:
    """Read one answer."""
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
        body = _frame(response.fp) if response.status == 101 else response.read()
    except TimeoutError:
        return Answer(0)
    except (ConnectionError, http.client.HTTPException):
        return Answer()
    finally:
        response.close()
    headers = [(name.lower(), value) for name, value in response.getheaders()]
    return Answer(response.status, headers, body, _json(body))


def _frame(stream: Any) -> bytes:
    head: bytes = stream.read(2)
    length = head[1] & 0x7F
    if length == 126:
        length = int.from_bytes(stream.read(2), "big")
    found: bytes = stream.read(length)
    return found


def _json(body: bytes) -> Any:
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, Mapping) else None
