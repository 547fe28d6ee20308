"""Unreadable credentials, rotated certificates, and API servers of another cluster."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import trustme
from headwater.process import control

from tests.fakeapi import manifests
from tests.fakeapi.cluster import APP, EVERYTHING, STABLE, app, cluster, objects
from tests.fakeapi.role import SHORT
from tests.fakeapi.server import Behaviour, FakeApiServer
from tests.fakeapi.truth import Truth
from tests.fakeapi.watching import DEADLINE, Watching
from tests.harness.processes import wait_until

_WEB: Final = "web.default.svc.cluster.local"
#: How long it may take to find a rotation, in seconds. In production it is `Timing.credentials`.
_SOON: Final = 8.0


def plugin(*command: str) -> dict[str, object]:
    """Return a kubeconfig's user whose token a command prints."""
    api = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": api, "command": command[0], "args": command[1:], "interactiveMode": "Never"}}


def _missing(file: Path, _: FakeApiServer) -> None:
    file.unlink()


def _folder(file: Path, _: FakeApiServer) -> None:
    file.unlink()
    file.mkdir()


def _text(text: str) -> Callable[[Path, FakeApiServer], None]:
    return lambda file, _: void(file.write_text(text))


def _user(user: dict[str, object]) -> Callable[[Path, FakeApiServer], None]:
    return lambda file, api: void(file.write_text(api.kubeconfig(user=user)))


def void(_: object) -> None:
    """Do nothing."""


UNREADABLE: Final = {
    "missing": _missing,
    "a folder": _folder,
    "empty": _text(""),
    "half of it": _text('{"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "c", "clu'),
    "half of its YAML": _text("apiVersion: v1\nkind: Config\nclusters:\n- name: c\n"),
    "a list": _text("[1, 2]"),
    "a cluster that is none": _text(
        "{current-context: x, contexts: [{name: x, context: {cluster: c, user: u}}], clusters: [{name: c, cluster: 7}],"
        " users: [{name: u, user: {}}]}"
    ),
    "a token that is missing": _user({"tokenFile": "/nonexistent/token"}),
    "a plug-in that fails": _user(plugin("false")),
    "a plug-in that is not there": _user(plugin("/nonexistent/plug-in")),
    "a plug-in that says nothing": _user(plugin("true")),
    "a plug-in that hangs": _user(plugin("sh", "-c", "sleep 60; echo")),
}


@pytest.mark.parametrize("spoil", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_store_is_served_while_credentials_cannot_be_read(
    spoil: Callable[[Path, FakeApiServer], None], tmp_path: Path
) -> None:
    """The process reports it, and goes on from where it was when they can be read again."""
    with cluster(tmp_path, timing=replace(SHORT, plugin=0.2)) as (api, watching):
        file = tmp_path / "kubeconfig"
        good = file.read_text()
        watching.ready()
        watching.kill()
        spoil(file, api)
        api.truth.put(app(2))
        watching.start()

        def tells() -> bool:
            snapshot = watching.snapshot()
            assert all(state.errors.get("credentials", 0) > 1 for state in snapshot.resources.values())
            assert "--kubeconfig" in snapshot.detail
            return snapshot.ready

        wait_until(tells, DEADLINE, "it says that the credentials cannot be read")
        watching.until(APP, "10.44.9.1")
        if file.is_dir():
            file.rmdir()
        file.write_text(good)
        watching.until(APP, "10.44.9.2")
        wait_until(lambda: not watching.snapshot().detail, DEADLINE, "it says nothing more of it")
        watching.check()
        assert api.count("list") == len(watching.resources)
        assert watching.logged("unexpected") == 0


@pytest.mark.parametrize("spoil", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_with_nothing_to_serve_credentials_that_cannot_be_read_are_final(
    spoil: Callable[[Path, FakeApiServer], None], tmp_path: Path
) -> None:
    with cluster(tmp_path, stable={}, timing=replace(SHORT, plugin=0.2)) as (api, watching):
        spoil(tmp_path / "kubeconfig", api)
        watching.start()
        process = watching.process
        assert process is not None
        process.join(DEADLINE)
        assert process.exitcode == control.UNUSABLE
        assert watching.logged("--kubeconfig: ") == 1
        assert watching.logged("Traceback") == 0


def test_plugin_that_hangs_is_killed_with_what_it_has_started(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    with FakeApiServer(Truth(objects())) as api:
        user = plugin("sh", "-c", f"(sleep 1.5; touch {sign}) & wait")
        timing = replace(SHORT, plugin=0.2)
        watching = Watching(api, tmp_path, kubeconfig=api.kubeconfig(user=user), timing=timing)
        with watching.closing():
            began = time.monotonic()
            watching.start()
            process = watching.process
            assert process is not None
            process.join(DEADLINE)
            assert process.exitcode == control.UNUSABLE
            assert watching.logged("exec: sh has not ended in 0.2 s") == 1
            time.sleep(max(0.0, began + 3.0 - time.monotonic()))
            assert not sign.exists()


# Certificates


class Authorities:
    """A server's certificate and a client's CA, each of which can be
    replaced by the next authority's.
    """

    def __init__(self, file: Path, how: str) -> None:
        """`how` says whether the kubeconfig has the CA as data or in a file."""
        self._all = [trustme.CA(), trustme.CA()]
        self._file, self._how = file, how
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.rotate_server(0)

    def rotate_server(self, number: int) -> None:
        self._all[number].issue_cert("127.0.0.1").configure_cert(self.context)

    def kubeconfig(self, api: FakeApiServer, number: int) -> str:
        """Return a kubeconfig with an authority's certificate;
        replace the file, if it is in one.
        """
        data = self._all[number].cert_pem.bytes()
        if self._how == "data":
            return api.kubeconfig(ca=data)
        authority = self._file.with_name("ca.crt")
        authority.write_bytes(data)
        config = json.loads(api.kubeconfig())
        config["clusters"][0]["cluster"]["certificate-authority"] = authority.name
        return json.dumps(config)


@pytest.mark.parametrize("away", [False, True], ids=["", "with the server away meanwhile"])
@pytest.mark.parametrize("first", ["server", "client"])
@pytest.mark.parametrize("how", ["data", "file"])
def test_rotated_authority_is_found_and_the_store_stays(how: str, first: str, away: bool, tmp_path: Path) -> None:
    """It connects again within seconds, whichever is replaced first; nothing
    is listed, even at a restart.
    """
    file = tmp_path / "kubeconfig"
    authorities = Authorities(file, how)
    with FakeApiServer(Truth(objects()), tls=authorities.context) as api:
        kubeconfig = authorities.kubeconfig(api, 0)
        watching = Watching(api, tmp_path, *EVERYTHING, stable=STABLE, kubeconfig=kubeconfig)

        def rotate_server() -> None:
            if away:
                api.down()
            authorities.rotate_server(1)
            if away:
                api.up()
            else:
                api.cut_all()

        def refused() -> bool:
            return all(state.errors.get("unverified") for state in watching.snapshot().resources.values())

        with watching.closing():
            watching.ready()
            if first == "server":
                rotate_server()
                wait_until(refused, DEADLINE, "the new certificate is not believed")
                assert "CERTIFICATE_VERIFY_FAILED" in watching.snapshot().detail
                watching.until(_WEB, *STABLE[_WEB])
                began = time.monotonic()
                file.write_text(authorities.kubeconfig(api, 1))
            else:
                file.write_text(authorities.kubeconfig(api, 1))
                began = time.monotonic()
                rotate_server()
            api.truth.put(app(2))
            watching.until(APP, "10.44.9.2")
            assert time.monotonic() - began < _SOON
            watching.settle()

            watching.kill()
            api.truth.put(app(3))
            watching.start()
            watching.until(APP, "10.44.9.3")
            watching.check()
            assert api.count("list") == len(watching.resources)
            assert watching.logged("discarded") == 0
            assert watching.logged("unexpected") == 0


def test_unverified_certificate_is_said_once(tmp_path: Path) -> None:
    """urllib3 would warn at each request."""
    authorities = Authorities(tmp_path / "kubeconfig", "data")
    with FakeApiServer(Truth(objects()), tls=authorities.context) as api:
        config = json.loads(api.kubeconfig())
        config["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = True
        watching = Watching(api, tmp_path, *EVERYTHING, stable=STABLE, kubeconfig=json.dumps(config))
        with watching.closing():
            watching.ready()
            api.break_watches()
            api.truth.put(app(2))
            watching.until(APP, "10.44.9.2")
            watching.check()
            assert watching.logged("its certificate is not verified") == 1
            assert watching.logged("arning: ") == 0


# Which cluster


def _others() -> list[manifests.Manifest]:
    """Return objects of another cluster, with a name of the first cluster and a new one."""
    return [
        *map(manifests.namespace, ("default", "kube-system")),
        manifests.service("web", "172.16.7.1"),
        manifests.service("theirs", "172.16.7.2"),
    ]


def becomes_another(watching: Watching) -> None:
    """The process notices and ends; no name has an answer until the
    next one has listed everything.
    """
    process = watching.process
    assert process is not None
    process.join(DEADLINE)
    assert process.exitcode == 1
    assert watching.logged("the stored state is discarded: it is of another cluster") == 1
    assert watching.view.ask(_WEB)[0] == "SERVFAIL"
    watching.kill()
    watching.start()
    watching.until("theirs.default.svc.cluster.local", "172.16.7.2")
    watching.until(_WEB, "172.16.7.1")
    watching.until("pg.db.svc.cluster.local", rcode="NXDOMAIN")
    watching.check()
    assert watching.logged("discarded") == 1


@pytest.mark.parametrize("running", [False, True], ids=["at a start", "in its course"])
def test_another_cluster_at_the_same_address_is_never_mixed_with_the_first(running: bool, tmp_path: Path) -> None:
    """Its versions continue those of the first one, so that a watch
    from there would be accepted.
    """
    behaviour = Behaviour()
    with cluster(tmp_path, stable={}, behaviour=behaviour) as (api, watching):
        watching.ready()
        if not running:
            watching.kill()
        api.down()
        version = api.truth.version
        api.truth = Truth(_others())
        api.truth.version = max(version, api.truth.version)
        behaviour.uid = "another"
        api.up()
        if not running:
            watching.start()
        becomes_another(watching)


def test_another_cluster_at_another_address_is_never_mixed_with_the_first(tmp_path: Path) -> None:
    with cluster(tmp_path, stable={}) as (_, watching), FakeApiServer(Truth(_others()), Behaviour(uid="other")) as api:
        watching.ready()
        watching.kill()
        (tmp_path / "kubeconfig").write_text(api.kubeconfig())
        watching.api = api
        watching.start()
        becomes_another(watching)


def test_same_cluster_at_another_address_keeps_its_store(tmp_path: Path) -> None:
    with cluster(tmp_path) as (first, watching), FakeApiServer(first.truth) as api:
        watching.ready()
        watching.kill()
        (tmp_path / "kubeconfig").write_text(api.kubeconfig())
        watching.api = api
        api.truth.put(app(2))
        watching.start()
        watching.until(APP, "10.44.9.2")
        watching.check()
        assert api.count("list") == 0
        assert watching.logged("the same cluster at another address") == 1


def test_where_kube_system_is_not_seen_the_address_decides(tmp_path: Path) -> None:
    nobody = Behaviour(uid="")
    with cluster(tmp_path, stable={}, behaviour=nobody) as (first, watching):
        watching.ready()
        watching.kill()
        watching.start()
        first.truth.put(app(2))
        watching.until(APP, "10.44.9.2")
        assert first.count("list") == len(watching.resources)
        nobody.uid = "seen at last"
        first.break_watches()
        first.truth.put(app(3))
        watching.until(APP, "10.44.9.3")
        assert first.count("list") == len(watching.resources)
        nobody.uid = ""
        watching.kill()
        with FakeApiServer(Truth(_others()), nobody) as api:
            (tmp_path / "kubeconfig").write_text(api.kubeconfig())
            watching.api = api
            watching.start()
            becomes_another(watching)


def test_no_word_on_the_cluster_is_no_reason_to_discard_anything(tmp_path: Path) -> None:
    """If a proxy answers nonsense or refuses, the question is repeated."""
    from tests.fakeapi import faults

    with cluster(tmp_path) as (api, watching):
        watching.ready()
        nonsense = (
            faults.text(200, b"<html>"), faults.text(200, b"{}"), faults.text(200, b'{"items": 7}'), faults.reset,
            *(faults.status(code) for code in (401, 403, 404, 500, 503)),
        )  # fmt: skip
        for fault in nonsense:
            api.on("other", None, fault)
        api.break_watches()
        api.truth.put(app(2))
        watching.until(APP, "10.44.9.2")
        watching.check()
        assert not api.pending
        assert api.count("list") == len(watching.resources)
