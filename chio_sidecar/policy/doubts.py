"""Doubts about an OpenAPI document: members that look like policy and are ignored, and policy that can never apply."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from chio_core.models.openapi import (
    APPROVAL_REQUIRED,
    BUDGET_LIMIT,
    KNOWN,
    LEVELS,
    OBSERVE,
    PREFIX,
    PUBLISH,
    SENSITIVITY,
    SIDE_EFFECTS,
    is_listed,
    needs_capability,
)
from chio_core.models.receipt import shape
from chio_sidecar.policy.openapi import METHODS, path_items

_MOST_DOUBTS = 50
_FLAGS = frozenset({APPROVAL_REQUIRED, SIDE_EFFECTS, OBSERVE, PUBLISH})
_VARIABLE = re.compile(r"\{([^{}]*)\}")
# What other notations write for a parameter: `:id`, `<int:id>`, `*`.
_FOREIGN = re.compile(r":\w+|<[^<>]+>|\*+")
# Parameters that a router, not OpenAPI, lets take several segments: `{rest:path}`, `{rest*}`, `{+rest}`.
_SPANNING = re.compile(r"\{(?:\+[^{}]*|[^{}]*:path|[^{}]*[*+])\}")
_ANY_VALUE = "\0"  # equal to no literal segment, so that only parameters match it

Chosen = Callable[[str, str], tuple[str, bool]]
"""From a method and a path: the template whose policy counts, and whether that needs a capability."""


def doubts(document: dict[str, Any], chosen: Chosen) -> list[str]:
    """Return one sentence for each member of a document that looks like policy and is ignored or can never apply.

    Args:
        document: as `chio_sidecar.policy.openapi.load` returns it.
        chosen: what the route table of the document decides.

    Returns:
        At most 50 sentences, and one that counts the rest.

    Raises:
        ConfigurationError: `failed to parse OpenAPI spec: …`.
    """
    items = dict(path_items(document))
    found = [*_misplaced(document, "the document"), *_misplaced(document.get("info"), "info")]
    for place in ("paths", "components"):
        found += _misplaced(document.get(place), place)
    for tag in _list(document.get("tags")):
        found += _misplaced(tag, f"tag {tag.get('name')}" if isinstance(tag, Mapping) else "a tag")
    listed = is_listed(document)
    if not listed:
        found += [*_base_paths(document, items), *_twins(items)]
    for template, item in items.items():
        if not template.startswith("/"):
            shown = template[:200]
            found.append(f"path {shown!r} does not begin with a slash and never matches; write {'/' + shown!r}")
        found += _misplaced(item, f"path {template}")
        for name, value in item.items():
            if name in METHODS:
                if isinstance(value, dict):
                    found += _doubts_of_operation(value, f"{name.upper()} {template}")
                    found += _never_chosen(name.upper(), template, value, items, chosen)
            elif name.lower() in METHODS:
                found.append(f"{name} of path {template} is no operation and is ignored; write {name.lower()}")
            elif isinstance(value, Mapping) and any(map(_looks_like_policy, value)):
                text = f"{name} of path {template} is no method that is evaluated, and its policy never applies"
                found.append(f"{text}; write it into one of {', '.join(METHODS)}")
        if any(map(_policy_of, map(item.get, METHODS))):
            found += _unmatched(template)
        get = item.get("get")
        closed = not listed and isinstance(get, Mapping) and item.get("head") is None and needs_capability("GET", get)
        if closed and not chosen("HEAD", _sample(template))[1]:
            text = f"HEAD {template} is allowed without the capability that GET {template} needs"
            found.append(f"{text}; write a head operation with the policy of get")
    rest = len(found) - _MOST_DOUBTS
    return found if rest <= 0 else [*found[:_MOST_DOUBTS], f"and {rest} more of this kind"]


def _misplaced(holder: Any, place: str) -> Iterator[str]:
    for name in holder if isinstance(holder, Mapping) else ():
        if _looks_like_policy(name):
            yield f"{name} of {place} is ignored; write it into each operation that it is meant for"


def _doubts_of_operation(operation: Mapping[str, Any], place: str) -> Iterator[str]:
    for name, value in operation.items():
        if name not in KNOWN:
            if _looks_like_policy(name):
                yield f"{name} of {place} is unknown and is ignored; known are {', '.join(sorted(KNOWN))}"
        elif value is None:
            continue
        # The protocol ignores a member of another type.
        elif name in _FLAGS and not isinstance(value, bool):
            remedy = "write true or false, without quotes"
            yield f"{name} of {place} is neither true nor false and therefore ignored; {remedy}"
        elif name == SENSITIVITY and not (isinstance(value, str) and value in LEVELS):
            yield f"{name} of {place} is no level and therefore ignored; write one of {', '.join(LEVELS)}"
        elif name == BUDGET_LIMIT and not (type(value) is int and value >= 0):
            remedy = "write a whole number from 0 on, without quotes"
            yield f"{name} of {place} is no amount and therefore ignored; {remedy}"
    yield from _misplaced(operation.get("requestBody"), f"the requestBody of {place}")
    for parameter in _list(operation.get("parameters")):
        yield from _misplaced(parameter, f"a parameter of {place}")
    responses = operation.get("responses")
    for status, response in responses.items() if isinstance(responses, Mapping) else ():
        yield from _misplaced(response, f"response {status} of {place}")


def _unmatched(template: str) -> Iterator[str]:
    """Doubt a template that matches other paths than it seems to: a parameter is a whole segment (section 6.2)."""
    if "?" in template or "#" in template:
        yield f"path {template} never matches, because paths are matched without query and fragment; write it without"
        return
    for segment in template.split("/"):
        whole = segment[:1] == "{" and segment[-1:] == "}"
        if whole and _SPANNING.fullmatch(segment):
            text = f"{segment} of path {template} matches one segment"
            yield f"{text}; write a path for each number of segments, and the policy into each"
        elif whole and len(_VARIABLE.findall(segment)) > 1:
            yield f"{segment} of path {template} matches any segment; write one parameter for the whole segment"
        elif not whole and ("{" in segment or "}" in segment or _FOREIGN.fullmatch(segment)):
            text = f"{segment} of path {template} matches this text alone, so the policy of the path never applies"
            yield f"{text}; write one parameter for the whole segment, such as {{name}}"


def _never_chosen(
    method: str,
    template: str,
    operation: Mapping[str, Any],
    items: Mapping[str, Mapping[str, Any]],
    chosen: Chosen,
) -> Iterator[str]:
    """Doubt an operation before which another one, of another policy, matches all of its paths."""
    first, _ = chosen(method, _sample(template))
    if first == template:
        return
    other = items[first].get(method.lower())
    if _policy_of(operation) != _policy_of(other):
        text = f"the policy of {method} {template} never applies, because {first} matches the same paths before it"
        yield f"{text}; write the policy into {method} {first}"


def _base_paths(document: Mapping[str, Any], items: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Doubt the base path of `servers`, which the sidecar ignores (section 6.2), where it has policy below it."""
    groups: dict[str, tuple[Any, list[str]]] = {}
    for template, item in items.items():
        for method in METHODS:
            operation = item.get(method)
            if _policy_of(operation):
                places = ((operation, f"{method.upper()} {template}"), (item, f"path {template}"))
                stated = ((one["servers"], f"servers of {name}") for one, name in places if one and one.get("servers"))
                servers, place = next(stated, (document.get("servers"), "servers"))
                groups.setdefault(place, (servers, []))[1].append(template)
    for place, (servers, templates) in groups.items():
        for server in _list(servers):
            base = _base_path(server)
            if base and not all(template.startswith(f"{base}/") for template in templates):
                text = (
                    f"the base path {base} in {place} is ignored, so {templates[0]} does not match {base}{templates[0]}"
                )
                yield f"{text}; write it into the paths, or leave it out if a proxy removes it from requests"


def _base_path(server: Any) -> str:
    url = server.get("url") if isinstance(server, Mapping) else None
    if not isinstance(url, str):
        return ""
    variables = server.get("variables")
    known = variables if isinstance(variables, Mapping) else {}
    for name in _VARIABLE.findall(url):
        value = known.get(name)
        default = value.get("default") if isinstance(value, Mapping) else None
        url = url.replace(f"{{{name}}}", str(name if default is None else default))
    try:
        return urlsplit(url).path.rstrip("/")
    except ValueError:  # no URL
        return ""


def _twins(items: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Doubt paths of other policy that servers often treat as one: a slash at the end, or case, is the difference."""
    seen: dict[tuple[str, tuple[str, ...]], tuple[str, Any]] = {}
    for template, item in items.items():
        for method in METHODS:
            operation = item.get(method)
            if operation is None:
                continue
            key = (method, tuple(part.lower() for part in shape(template.rstrip("/"))))
            other, policy = seen.setdefault(key, (template, _policy_of(operation)))
            if shape(other) != shape(template) and policy != _policy_of(operation):
                text = (
                    f"{method.upper()} {template} and {other} differ in policy, and many servers treat them as one path"
                )
                yield f"{text}; write the same policy into both"


def _policy_of(operation: Any) -> dict[str, Any]:
    return {name: operation[name] for name in KNOWN & operation.keys()} if isinstance(operation, Mapping) else {}


def _sample(template: str) -> str:
    """Return a path that a template matches, and no template that misses any path of it."""
    return "/".join(_ANY_VALUE if part == "{}" else part for part in shape(template))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _looks_like_policy(name: str) -> bool:
    return name.lower().replace("_", "-").startswith(PREFIX.rstrip("-"))
