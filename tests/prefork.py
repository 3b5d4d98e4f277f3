"""Programs in Python as processes that begin as copies of one that has imported the sidecar: in 20 ms instead of 700.

`run` and `Process` are for tests of what a program does. One that promises something of the start itself, for example
which libraries it imports, starts an interpreter with `subprocess`. All copies end with the tests, also if those are
killed.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from subprocess import PIPE
from typing import Any, Self, TextIO

ROOT = Path(__file__).parents[1]
PR_SET_PDEATHSIG = 1
DEADLINE = 120.0
"""Seconds in which a process must end."""
_RUNNING: list[tuple[socket.socket, subprocess.Popen[bytes]]] = []


class Process:
    """A running copy, with the part of `subprocess.Popen` that the tests use.

    Args:
        module: what `python -m` would run.
        stdin, stdout, stderr: files, or their numbers; PIPE for an output that is read here, as the attribute.
        env: its environment; of what is for the interpreter, PYTHONPATH, PYTHONUNBUFFERED and PYTHONIOENCODING count.
        cwd: its folder.
    """

    stdout: TextIO
    stderr: TextIO

    def __init__(
        self,
        module: str,
        arguments: Sequence[object],
        *,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        env: Mapping[str, str],
        cwd: Path | None = None,
    ) -> None:
        order = {"argv": [module, *map(str, arguments)], "env": dict(env), "cwd": str(cwd or os.getcwd())}
        with ExitStack() as passed:
            files: list[int] = []
            for name, file in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
                if file is PIPE:
                    reading, file = os.pipe()
                    passed.callback(os.close, file)
                    setattr(self, name, os.fdopen(reading))
                elif file is None:
                    file = passed.enter_context(open(os.devnull, "r+"))
                files.append(file if isinstance(file, int) else file.fileno())
            self._status, theirs = socket.socketpair()
            passed.enter_context(theirs)
            socket.send_fds(_original(), [json.dumps(order).encode()], [*files, theirs.fileno()])
        self._lines = self._status.makefile("r")
        self.pid = int(self._lines.readline())
        self.returncode: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Wait for its end, and close what was read here."""
        self.wait(DEADLINE)
        for name in ("stdout", "stderr"):
            if hasattr(self, name):
                getattr(self, name).close()

    def communicate(self, timeout: float) -> tuple[str, None]:
        """Return all that it writes to its standard output, once it has ended; the other is None as it is not read."""
        with self:
            text = self.stdout.read()
            self.wait(timeout)
        return text, None

    def poll(self) -> int | None:
        """Return how it ended, as `subprocess` counts; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Return how it ended.

        Raises:
            subprocess.TimeoutExpired: it has not.
        """
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            self.returncode = int(self._lines.readline())
            self._lines.close()
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    module: str,
    arguments: Sequence[object],
    *,
    stdin: Any = None,
    env: Mapping[str, str],
    cwd: Path | None = None,
    timeout: float,
) -> subprocess.CompletedProcess[str]:
    """Run a module to its end and return what it printed; `stdin` is a text, a file or None."""
    with ExitStack() as opened:
        out, err, text = (opened.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        if isinstance(stdin, str):
            text.write(stdin.encode())
            text.seek(0)
            stdin = text
        process = Process(module, arguments, stdin=stdin, stdout=out, stderr=err, env=env, cwd=cwd)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout)
            raise
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess([module, *arguments], process.wait(0), *texts)


@cache
def _original() -> socket.socket:
    """Start the process that is copied, once for each process of tests."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.set_inheritable(False)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.prefork", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    _RUNNING.append((ours, process))
    return ours


def end() -> None:
    """End the process that is copied, at the end of all tests."""
    for channel, process in _RUNNING:
        channel.close()
        process.wait()


# What follows runs in the process that is copied, and in its copies.


def _serve(channel: socket.socket) -> None:
    import chio_sidecar

    for module in pkgutil.walk_packages(chio_sidecar.__path__, "chio_sidecar."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("uvicorn.protocols.http.httptools_impl", "uvicorn.lifespan.on", "uvloop", "httpx", "tests.support"):
        importlib.import_module(name)
    while True:
        message, files, _, _ = socket.recv_fds(channel, 1 << 20, 4)
        if not message:
            break
        if os.fork() == 0:
            channel.close()
            _watch(json.loads(message), files)
        for file in files:
            os.close(file)
        _reap()
    _reap()
    os._exit(0)


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _watch(order: dict[str, Any], files: list[int]) -> None:
    """Start the program, and tell its id and how it ended. This process ends with the original, the program with it."""
    *files, status = files
    _end_with(os.getppid())
    watcher, child = os.getpid(), os.fork()
    if child == 0:
        os.close(status)
        _end_with(watcher)
        _become(order, files)
    for file in files:
        os.close(file)
    os.write(status, b"%d\n" % child)
    _, ended = os.waitpid(child, 0)
    with suppress(BrokenPipeError):
        os.write(status, b"%d\n" % os.waitstatus_to_exitcode(ended))
    os._exit(0)


def _end_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before that
        os._exit(1)


def _become(order: dict[str, Any], files: list[int]) -> None:
    """Run a module as `python -m` does, and end as the interpreter does."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    sys.argv = order["argv"]
    sys.path[:1] = [order["cwd"], *filter(None, order["env"].get("PYTHONPATH", "").split(os.pathsep))]
    encoding = os.environ.get("PYTHONIOENCODING") or None
    sys.stdin, sys.stdout = os.fdopen(0, encoding=encoding), os.fdopen(1, "w", encoding=encoding)
    sys.stderr = os.fdopen(2, "w", 1, encoding=encoding, errors="backslashreplace")
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in its background
    code: Any = 0
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as exc:
        code = exc.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        code = 1
    with suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
