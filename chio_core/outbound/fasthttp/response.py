"""`from fasthttp.response import Response`, with our prefix."""

from chio_core.outbound.extras.response import Response

__all__ = ["Response"]
