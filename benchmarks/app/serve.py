"""The application under test, with or without a middleware around it, behind uvicorn.

Two interpreters run this file: the one of the checkout and the one of the published package. It therefore is
a script that imports nothing of the harness, and it refuses to start when `chio_asgi` is not the one that its
variant names.

    python benchmarks/app/serve.py ours --port 8000 --sidecar http://127.0.0.1:9090 --kernel-key HEX
"""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

CHECKOUT = Path(__file__).resolve().parents[2]


class Echo(BaseModel):
    """The body of POST /echo and of its response."""

    message: str
    count: int


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Set the garbage collector as docs/operations.md recommends."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)
    yield


def bare(options: argparse.Namespace) -> FastAPI:
    """Return the application without any middleware."""
    app = FastAPI(openapi_url=None, lifespan=lifespan)

    @app.get("/hello")
    async def hello() -> dict[str, str]:
        return {"message": "hello"}

    @app.post("/echo", openapi_extra={"x-chio-side-effects": False})
    async def echo(item: Echo) -> Echo:
        return item

    return app


def ours(options: argparse.Namespace) -> FastAPI:
    """Return the application behind the middleware of this checkout, with the sidecar's key pinned."""
    import chio_asgi
    from chio_asgi import ChioASGIConfig, ChioASGIMiddleware

    if not Path(chio_asgi.__file__ or "").is_relative_to(CHECKOUT):
        raise SystemExit(f"chio_asgi comes from {chio_asgi.__file__}, not from {CHECKOUT}.")
    config = ChioASGIConfig(sidecar_url=options.sidecar, trusted_kernel_keys=(options.kernel_key,))
    app = bare(options)
    app.add_middleware(ChioASGIMiddleware, config=config)
    return app


def embedded(options: argparse.Namespace) -> FastAPI:
    """Return the application behind the same middleware, with the sidecar in this process and a store on the disk."""
    from chio_asgi import ChioASGIConfig
    from chio_fastapi import add_chio

    app = bare(options)
    add_chio(app, ChioASGIConfig(sidecar_url=f"embedded:{options.store}"))
    return app


def remote(options: argparse.Namespace) -> FastAPI:
    """Return the application behind the same middleware, with the sidecar of this checkout as a child process."""
    from chio_asgi import ChioASGIConfig, ChioASGIMiddleware

    app = bare(options)
    document = Path(f"{options.store}.json")
    document.write_text(json.dumps(app.openapi()))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "chio_sidecar", "api", "protect", "--spec", str(document)]
    child = subprocess.Popen([*command, "--listen", f"127.0.0.1:{port}", "--receipt-store", options.store])
    atexit.register(child.terminate)
    # The first request has to find it listening; a child that ended is the harness's "no receipt".
    while child.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 0.3).close()
            break
        except OSError:
            time.sleep(0.05)
    app.add_middleware(ChioASGIMiddleware, config=ChioASGIConfig(sidecar_url=f"http://127.0.0.1:{port}"))
    return app


def bound(options: argparse.Namespace) -> FastAPI:
    """Return the application behind the lower bound."""
    from bound import Bound  # beside this script

    app = bare(options)
    app.add_middleware(Bound, sidecar=options.sidecar, key=options.kernel_key)
    return app


def published(options: argparse.Namespace) -> FastAPI:
    """Return the application behind the published middleware, as its documentation has it."""
    from chio_asgi import ChioASGIConfig, ChioASGIMiddleware

    if metadata.version("chio-asgi") != "0.1.0":
        raise SystemExit(f"chio-asgi is {metadata.version('chio-asgi')} here, not 0.1.0.")
    app = bare(options)
    app.add_middleware(ChioASGIMiddleware, config=ChioASGIConfig(sidecar_url=options.sidecar))
    return app


VARIANTS = {
    "bare": bare,
    "bound": bound,
    "ours": ours,
    "embedded": embedded,
    "remote": remote,
    "before": embedded,
    "published": published,
}


def main() -> None:
    """Serve one variant on 127.0.0.1 until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--sidecar", required=True)
    parser.add_argument("--kernel-key", required=True)
    parser.add_argument("--store", required=True)
    options = parser.parse_args()
    uvicorn.run(
        VARIANTS[options.variant](options),
        host="127.0.0.1",
        port=options.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_level="warning",
        backlog=4096,
    )


if __name__ == "__main__":
    main()
