"""Evaluations over a socket: whatever a client writes, and however, it gets what uvicorn would answer."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from pydantic import SecretStr

from chio_sidecar.app import SidecarApp
from chio_sidecar.service.connection import EvaluateConnection
from tests.sidecar.control_tools import evaluation
from tests.sidecar.sidecar_tools import sidecar
from tests.sidecar.test_locked_store import locked

Head = dict[str, str]


class Client:
    """One connection to the sidecar."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)

    async def response(self) -> tuple[str, Head, bytes]:
        """Read one response: its status line, its headers, its body."""
        status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        return status, headers, await self.reader.readexactly(int(headers.get("content-length", 0)))

    async def decided(self) -> str:
        """Read one response, and return the request id of its receipt."""
        status, _, body = await self.response()
        assert status == "HTTP/1.1 200 OK", body
        return str(json.loads(body)["receipt"]["request_id"])


Connect = Callable[[], Awaitable[Client]]


@asynccontextmanager
async def served(
    folder: Path, keep_alive: int = 75, **options: Any
) -> AsyncIterator[tuple[SidecarApp, Connect, uvicorn.Server]]:
    """A sidecar that listens, as `chio-sidecar api protect` does."""
    async with sidecar(folder, busy_seconds=20.0, **options) as app:
        protocol: Any = partial(EvaluateConnection, app.evaluate)
        config = uvicorn.Config(app, http=protocol, log_config=None, timeout_keep_alive=keep_alive)
        server = uvicorn.Server(config)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            running = asyncio.create_task(server.serve(sockets=[listener]))
            writers: list[asyncio.StreamWriter] = []

            async def connect() -> Client:
                reader, writer = await asyncio.open_connection(*listener.getsockname())
                writers.append(writer)
                return Client(reader, writer)

            try:
                yield app, connect, server
            finally:
                for writer in writers:
                    writer.close()
                server.should_exit = True
                await running


async def pending(app: SidecarApp, number: int) -> None:
    """Wait until so many evaluations are under way."""
    while app.state.sidecar.metrics.pending() != number:  # noqa: ASYNC110 - the server's own steps are what is waited for
        await asyncio.sleep(0)


def request(request_id: str, *headers: str, chunked: bool = False) -> bytes:
    body = json.dumps(evaluation(request_id, "GET"), separators=(",", ":")).encode()
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    head = ["POST /chio/evaluate HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", framing, *headers]
    if chunked:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return "\r\n".join((*head, "", "")).encode() + body


LIVE = b"GET /chio/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def split(data: bytes, at: int) -> tuple[bytes, bytes]:
    return data[:at], data[at:]


@pytest.mark.parametrize(
    "form",
    [
        request("r", chunked=True),
        request("r", "Connection: keep-alive, x"),
        request("r").replace(b"/evaluate ", b"/evaluate?x=y "),
        b"\r\n" + request("r"),
    ],
    ids=["chunked", "connection", "query", "empty line"],
)
async def test_an_evaluation_has_the_same_response_whichever_way_it_is_read(tmp_path: Path, form: bytes) -> None:
    async with served(tmp_path) as (_, connect, _server):
        client = await connect()
        client.send(request("r"))
        first = await client.response()
        client.send(form)
        again = await client.response()
    for _, headers, _body in (first, again):
        assert headers.pop("date").endswith(" GMT")
        headers.pop("server", None)  # this test's uvicorn names itself
    assert first == again
    assert set(first[1]) == {"content-type", "content-length"}


async def test_a_refused_evaluation_has_the_same_response_whichever_way_it_is_read(tmp_path: Path) -> None:
    async with served(tmp_path, evaluate_token=SecretStr("secret")) as (_, connect, _server):
        client = await connect()
        found = []
        for form in (request("r"), request("r", chunked=True)):
            client.send(form)
            status, headers, body = await client.response()
            found.append((status, headers["www-authenticate"], headers["content-type"], body))
    assert found[0] == found[1]
    assert found[0][:2] == ("HTTP/1.1 401 Unauthorized", "Bearer")


@pytest.mark.parametrize("at", [1, 20, 40, len(request("r2")) - 1])
async def test_a_request_may_come_in_pieces(tmp_path: Path, at: int) -> None:
    async with served(tmp_path) as (_, connect, _server):
        client, other = await connect(), await connect()
        client.send(request("r1"))
        assert await client.decided() == "r1"
        head, rest = split(request("r2"), at)
        client.send(head)
        other.send(request("r3"))
        assert await other.decided() == "r3"  # so the first piece was read, too
        client.send(rest)
        assert await client.decided() == "r2"


async def test_requests_that_are_sent_without_waiting_are_answered_in_their_order(tmp_path: Path) -> None:
    async with served(tmp_path) as (app, connect, _server):
        together, early = await connect(), await connect()
        together.send(request("a1") + request("a2") + LIVE + request("a3"))
        assert [await together.decided() for _ in range(2)] == ["a1", "a2"]
        assert (await together.response())[0] == "HTTP/1.1 200 OK"
        assert await together.decided() == "a3"

        early.send(request("b0"))
        assert await early.decided() == "b0"
        with locked(tmp_path / "receipts.sqlite3"):
            early.send(request("b1"))
            await pending(app, 1)
            early.send(request("b2"), LIVE[:9])
            other = await connect()
            other.send(LIVE)  # answered without the store
            await other.response()
        early.send(LIVE[9:], request("b3"))
        assert [await early.decided() for _ in range(2)] == ["b1", "b2"]
        assert (await early.response())[0] == "HTTP/1.1 200 OK"
        assert await early.decided() == "b3"


async def test_a_client_may_wait_for_the_permission_to_send_its_body(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, connect, _server):
        client = await connect()
        whole = request("r", "Expect: 100-continue")
        head, body = split(whole, whole.index(b"\r\n\r\n") + 4)
        client.send(head)
        assert (await client.response())[0] == "HTTP/1.1 100 Continue"
        client.send(body)
        assert await client.decided() == "r"


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x00", request("r").replace(b"Content-Length: ", b"Content-Length: +")]
)
async def test_bytes_that_are_not_http_are_refused_and_end_the_connection(tmp_path: Path, garbage: bytes) -> None:
    async with served(tmp_path) as (_, connect, _server):
        client = await connect()
        client.send(garbage)
        assert (await client.response())[0] == "HTTP/1.1 400 Bad Request"
        assert await client.reader.read() == b""


@pytest.mark.parametrize(
    "form",
    [
        request("r", "Connection: close"),
        request("r", "Connection: keep-alive, close"),
        request("r", "Proxy-Connection: close"),
        request("r").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
async def test_a_connection_ends_with_its_last_request(tmp_path: Path, form: bytes) -> None:
    async with served(tmp_path) as (_, connect, _server):
        client = await connect()
        client.send(form)
        _, headers, _body = await client.response()
        assert headers["connection"] == "close"
        assert await client.reader.read() == b""


async def test_a_server_that_stops_answers_what_it_has_begun_and_closes_what_is_idle(tmp_path: Path) -> None:
    async with served(tmp_path) as (app, connect, server):
        client, idle = await connect(), await connect()
        idle.send(request("r0"))
        assert await idle.decided() == "r0"
        with locked(tmp_path / "receipts.sqlite3"):
            client.send(request("r1"))
            await pending(app, 1)
            server.should_exit = True
            assert await idle.reader.read() == b""
        status, headers, body = await client.response()
        assert (status, headers["connection"]) == ("HTTP/1.1 200 OK", "close")
        assert json.loads(body)["receipt"]["request_id"] == "r1"
        assert await client.reader.read() == b""


async def test_the_decision_of_a_client_that_went_away_is_stored(tmp_path: Path) -> None:
    async with served(tmp_path) as (app, connect, _server):
        client, other = await connect(), await connect()
        with locked(tmp_path / "receipts.sqlite3"):
            client.send(request("r"))
            await pending(app, 1)
            client.writer.transport.abort()
        await pending(app, 0)
        other.send(request("r"))
        assert await other.decided() == "r"
        assert app.state.sidecar.metrics.repeats.value() == 1


async def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    async with served(tmp_path, keep_alive=0) as (_, connect, _server):
        client = await connect()
        client.send(request("r"))
        assert await client.decided() == "r"
        assert await client.reader.read() == b""


class Transport(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.reading = True
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


async def test_a_response_is_one_write_and_a_client_that_does_not_read_gets_no_further_one(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as app:
        server, transport = uvicorn.Server(uvicorn.Config(app)), Transport()
        connection = EvaluateConnection(app.evaluate, server.config, server.server_state, {})
        connection.connection_made(transport)
        connection.data_received(request("r1"))
        connection.data_received(request("r2"))
        assert not transport.reading
        connection.pause_writing()
        (task,) = server.server_state.tasks
        await task
        assert len(transport.written) == 1
        assert not transport.reading
        assert not server.server_state.tasks

        connection.resume_writing()
        (task,) = server.server_state.tasks
        await task
        assert [one[:15] for one in transport.written] == [b"HTTP/1.1 200 OK"] * 2
        assert transport.reading
        connection.connection_lost(None)
        assert not server.server_state.connections


async def test_nothing_is_decided_for_a_client_that_gave_up_while_others_were_evaluated(tmp_path: Path) -> None:
    async with served(tmp_path) as (app, connect, server):
        clients = [await connect() for _ in range(9)]
        with locked(tmp_path / "receipts.sqlite3"):
            for number, client in enumerate(clients):
                client.send(request(f"waits-{number}"))
            await pending(app, 9)
            # All of it before the sidecar reads a byte: what it reads first is a request of a client that is gone.
            (listener,) = server.servers[0].sockets
            with socket.create_connection(listener.getsockname()) as impatient:
                impatient.sendall(request("gave-up"))
            await pending(app, 10)
            await pending(app, 9)
        assert [await client.decided() for client in clients] == [f"waits-{number}" for number in range(9)]
        assert "gave-up" not in {row.request_id for row in await app.state.sidecar.store.list()}
        assert 'chio_sidecar_errors_total{code="chio_client_gone"} 1.0' in app.state.sidecar.metrics.render(
            lambda: app.state.sidecar.store
        )


async def test_a_decision_that_was_begun_is_stored_though_its_client_gave_up(tmp_path: Path) -> None:
    async with served(tmp_path) as (app, connect, _):
        client = await connect()
        with locked(tmp_path / "receipts.sqlite3"):
            client.send(request("begun"))
            await pending(app, 1)
            client.writer.close()
            await client.writer.wait_closed()
        await pending(app, 0)
        assert "begun" in {row.request_id for row in await app.state.sidecar.store.list()}
