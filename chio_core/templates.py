"""Path templates: comparing the route that was judged with the route that will run."""

from __future__ import annotations


def shape(template: str) -> tuple[str, ...]:
    """Return the segments of a template with parameter names (and convertors) taken out.

    `/pets/{petId}` and `/pets/{id:int}` have the same shape. Nothing is remembered: paths are the client's to choose.
    """
    return tuple("{}" if part[:1] == "{" and part[-1:] == "}" else part for part in template.split("/"))


def covers(template: str, path: str) -> bool:
    """Tell whether a template's segments fit a path's (wire protocol, section 6.2)."""
    wanted, given = shape(template), path.split("/")
    return len(wanted) == len(given) and all(a in ("{}", b) for a, b in zip(wanted, given, strict=True))


def acceptable_pattern(pattern: str, path: str, template: str | None) -> bool:
    """Tell whether a receipt that states `pattern` may open the route `template` for `path`.

    The pattern must be the plain path (the sidecar knows no such route), or the template of the route that
    runs, names of parameters aside. Where nobody knows that template, the pattern must at least cover the path.
    A path that is itself spelled like a template (`/pets/{x}`) proves nothing by being equal to the pattern.
    """
    if pattern == path and "{}" not in shape(path):
        return True
    if template is None:
        return covers(pattern, path)
    return shape(pattern) == shape(template)
