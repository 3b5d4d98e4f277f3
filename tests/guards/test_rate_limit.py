"""Row B5: so many requests and no more; in one process by memory, in several by Redis."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from limits import parse
from limits.aio.strategies import MovingWindowRateLimiter

from chio_core import ConfigurationError, GuardRequest
from chio_core.capabilities import issue_capability
from chio_core.guards import JwtAuth, RateLimit
from chio_core.guards.rate_limit import CountingStorage
from chio_core.signing import SigningKey
from chio_fastapi import add_chio
from chio_sidecar.keys import load_or_create_key
from tests.guards.tools import Door, Redis, needs_redis, redis_server
from tests.support import run

STRATEGIES = ["sliding-window-counter", "fixed-window", "exact"]


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


def capability(key: SigningKey, name: str) -> str:
    grant = {"server_id": "s", "tool_name": "t", "operations": ["invoke"]}
    token = issue_capability(key, subject="0" * 64, scope={"grants": [grant]}, ttl_seconds=3600, capability_id=name)
    return token.to_header()


@pytest.fixture
def governed(tmp_path: Path) -> Iterator[TestClient]:
    """An application with an embedded sidecar and one request a minute for each capability."""
    app = FastAPI()
    limit = RateLimit("1/minute", key="capability")
    add_chio(app, sidecar_url=f"embedded:{tmp_path}/chio.sqlite3", guards=[limit], exclude_paths=("/health",))
    for path in ("/hello", "/health"):
        app.add_api_route(path, lambda: "hello", methods=["GET", "POST"])
    with TestClient(app) as client:
        yield client


def test_a_capability_that_was_verified_has_its_own_limit(governed: TestClient, tmp_path: Path) -> None:
    """B5: the guard is inside of the decision by default."""
    key = load_or_create_key(tmp_path / "chio.sqlite3.key")
    tokens = [capability(key, name) for name in ("one", "two", "one", "two", "three")]
    replies = [governed.post("/hello", headers={"X-Chio-Capability": token}) for token in tokens]
    assert [reply.status_code for reply in replies] == [200, 200, 429, 429, 200]
    assert "X-Chio-Receipt" in replies[2].headers
    # Another token of the same capability: the id counts, not the text.
    again = json.dumps(json.loads(tokens[0]) | {"x_more": 1})
    assert governed.post("/hello", headers={"X-Chio-Capability": again}).status_code == 429


def test_tokens_that_nobody_issued_share_the_limit_of_their_address(governed: TestClient) -> None:
    """B5: a client cannot make itself a new limit with each request."""
    made_up = [capability(SigningKey.generate(), f"made-up {number}") for number in range(4)]
    statuses = [governed.get("/hello", headers={"X-Chio-Capability": token}).status_code for token in made_up]
    assert statuses == [403] * 4  # what the sidecar refuses never comes to the guard
    first, *others = [governed.get("/hello").status_code for _ in range(4)]
    assert (first, others) == (200, [429] * 3)
    # An excluded path has no decision, so a header there is a claim as well.
    headers = [{"X-Chio-Capability": token} for token in made_up]
    assert {governed.get("/health", headers=one).status_code for one in headers} == {429}


def test_a_capability_is_no_key_outside_of_the_decision() -> None:
    with pytest.raises(ConfigurationError, match=r"rate_limit .* requires 'decision', which decide"):
        Door(RateLimit("1/minute", key="capability", priority=-60)).knock()


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


class Clock:
    """Seconds since 1970; moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


async def accepted_in_any_minute(limiter: Any, clock: Clock, pauses: list[float]) -> int:
    """Return the largest number of requests that were accepted within 60 seconds."""
    times = []
    for pause in pauses:
        clock.now += pause
        if await limiter.hit(parse("5/minute"), "name"):
            times.append(clock.now)
    return max(sum(1 for other in times if start <= other < start + 60) for start in times)


@given(st.lists(st.sampled_from([0.0, 0.1, 1.0, 9.0, 55.0, 59.9, 60.0]), min_size=1, max_size=60))
def test_exact_accepts_no_sixth_in_any_minute(pauses: list[float]) -> None:
    """B5: also around the end of a window."""
    clock = Clock()
    limiter = MovingWindowRateLimiter(CountingStorage(clock))
    assert asyncio.run(accepted_in_any_minute(limiter, clock, pauses)) <= 5


async def test_exact_accepts_the_next_one_when_the_oldest_is_a_minute_old() -> None:
    clock = Clock()
    storage = CountingStorage(clock)
    limiter = MovingWindowRateLimiter(storage)
    accepted = []
    for pause in (0, 10, 10, 10, 10, 19.9, 0.1, 0, 9.9, 0.1):
        clock.now += pause
        accepted.append(await limiter.hit(parse("5/minute"), "name"))
    assert accepted == [True] * 5 + [False, True, False, False, True]
    reset, remaining = await limiter.get_window_stats(parse("5/minute"), "name")
    assert (reset - clock.now, remaining) == (10, 0)


async def test_the_times_of_a_client_that_is_gone_are_forgotten() -> None:
    clock = Clock()
    storage = CountingStorage(clock)
    for number in range(1000):
        await storage.acquire_entry(f"old {number}", 5, 60)
        await storage.acquire_entry("never", 0, 60)
    clock.now += 60
    for number in range(400):
        await storage.acquire_entry(f"new {number}", 5, 60)
    assert len(storage.accepted) == 400


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_memory_counts_without_an_event_loop(strategy: str) -> None:
    """What never waits can be stepped in a thread of a synchronous framework."""
    step = RateLimit("1/minute", strategy=strategy)(Door().app and _request())
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
import json, sys
sys.path[:0] = json.loads(sys.argv[3])
import uvicorn
from tests.guards.tools import Door
from chio_core.guards import RateLimit

options = {"storage": sys.argv[2], "timeout": 20}
doors = {name: Door(RateLimit("5/minute", strategy=name, namespace=name, **options)) for name in sys.argv[4:]}

async def app(scope, receive, send):
    name, _, rest = scope["path"].strip("/").partition("/")
    await doors[name].app({**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode()}, receive, send)

uvicorn.run(app, fd=int(sys.argv[1]), log_level="error", lifespan="off", loop="asyncio")
"""
ALL = [*STRATEGIES, "moving-window"]


@pytest.fixture(scope="module")
def workers(redis: Redis) -> Iterator[list[int]]:
    """The ports of two uvicorn processes, which share a redis-server; `/exact/hello` is limited by `exact`."""
    path = json.dumps([entry for entry in sys.path if entry])
    with ExitStack() as running:
        ports = []
        for _ in range(2):
            listener = running.enter_context(socket.create_server(("127.0.0.1", 0)))
            ports.append(listener.getsockname()[1])
            command = [sys.executable, "-c", WORKER, str(listener.fileno()), redis.url, path, *ALL]
            options = {"pass_fds": [listener.fileno()], "cwd": Path(__file__).parents[2]}
            worker = running.enter_context(subprocess.Popen(command, **options))
            running.callback(worker.terminate)
        yield ports


@needs_redis
@pytest.mark.parametrize("strategy", ALL)
def test_two_worker_processes_allow_five_in_total(workers: list[int], strategy: str) -> None:
    """B5: the sixth request is 429 with Retry-After, whichever process gets it."""
    answers = [ask(workers[number % 2], f"/{strategy}/hello") for number in range(8)]
    assert [status for status, _ in answers] == [200] * 5 + [429] * 3
    assert all(1 <= int(retry or "0") <= 60 for status, retry in answers if status == 429)


def ask(port: int, path: str) -> tuple[int, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.getheader("retry-after")


@needs_redis
async def test_requests_at_the_same_moment_do_not_slip_through(redis: Redis) -> None:
    """B5"""
    guard = RateLimit("5/minute", storage=redis.url, namespace="burst", timeout=20)
    door = Door(guard)
    replies = await asyncio.gather(*(door.call() for _ in range(40)))
    await guard.aclose()
    assert sorted([reply.status for reply in replies]) == [200] * 5 + [429] * 35


@needs_redis
def test_each_event_loop_has_separate_connections(redis: Redis) -> None:
    guard = RateLimit("3/minute", storage=redis.url, namespace="loops", timeout=20)
    door = Door(guard)

    async def once() -> int:
        status = (await door.call()).status
        await guard.aclose()
        return status

    assert [run(once()) for _ in range(4)] == [200, 200, 200, 429]


@needs_redis
def test_a_loop_that_ends_closes_its_connections(redis: Redis) -> None:
    """An open connection that is collected is a `ResourceWarning`."""
    door = Door(RateLimit("9/minute", storage=redis.url, namespace="ending", timeout=20))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        assert [run(door.call()).status for _ in range(2)] == [200, 200]
        gc.collect()
    assert [str(one.message) for one in seen] == []


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
        guard = RateLimit("5/minute", storage=server.url, timeout=20)
        before, stopped, back = outage(guard, server.stop, again=server.start)
    assert before.status == 200
    assert (stopped.status, stopped.json()["error"]) == (503, "chio_rate_limit_unavailable")
    assert (stopped.header("retry-after"), stopped.receipt) == ("1", None)
    assert back.status == 200


@needs_redis
def test_a_stopped_server_refuses_nothing_under_fail_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """B5: `fail_open`, with a line in the log."""
    with redis_server(tmp_path) as server:
        before, stopped = outage(RateLimit("5/minute", storage=server.url, fail_open=True, timeout=20), server.stop)
    assert (before.status, stopped.status, stopped.receipt) == (200, 200, "stub-000001")
    assert "PASSED UNCOUNTED, because the rate limit storage failed" in caplog.text


@needs_redis
def test_a_server_that_hangs_refuses_in_time(tmp_path: Path) -> None:
    """B5: a silent storage has failed after the stated time: connecting, sending and repeating share it."""
    with redis_server(tmp_path) as server:
        guard = RateLimit("50/minute", storage=server.url, timeout=1.0)
        taken: list[float] = []

        async def main() -> list[int]:
            door, statuses = Door(guard), []
            for happening in (lambda: None, server.hang, lambda: None, server.go_on, lambda: None):
                happening()
                before = time.monotonic()
                statuses.append((await door.call()).status)
                taken.append(time.monotonic() - before)
            await guard.aclose()
            return statuses

        assert run(main()) == [200, 503, 503, 200, 200]
    assert all(1.0 <= seconds < 1.8 for seconds in taken[1:3]), taken


async def test_a_redis_that_takes_connections_and_says_nothing_refuses_in_time() -> None:
    """B5"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        guard = RateLimit("5/minute", storage=f"redis://127.0.0.1:{listener.getsockname()[1]}/0", timeout=1.0)
        before = time.monotonic()
        assert (await Door(guard).call()).status == 503
        assert 1.0 <= time.monotonic() - before < 1.8
        await guard.aclose()


async def test_a_password_in_the_address_is_never_printed(caplog: pytest.LogCaptureFixture) -> None:
    guard = RateLimit("5/minute", storage="redis://user:canary-7f3a@127.0.0.1:1/0", timeout=0.2)
    status = (await Door(guard).call()).status
    await guard.aclose()
    assert status == 503
    assert "canary-7f3a" not in caplog.text + repr(guard)
