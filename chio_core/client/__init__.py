"""Carriers: how a question travels to the sidecar and its answer back.

All of them keep two promises that the client relies on. Whoever stops waiting, by a deadline or by being
cancelled, stops nothing but his own waiting: the exchange ends by itself and its connection is used again or
closed. And one carrier serves one event loop (or, the blocking ones, any thread).
"""

from chio_core.client.carrier import AsyncCarrier, BlockingCarrier
from chio_core.endpoint import Endpoint

__all__ = ["AsyncCarrier", "BlockingCarrier", "Endpoint"]
