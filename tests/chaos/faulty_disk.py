"""Applications with an embedded sidecar whose disk fails: `faulty_disk.py FOLDER FAULT…`, a process for each fault.

A fault is `CALL:N:HOW`: the N-th `open`, `write`, `sync` or `truncate` of SQLite fails with `full` or `error`, or the
process dies there (`kill`). SQLite itself has a place for that, a VFS above its own, so no tracer is needed.

Each line is written at once: `FAULT STATUS RECEIPT` with `-` without a receipt, `FAULT ran` by the handler, and
`FAULT met` at the call. The store is `FOLDER/FAULT/receipts.sqlite3`.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from chio_asgi import ChioASGIConfig, ChioASGIMiddleware
from chio_core.client.client import ChioClient
from chio_sidecar.store.driver import sqlite3
from tests.support import call

COUNT = 6
"""Requests of one run."""

FULL = 13  # SQLITE_FULL
CODES = {"open": 14, "write": 10 | 3 << 8, "sync": 10 | 4 << 8, "truncate": 10 | 6 << 8}
"""`SQLITE_CANTOPEN`, and `SQLITE_IOERR_` of the call."""

PLACES = {"write": 3, "truncate": 4, "sync": 5}
"""Where `sqlite3_io_methods` has the call, in words; its first word is a version, and it has 19."""

Word = ctypes.c_void_p
Open = ctypes.CFUNCTYPE(ctypes.c_int, Word, Word, Word, ctypes.c_int, Word)
Call = ctypes.CFUNCTYPE(ctypes.c_int, Word, Word, ctypes.c_int64, ctypes.c_int64)
"""Takes as many words as the longest call; the shorter ones ignore those that they do not have."""


class Vfs(ctypes.Structure):
    """`sqlite3_vfs`, as far as its fourth call."""

    _fields_ = [
        ("version", ctypes.c_int), ("file_size", ctypes.c_int), ("longest_path", ctypes.c_int), ("next", Word),
        ("name", ctypes.c_char_p), ("data", Word), ("open", Word), ("others", Word * 15),
    ]  # fmt: skip


class FaultyDisk:
    """SQLite's own VFS, with one call that fails. It stays the process's default.

    Args:
        fault: as in the module's docstring.
    """

    def __init__(self, fault: str) -> None:
        self._fault = fault
        self._name, number, self._how = fault.split(":")
        self._left = int(number)
        self._kept: list[Any] = []  # only C code refers to these
        library = _library()
        library.sqlite3_vfs_find.restype = Word
        own = library.sqlite3_vfs_find(None)
        self._vfs = Vfs.from_buffer_copy(ctypes.string_at(own, ctypes.sizeof(Vfs)))
        self._vfs.name = b"faulty"
        self._really_open = Open(self._vfs.open)
        opens = Open(self._open)
        self._vfs.open = ctypes.cast(opens, Word).value
        self._kept.append(opens)
        assert library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1) == 0

    def _code(self, name: str) -> int:
        """Return the code with which this call fails; 0 if it does not."""
        if name != self._name:
            return 0
        self._left -= 1
        if self._left != 0:
            return 0
        say(self._fault, "met")
        if self._how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return FULL if self._how == "full" else CODES[name]

    def _open(self, vfs: int, path: int, file: int, flags: int, out: int) -> int:
        methods = Word.from_address(file)
        if code := self._code("open"):
            methods.value = None  # SQLite closes only a file that has methods
            return code
        code = self._really_open(vfs, path, file, flags, out)
        if code == 0 and methods.value:
            table = (Word * 19).from_buffer_copy(ctypes.string_at(methods.value, 19 * ctypes.sizeof(Word)))
            for name, place in PLACES.items():
                faulty = self._faulty(name, Call(table[place] or 0))
                table[place] = ctypes.cast(faulty, Word).value
                self._kept.append(faulty)
            self._kept.append(table)
            methods.value = ctypes.addressof(table)
        return code

    def _faulty(self, name: str, really: Any) -> Any:
        return Call(lambda *words: self._code(name) or really(*words))


def _library() -> ctypes.CDLL:
    """Return the SQLite that stores are written with."""
    module = {"sqlite3": "_sqlite3", "pysqlite3.dbapi2": "pysqlite3._sqlite3"}[sqlite3.__name__]
    return ctypes.CDLL(importlib.import_module(module).__file__)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def serve(folder: Path, fault: str) -> None:
    """Send requests to an application whose sidecar fails; with `fail_open`, which must not count for it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        say(fault, "ran")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    url = f"embedded:{folder / 'receipts.sqlite3'}"
    async with ChioClient(ChioASGIConfig(sidecar_url=url, fail_open=True, _env_file=None)) as client:
        governed = ChioASGIMiddleware(app, client=client)
        for number in range(COUNT):
            reply = await call(governed, "GET", f"/{number}")
            say(fault, reply.status, reply.receipt or "-")


if __name__ == "__main__":
    for one in sys.argv[2:]:
        if (child := os.fork()) == 0:
            place = Path(sys.argv[1], one)
            place.mkdir()
            disk = FaultyDisk(one)  # SQLite refers to it until the process ends
            asyncio.run(serve(place, one))
            os._exit(0)
        os.waitpid(child, 0)
