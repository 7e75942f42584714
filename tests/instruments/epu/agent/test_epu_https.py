"""The agent against a server whose certificate is of a CA of its own."""

import http.server
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.waiting import until

from skywright.instruments.epu.agent import Agent, ApiSettings
from skywright.instruments.epu.database import Database, open_database, record


def certificate(
    name: str, key: ec.EllipticCurvePrivateKey, ca: x509.Certificate | None, ca_key: object
) -> x509.Certificate:
    """Make a certificate for this computer, or that of the CA itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    public = ca_key.public_key()  # type: ignore[attr-defined]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca.subject if ca is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca is None, None), critical=True)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
    )
    return builder.sign(ca_key, hashes.SHA256())  # type: ignore[arg-type]


class Handler(http.server.BaseHTTPRequestHandler):
    """Takes whatever is sent."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(201)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address of a server, and the certificate of its CA."""
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = certificate("CA of a test", ca_key, None, ca_key)
    own = certificate("127.0.0.1", key, ca, ca_key)
    pem = serialization.Encoding.PEM
    (tmp_path / "ca.pem").write_bytes(ca.public_bytes(pem))
    plain = serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    (tmp_path / "server.pem").write_bytes(private + own.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        served.socket = context.wrap_socket(served.socket, server_side=True)
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"https://127.0.0.1:{served.server_port}", tmp_path / "ca.pem"
        served.shutdown()
        thread.join()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(tmp_path / "agent.sqlite", announce=True)
    with opened.write() as connection:
        record(connection, "acquisition", [{"uuid": "a", "name": "n"}])
    yield opened
    opened.close()


def test_a_server_with_a_ca_of_its_own_needs_the_ca_file(
    local: Database, server: tuple[str, Path]
) -> None:
    url, ca = server
    stranger = Agent(local, ApiSettings(url))
    stranger.start()
    until(lambda: stranger.away)
    assert "certificate verify failed" in str(stranger.away)
    assert stranger.close() == 1
    agent = Agent(local, ApiSettings(url, ca_file=ca))
    agent.start()
    until(lambda: agent.state()["pending"] == 0)
    assert agent.close() == 0
    assert agent.state()["sent"] == 1
