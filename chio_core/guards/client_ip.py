"""The client's address behind proxies that we trust, and only behind those.

`X-Forwarded-For` is read from right to left: each entry was added by the hop that follows it. As long as that
hop is trusted, its word counts; the first address that is not a trusted proxy is the client. Everything further
left is the client's own text and means nothing.
"""

from __future__ import annotations

from chio_core.guards.networks import Address, NetworkSet, parse_address
from chio_core.names import STATE_CLIENT_IP
from chio_core.request import GuardRequest

UNIX = "unix"
"""In a list of trusted proxies: a peer without an address, that is, on a Unix socket."""


class ClientAddress:
    """Finds the client's address. Without proxies of its own it takes what a guard further out has found.

    Args:
        trusted_proxies: addresses and networks of proxies, and `unix` for peers on a Unix socket.

    Raises:
        ConfigurationError: an entry is none of these.
    """

    def __init__(self, trusted_proxies: tuple[str, ...] | list[str] = ()) -> None:
        self._unix = UNIX in trusted_proxies
        self._trusted = NetworkSet(entry for entry in trusted_proxies if entry != UNIX)
        self._decides_itself = bool(trusted_proxies)

    def __call__(self, request: GuardRequest) -> Address | None:
        """Return the address, or None where there is none to be known; it is noted on the state."""
        if not self._decides_itself:
            known = getattr(request.state, STATE_CLIENT_IP, None)
            if known is not None:
                return parse_address(str(known))
        address = self._find(request)
        if address is not None:
            setattr(request.state, STATE_CLIENT_IP, str(address))
        return address

    def _find(self, request: GuardRequest) -> Address | None:
        peer = parse_address(request.client_host)
        if not (self._unix if peer is None else peer in self._trusted):
            return peer
        found = peer
        for entry in reversed(request.headers.get("x-forwarded-for", "").split(",")):
            hop = parse_address(_without_port(entry.strip()))
            if hop is None:
                return found
            found = hop
            if hop not in self._trusted:
                return hop
        return found


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
