"""Calls: outgoing calls that are declared, and run by their tags.

    calls = Calls(middleware=[Timing()], cookie_jar=CookieJar())

    @calls.post("https://api.example.com/login", json={"username": "alice"}, tags=["auth"])
    async def login(response):
        return response.json()

    await calls.run(tags=["auth"])

The calls of one run are made at the same time. Cookies are kept from run to run if there is a jar.
`chio_core.outbound.fasthttp` does the same for scripts.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar, overload

import httpx

from chio_core.errors import ConfigurationError
from chio_core.names import HTTPX_CALL, LOGGER
from chio_core.outbound.extras.cookies import CookieJar, Session, no_cookies
from chio_core.outbound.extras.response import Response
from chio_core.outbound.member import MiddlewareChain
from chio_core.outbound.transport import OF_THE_TRANSPORT, PASSES_BY, Borrowed, ChioTransport

log = logging.getLogger(LOGGER)

Handler = TypeVar("Handler", bound=Callable[[Response], Any])


@dataclass(frozen=True, slots=True)
class Call:
    """One declared call; the `route` argument of `on_error`.

    Attributes:
        name: name of the handler.
        options: arguments of `httpx.AsyncClient.request`: `params`, `json`, `headers`, `timeout` and so on.
    """

    name: str
    method: str
    url: str
    tags: frozenset[str]
    options: Mapping[str, Any]
    handler: Callable[[Response], Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one call in one run.

    Attributes:
        call: the declared `Call`, or `Route` of `FastHTTP`.
        value: the handler's return value; None after an error.
        response: None if there was no response.
        error: the exception of the call or of its handler.
    """

    call: Any
    value: Any = None
    response: Response | None = None
    error: Exception | None = None

    @property
    def name(self) -> str:
        """Name of the call."""
        return str(self.call.name)


class Outcomes(Sequence[Outcome]):
    """The outcomes of one run, in the order of declaration; `outcomes["login"]` finds one by name.

    Args:
        outcomes: one for each call.
    """

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes = tuple(outcomes)

    @overload
    def __getitem__(self, key: int | str) -> Outcome: ...

    @overload
    def __getitem__(self, key: slice) -> tuple[Outcome, ...]: ...

    def __getitem__(self, key: int | str | slice) -> Outcome | tuple[Outcome, ...]:
        if not isinstance(key, str):
            return self._outcomes[key]
        for outcome in self._outcomes:
            if outcome.name == key:
                return outcome
        raise KeyError(key)

    def __len__(self) -> int:
        return len(self._outcomes)

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self._outcomes)

    def __repr__(self) -> str:
        return f"<Outcomes {', '.join(f'{one.name}={one.error or one.value!r}' for one in self._outcomes)}>"

    @property
    def errors(self) -> list[Exception]:
        """The errors, in the order of declaration."""
        return [outcome.error for outcome in self._outcomes if outcome.error is not None]

    def raise_errors(self) -> Outcomes:
        """Return the outcomes if no call failed.

        Raises:
            ExceptionGroup: all errors of the run.
        """
        if self.errors:
            raise ExceptionGroup(f"{len(self.errors)} of {len(self)} calls failed", self.errors)
        return self


class Declaring:
    """The decorators `get`, `post` and so on."""

    def call(self, method: str, url: str, **options: Any) -> Callable[[Handler], Handler]:
        """Declare a call; the decorated function receives its response."""
        raise NotImplementedError

    def get(self, url: str, **options: Any) -> Callable[[Handler], Handler]:
        """Declare a GET; see `call`."""
        return self.call("GET", url, **options)

    def head(self, url: str, **options: Any) -> Callable[[Handler], Handler]:
        """Declare a HEAD; see `call`."""
        return self.call("HEAD", url, **options)

    def options(self, url: str, **options: Any) -> Callable[[Handler], Handler]:
        """Declare an OPTIONS; see `call`."""
        return self.call("OPTIONS", url, **options)

    def post(self, url: str, **options: Any) -> Callable[[Handler], Handler]:
        """Declare a POST; see `call`."""
        return self.call("POST", url, **options)

    def put(self, url: str, **options: Any) -> Callable[[Handler], Handler]:
        """Declare a PUT; see `call`."""
        return self.call("PUT", url, **options)

    def patch(self, url: str, **options: Any) -> Callable[[Handler], Handler]:
        """Declare a PATCH; see `call`."""
        return self.call("PATCH", url, **options)

    def delete(self, url: str, **options: Any) -> Callable[[Handler], Handler]:
        """Declare a DELETE; see `call`."""
        return self.call("DELETE", url, **options)


class Calls(Declaring):
    """Declared calls of an asynchronous program.

    Args:
        middleware: a member, a chain, or a list of them.
        cookie_jar: keeps cookies from run to run; none are kept by default.
        transport: the sending transport, which is not closed; default: a new `httpx.AsyncHTTPTransport` for each run.
        options: further options of `httpx.AsyncClient`: `base_url`, `timeout`, `follow_redirects`, `verify`, …

    Raises:
        ConfigurationError: an option would pass the members by, or belongs to the given transport, or the members'
            order cannot work.
    """

    def __init__(
        self,
        *,
        middleware: Any = None,
        cookie_jar: CookieJar | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        **options: Any,
    ) -> None:
        session = [Session(cookie_jar)] if cookie_jar is not None else []
        self._chain = MiddlewareChain(session, middleware)
        self._sessions = [one.guard for one in self._chain.freeze() if isinstance(one.guard, Session)]
        self._transport = transport
        self._transport_options, self._options = split_options(options, given=transport is not None)
        self._calls: list[Call] = []

    @property
    def calls(self) -> tuple[Call, ...]:
        """The declared calls."""
        return tuple(self._calls)

    def call(self, method: str, url: str, **options: Any) -> Callable[[Handler], Handler]:
        """Declare a call; the decorated function receives its response.

        Args:
            tags: words that `run` selects by.
            options: arguments of `httpx.AsyncClient.request`.

        Raises:
            ConfigurationError: `tags` is one string, or another handler has the same name.
        """
        tags = options.pop("tags", ())
        if isinstance(tags, str):
            raise ConfigurationError(f"tags is a list of texts; write [{tags!r}]")

        def declare(handler: Handler) -> Handler:
            name = getattr(handler, "__name__", f"call_{len(self._calls)}")
            if any(known.name == name for known in self._calls):
                raise ConfigurationError(f"two outgoing calls are named {name}; rename one of the handlers")
            frozen = MappingProxyType(options)
            self._calls.append(Call(name, method.upper(), url, frozenset(tags), frozen, handler))
            return handler

        return declare

    async def run(self, *, tags: Collection[str] | None = None) -> Outcomes:
        """Make the calls that have one of these tags, at the same time; all calls if `tags` is None.

        Errors are logged and kept in the outcomes; an error of one call does not stop the others.

        Raises:
            ConfigurationError: no call has such a tag, or initial cookies could belong to several hosts.
        """
        if isinstance(tags, str):
            raise ConfigurationError(f"tags is a list of texts; write [{tags!r}]")
        known = {tag for call in self._calls for tag in call.tags}
        if strange := sorted(set(tags or ()) - known):
            raise ConfigurationError(
                f"no call has the tag {strange[0]!r}; there are {', '.join(sorted(known)) or 'none'}"
            )
        selected = [call for call in self._calls if tags is None or call.tags & set(tags)]
        given = self._transport
        inner = httpx.AsyncHTTPTransport(**self._transport_options) if given is None else Borrowed(given)
        transport = ChioTransport(inner, self._chain)
        client = httpx.AsyncClient(transport=transport, cookies=no_cookies(), **self._options)
        urls = [client.build_request(call.method, call.url).url for call in selected]
        for one in self._sessions:
            one.cookie_jar.bind(urls)  # which call is first must not decide whose a cookie is
        async with client, asyncio.TaskGroup() as group:
            tasks = [group.create_task(_outcome(client, call)) for call in selected]
        return Outcomes([task.result() for task in tasks])


def split_options(options: Mapping[str, Any], *, given: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options for `httpx.AsyncHTTPTransport`, and those for the client: it ignores the former.

    Args:
        given: there is a transport already.

    Raises:
        ConfigurationError: an option would pass the members by, or belongs to the given transport.
    """
    own = {name: value for name, value in options.items() if name in OF_THE_TRANSPORT and value is not None}
    rest = {name: value for name, value in options.items() if name not in OF_THE_TRANSPORT}
    if taken := sorted(rest.keys() & PASSES_BY):
        raise ConfigurationError(f"{taken[0]} would pass the members by; give cookie_jar or transport instead")
    if given and own:
        raise ConfigurationError(f"{min(own)} is an option of the transport; give it to the one that you make")
    return own, rest


async def _outcome(client: httpx.AsyncClient, call: Call) -> Outcome:
    response = None
    try:
        options = dict(call.options)
        options["extensions"] = {**(options.get("extensions") or {}), HTTPX_CALL: call}
        response = Response.of(await client.request(call.method, call.url, **options))
        value = call.handler(response)
        return Outcome(call, await value if inspect.isawaitable(value) else value, response)
    except Exception as error:  # noqa: BLE001 - no error may stop the other calls
        log.error("chio: outgoing call %s failed: %s: %s", call.name, type(error).__name__, error)
        return Outcome(call, None, response, error)
