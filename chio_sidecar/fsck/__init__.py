"""Checking a receipt store from outside: is it what the sidecar wrote?"""

from __future__ import annotations

from chio_sidecar.fsck.finding import Finding, Summary
from chio_sidecar.fsck.inspection import Inspection

__all__ = ["Finding", "Inspection", "Summary"]
