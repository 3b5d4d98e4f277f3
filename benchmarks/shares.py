"""Processes held to a share of one processor, by the control groups of Linux."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks import usage
from benchmarks.machine import UnsuitableError

_MOUNTS = Path("/proc/self/mounts")
_PERIOD_US = 10_000  # short, so that a process that has used its share waits for milliseconds only
_SMALLEST_US = 1_000  # of the processor time in one period; the kernel refuses less


class ProcessorShares:
    """Gives each process a group with a quota; leaving the `with` block removes the groups and so the limit.

    Args:
        share: of one processor for each process, above 0; None for no limit.

    Raises:
        UnsuitableError: there are no control groups for processor time, or they cannot be written.
    """

    def __init__(self, share: float | None) -> None:
        self._ends = ExitStack()
        self._share = share
        if share is not None:
            self._parent, self._is_unified = _hierarchy()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def hold(self, name: str, pid: int) -> None:
        """Hold a process and its descendants to the share together."""
        if self._share is None:
            return
        group = self._parent / f"chio-benchmark-{os.getpid()}-{name}"
        try:
            group.mkdir()
            self._ends.callback(self._remove, group)
            self._limit(group, self._share)
            for member in usage.tree(pid):
                (group / "cgroup.procs").write_text(str(member))
        except OSError as exc:
            raise UnsuitableError(
                f"--processor-share needs control groups that this user may write, and {exc.filename or group}"
                f" refuses: {exc.strerror}."
            ) from None

    def _remove(self, group: Path) -> None:
        for member in (group / "cgroup.procs").read_text().split():
            (self._parent / "cgroup.procs").write_text(member)
        group.rmdir()

    def _limit(self, group: Path, share: float) -> None:
        period = max(_PERIOD_US, round(_SMALLEST_US / share))
        quota = round(share * period)
        if self._is_unified:
            (self._parent / "cgroup.subtree_control").write_text("+cpu")
            (group / "cpu.max").write_text(f"{quota} {period}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(period))
            (group / "cpu.cfs_quota_us").write_text(str(quota))


def _hierarchy() -> tuple[Path, bool]:
    """Return where groups for processor time are made, and whether that is the unified hierarchy (version 2)."""
    for line in _MOUNTS.read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup" and "cpu" in options.split(","):
            return Path(place), False
        if kind == "cgroup2" and "cpu" in (Path(place) / "cgroup.controllers").read_text().split():
            return Path(place), True
    raise UnsuitableError("--processor-share needs control groups with the controller `cpu`, and none is mounted.")
