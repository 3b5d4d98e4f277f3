"""Hop: one network send as the transport sees it. A redirect is a hop of its own.

What belongs to a hop travels in the request's `extensions`, which the client copies when it follows a redirect:
that is how the next hop knows where the journey began.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from chio_core.errors import ChioError
from chio_core.evaluation.outcomes import Decision
from chio_core.models.receipt import HttpReceipt
from chio_core.names import CAPABILITY_HEADER, HTTPX_CALL, HTTPX_HOP, HTTPX_TICKET
from chio_core.refusals.response import Denial

CREDENTIALS: Final = frozenset({"authorization", "proxy-authorization", "x-api-key", CAPABILITY_HEADER.lower()})
"""Request headers, in lower case, that stay with the origin that a call was made to."""

_PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int | None]


def origin_of(url: Any) -> Origin:
    """Return scheme, host and port of a URL; a default port is written out."""
    return url.scheme, url.host, url.port or _PORTS.get(url.scheme)


@dataclass(slots=True)
class Hop:
    """One network send.

    Attributes:
        first: origin of the call that the application made.
        origin: origin of this hop.
        number: 1 for the call itself, 2 for what its first redirect leads to, and so on.
        opened: the sidecar has allowed this hop.
        sent: the request as it went to the network; None before, and when the hop is over.
    """

    first: Origin
    origin: Origin
    number: int = 1
    opened: bool = False
    sent: Any = field(default=None, repr=False)

    @property
    def crossed(self) -> bool:
        """A redirect has led away from the origin that was called; from http to https of a host is not away."""
        if self.origin == self.first:
            return False
        upgraded = ("https", self.first[1], 443)
        return not (self.first[0] == "http" and self.first[2] == 80 and self.origin == upgraded)


def copy_of(request: Any) -> Any:
    """Return a copy of a request with headers and extensions of its own; the body is shared.

    Members work on a copy: what they add must not be carried along when the client follows a redirect.
    """
    copy = object.__new__(type(request))
    copy.__dict__.update(request.__dict__)
    copy.headers = request.headers.copy()
    copy.extensions = dict(request.extensions)
    return copy


def enter(request: Any, credentials: Collection[str]) -> tuple[Any, Hop]:
    """Begin a hop: return the copy that the members work on, and the hop.

    The copy has lost its credentials if a redirect led to another origin.
    """
    origin = origin_of(request.url)
    before = request.extensions.get(HTTPX_HOP)
    hop = Hop(before.first, origin, before.number + 1) if isinstance(before, Hop) else Hop(origin, origin)
    # A new dictionary, never the caller's own: he may use it for other calls.
    request.extensions = {**request.extensions, HTTPX_HOP: hop}
    copy = copy_of(request)
    strip(copy, hop, credentials)
    return copy, hop


def strip(request: Any, hop: Hop, credentials: Collection[str]) -> None:
    """Take the credentials off a request that a redirect has led to another origin."""
    if hop.crossed:
        for name in credentials:
            if name in request.headers:
                del request.headers[name]


def hop_of(request: Any) -> Hop | None:
    """Return the hop that a request is on; None outside of our transports."""
    found = request.extensions.get(HTTPX_HOP)
    return found if isinstance(found, Hop) else None


def carry(request: Any, changed: Any) -> None:
    """Hand on what belongs to the hop to a request that a member has made anew."""
    if changed is request:
        return
    for name in (HTTPX_HOP, HTTPX_TICKET, HTTPX_CALL):
        if name in request.extensions and changed.extensions.get(name) is not request.extensions[name]:
            changed.extensions = {**changed.extensions, name: request.extensions[name]}


@dataclass(frozen=True, slots=True)
class Route:
    """What `on_error` is told about a call that was not declared with `Calls`."""

    method: str
    url: str


def route_of(request: Any) -> Any:
    """Return what `on_error` gets as `route`: the declared call, or a `Route` with `.method` and `.url`."""
    return request.extensions.get(HTTPX_CALL) or Route(request.method, shown(request.url))


def config_of(request: Any) -> Mapping[str, Any]:
    """Return what `on_error` gets as `config`: the options of the declared call, or the timeouts."""
    call = request.extensions.get(HTTPX_CALL)
    if call is not None:
        return call.options  # type: ignore[no-any-return]
    return MappingProxyType({"timeout": request.extensions.get("timeout")})


def shown(url: Any) -> str:
    """Return a URL as logs may show it: without user, query and fragment, where secrets stand."""
    port = f":{url.port}" if url.port is not None else ""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}{port}{url.path}"


class OutboundDenied(ChioError):
    """A send was refused, or no decision could be had. Nothing has reached the network.

    It is an exception and no response with status 403, so that nobody takes the refusal for the upstream's
    answer, and no error of httpx, so that nobody repeats the call because of it.

    Args:
        decision: the outcome; its `denial` is set.
        method: method of the refused request.
        target: its URL without user, query and fragment.

    Attributes:
        decision, denial, method, target: see above.
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
        """The verified receipt of the refusal; None when the sidecar gave none."""
        return self.decision.receipt
