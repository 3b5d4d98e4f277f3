"""Rows B1, B2, B4 and B6: refusals by address, and the client's address behind proxies."""

from __future__ import annotations

import time

import pytest
from fastapi import Depends, FastAPI

from chio_core import Chain, ConfigurationError
from chio_core.guards import IpAllow, IpBlock, RateLimit
from chio_core.guards.addresses import NetworkSet, parse_address
from chio_fastapi import add_chio
from tests.guards.tools import Door
from tests.support import StubClient, call, run

BLOCKED = ["192.168.1.50", "10.9.0.0/16", "2001:db8::/32", "203.0.113.0/24"]


def test_one_door_guards_eighty_endpoints_and_the_one_added_later() -> None:
    """B1"""
    app, calls = FastAPI(), 0

    async def endpoint() -> dict[str, int]:
        nonlocal calls
        calls += 1
        return {"calls": calls}

    for number in range(80):
        app.get(f"/endpoint-{number}")(endpoint)
    add_chio(app, client=StubClient(), guards=[IpBlock(BLOCKED)])
    app.post("/added-later")(endpoint)

    async def main() -> None:
        for method, path in [*(("GET", f"/endpoint-{number}") for number in range(80)), ("POST", "/added-later")]:
            assert (await call(app, method, path, client=("192.168.1.50", 1))).status == 403
        assert calls == 0
        assert (await call(app, "GET", "/endpoint-79")).status == 200

    run(main())
    assert calls == 1


def test_nothing_runs_for_a_blocked_peer() -> None:
    """B2: neither handler nor dependencies, nor the sidecar if the guard is outside of the decision."""
    woken: list[str] = []
    app, client = FastAPI(), StubClient()
    add_chio(app, client=client, guards=[IpBlock(BLOCKED)])

    @app.get("/", dependencies=[Depends(lambda: woken.append("dependency"))])
    async def handler() -> None:
        woken.append("handler")

    reply = run(call(app, client=("192.168.1.50", 1)))
    assert (reply.status, reply.json()["message"], reply.receipt) == (403, "Banned", None)
    assert (woken, client.judge.questions) == ([], [])


def test_a_guard_inside_of_the_decision_refuses_with_a_receipt() -> None:
    """B2: the number is the policy."""
    door = Door(IpBlock(BLOCKED, priority=5))
    reply = door.knock("192.168.1.50")
    assert (reply.status, reply.receipt, door.calls) == (403, "stub-000000", 0)


@pytest.mark.parametrize(
    ("peer", "status"),
    [
        ("192.168.1.50", 403),
        ("192.168.1.51", 200),
        ("10.9.255.255", 403),
        ("10.10.0.0", 200),
        ("2001:db8:1::1", 403),
        ("2001:db9::1", 200),
        ("::ffff:192.168.1.50", 403),
        ("::ffff:c0a8:132", 403),
        ("::FFFF:10.9.1.1", 403),
        ("::ffff:10.10.1.1", 200),
        ("2001:db8::1%eth0", 403),
        ("127.0.0.1", 200),
        ("testclient", 200),
        (None, 200),
    ],
)
def test_a_block_list_of_addresses_and_networks(peer: str | None, status: int) -> None:
    """B4: both families, and IPv4 written as IPv6."""
    assert Door(IpBlock(BLOCKED)).knock(peer).status == status


@pytest.mark.parametrize(("peer", "status"), [("10.9.1.1", 200), ("10.10.1.1", 403), ("testclient", 403), (None, 403)])
def test_an_allow_list_refuses_every_other_address(peer: str | None, status: int) -> None:
    """B4"""
    assert Door(IpAllow(["10.9.0.0/16"])).knock(peer).status == status


def test_a_mapped_entry_of_the_list_means_the_ipv4_network() -> None:
    """B4"""
    found = NetworkSet(["::ffff:10.9.0.0/112", "::ffff:192.0.2.1"])
    assert parse_address("10.9.3.4") in found
    assert parse_address("::ffff:192.0.2.1") in found
    assert parse_address("10.10.0.0") not in found


@pytest.mark.parametrize("text", ["10.9.0.0/16", "", "10.0.0.1, 10.0.0.2"])
def test_one_text_for_the_whole_list_is_refused(text: str) -> None:
    """An empty text, for example of an unset variable, would block no address."""
    with pytest.raises(ConfigurationError, match="are a list"):
        NetworkSet(text)


@pytest.mark.parametrize("entry", ["10.9.0.1/16", "300.1.1.1", "", "example.org"])
def test_an_entry_that_is_no_network_is_named_at_start(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="is no address or network"):
        IpBlock([entry])


def test_ten_thousand_networks_cost_as_much_as_one() -> None:
    """B4: one look-up for each prefix length that occurs; compared with itself, not with a clock."""
    few = NetworkSet(["10.0.0.0/24"])
    many = NetworkSet([f"{10 + n // 65536}.{n // 256 % 256}.{n % 256}.0/24" for n in range(10_000)])
    address = parse_address("192.0.2.1")

    def cost(networks: NetworkSet) -> float:
        times = []
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(200):
                _ = address in networks
            times.append(time.perf_counter() - start)
        return min(times)

    assert cost(many) < 20 * cost(few)  # a walk through the list would be 10,000 times as long


PROXIES = ["10.0.0.0/8", "2001:db8:ffff::/48"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "status"),
    [
        ("10.0.0.1", "192.168.1.50", 403),
        ("10.0.0.1", "192.168.1.50, 198.51.100.7", 200),  # the left of it is the client's own text
        ("10.0.0.1", "198.51.100.7, 192.168.1.50", 403),
        ("10.0.0.1", "192.168.1.50, 10.0.0.2, 10.0.0.3", 403),  # through three trusted proxies
        ("10.0.0.1", "192.168.1.50:4711", 403),
        ("10.0.0.1", '[2001:db8:ffff::1]:443, "x"', 200),
        ("10.0.0.1", "garbage", 200),
        ("10.0.0.1", None, 200),
        ("198.51.100.9", "192.168.1.50", 200),  # the proxy is not trusted
        ("192.168.1.50", "198.51.100.7", 403),  # a client cannot hide behind it
        ("2001:db8:ffff::1", "::ffff:192.168.1.50", 403),
    ],
)
def test_the_forwarded_address_counts_only_from_trusted_proxies(peer: str, forwarded: str | None, status: int) -> None:
    """B6"""
    headers = {"x_forwarded_for": forwarded} if forwarded is not None else {}
    assert Door(IpBlock(["192.168.1.50"], trusted_proxies=PROXIES)).knock(peer, **headers).status == status


def test_several_lines_of_the_header_are_one_list() -> None:
    """B6"""
    door = Door(IpBlock(["192.168.1.50"], trusted_proxies=PROXIES))
    lines = [("x-forwarded-for", "198.51.100.7"), ("x-forwarded-for", "192.168.1.50")]
    assert run(call(door.app, "GET", "/hello", headers=lines, client=("10.0.0.1", 1))).status == 403


def test_a_peer_on_a_unix_socket_is_trusted_only_if_configured() -> None:
    """B6"""
    for trusted, status in ((["unix"], 403), ([], 200)):
        door = Door(IpBlock(["192.168.1.50"], trusted_proxies=trusted))
        assert door.knock(None, x_forwarded_for="192.168.1.50").status == status


def test_rotating_the_header_from_an_untrusted_peer_does_not_evade_the_limit() -> None:
    """B6 with B5"""
    door = Door(RateLimit("5/minute", trusted_proxies=["10.0.0.0/8"]))
    statuses = [door.knock("198.51.100.9", x_forwarded_for=f"203.0.113.{n}").status for n in range(7)]
    assert sorted(statuses) == [200] * 5 + [429] * 2


def test_the_limit_counts_the_client_and_not_the_proxy() -> None:
    """B6 with B5"""
    door = Door(RateLimit("1/minute", trusted_proxies=["10.0.0.0/8"]))
    assert [door.knock("10.0.0.1", x_forwarded_for=f"203.0.113.{n}").status for n in range(3)] == [200] * 3
    assert door.knock("10.0.0.2", x_forwarded_for="203.0.113.1").status == 429


def test_a_guard_without_proxies_uses_the_address_that_an_outer_guard_has_found() -> None:
    """B6: a guard with proxies finds it by itself."""
    for first, second in (([*PROXIES], []), ([], [*PROXIES])):
        door = Door(IpBlock(["1.1.1.1"], trusted_proxies=first), RateLimit("1/minute", trusted_proxies=second))
        assert [door.knock("10.0.0.1", x_forwarded_for=f"203.0.113.{n}").status for n in range(2)] == [200] * 2


async def test_under_a_server_the_peer_is_the_sockets() -> None:
    """B6 on the wire: uvicorn itself believes the header from loopback; told not to, the guard decides."""
    from tests.support import raw_http, serve

    request = b"GET /hello HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 192.168.1.50\r\nconnection: close\r\n\r\n"
    answers = []
    for trusted in ([], ["127.0.0.1"]):
        door = Door(Chain(IpBlock(["192.168.1.50"], trusted_proxies=trusted)))
        async with serve(door.app, proxy_headers=False) as port:
            answers.append((await raw_http(port, request)).split(b" ")[1])
    assert answers == [b"200", b"403"]
