"""Routes, the declared calls of `FastHTTP`; routers that collect them; and what they are declared with."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chio_core.errors import ConfigurationError
from chio_core.outbound.extras.calls import Declaring, Handler

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_SCHEME = re.compile(r"https?://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Depends:
    """A function that changes the kwargs of a call after the hooks: `(route, config) -> config`, may be `async`.

    Attributes:
        use_cache: run it once for a call that names it twice.
    """

    func: Callable[[Any, dict[str, Any]], Any]
    use_cache: bool = True
    scope: str | None = "function"

    async def __call__(self, route: Any, config: dict[str, Any]) -> dict[str, Any]:
        """Run the function."""
        changed: Any = self.func(route, config)
        return dict(await changed if inspect.isawaitable(changed) else changed)


class EventHooks:
    """Decorators for functions, `async def`, that are called for every call."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.responses: list[Any] = []
        self.errors: list[Any] = []

    def on_request(self, func: Handler) -> Handler:
        """Call `func(route, config)` before the request is sent."""
        self.requests.append(func)
        return func

    def on_response(self, func: Handler) -> Handler:
        """Call `func(response)` for a response below 400."""
        self.responses.append(func)
        return func

    def on_error(self, func: Handler) -> Handler:
        """Call `func(error, route)` for an error."""
        self.errors.append(func)
        return func

    def merge(self, other: EventHooks) -> None:
        """Add those of a router."""
        self.requests += other.requests
        self.responses += other.responses
        self.errors += other.errors


@dataclass(slots=True, kw_only=True)
class Route:
    """One declared call; the `route` of hooks.

    Attributes:
        handler: gets the response; may be `async`.
        json, data: body of the request; a mapping as `data` is sent as a form.
        response_model: a Pydantic class, or `list[…]` of one; `response.json()` returns it.
        request_model: a Pydantic class that `json` or `data` must fit.
        responses: Pydantic classes by status, `{404: {"model": …}}`; the handler gets such a response too.
        auth: `BasicAuth`, `DigestAuth`, `BearerAuth`, or what httpx takes.
        options: further arguments of `httpx.AsyncClient.request`.
    """

    method: str
    url: str
    handler: Callable[..., Any]
    params: Mapping[str, Any] | None = None
    json: Any = None
    data: Any = None
    response_model: Any = None
    request_model: Any = None
    tags: list[str] = field(default_factory=list)
    dependencies: list[Any] = field(default_factory=list)
    raise_for_status: bool = False
    auth: Any = field(default=None, repr=False)
    responses: Mapping[int, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the handler."""
        return str(getattr(self.handler, "__name__", type(self.handler).__name__))


_DECLARED = {
    "params", "json", "data", "response_model", "request_model", "dependencies", "raise_for_status", "auth",
    "responses",
}  # fmt: skip


class RouteDeclaring(Declaring):
    """The decorators of `FastHTTP` and `Router`."""

    def add(self, route: Route) -> None:
        """Keep a declared call."""
        raise NotImplementedError

    def call(self, method: str, url: str, **options: Any) -> Callable[[Handler], Handler]:
        """Declare a call; the decorated function gets its response.

        Args:
            url: without a scheme it is `https`; relative to the `base_url`, if there is one.
            options: attributes of `Route`, and arguments of `httpx.AsyncClient.request`.

        Raises:
            ConfigurationError: `tags` is one text.
        """
        tags = options.pop("tags", None) or []
        if isinstance(tags, str):
            raise ConfigurationError(f"tags is a list of texts; write [{tags!r}]")
        known = {name: options.pop(name) for name in _DECLARED & options.keys()}
        known = {name: value for name, value in known.items() if value is not None}

        def declare(handler: Handler) -> Handler:
            self.add(Route(method=method, url=url, handler=handler, tags=list(tags), options=options, **known))
            return handler

        return declare


class Router(RouteDeclaring):
    """Collects calls for `FastHTTP.include_router`.

    Args:
        base_url: host of relative URLs, instead of that of the including application or router.
        prefix: put before the paths of relative URLs.
        tags, dependencies: put before those of each call.

    Attributes:
        event_hooks: the application that includes the router gets them.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        prefix: str = "",
        tags: Collection[str] | None = None,
        dependencies: Collection[Any] | None = None,
    ) -> None:
        self.base_url = base_url
        self.prefix = prefix
        self.tags = list(tags or ())
        self.dependencies = list(dependencies or ())
        self.event_hooks = EventHooks()
        self._parts: list[Route | tuple[Router, dict[str, Any]]] = []

    def add(self, route: Route) -> None:
        """Keep a declared call."""
        self._parts.append(route)

    def include_router(self, router: Router, **place: Any) -> None:
        """Include another router, under a further `prefix`, with further `tags`, `dependencies` or a `base_url`."""
        self._parts.append((router, place))

    def build_routes(
        self,
        *,
        base_url: str | None = None,
        prefix: str = "",
        tags: Collection[str] | None = None,
        dependencies: Collection[Any] | None = None,
    ) -> Iterable[Route]:
        """Yield the calls with whole URLs.

        Raises:
            ConfigurationError: a URL is relative, and there is no `base_url`.
        """
        base, prefix = self.base_url or base_url, join_paths(prefix, self.prefix)
        tags, dependencies = [*(tags or ()), *self.tags], [*(dependencies or ()), *self.dependencies]
        for part in self._parts:
            if isinstance(part, Route):
                values = {name: getattr(part, name) for name in part.__dataclass_fields__}
                values["url"] = whole_url(part.url, base, prefix)
                values["tags"] = [*tags, *part.tags]
                values["dependencies"] = [*dependencies, *part.dependencies]
                yield Route(**values)
                continue
            router, place = part
            yield from router.build_routes(
                base_url=place.get("base_url") or base,
                prefix=join_paths(prefix, place.get("prefix") or ""),
                tags=[*tags, *(place.get("tags") or ())],
                dependencies=[*dependencies, *(place.get("dependencies") or ())],
            )


def join_paths(first: str, second: str) -> str:
    """Return two parts of a path with one slash between them."""
    parts = [part.strip().strip("/") for part in (first, second)]
    return "".join(f"/{part}" for part in parts if part)


def whole_url(url: str, base: str | None, prefix: str = "") -> str:
    """Return a URL with scheme and host.

    Args:
        url: whole, without a scheme (`https` then), or relative to `base`.
        prefix: put before the path of a relative URL.

    Raises:
        ConfigurationError: a path alone, without a `base`.
    """
    url = url.strip()
    if _SCHEME.match(url):
        return url
    if base:
        base = base.strip().rstrip("/")
        path = join_paths(prefix, url) + ("/" if url.endswith("/") and url.strip("/") else "")
        return f"{base if _SCHEME.match(base) else f'https://{base}'}{path}"
    if url.startswith("/"):
        raise ConfigurationError(f"the URL {url} has no host; give base_url")
    return f"https://{url}"
