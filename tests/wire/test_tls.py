"""TLS over both transports: which clients are let in, and certificates
that are replaced at run time.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
import trustme
from headwater.serve import server as native
from headwater.serve.service import QUERY, pack, unpack
from headwater.serve.tls import Certificates
from headwater.settings.error import SettingsError
from headwater.settings.settings import Settings

from tests.harness.processes import wait_until
from tests.wire.frames import DATA, HELLO, Client
from tests.wire.serving import DEADLINE, TRANSPORTS, Serving, Transport, query, reply_to, serving

NAME: Final = "headwater.test"


@dataclass
class Pki:
    """A CA for the server, one for its clients, and their files."""

    folder: Path
    ca: trustme.CA
    client_ca: trustme.CA

    @classmethod
    def at(cls, folder: Path) -> Pki:
        made = cls(folder, trustme.CA(), trustme.CA())
        made.issue()
        made.client_ca.cert_pem.write_to_path(str(folder / "clients.crt"))
        return made

    def issue(self, ca: trustme.CA | None = None) -> None:
        """Write a new certificate to the same files."""
        leaf = (ca or self.ca).issue_cert(NAME)
        (self.folder / "tls.key").write_bytes(leaf.private_key_pem.bytes())
        (self.folder / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))

    def files(self, *, mutual: bool = False) -> Certificates:
        client_ca = str(self.folder / "clients.crt") if mutual else None
        return Certificates(str(self.folder / "tls.crt"), str(self.folder / "tls.key"), client_ca)

    def client(self, ca: trustme.CA) -> tuple[bytes, bytes]:
        """Return (key, certificate) of a client."""
        leaf = ca.issue_cert("coredns.test")
        return leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes()


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki.at(tmp_path)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_TICK", 0.01)


@contextlib.contextmanager
def secure(server: Serving, ca: trustme.CA, client: tuple[bytes, bytes] | None = None) -> Iterator[Any]:
    """Yield a call over a new connection."""
    key, cert = client or (None, None)
    credentials = grpc.ssl_channel_credentials(ca.cert_pem.bytes(), key, cert)
    options = (("grpc.ssl_target_name_override", NAME), ("grpc.use_local_subchannel_pool", 1))
    with grpc.secure_channel(str(server.address), credentials, options) as channel:
        yield channel.unary_unary(QUERY)


def ask(call: Any) -> bytes:
    return unpack(call(pack(query()), timeout=DEADLINE))


def refused(call: Any) -> bool:
    """Return whether no connection can be made."""
    try:
        call(pack(query()), timeout=DEADLINE)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> Transport:
    found: Transport = request.param
    return found


def test_a_client_that_trusts_the_certificate_is_served(transport: Transport, pki: Pki) -> None:
    with serving(transport, pki.folder, pki.files()) as server:
        with secure(server, pki.ca) as call:
            for _ in range(10):
                assert ask(call) == reply_to(query())
            long = call(pack(query("sized-65535.test.")), timeout=DEADLINE)
            assert len(unpack(long)) == 65_535
        with secure(server, trustme.CA()) as call:
            assert refused(call)
        with grpc.insecure_channel(str(server.address)) as channel:
            assert refused(channel.unary_unary(QUERY))
        with secure(server, pki.ca) as call:
            assert ask(call) == reply_to(query())


def test_mutual_tls_lets_in_who_has_a_certificate_of_the_ca(transport: Transport, pki: Pki) -> None:
    with serving(transport, pki.folder, pki.files(mutual=True)) as server:
        with secure(server, pki.ca, pki.client(pki.client_ca)) as call:
            assert ask(call) == reply_to(query())
        for client in (None, pki.client(pki.ca), pki.client(trustme.CA())):
            with secure(server, pki.ca, client) as call:
                assert refused(call)


def test_a_replaced_certificate_is_for_new_connections(transport: Transport, pki: Pki, hasty: None) -> None:
    other = trustme.CA()
    with serving(transport, pki.folder, pki.files()) as server, secure(server, pki.ca) as before:
        assert ask(before) == reply_to(query())
        pki.issue(other)

        def is_new() -> bool:
            with secure(server, other) as call:
                return not refused(call)

        wait_until(is_new, DEADLINE, "the new certificate is shown")
        with secure(server, pki.ca) as call:
            assert refused(call)
        assert ask(before) == reply_to(query())


def test_a_replaced_client_ca_is_for_new_connections(pki: Pki, hasty: None) -> None:
    other = trustme.CA()
    with serving("native", pki.folder, pki.files(mutual=True)) as server:
        other.cert_pem.write_to_path(str(pki.folder / "clients.crt"))

        def is_new() -> bool:
            with secure(server, pki.ca, pki.client(other)) as call:
                return not refused(call)

        wait_until(is_new, DEADLINE, "clients of the new CA are let in")
        with secure(server, pki.ca, pki.client(pki.client_ca)) as call:
            assert refused(call)


def test_files_that_cannot_be_used_change_nothing(
    transport: Transport, pki: Pki, hasty: None, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(transport, pki.folder, pki.files()) as server:
        with secure(server, pki.ca) as call:
            assert ask(call) == reply_to(query())
        (pki.folder / "tls.crt").write_text("half a file")

        def is_noticed() -> bool:
            with secure(server, pki.ca) as call:
                assert ask(call) == reply_to(query())
            return "the certificate before is used" in caplog.text

        wait_until(is_noticed, DEADLINE, "the bad file is noticed")
        for _ in range(3):
            assert is_noticed()
        assert caplog.text.count("the certificate before is used") == 1
        pki.issue()
        with secure(server, pki.ca) as call:
            assert ask(call) == reply_to(query())


# Requirements on TLS (RFC 9113 section 9.2)


def handshake(server: Serving, context: ssl.SSLContext) -> ssl.SSLSocket:
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(DEADLINE)
    client.connect(str(server.address.path))
    return context.wrap_socket(client)


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    return context


@pytest.fixture
def server(pki: Pki) -> Iterator[Serving]:
    with serving("native", pki.folder, pki.files()) as server:
        yield server


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(server: Serving, version: ssl.TLSVersion) -> None:
    context = client_context()
    context.minimum_version = context.maximum_version = version
    with handshake(server, context) as client:
        assert client.selected_alpn_protocol() == "h2"
        cipher = client.cipher()
        assert cipher is not None
        assert "GCM" in cipher[0] or "CHACHA20" in cipher[0]
        client.sendall(HELLO + Client().call(1, b"\0\0\0\0\2\x0a\0"))
        said = b""
        while b"grpc-status" not in said:
            said += client.recv(65_536)


def test_tls_1_1_is_not(server: Serving) -> None:
    context = client_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):  # the standard library warns of it, too
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        handshake(server, context)


@pytest.mark.parametrize("cipher", ["AES128-SHA256", "AES256-GCM-SHA384", "ECDHE-RSA-AES128-SHA256"])
def test_old_cipher_suites_of_tls_1_2_are_not(server: Serving, cipher: str) -> None:
    context = client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(cipher)
    with pytest.raises(ssl.SSLError):
        handshake(server, context)


@pytest.mark.parametrize("protocols", [[], ["http/1.1"]])
def test_who_does_not_ask_for_http2_is_not_served(server: Serving, protocols: list[str]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if protocols:
        context.set_alpn_protocols(protocols)
    with contextlib.suppress(ssl.SSLError, ConnectionError), handshake(server, context) as client:
        client.sendall(HELLO)
        assert client.recv(1) == b""
    assert server.resolver.asked == 0


# Certificates


def test_no_files_are_no_tls() -> None:
    assert Certificates.of(Settings()) is None


def test_the_files_are_those_of_the_settings(pki: Pki) -> None:
    files = pki.files(mutual=True)
    settings = Settings(tls_cert=files.cert, tls_key=files.key, tls_client_ca=files.client_ca)
    assert Certificates.of(settings) == files
    files.load()


def test_a_link_that_points_elsewhere_is_another_version(pki: Pki) -> None:
    """A mounted Secret is replaced in this way: the names stay, and a folder's link changes."""
    for number in (1, 2):
        folder = pki.folder / f"..{number}"
        folder.mkdir()
        pki.issue()
        for name in ("tls.crt", "tls.key"):
            (folder / name).write_bytes((pki.folder / name).read_bytes())
    link = pki.folder / "now"
    link.symlink_to("..1")
    files = Certificates(str(link / "tls.crt"), str(link / "tls.key"), None)
    before = files.version()
    (pki.folder / "next").symlink_to("..2")
    (pki.folder / "next").replace(link)
    assert files.version() != before


@pytest.mark.parametrize("broken", ["cert", "key", "other key", "passphrase", "client ca"])
def test_files_that_cannot_be_used_are_refused_by_flag(pki: Pki, broken: str) -> None:
    flag = "--tls-cert"
    if broken == "cert":
        (pki.folder / "tls.crt").write_text("no certificate")
    elif broken == "key":
        (pki.folder / "tls.key").write_text("no key")
    elif broken == "other key":
        key = (pki.folder / "tls.key").read_bytes()
        pki.issue()
        (pki.folder / "tls.key").write_bytes(key)
    elif broken == "passphrase":
        command = ["openssl", "rsa", "-aes128", "-passout", "pass:secret", "-in", "tls.key", "-out", "tls.key.new"]
        done = subprocess.run(command, cwd=pki.folder, capture_output=True, check=False)
        if done.returncode:
            command[1] = "ec"
            subprocess.run(command, cwd=pki.folder, capture_output=True, check=True)
        (pki.folder / "tls.key.new").replace(pki.folder / "tls.key")
    else:
        flag = "--tls-client-ca"
        (pki.folder / "clients.crt").write_text("no CA")
    with pytest.raises(SettingsError) as refused:
        pki.files(mutual=True).load()
    assert refused.value.flag == flag
    assert str(pki.folder) in str(refused.value)


def test_data_flows_both_ways(server: Serving) -> None:
    """A request and a reply larger than a TLS record."""
    with handshake(server, client_context()) as client:
        large = pack(query("sized-40000.test.") + b"\0" * 15_000)
        body = b"\0" + len(large).to_bytes(4, "big") + large
        client.sendall(HELLO + Client().call(1, body))
        said = b""
        while b"grpc-status" not in said:
            said += client.recv(65_536)
        assert len(said) > 40_000
        assert said.count(bytes((DATA,))) > 1
