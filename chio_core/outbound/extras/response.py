"""Response: what hooks and handlers get; HeaderDict: headers as a dictionary, by names in any case."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from html.parser import HTMLParser
from types import ModuleType
from typing import Any, Self, get_args, get_origin
from urllib.parse import urljoin

from chio_core.errors import ConfigurationError

_BODY_HEADERS = frozenset({"content-encoding", "content-length", "transfer-encoding"})


class HeaderDict(dict[str, str]):
    """Headers as a dictionary that keeps the spelling of names and finds them in any case."""

    def __init__(self, *given: Mapping[str, str] | Iterable[tuple[str, str]], **more: str) -> None:
        super().__init__()
        self._spelled: dict[str, str] = {}
        self.update(*given, **more)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(self._spelling(name))

    def __setitem__(self, name: str, value: str) -> None:
        if name.lower() in self._spelled:
            super().__delitem__(self._spelled[name.lower()])
        self._spelled[name.lower()] = name
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(self._spelling(name))
        del self._spelled[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._spelled

    def __or__(self, other: Any) -> Any:
        both = self.copy()
        both.update(other)
        return both

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def __ror__(self, other: Any) -> Any:
        return HeaderDict(other) | self

    def get(self, name: str, default: Any = None) -> Any:
        """Return a value, or the default."""
        return super().get(self._spelling(name), default)

    def pop(self, name: str, *default: Any) -> Any:
        """Remove a header and return its value."""
        if name not in self and default:
            return default[0]
        value = self[name]
        del self[name]
        return value

    def setdefault(self, name: str, default: Any = None) -> Any:
        """Return a value; set it if it is missing."""
        if name not in self:
            self[name] = default
        return self[name]

    def update(self, *given: Any, **more: str) -> None:
        """Set several headers."""
        for name, value in dict(*given, **more).items():
            self[name] = value

    def clear(self) -> None:
        """Remove all."""
        super().clear()
        self._spelled.clear()

    def popitem(self) -> tuple[str, str]:
        """Remove the last header and return it."""
        name, value = super().popitem()
        del self._spelled[name.lower()]
        return name, value

    def copy(self) -> HeaderDict:
        """Return a copy."""
        return HeaderDict(self)

    def _spelling(self, name: str) -> str:
        return self._spelled.get(name.lower(), name)


class LiveHeaders(MutableMapping[str, str]):
    """The headers of a request of httpx or httpx2 as a dictionary: changes are made in the request.

    Args:
        native: the library's headers.
    """

    __slots__ = ("native",)

    def __init__(self, native: Any) -> None:
        self.native = native

    def __getitem__(self, name: str) -> str:
        return str(self.native[name])

    def __setitem__(self, name: str, value: str) -> None:
        self.native[name] = value

    def __delitem__(self, name: str) -> None:
        del self.native[name]

    def __contains__(self, name: object) -> bool:
        return name in self.native

    def __iter__(self) -> Iterator[str]:
        return iter(self.native)

    def __len__(self) -> int:
        return len(self.native)

    def __or__(self, other: Any) -> HeaderDict:
        return self.copy() | other  # type: ignore[no-any-return]

    def __ror__(self, other: Any) -> HeaderDict:
        return HeaderDict(other) | self.native.items()  # type: ignore[no-any-return]

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    def copy(self) -> HeaderDict:
        """Return a copy."""
        return HeaderDict(self.native.items())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self)}>"


class Response:
    """A response as FastHTTP's middleware and handlers know it, over one of httpx or httpx2, or made by hand.

    What is not listed here is read from the library's response: `status_code`, `content`, `extensions`, `aread()`.

    Args:
        status: status code.
        text: the body.
        headers: headers of the response.
        method: method of the request.
        req_headers: headers of the request that were set, without those that the library adds.
        query: params of the request.
        req_json: JSON of the request.
        req_data: other body of the request.
        content: the body as bytes, if they are not `text` in UTF-8.

    Attributes:
        native: the library's response; None for one that was made by hand.
    """

    native: Any = None
    method: str | None = None
    req_headers: Mapping[str, str] | None = None
    query: Mapping[str, Any] | None = None
    _text: str | None = None
    _content: bytes | None = None
    _url: str | None = None
    _model: Any = None
    _req_json: Any = None
    _req_data: Any = None

    def __init__(
        self,
        status: int,
        text: str,
        headers: Mapping[str, str],
        method: str | None = None,
        req_headers: Mapping[str, str] | None = None,
        query: Mapping[str, Any] | None = None,
        req_json: Any = None,
        req_data: Any = None,
        content: bytes | None = None,
    ) -> None:
        self._status = status
        self._text = text
        self._content = content
        self._headers: Any = HeaderDict(headers)
        self._req_json = req_json
        self._req_data = req_data
        self.method = method
        self.req_headers = req_headers
        self.query = query

    @classmethod
    def of(cls, native: Any, **about: Any) -> Response:
        """Return the response over one of a library; its body may be unread.

        Args:
            about: what the constructor knows about the request.
        """
        made = cls(int(native.status_code), "", {}, **about) if about else object.__new__(cls)
        made.native, made._text, made._headers = native, None, native.headers
        return made

    def declare(self, url: str, model: Any) -> None:
        """Note the declared URL and the model of a call."""
        self._url, self._model = url, model

    @property
    def status(self) -> int:
        """The status code."""
        return self._status if self.native is None else int(self.native.status_code)

    @status.setter
    def status(self, value: int) -> None:
        if self.native is None:
            self._status = value
        else:
            self.native.status_code = value

    @property
    def text(self) -> str:
        """The body as text."""
        return self._text if self._text is not None else str(self.native.text)

    @text.setter
    def text(self, value: str) -> None:
        self._text = value
        self._content = None

    @property
    def headers(self) -> Any:
        """The headers, by names in any case."""
        return self._headers

    @headers.setter
    def headers(self, value: Mapping[str, str]) -> None:
        self._headers = HeaderDict(value)

    @property
    def url(self) -> Any:
        """The declared URL of the call, without params; the library's URL outside of `FastHTTP`."""
        return self._url if self._url is not None or self.native is None else self.native.url

    @property
    def path_params(self) -> dict[str, Any]:
        """Empty: URLs of calls have no parameters in their path."""
        return {}

    def json(self) -> Any:
        """Return the body as JSON, or as the `response_model` of the call.

        Raises:
            ValueError: it is no JSON, or does not fit the model.
        """
        if self._model is None:
            return json.loads(self.text) if self._text is not None else self.native.json()
        if get_origin(self._model) is list:
            item = get_args(self._model)[0]
            return [item.model_validate(one) for one in json.loads(self.text)]
        return self._model.model_validate_json(self.text)

    def bytes(self) -> bytes:
        """Return the body as bytes."""
        if self._content is not None:
            return self._content
        return self._text.encode() if self._text is not None else bytes(self.native.content)

    def req_json(self) -> Any:
        """Return the JSON of the request; None without one."""
        return self._req_json

    def req_text(self) -> str | None:
        """Return the body of the request as text; None without one."""
        if self._req_json is not None:
            return json.dumps(self._req_json, ensure_ascii=False, separators=(",", ":"))
        return None if self._req_data is None else str(self._req_data)

    def html(self) -> str:
        """Return the body of an HTML page.

        Raises:
            ValueError: the content type is another one.
        """
        kind = self.headers.get("content-type", "")
        if kind and "html" not in kind.lower():
            raise ValueError(f"the response is no HTML; its content type is {kind}")
        return self.text

    def xml(self) -> ET.Element:
        """Return the root of an XML document.

        Raises:
            ValueError: it has a document type, whose entities could fill the memory.
            xml.etree.ElementTree.ParseError: it is no XML.
        """
        if "<!doctype" in self.text.lower():
            raise ValueError("XML with a document type is not read: its entities could fill the memory")
        return ET.fromstring(self.text)  # noqa: S314 - without a document type there are no entities

    def assets(self, *, css: bool = True, js: bool = True) -> dict[str, list[str]]:
        """Return the URLs of the style sheets and scripts of an HTML page, under `css` and `js`."""
        page = _Assets(str(self.url or ""))
        page.feed(self.text)
        return {"css": page.css if css else [], "js": page.js if js else []}

    def to_native(self, request: Any) -> Any:
        """Return a response of the request's library, with what was changed here."""
        if self.native is not None and self._text is None and self._headers is self.native.headers:
            return self.native
        lines = self._headers.items() if isinstance(self._headers, dict) else self._headers.multi_items()
        pairs = [(name, value) for name, value in lines if name.lower() not in _BODY_HEADERS]
        extensions = self.native.extensions if self.native is not None else {}
        return library_of(request).Response(self.status, headers=pairs, content=self.bytes(), extensions=extensions)

    def __getattr__(self, name: str) -> Any:
        if self.native is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.native, name)

    def __repr__(self) -> str:
        return f"<Response [{self.status}]>"


class _Assets(HTMLParser):
    """Collects the style sheets and scripts of a page."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self._base = base
        self.css: list[str] = []
        self.js: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "link" and "stylesheet" in (found.get("rel") or "").lower().split() and found.get("href"):
            self.css.append(urljoin(self._base, found["href"] or ""))
        elif tag == "script" and found.get("src"):
            self.js.append(urljoin(self._base, found["src"] or ""))


def library_of(thing: Any) -> ModuleType:
    """Return the package, httpx or httpx2, that a request or response comes from: both have the same class names.

    Raises:
        ConfigurationError: it is neither.
    """
    for base in type(thing).__mro__:
        module = sys.modules.get(base.__module__.partition(".")[0])
        if module is not None and hasattr(module, "AsyncByteStream"):
            return module
    raise ConfigurationError(f"{type(thing).__name__} is no request or response of httpx or httpx2")
