"""`trust rotate`: the authority gets a new signing key (wire protocol, section 9.4)."""

from __future__ import annotations

import argparse
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from chio_core.errors import ConfigurationError
from chio_sidecar.cli.options import note_overridden, trust_client, wants_json
from chio_sidecar.cli.terminal import CliError, compact, emit, say
from chio_sidecar.trust.authorities import DatabaseAuthority

if TYPE_CHECKING:
    from chio_sidecar.trust.client import TrustClient

ROTATE_DESCRIPTION = """\
Make a new signing key of the authority, and print it with the key before. The authority signs with the new key from now
on, and what the earlier keys have signed counts until it expires: `trust revoke --issuer KEY` withdraws a stolen one.

Name the running trust service, --control-url, or the database of its keys, --authority-db. A service with
--authority-seed-file keeps its key in memory, so only the service itself can rotate it.
"""


def add_rotate_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `trust rotate`."""
    parser.description = ROTATE_DESCRIPTION
    parser.set_defaults(run=run_rotate)


def run_rotate(args: argparse.Namespace) -> int:
    """Rotate the authority's key and print the result.

    Raises:
        CliError: no service and no database is named, or it does not exist.
        ConfigurationError: it cannot be used.
    """
    if args.control_url:
        note_overridden(args, "--control-url", "authority_db")
        with trust_client(args) as client:
            before, backend = client.authority(), client.backend
            after = _rotated(client, before.get("publicKey"))
        found = {"public_key": after.get("publicKey"), "former_key": before.get("publicKey")}
        found |= {"generation": after.get("generation")}
        if not isinstance(found["public_key"], str) or found["public_key"] == found["former_key"]:
            raise ConfigurationError("the trust service sent a response without a new key; is it a trust service?")
    elif args.authority_db:
        with closing(DatabaseAuthority(args.authority_db, create=False)) as authority:
            former, status, backend = authority.status().public_key, authority.rotate(), authority.backend
        found = {"public_key": status.public_key, "former_key": former, "generation": status.generation}
    else:
        raise CliError(
            "trust rotate requires --authority-db <path> or --control-url",
            fix="for a service with --authority-seed-file give --control-url URL",
        )
    if wants_json(args):
        emit(compact(found | {"authority_backend": backend}))
        return 0
    for name, value in (found | {"backend": backend}).items():
        emit(f"{name + ':':<12} {value}")
    say("note: sidecars that pin their issuers (CHIO_TRUSTED_ISSUER_KEYS) must be given the new key")
    return 0


def _rotated(client: TrustClient, former: Any) -> dict[str, Any]:
    """Rotate the key of a service, and return its public keys, also if the response to the rotation is lost.

    Raises:
        CliError: the service did not rotate, or has not said that it did.
    """
    try:
        return client.rotate()
    except ConfigurationError as exc:
        lost = exc
    # The service may have rotated all the same. A second rotation would print a key as the former one that nothing has
    # been signed with, and the stolen key would stay.
    with suppress(ConfigurationError):
        after = client.authority()
        if after.get("publicKey") != former:
            return after
    raise CliError(
        lost.message,
        code=lost.code,
        fix=f"the key before this call was {former}; if the next `trust rotate` prints another former_key, this call"
        " has rotated it too",
    )
