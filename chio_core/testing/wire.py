"""HTTP/1.1 of the scripted sidecar: questions read from a stream, answers turned into bytes and steps."""

from __future__ import annotations

import asyncio
import http.client
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from chio_core.testing.behaviours import Ending, Pause, Reply, Step

MAX_HEAD = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request.

    Attributes:
        headers: names in lower case; of repeated names the first.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


async def read_call(reader: asyncio.StreamReader) -> Call | None:
    """Read one request with an announced length; None when the connection ended or spoke something else."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers.setdefault(name.strip().lower(), value.strip())
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
        return None
    return Call(method, target, headers, body)


def head_of(reply: Reply) -> bytes:
    """Return the head of an answer, its length announced."""
    reason = http.client.responses.get(reply.status, "Scripted")
    lines = [f"HTTP/1.1 {reply.status} {reason}", *(f"{name}: {value}" for name, value in reply.headers)]
    lines.append(f"content-length: {len(reply.body)}\r\n\r\n")
    return "\r\n".join(lines).encode("latin-1")


async def carry_out(steps: Iterable[Step], writer: asyncio.StreamWriter) -> bool:
    """Carry out a delivery on a connection; True when the connection can take the next question."""
    for step in steps:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
        elif step is Ending.HANG:
            await asyncio.Event().wait()
        elif step is Ending.RESET:
            reset(writer)
            return False
        elif step is Ending.CLOSE:
            return False
        else:
            writer.write(step)
            await writer.drain()
    return True


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a TCP reset instead of a farewell."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
