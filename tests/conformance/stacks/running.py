"""The stacks as processes, each with a sidecar of its own that follows a script."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from chio_core.capabilities import issue_capability
from chio_core.signing import SigningKey
from chio_core.testing import Asked, Behaviour, ScriptedSidecar, behaviours
from tests.conformance.stacks.contract import SERVER, TOOL
from tests.conformance.stacks.drivers import DRIVERS, Driver
from tests.conformance.stacks.wire import Answer, Wire, exchange

ROOT = Path(__file__).resolve().parents[3]
MAX_BODY = 300_000
TIMEOUT = 2.0
"""Seconds: `CHIO_TIMEOUT` of every stack."""

TOKEN = issue_capability(
    SigningKey(bytes([0x31]) * 32),
    subject=SigningKey(bytes([0x32]) * 32).public_hex,
    scope={"grants": [{"server_id": SERVER, "tool_name": TOOL, "operations": ["invoke"]}]},
    ttl_seconds=3600,
).to_header()

T = TypeVar("T")


def usual(asked: Asked) -> Behaviour:
    """A sidecar's default policy: safe methods pass, others need a token."""
    free = asked.method in ("GET", "HEAD", "OPTIONS") or asked.capability_text is not None
    return behaviours.ALLOW if free else behaviours.DENY


@dataclass
class Outcome:
    """What came of one request on one stack: the answer, and what the sidecar was asked."""

    answer: Answer
    asked: list[Asked]


@dataclass
class Stack:
    """One stack that runs.

    Attributes:
        ports: where it listens, by `fail_open`.
        sidecar: the one that all its processes ask.
    """

    driver: Driver
    sidecar: ScriptedSidecar
    ports: dict[bool, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.driver.name

    def send(self, wire: Wire, *, fail_open: bool = False) -> Outcome:
        """Send one request; what the sidecar was asked meanwhile belongs to it."""
        before = len(self.sidecar.asked)
        answer = exchange(self.ports[fail_open], wire)
        return Outcome(answer, self.sidecar.asked[before:])


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
    def following(self, script: Behaviour | Callable[[Asked], Behaviour]) -> Iterator[None]:
        """Let all sidecars follow another script."""
        try:
            for one in self.all:
                one.sidecar.script = script
            yield
        finally:
            for one in self.all:
                one.sidecar.script = usual


@contextmanager
def running(folder: Path) -> Iterator[Stacks]:
    """Run all stacks, with `fail_open` and without; their output goes to files in `folder`."""
    with ExitStack() as ends:
        found = []
        for driver in DRIVERS:
            sidecar = ends.enter_context(ScriptedSidecar(usual).serving_in_thread())
            stack = Stack(driver, sidecar)
            for fail_open in (False, True):
                stack.ports[fail_open] = ends.enter_context(_process(stack, fail_open, folder))
            found.append(stack)
        yield Stacks(found)


@contextmanager
def _process(stack: Stack, fail_open: bool, folder: Path) -> Iterator[int]:
    # The socket listens before the server runs: whoever connects too early waits in its queue.
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
        try:
            yield int(listener.getsockname()[1])
            assert process.poll() is None, log.read_text()[-2000:]
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
