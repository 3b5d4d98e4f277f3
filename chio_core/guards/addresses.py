"""IpBlock and IpAllow: refuse by address, in microseconds, also with 10,000 networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from chio_core.errors import ConfigurationError
from chio_core.names import STATE_CLIENT_IP
from chio_core.refusals.response import Denial
from chio_core.request import GuardRequest

Address = IPv4Address | IPv6Address


def parse_address(text: str | None) -> Address | None:
    """Return an address, an IPv4-mapped IPv6 one as IPv4, zone ids cut off; None for what is no address."""
    if not text:
        return None
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped if mapped is not None else address


class NetworkSet:
    """A set of networks. One dictionary look-up for each prefix length that occurs, however many networks.

    Args:
        networks: `192.0.2.7`, `10.9.0.0/16`, `2001:db8::/32`.

    Raises:
        ConfigurationError: a text that is no address or network, or one with host bits set; one text for all.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        if isinstance(networks, str):
            raise ConfigurationError(f"addresses and networks are a list: write [{networks!r}]")
        found: dict[tuple[int, int], set[int]] = {}
        for text in networks:
            version, shift, value = _network(text)
            found.setdefault((version, shift), set()).add(value)
        self._v4 = tuple((shift, frozenset(s)) for (version, shift), s in found.items() if version == 4)
        self._v6 = tuple((shift, frozenset(s)) for (version, shift), s in found.items() if version == 6)

    def __contains__(self, address: object) -> bool:
        if isinstance(address, IPv4Address):
            prefixes = self._v4
        elif isinstance(address, IPv6Address):
            prefixes = self._v6
        else:
            return False
        value = int(address)
        return any(value >> shift in networks for shift, networks in prefixes)

    def __bool__(self) -> bool:
        return bool(self._v4 or self._v6)


def _network(text: str) -> tuple[int, int, int]:
    try:
        network = ip_network(text.strip())
    except ValueError:
        raise ConfigurationError(
            f"{text!r} is no address or network; write 192.0.2.7, 10.9.0.0/16 or 2001:db8::/32 (host bits zero)"
        ) from None
    shift = network.max_prefixlen - network.prefixlen
    if network.version == 6 and network.prefixlen >= 96:
        mapped = parse_address(str(network.network_address))
        if isinstance(mapped, IPv4Address):
            return 4, shift, int(mapped) >> shift
    return network.version, shift, int(network.network_address) >> shift


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


class _AddressGuard:
    provides = frozenset({"client_ip"})
    waits = False

    def __init__(self, networks: Iterable[str], *, trusted_proxies: Sequence[str] = (), priority: int = -80) -> None:
        self.priority = priority
        self.enabled = True
        self._networks = NetworkSet(networks)
        self._address = ClientAddress(tuple(trusted_proxies))


class IpBlock(_AddressGuard):
    """Refuses the addresses listed; a peer without an address passes.

    Args:
        networks: addresses and networks; an IPv4 entry also covers its IPv4-mapped IPv6 form.
        trusted_proxies: whose `X-Forwarded-For` counts; see `chio_core.guards.addresses`.
        priority: place in the chain.

    Raises:
        ConfigurationError: an entry that is no address or network.
    """

    name = "ip_block"

    async def __call__(self, request: GuardRequest) -> Denial | None:
        """Return a 403 for a listed address."""
        if self._address(request) in self._networks:
            return Denial(code="chio_address_blocked", message="Banned", guard="local/ip_block")
        return None


class IpAllow(_AddressGuard):
    """Refuses every address that is not listed, and a peer without one. Arguments as for `IpBlock`."""

    name = "ip_allow"

    async def __call__(self, request: GuardRequest) -> Denial | None:
        """Return a 403 for an address that is not listed."""
        if self._address(request) in self._networks:
            return None
        return Denial(code="chio_address_blocked", message="this address is not allowed", guard="local/ip_allow")
