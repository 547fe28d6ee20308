"""What is asked of an API server, what its refusals mean, and what tells one source of objects from another."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from headwater.cluster.api import ApiServer
from headwater.cluster.objects import Resource
from headwater.cluster.reflector import RequestFailed, Trouble
from headwater.cluster.refusals import PATHS
from headwater.cluster.source import selectors_of, source_of
from headwater.settings.settings import Settings

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
    """An API server in so far as it is asked here: statuses by path, 200 for the others."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.statuses: dict[str, int] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        """Path and query of every request."""


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
    """What a list and a watch of a resource ask, with these settings."""
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
    """It says 404 to whatever is asked: that is no word on a CRD."""
    server.statuses = {PATHS["serviceimports"]: 404, "/version": version}
    error = refused(kubeconfig, "serviceimports")
    assert (error.trouble, error.status) == (Trouble.SERVER, 404)
    assert "not from an API server" in str(error)


def test_a_core_resource_that_is_not_found_is_an_error(server: Server, kubeconfig: str) -> None:
    server.statuses = {PATHS["services"]: 404}
    error = refused(kubeconfig, "services")
    assert (error.trouble, str(error)) == (Trouble.SERVER, f"list services: 404: {MISSING}")


# Whose objects


def test_without_selectors_a_source_is_named_as_ever(tmp_path: Path) -> None:
    """A store that an earlier version wrote stays in use."""
    settings = Settings(manifests=(str(tmp_path),))
    assert source_of(settings) == hashlib.sha256(f"files\0{tmp_path}".encode()).hexdigest()[:16]
    assert source_of(Settings(manifests=(str(tmp_path),), labels=" ")) == source_of(settings)


def test_other_selectors_are_another_source(tmp_path: Path) -> None:
    """What is stored are not the objects that would be listed."""
    sources = [
        source_of(Settings(manifests=(str(tmp_path),), labels=labels, namespace_labels=namespaces))
        for labels, namespaces in (("", ""), ("a=b", ""), ("", "a=b"), ("a=b", "a=b"), ("a!=b", ""), ("a", ""))
    ]
    assert len(set(sources)) == len(sources)


def test_a_selector_in_other_words_is_the_same_source(tmp_path: Path) -> None:
    one, two = (Settings(manifests=(str(tmp_path),), labels=text) for text in ("a=b,c in (e,d)", "c in (d, e), a == b"))
    assert source_of(one) == source_of(two)
