r"""The path rule of `path_prefix` (wire protocol, section 5.5).

Both `/` and `\` separate segments, on every system: a caller must not leave a prefix by the other one.
The rule works on text alone; it neither decodes percent signs nor follows links of a file system.
"""

from __future__ import annotations

_KEYS = frozenset({"file", "filepath", "dir", "directory", "root", "cwd"})


def is_path_candidate(key: str | None, text: str) -> bool:
    """Tell whether a string of the arguments must lie under the prefix, by its key or by its look."""
    if key is not None:
        lowered = key.lower()
        if "path" in lowered or lowered in _KEYS:
            return True
    return "://" not in text and ("/" in text or "\\" in text)


def path_is_under(prefix: str, path: str) -> bool:
    """Tell whether `path` is `prefix` or lies below it, segment by segment.

    A path that climbs above its start lies nowhere; an absolute and a relative path never contain each other.
    """
    above, below = _segments(prefix), _segments(path)
    if above is None or below is None or _is_absolute(prefix) != _is_absolute(path):
        return False
    return below[: len(above)] == above


def _is_absolute(path: str) -> bool:
    return path[:1] in {"/", "\\"}


def _segments(path: str) -> list[str] | None:
    kept: list[str] = []
    for segment in path.replace("\\", "/").split("/"):
        if segment in {"", "."}:
            continue
        if segment != "..":
            kept.append(segment)
        elif kept:
            kept.pop()
        else:
            return None
    return kept
