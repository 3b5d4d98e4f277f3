"""The cost of members of an outgoing chain: processor microseconds of one httpx call, bare and with ten members.

    python -m benchmarks.outbound
    python -m benchmarks.outbound --rounds 15 --calls 500

The inner transport responds from memory, so that only the client and the members are measured. The variants are
interleaved over the rounds; a difference is taken within each round, and its median is shown. Ten members must cost
less than 60 µs, lowest round against lowest round: other processes can only add to either.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import httpx

from benchmarks import report
from benchmarks.figures import Spread
from benchmarks.options import new_parser, positive, speaking_plainly
from chio_core.outbound import (
    BaseMiddleware,
    BearerAuth,
    Cache,
    ChioTransport,
    CookieJar,
    ErrorTracking,
    Logging,
    Session,
    Timing,
    TraceId,
    no_cookies,
)

MUST = 60.0
URL = "https://api.example.com/items/7?full=1"
BARE = "bare httpx call"


class Memory(httpx.AsyncBaseTransport):
    """Responds at once."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "application/json"}, content=b'{"item":7}')


class Hooks(BaseMiddleware):
    """A typical hook class."""

    async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        kwargs["headers"]["X-Write-Op"] = "true"
        return kwargs

    async def response(self, response: Any) -> Any:
        return response


async def function(request: Any, following: Callable[[Any], Awaitable[Any]]) -> Any:
    return await following(request)


def quiet() -> logging.Logger:
    """Return a logger that is off at the level of `Logging`."""
    logger = logging.getLogger("benchmarks.outbound")
    logger.setLevel(logging.WARNING)
    return logger


def mixed() -> list[Any]:
    """Return ten members, all kinds among them."""
    ready = [BearerAuth("token"), TraceId(), Timing(), ErrorTracking(), Logging(quiet())]
    return [*ready, Session(CookieJar({"session": "s1"})), Hooks(), Hooks(), function, function]


def variants() -> dict[str, list[Any] | None]:
    """Return the members of each variant; None without `ChioTransport`."""
    return {
        BARE: None,
        "no member": [],
        "ten functions": [function] * 10,
        "ten hook classes": [Hooks() for _ in range(10)],
        "ten members, all kinds": mixed(),
        "a cache hit": [Cache(ttl=3600)],
    }


async def measure(rounds: int, calls: int) -> dict[str, list[float]]:
    """Return the processor seconds of one call, for each variant and round."""
    clients = {name: client(members) for name, members in variants().items()}
    taken: dict[str, list[float]] = {name: [] for name in clients}
    for one in clients.values():
        await timed(one, 20)
    gc.freeze()
    for _ in range(rounds):
        for name, one in clients.items():
            taken[name].append(await timed(one, calls))
    for one in clients.values():
        await one.aclose()
    return taken


def client(members: list[Any] | None) -> httpx.AsyncClient:
    transport = Memory() if members is None else ChioTransport(Memory(), members)
    return httpx.AsyncClient(transport=transport, cookies=no_cookies())


async def timed(one: httpx.AsyncClient, calls: int) -> float:
    started = time.process_time()
    for _ in range(calls):
        await one.get(URL)
    return (time.process_time() - started) / calls


def table(taken: Mapping[str, Sequence[float]]) -> str:
    """Return the Markdown table."""
    rows = []
    for name, values in taken.items():
        whole, added = Spread.of(values), Spread.of([a - b for a, b in zip(values, taken[BARE], strict=True)])
        shown = "" if name == BARE else f"{added.middle * 1e6:,.1f}"
        rows.append([name, f"{whole.middle * 1e6:,.1f}", f"{whole.low * 1e6:,.1f}–{whole.high * 1e6:,.1f}", shown])
    return report.markdown(("variant", "CPU µs per call", "lowest–highest", "over bare"), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the options say; return 1 if ten members cost more than they may."""
    parser = new_parser("benchmarks.outbound", __doc__)
    parser.add_argument("--rounds", type=positive, default=11, metavar="N")
    parser.add_argument("--calls", type=positive, default=200, metavar="N", help="calls per variant and round")
    options = parser.parse_args(arguments)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    taken = asyncio.run(measure(options.rounds, options.calls))
    print(f"{options.rounds} rounds of {options.calls} calls; medians\n\n{table(taken)}")
    ten = (min(taken["ten members, all kinds"]) - min(taken[BARE])) * 1e6
    print(f"\nmust: ten members below {MUST:.0f} µs; in the quietest rounds {ten:.1f} µs")
    return 0 if ten < MUST else 1


if __name__ == "__main__":
    sys.exit(speaking_plainly(main))
