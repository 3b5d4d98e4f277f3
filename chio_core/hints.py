"""What a refusal says about the way to what it asks for: the scope, and the command that issues a capability for it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from chio_core.request import Requirement


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

    Strangers read it. So the store of an embedded sidecar is named only where it is a plain file name, as in a first
    try; where else it is, and the address of any other sidecar, are for the operator to fill in.

    Args:
        requirement: what the route asks for.
        sidecar_url: as `ChioSettings.sidecar_url`.
    """
    server, tool = requirement.server or "SERVER", requirement.tool or "TOOL"
    words = [*_issuer(sidecar_url), _option("--server", server), _option("--tool", tool)]
    operations = granted_operations(requirement.operations)
    if operations != ("invoke",):
        words += [f"--operation {operation}" for operation in operations]
    return " ".join(["chio-sidecar capability issue", *words])


def _issuer(sidecar_url: str) -> list[str]:
    scheme, _, rest = sidecar_url.partition(":")
    if scheme in ("http", "https", "unix"):
        return ["--control-url URL"]
    file = rest.partition("?")[0]
    plain = scheme == "embedded" and file and not set(file) & set("/\\") and file.isprintable()
    return [_option("--embedded", file if plain else "FILE")]


def _option(name: str, value: str) -> str:
    # A value that begins with a hyphen would be read as an option.
    return shlex.quote(f"{name}={value}") if value.startswith("-") else f"{name} {shlex.quote(value)}"
