"""What a refusal says about the way to what it asks for: the scope, and the command that issues a capability for it.

| the sidecar | what issues a capability for it |
|---|---|
| embedded | `--embedded FILE`, the store of `CHIO_SIDECAR_URL`: its key stands beside it |
| `api protect --receipt-store FILE` | `--receipt-store FILE` on its machine, for the same reason |
| `api protect --authority-seed-file FILE` | `--authority-seed-file FILE` on its machine |
| either, with a trust service | these, and `--control-url URL` from anywhere |
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Final

from chio_core.request import Requirement

FILL_IN: Final = (
    "FILE is the receipt store of the sidecar, on its machine; where it was started with --authority-seed-file or"
    " --control-url, that option with its value may stand instead of --receipt-store FILE"
)
"""What stands in a command line for `--receipt-store FILE`."""

FILL_IN_EMBEDDED: Final = "FILE is the file of the application's sidecar_url, embedded:FILE"
"""The same for `--embedded FILE`."""


def granted_operations(operations: Iterable[str]) -> tuple[str, ...]:
    """Return what a grant has to contain so that a requirement of these operations is met.

    `invoke` is always among them: a sidecar looks at no grant without it (wire protocol, section 5.5).
    """
    return tuple(dict.fromkeys(("invoke", *operations)))


def required_scope(requirement: Requirement) -> str | None:
    """Return the scope of a requirement, for example `payments/transfer:invoke`; None where any capability will do."""
    if requirement.server is None:
        return None
    return f"{requirement.title}:{','.join(granted_operations(requirement.operations))}"


def issue_command(requirement: Requirement, sidecar_url: str = "") -> str:
    """Return the command line that issues a capability for a requirement, quoted for a POSIX shell.

    It is one for every sidecar with a store; `issue_hint` says what stands for its placeholders.

    Strangers read it. So the store of an embedded sidecar is named only where it is a plain file name, as in a first
    try; where else it is, and the address of any other sidecar, are for the operator to fill in.

    Args:
        requirement: what the route asks for.
        sidecar_url: as `ChioSettings.sidecar_url`.
    """
    server, tool = requirement.server or "SERVER", requirement.tool or "TOOL"
    words = [_issuer(sidecar_url), _option("--server", server), _option("--tool", tool)]
    operations = granted_operations(requirement.operations)
    if operations != ("invoke",):
        words += [f"--operation {operation}" for operation in operations]
    return " ".join(["chio-sidecar capability issue", *words])


def issue_hint(requirement: Requirement, sidecar_url: str = "") -> dict[str, str]:
    """Return what a refusal says of the command: `hint`, and `hint_note` where a part is to be filled in.

    Args:
        requirement: what the route asks for.
        sidecar_url: as `ChioSettings.sidecar_url`.
    """
    hint = {"hint": issue_command(requirement, sidecar_url)}
    if not sidecar_url.startswith("embedded:"):
        return hint | {"hint_note": FILL_IN}
    return hint if _plain_file(sidecar_url) else hint | {"hint_note": FILL_IN_EMBEDDED}


def _issuer(sidecar_url: str) -> str:
    if not sidecar_url.startswith("embedded:"):
        return "--receipt-store FILE"
    return _option("--embedded", _plain_file(sidecar_url) or "FILE")


def _plain_file(sidecar_url: str) -> str | None:
    file = sidecar_url.removeprefix("embedded:").partition("?")[0]
    return file if file and not set(file) & set("/\\") and file.isprintable() else None


def _option(name: str, value: str) -> str:
    # A value that begins with a hyphen would be read as an option.
    return shlex.quote(f"{name}={value}") if value.startswith("-") else f"{name} {shlex.quote(value)}"
