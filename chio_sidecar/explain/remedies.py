"""What to write so that a group of observed refusals passes when it is enforced.

Each remedy is a label and a line: code of the framework that the application stated, a setting, or a command. Where a
refusal can be right, the label says for which decision the line is: nothing here knows which requests are legitimate.
"""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from chio_sidecar.explain.explanation import Wanted
from chio_sidecar.policy.rules import Rule
from chio_sidecar.records.observed import Group


class Remedy(NamedTuple):
    """A line to write, for which decision it is, and the imports that the line needs."""

    label: str
    line: str
    imports: str = ""


_IF_OPEN: Final = "if its callers need no capability"
_IF_A_ROUTE: Final = "if no route answers it, write nothing; if one does, and its callers need no capability"
_OPEN: Final = "Policy(side_effects=False)"
_IMPORTS: Final = {
    "fastapi": "from fastapi import Depends; from chio_fastapi import Policy",
    "django": "from chio_django import Policy",
    "flask": "from chio_flask import Policy",
}
_SETTINGS: Final = {
    "django": ("settings.py", "CHIO_VIEW_POLICIES"),
    "flask": ("the module of the application", 'app.config["CHIO_VIEW_POLICIES"]'),
}
"""Where a setting of a framework is written, and its name there."""
_SEPARATORS: Final = {"django": ":", "flask": "."}
"""What ends a namespace in the name of a view."""
_ADMIN: Final = "admin:"
"""The namespace of Django's admin: its own login and permissions protect all of its views."""

_ISSUED = {rule.id for rule in (Rule.NO_CAPABILITY, Rule.NOT_GRANTED, Rule.EXPIRED, Rule.EXHAUSTED, Rule.REVOKED)}
_MIB = 1024 * 1024


def namespaces(groups: Iterable[Group]) -> frozenset[str]:
    """Return the namespaces whose views are named together: Django's admin, and those of which two views were refused.

    Each ends with its separator, `admin:` or `shop.`.
    """
    refused: defaultdict[str, set[str]] = defaultdict(set)
    for group in groups:
        if (view := _view(group)) and _opens(group):
            refused[_namespace(group)].add(view)
    return frozenset(name for name, views in refused.items() if name and (len(views) > 1 or name == _ADMIN))


def remedies(group: Group, store: str, together: Collection[str] = ()) -> list[Remedy]:
    """Return what to do about a group, the likeliest first.

    Args:
        group: as `Tally.groups` returns it.
        store: the value of --receipt-store for the store that its receipts are from.
        together: of `namespaces`.
    """
    refused = str(group.stated.get("refused") or "")
    if refused:
        return _without_evaluation(group, refused)
    requires, lacks = (str(group.stated.get(name) or "") for name in ("requires", "lacks"))
    server, _, tool = requires.partition("/")
    wanted = Wanted(server, tool, tuple(filter(None, ["invoke", *lacks.split(",")]))) if tool else Wanted()
    issue = wanted.command(("--receipt-store", store))
    if requires and (lacks or not group.rule or group.rule in _ISSUED):
        return [Remedy("give its callers a capability", issue)]
    if _opens(group):
        return [_open(group, together), Remedy("if they do", issue)]
    receipt_id = group.newest[0] if group.newest else "RECEIPT"
    return [Remedy("see why", f"chio-sidecar explain {receipt_id} --receipt-store {shlex.quote(store)}")]


def view_policies(groups: Iterable[Group], together: Collection[str]) -> list[tuple[str, str]]:
    """Return lines that open the views of all these groups at once, and where to write them.

    Args:
        groups: those whose callers need no capability; others, and those of FastAPI, are left out.
        together: of `namespaces`.
    """
    keys: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for group in groups:
        if _opens(group) and _view(group):
            keys[_framework(group)][_key(group, together)] = None
    found = []
    for framework, names in keys.items():
        file, setting = _SETTINGS[framework]
        entries = "".join(f"    {json.dumps(name)}: {_OPEN},\n" for name in names)
        found.append((file, f"{_IMPORTS[framework]}\n{setting} = {{\n{entries}}}"))
    return found


def _opens(group: Group) -> bool:
    """Return True if the group is of a route that needs no more than to be opened."""
    stated = group.stated
    return group.rule == Rule.NO_CAPABILITY.id and not (stated.get("refused") or stated.get("requires"))


def _open(group: Group, together: Collection[str]) -> Remedy:
    """Return the line that opens a route whose callers need no capability."""
    framework, method, route = _framework(group), group.kind.method, group.kind.route
    if view := _view(group):
        key = _key(group, together)
        line = f"{json.dumps(key)}: {_OPEN}  # in {_SETTINGS[framework][1]}"
        # The line of a namespace opens views that are in no receipt, too.
        label = _IF_OPEN if key == view else f"if no view of {key} needs a capability"
        return Remedy(label, line)  # `view_policies` has the import
    if framework == "fastapi":
        # A path that has a route answers 405 to other methods; its receipt states the framework all the same.
        line = f"@app.{method.lower()}({json.dumps(route)}, dependencies=[Depends({_OPEN})])"
        line += f"  # in place of the decorator of this route; if no route answers {method}, write nothing"
    elif framework in _SETTINGS:
        line = f"@{_OPEN}  # {'above the view' if framework == 'django' else 'below the route'} of {route}"
    else:
        line = f'"x-chio-side-effects": false  # {method} {route}, in the OpenAPI document of the sidecar'
    # Without a framework nothing shows that the path is one of the application's: a scanner's path has no route.
    return Remedy(_IF_OPEN if framework else _IF_A_ROUTE, line, _IMPORTS.get(framework, ""))


def _framework(group: Group) -> str:
    return str(group.stated.get("framework") or "")


def _view(group: Group) -> str:
    """Return the name of the group's view, if the setting of its framework finds it by that."""
    view = str(group.stated.get("view") or "")
    return view if _framework(group) in _SETTINGS and view and "*" not in view and view[0] != "/" else ""


def _namespace(group: Group) -> str:
    inner, separator, _ = _view(group).rpartition(_SEPARATORS[_framework(group)])
    return inner + separator


def _key(group: Group, together: Collection[str]) -> str:
    return f"{namespace}*" if (namespace := _namespace(group)) in together else _view(group)


def _without_evaluation(group: Group, refused: str) -> list[Remedy]:
    status, _, text = refused.partition(" ")
    if status == "413":
        most = -(-group.size // _MIB) * _MIB
        return [Remedy("allow bodies of this size", f"CHIO_MAX_BODY_BYTES={most}")]
    if status == "408":
        return [Remedy("allow slower bodies", "CHIO_BODY_TIMEOUT=SECONDS")]
    if status == "503":
        return [Remedy("give bodies more room", "CHIO_MAX_SPOOLED_BYTES=BYTES")]
    return [Remedy("correct the client", text)]
