"""The body that is hashed is the body that is read: all of it, however it comes (A8)."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import random
import tracemalloc
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from chio_asgi.body import Body, Incoming
from chio_asgi.middleware import ChioASGIMiddleware
from chio_core.evaluation.body_limits import BodyLimits
from chio_core.refusals.response import RequestRefused
from tests.support import Judge, Reply, StubClient, call, exchange, http_scope, run, serve

MiB = 1024 * 1024


def digest(data: bytes) -> str | None:
    return hashlib.sha256(data).hexdigest() if data else None


async def read_raw(scope: Any, receive: Any, send: Any) -> None:
    """An application without a framework, which answers with the hash of what it read."""
    found, more = hashlib.sha256(), True
    length = 0
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        found.update(message["body"])
        length += len(message["body"])
        more = message.get("more_body", False)
    body = json.dumps({"hash": found.hexdigest() if length else None, "length": length}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def governed(app: Any = read_raw, **options: Any) -> tuple[ChioASGIMiddleware, Judge]:
    judge = Judge()
    return ChioASGIMiddleware(app, client=StubClient(judge, **options)), judge


def cut(data: bytes, chance: random.Random, *, empty: bool = True) -> list[bytes]:
    """Cut data at random places, with empty pieces anywhere, at the end above all."""
    places = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(8)))
    pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    if empty:
        pieces += [b""] * chance.randrange(3)
        if chance.random() < 0.2:
            pieces.insert(0, b"")
    return pieces


def same(reply: Reply, judge: Judge, body: bytes) -> bool:
    asked, read = judge.last, reply.json()
    return (
        reply.status == 200
        and asked.get("body_hash") == read["hash"] == digest(body)
        and asked["body_length"] == read["length"] == len(body)
    )


@pytest.mark.slow  # 2,500 splits, 100,000 at full size
def test_thousands_of_splits_give_the_sidecar_and_the_handler_the_same_bytes(full_size: bool) -> None:
    splits = 100_000 if full_size else 2_500
    chance = random.Random("splits")
    app, judge = governed(spool_bytes=2000, max_body_bytes=MiB)
    pool = chance.randbytes(5000)

    async def main() -> None:
        for _ in range(splits):
            start, length = chance.randrange(100), chance.choice((0, 1, 2, 10, 100, 1000, 1999, 2000, 2001, 4000))
            body = pool[start : start + length]
            reply = await call(app, "POST", "/", body=cut(body, chance))
            assert same(reply, judge, body)

    run(main(), seconds=splits / 100)
    assert len(judge.questions) == splits


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65])
async def test_every_single_split_of_a_short_body_counts(size: int) -> None:
    app, judge = governed(spool_bytes=32)
    body = bytes(range(size))
    for place in range(size + 1):
        for pieces in ([body[:place], body[place:]], [body[:place], b"", body[place:], b""]):
            assert same(await call(app, "POST", "/", body=pieces), judge, body)
    assert same(await call(app, "POST", "/", body=[body[i : i + 1] for i in range(size)] or [b""]), judge, body)


@pytest.mark.parametrize("size", [MiB - 1, MiB, MiB + 1, 3 * MiB, 10 * MiB])
@pytest.mark.parametrize("piece", [1000, 65536, 1_000_000, 20 * MiB])
def test_large_bodies_wait_on_disk_and_come_back_whole(size: int, piece: int) -> None:
    app, judge = governed()
    body = random.Random(size).randbytes(size)
    pieces = [body[at : at + piece] for at in range(0, size, piece)]
    assert same(run(call(app, "POST", "/", body=pieces)), judge, body)


async def test_the_file_of_a_large_body_is_gone_after_the_request() -> None:
    def files() -> int:
        return len(os.listdir("/proc/self/fd"))

    app, _ = governed(spool_bytes=10, max_body_bytes=1000)
    denying = ChioASGIMiddleware(read_raw, client=StubClient(Judge(lambda q, t: {"verdict": "deny"}), spool_bytes=10))

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("the handler fails")

    before = files()
    for _ in range(5):
        await call(app, "POST", "/", body=[b"x" * 400, b"y" * 400])
        assert (await call(app, "POST", "/", body=[b"x" * 600, b"y" * 600])).status == 413
        assert (await call(denying, "POST", "/", body=[b"x" * 400, b"y" * 400])).status == 403
        with pytest.raises(RuntimeError):
            await call(governed(failing, spool_bytes=10)[0], "POST", "/", body=[b"x" * 400, b"y"])
        gone = [{"type": "http.request", "body": b"x" * 400, "more_body": True}, {"type": "http.disconnect"}]
        await exchange(app, http_scope("POST", "/"), gone)
    gc.collect()
    assert files() == before


async def test_an_announced_length_over_the_limit_is_refused_before_a_byte_is_read() -> None:
    app, judge = governed(max_body_bytes=100)
    received = []
    sent: list[Any] = []

    async def receive() -> Any:
        received.append(1)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(http_scope("POST", "/", headers=[("content-length", "101")]), receive, send)
    assert sent[0]["status"] == 413
    assert (received, judge.questions) == ([], [])


@pytest.mark.parametrize("claim", ["0", "3", "5", "99999", "-1", "x", "", "0" * 30 + "7", "+5", "5.0", "٥", "²"])
def test_an_announced_length_is_never_believed(claim: str) -> None:
    app, judge = governed()
    headers = [(b"content-length", claim.encode("utf-8"))]
    assert same(run(call(app, "POST", "/", body=[b"ab", b"cd"], headers=headers)), judge, b"abcd")
    assert judge.last["headers"]["content-length"] == "4"


@pytest.mark.parametrize("after", range(6))
def test_a_client_that_leaves_during_its_body_gets_no_handler_and_no_evaluation(after: int) -> None:
    called = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.append(scope)

    governed_app, judge = governed(app, spool_bytes=2)
    messages = [{"type": "http.request", "body": b"ab", "more_body": True} for _ in range(after)]
    run(exchange(governed_app, http_scope("POST", "/"), [*messages, {"type": "http.disconnect"}]))
    assert (judge.questions, called) == ([], [])


def test_what_comes_after_the_announced_end_is_not_part_of_the_body() -> None:
    """A server that says `more_body: False` and then sends more breaks its protocol; it gains nothing by it."""
    app, judge = governed()
    messages = [
        {"type": "http.request", "body": b"signed", "more_body": False},
        {"type": "http.request", "body": b" EVIL", "more_body": False},
    ]
    assert same(run(exchange(app, http_scope("POST", "/"), messages)), judge, b"signed")


def test_messages_without_their_optional_members_are_understood() -> None:
    app, judge = governed()
    assert same(run(exchange(app, http_scope("POST", "/"), [{"type": "http.request"}])), judge, b"")


def test_the_servers_own_receive_is_handed_back_after_the_body() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((await receive())["type"])
        seen.append((await receive())["type"])
        seen.append((await receive())["type"])

    for options in ({}, {"spool_bytes": 0}):
        seen.clear()
        governed_app, _ = governed(app, **options)
        run(call(governed_app, "POST", "/", body=[b"a", b""]))
        assert seen == ["http.request", "http.disconnect", "http.disconnect"]


async def test_a_handler_learns_that_its_client_went_away() -> None:
    """Through a real server: the handler waits for the disconnect, and gets it."""
    gone = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == b"hello"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        gone.set()

    governed_app, _ = governed(app)
    async with serve(governed_app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello")
        assert await reader.readuntil(b"first")
        writer.close()
        async with asyncio.timeout(10):
            await gone.wait()


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_chunked_uploads_through_a_server_are_hashed_whole(http: str) -> None:
    chance = random.Random(http)
    app, judge = governed(spool_bytes=100_000)
    async with serve(app, http=http) as port:
        for size in (0, 1, 5, 1000, 70_000, 300_000):
            body = chance.randbytes(size)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n")
            for piece in cut(body, chance, empty=False):
                if piece:
                    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    await writer.drain()
            writer.write(b"0\r\n\r\n")
            answer = await reader.read()
            writer.close()
            assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"hash": digest(body), "length": size}
            assert judge.last.get("body_hash") == digest(body)


async def test_memory_does_not_grow_with_empty_messages() -> None:
    left = 200_000

    async def receive() -> Any:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": b"", "more_body": left > 0}

    tracemalloc.start()
    body = await Incoming(receive, BodyLimits(100, 100)).read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (body.length, body.hash) == (0, None)
    assert peak < 100_000


@pytest.mark.parametrize("status", [413, 400])
async def test_a_body_that_cannot_be_read_leaves_no_file(status: int) -> None:
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": b"x" * 50, "more_body": True}]
    if status == 413:
        messages.append({"type": "http.request", "body": b"x" * 60, "more_body": False})
    else:
        messages.append({"type": "http.disconnect"})

    async def receive() -> Any:
        return messages.pop(0)

    with pytest.raises(RequestRefused) as refused:
        await Incoming(receive, BodyLimits(100, 10)).read()
    assert refused.value.denial.status == status
    gc.collect()


async def test_a_body_can_be_read_and_replayed_more_than_once() -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    for spool in (0, 1000):
        messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": b"ab", "more_body": True},
            {"type": "http.request", "body": b"cd"},
        ]

        async def upload(messages: list[dict[str, Any]] = messages) -> Any:
            return messages.pop(0)

        body: Body = await Incoming(upload, BodyLimits(100, spool)).read()
        assert await body.read() == b"abcd"
        for _ in range(2):
            replay = body.replay(receive)
            assert (await replay())["body"] == b"abcd"
            assert (await replay())["type"] == "http.disconnect"
        assert await body.read() == b"abcd"
        body.close()


async def test_a_body_that_does_not_arrive_in_time_is_408_and_leaves_no_file() -> None:
    limits = BodyLimits(spool_bytes=10, timeout=0.01)
    for announced in ("500", None):
        first = [{"type": "http.request", "body": b"x" * 50, "more_body": True}]

        async def receive(first: list[dict[str, Any]] = first) -> Any:
            return first.pop() if first else await asyncio.get_running_loop().create_future()

        with pytest.raises(RequestRefused) as refused:
            await Incoming(receive, limits).read(announced)
        assert refused.value.denial.status == 408
    assert limits.spooled == 0


@pytest.mark.parametrize("prefix", [False, True], ids=["whole", "prefix"])
@pytest.mark.parametrize(
    ("version", "headers"),
    [("1.1", [("transfer-encoding", "chunked")]), ("1.1", [("content-length", "5")]), ("2", [])],
    ids=["chunked", "announced", "http/2"],
)
async def test_a_body_whose_first_byte_never_comes_is_408(
    prefix: bool, version: str, headers: list[tuple[str, str]]
) -> None:
    async def sniff(request: Any) -> None:
        if prefix:
            await request.read_body_prefix(3)

    sniff.priority = -5  # type: ignore[attr-defined]
    judge, sent = Judge(), []
    app = ChioASGIMiddleware(read_raw, client=StubClient(judge, body_timeout=0.01), guards=[sniff])

    async def receive() -> Any:
        await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)

    async with asyncio.timeout(10):
        await app(http_scope("POST", "/", headers=headers) | {"http_version": version}, receive, send)
    assert (sent[0]["status"], judge.questions) == (408, [])


async def test_all_reads_of_a_body_share_one_time_limit() -> None:
    pieces = [b"ab", b"cd"]

    async def receive() -> Any:
        if not pieces:
            await asyncio.get_running_loop().create_future()
        return {"type": "http.request", "body": pieces.pop(0), "more_body": True}

    incoming = Incoming(receive, BodyLimits(timeout=0.01))
    assert await incoming.peek(3) == b"abc"
    for read in (lambda: incoming.peek(5), incoming.read, incoming.read, lambda: incoming.peek(1)):
        with pytest.raises(RequestRefused) as refused:
            await read()
        assert refused.value.denial.status == 408


async def until_cancelled(reading: Any) -> None:
    """Cancel a read that waits for more, as a timeout of a guard does."""
    task = asyncio.ensure_future(reading)
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_prefix_that_was_given_up_loses_no_piece_of_the_body() -> None:
    messages: asyncio.Queue[Any] = asyncio.Queue()
    messages.put_nowait({"type": "http.request", "body": b"ab", "more_body": True})
    incoming = Incoming(messages.get, BodyLimits())
    await until_cancelled(incoming.peek(3))
    messages.put_nowait({"type": "http.request", "body": b"cd", "more_body": False})
    assert await incoming.peek(3) == b"abc"
    assert await (await incoming.read()).read() == b"abcd"


@pytest.mark.parametrize("excluded", [False, True], ids=["governed", "excluded"])
@pytest.mark.parametrize("how", ["given up", "too large for the files"])
async def test_a_guard_that_catches_an_error_of_the_body_does_not_make_a_shorter_one_run(
    excluded: bool, how: str
) -> None:
    messages: asyncio.Queue[Any] = asyncio.Queue()
    read: list[Any] = []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        read.append(await receive())
        await read_raw(scope, messages.get, send)

    async def sniff(request: Any) -> None:
        messages.put_nowait({"type": "http.request", "body": b"ab", "more_body": True})
        if how == "given up":
            await until_cancelled(request.body())
        else:
            with pytest.raises(RequestRefused):
                await request.body()
        messages.put_nowait({"type": "http.request", "body": b"cd", "more_body": False})

    sniff.priority = -5  # type: ignore[attr-defined]
    options: dict[str, Any] = {"exclude_paths": ["/"]} if excluded else {}
    if how != "given up":
        options |= {"spool_bytes": 1, "max_spooled_bytes": 1}
    judge = Judge()
    app = ChioASGIMiddleware(handler, client=StubClient(judge, **options), guards=[sniff])
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app(http_scope("POST", "/", headers=[("transfer-encoding", "chunked")]), messages.get, send)
    assert judge.questions == []
    if excluded:
        assert read == [{"type": "http.disconnect"}]
    else:
        assert (sent[0]["status"], read) == (408 if how == "given up" else 503, [])


async def test_bodies_that_do_not_fit_in_files_together_are_503_and_room_is_given_back() -> None:
    limits = BodyLimits(spool_bytes=10, max_spooled=100)

    def upload(size: int) -> Any:
        messages = [
            {"type": "http.request", "body": b"x" * size, "more_body": True},
            {"type": "http.request", "body": b"", "more_body": False},
        ]

        async def receive() -> Any:
            return messages.pop(0)

        return receive

    first = await Incoming(upload(60), limits).read()
    assert limits.spooled == 60
    with pytest.raises(RequestRefused) as refused:
        await Incoming(upload(60), limits).read()
    assert (refused.value.denial.status, refused.value.denial.code) == (503, "chio_overloaded")
    first.close()
    first.close()
    second = await Incoming(upload(100), limits).read()
    assert limits.spooled == 100
    second.close()
    assert limits.spooled == 0


def test_a_handler_that_reads_nothing_is_answered() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    assert run(call(governed(app)[0], "POST", "/", body=[b"unread"] * 5)).status == 204


def test_a_disconnect_in_the_handler_is_starlettes_own_exception() -> None:
    async def waits(request: Request) -> JSONResponse:
        await request.body()
        assert await request.is_disconnected()
        with pytest.raises(ClientDisconnect):
            async for _ in Request(request.scope, request.receive).stream():
                pass
        return JSONResponse({})

    app, _ = governed(Starlette(routes=[Route("/", waits, methods=["POST"])]))
    assert run(call(app, "POST", "/", body=b"x")).status == 200
