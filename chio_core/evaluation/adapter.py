"""RequestAdapter: how a framework does the steps of a request, see `chio_core.evaluation.pipeline`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from chio_core.evaluation.amounts import Facts
from chio_core.evaluation.exchange import EvaluateCall
from chio_core.evaluation.governed import GovernedRequest, RouteMatch
from chio_core.evaluation.hooks import Hook
from chio_core.evaluation.outcomes import Decision
from chio_core.request import RequestView

T = TypeVar("T")


class RequestAdapter(Protocol):
    """One request, as its framework handles it.

    Methods marked with * return their result, or an awaitable of it for `run_async`.

    Attributes:
        view: the request.
        governed: its facts, requirement and decision so far.
    """

    @property
    def view(self) -> RequestView: ...  # noqa: D102 - see the class

    @property
    def governed(self) -> GovernedRequest: ...  # noqa: D102 - see the class

    def now(self) -> RequestView:
        """Return the request as the application will see it."""

    def keep_body(self) -> None:
        """Keep what code of the application reads of the body outside of its handler, so that it can be read again.

        It is called before that code, where `read_body` is not done yet, and after it.

        Raises:
            RequestRefused: its length is not clear.
        """

    def read_body(self) -> Any:
        """* Read the body to its end, and return a `Body`.

        It is read within the view's limits, which are lifted for a request that is observed (`governed.observed`).

        Raises:
            RequestRefused: it is too large, or did not arrive completely or in time.
        """

    def raw_body(self) -> Any:
        """* Return the bytes of the body; None if the request can have none (a websocket handshake)."""

    def body_hash(self) -> str | None:
        """Return the hash of the body that the handler will read, as far as inner code can replace it."""

    def locate(self) -> RouteMatch:
        """Return the route that will run."""

    def compute(self, function: Callable[[], T], facts: Facts) -> Any:
        """* Return the result of a function that may parse the body, in a thread if that takes long."""

    def send(self, call: EvaluateCall) -> Any:
        """* Send a call to the sidecar and return the `Decision`."""

    def publish(self, decision: Decision) -> None:
        """Show a decision to the application."""

    def call_hook(self, hook: Hook, value: Any) -> Any:
        """* Call a hook; exceptions are logged."""
