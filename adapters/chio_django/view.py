"""DjangoGuardRequest: the view of a request over Django's `HttpRequest`, under WSGI and ASGI; and its session.

The session is read before and after Django's middleware has read it for the request.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Any, BinaryIO, Final
from urllib.parse import urlencode

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.core.exceptions import SuspiciousOperation
from django.core.files.uploadhandler import FileUploadHandler, SkipFile
from django.core.handlers.wsgi import LimitedStream, get_str_from_wsgi
from django.http import HttpRequest, QueryDict, parse_cookie
from django.http.multipartparser import MultiPartParser, MultiPartParserError

from chio_core import identity
from chio_core.errors import ConfigurationError
from chio_core.evaluation.body_limits import NO_LIMITS, BodyLimits
from chio_core.names import ENVIRON_INPUT, LOGGER, STATE_NAMESPACE
from chio_core.refusals.response import Denial, RequestRefused
from chio_core.request import RequestView
from chio_core.threads.body import keep, read_from_start
from chio_core.threads.wsgi_view import SINGLETONS, EnvironView, environ_key, may_have_body
from chio_django.routing import find_view

log = logging.getLogger(LOGGER)

_UTF8: Final = ("utf-8", "utf8")


class _NoFiles(FileUploadHandler):
    """Skips the files of a form."""

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        raise SkipFile

    def receive_data_chunk(self, raw_data: bytes, start: int) -> bytes | None:
        raise NotImplementedError

    def file_complete(self, file_size: int) -> None:
        raise NotImplementedError


class DjangoGuardRequest(EnvironView):
    """A `chio_core.GuardRequest` for one Django request.

    What outer middleware has changed on the request (its path, its method) counts as it is now: that is
    what the router and the view will see.

    Args:
        request: Django's request.
        singletons: headers, in lower case, whose repetition matters.
        limits: for the body.
    """

    def __init__(
        self, request: HttpRequest, singletons: Collection[str] = SINGLETONS, limits: BodyLimits = NO_LIMITS
    ) -> None:
        super().__init__(request.META, singletons, limits)
        self._request = request
        scope = getattr(request, "scope", None)
        self._asgi: Mapping[str, Any] | None = scope if isinstance(scope, dict) else None
        self._sent: dict[str, list[str]] | None = None
        self._form: tuple[Any, bytes | None] = (None, None)

    @property
    def request(self) -> HttpRequest:
        """Django's request."""
        return self._request

    @property
    def url_path(self) -> str:
        """Decoded path, script name included."""
        return self._request.path

    @property
    def route_path(self) -> str:
        """The string that the URL resolver matches, `request.path_info`."""
        return self._request.path_info

    @property
    def url_scheme(self) -> str:
        """`http` or `https`; `SECURE_PROXY_SSL_HEADER` counts."""
        return self._request.scheme or "http"

    @property
    def method(self) -> str:
        """The method as it was sent, or as other middleware has changed it."""
        source = self._asgi.get("method") if self._asgi is not None else self.environ.get("REQUEST_METHOD")
        now = self._request.method or ""
        return source if isinstance(source, str) and source != now and source.upper() == now else now

    @property
    def query_string(self) -> str:
        """The query as `request.GET` is read from it, or as inner middleware has replaced `request.GET`.

        It is the raw query, one character a byte, unless Django reads that otherwise: under WSGI in the charset of the
        content type, which the client chooses.
        """
        request, query = self._request, str(self.environ.get("QUERY_STRING") or "")
        read: QueryDict | None = vars(request).get("GET")
        if read is None and not query:
            return ""
        raw = query if self._asgi is None else query.encode("utf-8", "replace").decode("latin-1")
        charset = (None if self._asgi is not None else request.encoding) or settings.DEFAULT_CHARSET
        if read is None and raw and not (raw.isascii() and charset.lower() in _UTF8):
            try:
                read = request.GET
            except (SuspiciousOperation, LookupError, UnicodeError):
                return raw  # the view cannot read it either
        if read is None or read == QueryDict(raw, encoding="utf-8"):
            return raw
        pairs = [(name, value) for name, values in read.lists() for value in values]
        return urlencode(pairs, errors="surrogatepass")

    @property
    def state(self) -> SimpleNamespace:
        """`request.chio_state`, made when it is first read."""
        found = getattr(self._request, STATE_NAMESPACE, None)
        if not isinstance(found, SimpleNamespace):
            found = SimpleNamespace()
            setattr(self._request, STATE_NAMESPACE, found)
        return found

    @property
    def scope(self) -> dict[str, Any]:
        """`route` (the `ResolverMatch` of the view that will run), `app`, and a client certificate's TLS extension."""
        found = self.tls()
        match = self._request.resolver_match or find_view(self._request).route
        if match is not None:
            found |= {"route": match, "app": match.app_name}
        return found

    def tls(self) -> dict[str, Any]:
        """Return the ASGI server's TLS extension, or what `EnvironView.tls` finds."""
        if self._asgi is None:
            return super().tls()
        tls = (self._asgi.get("extensions") or {}).get("tls")
        return {"extensions": {"tls": tls}} if tls else {}

    def header_values(self, name: str) -> Sequence[str]:
        """Return each line of the header `name`, as far as the server kept them apart."""
        if name == "cookie" and (cookies := self._cookies()) is not None:
            return cookies
        lines = self._lines_sent().get(name) if self._asgi is not None else None
        if lines is None or ",".join(lines) != self.environ.get(environ_key(name)):
            return super().header_values(name)
        return lines if lines != [""] or name not in ("content-type", "content-length") else ()

    def select_headers(self, names: Collection[str]) -> Mapping[str, Sequence[str]]:
        """Return the values of those headers in `names` (lower case) that the request has."""
        found = super().select_headers(names)
        cookies = self._cookies() if "cookie" in names else None
        return found if cookies is None else {**found, "cookie": cookies}

    def repeated_headers(self) -> Collection[str]:
        """Return the repeated headers: all of them under ASGI, those that can be recognised under WSGI."""
        if self._asgi is None:
            return super().repeated_headers()
        return [name for name, lines in self._lines_sent().items() if len(lines) > 1]

    @property
    def source(self) -> Any:
        """What the view reads the body from, a form that was edited, the bytes that Django has read, or a stream.

        Raises:
            RequestRefused: the body cannot be read, so nothing can be compared with it.
        """
        own = vars(self._request)
        form = self._edited_form() if own.get("_post") else None
        if form is not None:
            return form
        return own["_body"] if own.get("_body") is not None else own.get("_stream")

    def input(self, *, eager: bool = True) -> BinaryIO:
        """Return the body as a file that can be read again, the one that the view reads; see `EnvironView.input`.

        Raises:
            RequestRefused: also if outer middleware has read the body as a stream.
        """
        source = self.source
        return io.BytesIO(source) if isinstance(source, bytes) else self._file(eager=eager)

    def _file(self, *, eager: bool = True) -> BinaryIO:
        """Return the stream of the body as a file that can be read again."""
        request, own = self._request, vars(self._request)
        file: BinaryIO | None = self.environ.get(ENVIRON_INPUT)
        stream: Any = own.get("_stream")
        if file is not None and file is stream and not file.closed:
            return file
        if file is None and self._asgi is None and own.get("_read_started"):
            log.error(
                "chio: %s",
                "outer middleware has read the request body as a stream; put "
                "chio_django.ChioDjangoMiddleware before it in MIDDLEWARE",
            )
            text = "the request body cannot be evaluated"
            raise RequestRefused(Denial(status=500, code=ConfigurationError.code, message=text))
        if "wsgi.input" in self.environ and file is None and self._has_django_stream():
            return super().input(eager=eager)
        again = stream is None or stream.seekable()
        file = (stream or io.BytesIO()) if again else keep(stream, None, self._limits)
        self.environ[ENVIRON_INPUT] = request._stream = file
        return file

    def keep_input(self, file: BinaryIO) -> None:
        """Make a file the body that the view reads too."""
        super().keep_input(file)
        self._request._stream = file

    def set_header(self, name: str, value: str) -> None:
        """Replace a request header, for the sidecar and the view."""
        super().set_header(name, value)
        # What Django has made of the old value is made again.
        for made in ("headers", "COOKIES"):
            vars(self._request).pop(made, None)
        if name.lower() == "content-type":
            self._request._set_content_type_params(self.environ)  # type: ignore[attr-defined]

    def replace_body(self, data: bytes) -> None:
        """Replace the body for the sidecar and the view; see `EnvironView.replace_body`."""
        super().replace_body(data)
        own = vars(self._request)
        for made in ("_body", "_post", "_files"):
            own.pop(made, None)
        own["_read_started"] = False

    def has_body(self) -> bool:
        """Return True if there may be a body; under ASGI Django has read all of it already."""
        if self._asgi is not None or isinstance(self.source, bytes) or not self._has_django_stream():
            return True
        return may_have_body(self.environ)

    def _edited_form(self) -> bytes | None:
        """Return `request.POST`, encoded, if it is another form than the body has; None if it is the same."""
        request, own = self._request, vars(self._request)
        post = own["_post"]
        if self._form[0] is not post:
            raw = own.get("_body")
            sent: Any = None
            try:
                if request.content_type == "application/x-www-form-urlencoded":
                    sent = QueryDict(raw if raw is not None else read_from_start(self._file()), encoding=post.encoding)
                elif request.content_type == "multipart/form-data":
                    file = io.BytesIO(raw if raw is not None else read_from_start(self._file()))
                    sent, _ = MultiPartParser(request.META, file, [_NoFiles()], post.encoding).parse()
            except (SuspiciousOperation, MultiPartParserError):
                pass  # Django has no form then
            self._form = post, None if post == sent else post.urlencode().encode()
        return self._form[1]

    def _cookies(self) -> Sequence[str] | None:
        """Return the lines of `Cookie`, followed by what inner code has put into `request.COOKIES`; None for nothing.

        A cookie that is missing there counts as present: code that removes one gains nothing.
        """
        read = vars(self._request).get("COOKIES")
        if not read:
            return None
        sent = self.environ.get("HTTP_COOKIE", "")
        text = sent if self._asgi is not None else get_str_from_wsgi(self._request.META, "HTTP_COOKIE", "")
        if read.items() <= parse_cookie(text).items():
            return None
        edited = "; ".join(f"{name}={value}" for name, value in read.items())
        return [sent, edited] if sent else [edited]

    def _has_django_stream(self) -> bool:
        """Return True if the stream is the one that Django has made from the server's, by the length of the body."""
        stream = vars(self._request).get("_stream")
        return stream is None or isinstance(stream, LimitedStream)

    def _lines_sent(self) -> Mapping[str, list[str]]:
        if self._sent is None:
            self._sent = {}
            for name, value in (self._asgi or {}).get("headers", ()):
                self._sent.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        return self._sent

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for name, value in super()._pairs():
            lines = self._lines_sent().get(name.lower())
            for line in lines if lines is not None and ",".join(lines) == value else (value,):
                yield name, line


def session_of(view: RequestView) -> Any:
    """Return the session of a request, loaded; in an event loop an awaitable of it.

    It is `request.session`, or what `SESSION_ENGINE` has stored for the cookie where Django's own middleware has not
    run yet. That is read only, so Django's middleware reads it again.

    Raises:
        ConfigurationError: it is no request of Django.
    """
    if not isinstance(view, DjangoGuardRequest):
        raise ConfigurationError("a session is read from a request of Django; this one is not")
    request = view.request

    def load() -> Any:
        found = getattr(request, "session", None)
        if found is None:
            engine = import_module(settings.SESSION_ENGINE)
            found = engine.SessionStore(request.COOKIES.get(settings.SESSION_COOKIE_NAME))
        found.get("")  # from the database, in this thread
        return found

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return load()
    return sync_to_async(load)()


def session_user(view: RequestView) -> Any:
    """Extract the user that `django.contrib.auth.login` has put into the session; for the setting `CHIO_EXTRACTOR`.

    Without one: client certificate, bearer token, API key, in this order.
    """
    return _session_user(view)


_session_user = identity.from_session(session_of, SESSION_KEY)
