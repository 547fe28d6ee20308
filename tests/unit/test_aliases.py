"""Other names for endpoints, by the annotation headwater.dev/alias."""

from __future__ import annotations

from pathlib import Path

import pytest
from headwater.answer.resolver import Resolver
from headwater.explain.explain import explained_from
from headwater.explain.explanation import Cause, Explanation, Outcome
from headwater.records.aliases import MAX_ENTRIES, MAX_TEXT, parse
from headwater.store.environment import Reader

from tests.harness.small import (
    NOT_READY,
    Small,
    annotated,
    at,
    cluster_ip,
    external_name,
    headless,
    remove,
    settings,
    slice_of,
    upsert,
)

DB = "db.default.svc.cluster.local"
THREE = slice_of("db", *(at(f"10.0.0.{i}", f"fd00::1{i}", hostname=f"db-{i}", pod=f"pod-{i}") for i in range(3)))


@pytest.fixture
def world(tmp_path: Path) -> Small:
    return Small(tmp_path)


@pytest.mark.parametrize(
    ("text", "found", "wrong"),
    [
        ("primary=db-0", {"primary": ["db-0"]}, ""),
        (" Primary = DB-0 ,r=db-1,r=db-2,r=db-1", {"primary": ["db-0"], "r": ["db-1", "db-2"]}, ""),
        ("a=10-0-0-1,b=some.pod", {"a": ["10-0-0-1"], "b": ["some.pod"]}, ""),
        ("_http=db-0,a=b", {"a": ["b"]}, "'_http=db-0' is not ALIAS=ENDPOINT, the alias a label of a name"),
        ("a.b=db-0", {}, "'a.b=db-0' is not ALIAS=ENDPOINT, the alias a label of a name"),
        (
            f"{'a' * 64}=db-0,-=b,=c,d=,e", {},
            f"'{'a' * 40}' is not ALIAS=ENDPOINT, the alias a label of a name, and 4 more",
        ),
        ("", {}, "'' is not ALIAS=ENDPOINT, the alias a label of a name"),
        ("é=a", {}, "'é=a' is not ALIAS=ENDPOINT, the alias a label of a name"),
        (f"a={'b' * 254}", {}, f"'a={'b' * 38}' is not ALIAS=ENDPOINT, the alias a label of a name"),
        ("a" * (MAX_TEXT + 1), {}, "more than 65,536 characters"),
    ],
)  # fmt: skip
def test_an_annotation_reads_as_the_table_says(text: str, found: dict[str, list[str]], wrong: str) -> None:
    assert parse(text) == (found, wrong)


def test_entries_are_bounded() -> None:
    found, wrong = parse(",".join(f"a{i}=b" for i in range(1_000)))
    assert len(found) == MAX_ENTRIES
    assert wrong == "more than 100 entries"


def test_an_alias_has_the_records_of_its_endpoint(world: Small) -> None:
    world.fill(annotated(headless("db"), alias="primary=db-0", ttl="1"), THREE)
    assert world.answers(f"primary.{DB}") == {"10.0.0.0"}
    assert world.answers(f"primary.{DB}", "AAAA") == {"fd00::10"}
    assert world.answers(f"PRIMARY.{DB}", "SRV") == {f"0 50 8080 primary.{DB}."}
    assert {rrset.ttl for rrset in world.ask(f"primary.{DB}").answer} == {1}
    assert world.answers(DB) == {"10.0.0.0", "10.0.0.1", "10.0.0.2"}, "the Service's own set is as it was"
    assert world.answers(f"db-0.{DB}") == {"10.0.0.0"}


def test_an_alias_moves_in_one_step_and_ends(world: Small) -> None:
    world.fill(annotated(headless("db"), alias="primary=db-0"), THREE)
    world.commit(upsert(annotated(headless("db"), alias="primary=db-2,other=pod-1"), "10"))
    assert world.answers(f"primary.{DB}") == {"10.0.0.2"}
    assert world.answers(f"other.{DB}") == {"10.0.0.1"}
    world.commit(upsert(headless("db"), "11"))
    assert {world.status(f"{alias}.{DB}") for alias in ("primary", "other")} == {"NXDOMAIN"}


def test_an_alias_follows_its_endpoint(world: Small) -> None:
    world.fill(annotated(headless("db"), alias="primary=db-0"), THREE)
    moved = slice_of("db", at("10.0.0.9", hostname="db-0"), at("10.0.0.1", hostname="db-1"))
    world.commit(upsert(moved, "10"))
    assert world.answers(f"primary.{DB}") == {"10.0.0.9"}
    world.commit(upsert(slice_of("db", at("10.0.0.9", hostname="db-0", conditions=NOT_READY)), "11"))
    assert world.status(f"primary.{DB}") == "NXDOMAIN"
    world.commit(upsert(moved, "12"))
    world.commit(remove(moved, "13"))
    assert world.status(f"primary.{DB}") == "NXDOMAIN"
    assert world.records().keys() == Small(world.state_dir / "x").fill(headless("db")).records().keys()


def test_an_alias_of_several_has_all_that_are_published(world: Small) -> None:
    world.fill(annotated(headless("db"), alias="replica=db-1,replica=db-2,replica=db-9"), THREE)
    assert world.answers(f"replica.{DB}") == {"10.0.0.1", "10.0.0.2"}


def test_an_alias_takes_no_endpoints_name(world: Small) -> None:
    service = annotated(headless("db"), alias="db-1=db-0,pod-2=db-0", pod_names="true")
    world.fill(service, THREE)
    assert world.answers(f"db-1.{DB}") == {"10.0.0.1"}
    assert world.answers(f"pod-2.{DB}") == {"10.0.0.2"}
    assert {detail for *_, detail in world.reports} == {
        "headwater.dev/alias: db-1 is an endpoint's own name", "headwater.dev/alias: pod-2 is an endpoint's own name",
    }  # fmt: skip
    # The endpoint goes: the alias is free. It comes again: the name is its own again.
    world.commit(upsert(slice_of("db", at("10.0.0.0", hostname="db-0", pod="pod-0")), "10"))
    assert world.answers(f"db-1.{DB}") == {"10.0.0.0"}
    world.commit(upsert(THREE, "11"))
    assert world.answers(f"db-1.{DB}") == {"10.0.0.1"}


def test_a_service_with_a_cluster_ip_has_aliases_and_an_external_name_has_none(world: Small) -> None:
    world.fill(
        annotated(cluster_ip("db", "172.16.0.1"), alias="primary=pod-0"), THREE,
        annotated(external_name("ext", "example.org"), alias="primary=db-0"),
    )  # fmt: skip
    assert world.answers(DB) == {"172.16.0.1"}
    assert world.answers(f"primary.{DB}") == {"10.0.0.0"}
    assert world.status("primary.ext.default.svc.cluster.local") == "NXDOMAIN"


def test_aliases_are_names_in_every_zone_and_have_no_ptr(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(zones=("cluster.local", "b.test"), reverse_zones=("in-addr.arpa",)))
    world.fill(annotated(headless("db"), alias="primary=db-0"), THREE)
    assert world.answers("primary.db.default.svc.b.test") == {"10.0.0.0"}
    assert world.answers("0.0.0.10.in-addr.arpa", "PTR") == {f"db-0.{DB}."}


def explained(world: Small, name: str) -> Explanation:
    reader = Reader(world.state_dir, world.identity)
    reader.follow()
    try:
        return explained_from(reader, Resolver(reader, world.settings), world.settings, name, "A")
    finally:
        reader.close()


def test_explain_knows_aliases(world: Small) -> None:
    members = [at("10.0.0.1", hostname="db-1"), at("10.0.0.2", hostname="db-2", conditions=NOT_READY)]
    service = annotated(headless("db"), alias="primary=db-1,second=db-2,third=db-3,db-1=db-2,x")
    world.fill(service, slice_of("db", *members))
    there = explained(world, f"primary.{DB}")
    assert there.verdict == (
        f"primary.{DB} is another name for db-1 of Service default/db, by the annotation headwater.dev/alias."
    )
    assert there.outcome is Outcome.ANSWER
    assert any("'x' is not ALIAS=ENDPOINT" in hint for hint in there.hints)
    second = explained(world, f"second.{DB}")
    assert (second.outcome, second.cause) == (Outcome.NXDOMAIN, Cause.HOST_NOT_READY)
    assert second.verdict.startswith("second is another name for db-2: db-2 is an endpoint of Service default/db that")
    third = explained(world, f"third.{DB}")
    assert (third.outcome, third.cause) == (Outcome.NXDOMAIN, Cause.HOST_UNKNOWN)
    assert third.verdict == "third is another name for db-3, and no endpoint of Service default/db is called so."
    assert explained(world, f"db-1.{DB}").verdict == f"db-1.{DB} is the endpoint db-1 of Service default/db."
    assert not any(found.contradiction for found in (there, second, third))
