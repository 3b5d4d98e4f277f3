"""What stands in the way of a governed application: settings, packages, clock, key, store, sidecar.

Everything here only looks. Nothing is created, repaired or written, with one exception that is not ours to avoid:
a sidecar that is asked for its health commits a probe to its own store, and stores no receipt.
"""

from __future__ import annotations

from chio_sidecar.doctor.packages import check_distributions, check_versions
from chio_sidecar.doctor.result import Check, Status, guarded
from chio_sidecar.doctor.settings import Sources, check_settings, environment_sources, read_settings
from chio_sidecar.doctor.sidecar import check_sidecar
from chio_sidecar.doctor.store import check_store

__all__ = [
    "Check",
    "Sources",
    "Status",
    "check_distributions",
    "check_settings",
    "check_sidecar",
    "check_store",
    "check_versions",
    "environment_sources",
    "guarded",
    "read_settings",
]
