"""What a store's writer has done so far, for `/metrics`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chio_core.telemetry.metrics import Counter, Family, Gauge, Histogram

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
        self._waiting = Gauge("chio_sidecar_commit_waiting", "Pieces of work that wait to be written.", waiting)

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

    @property
    def families(self) -> Sequence[Family]:
        """The metrics."""
        return (self._size, self._seconds, self._failed, self._waiting)
