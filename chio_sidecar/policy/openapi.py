"""Reading an OpenAPI 3 document, as far as the route table needs it (wire protocol, section 6.1).

JSON and YAML mean the same here: no member may occur twice, and only `true` and `false` are booleans in YAML
(as in its version 1.2), so that `x-chio-approval-required: yes` is a text in both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar
from urllib.parse import unquote

import yaml

from chio_core.canonical import MAX_DEPTH, parse_json
from chio_core.errors import ConfigurationError, InvalidDocument

METHODS = ("get", "post", "put", "patch", "delete", "head", "options")
"""Members of a path item that are operations, in the order in which they are read."""

_MAX_EXPANDED = 1_000_000
_MAX_HOPS = 32
_INDEX = re.compile("0|[1-9][0-9]{0,8}")
_MERGE = "tag:yaml.org,2002:merge"

# PyYAML may be built with the C parser, which reads the same language about ten times faster.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def operations_of(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (template, upper-case method, operation object) for every operation of a loaded document.

    Raises:
        ConfigurationError: `failed to parse OpenAPI spec: …`.
    """
    for template, item in path_items(document):
        _check_references(document, item, f"paths.{template}")
        for method in METHODS:
            if item.get(method) is not None:
                place = f"paths.{template}.{method}"
                operation = _object(item[method], place)
                _check_references(document, operation, place)
                yield template, method.upper(), operation


def path_items(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (template, path item) of a loaded document, references resolved.

    Raises:
        ConfigurationError: `failed to parse OpenAPI spec: …`.
    """
    for template, item in _member(document, "paths", "paths").items():
        if not template.startswith("x-"):
            yield template, _resolved(document, item, f"paths.{template}")


def load(text: str) -> dict[str, Any]:
    """Read a document, JSON when it begins with `{` and else YAML, and check its version.

    Raises:
        ConfigurationError: `failed to parse OpenAPI spec: …`.
    """
    try:
        document = parse_json(text) if text.lstrip("\ufeff \t\r\n").startswith("{") else _load_yaml(text)
    except InvalidDocument as exc:
        raise _failure(exc.message) from None
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise _failure(f"{getattr(exc, 'problem', None) or 'not a YAML document'}{place}") from None
    except RecursionError:
        raise _failure("the document is nested too deeply") from None
    document = _object(document, "document")
    for name in ("openapi", "info", "paths"):
        if document.get(name) is None:
            raise _failure(f"missing required field: {name}")
    version = str(document["openapi"])
    if version.split(".")[0] != "3":
        raise _failure(f"unsupported OpenAPI version: {version[:40]}")
    return document


def _check_references(document: dict[str, Any], holder: dict[str, Any], place: str) -> None:
    """Resolve the references that an operation or path item may hold."""
    parameters = holder.get("parameters", [])
    if not isinstance(parameters, list):
        raise _failure(f"{place}.parameters is no array")
    for parameter in parameters:
        _resolved(document, parameter, f"{place}.parameters")
    if holder.get("requestBody") is not None:
        _resolved(document, holder["requestBody"], f"{place}.requestBody")
    for response in _member(holder, "responses", f"{place}.responses").values():
        _resolved(document, response, f"{place}.responses")


def _resolved(document: dict[str, Any], value: Any, place: str) -> dict[str, Any]:
    """Return an object, or the one that its `$ref` names, over as many references as it takes."""
    for _ in range(_MAX_HOPS):
        found = _object(value, place)
        reference = found.get("$ref")
        if reference is None:
            return found
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise _failure(f"unresolved reference: {str(reference)[:200]}")
        # A JSON pointer in a URI fragment (RFC 6901, sections 4 and 6): percent-encoded, with indexes of arrays.
        value = document
        for part in reference[2:].split("/"):
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(value, list) and _INDEX.fullmatch(name) and int(name) < len(value):
                value = value[int(name)]
            elif isinstance(value, dict) and name in value:
                value = value[name]
            else:
                raise _failure(f"unresolved reference: {reference[:200]}")
    raise _failure(f"unresolved reference: {reference} (it leads back to itself)")


def _member(holder: dict[str, Any], name: str, place: str) -> dict[str, Any]:
    value = holder.get(name)
    return {} if value is None else _object(value, place)


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _failure(f"{place} is no object")
    return value


def _failure(text: str) -> ConfigurationError:
    return ConfigurationError(f"failed to parse OpenAPI spec: {text}")


class _StrictLoader(_Loader):  # type: ignore[misc]
    """YAML with string keys, without dates, and with the booleans of YAML 1.2."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":timestamp"))]
        for first, resolvers in _Loader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return {key if isinstance(key, str) else str(key): value for key, value in found.items()}


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def _load_yaml(text: str) -> Any:
    # Composing recurses, in C as well: count the depth on the flat stream of events before.
    depth = 0
    for event in yaml.parse(text, Loader=_StrictLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise InvalidDocument(f"YAML is nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    loader = _StrictLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded(node, {}, set()) > _MAX_EXPANDED:  # "billion laughs"
            raise InvalidDocument(f"YAML aliases expand to more than {_MAX_EXPANDED} nodes")
        try:
            return loader.construct_document(node)
        except (ValueError, ArithmeticError, LookupError, AttributeError) as exc:
            # What PyYAML's constructors raise for a scalar that is not what its form or its tag says.
            digits = "integer string conversion" in str(exc)
            raise InvalidDocument(
                "a YAML number has too many digits" if digits else "a YAML value is not what its tag says"
            ) from None
    finally:
        loader.dispose()


def _expanded(node: yaml.Node, sizes: dict[int, int], open_nodes: set[int]) -> int:
    """Return the number of nodes in the tree that a node is the root of, aliases expanded; visit each node once."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) in open_nodes:
        raise InvalidDocument("a YAML alias holds itself")
    if id(node) in sizes:
        return sizes[id(node)]
    children = list(node.value)
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            if key.value in seen:
                line = key.start_mark.line + 1
                raise InvalidDocument(f"member {key.value[:80]!r} occurs twice in one YAML mapping (line {line})")
            seen.add(key.value)
    open_nodes.add(id(node))
    sizes[id(node)] = 1 + sum(_expanded(child, sizes, open_nodes) for child in children)
    open_nodes.discard(id(node))
    return sizes[id(node)]
