"""Several sidecars behind one client: which one is called, and when another one gets the same evaluation."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.client.failover import LONGEST, Failover, Outcome
from chio_core.errors import ConfigurationError, EvaluationFailed, Overloaded, SidecarTimeout, SidecarUnreachable
from chio_core.evaluation.exchange import EvaluateCall, RawResponse
from chio_core.evaluation.outcomes import Decision
from chio_core.settings import ChioSettings
from chio_core.signing import SigningKey
from chio_core.testing import ScriptedSidecar, behaviours
from tests.carrier.test_clients import question
from tests.hostile import BEHAVIOURS
from tests.support import run

FIRST, SECOND = SigningKey(b"\x01" * 32), SigningKey(b"\x02" * 32)
GOOD = RawResponse(200, "application/json", b"{}")
BROKEN = EvaluationFailed("broke")
BUSY = RawResponse(503, "application/json", b'{"error": "chio_overloaded"}')
FULL = RawResponse(503, "application/json", b'{"error": "chio_receipt_persistence_failed"}')

UNKNOWN = RawResponse(429, "application/json", b'{"error": "chio_unknown_path_limit"}')

Evaluate = Callable[[list[EvaluateCall]], list[Decision]]


def evaluated_async(settings: ChioSettings, calls: list[EvaluateCall]) -> list[Decision]:
    async def work() -> list[Decision]:
        async with ChioClient(settings) as client:
            return [await client.evaluate(call) for call in calls]

    return run(work())


def evaluated_sync(settings: ChioSettings, calls: list[EvaluateCall]) -> list[Decision]:
    client = SyncChioClient(settings)
    try:
        return [client.evaluate(call) for call in calls]
    finally:
        client.close()


@contextmanager
def two(*scripts: Any, **options: Any) -> Iterator[tuple[ScriptedSidecar, ScriptedSidecar, ChioSettings]]:
    """Two sidecars with keys of their own; a script of None: nothing listens there."""
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as closed:
        first, second = (
            ScriptedSidecar(script or behaviours.ALLOW, key=key)
            for script, key in zip(scripts, (FIRST, SECOND), strict=True)
        )
        urls = []
        for sidecar, script in zip((first, second), scripts, strict=True):
            if script is None:
                urls.append(f"http://127.0.0.1:{closed.getsockname()[1]}/{len(urls)}")
            else:
                stack.enter_context(sidecar.serving_in_thread())
                urls.append(sidecar.url)
        closed.close()
        keys = [first.public_key, second.public_key]
        yield first, second, ChioSettings(sidecar_url=",".join(urls), trusted_kernel_keys=keys, **options)


both_clients = pytest.mark.parametrize("evaluated", [evaluated_async, evaluated_sync])


@both_clients
def test_the_first_that_works_gets_all_evaluations(evaluated: Any) -> None:
    with two(behaviours.ALLOW, behaviours.ALLOW) as (first, second, settings):
        assert all(decision.allowed for decision in evaluated(settings, [question(number) for number in range(4)]))
    assert (len(first.asked), len(second.asked)) == (4, 0)


@both_clients
def test_a_sidecar_that_is_gone_costs_no_request(evaluated: Any) -> None:
    with two(None, behaviours.ALLOW) as (_, second, settings):
        assert all(decision.allowed for decision in evaluated(settings, [question(number) for number in range(4)]))
    assert len(second.asked) == 4


@both_clients
def test_sidecars_with_one_store_share_the_work(evaluated: Any) -> None:
    with two(behaviours.ALLOW, behaviours.ALLOW, sidecars_share_store=True) as (first, second, settings):
        assert all(decision.allowed for decision in evaluated(settings, [question(number) for number in range(8)]))
    assert (len(first.asked), len(second.asked)) == (4, 4)


@both_clients
def test_an_evaluation_that_an_overloaded_sidecar_did_not_begin_goes_to_the_next(evaluated: Any) -> None:
    busy = behaviours.error(503, {"error": "chio_overloaded", "message": "too many"})
    with two(busy, behaviours.ALLOW) as (first, second, settings):
        (decision,) = evaluated(settings, [question()])
    assert decision.allowed
    assert [one.document["request_id"] for one in first.asked] == [one.document["request_id"] for one in second.asked]


@both_clients
@pytest.mark.parametrize("name", ["reset_at_0", "hang", "status_500"])
def test_one_that_may_have_begun_is_repeated_with_a_common_store_only(evaluated: Any, name: str) -> None:
    fault = BEHAVIOURS.get(name) or behaviours.BEHAVIOURS.get(name) or behaviours.status(500)
    for share, allowed in ((False, False), (True, True)):
        with two(fault, behaviours.ALLOW, sidecars_share_store=share, timeout=0.6) as (_, second, settings):
            (decision,) = evaluated(settings, [question()])
            assert (decision.allowed, len(second.asked)) == (allowed, int(allowed))


@both_clients
def test_no_sidecar_left_is_an_error_of_the_last_one(evaluated: Any) -> None:
    with two(None, None) as (_, _, settings):
        (decision,) = evaluated(settings, [question()])
    assert not decision.allowed
    assert decision.denial is not None
    assert decision.denial.code == "chio_sidecar_unreachable"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def tried(failover: Failover, *outcomes: Outcome) -> list[int]:
    """Return which sidecars one evaluation tries, if the attempts have these outcomes."""
    attempts = failover.attempts(6.0)
    found, given = [next(attempts)[0]], iter(outcomes)
    while True:
        try:
            found.append(attempts.send(next(given))[0])
        except StopIteration:
            assert list(given) == []
            return found


def test_a_sidecar_that_failed_is_tried_last_and_then_by_one_evaluation() -> None:
    clock = Clock()
    failover = Failover(3, share_store=False, clock=clock)
    assert tried(failover, SidecarUnreachable("no"), GOOD) == [0, 1]
    assert tried(failover, GOOD) == [1]
    clock.now += 1.0
    under_way = failover.attempts(6.0)
    assert next(under_way)[0] == 0  # its pause is over
    assert tried(failover, GOOD) == [1]  # the others do not wait for what that one finds
    with pytest.raises(StopIteration):
        under_way.send(GOOD)
    assert tried(failover, GOOD) == [0]


def test_a_limit_of_unknown_paths_is_no_fault_of_a_sidecar() -> None:
    failover = Failover(2, share_store=False, clock=Clock())
    assert [tried(failover, outcome) for outcome in (UNKNOWN, GOOD)] == [[0], [0]]


def test_pauses_grow_and_are_bounded() -> None:
    clock = Clock()
    failover = Failover(2, share_store=False, clock=clock)
    for pause in (1, 2, 4, 8, 16, LONGEST, LONGEST):
        assert tried(failover, SidecarUnreachable("no"), GOOD) == [0, 1]
        clock.now += pause - 0.5
        assert tried(failover, GOOD) == [1]
        clock.now += 0.5


@pytest.mark.parametrize(
    ("outcome", "share", "repeated"),
    [
        (SidecarUnreachable("no"), False, True),
        (BUSY, False, True),
        (FULL, False, False),
        (BROKEN, False, False),
        (SidecarTimeout("late"), False, False),
        (Overloaded("this process"), False, False),
        (Overloaded("this process"), True, False),
        (FULL, True, True),
        (BROKEN, True, True),
        (SidecarTimeout("late"), True, True),
        (RawResponse(409, "application/json", b"{}"), True, False),
        (UNKNOWN, False, False),  # the next one is spared a scanner too, and the first stays the first
        (UNKNOWN, True, False),
        (RawResponse(403, "application/json", b"chio_overloaded"), True, False),
    ],
)
def test_an_evaluation_is_repeated_only_if_it_was_not_begun_or_is_idempotent(
    outcome: Outcome, share: bool, repeated: bool
) -> None:
    failover = Failover(2, share_store=share, clock=Clock())
    assert tried(failover, *((outcome, GOOD) if repeated else (outcome,))) == ([0, 1] if repeated else [0])


def test_all_attempts_together_have_the_time_of_one() -> None:
    clock = Clock()
    attempts = Failover(3, share_store=True, clock=clock).attempts(6.0)
    assert next(attempts)[1] == 2.0
    clock.now += 2.0
    assert attempts.send(SidecarTimeout("late"))[1] == 2.0
    clock.now += 1.0
    assert attempts.send(BROKEN)[1] == 3.0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sidecar_url": "http://a,http://b"}, "trusted_kernel_keys"),
        ({"sidecar_url": "http://a,http://a/", "trusted_kernel_keys": [FIRST.public_hex]}, "twice"),
        ({"sidecar_url": "http://a,embedded:b", "trusted_kernel_keys": [FIRST.public_hex]}, "embedded"),
        ({"sidecar_url": "http://a,https://u:p@b", "trusted_kernel_keys": [FIRST.public_hex]}, "without user"),
    ],
)
def test_a_list_that_cannot_work_is_refused_at_start(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        ChioSettings(**options)


def test_a_comma_in_a_path_separates_nothing() -> None:
    assert ChioSettings(sidecar_url="unix:/run/a,b.sock").sidecar_urls == ("unix:/run/a,b.sock",)
    keys = [FIRST.public_hex]
    found = ChioSettings(sidecar_url="http://a:1/, unix:/run/a,b.sock ,https://c", trusted_kernel_keys=keys)
    assert found.sidecar_urls == ("http://a:1", "unix:/run/a,b.sock", "https://c")
