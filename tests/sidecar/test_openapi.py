"""Reading OpenAPI documents: JSON and YAML, references, and what is refused at start (wire protocol, section 6.1)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chio_core.errors import ConfigurationError
from chio_sidecar.policy.openapi import load, operations_of

HEAD = "openapi: 3.0.3\ninfo: {title: t}\n"


def operations(text: str) -> list[tuple[str, str, dict[str, Any]]]:
    return list(operations_of(load(text)))


def test_json_and_yaml_mean_the_same() -> None:
    document = {
        "openapi": "3.0.3",
        "info": {"title": "t"},
        "paths": {"/a": {"get": {"x-chio-side-effects": True}, "summary": "s"}, "/b": {"post": {}}, "x-own": 1},
    }
    yaml_text = HEAD + (
        "paths:\n  /a:\n    get: {x-chio-side-effects: true}\n    summary: s\n  /b: {post: {}}\n  x-own: 1\n"
    )
    expected = [("/a", "GET", {"x-chio-side-effects": True}), ("/b", "POST", {})]
    assert operations(json.dumps(document)) == expected
    assert operations("\n \t" + json.dumps(document)) == expected
    assert operations(yaml_text) == expected


def test_yaml_knows_only_true_and_false_as_booleans() -> None:
    text = HEAD + "paths:\n  /a:\n    get: {a: yes, b: on, c: True, d: FALSE, e: No, f: 2026-01-01, 200: {}}\n"
    ((_, _, operation),) = operations(text)
    assert operation == {"a": "yes", "b": "on", "c": True, "d": False, "e": "No", "f": "2026-01-01", "200": {}}


def test_aliases_and_merge_keys_work() -> None:
    text = HEAD + (
        "x-base: &base {x-chio-side-effects: true, tags: [a]}\n"
        "paths:\n  /a:\n    get:\n      <<: *base\n      tags: [b]\n  /b:\n    get: *base\n"
        "  /c:\n    get:\n      <<: [*base, *base]\n"
    )
    found = {template: operation for template, _, operation in operations(text)}
    assert found["/a"] == {"x-chio-side-effects": True, "tags": ["b"]}
    assert found["/b"] == found["/c"] == {"x-chio-side-effects": True, "tags": ["a"]}


@pytest.mark.parametrize("version", ["3.0.0", "3.0.3", "'3.1.0'", "3.1", "3.2.0"])
def test_every_version_three_is_read(version: str) -> None:
    assert operations(f"openapi: {version}\ninfo: {{}}\npaths: {{}}\n") == []


def test_references_are_json_pointers_in_a_fragment() -> None:
    # RFC 6901: section 4 (arrays, ~0 and ~1) and section 6 (percent-encoding in a URI).
    text = json.dumps(
        {
            "openapi": "3.0.0",
            "info": {},
            "paths": {
                "/a/{id}": {"get": {"parameters": [{"name": "id"}], "responses": {"200": {"description": "é"}}}},
                "/b": {
                    "get": {
                        "parameters": [{"$ref": "#/paths/~1a~1%7Bid%7D/get/parameters/0"}],
                        "responses": {"200": {"$ref": "#/components/responses/a%20%C3%A9%25~0"}},
                    }
                },
            },
            "components": {"responses": {"a é%~": {"description": "ok"}}},
        }
    )
    assert [(path, method) for path, method, _ in operations(text)] == [("/a/{id}", "GET"), ("/b", "GET")]


@pytest.mark.parametrize("index", ["1", "-1", "00", "-", "x", "0/name/0", "9" * 5000])
def test_an_index_that_an_array_does_not_have_is_unresolved(index: str) -> None:
    text = HEAD + f"paths: {{/a: {{get: {{parameters: [{{$ref: '#/x/{index}'}}]}}}}}}\nx: [{{name: y}}]"
    with pytest.raises(ConfigurationError, match="unresolved reference"):
        operations(text)


SCALARS = {
    "digits": ("9" * 4_400, "a YAML number has too many digits"),
    "an integer that is none": ("!!int abc", "a YAML value is not what its tag says"),
    "no integer": ("!!int ''", "a YAML value is not what its tag says"),
    "a float that is none": ("!!float abc", "a YAML value is not what its tag says"),
    "a boolean that is none": ("!!bool abc", "a YAML value is not what its tag says"),
    "a time that is none": ("!!timestamp abc", "a YAML value is not what its tag says"),
}


@pytest.mark.parametrize("kind", SCALARS)
def test_a_yaml_value_that_cannot_be_read_is_one_sentence(kind: str) -> None:
    value, message = SCALARS[kind]
    with pytest.raises(ConfigurationError, match=f"^failed to parse OpenAPI spec: {message}$"):
        operations(f"{HEAD}paths: {{}}\nx: {value}")


def test_local_references_are_resolved() -> None:
    text = HEAD + (
        "paths:\n"
        "  /a:\n    $ref: '#/components/pathItems/A~1x'\n"
        "  /b:\n    parameters: [{$ref: '#/components/parameters/P'}]\n"
        "    get:\n      responses: {200: {$ref: '#/components/responses/R'}}\n"
        "      requestBody: {$ref: '#/components/requestBodies/B'}\n"
        "components:\n"
        "  pathItems: {A/x: {post: {}}}\n"
        "  parameters: {P: {$ref: '#/components/parameters/Q'}, Q: {name: q}}\n"
        "  responses: {R: {description: d}}\n"
        "  requestBodies: {B: {}}\n"
    )
    assert [(template, method) for template, method, _ in operations(text)] == [("/a", "POST"), ("/b", "GET")]


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGE_BOMB = "a0: &a0 {k: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12)
)
REF = "unresolved reference: "
BROKEN: dict[str, tuple[str, str]] = {
    "empty": ("", "document is no object"),
    "a text": ("hello", "document is no object"),
    "a list": ("- a", "document is no object"),
    "no openapi": ("info: {}\npaths: {}", "missing required field: openapi"),
    "swagger": ("swagger: '2.0'\ninfo: {}\npaths: {}", "missing required field: openapi"),
    "no info": ("openapi: 3.0.3\npaths: {}", "missing required field: info"),
    "no paths": ("openapi: 3.0.3\ninfo: {}", "missing required field: paths"),
    "old": ("openapi: 2.0.0\ninfo: {}\npaths: {}", "unsupported OpenAPI version: 2.0.0"),
    "new": ('{"openapi": "4.0.0", "info": {}, "paths": {}}', "unsupported OpenAPI version: 4.0.0"),
    "thirty": ("openapi: '30.1'\ninfo: {}\npaths: {}", "unsupported OpenAPI version: 30.1"),
    "broken JSON": ("{", "not a JSON document"),
    "JSON member twice": ('{"openapi": "3.0.0", "openapi": "3.0.0"}', "occurs twice"),
    "YAML member twice": (HEAD + "paths: {/a: {get: {}}, /a: {post: {}}}", "occurs twice in one YAML mapping (line 3)"),
    "broken YAML": (HEAD + "paths: [", "line 4"),
    "an object of Python": (HEAD + "paths: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "several documents": (HEAD + "paths: {}\n---\na: 1", "but found another document"),
    "an alias of nothing": (HEAD + "paths: *nobody", "found undefined alias"),
    "an alias of itself": (HEAD + "paths: &p {/a: {get: *p}}", "a YAML alias holds itself"),
    "many aliases": (BOMB + HEAD + "paths: {}", "expand to more than"),
    "many merged aliases": (MERGE_BOMB + HEAD + "paths: {}", "expand to more than"),
    "deep YAML": (HEAD + "paths: " + "[" * 100_000, "nested deeper than"),
    "deep JSON": ('{"paths": ' + "[" * 100_000, ""),
    "an unhashable key": (HEAD + "paths: {? [a] : 1}", "found unhashable key"),
    "paths a list": (HEAD + "paths: []", "paths is no object"),
    "a path item no object": (HEAD + "paths: {/a: 1}", "paths./a is no object"),
    "an operation no object": (HEAD + "paths: {/a: {get: [1]}}", "paths./a.get is no object"),
    "parameters an object": (HEAD + "paths: {/a: {parameters: {}}}", "paths./a.parameters is no array"),
    "parameters a text": (HEAD + "paths: {/a: {get: {parameters: x}}}", "paths./a.get.parameters is no array"),
    "a remote reference": (HEAD + "paths: {/a: {get: {parameters: [{$ref: 'other.yaml#/P'}]}}}", REF + "other.yaml#/P"),
    "a dangling reference": (
        HEAD + "paths: {/a: {get: {responses: {200: {$ref: '#/components/R'}}}}}",
        REF + "#/components/R",
    ),
    "a reference that is no text": (HEAD + "paths: {/a: {get: {requestBody: {$ref: 1}}}}", REF + "1"),
    "a reference to itself": (
        HEAD + "paths: {/a: {get: {requestBody: {$ref: '#/x-b'}}}}\nx-b: {$ref: '#/x-b'}",
        REF + "#/x-b (it leads back to itself)",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_document_that_cannot_be_used_is_refused_in_one_sentence(kind: str) -> None:
    text, message = BROKEN[kind]
    with pytest.raises(ConfigurationError) as caught:
        operations(text)
    assert caught.value.message.startswith("failed to parse OpenAPI spec: ")
    assert message in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("kind", ["no openapi", "no info", "no paths", "old", "new", "a remote reference"])
def test_the_protocols_own_errors_are_exact(kind: str) -> None:
    text, message = BROKEN[kind]
    with pytest.raises(ConfigurationError) as caught:
        operations(text)
    assert caught.value.message == f"failed to parse OpenAPI spec: {message}"
