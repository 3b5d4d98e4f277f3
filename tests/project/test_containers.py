"""The containers of deploy/ run with few rights: steps, commands, variables and limits of its files, as processes."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.project.containers import Container, Engine, Image, Rights, rights_of
from tests.project.test_deploy import SQLITE, documents
from tests.project.tree import ROOT
from tests.sidecar.postgres_tools import binaries

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make namespaces and mounts")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree that an image is built from, without what git ignores."""
    folder = tmp_path_factory.mktemp("context")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    for name in filter(None, map(os.fsdecode, files)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def image(engine: Engine, context: Path) -> Image:
    return engine.build(DEPLOY / "Containerfile", context)


def test_the_image_serves_as_its_user_on_a_root_that_is_read_only_without_capabilities(
    engine: Engine, image: Image
) -> None:
    document = ROOT / "examples" / "hello-fastapi" / "openapi.yaml"
    container = engine.start(
        "alone",
        image,
        rights=rights_of(SERVICES["sidecar"]),
        files={"/etc/chio/openapi.json": document},
        memory=SERVICES["sidecar"]["tmpfs"],
    )
    container.wait_until_healthy()

    # The sidecar has the rights that the files state. Every process has those of its first thread.
    status = container.execute("cat", f"/proc/{container.process.pid}/status").stdout
    said = dict(line.split(":\t", 1) for line in status.splitlines())
    assert said["Name"] == "chio-sidecar"
    assert said["Uid"].split() == said["Gid"].split() == ["10001"] * 4
    assert {said[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert said["NoNewPrivs"] == "1"

    # It writes to its volume and to the folder in memory, and nowhere else.
    for place in ("/opt/chio/x", "/etc/chio/x", "/usr/x", "/x"):
        assert "Read-only file system" in container.execute("touch", place).stderr
    assert container.execute("touch", "/tmp/x", "/var/lib/chio/x").returncode == 0

    # An evaluation is committed in the volume; a signal ends the sidecar in order.
    call = "import urllib.request as r; print(r.urlopen(r.Request('http://127.0.0.1:9090/chio/evaluate', {!r},"
    call += " {{'Content-Type': 'application/json'}})).read().decode())"
    request = {"request_id": "one", "method": "GET", "route_pattern": "/hello", "path": "/hello", "body_length": 0}
    caller = {"subject": "anonymous", "auth_method": {"method": "anonymous"}, "verified": False}
    body = json.dumps(request | {"caller": caller, "timestamp": 1_800_000_000}).encode()
    response = container.execute("python", "-c", call.format(body))
    assert json.loads(response.stdout)["verdict"] == {"verdict": "allow"}, response.stderr
    listed = container.execute("chio-sidecar", "receipt", "list", "--receipt-store", "receipts.sqlite3")
    assert "/hello" in listed.stdout, listed.stderr
    output = container.end()
    assert container.process.returncode == 0, output


def test_the_containers_of_the_chart_run_with_the_rights_that_it_states(
    engine: Engine, image: Image, tmp_path: Path
) -> None:
    found = documents(SQLITE, tmp_path)
    pod = found["Deployment"]["spec"]["template"]["spec"]
    (first,), (sidecar,) = pod["initContainers"], pod["containers"]

    # A cluster mounts secrets for the group of the pod, and its empty folders for everybody.
    (key := tmp_path / "secrets" / "key" / "signing.key").parent.mkdir(parents=True)
    key.write_text("5" * 64 + "\n")
    os.chown(key, 0, pod["securityContext"]["fsGroup"])
    key.chmod(0o440)
    (run := tmp_path / "run").mkdir()
    run.chmod(0o777)
    (spec := tmp_path / "spec").write_text(found["ConfigMap"]["data"]["spec"])

    rights = Rights(read_only=True, cap_drop=["ALL"], security_opt=["no-new-privileges:true"])
    for container in (first, sidecar):
        stated = container["securityContext"]
        assert (stated["readOnlyRootFilesystem"], stated["capabilities"]) == (True, {"drop": rights.cap_drop})
        assert stated["allowPrivilegeEscalation"] is False
        assert f"{stated['runAsUser']}:{stated['runAsGroup']}" == image.user

    shared = {"/run/chio": run}
    bare = replace(image, entrypoint=[], volumes=[])
    copied = engine.start(
        "copy-secrets", bare, first["command"], rights=rights, files={"/secrets/key/signing.key": key}, shared=shared
    )
    assert copied.process.wait() == 0, copied.end()
    assert (run / "private" / "signing.key").stat().st_mode & 0o777 == 0o600

    environ = {"CHIO_SIDECAR_CONTROL_TOKEN": "control", "CHIO_SIDECAR_EVALUATE_TOKEN": "evaluate"}
    files, memory = {"/etc/chio/spec": spec}, ["/tmp"]
    serving = engine.start(
        "chart", image, sidecar["args"], rights=rights, environ=environ, files=files, memory=memory, shared=shared
    )
    serving.healthcheck = sidecar["startupProbe"]["exec"]["command"]
    serving.wait_until_healthy()
    assert serving.execute(*sidecar["readinessProbe"]["exec"]["command"]).returncode == 0
    output = serving.end()
    assert serving.process.returncode == 0, output


# What the image of PostgreSQL does before it serves, with the same variables and folders.
POSTGRESQL = """
set -eu
initdb -D data -U "$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth-host=scram-sha-256 -E UTF8 --locale=C
echo "host all all all scram-sha-256" >>data/pg_hba.conf
pg_ctl -D data -w -o "-c listen_addresses=" start
createdb -U "$POSTGRES_USER" "$POSTGRES_DB"
for file in /docker-entrypoint-initdb.d/*.sql; do
    psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -f "$file"
done
if $CHECK; then echo "healthy before it is ready"; exit 1; fi
pg_ctl -D data -w stop
exec postgres -D data -c "listen_addresses=*"
"""


def of_this_machine(user: str, **more: str) -> Image:
    """Return an image with the programs of this machine, for an image that cannot be fetched here."""
    entry = pwd.getpwnam(user)
    image = Image(user=f"{entry.pw_uid}:{entry.pw_gid}")
    image.environ |= more
    return image


class Stack:
    """The services of compose.yaml, each started after those that it depends on."""

    def __init__(self, engine: Engine, images: dict[str, Image], deploy: Path) -> None:
        self._engine = engine
        self._images = images
        self._deploy = deploy
        self.containers: dict[str, Container] = {}

    def start(self, name: str) -> Container:
        if name in self.containers:
            return self.containers[name]
        service, image = SERVICES[name], self._images[name]
        for other, wanted in service.get("depends_on", {}).items():
            container = self.start(other)
            if wanted["condition"] == "service_healthy":
                container.wait_until_healthy()
            else:
                assert container.process.wait() == 0, container.end()

        environ = dict(service.get("environment", {}))
        for file in service.get("env_file", ()):
            environ |= dict(line.split("=", 1) for line in (self._deploy / file).read_text().splitlines())
        files = {
            f"/run/secrets/{secret}": self._deploy / COMPOSE["secrets"][secret]["file"]
            for secret in service.get("secrets", ())
        }
        for volume in service.get("volumes", ()):
            source, place, *_ = volume.split(":")
            if source in COMPOSE["volumes"]:
                image.volumes = sorted({*image.volumes, place})
            else:
                files[place] = (self._deploy / source).resolve()
        if "healthcheck" in service:
            image.healthcheck = service["healthcheck"]["test"][1:]
        memory = [*service.get("tmpfs", ()), *(["/run/postgresql"] if name == "database" else [])]
        container = self._engine.start(
            name,
            image,
            service.get("command", ()),
            rights=rights_of(service),
            environ=environ,
            files=files,
            memory=memory,
        )
        self.containers[name] = container
        return container


def test_the_services_of_compose_find_each_other_and_govern_a_request(
    engine: Engine, image: Image, context: Path, tmp_path: Path
) -> None:
    if missing := [program for program in ("redis-server", "prometheus") if shutil.which(program) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    check = shlex.join(SERVICES["database"]["healthcheck"]["test"][1:])
    database = of_this_machine("postgres", PATH=f"{binaries()}:{os.environ['PATH']}", CHECK=check)
    database.folder, database.entrypoint = "/var/lib/postgresql", ["sh", "-c", POSTGRESQL]
    deploy = shutil.copytree(context, tmp_path / "tree") / "deploy"
    subprocess.run(["sh", deploy / "compose-secrets.sh"], check=True, capture_output=True)
    redis = of_this_machine(SERVICES["redis"]["user"])
    redis.entrypoint = ["sh", "-c", 'exec "$@" --protected-mode no', "-"]  # the image is built like that
    prometheus = of_this_machine("nobody")
    prometheus.entrypoint = ["prometheus"]
    images = {
        "application": engine.build(DEPLOY / "Containerfile.example", context),
        "sidecar": image,
        "migrate": image,
        "database": database,
        "redis": redis,
        "prometheus": prometheus,
    }
    assert set(SERVICES) - set(images) == {"grafana"}  # no program of this machine
    stack = Stack(engine, images, deploy)
    application = stack.start("application")
    for name in set(images) - {"prometheus"}:
        stack.start(name)

    # The application answers as soon as it listens, and what needs a capability is refused.
    while not (response := get(application, "http://application:8000/hello")):
        assert application.process.poll() is None, application.end()
    assert response == '200 {"message":"hello from fastapi"}'
    assert get(application, "http://application:8000/echo", b"{}").startswith("403 ")

    # Both decisions are in the database, under the password of the sidecar's role.
    query = "SELECT count(*) FROM chio.http_receipts"
    counted = stack.containers["database"].execute("psql", "-U", "chio_owner", "-d", "chio", "-Atc", query)
    assert counted.stdout == "2\n", counted.stderr

    # The application reaches Redis, and Prometheus both targets, with the token of the sidecar's control plane.
    ping = "import socket as s; c = s.create_connection(('redis', 6379)); c.sendall(b'PING\\r\\n'); print(c.recv(9))"
    assert "PONG" in application.execute("python", "-c", ping).stdout
    stack.start("prometheus")  # now that its targets listen: its first scrape counts
    states: dict[str, str] = {}
    while not states or "unknown" in {state.split()[0] for state in states.values()}:
        status, _, text = get(application, "http://prometheus:9090/api/v1/targets").partition(" ")
        targets = json.loads(text)["data"]["activeTargets"] if status == "200" else []  # 503 while it starts
        states = {one["labels"]["job"]: f"{one['health']} {one['lastError']}".strip() for one in targets}
    assert states == {"chio-sidecar": "up", "chio-application": "up"}


def get(container: Container, url: str, body: bytes | None = None) -> str:
    """Return status and body of a request that is sent in a container; nothing if it is not answered."""
    call = (
        "import sys, urllib.request as r, urllib.error as e\n"
        "try: a = r.urlopen(r.Request({!r}, {!r}, {{'Content-Type': 'application/json'}}))\n"
        "except e.HTTPError as refused: a = refused\n"
        "print(a.status, a.read().decode(), end='')"
    )
    return container.execute("python", "-c", call.format(url, body)).stdout
