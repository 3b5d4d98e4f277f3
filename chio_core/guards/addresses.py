"""IpBlock and IpAllow: refuse by address, in microseconds, also with 10,000 networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chio_core.guards.client_ip import ClientAddress
from chio_core.guards.networks import NetworkSet
from chio_core.request import GuardRequest
from chio_core.refusals.response import Denial


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
        trusted_proxies: whose `X-Forwarded-For` counts; see `chio_core.guards.client_ip`.
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
