"""Broken connections, hanging or slow sidecars, and responses that are no HTTP.

The bytes that arrive are always those of a good allow.
"""

from __future__ import annotations

from chio_core.testing.behaviours import JSON_TYPE, Behaviour, Delivery, Ending, Reply, allow_reply
from tests.hostile.bad_answers import HUGE
from tests.hostile.delivery import Cut, drip, followed_by, in_chunks, preceded_by, stop_at, until_closed

INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"


def fault(name: str, summary: str, delivery: Delivery, *, slow: bool = False) -> Behaviour:
    """Return a behaviour that allows, with this delivery."""
    return Behaviour(name, summary, allow_reply, delivery, slow=slow)


def reset_at(byte: int | Cut) -> Behaviour:
    """Return a behaviour that resets the connection after this many bytes of its response."""
    name = f"reset_at_{byte}" if isinstance(byte, int) else "reset"
    return fault(name, f"Resets the connection after {byte} bytes.", stop_at(Ending.RESET, byte))


def closed_at(byte: int | Cut) -> Behaviour:
    """Return a behaviour that closes the connection after this many bytes of its response."""
    name = f"closed_at_{byte}" if isinstance(byte, int) else "closed"
    return fault(name, f"Closes the connection after {byte} bytes.", stop_at(Ending.CLOSE, byte))


def _after_head(head: int, _: int) -> int:
    return head


def _in_body(head: int, total: int) -> int:
    return (head + total) // 2


def _before_last(_: int, total: int) -> int:
    return total - 1


BEHAVIOURS = (
    fault("hang_in_head", "Never ends the head of its response.", stop_at(Ending.HANG, 20), slow=True),
    fault("hang_after_head", "Sends the head and no body.", stop_at(Ending.HANG, _after_head), slow=True),
    fault("hang_in_body", "Sends half of the body.", stop_at(Ending.HANG, _in_body), slow=True),
    fault("hang_before_last_byte", "Sends all but the last byte.", stop_at(Ending.HANG, _before_last), slow=True),
    fault("slow_drip", "Sends a byte at a time from the start.", drip(0), slow=True),
    fault("slow_drip_body", "Sends a byte at a time after the head.", drip(_after_head), slow=True),
    fault("interim_for_ever", "Sends one interim response and hangs.", preceded_by(INTERIM, Ending.HANG), slow=True),
    reset_at(0),
    reset_at(1),
    reset_at(12),
    reset_at(40),
    fault("reset_after_head", "Resets the connection after the head.", stop_at(Ending.RESET, _after_head)),
    fault("reset_in_body", "Resets the connection in the middle of the body.", stop_at(Ending.RESET, _in_body)),
    fault("reset_before_last_byte", "Resets the connection one byte too early.", stop_at(Ending.RESET, _before_last)),
    closed_at(0),
    closed_at(12),
    fault("closed_after_head", "Closes the connection after the head.", stop_at(Ending.CLOSE, _after_head)),
    fault("closed_in_body", "Closes the connection in the middle of the body.", stop_at(Ending.CLOSE, _in_body)),
    fault("closed_before_last_byte", "Closes the connection one byte too early.", stop_at(Ending.CLOSE, _before_last)),
    fault("interim_then_closed", "Sends an interim response only.", preceded_by(INTERIM, Ending.CLOSE)),
    fault("switching_protocols", "Wants to speak another protocol.", preceded_by(SWITCHING)),
    fault("continue_then_allow", "Says 100 Continue first, then a good allow.", preceded_by(CONTINUE)),
    fault("early_hints_then_allow", "Says 103 Early Hints first, then a good allow.", preceded_by(INTERIM)),
    fault("allow_in_pieces", "Sends a good allow in small pieces.", drip(0, pieces=200, every=0.0)),
    fault("allow_in_chunks", "Sends a good allow in the chunked coding.", in_chunks(100)),
    fault("last_chunk_missing", "Ends the chunked coding without its end.", in_chunks(100, last_chunk=False)),
    fault("length_not_announced", "Ends its response by closing the connection.", until_closed),
    fault("allow_then_closed", "Sends a good allow and closes the connection.", followed_by(b"", Ending.CLOSE)),
    fault("not_http", "Responds with something that is not HTTP.", preceded_by(b"220 smtp ready\r\n", Ending.CLOSE)),
    fault("bad_length", "Announces a length that is no number.",
          preceded_by(b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n", Ending.CLOSE)),
    Behaviour("head_too_long", "Sends a header of two megabytes before a good allow.",
              lambda request: Reply(request.response_bytes(), 200, (*JSON_TYPE, ("x-padding", "x" * HUGE)))),
)  # fmt: skip
