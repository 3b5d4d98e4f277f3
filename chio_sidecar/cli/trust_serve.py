"""`trust serve`: run the trust service (wire protocol, section 9.1)."""

from __future__ import annotations

import argparse
import asyncio

from chio_core.errors import ChioError
from chio_sidecar.cli.options import SERVICE_TOKEN_VARIABLE, CliError, given_token
from chio_sidecar.cli.serving import bind, serve
from chio_sidecar.trust.app import TrustConfig, TrustService, create_trust_app

DESCRIPTION = f"""\
Issue and revoke capabilities. Every call but /health needs the service token as a bearer. Its value may also
stand in {SERVICE_TOKEN_VARIABLE}, which keeps it out of the process list.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--listen", metavar="ADDR", default="127.0.0.1:8940", help="HOST:PORT (127.0.0.1:8940)")
    parser.add_argument("--service-token", metavar="TOKEN", help="the bearer that callers must present")


def run(args: argparse.Namespace) -> int:
    """Run the trust service until it is stopped.

    Raises:
        CliError: it cannot start; the message says so first.
    """
    try:
        with bind(args.listen) as listener:
            service = TrustService(_configuration(args))

            async def close() -> None:
                await asyncio.to_thread(service.close)

            ready = f"Chio trust control service listening on http://{listener.address}"
            return serve(create_trust_app(service), listener, ready=ready, close=close)
    except ChioError as exc:
        fix = exc.fix if isinstance(exc, CliError) else None
        raise CliError(f"failed to start chio trust serve: {exc.message}", code=exc.code, fix=fix) from None


def _configuration(args: argparse.Namespace) -> TrustConfig:
    token = given_token(args.service_token)
    if token is None:
        raise CliError("no service token", fix=f"give --service-token, or set {SERVICE_TOKEN_VARIABLE}")
    return TrustConfig(
        service_token=token,
        receipt_db=args.receipt_db,
        revocation_db=args.revocation_db,
        authority_db=args.authority_db,
        authority_seed_file=args.authority_seed_file,
        budget_db=args.budget_db,
        session_db=args.session_db,
    )
