"""Hop: one network send. Each redirect is a further hop.

A hop's data travels in the request's `extensions`, which the client copies when it follows a redirect: so the next hop
knows the origin of the first.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from chio_core.errors import ChioError
from chio_core.evaluation.outcomes import Decision
from chio_core.models.receipt import HttpReceipt
from chio_core.names import HTTPX_CALL, HTTPX_HOP, HTTPX_TICKET
from chio_core.refusals.response import Denial

_CREDENTIAL = re.compile(
    r"auth(?!or\b)|token|secret|password|passwd|passphrase|credential|cookie|session|jwt|bearer|dpop|signature"
    r"|assertion|capability|approval|csrf|xsrf|otp\b|key\b|user(?!-agent)|client-?(cert|id|secret)|login"
)
_NO_CREDENTIALS = frozenset({"idempotency-key", "sec-websocket-key", "surrogate-key"})

Origin = tuple[str, str, int | None]


def origin_of(url: Any) -> Origin:
    """Return scheme, host and port of a URL, a default port included."""
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


@dataclass(slots=True)
class Hop:
    """One network send.

    Attributes:
        first: origin that the application called.
        origin: origin of this hop.
        number: 1 for the call itself, 2 for its first redirect, and so on.
        left: an earlier hop was at another origin than the first, so this one was chosen there.
        opened: the sidecar has allowed this hop.
        cookies: the `Cookie` header that a `Session` has made for this hop.
        sent: the request as it went to the network; None before that, and after the hop.
    """

    first: Origin
    origin: Origin
    number: int = 1
    left: bool = False
    opened: bool = False
    cookies: str | None = field(default=None, repr=False)
    sent: Any = field(default=None, repr=False)

    @property
    def crossed(self) -> bool:
        """A redirect has led to another origin, or back from one; the same host on https is not another."""
        if self.left or self.origin == self.first:
            return self.left
        upgraded = ("https", self.first[1], 443)
        return not (self.first[0] == "http" and self.first[2] == 80 and self.origin == upgraded)


def copy_of(request: Any) -> Any:
    """Return a copy of a request with separate headers and extensions; the body is shared.

    Members work on a copy, so the client does not carry their additions to a redirect's target.
    """
    copy = object.__new__(type(request))
    copy.__dict__.update(request.__dict__)
    copy.headers = request.headers.copy()
    copy.extensions = dict(request.extensions)
    return copy


def enter(request: Any, credentials: Collection[str]) -> tuple[Any, Hop]:
    """Begin a hop: return the copy that the members work on, and the hop.

    The copy has no credentials if a redirect has led to another origin.
    """
    origin = origin_of(request.url)
    before = request.extensions.get(HTTPX_HOP)
    hop = Hop(origin, origin)
    if isinstance(before, Hop):
        hop = Hop(before.first, origin, before.number + 1, left=before.crossed)
    # A new dictionary: the caller may use the given one for other calls.
    request.extensions = {**request.extensions, HTTPX_HOP: hop}
    copy = copy_of(request)
    strip(copy, hop, credentials)
    return copy, hop


def strip(request: Any, hop: Hop, credentials: Collection[str]) -> None:
    """Remove the credentials of a request that a redirect has led to another origin.

    A header is a credential by its name: it contains a word for one, or it is in `credentials` (lower case). Cookies of
    a `Session` stay: they belong to the host of this hop.
    """
    if not hop.crossed:
        return
    for name in list(request.headers):
        if name in credentials or (_CREDENTIAL.search(name.replace("_", "-")) and name not in _NO_CREDENTIALS):
            del request.headers[name]
    if hop.cookies is not None:
        request.headers["Cookie"] = hop.cookies


def hop_of(request: Any) -> Hop | None:
    """Return the hop of a request; None outside `ChioTransport` and `SyncChioTransport`."""
    found = request.extensions.get(HTTPX_HOP)
    return found if isinstance(found, Hop) else None


def carry(request: Any, changed: Any) -> None:
    """Copy the hop's data to the request that a member sends instead of the given one."""
    if changed is request:
        return
    for name in (HTTPX_HOP, HTTPX_TICKET, HTTPX_CALL):
        if name in request.extensions and changed.extensions.get(name) is not request.extensions[name]:
            changed.extensions = {**changed.extensions, name: request.extensions[name]}


@dataclass(frozen=True, slots=True)
class Route:
    """Describes a call that was not declared with `Calls` to `on_error`."""

    method: str
    url: str


def route_of(request: Any) -> Any:
    """Return the `route` argument of `on_error`: the declared `Call`, else a `Route`."""
    return request.extensions.get(HTTPX_CALL) or Route(request.method, shown(request.url))


def config_of(request: Any) -> Mapping[str, Any]:
    """Return the `config` argument of `on_error`: the options of the declared call, else the timeouts."""
    call = request.extensions.get(HTTPX_CALL)
    if call is not None:
        return call.options  # type: ignore[no-any-return]
    return MappingProxyType({"timeout": request.extensions.get("timeout")})


def shown(url: Any) -> str:
    """Return a URL for logs: without user, query and fragment, which may hold secrets."""
    port = f":{url.port}" if url.port is not None else ""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}{port}{url.path}"


class OutboundDenied(ChioError):
    """A send was refused, or there was no decision. Nothing has reached the network.

    It is not a response with status 403, which would look like the upstream's, and not an error of httpx, which retry
    code would repeat.

    Attributes:
        decision: the outcome; its `denial` is set.
        denial: status, code and message of the refusal.
        method: method of the refused request.
        target: its URL without user, query and fragment.
        hop: 1 for the call itself, 2 and more for a redirect.
    """

    code = "chio_access_denied"

    def __init__(self, decision: Decision, denial: Denial, *, method: str, target: str, hop: int = 1) -> None:
        super().__init__(f"{method} {target} was not sent: {denial.message}")
        self.code = denial.code
        self.decision = decision
        self.denial = denial
        self.method = method
        self.target = target
        self.hop = hop

    @property
    def receipt(self) -> HttpReceipt | None:
        """The verified receipt of the refusal; None if the sidecar gave none."""
        return self.decision.receipt
