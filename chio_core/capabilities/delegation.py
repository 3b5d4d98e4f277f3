"""The delegation chain of a token (wire protocol, section 5.4).

The rules bind the links to each other, not to the token: neither its issuer, nor its subject, nor its id is
compared with a link. A chain that holds therefore says who handed on what, and never that the token is good.
"""

from __future__ import annotations

from collections.abc import Sequence

from chio_core.canonical import canonical_json
from chio_core.capabilities.errors import CapabilityRejected
from chio_core.errors import InvalidDocument
from chio_core.models.capability import DelegationLink
from chio_core.signing import verify_signature

DEFAULT_MAX_DEPTH = 8
"""Longest chain that the HTTP substrate accepts, in links."""


def link_signing_text(link: DelegationLink, *, newer: bool = False) -> bytes:
    """Return the canonical JSON that the delegator signs.

    Args:
        link: the link; its own signature is not looked at.
        newer: keep the member `scope_hash`, which newer issuers add.

    Raises:
        InvalidDocument: the link has no canonical form.
    """
    body = link.to_signed()
    body.pop("signature")
    if newer:
        body.update(link.newer_members())
    return canonical_json(body)


def verify_delegation_chain(
    chain: Sequence[DelegationLink], *, max_depth: int = DEFAULT_MAX_DEPTH, accept_newer: bool = True
) -> None:
    """Check the length, and link by link the signature, the connection and the order of time.

    Args:
        chain: the links, first delegation first.
        max_depth: longest chain that is accepted.
        accept_newer: also accept a link whose signature covers `scope_hash`.

    Raises:
        CapabilityRejected: with the protocol's text.
    """
    if len(chain) > max_depth:
        raise _refused(f"delegation depth {len(chain)} exceeds maximum {max_depth}")
    for index, link in enumerate(chain):
        if not _link_signature_holds(link, accept_newer):
            raise _broken(f"signature invalid at link index {index}")
        if index:
            _check_connection(index, chain[index - 1], link)


def _check_connection(index: int, before: DelegationLink, link: DelegationLink) -> None:
    if before.delegatee != link.delegator:
        raise _broken(f"link {index} delegator does not match link {index - 1} delegatee")
    if link.timestamp < before.timestamp:
        own, earlier = f"timestamp ({link.timestamp})", f"timestamp ({before.timestamp})"
        raise _broken(f"link {index} {own} precedes link {index - 1} {earlier}")


def _link_signature_holds(link: DelegationLink, accept_newer: bool) -> bool:
    forms = (False, True) if accept_newer and link.newer_members() else (False,)
    try:
        return any(
            verify_signature(link.delegator, link_signing_text(link, newer=form), link.signature) for form in forms
        )
    except InvalidDocument:
        return False


def _broken(text: str) -> CapabilityRejected:
    return _refused(f"delegation chain broken: {text}")


def _refused(text: str) -> CapabilityRejected:
    return CapabilityRejected(text, rule="delegation")
