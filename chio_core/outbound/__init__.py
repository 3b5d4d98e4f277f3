"""Outgoing calls: the chain as a transport of httpx or httpx2, governed if `GovernOutbound` is part of it."""

from chio_core.outbound.attenuate import attenuate
from chio_core.outbound.extras.cache import Cache
from chio_core.outbound.extras.calls import Call, Calls, Outcome, Outcomes
from chio_core.outbound.extras.cookies import CookieJar, DummyCookieJar, Session, no_cookies
from chio_core.outbound.extras.middleware import (
    BaseMiddleware,
    BearerAuth,
    ErrorTracking,
    Logging,
    Timing,
    TraceId,
)
from chio_core.outbound.extras.response import Response
from chio_core.outbound.fasthttp import CacheMiddleware, FastHTTP, SessionMiddleware
from chio_core.outbound.govern import GovernOutbound, decision_of, receipt_of
from chio_core.outbound.hop import Hop, OutboundDenied, Route, hop_of
from chio_core.outbound.member import Flow, MiddlewareChain, OutboundMember
from chio_core.outbound.transport import ChioTransport, SyncChioTransport

__all__ = [
    "BaseMiddleware",
    "BearerAuth",
    "Cache",
    "CacheMiddleware",
    "Call",
    "Calls",
    "ChioTransport",
    "CookieJar",
    "DummyCookieJar",
    "ErrorTracking",
    "FastHTTP",
    "Flow",
    "GovernOutbound",
    "Hop",
    "Logging",
    "MiddlewareChain",
    "OutboundDenied",
    "OutboundMember",
    "Outcome",
    "Outcomes",
    "Response",
    "Route",
    "Session",
    "SessionMiddleware",
    "SyncChioTransport",
    "Timing",
    "TraceId",
    "attenuate",
    "decision_of",
    "hop_of",
    "no_cookies",
    "receipt_of",
]
