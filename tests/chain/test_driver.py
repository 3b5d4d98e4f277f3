"""The ASGI driver: what a `next`-style member may do to an answer, and what stays as the application made it."""

from __future__ import annotations

import asyncio
import contextvars
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from chio_asgi import ChioASGIMiddleware
from chio_core import AnyResponse, Downstream, GuardRequest, Next, Response
from chio_core.guards import SecurityHeaders, Stopwatch
from chio_core.guards.chain import Chain
from chio_fastapi import add_chio
from tests.support import StubClient, call, connect, exchange, http_scope, raw_http, run, serve

HTTP = [{"type": "http.request", "body": b"", "more_body": False}]

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("WHO", default="nobody")


async def mark(request: GuardRequest, next: Next) -> AnyResponse:
    answer = await next(request)
    return answer.with_status(418).with_header("x-mark", "made by a guard")


def application(*guards: Any, files: Path | None = None) -> FastAPI:
    app = FastAPI()
    add_chio(app, client=StubClient(), guards=guards)
    done: list[str] = []
    app.state.done = done

    @app.get("/json")
    async def as_json() -> dict[str, str]:
        return {"a": "1"}

    @app.get("/sync")
    def from_a_thread() -> dict[str, str]:
        return {"who": WHO.get()}

    @app.get("/html")
    async def as_html() -> HTMLResponse:
        return HTMLResponse("<p>")

    @app.get("/redirect")
    async def redirect() -> RedirectResponse:
        return RedirectResponse("/json")

    async def chunks() -> AsyncIterator[bytes]:
        for number in range(3):
            yield f"data: {number}\n\n".encode()

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(chunks())

    @app.get("/sse")
    async def sse() -> StreamingResponse:
        return StreamingResponse(chunks(), media_type="text/event-stream")

    @app.get("/file")
    async def file() -> FileResponse:
        assert files is not None
        return FileResponse(files)

    @app.get("/who")
    async def who() -> dict[str, str]:
        return {"who": WHO.get()}

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> dict[str, str]:
        tasks.add_task(done.append, "background")
        return {}

    @app.get("/cookies")
    async def cookies() -> HTMLResponse:
        answer = HTMLResponse("")
        answer.set_cookie("a", "1")
        answer.set_cookie("b", "2")
        return answer

    @app.get("/slow")
    async def slow() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            done.append("cancelled")
            raise

    return app


@pytest.fixture
def a_file(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(bytes(range(256)) * 1000)
    return path


KINDS = ("json", "html", "stream", "sse", "file", "redirect", "cookies", "sync")


@pytest.mark.parametrize("kind", KINDS)
def test_status_and_headers_are_changed_on_every_kind_of_response(kind: str, a_file: Path) -> None:
    """C12 and C16: the same API on all of them, and the headers really arrive, on SSE too."""
    plain = run(call(application(files=a_file), "GET", f"/{kind}"))
    marked = run(call(application(mark, files=a_file), "GET", f"/{kind}"))
    assert marked.status == 418
    assert marked.header("x-mark") == "made by a guard"
    assert marked.receipt == "stub-000000"
    assert marked.body == plain.body
    kept = [line for line in marked.headers if line[0] not in ("x-mark", "x-chio-receipt")]
    assert kept == [line for line in plain.headers if line[0] != "x-chio-receipt"]


def test_two_cookies_arrive_as_two() -> None:
    """C15 through the driver: headers are a list of pairs, never a dict."""
    for guards in ((mark,), (SecurityHeaders(),)):
        assert len(run(call(application(*guards), "GET", "/cookies")).header_lines("set-cookie")) == 2


async def test_the_first_chunk_reaches_the_client_before_the_last_is_made() -> None:
    """C17: proved by a client that lets the application go on only after it has read the first chunk."""
    read = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        await read.wait()
        yield b"last"

    app = FastAPI()
    add_chio(app, client=StubClient(), guards=[mark, Stopwatch()])
    app.get("/")(lambda: StreamingResponse(chunks()))
    async with serve(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert b"418" in await reader.readuntil(b"first")
        read.set()
        assert b"last" in await reader.read()
        writer.close()


def test_a_middleware_cannot_read_a_lazy_body() -> None:
    """C17"""
    seen: list[AnyResponse] = []

    async def nosy(request: GuardRequest, next: Next) -> AnyResponse:
        seen.append(await next(request))
        return seen[0]

    run(call(application(nosy), "GET", "/stream"))
    assert isinstance(seen[0], Downstream)
    assert not hasattr(seen[0], "body")


def test_a_timeout_around_next_cancels_the_handler() -> None:
    """C18"""

    async def hurry(request: GuardRequest, next: Next) -> AnyResponse:
        try:
            async with asyncio.timeout(0.05):
                return await next(request)
        except TimeoutError:
            return Response("too slow", 504)

    app = application(hurry)
    reply = run(call(app, "GET", "/slow"))
    assert (reply.status, reply.body, reply.receipt) == (504, b"too slow", "stub-000000")
    assert app.state.done == ["cancelled"]


def test_anyio_scopes_around_next_work_too() -> None:
    """C18"""
    import anyio

    async def hurry(request: GuardRequest, next: Next) -> AnyResponse:
        with anyio.move_on_after(0.05):
            return await next(request)
        return Response("too slow", 504)

    app = application(hurry)
    assert run(call(app, "GET", "/slow")).status == 504
    assert app.state.done == ["cancelled"]


@pytest.mark.parametrize("path", ["/who", "/sync"])
@pytest.mark.parametrize("wraps", [True, False], ids=["next", "request-only"])
def test_a_context_variable_of_a_guard_is_seen_by_the_handler(path: str, wraps: bool) -> None:
    """C10: in the handler's own task and in a worker thread."""

    async def look(request: GuardRequest) -> None:
        WHO.set("alice")

    async def around(request: GuardRequest, next: Next) -> AnyResponse:
        token = WHO.set("alice")
        try:
            return await next(request)
        finally:
            WHO.reset(token)

    reply = run(call(application(around if wraps else look), "GET", path))
    assert json.loads(reply.body) == {"who": "alice"}


async def test_overlapping_requests_do_not_see_each_others_context() -> None:
    async def name(request: GuardRequest, next: Next) -> AnyResponse:
        WHO.set(request.headers["x-who"])
        await asyncio.sleep(0)
        return await next(request)

    app = application(name)
    replies = await asyncio.gather(
        *(call(app, "GET", "/who", headers=[("x-who", str(number))]) for number in range(50))
    )
    assert [json.loads(reply.body)["who"] for reply in replies] == [str(number) for number in range(50)]


def test_background_tasks_run() -> None:
    app = application(mark)
    assert run(call(app, "GET", "/background")).status == 418
    assert app.state.done == ["background"]


def test_callbacks_of_the_end_run_after_the_last_byte_and_before_the_background_tasks() -> None:
    """Row 2's stopwatch for next-style members: `Downstream.when_finished`."""
    app = application()

    async def until_the_end(request: GuardRequest, next: Next) -> AnyResponse:
        answer = await next(request)
        if isinstance(answer, Downstream):
            answer.with_header("x", "y").when_finished(lambda: app.state.done.append("finished"))
        return answer

    outer = ChioASGIMiddleware(app, guards=[until_the_end], client=StubClient())
    run(call(outer, "GET", "/background"))
    assert app.state.done == ["finished", "background"]


def test_what_fails_at_the_end_is_logged_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def careless(request: GuardRequest, next: Next) -> AnyResponse:
        answer = await next(request)
        if isinstance(answer, Downstream):
            answer.when_finished(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
        return answer

    assert run(call(application(careless, mark), "GET", "/json")).status == 418
    assert "ZeroDivisionError" in caplog.text


async def with_trailers(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
    await send({"type": "http.response.body", "body": b"x"})
    await send({"type": "http.response.trailers", "headers": [(b"x-end", b"1")], "more_trailers": False})


async def with_early_hints(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.early_hint", "links": []})
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.pathsend", "path": "/nowhere"})


@pytest.mark.parametrize("inner", [with_trailers, with_early_hints])
async def test_extensions_of_the_server_pass_through(inner: Any) -> None:
    """C17: trailers, early hints, path-send; and the end is where the last of them is."""
    ends: list[int] = []

    async def told(app: Any) -> list[dict[str, Any]]:
        return (await exchange(app, http_scope(), HTTP)).messages

    times = Stopwatch(on_time=lambda *what: ends.append(len(reply)))
    app = ChioASGIMiddleware(inner, guards=[mark, times], client=StubClient())
    reply: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        reply.append(message)

    await app(http_scope(), receive, send)
    assert [message["type"] for message in reply] == [message["type"] for message in await told(inner)]
    assert ends == [len(reply)]


def test_an_application_that_gives_up_sending_its_head_may_send_another() -> None:
    """Its own timeout may fire while a guard still looks at the head: what goes out is still one answer."""

    async def impatient(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(0.01):
                await send({"type": "http.response.start", "status": 200, "headers": []})
        except TimeoutError:
            await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    async def thoughtful(request: GuardRequest, next: Next) -> AnyResponse:
        answer = await next(request)
        await asyncio.sleep(0.05)
        return answer

    reply = run(call(ChioASGIMiddleware(impatient, guards=[thoughtful], client=StubClient())))
    assert [message["type"] for message in reply.messages] == ["http.response.start", "http.response.body"]
    assert reply.receipt == "stub-000000"


def test_an_application_without_a_response_is_an_error_and_not_a_hang() -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None: ...

    with pytest.raises(RuntimeError, match="ended without a response"):
        run(call(ChioASGIMiddleware(silent, guards=[mark], client=StubClient())))


def test_a_failure_after_the_head_reaches_the_server() -> None:
    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        run(call(ChioASGIMiddleware(breaks, guards=[mark], client=StubClient())))


def test_the_disconnect_still_arrives() -> None:
    """B15: after the body was replayed, the server's own `receive` is handed back."""

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        kinds = [(await receive())["type"] for _ in range(2)]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": " ".join(kinds).encode()})

    for guards in ((), (mark,)):
        reply = run(call(ChioASGIMiddleware(waits, guards=guards, client=StubClient()), "POST", body=[b"a", b"b"]))
        assert reply.body == b"http.request http.disconnect"


async def test_a_request_that_is_cancelled_takes_the_handler_with_it() -> None:
    app = application(mark)
    request = asyncio.ensure_future(call(app, "GET", "/slow"))
    await asyncio.sleep(0.05)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert app.state.done == ["cancelled"]


def websocket_application(*guards: Any) -> FastAPI:
    app = FastAPI()
    add_chio(app, client=StubClient(), guards=guards)

    @app.websocket("/ws")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    return app


@pytest.mark.parametrize("guards", [(), (mark,), (SecurityHeaders(),)], ids=["none", "next", "headers"])
def test_websockets_pass_through_unchanged(guards: Any) -> None:
    """B14"""
    text = {"type": "websocket.receive", "text": "hello"}
    reply = run(connect(websocket_application(*guards), "/ws", text))
    assert [message["type"] for message in reply.messages] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert reply.messages[1]["text"] == "hello"
    assert (b"x-chio-receipt", b"stub-000000") in reply.messages[0]["headers"]


def test_a_guard_refuses_a_handshake() -> None:
    """B14"""

    async def closed(request: GuardRequest) -> Response:
        return Response("closed").with_status(403)

    app = websocket_application(Chain().add(closed, priority=-5))
    assert run(connect(app, "/ws")).status == 403
    without_extension = run(connect(app, "/ws", denial=False))
    assert [message["type"] for message in without_extension.messages] == ["websocket.close"]


async def test_lifespan_passes_through_and_guards_are_closed_at_its_end() -> None:
    """B14"""
    events: list[str] = []

    class Pool:
        async def __call__(self, request: GuardRequest) -> None: ...

        async def aclose(self) -> None:
            events.append("guard closed")

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        for _ in range(2):
            message = await receive()
            events.append(message["type"])
            await send({"type": f"{message['type']}.complete"})

    app = ChioASGIMiddleware(inner, guards=[Pool()], client=StubClient())
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    reply = await exchange(app, {"type": "lifespan", "asgi": {}}, messages)
    assert [m["type"] for m in reply.messages] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert events == ["lifespan.startup", "lifespan.shutdown", "guard closed"]


def test_streams_are_the_same_on_the_wire() -> None:
    """C16 and C17 under a real server: SSE and a large file, with guards of both shapes."""

    expected = Path(__file__).read_bytes()

    async def main(file: Path) -> None:
        async with serve(application(mark, SecurityHeaders(), files=file)) as port:
            for path, body in (("/sse", b"data: 2\n\n"), ("/file", expected)):
                answer = await raw_http(port, f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
                head, _, rest = answer.partition(b"\r\n\r\n")
                assert b"418" in head.splitlines()[0]
                assert b"x-mark: made by a guard" in head
                assert b"x-frame-options: DENY" in head
                assert body in rest

    path = Path(__file__)
    run(main(path))


async def test_a_stopwatch_of_ones_own_measures_overlapping_requests_apart() -> None:
    """C14 and B8, in the shape `(request, next)`."""
    taken: dict[str, float] = {}

    async def timing(request: GuardRequest, next: Next) -> AnyResponse:
        start = time.perf_counter()
        answer = await next(request)
        taken[request.url_path] = time.perf_counter() - start
        return answer

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(float(scope["path"][1:]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    app = ChioASGIMiddleware(inner, guards=[timing], client=StubClient())
    await asyncio.gather(call(app, path="/0.2"), call(app, path="/0.0"))
    assert taken["/0.2"] >= 0.2 > taken["/0.0"]
