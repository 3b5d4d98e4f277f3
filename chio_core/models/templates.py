"""Path templates: compare the route that was evaluated with the route that will run."""

from __future__ import annotations


def shape(template: str) -> tuple[str, ...]:
    """Return the segments of a template, each parameter (with its convertor) as `{}`.

    `/pets/{petId}` and `/pets/{id:int}` have the same shape. Results are not cached: the client chooses the paths.
    """
    return tuple("{}" if part[:1] == "{" and part[-1:] == "}" else part for part in template.split("/"))


def covers(template: str, path: str) -> bool:
    """Return True if a template's segments match a path's (wire protocol, section 6.2)."""
    wanted, given = shape(template), path.split("/")
    return len(wanted) == len(given) and all(a in ("{}", b) for a, b in zip(wanted, given, strict=True))


def acceptable_pattern(pattern: str, path: str, template: str | None) -> bool:
    """Return True if a receipt that states `pattern` may open the route `template` for `path`.

    The pattern must be the plain path (the sidecar does not know the route), or the template of the route that
    runs, whatever the names of its parameters. If the template is unknown, the pattern must at least cover the path.
    A path that is itself spelled like a template (`/pets/{x}`) proves nothing by being equal to the pattern.
    """
    if pattern == path and ("{" not in path or "{}" not in shape(path)):
        return True
    if template is None:
        return covers(pattern, path)
    return shape(pattern) == shape(template)
