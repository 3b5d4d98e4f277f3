"""What to write so that a group of observed refusals passes when it is enforced.

Each remedy is a label and a line: code of the framework that the application stated, a setting, or a command. Where a
refusal can be right, the label says for which decision the line is: nothing here knows which requests are legitimate.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Final

from chio_sidecar.explain.explanation import Wanted
from chio_sidecar.policy.rules import Rule
from chio_sidecar.records.observed import Group

Remedy = tuple[str, str]
"""For which decision a line is, and the line."""

OPENS: Final[dict[str, Callable[[str, str], str]]] = {
    "fastapi": lambda method, route: (
        f"@app.{method.lower()}({json.dumps(route)}, dependencies=[Depends(Policy(side_effects=False))])"
    ),
    "django": lambda method, route: (
        f"@Policy(side_effects=False)  # above the view of {route}, or in CHIO_VIEW_POLICIES"
    ),
    "flask": lambda method, route: f"@Policy(side_effects=False)  # below the route of {route}",
}
"""The line that opens a route whose callers need no capability, by framework."""

_ISSUED = {rule.id for rule in (Rule.NO_CAPABILITY, Rule.NOT_GRANTED, Rule.EXPIRED, Rule.EXHAUSTED, Rule.REVOKED)}
_MIB = 1024 * 1024


def remedies(group: Group, store: str) -> list[Remedy]:
    """Return what to do about a group, the likeliest first.

    Args:
        group: as `Tally.groups` returns it.
        store: the value of --receipt-store for the store that its receipts are from.
    """
    refused = str(group.stated.get("refused") or "")
    if refused:
        return _without_evaluation(group, refused)
    requires, lacks = (str(group.stated.get(name) or "") for name in ("requires", "lacks"))
    server, _, tool = requires.partition("/")
    wanted = Wanted(server, tool, tuple(filter(None, ["invoke", *lacks.split(",")]))) if tool else Wanted()
    issue = wanted.command(("--receipt-store", store))
    if requires and (lacks or not group.rule or group.rule in _ISSUED):
        return [("give its callers a capability", issue)]
    if group.rule == Rule.NO_CAPABILITY.id:
        line = OPENS.get(str(group.stated.get("framework")), _document_line)(group.kind.method, group.kind.route)
        return [("if its callers need no capability", line), ("if they do", issue)]
    return [("see why", f"chio-sidecar explain {_id(group)} --receipt-store {shlex.quote(store)}")]


def _without_evaluation(group: Group, refused: str) -> list[Remedy]:
    status, _, text = refused.partition(" ")
    if status == "413":
        most = -(-group.size // _MIB) * _MIB
        return [("allow bodies of this size", f"CHIO_MAX_BODY_BYTES={most}")]
    if status == "408":
        return [("allow slower bodies", "CHIO_BODY_TIMEOUT=SECONDS")]
    if status == "503":
        return [("give bodies more room", "CHIO_MAX_SPOOLED_BYTES=BYTES")]
    return [("correct the client", text)]


def _document_line(method: str, route: str) -> str:
    return f'"x-chio-side-effects": false  # {method} {route}, in the OpenAPI document of the sidecar'


def _id(group: Group) -> str:
    return group.newest[0] if group.newest else "RECEIPT"
