"""Checking a receipt store from outside: is it what the sidecar wrote?"""

from __future__ import annotations

from chio_sidecar.records.finding import Finding, Summary
from chio_sidecar.records.fsck import Inspection

__all__ = ["Finding", "Inspection", "Summary"]
