"""`trust serve` and `api protect` as processes (wire protocol, sections 9.1 and 10.2)."""

from __future__ import annotations

import argparse
import json
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from chio_core.receipts import verify_receipt
from chio_sidecar.cli.options import trust_client
from chio_sidecar.cli.serving import bind
from chio_sidecar.cli.terminal import CliError
from tests.sidecar.control_tools import DEADLINE, CommandLine, Server, evaluation, run_command, serving, write_store
from tests.viewer.records import receipt

UPSTREAM = "http://127.0.0.1:1"
SPEC = json.dumps({"openapi": "3.0.3", "info": {}, "paths": {"/echo": {"post": {"responses": {}}}}})
CANARY = "service-canary"


def protect(*arguments: object, upstream: str = UPSTREAM, **variables: str) -> Any:
    return serving("api", "protect", "--upstream", upstream, "--listen", "127.0.0.1:0", *arguments, **variables)


def trust(folder: Path) -> Any:
    files = [f"--{name}-db={folder / name}" for name in ("receipt", "revocation", "authority", "budget")]
    return serving("trust", "serve", "--listen", "127.0.0.1:0", *files, CHIO_SERVICE_TOKEN=CANARY)


def evaluate(server: Server, request_id: str, token: str | None = None) -> Any:
    headers = {} if token is None else {"X-Chio-Capability": token}
    body = evaluation(request_id)
    return httpx.post(f"{server.url}/chio/evaluate", json=body, headers=headers, trust_env=False).json()


def test_the_whole_way_of_a_capability(tmp_path: Path) -> None:
    with trust(tmp_path) as authority:
        assert authority.ready.startswith("Chio trust control service listening on http://127.0.0.1:")
        url = ("--control-url", authority.url)
        files = ("--receipt-store", tmp_path / "s.sqlite3", "--spec", tmp_path / "openapi.json")
        (tmp_path / "openapi.json").write_text(SPEC)
        with protect(*url, *files, CHIO_SERVICE_TOKEN=CANARY) as sidecar:
            assert sidecar.ready == (
                f"chio api protect: proxying 1 routes to {UPSTREAM} on {sidecar.url.removeprefix('http://')}"
            )
            issued = run_command(*url, "capability", "issue", "--server", "s", "--tool", "t", CHIO_SERVICE_TOKEN=CANARY)
            token = issued.stdout.strip()
            assert "trusting only the issuers" not in "".join(sidecar.lines)  # it follows the authority
            assert evaluate(sidecar, "r1")["verdict"]["verdict"] == "deny"
            allowed = evaluate(sidecar, "r2", token)
            assert allowed["verdict"] == {"verdict": "allow"}
            verify_receipt(allowed["receipt"])
            revoked = run_command(
                *url, "trust", "revoke", "--capability-id", json.loads(token)["id"], CHIO_SERVICE_TOKEN=CANARY
            )
            assert revoked.returncode == 0, revoked.stderr
            listing = run_command(*url, "trust", "list", "--limit", "500", CHIO_SERVICE_TOKEN=CANARY)
            assert listing.stdout.split()[-1] == json.loads(token)["id"]
            assert listing.stderr == ""
            assert evaluate(sidecar, "r3", token)["verdict"]["reason"] == "capability token has been revoked"
            assert CANARY not in "".join(sidecar.lines + authority.lines)
    listed = run_command("receipt", "list", "--receipt-db", tmp_path / "s.sqlite3")
    outcomes = [json.loads(line)["verdict"]["outcome"] for line in listed.stdout.splitlines()]
    assert outcomes == ["deny", "allow", "deny"]


def test_only_the_keys_in_the_environment_are_trusted(tmp_path: Path) -> None:
    with trust(tmp_path) as authority:
        with protect(
            "--control-url", authority.url, CHIO_SERVICE_TOKEN=CANARY, CHIO_TRUSTED_ISSUER_KEY="1" * 64
        ) as sidecar:
            issue = ("capability", "issue", "--server", "s", "--tool", "t", "--control-url", authority.url)
            token = run_command(*issue, CHIO_SERVICE_TOKEN=CANARY).stdout.strip()
            assert evaluate(sidecar, "r1", token)["verdict"]["reason"] == "capability issuer is not trusted"
            (said,) = [line for line in sidecar.lines if "trusting only the issuers in CHIO_TRUSTED_ISSUER_KEY" in line]
            assert "when the authority at --control-url changes its key" in said
            assert "unset both to follow the authority" in said
        listed = run_command("receipt", "list", "--control-url", authority.url, "--control-token", CANARY)
        assert (listed.returncode, listed.stdout) == (0, "")


def test_a_revocation_database_counts_at_once(tmp_path: Path) -> None:
    store, revocations = tmp_path / "s.sqlite3", tmp_path / "r.db"
    store.touch(0o600)  # a store that no sidecar has opened yet
    token = run_command("capability", "issue", "--server", "s", "--tool", "t", "--receipt-store", store).stdout.strip()
    with protect("--receipt-store", store, "--revocation-db", revocations) as sidecar:
        assert evaluate(sidecar, "r1", token)["verdict"]["verdict"] == "allow"
        run_command("trust", "revoke", "--capability-id", json.loads(token)["id"], "--revocation-db", revocations)
        assert evaluate(sidecar, "r2", token)["verdict"]["reason"] == "capability token has been revoked"


def test_the_signing_key_beside_the_store_lasts_and_one_without_a_store_does_not(tmp_path: Path) -> None:
    keys = []
    for _ in range(2):
        with protect("--receipt-db", tmp_path / "s.sqlite3") as sidecar:
            keys.append(evaluate(sidecar, "same")["receipt"]["kernel_key"])
            # Before the line that the protocol fixes, which scripts wait for.
            assert sidecar.lines[-2].rstrip().endswith(f": CHIO_TRUSTED_KERNEL_KEYS={keys[-1]}")
    assert keys[0] == keys[1]
    assert stat.S_IMODE((tmp_path / "s.sqlite3.key").stat().st_mode) == 0o600
    with protect() as sidecar:
        key = evaluate(sidecar, "other")["receipt"]["kernel_key"]
        assert any(f"a key for this run only, {key}" in line for line in sidecar.lines)
        assert "CHIO_TRUSTED_KERNEL_KEYS" not in "".join(sidecar.lines)  # the next run has another one
        assert any("receipts are kept for this run only" in line for line in sidecar.lines)
    assert key != keys[0]


def test_only_a_sidecar_without_a_store_makes_a_temporary_folder_and_it_removes_that(tmp_path: Path) -> None:
    for options, folders in (((), 1), (("--receipt-store", tmp_path / "s.sqlite3"), 0)):
        temporary = tmp_path / f"temporary-{folders}"
        temporary.mkdir()
        with protect(*options, TMPDIR=str(temporary)):
            assert len(list(temporary.iterdir())) == folders
        assert list(temporary.iterdir()) == []


def test_a_seed_file_is_the_signing_key(tmp_path: Path) -> None:
    with protect("--authority-seed-file", tmp_path / "seed") as sidecar:
        first = evaluate(sidecar, "a")["receipt"]["kernel_key"]
    with protect("--authority-seed-file", tmp_path / "seed") as sidecar:
        assert evaluate(sidecar, "b")["receipt"]["kernel_key"] == first


def test_the_control_token_of_the_environment_closes_the_control_plane(tmp_path: Path) -> None:
    with protect(CHIO_SIDECAR_CONTROL_TOKEN="canary") as sidecar:
        mint = {"url": f"{sidecar.url}/v1/capabilities/mint", "json": {"subject": "a"}, "trust_env": False}
        assert httpx.post(**mint).status_code == 403
        assert httpx.post(**mint, headers={"Authorization": "Bearer canary"}).status_code == 200
        assert "canary" not in "".join(sidecar.lines)


def test_a_unix_socket_is_served_and_its_control_plane_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "chio.sock"
    with serving("api", "protect", "--upstream", UPSTREAM, "--listen", f"unix:{path}") as sidecar:
        assert sidecar.ready.endswith(f"on unix:{path}")
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://sidecar") as client:
            assert client.post("/chio/evaluate", json=evaluation()).json()["verdict"]["verdict"] == "deny"
            assert client.post("/v1/capabilities/mint", json={"subject": "a"}).status_code == 403
    assert not path.exists()


def test_a_dead_socket_file_is_taken_over_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "chio.sock"
    command = ("api", "protect", "--upstream", UPSTREAM, "--listen", f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serving(*command):
        second = run_command(*command)
    assert second.returncode == 1
    assert f"cannot bind unix:{path}: Address already in use" in second.stderr


@pytest.mark.parametrize(
    ("path", "message", "fix"),
    [
        ("{}/none/chio.sock", "No such file or directory", "create the folder {}/none, or choose"),
        ("{}/" + "x" * 108, "at most 107 bytes", "choose another --listen path"),
        ("@chio", "abstract sockets", "choose another --listen path"),
    ],
)
def test_a_socket_that_cannot_be_bound_gets_its_own_remedy(path: str, message: str, fix: str, tmp_path: Path) -> None:
    with pytest.raises(CliError, match=message) as failed:
        bind(f"unix:{path.format(tmp_path)}")
    assert failed.value.fix is not None
    assert failed.value.fix.startswith(fix.format(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_socket_that_a_successor_has_taken_over_stays_when_its_predecessor_ends(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/chio.sock"
    with bind(listen) as predecessor:
        predecessor.socket.close()  # as after SIGTERM: it accepts no more, and running requests have time to end
        with bind(listen):
            predecessor.__exit__()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "chio.sock"))
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_a_unix_socket_has_the_mode_that_is_asked_for(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "chio.sock"
    with serving("api", "protect", "--upstream", UPSTREAM, "--listen", f"unix:{path}", "--socket-mode", f"{mode:o}"):
        assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    with protect("--receipt-store", tmp_path / "s.sqlite3") as sidecar:
        evaluate(sidecar, "r1")
        sidecar.process.send_signal(number)
        assert sidecar.process.wait(timeout=DEADLINE) == 0
    assert run_command("receipt", "verify", "--receipt-db", tmp_path / "s.sqlite3").returncode == 0


def begin(address: str, path: str) -> socket.socket:
    """Send half of a request whose application already waits for the rest."""
    host, _, port = address.rpartition(":")
    client = socket.create_connection((host, int(port)), timeout=DEADLINE)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {CANARY}\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: 100\r\nExpect: 100-continue\r\n\r\n".encode())
    assert client.recv(1024).startswith(b"HTTP/1.1 100 ")  # it is sent when the application reads
    client.sendall(b'{"id":')
    return client


@pytest.mark.parametrize("path", ["/chio/evaluate", "/chio/verify", "/upload", "/v1/capabilities/issue"])
def test_a_request_that_stays_unfinished_does_not_delay_the_end(path: str, tmp_path: Path) -> None:
    program = trust(tmp_path) if path.startswith("/v1") else protect()
    with program as server, begin(server.url.removeprefix("http://"), path) as client:
        server.process.send_signal(signal.SIGTERM)
        with suppress(ConnectionResetError):
            assert client.recv(1024) == b""  # no answer, for nothing was decided
        assert server.process.wait(timeout=DEADLINE) == 0
    assert not [line for line in server.lines if "Traceback" in line or "exceeded" in line]


def test_a_finished_request_is_answered_after_an_unfinished_one_was_ended() -> None:
    begun, release = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/slow":
                begun.set()
                release.wait(DEADLINE)
            self.send_response(200 if self.path == "/slow" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as origin, ThreadPoolExecutor() as pool:
        pool.submit(origin.serve_forever)
        try:
            with protect(upstream=f"http://127.0.0.1:{origin.server_port}") as sidecar:
                answer = pool.submit(httpx.get, f"{sidecar.url}/slow", trust_env=False, timeout=DEADLINE)
                assert begun.wait(DEADLINE)
                with begin(sidecar.url.removeprefix("http://"), "/upload") as client:
                    sidecar.process.send_signal(signal.SIGTERM)
                    with suppress(ConnectionResetError):
                        assert client.recv(1024) == b""
                release.set()
                assert answer.result().status_code == 200
                assert sidecar.process.wait(timeout=DEADLINE) == 0
        finally:
            release.set()
            origin.shutdown()


@pytest.mark.parametrize(
    "command", [("api", "protect", "--upstream", UPSTREAM), ("trust", "serve", "--service-token", "t")]
)
def test_a_port_in_use_is_one_sentence(command: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run_command(*command, "--listen", address)
    assert done.returncode == 1
    first, fix = done.stderr.splitlines()
    program = f"chio {command[0]} {command[1]}"
    assert first == f"error [chio_cli]: failed to start {program}: cannot bind {address}: Address already in use"
    assert fix.startswith("suggested fix: stop what listens there")


def test_an_address_of_another_machine_is_not_called_one_in_use(cli: CommandLine) -> None:
    error = cli.fails("trust", "serve", "--service-token", "t", "--listen", "192.0.2.1:9090")
    assert "cannot bind 192.0.2.1:9090" in error
    assert "an address of this machine" in error
    assert "stop what listens" not in error


def test_bad_input_stops_the_start_with_one_sentence(
    tmp_path: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "latin.json").write_bytes(b"\xff")
    (tmp_path / "bad.db").write_text("no database " * 100)
    (tmp_path / "bad.key").write_text("canary")
    (tmp_path / "bad.key").chmod(0o600)
    table: list[tuple[list[object], dict[str, str], str]] = [
        (["--listen", "nowhere"], {}, "--listen nowhere is not an address"),
        (["--spec", tmp_path / "none.json"], {}, "cannot read --spec"),
        (["--spec", tmp_path / "latin.json"], {}, "is not UTF-8 text"),
        (["--spec", tmp_path / "bad.json"], {}, f"(--spec {tmp_path / 'bad.json'})"),
        (["--listen", "127.0.0.1:99999"], {}, "--listen 127.0.0.1:99999 names port 99999"),
        (["--receipt-store", tmp_path / "bad.db"], {}, "bad.db"),
        (["--receipt-store", tmp_path / "nowhere" / "s.db"], {}, "nowhere"),
        (["--authority-seed-file", tmp_path / "bad.key"], {}, "bad.key holds no signing key"),
        (["--control-url", "http://127.0.0.1:1"], {}, "--control-url needs the service token"),
        (["--control-url", "http://127.0.0.1:1"], {"CHIO_SERVICE_TOKEN": "canary"}, "cannot reach the trust service"),
        ([], {"CHIO_TRUSTED_ISSUER_KEY": "canary"}, "failed to parse CHIO_TRUSTED_ISSUER_KEY as a public key: "),
        ([], {"CHIO_TRUSTED_ISSUER_KEYS": "canary"}, "failed to parse CHIO_TRUSTED_ISSUER_KEYS as a public key: "),
    ]
    for arguments, variables, message in table:
        with monkeypatch.context() as patched:
            for name, value in variables.items():
                patched.setenv(name, value)
            listen = () if "--listen" in arguments else ("--listen", "127.0.0.1:0")
            cli("api", "protect", "--upstream", UPSTREAM, *listen, *arguments, status=1)
        errors = [line for line in cli.err.splitlines() if line.startswith("error ")]
        assert len(errors) == 1, cli.err
        assert errors[0].startswith("error [")
        assert "failed to start chio api protect: " in errors[0]
        assert message in errors[0]
        assert "canary" not in cli.err


@pytest.mark.parametrize("token", [None, " "])
def test_the_trust_service_does_not_start_without_a_token(
    token: str | None, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token is not None:
        monkeypatch.setenv("CHIO_SERVICE_TOKEN", token)
    assert "service token" in cli.fails("trust", "serve", "--listen", "127.0.0.1:0")


def test_a_trust_service_without_its_databases_says_what_it_cannot_do(tmp_path: Path) -> None:
    serve = ("trust", "serve", "--listen", "127.0.0.1:0", "--service-token", "t")
    with serving(*serve) as bare:
        said = "".join(bare.lines)
    assert "warning: without --revocation-db FILE this service revokes nothing" in said
    assert "warning: without --authority-db FILE or --authority-seed-file FILE this service issues no" in said
    with serving(*serve, "--revocation-db", tmp_path / "r", "--authority-db", tmp_path / "a") as whole:
        said = "".join(whole.lines)
    assert "warning" not in said
    for name, option in (("r", "--revocation-db"), ("a", "--authority-db")):
        assert f"making {tmp_path / name} ({option})" in said


@pytest.mark.parametrize("option", [(), ("--authority-seed-file", "other.key")], ids=["beside the store", "named"])
def test_a_sidecar_does_not_start_without_the_key_of_its_receipts(
    option: tuple[str, ...], tmp_path: Path, cli: CommandLine
) -> None:
    store = write_store(tmp_path / "s.sqlite3", [receipt(1)])
    key = tmp_path / option[1] if option else Path(f"{store}.key")
    named = (option[0], key) if option else ()
    error = cli.fails("api", "protect", "--upstream", UPSTREAM, "--receipt-store", store, *named)
    assert f"key file {key} is missing, and the receipts of {store} were signed with" in error
    assert receipt(1)["kernel_key"] in error
    assert "restore the file from a backup, or give the sidecar another key on purpose" in error
    assert not key.exists()


@contextmanager
def upstream(answers: dict[str, tuple[int, bytes]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, b""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_openapi_document_of_the_upstream_is_fetched() -> None:
    answers = {"/openapi.json": (200, b" "), "/openapi.yaml": (500, b"x"), "/swagger.json": (200, SPEC.encode())}
    with upstream(answers) as url, protect(upstream=url) as sidecar:
        assert "proxying 1 routes" in sidecar.ready
        assert "using the OpenAPI document at /swagger.json" in "".join(sidecar.lines)


def test_allowed_requests_are_forwarded_and_shadowed_routes_are_named(tmp_path: Path) -> None:
    paths = {path: {"get": {"responses": {}}} for path in ("/metrics", "/chio/x", "/v1/receipts", "/v1/other")}
    document = json.dumps({"openapi": "3.0.3", "info": {}, "paths": paths})
    with upstream({"/openapi.json": (200, document.encode()), "/v1/other?a=%41": (203, b"hello")}) as url:
        with protect("--receipt-store", tmp_path / "r.sqlite3", upstream=url, CHIO_FAIL_OPEN="1") as sidecar:
            assert "answers /chio/x, /metrics, /v1/receipts itself" in "".join(sidecar.lines)
            answer = httpx.get(f"{sidecar.url}/v1/other?a=%41", trust_env=False)
            assert (answer.status_code, answer.text) == (203, "hello")
            assert httpx.delete(f"{sidecar.url}/v1/other", trust_env=False).status_code in (401, 403)
        refused = run_command("api", "protect", "--upstream", url, "--strict-spec", "--listen", "127.0.0.1:0")
        assert refused.returncode == 1
        assert "serve it under another path" in refused.stderr


def test_without_a_document_it_starts_with_one_warning() -> None:
    with upstream({"/openapi.json": (500, b"x")}) as url, protect(upstream=url) as sidecar:
        assert "proxying 0 routes" in sidecar.ready
        assert len([line for line in sidecar.lines if line.startswith("warning: no OpenAPI document")]) == 1


def test_an_upstream_that_does_not_answer_has_its_own_warning() -> None:
    with protect() as sidecar:
        assert "proxying 0 routes" in sidecar.ready
        (warning,) = [line for line in sidecar.lines if line.startswith("warning: ")]
        assert warning.startswith(f"warning: the upstream {UPSTREAM} does not answer (ConnectError)")
        assert "start it before this sidecar" in warning


@pytest.mark.parametrize(
    ("listen", "warned"),
    [("127.0.0.1:0", False), ("[::1]:0", False), ("unix:chio.sock", False), ("0.0.0.0:0", True), ("[::]:0", True)],
)
def test_an_address_for_other_machines_is_named_in_a_warning(
    listen: str, warned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with bind(listen):
        pass
    assert ("is reachable from other machines, and this server does not encrypt" in capsys.readouterr().err) == warned


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://127.0.0.1:8940", False),
        ("http://localhost:8940", False),
        ("https://trust.example", False),
        ("http://trust.example:8940", True),
        ("http://10.0.0.7", True),
    ],
)
def test_a_token_that_leaves_this_machine_in_plain_text_is_named_in_a_warning(
    url: str, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    trust_client(argparse.Namespace(control_url=url, control_token="canary")).close()
    error = capsys.readouterr().err
    assert ("the service token is sent to" in error and "without encryption" in error) == warned
    assert "canary" not in error
