"""Make the vectors of the core: `python tests/vectors/make.py` writes the files in `tests/vectors/core`.

Nothing of `chio_core` is used here. Canonical text comes from `rfc8785` or is written out by hand, signatures come
from `cryptography`, so that the vectors hold the code to the protocol and not to itself. Seeds are the digests of
the names in `_SEEDS`. Every case says in one sentence why it is there; ids that end in `_fail` must be refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FOLDER = Path(__file__).resolve().parent / "core"
NOW = 1_800_000_000
ORDER = 2**252 + 27742317777372353535851937790883648493
_SEEDS = ("kernel", "second kernel", "stranger")
_KEYS = {
    name: Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"core vectors: {name}".encode()).digest())
    for name in _SEEDS
}
_PUBLIC = {name: key.public_key().public_bytes_raw().hex() for name, key in _KEYS.items()}


def _hash(value: Any) -> str:
    return hashlib.sha256(rfc8785.dumps(value)).hexdigest()


# Canonical JSON (wire protocol, section 3.3): read strictly, written in one way.

_CANONICAL = [
    ("members", "Members are sorted.", '{"b":1,"a":{"d":1,"c":2}}', '{"a":{"c":2,"d":1},"b":1}'),
    ("space", "White space outside of text vanishes.", ' [ 1 ,\n\t2 ] ', "[1,2]"),
    ("utf16_order", "U+1F600 sorts before U+FB33, by code units.", '{"\\ufb33":1,"\\ud83d\\ude00":2}',
     '{"\U0001f600":2,"\ufb33":1}'),
    ("escapes", "The shortest escape is written.", '"\\u0008\\u000a\\u002f\\u001b\\u007f\\u00e9"',
     '"\\b\\n/\\u001b\x7f\u00e9"'),
    ("floats", "Numbers are written as ECMAScript does.", "[1.0,-0.0,1e21,1e20,1.5e-7,0.000001,1E2]",
     "[1,0,1e+21,100000000000000000000,1.5e-7,0.000001,100]"),
    ("wide", "Integers up to u64 and i64 keep their digits.",
     "[18446744073709551615,-9223372036854775808,9007199254740993]",
     "[18446744073709551615,-9223372036854775808,9007199254740993]"),
    ("wider", "An integer beyond u64 is read as a double.", "[18446744073709551616]", "[18446744073709552000]"),
    ("deep", "128 levels are allowed.", "[" * 128 + "]" * 128, "[" * 128 + "]" * 128),
    ("too_deep_fail", "129 levels are not.", "[" * 129 + "]" * 129, None),
    ("twice_fail", "A member occurs twice.", '{"a":1,"b":{"c":1,"c":1}}', None),
    ("twice_escaped_fail", "A member occurs twice, once spelled with an escape.", '{"a":1,"\\u0061":1}', None),
    ("surrogate_fail", "Half of a surrogate pair is no text.", '{"a":"\\ud800"}', None),
    ("nan_fail", "NaN is no JSON.", '{"a":NaN}', None),
    ("overflow_fail", "A number beyond every double has no text.", '{"a":1e400}', None),
    ("trailing_fail", "Something follows the document.", "{}{}", None),
    ("comma_fail", "A comma too many.", "[1,]", None),
    ("mark_fail", "A byte order mark is no white space.", "\ufeff{}", None),
]  # fmt: skip


def canonical() -> list[dict[str, Any]]:
    """Return the cases of canonical JSON; `canonical` is null where the text must be refused."""
    return [{"id": i, "why": why, "input": text, "canonical": found} for i, why, text, found in _CANONICAL]


# Signatures (RFC 8032, section 5.1.7).


def signing() -> list[dict[str, Any]]:
    """Return the cases of signatures; texts are hex."""
    key, public, message = _KEYS["kernel"], _PUBLIC["kernel"], b"core vectors"
    good = key.sign(message).hex()
    scalar = int.from_bytes(bytes.fromhex(good[64:]), "little")
    neutral = "01" + "00" * 31
    cases = [
        ("good", "The signature of the message.", public, message, good),
        ("good_empty", "The signature of nothing.", public, b"", key.sign(b"").hex()),
        ("message_fail", "Another message.", public, message + b".", good),
        ("key_fail", "Another key.", _PUBLIC["stranger"], message, good),
        ("unreduced_fail", "The scalar is one order too large.", public, message,
         good[:64] + (scalar + ORDER).to_bytes(32, "little").hex()),
        ("order_fail", "The scalar is the order itself.", public, message,
         good[:64] + ORDER.to_bytes(32, "little").hex()),
        ("zero_fail", "Commitment and scalar are zero.", public, message, "00" * 64),
        ("small_key_fail", "Under the neutral point everything would verify.", neutral, message, neutral + "00" * 32),
        ("small_key_unreduced_fail", "The same point, written with a coordinate that is not reduced.",
         "ee" + "ff" * 30 + "7f", message, neutral + "00" * 32),
        ("small_commitment_fail", "The commitment is a point of small order.", public, message, neutral + good[64:]),
        ("short_fail", "The last byte is missing.", public, message, good[:-2]),
        ("long_fail", "A byte too many: 65.", public, message, good + "00"),
        ("capitals_fail", "A signature is written in lower case.", public, message, good.upper()),
        ("not_hex_fail", "A signature is written in hex digits.", public, message, "zz" * 64),
        ("other_curve_fail", "Keys of other curves never verify here.", "p256:04" + "11" * 64, message, "p256:3006"),
    ]  # fmt: skip
    return [
        {
            "id": i,
            "why": why,
            "public_key": pub,
            "message": msg.hex(),
            "signature": sig,
            "verifies": not i.endswith("_fail"),
        }
        for i, why, pub, msg, sig in cases
    ]


# What a receipt is bound to (wire protocol, sections 3.4 and 3.5).

_BODY = b'{"amount": 5}'
_REQUEST: dict[str, Any] = {
    "request_id": "request-1",
    "method": "POST",
    "route_pattern": "/transfers/{transfer_id}",
    "path": "/transfers/7",
    "query": {"dry": "1"},
    "caller": {"subject": "c" * 64, "auth_method": {"method": "bearer", "token_hash": "c" * 64}, "verified": False},
    "body_hash": hashlib.sha256(_BODY).hexdigest(),
    "body_length": len(_BODY),
    "timestamp": NOW,
}


def _content_hash(pattern: str, **changes: Any) -> str:
    request = {**_REQUEST, **changes}
    return _hash(
        {name: request[name] for name in ("method", "path", "query", "body_hash")} | {"route_pattern": pattern}
    )


def bindings() -> list[dict[str, Any]]:
    """Return requests with the hashes of their content and caller."""
    changes: list[tuple[str, str, dict[str, Any]]] = [
        ("post", "A body and a query.", {}),
        ("bare", "No body hash is null, no query is an empty object.",
         {"method": "GET", "query": {}, "body_hash": None}),
        ("unicode", "Text beyond ASCII is hashed as it is.",
         {"path": "/grüße", "query": {"\U0001f600": "é", "\ufb33": ""}}),
        ("controls", "Control characters have their escapes.", {"path": "/\x00\x1f\x7f", "query": {"\n": "\t"}}),
        ("verified", "The claim of the application is part of the caller.",
         {"caller": {**_REQUEST["caller"], "verified": True, "tenant": "t", "agent_id": "a"}}),
        ("anonymous", "Nobody in particular.",
         {"caller": {"subject": "anonymous", "auth_method": {"method": "anonymous"}, "verified": False}}),
        ("api_key", "A key under the name of its header.",
         {"caller": {"subject": "k", "verified": False,
                     "auth_method": {"method": "api_key", "key_name": "x-api-key", "key_hash": "d" * 64}}}),
    ]  # fmt: skip
    found = []
    for i, why, change in changes:
        request = {**_REQUEST, **change}
        content = {name: request[name] for name in ("method", "path", "query", "body_hash", "route_pattern")}
        found.append(
            {
                "id": i,
                "why": why,
                "request": request,
                "content_hash": _hash(content),
                "caller_hash": _hash(request["caller"]),
            }
        )
    return found


# Receipts (wire protocol, sections 3.1, 3.6 and 12.3).

_ALLOW = {"verdict": "allow"}
_DENY = {"verdict": "deny", "reason": "no", "guard": "CapabilityGuard", "http_status": 403}
_NEWER = {
    "receipt_kind": "mediated_decision",
    "boundary_class": "prevent",
    "tool_origin": "caller_executed",
    "redaction_mode": "none",
    "trust_level": "mediated",
}


def _receipt(by: str = "kernel", **changes: Any) -> dict[str, Any]:
    pattern = changes.get("route_pattern", _REQUEST["route_pattern"])
    body = {
        "id": "0198f0a0-0000-7000-8000-000000000001",
        "request_id": _REQUEST["request_id"],
        "route_pattern": pattern,
        "method": _REQUEST["method"],
        "caller_identity_hash": _hash(_REQUEST["caller"]),
        "verdict": _ALLOW,
        "evidence": [{"guard_name": "CapabilityGuard", "verdict": True, "details": "valid capability token presented"}],
        "response_status": 200,
        "timestamp": NOW,
        "content_hash": _content_hash(pattern),
        "policy_hash": "e" * 64,
        "metadata": {"chio_http_status_scope": "decision"},
        "kernel_key": _PUBLIC[by],
        **changes,
    }
    return _sign(body, by)


def _sign(body: dict[str, Any], by: str = "kernel") -> dict[str, Any]:
    body = {name: value for name, value in body.items() if value is not None and name != "signature"}
    return {**body, "signature": _KEYS[by].sign(rfc8785.dumps(body)).hex()}


def _newer(by: str = "kernel", **changes: Any) -> dict[str, Any]:
    body = _receipt(by, **{**_NEWER, **changes})
    bare = {name: value for name, value in body.items() if name not in ("id", "signature")}
    return _sign({"id": _hash(bare), **bare}, by)


def _with(receipt: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Change a receipt after it was signed."""
    return {**receipt, **changes}


def _genuine() -> Iterator[tuple[str, str, dict[str, Any]]]:
    yield "allow", "The usual receipt.", _receipt()
    yield "newer_allow", "The same in the newer profile.", _newer()
    yield "second_key", "Any trusted key may sign.", _receipt("second kernel")
    yield "deny", "A receipt of a denial is as good a receipt.", _receipt(verdict=_DENY, response_status=403)
    yield "cancel", "Of a cancelled one too.", _newer(verdict={"verdict": "cancel", "reason": "r"}, response_status=500)
    yield (
        "unknown_verdict",
        "Of a verdict to come too; whoever reads it refuses.",
        _receipt(verdict={"verdict": "permit"}),
    )
    yield "bare", "Evidence and metadata may be absent.", _receipt(evidence=None, metadata=None)
    yield "null", "An absent optional may be written as null.", _with(_receipt(), session_id=None, capability_id=None)
    yield "empty", "Absent evidence may be written as an empty list.", _with(_receipt(evidence=None), evidence=[])
    yield "other_names", "Names of parameters do not count.", _receipt(route_pattern="/transfers/{id}")
    yield "plain_path", "A sidecar that knows no such route judged the path.", _receipt(route_pattern="/transfers/7")
    yield (
        "unknown_members",
        "Members of a time to come are signed and kept.",
        _receipt(proof={"leaf": None, "index": 3}, weight=0.25),
    )
    yield "newer_actors", "A chain of actors is signed.", _newer(actor_chain=[{"actor_id": "a", "actor_kind": "agent"}])
    yield "oldest", "60 seconds behind is still now.", _receipt(timestamp=NOW - 60)
    yield "newest", "60 seconds ahead is still now.", _receipt(timestamp=NOW + 60)


def _refused() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    good = _receipt()
    yield "no_id_fail", "A member is missing.", "shape", {k: v for k, v in good.items() if k != "id"}
    yield "unsigned_fail", "The signature is missing.", "shape", {k: v for k, v in good.items() if k != "signature"}
    yield "float_time_fail", "A time is an integer.", "shape", _with(good, timestamp=float(NOW) + 0.5)
    yield "text_status_fail", "A status is an integer.", "shape", _with(good, response_status="200")
    yield "wide_status_fail", "A status fits 16 bits.", "shape", _receipt(response_status=65536)
    yield (
        "newer_kind_fail",
        "An observation is no decision.",
        "semantics",
        _newer(
            receipt_kind="trace_observation",
            boundary_class="detect_only",
            trust_level="verified",
            observation_outcome="seen",
        ),
    )
    yield "newer_advice_fail", "Advice is no decision.", "semantics", _newer(trust_level="advisory")
    yield (
        "newer_outcome_fail",
        "A decision has no outcome of an observation.",
        "semantics",
        _newer(observation_outcome="x"),
    )
    yield "newer_id_fail", "The id is not the hash.", "id", _sign(_with(_newer(), id="0" * 64))
    yield "foreign_key_fail", "A stranger signed.", "kernel_key", _receipt("stranger")
    yield (
        "capitals_key_fail",
        "A key is written in lower case.",
        "kernel_key",
        _sign(_with(good, kernel_key=_PUBLIC["kernel"].upper())),
    )
    yield (
        "small_key_fail",
        "Under the neutral point everything would verify.",
        "kernel_key",
        _with(good, kernel_key="01" + "00" * 31, signature="01" + "00" * 63),
    )
    yield (
        "borrowed_key_fail",
        "A stranger signed under the trusted name.",
        "signature",
        _with(_receipt("stranger"), kernel_key=_PUBLIC["kernel"]),
    )
    yield "changed_fail", "A member was changed.", "signature", _with(good, policy_hash="f" * 64)
    yield "added_fail", "A member was added.", "signature", _with(good, note="x")
    yield "added_null_fail", "An unknown member that is null is still a member.", "signature", _with(good, note=None)
    yield (
        "verdict_fail",
        "A denial was turned into an allow.",
        "signature",
        _with(_receipt(verdict=_DENY), verdict=_ALLOW),
    )
    yield (
        "reordered_fail",
        "The order of evidence counts.",
        "signature",
        _with(
            _receipt(evidence=[{"guard_name": "a", "verdict": True}, {"guard_name": "b", "verdict": True}]),
            evidence=[{"guard_name": "b", "verdict": True}, {"guard_name": "a", "verdict": True}],
        ),
    )
    yield "truncated_fail", "The signature lacks a byte.", "signature", _with(good, signature=good["signature"][:-2])
    yield "longer_fail", "The signature has 65 bytes.", "signature", _with(good, signature=good["signature"] + "00")
    yield (
        "capitals_fail",
        "A signature is written in lower case.",
        "signature",
        _with(good, signature=good["signature"].upper()),
    )
    yield (
        "unreduced_fail",
        "The scalar of the signature is not reduced.",
        "signature",
        _with(good, signature=good["signature"][:64] + _unreduced(good["signature"])),
    )
    yield "request_id_fail", "Another request.", "request_id", _receipt(request_id="request-2")
    yield "method_fail", "Another method.", "method", _receipt(method="PUT")
    yield "session_fail", "A session that was not named.", "session_id", _receipt(session_id="s")
    yield "caller_fail", "Another caller.", "caller_identity_hash", _receipt(caller_identity_hash="0" * 64)
    yield (
        "body_fail",
        "Another body.",
        "content_hash",
        _receipt(content_hash=_content_hash(_REQUEST["route_pattern"], body_hash="0" * 64)),
    )
    yield (
        "no_body_fail",
        "The receipt is for no body at all.",
        "content_hash",
        _receipt(content_hash=_content_hash(_REQUEST["route_pattern"], body_hash=None)),
    )
    yield (
        "query_fail",
        "Another query.",
        "content_hash",
        _receipt(content_hash=_content_hash(_REQUEST["route_pattern"], query={})),
    )
    yield (
        "path_fail",
        "Another path.",
        "content_hash",
        _receipt(content_hash=_content_hash(_REQUEST["route_pattern"], path="/transfers/8")),
    )
    yield (
        "pattern_fail",
        "The rule of another route was judged.",
        "route_pattern",
        _receipt(route_pattern="/{kind}/{id}"),
    )
    yield (
        "final_fail",
        "A final answer is no decision.",
        "scope",
        _receipt(metadata={"chio_http_status_scope": "final"}),
    )
    yield "old_fail", "An hour ago.", "timestamp", _receipt(timestamp=NOW - 3600)
    yield "future_fail", "In an hour.", "timestamp", _newer(timestamp=NOW + 3600)
    yield "epoch_fail", "At the beginning of time.", "timestamp", _receipt(timestamp=0)


def _unreduced(signature: str) -> str:
    return (int.from_bytes(bytes.fromhex(signature[64:]), "little") + ORDER).to_bytes(32, "little").hex()


def receipts() -> dict[str, Any]:
    """Return the receipts, as text, with the rule that refuses each; null for those that count."""
    cases = [{"id": i, "why": why, "rule": None, "text": _text(document)} for i, why, document in _genuine()]
    cases += [{"id": i, "why": why, "rule": rule, "text": _text(document)} for i, why, rule, document in _refused()]
    twice = _text(_receipt()).replace('"method":', '"method":"POST","method":', 1)
    number = _text(_receipt()).replace(f'"timestamp":{NOW}', '"timestamp":1.8e9')
    cases.append({"id": "twice_fail", "why": "A member occurs twice.", "rule": "text", "text": twice})
    cases.append({"id": "exponent_fail", "why": "An integer is written as one.", "rule": "shape", "text": number})
    return {"now": NOW, "trusted": [_PUBLIC["kernel"], _PUBLIC["second kernel"]], "request": _REQUEST, "cases": cases}


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


DOCUMENTS: dict[str, Callable[[], Any]] = {
    "canonical": lambda: {"about": "Wire protocol, section 3.3.", "cases": canonical()},
    "signing": lambda: {"about": "RFC 8032; hex texts of the wire protocol.", "cases": signing()},
    "bindings": lambda: {"about": "Wire protocol, sections 3.4 and 3.5.", "cases": bindings()},
    "receipts": lambda: {"about": "Wire protocol, sections 3.1, 3.6 and 12.3.", **receipts()},
}


def written(name: str) -> str:
    """Return the text of a file."""
    return json.dumps(DOCUMENTS[name](), indent=1) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for document in DOCUMENTS:
        (FOLDER / f"{document}.json").write_text(written(document), encoding="ascii")
