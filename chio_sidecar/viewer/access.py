"""Who may use the viewer: the rules of the control plane, and what a browser adds to them.

A browser on this machine is a loopback peer for whatever page it shows, so the peer's address proves little:

* another site may ask, and could not read the answer; it is refused by `Sec-Fetch-Site` before anything is read;
* another site may let its own name point to this machine (DNS rebinding), and would then be the same site. Without
  a token the Host header must therefore name this machine. With a token it need not: no such site has the token.
"""

from __future__ import annotations

import ipaddress
from importlib import resources

from pydantic import SecretStr
from starlette.requests import Request

from chio_sidecar.control.access import ControlError, check_access

_OWN_SITES = ("same-origin", "none")  # `none`: the user wrote the address or opened a bookmark


def check_data(request: Request, token: SecretStr | None) -> None:
    """Return if receipts may be told to this caller.

    Raises:
        ControlError: 403.
    """
    check_access(request, token, own_page=True)
    if token is None:
        _check_host(request)
    if request.headers.get("sec-fetch-site", "none") not in _OWN_SITES:
        raise _refused("the viewer answers its own page only, and another site has asked")


def check_page(request: Request, token: SecretStr | None) -> None:
    """Return if this caller may have the page and its files, which hold no receipts.

    With a token everybody may: the page is where the token is typed in. A link on another site may lead to it.

    Raises:
        ControlError: 403.
    """
    if token is None:
        check_access(request, None, own_page=True)
        _check_host(request)


def _check_host(request: Request) -> None:
    hosts = request.headers.getlist("host")
    if len(hosts) != 1 or not is_this_machine(hosts[0]):
        raise _refused(
            "without a control token the viewer answers to localhost, 127.0.0.1 and [::1] only;"
            " open it under one of them, or set CHIO_SIDECAR_CONTROL_TOKEN"
        )


def is_this_machine(host: str) -> bool:
    """Tell whether a Host header names the loopback interface: by address, or as `localhost`."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            return False
    else:
        name = host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _refused(message: str) -> ControlError:
    return ControlError(403, "chio_viewer_forbidden", message)


PAGE = "index.html"

KINDS = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
"""Media types of the files, by the end of their names."""

HEADERS = {
    # Nothing but the page's own files, and no markup made of text: scripts may not even try.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

NO_STORE = {"cache-control": "no-store"}
"""For everything that tells of receipts."""

REVALIDATE = {"cache-control": "no-cache"}
"""For the files, which change with the version only."""


def load() -> dict[str, tuple[bytes, str]]:
    """Return content and media type of each file, by name."""
    folder = resources.files("chio_sidecar.viewer").joinpath("static")
    return {
        entry.name: (entry.read_bytes(), kind)
        for entry in folder.iterdir()
        if (kind := KINDS.get(entry.name.rpartition(".")[2])) is not None
    }
