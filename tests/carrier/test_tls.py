"""Both pools over TLS: the certificate is checked, and the connection is kept."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import ipaddress
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from chio_core.client.pool import ConnectionPool
from chio_core.errors import SidecarUnreachable
from tests.carrier.stubs import LARGE, Scripted, Threads, echo, hashed, pool_for

both = pytest.mark.parametrize("new_pool", [ConnectionPool, Threads], ids=["loop", "threads"])


def certificate(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "chio test")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    found = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(found.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    return tmp_path


@both
async def test_a_pool_keeps_its_tls_connections(trusted: Path, new_pool: Any) -> None:
    async with Scripted(echo, tls=certificate(trusted)).listen() as server:
        pool = new_pool(server.endpoint, limit=2)
        bodies = [b"%d" % number for number in range(30)]
        responses = await asyncio.gather(*(pool.post("/", body, (), 10) for body in bodies))
        assert [response.body for response in responses] == bodies
        assert server.accepted == pool.size <= 2
        await pool.aclose()


@both
async def test_a_request_that_is_larger_than_the_send_buffer_is_sent_whole_over_tls(
    trusted: Path, new_pool: Any
) -> None:
    async with Scripted(hashed, tls=certificate(trusted)).listen() as server, pool_for(server, new_pool) as pool:
        for _ in range(2):  # over a new connection, and over one that was idle
            response = await pool.post("/", LARGE, (), 60)
            assert response.body == hashlib.sha256(LARGE).hexdigest().encode()
        assert server.accepted == 1


@both
async def test_a_certificate_without_trust_is_refused(tmp_path: Path, new_pool: Any) -> None:
    async with Scripted(echo, tls=certificate(tmp_path)).listen() as server, pool_for(server, new_pool) as pool:
        with pytest.raises(SidecarUnreachable, match="cannot connect"):
            await pool.post("/", b"", (), 10)
