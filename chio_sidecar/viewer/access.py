"""Who may use the viewer: the rules of the control plane, and two more because of browsers.

A browser on this machine is a loopback peer for whatever page it shows, so the peer's address proves little:

* another site's page may send a request, though it could not read the response: `Sec-Fetch-Site` refuses it before
  anything is read;
* another site may let its own name point to this machine (DNS rebinding), and its page is then of the same site.
  Without a token the Host header must therefore name this machine. With a token it need not: no such page has it.
"""

from __future__ import annotations

import ipaddress

from pydantic import SecretStr
from starlette.requests import Request

from chio_sidecar.control.access import ControlError, check_access


def check_data(request: Request, token: SecretStr | None) -> None:
    """Return if this caller may read receipts.

    Raises:
        ControlError: 403.
    """
    check_page(request, token)
    if token is not None:
        check_access(request, token, own_page=True)
    # `none`: the user typed the address or opened a bookmark.
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise _refused("the viewer answers its own page only, and another site has sent this request")


def check_page(request: Request, token: SecretStr | None) -> None:
    """Return if this caller may have the page and its files, which hold no receipts.

    With a token every caller may: the page is where the token is typed in. A link on another site may lead to it.

    Raises:
        ControlError: 403.
    """
    if token is not None:
        return
    check_access(request, None, own_page=True)
    hosts = request.headers.getlist("host")
    if len(hosts) != 1 or not is_this_machine(hosts[0]):
        raise _refused(
            "without a control token the viewer answers to localhost, 127.0.0.1 and [::1] only;"
            " open it under one of them, or set CHIO_SIDECAR_CONTROL_TOKEN"
        )


def is_this_machine(host: str) -> bool:
    """Return True if a Host header names the loopback interface: by address, or as `localhost`."""
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
