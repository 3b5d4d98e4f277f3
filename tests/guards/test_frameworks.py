"""The same chain in Flask and in Django, under WSGI and ASGI: one set of guards, one behaviour (row G16, B and C).

Each test runs for all three; a guard is always the same `async def` function.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from django.core.checks import run_checks
from django.test import AsyncClient, override_settings
from fastapi import FastAPI
from flask import Flask, g, jsonify
from flask import Response as FlaskResponse
from flask import request as flask_request

from chio_asgi import ChioASGIMiddleware
from chio_core import AnyResponse, Chain, ConfigurationError, Denial, Downstream, GuardRequest, Next, Response
from chio_core.guards import IpBlock, JwtAuth, RateLimit, RequestId, SecurityHeaders, Stopwatch
from chio_core.guards.chain import guard_list
from chio_core.guards.response_hooks import response_hooks
from chio_core.testing import ScriptedSidecar, behaviours
from chio_core.threads.guards import ChainRunner
from chio_fastapi import add_chio
from chio_flask import Chio
from tests.chain.tools import Request
from tests.django import project
from tests.guards import django_urls
from tests.guards.tools import needs_redis, redis_server
from tests.support import Reply, settings


class Answer(Reply):
    """A response of any framework."""

    def __init__(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        lines = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        start = {"type": "http.response.start", "status": status, "headers": lines}
        super().__init__([start, {"type": "http.response.body", "body": body}])


class World:
    """A governed application of one framework, and what happened in it."""

    def __init__(self, sidecar: ScriptedSidecar) -> None:
        self.sidecar = sidecar
        self.decisions: list[Any] = []
        self.visits = django_urls.VISITS
        self.visits.clear()

    def ask(self, path: str = "/hello", method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
        raise NotImplementedError


class FlaskWorld(World):
    def __init__(self, sidecar: ScriptedSidecar, guards: Any) -> None:
        super().__init__(sidecar)
        app = self.app = Flask("guarded")

        @app.get("/hello")
        def hello() -> FlaskResponse:
            self.visits.append(threading.get_ident())
            state = g.chio_state
            response = jsonify(seen=getattr(state, "seen", None), claims=getattr(state, "chio_claims", None))
            response.set_cookie("a", "1", httponly=True)
            response.set_cookie("b", "2")
            response.headers["X-Own"] = "view"
            return response

        @app.get("/stream")
        def stream() -> FlaskResponse:
            return FlaskResponse(iter([b"a", b"b"]))

        @app.post("/echo")
        def echo() -> bytes:
            self.visits.append(threading.get_ident())
            return flask_request.get_data()

        config = sidecar.settings()
        self.chio = Chio(app, config, guards=guards, on_decision=self.decisions.append)

    def ask(self, path: str = "/hello", method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
        lines = {name.replace("_", "-"): value for name, value in headers.items()}
        response = self.app.test_client().open(path, method=method, data=body, headers=lines)
        answer = Answer(response.status_code, response.headers, response.get_data())
        response.close()
        return answer


class DjangoWorld(World):
    def ask(self, path: str = "/hello", method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
        lines = {name.replace("_", "-"): value for name, value in headers.items()}
        response = self._send(path, method, body, lines)
        cookies = [("Set-Cookie", cookie.OutputString()) for cookie in response.cookies.values()]
        content = b"".join(response.pieces)
        response.close()
        return Answer(response.status_code, [*response.items(), *cookies], content)

    def _send(self, path: str, method: str, body: bytes, lines: dict[str, str]) -> Any:
        client = project.client()
        response: Any = client.generic(method, path, body, content_type="text/plain", headers=lines)
        response.pieces = list(response.streaming_content) if response.streaming else [response.content]
        return response


class AsyncDjangoWorld(DjangoWorld):
    def _send(self, path: str, method: str, body: bytes, lines: dict[str, str]) -> Any:
        async def send() -> Any:
            client = AsyncClient(raise_request_exception=False)
            response: Any = await client.generic(method, path, body, content_type="text/plain", headers=lines)
            streamed = [piece async for piece in response] if response.streaming else None
            response.pieces = streamed if streamed is not None else [response.content]
            return response

        return asyncio.run(send())


FRAMEWORKS = ["flask", "django wsgi", "django asgi"]


@contextmanager
def world(framework: str, *guards: Any, script: Any = None) -> Iterator[World]:
    sidecar = ScriptedSidecar(script) if script is not None else ScriptedSidecar()
    with sidecar.serving_in_thread():
        if framework == "flask":
            flask = FlaskWorld(sidecar, guards)
            yield flask
            flask.chio.close(flask.app)
            return
        made = (DjangoWorld if framework == "django wsgi" else AsyncDjangoWorld)(sidecar)
        # Each request under ASGI has a separate loop here, which no connection may outlive: no sockets are used.
        shared = {"MIDDLEWARE": [project.SHARING], "TEST_CLIENT": sidecar.client()}
        with override_settings(
            **({"MIDDLEWARE": [project.CHIO]} if framework == "django wsgi" else shared),
            ROOT_URLCONF="tests.guards.django_urls",
            CHIO_SIDECAR_URL=sidecar.url,
            CHIO_TRUSTED_KERNEL_KEYS=[sidecar.public_key],
            CHIO_GUARDS=list(guards),
            CHIO_ON_DECISION=made.decisions.append,
        ):
            yield made


each = pytest.mark.parametrize("framework", FRAMEWORKS)


async def around(request: GuardRequest, next: Next) -> AnyResponse:
    return (await next(request)).with_status(418).with_header("X-Own", "guard").with_header("Set-Cookie", "c=3")


async def waits(request: GuardRequest) -> None:
    """A guard that really awaits (G16)."""
    await asyncio.sleep(0.01)
    await asyncio.get_running_loop().run_in_executor(None, int)
    request.state.seen = "waited"


async def notes(request: GuardRequest) -> None:
    request.state.seen = "looked"


@each
@pytest.mark.parametrize("guard", [waits, notes], ids=["waits", "looks"])
def test_a_guard_runs_and_its_state_is_seen_by_the_view(framework: str, guard: Any) -> None:
    """G16, C10"""
    with world(framework, guard) as made:
        answer = made.ask()
    assert (answer.status, answer.json()["seen"]) == (200, {"waits": "waited", "notes": "looked"}[guard.__name__])
    assert answer.header("x-chio-receipt")


@pytest.mark.parametrize("framework", ["flask", "django wsgi"])
@pytest.mark.parametrize("guards", [(notes,), (waits,), (around,)], ids=["looks", "waits", "next"])
def test_the_view_stays_in_the_servers_thread(framework: str, guards: Any) -> None:
    """Database connections belong to it."""
    with world(framework, *guards) as made:
        made.ask()
        assert made.visits == [threading.get_ident()]


@each
def test_a_refusal_before_the_decision_calls_no_sidecar(framework: str) -> None:
    """B2, B4, C11"""
    with world(framework, SecurityHeaders(), IpBlock(["127.0.0.1"])) as made:
        answer = made.ask()
        assert (answer.status, answer.header("x-chio-receipt"), answer.header("x-frame-options")) == (403, None, "DENY")
        assert (made.visits, made.sidecar.asked) == ([], [])
        (decision,) = made.decisions
        assert [(one.guard_name, one.verdict) for one in decision.evidence] == [
            ("local/security_headers", True),
            ("local/ip_block", False),
        ]
    document = answer.json()
    nested = document["error"] if framework.startswith("django") else document
    assert nested["message"] == "Banned"


@each
def test_a_refusal_after_the_decision_carries_the_receipt(framework: str) -> None:
    """C11"""

    async def closed(request: GuardRequest) -> Response:
        return Response("closed", headers=[("content-type", "text/plain")]).with_status(451)

    with world(framework, closed) as made:
        answer = made.ask()
        assert (answer.status, answer.body, answer.header("content-type")) == (451, b"closed", "text/plain")
        assert answer.header("x-chio-receipt")
        assert [decision.verdict for decision in made.decisions] == ["allow", "refused"]
        assert made.visits == []


@each
@pytest.mark.parametrize("path", ["/hello", "/stream"])
def test_status_and_headers_are_changed_after_next(framework: str, path: str) -> None:
    """C12, C15: cookies keep their attributes, single headers are replaced, streams stay streams."""
    with world(framework, around) as made:
        answer = made.ask(path)
    assert (answer.status, answer.header_lines("x-own")) == (418, ["guard"])
    assert answer.header("x-chio-receipt")
    if path == "/stream":
        assert answer.body == b"ab"
    else:
        cookies = sorted(answer.header_lines("set-cookie"))
        assert [line.partition(";")[0] for line in cookies] == ["a=1", "b=2", "c=3"]
        assert "httponly" in cookies[0].lower()


@each
def test_security_headers_request_id_and_stopwatch_are_on_every_answer(framework: str) -> None:
    """B8, B9"""
    measured: list[Any] = []
    watch = Stopwatch(on_time=lambda *what: measured.append(what), server_timing=True)
    with world(framework, SecurityHeaders(), RequestId(), watch) as made:
        for path in ("/hello", "/stream", "/nowhere"):
            answer = made.ask(path)
            assert answer.header("x-frame-options") == "DENY"
            assert answer.header("x-request-id")
            assert (answer.header("server-timing") or "").startswith("app;dur=")
    assert [(path, status) for _, path, status, _ in measured] == [("/hello", 200), ("/stream", 200), ("/nowhere", 404)]


@each
def test_the_limit_counts(framework: str) -> None:
    """B5"""
    with world(framework, RateLimit("2/minute")) as made:
        answers = [made.ask() for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].header("retry-after") or "0") <= 60


@needs_redis
@pytest.mark.parametrize("framework", ["flask", "django wsgi"])
def test_the_limit_counts_in_redis(framework: str, tmp_path: Path) -> None:
    """B5: connections live in the guards' own loop, from request to request."""
    with redis_server(tmp_path) as server, world(framework, RateLimit("2/minute", storage=server.url)) as made:
        assert [made.ask().status for _ in range(3)] == [200, 200, 429]


@each
def test_a_token_makes_the_caller_verified(framework: str) -> None:
    """B7"""
    secret = "a secret of sixty-four characters" * 2
    token = jwt.encode({"sub": "alice", "exp": 4_000_000_000}, secret)
    with world(framework, JwtAuth(key=secret, algorithms=["HS256"])) as made:
        answer = made.ask(authorization=f"Bearer {token}")
        assert (answer.status, answer.json()["claims"]["sub"]) == (200, "alice")
        assert made.sidecar.asked[0].document["caller"]["verified"] is True
        assert made.ask().status == 401


@each
def test_a_guard_reads_the_body_and_the_view_reads_it_again(framework: str) -> None:
    """B15, G10"""
    read: list[bytes] = []

    async def reads(request: GuardRequest) -> None:
        read.append(await request.body())

    with world(framework, Chain().add(reads, priority=-10)) as made:
        answer = made.ask("/echo", "POST", b"the body")
        assert (answer.body, read) == (b"the body", [b"the body"])
        assert made.sidecar.asked[0].document["body_length"] == 8


async def succeed(request: GuardRequest) -> Response:
    return Response("free of charge")


async def fails(request: GuardRequest) -> None:
    raise ZeroDivisionError


async def whitewash(request: GuardRequest, next: Next) -> AnyResponse:
    await next(request)
    return Response("never mind")


@each
@pytest.mark.parametrize("guard", [succeed, fails, whitewash])
def test_the_rules_that_no_guard_can_break(framework: str, guard: Any) -> None:
    """Section 7: no success before the decision, no failure that is skipped, no refusal turned into a success."""
    with world(framework, Chain().add(guard, priority=-10), script=behaviours.DENY) as made:
        answer = made.ask()
        assert (answer.status, made.visits) == (500, [])
        assert b"chio_guard_failed" in answer.body.lower()


@each
def test_a_timeout_around_next_answers(framework: str) -> None:
    """C18: a view in a thread cannot be cancelled, so its end is waited for; its answer is not used."""

    async def hurry(request: GuardRequest, next: Next) -> AnyResponse:
        try:
            async with asyncio.timeout(0):
                return await next(request)
        except TimeoutError:
            return Response("too slow", 504)

    with world(framework, Chain().add(hurry, priority=5)) as made:
        assert made.ask().status == 504


@each
def test_callbacks_of_the_end_run_after_the_last_piece(framework: str) -> None:
    ends: list[str] = []

    async def until_the_end(request: GuardRequest, next: Next) -> AnyResponse:
        answer = await next(request)
        if isinstance(answer, Downstream):
            answer.when_finished(lambda: ends.append("finished"))
        response_hooks(request).finished.append(lambda status: ends.append(f"answered {status}"))
        return answer

    with world(framework, until_the_end) as made:
        assert made.ask("/stream").body == b"ab"
    assert sorted(ends) == ["answered 200", "finished"]


@each
def test_many_threads_share_one_chain(framework: str) -> None:
    with world(framework, waits, around) as made:
        answers: list[Answer] = []
        threads = [threading.Thread(target=lambda: answers.append(made.ask())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [answer.status for answer in answers] == [418] * 8
    assert len({answer.header("x-chio-receipt") for answer in answers}) == 8


def test_a_guard_that_claims_not_to_wait_and_does_is_an_error() -> None:
    class Liar:
        waits = False

        async def __call__(self, request: GuardRequest) -> None:
            await asyncio.sleep(0)

    chain = ChainRunner([Chain().add(Liar(), priority=-1)])
    with pytest.raises(ConfigurationError, match="has waited"):
        chain.run(Request(), [], lambda: None, Downstream)


def test_the_guards_thread_is_made_when_it_is_needed_and_ended() -> None:
    chain = ChainRunner([waits])

    def running() -> set[int | None]:
        return {thread.ident for thread in threading.enumerate() if thread.name == "chio-guards"}

    others = running()
    for _ in range(2):
        assert chain.run(Request(), [], lambda: None, Downstream) == Downstream()
        assert len(running() - others) == 1
        chain.close()
        assert not running() - others


def test_flask_names_an_order_that_cannot_work() -> None:
    with pytest.raises(ConfigurationError, match=r"cache .* requires 'decision', which decide"):
        Chio(Flask("x"), guards=[Chain().add(notes, name="cache", requires=["decision"], priority=-1)])


def test_the_command_prints_the_chain_of_a_flask_application() -> None:
    """C9"""
    from chio_sidecar.cli.application import check_application

    app = Flask("x")
    Chio(app, ScriptedSidecar().settings(), guards=[notes, SecurityHeaders()])
    assert check_application(app)[0].message == "security_headers (-90) → decide (0) → notes (10)"


def found(**overrides: Any) -> list[tuple[str, str]]:
    with override_settings(CHIO_TRUSTED_KERNEL_KEYS=["00" * 32], **overrides):
        return [(str(message.id), str(message.msg)) for message in run_checks()]


def test_dotted_paths_name_guards_chains_and_classes_and_the_check_prints_their_order() -> None:
    """CHIO_GUARDS in Django's settings, and what `manage.py check` says."""
    paths = ["tests.guards.test_frameworks.notes", "chio_core.guards.SecurityHeaders", RateLimit("1/minute")]
    order, memory = found(CHIO_GUARDS=paths)
    assert order == (
        "chio.I001",
        "Guards run in this order: security_headers (-90) → rate_limit (-60) → decide (0) → notes (10).",
    )
    assert memory[0] == "chio.W007"
    assert found(CHIO_GUARDS=Chain(notes))[0][1] == "Guards run in this order: decide (0) → notes (10)."
    assert found() == []


@pytest.mark.parametrize(
    ("guards", "said"),
    [
        (["nowhere.guard"], "cannot be imported"),
        ("chio_core.guards.SecurityHeaders", "takes a list, not one text"),
        (notes, "CHIO_GUARDS takes a list: write CHIO_GUARDS=[notes]"),
        (["chio_core.guards.IpBlock"], "IpBlock cannot be made without arguments"),
        ([Chain().add(notes, requires=["decision"], priority=-1)], "requires 'decision'"),
        (["tests.guards.tools.redis_server"], "must be `async def`"),
    ],
)
def test_guards_that_cannot_be_used_are_errors_of_the_check(guards: Any, said: str) -> None:
    ((number, message),) = found(CHIO_GUARDS=guards)
    assert number == "chio.E005"
    assert said in message


def test_a_denial_is_rendered_in_the_frameworks_envelope() -> None:
    async def no(request: GuardRequest) -> Denial:
        return Denial(message="not today")

    for framework in FRAMEWORKS:
        with world(framework, no) as made:
            document = made.ask().json()
        assert (document["error"]["message"] if "django" in framework else document["message"]) == "not today"


@pytest.mark.parametrize(("guards", "name"), [(notes, "notes"), (SecurityHeaders(), "security_headers")])
def test_one_guard_instead_of_a_list_is_an_error(guards: Any, name: str) -> None:
    said = rf"^guards takes a list: write guards=\[{name}\]$"
    with pytest.raises(ConfigurationError, match=said):
        add_chio(FastAPI(), guards=guards)
    with pytest.raises(ConfigurationError, match=said):
        ChioASGIMiddleware(FastAPI(), settings(), guards=guards)
    with pytest.raises(ConfigurationError, match=said):
        Chio(Flask("app"), guards=guards)


def test_lists_tuples_generators_and_chains_are_lists() -> None:
    chain = Chain(notes)
    assert guard_list(chain) == [chain]
    assert guard_list([notes, chain]) == guard_list((notes, chain)) == guard_list(one for one in (notes, chain))
    assert guard_list(()) == []
    with pytest.raises(ConfigurationError, match="guards takes a list, not one text"):
        guard_list("notes")
