"""The published sidecar in Rust (`chio-api-protect` 0.1.0 of crates.io), built with the toolchain of this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks import machine
from benchmarks.machine import Cores
from benchmarks.servers import Server, Servers

HERE = Path(__file__).resolve().parent / "rust"

BINARY = Path(os.environ.get("CARGO_TARGET_DIR") or HERE / "target") / "release" / "chio-sidecar-peer"
"""Where cargo puts the executable."""

_OPERATION = {"get": {"operationId": "hello", "responses": {"200": {"description": "ok"}}}}
_DOCUMENT = {"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": {"/hello": _OPERATION}}


def build() -> Path | str:
    """Return the executable, or why there is none: no Rust toolchain, or the crate does not build."""
    if shutil.which("cargo") is None:
        return BINARY if BINARY.exists() else "no Rust toolchain (`cargo` is not on PATH)"
    if not BINARY.exists():
        print(f"building the published sidecar in {HERE} …", file=sys.stderr)
    command = ["cargo", "build", "--release", "--quiet", "--manifest-path", str(HERE / "Cargo.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        return f"`cargo build` failed ({lines[-1]})"
    return BINARY


def start(servers: Servers, cores: Cores, store: Path, binary: Path) -> Server:
    """Start it with a store on the disk, on the core of what is measured."""
    port = machine.free_port()
    document = servers.workdir / "openapi.json"
    document.write_text(json.dumps(_DOCUMENT))
    command = [str(binary), f"127.0.0.1:{port}", str(store), str(document)]
    return servers.start("rust-sidecar", command, port=port, core=cores.app)
