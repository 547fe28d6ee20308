"""Who may take the store, from whom it is taken, and what strangers can do."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from headwater.cluster.source import source_of
from headwater.peers import server
from headwater.peers.client import Copy, NoCopy, taken
from headwater.peers.credentials import Credentials
from headwater.settings.address import Address
from headwater.settings.error import SettingsError
from headwater.settings.settings import Settings
from headwater.store.environment import READY, Reader, Store, Transaction
from headwater.store.identity import Identity, Origin

from tests.harness.peers import Peer
from tests.harness.pki import Pki
from tests.harness.processes import wait_until

TOKEN = "a-token-of-some-length"


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Pki:
    folder = tmp_path / "other"
    folder.mkdir()
    return Pki(folder)


def file(folder: Path, text: str, name: str = "token") -> str:
    (folder / name).write_text(f"{text}\n")
    return str(folder / name)


@contextlib.contextmanager
def peer(folder: Path, pki: Pki, *, ca: bool = False, token: str | None = None) -> Iterator[Peer]:
    """A peer with a certificate, which lets in by the CA, by the token, or by either."""
    settings = Settings(
        state_dir=str(folder / "state"),
        peer_listen=Address(host="127.0.0.1", port=1),
        peer_cert=str(pki.folder / "server.crt"),
        peer_key=str(pki.folder / "server.key"),
        peer_ca=str(pki.folder / "ca.crt") if ca else None,
        peer_token=token,
    )
    identity = Identity(source_of(settings), settings.records_fingerprint())
    store, _ = Store.open(Path(settings.state_dir), identity)

    def fill(txn: Transaction) -> None:
        for number in range(100):
            txn.put("records", b"name %d" % number, bytes(100))
        txn.set_meta(READY, b"1")
        txn.set_heard(time.monotonic(), True)
        store.sign_shape(txn)

    store.write(fill)
    store.publish()
    Origin("uid", "https://k").write(store.folder)
    store.close()
    reader = Reader(Path(settings.state_dir), identity)
    with Peer(settings, reader).serving() as served:
        wait_until(lambda: reader.folder is not None, 10.0, "it has the store")
        yield served
    reader.close()


def ask(served: Peer, folder: Path, credentials: Credentials) -> Copy:
    address = Address(host="127.0.0.1", port=served.port)
    with taken(address, credentials, served.reader.identity.source, "me", folder, 0.0) as copy:
        assert list(copy.pieces)
        return copy


def certificate(pki: Pki, name: str = "client", *, of: Pki | None = None) -> Credentials:
    """Credentials with a certificate of one CA that believe another one."""
    believed = of or pki
    return Credentials(f"{pki.folder}/{name}.crt", f"{pki.folder}/{name}.key", f"{believed.folder}/ca.crt", None)


def test_a_certificate_of_the_ca_lets_in(tmp_path: Path, pki: Pki) -> None:
    with peer(tmp_path, pki, ca=True) as served:
        assert ask(served, tmp_path, certificate(pki)).head.uid == "uid"
        served.until(sent=1)


def test_nobody_else_gets_in_by_a_certificate(tmp_path: Path, pki: Pki, other: Pki) -> None:
    """Without one, or with one of another CA; and not by a token where none is asked for."""
    token = file(tmp_path, TOKEN)
    with peer(tmp_path, pki, ca=True) as served:
        for credentials in (
            Credentials(None, None, f"{pki.folder}/ca.crt", None),
            Credentials(None, None, f"{pki.folder}/ca.crt", token),
            certificate(other, of=pki),
        ):
            with pytest.raises(NoCopy) as refused:
                ask(served, tmp_path, credentials)
            assert refused.value.outcome in ("refused", "cut"), refused.value
        served.until(refused=3)


def test_the_token_lets_in_and_no_other(tmp_path: Path, pki: Pki) -> None:
    with peer(tmp_path, pki, token=file(tmp_path, TOKEN)) as served:
        ca = f"{pki.folder}/ca.crt"
        for text in (TOKEN[:-1] + "x", TOKEN + "x", TOKEN[:-1], TOKEN.upper()):
            with pytest.raises(NoCopy) as refused:
                ask(served, tmp_path, Credentials(None, None, ca, file(tmp_path, text, "wrong")))
            assert refused.value.outcome == "refused"
        with pytest.raises(NoCopy):
            ask(served, tmp_path, Credentials(None, None, ca, None))
        ask(served, tmp_path, Credentials(None, None, ca, f"{tmp_path}/token"))
        served.until(refused=5, sent=1)
        file(tmp_path, "another-token-is-there-now")  # it is read anew for each request
        with pytest.raises(NoCopy):
            ask(served, tmp_path, Credentials(None, None, ca, file(tmp_path, TOKEN, "old")))


def test_with_both_either_is_enough(tmp_path: Path, pki: Pki, other: Pki) -> None:
    token = file(tmp_path, TOKEN)
    with peer(tmp_path, pki, ca=True, token=token) as served:
        ask(served, tmp_path, certificate(pki))
        ask(served, tmp_path, Credentials(None, None, f"{pki.folder}/ca.crt", token))
        with pytest.raises(NoCopy):
            ask(served, tmp_path, Credentials(None, None, f"{pki.folder}/ca.crt", None))
        with pytest.raises(NoCopy):
            ask(served, tmp_path, certificate(other, of=pki))


def test_a_peer_of_another_ca_is_not_believed_and_gets_no_token(tmp_path: Path, pki: Pki, other: Pki) -> None:
    with peer(tmp_path, pki, token=file(tmp_path, TOKEN)) as served:
        with pytest.raises(NoCopy) as refused:
            ask(served, tmp_path, Credentials(None, None, f"{other.folder}/ca.crt", f"{tmp_path}/token"))
        assert refused.value.outcome == "refused"
        assert "TLS" in str(refused.value)
        served.until(refused=1)


def test_a_renewed_certificate_is_used_from_then_on(tmp_path: Path, pki: Pki) -> None:
    with peer(tmp_path, pki, ca=True) as served:
        ask(served, tmp_path, certificate(pki))
        before = der(served)
        pki.issue("server", "headwater.test")
        assert der(served) != before
        ask(served, tmp_path, certificate(pki))
        (tmp_path / "server.crt").write_text("no certificate")
        ask(served, tmp_path, certificate(pki))


def der(served: Peer) -> bytes | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", served.port)) as plain, context.wrap_socket(plain) as end:
        return end.getpeercert(binary_form=True)


def test_strangers_keep_nobody_out(tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections without a byte, more than there are places; each ends by its deadline."""
    monkeypatch.setattr(server, "PATIENCE", 0.5)
    with peer(tmp_path, pki, ca=True) as served, contextlib.ExitStack() as stack:
        strangers = [stack.enter_context(socket.create_connection(("127.0.0.1", served.port), 5.0)) for _ in range(40)]
        ask(served, tmp_path, certificate(pki))
        for stranger in strangers:
            with contextlib.suppress(ConnectionError):
                assert stranger.recv(1) == b""
        wait_until(lambda: not served.server._open, 10.0, "no connection is open")


@pytest.mark.parametrize(
    "sent",
    [b"", b"\x16\x03\x01\xff\xff" + b"\0" * 70_000, b"GET /seed/2 HTTP/1.1\r\n\r\n", bytes(range(256)) * 100],
)
def test_bytes_that_are_no_handshake_cost_a_connection(sent: bytes, tmp_path: Path, pki: Pki) -> None:
    with peer(tmp_path, pki, ca=True) as served:
        with (
            socket.create_connection(("127.0.0.1", served.port), 5.0) as stranger,
            contextlib.suppress(ConnectionError),
        ):
            stranger.sendall(sent)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(4096):
                pass
        ask(served, tmp_path, certificate(pki))
        served.until(refused=1, sent=1)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /seed/1 HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /seed/2 HTTP/1.1\r\nContent-Length: 9\r\n\r\n", b"404"),
        (b"GET /seed/2 HTTP/1.1\r\nX: " + b"y" * 9000 + b"\r\n\r\n", None),
        (b"\r\n\r\n", b"404"),
        (b"\xff\xfe\r\n\r\n", b"404"),
    ],
)
def test_a_request_that_is_none_gets_nothing(request_: bytes, status: bytes | None, tmp_path: Path, pki: Pki) -> None:
    context = certificate(pki).client()
    assert context is not None
    with peer(tmp_path, pki, ca=True) as served:
        with (
            socket.create_connection(("127.0.0.1", served.port), 5.0) as plain,
            context.wrap_socket(plain) as end,
            contextlib.suppress(ConnectionError),
        ):
            end.sendall(request_)
            reply = end.recv(4096)
            assert reply.split(b" ")[1:2] == ([status] if status else [])
        served.until(refused=1)


@pytest.mark.parametrize("at_once", [0, 1 << 20])
def test_a_small_copy_is_not_slowed_and_a_large_one_is(
    at_once: int, tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_AT_ONCE", at_once)
    monkeypatch.setattr(server, "_RATE", 20_000)  # the copy has more than 10,000 bytes
    with peer(tmp_path, pki, ca=True) as served:
        began = time.monotonic()
        ask(served, tmp_path, certificate(pki))
        assert (time.monotonic() - began > 0.5) == (at_once == 0)
        served.until(sent=1)


def test_who_does_not_read_is_left(tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_SEND", 0.3)
    monkeypatch.setattr(server, "SENT", ("records",) * 20_000)
    context = certificate(pki).client()
    assert context is not None
    with peer(tmp_path, pki, ca=True) as served:
        with socket.create_connection(("127.0.0.1", served.port), 5.0) as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with context.wrap_socket(plain) as end:
                end.sendall(b"GET /seed/2 HTTP/1.1\r\n\r\n")
                served.until(cut=1)
        assert served.server._copying.acquire(timeout=5.0), "another copy can be taken"
        served.server._copying.release()


# Settings


@pytest.mark.parametrize(
    ("problem", "settings"),
    [
        ("--peer-listen: 0.0.0.0:9354 is not on loopback: --peer-cert and --peer-key are needed", {}),
        ("--peer-listen: 0.0.0.0:9354 is not on loopback", {"peer_cert": "c", "peer_key": "c"}),
        ("--peer-listen: 0.0.0.0:9354 is not on loopback", {"peer_token": "c"}),
        ("--peer-key: a certificate and its key go together", {"peer_cert": "c"}),
        ("--peer-cert: a certificate and its key go together", {"peer_key": "c"}),
        ("--peer-ca: 'gone' is not a file", {"peer_ca": "gone"}),
        ("--peer-listen: cannot be used together with --manifests", {"manifests": (".",)}),
    ],
)
def test_without_credentials_it_starts_on_loopback_alone(
    problem: str, settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c").touch()
    listening = Address(host="0.0.0.0", port=9354)
    with pytest.raises(SettingsError) as refused:
        Settings(peer_listen=listening, **settings)  # type: ignore[arg-type]
    assert str(refused.value).startswith(problem)
    Settings(peer_listen=Address(host="127.0.0.1", port=9354))
    Settings(peer_listen=listening, peer_cert="c", peer_key="c", peer_token="c")
    Settings(peer_listen=listening, peer_cert="c", peer_key="c", peer_ca="c")


@pytest.mark.parametrize("settings", [{}, {"peer_ca": "c"}, {"peer_token": "c"}, {"peer_cert": "c", "peer_key": "c"}])
def test_a_peer_elsewhere_has_to_be_known(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c").touch()
    seeds = (Address(host="192.0.2.1", port=9354),)
    with pytest.raises(SettingsError, match=r"^--seed: 192.0.2.1:9354 is not on loopback: --peer-ca is needed"):
        Settings(seeds=seeds, **settings)  # type: ignore[arg-type]
    Settings(seeds=seeds, peer_ca="c", peer_token="c")
    Settings(seeds=seeds, peer_ca="c", peer_cert="c", peer_key="c")


def test_a_service_that_was_not_there_is_no_peer() -> None:
    from tests.harness.instance import settings_of

    assert settings_of(["--seed", "$(HEADWATER_PEERS_SERVICE_HOST):9354"]).seeds == ()


@pytest.mark.parametrize("text", ["", "short", "a token with spaces in it", "é" * 20, "x" * 15])
def test_a_token_that_is_none_stops_the_start(text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^--peer-token: .*: a token has at least 16 printable characters"):
        Credentials(None, None, None, file(tmp_path, text)).check()
