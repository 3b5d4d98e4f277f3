"""Group commit: one thread, one connection, one transaction for all waiting work.

A caller submits a piece of work and gets an asyncio future. What callers of one event loop submit while it handles what
was ready is handed over together: a thread that is woken by the first piece would commit that alone, and compete with
the loop for the interpreter meanwhile. The thread takes all work that was handed over, runs it in one transaction, and
only then sets the results of the futures, with one wake-up for each event loop. Under load the batches grow, so many
pieces of work share the price of forcing a commit to the disk.

Failures:

* another process holds the database: the thread tries again until the deadline of each piece of work;
* the disk is full, or reading or writing fails: the whole batch fails, and the next batch opens the connection again,
  so the store recovers without a restart;
* one piece of work fails: the transaction is undone, and each piece runs again in its own transaction.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from chio_core.concurrency.processes import require_threads
from chio_core.telemetry.metrics import Counter, Histogram
from chio_sidecar.store import StoreBusy, StoreUnavailable
from chio_sidecar.store.driver import Trouble

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class CommitActivity:
    """Metrics of one writer, written by its thread and read by any.

    Args:
        waiting: returns the number of pieces of work that wait.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._size = Histogram("chio_sidecar_commit_size", "Pieces of work that one commit took along.", _SIZES)
        self._seconds = Histogram("chio_sidecar_commit_seconds", "Seconds from taking work up to its commit.")
        self._failed = Counter("chio_sidecar_commit_failures_total", "Pieces of work that could not be written.")
        self._waiting = waiting

    def note(self, size: int, failed: int, seconds: float) -> None:
        """Count one batch.

        Args:
            size: pieces of work in it.
            failed: number of them that could not be written.
            seconds: its duration.
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
C = TypeVar("C")


class Writer(Protocol[W, C]):
    """The database of a committer; only its thread calls these methods."""

    def open(self) -> C:
        """Open a connection that does not wait for other processes: the committer waits."""
        ...

    def has_ended(self, connection: C) -> bool:
        """Return True if the database has closed the connection since its last use."""
        ...

    def begin(self, connection: C) -> None:
        """Begin a transaction."""
        ...

    def apply(self, connection: C, works: Sequence[W]) -> Sequence[Any]:
        """Do pieces of work inside the open transaction and return a result for each.

        It must not commit, and have no effect but rows: it may be undone and called again.
        """
        ...

    def commit(self, connection: C) -> None:
        """Commit durably."""
        ...

    def rollback(self, connection: C) -> None:
        """Undo an open transaction, if there is one."""
        ...

    def trouble(self, exc: Exception) -> Trouble | None:
        """Return what an exception says about the database; None if it is about one piece of work."""
        ...

    def discard(self, connection: C) -> None:
        """Close a connection that may be broken, in any state."""
        ...

    def release(self, connection: C) -> None:
        """Close the connection after the last transaction."""
        ...


_COMMITTERS: weakref.WeakSet[GroupCommitter[Any]] = weakref.WeakSet()
_FORKING: list[GroupCommitter[Any]] = []


def _before_fork() -> None:
    _FORKING.extend(_COMMITTERS)
    for committer in _FORKING:
        committer.before_fork()


def _after_fork() -> None:
    while _FORKING:
        _FORKING.pop().after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


_LOCKED = "the receipt store is locked by another process"
_BATCH = 256
_GROUP = 8  # so many are handed over at once, and commit while the loop works on the next
# While another process holds the file: SQLite's own handler would sleep for up to 100 ms at a time.
_POLL_SECONDS = 0.001
# SQLite's locks know no order: after contention this writer pauses after each commit for a while, so others get a turn.
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
        max_waiting: number of pieces of work that may wait.

    Attributes:
        activity: metrics of the writing.
    """

    def __init__(self, writer: Writer[W, Any], *, wait_seconds: float, max_waiting: int) -> None:
        require_threads("a receipt store")
        self._writer = writer
        self._wait_seconds = wait_seconds
        self._max_waiting = max_waiting
        self._groups: dict[asyncio.AbstractEventLoop, list[_Job]] = {}  # submitted, and not yet handed over
        self._queue: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()
        self._closed = False
        self._connection: Any = None
        self._contended_until = 0.0
        self._process = os.getpid()
        self._writing = threading.Lock()  # held during a batch, and during a fork
        _COMMITTERS.add(self)
        self.activity = CommitActivity(lambda: self._waiting)
        self._thread = threading.Thread(target=self._run, name="chio-receipt-writer", daemon=True)
        self._thread.start()
        atexit.register(self.shutdown)  # waiting work is written when the program ends

    def submit(self, work: W) -> asyncio.Future[Any]:
        """Queue a piece of work; its future has a result after the commit. Call it in a running event loop.

        Raises:
            StoreBusy: too much work waits.
            StoreUnavailable: the store is closed, or was opened before this process was forked.
        """
        if os.getpid() != self._process:
            raise StoreUnavailable("the store was opened before this process was forked; open it after the fork")
        loop = asyncio.get_running_loop()
        job = _Job(work, loop, loop.create_future(), time.monotonic() + self._wait_seconds)
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the receipt store is closed")
            if self._waiting >= self._max_waiting:
                raise StoreBusy("too many receipts wait to be stored; try again later")
            self._waiting += 1
            group = self._groups.get(loop)
            if group is None:
                group = self._groups[loop] = []
                loop.call_soon(self._hand_over, loop)
            group.append(job)
            if len(group) >= _GROUP:
                self._hand_over(loop)
        return job.future

    def shutdown(self) -> None:
        """Write what waits, then stop the thread and close the file. Blocks; a second call does nothing."""
        if os.getpid() != self._process:
            return  # the thread exists in the parent process only
        with self._lock:
            if not self._closed:
                self.forget()
        self._thread.join()

    def forget(self) -> None:
        """Do the same without blocking, after the last `submit`.

        The garbage collector calls it, in any thread: also in one that holds a lock which the writer needs.
        """
        if os.getpid() == self._process:
            self._closed = True
            for loop in list(self._groups):
                self._hand_over(loop)
            self._queue.put(None)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the thread what the callers of a loop have submitted, once."""
        group = self._groups.pop(loop, None)  # atomic: `submit` adds to a group only while it is in here
        if group is not None:
            self._queue.put(group)

    def _run(self) -> None:
        while batch := self._take():
            started = time.perf_counter()
            with self._writing:
                self._write(batch)
            self.activity.note(len(batch), sum(job.error is not None for job in batch), time.perf_counter() - started)
            by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
            for job in batch:
                by_loop.setdefault(job.loop, []).append(job)
            for loop, jobs in by_loop.items():
                try:
                    loop.call_soon_threadsafe(_set_results, jobs)
                except RuntimeError:
                    # The loop is closed, so no caller waits any more. What was stored stays stored.
                    log.debug("receipt store: %d results had no one to receive them", len(jobs))
            if self._contended_until > time.monotonic():
                time.sleep(_POLITE_SECONDS)
        if self._connection is not None:
            self._writer.release(self._connection)
        atexit.unregister(self.shutdown)

    def before_fork(self) -> None:
        """Close the file between two batches, so that the child gets no open database; the next batch opens it again.

        SQLite keeps its locks in memory: a child with a copy of an open connection would believe to hold them.
        """
        self._writing.acquire()
        self._discard()

    def after_fork(self) -> None:
        """Let the next batch be written."""
        self._writing.release()

    def _take(self) -> list[_Job]:
        """Wait for work and return it; nothing once the committer is closed."""
        group = self._queue.get()
        batch: list[_Job] = []
        while group is not None:
            batch += group
            try:
                if len(batch) >= _BATCH:
                    break
                group = self._queue.get_nowait()
            except queue.Empty:
                break
        else:
            if batch:
                self._queue.put(None)  # finish this batch, then stop
        with self._lock:
            self._waiting -= len(batch)
        return batch

    def _write(self, batch: list[_Job]) -> None:
        """Write a batch, and give each job its result or error."""
        try:
            self._transaction(batch)
        except Exception as exc:  # noqa: BLE001 - whatever one piece of work raises goes to its caller
            trouble = self._writer.trouble(exc)
            if trouble is not None:
                self._discard()
                sentence = _LOCKED
                if trouble.kind != "busy":
                    log.error("receipt store: %s", trouble)
                    sentence = f"the receipt store cannot be written: {trouble}"
                _fail(batch, sentence)
            elif len(batch) == 1:
                batch[0].error = exc
            else:
                for job in batch:
                    if job.error is None:
                        self._write([job])

    def _transaction(self, batch: list[_Job]) -> None:
        """Write a batch in one transaction; a job whose deadline passes before it starts fails."""
        while True:
            try:
                # Databases, and what is between, close connections that are idle. Nothing of this batch has been sent.
                if self._connection is not None and self._writer.has_ended(self._connection):
                    self._discard()
                if self._connection is None:
                    self._connection = self._writer.open()
                connection = self._connection
                self._writer.begin(connection)
                break
            except Exception as exc:  # noqa: BLE001 - raised again unless the database is busy
                self._pause_if_busy(exc)
                now = time.monotonic()
                _fail([job for job in batch if job.deadline <= now], _LOCKED)
                batch = [job for job in batch if job.deadline > now]
                if not batch:
                    return
        try:
            results = self._writer.apply(connection, [job.work for job in batch])
            # A reader may block the commit; the transaction stays open meanwhile.
            deadline = max(job.deadline for job in batch)
            while True:
                try:
                    self._writer.commit(connection)
                    break
                except Exception as exc:
                    if time.monotonic() >= deadline:
                        raise
                    self._pause_if_busy(exc)
            for job, result in zip(batch, results, strict=True):
                job.result = result
        except BaseException:
            try:
                self._writer.rollback(connection)
            except Exception as exc:  # noqa: BLE001 - the exception that led here counts
                log.error("receipt store: rolling back failed: %s", exc)
            raise

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._writer.discard(connection)

    def _pause_if_busy(self, exc: Exception) -> None:
        trouble = self._writer.trouble(exc)
        if trouble is None or trouble.kind != "busy":
            raise exc
        self._contended_until = time.monotonic() + _CONTENTION_SECONDS
        time.sleep(_POLL_SECONDS)


def _fail(jobs: list[_Job], sentence: str) -> None:
    for job in jobs:
        job.error = StoreUnavailable(sentence)


def _set_results(jobs: list[_Job]) -> None:
    """Set results or errors of the futures; runs in their event loop."""
    for job in jobs:
        if job.future.done():
            continue  # the caller was cancelled
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
