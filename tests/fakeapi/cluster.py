"""A small cluster for tests: names that do not change, and one Service that does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.fakeapi import manifests
from tests.fakeapi.server import Behaviour, FakeApiServer
from tests.fakeapi.truth import Truth
from tests.fakeapi.watching import Watching

APP: Final = "app.default.svc.cluster.local"
"""The Service that changes: its only endpoint is app-0, at 10.44.9.x."""
NEVER: Final = "never.default.svc.cluster.local"
"""A name that does not exist."""
STABLE: Final = {
    "web.default.svc.cluster.local": frozenset({"10.44.0.1", "10.44.0.2", "10.44.0.3"}),
    "web-1.web.default.svc.cluster.local": frozenset({"10.44.0.2"}),
    "api.default.svc.cluster.local": frozenset({"172.16.0.10"}),
    "pg.db.svc.cluster.local": frozenset({"10.44.1.1", "10.44.1.2"}),
    "pg-1.pg.db.svc.cluster.local": frozenset({"10.44.1.2"}),
    APP: frozenset(f"10.44.9.{number}" for number in range(1, 255)),
}
#: Flags for every test, so that every resource is used.
EVERYTHING: Final = ("--pods", "verified", "--reverse-zone", "in-addr.arpa", "--multicluster-zone", "clusterset.local")


def objects() -> list[manifests.Manifest]:
    """Return the objects of the cluster at the beginning."""
    return [
        *map(manifests.namespace, ("db", "default", "kube-system")),
        manifests.service("web"),
        manifests.slice_of("web", {"web-0": "10.44.0.1", "web-1": "10.44.0.2", "web-2": "10.44.0.3"}),
        manifests.service("api", "172.16.0.10"),
        manifests.slice_of("api", {"": "10.44.0.7"}),
        manifests.service("pg", namespace="db"),
        manifests.slice_of("pg", {"pg-0": "10.44.1.1"}, namespace="db"),
        manifests.slice_of("pg", {"pg-1": "10.44.1.2"}, 2, namespace="db"),
        manifests.external("out", "example.org", namespace="db"),
        manifests.service("kube-dns", "172.16.0.53", namespace="kube-system"),
        manifests.pod("web-0", "10.44.0.1"),
        manifests.pod("web-1", "10.44.0.2"),
        manifests.pod("pg-0", "10.44.1.1", namespace="db"),
        manifests.pod("done", "10.44.0.2", phase="Succeeded"),
        manifests.service_import("far", "172.16.9.1"),
        manifests.service("app"),
        app(1),
    ]


def app(number: int) -> manifests.Manifest:
    """Return the slice of the Service that changes, after this number of changes."""
    return manifests.slice_of("app", {"app-0": f"10.44.9.{number}"})


@contextmanager
def cluster(
    folder: Path, *flags: str, behaviour: Behaviour | None = None, truth: Truth | None = None, **options: Any
) -> Iterator[tuple[FakeApiServer, Watching]]:
    """Yield the fake with the cluster, and a watch role that is not
    started yet; close both at the end.
    """
    with FakeApiServer(truth or Truth(objects()), behaviour) as api:
        watching = Watching(api, folder, *(flags or EVERYTHING), **{"stable": STABLE, **options})
        with watching.closing():
            yield api, watching
