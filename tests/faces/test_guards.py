"""The same guards on every face: one set of guards, one behaviour. A guard is always the same `async def` function."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest

from chio_core import AnyResponse, Chain, ConfigurationError, Denial, Downstream, GuardRequest, Next, Request, Response
from chio_core.guards import IpBlock, JwtAuth, RateLimit, RequestId, SecurityHeaders, Stopwatch
from chio_core.guards.response_hooks import response_hooks
from chio_core.testing import behaviours
from tests.faces.contract import STREAM
from tests.faces.faces import FACES, Face, Observation
from tests.guards.tools import needs_redis, redis_server

each_face = pytest.mark.parametrize("face", FACES, ids=str)
each_threaded_face = pytest.mark.parametrize("face", [face for face in FACES if face.threaded], ids=str)


async def around(request: GuardRequest, next: Next) -> AnyResponse:
    return (await next(request)).with_status(418).with_header("X-Own", "guard").with_header("Set-Cookie", "c=3")


async def waits(request: GuardRequest) -> None:
    await asyncio.sleep(0.01)
    await asyncio.get_running_loop().run_in_executor(None, int)
    request.state.found = "waited"


async def notes(request: GuardRequest) -> None:
    request.state.found = "noted"


@each_face
@pytest.mark.parametrize(("guard", "found"), [(waits, "waited"), (notes, "noted")], ids=["waits", "looks"])
def test_a_guard_runs_and_the_handler_sees_what_it_left(face: Face, guard: Any, found: str) -> None:
    with face.governed(guards=[guard]) as governed:
        answer = governed.get("/hello")
    (seen,) = answer.seen
    assert seen.state.found == found
    assert answer.receipt


@each_threaded_face
@pytest.mark.parametrize("guards", [(notes,), (waits,), (around,)], ids=["looks", "waits", "next"])
def test_the_handler_stays_in_the_servers_thread(face: Face, guards: Any) -> None:
    """Database connections belong to it."""
    with face.governed(guards=guards) as governed:
        assert [seen.thread for seen in governed.get("/hello").seen] == [threading.get_ident()]


@each_face
def test_a_refusal_before_the_decision_calls_no_sidecar(face: Face) -> None:
    decisions: list[Any] = []
    guards = [SecurityHeaders(), IpBlock(["10.0.0.9"])]
    with face.governed(guards=guards, on_decision=decisions.append) as governed:
        answer = governed.get("/hello")
    assert (answer.status, answer.receipt, answer.headers["x-frame-options"]) == (403, None, "DENY")
    assert answer.problem["message"] == "Banned"
    assert (answer.seen, governed.asked) == ([], [])
    (decision,) = decisions
    assert (decision.verdict, decision.receipt) == ("refused", None)
    assert [(one.guard_name, one.verdict) for one in decision.evidence] == [
        ("local/security_headers", True),
        ("local/ip_block", False),
    ]


@each_face
def test_a_refusal_after_the_decision_names_the_receipt_and_has_both_kinds_of_evidence(face: Face) -> None:
    async def outer(request: GuardRequest, next: Next) -> AnyResponse:
        return await next(request)

    async def closed(request: GuardRequest) -> Response:
        return Response("closed", headers=[("content-type", "text/plain")]).with_status(451)

    decisions: list[Any] = []
    receipts: list[Any] = []
    guards = Chain().add(outer, priority=-10).add(closed)
    with face.governed(guards=guards, on_decision=decisions.append, on_receipt=receipts.append) as governed:
        answer = governed.get("/hello")
    assert (answer.status, answer.body, answer.headers["content-type"]) == (451, b"closed", "text/plain")
    allowed, refused = decisions
    assert (allowed.verdict, refused.verdict, answer.seen) == ("allow", "refused", [])
    assert [receipt.id for receipt in receipts] == [answer.receipt]
    assert refused.receipt is allowed.receipt
    assert [one.guard_name for one in refused.evidence] == ["local/closed", "local/outer", "DefaultPolicyGuard"]


@each_face
def test_a_denial_is_rendered_in_the_envelope_of_the_face(face: Face) -> None:
    async def no(request: GuardRequest) -> Denial:
        return Denial(message="not today")

    with face.governed(guards=[no]) as governed:
        assert governed.get("/hello").problem["message"] == "not today"


@each_face
@pytest.mark.parametrize("path", ["/cookies", "/stream"])
def test_status_and_headers_are_changed_after_next(face: Face, path: str) -> None:
    """Cookies keep their attributes, single headers are replaced, streams stay streams."""
    with face.governed(guards=[around]) as governed:
        answer = governed.get(path)
    assert (answer.status, answer.all("x-own")) == (418, ["guard"])
    assert answer.receipt
    if path == "/stream":
        assert answer.body == "".join(STREAM).encode()
    else:
        cookies = sorted(line.strip() for line in answer.all("set-cookie"))
        assert [line.partition(";")[0] for line in cookies] == ["a=1", "b=1", "c=3"]
        assert "httponly" in cookies[0].lower()


@each_face
def test_security_headers_request_id_and_stopwatch_are_on_every_response(face: Face) -> None:
    measured: list[Any] = []
    watch = Stopwatch(on_time=lambda *what: measured.append(what), server_timing=True)
    with face.governed(guards=[SecurityHeaders(), RequestId(), watch]) as governed:
        for path in ("/hello", "/stream", "/nowhere"):
            headers = governed.get(path).headers
            assert headers["x-frame-options"] == "DENY"
            assert headers["x-request-id"]
            assert headers["server-timing"].startswith("app;dur=")
    assert [(path, status) for _, path, status, _ in measured] == [("/hello", 200), ("/stream", 200), ("/nowhere", 404)]


@each_face
def test_the_rate_limit_counts(face: Face) -> None:
    with face.governed(guards=[RateLimit("2/day")]) as governed:
        answers = [governed.get("/hello") for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 86400


@each_face
def test_a_guard_inside_of_the_decision_reads_it_from_the_state(face: Face) -> None:
    """`RateLimit(key="capability")` counts by it; without a capability by address."""

    async def reads(request: GuardRequest) -> None:
        request.state.found = request.state.chio_decision.receipt.id

    with face.governed(guards=[reads, RateLimit("1/day", key="capability")]) as governed:
        answers = [governed.get("/hello") for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 429]
    assert [seen.state.found for seen in answers[0].seen] == [answers[0].receipt]


@needs_redis
@each_threaded_face
def test_the_rate_limit_counts_in_redis(face: Face, tmp_path: Path) -> None:
    """Connections live in the guards' own loop, from request to request."""
    with redis_server(tmp_path) as server, face.governed(guards=[RateLimit("2/day", storage=server.url)]) as governed:
        assert [governed.get("/hello").status for _ in range(3)] == [200, 200, 429]


@each_face
def test_a_json_web_token_makes_the_caller_verified(face: Face) -> None:
    secret = "a secret of sixty-four characters" * 2
    text = jwt.encode({"sub": "alice", "exp": 4_000_000_000}, secret)
    with face.governed(guards=[JwtAuth(key=secret, algorithms=["HS256"])]) as governed:
        (seen,) = governed.get("/hello", {"authorization": f"Bearer {text}"}).seen
        assert seen.state.chio_claims["sub"] == "alice"
        assert governed.asked[0]["caller"]["verified"] is True
        assert governed.get("/hello").status == 401


async def succeed(request: GuardRequest) -> Response:
    return Response("free of charge")


async def succeed_around(request: GuardRequest, next: Next) -> AnyResponse:
    return Response("free of charge")


async def fails(request: GuardRequest) -> None:
    raise ZeroDivisionError


async def whitewash(request: GuardRequest, next: Next) -> AnyResponse:
    await next(request)
    return Response("never mind")


async def whitewash_the_status(request: GuardRequest, next: Next) -> AnyResponse:
    return (await next(request)).with_status(200)


@each_face
@pytest.mark.parametrize("guard", [succeed, succeed_around, fails, whitewash, whitewash_the_status])
def test_the_rules_that_no_guard_can_break(face: Face, guard: Any, caplog: pytest.LogCaptureFixture) -> None:
    """No success before the decision, no failure that is skipped, no refusal turned into a success."""
    with face.governed(behaviours.DENY, guards=[Chain().add(guard, priority=-10)]) as governed:
        answer = governed.get("/hello")
    assert (answer.status, answer.code, answer.seen) == (500, face.code("chio_guard_failed"), [])
    assert guard.__name__ in answer.problem["message"]
    assert guard.__name__ in caplog.text
    assert ("ZeroDivisionError" in caplog.text) is (guard is fails)
    assert b"ZeroDivisionError" not in answer.body
    if guard in (succeed, succeed_around, fails):
        assert (answer.receipt, governed.asked) == (None, [])


@each_face
def test_a_timeout_around_next_answers(face: Face) -> None:
    """A view in a thread cannot be cancelled, so its end is waited for; its answer is not used."""

    async def hurry(request: GuardRequest, next: Next) -> AnyResponse:
        try:
            async with asyncio.timeout(0):
                return await next(request)
        except TimeoutError:
            return Response("too slow", 504)

    with face.governed(guards=[Chain().add(hurry, priority=5)]) as governed:
        assert governed.get("/stream").status == 504


@each_face
def test_callbacks_of_the_end_run_after_the_last_piece(face: Face) -> None:
    ends: list[str] = []

    async def until_the_end(request: GuardRequest, next: Next) -> AnyResponse:
        answer = await next(request)
        if isinstance(answer, Downstream):
            answer.when_finished(lambda: ends.append("finished"))
        response_hooks(request).finished.append(lambda status: ends.append(f"answered {status}"))
        return answer

    with face.governed(guards=[until_the_end]) as governed:
        assert governed.get("/stream").body == "".join(STREAM).encode()
    assert sorted(ends) == ["answered 200", "finished"]


@each_threaded_face
def test_many_threads_share_one_chain(face: Face) -> None:
    answers: list[Observation] = []
    with face.governed(guards=[waits, around]) as governed:
        threads = [threading.Thread(target=lambda: answers.append(governed.get("/hello"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [answer.status for answer in answers] == [418] * 8
    assert len({answer.receipt for answer in answers}) == 8


async def fails_after_next(request: GuardRequest, next: Next) -> AnyResponse:
    await next(request)
    raise ZeroDivisionError


@each_face
@pytest.mark.parametrize(("guard", "ran"), [(fails, []), (fails_after_next, ["hello"])], ids=["before", "after"])
@pytest.mark.parametrize("excluded", [False, True], ids=["governed", "excluded"])
def test_a_guard_that_fails_after_the_decision_is_a_500_with_the_receipt_and_what_guards_have_queued(
    face: Face, guard: Any, ran: list[str], excluded: bool
) -> None:
    ends: list[int | None] = []
    decisions: list[Any] = []

    async def outer(request: GuardRequest) -> None:
        hooks = response_hooks(request)
        hooks.add_header("X-Own", "guard")
        hooks.finished.append(ends.append)

    chain = Chain().add(outer, priority=-10).add(guard, priority=10)
    options = {"exclude_paths": ["/hello"]} if excluded else {}
    with face.governed(guards=chain, on_decision=decisions.append, **options) as governed:
        answer = governed.get("/hello")
    assert (answer.status, answer.all("x-own"), ends) == (500, ["guard"], [500])
    assert [seen.handler for seen in answer.seen] == ran
    assert [decision.verdict for decision in decisions] == ([] if excluded else ["allow"])
    assert answer.receipt == (None if excluded else decisions[0].receipt.id)


@each_face
@pytest.mark.parametrize("guards", [(), (notes,)], ids=["alone", "guarded"])
def test_an_exception_of_the_applications_part_of_the_decision_refuses(face: Face, guards: Any) -> None:
    def extractor(view: Any) -> Any:
        raise ZeroDivisionError

    decisions: list[Any] = []
    with face.governed(guards=guards, extractor=extractor, on_decision=decisions.append) as governed:
        answer = governed.get("/hello")
    assert (answer.status, answer.code, answer.seen) == (500, face.code("chio_guard_failed"), [])
    assert [(decision.verdict, decision.denial.status) for decision in decisions] == [("refused", 500)]


def in_time(call: Callable[[], Any]) -> Any:
    """Return what a call in another thread returns or raises; fail if that takes for ever."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as exc:  # noqa: BLE001 - the test looks at it
            found.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "the request hangs"
    return found[0]


@each_threaded_face
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_an_exit_in_the_handler_ends_its_thread_and_no_other_request(face: Face, error: type[BaseException]) -> None:
    """argparse, click and `sys.exit()` raise one."""
    ended = threading.Event()

    async def until_the_end(request: GuardRequest, next: Next) -> AnyResponse:
        try:
            return await next(request)
        finally:
            ended.set()

    def leave(environ: dict[str, Any]) -> None:
        if environ["PATH_INFO"] == "/anything":
            raise error

    with face.governed(guards=[until_the_end], inner=leave) as governed:
        for _ in range(2):
            assert in_time(lambda: governed.get("/hello")).status == 200
            ended.clear()
            assert isinstance(in_time(lambda: governed.get("/anything")), error)
            assert ended.wait(20)  # the guard has cleaned up


@each_threaded_face
@pytest.mark.parametrize("where", ["guard", "task", "loop"])
def test_an_exit_in_a_guard_ends_its_request_and_no_other(face: Face, where: str) -> None:
    async def leave(request: GuardRequest) -> None:
        await asyncio.sleep(0)
        if request.url_path != "/anything":
            return
        if where == "loop":
            asyncio.get_running_loop().stop()
        elif where == "guard":
            raise SystemExit(2)
        else:
            await asyncio.wait_for(leave_now(), 20)

    async def leave_now() -> None:
        await asyncio.sleep(0)
        raise SystemExit(2)

    with face.governed(guards=[leave]) as governed:
        for _ in range(2):
            assert in_time(lambda: governed.get("/hello")).status == 200
            found = in_time(lambda: governed.get("/anything"))
            assert found.status == 200 if where == "loop" else isinstance(found, SystemExit)


class Changed:
    """Another request object, as code wraps one to change its path."""

    url_path = "/changed"

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def swaps(request: Request) -> None:
    request.set_header("authorization", "Bearer somebody-else")


async def swaps_around(request: Request, next: Next) -> AnyResponse:
    request.set_header("content-type", "text/plain")
    return await next(request)


@each_face
@pytest.mark.parametrize("guard", [swaps, swaps_around])
def test_a_request_that_a_guard_changes_after_the_decision_does_not_run(face: Face, guard: Any) -> None:
    decisions: list[Any] = []
    with face.governed(guards=[guard], on_decision=decisions.append) as governed:
        found = governed.get("/hello", {"authorization": "Bearer me"})
    assert (found.status, found.code, found.seen) == (500, face.code("chio_configuration"), [])
    assert found.receipt == decisions[0].receipt.id
    assert [decision.verdict for decision in decisions] == ["allow", "refused"]
    assert len(governed.asked) == 1


@each_face
@pytest.mark.parametrize("guard", [swaps, swaps_around])
def test_a_change_before_the_decision_is_evaluated(face: Face, guard: Any) -> None:
    with face.governed(guards=[Chain().add(guard, priority=-5)]) as governed:
        found = governed.get("/hello", {"authorization": "Bearer me"})
    assert (found.status, len(governed.asked)) == (200, 1)


@each_face
@pytest.mark.parametrize("priority", [-5, 5])
def test_next_takes_the_same_request_only(face: Face, priority: int) -> None:
    """B6: the handler would see the original, whatever inner guards have checked."""
    seen: list[str] = []
    errors: list[str] = []

    async def changing(request: GuardRequest, next: Next) -> AnyResponse:
        try:
            return await next(Changed(request))
        except ConfigurationError as exc:
            errors.append(exc.message)
            return Response(b"", 500)

    async def inner(request: GuardRequest) -> None:
        seen.append(request.url_path)

    changing.priority = priority  # type: ignore[attr-defined]
    with face.governed(guards=[changing, inner]) as governed:
        found = governed.get("/hello")
        assert (found.status, found.seen, seen) == (500, [], [])
        assert len(governed.asked) == (1 if priority > 0 else 0)
    (error,) = errors
    assert error.startswith("guard changing gave next() another request object")
    assert "request.set_header" in error
