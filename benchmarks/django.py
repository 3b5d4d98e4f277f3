"""What governance costs a Django project: under gunicorn (gthread, 4 threads) and under uvicorn.

    python -m benchmarks.django                     bare, ours and, under gunicorn, the published chio-django
    python -m benchmarks.django --servers uvicorn
    python -m benchmarks.django --variants bare,ours --rounds 1 --seconds 3

Everything but the project and its servers is that of `python -m benchmarks`; see README.md for how it is measured.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine, peer, report, targets, variants
from benchmarks.figures import Figures
from benchmarks.load import Wrk
from benchmarks.machine import ROOT, Cores
from benchmarks.options import names, new_parser, numbers, positive, speaking_plainly, variant_names
from benchmarks.rounds import Plan, measure
from benchmarks.run import Run
from benchmarks.servers import Server, Servers
from tests.stub_sidecar import PUBLIC_KEY

MEANING = {
    "bare": "the Django project alone",
    "ours": "behind this checkout's ChioDjangoMiddleware, kernel key pinned, each receipt verified",
    "published": "behind chio-django 0.1.0 from PyPI, which verifies no receipt and makes a client for every request",
}


@dataclass(frozen=True)
class Kind:
    """One way to serve the project.

    Attributes:
        command: the server, to be followed by its address.
        variants: what is compared there. The published middleware is synchronous, so under ASGI it would be
            measured together with Django's threads.
    """

    command: tuple[str, ...]
    variants: tuple[str, ...]


_APP = str(ROOT / "benchmarks" / "app")
KINDS = {
    "gunicorn": Kind(
        (
            *("gunicorn", "--chdir", _APP, "--worker-class", "gthread", "--threads", "4", "--workers", "1"),
            *("--log-level", "warning", "django_project:wsgi", "--bind", "127.0.0.1:{port}"),
        ),
        ("bare", "ours", "published"),
    ),
    "uvicorn": Kind(
        (
            *("uvicorn", "--app-dir", _APP, "--loop", "uvloop", "--http", "httptools", "--ws", "none"),
            *("--no-access-log", "--log-level", "warning", "--lifespan", "off", "django_project:asgi"),
            *("--host", "127.0.0.1", "--port", "{port}"),
        ),
        ("bare", "ours"),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the options say; return the exit status."""
    parser = new_parser("benchmarks.django", __doc__)
    parser.add_argument("--servers", type=names("server", KINDS), default=tuple(KINDS), metavar="LIST")
    parser.add_argument("--variants", type=variant_names, default=tuple(MEANING), metavar="LIST")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N")
    parser.add_argument("--seconds", type=positive, default=5, metavar="S", help="length of one window")
    parser.add_argument("--connections", type=numbers, default=(16,), metavar="LIST")
    options = parser.parse_args(arguments)
    cores = machine.two_cores()
    print("Machine: " + ", ".join(f"{name} {value}" for name, value in machine.describe().items()) + ".")
    for kind in options.servers:
        chosen = tuple(name for name in options.variants if name in KINDS[kind].variants)
        plan = Plan(chosen, options.rounds, options.seconds, options.connections)
        print(f"\n## Django {machine.version_of('django')} under {kind} {machine.version_of(kind)}\n")
        result = measured(kind, plan, cores)
        print(markdown(result))
        if kind == "gunicorn":
            print("\n" + targets.markdown(targets.of_django(Figures(result.windows))), flush=True)
    return 0


def measured(kind: str, plan: Plan, cores: Cores) -> Run:
    """Measure a plan under one of `KINDS`.

    Raises:
        UnsuitableError: this machine cannot measure it.
    """
    machine.require_tools("taskset", "wrk")
    machine.require_modules("django", "gunicorn", "uvicorn", "uvloop", "httptools", "nacl", "rfc8785")
    pythons = {name: _interpreter(name) for name in plan.variants}
    with tempfile.TemporaryDirectory() as folder, Servers(Path(folder)) as servers:
        sidecar = variants.start_sidecar(servers, cores, "full")
        apps = {name: _start(servers, cores, kind, name, python, sidecar) for name, python in pythons.items()}
        idle = {name: app.resident_mib() for name, app in apps.items()}
        print(f"about {plan.minutes():.1f} minutes", file=sys.stderr)
        windows = measure(plan, variants.Stage(sidecar, apps), Wrk(Path(folder), cores.load), cores)
    versions = peer.versions(pythons["published"], peer.DJANGO) if "published" in pythons else {}
    return Run(plan, "full", machine.describe(), versions, idle, windows)


def markdown(run: Run) -> str:
    """Return the report of one run."""
    figures = Figures(run.windows)
    parts = [
        f"{run.plan.rounds} rounds of {run.plan.seconds} s per cell; medians, in brackets the lowest and highest.",
        "\n".join(f"- `{name}`: {MEANING[name]}" for name in run.plan.variants),
        "Peer: " + ", ".join(f"{name} {version}" for name, version in run.peer.items()) + "." if run.peer else "",
        report.table(run.plan, figures, run.idle_mib),
        report.memory(figures, run.idle_mib),
        report.remarks(figures),
    ]
    return "\n\n".join(part for part in parts if part)


def _interpreter(name: str) -> Path:
    return peer.interpreter(peer.DJANGO) if name == "published" else Path(sys.executable)


def _start(servers: Servers, cores: Cores, kind: str, name: str, python: Path, sidecar: Server) -> Server:
    port = machine.free_port()
    command = [str(python), "-m", *(part.format(port=port) for part in KINDS[kind].command)]
    env = {"BENCH_VARIANT": name, "BENCH_SERVER": kind, "BENCH_SIDECAR": sidecar.url, "BENCH_KERNEL_KEY": PUBLIC_KEY}
    if name == "ours":
        env["PYTHONPATH"] = f"{ROOT}:{ROOT / 'adapters'}"
    server = servers.start(name, command, port=port, core=cores.app, env=env)
    variants.probe(server, sidecar)
    server.freeze()
    return server


if __name__ == "__main__":
    sys.exit(speaking_plainly(main))
