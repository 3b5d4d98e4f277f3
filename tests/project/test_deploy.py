"""The files of deploy/ are what the commands, the metrics and the tools behind them accept."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from chio_core.telemetry.metrics import Metrics
from chio_sidecar.cli import build_parser
from tests.examples.running import free_port
from tests.project.tree import ROOT

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "chio-sidecar"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
METRIC = re.compile(r"\bchio_[a-z_]+")

SPEC = {"spec": '{"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": {}}'}
SQLITE = {"store": {"kind": "sqlite"}, "replicas": 1}


def helm() -> str:
    found = shutil.which("helm") or shutil.which("helm", path=ROOT / ".venv-helm" / "bin")
    if found is None:
        pytest.skip("helm is not installed (.ci/run builds it)")
    return found


def rendered(values: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    (file := folder / "values.yaml").write_text(yaml.safe_dump(SPEC | values))
    command = [helm(), "template", "shop", str(CHART), "--kube-version", "1.31.0", "--values", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"HOME": str(folder)})


def documents(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    done = rendered(values, folder)
    assert done.returncode == 0, done.stderr
    return {one["kind"]: one for one in yaml.safe_load_all(done.stdout) if one}


def accepted(arguments: list[str]) -> None:
    build_parser().parse_args(arguments)


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ({}, {"PodDisruptionBudget", "Job"}),
        ({"serviceMonitor": {"enabled": True}}, {"PodDisruptionBudget", "Job", "ServiceMonitor"}),
        (SQLITE, {"PersistentVolumeClaim"}),
    ],
    ids=["postgresql", "monitored", "sqlite"],
)  # fmt: skip
def test_the_chart_renders_pods_that_may_do_little_and_commands_that_exist(
    values: dict[str, Any], kinds: set[str], tmp_path: Path
) -> None:
    found = documents(values, tmp_path)
    assert set(found) == {"Deployment", "Service", "NetworkPolicy", "ConfigMap"} | kinds
    for workload in (found[kind]["spec"]["template"]["spec"] for kind in ("Deployment", "Job") if kind in found):
        names = {one["name"] for one in workload["volumes"]}
        for container in (*workload["initContainers"], *workload["containers"]):
            allowed = container["securityContext"]
            assert allowed["readOnlyRootFilesystem"]
            assert allowed["runAsNonRoot"]
            assert not allowed["allowPrivilegeEscalation"]
            assert allowed["capabilities"] == {"drop": ["ALL"]}
            assert {one["name"] for one in container["volumeMounts"]} <= names
        accepted(workload["containers"][0]["args"])
        assert workload["automountServiceAccountToken"] is False


@pytest.mark.parametrize("named", [True, False])
def test_the_chart_gives_the_sidecar_the_token_of_applications_if_its_secret_is_named(
    named: bool, tmp_path: Path
) -> None:
    secret = {"name": "evaluations", "key": "token"}
    found = documents({"evaluateTokenSecret": secret if named else None}, tmp_path)
    environ = {one["name"]: one for one in found["Deployment"]["spec"]["template"]["spec"]["containers"][0]["env"]}
    stated = environ.get("CHIO_SIDECAR_EVALUATE_TOKEN", {})
    assert stated.get("valueFrom") == ({"secretKeyRef": secret} if named else None)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"store": {"kind": "sqlite"}}, "replicas"),
        ({"replicas": 0}, "replicas"),
        ({"store": {"kind": "mysql"}}, "store.kind"),
        ({"store": {"kind": "postgresql", "postgresql": {"url": "postgresql://a:secret@h/d"}}}, "store.postgresql.url"),
        ({"image": {"repository": "r", "digest": "sha256:1"}}, "image.digest"),
        ({"replica": 2}, "replica"),
        ({"spec": ""}, "spec"),
    ],
)
def test_the_schema_of_the_chart_names_a_value_that_cannot_work(
    values: dict[str, Any], named: str, tmp_path: Path
) -> None:
    done = rendered(values, tmp_path)
    assert done.returncode != 0
    assert named in done.stderr.replace("/", ".")
    assert "secret@" not in done.stdout


def test_the_commands_of_compose_and_the_container_file_exist() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    accepted(services["sidecar"]["command"])
    accepted(services["migrate"]["command"])
    accepted(json.loads(_instruction("CMD")[-1]))
    secrets = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["secrets"]
    assert {name for one in services.values() for name in one.get("secrets", ())} == set(secrets)


def _instruction(name: str) -> list[str]:
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    return [line.split(None, 1)[1] for line in text.splitlines() if line.strip().startswith(name + " ")]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (package prometheus)")
def test_alerts_are_rules_that_fire_when_they_should_and_not_otherwise(tmp_path: Path) -> None:
    for source in (DEPLOY / "prometheus" / "alerts.yaml", Path(__file__).with_name("alerts_test.yaml")):
        shutil.copy(source, tmp_path)
    for command in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
        done = subprocess.run(["promtool", *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def exported() -> Iterator[str]:
    """Yield the names that applications and sidecars export, those of histograms too."""
    page = Metrics().render()
    text = (page if isinstance(page, str) else page.decode()) + (ROOT / "docs" / "telemetry.md").read_text()
    for name in METRIC.findall(text):
        yield name
        if name.endswith(("_seconds", "_size")):
            yield f"{name}_bucket"


@pytest.mark.parametrize("file", ["prometheus/alerts.yaml", "grafana/dashboards/chio.json"])
def test_alerts_and_dashboard_use_metrics_that_are_exported(file: str) -> None:
    used = set(METRIC.findall((DEPLOY / file).read_text())) - {"chio_frameworks"}
    assert used
    assert used <= set(exported())


def test_the_panels_of_the_dashboard_fill_rows_and_do_not_overlap() -> None:
    panels = json.loads((DEPLOY / "grafana/dashboards/chio.json").read_text())["panels"]
    cells = [
        (x, y)
        for place in (one["gridPos"] for one in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)) == 24 * (max(y for _, y in cells) + 1)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_start_commands_that_exist_with_few_rights(unit: Path, tmp_path: Path) -> None:
    (command,) = re.findall(r"(?m)^ExecStart=(.*)$", unit.read_text())
    # systemd leaves a variable out that is not set, and splits one that is at its blanks.
    for options in ("", "--control-url=http://127.0.0.1:8940"):
        accepted(shlex.split(command.replace("$SIDECAR_OPTIONS", options))[1:])
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (package systemd)")
    (copy := tmp_path / unit.name).write_text(unit.read_text().replace("/opt/chio/bin/chio-sidecar", "/bin/true"))
    verified = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert unit.name not in verified.stderr, verified.stderr
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=20", copy],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert rated.returncode == 0, rated.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="the script gives files to the users of containers, as root")
def test_secrets_are_made_once_and_not_printed(tmp_path: Path) -> None:
    script = tmp_path / "compose-secrets.sh"
    shutil.copy(DEPLOY / "compose-secrets.sh", script)
    made, again = (subprocess.run(["sh", script], capture_output=True, text=True, check=False) for _ in range(2))
    assert (made.returncode, again.returncode) == (0, 1)
    folder = tmp_path / "secrets"
    token = (folder / "control-token").read_text()
    assert re.fullmatch("[0-9a-f]{64}", token)
    assert token in (folder / "sidecar.env").read_text()
    evaluate = (folder / "application.env").read_text().removeprefix("CHIO_EVALUATE_TOKEN=").strip()
    assert re.fullmatch("[0-9a-f]{64}", evaluate)
    assert f"CHIO_SIDECAR_EVALUATE_TOKEN={evaluate}\n" in (folder / "sidecar.env").read_text()
    assert not any(secret in made.stdout + made.stderr for secret in (token, evaluate))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert ((folder / "pgpass").stat().st_mode & 0o777, (folder / "pgpass").stat().st_uid) == (0o600, 10001)


def test_the_recipe_for_several_workers_counts_each_request_once(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    (recipe,) = re.findall(r"```text\n(# gunicorn\.conf\.py\n.*?)```", page, re.DOTALL)
    first, port = free_port(), free_port()
    (tmp_path / "gunicorn.conf.py").write_text(recipe.replace("9200", str(first)).replace("9264", str(first + 64)))
    (tmp_path / "main.py").write_text(
        "from flask import Flask\n"
        "from chio_core.client.client import SyncChioClient\n"
        "from chio_core.settings import ChioSettings\n"
        "from chio_flask import Chio\n"
        "app = Flask(__name__)\n"
        "client = SyncChioClient(ChioSettings(sidecar_url='embedded:main.sqlite3'))\n"
        "Chio(app, client=client)\n"
        "app.add_url_rule('/hello', 'hello', lambda: 'hello')\n"
    )
    command = [sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", f"127.0.0.1:{port}", "main:app"]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "adapters"), str(tmp_path)))}
    with subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            ports: list[int] = []
            for line in process.stderr:
                ports += map(int, re.findall(r"metrics on port (\d+)", line))
                if len(ports) == 2:
                    break
            for _ in range(20):  # each on a connection of its own, so that both workers get some
                assert httpx.get(f"http://127.0.0.1:{port}/hello").status_code == 200
            pages = [httpx.get(f"http://127.0.0.1:{one}/metrics").text for one in ports]
        finally:
            process.terminate()
            process.communicate()
    counted = [re.findall(r'(?m)^chio_decisions_total{code="none",verdict="allow"} (.*)$', page) for page in pages]
    assert sum(float(one) for (one,) in counted) == 20
