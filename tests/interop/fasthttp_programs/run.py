"""Runs programs as users of FastHTTP write them, and prints what each of them does.

    python run.py PACKAGE [NAME…]

PACKAGE is `fasthttp`, or the package that replaces it. Prints one JSON object: name of the behaviour -> what was
observed. Another interpreter runs this too, so it needs the standard library and the package only.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import threading
from http.server import ThreadingHTTPServer
from typing import Any

import application
import hooks
import responses
import sending
import state
from kit import BEHAVIOURS, Kit, Upstream

PROGRAMS = (application, sending, hooks, responses, state)
KINDS = (ImportError, AttributeError, TypeError, KeyError, RuntimeError, ValueError)
"""An error counts as the first of these that it is; else by its name."""


def observed(package: str, name: str, port: int) -> Any:
    """Run one program, and return what it did as JSON has it."""
    kit = Kit(package, port)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = BEHAVIOURS[name](kit)
    except Exception as error:  # noqa: BLE001 - a program that fails is an observation
        kind = next((one.__name__ for one in KINDS if isinstance(error, one)), type(error).__name__)
        return {"raises": kind}
    return json.loads(json.dumps(found, default=repr))


def main(package: str, *names: str) -> None:
    """Print what the programs do: `{name: [description, observation]}`."""
    logging.raiseExceptions = False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = {}
    for name in names or BEHAVIOURS:
        found[name] = [BEHAVIOURS[name].__doc__, observed(package, name, server.server_address[1])]
    server.shutdown()
    server.server_close()
    print(json.dumps(found, ensure_ascii=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
