"""Every name has its reason, and the reason never contradicts the reply."""

from __future__ import annotations

from pathlib import Path

import pytest
from headwater.answer.resolver import Resolver
from headwater.explain.explain import explain, explained_from
from headwater.explain.explanation import Cause, Explanation, Outcome
from headwater.store.environment import Reader

from tests.harness.small import NOT_READY, Small, at, cluster_ip, external_name, headless, slice_of


def explained(small: Small, name: str, qtype: str = "A") -> Explanation:
    reader = Reader(small.state_dir, small.identity)
    reader.follow()
    resolver = Resolver(reader, small.settings)
    snapshot = reader.begin()
    try:
        return explain(name, qtype, snapshot, small.settings, lambda query: resolver.answer(query, snapshot))
    finally:
        if snapshot is not None:
            snapshot.close()
        reader.close()


@pytest.fixture
def small(tmp_path: Path) -> Small:
    return Small(tmp_path).fill(
        headless("db", "prod"),
        slice_of("db", at("10.0.0.1", hostname="web-0", pod="web-0"),
                 at("10.0.0.2", hostname="web-1", pod="web-1", conditions=NOT_READY), namespace="prod"),
        headless("none", "prod"),
        slice_of("none", at("10.0.0.3", hostname="n-0", pod="n-0", conditions=NOT_READY), namespace="prod"),
        headless("bare", "prod"),
        headless("hollow", "prod"), slice_of("hollow", namespace="prod"),
        cluster_ip("api", "172.16.0.1", namespace="prod"),
        headless("unnamed", "prod"), slice_of("unnamed", at("10.0.0.9", pod="web-9"), namespace="prod"),
        external_name("out", "example.org", "prod"), external_name("loop", "loop.prod.svc.cluster.local", "prod"),
        namespaces=("default", "prod"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "qtype", "outcome", "cause"),
    [
        ("db.prod.svc.cluster.local", "A", Outcome.ANSWER, Cause.ANSWERED),
        ("web-0.db.prod.svc.cluster.local.", "A", Outcome.ANSWER, Cause.ANSWERED),
        ("web-1.db.prod.svc.cluster.local", "A", Outcome.NXDOMAIN, Cause.HOST_NOT_READY),
        ("web-0.db.prod.svc.cluster.local", "AAAA", Outcome.NODATA, Cause.OTHER_FAMILY),
        ("none.prod.svc.cluster.local", "A", Outcome.NXDOMAIN, Cause.NONE_READY),
        ("bare.prod.svc.cluster.local", "A", Outcome.NXDOMAIN, Cause.NO_SLICES),
        ("hollow.prod.svc.cluster.local", "A", Outcome.NXDOMAIN, Cause.NO_ENDPOINTS),
        ("web-0.prod.svc.cluster.local", "A", Outcome.NXDOMAIN, Cause.SERVICE_LABEL_MISSING),
        ("db.staging.svc.cluster.local", "A", Outcome.NXDOMAIN, Cause.NAMESPACE_UNKNOWN),
        ("dbb.prod.svc.cluster.local", "A", Outcome.NXDOMAIN, Cause.SERVICE_UNKNOWN),
        ("web-9.unnamed.prod.svc.cluster.local", "A", Outcome.NXDOMAIN, Cause.HOST_HAS_NO_HOSTNAME),
        ("web-0.api.prod.svc.cluster.local", "A", Outcome.NXDOMAIN, Cause.HOST_ELSEWHERE),
        ("x.api.prod.svc.cluster.local", "A", Outcome.NXDOMAIN, Cause.NOT_HEADLESS),
        ("_http._tcp.db.prod.svc.cluster.local", "SRV", Outcome.ANSWER, Cause.ANSWERED),
        ("_sql._tcp.db.prod.svc.cluster.local", "SRV", Outcome.NXDOMAIN, Cause.PORT_UNKNOWN),
        ("*.prod.svc.cluster.local", "A", Outcome.NXDOMAIN, Cause.SERVICE_UNKNOWN),
        ("1-2-3-4.prod.pod.cluster.local", "A", Outcome.NXDOMAIN, Cause.PODS_DISABLED),
        ("out.prod.svc.cluster.local", "A", Outcome.ANSWER, Cause.EXTERNAL_ELSEWHERE),
        ("loop.prod.svc.cluster.local", "A", Outcome.NODATA, Cause.EXTERNAL_DEAD),
        ("db.prod", "A", Outcome.REFUSED, Cause.ZONE_NOT_SERVED),
        ("prod.svc.cluster.local", "A", Outcome.NODATA, Cause.BELOW_IT),
        ("cluster.local", "SOA", Outcome.ANSWER, Cause.ANSWERED),
    ],
)
def test_a_name_has_its_reason(small: Small, name: str, qtype: str, outcome: Outcome, cause: Cause) -> None:
    found = explained(small, name, qtype)
    assert (found.outcome, found.cause, found.contradiction) == (outcome, cause, ""), found.verdict


def test_a_store_that_is_not_complete_says_what_is_waited_for(tmp_path: Path) -> None:
    small = Small(tmp_path)
    reader = Reader(small.state_dir, small.identity)
    try:
        found = explained_from(
            reader, Resolver(reader, small.settings), small.settings, "db.prod.svc.cluster.local", "A",
            "services: 403: the role needs the verb 'list'",
        )  # fmt: skip
    finally:
        reader.close()
    assert (found.outcome, found.cause) == (Outcome.SERVFAIL, Cause.NOT_READY)
    assert "the role needs the verb 'list'" in found.verdict


def test_a_store_that_is_too_old_names_the_flag(small: Small) -> None:
    reader = Reader(small.state_dir, small.identity)
    reader.follow()
    resolver = Resolver(reader, small.settings)
    resolver.set_stale(3)
    try:
        found = explained_from(reader, resolver, small.settings, "db.prod.svc.cluster.local", "A")
    finally:
        reader.close()
    assert (found.outcome, found.cause) == (Outcome.SERVFAIL, Cause.STALE)
    assert "--max-staleness" in found.verdict
