"""EnvironView: the part of a `GuardRequest` that every environment in WSGI's form can give (PEP 3333).

Flask's environment and Django's `META`, under WSGI and ASGI alike, have the same keys. An adapter's view adds
what its framework decides: method, path, query, scheme, state and scope.

WSGI servers join repeated header lines with commas before anybody sees them. A repeated line can therefore only
be recognised where a single one could not contain such a comma; `was_repeated` knows these places.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, BinaryIO, Final
from urllib.parse import parse_qsl, quote

from chio_core.errors import ConfigurationError
from chio_core.evaluation.body_limits import NO_LIMITS, BodyLimits
from chio_core.evaluation.governed import KnownBody
from chio_core.names import ENVIRON_INPUT, STATE_NAMESPACE, TRACEPARENT
from chio_core.refusals.response import RequestRefused, bad_request, body_incomplete, body_too_large
from chio_core.request import HeaderLines, single_headers
from chio_core.threads.body import KeptInput, MeasureSteps, keep, measure, read_from_start, read_source, unreadable

SINGLETONS: Final = single_headers()
"""Headers that may occur only once, unless the settings name others."""

STATE: Final = f"chio.{STATE_NAMESPACE}"
"""Key in the environment for the state that all guards of one request share."""

_ASCII = bytes(range(128))
_SMALL = 64 * 1024
_MOST_DIGITS = 19  # of a Content-Length; Python and the frameworks fail to convert thousands of digits
_NEVER_A_COMMA = frozenset({"content-length", "host", TRACEPARENT})
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*("?)')  # an open quote is one match to the end: each character is read once
_SECOND_SCHEME = re.compile(r",\s*[!#$%&'*+.^_`|~0-9A-Za-z-]+ +[^\s=,]")


def accept_in(environ: Mapping[str, Any]) -> str:
    """Return what a request wants (`Accept`); empty where it does not say."""
    return str(environ.get("HTTP_ACCEPT", ""))


class UnclearLength(RequestRefused):
    """A body whose end is not clear; nothing of it was read."""


class EnvironView:
    """Base of the views over an environment in WSGI's form.

    Args:
        environ: WSGI's environment, or Django's `META`.
        singletons: headers, in lower case, whose repetition matters.
        limits: for the body.
    """

    def __init__(
        self,
        environ: MutableMapping[str, Any],
        singletons: Collection[str] = SINGLETONS,
        limits: BodyLimits = NO_LIMITS,
    ) -> None:
        self.environ = environ
        self._limits = limits
        self._measured: KnownBody | None = None
        self._sealed = False
        self._singletons = singletons
        self._lines: HeaderLines | None = None

    @property
    def url_path(self) -> str:
        """Decoded path, prefix of the application included."""
        raise NotImplementedError

    @property
    def path(self) -> str:
        """The same as `url_path`."""
        return self.url_path

    @property
    def url_scheme(self) -> str:
        """`http` or `https`."""
        raise NotImplementedError

    @property
    def method(self) -> str:
        """The method as it was sent."""
        return str(self.environ.get("REQUEST_METHOD") or "")

    @property
    def state(self) -> SimpleNamespace:
        """The namespace that all guards of one request share, kept in the environment."""
        found = self.environ.setdefault(STATE, SimpleNamespace())
        return found if isinstance(found, SimpleNamespace) else SimpleNamespace()

    @property
    def query_string(self) -> str:
        """The raw query. Bytes beyond ASCII are percent-encoded: Flask decodes all of it as UTF-8."""
        query = str(self.environ.get("QUERY_STRING") or "")
        return query if query.isascii() else quote(query.encode("latin-1", "replace"), safe=_ASCII)

    @property
    def url_full(self) -> str:
        """The whole URL; the host is what the client claims, or the server's address."""
        return self.url_replace_scheme(self.url_scheme)

    def url_replace_scheme(self, scheme: str) -> str:
        """Return the whole URL with another scheme."""
        path = quote(self.url_path, safe="/:@!$&'()*+,;=~-._", errors="replace")
        query = f"?{self.query_string}" if self.query_string else ""
        return f"{scheme}://{self._host()}{path}{query}"

    @property
    def client_host(self) -> str | None:
        """Address of the peer, None for a Unix socket or a server that does not tell."""
        return self.environ.get("REMOTE_ADDR") or None

    @property
    def headers(self) -> Mapping[str, str]:
        """Request headers, case-insensitive."""
        if self._lines is None:
            self._lines = HeaderLines(self._pairs())
        return self._lines

    def header_values(self, name: str) -> Sequence[str]:
        """Return each line of the header `name`, as far as the server kept them apart."""
        value = self.environ.get(environ_key(name))
        if value is None or (value == "" and name in ("content-type", "content-length")):
            return ()
        return value.split(",") if name in _NEVER_A_COMMA else (value,)

    def repeated_headers(self) -> Collection[str]:
        """Return those of the singleton headers that show that they stood in more than one line."""
        environ = self.environ
        found = []
        for name in self._singletons:
            value = environ.get(environ_key(name))
            if value is not None and "," in value and was_repeated(name, value):
                found.append(name)
        return found

    def select_headers(self, names: Collection[str]) -> Mapping[str, Sequence[str]]:
        """Return the values of those headers in `names` (lower case) that the environment has."""
        environ = self.environ
        return {name: (environ[key],) for name in names if (key := environ_key(name)) in environ and environ[key]}

    @property
    def query_params(self) -> Mapping[str, str]:
        """Decoded query; of duplicates the last counts. The token parameter is part of it."""
        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    async def body(self) -> bytes:
        """Return the whole body; the application still reads all of it.

        Raises:
            RequestRefused: it is larger than the limit, or did not arrive completely.
        """
        for _ in self.measure():
            pass
        return read_from_start(self.input())

    async def read_body_prefix(self, max_bytes: int) -> bytes:
        """Return at most `max_bytes` from the body's start, and read no more than that from the client."""
        return read_from_start(self.input(eager=False), max_bytes) if max_bytes > 0 else b""

    @property
    def source(self) -> Any:
        """What the application reads the body from. Inner code may replace it, or copy the environment and do so."""
        return self.environ.get("wsgi.input")

    def input(self, *, eager: bool = True) -> BinaryIO:
        """Return the body as a file that can be read again; the application is given the same one.

        Args:
            eager: a small body may be read to its end at once.

        Raises:
            RequestRefused: its length is not clear, or it broke off; the application cannot read it then either.
        """
        file: BinaryIO | None = self.environ.get(ENVIRON_INPUT)
        if file is None or file is not self.source:
            try:
                file = open_input(self.environ, self._limits, eager=eager)
            except RequestRefused as exc:
                if not (self._limits.lifted and isinstance(exc, UnclearLength)):
                    self.keep_input(unreadable(exc.denial))
                raise
            self.keep_input(file)
        return file

    def keep(self) -> None:
        """Put the body at its start, and let code that does not ask this view read it, within its limits.

        Raises:
            RequestRefused: see `input`.
        """
        # In observe mode a body of unclear length stays with the server.
        left = self._sealed and ENVIRON_INPUT not in self.environ
        if self.has_body() and not left:
            file = self.input(eager=False)
            file.seek(0)
            kept = getattr(file, "raw", None)
            if isinstance(kept, KeptInput):
                kept.bounded = True

    def keep_input(self, file: BinaryIO) -> None:
        """Make a file the body of the request, for this view and the application."""
        self.environ[ENVIRON_INPUT] = self.environ["wsgi.input"] = file

    def measure(self, *, lifted: bool = False) -> MeasureSteps:
        """Count and hash the body; a length that is announced as too large is refused unread.

        Args:
            lifted: refuse no body because of its size or its framing, but note that with the result. The application
                reads a body of unclear length as it does without Chio, so it is neither read nor hashed here.

        Raises:
            RequestRefused: see `chio_core.threads.body.measure`.
        """
        limits = self._limits = self._limits.lift() if lifted else self._limits
        if self._measured is not None and self._measured.source is self.source:
            return self._measured
        announced = self.environ.get("CONTENT_LENGTH") or ""
        if announced.isdecimal() and int(announced[:20]) > limits.max_bytes:
            limits.refuse(body_too_large(limits.max_bytes))
        if self.environ.get(ENVIRON_INPUT) is not self.source and not self.has_body():
            return KnownBody(source=self.source)
        try:
            file = self.input()
        except UnclearLength as exc:
            return KnownBody(source=self.source, refusal=limits.refuse(exc.denial))
        self._measured = found = yield from measure(file, limits, self.source)
        # Where the client did not say how long the body is, frameworks read nothing of it, or no form in it.
        if found.length and not announced:
            self.environ["CONTENT_LENGTH"] = str(found.length)
        return found

    def seal(self) -> None:
        """Make the body final: from now on it is part of the decision."""
        self._sealed = True

    def set_header(self, name: str, value: str) -> None:
        """Replace a request header, for the sidecar and the handler."""
        self.environ[environ_key(name)] = value
        self._lines = None

    def replace_body(self, data: bytes) -> None:
        """Replace the body for the sidecar and the handler; possible until the decision.

        Raises:
            ConfigurationError: the body is already part of the decision.
        """
        if self._sealed:
            raise ConfigurationError("the body was part of the decision and cannot be replaced after it")
        self._measured = None
        self.keep_input(io.BytesIO(data))
        self.environ["CONTENT_LENGTH"] = str(len(data))
        self.environ.pop("HTTP_TRANSFER_ENCODING", None)

    def has_body(self) -> bool:
        """Return True if there may be a body to read."""
        return may_have_body(self.environ)

    def tls(self) -> dict[str, Any]:
        """Return `{"extensions": {"tls": …}}` for a client certificate that the web server verified, or `{}`.

        Apache's and nginx' names for it (`SSL_CLIENT_*`) are read; no request header can set them.
        """
        environ = self.environ
        if environ.get("SSL_CLIENT_VERIFY") != "SUCCESS":
            return {}
        tls = {
            "client_cert_name": environ.get("SSL_CLIENT_S_DN"),
            "client_cert_chain": [environ[key] for key in ("SSL_CLIENT_CERT",) if environ.get(key)],
        }
        return {"extensions": {"tls": tls}}

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for key, value in self.environ.items():
            if key[:5] == "HTTP_":
                yield key[5:].replace("_", "-"), str(value)
            elif key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
                yield key.replace("_", "-"), str(value)

    def _host(self) -> str:
        claimed = self.environ.get("HTTP_HOST")
        if claimed:
            return str(claimed)
        name, port = self.environ.get("SERVER_NAME") or "localhost", self.environ.get("SERVER_PORT")
        return f"{name}:{port}" if port and port != "0" else str(name)


def may_have_body(environ: Mapping[str, Any]) -> bool:
    """Return True if there may be a body to read."""
    length = environ.get("CONTENT_LENGTH")
    return bool(length and length != "0") or "HTTP_TRANSFER_ENCODING" in environ or bool(
        environ.get("wsgi.input_terminated")
    )  # fmt: skip


def open_input(environ: Mapping[str, Any], limits: BodyLimits, *, eager: bool = True) -> BinaryIO:
    """Return the body in a WSGI environment as a file that can be read again; see `EnvironView.input`.

    Raises:
        UnclearLength: 400 for a length that is no number, has too many digits or contradicts the framing (RFC 9112,
            section 6.3), 411 for a chunked body under a server that does not say where it ends.
    """
    announced = environ.get("CONTENT_LENGTH") or ""
    chunked = "HTTP_TRANSFER_ENCODING" in environ
    if announced and (chunked or not announced.isdecimal() or len(announced) > _MOST_DIGITS):
        raise UnclearLength(bad_request("the length of the request body is not clear", 400))
    source = environ.get("wsgi.input")
    if announced and source is not None:
        length = int(announced)
        small = eager and length <= min(limits.spool_bytes, _SMALL)
        return _read_now(source, length) if small else keep(source, length, limits)
    if environ.get("wsgi.input_terminated") and source is not None:
        return _to_the_end(source, limits, eager=eager)
    if chunked:
        raise UnclearLength(bad_request("this server needs a Content-Length", 411))
    return io.BytesIO()


def _to_the_end(source: Any, limits: BodyLimits, *, eager: bool) -> BinaryIO:
    # Most requests of such servers have no body. One byte tells, and spares all of them a file.
    try:
        first = read_source(source, 1) if eager else None
    except OSError as exc:
        raise RequestRefused(body_incomplete()) from exc
    return io.BytesIO() if first == b"" else keep(source, None, limits, first or b"")


def _read_now(source: Any, length: int) -> BinaryIO:
    file = io.BytesIO()
    try:
        while (left := length - file.tell()) > 0:
            piece = read_source(source, left)
            if not piece:
                raise RequestRefused(body_incomplete())
            file.write(piece)
    except OSError as exc:
        raise RequestRefused(body_incomplete()) from exc
    file.seek(0)
    return file


@lru_cache(maxsize=256)
def environ_key(name: str) -> str:
    """Return the key of the header `name` in an environment."""
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


def was_repeated(name: str, value: str) -> bool:
    """Return True if a header value with a comma in it must come from more than one line.

    A JSON value (a capability token) may hold commas inside, a credential with parameters (`Digest a="1", b="2"`)
    between them, and any value inside quotes.
    """
    if value.lstrip()[:1] == "{":
        return _json_goes_on(value.lstrip())
    bare = _QUOTED.sub(lambda found: '""' if found[1] else found[0], value)
    if name != "authorization":
        return "," in bare
    scheme, _, rest = bare.partition(" ")
    if scheme.lower() in ("bearer", "basic") or "," in scheme:
        return "," in bare
    return _SECOND_SCHEME.search(rest) is not None


def _json_goes_on(value: str) -> bool:
    try:
        _, end = json.JSONDecoder().raw_decode(value)
    except (ValueError, RecursionError):
        return False  # no token at all: the sidecar refuses it
    return value[end:].lstrip()[:1] == ","
