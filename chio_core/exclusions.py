"""Which requests are not governed at all. The only successes without a receipt are these and passthroughs."""

from __future__ import annotations

from collections.abc import Collection

from chio_core.settings import ChioSettings


def is_excluded(settings: ChioSettings, method: str, path: str) -> bool:
    """Tell whether a request is excluded.

    Args:
        method: as it was sent; `get` is not `GET`.
        path: the very string that the router matches, so that no other spelling of it is excluded too.
    """
    if method in settings.exclude_methods or path in settings.exclude_paths:
        return True
    return is_among(path, (), settings.exclude_prefixes)


def is_among(path: str, paths: Collection[str], prefixes: Collection[str]) -> bool:
    """Tell whether a path is one of `paths`, or stands at or below one of `prefixes`."""
    return path in paths or any(path == prefix or path.startswith(prefix + "/") for prefix in prefixes)
