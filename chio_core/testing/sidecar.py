"""ScriptedSidecar: a sidecar that does what a test says, and that otherwise is a real one.

It reads real questions, signs real receipts with a real key, and speaks real HTTP when it is asked to. What it
lacks is a policy and a store. One object has four faces:

* `client()` and `transport()`: no sockets at all, for asynchronous applications;
* the object itself is an ASGI application, to be mounted or served;
* `serving()`: a TCP server on loopback in the running event loop;
* `serving_in_thread()`: the same in a thread, for Django, Flask and other synchronous code.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx

from chio_core.canonical import parse_json
from chio_core.client.client import ChioClient
from chio_core.errors import ConfigurationError, InvalidDocument, ReceiptRejected
from chio_core.evaluation.exchange import EVALUATE_PATH
from chio_core.receipts import verify_receipt
from chio_core.settings import ChioSettings
from chio_core.signing import SigningKey
from chio_core.testing.behaviours import ALLOW, Behaviour, Reply
from chio_core.testing.question import Asked, compact
from chio_core.testing.transport import ScriptedTransport, serve_asgi
from chio_core.testing.wire import MAX_HEAD, Call, carry_out, head_of, read_call

Script = Behaviour | Callable[[Asked], Behaviour]
"""A behaviour, or a function that chooses one for each question."""

KEY = SigningKey(bytes([0x5C]) * 32)
"""The key of a scripted sidecar that is given none: 32 bytes of 0x5c. Everybody knows it."""


class ScriptedSidecar:
    """A sidecar for tests.

    Args:
        script: what it does with a question; allows by default. May be changed at any time.
        key: what it signs with.
        clock: returns seconds since 1970, the time that receipts state.

    Attributes:
        script: see above.
        key: see above.
        asked: every question so far, in order.
    """

    def __init__(
        self, script: Script = ALLOW, *, key: SigningKey = KEY, clock: Callable[[], float] = time.time
    ) -> None:
        self.script = script
        self.key = key
        self.asked: list[Asked] = []
        self._clock = clock
        self._url: str | None = None

    @property
    def public_key(self) -> str:
        """The key to pin, in hex."""
        return self.key.public_hex

    @property
    def url(self) -> str:
        """Where it listens.

        Raises:
            ConfigurationError: it does not; see `serving` and `serving_in_thread`.
        """
        if self._url is None:
            raise ConfigurationError("this sidecar has no address; use `with sidecar.serving_in_thread():`")
        return self._url

    def settings(self, **options: Any) -> ChioSettings:
        """Return settings that point here and pin its key.

        Args:
            options: further options, or other values for these two.
        """
        where = {"sidecar_url": self._url or "http://localhost", "trusted_kernel_keys": [self.public_key]}
        return ChioSettings(**{**where, **options})

    def client(self, **options: Any) -> ChioClient:
        """Return a client that asks this sidecar without any socket.

        Args:
            options: options of `ChioSettings`.
        """
        return ChioClient(self.settings(**options), transport=self.transport())

    def transport(self) -> httpx.AsyncBaseTransport:
        """Return an httpx transport to this sidecar that needs no socket."""
        return ScriptedTransport(self.behave)

    def behave(self, call: Call) -> tuple[Behaviour | None, Reply]:
        """Return what this sidecar does with a call: the behaviour, None for paths without one, and the answer."""
        if call.path.partition("?")[0] != EVALUATE_PATH or call.method != "POST":
            return None, self._other(call)
        try:
            document = parse_json(call.body)
        except InvalidDocument as exc:
            return None, _bad_request(exc)
        asked = Asked(document, call.headers, call.body, self.key, self._clock())
        self.asked.append(asked)
        chosen = self.script if isinstance(self.script, Behaviour) else self.script(asked)
        return chosen, chosen.reply(asked)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer as an ASGI application; a fault of the connection is an exception at that place."""
        await serve_asgi(self.behave, scope, receive, send)

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[ScriptedSidecar]:
        """Listen on a port of 127.0.0.1 for as long as the context lasts; `url` says where.

        With a script that refuses connections the port is taken, but nobody listens.

        Args:
            port: a certain one, for a sidecar that comes back where it was; otherwise any that is free.
        """
        listener = _deaf_socket(port) if self._refuses() else socket.create_server(("127.0.0.1", port))
        self._url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        connections: set[asyncio.Task[Any]] = set()
        try:
            if self._refuses():
                yield self
            else:
                server = await asyncio.start_server(self._connection(connections), sock=listener, limit=MAX_HEAD)
                async with server:
                    try:
                        yield self
                    finally:
                        # Before the server is left: since Python 3.12 that waits for the connections.
                        server.close()
                        await _end(connections)
        finally:
            self._url = None
            listener.close()

    @contextmanager
    def serving_in_thread(self, port: int = 0) -> Iterator[ScriptedSidecar]:
        """Do the same as `serving` in a thread of its own, for synchronous code."""
        ready, done = threading.Event(), asyncio.Event()
        runner = asyncio.Runner(
            loop_factory=asyncio.new_event_loop
        )  # with a factory it leaves this thread's loop alone
        loop = runner.get_loop()

        async def serve() -> None:
            try:
                async with self.serving(port):
                    ready.set()
                    await done.wait()
            finally:
                ready.set()

        def work() -> None:
            with runner:
                runner.run(serve())

        thread = threading.Thread(target=work, name="scripted-sidecar", daemon=True)
        thread.start()
        ready.wait()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(done.set)
            thread.join()

    def _refuses(self) -> bool:
        return isinstance(self.script, Behaviour) and self.script.refuses

    def _connection(self, connections: set[asyncio.Task[Any]]) -> Any:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            if task is not None:
                connections.add(task)
                task.add_done_callback(connections.discard)
            try:
                while (call := await read_call(reader)) is not None:
                    behaviour, reply = self.behave(call)
                    if behaviour is not None and behaviour.refuses:
                        break  # it listens already, so this is the nearest that it can do
                    head = head_of(reply)
                    steps = behaviour.delivery(head, reply.body) if behaviour else iter([head + reply.body])
                    if not await carry_out(steps, writer):
                        break
            except (ConnectionError, asyncio.CancelledError):
                pass  # the client went away first, or the sidecar ends: nobody waits for this task
            finally:
                writer.close()

        return connected

    def _other(self, call: Call) -> Reply:
        route = (call.method, call.path.partition("?")[0])
        if route == ("GET", "/chio/health"):
            return Reply(compact({"status": "healthy", "version": "0.1.0"}))
        if route == ("POST", "/chio/verify"):
            return self._verify(call)
        return Reply(compact({"error": "chio_not_found", "message": "the scripted sidecar has no such path"}), 404)

    def _verify(self, call: Call) -> Reply:
        try:
            verify_receipt(parse_json(call.body))
        except InvalidDocument as exc:
            return _bad_request(exc)
        except ReceiptRejected:
            return Reply(compact({"valid": False}))
        return Reply(compact({"valid": True}))


_TICKS = 3
"""Turns of the loop after which a connection that was accepted last has its task, and the task has begun."""


def _bad_request(exc: InvalidDocument) -> Reply:
    return Reply(compact({"error": "chio_bad_request", "message": exc.message}), 400)


def _deaf_socket(port: int) -> socket.socket:
    # Bound but not listening: the port is nobody else's, and connecting to it is refused.
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(("127.0.0.1", port))
    return found


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    for _ in range(_TICKS):
        await asyncio.sleep(0)
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
