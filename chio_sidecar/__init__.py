"""The embedded sidecar: decisions, signed receipts, the trust service and the command `chio-sidecar`."""


def package_version() -> str:
    """Return the version of this distribution, or `unknown` when it runs without being installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("chio-frameworks")
    except PackageNotFoundError:
        return "unknown"
