"""Runs the agent-style service against an embedded sidecar and prints the decisions."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

import httpx
from agent import create_app

from chio_core.capabilities import issue_capability
from chio_core.signing import SigningKey


def capability(key: SigningKey, *grants: tuple[str, str, str]) -> str:
    """Return a token that grants these tools, each at one host."""
    scope = {
        "grants": [
            {
                "server_id": server,
                "tool_name": tool,
                "operations": ["invoke"],
                "constraints": [{"type": "domain_exact", "value": host}],
            }
            for server, tool, host in grants
        ]
    }
    return issue_capability(key, subject=key.public_hex, scope=scope, ttl_seconds=300).to_header()


async def call(client: httpx.AsyncClient, path: str, token: str | None) -> Any:
    """Call the service and print its response."""
    headers = {"X-Chio-Capability": token} if token else {}
    response = await client.get(path, headers=headers)
    document = response.json()
    shown = document.get("responses", document.get("message"))
    print(f"{response.status_code} {shown}; {len(document.get('receipts', ()))} outgoing receipts")
    return document


async def main() -> None:
    """Call without a capability, with one for half of the work, and with one for all of it."""
    key = SigningKey.generate()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CHIO_SIDECAR_URL"] = f"embedded:{Path(folder) / 'receipts.sqlite3'}"
        os.environ["CHIO_TRUSTED_ISSUER_KEYS"] = key.public_hex
        app = create_app()
        read = ("stock", "read", "stock.example.com")
        charge = ("payments", "charge", "pay.example.com")
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
                print("1. no capability")
                await call(client, "/orders/7?pay=true", None)
                print("2. a capability to read the stock, but not to pay")
                await call(client, "/orders/7?pay=true", capability(key, read))
                print("3. a capability for both, bound to their hosts")
                await call(client, "/orders/7?pay=true", capability(key, read, charge))
                print("4. a capability to pay somewhere else")
                elsewhere = ("payments", "charge", "evil.example.org")
                await call(client, "/orders/7?pay=true", capability(key, read, elsewhere))
        await app.state.chio_client.aclose()


if __name__ == "__main__":
    asyncio.run(main())
