"""What is typed finds the names that begin so, and costs the same in a large cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from headwater.explain import complete as module
from headwater.explain.complete import MOST, complete, completed_from
from headwater.explain.completion import Completion
from headwater.store.environment import Reader, Snapshot
from headwater.wire import names

from tests.harness.small import Small, at, cluster_ip, headless, settings, slice_of

ZONE = "svc.cluster.local"


@pytest.fixture
def small(tmp_path: Path) -> Small:
    return Small(tmp_path).fill(
        headless("db", "prod"),
        slice_of("db", at("10.0.0.1", hostname="web-0"), at("10.0.0.2", hostname="web-1"), namespace="prod"),
        headless("db", "staging"), slice_of("db", at("10.0.1.1", hostname="web-0"), namespace="staging"),
        headless("dbs", "prod"),
        cluster_ip("database", "172.16.0.1", namespace="prod"),
        cluster_ip("web", "172.16.0.2", "fd00::2", namespace="shop"),
        cluster_ip("prod", "172.16.0.3", namespace="shop"),
        namespaces=("prod", "shop", "staging"),
    )  # fmt: skip


@contextmanager
def snapshot_of(small: Small) -> Iterator[Snapshot]:
    reader = Reader(small.state_dir, small.identity)
    reader.follow()
    snapshot = reader.begin()
    assert snapshot is not None
    try:
        yield snapshot
    finally:
        snapshot.close()
        reader.close()


def typed(small: Small, text: str, limit: int = 20) -> Completion:
    with snapshot_of(small) as snapshot:
        return complete(text, snapshot, small.settings, limit)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("db", ["db.prod", "db.staging", "dbs.prod"]),
        ("DB", ["db.prod", "db.staging", "dbs.prod"]),
        ("db.", ["db.prod", "db.staging"]),
        ("db.p", ["db.prod"]),
        ("db.prod.s", ["db.prod"]),
        ("db.prod.svc.cluster.local", ["db.prod"]),
        ("db.prod.svc.cluster.local.", ["db.prod"]),
        ("web", ["web.shop", "web-0.db.prod", "web-0.db.staging", "web-1.db.prod"]),
        ("web-1", ["web-1.db.prod"]),
        ("web-0.db.s", ["web-0.db.staging"]),
        ("_http._tcp.w", ["_http._tcp.web.shop"]),
        ("datab", ["database.prod"]),
        # A namespace finds its Services, behind the names that begin so.
        ("sho", ["shop", "prod.shop", "web.shop"]),
        ("prod", ["prod", "prod.shop", "database.prod", "db.prod", "dbs.prod"]),
        ("nothing", []),
        ("dbx.prod", []),
        ("", []),
        (" ", []),
        (".", []),
        ("a..b", []),
        ("x" * 64, []),
        ("ü", []),
        ("\0", []),
    ],
)
def test_what_is_typed_finds_the_names_that_begin_so(small: Small, text: str, expected: list[str]) -> None:
    found = [one.name.removesuffix(f".{ZONE}") for one in typed(small, text).names]
    assert found == expected


def test_a_name_says_what_it_is(small: Small) -> None:
    found = {one.name.removesuffix(f".{ZONE}"): one for text in ("web", "db", "_http", "shop") for one in
             typed(small, text).names}  # fmt: skip
    assert (found["web.shop"].kind, found["web.shop"].addresses) == ("service", 2)
    assert (found["web-0.db.prod"].kind, found["web-0.db.prod"].addresses) == ("endpoint", 1)
    assert found["_http._tcp.web.shop"].kind == "port"
    assert found["shop"].kind == "namespace"
    assert [name for name, one in found.items() if not one.answers] == ["dbs.prod"], "a Service without endpoints"


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("db", ""),
        ("web", "web.shop"),
        ("database", "database.prod"),
        ("db.prod", "db.prod"),
        ("db.prod.svc", "db.prod"),
        ("db.prod.svc.cluster.local.", "db.prod"),
        ("web-0.db", ""),
        ("web-1.db", "web-1.db.prod"),
        ("web-1.db.prod", "web-1.db.prod"),
        # It does not answer, and where it would be leaves no doubt.
        ("dbs.prod", "dbs.prod"),
        ("web-9.db.prod", "web-9.db.prod"),
        ("typo.prod", "typo.prod"),
        ("typo.pro", ""),
        ("www.example.org", ""),
    ],
)
def test_what_leaves_no_doubt_is_the_name_itself(small: Small, text: str, exact: str) -> None:
    assert typed(small, text).exact == (f"{exact}.{ZONE}" if exact else "")


def test_all_that_begins_so_is_found_and_nothing_else(small: Small) -> None:
    everything = sorted(names.text_of(key).rstrip(".") for key in small.records())
    assert len(everything) > 20
    for name in everything:
        for end in range(1, len(name) + 1):
            begun = name[:end]
            found = typed(small, begun, MOST)
            expected = {one for one in everything if one.startswith(begun)}
            assert {one.name for one in found.names if one.name.startswith(begun) and one.answers} == expected, begun
            assert not found.more


def test_a_limit_is_one_and_what_is_left_out_is_told(small: Small) -> None:
    assert len(typed(small, "web", 2).names) == 2
    assert typed(small, "web", 2).more
    assert not typed(small, "web", 4).more
    assert len(typed(small, "web", 0).names) == 1


class Counting:
    """A snapshot that counts the entries that are read."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.read = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._snapshot, name)

    def nodes(self, prefix: bytes) -> Iterator[tuple[bytes, Any]]:
        self.read += 1
        for one in self._snapshot.nodes(prefix):
            self.read += 1
            yield one

    def scan(self, db: str, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        self.read += 1
        for one in self._snapshot.scan(db, prefix):
            self.read += 1
            yield one


@pytest.mark.parametrize("text", ["a", "a.", "a.n", "s", "s-1", "n", "n-1", "s-1.n-1"])
def test_a_completion_reads_as_much_in_a_large_cluster(tmp_path: Path, text: str) -> None:
    """A tenant with as many Services as he likes, without records or with, makes nobody wait."""
    places = [f"n-{number}" for number in range(1_500)]
    objects = [headless(f"s-{number}", "n-1") for number in range(3_000)]
    objects += [cluster_ip("a", f"172.16.{number >> 8}.{number & 255}", namespace=place)
                for number, place in enumerate(places)]  # fmt: skip
    small = Small(tmp_path, settings()).fill(*objects, namespaces=places)
    with snapshot_of(small) as snapshot:
        counting = Counting(snapshot)
        complete(text, counting, small.settings, 20)  # type: ignore[arg-type]
        most = names.MAX_LABEL + 2 * 20 + module._LOOKED_AT * 3 + module._PLACES * module._LOOKED_AT
        assert counting.read < most


def test_without_a_store_nothing_is_found(tmp_path: Path) -> None:
    reader = Reader(tmp_path, Small(tmp_path).identity)
    assert completed_from(reader, settings(), "db", 20) == Completion("db", "", [], more=False)
