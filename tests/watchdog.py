"""Ends what the tests have started, should they be killed before they end it."""

from __future__ import annotations

import subprocess


class Watchdog:
    """Runs a script of the shell when this process ends, however it ends, unless it was closed before.

    Args:
        script: it has the arguments as $1, $2 and so on.
    """

    def __init__(self, script: str, *arguments: object) -> None:
        # The shell waits for a line, or for the end of the pipe, which ends with this process. In a session of its own
        # it gets no signal that a terminal or a runner sends to all that it has started.
        command = ["sh", "-c", f"read line || {{ {script}\n}}", "sh", *map(str, arguments)]
        self._shell = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def close(self) -> None:
        self._shell.communicate(b"\n")
