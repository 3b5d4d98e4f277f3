"""OutgoingView: an outgoing request as the sidecar sees it; what is written to the wire; and reading its body.

The path is `/SCHEME/HOST[:PORT]/PATH`, without a default port, the PATH as it is on the wire. So the target is part of
the content hash and of the signed receipt, two hosts never share a rule, and a template of the sidecar's OpenAPI
document such as `/https/api.example.com/v1/charges/{id}` names exactly one upstream.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

from chio_core.errors import ConfigurationError
from chio_core.request import HeaderLines

_OVERRIDES = ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
_WIRE_HEADERS = (
    "Host", "Content-Type", "Content-Length", "Transfer-Encoding", "Content-Encoding", "Connection", "Upgrade",
    "Keep-Alive", "Proxy-Connection", "HTTP2-Settings", "TE", "Trailer", "Expect", "X-HTTP-Method-Override",
    "X-HTTP-Method", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL",
)  # fmt: skip
"""Headers that say where a request goes, where its body ends, how it is coded, or which request the upstream runs."""

_WIRE_NAMES = {name.lower().encode(): name for name in _WIRE_HEADERS}


class OutgoingView:
    """A `chio_core.request.RequestView` over a request of httpx or httpx2.

    Args:
        request: the request; its body has been read.
        capability: header name and token to present to the sidecar instead of the request's own.
    """

    def __init__(self, request: Any, capability: tuple[str, str] | None = None) -> None:
        self._request = request
        lines: list[tuple[str, str]] = request.headers.multi_items()
        if capability is not None:
            lines = [pair for pair in lines if pair[0].lower() != capability[0].lower()] + [capability]
        self._lines = HeaderLines(lines)
        self._raw_path, _, query = request.url.raw_path.partition(b"?")
        self._query: str = query.decode("ascii", "replace")
        self._state = SimpleNamespace()

    @property
    def url_path(self) -> str:
        """Decoded path, without scheme, host and query."""
        return str(self._request.url.path)

    @property
    def route_path(self) -> str:
        """The path that the sidecar decides about, scheme and host included."""
        url = self._request.url
        return f"/{url.scheme}/{authority_of(url)}{self._raw_path.decode('ascii', 'replace')}"

    @property
    def path(self) -> str:
        """The same as `url_path`."""
        return self.url_path

    @property
    def url_scheme(self) -> str:
        """`http` or `https`."""
        return str(self._request.url.scheme)

    @property
    def url_full(self) -> str:
        """The whole URL with its query."""
        return str(self._request.url)

    def url_replace_scheme(self, scheme: str) -> str:
        """Return the whole URL with another scheme."""
        return str(self._request.url.copy_with(scheme=scheme))

    @property
    def method(self) -> str:
        """The method."""
        return str(self._request.method)

    @property
    def client_host(self) -> str | None:
        """None: the peer is this process."""
        return None

    @property
    def headers(self) -> Mapping[str, str]:
        """Request headers."""
        return self._lines

    @property
    def query_params(self) -> Mapping[str, str]:
        """Decoded query parameters; of duplicates the last counts."""
        return dict(parse_qsl(self._query, keep_blank_values=True))

    @property
    def query_string(self) -> str:
        """The raw query."""
        return self._query

    def header_values(self, name: str) -> Sequence[str]:
        """Return each line of the header `name` by itself."""
        return self._lines.values_of(name)

    def repeated_headers(self) -> Collection[str]:
        """Return the names, in lower case, of headers with more than one line."""
        return self._lines.repeated

    def set_header(self, name: str, value: str) -> None:
        """Refuse: members change the request of their library."""
        raise ConfigurationError("an outgoing request is changed through its library: request.headers[name] = value")

    def replace_body(self, data: bytes) -> None:
        """Refuse: members pass a new request on."""
        raise ConfigurationError("an outgoing request is changed through its library: make a new request")

    def select_headers(self, names: Collection[str]) -> Mapping[str, Sequence[str]]:
        """Return the lines of those headers in `names` (lower case) that the request has."""
        return self._lines.select(names)

    async def body(self) -> bytes:
        """Return the whole body."""
        return bytes(self._request.content)

    @property
    def state(self) -> Any:
        """Namespace of this view."""
        return self._state

    @property
    def scope(self) -> dict[str, Any]:
        """Empty: there is no framework."""
        return {}


def authority_of(url: Any) -> str:
    """Return host and port of a URL as in the `Host` header: without a default port."""
    return str(url.netloc.decode("ascii"))


class TooLarge(Exception):
    """A body has more bytes than are allowed."""


def wire_facts(request: Any) -> dict[str, Any]:
    """Return what is written to the wire for a request, except for headers that any member may add.

    Two requests with equal facts go to the same server, with the same target, framing and body. The names serve error
    messages. The body is compared as an object: a member that replaces it makes a new stream.
    """
    url, extensions = request.url, request.extensions
    facts: dict[str, Any] = {
        "method": request.method,
        "URL": (url.raw_scheme, url.raw_host, url.port, url.raw_path),
        "target": extensions.get("target"),
        "sni_hostname": extensions.get("sni_hostname"),
        "body": request.stream,
    }
    for name, value in request.headers.raw:
        known = _WIRE_NAMES.get(name.lower())
        if known is not None:
            facts[known] = (*facts.get(known, ()), value)
    return facts


def wire_problem(request: Any, body: bytes) -> str | None:
    """Return why a request would be written otherwise than it is evaluated; None if it would not.

    Args:
        body: all of the request's body.
    """
    url, headers, extensions = request.url, request.headers, request.extensions
    host, authority = headers.get("host"), authority_of(url).lower()
    port = {"http": 80, "https": 443}.get(url.scheme)
    if host is not None and host.lower() not in (authority, f"{authority}:{port}"):
        return "the Host header names another host than the URL, and only the URL is evaluated"

    # Extensions of the library that replace a part of the URL.
    if extensions.get("target", url.raw_path) != url.raw_path:
        return "the extension target differs from the URL; write request.url = url.copy_with(raw_path=…)"
    name = extensions.get("sni_hostname")
    if name is not None and (name if isinstance(name, bytes) else str(name).encode()).lower() != url.raw_host:
        return "the extension sni_hostname names another server than the URL, and only the URL is evaluated"

    # RFC 9112, section 6.3: a body ends where both sides agree that it ends.
    lengths, codings = headers.get_list("content-length"), headers.get_list("transfer-encoding")
    by_length = lengths == [str(len(body))] and not codings
    by_chunks = not lengths and [coding.lower() for coding in codings] == ["chunked"]
    if not (by_length or by_chunks or not (body or lengths or codings)):
        return "framing: Content-Length and Transfer-Encoding do not describe the body; leave them to the library"

    # Many upstreams run the method that such a header names.
    for override in _OVERRIDES:
        if any(method.strip().upper() != request.method for method in headers.get_list(override, split_commas=True)):
            return f"{override} names another method than the request; send the request with that method"
    return None


async def read_body(request: Any, limit: int) -> bytes:
    """Return the whole body, at most `limit` bytes; the request can still be sent.

    The stream is read, also if `request.content` is there: only the stream is written to the wire, and a member may
    have replaced it.

    Raises:
        TooLarge: it is longer.
    """
    vars(request).pop("_content", None)
    request.stream = _Limited(request.stream, limit)
    return bytes(await request.aread())


def read_body_now(request: Any, limit: int) -> bytes:
    """Do the same for a request of a synchronous client."""
    vars(request).pop("_content", None)
    request.stream = _Limited(request.stream, limit)
    return bytes(request.read())


class _Limited:
    """A request's stream that raises as soon as it has given more than `left` bytes."""

    def __init__(self, stream: Any, left: int) -> None:
        self._stream = stream
        self._left = left

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield self._counted(part)

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            yield self._counted(part)

    def _counted(self, part: bytes) -> bytes:
        self._left -= len(part)
        if self._left < 0:
            raise TooLarge
        return part
