"""The prober's verdict can fail; otherwise "nothing was wrong" would prove nothing."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rrset
import pytest

from tests.harness.prober import STALE, Objects, Seen, Value, disagreements, of_endpoint, of_pod, of_service, read

OLD: Value = frozenset({"10.44.0.1", "10.44.0.2"})
NEW: Value = frozenset({"10.44.0.1", "10.44.0.3"})
MIXED: Value = frozenset({"10.44.0.1", "10.44.0.2", "10.44.0.3"})
HISTORY: list[tuple[float, Value]] = [(0.0, OLD), (100.0, NEW)]


def at(moment: float, value: Value, rcode: str = "") -> Seen:
    return Seen(moment, moment + 0.001, rcode or ("NXDOMAIN" if value is None else "NOERROR"), value)


@pytest.mark.parametrize(
    ("seen", "wrong"),
    [
        ([at(50, OLD), at(99, OLD), at(100.01, NEW), at(150, NEW)], []),
        ([at(99.9, OLD), at(100 + STALE - 0.1, OLD)], []),
        ([at(99.9, NEW)], []),
        ([at(100 + STALE + 0.1, OLD)], ["{10.44.0.1 10.44.0.2}, when it was {10.44.0.1 10.44.0.3}"]),
        ([at(50, NEW)], ["{10.44.0.1 10.44.0.3}, when it was {10.44.0.1 10.44.0.2}"]),
        ([at(100.1, NEW), at(100.2, OLD)], ["{10.44.0.1 10.44.0.2}, when it was {10.44.0.1 10.44.0.3}"]),
        ([at(50, None)], ["NXDOMAIN, when it was {10.44.0.1 10.44.0.2}"]),
        ([at(50, frozenset())], ["{}, when it was {10.44.0.1 10.44.0.2}"]),
        ([at(50, None, "SERVFAIL")], ["SERVFAIL NXDOMAIN "]),
    ],
)
def test_reply_that_was_never_true_is_found(seen: list[Seen], wrong: list[str]) -> None:
    assert disagreements(seen, HISTORY) == wrong


def test_mixture_and_empty_moment_are_found() -> None:
    assert len(disagreements([at(100, MIXED)], HISTORY)) == 1
    assert len(disagreements([at(100, None)], HISTORY)) == 1


def reply(qtype: str, *answer: str, rcode: int = 0, glue: tuple[str, ...] = (), soa: bool = False) -> Seen:
    message = dns.message.make_response(dns.message.make_query("db.default.svc.cluster.local", qtype))
    message.set_rcode(rcode)  # type: ignore[arg-type]
    if answer:
        message.answer.append(dns.rrset.from_text("db.default.svc.cluster.local.", 5, "IN", qtype, *answer))
    for name in glue:
        message.additional.append(dns.rrset.from_text(f"{name}.", 5, "IN", "A", "10.44.0.1"))
    if soa:
        rdata = "ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"
        message.authority.append(dns.rrset.from_text("cluster.local.", 5, "IN", "SOA", rdata))
    return read(message.to_wire(), 0.0, 0.1)


def test_form_of_a_reply_is_judged() -> None:
    assert reply("A", "10.44.0.1", "10.44.0.2").value == OLD
    assert reply("A").value == frozenset()
    assert (reply("A", rcode=3, soa=True).value, reply("A", rcode=3, soa=True).problem) == (None, "")
    assert reply("A", rcode=3).problem == "an NXDOMAIN without SOA, or with records"
    good = reply("SRV", "0 50 80 a.example.", glue=("a.example",))
    assert (good.value, good.problem) == (frozenset({"10.44.0.1"}), "")
    assert reply("SRV", "0 50 80 a.example.", "0 50 80 b.example.", glue=("a.example",)).problem
    assert read(b"\0\0", 0.0, 0.1).rcode == "BROKEN"


def test_truth_is_what_the_objects_say() -> None:
    def endpoint(address: str, hostname: str, **conditions: bool) -> dict[str, object]:
        return {"addresses": [address], "hostname": hostname, "conditions": conditions}

    endpoints = [endpoint("10.44.0.1", "db-0", ready=True), endpoint("10.44.0.2", "db-1", ready=False)]
    piece = {"metadata": {"labels": {"kubernetes.io/service-name": "db"}}, "endpoints": endpoints}
    pods = {"db-0": {"status": {"podIP": "10.44.0.1", "phase": "Running"}}, "x": {"status": {"podIP": "10.44.0.9"}}}
    objects: Objects = {"services": {"db": {}}, "endpointslices": {"db-x": piece}, "pods": pods}
    one: Value = frozenset({"10.44.0.1"})
    assert of_service("db")(objects) == of_endpoint("db-0", "db")(objects) == of_pod("10.44.0.1")(objects) == one
    assert of_endpoint("db-1", "db")(objects) is None
    assert of_pod("10.44.0.2")(objects) is None
    assert of_service("db")({**objects, "services": {}}) is None
    assert of_service("db")({**objects, "endpointslices": {}}) is None
