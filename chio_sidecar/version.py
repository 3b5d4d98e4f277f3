"""Which version of this distribution runs."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """Return the version of this distribution, or `unknown` when it runs without being installed."""
    try:
        return version("chio-frameworks")
    except PackageNotFoundError:
        return "unknown"
