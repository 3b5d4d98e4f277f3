"""Processor seconds and resident memory of a process, read from /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """Return `pid` and all its living descendants."""
    found, waiting = [], [pid]
    while waiting:
        current = waiting.pop()
        found.append(current)
        for children in Path(f"/proc/{current}/task").glob("*/children"):
            with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile has no children
                waiting.extend(int(child) for child in children.read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """Return user plus system seconds of the process tree since it was started, members that have ended included."""
    ticks = 0
    for member in tree(pid):
        # The second field is the program's name in brackets; it may hold blanks, so count from behind it.
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        # User and system time of the process, then of its children that have ended.
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICKS


def resident_mib(pid: int) -> float:
    """Return the resident memory of the process tree in MiB."""
    return sum(_resident_kib(member) for member in tree(pid)) / 1024


def _resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def core_seconds(core: int) -> tuple[float, float]:
    """Return (seconds that the core worked, seconds stolen by the host) since the machine was started."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _wait, irq, softirq, steal = (int(x) for x in line.split()[1:9])
            return (user + nice + system + irq + softirq) / _TICKS, steal / _TICKS
    return 0.0, 0.0
