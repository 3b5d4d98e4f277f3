"""The command `chio-sidecar`."""

from __future__ import annotations

from chio_sidecar.cli.main import main

__all__ = ["main"]
