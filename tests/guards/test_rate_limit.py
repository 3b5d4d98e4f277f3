"""Row B5: so many requests and no more; in one process by memory, in several by Redis."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chio_core import ConfigurationError, GuardRequest
from chio_core.guards import JwtAuth, RateLimit
from chio_core.guards.rate_limit import CountingStorage
from tests.guards.tools import Door, Redis, needs_redis, redis_server
from tests.support import run

STRATEGIES = ["sliding-window-counter", "fixed-window"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_five_a_minute_are_five(strategy: str) -> None:
    """B5: memory, one process; the sixth is 429 with Retry-After, without an evaluation."""
    door = Door(RateLimit("5/minute", strategy=strategy))
    replies = [door.knock() for _ in range(6)]
    assert [reply.status for reply in replies[:5]] == [200] * 5
    sixth = replies[5]
    assert (sixth.status, sixth.receipt, sixth.json()["error"]) == (429, None, "chio_rate_limited")
    assert 1 <= int(sixth.header("retry-after") or "") <= 60
    assert (door.calls, len(door.judge.questions)) == (5, 5)


def test_every_response_states_how_many_requests_are_left() -> None:
    """B5: the RateLimit fields, on refusals too."""
    door = Door(RateLimit("2/minute"))
    lines = [door.knock() for _ in range(3)]
    assert {reply.header("ratelimit-policy") for reply in lines} == {'"default";q=2;w=60'}
    assert [(reply.header("ratelimit") or "").split(";")[1] for reply in lines] == ["r=1", "r=0", "r=0"]
    assert all(0 <= int((reply.header("ratelimit") or "").split("t=")[1]) <= 60 for reply in lines)


def test_clients_are_counted_apart_and_an_ipv6_client_by_its_network() -> None:
    """B5: a customer usually has 2^64 addresses, and one limit."""
    door = Door(RateLimit("1/minute"))
    peers = ["192.0.2.1", "192.0.2.2", "2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1", None]
    assert [door.knock(peer).status for peer in peers] == [200, 200, 200, 429, 200, 200]
    assert door.knock("::ffff:192.0.2.1").status == 429


def test_a_capability_has_its_own_limit() -> None:
    door = Door(RateLimit("1/minute", key="capability"))
    tokens = ["a", "b", "a"]
    assert [door.knock(x_chio_capability=token).status for token in tokens] == [200, 200, 429]


def test_a_verified_caller_has_its_own_limit_wherever_it_comes_from() -> None:
    """B5: it is inside of the token check by default, and an error outside of it."""
    import jwt

    key, algorithms = "s" * 32, ["HS256"]
    auth = JwtAuth(key=key, algorithms=algorithms, required=False)
    door = Door(RateLimit("1/minute", key="caller"), auth)

    def knock(subject: str, peer: str) -> int:
        token = jwt.encode({"sub": subject, "exp": 4_000_000_000}, key)
        return door.knock(peer, authorization=f"Bearer {token}").status

    assert [knock("alice", "192.0.2.1"), knock("bob", "192.0.2.1"), knock("alice", "192.0.2.2")] == [200, 200, 429]
    assert door.knock("192.0.2.3").status == 200  # no verified caller: by address
    with pytest.raises(ConfigurationError, match=r"rate_limit .* requires 'identity', which jwt_auth"):
        Door(RateLimit("1/minute", key="caller", priority=-60), auth).knock()


def test_a_function_as_key() -> None:
    def tenant(request: GuardRequest) -> str | None:
        return request.headers.get("x-tenant")

    door = Door(RateLimit("1/minute", key=tenant))
    assert [door.knock(x_tenant=name).status for name in ("a", "b", "a")] == [200, 200, 429]
    assert [door.knock().status for _ in range(2)] == [200, 429]


def test_limits_of_different_namespaces_count_apart() -> None:
    door = Door(RateLimit("1/minute", namespace="a"), RateLimit("2/minute", namespace="b"))
    assert [door.knock().status for _ in range(2)] == [200, 429]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": "five"}, "'five' is no rate limit"),
        ({"limit": "5/minute", "key": "user"}, "key 'user' is none of ip, caller, capability"),
        ({"limit": "5/minute", "strategy": "token"}, "strategy 'token' is none of"),
        ({"limit": "5/minute", "strategy": "moving-window"}, "moving-window remembers every request"),
        ({"limit": "5/minute", "storage": "nothing://user:secret@host"}, "storage nothing://… cannot be used"),
    ],
)
def test_impossible_options_are_errors_at_the_start(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        RateLimit(**options)
    assert "secret" not in str(caught.value)


async def test_memory_removes_expired_counters_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hit must not walk through all the clients of the last minute."""
    storage = CountingStorage()
    for number in range(1000):
        await storage.incr(f"old {number}", expiry=-1)
    for number in range(400):
        await storage.incr(f"new {number}", expiry=1000)
    assert len(storage.storage) == 400
    assert [await storage.get("new 0"), await storage.get("old 0")] == [1, 0]
    assert await storage.decr("new 0") == 0
    assert await storage.incr("new 1", expiry=1000) == 2


def test_memory_counts_without_an_event_loop() -> None:
    """What never waits can be stepped in a thread of a synchronous framework."""
    step = RateLimit("1/minute")(Door().app and _request())
    with pytest.raises(StopIteration):
        step.send(None)


def _request() -> Any:
    from chio_asgi import ASGIGuardRequest
    from tests.support import http_scope

    return ASGIGuardRequest(http_scope())


# Redis


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


WORKER = """
import asyncio, json, socket, sys
sys.path[:0] = json.loads(sys.argv[3])
import uvicorn
from tests.guards.tools import Door
from chio_core.guards import RateLimit

listener = socket.socket(fileno=int(sys.argv[1]))
door = Door(RateLimit("5/minute", storage=sys.argv[2], strategy=sys.argv[4], namespace=sys.argv[4]))
uvicorn.run(door.app, fd=listener.fileno(), log_level="error", lifespan="on", loop="asyncio")
"""


@needs_redis
@pytest.mark.parametrize("strategy", [*STRATEGIES, "moving-window"])
def test_two_worker_processes_allow_five_in_total(redis: Redis, strategy: str) -> None:
    """B5: two uvicorn processes, one redis-server; the sixth request is 429 with Retry-After."""
    import socket

    workers, listeners = [], []
    path = json.dumps([entry for entry in sys.path if entry])
    try:
        for _ in range(2):
            listener = socket.create_server(("127.0.0.1", 0))
            listeners.append(listener)
            command = [sys.executable, "-c", WORKER, str(listener.fileno()), redis.url, path, strategy]
            workers.append(subprocess.Popen(command, pass_fds=[listener.fileno()], cwd=Path(__file__).parents[2]))
        answers = [ask(listeners[number % 2].getsockname()[1]) for number in range(8)]
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait(20)
        for listener in listeners:
            listener.close()
    assert [status for status, _ in answers] == [200] * 5 + [429] * 3
    assert all(1 <= int(retry or "0") <= 60 for status, retry in answers if status == 429)


def ask(port: int) -> tuple[int, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/hello")
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.getheader("retry-after")


@needs_redis
async def test_requests_at_the_same_moment_do_not_slip_through(redis: Redis) -> None:
    """B5"""
    guard = RateLimit("5/minute", storage=redis.url, namespace="burst")
    door = Door(guard)
    replies = await asyncio.gather(*(door.call() for _ in range(40)))
    await guard.aclose()
    assert sorted([reply.status for reply in replies]) == [200] * 5 + [429] * 35


@needs_redis
def test_each_event_loop_has_separate_connections(redis: Redis) -> None:
    guard = RateLimit("3/minute", storage=redis.url, namespace="loops")
    door = Door(guard)

    async def once() -> int:
        status = (await door.call()).status
        await guard.aclose()
        return status

    assert [run(once()) for _ in range(4)] == [200, 200, 200, 429]


def outage(guard: RateLimit, between: Any, *, again: Any = None) -> list[Any]:
    """Return the responses before and after something happened to the server (and once more after another)."""
    door = Door(guard)

    async def main() -> list[Any]:
        replies = [await door.call()]
        for happening in filter(None, (between, again)):
            await asyncio.to_thread(happening)
            replies.append(await door.call())
        await guard.aclose()
        return replies

    return run(main())


@needs_redis
def test_a_stopped_server_refuses_with_503_and_a_new_one_is_found(tmp_path: Path) -> None:
    """B5: fail closed by default, open again without a restart of the application."""
    with redis_server(tmp_path) as server:
        guard = RateLimit("5/minute", storage=server.url)
        before, stopped, back = outage(guard, server.stop, again=server.start)
    assert before.status == 200
    assert (stopped.status, stopped.json()["error"]) == (503, "chio_rate_limit_unavailable")
    assert (stopped.header("retry-after"), stopped.receipt) == ("1", None)
    assert back.status == 200


@needs_redis
def test_a_stopped_server_refuses_nothing_under_fail_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """B5: `fail_open`, with a line in the log."""
    with redis_server(tmp_path) as server:
        before, stopped = outage(RateLimit("5/minute", storage=server.url, fail_open=True), server.stop)
    assert (before.status, stopped.status, stopped.receipt) == (200, 200, "stub-000001")
    assert "PASSED UNCOUNTED, because the rate limit storage failed" in caplog.text


@needs_redis
def test_a_server_that_hangs_refuses_in_time(tmp_path: Path) -> None:
    """B5: a silent storage has failed."""
    with redis_server(tmp_path) as server:
        before, hanging = outage(RateLimit("5/minute", storage=server.url, timeout=0.2), server.hang)
    assert (before.status, hanging.status) == (200, 503)


async def test_a_password_in_the_address_is_never_printed(caplog: pytest.LogCaptureFixture) -> None:
    guard = RateLimit("5/minute", storage="redis://user:canary-7f3a@127.0.0.1:1/0", timeout=0.2)
    status = (await Door(guard).call()).status
    await guard.aclose()
    assert status == 503
    assert "canary-7f3a" not in caplog.text + repr(guard)
