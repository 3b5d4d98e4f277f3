"""Refusals that no body can change: such a request is evaluated without its body, which stays unread.

Reading a body costs memory, temporary files and time, and its sender decides how long it takes. So a request whose
route requires a capability is refused before its body is read if

1. it presents none;
2. what it presents is no capability;
3. the capability expired so long ago that an allow would be rejected: the receipt of a sidecar to whose clock it
   still counts is outside `receipt_tolerance` (`chio_core.receipts`);
4. the capability states another holder than the caller.

`chio_core.evaluation.conclude` refuses each of these whatever the sidecar answers, so the evaluation only makes the
receipt. It binds no body: `body_hash` is null in its content hash (wire protocol, section 3.4). What only a sidecar
knows, whether it trusts the issuer for example, is decided when the body is there, because the protocol has no
question that is no decision: an allow would be on record, and spend a use, for a request that did not run.
"""

from __future__ import annotations

import time

from chio_core.capabilities.holder import is_of_another
from chio_core.capabilities.tokens import parse_capability
from chio_core.errors import InvalidDocument
from chio_core.evaluation.precheck import Presented
from chio_core.models.caller import CallerIdentity
from chio_core.models.request import SAFE_METHODS
from chio_core.request import RequestView, Requirement
from chio_core.settings import ChioSettings


def refused_unread(
    view: RequestView,
    requirement: Requirement | None,
    presented: Presented,
    caller: CallerIdentity,
    settings: ChioSettings,
) -> bool:
    """Return True if a request is refused whatever its body says; see the rules at the top of this module.

    Args:
        requirement: what the route requires.
        presented: what the request presents, the token that it carries beside its header included.
    """
    if requirement is None or not requirement.capability:
        return False
    if presented.token is None:
        return True
    # The usual GET has no body to wait for, and its token is not read here.
    framed = view.header_values("content-length") or view.header_values("transfer-encoding")
    if view.method in SAFE_METHODS and not framed:
        return False
    try:
        token = parse_capability(presented.token)
    except InvalidDocument:
        return True
    # A receipt's time may differ by one second more, because it is in whole seconds.
    expired = token.expires_at + settings.receipt_tolerance + 1 < time.time()
    return expired or is_of_another(token, caller)
