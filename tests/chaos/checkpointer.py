"""Another process that checkpoints a store, once for each line of standard input: `checkpointer.py STORE`.

At the end of the input it prints how many of the checkpoints found a log to copy.
"""

from __future__ import annotations

import itertools
import sys
from contextlib import closing

from chio_sidecar.store.driver import sqlite3

KINDS = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")

if __name__ == "__main__":
    copied = 0
    with closing(sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)) as store:
        for _, kind in zip(sys.stdin, itertools.cycle(KINDS), strict=False):
            _busy, _pages, done = store.execute(f"PRAGMA wal_checkpoint({kind})").fetchone()
            copied += done > 0
    print(copied)
