"""Which requests are not governed at all. The only successes without a receipt are these and passthroughs."""

from __future__ import annotations

from collections.abc import Collection

from chio_core.settings import ChioSettings


class Exclusions:
    """The exclusions of some settings, to ask about every request.

    Args:
        settings: they are frozen, so what they name is taken out of them once.
    """

    __slots__ = ("_methods", "_paths", "_prefixes")

    def __init__(self, settings: ChioSettings) -> None:
        self._methods = settings.exclude_methods
        self._paths = settings.exclude_paths
        self._prefixes = settings.exclude_prefixes

    def cover(self, method: str, path: str) -> bool:
        """Tell whether a request is excluded; see `is_excluded`."""
        return method in self._methods or path in self._paths or is_among(path, (), self._prefixes)


def is_excluded(settings: ChioSettings, method: str, path: str) -> bool:
    """Tell whether a request is excluded.

    Args:
        method: as it was sent; `get` is not `GET`.
        path: the very string that the router matches, so that no other spelling of it is excluded too.
    """
    return Exclusions(settings).cover(method, path)


def is_among(path: str, paths: Collection[str], prefixes: Collection[str]) -> bool:
    """Tell whether a path is one of `paths`, or stands at or below one of `prefixes`."""
    if path in paths:
        return True
    return bool(prefixes) and any(path == prefix or path.startswith(prefix + "/") for prefix in prefixes)
