"""Group commit: one thread, one connection, one transaction for everybody who waits.

A caller hands in a piece of work and gets an asyncio future. The thread takes whatever waits, runs it in one
`BEGIN IMMEDIATE … COMMIT`, and only then settles the futures, with one wake-up for each event loop. Under load
the batches grow by themselves, so the price of forcing a commit to the disk is shared.

What can go wrong, and what happens then:

* another process holds the file: the attempt is repeated until the deadline of each piece of work;
* the disk is full, or reading and writing fail: all of the batch fails, the connection is opened anew for the
  next one, so the store recovers without a restart;
* one piece of work fails by itself: the transaction is undone, and every piece runs again alone.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from chio_core.telemetry.metrics import Counter, Histogram
from chio_sidecar.store import StoreBusy, StoreUnavailable

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class CommitActivity:
    """Figures of one writer; noted by its thread, read by any.

    Args:
        waiting: returns how many pieces of work wait to be written.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._size = Histogram("chio_sidecar_commit_size", "Pieces of work that one commit took along.", _SIZES)
        self._seconds = Histogram("chio_sidecar_commit_seconds", "Seconds from taking work up to its commit.")
        self._failed = Counter("chio_sidecar_commit_failures_total", "Pieces of work that could not be written.")
        self._waiting = waiting

    def note(self, size: int, failed: int, seconds: float) -> None:
        """Note one batch.

        Args:
            size: pieces of work in it.
            failed: how many of them could not be written.
            seconds: how long it took.
        """
        self._size.observe(size)
        self._seconds.observe(seconds)
        for _ in range(failed):
            self._failed.add()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics for a registry of `prometheus_client`."""
        from prometheus_client.core import GaugeMetricFamily

        for collector in (self._size, self._seconds, self._failed):
            yield from collector.collect()
        yield GaugeMetricFamily(
            "chio_sidecar_commit_waiting", "Pieces of work that wait to be written.", self._waiting()
        )


log = logging.getLogger(__name__)

W = TypeVar("W", contravariant=True)


class Writer(Protocol[W]):
    """What the thread works with."""

    def open(self) -> sqlite3.Connection:
        """Open the connection, without a busy timeout: the waiting is done by the committer."""
        ...

    def apply(self, connection: sqlite3.Connection, works: Sequence[W]) -> Sequence[Any]:
        """Do pieces of work inside the open transaction and return a result for each.

        It must not commit, and must leave nothing but rows behind: it may be undone and called again.
        """
        ...

    def release(self, connection: sqlite3.Connection) -> None:
        """Close the connection for good, after the last transaction."""
        ...


_BATCH = 256
# Waiting for another process: SQLite's own handler would sleep for up to 100 ms at a time.
_POLL_SECONDS = 0.001
# SQLite's locks know no order. Whoever met another writer lets go for a moment after each commit, for a while.
_POLITE_SECONDS = 0.002
_CONTENTION_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class _Job:
    work: Any
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    deadline: float
    result: Any = None
    error: Exception | None = None


class GroupCommitter(Generic[W]):
    """The one writer of a store.

    Args:
        writer: opens the file and does the work.
        wait_seconds: how long one piece of work may wait for a file that another process holds.
        max_waiting: pieces of work that may wait at once.

    Attributes:
        activity: what has been written so far, in figures.
    """

    def __init__(self, writer: Writer[W], *, wait_seconds: float, max_waiting: int) -> None:
        self._writer = writer
        self._wait_seconds = wait_seconds
        self._max_waiting = max_waiting
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._connection: sqlite3.Connection | None = None
        self._contended_until = 0.0
        self._process = os.getpid()
        self.activity = CommitActivity(self._queue.qsize)
        self._thread = threading.Thread(target=self._run, name="chio-receipt-writer", daemon=True)
        self._thread.start()
        atexit.register(self.shutdown)  # until the thread has ended: what waits is written when the program ends

    def submit(self, work: W) -> asyncio.Future[Any]:
        """Queue a piece of work; the future settles after the commit. Call it in a running event loop.

        Raises:
            StoreBusy: too much waits already.
            StoreUnavailable: the store is closed, or belongs to the process that this one was forked from.
        """
        if os.getpid() != self._process:
            raise StoreUnavailable("the store was opened before this process was forked; open it after the fork")
        loop = asyncio.get_running_loop()
        job = _Job(work, loop, loop.create_future(), time.monotonic() + self._wait_seconds)
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the receipt store is closed")
            if self._queue.qsize() >= self._max_waiting:
                raise StoreBusy("too many receipts wait to be stored; try again later")
            self._queue.put(job)
        return job.future

    def shutdown(self) -> None:
        """Write what waits, then stop the thread and close the file. Blocks; may be called twice."""
        if os.getpid() != self._process:
            return  # the thread stayed in the parent process
        with self._lock:
            if not self._closed:
                self.forget()
        self._thread.join()

    def forget(self) -> None:
        """Do the same without waiting, when nobody can submit any more.

        For the garbage collector: it comes in any thread, also in one that holds a lock which this thread needs.
        """
        if os.getpid() == self._process:
            self._closed = True
            self._queue.put(None)

    def _run(self) -> None:
        while batch := self._take():
            began = time.perf_counter()
            self._write(batch)
            self.activity.note(len(batch), sum(job.error is not None for job in batch), time.perf_counter() - began)
            _settle_all(batch)
            if self._contended_until > time.monotonic():
                time.sleep(_POLITE_SECONDS)
        if self._connection is not None:
            self._writer.release(self._connection)
        atexit.unregister(self.shutdown)

    def _take(self) -> list[_Job]:
        first = self._queue.get()
        if first is None:
            return []
        batch = [first]
        while len(batch) < _BATCH:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._queue.put(None)  # finish this batch, then stop
                break
            batch.append(job)
        return batch

    def _write(self, batch: list[_Job]) -> None:
        try:
            self._transaction(batch)
        except Exception as exc:  # noqa: BLE001 - whatever one piece of work raises goes to its caller
            if _is_of_the_store(exc):
                self._drop_connection()
                _fail(batch, _sentence(exc))
            elif len(batch) == 1:
                batch[0].error = exc
            else:
                for job in batch:
                    if job.error is None:
                        self._write([job])

    def _transaction(self, batch: list[_Job]) -> None:
        waiting = batch
        while waiting:
            try:
                connection = self._begin()
            except sqlite3.OperationalError as exc:
                self._pause_if_busy(exc)
                waiting = _give_up(waiting)
            else:
                self._run_inside(connection, waiting)
                return

    def _begin(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._writer.open()
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def _run_inside(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        try:
            results = self._writer.apply(connection, [job.work for job in jobs])
            self._finish(connection, max(job.deadline for job in jobs))
            for job, result in zip(jobs, results, strict=True):
                job.result = result
        except BaseException:
            _undo(connection)
            raise

    def _finish(self, connection: sqlite3.Connection, deadline: float) -> None:
        # A reader may stand in the way of a commit; the transaction stays open meanwhile.
        while True:
            try:
                connection.execute("COMMIT")
            except sqlite3.OperationalError as exc:
                if time.monotonic() >= deadline:
                    raise
                self._pause_if_busy(exc)
            else:
                return

    def _pause_if_busy(self, exc: sqlite3.OperationalError) -> None:
        if not _is_busy(exc):
            raise exc
        self._contended_until = time.monotonic() + _CONTENTION_SECONDS
        time.sleep(_POLL_SECONDS)

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _undo(connection: sqlite3.Connection) -> None:
    if not connection.in_transaction:
        return
    try:
        connection.execute("ROLLBACK")
    except sqlite3.Error as exc:
        log.error("receipt store: rolling back failed: %s", exc)


def _give_up(jobs: list[_Job]) -> list[_Job]:
    now = time.monotonic()
    _fail([job for job in jobs if job.deadline <= now], _LOCKED)
    return [job for job in jobs if job.deadline > now]


def _fail(jobs: list[_Job], sentence: str) -> None:
    for job in jobs:
        job.error = StoreUnavailable(sentence)


def _settle_all(batch: list[_Job]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in batch:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, jobs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, jobs)
        except RuntimeError:
            # The loop is closed, so nobody waits any more. What was stored stays stored.
            log.debug("receipt store: %d results had no one to receive them", len(jobs))


def _settle(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue  # whoever asked was cancelled
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)


_LOCKED = "the receipt store is locked by another process"


def _is_busy(exc: Exception) -> bool:
    code = getattr(exc, "sqlite_errorcode", 0)
    return (code & 0xFF) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _is_of_the_store(exc: Exception) -> bool:
    # The other children of sqlite3.Error blame the statement or its values, so one piece of work.
    return isinstance(exc, sqlite3.OperationalError) or type(exc) is sqlite3.DatabaseError


def _sentence(exc: Exception) -> str:
    if _is_busy(exc):
        return _LOCKED
    log.error("receipt store: %s", exc)
    return f"the receipt store cannot be written: {exc}"
