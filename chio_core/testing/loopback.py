"""Loopback: the sidecar of a test on a real socket, which can go down and come back at the same address."""

from __future__ import annotations

from contextlib import AbstractContextManager

from chio_core.testing.behaviours import REFUSE
from chio_core.testing.sidecar import Script, ScriptedSidecar


class Loopback:
    """A thread that serves a sidecar on 127.0.0.1 from the first time that its address is asked for.

    Args:
        sidecar: what is served.
    """

    def __init__(self, sidecar: ScriptedSidecar) -> None:
        self._sidecar = sidecar
        self._serving: AbstractContextManager[ScriptedSidecar] | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """Where it listens; stays the same until `close`."""
        if self._serving is None:
            self._start()
        return self._url

    def down(self) -> None:
        """Close every connection and take no more; the port stays taken."""
        self._script(REFUSE)

    def up(self, script: Script) -> None:
        """Listen again, with this script."""
        self._script(script)

    def close(self) -> None:
        """End the thread."""
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.__exit__(None, None, None)

    def _script(self, script: Script) -> None:
        was_served = self._serving is not None
        self.close()
        self._sidecar.script = script
        if was_served:
            self._start()

    def _start(self) -> None:
        self._serving = self._sidecar.serving_in_thread(int(self._url.rpartition(":")[2] or 0))
        self._serving.__enter__()
        self._url = self._sidecar.url
