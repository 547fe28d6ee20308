"""Requests to an API server, the meaning of its refusals, and the
identity of a source of objects.
"""

from __future__ import annotations

import gzip
import hashlib
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
from headwater.cluster.api import ApiServer
from headwater.cluster.objects import Resource
from headwater.cluster.reflector import RequestFailed, Trouble
from headwater.cluster.refusals import PATHS
from headwater.cluster.source import check, selectors_of, source_of
from headwater.cluster.timing import Timing
from headwater.settings.error import SettingsError
from headwater.settings.settings import Settings
from headwater.store.identity import Origin, point
from kubernetes.config import incluster_config

from tests.fakeapi import faults
from tests.fakeapi.cluster import objects
from tests.fakeapi.role import SHORT
from tests.fakeapi.server import Behaviour, FakeApiServer, Fault
from tests.fakeapi.truth import Truth
from tests.harness.processes import wait_until

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: u, user: {{token: t}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""
POD_FIELDS = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Unknown"
MISSING = "404 page not found\n"


class Server(ThreadingHTTPServer):
    """A small API server: statuses by path, 200 for others."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.statuses: dict[str, int] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        """The path and the query of every request."""


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.server.asked.append((url.path, {name: value for name, (value,) in parse_qs(url.query).items()}))
        status = self.server.statuses.get(url.path, 200)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b'{"metadata": {}}\n' if status == 200 else MISSING.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield running
        running.shutdown()


@pytest.fixture
def kubeconfig(server: Server, tmp_path: Path) -> str:
    file = tmp_path / "kubeconfig"
    file.write_text(KUBECONFIG.format(port=server.server_port))
    return str(file)


def asked_for(server: Server, kubeconfig: str, resource: Resource, settings: Settings) -> list[dict[str, str]]:
    """Return the queries of a list and a watch of a resource with these settings."""
    api = ApiServer(kubeconfig, None, selectors_of(settings))
    api.page(resource, 500, "")
    list(api.watch(resource, "7", 300))
    assert {path for path, _ in server.asked} == {PATHS[resource]}
    return [query for _, query in server.asked]


LISTED = {"limit": "500"}
WATCHED = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": "7", "timeoutSeconds": "300"}


@pytest.mark.parametrize(
    ("resource", "selector"),
    [
        ("namespaces", "team notin (x)"),
        ("services", "app in (a,b),tier"),
        ("endpointslices", "app in (a,b),tier"),
        ("pods", "app in (a,b),tier"),
        # CoreDNS asks for ServiceImports with the namespaces' selector.
        ("serviceimports", "team notin (x)"),
    ],
)
def test_lists_and_watches_ask_for_the_selected_objects(
    resource: Resource, selector: str, server: Server, kubeconfig: str
) -> None:
    settings = Settings(labels="tier, app in (b,a)", namespace_labels="team!=x")
    fields = {"fieldSelector": POD_FIELDS} if resource == "pods" else {}
    for query, kind in zip(asked_for(server, kubeconfig, resource, settings), (LISTED, WATCHED), strict=True):
        assert query == {**kind, **fields, "labelSelector": selector}


@pytest.mark.parametrize("resource", ["namespaces", "services", "endpointslices", "serviceimports"])
def test_without_selectors_everything_is_asked_for(resource: Resource, server: Server, kubeconfig: str) -> None:
    assert asked_for(server, kubeconfig, resource, Settings(labels=" ")) == [LISTED, WATCHED]


# 404


def refused(kubeconfig: str, resource: Resource) -> RequestFailed:
    with pytest.raises(RequestFailed) as error:
        ApiServer(kubeconfig, None, {}).page(resource, 500, "")
    return error.value


@pytest.mark.parametrize("version", [200, 401, 403])
def test_a_custom_resource_that_the_api_server_does_not_know_is_not_installed(
    version: int, server: Server, kubeconfig: str
) -> None:
    server.statuses = {PATHS["serviceimports"]: 404, "/version": version}
    error = refused(kubeconfig, "serviceimports")
    assert (error.trouble, error.status) == (Trouble.NOT_INSTALLED, 404)
    assert "serviceimports.multicluster.x-k8s.io is not installed" in str(error)
    with pytest.raises(RequestFailed) as watching:
        ApiServer(kubeconfig, None, {}).watch("serviceimports", "7", 300)
    assert watching.value.trouble is Trouble.NOT_INSTALLED


@pytest.mark.parametrize("version", [404, 502])
def test_a_proxy_that_has_lost_its_api_server_deletes_nothing(version: int, server: Server, kubeconfig: str) -> None:
    """It replies 404 to everything, which says nothing about a CRD."""
    server.statuses = {PATHS["serviceimports"]: 404, "/version": version}
    error = refused(kubeconfig, "serviceimports")
    assert (error.trouble, error.status) == (Trouble.SERVER, 404)
    assert "not from an API server" in str(error)


def test_a_core_resource_that_is_not_found_is_an_error(server: Server, kubeconfig: str) -> None:
    server.statuses = {PATHS["services"]: 404}
    error = refused(kubeconfig, "services")
    assert (error.trouble, str(error)) == (Trouble.SERVER, f"list services: 404: {MISSING}")


# Broken or hostile servers


@pytest.fixture
def hostile() -> Iterator[FakeApiServer]:
    with FakeApiServer(Truth(objects())) as api:
        yield api


def client(api: FakeApiServer, folder: Path, timing: Timing = SHORT) -> ApiServer:
    (folder / "config").write_text(api.kubeconfig())
    return ApiServer(str(folder / "config"), None, {}, timing)


def failing(api: ApiServer, verb: str) -> RequestFailed:
    """Return the error of a request."""
    requests: dict[str, Callable[[], object]] = {
        "list": lambda: api.page("services", 500, ""),
        "watch": lambda: list(api.watch("services", "7", 300)),
        "kube-system": api.kube_system,
    }
    with pytest.raises(RequestFailed) as error:
        requests[verb]()
    return error.value


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("verb", ["list", "watch", "kube-system"])
def test_a_redirect_is_not_followed(
    verb: str, status: int, server: Server, hostile: FakeApiServer, tmp_path: Path
) -> None:
    """At another address the token would reach a stranger."""
    elsewhere = f"Location: http://127.0.0.1:{server.server_port}/\r\nContent-Length: 0\r\n\r\n"
    hostile.on(None, None, faults.raw(f"HTTP/1.1 {status} Elsewhere\r\n{elsewhere}".encode()), times=10)
    error = failing(client(hostile, tmp_path), verb)
    assert (error.trouble, error.status) == (Trouble.SERVER, status)
    assert server.asked == []


def endless(data: bytes, headers: dict[str, str] | None = None, pause: float = 0.0) -> Fault:
    """Return an answer that repeats the same bytes without end."""

    def pieces(_: Iterator[bytes]) -> Iterator[bytes]:
        while True:
            yield data
            time.sleep(pause)

    return lambda exchange: exchange.serve(body=pieces, headers=headers)


_MIB = b"a" * (1 << 20)


def _peak(work: Callable[[], object]) -> int:
    """Return the peak of allocated memory, in bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("how", ["plain", "one chunk of gzip"])
@pytest.mark.parametrize("verb", ["list", "watch"])
def test_what_does_not_end_is_given_up(verb: str, how: str, hostile: FakeApiServer, tmp_path: Path) -> None:
    """A page, or a line of a watch; also one that is compressed a thousand times."""
    fault = endless(_MIB)
    if how != "plain":
        data = gzip.compress(bytes(256 << 20), 1)
        fault = lambda exchange: exchange.serve(body=lambda _: [data], headers={"Content-Encoding": "gzip"})  # noqa: E731
    hostile.on(None, "services", fault)
    api = client(hostile, tmp_path)

    def ask() -> None:
        error = failing(api, verb)
        assert error.trouble is (Trouble.TOO_LARGE if verb == "list" else Trouble.SERVER)
        assert "more than" in str(error)

    assert _peak(ask) < 64 << 20


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_what_drips_is_given_up(verb: str, hostile: FakeApiServer, tmp_path: Path) -> None:
    """The stream is never silent, and no line is ever complete."""
    hostile.on(None, "services", endless(b" ", pause=0.02))
    api = client(hostile, tmp_path, replace(SHORT, whole_page=0.3, silence=0.3))
    began = time.monotonic()
    assert failing(api, verb).trouble is Trouble.UNREACHABLE
    assert time.monotonic() - began < 5.0


def test_a_watch_without_chunks_is_heard_at_once(hostile: FakeApiServer, tmp_path: Path) -> None:
    """With an HTTP/1.0 proxy the body ends with the connection."""
    hostile.on("watch", "services", lambda exchange: exchange.serve(headers={"Connection": "close"}))
    lines = client(hostile, tmp_path).watch("services", "", 300)
    assert b'"ADDED"' in next(lines)
    lines.close()  # type: ignore[attr-defined]


# A service account


def test_a_service_account_s_ca_and_token_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kubelet replaces both files; from then on the server's certificate is of the new CA."""
    authorities = [trustme.CA(), trustme.CA()]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    token, authority = tmp_path / "token", tmp_path / "ca.crt"

    def rotate(number: int) -> None:
        authorities[number].issue_cert("127.0.0.1").configure_cert(context)

    def replace_files(number: int) -> None:
        token.write_text(f"token-{number}")
        authority.write_bytes(authorities[number].cert_pem.bytes())

    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    rotate(0)
    replace_files(0)
    behaviour = Behaviour(tokens={"token-0"})
    with FakeApiServer(Truth(objects()), behaviour, context) as running:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(running.port))
        api = ApiServer(None, None, {}, replace(SHORT, credentials=0.0))
        api.page("services", 500, "")
        rotate(1)
        running.cut_all()
        wait_until(  # the first request may go to the connection that was cut
            lambda: failing(api, "list").trouble is Trouble.UNVERIFIED, 5.0, "the new certificate does not verify"
        )
        replace_files(1)
        behaviour.tokens = {"token-1"}
        api.reload_if_due()
        api.page("services", 500, "")


# Whose objects


def test_files_without_selectors_are_named_as_ever(tmp_path: Path) -> None:
    """A store of an earlier version stays usable."""
    settings = Settings(manifests=(str(tmp_path),))
    assert source_of(settings) == hashlib.sha256(f"files\0{tmp_path}".encode()).hexdigest()[:16]
    assert source_of(Settings(manifests=(str(tmp_path),), labels=" ")) == source_of(settings)


def test_a_cluster_is_a_source_whatever_the_credentials_say(tmp_path: Path) -> None:
    """A store can be used without readable credentials; recognition asks which cluster it is."""
    file = tmp_path / "kubeconfig"
    sources = {source_of(Settings()), source_of(Settings(kubeconfig=str(file)))}
    for text in ("", KUBECONFIG.format(port=1), KUBECONFIG.format(port=2)):
        file.write_text(text)
        sources.add(source_of(Settings(kubeconfig=str(file), context="x")))
    assert len(sources) == 1
    assert source_of(Settings(manifests=(str(file),))) not in sources


@pytest.mark.parametrize("text", [None, "", "[", "{}", "current-context: x\ncontexts: []\nclusters: []\n"])
def test_a_source_that_cannot_be_read_is_final_only_where_nothing_is_stored(
    text: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, state = tmp_path / "kubeconfig", tmp_path / "state"
    if text is not None:
        file.write_text(text)
    settings = Settings(kubeconfig=str(file), state_dir=str(state))
    for target in ("", "none", "store-gone"):
        if target:
            state.mkdir(exist_ok=True)
            point(state, target)
        with pytest.raises(SettingsError, match=r"^--kubeconfig: "):
            check(settings)
    (state / "store-1").mkdir()
    point(state, "store-1")
    check(settings)
    assert "--kubeconfig" in caplog.text


@pytest.mark.parametrize(
    ("uid", "address", "seen_uid", "seen_address", "another"),
    [
        ("u", "a", "u", "a", False),
        ("u", "a", "u", "b", False),
        ("u", "a", "v", "a", True),
        ("u", "a", "", "a", False),
        ("u", "a", "", "b", True),
        ("", "a", "u", "a", False),
        ("", "a", "u", "b", True),
        ("", "a", "", "a", False),
        ("", "a", "", "b", True),
    ],
)
def test_a_cluster_is_known_by_its_uid_and_else_by_its_address(
    uid: str, address: str, seen_uid: str, seen_address: str, another: bool
) -> None:
    assert Origin(uid, address).is_another(Origin(seen_uid, seen_address)) is another


def test_an_origin_that_is_damaged_equals_no_other(tmp_path: Path) -> None:
    assert Origin.read(tmp_path) is None
    Origin("u", "https://a").write(tmp_path)
    assert Origin.read(tmp_path) == Origin("u", "https://a")
    (tmp_path / "origin").write_bytes(b"\xff")
    damaged = Origin.read(tmp_path)
    assert damaged is not None
    assert damaged.is_another(Origin("u", "https://a"))


def test_other_selectors_are_another_source(tmp_path: Path) -> None:
    """The stored objects are not those that would be listed."""
    sources = [
        source_of(Settings(manifests=(str(tmp_path),), labels=labels, namespace_labels=namespaces))
        for labels, namespaces in (("", ""), ("a=b", ""), ("", "a=b"), ("a=b", "a=b"), ("a!=b", ""), ("a", ""))
    ]
    assert len(set(sources)) == len(sources)


def test_a_selector_in_other_words_is_the_same_source(tmp_path: Path) -> None:
    one, two = (Settings(manifests=(str(tmp_path),), labels=text) for text in ("a=b,c in (e,d)", "c in (d, e), a == b"))
    assert source_of(one) == source_of(two)
