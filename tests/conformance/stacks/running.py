"""The stacks as processes, each with its own sidecar that follows a script."""

from __future__ import annotations

import os
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from chio_core.testing import Behaviour, EvaluateRequest, ScriptedSidecar, behaviours
from tests.conformance.stacks.drivers import DRIVERS, Driver
from tests.conformance.stacks.wire import Answer, Wire, exchange
from tests.faces.contract import SERVER, TOOL
from tests.tokens import token

ROOT = Path(__file__).resolve().parents[3]
MAX_BODY = 300_000
TIMEOUT = 8.0
"""Seconds: `CHIO_TIMEOUT` of every stack."""

TOKEN = token((SERVER, TOOL))

T = TypeVar("T")
Script = Behaviour | Callable[[EvaluateRequest], Behaviour]


def usual(asked: EvaluateRequest) -> Behaviour:
    """A sidecar's default policy: safe methods pass, others need a token."""
    free = asked.method in ("GET", "HEAD", "OPTIONS") or asked.capability_text is not None
    return behaviours.ALLOW if free else behaviours.DENY


def new_trace() -> str:
    """Return a `traceparent` that no other request has."""
    return f"00-{uuid.uuid4().hex}-{uuid.uuid4().hex[:16]}-01"


@dataclass(eq=False)
class Outcome:
    """What came of one request on one stack: the answer, and what the sidecar was asked.

    Attributes:
        trace: the `traceparent` that was added to the request, by which its questions are known; None if it could
            not be added.
    """

    answer: Answer
    asked: list[EvaluateRequest]
    trace: str | None


@dataclass
class Stack:
    """One stack that runs.

    Attributes:
        ports: where it listens, by `fail_open`.
        processes: its servers.
        sidecar: the one that all its processes ask.
    """

    driver: Driver
    sidecar: ScriptedSidecar = field(default_factory=lambda: ScriptedSidecar(usual))
    ports: dict[bool, int] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _serving: ExitStack = field(default_factory=ExitStack)

    @property
    def name(self) -> str:
        return self.driver.name

    def send(self, wire: Wire, *, fail_open: bool = False) -> Outcome:
        """Send one request; the questions with its trace belong to it."""
        trace = new_trace()
        traced = wire.traced(trace)
        before = len(self.sidecar.asked)
        answer = exchange(self.ports[fail_open], traced or wire)
        if traced is None:
            return Outcome(answer, self.sidecar.asked[before:], None)
        return Outcome(answer, self.asked(trace), trace)

    def asked(self, trace: str) -> list[EvaluateRequest]:
        """Return the questions about requests with a trace."""
        return [one for one in self.sidecar.asked if one.headers.get("traceparent") == trace]

    def serve_sidecar(self, script: Script, port: int = 0) -> None:
        """Let the sidecar listen, after it has stopped listening elsewhere."""
        self._serving.close()
        self.sidecar.script = script
        self._serving.enter_context(self.sidecar.serving_in_thread(port))

    def end_sidecar(self) -> None:
        """Close the sidecar's port."""
        self._serving.close()


@dataclass
class Stacks:
    """All stacks."""

    all: Sequence[Stack]

    def each(self, action: Callable[[Stack], T]) -> dict[str, T]:
        """Do something with all stacks at once; return what came out, by name."""
        with ThreadPoolExecutor(len(self.all)) as pool:
            return dict(zip([one.name for one in self.all], pool.map(action, self.all), strict=True))

    def send(self, wire: Wire, *, fail_open: bool = False) -> dict[str, Outcome]:
        """Send one request to all stacks."""
        return self.each(lambda stack: stack.send(wire, fail_open=fail_open))

    @contextmanager
    def following(self, script: Script) -> Iterator[None]:
        """Let all sidecars follow another script; one that refuses connections gives up its place for as long."""
        deaf = isinstance(script, Behaviour) and script.refuses
        ports = {one.name: urlsplit(one.sidecar.url).port or 0 for one in self.all}
        try:
            for one in self.all:
                one.sidecar.script = script
                if deaf:
                    one.serve_sidecar(script, ports[one.name])
            yield
        finally:
            for one in self.all:
                one.sidecar.script = usual
                if deaf:
                    one.serve_sidecar(usual, ports[one.name])


@contextmanager
def running(folder: Path) -> Iterator[Stacks]:
    """Run all stacks, with `fail_open` and without; their output goes to files in `folder`."""
    with ExitStack() as ends:
        found: list[Stack] = []
        for driver in DRIVERS:
            stack = Stack(driver)
            stack.serve_sidecar(usual)
            ends.callback(stack.end_sidecar)
            for fail_open in (False, True):
                ends.enter_context(_process(stack, fail_open, folder))
            found.append(stack)
        yield Stacks(found)
        for process in [process for stack in found for process in stack.processes]:
            process.terminate()  # all at once, before each is waited for


@contextmanager
def _process(stack: Stack, fail_open: bool, folder: Path) -> Iterator[None]:
    # The socket listens before the server runs: a client that connects too early waits in its queue.
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        log = folder / f"{stack.name}-{'open' if fail_open else 'closed'}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                stack.driver.command(listener.fileno()),
                cwd=ROOT,
                env=_environment(stack.sidecar, fail_open),
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        stack.ports[fail_open] = listener.getsockname()[1]
        stack.processes.append(process)
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


def _environment(sidecar: ScriptedSidecar, fail_open: bool) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHIO_", "PYTHONPATH"))}
    chio: dict[str, Any] = {
        "SIDECAR_URL": sidecar.url,
        "TRUSTED_KERNEL_KEYS": sidecar.public_key,
        "FAIL_OPEN": fail_open,
        "TIMEOUT": TIMEOUT,
        "EXCLUDE_PATHS": "/healthz",
        "EXCLUDE_PREFIXES": "/static",
        "MAX_BODY_BYTES": MAX_BODY,
        "SPOOL_BYTES": 10_000,
    }
    paths = f"{ROOT}:{ROOT / 'adapters'}"
    return {**kept, "PYTHONPATH": paths, **{f"CHIO_{name}": str(value) for name, value in chio.items()}}
