"""The timeout of the outgoing client bounds the decision too, and never opens a call that was not allowed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import httpx
import pytest

from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.outbound import ChioTransport, GovernOutbound, OutboundDenied, SyncChioTransport
from chio_core.settings import ChioSettings
from chio_core.testing import ScriptedSidecar
from tests.outbound.tools import A, Upstream, governed

LATE = ("chio_timeout", "chio_overloaded")
"""Which of both it is decides the load of the machine: in 50 ms this process may not have run at all."""


@pytest.fixture(params=[False, True], ids=["closed", "fail_open"])
def settings(request: pytest.FixtureRequest) -> Iterator[ChioSettings]:
    """Settings of a sidecar that accepts connections and never responds, and whose own timeout is five minutes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield ChioSettings(sidecar_url=url, timeout=300, fail_open=request.param, _env_file=None)


async def test_the_timeout_of_the_client_bounds_the_decision(settings: ChioSettings) -> None:
    upstream = Upstream()
    async with ChioClient(settings) as chio:
        transport = ChioTransport(upstream.transport, GovernOutbound(chio))
        async with httpx.AsyncClient(transport=transport, timeout=0.05) as client, asyncio.timeout(60):
            with pytest.raises(OutboundDenied) as refused:
                await client.get(f"{A}/x")
    assert (refused.value.denial.status, upstream.hits) == (503, 0)
    assert refused.value.code in LATE


def test_the_timeout_of_a_synchronous_client_bounds_it_as_well(settings: ChioSettings) -> None:
    upstream = Upstream()
    with SyncChioClient(settings) as chio:
        transport = SyncChioTransport(upstream.transport, GovernOutbound(chio))
        with httpx.Client(transport=transport, timeout=0.05) as client, pytest.raises(OutboundDenied) as refused:
            client.get(f"{A}/x")
    assert (refused.value.denial.status, upstream.hits) == (503, 0)
    assert refused.value.code in LATE


def test_time_that_ends_while_it_connects_is_the_caller_s_too() -> None:
    upstream = Upstream()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]  # they fill the queue, so that no further connection opens
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        options = {"sidecar_url": f"http://127.0.0.1:{address[1]}", "timeout": 300, "fail_open": True}
        with SyncChioClient(ChioSettings(**options, _env_file=None)) as chio:
            transport = SyncChioTransport(upstream.transport, GovernOutbound(chio))
            with httpx.Client(transport=transport, timeout=0.05) as client, pytest.raises(OutboundDenied):
                client.get(f"{A}/x")
        for one in waiting:
            one.close()
    assert upstream.hits == 0


@pytest.mark.parametrize("timeout", [None, 600, httpx.Timeout(0.000001, read=60)])
async def test_only_a_shorter_time_to_read_counts(timeout: object) -> None:
    upstream = Upstream()
    transport = ChioTransport(upstream.transport, governed(ScriptedSidecar()))
    async with httpx.AsyncClient(transport=transport, timeout=timeout) as client:  # type: ignore[arg-type]
        assert (await client.get(f"{A}/x")).status_code == 200
