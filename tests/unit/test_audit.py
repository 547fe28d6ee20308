"""The differences that an audit finds; it asks only once for a list that does not mend them."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping

import pytest
from headwater.cluster.objects import version_mark
from headwater.cluster.timing import Timing
from headwater.writer.audit import Auditor, Listed, compare


def mark(version: str) -> int:
    return version_mark(version)


@pytest.mark.parametrize(
    ("listed", "stored", "found"),
    [
        ("7", "7", []),
        ("7", "8", []),
        ("8", "7", ["8"]),
        ("7", None, ["7"]),
        ("", "7", []),
        ("v7", "v7", []),
        ("v8", "v7", ["v8"]),
        ("v8", "7", ["v8"]),
        ("7", "v8", ["7"]),
        ("v7", None, ["v7"]),
        (None, "7", [""]),
        (None, "v7", [""]),
        (None, "", [""]),
    ],
)
def test_differences(listed: str | None, stored: str | None, found: list[str]) -> None:
    there = [] if listed is None else [Listed(b"k", mark(listed))]
    held = [] if stored is None else [(b"k", mark(stored))]
    assert list(compare(there, held)) == [(b"k", mark(version)) for version in found]


class Store:
    """A ledger's answers about its objects."""

    def __init__(self, objects: Mapping[bytes, str]) -> None:
        self.objects = objects

    def stored_version(self, key: bytes) -> int | None:
        return mark(self.objects[key]) if key in self.objects else None

    def stored_versions(self, start: bytes, stop: bytes) -> list[tuple[bytes, int]]:
        return [(key, mark(version)) for key, version in sorted(self.objects.items()) if start <= key < stop]


class Server:
    """Lists its names as of a version."""

    def __init__(self, objects: Mapping[str, str], version: str) -> None:
        self.objects, self.version = objects, version

    def page(self, *_: object, **__: object) -> bytes:
        items = [
            {"metadata": {"namespace": "default", "name": name, "resourceVersion": version}}
            for name, version in self.objects.items()
        ]
        return json.dumps({"metadata": {"resourceVersion": self.version}, "items": items}).encode()


@pytest.mark.parametrize(
    ("server", "store"),
    [
        pytest.param({"odd": "5"}, {}, id="left out"),
        pytest.param({"odd": "5"}, {b"services/default/odd": "4"}, id="its last change was left out"),
        pytest.param({}, {b"services/default/odd": "4"}, id="cannot be removed"),
        pytest.param({"odd": "v5"}, {b"services/default/odd": "v4"}, id="versions that are no numbers"),
        pytest.param({}, {b"services/default/odd": "v4"}, id="cannot be removed, and is of no numbered version"),
    ],
)
def test_what_a_list_does_not_mend_is_listed_once(server: Mapping[str, str], store: Mapping[bytes, str]) -> None:
    relists: list[str] = []
    auditor = Auditor(
        ["services"],
        lambda: Server(server, "9" if "v" not in str([*server.values(), *store.values()]) else "v9"),  # type: ignore[arg-type,return-value]
        Store(store),  # type: ignore[arg-type]
        lambda: True,
        relists.append,
        1.0,
        threading.Event(),
        Timing(audit_grace=0.0, audit_pause=0.0),
    )
    for _ in range(4):
        auditor.audit("services")
    assert relists == ["services"]
    assert auditor.differences == {"services": 1}
