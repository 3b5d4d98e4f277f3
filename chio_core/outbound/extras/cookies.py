"""CookieJar and DummyCookieJar: cookies scoped by the standard library, a little more strictly than by default.

* A cookie without `Domain` is sent only to the host that set it, not to hosts below it (RFC 6265, section 5.3).
* `Domain` may not be a country's second level such as `co.uk`. There is no public suffix list.
* IP addresses and names without a dot, such as `localhost`, have cookies only with `unsafe=True`, also initial ones.
  Such a cookie is sent only to the same port: each port of a machine is another service.
* A plain `http` response cannot set a `Secure` cookie.
"""

from __future__ import annotations

import http.cookiejar as stdlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.cookiejar import Cookie, DefaultCookiePolicy
from ipaddress import ip_address
from typing import Any

from chio_core.errors import ConfigurationError
from chio_core.names import LOGGER
from chio_core.outbound.extras.middleware import HookedFlow
from chio_core.outbound.hop import hop_of
from chio_core.outbound.member import FlowSteps

log = logging.getLogger(LOGGER)

_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class _Header:
    """A computed `Cookie` header: valid for a version of the jar and until a time."""

    text: str | None
    version: object
    until: float


class _Policy(DefaultCookiePolicy):
    def __init__(self, unsafe: bool) -> None:
        super().__init__(strict_domain=True, strict_ns_domain=DefaultCookiePolicy.DomainStrictNonDomain)
        self._unsafe = unsafe

    def set_ok(self, cookie: Cookie, request: Any) -> bool:
        if not super().set_ok(cookie, request):
            return False
        if cookie.secure and request.type != "https":
            return False
        if not has_no_domain(request.host):
            return True
        cookie.port = str(request.port)
        return self._unsafe

    def return_ok_port(self, cookie: Cookie, request: Any) -> bool:
        return cookie.port is None or cookie.port == str(request.port)


class CookieJar:
    """Keeps cookies of outgoing calls.

    Args:
        cookies: initial cookies. Without `domain` they are bound to the first host that is called, with a warning.
        domain: host of the initial cookies; with a leading dot, also all hosts below it.
        unsafe: keep cookies of IP addresses and of names without a dot.
    """

    def __init__(
        self, cookies: Mapping[str, str] | None = None, *, domain: str | None = None, unsafe: bool = False
    ) -> None:
        self._jar = stdlib.CookieJar(self._policy(unsafe))
        self.unsafe = unsafe
        self._waiting: dict[str, str] = {}
        self._headers: dict[tuple[Any, ...], _Header] = {}
        self._version = object()
        for name, value in (cookies or {}).items():
            self.set(name, value, domain=domain)

    def _policy(self, unsafe: bool) -> DefaultCookiePolicy:
        return _Policy(unsafe)

    def set(self, name: str, value: str, *, domain: str | None = None, path: str = "/", secure: bool = False) -> None:
        """Add a cookie.

        Args:
            domain: see the class.

        Raises:
            ConfigurationError: the name or value would break the header, or the domain needs `unsafe`.
        """
        if not name or any(c in name + value for c in "\r\n;\0") or "=" in name:
            raise ConfigurationError(f"cookie {name!r} holds a character that a Cookie header cannot carry")
        if domain is not None and has_no_domain(domain) and not self.unsafe:
            raise ConfigurationError(f"a cookie for {domain} needs CookieJar(unsafe=True)")
        if domain is None:
            self._waiting[name] = value
        else:
            self._jar.set_cookie(_cookie(name, value, domain.lower(), path, secure, None))
        self._version = object()

    def get(self, name: str, default: str | None = None, *, domain: str | None = None) -> str | None:
        """Return the value of a cookie; of several with this name, the one that was set first.

        Args:
            domain: search only this domain's cookies.
        """
        if domain is None and name in self._waiting:
            return self._waiting[name]
        wanted = None if domain is None else domain.lower().lstrip(".")
        for cookie in self._live():
            known = cookie.domain.lstrip(".")
            known = known.removesuffix(".local") if cookie.domain.count(".") == 1 else known
            if cookie.name == name and wanted in (None, known):
                return cookie.value
        return default

    def items(self) -> list[tuple[str, str]]:
        """Return names and values of all cookies that have not expired."""
        return [*self._waiting.items(), *((cookie.name, cookie.value or "") for cookie in self._live())]

    def clear(self) -> None:
        """Remove all cookies."""
        self._waiting.clear()
        self._jar.clear()
        self._version = object()

    def __len__(self) -> int:
        return len(self.items())

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.items())

    def __contains__(self, name: object) -> bool:
        return any(name in (known, (known, value)) for known, value in self.items())

    def __repr__(self) -> str:
        return f"<CookieJar cookies={[name for name, _ in self.items()]} unsafe={self.unsafe}>"

    def put_on(self, request: Any) -> None:
        """Add this request's cookies to its `Cookie` header; a cookie of the same name that it has already wins."""
        hop = hop_of(request)
        if self._waiting and (hop is None or hop.number == 1):  # the target of a redirect was not chosen here
            self._bind(request.url)
            if not self._waiting:
                text = "chio: initial cookies without a host belong to %s from now on; write CookieJar(…, domain=…)"
                log.warning(text, request.url.host)
        cookie = self.header_for(request.url, request.headers.get("cookie"))
        if cookie is not None:
            request.headers["Cookie"] = cookie

    def header_for(self, url: Any, given: str | None = None) -> str | None:
        """Return the `Cookie` header for a URL: the given one, and the cookies of the jar with other names."""
        cookie = self._header(url)
        if cookie is None or not given:
            return cookie or given
        names = {pair.partition("=")[0].strip() for pair in given.split(";")}
        added = [pair for pair in cookie.split("; ") if pair.partition("=")[0] not in names]
        return "; ".join([given, *added])

    def bind(self, urls: Sequence[Any]) -> None:
        """Bind the initial cookies that have no domain to the host of all these URLs.

        Raises:
            ConfigurationError: the URLs have more than one host, so the cookies could belong to any of them.
        """
        hosts = sorted({url.host for url in urls})
        if self._waiting and len(hosts) > 1:
            raise ConfigurationError(
                f"the initial cookies {', '.join(self._waiting)} belong to no host, and these calls have several:"
                f" {', '.join(hosts)}; write CookieJar(…, domain=…)"
            )
        if self._waiting and urls:
            self._bind(urls[0])

    def _bind(self, url: Any) -> None:
        address = has_no_domain(url.host)
        if address and not self.unsafe:
            return
        waiting, self._waiting = self._waiting, {}
        port = str(_port_of(url)) if address else None
        for name, value in waiting.items():
            self._jar.set_cookie(_cookie(name, value, _effective(url.host), "/", url.scheme == "https", port))
        self._version = object()

    def take_from(self, response: Any, request: Any) -> None:
        """Keep the cookies that a response to this request sets."""
        if "set-cookie" not in response.headers:
            return
        lines = response.headers.get_list("set-cookie")
        self._jar.extract_cookies(_ResponseFacts(lines), _RequestFacts(request.url))  # type: ignore[arg-type]
        self._version = object()

    def _header(self, url: Any) -> str | None:
        # The standard library is slow to find the cookies of a request, so its result is kept until the jar changes
        # or one of its cookies expires.
        version = self._version
        place = (url.scheme, url.host, url.port, url.raw_path.partition(b"?")[0])
        known = self._headers.get(place)
        if known is not None and known.version is version and time.time() < known.until:
            return known.text
        facts = _RequestFacts(url)
        self._jar.add_cookie_header(facts)  # type: ignore[arg-type]
        until = min((cookie.expires for cookie in self._jar if cookie.expires is not None), default=math.inf)
        if len(self._headers) >= _REMEMBERED:
            self._headers.clear()
        self._headers[place] = _Header(facts.cookie, version, until)
        return facts.cookie

    def _live(self) -> list[Cookie]:
        now = int(time.time())
        return [cookie for cookie in self._jar if not cookie.is_expired(now)]


class DummyCookieJar(CookieJar):
    """Stores nothing and sends nothing."""

    def __repr__(self) -> str:
        return "<DummyCookieJar>"

    def _policy(self, unsafe: bool) -> DefaultCookiePolicy:
        return DefaultCookiePolicy(allowed_domains=[])

    def set(self, name: str, value: str, *, domain: str | None = None, path: str = "/", secure: bool = False) -> None:
        """Do nothing."""


class Session(HookedFlow):
    """Sends the jar's cookies with each hop, and stores those that a response sets.

    An httpx client keeps cookies by itself too; give it `cookies=no_cookies()`, so that there is one jar.

    Attributes:
        cookie_jar: the jar; a new one by default.
    """

    __priority__ = 5

    def __init__(self, cookie_jar: CookieJar | None = None) -> None:
        self.cookie_jar = cookie_jar if cookie_jar is not None else CookieJar()

    def flow(self, request: Any) -> FlowSteps:
        """Send with cookies."""
        hop = hop_of(request)
        if hop is not None and hop.crossed:
            request.headers.pop("Cookie", None)  # of an outer member; the jar knows whose its cookies are
        self.cookie_jar.put_on(request)
        if hop is not None:
            hop.cookies = request.headers.get("cookie")
        response = yield request
        self.cookie_jar.take_from(response, request)
        return response


def no_cookies() -> stdlib.CookieJar:
    """Return a jar that stores and sends nothing, for `httpx.AsyncClient(cookies=no_cookies())`.

    A client keeps cookies by itself, by laxer rules. This stops it if a `Session` keeps them, or no cookies are wanted.
    """
    return stdlib.CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def has_no_domain(host: str) -> bool:
    """Return True if a host is an IP address or a name without a dot."""
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return "." not in host.strip(".")
    return True


class _RequestFacts:
    """The request interface that `http.cookiejar` expects."""

    unverifiable = False

    def __init__(self, url: Any) -> None:
        # Without user and password, which the standard library would take for part of the host.
        self._url = f"{url.scheme}://{url.netloc.decode('ascii')}{url.raw_path.decode('ascii', 'replace')}"
        self.type: str = url.scheme
        self.host: str = url.host
        self.origin_req_host = self.host
        self.port = _port_of(url)
        self.cookie: str | None = None

    def get_full_url(self) -> str:
        return self._url

    def get_header(self, name: str, default: str | None = None) -> str | None:
        return default

    def has_header(self, name: str) -> bool:
        return False

    def add_unredirected_header(self, name: str, value: str) -> None:
        if name == "Cookie":
            self.cookie = value


class _ResponseFacts:
    """The response interface that `http.cookiejar` expects."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def info(self) -> _ResponseFacts:
        return self

    def get_all(self, name: str, default: list[str]) -> list[str]:
        return self._lines if name == "Set-Cookie" else default


def _cookie(name: str, value: str, domain: str, path: str, secure: bool, port: str | None) -> Cookie:
    dotted = domain.startswith(".")
    return Cookie(
        version=0,
        name=name,
        value=value,
        port=port,
        port_specified=port is not None,
        domain=domain if dotted else _effective(domain),
        domain_specified=dotted,
        domain_initial_dot=dotted,
        path=path,
        path_specified=True,
        secure=secure,
        expires=None,
        discard=True,
        comment=None,
        comment_url=None,
        rest={},
    )


def _port_of(url: Any) -> int:
    return int(url.port or (443 if url.scheme == "https" else 80))


def _effective(host: str) -> str:
    # The standard library stores a name without a dot below `.local`.
    name = f"[{host}]" if ":" in host and host[0] != "[" else host
    return name if "." in name else f"{name}.local"
