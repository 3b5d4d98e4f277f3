"""The parts of the examples' smoke tests that a shell cannot do: ports, waiting, tokens, and the report.

smoke.py port [NUMBER]
smoke.py wait NAME URL PID LOG
smoke.py authority TRUST_URL SERVICE_TOKEN
smoke.py kernel-key FILE
smoke.py issue TRUST_URL SERVICE_TOKEN TOOL
smoke.py token FILE
smoke.py call RESPONSE METHOD URL BODY CAPABILITY
smoke.py report NAME ARTIFACTS KERNEL_KEY SIDECAR CALL...
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

START_SECONDS = 30

NO_SUBJECT = "0" * 64
"""A subject that is no key: any holder may use the capability."""


def port(number: str = "0") -> int:
    """Print a TCP port of 127.0.0.1 that is free now: this one, or any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(number)))
        except (OSError, OverflowError, ValueError) as exc:
            print(f"port {number} of 127.0.0.1 cannot be used ({exc}); choose another one", file=sys.stderr)
            return 1
        print(probe.getsockname()[1])
    return 0


def wait(name: str, url: str, pid: str, log: str) -> int:
    """Return once the URL answers 200; fail if the process ends before, or after half a minute."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if answers(url):
            return 0
        if not running(int(pid)):
            return failed(name, log, "ended at once")
        time.sleep(0.05)
    return failed(name, log, f"did not answer at {url} within {START_SECONDS} seconds")


def answers(url: str) -> bool:
    """Return True if a GET is answered 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def running(pid: int) -> bool:
    """Return True if a process lives; a zombie does not."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True


def failed(name: str, log: str, what: str) -> int:
    """Print the failure of a service and the end of its log."""
    print(f"{name} {what}. Its log ends:", *Path(log).read_text().splitlines()[-5:], sep="\n    ", file=sys.stderr)
    return 1


def authority(trust: str, token: str) -> int:
    """Print the public key that signs the trust service's capabilities."""
    print(trust_service(f"{trust}/v1/authority", token)["publicKey"])
    return 0


def kernel_key(path: str) -> int:
    """Print the public key of a signing key's file, or nothing without the file (another sidecar's)."""
    if Path(path).exists():
        from chio_core.signing import SigningKey

        print(SigningKey.from_seed_hex(Path(path).read_text().strip()).public_hex)
    return 0


def issue(trust: str, token: str, tool: str) -> int:
    """Print the trust service's response with a capability for a tool: `{"capability": …}`, in one line."""
    grant = {"server_id": "http-sidecar-client", "tool_name": tool, "operations": ["invoke"], "constraints": []}
    wanted = {
        "subjectPublicKey": NO_SUBJECT,
        "scope": {"grants": [grant], "resource_grants": [], "prompt_grants": []},
        "ttlSeconds": 3600,
    }
    issued = trust_service(f"{trust}/v1/capabilities/issue", token, wanted)
    print(json.dumps(issued, separators=(",", ":")))
    return 0


def bare_token(path: str) -> int:
    """Print the capability in a response of the trust service as one line, ready to be a header's value."""
    print(json.dumps(json.loads(Path(path).read_text())["capability"], separators=(",", ":")))
    return 0


def trust_service(url: str, token: str, document: Any = None) -> Any:
    """Return the response of the trust service; POST if there is a document to send."""
    body = None if document is None else json.dumps(document).encode()
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
        return json.load(answer)


def call(response: str, method: str, url: str, body: str, capability: str) -> int:
    """Do the same as curl: write RESPONSE.headers and RESPONSE.json, for any status."""
    headers = {"content-type": "application/json"} if body else {}
    if capability:
        headers["X-Chio-Capability"] = capability
    request = urllib.request.Request(url, body.encode() or None, headers, method=method)
    try:
        result = urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as refusal:
        result = refusal
    with result:
        head = [f"HTTP/1.1 {result.status} {result.reason}", *(f"{k}: {v}" for k, v in result.headers.items())]
        Path(f"{response}.headers").write_bytes("".join(f"{line}\r\n" for line in [*head, ""]).encode())
        Path(f"{response}.json").write_bytes(result.read())
    return 0


def report(name: str, artifacts: str, key: str, sidecar: str, *calls: str) -> int:
    """Print each call with its stored receipt, which is verified here."""
    folder = Path(artifacts)
    lines = (folder / "receipts.ndjson").read_text().splitlines()
    stored = {receipt["id"]: receipt for receipt in map(json.loads, lines)}
    if len(lines) != len(calls):
        print(f"{name}: {len(lines)} receipts are stored for {len(calls)} requests", file=sys.stderr)
        return 1
    print(f"{name}, governed by {'the embedded sidecar' if sidecar == 'embedded' else sidecar}")
    for number, each in enumerate(calls, 1):
        tell(number, folder / each, stored, key)
    print(f"\nall {len(calls)} receipts verified under kernel key {key or 'of the sidecar, seen here first'}")
    print(f"look inside: {folder}")
    return 0


def tell(number: int, answer: Path, stored: dict[str, Any], key: str) -> None:
    """Print one call.

    Raises:
        SystemExit: its receipt is not stored, or does not verify.
    """
    from chio_core.receipts import ReceiptRejected, verify_receipt

    status, receipt_id = read_head(answer.with_suffix(".headers"))
    if receipt_id not in stored:
        raise SystemExit(f"{answer.name}: its receipt {receipt_id!r} is not in the store")
    try:
        receipt = verify_receipt(stored[receipt_id], trusted_keys={key} if key else None)
    except ReceiptRejected as exc:
        raise SystemExit(f"{answer.name}: receipt {receipt_id} does not verify: {exc}") from None
    token = f"capability {receipt.capability_id}" if receipt.capability_id else "no capability"
    print(f"\n{number}. {receipt.method} {receipt.route_pattern}, {token}")
    print(f"   answer   {status} {answer.with_suffix('.json').read_text().strip()}")
    print(f"   receipt  {receipt.id}: {receipt.verdict.verdict}, signature verified")


def read_head(path: Path) -> tuple[int, str]:
    """Return the status and the receipt id of a dumped response head."""
    first, *lines = path.read_text().splitlines()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers.get("x-chio-receipt", "")


COMMANDS: dict[str, Callable[..., int]] = {
    "port": port,
    "wait": wait,
    "authority": authority,
    "kernel-key": kernel_key,
    "issue": issue,
    "token": bare_token,
    "call": call,
    "report": report,
}

if __name__ == "__main__":
    sys.exit(COMMANDS[sys.argv[1]](*sys.argv[2:]))
