"""Rotated credentials, missing permissions, and servers that are
away, slow, or send Retry-After.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import trustme
from headwater.cluster.objects import Resource

from tests.fakeapi import faults, manifests
from tests.fakeapi.cluster import APP, EVERYTHING, STABLE, app, cluster, objects
from tests.fakeapi.role import IMPATIENT, SHORT
from tests.fakeapi.server import Behaviour, FakeApiServer, Verb
from tests.fakeapi.truth import Truth
from tests.fakeapi.watching import DEADLINE, Watching, longest_rush
from tests.harness.processes import wait_until

_VERBS: Final[tuple[Verb, ...]] = ("list", "watch")


# Credentials


def exec_user(file: Path) -> dict[str, object]:
    """Return a kubeconfig's user whose token a command prints from a file."""
    command = {"apiVersion": "client.authentication.k8s.io/v1", "command": "cat", "args": [str(file)]}
    return {"exec": {**command, "interactiveMode": "Never"}}


def credential(token: str) -> str:
    status = {"token": token}
    return json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status})


@pytest.mark.parametrize("how", ["file", "command"])
def test_rotated_token_is_read_again(how: str, tmp_path: Path) -> None:
    """After one refusal per resource if the new one exists already; otherwise it waits."""
    file = tmp_path / "token"
    write = file.write_text if how == "file" else lambda token: file.write_text(credential(token))
    write("first")
    user = {"tokenFile": str(file)} if how == "file" else exec_user(file)
    behaviour = Behaviour(tokens={"first"})
    with FakeApiServer(Truth(objects()), behaviour) as api:
        watching = Watching(api, tmp_path, *EVERYTHING, stable=STABLE, kubeconfig=api.kubeconfig(user=user))
        with watching.closing():
            watching.ready()

            write("second")
            behaviour.tokens = {"second"}
            api.truth.put(app(2))
            watching.until(APP, "10.44.9.2")
            assert api.count("watch") == len(watching.resources), "a watch that is open is not asked for its token"
            api.break_watches()
            api.truth.put(app(3))
            watching.until(APP, "10.44.9.3")
            watching.settle()
            refused = [request for request in api.asked() if request.status == 401]
            assert len(refused) == len(watching.resources), "each has credentials of its own"

            behaviour.tokens = {"third"}
            began = time.monotonic()
            api.break_watches()
            watching.until_asked(3 * len(watching.resources), since=began)
            file.write_text("what is this?")  # a rotation under way
            watching.until_asked(5 * len(watching.resources), since=began)
            write("third")
            api.truth.put(app(4))
            watching.until(APP, "10.44.9.4")
            watching.check()
            assert longest_rush(api.asked(resource="services", since=began)) <= 2
            assert api.count("list") == len(watching.resources)


def test_missing_permission_is_named_once_and_harms_no_other_resource(tmp_path: Path) -> None:
    with cluster(tmp_path) as (api, watching):
        watching.ready()
        forbidden = faults.status(403, "services is forbidden")
        api.on(None, "services", forbidden, times=float("inf"))
        began = time.monotonic()
        api.break_watches()
        api.truth.put(app(2))
        api.truth.put(manifests.service("late", "172.16.6.1"))
        watching.until(APP, "10.44.9.2")
        watching.until_asked(3, "watch", "services", since=began)
        assert watching.logged("needs the verb 'watch' on 'services'") == 1
        assert longest_rush(api.asked(resource="services", since=began)) <= 1
        api.heal()
        watching.until("late.default.svc.cluster.local", "172.16.6.1")
        watching.check()


def test_missing_permission_to_list_is_named_with_its_group(tmp_path: Path) -> None:
    with cluster(tmp_path) as (api, watching):
        api.on("list", "endpointslices", faults.status(403), times=2)
        watching.ready()
        assert watching.logged("needs the verb 'list' on 'endpointslices' in the API group 'discovery.k8s.io'") == 1
        watching.check()


# A CRD


def test_crd_comes_and_goes(tmp_path: Path) -> None:
    """Without the CRD nothing else suffers; its objects are served when it is installed."""
    far = "far.default.svc.clusterset.local"
    behaviour = Behaviour()
    behaviour.installed.discard("serviceimports")
    with cluster(tmp_path, behaviour=behaviour, absent=frozenset(("serviceimports",))) as (api, watching):
        watching.ready()
        assert watching.view.ask(far)[0] == "NXDOMAIN"
        assert watching.logged("serviceimports.multicluster.x-k8s.io is not installed") == 1
        began = time.monotonic()
        watching.until_asked(2, "list", "serviceimports", since=began)
        assert longest_rush(api.asked("list", "serviceimports", began)) == 0

        behaviour.installed.add("serviceimports")
        watching.absent = frozenset()
        watching.until(far, "172.16.9.1")
        watching.settle()

        behaviour.installed.discard("serviceimports")
        watching.absent = frozenset(("serviceimports",))
        api.break_watches()
        watching.until(far, rcode="NXDOMAIN")
        watching.check()


def test_proxy_that_has_lost_its_api_server_takes_nothing_away(tmp_path: Path) -> None:
    """It replies 404 to everything, even to /version, so the 404 says nothing about the CRD."""
    with cluster(tmp_path) as (api, watching):
        watching.prober.allowed["far.default.svc.clusterset.local"] = frozenset({"172.16.9.1"})
        watching.ready()
        began = time.monotonic()
        api.on(None, None, faults.text(404, b"404 page not found\n"), times=float("inf"))
        api.truth.compact()
        api.break_watches()
        watching.until_asked(20, since=began)
        api.heal()
        watching.check()


# Servers that send Retry-After


def test_retry_after_is_obeyed(tmp_path: Path) -> None:
    """By lists and watches, with 429 and 503, and not for much longer than the server said."""
    asked: dict[Resource, int] = {"pods": 429, "services": 503}
    with cluster(tmp_path) as (api, watching):
        for resource, code in asked.items():
            api.on("list", resource, faults.status(code, retry_after=1))
            api.on("watch", resource, faults.status(code, retry_after=1))
        watching.ready()
        for resource in asked:
            watching.until_asked(2, "watch", resource)
        watching.check()
        for resource, code in asked.items():
            for verb in _VERBS:
                first, second = api.asked(verb, resource)[:2]
                assert first.status == code
                assert 1.0 <= second.time - first.time <= 4.0


@pytest.mark.parametrize("retry_after", [-1.0, float("nan")])
def test_retry_after_that_makes_no_sense_is_a_usual_wait(retry_after: float, tmp_path: Path) -> None:
    with cluster(tmp_path) as (api, watching):
        api.on("list", None, faults.status(429, retry_after=retry_after), times=10)
        watching.ready()
        watching.check()
        assert longest_rush(api.asked(resource="services")) <= 2


# Servers that are away


def test_server_that_was_away_is_back_within_two_seconds(tmp_path: Path) -> None:
    """With the real timing: a refused connection is tried again soon,
    after any number of refusals.
    """
    with cluster(tmp_path, timing=replace(SHORT, reconnect=(0.1, 2.0))) as (api, watching):
        watching.ready()
        with watching.refused(3):
            api.down()
        api.truth.put(app(2))
        began = time.monotonic()
        api.up()
        watching.until(APP, "10.44.9.2")
        assert time.monotonic() - began < 2.0 + 1.0
        watching.check()
        assert api.count("list") == len(watching.resources)


@contextlib.contextmanager
def black_hole(port: int) -> Iterator[None]:
    """Yield when connections to a port neither succeed nor fail: its
    queue is full and nobody accepts.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield


def test_server_that_does_not_take_connections_is_tried_again(tmp_path: Path) -> None:
    """The connect ends with its timeout."""
    with cluster(tmp_path, timing=IMPATIENT) as (api, watching):
        watching.ready()
        api.down()
        with black_hole(api.port), watching.refused(2):
            pass
        api.truth.put(app(2))
        api.up()
        watching.until(APP, "10.44.9.2")
        watching.check()
        assert watching.logged("cannot be reached")


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_server_that_takes_connections_and_reads_nothing_is_tried_again(tls: bool, tmp_path: Path) -> None:
    """Over TLS not even the handshake begins; everything else is as without TLS."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with FakeApiServer(Truth(objects()), tls=context if tls else None) as api:
        kubeconfig = api.kubeconfig(ca=authority.cert_pem.bytes() if tls else b"")
        watching = Watching(api, tmp_path, *EVERYTHING, stable=STABLE, kubeconfig=kubeconfig, timing=IMPATIENT)
        with watching.closing():
            watching.ready()
            with watching.refused(2):
                api.muted = True
                api.cut_all()
            api.muted = False
            api.truth.put(app(2))
            watching.until(APP, "10.44.9.2")
            api.on("watch", "endpointslices", faults.silent(0))
            api.on("watch", "services", faults.cut(10))
            api.break_watches()
            api.truth.put(app(3))
            watching.until(APP, "10.44.9.3")
            watching.check()
            assert api.count("list") == len(watching.resources)


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_server_with_another_certificate_is_not_believed(verb: str, tmp_path: Path) -> None:
    """Another server may answer at its address: the names stay as they were."""
    ours, theirs = trustme.CA(), trustme.CA()
    contexts = []
    for authority in (ours, theirs):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        contexts.append(context)
    with FakeApiServer(Truth(objects()), tls=contexts[0]) as api:
        kubeconfig = api.kubeconfig(ca=ours.cert_pem.bytes())
        watching = Watching(api, tmp_path, *EVERYTHING, stable=STABLE, kubeconfig=kubeconfig)
        with watching.closing():
            watching.ready()
            api.down()
            if verb == "list":
                api.truth.compact()
            asked = api.count()
            with FakeApiServer(Truth(), tls=contexts[1], port=api.port) as impostor:
                wait_until(lambda: impostor.taken >= 3, DEADLINE, "it is tried again and again")
                with watching.refused(1):
                    pass
                assert impostor.count() == 0, "not even a token was sent"
            api.truth.put(app(2))
            api.up()
            watching.until(APP, "10.44.9.2")
            watching.check()
            assert api.count() > asked


def test_silence_is_noticed_on_every_watch(tmp_path: Path) -> None:
    """A watch without bookmarks, events or an end is opened again from where it was."""
    with cluster(tmp_path, behaviour=Behaviour(bookmarks=60.0), timing=IMPATIENT) as (api, watching):
        watching.ready()
        began = time.monotonic()
        watching.until_asked(2 * len(watching.resources), "watch", since=began)
        assert 0.4 < time.monotonic() - began < 8.0
        api.truth.put(app(2))
        watching.until(APP, "10.44.9.2")
        watching.check()
        assert api.count("list") == len(watching.resources)


@pytest.mark.parametrize("resource", ["namespaces", "services", "endpointslices", "pods", "serviceimports"])
def test_one_resource_that_hangs_holds_no_other_up(resource: Resource, tmp_path: Path) -> None:
    with cluster(tmp_path, timing=replace(SHORT, page=60.0)) as (api, watching):
        watching.ready()
        api.on(None, resource, faults.hang, times=float("inf"))
        api.truth.compact()
        began = time.monotonic()
        api.break_watches()
        watching.until_asked(1, None, resource, since=began)
        others = [other for other in watching.resources if other != resource]
        for other in others:
            watching.until_asked(2, None, other, since=began)
        if resource != "endpointslices":
            api.truth.put(app(2))
            watching.until(APP, "10.44.9.2")
        api.heal()
        api.cut_all()
        watching.check()
