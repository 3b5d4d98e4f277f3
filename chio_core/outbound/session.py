"""Session: a cookie jar as a member."""

from __future__ import annotations

from typing import Any

from chio_core.outbound.extras.cookies import CookieJar
from chio_core.outbound.member import Flow, FlowSteps


class Session(Flow):
    """Sends the jar's cookies with each hop, and keeps those that come back.

    An httpx client keeps cookies by itself too; give it `cookies=no_cookies()`, so that there is one jar.

    Args:
        cookie_jar: the jar; a new one when left out.

    Attributes:
        cookie_jar: see above.
    """

    __priority__ = 5

    def __init__(self, cookie_jar: CookieJar | None = None) -> None:
        self.cookie_jar = cookie_jar if cookie_jar is not None else CookieJar()

    def flow(self, request: Any) -> FlowSteps:
        """Send with cookies."""
        self.cookie_jar.put_on(request)
        response = yield request
        self.cookie_jar.take_from(response, request)
        return response
