"""Requests with changed bytes."""

from __future__ import annotations

import random

PIECES = [bytes([number]) for number in range(256)]
PIECES += [b"%%%02x" % number for number in b"/.%?#;\\\x00\r\n adm"]
PIECES += [
    b"/admin",
    b"/../",
    b"//",
    b"/healthz",
    b"%c0%af",
    b"\r\n",
    b"\r\n ",
    b": ",
    b" HTTP/1.1",
    b"?a=1&a=%32",
    b"-1",
    b"GET ",
]
"""What changes put in: each byte, some of them percent-encoded, and parts of targets and of framing."""


def mutated(chance: random.Random, request: bytes, elsewhere: float = 0.0) -> bytes:
    """Return a request with one to three changes.

    Args:
        elsewhere: share of changes that may be anywhere; the others are in method and target.
    """
    for _ in range(chance.randrange(1, 4)):
        begin = chance.randrange(1 + (len(request) if chance.random() < elsewhere else max(0, request.find(b" HTTP"))))
        end = begin + chance.choice([0, 0, 1, 1, 4])
        inside = request[begin:end]
        spelled = b"".join(b"%%%02X" % one for one in inside)
        by = chance.choice([b"", chance.choice(PIECES), inside * 2, inside.swapcase(), spelled])
        request = request[:begin] + by + request[end:]
    return request
