"""`viewer`: show the receipts of a store in a browser, without a sidecar."""

from __future__ import annotations

import argparse
import ipaddress
import os
from contextlib import nullcontext
from pathlib import Path

from chio_core.errors import ChioError
from chio_sidecar.cli.options import add_trusted_key_option, required_store
from chio_sidecar.cli.terminal import CliError, say
from chio_sidecar.config import control_token_from
from chio_sidecar.keys import load_key
from chio_sidecar.records.listing import ReceiptWindow
from chio_sidecar.store.compressed import is_compressed, plain_copy

DESCRIPTION = """\
Show a receipt store in a browser: list, filter, open and verify receipts. The file is opened read-only, and may
belong to a running sidecar or to an application with CHIO_SIDECAR_URL=embedded:FILE. The sidecar's own key is that
of --trusted-key, or else of the key file beside the store, FILE.key.

While it runs, every user of this machine can read the receipts, unless CHIO_SIDECAR_CONTROL_TOKEN is set: the page
then requires it. The sidecar itself serves the same page at /chio/viewer/.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `viewer`."""
    parser.description = DESCRIPTION
    parser.set_defaults(run=run)
    parser.add_argument(
        "--listen", metavar="ADDR", default="127.0.0.1:0", help="HOST:PORT of this machine (127.0.0.1, any free port)"
    )
    add_trusted_key_option(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until it is stopped.

    Raises:
        CliError: there is no store, or the address is not this machine's.
        ConfigurationError: the store, or the settings that would name it, cannot be used.
    """
    from chio_sidecar.cli.serving import bind, serve
    from chio_sidecar.viewer import VIEWER_PATH, create_viewer_app

    place = required_store(args, "viewer needs a store")
    path = place.path
    host = args.listen.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise CliError(
            f"--listen {args.listen} is not a loopback address, and receipts are not sent over a network",
            fix="listen on 127.0.0.1:PORT; from elsewhere use an SSH tunnel",
        )
    ReceiptWindow(path).newest()  # raises if the file is not a store

    keys: list[str] = args.trusted_key or []
    if not keys:
        try:
            keys = [load_key(place.key_path).public_hex]
        except (FileNotFoundError, ChioError) as exc:
            reason = exc.message if isinstance(exc, ChioError) else "there is no key file beside the store"
            say(f"chio viewer: the sidecar's own key is not known ({reason}); --trusted-key names it")
    # Each look at the page opens the file anew: a compressed one is decompressed once for all of them.
    with (
        bind(args.listen) as listener,
        plain_copy(path) if isinstance(path, Path) and is_compressed(path) else nullcontext(path) as shown,
    ):
        app = create_viewer_app(shown, keys=frozenset(keys), token=control_token_from(os.environ))
        return serve(app, listener, ready=f"chio viewer: {path} is shown at http://{listener.address}{VIEWER_PATH}")
