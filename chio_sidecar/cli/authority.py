"""`trust rotate`: the authority gets a new signing key (wire protocol, section 9.4)."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from chio_core.errors import ConfigurationError
from chio_sidecar.cli.options import note_overridden, trust_client, wants_json
from chio_sidecar.cli.terminal import CliError, compact, emit, say
from chio_sidecar.store.place import Place
from chio_sidecar.trust.authorities import DatabaseAuthority

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
            before, after, backend = client.authority(), client.rotate(), client.backend
        found = {"public_key": after.get("publicKey"), "former_key": before.get("publicKey")}
        found |= {"generation": after.get("generation")}
        if not isinstance(found["public_key"], str) or found["public_key"] == found["former_key"]:
            raise ConfigurationError("the trust service sent a response without a new key; is it a trust service?")
    elif args.authority_db:
        with closing(existing_authority(args.authority_db)) as authority:
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


def existing_authority(place: Place) -> DatabaseAuthority:
    """Open the authority in a file or a database.

    Raises:
        CliError: the file does not exist; it is not created.
        ConfigurationError: it cannot be used.
    """
    if isinstance(place, Path) and not place.exists():
        raise CliError(f"there is no authority database at {place}", fix="`trust serve --authority-db` makes one")
    return DatabaseAuthority(place)
