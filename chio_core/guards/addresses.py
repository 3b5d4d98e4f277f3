"""IpBlock and IpAllow: refuse by address, in microseconds even with 10,000 networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from chio_core.errors import ConfigurationError
from chio_core.names import STATE_CLIENT_IP
from chio_core.refusals.response import Denial
from chio_core.request import GuardRequest

Address = IPv4Address | IPv6Address


def parse_address(text: str | None) -> Address | None:
    """Return an address without its zone id, an IPv4-mapped IPv6 address as IPv4; None for any other text."""
    if not text:
        return None
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped if mapped is not None else address


class NetworkSet:
    """A set of networks: one look-up for each prefix length in it, whatever the number of networks.

    Args:
        networks: `192.0.2.7`, `10.9.0.0/16`, `2001:db8::/32`.

    Raises:
        ConfigurationError: an entry is not an address or network, or has host bits set; or one text is given for all.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        if isinstance(networks, str):
            raise ConfigurationError(f"addresses and networks are a list: write [{networks!r}]")
        found: dict[tuple[int, int], set[int]] = {}
        for text in networks:
            try:
                network = ip_network(text.strip())
            except ValueError:
                raise ConfigurationError(
                    f"{text!r} is no address or network; write 192.0.2.7, 10.9.0.0/16 or 2001:db8::/32 (host bits zero)"
                ) from None
            version, first = network.version, network.network_address
            if network.prefixlen >= 96:
                # Addresses are compared as `parse_address` returns them: an IPv4-mapped network is an IPv4 network.
                mapped = parse_address(str(first))
                if isinstance(mapped, IPv4Address):
                    version, first = 4, mapped
            shift = network.max_prefixlen - network.prefixlen
            found.setdefault((version, shift), set()).add(int(first) >> shift)
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


UNIX = "unix"
"""In a list of trusted proxies: a peer on a Unix socket, which has no address."""


class ClientAddress:
    """Finds the client's address. Without trusted proxies it uses the address that an outer guard has found.

    Args:
        trusted_proxies: addresses and networks of proxies, and `unix` for peers on a Unix socket.

    Raises:
        ConfigurationError: an entry is not an address, a network or `unix`.
    """

    def __init__(self, trusted_proxies: tuple[str, ...] | list[str] = ()) -> None:
        self._unix = UNIX in trusted_proxies
        self._trusted = NetworkSet(entry for entry in trusted_proxies if entry != UNIX)
        self._has_proxies = bool(trusted_proxies)

    def __call__(self, request: GuardRequest) -> Address | None:
        """Return the address and set it on the state; return None if it is unknown."""
        if not self._has_proxies:
            known = getattr(request.state, STATE_CLIENT_IP, None)
            if known is not None:
                return parse_address(str(known))
        peer = address = parse_address(request.client_host)
        if self._unix if peer is None else peer in self._trusted:
            # Each trusted proxy has appended its peer: the nearest untrusted entry is the client.
            for entry in reversed(request.headers.get("x-forwarded-for", "").split(",")):
                text = entry.strip()
                if text.startswith("["):  # "[2001:db8::1]:443"
                    text = text[1:].partition("]")[0]
                elif text.count(":") == 1:  # "192.0.2.7:443"
                    text = text.partition(":")[0]
                hop = parse_address(text)
                if hop is None:
                    break
                address = hop
                if hop not in self._trusted:
                    break
        if address is not None:
            setattr(request.state, STATE_CLIENT_IP, str(address))
        return address


class _AddressGuard:
    provides = frozenset({"client_ip"})
    waits = False

    def __init__(self, networks: Iterable[str], *, trusted_proxies: Sequence[str] = (), priority: int = -80) -> None:
        self.priority = priority
        self.enabled = True
        self._networks = NetworkSet(networks)
        self._address = ClientAddress(tuple(trusted_proxies))


class IpBlock(_AddressGuard):
    """Refuses the listed addresses; a peer without an address is not refused.

    Args:
        networks: addresses and networks; an IPv4 entry also covers its IPv4-mapped IPv6 form.
        trusted_proxies: proxies whose `X-Forwarded-For` is used; see `ClientAddress`.
        priority: place in the chain.

    Raises:
        ConfigurationError: an entry is not an address or network.
    """

    name = "ip_block"

    async def __call__(self, request: GuardRequest) -> Denial | None:
        """Return a 403 for a listed address."""
        if self._address(request) in self._networks:
            return Denial(code="chio_address_blocked", message="Banned", guard="local/ip_block")
        return None


class IpAllow(_AddressGuard):
    """Refuses every address that is not listed, and a peer without an address. Arguments as for `IpBlock`."""

    name = "ip_allow"

    async def __call__(self, request: GuardRequest) -> Denial | None:
        """Return a 403 for an address that is not listed."""
        if self._address(request) in self._networks:
            return None
        return Denial(code="chio_address_blocked", message="this address is not allowed", guard="local/ip_allow")
