"""Steps: what the pipeline does in an order, and the two ways to run it, in a thread or in an event loop.

RequestAdapter is how a framework does the steps of a request, see `chio_core.evaluation.pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from chio_core.evaluation.amounts import Facts
    from chio_core.evaluation.exchange import EvaluateCall
    from chio_core.evaluation.governed import GovernedRequest, RouteMatch
    from chio_core.evaluation.hooks import Hook
    from chio_core.evaluation.outcomes import Decision
    from chio_core.request import RequestView

T = TypeVar("T")
Steps = Generator[Any, Any, T]
"""Yields results of a `RequestAdapter`'s methods (awaitables, if the adapter is asynchronous)."""


def run(steps: Steps[T]) -> T:
    """Run steps in a thread."""
    step, value = steps.send, None
    while True:
        try:
            value = step(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


async def run_async(steps: Steps[T]) -> T:
    """Run steps in an event loop: what they yield is awaited."""
    step: Callable[[Any], Any] = steps.send
    value: Any = None
    while True:
        try:
            pending = step(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        try:
            step, value = steps.send, await pending
        except BaseException as exc:  # noqa: BLE001 - the steps handle it, or raise it again
            step, value = steps.throw, exc


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
