"""The load over connections that have been answered before: a latency here is never the wait to be accepted.

wrk opens its connections anew for each window and counts the first response of each. uvloop accepts one connection in
a turn of its loop, and a turn serves every connection that it has: the last of 64 is accepted after a second, the last
of 256 after many, and that is all that a p99 of wrk shows then. This load sends again over each connection as soon as
it has a response, and counts from the second response on.

    python -m benchmarks.steady 8000 /echo 64 5        port, endpoint, connections, seconds
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.load import ECHO_BODY
from benchmarks.machine import UnsuitableError

_FIRST_LIMIT = 60.0  # seconds until each connection must have its first response


@dataclass(eq=False)
class _Connection:
    channel: socket.socket
    sent: float = 0.0
    received: bytes = b""

    def send(self, request: bytes) -> None:
        self.received, self.sent = b"", time.perf_counter()
        self.channel.sendall(request)

    def read(self) -> int:
        """Return the status of the response once it is complete, 0 before.

        Raises:
            OSError: the server closed the connection.
        """
        part = self.channel.recv(65536)
        if not part:
            raise ConnectionResetError
        self.received += part
        head, _, body = self.received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        return int(head[9:12]) if length and len(body) == int(length) else 0


def main(arguments: Sequence[str]) -> None:
    """Load one endpoint and print the report that `benchmarks.load` reads."""
    port, endpoint, count, seconds = int(arguments[0]), arguments[1], int(arguments[2]), int(arguments[3])
    request = _request(endpoint)
    ready = selectors.DefaultSelector()
    waiting = {_Connection(socket.create_connection(("127.0.0.1", port))) for _ in range(count)}
    for each in waiting:
        ready.register(each.channel, selectors.EVENT_READ, each)
        each.send(request)

    # Latencies are taken once each connection has its first response; everything counts for the rate.
    times: list[float] = []
    responses = refused = broken = 0
    began = time.perf_counter()
    end = began + _FIRST_LIMIT
    while ready.get_map() and (now := time.perf_counter()) < end:
        for key, _ in ready.select(end - now):
            one: _Connection = key.data
            try:
                status = one.read()
            except OSError as error:
                if one in waiting:
                    raise UnsuitableError("the server closed a connection before its first response.") from error
                broken += 1
                ready.unregister(one.channel)
                continue
            if not status:
                continue
            responses += 1
            refused += status >= 400
            if not waiting:
                times.append(time.perf_counter() - one.sent)
            elif one in waiting:
                waiting.remove(one)
                if not waiting:
                    end = time.perf_counter() + seconds
            one.send(request)
    if waiting:
        raise UnsuitableError(f"{len(waiting)} of {count} connections had no response after {_FIRST_LIMIT:.0f} s.")
    times.sort()
    found = {
        "requests": responses,
        "microseconds": int((time.perf_counter() - began) * 1e6),
        "p50": times[len(times) // 2] * 1e6 if times else 0,
        "p99": times[len(times) * 99 // 100] * 1e6 if times else 0,
        "refused": refused,
        "broken": broken,
    }
    print("REPORT", json.dumps(found))


def _request(endpoint: str) -> bytes:
    """Return the request that wrk sends to this endpoint of the application."""
    if endpoint != "/echo":
        return f"GET {endpoint} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    head = f"POST {endpoint} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(ECHO_BODY)}\r\n\r\n".encode() + ECHO_BODY


if __name__ == "__main__":
    main(sys.argv[1:])
