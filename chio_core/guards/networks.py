"""Sets of addresses: single ones and networks, both families, looked up in constant time."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from chio_core.errors import ConfigurationError

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
