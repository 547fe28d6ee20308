"""A cluster as a company has it, for pictures of the page and for tests in a browser."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.fakeapi import manifests
from tests.fakeapi.server import FakeApiServer
from tests.fakeapi.truth import Truth
from tests.harness.instance import Headwater

FLAGS: Final = ("--reverse-zone", "10.in-addr.arpa")
#: What an owner of a namespace may write, so that a browser does something with it.
HOSTILE: Final = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
#: The same with characters that hide the rest of a line, or turn it around.
TURNED: Final = f"{HOSTILE}\u202emoc.elgoog\u202c\u0007"

#: (namespace, Service, replicas): StatefulSets behind headless Services.
_SETS: Final = (
    ("prod", "db", 3), ("prod", "kafka", 5), ("prod", "rabbitmq", 3), ("prod", "redis", 6),
    ("staging", "db", 1), ("staging", "kafka", 3), ("analytics", "cassandra", 6), ("analytics", "clickhouse", 4),
)  # fmt: skip
#: Services with a cluster IP.
_IPS: Final = (
    ("prod", "web"), ("prod", "api"), ("prod", "checkout"), ("prod", "payments"), ("prod", "search"),
    ("staging", "web"), ("staging", "api"), ("monitoring", "prometheus"), ("monitoring", "grafana"),
    ("kube-system", "kube-dns"), ("default", "kubernetes"), ("analytics", "dashboards"),
)  # fmt: skip


def db(*ready: bool, moved: int = 0) -> manifests.Manifest:
    """The slice of prod/db, its pods ready or not; `moved` gives the last one another address."""
    endpoints: list[dict[str, Any]] = [
        {
            "addresses": [f"10.44.{7 + place}.{20 + place + (moved if place == len(ready) - 1 else 0)}"],
            "hostname": f"db-{place}",
            "nodeName": f"node-{'abc'[place % 3]}",
            "zone": f"eu-central-1{'abc'[place % 3]}",
            "targetRef": {"kind": "Pod", "name": f"db-{place}", "namespace": "prod"},
            "conditions": {"ready": is_ready, "serving": is_ready, "terminating": False},
        }
        for place, is_ready in enumerate(ready)
    ]
    return manifests.slice_of("db", {}, namespace="prod") | {"endpoints": endpoints}


def scaled(namespace: str, name: str, replicas: int) -> manifests.Manifest:
    """The slice of a StatefulSet that has another size now."""
    number = next(number for number, one in enumerate(_SETS) if one[:2] == (namespace, name))
    members = {f"{name}-{place}": f"10.44.{20 + number}.{place + 1}" for place in range(replicas)}
    return manifests.slice_of(name, members, namespace=namespace)


def moved(namespace: str, name: str, number: int) -> manifests.Manifest:
    """The slice of a Service with a cluster IP, whose only pod has another address now."""
    return manifests.slice_of(name, {"": f"10.44.61.{number}"}, namespace=namespace)


def now(manifest: manifests.Manifest) -> manifests.Manifest:
    """A slice that says that it changed now."""
    moment = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    metadata = manifest["metadata"]
    notes = {**metadata["annotations"], "endpoints.kubernetes.io/last-change-trigger-time": moment}
    return {**manifest, "metadata": {**metadata, "annotations": notes}}


def objects() -> list[manifests.Manifest]:
    namespaces = sorted({namespace for namespace, *_ in (*_SETS, *_IPS)})
    found = [*map(manifests.namespace, namespaces)]
    for number, (namespace, name) in enumerate(_IPS):
        found.append(manifests.service(name, f"172.16.0.{10 + number}", namespace=namespace))
        found.append(manifests.slice_of(name, {"": f"10.44.60.{number + 1}"}, namespace=namespace))
    for number, (namespace, name, replicas) in enumerate(_SETS):
        found.append(manifests.service(name, namespace=namespace))
        if (namespace, name) == ("prod", "db"):
            found.append(db(True, True, False))
        else:
            members = {f"{name}-{place}": f"10.44.{20 + number}.{place + 1}" for place in range(replicas)}
            found.append(manifests.slice_of(name, members, namespace=namespace))
    found.append(manifests.external("billing", "billing.example.org", namespace="prod"))
    bad = manifests.service("hostile", namespace="staging")
    bad["metadata"]["annotations"] = {"headwater.dev/publish": TURNED, "headwater.dev/ttl": HOSTILE}
    written = manifests.slice_of("hostile", {"hostile-0": "10.44.50.1"}, namespace="staging")
    written["endpoints"][0] |= {"zone": HOSTILE, "targetRef": {"kind": "Pod", "name": TURNED, "namespace": "staging"}}
    found += [bad, written]
    return found


@contextmanager
def showcase(folder: Path, *flags: str) -> Iterator[tuple[FakeApiServer, Headwater]]:
    """The whole `headwater serve` on that cluster."""
    with FakeApiServer(Truth(objects())) as api:
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(api.kubeconfig())
        with Headwater(folder, "--kubeconfig", kubeconfig, *FLAGS, *flags) as headwater:
            yield api, headwater
